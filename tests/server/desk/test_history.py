"""What the delivery log knows, read from real SQLite files while they are written."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st
from playwright.sync_api import Browser, expect
from support.payloads import FIXTURES, load
from support.processes import Run

import webhooks.log
from webhooks import Delivery, WebhookPayload, history
from webhooks.delivery import Arrival
from webhooks.history import FINISHED, UNFINISHED, Page, Row
from webhooks.log import DeliveryLog

pytestmark = pytest.mark.once

F, G = "/webhooks/f", "/webhooks/g"
DATA, MODEL = "dataset/me/data", "model/me/model"
PAYLOAD = load("repo.content-update")
NOON = datetime(2026, 11, 23, 12, tzinfo=timezone.utc)


@dataclass
class Book:
    """A log to write into, and a connection of its own to look into it."""

    log: DeliveryLog
    database: sqlite3.Connection

    def add(
        self,
        times: int = 1,
        *,
        status: str = "succeeded",
        endpoint: str = F,
        repo: str | None = DATA,
        received_at: datetime = NOON,
        replay_of: str | None = None,
    ) -> list[str]:
        """Record deliveries in one transaction and return their ids, oldest first."""
        type, _, name = (repo or "/").partition("/")
        filled = {**PAYLOAD, "repo": {**PAYLOAD["repo"], "type": type, "name": name}}
        payload = WebhookPayload.model_validate(filled) if repo else None
        ids = []
        with self.log.transaction():
            for _ in range(times):
                delivery = Delivery(endpoint, payload, received_at=received_at, replay_of=replay_of)
                self.log.add(delivery, Arrival(endpoint, b"", (), b"{}"), status)
                ids.append(delivery.id)
        return ids

    def delete(self, ids: Sequence[str]) -> None:
        with self.log.transaction():
            self.log._database.executemany("DELETE FROM deliveries WHERE id = ?", [(id,) for id in ids])

    def page(self, **wanted: Any) -> Page:
        return history.page(self.database, **wanted)


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Book]:
    log = DeliveryLog(tmp_path)
    log._database.execute("PRAGMA synchronous = OFF")  # nothing here is about a loss of power
    with history.reading(log.path) as database:
        yield Book(log, database)
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
        Row(2, nothing, G, None, None, NOON, "failed", 0, None),
        Row(1, id, F, MODEL, "repo.content update", NOON, "queued", 0, "0123456789abcdef"),
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
    newest_first = book.add(60)[::-1]
    assert ids(book.page(newer_than=20)) == newest_first[:50]
    assert ids(book.page(newer_than=60)) == newest_first[:50]


def test_an_older_page_stays_as_it_is_while_new_deliveries_arrive(book: Book) -> None:
    book.add(120)
    older, back = {"older_than": 71}, {"newer_than": 20}
    before = book.page(**older), book.page(**back)
    book.add(70)
    assert (book.page(**older), book.page(**back)) == before
    assert ways(before[0]) == (True, True)


def test_a_page_at_the_end_shows_what_pruning_leaves_of_it(book: Book) -> None:
    recorded = book.add(120)
    book.delete(recorded[:50])
    page = book.page(older_than=71)
    assert ids(page) == recorded[50:70][::-1]
    assert ways(page) == (True, False)


def test_a_page_of_which_pruning_leaves_nothing_becomes_the_last_one(book: Book) -> None:
    recorded = book.add(150)
    book.delete(recorded[:80])
    page = book.page(older_than=71)
    assert ids(page) == recorded[80:130][::-1]
    assert ways(page) == (True, False)
    book.delete(recorded[80:140])
    assert ids(book.page(older_than=71)) == recorded[140:][::-1]


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
NUMBERS = st.none() | st.integers(min_value=0, max_value=20)


def in_python(rows: Sequence[Row], older_than: int | None, newer_than: int | None, size: int) -> Page:
    """The page of a filtered log, newest first."""
    if newer_than is not None:
        shown = [row for row in rows if row.number > newer_than][-size:]
        shown = rows[:size] if len(shown) < size else shown
    else:
        shown = [row for row in rows if older_than is None or row.number < older_than][:size] or rows[-size:]
    return Page(shown, has_newer=shown != rows[: len(shown)], has_older=shown != rows[len(rows) - len(shown) :])


@hypothesis.settings(suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture], max_examples=150)
@hypothesis.given(DELIVERIES, st.fixed_dictionaries(FILTERS), NUMBERS, st.booleans())
def test_a_page_is_what_a_plain_list_would_give(
    book: Book,
    monkeypatch: pytest.MonkeyPatch,
    deliveries: list[dict[str, Any]],
    wanted: dict[str, str | None],
    number: int | None,
    newer: bool,
) -> None:
    monkeypatch.setattr(history, "PAGE", 4)
    with book.log.transaction():
        book.log._database.execute("DELETE FROM deliveries")
    for delivery in deliveries:
        book.add(**{name: value for name, value in delivery.items() if name != "kept"})
    with book.log.transaction():
        gone = [(place,) for place, delivery in enumerate(deliveries, 1) if not delivery["kept"]]
        book.log._database.executemany("DELETE FROM deliveries WHERE number = ?", gone)
    everything = book.database.execute(f"SELECT {history._ROW} FROM deliveries ORDER BY number DESC").fetchall()
    rows = [
        history._row(row) for row in everything if all(value in (None, row[name]) for name, value in wanted.items())
    ]
    older_than, newer_than = (None, number) if newer else (number, None)
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


def fill(book: Book, deliveries: int) -> None:
    """Fill a log as a busy server does: nearly everything went well, in a few repositories."""
    for hundred in range(deliveries // 100):
        book.add(98, repo=[DATA, MODEL, "space/me/space"][hundred % 3])
        book.add(1, endpoint=G, status="failed")
        book.add(1, repo=None, replay_of="0123456789abcdef")
    book.add(5, status="running", repo="model/me/rare")


def work(book: Book, read: Callable[[], object]) -> int:
    """Count SQLite's steps, in tens: what takes time, without a clock."""
    steps = 0

    def step() -> None:
        nonlocal steps
        steps += 1

    book.database.set_progress_handler(step, 10)
    read()
    book.database.set_progress_handler(None, 0)
    return steps


