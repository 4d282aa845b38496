"""The life of a delivery: real threads, a real log, no network."""

from __future__ import annotations

import json
import math
import sqlite3
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
from fastapi import HTTPException, Request
from support.engines import BODY, WAIT, EngineHarness, execute, rows, statuses, wait_until
from support.payloads import FIXTURES, load

from webhooks import Delivery, WebhookPayload
from webhooks.deliveries import processing
from webhooks.deliveries.log import INTERRUPTED
from webhooks.deliveries.processing import NotTakenError
from webhooks.delivery import GiveUp
from webhooks.responses import RefusedError


def commit(number: int) -> dict[str, Any]:
    body = load("repo.content-update")
    body["updatedRefs"][0]["newSha"] = body["repo"]["headSha"] = f"{number:040x}"
    return body


def commits_to(numbers: list[int]) -> Callable[[WebhookPayload], None]:
    """Return a handler that adds the number of each commit to a list."""

    def train(payload: WebhookPayload) -> None:
        numbers.append(int(payload.repo.head_sha, 16))

    return train


def fail_once(delivery: Delivery) -> None:
    if delivery.attempt == 1:
        raise ValueError


# Retry


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.usefixtures("no_backoff")
def test_failed_handler_runs_until_it_succeeds(harness: EngineHarness, is_async: bool) -> None:
    def handler(delivery: Delivery) -> str:
        if delivery.attempt < 3:
            raise ValueError("s3cret")
        return "third time lucky"

    async def async_handler(delivery: Delivery) -> str:
        return handler(delivery)

    response = harness.start().deliver(harness.add(async_handler if is_async else handler, max_attempts=4))
    assert (response.status_code, json.loads(response.body)["status"]) == (202, "scheduled")
    harness.wait_for("succeeded")
    (record,) = harness.records()
    assert (record.status, record.failures, record.answer) == ("succeeded", 2, b'"third time lucky"')
    assert ["ValueError: ***" in (attempt.error or "") for attempt in record.attempts] == [True, True, False]


@pytest.mark.parametrize(
    ("error", "attempts", "status"), [(HTTPException(507, "no room"), 3, 507), (GiveUp("no dataset"), 1, 500)]
)
@pytest.mark.usefixtures("no_backoff")
def test_failure_is_reported_once(harness: EngineHarness, error: Exception, attempts: int, status: int) -> None:
    told: list[str] = []

    def handler() -> None:
        raise error

    async def listen(delivery: Delivery, error: str) -> None:
        told.append(error)

    async def leave(delivery: Delivery, error: str) -> None:
        sys.exit()

    harness.listeners += [lambda delivery, error: 1 / 0, lambda delivery, error: sys.exit(), leave, listen]
    harness.start().deliver(harness.add(handler, max_attempts=3))
    wait_until(lambda: told)
    (record,) = harness.records()
    assert (record.status, record.failures, record.answer_status) == ("failed", attempts, status)
    assert told == [record.attempts[-1].error]


def test_backoff_survives_a_restart(harness: EngineHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processing, "backoff", lambda failures: 3600.0)
    harness.start().deliver(harness.add(fail_once, max_attempts=2))
    harness.stop()
    harness.start().stop(0)
    (record,) = harness.records()
    assert (record.status, record.failures, len(record.attempts)) == ("scheduled", 1, 1)


@pytest.mark.usefixtures("no_backoff")
def test_retry_waits_as_long_as_the_error_asks(harness: EngineHarness) -> None:
    def handler() -> None:
        raise ValueError from HTTPException(429, headers={"Retry-After": "60"})

    harness.start().deliver(harness.add(handler, max_attempts=2))
    (record,) = harness.records()
    assert 55 < (record.due_at - record.attempts[0].started_at).total_seconds() < 120


# Debounce


def test_burst_runs_once_with_the_newest_commit(harness: EngineHarness) -> None:
    ran: list[int] = []
    endpoint = harness.add(commits_to(ran), debounce=1)
    harness.start()
    responses = [harness.deliver(endpoint, commit(number)) for number in range(50)]
    assert {response.status_code for response in responses} == {202}
    harness.wait_for("succeeded")
    records = harness.records()
    assert statuses(records) == ["superseded"] * 49 + ["succeeded"]
    assert [record.superseded_by for record in records[:-1]] == [record.delivery.id for record in records[1:]]
    assert ran == [49]


