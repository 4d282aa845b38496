"""The end of a server: what runs, what is told, and what the disk does in that moment."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from support.dispatching import WAIT, Dashboard, start, statuses, wait_until

from webhooks.deliveries import writer
from webhooks.deliveries.engine import Engine, NotTakenError
from webhooks.deliveries.log import STOPPED, DeliveryLog
from webhooks.redact import Redactor


@pytest.fixture
def when_all_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Do something in the moment when a stop has waited for everything and only the last writes remain."""

    def do(what: Callable[[], object]) -> None:
        monkeypatch.setattr("webhooks.deliveries.engine.LAST_WRITES", 0.1)
        finish = writer.Writer.close
        done: list[object] = []

        def finish_and_do(self: writer.Writer, last: Callable[[], None]) -> None:
            finish(self, last)
            if not done:
                done.append(what())

        monkeypatch.setattr(writer.Writer, "close", finish_and_do)

    return do


def test_a_stopping_server_takes_nothing_and_lets_running_handlers_end(harness: EngineHarness) -> None:
    gate, started = threading.Event(), threading.Event()

    def slow() -> str:
        started.set()
        gate.wait(WAIT)
        return "in time"

    endpoint = harness.add(slow)
    answer = harness.start().send(endpoint)
    assert started.wait(WAIT)
    engine = harness.engine
    stopper = threading.Thread(target=engine.stop, args=(WAIT,))
    stopper.start()
    while engine.health()[0]:
        assert stopper.is_alive()
    with pytest.raises(NotTakenError, match="stopping"):
        harness.deliver(endpoint)
    with pytest.raises(NotTakenError, match="stopping"):
        engine.replay("any")
    gate.set()
    assert answer.result(WAIT).body == b'"in time"'
    stopper.join()
    harness.engine = None
    assert [record.answer for record in harness.records()] == [b'"in time"']


