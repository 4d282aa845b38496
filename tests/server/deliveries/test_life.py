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
def test_a_handler_that_fails_runs_again_until_it_succeeds(desk: Dashboard, is_async: bool) -> None:
    attempts = []

    def flaky(delivery: Delivery) -> str:
        attempts.append(delivery.attempt)
        if len(attempts) < 3:
            raise ValueError("s3cret")
        return "third time lucky"

    async def async_flaky(delivery: Delivery) -> str:
        return flaky(delivery)

    answer = desk.start().deliver(desk.add(async_flaky if is_async else flaky, max_attempts=4))
    assert (answer.status_code, body_of(answer)["status"]) == (202, "scheduled")
    desk.wait_for("succeeded")
    (record,) = desk.records()
    assert attempts == [1, 2, 3]
    assert (record.status, record.failures, record.answer) == ("succeeded", 2, b'"third time lucky"')
    assert ["ValueError: ***" in (attempt.error or "") for attempt in record.attempts] == [True, True, False]


@pytest.mark.usefixtures("no_backoff")
def test_a_handler_fails_for_good_after_its_last_attempt(desk: Dashboard) -> None:
    attempts = []

    def broken(delivery: Delivery) -> None:
        attempts.append(delivery.attempt)
        raise HTTPException(507, "no room")

    desk.start().deliver(desk.add(broken, max_attempts=3))
    desk.wait_for("failed")
    (record,) = desk.records()
    assert (record.status, record.failures, record.answer_status, attempts) == ("failed", 3, 507, [1, 2, 3])


def test_between_two_attempts_there_is_the_backoff_and_a_restart_does_not_shorten_it(
    desk: Dashboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "backoff", lambda failures: 1.0)
    ran: list[float] = []

    def flaky(delivery: Delivery) -> None:
        ran.append(time.time())
        if delivery.attempt == 1:
            raise ValueError

    desk.start().deliver(desk.add(flaky, max_attempts=2))
    desk.stop()
    desk.start().wait_for("succeeded")
    assert ran[1] - ran[0] >= 1.0


def test_an_async_handler_is_cancelled_at_its_timeout(desk: Dashboard) -> None:
    cancelled = threading.Event()

    async def slow() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    assert desk.start().deliver(desk.add(slow, timeout=0.05)).status_code == 500
    assert cancelled.wait(WAIT)
    (record,) = desk.records()
    assert "TimeoutError: The handler took longer than its timeout of 0.05 seconds." in record.attempts[0].error


@pytest.mark.parametrize("is_async", [False, True])
def test_a_handler_that_blocks_past_its_timeout_fails_and_what_it_does_later_changes_nothing(
    desk: Dashboard, is_async: bool
) -> None:
    gate, returned = threading.Event(), threading.Event()

    def stuck() -> str:
        gate.wait(WAIT)
        returned.set()
        return "too late"

    async def async_stuck() -> str:
        return stuck()

    assert desk.start().deliver(desk.add(async_stuck if is_async else stuck, timeout=0.05)).status_code == 500
    gate.set()
    assert returned.wait(WAIT)
    (record,) = desk.records()
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
def test_no_exception_keeps_a_delivery_from_its_end(desk: Dashboard, error: Exception) -> None:
    def handler() -> None:
        raise error

    assert desk.start().deliver(desk.add(handler)).status_code == 500
    (record,) = desk.records()
    assert (record.status, record.failures) == ("failed", 1)
    assert 0 < len(record.attempts[0].error) < 200_000


def test_an_exception_that_is_slow_to_tell_delays_nobody(desk: Dashboard) -> None:
    gate, telling = threading.Event(), threading.Event()

    class Slow(Exception):
        def __str__(self) -> str:
            telling.set()
            gate.wait(WAIT)
            return "at last"

    def handler() -> None:
        raise Slow

    slow, quick = desk.add(handler), desk.add(lambda: None, path="/quick")
    answer = desk.start().send(slow)
    assert telling.wait(WAIT)
    assert desk.deliver(quick).status_code == 200
    gate.set()
    assert answer.result(WAIT).status_code == 500


def test_a_hundred_def_handlers_share_threads(desk: Dashboard) -> None:
    """A thread for each would cost more than the handler does."""
    threads: set[int] = set()
    endpoint = desk.add(lambda: threads.add(threading.get_ident()), path="/f")
    desk.start()
    for _ in range(100):
        assert desk.deliver(endpoint).status_code == 200
    assert len(threads) < 5