def test_newer_commit_is_taken_at_capacity(harness: EngineHarness) -> None:
    ran: list[int] = []
    train, other = harness.add(commits_to(ran), debounce=0.5), harness.add(lambda: None, path="/other")
    id = harness.start(max_pending=1).record(train, commit(1))
    for refused in (lambda: harness.deliver(other), lambda: harness.engine.replay(id)):
        with pytest.raises(NotTakenError, match="Too many"):
            refused()
    assert harness.deliver(train, commit(2)).status_code == 202
    harness.wait_for("succeeded")
    assert ran == [2]
    assert statuses(harness.records()) == ["superseded", "succeeded"]


# Who sent it

MARK = (b"x-webhook-secret", b"***")


@pytest.mark.parametrize(
    ("secret", "headers", "is_open"),
    [
        (None, [], False),
        (None, [(b"x-forwarded-for", b"192.0.2.7")], True),  # a proxy on this machine
        ("s3cret", [MARK], False),
        ("s3cret", [], True),  # it came before the secret was set
    ],
)
def test_unverified_delivery_is_open_to_strangers(
    harness: EngineHarness, secret: str | None, headers: list[tuple[bytes, bytes]], is_open: bool
) -> None:
    seen: list[bool] = []
    endpoint = harness.add(lambda delivery: seen.append(delivery.is_open_to_strangers), path="/f")
    response = harness.start(secret=secret).deliver(endpoint, headers=headers)
    harness.engine.replay(json.loads(response.body)["delivery"])
    wait_until(lambda: len(seen) == 2)
    assert seen == [is_open, False]  # a replay is the owner's


# Recover


