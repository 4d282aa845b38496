"""The log is kept from growing: old deliveries go, a few at a time."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter

from ..delivery import FINISHED
from .commits import Commits
from .log import DeliveryLog

PRUNE_EVERY = 60.0  # seconds
PRUNE_AGAIN = 1.0  # seconds, while there still was something to prune
PRUNED_AT_ONCE = 200  # deliveries, so that none that arrives has to wait long
CLOCK_IS_RIGHT_AFTER = 3600.0  # seconds without a jump of the clock, before it may say what is too old


class Pruner:
    """Deletes finished deliveries that are over the limit, or too old.

    Args:
        counts: deliveries by status; what is pruned is taken from them.
    """

    def __init__(self, log: DeliveryLog, commits: Commits, counts: Counter[str]) -> None:
        self._log, self._commits, self._counts = log, commits, counts
        self._clock = time.time() - time.monotonic()
        self._clock_jumped_at = time.monotonic()
        self._finished = asyncio.Event()

    def one_has_finished(self, number: int) -> None:
        """Learn of one more, of so many in this process."""
        if number % PRUNED_AT_ONCE == 0:
            self._finished.set()

    async def run(self) -> None:
        """Prune for ever: now and then, and whenever so many have come that it is worth a statement."""
        while True:
            self._finished.clear()
            pruned = await self._prune()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._finished.wait(), PRUNE_AGAIN if pruned else PRUNE_EVERY)

    async def _prune(self) -> int:
        excess = max(0, sum(self._counts[status] for status in FINISHED) - self._log.keep)
        by_age = self._clock_is_right()
        pruned = await self._commits.surely(lambda: self._log.prune(excess, PRUNED_AT_ONCE, by_age=by_age))
        self._counts.subtract(pruned)
        return sum(pruned.values())

    def _clock_is_right(self) -> bool:
        """A clock that was set wrong, or has just jumped, must not make everything too old."""
        now, clock = time.monotonic(), time.time() - time.monotonic()
        if abs(clock - self._clock) > CLOCK_IS_RIGHT_AFTER:
            self._clock, self._clock_jumped_at = clock, now
        return now - self._clock_jumped_at >= CLOCK_IS_RIGHT_AFTER
