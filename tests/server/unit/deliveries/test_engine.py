"""The life of a delivery: real threads, a real log, no network."""

from __future__ import annotations

import json
import math
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from typing import Annotated, Any

import pytest
from fastapi import HTTPException, Request, Security
from fastapi.security import APIKeyHeader
from starlette.testclient import TestClient
from support.asgi import on_loop
from support.disks import full_disk
from support.engines import BODY, WAIT, EngineHarness, execute, rows, statuses, wait_until
from support.payloads import FIXTURES, load

from webhooks import Delivery, WebhookPayload
from webhooks.deliveries import processing
from webhooks.deliveries.log import INTERRUPTED
from webhooks.deliveries.processing import NotTakenError
from webhooks.delivery import GiveUp
from webhooks.receiver import Receiver
from webhooks.responses import RefusedError
from webhooks.settings import Settings


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
    told: list[tuple[str, int, str]] = []

    def handler() -> None:
        raise error

    def listen(delivery: Delivery, error: str) -> None:
        told.append((delivery.id, delivery.attempt, error))

    async def listen_async(delivery: Delivery, error: str) -> None:
        listen(delivery, error)

    harness.listeners += [listen, listen_async]
    harness.start().deliver(harness.add(handler, max_attempts=3))
    wait_until(lambda: len(told) == 2)
    (record,) = harness.records()
    assert (record.status, record.failures, record.answer_status) == ("failed", attempts, status)
    assert told == [(record.delivery.id, attempts, record.attempts[-1].error)] * 2


@pytest.mark.parametrize("is_hanging", [False, True])
def test_bad_failure_listener_harms_nothing(
    harness: EngineHarness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, is_hanging: bool
) -> None:
    monkeypatch.setattr("webhooks.deliveries.runner.NOTIFY_SECONDS", 0.05)
    hanging, told = threading.Event(), threading.Event()

    def listen(delivery: Delivery, error: str) -> None:
        if is_hanging:
            hanging.wait(WAIT)
        raise ValueError("s3cret")

    harness.listeners += [listen, lambda delivery, error: told.set()]
    harness.start().deliver(harness.add(lambda: 1 / 0, path="/f"))
    assert told.wait(WAIT)
    assert harness.deliver(harness.add(lambda: None, path="/g")).status_code == 200
    wait_until(lambda: "listen(), for failures, has failed" in caplog.text)
    hanging.set()
    assert "s3cret" not in caplog.text


def test_backoff_survives_a_restart(harness: EngineHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processing, "backoff", lambda failures: 1.0)
    ran: list[float] = []

    def handler(delivery: Delivery) -> None:
        ran.append(time.time())
        fail_once(delivery)

    harness.start().deliver(harness.add(handler, max_attempts=2))
    harness.stop()
    harness.start().wait_for("succeeded")
    assert ran[1] - ran[0] >= 1.0


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


def test_steady_stream_runs_within_ten_windows(harness: EngineHarness) -> None:
    ran: list[int] = []
    endpoint = harness.add(commits_to(ran), debounce=0.1)
    harness.start()
    sent, deadline = 0, time.monotonic() + WAIT
    while len(ran) < 2:  # each commit comes as soon as the one before it is recorded, well within the window
        assert time.monotonic() < deadline
        harness.deliver(endpoint, commit(sent))
        sent += 1
    assert 0 < ran[0] < ran[1] < sent


def test_comment_does_not_replace_a_commit(harness: EngineHarness) -> None:
    ran: list[str] = []
    endpoint = harness.add(lambda payload: ran.append(payload.event.scope), path="/f", debounce=0.3)
    harness.start()
    for body in (BODY, {**load("discussion.comment-create"), "repo": BODY["repo"]}):
        harness.deliver(endpoint, body)
    harness.wait_for("succeeded", 2)
    assert sorted(ran) == ["discussion.comment", "repo.content"]


def test_commit_does_not_replace_a_retry(harness: EngineHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processing, "backoff", lambda failures: 0.5)
    endpoint = harness.add(fail_once, max_attempts=2, debounce=0.1)
    harness.start().record(endpoint, commit(1))
    wait_until(lambda: rows(harness.folder, "SELECT * FROM attempts"))
    harness.deliver(endpoint, commit(2))
    harness.wait_for("succeeded", 2)


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


@pytest.mark.usefixtures("no_backoff")
def test_interruption_counts_after_a_failed_start(harness: EngineHarness) -> None:
    ran, end = threading.Semaphore(0), threading.Event()
    endpoint = harness.add(lambda: ran.release() or end.wait(WAIT), path="/f")
    harness.start().record(endpoint)
    assert ran.acquire(timeout=WAIT)
    killed = harness.kill()
    harness.start(recover=False).stop(0)  # the port is in use
    first = harness.start(recover=False).send(endpoint)
    assert ran.acquire(timeout=WAIT)
    harness.engine.recover()
    assert ran.acquire(timeout=WAIT)
    end.set()
    assert first.result(WAIT).status_code == 200
    harness.wait_for("succeeded", 2)
    killed.stop(0)
    attempts = [[attempt.error for attempt in record.attempts] for record in harness.records()]
    assert attempts == [[INTERRUPTED, None], [None]]


