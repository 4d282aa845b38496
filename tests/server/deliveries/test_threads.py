"""How threads leave things for each other: the inbox of the bookkeeping, and the mailbox of an event loop."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator

import pytest

from webhooks import inbox
from webhooks.inbox import Inbox
from webhooks.mailbox import Mailbox

WAIT = 20.0


@pytest.fixture
def slow_linger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "LINGER", WAIT)


def test_all_that_is_there_is_taken_at_once_in_its_order() -> None:
    box: Inbox[int] = Inbox()
    for number in range(5):
        box.put(number)
    assert box.take(3) == [0, 1, 2]
    assert box.take(3) == [3, 4]
    assert box.take(3, wait=0) == []


@pytest.mark.usefixtures("slow_linger")
def test_what_can_wait_comes_with_the_next_thing() -> None:
    box: Inbox[str] = Inbox()
    box.put_later("later")
    threading.Timer(0.05, box.put, ["now"]).start()
    assert box.take(9, wait=WAIT) == ["later", "now"]


def test_what_can_wait_waits_for_a_moment_only() -> None:
    box: Inbox[str] = Inbox()
    box.put_later("later")
    assert box.take(9) == ["later"]


def test_what_can_wait_wakes_a_thread_that_sleeps() -> None:
    box: Inbox[str] = Inbox()
    taken: list[list[str]] = []
    thread = threading.Thread(target=lambda: taken.append(box.take(9)))
    thread.start()
    while not box._sleeps:
        time.sleep(0.001)
    box.put_later("later")
    thread.join(WAIT)
    assert taken == [["later"]]


def test_one_who_waits_is_not_sent_away_with_nothing_because_of_a_wake_up_that_came_too_late() -> None:
    box: Inbox[str] = Inbox()
    box._sleeps = True
    box.put_later("first")
    box.put_later("second")
    box._sleeps = False
    assert box.take(9) == ["first", "second"]
    box.put_later("third")
    box._urgent.put(None)
    box._urgent.put(None)
    assert box.take(1) == ["third"]
    threading.Timer(0.05, box.put, ["now"]).start()
    assert box.take(9) == ["now"]


def test_nothing_that_several_threads_leave_is_lost() -> None:
    box: Inbox[tuple[int, int]] = Inbox()

    def leave(thread: int) -> None:
        for number in range(2000):
            (box.put if number % 3 else box.put_later)((thread, number))

    threads = [threading.Thread(target=leave, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    taken: set[tuple[int, int]] = set()
    deadline = time.monotonic() + WAIT
    while len(taken) < 8000:
        assert time.monotonic() < deadline
        items = box.take(64)
        assert 0 < len(items) <= 64
        taken.update(items)
    assert box.take(64, wait=0) == []


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join(WAIT)
    loop.close()


def test_calls_are_made_on_the_loop_in_their_order_and_none_is_lost(loop: asyncio.AbstractEventLoop) -> None:
    mailbox, calls, done = Mailbox(loop), [], threading.Event()

    def call(thread: int, number: int) -> None:
        assert asyncio.get_running_loop() is loop
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


def test_a_call_that_is_left_waits_until_the_loop_is_woken(loop: asyncio.AbstractEventLoop) -> None:
    mailbox, calls, done = Mailbox(loop), [], threading.Event()
    mailbox.leave(calls.append, "left")
    asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result(WAIT)
    assert calls == []
    mailbox.post(done.set)
    assert done.wait(WAIT)
    assert calls == ["left"]


def test_a_loop_that_is_closed_is_an_error() -> None:
    loop = asyncio.new_event_loop()
    loop.close()
    with pytest.raises(RuntimeError):
        Mailbox(loop).post(print)
