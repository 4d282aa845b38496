"""The life of a delivery, in this process: real threads, a real log, no network."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import json
import logging
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import HTTPException
from support.dispatching import BODY, WAIT, Desk, take
from support.payloads import load

import webhooks.dispatcher
import webhooks.inbox
from webhooks import Delivery, WebhookPayload, life
from webhooks.delivery import Arrival
from webhooks.dispatcher import Dispatcher, NotTaken
from webhooks.endpoints import Endpoint
from webhooks.history import FINISHED, INTERRUPTED, UNFINISHED, Record, find, reading
from webhooks.log import DeliveryLog


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path)
    yield desk
    if desk.dispatcher and desk.dispatcher._thread.is_alive():
        desk.stop(0)


@pytest.fixture
def no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(life, "backoff", lambda failures: 0.0)


def statuses(records: list[Record]) -> list[str]:
    return [record.status for record in records]


def commit(number: int) -> dict[str, Any]:
    body = load("repo.content-update")
    body["updatedRefs"][0]["newSha"] = body["repo"]["headSha"] = f"{number:040x}"
    return body


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.usefixtures("no_backoff")
def test_a_handler_that_fails_runs_again_until_it_succeeds(desk: Desk, is_async: bool) -> None:
    attempts, done = [], threading.Event()

    def flaky(delivery: Delivery) -> str:
        attempts.append(delivery.attempt)
        if len(attempts) < 3:
            raise ValueError("s3cret")
        done.set()
        return "third time lucky"

    async def async_flaky(delivery: Delivery) -> str:
        return flaky(delivery)

    ticket = desk.start().deliver(desk.add(async_flaky if is_async else flaky, max_attempts=4))
    outcome = ticket.outcome.result(WAIT)
    assert (outcome.status, outcome.answer.status_code) == ("scheduled", 202)
    assert done.wait(WAIT)
    (record,) = desk.records()
    assert attempts == [1, 2, 3]
    assert (record.status, record.failures, record.answer) == ("succeeded", 2, b'"third time lucky"')
    assert ["ValueError: ***" in (attempt.error or "") for attempt in record.attempts] == [True, True, False]


@pytest.mark.usefixtures("no_backoff")
def test_a_handler_fails_for_good_after_its_last_attempt(desk: Desk) -> None:
    attempts = []

    def broken(delivery: Delivery) -> None:
        attempts.append(delivery.attempt)
        raise HTTPException(507, "no room")

    endpoint = desk.add(broken, max_attempts=3)
    desk.start().deliver(endpoint)
    while desk.dispatcher.health()[1]["failed"] == 0:
        assert len(attempts) <= 3
    (record,) = desk.records()
    assert (record.status, record.failures, record.answer_status, attempts) == ("failed", 3, 507, [1, 2, 3])


def test_between_two_attempts_there_is_the_backoff_and_a_restart_does_not_shorten_it(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(life, "backoff", lambda failures: 1.0)
    ran: list[float] = []
    done = threading.Event()

    def flaky(delivery: Delivery) -> None:
        ran.append(time.time())
        if delivery.attempt == 1:
            raise ValueError
        done.set()

    endpoint = desk.add(flaky, max_attempts=2)
    desk.start().deliver(endpoint).outcome.result(WAIT)
    desk.stop()
    desk.start()
    assert done.wait(WAIT)
    assert ran[1] - ran[0] >= 1.0


def test_an_async_handler_is_cancelled_at_its_timeout(desk: Desk) -> None:
    cancelled = threading.Event()

    async def slow() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    outcome = desk.start().deliver(desk.add(slow, timeout=0.05)).outcome.result(WAIT)
    assert (outcome.status, outcome.answer.status_code) == ("failed", 500)
    assert cancelled.wait(WAIT)
    (record,) = desk.records()
    assert "TimeoutError: The handler took longer than its timeout of 0.05 seconds." in record.attempts[0].error


@pytest.mark.parametrize("is_async", [False, True])
def test_a_handler_that_blocks_past_its_timeout_fails_and_what_it_does_later_changes_nothing(
    desk: Desk, is_async: bool
) -> None:
    gate, returned = threading.Event(), threading.Event()

    def stuck() -> str:
        gate.wait(WAIT)
        returned.set()
        return "too late"

    async def async_stuck() -> str:
        return stuck()

    outcome = desk.start().deliver(desk.add(async_stuck if is_async else stuck, timeout=0.05)).outcome.result(WAIT)
    assert outcome.status == "failed"
    gate.set()
    assert returned.wait(WAIT)
    (record,) = desk.records()
    assert (record.status, len(record.attempts)) == ("failed", 1)


def test_fifty_updates_within_the_window_run_once_with_the_newest_payload(desk: Desk) -> None:
    ran: list[str] = []
    done = threading.Event()

    def train(payload: WebhookPayload) -> None:
        ran.append(payload.repo.head_sha)
        done.set()

    endpoint = desk.add(train, debounce=1)
    desk.start()
    tickets = [desk.deliver(endpoint, commit(number)) for number in range(50)]
    assert {ticket.recorded.result(WAIT) for ticket in tickets} == {"scheduled"}
    assert done.wait(WAIT)
    records = desk.records()
    assert statuses(records) == ["superseded"] * 49 + ["succeeded"]
    assert ran == [f"{49:040x}"]
    assert [record.superseded_by for record in records[:-1]] == [record.delivery.id for record in records[1:]]


def test_a_stream_that_never_pauses_still_runs(desk: Desk) -> None:
    ran: list[int] = []

    def train(payload: WebhookPayload) -> None:
        ran.append(int(payload.repo.head_sha, 16))

    endpoint = desk.add(train, debounce=0.1)
    desk.start()
    numbers = itertools.count()
    deadline = time.monotonic() + WAIT
    while len(ran) < 2:  # each event comes as soon as the one before it is recorded, well within the window
        assert time.monotonic() < deadline
        desk.deliver(endpoint, commit(next(numbers))).recorded.result(WAIT)
    assert 0 < ran[0] < ran[1] <= next(numbers)


def test_other_events_are_not_swallowed_by_a_burst(desk: Desk) -> None:
    ran: list[tuple[str, str]] = []
    everything = threading.Barrier(4)

    def note(payload: WebhookPayload) -> None:
        ran.append((payload.repo.name, payload.event.scope))
        everything.wait(WAIT)

    endpoint = desk.add(note, debounce=0.3)
    desk.start()
    other = load("repo.content-update")
    other["repo"]["name"] = "username/other"
    comment = {**load("discussion.comment-create"), "repo": BODY["repo"]}
    for body in (BODY, comment, other):
        desk.deliver(endpoint, body)
    everything.wait(WAIT)
    name = BODY["repo"]["name"]
    assert sorted(ran) == sorted(
        [(name, "repo.content"), (name, "discussion.comment"), ("username/other", "repo.content")]
    )


def test_a_newer_commit_replaces_an_older_one_though_there_is_no_room(desk: Desk) -> None:
    ran: list[str] = []
    done = threading.Event()

    def train(payload: WebhookPayload) -> None:
        ran.append(payload.repo.head_sha)
        done.set()

    endpoint, other = desk.add(train, debounce=0.5), desk.add(lambda: None, path="/other")
    desk.start(max_pending=1).deliver(endpoint, commit(1)).recorded.result(WAIT)
    with pytest.raises(NotTaken, match="Too many"):
        desk.deliver(other).recorded.result(WAIT)
    assert desk.deliver(endpoint, commit(2)).recorded.result(WAIT) == "scheduled"
    assert done.wait(WAIT)
    assert statuses(desk.records()) == ["superseded", "succeeded"]
    assert ran == [f"{2:040x}"]


def test_what_a_wrong_clock_has_written_does_not_wait_for_that_clock(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = threading.Event()
    endpoint = desk.add(lambda payload: done.set(), path="/train", debounce=0.5)
    forty_days_ahead = time.time() + 40 * 24 * 60 * 60
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: forty_days_ahead)
        desk.start().deliver(endpoint).recorded.result(WAIT)
        desk.stop()
    desk.start()
    assert done.wait(WAIT)


def test_a_burst_goes_on_across_a_restart(desk: Desk) -> None:
    ran: list[str] = []
    done = threading.Event()

    def train(payload: WebhookPayload) -> None:
        ran.append(payload.repo.head_sha)
        done.set()

    endpoint = desk.add(train, debounce=1)
    desk.start().deliver(endpoint, commit(1)).recorded.result(WAIT)
    desk.stop()
    desk.start().deliver(endpoint, commit(2)).recorded.result(WAIT)
    assert done.wait(WAIT)
    assert statuses(desk.records()) == ["superseded", "succeeded"]
    assert ran == [f"{2:040x}"]


def test_what_ran_when_the_process_ended_runs_again(desk: Desk) -> None:
    gate, attempts, done = threading.Event(), [], threading.Event()

    def slow(delivery: Delivery, payload: WebhookPayload) -> None:
        attempts.append(delivery.attempt)
        if delivery.attempt == 1:
            gate.wait(WAIT)
        done.set()

    ticket = desk.start().deliver(desk.add(slow))
    ticket.recorded.result(WAIT)
    assert desk.stop(grace=0.05) is False
    desk.start()
    assert done.wait(WAIT)
    (record,) = desk.records()
    gate.set()
    assert (record.status, record.delivery.id, attempts) == ("succeeded", ticket.delivery.id, [1, 2])
    assert (record.failures, [attempt.error for attempt in record.attempts]) == (0, [INTERRUPTED, None])


def test_a_handler_that_is_gone_fails_its_deliveries_with_a_reason(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(life, "backoff", lambda failures: 0.2)

    def renamed() -> None:
        raise ValueError

    endpoint = desk.add(renamed, max_attempts=2)
    desk.start().deliver(endpoint).outcome.result(WAIT)
    desk.stop()
    del desk.endpoints[endpoint.path]
    desk.start()
    deadline = time.monotonic() + WAIT
    while desk.dispatcher.health()[1]["failed"] == 0:
        assert time.monotonic() < deadline
    (record,) = desk.records()
    assert record.status == "failed"
    assert json.loads(record.answer)["error"] == "No handler is registered at /webhooks/renamed any more."


def test_a_handler_that_takes_a_payload_now_fails_deliveries_without_one(desk: Desk) -> None:
    endpoint = desk.add(lambda: "any", path="/f")
    desk.start().deliver(endpoint, b"hello").outcome.result(WAIT)
    desk.endpoints[endpoint.path] = Endpoint(lambda payload: None, "/f")
    (id,) = [record.delivery.id for record in desk.records()]
    desk.start().dispatcher.replay(id)
    deadline = time.monotonic() + WAIT
    while desk.dispatcher.health()[1]["failed"] == 0:
        assert time.monotonic() < deadline
    assert "takes a payload now" in json.loads(desk.records()[1].answer)["error"]


def test_a_replay_is_a_new_delivery_of_the_same_request(desk: Desk) -> None:
    seen: list[Any] = []
    twice = threading.Semaphore(0)

    async def look(payload: WebhookPayload, delivery: Delivery, request: Any) -> None:
        seen.append((payload, delivery.replay_of, await request.json(), request.headers["x-note"]))
        twice.release()

    ticket = desk.start().deliver(desk.add(look), headers=[(b"x-note", b"hello")])
    ticket.outcome.result(WAIT)
    new_id = desk.dispatcher.replay(ticket.delivery.id)
    assert twice.acquire(timeout=WAIT)
    assert twice.acquire(timeout=WAIT)
    first, second = desk.records()
    assert (second.delivery.id, second.delivery.replay_of, second.status) == (new_id, ticket.delivery.id, "succeeded")
    assert first.delivery.id == ticket.delivery.id
    payload = ticket.delivery.payload
    assert seen == [(payload, None, BODY, "hello"), (payload, ticket.delivery.id, BODY, "hello")]


def test_replaying_an_unknown_id_is_a_key_error_with_the_id(desk: Desk) -> None:
    with pytest.raises(KeyError, match="no-such-id"):
        desk.start().dispatcher.replay("no-such-id")


def test_a_stopping_dispatcher_takes_nothing_and_lets_running_handlers_end(desk: Desk) -> None:
    gate, started = threading.Event(), threading.Event()

    def slow() -> str:
        started.set()
        gate.wait(WAIT)
        return "in time"

    endpoint = desk.add(slow)
    ticket = desk.start().deliver(endpoint)
    assert started.wait(WAIT)
    stopper = threading.Thread(target=desk.stop)
    stopper.start()
    while not desk.dispatcher._stopping:
        pass
    assert desk.dispatcher.health()[0] is False
    with pytest.raises(NotTaken, match="stopping"):
        desk.deliver(endpoint).recorded.result(WAIT)
    gate.set()
    assert ticket.outcome.result(WAIT).status == "succeeded"
    stopper.join()
    log = DeliveryLog(desk.folder)
    assert log.find(ticket.delivery.id).answer == b'"in time"'
    log.close()


def test_a_full_disk_refuses_new_deliveries_and_loses_nothing(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("webhooks.dispatcher.RETRY_WRITE", 0.05)
    gate, started = threading.Event(), threading.Event()

    def slow() -> str:
        started.set()
        gate.wait(WAIT)
        return "x" * 50_000

    quick = desk.add(lambda: None, path="/quick")
    ticket = desk.start().deliver(desk.add(slow))
    assert started.wait(WAIT)
    database = desk.log._database
    limit = database.execute("PRAGMA max_page_count").fetchone()[0]
    pages = database.execute("PRAGMA page_count").fetchone()[0]
    database.execute(f"PRAGMA max_page_count = {pages}")  # SQLite's own "database or disk is full"
    refusals = [desk.deliver(quick, b"x" * 100_000).recorded.exception(WAIT) for _ in range(20)]
    assert isinstance(refusals[-1], NotTaken)
    assert "cannot be written" in str(refusals[-1])
    assert desk.dispatcher.health()[0] is False
    gate.set()
    assert not ticket.outcome.done()
    database.execute(f"PRAGMA max_page_count = {limit}")
    while not desk.dispatcher.health()[0]:
        assert desk.dispatcher._thread.is_alive()
    assert ticket.outcome.result(WAIT).status == "succeeded"
    assert desk.deliver(quick).outcome.result(WAIT).status == "succeeded"
    assert set(statuses(desk.records())) == {"succeeded"}


def test_a_thousand_at_once_are_all_taken(desk: Desk) -> None:
    ran: set[str] = set()

    async def handler(delivery: Delivery) -> None:
        ran.add(delivery.id)

    endpoint = desk.add(handler)
    desk.start()
    tickets = [desk.deliver(endpoint) for _ in range(1000)]
    assert [ticket.outcome.result(WAIT).status for ticket in tickets] == ["succeeded"] * 1000
    assert ran == {ticket.delivery.id for ticket in tickets} == {record.delivery.id for record in desk.records()}


def test_a_debounced_delivery_that_fails_is_not_in_the_way_of_the_next_one(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(life, "backoff", lambda failures: 0.05)
    gate, running, done = threading.Event(), threading.Event(), threading.Semaphore(0)

    def train(delivery: Delivery, payload: WebhookPayload) -> None:
        if payload.repo.head_sha == f"{1:040x}" and delivery.attempt == 1:
            running.set()
            gate.wait(WAIT)
            raise ValueError
        done.release()

    endpoint = desk.add(train, max_attempts=2, debounce=0.3)
    desk.start().deliver(endpoint, commit(1))
    assert running.wait(WAIT)
    desk.deliver(endpoint, commit(2)).recorded.result(WAIT)
    gate.set()
    assert done.acquire(timeout=WAIT)
    assert done.acquire(timeout=WAIT)
    assert desk.dispatcher.health()[0] is True
    assert statuses(desk.records()) == ["succeeded", "succeeded"]


def test_who_comes_after_the_end_is_told_so(desk: Desk) -> None:
    endpoint = desk.add(lambda: None, path="/f")
    desk.start().stop()
    with pytest.raises(NotTaken, match="stopping"):
        desk.deliver(endpoint).recorded.result(WAIT)
    with pytest.raises(NotTaken, match="stopping"):
        desk.dispatcher.replay("any")


def test_a_success_is_told_at_once_and_written_down_at_the_latest_when_the_server_stops(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks.inbox, "LINGER", float(WAIT))
    ticket = desk.start().deliver(desk.add(lambda: "done", path="/f"))
    assert ticket.outcome.result(WAIT).answer.body == b'"done"'
    with reading(desk.log.path) as database:
        assert find(database, ticket.delivery.id).status == "running"
    (record,) = desk.records()
    assert (record.status, record.answer) == ("succeeded", b'"done"')


@pytest.mark.parametrize("is_async", [False, True])
def test_who_was_answered_has_room_again(desk: Desk, is_async: bool) -> None:
    async def quick() -> None: ...

    endpoint = desk.add(quick if is_async else lambda: None, path="/f")
    desk.start(max_pending=1)
    for _ in range(200):
        assert desk.deliver(endpoint).outcome.result(WAIT).status == "succeeded"


def test_a_full_log_is_pruned_two_hundred_at_a_time(desk: Desk) -> None:
    endpoint = desk.add(lambda: None, path="/f")
    desk.start()
    desk.log.keep = 20
    for _ in range(450):
        desk.deliver(endpoint).outcome.result(WAIT)
    desk.stop()
    assert 20 <= desk.dispatcher.health()[1]["succeeded"] < 220


@pytest.mark.usefixtures("prunes_at_once")
def test_the_counts_are_those_of_the_log_also_after_pruning_and_a_restart(desk: Desk) -> None:
    def handler(payload: Any) -> None:
        if payload.repo.name.endswith("broken"):
            raise ValueError

    endpoint = desk.add(handler)
    desk.start()
    desk.log.keep = 5
    broken = load("repo.content-update")
    broken["repo"]["name"] = "username/broken"
    for body in (BODY, broken) * 10:
        desk.deliver(endpoint, body).outcome.result(WAIT)
    desk.stop()
    _, counts = desk.dispatcher.health()
    desk.start()
    assert desk.dispatcher.health()[1] == counts
    assert counts["succeeded"] + counts["failed"] == 5
    assert len(desk.records()) == 5


class Falsy(Exception):
    def __len__(self) -> int:
        return 0


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


@pytest.mark.parametrize(
    "error",
    [
        Falsy(),
        Unspeakable(),
        SyntaxError("bad", ("f", 1, "x", "abc")),
        HTTPException("404", "a status that is no number"),
        HTTPException(404, "a header that cannot be sent", {"X-Title": "a\r\nSet-Cookie: b"}),
        ValueError("y" * 5_000_000),
    ],
)
def test_no_exception_keeps_a_delivery_from_its_end(desk: Desk, error: Exception) -> None:
    def handler() -> None:
        raise error

    ticket = desk.start().deliver(desk.add(handler))
    assert ticket.outcome.result(WAIT).answer.status_code == 500
    (record,) = desk.records()
    assert (record.status, record.failures) == ("failed", 1)
    assert 0 < len(record.attempts[0].error) < 200_000


def test_an_exception_that_is_slow_to_tell_delays_nobody(desk: Desk) -> None:
    gate, telling = threading.Event(), threading.Event()

    class Slow(Exception):
        def __str__(self) -> str:
            telling.set()
            gate.wait(WAIT)
            return "at last"

    def handler() -> None:
        raise Slow

    slow, quick = desk.add(handler), desk.add(lambda: None, path="/quick")
    ticket = desk.start().deliver(slow)
    assert telling.wait(WAIT)
    assert desk.deliver(quick).outcome.result(WAIT).status == "succeeded"
    gate.set()
    assert ticket.outcome.result(WAIT).status == "failed"


def test_what_a_program_hangs_into_its_logging_cannot_stop_the_bookkeeping(desk: Desk) -> None:
    class Pager(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise ConnectionError

    def handler() -> None:
        raise ValueError

    pager = Pager()
    logging.getLogger("webhooks").addHandler(pager)
    try:
        broken, quick = desk.add(handler), desk.add(lambda: None, path="/quick")
        assert desk.start().deliver(broken).outcome.result(WAIT).status == "failed"
        assert desk.deliver(quick).outcome.result(WAIT).status == "succeeded"
        assert desk.dispatcher.health()[0] is True
    finally:
        logging.getLogger("webhooks").removeHandler(pager)


def test_what_arrives_before_the_recovery_is_not_taken_for_left_over(desk: Desk) -> None:
    gate, attempts = threading.Event(), []

    def slow(delivery: Delivery) -> None:
        attempts.append(delivery.attempt)
        gate.wait(WAIT)

    endpoint = desk.add(slow)
    desk.log = DeliveryLog(desk.folder)
    desk.dispatcher = Dispatcher({endpoint.path: endpoint}, desk.log, 1000, hide=str)
    desk.dispatcher.start()
    ticket = desk.deliver(endpoint)
    ticket.recorded.result(WAIT)
    desk.dispatcher.recover()
    desk.deliver(endpoint).recorded.result(WAIT)  # recorded after the recovery, as steps are taken in order
    gate.set()
    assert ticket.outcome.result(WAIT).status == "succeeded"
    assert statuses(desk.records()) == ["succeeded", "succeeded"]
    assert attempts == [1, 1]


def test_a_log_that_another_program_locks_holds_up_no_one_for_long(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webhooks.log.LOCKED_FOR", 0.1)
    monkeypatch.setattr("webhooks.dispatcher.RETRY_WRITE", 0.05)
    endpoint = desk.add(lambda: None, path="/f")
    desk.start()
    locker = sqlite3.connect(desk.folder / "deliveries.db", isolation_level=None)
    locker.execute("BEGIN IMMEDIATE")
    refusals = [desk.deliver(endpoint).recorded for _ in range(20)]
    assert all(isinstance(refusal.exception(WAIT), NotTaken) for refusal in refusals)
    locker.execute("ROLLBACK")
    locker.close()
    while not desk.dispatcher.health()[0]:
        assert desk.dispatcher._thread.is_alive()
    assert desk.deliver(endpoint).outcome.result(WAIT).status == "succeeded"


def test_a_delivery_that_cannot_be_read_any_more_fails_alone(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(life, "backoff", lambda failures: 0.2)

    def flaky(delivery: Delivery) -> None:
        if delivery.attempt == 1:
            raise ValueError

    endpoint = desk.add(flaky, max_attempts=2)
    desk.start()
    for ticket in [desk.deliver(endpoint) for _ in range(2)]:
        ticket.outcome.result(WAIT)
    desk.stop()
    with contextlib.closing(sqlite3.connect(desk.folder / "deliveries.db", isolation_level=None)) as database:
        database.execute("UPDATE deliveries SET headers = 'no JSON' WHERE number = 1")
    desk.start()
    deadline = time.monotonic() + WAIT
    while desk.dispatcher.health()[1]["succeeded"] + desk.dispatcher.health()[1]["failed"] < 2:
        assert time.monotonic() < deadline
    assert desk.dispatcher.health() == (True, {**dict.fromkeys(UNFINISHED + FINISHED, 0), "failed": 1, "succeeded": 1})


def test_a_long_timeout_does_not_keep_what_has_ended(desk: Desk) -> None:
    endpoint = desk.add(lambda: None, path="/f", timeout=3600)
    desk.start()
    arrivals = []
    for _ in range(3):
        arrival = Arrival(endpoint.path, b"", (), b"x" * 1000)
        arrivals.append(weakref.ref(arrival))
        take(desk.dispatcher, endpoint, Delivery(endpoint.path, None), arrival).outcome.result(WAIT)
        del arrival
    deadline = time.monotonic() + WAIT
    while any(reference() for reference in arrivals):
        assert time.monotonic() < deadline
        desk.deliver(endpoint, b"one more, so that the one before is let go").outcome.result(WAIT)
        gc.collect()


def test_neither_the_query_nor_the_answer_is_kept_with_a_secret(desk: Desk) -> None:
    ticket = desk.start().deliver(desk.add(lambda: "the token is s3cret", path="/f"))
    assert ticket.outcome.result(WAIT).answer.body == b'"the token is s3cret"'
    assert desk.records()[0].answer == b'"the token is ***"'


@pytest.mark.parametrize("place", [64 * 1024 - 3, 64 * 1024 - 6, 64 * 1024, 64 * 1024 + 8 * 1024 - 3])
def test_no_secret_is_cut_in_two_where_a_long_answer_is_cut(desk: Desk, place: int) -> None:
    long = "s3cret" * 10 + "x" * (place - 60) + "s3cret" + "y" * 200_000
    desk.start().deliver(desk.add(lambda: long, path="/f")).outcome.result(WAIT)
    kept = desk.records()[0].answer.decode()
    assert 0 < len(kept) <= 64 * 1024
    assert "s3" not in kept


@pytest.mark.parametrize("handler_returns", [True, False])
def test_no_more_of_what_is_long_is_searched_for_secrets_than_is_kept(tmp_path: Path, handler_returns: bool) -> None:
    searched: list[int] = []

    def hide(text: str) -> str:
        searched.append(len(text))
        return text

    def handler() -> str:
        if handler_returns:
            return "x" * 5_000_000
        raise ValueError("x" * 5_000_000)

    endpoint = Endpoint(handler)
    dispatcher = Dispatcher({endpoint.path: endpoint}, DeliveryLog(tmp_path), 1000, hide=hide)
    dispatcher.start()
    arrival = Arrival(endpoint.path, b"", (), b"")
    take(dispatcher, endpoint, Delivery(endpoint.path, None), arrival).outcome.result(WAIT)
    dispatcher.stop(WAIT)
    assert 0 < max(searched) < 200_000


def test_a_handler_that_goes_elsewhere_and_a_log_that_is_locked_for_a_moment_are_not_the_end(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.setattr("webhooks.log.LOCKED_FOR", 0.1)
    monkeypatch.setattr("webhooks.dispatcher.RETRY_WRITE", 0.05)
    monkeypatch.chdir(tmp_path)
    desk.folder = Path("log")
    endpoint = desk.add(lambda: os.chdir(tmp_path_factory.mktemp("elsewhere")), path="/f")
    desk.start().deliver(endpoint).outcome.result(WAIT)
    with contextlib.closing(sqlite3.connect(tmp_path / "log" / "deliveries.db", isolation_level=None)) as locker:
        locker.execute("BEGIN IMMEDIATE")
        assert isinstance(desk.deliver(endpoint).recorded.exception(WAIT), NotTaken)
        locker.execute("ROLLBACK")
    deadline = time.monotonic() + WAIT
    while not desk.dispatcher.health()[0]:
        assert time.monotonic() < deadline
    assert desk.deliver(endpoint).outcome.result(WAIT).status == "succeeded"