CANNOT_RUN: dict[str, tuple[Callable[[EngineHarness], object], str]] = {
    "no handler": (lambda harness: harness.endpoints.clear(), "No handler is registered at /webhooks/f any more."),
    "takes a payload": (lambda harness: harness.add(lambda payload: None, path="/f"), "takes a payload now"),
    "damaged": (lambda harness: execute(harness.path, "UPDATE deliveries SET headers = 'no JSON'"), "cannot be read"),
}


@pytest.mark.parametrize("change", CANNOT_RUN)
def test_delivery_that_cannot_run_fails(harness: EngineHarness, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    monkeypatch.setattr(processing, "backoff", lambda failures: 3600)
    told: list[str] = []
    harness.listeners.append(lambda delivery, error: told.append(error))
    harness.start().deliver(harness.add(fail_once, path="/f", max_attempts=2), b"hello")
    harness.stop()
    make_change, reason = CANNOT_RUN[change]
    make_change(harness)
    execute(harness.path, "UPDATE deliveries SET due_at = 0")
    harness.start().wait_for("failed")
    ((answer,),) = rows(harness.folder, "SELECT answer FROM deliveries")
    assert reason in json.loads(answer)["error"]
    wait_until(lambda: told)
    assert told == [json.loads(answer)["error"]]


def test_wrong_clock_delays_nothing(harness: EngineHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[int] = []
    endpoint = harness.add(commits_to(ran), debounce=0.3)
    now, days_ahead = time.time, 40
    with monkeypatch.context() as patched:
        patched.setattr(time, "time", lambda: now() + days_ahead * 24 * 60 * 60)
        harness.start().deliver(endpoint, commit(1))
        harness.stop()
    execute(harness.path, f"UPDATE deliveries SET number = number + {days_ahead * 24 * 60 * 60 * 10**9}")
    harness.start().wait_for("succeeded")
    harness.deliver(endpoint, commit(2))
    harness.wait_for("succeeded", 2)
    assert ran == [1, 2]
    assert [int(record.delivery.payload.repo.head_sha, 16) for record in harness.records()] == [1, 2]


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

    async def deliver() -> None:
        engine.deliver(endpoint.path, json.dumps(BODY).encode())

    with pytest.raises(RuntimeError, match="`def` function"):
        on_loop(deliver)
    assert harness.records() == []


def test_also_shares_the_commit_of_its_delivery(harness: EngineHarness) -> None:
    endpoint = harness.add(lambda: None, path="/f")
    engine = harness.start().engine

    def deliver(body: bytes) -> str:
        also = lambda: engine.log.set_mark(endpoint.path, "dataset/me/data", "abc")  # noqa: E731
        return engine.deliver(endpoint.path, body, "catch_up", also)

    with full_disk(harness.folder), pytest.raises(NotTakenError, match="cannot be written"):
        deliver(b"x" * 1_000_000)
    assert rows(harness.folder, "SELECT * FROM marks") == []
    id = deliver(b"x")
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


@pytest.mark.parametrize("id", ["no-such-id", "0123456789abcdef", ""])
def test_replay_of_an_unknown_id_is_a_key_error(harness: EngineHarness, id: str) -> None:
    with pytest.raises(KeyError, match=f"^'{id}'$"):
        harness.start().engine.replay(id)


# Credentials


def receiver(harness: EngineHarness, **settings: Any) -> TestClient:
    return TestClient(Receiver(harness.endpoints, harness.start(recover=False).engine, Settings(**settings), WAIT))


def test_log_has_no_credentials(harness: EngineHarness) -> None:
    def handler(request: Request, key: Annotated[str, Security(APIKeyHeader(name="X-Sender"))]) -> str:
        if request.query_params["fail"] == "yes":
            raise ValueError(key)
        return key

    harness.add(handler)
    app = receiver(harness, webhook_secret="hidden-1")
    sent = {
        "X-Webhook-Secret": "hidden-1",
        "Cookie": "session=hidden-2",
        "X-IP-Token": "hidden-3",
        "X-Sender": "hidden-4",
    }
    for fail in ("no", "yes"):
        response = app.post(f"/webhooks/handler?token=hidden-5&fail={fail}", content=b"{}", headers=sent)
        assert response.status_code == (500 if fail == "yes" else 200)
    harness.stop()
    files = list(harness.folder.iterdir())
    assert files
    assert not any(b"hidden" in file.read_bytes() for file in files)


@pytest.mark.usefixtures("no_backoff")
def test_missing_credential_is_final(harness: EngineHarness) -> None:
    attempts: list[int] = []

    def handler(delivery: Delivery, request: Request) -> None:
        attempts.append(delivery.attempt)
        if "Cookie" not in request.headers:
            raise HTTPException(401)

    harness.add(handler, max_attempts=3)
    app = receiver(harness)
    response = app.post("/webhooks/handler", content=b"{}", headers={"Cookie": "session=1"})
    harness.engine.replay(response.json()["delivery"])
    harness.wait_for("failed")
    harness.stop()
    ((error,),) = rows(harness.folder, "SELECT error FROM attempts")
    assert "It lacks cookie, and the handler refuses it" in error
    assert attempts == [1, 1]


# Load


@pytest.mark.parametrize("is_async", [False, True])
def test_response_makes_room_at_once(harness: EngineHarness, is_async: bool) -> None:
    async def quick() -> None: ...

    endpoint = harness.add(quick if is_async else lambda: None, path="/f")
    harness.start(max_pending=1)
    for _ in range(200):
        assert harness.deliver(endpoint).status_code == 200
