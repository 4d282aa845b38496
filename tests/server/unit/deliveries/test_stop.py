"""The end of an engine, and disks that are full, slow, or gone."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from support.engines import WAIT, EngineHarness, rows, statuses, wait_until

from webhooks import Delivery
from webhooks.deliveries.log import STOPPED, DeliveryLog
from webhooks.deliveries.processing import NotTakenError

DATABASE = "webhooks.deliveries.database"

pytestmark = pytest.mark.usefixtures("brief_stops")


class Blocked:
    """A step of the log that does not return until `go` is set, as on a disk that does not respond."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
        self.began, self.go = threading.Event(), threading.Event()
        method = getattr(DeliveryLog, step)

        def wait(*args: Any, **options: Any) -> Any:
            self.began.set()
            assert self.go.wait(WAIT)
            return method(*args, **options)

        monkeypatch.setattr(DeliveryLog, step, wait)


def test_stopping_engine_lets_running_handlers_end(harness: EngineHarness) -> None:
    end, began = threading.Event(), threading.Event()

    def slow() -> str:
        began.set()
        end.wait(WAIT)
        return "in time"

    endpoint = harness.add(slow)
    response = harness.start().send(endpoint)
    assert began.wait(WAIT)
    engine = harness.engine
    with ThreadPoolExecutor() as threads:
        stops = [threads.submit(engine.stop, WAIT) for _ in range(2)]
        wait_until(lambda: not engine.health()[0])
        for refused in (lambda: harness.deliver(endpoint), lambda: engine.replay("any")):
            with pytest.raises(NotTakenError, match="stopping"):
                refused()
        end.set()
        assert [stop.result(WAIT) for stop in stops] == [True, True]
    assert response.result(WAIT).body == b'"in time"'
    assert [record.answer for record in harness.records()] == [b'"in time"']


@pytest.mark.parametrize("is_async", [False, True])
def test_interrupted_handler_runs_at_the_next_start(harness: EngineHarness, is_async: bool) -> None:
    attempts: list[int] = []
    end, cleaned_up = threading.Event(), threading.Event()

    def slow(delivery: Delivery) -> None:
        attempts.append(delivery.attempt)
        if delivery.attempt == 1:
            end.wait(WAIT)

    async def slow_async(delivery: Delivery) -> None:
        attempts.append(delivery.attempt)
        try:
            if delivery.attempt == 1:
                await asyncio.Event().wait()
        finally:
            cleaned_up.set()

    harness.start().record(harness.add(slow_async if is_async else slow))
    wait_until(lambda: attempts)
    assert harness.stop(grace=0.05) is False
    assert not is_async or cleaned_up.wait(WAIT)
    end.set()
    harness.start().wait_for("succeeded")
    (record,) = harness.records()
    assert (record.status, record.failures, attempts) == ("succeeded", 0, [1, 2])
    assert [attempt.error for attempt in record.attempts] == [STOPPED, None]


def test_handler_past_its_timeout_is_not_forgotten(harness: EngineHarness) -> None:
    end = threading.Event()
    endpoint = harness.add(lambda: end.wait(WAIT), path="/f", timeout=0.05)
    assert harness.start().deliver(endpoint).status_code == 500
    assert harness.stop(0.1) is False  # its thread keeps the process from ending
    end.set()
    assert statuses(harness.records()) == ["failed"]


# Disks


@pytest.mark.parametrize("on_bucket", [False, True])
@pytest.mark.parametrize("content", [None, b"", b"no database\n" * 5_000], ids=["deleted", "empty", "text"])
def test_replaced_log_is_noticed(harness: EngineHarness, content: bytes | None, on_bucket: bool) -> None:
    endpoint = harness.add(lambda: None, path="/f")
    harness.start(on_bucket=on_bucket).deliver(endpoint)
    path, moved = harness.path, harness.folder / "moved"
    path.rename(moved)
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(NotTakenError, match="cannot be written"):
        harness.deliver(endpoint)
    assert harness.engine.health()[0] is False
    moved.replace(path)
    wait_until(lambda: harness.engine.health()[0])
    assert harness.deliver(endpoint).status_code == 200
    assert statuses(harness.records()) == ["succeeded"] * 2


def test_arrival_at_the_end_is_not_taken(harness: EngineHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = threading.Event()
    first, second = harness.add(lambda: None, path="/first"), harness.add(ran.set, path="/second")
    harness.start()
    finish = Blocked(monkeypatch, "finish")
    assert harness.deliver(first).status_code == 200
    assert finish.began.wait(WAIT)
    arrival = harness.send(second)
    engine = harness.engine
    with ThreadPoolExecutor() as threads:
        stop = threads.submit(harness.stop, 0)
        with pytest.raises(NotTakenError, match="stopping"):
            arrival.result(WAIT)
        finish.go.set()
        stop.result(WAIT)
    assert engine.health()[0] is False
    assert statuses(harness.records()) == ["succeeded"]
    assert not ran.is_set()


def test_hanging_disk_is_told_and_loses_nothing(harness: EngineHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (DATABASE, "webhooks.deliveries.engine"):
        monkeypatch.setattr(f"{module}.STUCK_SECONDS", 0.2)
    endpoint = harness.add(lambda: None, path="/f")
    id = harness.start().record(endpoint)
    harness.wait_for("succeeded")
    finish = Blocked(monkeypatch, "finish")
    assert harness.deliver(endpoint).status_code == 200
    assert finish.began.wait(WAIT)
    with pytest.raises(NotTakenError, match="does not respond"):
        harness.engine.replay(id)
    wait_until(lambda: not harness.engine.health()[0])
    with pytest.raises(NotTakenError, match="cannot be written"):
        harness.deliver(endpoint)
    engine = harness.engine
    assert harness.stop(0) is False
    finish.go.set()
    assert engine.database.wait()
    harness.start().wait_for("succeeded", 3)
    assert rows(harness.folder, "SELECT replay_of IS NULL FROM deliveries ORDER BY number") == [(1,), (1,), (0,)]
