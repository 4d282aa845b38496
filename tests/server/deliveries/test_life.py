"""The life of a delivery, in this process: real threads, a real log, no network."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import json
import os
import sqlite3
import threading
import time
import weakref
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from fastapi import HTTPException, Request
from support.asgi import wait_until_written
from support.disks import full_disk
from support.dispatching import BODY, WAIT, Dashboard, statuses, wait_until
from support.payloads import load

from webhooks import Delivery, WebhookPayload
from webhooks.deliveries import timing
from webhooks.deliveries.engine import NotTakenError
from webhooks.deliveries.log import INTERRUPTED, STOPPED
from webhooks.endpoints import Endpoint

VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("variable")


def body_of(answer: Any) -> Any:
    return json.loads(answer.body)


def commit(number: int) -> dict[str, Any]:
    body = load("repo.content-update")
    body["updatedRefs"][0]["newSha"] = body["repo"]["headSha"] = f"{number:040x}"
    return body


# Attempts


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.usefixtures("no_backoff")
def test_a_handler_that_fails_runs_again_until_it_succeeds(harness: EngineHarness, is_async: bool) -> None:
    attempts = []

    def flaky(delivery: Delivery) -> str:
        attempts.append(delivery.attempt)
        if len(attempts) < 3:
            raise ValueError("s3cret")
        return "third time lucky"

    async def async_flaky(delivery: Delivery) -> str:
        return flaky(delivery)

    answer = harness.start().deliver(harness.add(async_flaky if is_async else flaky, max_attempts=4))
    assert (answer.status_code, body_of(answer)["status"]) == (202, "scheduled")
    harness.wait_for("succeeded")
    (record,) = harness.records()
    assert attempts == [1, 2, 3]
    assert (record.status, record.failures, record.answer) == ("succeeded", 2, b'"third time lucky"')
    assert ["ValueError: ***" in (attempt.error or "") for attempt in record.attempts] == [True, True, False]


@pytest.mark.usefixtures("no_backoff")
def test_a_handler_fails_for_good_after_its_last_attempt(harness: EngineHarness) -> None:
    attempts = []

    def broken(delivery: Delivery) -> None:
        attempts.append(delivery.attempt)
        raise HTTPException(507, "no room")

    harness.start().deliver(harness.add(broken, max_attempts=3))
    harness.wait_for("failed")
    (record,) = harness.records()
    assert (record.status, record.failures, record.answer_status, attempts) == ("failed", 3, 507, [1, 2, 3])


def test_between_two_attempts_there_is_the_backoff_and_a_restart_does_not_shorten_it(
    harness: EngineHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "backoff", lambda failures: 1.0)
    ran: list[float] = []

    def flaky(delivery: Delivery) -> None:
        ran.append(time.time())
        if delivery.attempt == 1:
            raise ValueError

    harness.start().deliver(harness.add(flaky, max_attempts=2))
    harness.stop()
    harness.start().wait_for("succeeded")
    assert ran[1] - ran[0] >= 1.0


def test_an_async_handler_is_cancelled_at_its_timeout(harness: EngineHarness) -> None:
    cancelled = threading.Event()

    async def slow() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    assert harness.start().deliver(harness.add(slow, timeout=0.05)).status_code == 500
    assert cancelled.wait(WAIT)
    (record,) = harness.records()
    assert "TimeoutError: The handler took longer than its timeout of 0.05 seconds." in record.attempts[0].error


@pytest.mark.parametrize("is_async", [False, True])
def test_a_handler_that_blocks_past_its_timeout_fails_and_what_it_does_later_changes_nothing(
    harness: EngineHarness, is_async: bool
) -> None:
    gate, returned = threading.Event(), threading.Event()

    def stuck() -> str:
        gate.wait(WAIT)
        returned.set()
        return "too late"

    async def async_stuck() -> str:
        return stuck()

    assert harness.start().deliver(harness.add(async_stuck if is_async else stuck, timeout=0.05)).status_code == 500
    gate.set()
    assert returned.wait(WAIT)
    (record,) = harness.records()
    assert (record.status, len(record.attempts)) == ("failed", 1)


class Falsy(Exception):
    def __len__(self) -> int:
        return 0


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


class Leaving(HTTPException):
    def __init__(self) -> None:
        self.status_code = 400

    @property
    def detail(self) -> str:
        raise SystemExit


@pytest.mark.parametrize(
    "error",
    [
        Falsy(),
        Leaving(),
        Unspeakable(),
        SyntaxError("bad", ("f", 1, "x", "abc")),
        HTTPException("404", "a status that is no number"),
        HTTPException(404, "a header that cannot be sent", {"X-Title": "a\r\nSet-Cookie: b"}),
        ValueError("y" * 5_000_000),
    ],
)
def test_no_exception_keeps_a_delivery_from_its_end(harness: EngineHarness, error: Exception) -> None:
    def handler() -> None:
        raise error

    assert harness.start().deliver(harness.add(handler)).status_code == 500
    (record,) = harness.records()
    assert (record.status, record.failures) == ("failed", 1)
    assert 0 < len(record.attempts[0].error) < 200_000


def test_an_exception_that_is_slow_to_tell_delays_nobody(harness: EngineHarness) -> None:
    gate, telling = threading.Event(), threading.Event()

    class Slow(Exception):
        def __str__(self) -> str:
            telling.set()
            gate.wait(WAIT)
            return "at last"

    def handler() -> None:
        raise Slow

    slow, quick = harness.add(handler), harness.add(lambda: None, path="/quick")
    answer = harness.start().send(slow)
    assert telling.wait(WAIT)
    assert harness.deliver(quick).status_code == 200
    gate.set()
    assert answer.result(WAIT).status_code == 500


def test_a_hundred_def_handlers_share_threads(harness: EngineHarness) -> None:
    """A thread for each would cost more than the handler does."""
    threads: set[int] = set()
    endpoint = harness.add(lambda: threads.add(threading.get_ident()), path="/f")
    harness.start()
    for _ in range(100):
        assert harness.deliver(endpoint).status_code == 200
    assert len(threads) < 5


def test_no_handler_finds_what_another_one_has_set_for_itself(harness: EngineHarness) -> None:
    found: list[str] = []

    def handler() -> None:
        found.append(VARIABLE.get("nothing"))
        VARIABLE.set("something")

    endpoint = harness.add(handler)
    harness.start()
    for _ in range(5):
        harness.deliver(endpoint)
    assert found == ["nothing"] * 5


# Bursts


def test_fifty_updates_within_the_window_run_once_with_the_newest_payload(harness: EngineHarness) -> None:
    ran: list[str] = []

    def train(payload: WebhookPayload) -> None:
        ran.append(payload.repo.head_sha)

    endpoint = harness.add(train, debounce=1)
    harness.start()
    answers = [harness.deliver(endpoint, commit(number)) for number in range(50)]
    assert {(answer.status_code, body_of(answer)["status"]) for answer in answers} == {(202, "scheduled")}
    harness.wait_for("succeeded")
    records = harness.records()
    assert statuses(records) == ["superseded"] * 49 + ["succeeded"]
    assert ran == [f"{49:040x}"]
    assert [record.superseded_by for record in records[:-1]] == [record.delivery.id for record in records[1:]]


def test_a_stream_that_never_pauses_still_runs(harness: EngineHarness) -> None:
    ran: list[int] = []

    def train(payload: WebhookPayload) -> None:
        ran.append(int(payload.repo.head_sha, 16))

    endpoint = harness.add(train, debounce=0.1)
    harness.start()
    sent = 0
    deadline = time.monotonic() + WAIT
    while len(ran) < 2:  # each event comes as soon as the one before it is recorded, well within the window
        assert time.monotonic() < deadline
        harness.deliver(endpoint, commit(sent))
        sent += 1
    assert 0 < ran[0] < ran[1] < sent


def test_other_events_are_not_swallowed_by_a_burst(harness: EngineHarness) -> None:
    ran: list[tuple[str, str]] = []

    def note(payload: WebhookPayload) -> None:
        ran.append((payload.repo.name, payload.event.scope))

    endpoint = harness.add(note, debounce=0.3)
    harness.start()
    other = load("repo.content-update")
    other["repo"]["name"] = "username/other"
    comment = {**load("discussion.comment-create"), "repo": BODY["repo"]}
    for body in (BODY, comment, other):
        harness.deliver(endpoint, body)
    harness.wait_for("succeeded", 3)
    name = BODY["repo"]["name"]
    assert sorted(ran) == sorted(
        [(name, "repo.content"), (name, "discussion.comment"), ("username/other", "repo.content")]
    )


def test_a_burst_goes_on_across_a_restart(harness: EngineHarness) -> None:
    ran: list[str] = []

    def train(payload: WebhookPayload) -> None:
        ran.append(payload.repo.head_sha)

    endpoint = harness.add(train, debounce=1)
    harness.start().deliver(endpoint, commit(1))
    harness.stop()
    harness.start().deliver(endpoint, commit(2))
    harness.wait_for("succeeded")
    assert statuses(harness.records()) == ["superseded", "succeeded"]
    assert ran == [f"{2:040x}"]


def test_a_debounced_delivery_that_fails_is_not_in_the_way_of_the_next_one(
    harness: EngineHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "backoff", lambda failures: 0.05)
    gate, running = threading.Event(), threading.Event()

    def train(delivery: Delivery, payload: WebhookPayload) -> None:
        if payload.repo.head_sha == f"{1:040x}" and delivery.attempt == 1:
            running.set()
            gate.wait(WAIT)
            raise ValueError

    endpoint = harness.add(train, max_attempts=2, debounce=0.3)
    harness.start().deliver(endpoint, commit(1))
    assert running.wait(WAIT)
    harness.deliver(endpoint, commit(2))
    gate.set()
    harness.wait_for("succeeded", 2)
    assert statuses(harness.records()) == ["succeeded", "succeeded"]


def test_a_newer_commit_replaces_an_older_one_though_there_is_no_room(harness: EngineHarness) -> None:
    ran: list[str] = []

    def train(payload: WebhookPayload) -> None:
        ran.append(payload.repo.head_sha)

    train_at, other = harness.add(train, debounce=0.5), harness.add(lambda: None, path="/other")
    harness.start(max_pending=1).deliver(train_at, commit(1))
    with pytest.raises(NotTakenError, match="Too many"):
        harness.deliver(other)
    assert harness.deliver(train_at, commit(2)).status_code == 202
    harness.wait_for("succeeded")
    assert ran == [f"{2:040x}"]


# Restarts


def test_what_ran_when_the_server_was_stopped_runs_again(harness: EngineHarness) -> None:
    gate, attempts = threading.Event(), []

    def slow(delivery: Delivery, payload: WebhookPayload) -> None:
        attempts.append(delivery.attempt)
        if delivery.attempt == 1:
            gate.wait(WAIT)

    harness.start().record(harness.add(slow))
    assert harness.stop(grace=0.05) is False
    harness.start().wait_for("succeeded")
    (record,) = harness.records()
    gate.set()
    assert (record.status, attempts) == ("succeeded", [1, 2])
    assert (record.failures, [attempt.error for attempt in record.attempts]) == (0, [STOPPED, None])


def test_a_handler_that_is_gone_fails_its_deliveries_with_a_reason(
    harness: EngineHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "backoff", lambda failures: 0.2)

    def renamed() -> None:
        raise ValueError

    endpoint = harness.add(renamed, max_attempts=2)
    harness.start().deliver(endpoint)
    harness.stop()
    del harness.endpoints[endpoint.path]
    harness.start().wait_for("failed")
    (record,) = harness.records()
    assert json.loads(record.answer)["error"] == "No handler is registered at /webhooks/renamed any more."


def test_a_handler_that_takes_a_payload_now_fails_deliveries_without_one(harness: EngineHarness) -> None:
    endpoint = harness.add(lambda: "any", path="/f")
    harness.start().deliver(endpoint, b"hello")
    harness.endpoints[endpoint.path] = Endpoint(lambda payload: None, "/f")
    (id,) = [record.delivery.id for record in harness.records()]
    harness.start().engine.replay(id)
    harness.wait_for("failed")
    assert "takes a payload now" in json.loads(harness.records()[1].answer)["error"]


def test_what_arrives_before_the_recovery_is_not_taken_for_left_over(harness: EngineHarness) -> None:
    gate, attempts = threading.Event(), []

    def slow(delivery: Delivery) -> None:
        attempts.append(delivery.attempt)
        gate.wait(WAIT)

    endpoint = harness.add(slow)
    first = harness.start(recover=False).send(endpoint)
    harness.record(endpoint)
    harness.engine.recover()
    harness.record(endpoint)
    gate.set()
    assert first.result(WAIT).status_code == 200
    harness.wait_for("succeeded", 3)
    assert attempts == [1, 1, 1]


@pytest.mark.parametrize("headers", ["'no JSON'", "'[[1, 2]]'", "CAST(x'fffe' AS TEXT)"])
def test_a_delivery_that_cannot_be_read_any_more_fails_alone(
    harness: EngineHarness, monkeypatch: pytest.MonkeyPatch, headers: str
) -> None:
    monkeypatch.setattr(timing, "backoff", lambda failures: 3600)

    def flaky(delivery: Delivery) -> None:
        if delivery.attempt == 1:
            raise ValueError

    endpoint = harness.add(flaky, max_attempts=2)
    harness.start()
    for _ in range(2):
        harness.deliver(endpoint)
    harness.stop()
    with closing(sqlite3.connect(harness.folder / "deliveries.db", isolation_level=None)) as database:
        database.execute("UPDATE deliveries SET due_at = 0")
        database.execute(
            f"UPDATE deliveries SET headers = {headers} WHERE number = (SELECT min(number) FROM deliveries)"
        )
    harness.start().wait_for("succeeded")
    harness.wait_for("failed")
    assert harness.engine.health()[0] is True


def test_what_a_wrong_clock_has_written_does_not_wait_for_that_clock(
    harness: EngineHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forty days ahead, then right again: a retry waits five minutes at most, a burst as long as its window."""
    ran: list[str] = []
    train = harness.add(lambda payload: ran.append(payload.repo.head_sha), path="/train", debounce=0.3)
    real = time.time
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: real() + 40 * 24 * 60 * 60)
        harness.start().deliver(train, commit(1))
        harness.stop()
    harness.start().wait_for("succeeded")
    assert ran == [f"{1:040x}"]


