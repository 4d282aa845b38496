"""What the owner's pages ask the delivery log, read from real SQLite files while they are written."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st
from support.payloads import load

from webhooks import Delivery, WebhookPayload
from webhooks.dashboard import queries
from webhooks.dashboard.queries import Filter, Row
from webhooks.deliveries.log import DeliveryLog, find, reading
from webhooks.delivery import FINISHED, StartedJob

pytestmark = pytest.mark.once

F, G = "/webhooks/f", "/webhooks/g"
DATA, MODEL = "dataset/me/data", "model/me/model"
PAYLOAD = load("repo.content-update")
BODY = json.dumps(PAYLOAD).encode()
NOON = datetime(2026, 11, 23, 12, tzinfo=timezone.utc)


def delivery(
    endpoint: str = F, repo: str | None = DATA, received_at: datetime = NOON, replay_of: str | None = None
) -> Delivery:
    type, _, name = (repo or "/").partition("/")
    filled = {**PAYLOAD, "repo": {**PAYLOAD["repo"], "type": type, "name": name}}
    payload = WebhookPayload.model_validate(filled) if repo else None
    return Delivery(endpoint, payload, received_at=received_at, replay_of=replay_of, body=BODY)


@dataclass
class Book:
    """A log to write into, and to look into as everybody does who does not write."""

    log: DeliveryLog

    def put(self, *, status: str = "succeeded", errors: Sequence[str] = (), **what: Any) -> str:
        """Record a delivery in the transaction that has begun, and return its id."""
        added = delivery(**what)
        self.log.add(added, "queued" if errors else "running" if status in FINISHED else status)
        for place, error in enumerate(errors, 1):
            self.log.start_attempt(added.id)
            self.log.fail_attempt(added.id, error)
            if status not in FINISHED or place < len(errors):
                self.log.schedule(added.id, 0)
        if status in FINISHED:
            self.log.finish(added.id, status, 200, b"")
        return added.id

    def add(self, times: int = 1, **what: Any) -> list[str]:
        """Record deliveries in one transaction and return their ids, oldest first."""
        with self.log.transaction():
            return [self.put(**what) for _ in range(times)]

    def delete_oldest(self, count: int) -> None:
        with self.log.transaction():
            self.log.keep = self.log.counts().total() - count
            self.log.prune()

    def ask(self, query: Callable[..., Any], *values: Any, **wanted: Any) -> Any:
        with reading(self.log.path) as database:
            return query(database, *values, **wanted)

    def page(self, before: str | None = None, **wanted: Any) -> tuple[list[Row], bool]:
        return self.ask(queries.page, Filter(**wanted), before=before)


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Book]:
    log = DeliveryLog(tmp_path)
    yield Book(log)
    log.close()


def ids(page: tuple[list[Row], bool]) -> list[str]:
    return [row.id for row in page[0]]


# --- a page of the list


def test_an_empty_log_is_an_empty_page_without_another(book: Book) -> None:
    for place in ({}, {"before": f"{7:016x}"}):
        assert book.page(**place) == ([], False)


def test_an_older_page_stays_as_it_is_while_new_deliveries_arrive(book: Book) -> None:
    first = book.add(120)[::-1]
    older = book.page(before=first[49])
    book.add(60)
    assert book.page(before=first[49]) == older


FILTERS = {
    "endpoint": st.sampled_from([None, F, G]),
    "outcome": st.sampled_from([None, *queries.OUTCOMES]),
    "repo": st.sampled_from([None, DATA, MODEL]),
    "q": st.sampled_from([None, "me/", "model"]),
}
DELIVERIES = st.lists(
    st.fixed_dictionaries(
        {
            "endpoint": st.sampled_from([F, G]),
            "status": st.sampled_from(["succeeded", "failed", "queued"]),
            "repo": st.sampled_from([DATA, MODEL, None]),
            "errors": st.sampled_from([(), ("timed out",), ("no model is there",) * 3]),
        }
    ),
    max_size=14,
)
OUTCOME = {"succeeded": "done", "failed": "failed", "queued": "waiting"}


def is_wanted(entry: dict[str, Any], wanted: dict[str, str | None]) -> bool:
    known = {**entry, "outcome": OUTCOME[entry["status"]]}
    if wanted["q"] and not any(wanted["q"] in text for text in (entry["repo"] or "", *entry["errors"])):
        return False
    return all(value in (None, known[name]) for name, value in wanted.items() if name != "q")


@hypothesis.settings(suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture], max_examples=100)
@hypothesis.given(DELIVERIES, st.fixed_dictionaries(FILTERS))
def test_all_pages_are_what_a_plain_list_would_give(
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    deliveries: list[dict[str, Any]],
    wanted: dict[str, str | None],
) -> None:
    monkeypatch.setattr(queries, "PAGE_SIZE", 4)
    log = DeliveryLog(tmp_path_factory.mktemp("log"))
    book = Book(log)
    with log.transaction():
        added = [(book.put(**entry), entry) for entry in deliveries]
    expected = [id for id, entry in added if is_wanted(entry, wanted)][::-1]
    page = book.page(**wanted)
    walked = ids(page)
    while page[1]:
        page = book.page(before=walked[-1], **wanted)
        walked += ids(page)
    assert walked == expected
    counts = book.ask(queries.counts, Filter(**wanted))
    assert sum(counts[name] for name in queries.OUTCOMES if wanted["outcome"] in (None, name)) == len(expected)
    log.close()


def test_a_text_is_looked_for_in_repositories_and_errors_page_by_page(
    book: Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "PAGE_SIZE", 4)
    in_error = {"status": "failed", "errors": ["no model is there"] * 3}
    with book.log.transaction():
        expected = [book.put(**what) for _ in range(5) for what in (in_error, in_error, {"repo": MODEL})][::-1]
        book.put(errors=["timed out"])
    pages = [book.page(q="model")]
    while pages[-1][1]:
        pages.append(book.page(q="model", before=ids(pages[-1])[-1]))
    assert [id for page in pages for id in ids(page)] == expected


def test_of_very_many_repositories_two_hundred_can_be_chosen(book: Book) -> None:
    with book.log.transaction():
        for number in range(300):
            book.put(repo=f"dataset/me/data{number:03d}")
    found = book.ask(queries.choices)["repo"]
    assert (len(found), found[0], found[-1]) == (200, "dataset/me/data000", "dataset/me/data199")


# --- one delivery


def test_a_delivery_is_found_with_those_that_repeat_it_and_its_jobs(book: Book) -> None:
    original, another = book.add(2)
    job = StartedJob("job", "me", "https://huggingface.co/jobs/me/job", "cpu-basic", "RUNNING")
    with book.log.transaction():
        replays = [book.log.add_replay(original).id for _ in range(2)]
        book.log.add_jobs(original, [job])
    found = book.ask(queries.related, original)
    assert (found["replays"], found["replaced"], found["newer"], found["older"]) == (replays, [], [another], [])
    assert book.ask(queries.related, another)["replays"] == []
    assert book.ask(queries.related, another)["older"] == [original]
    assert [list(book.ask(queries.row, id).jobs) for id in (original, another)] == [[job], []]
    assert book.ask(find, replays[1]).delivery.replay_of == original


def test_a_delivery_is_found_with_the_one_whose_place_it_took(book: Book) -> None:
    early, late, other = delivery(), delivery(), delivery()
    with book.log.transaction():
        for one, subject in ((early, "a"), (other, "b"), (late, "a")):
            book.log.add_to_burst(one, subject, 60)
    assert book.ask(queries.related, late.id)["replaced"] == [early.id]
    assert book.ask(queries.related, other.id)["replaced"] == []
    assert book.ask(find, early.id).superseded_by == late.id


# --- while it is written


@pytest.mark.parametrize(("shared_disk", "mode"), [(False, "wal"), (True, "delete")])
def test_readers_and_the_writer_do_not_disturb_each_other(tmp_path: Path, shared_disk: bool, mode: str) -> None:
    log = DeliveryLog(tmp_path, shared_disk=shared_disk)
    book = Book(log)
    written, failures = threading.Event(), []

    def write() -> None:
        try:
            for _ in range(60):
                book.add(2)
        except Exception as error:
            failures.append(error)
        finally:
            written.set()

    def read() -> None:
        try:
            seen = newest = 0
            while not (complete := written.is_set()) or seen < 120:
                page = book.page()
                assert len(ids(page)) % 2 == 0, "half a transaction was seen"
                latest = int(ids(page)[0], 16) if ids(page) else 0
                assert latest >= newest, "what was there is gone"
                newest = latest
                count = book.ask(queries.counts, Filter()).total()
                assert count % 2 == 0, "half a transaction was seen"
                assert count >= seen, "what was there is gone"
                seen = count
                assert not complete or seen == 120
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=target) for target in (write, read, read)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    with reading(log.path) as database:
        assert database.execute("PRAGMA journal_mode").fetchone()[0] == mode
    log.close()


def test_whoever_only_looks_cannot_write(book: Book) -> None:
    with (
        reading(book.log.path) as database,
        pytest.raises(sqlite3.OperationalError, match="readonly"),
    ):
        database.execute("DELETE FROM deliveries")