def test_no_handler_finds_what_another_one_has_set_for_itself(desk: Dashboard) -> None:
    found: list[str] = []

    def handler() -> None:
        found.append(VARIABLE.get("nothing"))
        VARIABLE.set("something")

    endpoint = desk.add(handler)
    desk.start()
    for _ in range(5):
        desk.deliver(endpoint)
    assert found == ["nothing"] * 5


# Bursts


def test_fifty_updates_within_the_window_run_once_with_the_newest_payload(desk: Dashboard) -> None:
    ran: list[str] = []

    def train(payload: WebhookPayload) -> None:
        ran.append(payload.repo.head_sha)

    endpoint = desk.add(train, debounce=1)
    desk.start()
    answers = [desk.deliver(endpoint, commit(number)) for number in range(50)]
    assert {(answer.status_code, body_of(answer)["status"]) for answer in answers} == {(202, "scheduled")}
    desk.wait_for("succeeded")
    records = desk.records()
    assert statuses(records) == ["superseded"] * 49 + ["succeeded"]
    assert ran == [f"{49:040x}"]
    assert [record.superseded_by for record in records[:-1]] == [record.delivery.id for record in records[1:]]


def test_a_stream_that_never_pauses_still_runs(desk: Dashboard) -> None:
    ran: list[int] = []

    def train(payload: WebhookPayload) -> None:
        ran.append(int(payload.repo.head_sha, 16))

    endpoint = desk.add(train, debounce=0.1)
    desk.start()
    sent = 0
    deadline = time.monotonic() + WAIT
    while len(ran) < 2:  # each event comes as soon as the one before it is recorded, well within the window
        assert time.monotonic() < deadline
        desk.deliver(endpoint, commit(sent))
        sent += 1
    assert 0 < ran[0] < ran[1] < sent


def test_other_events_are_not_swallowed_by_a_burst(desk: Dashboard) -> None:
    ran: list[tuple[str, str]] = []

    def note(payload: WebhookPayload) -> None:
        ran.append((payload.repo.name, payload.event.scope))

    endpoint = desk.add(note, debounce=0.3)
    desk.start()
    other = load("repo.content-update")
    other["repo"]["name"] = "username/other"
    comment = {**load("discussion.comment-create"), "repo": BODY["repo"]}
    for body in (BODY, comment, other):
        desk.deliver(endpoint, body)
    desk.wait_for("succeeded", 3)
    name = BODY["repo"]["name"]
    assert sorted(ran) == sorted(
        [(name, "repo.content"), (name, "discussion.comment"), ("username/other", "repo.content")]
    )


def test_a_burst_goes_on_across_a_restart(desk: Dashboard) -> None:
    ran: list[str] = []

    def train(payload: WebhookPayload) -> None:
        ran.append(payload.repo.head_sha)

    endpoint = desk.add(train, debounce=1)
    desk.start().deliver(endpoint, commit(1))
    desk.stop()
    desk.start().deliver(endpoint, commit(2))
    desk.wait_for("succeeded")
    assert statuses(desk.records()) == ["superseded", "succeeded"]
    assert ran == [f"{2:040x}"]


def test_a_debounced_delivery_that_fails_is_not_in_the_way_of_the_next_one(
    desk: Dashboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "backoff", lambda failures: 0.05)
    gate, running = threading.Event(), threading.Event()

    def train(delivery: Delivery, payload: WebhookPayload) -> None:
        if payload.repo.head_sha == f"{1:040x}" and delivery.attempt == 1:
            running.set()
            gate.wait(WAIT)
            raise ValueError

    endpoint = desk.add(train, max_attempts=2, debounce=0.3)
    desk.start().deliver(endpoint, commit(1))
    assert running.wait(WAIT)
    desk.deliver(endpoint, commit(2))
    gate.set()
    desk.wait_for("succeeded", 2)
    assert statuses(desk.records()) == ["succeeded", "succeeded"]


def test_a_newer_commit_replaces_an_older_one_though_there_is_no_room(desk: Dashboard) -> None:
    ran: list[str] = []

    def train(payload: WebhookPayload) -> None:
        ran.append(payload.repo.head_sha)

    train_at, other = desk.add(train, debounce=0.5), desk.add(lambda: None, path="/other")
    desk.start(max_pending=1).deliver(train_at, commit(1))
    with pytest.raises(NotTakenError, match="Too many"):
        desk.deliver(other)
    assert desk.deliver(train_at, commit(2)).status_code == 202
    desk.wait_for("succeeded")
    assert ran == [f"{2:040x}"]


# Restarts


