"""How handlers run: threads, loops, timeouts, and the errors that they raise."""

from __future__ import annotations

import asyncio
import threading

import pytest
from fastapi import Depends, HTTPException
from support.engines import WAIT, EngineHarness

from webhooks import Delivery


@pytest.mark.parametrize("is_async", [False, True])
def test_timeout_fails_the_attempt(harness: EngineHarness, is_async: bool) -> None:
    end, ended = threading.Event(), threading.Event()

    def block() -> str:
        end.wait(WAIT)
        ended.set()
        return "too late"

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        finally:  # it is cancelled
            ended.set()

    assert harness.start().deliver(harness.add(wait if is_async else block, timeout=0.05)).status_code == 500
    end.set()
    assert ended.wait(WAIT)
    (record,) = harness.records()
    assert (record.status, len(record.attempts)) == ("failed", 1)
    assert "TimeoutError: The handler took longer than its timeout of 0.05 seconds." in record.attempts[0].error


def test_blocking_handlers_delay_no_others(harness: EngineHarness) -> None:
    end, running = threading.Event(), threading.Semaphore(0)

    def block() -> None:
        running.release()
        end.wait(WAIT)

    def block_by_fastapi(n: int = 0) -> None:
        block()

    async def block_the_loop() -> None:
        block()

    def quick() -> None: ...
    def quick_by_fastapi(n: int = 0) -> None: ...
    async def quick_async() -> None: ...

    blocking = [harness.add(handler) for handler in (block, block_by_fastapi)]
    others = [harness.add(handler) for handler in (quick, quick_by_fastapi, quick_async)]
    harness.start()
    sent = [harness.send(endpoint) for endpoint in blocking * 50]
    assert [harness.deliver(endpoint).status_code for endpoint in others] == [200] * 3
    sent.append(harness.send(harness.add(block_the_loop)))
    for _ in sent:
        assert running.acquire(timeout=WAIT)
    assert [harness.deliver(endpoint).status_code for endpoint in others[:2]] == [200] * 2
    end.set()
    assert [response.result(WAIT).status_code for response in sent] == [200] * 101


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise ValueError


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(SystemExit(1), id="sys.exit"),
        pytest.param(asyncio.CancelledError(), id="cancelled"),
        pytest.param(UnprintableError(), id="unprintable"),
        pytest.param(HTTPException(404, "text", {"X-Title": "a\r\nSet-Cookie: b"}), id="header with a line break"),
        pytest.param(ValueError("y" * 5_000_000), id="5 MB of text"),
        pytest.param(StopIteration(), id="StopIteration"),
        pytest.param(RuntimeError("can't start new thread"), id="no thread for the handler itself"),
    ],
)
@pytest.mark.parametrize("kind", ["def", "async def", "def by FastAPI"])
def test_any_error_fails_the_delivery(harness: EngineHarness, error: BaseException, kind: str) -> None:
    def handler() -> None:
        raise error

    async def async_handler() -> None:
        raise error

    def filled_handler(number: int = 1) -> None:
        raise error

    failing = {"def": handler, "async def": async_handler, "def by FastAPI": filled_handler}[kind]
    assert harness.start().deliver(harness.add(failing)).status_code in (404, 500)
    assert harness.deliver(harness.add(failing, path="/again")).status_code in (404, 500)
    for record in harness.records():
        assert (record.status, record.failures) == ("failed", 1)
        assert 0 < len(record.attempts[0].error) < 200_000


def test_handler_runs_once_there_is_a_thread(harness: EngineHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("webhooks.deliveries.runner.THREAD_RETRY_SECONDS", 0.05)
    tried = threading.Event()

    def start(thread: threading.Thread) -> None:
        tried.set()
        raise RuntimeError("can't start new thread")

    gate, blocks = threading.Event(), threading.Event()

    def block() -> None:
        blocks.set()
        gate.wait(WAIT)

    async def by_fastapi(delivery: Delivery, number: int = Depends(lambda: 1)) -> int:
        return delivery.attempt

    endpoints = [harness.add(lambda delivery: delivery.attempt, path="/f"), harness.add(by_fastapi)]
    harness.start().send(harness.add(block))
    assert blocks.wait(WAIT)  # the only thread of the pool is in use
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        sent = []
        for endpoint in endpoints:
            tried.clear()
            sent += [harness.send(endpoint) for _ in range(3)]
            assert tried.wait(WAIT)
    gate.set()
    assert [response.result(WAIT).body for response in sent] == [b"1"] * 6
    assert [record.failures for record in harness.records()] == [0] * 7


@pytest.mark.parametrize("place", [64 * 1024 - 6, 64 * 1024 - 3, 64 * 1024])
def test_log_has_no_secret_of_a_response(harness: EngineHarness, place: int) -> None:
    text = "s3cret" * 10 + "x" * (place - 60) + "s3cret" + "y" * 200_000
    response = harness.start().deliver(harness.add(lambda: text, path="/f"))
    assert response.body == f'"{text}"'.encode()
    stored = harness.records()[0].answer
    assert 0 < len(stored) <= 64 * 1024
    assert b"s3" not in stored
