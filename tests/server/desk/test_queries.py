"""What the owner's page asks the delivery log, read from real SQLite files while they are written."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st
from playwright.sync_api import Browser, expect
from support.payloads import load
from support.processes import Run

from webhooks import Delivery, WebhookPayload
from webhooks.deliveries import history
from webhooks.deliveries.history import number
from webhooks.deliveries.log import DeliveryLog
from webhooks.delivery import FINISHED, UNFINISHED, StartedJob
from webhooks.desk import queries
from webhooks.desk.queries import Page, Related, Row

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

    def put(self, *, status: str = "succeeded", **what: Any) -> str:
        """Record a delivery in the transaction that has begun, and return its id."""
        added = delivery(**what)
        self.log.add(added, "running" if status in FINISHED else status)
        if status in FINISHED:
            self.log.finish(added.id, status, 200, b"")
        return added.id

    def add(self, times: int = 1, **what: Any) -> list[str]:
        """Record deliveries in one transaction and return their ids, oldest first."""
        with self.log.transaction():
            return [self.put(**what) for _ in range(times)]

    def delete_oldest(self, count: int) -> None:
        with self.log.transaction():
            assert self.log.prune(count, count).total() == count

    def ask(self, query: Callable[..., Any], *values: Any, **wanted: Any) -> Any:
        with history.reading(self.log.path) as database:
            return query(database, *values, **wanted)

    def page(self, **wanted: Any) -> Page:
        return self.ask(queries.page, **wanted)


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Book]:
    log = DeliveryLog(tmp_path)
    yield Book(log)
    log.close()


def ids(page: Page) -> list[str]:
    return [row.id for row in page.rows]


def ways(page: Page) -> tuple[bool, bool]:
    return page.has_newer, page.has_older


# --- a page of the list


def test_an_empty_log_is_an_empty_page_without_another(book: Book) -> None:
    for place in ({}, {"older_than": 7}, {"newer_than": 7}):
        assert book.page(**place) == Page([], has_newer=False, has_older=False)


def test_a_row_is_what_the_list_shows_of_a_delivery(book: Book) -> None:
    (id,) = book.add(status="queued", repo=MODEL, replay_of="0123456789abcdef", received_at=NOON)
    (nothing,) = book.add(status="failed", endpoint=G, repo=None)
    assert book.page().rows == [
        Row(int(nothing, 16), nothing, G, None, None, NOON, "failed", 1, False),
        Row(int(id, 16), id, F, MODEL, "repo.content update", NOON, "queued", 0, True),
    ]


@pytest.mark.parametrize(("recorded", "has_older"), [(1, False), (50, False), (51, True)])
def test_the_first_page_has_the_newest_fifty(book: Book, recorded: int, has_older: bool) -> None:
    recorded_ids = book.add(recorded)
    page = book.page()
    assert ids(page) == recorded_ids[::-1][:50]
    assert ways(page) == (False, has_older)


def test_the_whole_list_is_paged_through_and_back(book: Book) -> None:
    newest_first = book.add(120)[::-1]
    first = book.page()
    second = book.page(older_than=first.rows[-1].number)
    last = book.page(older_than=second.rows[-1].number)
    assert ids(first) + ids(second) + ids(last) == newest_first
    assert [ways(page) for page in (first, second, last)] == [(False, True), (True, True), (True, False)]
    assert book.page(newer_than=last.rows[0].number) == second
    assert book.page(newer_than=second.rows[0].number) == first


def test_the_way_back_ends_on_a_full_page(book: Book) -> None:
    recorded = book.add(60)
    assert ids(book.page(newer_than=number(recorded[19]))) == recorded[::-1][:50]
    assert ids(book.page(newer_than=number(recorded[59]))) == recorded[::-1][:50]


def test_an_older_page_stays_as_it_is_while_new_deliveries_arrive(book: Book) -> None:
    recorded = book.add(120)
    older, back = {"older_than": number(recorded[70])}, {"newer_than": number(recorded[19])}
    before = book.page(**older), book.page(**back)
    book.add(70)
    assert (book.page(**older), book.page(**back)) == before
    assert ways(before[0]) == (True, True)


def test_a_page_at_the_end_shows_what_pruning_leaves_of_it(book: Book) -> None:
    recorded = book.add(120)
    book.delete_oldest(50)
    page = book.page(older_than=number(recorded[70]))
    assert ids(page) == recorded[50:70][::-1]
    assert ways(page) == (True, False)


def test_a_page_of_which_pruning_leaves_nothing_becomes_the_last_one(book: Book) -> None:
    recorded = book.add(150)
    book.delete_oldest(80)
    page = book.page(older_than=number(recorded[70]))
    assert ids(page) == recorded[80:130][::-1]
    assert ways(page) == (True, False)
    book.delete_oldest(60)
    assert ids(book.page(older_than=number(recorded[70]))) == recorded[140:][::-1]


@pytest.mark.parametrize(
    "wanted",
    [
        {"endpoint": G},
        {"status": "failed"},
        {"repo": MODEL},
        {"endpoint": G, "status": "failed"},
        {"endpoint": G, "repo": MODEL},
        {"status": "failed", "repo": MODEL},
        {"endpoint": G, "status": "failed", "repo": MODEL},
    ],
)
def test_filters_narrow_the_list_together_and_on_every_page(book: Book, wanted: dict[str, str]) -> None:
    matching = []
    for endpoint in (F, G):
        for status in ("succeeded", "failed"):
            for repo in (DATA, MODEL):
                added = book.add(30, endpoint=endpoint, status=status, repo=repo)
                if wanted.items() <= {"endpoint": endpoint, "status": status, "repo": repo}.items():
                    matching += added
    page, found = book.page(**wanted), []
    while True:
        found += ids(page)
        if not page.has_older:
            break
        page = book.page(**wanted, older_than=page.rows[-1].number)
    assert found == matching[::-1]


@pytest.mark.parametrize("value", ["", "' OR 1=1 --", "%", "_", "*", "\x00", F + "\x00", "/WEBHOOKS/F", "💥" * 10_000])
def test_a_filter_is_a_value_and_nothing_else(book: Book, value: str) -> None:
    book.add(3)
    for name in ("endpoint", "status", "repo"):
        assert book.page(**{name: value}).rows == []


# Against a plain model: small pages, and logs that were pruned in places.

FILTERS = {
    "endpoint": st.sampled_from([None, F, G]),
    "status": st.sampled_from([None, "succeeded", "failed", "queued"]),
    "repo": st.sampled_from([None, DATA, MODEL]),
}
DELIVERIES = st.lists(
    st.fixed_dictionaries(
        {
            "endpoint": st.sampled_from([F, G]),
            "status": st.sampled_from(["succeeded", "succeeded", "failed"]),
            "repo": st.sampled_from([DATA, MODEL, None]),
            "kept": st.sampled_from([True, True, True, False]),
        }
    ),
    max_size=18,
)
PLACES = st.none() | st.integers(min_value=0, max_value=20)


def record(book: Book, deliveries: Sequence[dict[str, Any]]) -> tuple[list[int], list[Row]]:
    """Leave nothing but these in the log, pruned; return the numbers of all, and the rows that are left of them."""
    numbers, left = [], []
    with book.log.transaction():
        book.log.prune(1000, 1000)
        added = [delivery(entry["endpoint"], entry["repo"]) for entry in deliveries]
        for one in added:
            book.log.add(one, "running")
        for entry, one in zip(deliveries, added, strict=True):
            if not entry["kept"]:
                book.log.finish(one.id, entry["status"], 200, b"")
        book.log.prune(1000, 1000)
        for entry, one in zip(deliveries, added, strict=True):
            numbers.append(int(one.id, 16))
            if entry["kept"]:
                book.log.finish(one.id, entry["status"], 200, b"")
                event = "repo.content update" if entry["repo"] else None
                shown = (one.id, entry["endpoint"], entry["repo"], event, NOON, entry["status"], 1, False)
                left.append(Row(numbers[-1], *shown))
    return numbers, left


def in_python(rows: Sequence[Row], older_than: int | None, newer_than: int | None, size: int) -> Page:
    """The page of a filtered log, newest first."""
    if newer_than is not None:
        shown = [row for row in rows if row.number > newer_than][-size:]
        shown = rows[:size] if len(shown) < size else shown
    else:
        shown = [row for row in rows if older_than is None or row.number < older_than][:size] or rows[-size:]
    return Page(shown, has_newer=shown != rows[: len(shown)], has_older=shown != rows[len(rows) - len(shown) :])


@hypothesis.settings(suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture], max_examples=150)
@hypothesis.given(DELIVERIES, st.fixed_dictionaries(FILTERS), PLACES, st.booleans())
def test_a_page_is_what_a_plain_list_would_give(
    book: Book,
    monkeypatch: pytest.MonkeyPatch,
    deliveries: list[dict[str, Any]],
    wanted: dict[str, str | None],
    place: int | None,
    newer: bool,
) -> None:
    monkeypatch.setattr(queries, "PAGE", 4)
    numbers, left = record(book, deliveries)
    assert book.page().has_older is (len(left) > 4)
    rows = [row for row in left[::-1] if all(value in (None, getattr(row, name)) for name, value in wanted.items())]
    after = numbers[-1] + 1 if numbers else 7
    at = None if place is None else [0, *numbers, *[after] * 20][place]
    older_than, newer_than = (None, at) if newer else (at, None)
    page = book.page(**wanted, older_than=older_than, newer_than=newer_than)
    assert page == in_python(rows, older_than, newer_than, size=4)
    first, walked = book.page(**wanted), []
    page = first
    while True:
        walked += page.rows
        if not page.has_older:
            break
        page = book.page(**wanted, older_than=page.rows[-1].number)
    assert walked == rows
    while page.has_newer:
        page = book.page(**wanted, newer_than=page.rows[0].number)
    assert page == first


# --- what it costs


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Book]:
    """A log as large as it gets: nearly everything went well, in a few repositories."""
    log = DeliveryLog(tmp_path_factory.mktemp("full"))
    book, now = Book(log), datetime.now(timezone.utc)
    with log.transaction():
        for place in range(log.keep):
            what = {"endpoint": G, "status": "failed"} if place % 100 == 0 else {}
            book.put(repo=[DATA, MODEL, "space/me/space"][place % 3], received_at=now, **what)
        book.put(status="running", repo="model/me/rare")
    assert log.counts() == {"succeeded": log.keep * 99 // 100, "failed": log.keep // 100, "running": 1}
    yield book
    log.close()


LOOKS: dict[str, dict[str, Any]] = {
    "the newest": {},
    "an older page": {"older_than": 1},
    "an endpoint": {"endpoint": F},
    "a rare endpoint": {"endpoint": G},
    "a status": {"status": "succeeded"},
    "a rare status": {"status": "running"},
    "a repository": {"repo": DATA},
    "a rare repository": {"repo": "model/me/rare"},
    "an older page of a filter": {"status": "succeeded", "older_than": 1},
    "a newer page of a filter": {"repo": DATA, "newer_than": 1},
    "an endpoint with another's repository": {"endpoint": G, "repo": "model/me/rare"},
}


def takes_little(book: Book, query: Callable[..., Any], *values: Any, **wanted: Any) -> None:
    """Look a few times, for the machine may have other things to do."""
    taken = []
    for _ in range(5):
        begun = time.thread_time()
        book.ask(query, *values, **wanted)
        taken.append(time.thread_time() - begun)
    assert min(taken) < 0.05


@pytest.mark.parametrize("name", LOOKS)
def test_a_page_of_a_full_log_takes_little(full: Book, name: str) -> None:
    takes_little(full, queries.page, **LOOKS[name])


def test_all_else_that_the_page_asks_of_a_full_log_takes_little(full: Book) -> None:
    for query in (queries.endpoints, queries.repos, queries.per_hour):
        takes_little(full, query)
    takes_little(full, queries.related, full.page().rows[-1].id)
    takes_little(full, history.find, full.page().rows[-1].id)


# --- what there is to choose from


def test_endpoints_and_repositories_are_named_once_and_in_order(book: Book) -> None:
    assert (book.ask(queries.endpoints), book.ask(queries.repos)) == ([], [])
    for endpoint, repo in ((G, MODEL), (F, DATA), (F, None), (G, DATA)):
        book.add(2, endpoint=endpoint, repo=repo)
    assert book.ask(queries.endpoints) == [F, G]
    assert book.ask(queries.repos) == [DATA, MODEL]


def test_of_very_many_repositories_the_first_thousand_are_named(book: Book) -> None:
    names = [f"dataset/me/{place:04}" for place in range(1003)]
    with book.log.transaction():
        for name in reversed(names):
            book.put(repo=name)
    assert book.ask(queries.repos) == names[:1000]


# --- deliveries per hour

SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)


def per_hour(book: Book, now: datetime = NOON) -> list[tuple[datetime, str, int]]:
    return book.ask(queries.per_hour, now.timestamp())


def test_an_empty_chart_has_both_ends_of_a_day(book: Book) -> None:
    assert per_hour(book, NOON + HOUR / 2) == [(NOON - 23 * HOUR, "succeeded", 0), (NOON, "succeeded", 0)]


@pytest.mark.parametrize(
    ("received_at", "hour"),
    [
        (NOON, NOON),
        (NOON + HOUR - SECOND / 1000, NOON),
        (NOON - SECOND / 1000, NOON - HOUR),
        (NOON - 23 * HOUR, NOON - 23 * HOUR),
        (NOON - 23 * HOUR - SECOND / 1000, None),
        (NOON - 24 * HOUR, None),
    ],
)
def test_a_delivery_counts_for_the_hour_in_which_it_arrived(
    book: Book, received_at: datetime, hour: datetime | None
) -> None:
    book.add(3, received_at=received_at)
    for now in (NOON, NOON + HOUR - SECOND / 1000):
        assert per_hour(book, now)[2:] == ([(hour, "succeeded", 3)] if hour else [])


def test_each_status_counts_for_itself(book: Book) -> None:
    for times, status in enumerate((*UNFINISHED, *FINISHED), 1):
        book.add(times, status=status, received_at=NOON)
        book.add(10 * times, status=status, received_at=NOON - HOUR)
    assert sorted(per_hour(book)[2:]) == sorted(
        (NOON - HOUR * before, status, (10 if before else 1) * times)
        for times, status in enumerate((*UNFINISHED, *FINISHED), 1)
        for before in (0, 1)
    )


def test_the_day_ends_now(book: Book) -> None:
    book.add(received_at=datetime.now(timezone.utc))
    assert sum(count for _, _, count in book.ask(queries.per_hour)) == 1


# --- one delivery


def test_a_delivery_is_found_with_those_that_repeat_it_and_its_jobs(book: Book) -> None:
    original, another = book.add(2)
    job = StartedJob("job", "me", "https://huggingface.co/jobs/me/job", "cpu-basic", "RUNNING")
    with book.log.transaction():
        replays = [book.log.add_replay(original).id for _ in range(2)]
        book.log.add_jobs(original, [job])
    assert book.ask(queries.related, original) == Related(replays, [], [job])
    assert book.ask(queries.related, another) == Related([], [], [])
    assert book.ask(queries.related, "0123456789abcdef") == Related([], [], [])
    assert book.ask(history.find, replays[1]).delivery.replay_of == original


def test_a_delivery_is_found_with_the_one_whose_place_it_took(book: Book) -> None:
    early, late, other = delivery(), delivery(), delivery()
    with book.log.transaction():
        for one, subject in ((early, "a"), (other, "b"), (late, "a")):
            book.log.add_to_burst(one, subject, 60)
    assert book.ask(queries.related, late.id) == Related([], [early.id], [])
    assert book.ask(queries.related, other.id) == Related([], [], [])
    assert book.ask(history.find, early.id).superseded_by == late.id


@pytest.mark.parametrize(
    "id",
    ["", "0" * 16, "f" * 16, "F" * 16, "1" * 17, "' OR 1=1 --", "%", "ä", "\ud800", "\x00", None, 1, 2**70, ["a"], {}],
)
def test_an_id_that_the_log_does_not_have_is_a_key_error(book: Book, id: Any) -> None:
    book.add()
    with pytest.raises(KeyError) as caught:
        book.ask(history.find, id)
    assert caught.value.args == (id,)


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
                assert len(page.rows) % 2 == 0, "half a transaction was seen"
                latest = page.rows[0].number if page.rows else 0
                assert latest >= newest, "what was there is gone"
                newest = latest
                count = sum(count for _, _, count in per_hour(book))
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
    with history.reading(log.path) as database:
        assert database.execute("PRAGMA journal_mode").fetchone()[0] == mode
    log.close()


def test_whoever_only_looks_cannot_write(book: Book) -> None:
    with (
        history.reading(book.log.path) as database,
        pytest.raises(sqlite3.OperationalError, match="readonly"),
    ):
        database.execute("DELETE FROM deliveries")


# --- on the page


@pytest.mark.once
def test_the_list_is_live_again_after_the_way_to_older_pages_and_back(
    browser: Browser, tmp_path: Path, run: Run
) -> None:
    log = DeliveryLog(tmp_path / "log")
    newest_first = Book(log).add(60, received_at=datetime.now(timezone.utc))[::-1]
    log.close()
    token = "admin-token-of-the-owner"
    process = run(
        f"""
        from webhooks import WebhooksServer

        server = WebhooksServer(data_dir={str(tmp_path / "log")!r})
        server.add_webhook("/f")(lambda payload: None)
        server.launch()
        """,
        WEBHOOKS_ADMIN_TOKEN=token,
    ).wait_until_ready()
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(f"{process.url}/deliveries?token={token}")
        rows = page.locator("#webhooks-listing tbody tr")
        expect(rows).to_have_count(50)
        page.get_by_role("button", name="Older").click()
        expect(rows).to_have_count(10)
        expect(rows.last).to_have_attribute("data-open", newest_first[-1])
        page.get_by_role("button", name="Newer").click()
        expect(rows.first).to_have_attribute("data-open", newest_first[0])
        id = process.post("f", PAYLOAD).headers["X-Delivery-Id"]
        expect(rows.first).to_have_attribute("data-open", id)
        expect(rows).to_have_count(50)
