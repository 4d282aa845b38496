"""Calls that an event loop makes when something has taken too long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Deadlines:
    """Has a loop make calls that are all due equally late, unless they are called off.

    One timer serves them all. Nearly every one is called off after a few milliseconds, and a timer for each would cost
    a twentieth of what a delivery costs.

    Args:
        seconds: from `set` to the call. It must not raise.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        self._loop = loop
        self._seconds = seconds
        self._calls: dict[object, tuple[float, Callable[[], object]]] = {}  # in the order in which they are due
        self._has_timer = False

    def set(self, key: object, call: Callable[[], object]) -> None:
        due_at = self._loop.time() + self._seconds
        self._calls[key] = due_at, call
        if not self._has_timer:
            self._wait_until(due_at)

    def call_off(self, key: object) -> None:
        """Forget the call that was set with this key, if it has not been made."""
        self._calls.pop(key, None)

    def _wait_until(self, due_at: float) -> None:
        self._has_timer = True
        self._loop.call_at(due_at, self._make_due_calls)

    def _make_due_calls(self) -> None:
        self._has_timer = False
        while self._calls:
            key, (due_at, call) = next(iter(self._calls.items()))
            if due_at > self._loop.time():
                self._wait_until(due_at)
                return
            del self._calls[key]
            call()
