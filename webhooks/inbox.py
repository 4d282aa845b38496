"""What other threads leave for one that works it off."""

from __future__ import annotations

import contextlib
import queue
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")

LINGER = 0.002  # seconds that what can wait, waits for company


class Inbox(Generic[T]):
    """A queue from which one thread takes all that is there, and to which some things are brought without haste.

    To wake a thread for every little thing is what makes a busy server slow: each time all of them wait until it has
    been given Python's interpreter lock and has let go of it again.
    """

    def __init__(self) -> None:
        self._urgent: queue.SimpleQueue[T | None] = queue.SimpleQueue()  # `None`: there is something patient
        self._patient: deque[T] = deque()
        self._sleeps = False

    def put(self, item: T) -> None:
        self._urgent.put(item)

    def put_later(self, item: T) -> None:
        """Leave what may be taken together with the next thing that comes, or after a moment."""
        self._patient.append(item)
        if self._sleeps:
            self._urgent.put(None)

    def take(self, at_most: int, wait: float | None = None) -> list[T]:
        """Return all that is there, or what comes within `wait` seconds; without a limit if that is `None`."""
        while True:
            first = self._next(wait)
            room = at_most - (first is not None)
            items = [self._patient.popleft() for _ in range(min(room, len(self._patient)))]  # there for longer
            if first is not None:
                items.append(first)
            with contextlib.suppress(queue.Empty):
                while len(items) < at_most:
                    if (item := self._urgent.get_nowait()) is not None:
                        items.append(item)
            if items or wait is not None:
                return items

    def _next(self, wait: float | None) -> T | None:
        with contextlib.suppress(queue.Empty):
            return self._urgent.get(timeout=LINGER if wait is None else min(wait, LINGER))
        self._sleeps = True  # from now on `put_later` wakes this thread
        try:
            if self._patient or (wait is not None and wait <= LINGER):
                return None
            return self._urgent.get(timeout=wait)
        except queue.Empty:
            return None
        finally:
            self._sleeps = False