LISTS: dict[str, dict[str, Any]] = {
    "the newest": {},
    "older": {"older_than": 150},
    "newer": {"newer_than": 100},
    "an endpoint": {"endpoint": F},
    "a rare endpoint": {"endpoint": G},
    "a status": {"status": "succeeded"},
    "a rare status": {"status": "running"},
    "a status that nothing has": {"status": "scheduled"},
    "a repository": {"repo": DATA},
    "a rare repository": {"repo": "model/me/rare"},
    "an older page of a filter": {"status": "succeeded", "older_than": 150},
    "a newer page of a filter": {"repo": DATA, "newer_than": 100},
    "an endpoint with a rare status": {"endpoint": F, "status": "running"},
    "a repository with a rare status": {"repo": DATA, "status": "running"},
    "an endpoint with a rare repository": {"endpoint": F, "repo": "model/me/rare"},
    "an endpoint with another's repository": {"endpoint": G, "repo": "model/me/rare"},
}


@pytest.mark.parametrize("name", LISTS)
def test_a_page_of_a_long_log_costs_what_one_of_a_short_log_costs(book: Book, name: str) -> None:
    fill(book, 200)
    short = work(book, lambda: book.page(**LISTS[name]))
    fill(book, 3000)
    assert work(book, lambda: book.page(**LISTS[name])) <= short * 2 + 50


@pytest.mark.parametrize("read", [history.endpoints, history.repos])
def test_what_there_is_to_choose_from_is_found_without_reading_the_log(book: Book, read: Any) -> None:
    fill(book, 200)
    short = work(book, lambda: read(book.database))
    fill(book, 3000)
    assert work(book, lambda: read(book.database)) <= short * 2


def plans(book: Book, read: Callable[[], object]) -> list[str]:
    """Explain the queries that are really made."""
    queries: list[str] = []
    book.database.set_trace_callback(queries.append)
    read()
    book.database.set_trace_callback(None)
    return [row["detail"] for query in queries for row in book.database.execute(f"EXPLAIN QUERY PLAN {query}")]


