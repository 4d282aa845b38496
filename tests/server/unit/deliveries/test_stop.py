"""The end of an engine, and disks that are full, slow, or gone."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.engines import WAIT, EngineHarness, statuses, wait_until

from webhooks import Delivery
from webhooks.deliveries import database
from webhooks.deliveries.log import STOPPED
from webhooks.deliveries.processing import NotTakenError

pytestmark = pytest.mark.usefixtures("brief_stops")


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


def test_interrupted_handler_runs_at_the_next_start(harness: EngineHarness) -> None:
    attempts: list[int] = []
    cleaned_up = threading.Event()

    async def slow(delivery: Delivery) -> None:
        attempts.append(delivery.attempt)
        try:
            if delivery.attempt == 1:
                await asyncio.Event().wait()
        finally:
            cleaned_up.set()

    harness.start().record(harness.add(slow))
    wait_until(lambda: attempts)
    assert harness.stop(grace=0.05) is False
    assert cleaned_up.wait(WAIT)
    harness.start().wait_for("succeeded")
    (record,) = harness.records()
    assert (record.status, record.failures, attempts) == ("succeeded", 0, [1, 2])
    assert [attempt.error for attempt in record.attempts] == [STOPPED, None]


def test_async_handler_can_stop_the_engine(harness: EngineHarness) -> None:
    stopped: list[bool] = []

    async def handler() -> None:
        stopped.append(engine.stop(0))

    engine = harness.start().engine
    harness.send(harness.add(handler))
    wait_until(lambda: stopped)
    assert stopped == [False]  # its own handler still runs


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


def test_disk_that_hangs_is_not_waited_for(harness: EngineHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "STUCK_SECONDS", 0.1)
    responds = threading.Event()
    endpoint = harness.add(lambda: None, path="/f")
    harness.start().engine.write_soon(lambda: responds.wait(WAIT))
    wait_until(lambda: not harness.engine.health()[0])
    with pytest.raises(NotTakenError, match="cannot be written"):
        harness.deliver(endpoint)
    assert harness.stop(0) is False
    responds.set()
