"""Threads for what is not `async`."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import queue
import threading
from collections import deque
from collections.abc import Callable
from functools import partial

from .. import own_loop

IDLE = 10.0  # seconds that a thread waits for its next call
PATIENCE = 0.002  # seconds that a call waits for the one before it


class Threads:
    """Threads that are used again. Python never waits for one at its end.

    Calls that come together run one after the other in one thread, as long as each is short: in threads of their own
    they would wait longer, for the interpreter. When one is not short, all that wait for it get threads of their own.

    `anyio.to_thread` has such threads, too, but each of its calls costs as much as all else that a delivery costs.

    Args:
        loop: the one that `run` is called on.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._calls: deque[Callable[[], object]] = deque()
        self._idle: deque[queue.SimpleQueue[None]] = deque()  # each of them wakes its thread
        self._are_taken = False  # a thread takes one call after the other
        self._timer: asyncio.TimerHandle | None = None

    def run(self, call: Callable[[], object]) -> None:
        """Make a call, which must not raise.

        Raises:
            RuntimeError: the machine gives no more threads.
        """
        call = partial(contextvars.copy_context().run, call)  # else it would find what the last call has set
        self._calls.append(call)
        if self._are_taken:
            self._watch()
            return
        self._are_taken = True
        try:
            self._wake()
        except RuntimeError:
            self._are_taken = False
            with contextlib.suppress(ValueError):  # a thread has it by now
                self._calls.remove(call)
                raise

    def _watch(self) -> None:
        if self._timer is None and (first := self._first()):
            self._timer = self._loop.call_later(PATIENCE, self._relieve, first)

    def _first(self) -> Callable[[], object] | None:
        try:
            return self._calls[0]
        except IndexError:
            return None

    def _relieve(self, first: Callable[[], object]) -> None:
        self._timer = None
        if self._first() is first:  # it has waited all the time
            with contextlib.suppress(RuntimeError):  # no more threads: those there are go on, and this looks again
                for _ in range(len(self._calls)):
                    self._wake()
        self._watch()

    def _wake(self) -> None:
        try:
            wake = self._idle.pop()
        except IndexError:
            wake = queue.SimpleQueue()
            threading.Thread(target=self._work, args=(wake,), name="webhook handler", daemon=True).start()
        wake.put(None)

    def _work(self, wake: queue.SimpleQueue[None]) -> None:
        while True:
            try:
                wake.get(timeout=IDLE)
            except queue.Empty:
                try:
                    self._idle.remove(wake)
                except ValueError:  # it is woken in this moment
                    continue
                own_loop.close_loop()
                return
            self._take_calls()
            self._idle.append(wake)

    def _take_calls(self) -> None:
        while True:
            try:
                call = self._calls.popleft()
            except IndexError:
                self._are_taken = False
                if self._calls:  # one has come in this moment, and counts on this thread
                    continue
                return
            call()