def test_what_ran_when_the_server_was_stopped_runs_again(desk: Dashboard) -> None:
    gate, attempts = threading.Event(), []

    def slow(delivery: Delivery, payload: WebhookPayload) -> None:
        attempts.append(delivery.attempt)
        if delivery.attempt == 1:
            gate.wait(WAIT)

    desk.start().record(desk.add(slow))
    assert desk.stop(grace=0.05) is False
    desk.start().wait_for("succeeded")
    (record,) = desk.records()
    gate.set()
    assert (record.status, attempts) == ("succeeded", [1, 2])
    assert (record.failures, [attempt.error for attempt in record.attempts]) == (0, [STOPPED, None])


def test_a_handler_that_is_gone_fails_its_deliveries_with_a_reason(
    desk: Dashboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "backoff", lambda failures: 0.2)

    def renamed() -> None:
        raise ValueError

    endpoint = desk.add(renamed, max_attempts=2)
    desk.start().deliver(endpoint)
    desk.stop()
    del desk.endpoints[endpoint.path]
    desk.start().wait_for("failed")
    (record,) = desk.records()
    assert json.loads(record.answer)["error"] == "No handler is registered at /webhooks/renamed any more."


def test_a_handler_that_takes_a_payload_now_fails_deliveries_without_one(desk: Dashboard) -> None:
    endpoint = desk.add(lambda: "any", path="/f")
    desk.start().deliver(endpoint, b"hello")
    desk.endpoints[endpoint.path] = Endpoint(lambda payload: None, "/f")
    (id,) = [record.delivery.id for record in desk.records()]
    desk.start().engine.replay(id)
    desk.wait_for("failed")
    assert "takes a payload now" in json.loads(desk.records()[1].answer)["error"]


def test_what_arrives_before_the_recovery_is_not_taken_for_left_over(desk: Dashboard) -> None:
    gate, attempts = threading.Event(), []

    def slow(delivery: Delivery) -> None:
        attempts.append(delivery.attempt)
        gate.wait(WAIT)

    endpoint = desk.add(slow)
    first = desk.start(recover=False).send(endpoint)
    desk.record(endpoint)
    desk.engine.recover()
    desk.record(endpoint)
    gate.set()
    assert first.result(WAIT).status_code == 200
    desk.wait_for("succeeded", 3)
    assert attempts == [1, 1, 1]


@pytest.mark.parametrize("headers", ["'no JSON'", "'[[1, 2]]'", "CAST(x'fffe' AS TEXT)"])
def test_a_delivery_that_cannot_be_read_any_more_fails_alone(
    desk: Dashboard, monkeypatch: pytest.MonkeyPatch, headers: str
) -> None:
    monkeypatch.setattr(timing, "backoff", lambda failures: 3600)

    def flaky(delivery: Delivery) -> None:
        if delivery.attempt == 1:
            raise ValueError

    endpoint = desk.add(flaky, max_attempts=2)
    desk.start()
    for _ in range(2):
        desk.deliver(endpoint)
    desk.stop()
    with closing(sqlite3.connect(desk.folder / "deliveries.db", isolation_level=None)) as database:
        database.execute("UPDATE deliveries SET due_at = 0")
        database.execute(
            f"UPDATE deliveries SET headers = {headers} WHERE number = (SELECT min(number) FROM deliveries)"
        )
    desk.start().wait_for("succeeded")
    desk.wait_for("failed")
    assert desk.engine.health()[0] is True