def test_who_arrives_at_the_very_end_is_told_what_the_log_says(
    harness: EngineHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    add, arriving = DeliveryLog.add, threading.Event()

    def add_slowly(*args: Any, **options: Any) -> None:
        arriving.set()
        wait_until(lambda: harness.engine is None)
        add(*args, **options)

    monkeypatch.setattr(DeliveryLog, "add", add_slowly)
    ran = threading.Event()
    answer = harness.start().send(harness.add(ran.set, path="/f"))
    assert arriving.wait(WAIT)
    harness.stop(0)
    assert answer.result(WAIT).status_code == 202
    assert statuses(harness.records()) == ["queued"]
    assert not ran.is_set()


@pytest.mark.parametrize("step", ["finish", "fail_attempt"])
def test_what_a_slow_disk_has_not_written_when_all_is_waited_for_is_written(
    harness: EngineHarness, monkeypatch: pytest.MonkeyPatch, when_all_is_waited_for: Any, step: str
) -> None:
    gate, writing = threading.Event(), threading.Event()
    method = getattr(DeliveryLog, step)

    def slowly(*args: Any, **options: Any) -> None:
        writing.set()
        assert gate.wait(WAIT)
        method(*args, **options)

    monkeypatch.setattr(DeliveryLog, step, slowly)
    when_all_is_waited_for(gate.set)

    def handler() -> None:
        if step == "fail_attempt":
            raise ValueError

    endpoint = harness.add(handler)
    answer = harness.start().send(endpoint)
    if step == "finish":
        assert answer.result(WAIT).status_code == 200
    assert writing.wait(WAIT)
    harness.stop(0.1)
    assert statuses(harness.records()) == ["succeeded" if step == "finish" else "failed"]


def test_a_disk_that_does_not_answer_ends_the_wait_and_the_next_start_goes_on(
    harness: EngineHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    finish = DeliveryLog.finish

    def stuck(*args: Any) -> None:
        assert gate.wait(WAIT)
        finish(*args)

    endpoint = harness.add(lambda: None, path="/f")
    harness.start()
    with monkeypatch.context() as patched:
        patched.setattr(writer, "STUCK_AFTER", 0.2)
        patched.setattr("webhooks.deliveries.engine.LAST_WRITES", 0.1)
        patched.setattr(DeliveryLog, "finish", stuck)
        assert harness.deliver(endpoint).status_code == 200
        engine = harness.engine
        assert harness.stop(0) is False
        gate.set()
        engine.writer.wait()
        engine.log.close()  # as the end of the process does
    assert statuses(harness.start().records()) == ["succeeded"]


@pytest.mark.parametrize("when", ["before", "during"])
def test_the_loop_that_serves_may_end_first(
    harness: EngineHarness, own_loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    monkeypatch.setattr("webhooks.deliveries.engine.LAST_WRITES", 0.1)
    started, gate = threading.Event(), threading.Event()

    def handler() -> None:
        started.set()
        gate.wait(WAIT)

    endpoint = harness.add(handler)
    engine = harness.engine = Engine(harness.endpoints, DeliveryLog(harness.folder), 10, Redactor())

    asyncio.run_coroutine_threadsafe(start(engine), own_loop).result(WAIT)
    asyncio.run_coroutine_threadsafe(engine.take(endpoint, harness.delivery(endpoint), WAIT), own_loop)
    assert started.wait(WAIT)
    if when == "before":
        own_loop.call_soon_threadsafe(own_loop.stop)
        wait_until(lambda: not own_loop.is_running())
    else:
        wait = engine._wait

        async def end(seconds: float) -> None:
            own_loop.stop()
            await wait(seconds)

        monkeypatch.setattr(engine, "_wait", end)
    assert harness.stop(0.1) is False
    gate.set()
    (record,) = harness.records()
    assert (record.status, [attempt.error for attempt in record.attempts]) == ("queued", [STOPPED])


def test_a_second_lifespan_changes_nothing(harness: EngineHarness) -> None:
    endpoint = harness.add(lambda: "served", path="/f")
    harness.start()

    asyncio.run(start(harness.engine))
    assert harness.deliver(endpoint).body == b'"served"'


def test_a_timed_out_handler_that_still_runs_is_told_to_whoever_ends_the_process(harness: EngineHarness) -> None:
    gate = threading.Event()
    endpoint = harness.add(lambda: gate.wait(WAIT), path="/f", timeout=0.05)
    assert harness.start().deliver(endpoint).status_code == 500
    assert harness.stop(0.1) is False
    gate.set()
    assert statuses(harness.records()) == ["failed"]


def test_the_loop_of_async_handlers_ends_with_the_server(harness: EngineHarness) -> None:
    runs: list[tuple[asyncio.AbstractEventLoop, threading.Thread]] = []
    cleaned_up = threading.Event()

    async def handler() -> None:
        runs.append((asyncio.get_running_loop(), threading.current_thread()))
        try:
            await asyncio.Event().wait()
        finally:
            cleaned_up.set()

    harness.start().record(harness.add(handler))
    wait_until(lambda: runs)
    assert harness.stop(0) is False
    assert cleaned_up.wait(WAIT)
    ((loop, thread),) = runs
    thread.join(WAIT)
    assert loop.is_closed()


def test_two_threads_may_stop_it(harness: EngineHarness) -> None:
    harness.start().deliver(harness.add(lambda: None, path="/f"))
    with ThreadPoolExecutor() as threads:
        assert list(threads.map(harness.engine.stop, [1.0, 1.0])) == [True, True]


def test_a_replay_on_a_slow_disk_runs_when_the_disk_answers(
    harness: EngineHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = harness.add(lambda: None, path="/f")
    id = harness.start().record(endpoint)
    gate = threading.Event()
    add_replay = DeliveryLog.add_replay

    def slowly(*args: Any) -> Any:
        assert gate.wait(WAIT)
        return add_replay(*args)

    monkeypatch.setattr(DeliveryLog, "add_replay", slowly)
    monkeypatch.setattr("webhooks.deliveries.engine.STUCK_AFTER", 0.05)
    with pytest.raises(NotTakenError, match="does not answer"):
        harness.engine.replay(id)
    gate.set()
    harness.wait_for("succeeded", 2)


def test_a_replay_against_the_stop_is_refused_or_waits_for_the_next_start(harness: EngineHarness) -> None:
    endpoint = harness.add(lambda: None, path="/f")
    id = harness.start().record(endpoint)
    engine, replays = harness.engine, []

    def replay() -> None:
        with contextlib.suppress(NotTakenError):
            while True:
                replays.append(engine.replay(id))

    with ThreadPoolExecutor() as threads:
        asked = threads.submit(replay)
        wait_until(lambda: replays)
        harness.stop()
        asked.result(WAIT)
    harness.start().wait_for("succeeded", 1 + len(replays))
    assert [record.delivery.id for record in harness.records()][1:] == replays
