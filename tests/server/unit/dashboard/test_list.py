"""The list: what came of each delivery, filters, pages, the chart, and what has changed."""

from __future__ import annotations

import re
import time

import pytest
from dashboard.conftest import arrived
from support.asgi import Exchange
from support.dashboard import Client, Office, text

from webhooks.delivery import StartedJob

SKIPPED = b'{"skipped":"not a new commit on main of the dataset me/data"}'
TRACEBACK = "    | Traceback (most recent call last):\n    |   File ...\n    | KeyError: 'split'\n    | \n"


def job(stage: str, id: str = "66f1c0ffee") -> StartedJob:
    return StartedJob(id, "me", f"https://huggingface.co/jobs/me/{id}", "a10g-small", stage)


def rows(answer: Exchange) -> list[str]:
    """The ids of the deliveries that a page lists."""
    return re.findall(r'<tr id="d-([0-9a-f]{16})"', answer.body.decode())


def kinds(answer: Exchange) -> list[str]:
    return re.findall(r'<a class="open is-(\w+)"', answer.body.decode())


def test_a_new_desk_says_what_to_do_next(owner: Client) -> None:
    page = owner.get()
    assert page.status == 200
    assert "Nothing has arrived yetSend a test event, or create a webhook on the Hub and make a commit." in text(page)


@pytest.mark.parametrize(
    ("what", "kind", "said"),
    [
        ({"answer": SKIPPED}, "skipped", "skipped: not a new commit on main of the dataset me/data"),
        ({"answer": b'{"skipped":["a",1]}'}, "skipped", 'skipped: ["a", 1]'),
        ({"answer": b'{"skipped":"' + b"x" * 5000 + b'"}'}, "skipped", "skipped: " + "x" * 200 + "…"),
        ({"answer": b'{"pull_request": "4"}'}, "done", 'answered {"pull_request": "4"}'),
        ({"answer": b'"trained"'}, "done", "answered trained"),
        ({"answer": b"<b>no JSON</b>"}, "done", "answered <b>no JSON</b>"),
        ({"answer": b"", "answer_status": 204}, "done", "answered 204"),
        ({"answer": b'"late"', "answer_status": 418}, "done", "answered 418: late"),
        (
            {"answer": b'{"dry_run":true,"command":"trl","flavor":"a10g-small"}'},
            "done",
            "dry run, nothing started: trl on a10g-small",
        ),
        ({"answer": b"{}", "jobs": [job("RUNNING")]}, "job", "Job 66f1c0ffee running, a10g-small"),
        ({"answer": b"{}", "jobs": [job("COMPLETED")]}, "done", "Job 66f1c0ffee completed, a10g-small"),
        ({"answer": b"{}", "jobs": [job("ERROR")]}, "failed", "Job 66f1c0ffee failed, a10g-small"),
        ({"answer": b"{}", "jobs": [job("CANCELED")]}, "skipped", "Job 66f1c0ffee canceled, a10g-small"),
        ({"status": "failed", "error": TRACEBACK}, "failed", "KeyError: 'split'"),
        ({"status": "failed", "answer": b'{"error":"No handler is there."}'}, "failed", "No handler is there."),
        ({"status": "running"}, "waiting", "running"),
        ({"status": "queued"}, "waiting", "queued"),
    ],
)
def test_the_list_says_what_came_of_a_delivery(
    office: Office, owner: Client, what: dict[str, object], kind: str, said: str
) -> None:
    office.put(arrived(), **what)
    page = owner.get()
    assert kinds(page) == [kind]
    assert f"{said} dataset me/data content changed train" in text(page)


def test_a_handler_that_returned_nothing_is_done(office: Office, owner: Client) -> None:
    delivery = arrived()
    office.put(delivery, answer=f'{{"delivery":"{delivery.id}","status":"succeeded"}}'.encode())
    assert "done dataset me/data" in text(owner.get())


