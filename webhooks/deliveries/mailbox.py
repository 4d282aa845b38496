"""Calls that other threads leave for an event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any


class Mailbox:
    """Has a loop make calls, in their order. Many that come together wake it once: each wake-up costs a system call.

    `asyncio`'s own `call_soon_threadsafe` wakes it for each.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._calls: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._is_woken = False

    def post(self, call: Callable[..., object], *args: Any) -> None:
        """Leave a call, from any thread. It must not raise.

        Raises:
            RuntimeError: the loop is closed.
        """
        self._calls.append((call, args))
        # No lock: what is left after the loop has begun to look finds this unset.
        if not self._is_woken:
            self._is_woken = True
            self.loop.call_soon_threadsafe(self._open)

    def _open(self) -> None:
        self._is_woken = False
        while self._calls:
            call, args = self._calls.popleft()
            call(*args)