@pytest.mark.usefixtures("brief_stops")
def test_five_deaths_fail_a_delivery(harness: EngineHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[int] = []
    told: list[str] = []
    monkeypatch.setattr(processing, "backoff", lambda interruptions: waits.append(interruptions) or 0.0)
    ran, end = threading.Semaphore(0), threading.Event()

    def deadly() -> None:
        ran.release()
        end.wait(WAIT)

    harness.listeners.append(lambda delivery, error: told.append(error))
    harness.start().record(harness.add(deadly))
    for _ in range(5):
        assert ran.acquire(timeout=WAIT)
        killed = harness.kill()
        harness.start()
        killed.stop(0)
    wait_until(lambda: told)
    end.set()
    (record,) = harness.records()
    assert (record.status, waits) == ("failed", [1, 2, 3, 4])
    assert [attempt.error for attempt in record.attempts] == [INTERRUPTED] * 5
    assert told[0].startswith("The process has ended 5 times while this delivery's handler ran.")


CANNOT_RUN: dict[str, tuple[Callable[[EngineHarness], object], str]] = {
    "no handler": (lambda harness: harness.endpoints.clear(), "No handler is registered at /webhooks/f\nx any more."),
    "takes a payload": (lambda harness: harness.add(lambda payload: None, path="/f"), "takes a payload now"),
    "damaged": (lambda harness: execute(harness.path, "UPDATE deliveries SET headers = 'no JSON'"), "cannot be read"),
}


@pytest.mark.parametrize("change", CANNOT_RUN)
def test_delivery_that_cannot_run_fails(
    harness: EngineHarness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, change: str
) -> None:
    monkeypatch.setattr(processing, "backoff", lambda failures: 3600)
    told: list[str] = []
    harness.listeners.append(lambda delivery, error: told.append(error))
    harness.start().deliver(harness.add(fail_once, path="/f", max_attempts=2), b"hello")
    harness.stop()
    make_change, reason = CANNOT_RUN[change]
    make_change(harness)
    execute(harness.path, "UPDATE deliveries SET due_at = 0")
    if change == "no handler":
        execute(harness.path, "UPDATE deliveries SET endpoint = endpoint || char(10) || 'x'")
    harness.start().wait_for("failed")
    ((answer,),) = rows(harness.folder, "SELECT answer FROM deliveries")
    assert reason in json.loads(answer)["error"]
    wait_until(lambda: told)
    assert told == [json.loads(answer)["error"]]
    assert "\n" not in caplog.messages[-1]


@pytest.mark.usefixtures("no_backoff")
def test_log_of_0_1_0_goes_on(harness: EngineHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("webhooks.deliveries.log.KEEP_SECONDS", math.inf)
    harness.folder.mkdir()
    with closing(sqlite3.connect(harness.path)) as database:
        database.executescript((FIXTURES / "log-0.1.0.sql").read_text(encoding="utf-8"))
    queries = [
        "SELECT * FROM deliveries WHERE finished_at IS NOT NULL",
        "SELECT * FROM attempts",
        "SELECT * FROM jobs",
    ]
    before = [rows(harness.folder, query) for query in queries]
    assert [len(found) for found in before] == [6, 4, 1]
    ran: list[tuple[str, int, int]] = []

    def handler(delivery: Delivery, payload: WebhookPayload) -> None:
        ran.append((delivery.endpoint, delivery.attempt, int(payload.repo.head_sha, 16)))

    for path in ("/retry", "/slow", "/train"):
        harness.add(handler, path=path)
    harness.start().wait_for("succeeded", 8)
    harness.stop()
    assert sorted(ran) == [
        ("/webhooks/retry", 2, 4),
        ("/webhooks/slow", 2, 8),
        ("/webhooks/slow", 2, 9),
        ("/webhooks/train", 1, 6),
    ]
    finished, attempts, jobs = (rows(harness.folder, query) for query in queries)
    assert set(before[0]) <= {row[:-1] for row in finished}  # without the new column
    assert set(before[1]) <= set(attempts)
    assert before[2] == jobs
    assert rows(harness.folder, "PRAGMA user_version") == [(6,)]
    assert rows(harness.folder, "SELECT * FROM marks") == []


# Deliver and replay


def test_delivered_event_runs_like_a_request(harness: EngineHarness) -> None:
    seen: list[Any] = []

    async def handler(payload: WebhookPayload, delivery: Delivery, request: Request) -> None:
        seen.append((delivery.id, delivery.source, await request.json(), request.headers["X-Webhook-Secret"]))
        seen.append((request.app, request.state.model))

    endpoint = harness.add(handler)
    context = {"app": "the application", "state": {"model": "loaded"}}
    id = harness.start(secret="s3cret", context=context).engine.deliver(endpoint.path, json.dumps(BODY).encode())
    harness.wait_for("succeeded")
    assert seen == [(id, "code", BODY, "s3cret"), ("the application", "loaded")]
    assert rows(harness.folder, "SELECT source FROM deliveries") == [("code",)]


def test_deliver_refuses_what_cannot_run(harness: EngineHarness) -> None:
    endpoint = harness.add(lambda payload: None, path="/f")
    engine = harness.start().engine
    with pytest.raises(RefusedError):
        engine.deliver(endpoint.path, b"{}")
    with pytest.raises(LookupError, match="/webhooks/f"):
        engine.deliver("/webhooks/typo", json.dumps(BODY).encode())
    harness.add(lambda name: None, path="/hook/{name}")
    with pytest.raises(LookupError, match="has a parameter"):
        engine.deliver("hook/{name}", json.dumps(BODY).encode())
    assert harness.records() == []


def test_also_shares_the_commit_of_its_delivery(harness: EngineHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = harness.add(lambda: None, path="/f")
    engine = harness.start().engine

    def fail(*_: Any, **__: Any) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    def deliver() -> str:
        also = lambda: engine.log.set_mark(endpoint.path, "dataset/me/data", "abc")  # noqa: E731
        return engine.deliver(endpoint.path, b"x", "catch_up", also)

    with monkeypatch.context() as patched:
        patched.setattr(engine.log, "add", fail)
        with pytest.raises(NotTakenError, match="cannot be written"):
            deliver()
    assert rows(harness.folder, "SELECT * FROM marks") == []
    id = deliver()
    assert rows(harness.folder, "SELECT d.id, d.source, m.revision FROM deliveries d, marks m") == [
        (id, "catch_up", "abc")
    ]


def test_replay_repeats_the_request(harness: EngineHarness) -> None:
    seen: list[Any] = []

    async def handler(payload: WebhookPayload, delivery: Delivery, request: Request) -> None:
        seen.append((payload, delivery.replay_of, await request.json(), request.headers["x-note"]))

    harness.start().deliver(harness.add(handler), headers=[(b"x-note", b"hello")])
    id = harness.records()[0].delivery.id
    new_id = harness.start().engine.replay(id)
    harness.wait_for("succeeded", 2)
    assert [record.delivery.id for record in harness.records()] == [id, new_id]
    payload = WebhookPayload.model_validate(BODY)
    assert seen == [(payload, None, BODY, "hello"), (payload, id, BODY, "hello")]
