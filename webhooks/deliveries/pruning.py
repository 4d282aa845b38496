"""How many deliveries the log has, and that they do not become too many: old ones go, a few at a time."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter

from ..delivery import FINISHED, UNFINISHED
from .commits import Commits
from .log import DeliveryLog

PRUNE_EVERY = 60.0  # seconds
PRUNE_AGAIN = 1.0  # seconds, while there still was something to prune
PRUNED_AT_ONCE = 200  # deliveries, so that none that arrives has to wait long
CLOCK_IS_RIGHT_AFTER = 3600.0  # seconds without a jump of the clock, before it may say what is too old


class Pruner:
    """Counts the deliveries of the log, and deletes finished ones that are over the limit, or too old.

    Attributes:
        counts: how many there are, by status.
    """

    def __init__(self, log: DeliveryLog, commits: Commits) -> None:
        self._log, self._commits = log, commits
        self.counts: Counter[str] = log.counts()
        self._finished = 0  # since the start
        self._clock = time.time() - time.monotonic()
        self._clock_jumped_at = time.monotonic()
        self._are_many = asyncio.Event()

    def count(self, before: str | None, now: str) -> None:
        """Count a delivery whose status has changed, or that is new."""
        if before in UNFINISHED:
            self.counts[before] -= 1
        self.counts[now] += 1
        if now in FINISHED:
            self._finished += 1
            if self._finished % PRUNED_AT_ONCE == 0:
                self._are_many.set()

    async def run(self) -> None:
        """Prune for ever: now and then, and whenever so many have come that it is worth a statement."""
        while True:
            self._are_many.clear()
            pruned = await self._prune()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._are_many.wait(), PRUNE_AGAIN if pruned else PRUNE_EVERY)

    async def _prune(self) -> int:
        excess = max(0, sum(self.counts[status] for status in FINISHED) - self._log.keep)
        by_age = self._clock_is_right()
        pruned = await self._commits.surely(lambda: self._log.prune(excess, PRUNED_AT_ONCE, by_age=by_age))
        self.counts.subtract(pruned)
        return sum(pruned.values())

    def _clock_is_right(self) -> bool:
        """A clock that was set wrong, or has just jumped, must not make everything too old."""
        now, clock = time.monotonic(), time.time() - time.monotonic()
        if abs(clock - self._clock) > CLOCK_IS_RIGHT_AFTER:
            self._clock, self._clock_jumped_at = clock, now
        return now - self._clock_jumped_at >= CLOCK_IS_RIGHT_AFTER
