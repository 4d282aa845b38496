"""The list: outcomes, filters, pages, the chart, and the empty page."""

from __future__ import annotations

import re
from typing import Any

import pytest
from support.asgi import Exchange
from support.dashboard import Client, PagesHarness, arrived, ids_of, text

from webhooks.delivery import StartedJob

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
        ({"answer": b'{"pull_request": 4, "label": "a"}'}, "done", "pull_request: 4, label: a"),
        ({"answer": b'"trained"'}, "done", "trained"),
        ({"answer": b"{}"}, "done", "done"),
        ({"answer": b'{"dry_run":true,"command":"trl","flavor":"cpu"}'}, "done", "dry run: trl on cpu"),
        ({"answer": b"{}", "jobs": [job("RUNNING")]}, "job", "Job 66f1c0ffee running, a10g-small"),
        ({"answer": b"{}", "jobs": [job("ERROR")]}, "failed", "Job 66f1c0ffee failed, a10g-small"),
        ({"status": "failed", "error": TRACEBACK}, "failed", "KeyError: 'split'"),
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


def test_counts_follow_the_other_filters(pages: PagesHarness, owner: Client) -> None:
    fill(pages)
    assert "All but skipped 4 Done 2 Failed 1 Waiting 1 Skipped 1 All 5 Replay 1 failed…" in text(owner.get())
    query = {"endpoint": "/webhooks/train", "repo": "dataset/me/data", "outcome": "failed"}
    assert "All but skipped 2 Done 1 Failed 0 Waiting 1 Skipped 0 All 2 Filter" in text(owner.get(query=query))
    assert b"<title>1 failed \xc2\xb7 Webhooks</title>" in owner.get().body


def test_list_has_pages_of_fifty(pages: PagesHarness, owner: Client) -> None:
    ids = [pages.put(arrived(), answer=b"{}") for _ in range(70)][::-1]
    first, second = owner.get(), owner.get(query={"before": ids[49]})
    assert ids_of(first) == ids[:50]
    assert f'rel="next" href="/deliveries?before={ids[49]}"' in first.body.decode()
    assert ids_of(second) == ids[50:]
    assert "Older →" not in text(second)
    assert '<a rel="first" href="/deliveries">← Newest</a>' in second.body.decode()


def test_chart_links_each_hour_and_outcome(pages: PagesHarness, owner: Client) -> None:
    old = pages.put(arrived(ago=3 * 3600), answer=b"{}")
    pages.put(arrived(ago=3 * 3600 - 1e-6), "failed", error=TRACEBACK)
    new = pages.put(arrived(), answer=b"{}")
    pages.put(arrived(ago=30 * 3600), answer=b"{}")
    bar = r'<a href="/deliveries\?outcome=(\w+)&amp;before=(\w+)">'
    bars = re.findall(bar, owner.get().body.decode())
    assert [outcome for outcome, _ in bars] == ["done", "failed", "done"]
    assert ids_of(owner.get(query={"outcome": "done", "before": bars[0][1]}))[0] == old
    assert ids_of(owner.get(query={"outcome": "done", "before": bars[2][1]}))[0] == new


def test_deleted_log_is_a_sentence(pages: PagesHarness, owner: Client) -> None:
    pages.log.path.rename(pages.log.path.with_name("elsewhere"))
    for path in ("", "/replay", "/hub", f"/{1:016x}"):
        page = owner.get(path)
        assert (page.status, "The delivery log cannot be read" in text(page)) == (503, True)