def test_a_delivery_that_waits_says_for_what(office: Office, owner: Client) -> None:
    office.put(arrived(), "scheduled", error=TRACEBACK, due_at=4102444800)
    assert "attempt 2 of 5 2100-01-01 00:00:00 UTC: KeyError: 'split'" in text(owner.get())
    with office.log.transaction():
        office.log.add_to_burst(arrived("/webhooks/report"), "subject", 60)
        older = office.log.add_to_burst(arrived("/webhooks/report"), "subject", 60)[0]
    page = owner.get()
    assert re.search(r"runs 20\S+ \S+ UTC, unless a newer event replaces it", text(page))
    assert "replaced by a newer event about the same" in text(page)
    assert rows(page)[1] == older


def test_a_job_is_linked_to_unless_its_address_runs_something(office: Office, owner: Client) -> None:
    office.put(arrived(), jobs=[job("RUNNING")])
    office.put(arrived(), jobs=[StartedJob("evil", "me", "javascript:alert(1)", "cpu", "ERROR")])
    page = owner.get().body.decode()
    assert '<a class="up" href="https://huggingface.co/jobs/me/66f1c0ffee" target="_blank" rel="noopener">' in page
    assert "javascript:" not in page


def test_the_jobs_that_are_shown_are_looked_at_the_newest_first(office: Office, owner: Client) -> None:
    for number in range(3):
        office.put(arrived(), jobs=[job("RUNNING", f"job{number}")])
    owner.get()
    assert [job.id for job in office.looked_at] == ["job2", "job1", "job0"]


def fill(office: Office) -> dict[str, str]:
    """One delivery of each kind, by name, oldest first."""
    return {
        "commit": office.put(arrived(), answer=b'"trained"'),
        "skipped": office.put(arrived(repo="model/me/tuned"), answer=SKIPPED),
        "failed": office.put(arrived("/webhooks/report", fixture="discussion-create"), "failed", error=TRACEBACK),
        "waiting": office.put(arrived(), "running"),
        "no payload": office.put(arrived(body=b"nothing"), answer=b"{}"),
    }


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({}, ["no payload", "waiting", "failed", "skipped", "commit"]),
        ({"outcome": "done"}, ["no payload", "commit"]),
        ({"outcome": "skipped"}, ["skipped"]),
        ({"outcome": "failed"}, ["failed"]),
        ({"outcome": "waiting"}, ["waiting"]),
        ({"endpoint": "/webhooks/report"}, ["failed"]),
        ({"endpoint": "/webhooks/of_last_year"}, []),
        ({"repo": "model/me/tuned"}, ["skipped"]),
        ({"event": "discussion create"}, ["failed"]),
        ({"q": "tuned"}, ["skipped"]),
        ({"q": "TUNED"}, ["skipped"]),
        ({"q": "keyerror"}, ["failed"]),
        ({"q": "%"}, []),
        ({"q": "me/da_a"}, []),
        ({"q": "' OR 1=1 --"}, []),
        ({"outcome": "done", "repo": "dataset/me/data"}, ["commit"]),
        ({"outcome": "failed", "repo": "model/me/tuned"}, []),
        ({"no_such_filter": "x", "__theme": "dark"}, ["no payload", "waiting", "failed", "skipped", "commit"]),
    ],
)
def test_filters_narrow_the_list_together(
    office: Office, owner: Client, query: dict[str, str], found: list[str]
) -> None:
    ids = fill(office)
    page = owner.get(query=query)
    assert rows(page) == [ids[name] for name in found]
    if not found:
        assert "No delivery is like that" in text(page)


def test_a_delivery_is_found_by_its_id_and_by_the_beginning_of_it(office: Office, owner: Client) -> None:
    ids = fill(office)
    for name in ids:
        assert rows(owner.get(query={"q": ids[name]})) == [ids[name]]
    assert len(rows(owner.get(query={"q": ids["commit"][:4]}))) == len(ids)
    assert rows(owner.get(query={"q": "7" + "f" * 15})) == []


def test_the_outcomes_are_counted_within_the_other_filters(office: Office, owner: Client) -> None:
    fill(office)
    assert "All 5 Done 2 Skipped 1 Failed 1 Waiting 1" in text(owner.get())
    assert "All 2 Done 1 Skipped 0 Failed 0 Waiting 1" in text(
        owner.get(query={"endpoint": "/webhooks/train", "repo": "dataset/me/data", "outcome": "failed"})
    )
    assert "All 4 Done 1 Skipped 1 Failed 1 Waiting 1" in text(owner.get(query={"q": "me/"}))