def test_what_a_wrong_clock_has_written_does_not_wait_for_that_clock(
    desk: Dashboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forty days ahead, then right again: a retry waits five minutes at most, a burst as long as its window."""
    ran: list[str] = []
    train = desk.add(lambda payload: ran.append(payload.repo.head_sha), path="/train", debounce=0.3)
    real = time.time
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: real() + 40 * 24 * 60 * 60)
        desk.start().deliver(train, commit(1))
        desk.stop()
    desk.start().wait_for("succeeded")
    assert ran == [f"{1:040x}"]


def test_ids_grow_though_the_clock_was_set_back(desk: Dashboard) -> None:
    endpoint = desk.add(lambda: None, path="/f")
    desk.start().deliver(endpoint)
    desk.stop()
    tomorrow = time.time_ns() + 24 * 60 * 60 * 10**9
    with closing(sqlite3.connect(desk.folder / "deliveries.db", isolation_level=None)) as database:
        database.execute("UPDATE deliveries SET number = ?", (tomorrow,))
    desk.start().deliver(endpoint)
    assert int(desk.records()[-1].delivery.id, 16) > tomorrow


def test_a_handler_during_which_the_process_ends_five_times_fails_for_good(
    desk: Dashboard, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    waits: list[int] = []
    monkeypatch.setattr(timing, "backoff", lambda interruptions: waits.append(interruptions) or 0.0)
    ran, gate = threading.Semaphore(0), threading.Event()

    def deadly() -> None:
        ran.release()
        gate.wait(WAIT)

    desk.start().record(desk.add(deadly))
    for _ in range(5):
        assert ran.acquire(timeout=WAIT)
        desk.folder = desk.copied(desk.folder)  # what was on the disk when the lights went out
        killed, desk.engine = desk.engine, None
        desk.start()
        killed.stop(0)
    desk.wait_for("failed")
    gate.set()
    assert wait_until_written(WAIT)
    assert "The process has ended 5 times while this delivery's handler ran." in caplog.text
    (record,) = desk.records()
    assert [attempt.error for attempt in record.attempts] == [INTERRUPTED] * 5
    assert waits == [1, 2, 3, 4]


def test_a_start_that_fails_before_the_recovery_hides_no_interruption(desk: Dashboard) -> None:
    gate, ran = threading.Event(), threading.Semaphore(0)

    def slow() -> None:
        ran.release()
        gate.wait(WAIT)

    desk.start().record(desk.add(slow))
    assert ran.acquire(timeout=WAIT)
    desk.folder, killed = desk.copied(desk.folder), desk.engine
    desk.start(recover=False).stop(0)  # as when the port is in use
    desk.start()
    assert ran.acquire(timeout=WAIT)
    gate.set()
    desk.wait_for("succeeded")
    killed.stop(0)
    (record,) = desk.records()
    assert [attempt.error for attempt in record.attempts] == [INTERRUPTED, None]


# Replays


def test_a_replay_is_a_new_delivery_of_the_same_request(desk: Dashboard) -> None:
    seen: list[Any] = []

    async def look(payload: WebhookPayload, delivery: Delivery, request: Request) -> None:
        seen.append((payload, delivery.replay_of, await request.json(), request.headers["x-note"]))

    desk.start().deliver(desk.add(look), headers=[(b"x-note", b"hello")])
    (record,) = desk.records()
    id = record.delivery.id
    new_id = desk.start().engine.replay(id)
    desk.wait_for("succeeded", 2)
    first, second = desk.records()
    assert (second.delivery.id, second.delivery.replay_of, second.status) == (new_id, id, "succeeded")
    assert first.delivery.id == id
    payload = WebhookPayload.model_validate(BODY)
    assert seen == [(payload, None, BODY, "hello"), (payload, id, BODY, "hello")]


@pytest.mark.parametrize("id", ["no-such-id", "0123456789abcdef", "", "0x12", " 1"])
def test_replaying_an_unknown_id_is_a_key_error_with_the_id(desk: Dashboard, id: str) -> None:
    with pytest.raises(KeyError, match=f"^'{id}'$"):
        desk.start().engine.replay(id)


def test_what_a_handler_puts_into_its_jobs_harms_nobody(desk: Dashboard) -> None:
    endpoint = desk.add(lambda delivery: delivery.jobs.append("no Job"), path="/f")
    desk.start()
    answers = [desk.send(each) for each in (endpoint, desk.add(lambda: None, path="/other"))]
    assert [answer.result(WAIT).status_code for answer in answers] == [200, 200]
    desk.wait_for("succeeded", 2)


def test_a_test_that_lets_time_pass_does_so_for_its_own_delivery_alone(
    desk: Dashboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "backoff", lambda failures: 3600.0)

    def flaky(delivery: Delivery) -> None:
        if delivery.attempt == 1:
            raise ValueError

    endpoint = desk.add(flaky, max_attempts=2)
    desk.start().engine.hasten(desk.record(endpoint), WAIT)
    desk.wait_for("succeeded")
    assert desk.deliver(endpoint).status_code == 202
    assert desk.counts()["scheduled"] == 1


# Load


def test_a_thousand_at_once_are_all_taken(desk: Dashboard) -> None:
    ran: set[str] = set()

    async def handler(delivery: Delivery) -> None:
        ran.add(delivery.id)

    endpoint = desk.add(handler)
    desk.start()
    answers = [desk.send(endpoint) for _ in range(1000)]
    assert [answer.result(WAIT).status_code for answer in answers] == [200] * 1000
    assert ran == {record.delivery.id for record in desk.records()}
    assert len(ran) == 1000


@pytest.mark.parametrize("is_async", [False, True])
def test_who_was_answered_has_room_again(desk: Dashboard, is_async: bool) -> None:
    async def quick() -> None: ...

    endpoint = desk.add(quick if is_async else lambda: None, path="/f")
    desk.start(max_pending=1)
    for _ in range(200):
        assert desk.deliver(endpoint).status_code == 200


@pytest.mark.usefixtures("prunes_at_once")
def test_the_counts_are_those_of_the_log_also_after_pruning_and_a_restart(desk: Dashboard) -> None:
    def handler(payload: WebhookPayload) -> None:
        if payload.repo.name.endswith("broken"):
            raise ValueError

    endpoint = desk.add(handler)
    desk.start(keep=5)
    broken = load("repo.content-update")
    broken["repo"]["name"] = "username/broken"
    for body in (BODY, broken) * 10:
        desk.deliver(endpoint, body)
    wait_until(lambda: sum(desk.counts().values()) == 5)
    counts = desk.counts()
    desk.stop()
    assert desk.start(keep=5).counts() == counts
    assert counts["succeeded"] + counts["failed"] == len(desk.records()) == 5


def test_a_long_timeout_does_not_keep_what_has_ended(desk: Dashboard) -> None:
    kept: list[weakref.ref[Delivery]] = []
    endpoint = desk.add(lambda delivery: kept.append(weakref.ref(delivery)), path="/f", timeout=3600)
    desk.start()
    for _ in range(3):
        desk.deliver(endpoint, b"x" * 1000)

    def are_let_go() -> bool:
        desk.deliver(endpoint, b"one more, so that the one before is let go")
        gc.collect()
        return not any(reference() for reference in kept[:3])

    wait_until(are_let_go)


# A disk, a console, and programs that are in the way


def test_a_full_disk_refuses_new_deliveries_and_loses_nothing(
    desk: Dashboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webhooks.deliveries.writer.RETRY_AFTER", 0.05)
    gate, started = threading.Event(), threading.Event()

    def slow() -> str:
        started.set()
        gate.wait(WAIT)
        return "x" * 50_000

    quick = desk.add(lambda: None, path="/quick")
    answer = desk.start().send(desk.add(slow))
    assert started.wait(WAIT)
    with full_disk(desk.folder):
        with pytest.raises(NotTakenError, match="cannot be written"):
            desk.deliver(quick, b"x" * 5_000_000)
        assert desk.engine.health()[0] is False
        gate.set()
    wait_until(lambda: desk.engine.health()[0])
    assert answer.result(WAIT).status_code == 200
    assert desk.deliver(quick).status_code == 200
    assert set(statuses(desk.records())) == {"succeeded"}


def test_a_log_that_another_program_locks_holds_up_no_one_for_long_wherever_a_handler_goes(
    desk: Dashboard, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.setattr("webhooks.deliveries.log.LOCKED_FOR", 0.1)
    monkeypatch.setattr("webhooks.deliveries.writer.RETRY_AFTER", 0.05)
    monkeypatch.chdir(tmp_path)
    desk.folder = Path("log")
    endpoint = desk.add(lambda: os.chdir(tmp_path_factory.mktemp("elsewhere")), path="/f")
    desk.start().deliver(endpoint)
    with closing(sqlite3.connect(tmp_path / "log" / "deliveries.db", isolation_level=None)) as locker:
        locker.execute("BEGIN IMMEDIATE")
        for _ in range(20):
            with pytest.raises(NotTakenError, match="cannot be written"):
                desk.deliver(endpoint)
        assert desk.engine.health()[0] is False
        locker.execute("ROLLBACK")
    wait_until(lambda: desk.engine.health()[0])
    assert desk.deliver(endpoint).status_code == 200


def test_the_answer_is_not_kept_with_a_secret(desk: Dashboard) -> None:
    answer = desk.start().deliver(desk.add(lambda: "the token is s3cret", path="/f"))
    assert answer.body == b'"the token is s3cret"'
    assert desk.records()[0].answer == b'"the token is ***"'


@pytest.mark.parametrize("place", [64 * 1024 - 3, 64 * 1024 - 6, 64 * 1024, 64 * 1024 + 8 * 1024 - 3])
def test_no_secret_is_cut_in_two_where_a_long_answer_is_cut(desk: Dashboard, place: int) -> None:
    long = "s3cret" * 10 + "x" * (place - 60) + "s3cret" + "y" * 200_000
    desk.start().deliver(desk.add(lambda: long, path="/f"))
    kept = desk.records()[0].answer.decode()
    assert 0 < len(kept) <= 64 * 1024
    assert "s3" not in kept