@pytest.mark.parametrize(
    ("wanted", "index"),
    [
        ({"endpoint": F}, "deliveries_by_endpoint"),
        ({"status": "succeeded"}, "deliveries_by_status"),
        ({"repo": DATA}, "deliveries_by_repo"),
        ({"status": "succeeded", "repo": DATA}, "deliveries_by_status"),
        ({"status": "succeeded", "endpoint": F}, "deliveries_by_status"),
        ({"status": "succeeded", "repo": DATA, "endpoint": F}, "deliveries_by_status"),
        ({"repo": DATA, "endpoint": F}, "deliveries_by_repo"),
    ],
)
def test_filters_have_an_index_with_all_their_columns_in_the_order_of_the_list(
    book: Book, wanted: dict[str, str], index: str
) -> None:
    fill(book, 200)
    columns = [row["name"] for row in book.database.execute(f"PRAGMA index_info({index})")]
    assert columns[0] in wanted
    assert columns[1] == "number"
    assert set(wanted) <= set(columns)
    for place in ({}, {"older_than": 150}, {"newer_than": 100}):
        for plan in plans(book, lambda place=place: book.page(**wanted, **place)):  # type: ignore[misc]
            assert plan.startswith(f"SEARCH deliveries USING INDEX {index} (")


def test_the_list_is_read_in_its_own_order(book: Book) -> None:
    fill(book, 200)
    assert set(plans(book, book.page)) == {
        "SCAN deliveries",  # backwards, and only as far as a page reaches
        "SEARCH deliveries USING INTEGER PRIMARY KEY (rowid>?)",
        "SEARCH deliveries USING INTEGER PRIMARY KEY (rowid<?)",
    }


def test_the_chart_and_the_links_between_deliveries_touch_indexes_alone(book: Book) -> None:
    fill(book, 200)
    chart = plans(book, lambda: history.per_hour(book.database, NOON.timestamp()))
    assert {plan for plan in chart if "deliveries" in plan} == {
        "SEARCH deliveries",  # the first and the last number
        "SEARCH deliveries USING INTEGER PRIMARY KEY (rowid>?)",  # one row each time, to find where the day begins
        "SEARCH deliveries USING COVERING INDEX deliveries_by_status (status=? AND number>?)",
    }
    links = plans(book, lambda: history.related(book.database, "0123456789abcdef"))
    assert [plan.split(" (")[0] for plan in links if "deliveries" in plan] == [
        "SEARCH deliveries USING INDEX replays",
        "SEARCH deliveries USING INDEX superseded",
    ]


# --- what there is to choose from


def test_endpoints_and_repositories_are_named_once_and_in_order(book: Book) -> None:
    assert (history.endpoints(book.database), history.repos(book.database)) == ([], [])
    for endpoint, repo in ((G, MODEL), (F, DATA), (F, None), (G, DATA)):
        book.add(2, endpoint=endpoint, repo=repo)
    assert history.endpoints(book.database) == [F, G]
    assert history.repos(book.database) == [DATA, MODEL]


def test_of_very_many_repositories_the_first_thousand_are_named(book: Book) -> None:
    names = [f"dataset/me/{number:04}" for number in range(1003)]
    for name in reversed(names):
        book.add(repo=name)
    assert history.repos(book.database) == names[:1000]


# --- deliveries per hour

SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)


def per_hour(book: Book, now: datetime = NOON) -> list[tuple[datetime, str, int]]:
    return history.per_hour(book.database, now.timestamp())


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
    assert sum(count for _, _, count in history.per_hour(book.database)) == 1


# --- one delivery


def test_a_delivery_is_found_with_those_that_repeat_it_and_those_it_replaced(book: Book) -> None:
    original, another = book.add(2)
    first, second = book.add(2, replay_of=original)
    early, late = book.add(2, status="superseded")
    with book.log.transaction():
        book.log._database.execute(
            "UPDATE deliveries SET superseded_by = ? WHERE id IN (?, ?)", (original, early, late)
        )
    related = history.related(book.database, original)
    assert (related.replays, related.superseded) == ([first, second], [early, late])
    assert history.related(book.database, another) == history.Related([], [], [])
    assert history.related(book.database, "unknown") == history.Related([], [], [])
    assert history.find(book.database, first).delivery.replay_of == original
    assert history.find(book.database, late).superseded_by == original