@pytest.mark.parametrize(
    "query",
    [{"outcome": "x"}, {"outcome": "done' --"}, {"before": "x"}, {"before": "f" * 16},
     {"before": "\x00"}, {"q": "\x00"}, {"q": "x" * 100_000}, {"repo": "\ud800"}, {"before": "-1"}, {"before": "é"}],
)  # fmt: skip
def test_what_makes_no_sense_is_a_page_with_a_sentence(office: Office, owner: Client, query: dict[str, str]) -> None:
    fill(office)
    answer = owner.get(query={name: value.encode("utf-8", "surrogatepass") for name, value in query.items()})
    assert answer.status in (200, 400, 404)
    assert "</html>" in answer.body.decode()
    if query.keys() & {"before"}:
        assert answer.status in (400, 404)
        assert re.search("There is no", text(answer))


def test_the_list_has_pages_of_fifty_to_and_fro(office: Office, owner: Client) -> None:
    ids = [office.put(arrived(), answer=b"{}") for _ in range(120)][::-1]
    first = owner.get()
    assert rows(first) == ids[:50]
    assert "← Newest" not in text(first)
    second = owner.get(query={"before": ids[49]})
    assert rows(second) == ids[50:100]
    assert f'rel="next" href="/deliveries?before={ids[99]}"' in second.body.decode()
    third = owner.get(query={"before": ids[99]})
    assert rows(third) == ids[100:]
    assert "Older →" not in text(third)
    assert '<a rel="first" href="/deliveries">← Newest</a>' in third.body.decode()


def test_the_chart_has_a_bar_for_each_hour_and_outcome_which_links_to_them(office: Office, owner: Client) -> None:
    old = office.put(arrived(ago=3 * 3600), answer=b"{}")
    office.put(arrived(ago=3 * 3600 - 1e-6), "failed", error=TRACEBACK)
    new = office.put(arrived(), answer=b"{}")
    office.put(arrived(ago=30 * 3600), answer=b"{}")
    page = owner.get().body.decode()
    bar = (
        r'<a href="/deliveries\?outcome=(\w+)&amp;before=(\w+)"><title data-since="\S+">(\d \w+, \d\d:00 UTC)</title>'
    )
    bars = re.findall(bar, page)
    assert [bar[0] for bar in bars] == ["done", "failed", "done"]
    hour = time.strftime("%H:00", time.gmtime(time.time() - 3 * 3600))
    assert [bar[2] for bar in bars[:2]] == [f"1 done, {hour} UTC", f"1 failed, {hour} UTC"]
    assert rows(owner.get(query={"outcome": "done", "before": bars[0][1]}))[0] == old
    assert rows(owner.get(query={"outcome": "done", "before": bars[2][1]}))[0] == new


def test_a_page_that_has_not_changed_is_not_sent_again(office: Office, owner: Client) -> None:
    office.put(arrived(), answer=b"{}")
    first = owner.get()
    again = owner.get(if_none_match=first.headers["etag"])
    assert (again.status, again.body) == (304, b"")
    office.put(arrived(), answer=b"{}")
    changed = owner.get(if_none_match=first.headers["etag"])
    assert changed.status == 200
    assert len(rows(changed)) == 2
    assert Client(office).get(if_none_match=first.headers["etag"]).status == 403


def test_the_files_are_text_small_and_need_no_other_host(owner: Client) -> None:
    files = [owner.get(f"/static/desk.{kind}") for kind in ("css", "js")]
    assert [file.status for file in files] == [200, 200]
    sent = b"".join(file.body for file in files)
    assert len(sent + owner.get().body) < 60_000
    assert b"http" not in sent
    assert b"url(" not in sent
    for path in ("/static/no.css", "/static/../routes.py", "/static/%2e%2e/routes.py", "/static//etc/passwd"):
        assert owner.get(path).status == 404
