"""The list: outcomes, filters, pages, the chart, and the empty page."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from support.asgi import Exchange
from support.dashboard import Client, PagesHarness, arrived, ids_of, text

from webhooks.delivery import StartedJob
from webhooks.endpoints import Endpoint

SKIPPED = b'{"skipped":"not a new commit on main of the dataset me/data"}'
TRACEBACK = "    | Traceback (most recent call last):\n    |   File ...\n    | KeyError: 'split'\n    | \n"


def job(stage: str, id: str = "66f1c0ffee") -> StartedJob:
    return StartedJob(id, "me", f"https://huggingface.co/jobs/me/{id}", "a10g-small", stage)


def kinds(answer: Exchange) -> list[str]:
    return re.findall(r'<a class="open is-(\w+)"', answer.body.decode())


def test_empty_list_shows_the_next_three_steps(owner: Client) -> None:
    page = owner.get()
    for step in ("Send a test event", "Create the webhooks on the Hub", "Make a commit"):
        assert step in text(page)
    for part in (b"<svg", b'id="outcomes"', b"<select"):
        assert part not in page.body


@pytest.mark.parametrize(
    ("what", "kind", "summary"),
    [
        ({"answer": SKIPPED}, "skipped", "skipped: not a new commit on main of the dataset me/data"),
        ({"answer": b'{"skipped":"' + b"x" * 5000 + b'"}'}, "skipped", "skipped: " + "x" * 200 + "…"),
        ({"answer": b'{"pull_request": 4, "label": "a"}'}, "done", "pull_request: 4, label: a"),
        ({"answer": b'"trained"'}, "done", "trained"),
        ({"answer": b"{}"}, "done", "done"),
        ({"answer": b'"late"', "answer_status": 418}, "done", "418: late"),
        ({"answer": b'{"dry_run":true,"command":"trl","flavor":"cpu"}'}, "done", "dry run: trl on cpu"),
        ({"answer": b"{}", "jobs": [job("RUNNING")]}, "job", "Job 66f1c0ffee running, a10g-small"),
        ({"answer": b"{}", "jobs": [job("ERROR")]}, "failed", "Job 66f1c0ffee failed, a10g-small"),
        ({"status": "failed", "error": TRACEBACK}, "failed", "KeyError: 'split'"),
        ({"status": "failed", "answer": b'{"error":"No handler is there."}'}, "failed", "No handler is there."),
        ({"status": "running"}, "waiting", "running"),
        (
            {"status": "scheduled", "error": TRACEBACK, "due_at": 4102444800},
            "waiting",
            "attempt 2 of 5 2100-01-01 00:00:00 UTC: KeyError: 'split'",
        ),
    ],
)
def test_row_says_what_came_of_a_delivery(
    pages: PagesHarness, owner: Client, what: dict[str, Any], kind: str, summary: str
) -> None:
    pages.put(arrived(), **what)
    page = owner.get(query={"outcome": "all"})
    assert kinds(page) == [kind]
    assert f"{summary} dataset me/data content changed train" in text(page)


def test_row_says_how_many_it_supersedes(pages: PagesHarness, owner: Client) -> None:
    for _ in range(5):
        pages.write(lambda: pages.log.add_debounced(arrived("/webhooks/report"), "key", 60))
    page = owner.get()
    assert re.search(r"runs 20\S+ \S+ UTC, unless a newer event supersedes it supersedes 4 older", text(page))
    assert len(ids_of(page)) == 1
    assert text(owner.get(query={"outcome": "skipped"})).count("superseded by a newer event") == 4


def test_row_says_where_a_delivery_came_from(pages: PagesHarness, owner: Client) -> None:
    for source in ("catch_up", "code", None):
        pages.put(arrived(source=source), answer=b'"x"')
    assert re.findall(r"x (found by looking|sent from here)? ?dataset", text(owner.get())) == [
        "",
        "sent from here",
        "found by looking",
    ]


def test_row_shows_attempts_and_duration(pages: PagesHarness, owner: Client) -> None:
    delivery = arrived()

    def step() -> None:
        pages.log.add(delivery, "queued")
        for _ in range(3):
            pages.log.start_attempt(delivery.id)
            pages.log.fail_attempt(delivery.id, TRACEBACK)
            pages.log.schedule(delivery.id, 0)
        pages.log.finish(delivery.id, "failed", 500, b"")

    pages.write(step)
    pages.execute("UPDATE attempts SET ended_at = started_at + 1.25 WHERE attempt = 3")
    assert "train 3 attempts, 1.2 s" in text(owner.get())


def test_job_link_is_left_out_if_it_runs_something(pages: PagesHarness, owner: Client) -> None:
    pages.put(arrived(), jobs=[job("RUNNING")])
    pages.put(arrived(), jobs=[StartedJob("evil", "me", "javascript:alert(1)", "cpu", "ERROR")])
    page = owner.get().body.decode()
    assert '<a class="up" href="https://huggingface.co/jobs/me/66f1c0ffee" target="_blank" rel="noopener">' in page
    assert "javascript:" not in page


def fill(pages: PagesHarness) -> dict[str, str]:
    """Record a delivery of each kind, oldest first; return their ids by name."""
    return {
        "commit": pages.put(arrived(), answer=b'"trained"'),
        "skipped": pages.put(arrived(repo="model/me/tuned"), answer=SKIPPED),
        "failed": pages.put(arrived("/webhooks/report", fixture="discussion-create"), "failed", error=TRACEBACK),
        "waiting": pages.put(arrived(), "running"),
        "no payload": pages.put(arrived(body=b"nothing"), answer=b"{}"),
    }


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({}, ["no payload", "waiting", "failed", "commit"]),
        ({"outcome": "all"}, ["no payload", "waiting", "failed", "skipped", "commit"]),
        ({"outcome": "done"}, ["no payload", "commit"]),
        ({"outcome": "skipped"}, ["skipped"]),
        ({"outcome": "failed"}, ["failed"]),
        ({"endpoint": "/webhooks/report"}, ["failed"]),
        ({"repo": "model/me/tuned", "outcome": "all"}, ["skipped"]),
        ({"event": "discussion create"}, ["failed"]),
        ({"q": "TUNED"}, ["skipped"]),
        ({"q": "keyerror"}, ["failed"]),
        ({"q": "%"}, []),
        ({"q": "' OR 1=1 --"}, []),
        ({"q": "me/data", "outcome": "done"}, ["commit"]),
    ],
)
def test_filters_narrow_the_list(pages: PagesHarness, owner: Client, query: dict[str, str], found: list[str]) -> None:
    ids = fill(pages)
    page = owner.get(query=query)
    assert ids_of(page) == [ids[name] for name in found]
    if not found:
        assert "No delivery fits this filter" in text(page)


def test_search_finds_ids_and_their_beginnings(pages: PagesHarness, owner: Client) -> None:
    ids = fill(pages)
    for id in ids.values():
        assert ids_of(owner.get(query={"q": id})) == [id]
    assert len(ids_of(owner.get(query={"q": ids["commit"][:6]}))) == len(ids)
    assert ids_of(owner.get(query={"q": "7" + "f" * 15})) == []


def test_counts_follow_the_other_filters(pages: PagesHarness, owner: Client) -> None:
    fill(pages)
    assert "All but skipped 4 Done 2 Failed 1 Waiting 1 Skipped 1 All 5 Replay 1 failed…" in text(owner.get())
    query = {"endpoint": "/webhooks/train", "repo": "dataset/me/data", "outcome": "failed"}
    assert "All but skipped 2 Done 1 Failed 0 Waiting 1 Skipped 0 All 2 Filter" in text(owner.get(query=query))
    assert b"<title>1 failed \xc2\xb7 Webhooks</title>" in owner.get().body


def test_list_of_skipped_deliveries_alone_offers_them(pages: PagesHarness, owner: Client) -> None:
    pages.put(arrived(), answer=SKIPPED)
    page = owner.get()
    assert ids_of(page) == []
    assert "Only skipped deliveries" in text(page)
    assert 'href="/deliveries?outcome=skipped">Show 1 skipped' in page.body.decode()


@pytest.mark.parametrize(
    "query",
    [{"outcome": "x"}, {"outcome": "done' --"}, {"before": "x"}, {"before": "f" * 16}, {"before": "\x00"},
     {"q": "\x00"}, {"q": "x" * 100_000}, {"repo": "\ud800"}, {"before": "é"}, {"replayed": "1e999"},
     {"replayed": "9" * 5000}],
)  # fmt: skip
def test_invalid_query_is_answered_with_a_page(pages: PagesHarness, owner: Client, query: dict[str, str]) -> None:
    fill(pages)
    answer = owner.get(query={name: value.encode("utf-8", "surrogatepass") for name, value in query.items()})
    assert answer.status == (404 if "before" in query else 200)
    assert "</html>" in answer.body.decode()


def test_list_has_pages_of_fifty(pages: PagesHarness, owner: Client) -> None:
    ids = [pages.put(arrived(), answer=b"{}") for _ in range(120)][::-1]
    first = owner.get()
    assert ids_of(first) == ids[:50]
    assert "← Newest" not in text(first)
    second = owner.get(query={"before": ids[49]})
    assert ids_of(second) == ids[50:100]
    assert f'rel="next" href="/deliveries?before={ids[99]}"' in second.body.decode()
    third = owner.get(query={"before": ids[99]})
    assert ids_of(third) == ids[100:]
    assert "Older →" not in text(third)
    assert '<a rel="first" href="/deliveries">← Newest</a>' in third.body.decode()


def test_chart_links_each_hour_and_outcome(pages: PagesHarness, owner: Client) -> None:
    old = pages.put(arrived(ago=3 * 3600), answer=b"{}")
    pages.put(arrived(ago=3 * 3600 - 1e-6), "failed", error=TRACEBACK)
    new = pages.put(arrived(), answer=b"{}")
    pages.put(arrived(ago=30 * 3600), answer=b"{}")
    bar = r'<a href="/deliveries\?outcome=(\w+)&amp;before=(\w+)"><title data-since="\S+">(.*?)</title>'
    bars = re.findall(bar, owner.get().body.decode())
    hour = time.strftime("%H:00", time.gmtime(time.time() - 3 * 3600))
    assert [name for _, _, name in bars[:2]] == [f"1 done, {hour} UTC", f"1 failed, {hour} UTC"]
    assert [outcome for outcome, _, _ in bars] == ["done", "failed", "done"]
    assert ids_of(owner.get(query={"outcome": "done", "before": bars[0][1]}))[0] == old
    assert ids_of(owner.get(query={"outcome": "done", "before": bars[2][1]}))[0] == new


def test_unchanged_page_is_not_sent_again(pages: PagesHarness, owner: Client) -> None:
    pages.put(arrived(), answer=b"{}")
    tag = owner.get().headers["etag"]
    again = owner.get(if_none_match=tag)
    assert (again.status, again.body) == (304, b"")
    pages.put(arrived(), answer=b"{}")
    assert len(ids_of(owner.get(if_none_match=tag))) == 2
    assert Client(pages).get(if_none_match=tag).status == 403


def test_long_names_do_not_make_a_long_page(pages: PagesHarness, owner: Client) -> None:
    body = arrived().body.replace(b"repo.content", b"x" * 900_000)
    pages.put(arrived(), answer=b"{}")
    payload = arrived().payload
    assert payload
    payload.event.scope = "x" * 900_000
    delivery = arrived("/webhooks/" + "y" * 5000)
    object.__setattr__(delivery, "payload", payload)
    object.__setattr__(delivery, "body", body)
    id = pages.put(delivery, answer=b"{}")
    assert ids_of(owner.get())[0] == id
    assert len(owner.get().body) < 30_000


def test_static_files_are_small_and_need_no_other_host(owner: Client) -> None:
    sent = b"".join(owner.get(f"/static/dashboard.{kind}").body for kind in ("css", "js"))
    assert 10_000 < len(sent) < 25_000
    assert not re.search(rb"http|url\(", sent)
    for path in ("/static/no.css", "/static/../routes.py", "/static/%2e%2e/routes.py", "/static//etc/passwd"):
        assert owner.get(path).status == 404


def test_deleted_log_is_a_sentence(pages: PagesHarness, owner: Client) -> None:
    pages.log.path.rename(pages.log.path.with_name("elsewhere"))
    for path in ("", "/replay", "/hub", f"/{1:016x}"):
        page = owner.get(path)
        assert (page.status, "The delivery log cannot be read" in text(page)) == (503, True)


def test_space_name_is_on_every_page() -> None:
    pages = PagesHarness(Endpoint(lambda: None, "/train"), SPACE_ID="acme/hooks", SPACE_HOST="acme-hooks.hf.space")
    owner = pages.owner()
    for path in ("", "/test", "/hub", "/replay", "/no-such-page"):
        page = owner.get(path).body.decode()
        assert '<strong><a href="/deliveries/..">acme/hooks</a></strong>' in page
        assert "· acme/hooks</title>" in page