@pytest.mark.parametrize("id", ["", "0" * 16, "' OR 1=1 --", "%", "ä", "\ud800", "\x00", None, 1, 2**70, ["a"], {}])
def test_an_id_that_the_log_does_not_have_is_a_key_error(book: Book, id: Any) -> None:
    book.add()
    with pytest.raises(KeyError) as caught:
        history.find(book.database, id)
    assert caught.value.args == (id,)


# --- a log of the first version

VERSION_1 = """
PRAGMA application_id = 0x77686B73;
PRAGMA user_version = 1;
CREATE TABLE deliveries (
    number        INTEGER PRIMARY KEY,
    id            TEXT NOT NULL UNIQUE,
    endpoint      TEXT NOT NULL,
    repo          TEXT,
    received_at   REAL NOT NULL,
    query         BLOB NOT NULL,
    headers       TEXT NOT NULL,
    body          BLOB NOT NULL,
    replay_of     TEXT,
    status        TEXT NOT NULL,
    due_at        REAL,
    subject       TEXT,
    burst_at      REAL,
    superseded_by TEXT,
    attempts      INTEGER NOT NULL DEFAULT 0,
    failures      INTEGER NOT NULL DEFAULT 0,
    finished_at   REAL,
    answer_status INTEGER,
    answer        BLOB
);
CREATE INDEX deliveries_by_status ON deliveries (status, number);
CREATE UNIQUE INDEX one_per_subject ON deliveries (subject) WHERE status = 'scheduled' AND subject IS NOT NULL;
CREATE TABLE attempts (
    delivery   TEXT NOT NULL REFERENCES deliveries (id) ON DELETE CASCADE,
    attempt    INTEGER NOT NULL,
    started_at REAL NOT NULL,
    ended_at   REAL,
    error      TEXT,
    PRIMARY KEY (delivery, attempt)
) WITHOUT ROWID;
"""
DONE, WAITING = "00000000000000d1", "00000000000000d2"


def write_version_1(folder: Path) -> None:
    folder.mkdir()
    body = (FIXTURES / "repo.content-update.json").read_bytes()
    moment = datetime.now(timezone.utc).timestamp()
    database = sqlite3.connect(folder / "deliveries.db", isolation_level=None)
    database.executescript(VERSION_1)
    columns = (
        "id, endpoint, repo, received_at, query, headers, body, status, attempts, finished_at, answer_status, answer"
    )
    done = (DONE, F, "dataset/username/my-dataset", moment, b"", "[]", body, "succeeded", 1, moment, 200, b'{"a": 1}')
    waiting = (WAITING, F, "dataset/username/my-dataset", moment, b"", "[]", body, "queued", 0, None, None, None)
    marks = ", ".join("?" * len(done))
    database.executemany(f"INSERT INTO deliveries ({columns}) VALUES ({marks})", [done, waiting])
    database.execute("INSERT INTO attempts VALUES (?, 1, ?, ?, NULL)", (DONE, moment, moment))
    database.close()


def test_attempts_of_a_log_of_the_second_version_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_version_1(tmp_path / "log")
    with monkeypatch.context() as patch:
        patch.setattr(webhooks.log, "_MIGRATIONS", webhooks.log._MIGRATIONS[:2])
        DeliveryLog(tmp_path / "log").close()
    with contextlib.closing(sqlite3.connect(tmp_path / "log" / "deliveries.db")) as database, database:
        database.execute(
            "UPDATE deliveries SET status = 'running', attempts = 2, failures = 1 WHERE id = ?", (WAITING,)
        )
        database.execute("INSERT INTO attempts VALUES (?, 1, 10, 11, 'ValueError')", (WAITING,))
        database.execute("INSERT INTO attempts VALUES (?, 2, 12, NULL, NULL)", (WAITING,))
    log = DeliveryLog(tmp_path / "log")
    attempts = [(a.attempt, a.started_at.timestamp(), a.ended_at, a.error) for a in log.find(WAITING).attempts]
    assert attempts == [(1, 10, datetime.fromtimestamp(11, timezone.utc), "ValueError"), (2, 12, None, None)]
    with log.transaction():
        assert log.interrupt_running([DONE, WAITING]) == 1
    assert [attempt.error for attempt in log.find(WAITING).attempts] == ["ValueError", history.INTERRUPTED]
    assert [(attempt.attempt, attempt.error) for attempt in log.find(DONE).attempts] == [(1, None)]


