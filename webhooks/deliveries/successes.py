"""Successes are written down together: nobody waits, and each commit takes the interpreter lock from all else."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from ..console import log, title
from ..delivery import Delivery
from .commits import Commits
from .handlers import Ended
from .log import DeliveryLog

if TYPE_CHECKING:
    from .life import Life

LINGER = 0.01  # seconds that a success waits for others


class Success(NamedTuple):
    """A delivery whose handler has ended, and who was told so, after so many seconds."""

    life: Life
    delivery: Delivery
    ended: Ended
    seconds: float


class Successes:
    """Those that are told, and still to be written down.

    Args:
        begin: makes a task of a coroutine.
        fault: told of an error that is ours.
    """

    def __init__(
        self,
        log: DeliveryLog,
        commits: Commits,
        begin: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        fault: Callable[[str, BaseException], None],
    ) -> None:
        self._log, self._commits, self._begin, self._fault = log, commits, begin, fault
        self._told: list[Success] = []
        self.writing: asyncio.Task[None] | None = None

    def add(self, success: Success) -> None:
        if not self._told:
            self.writing = self._begin(self._write_all())
        self._told.append(success)

    def write(self) -> None:
        """Write down all that are told: a step, in the thread that writes."""
        self._write(self._told[:])

    def _write(self, successes: list[Success]) -> None:
        for _, delivery, ended, _ in successes:
            self._log.add_jobs(delivery.id, delivery.jobs)
            self._log.finish(delivery.id, "succeeded", ended.answer.status_code, ended.kept)

    async def _write_all(self) -> None:
        while self._told:
            await asyncio.sleep(LINGER)
            written = self._told[:]  # they stay there until they are written, where a stop finds them
            try:
                await self._commits.surely(partial(self._write, written))
            except Exception as error:
                self._fault("The successes of a moment", error)
            else:
                for success in written:
                    success.life.move("succeeded")
                lines = [f"{title(s.delivery)}: succeeded in {s.seconds:.2f} s" for s in written]
                log(logging.INFO, "%s", "\n".join(lines))
            del self._told[: len(written)]
