"""The queries of the pages, on real logs while they are written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st
from support.dashboard import arrived

from webhooks.dashboard import queries
from webhooks.dashboard.queries import Filter
from webhooks.deliveries.log import DeliveryLog, reading
from webhooks.delivery import FINISHED

F, G = "/webhooks/f", "/webhooks/g"
DATA, MODEL = "dataset/me/data", "model/me/model"


@pytest.fixture
def log(tmp_path: Path) -> Iterator[DeliveryLog]:
    log = DeliveryLog(tmp_path)
    yield log
    log.close()


def put(log: DeliveryLog, status: str = "succeeded", errors: Any = (), skipped: bool = False, **what: Any) -> str:
    """Record a delivery in the transaction that has begun, and return its id."""
    added = arrived(what.get("endpoint", F), what.get("repo", DATA))
    log.add(added, "queued" if errors else "running" if status in FINISHED else status)
    for error in errors:
        log.start_attempt(added.id)
        log.fail_attempt(added.id, error)
        log.schedule(added.id, 0)
    if status in FINISHED:
        log.finish(added.id, status, 200, b'{"skipped":"x"}' if skipped else b"")
    return added.id


def ids(page: tuple[list[Any], bool]) -> list[str]:
    return [row.id for row in page[0]]


FILTERS = {
    "endpoint": st.sampled_from([None, F, G]),
    "outcome": st.sampled_from([None, "all", *queries.OUTCOMES]),
    "repo": st.sampled_from([None, DATA, MODEL]),
    "q": st.sampled_from([None, "me/", "model"]),
}
DELIVERIES = st.lists(
    st.fixed_dictionaries(
        {
            "endpoint": st.sampled_from([F, G]),
            "status": st.sampled_from(["succeeded", "failed", "queued"]),
            "skipped": st.booleans(),
            "repo": st.sampled_from([DATA, MODEL]),
            "errors": st.sampled_from([(), ("timed out",), ("no model is there",) * 3]),
        }
    ),
    max_size=14,
)


def is_wanted(entry: dict[str, Any], wanted: dict[str, str | None]) -> bool:
    outcome = {"succeeded": "done", "failed": "failed", "queued": "waiting"}[entry["status"]]
    if entry["skipped"] and outcome == "done":
        outcome = "skipped"
    if wanted["q"] and not any(wanted["q"] in text for text in (entry["repo"], *entry["errors"])):
        return False
    if wanted["outcome"] is None and wanted["q"] is None and outcome == "skipped":
        return False
    known = {**entry, "outcome": "all" if wanted["outcome"] == "all" else outcome}
    return all(value in (None, known[name]) for name, value in wanted.items() if name != "q")


@hypothesis.settings(suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture], max_examples=60)
@hypothesis.given(DELIVERIES, st.fixed_dictionaries(FILTERS))
def test_pages_are_those_of_a_plain_list(
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    deliveries: list[dict[str, Any]],
    wanted: dict[str, str | None],
) -> None:
    monkeypatch.setattr(queries, "PAGE_SIZE", 4)
    log = DeliveryLog(tmp_path_factory.mktemp("log"))
    with log.transaction():
        added = [(put(log, **entry), entry) for entry in deliveries]
    expected = [id for id, entry in added if is_wanted(entry, wanted)][::-1]
    with reading(log.path) as database:
        page = queries.page(database, Filter(**wanted))
        walked = ids(page)
        while page[1]:
            page = queries.page(database, Filter(**wanted), walked[-1])
            walked += ids(page)
        counts, to_replay = queries.counts(database, Filter(**wanted))
        failed = queries.to_replay(database, Filter(**wanted), queries.newest_id(database))
    assert walked == expected
    anything = {**wanted, "outcome": "all"}
    assert counts.total() == len([entry for _, entry in added if is_wanted(entry, anything)])
    assert to_replay.total() == len(failed) == counts["failed"]
    log.close()


def test_two_hundred_repositories_can_be_chosen(log: DeliveryLog) -> None:
    with log.transaction():
        for number in range(300):
            put(log, repo=f"dataset/me/data{number:03d}")
        put(log, repo="dataset/" + "x" * 400)
    with reading(log.path) as database:
        found = queries.choices(database)["repo"]
    assert (len(found), found[0], found[-1]) == (200, "dataset/me/data000", "dataset/me/data199")