def test_a_log_of_the_first_version_is_kept_and_listed(tmp_path: Path) -> None:
    write_version_1(tmp_path / "log")
    for _ in range(2):  # it is brought here once
        log = DeliveryLog(tmp_path / "log")
        with history.reading(log.path) as database:
            assert database.execute("PRAGMA user_version").fetchone()[0] == 3
            page = history.page(database, repo="dataset/username/my-dataset")
            assert [(row.id, row.event, row.status) for row in page.rows] == [
                (WAITING, None, "queued"),
                (DONE, None, "succeeded"),
            ]
            record = history.find(database, DONE)
            assert record.delivery.payload == WebhookPayload.model_validate(PAYLOAD)
            assert (record.answer, len(record.attempts)) == (b'{"a": 1}', 1)
            assert sum(count for _, _, count in history.per_hour(database)) == 2
        log.close()
    assert [path.name for path in (tmp_path / "log").glob("*damaged*")] == []


def test_a_log_of_the_first_version_goes_on_and_can_be_replayed(tmp_path: Path, run: Run) -> None:
    write_version_1(tmp_path / "log")
    process = run(
        f"""
        import sys
        from webhooks import Delivery, WebhooksServer

        server = WebhooksServer(data_dir={str(tmp_path / "log")!r})

        @server.add_webhook
        def f(payload, delivery: Delivery):  # print() would mix the lines of two handlers
            sys.stdout.write(f"handled {{delivery.id}} {{delivery.replay_of}} {{payload.repo.name}}\\n")

        server.launch(prevent_thread_lock=True)
        server.replay({DONE!r})
        server.launch()
        """
    )
    handled = {tuple(process.wait_for("handled").split()[2:]) for _ in range(2)}  # in either order
    assert handled == {("None", "username/my-dataset"), (DONE, "username/my-dataset")}
    with history.reading(tmp_path / "log" / "deliveries.db") as database:
        replay, waiting, done = history.page(database).rows
    assert (waiting.id, done.id) == (WAITING, DONE)
    assert (replay.replay_of, replay.event) == (DONE, "repo.content update")


# --- while it is written


@pytest.mark.parametrize(("shared_disk", "mode"), [(False, "wal"), (True, "delete")])
def test_readers_and_the_writer_do_not_disturb_each_other(tmp_path: Path, shared_disk: bool, mode: str) -> None:
    log = DeliveryLog(tmp_path, shared_disk=shared_disk)
    book = Book(log, log._database)
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
            seen = 0
            while not (complete := written.is_set()) or seen < 120:
                with history.reading(log.path) as database:
                    page = history.page(database)
                    number = page.rows[0].number if page.rows else 0
                    assert number % 2 == 0, "half a transaction was seen"
                    assert number >= seen, "what was there is gone"
                    seen = number
                    history.per_hour(database, NOON.timestamp())
                assert not complete or seen == 120
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=target) for target in (write, read, read)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert log._database.execute("PRAGMA journal_mode").fetchone()[0] == mode
    log.close()


def test_whoever_only_looks_cannot_write(book: Book) -> None:
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        book.database.execute("DELETE FROM deliveries")


# --- on the page


@pytest.mark.once
def test_the_list_is_live_again_after_the_way_to_older_pages_and_back(
    browser: Browser, tmp_path: Path, run: Run
) -> None:
    log = DeliveryLog(tmp_path / "log")
    newest_first = Book(log, log._database).add(60)[::-1]
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
