"""How threads leave calls for an event loop."""

from __future__ import annotations

import asyncio
import threading

import pytest
from support.dispatching import WAIT

from webhooks.deliveries.mailbox import Mailbox


def test_calls_are_made_on_the_loop_in_their_order_and_none_is_lost(own_loop: asyncio.AbstractEventLoop) -> None:
    mailbox, calls, done = Mailbox(own_loop), [], threading.Event()

    def call(thread: int, number: int) -> None:
        assert asyncio.get_running_loop() is own_loop
        calls.append((thread, number))
        if len(calls) == 8000:
            done.set()

    def leave(thread: int) -> None:
        for number in range(2000):
            mailbox.post(call, thread, number)

    threads = [threading.Thread(target=leave, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    assert done.wait(WAIT)
    for thread in range(4):
        assert [number for of, number in calls if of == thread] == list(range(2000))


def test_calls_that_come_together_wake_the_loop_once(
    own_loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    mailbox, wake_ups, gate, done = Mailbox(own_loop), [], threading.Event(), threading.Event()
    wake_up = own_loop.call_soon_threadsafe
    monkeypatch.setattr(own_loop, "call_soon_threadsafe", lambda call: (wake_ups.append(call), wake_up(call)))
    wake_up(gate.wait, WAIT)
    for _ in range(100):
        mailbox.post(int)
    mailbox.post(done.set)
    gate.set()
    assert done.wait(WAIT)
    assert len(wake_ups) == 1


def test_a_loop_that_is_closed_is_an_error() -> None:
    loop = asyncio.new_event_loop()
    loop.close()
    with pytest.raises(RuntimeError):
        Mailbox(loop).post(print)