def test_ids_grow_though_the_clock_was_set_back(harness: EngineHarness) -> None:
    endpoint = harness.add(lambda: None, path="/f")
    harness.start().deliver(endpoint)
    harness.stop()
    tomorrow = time.time_ns() + 24 * 60 * 60 * 10**9
    with closing(sqlite3.connect(harness.folder / "deliveries.db", isolation_level=None)) as database:
        database.execute("UPDATE deliveries SET number = ?", (tomorrow,))
    harness.start().deliver(endpoint)
    assert int(harness.records()[-1].delivery.id, 16) > tomorrow


def test_a_handler_during_which_the_process_ends_five_times_fails_for_good(
    harness: EngineHarness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    waits: list[int] = []
    monkeypatch.setattr(timing, "backoff", lambda interruptions: waits.append(interruptions) or 0.0)
    ran, gate = threading.Semaphore(0), threading.Event()

    def deadly() -> None:
        ran.release()
        gate.wait(WAIT)

    harness.start().record(harness.add(deadly))
    for _ in range(5):
        assert ran.acquire(timeout=WAIT)
        harness.folder = harness.copied(harness.folder)  # what was on the disk when the lights went out
        killed, harness.engine = harness.engine, None
        harness.start()
        killed.stop(0)
    harness.wait_for("failed")
    gate.set()
    assert wait_until_written(WAIT)
    assert "The process has ended 5 times while this delivery's handler ran." in caplog.text
    (record,) = harness.records()
    assert [attempt.error for attempt in record.attempts] == [INTERRUPTED] * 5
    assert waits == [1, 2, 3, 4]


def test_a_start_that_fails_before_the_recovery_hides_no_interruption(harness: EngineHarness) -> None:
    gate, ran = threading.Event(), threading.Semaphore(0)

    def slow() -> None:
        ran.release()
        gate.wait(WAIT)

    harness.start().record(harness.add(slow))
    assert ran.acquire(timeout=WAIT)
    harness.folder, killed = harness.copied(harness.folder), harness.engine
    harness.start(recover=False).stop(0)  # as when the port is in use
    harness.start()
    assert ran.acquire(timeout=WAIT)
    gate.set()
    harness.wait_for("succeeded")
    killed.stop(0)
    (record,) = harness.records()
    assert [attempt.error for attempt in record.attempts] == [INTERRUPTED, None]


# Replays


def test_a_replay_is_a_new_delivery_of_the_same_request(harness: EngineHarness) -> None:
    seen: list[Any] = []

    async def look(payload: WebhookPayload, delivery: Delivery, request: Request) -> None:
        seen.append((payload, delivery.replay_of, await request.json(), request.headers["x-note"]))

    harness.start().deliver(harness.add(look), headers=[(b"x-note", b"hello")])
    (record,) = harness.records()
    id = record.delivery.id
    new_id = harness.start().engine.replay(id)
    harness.wait_for("succeeded", 2)
    first, second = harness.records()
    assert (second.delivery.id, second.delivery.replay_of, second.status) == (new_id, id, "succeeded")
    assert first.delivery.id == id
    payload = WebhookPayload.model_validate(BODY)
    assert seen == [(payload, None, BODY, "hello"), (payload, id, BODY, "hello")]


@pytest.mark.parametrize("id", ["no-such-id", "0123456789abcdef", "", "0x12", " 1"])
def test_replaying_an_unknown_id_is_a_key_error_with_the_id(harness: EngineHarness, id: str) -> None:
    with pytest.raises(KeyError, match=f"^'{id}'$"):
        harness.start().engine.replay(id)


def test_what_a_handler_puts_into_its_jobs_harms_nobody(harness: EngineHarness) -> None:
    endpoint = harness.add(lambda delivery: delivery.jobs.append("no Job"), path="/f")
    harness.start()
    answers = [harness.send(each) for each in (endpoint, harness.add(lambda: None, path="/other"))]
    assert [answer.result(WAIT).status_code for answer in answers] == [200, 200]
    harness.wait_for("succeeded", 2)


def test_a_test_that_lets_time_pass_does_so_for_its_own_delivery_alone(
    harness: EngineHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "backoff", lambda failures: 3600.0)

    def flaky(delivery: Delivery) -> None:
        if delivery.attempt == 1:
            raise ValueError

    endpoint = harness.add(flaky, max_attempts=2)
    harness.start().engine.hasten(harness.record(endpoint), WAIT)
    harness.wait_for("succeeded")
    assert harness.deliver(endpoint).status_code == 202
    assert harness.counts()["scheduled"] == 1


# Load


def test_a_thousand_at_once_are_all_taken(harness: EngineHarness) -> None:
    ran: set[str] = set()

    async def handler(delivery: Delivery) -> None:
        ran.add(delivery.id)

    endpoint = harness.add(handler)
    harness.start()
    answers = [harness.send(endpoint) for _ in range(1000)]
    assert [answer.result(WAIT).status_code for answer in answers] == [200] * 1000
    assert ran == {record.delivery.id for record in harness.records()}
    assert len(ran) == 1000


@pytest.mark.parametrize("is_async", [False, True])
def test_who_was_answered_has_room_again(harness: EngineHarness, is_async: bool) -> None:
    async def quick() -> None: ...

    endpoint = harness.add(quick if is_async else lambda: None, path="/f")
    harness.start(max_pending=1)
    for _ in range(200):
        assert harness.deliver(endpoint).status_code == 200


@pytest.mark.usefixtures("prunes_at_once")
def test_the_counts_are_those_of_the_log_also_after_pruning_and_a_restart(harness: EngineHarness) -> None:
    def handler(payload: WebhookPayload) -> None:
        if payload.repo.name.endswith("broken"):
            raise ValueError

    endpoint = harness.add(handler)
    harness.start(keep=5)
    broken = load("repo.content-update")
    broken["repo"]["name"] = "username/broken"
    for body in (BODY, broken) * 10:
        harness.deliver(endpoint, body)
    wait_until(lambda: sum(harness.counts().values()) == 5)
    counts = harness.counts()
    harness.stop()
    assert harness.start(keep=5).counts() == counts
    assert counts["succeeded"] + counts["failed"] == len(harness.records()) == 5


def test_a_long_timeout_does_not_keep_what_has_ended(harness: EngineHarness) -> None:
    kept: list[weakref.ref[Delivery]] = []
    endpoint = harness.add(lambda delivery: kept.append(weakref.ref(delivery)), path="/f", timeout=3600)
    harness.start()
    for _ in range(3):
        harness.deliver(endpoint, b"x" * 1000)

    def are_let_go() -> bool:
        harness.deliver(endpoint, b"one more, so that the one before is let go")
        gc.collect()
        return not any(reference() for reference in kept[:3])

    wait_until(are_let_go)


# A disk, a console, and programs that are in the way


def test_a_full_disk_refuses_new_deliveries_and_loses_nothing(
    harness: EngineHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webhooks.deliveries.writer.RETRY_AFTER", 0.05)
    gate, started = threading.Event(), threading.Event()

    def slow() -> str:
        started.set()
        gate.wait(WAIT)
        return "x" * 50_000

    quick = harness.add(lambda: None, path="/quick")
    answer = harness.start().send(harness.add(slow))
    assert started.wait(WAIT)
    with full_disk(harness.folder):
        with pytest.raises(NotTakenError, match="cannot be written"):
            harness.deliver(quick, b"x" * 5_000_000)
        assert harness.engine.health()[0] is False
        gate.set()
    wait_until(lambda: harness.engine.health()[0])
    assert answer.result(WAIT).status_code == 200
    assert harness.deliver(quick).status_code == 200
    assert set(statuses(harness.records())) == {"succeeded"}


def test_a_log_that_another_program_locks_holds_up_no_one_for_long_wherever_a_handler_goes(
    harness: EngineHarness, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.setattr("webhooks.deliveries.log.LOCKED_FOR", 0.1)
    monkeypatch.setattr("webhooks.deliveries.writer.RETRY_AFTER", 0.05)
    monkeypatch.chdir(tmp_path)
    harness.folder = Path("log")
    endpoint = harness.add(lambda: os.chdir(tmp_path_factory.mktemp("elsewhere")), path="/f")
    harness.start().deliver(endpoint)
    with closing(sqlite3.connect(tmp_path / "log" / "deliveries.db", isolation_level=None)) as locker:
        locker.execute("BEGIN IMMEDIATE")
        for _ in range(20):
            with pytest.raises(NotTakenError, match="cannot be written"):
                harness.deliver(endpoint)
        assert harness.engine.health()[0] is False
        locker.execute("ROLLBACK")
    wait_until(lambda: harness.engine.health()[0])
    assert harness.deliver(endpoint).status_code == 200


def test_the_answer_is_not_kept_with_a_secret(harness: EngineHarness) -> None:
    answer = harness.start().deliver(harness.add(lambda: "the token is s3cret", path="/f"))
    assert answer.body == b'"the token is s3cret"'
    assert harness.records()[0].answer == b'"the token is ***"'


@pytest.mark.parametrize("place", [64 * 1024 - 3, 64 * 1024 - 6, 64 * 1024, 64 * 1024 + 8 * 1024 - 3])
def test_no_secret_is_cut_in_two_where_a_long_answer_is_cut(harness: EngineHarness, place: int) -> None:
    long = "s3cret" * 10 + "x" * (place - 60) + "s3cret" + "y" * 200_000
    harness.start().deliver(harness.add(lambda: long, path="/f"))
    kept = harness.records()[0].answer.decode()
    assert 0 < len(kept) <= 64 * 1024
    assert "s3" not in kept
