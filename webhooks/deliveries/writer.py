"""Writes to the log: one thread commits, and all that has come during a commit shares the next one."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeVar

logger = logging.getLogger("webhooks")

RETRY_AFTER = 1.0  # seconds between two tries to write what could not be written
STUCK_AFTER = 10.0  # seconds that a commit has been under way, before the disk is taken for one that hangs

T = TypeVar("T")


class NotWrittenError(Exception):
    """The disk does not take a step, and nothing of it is in the log."""


@dataclass(eq=False)
class _Write:
    """A step that is to be written down: what it returned or raised is told when it is on the disk."""

    step: Callable[[], Any]
    future: asyncio.Future[Any] | None = None  # nobody waits for the last one
    value: Any = None
    error: BaseException | None = None

    def do(self) -> None:
        if self.future is None or not self.future.cancelled():
            self.value = self.step()

    def tell(self) -> None:
        if self.future and not self.future.done():
            self.future.set_exception(self.error) if self.error else self.future.set_result(self.value)


class Writer:
    """Runs steps in a thread of its own, as transactions, one after the other.

    Args:
        transaction: what a step runs in; it is on the disk when that ends.
    """

    def __init__(self, transaction: Callable[[], AbstractContextManager[None]]) -> None:
        self._transaction = transaction
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()  # `None` is the end
        self._began: float | None = None  # by the monotonic clock, the commit that is under way
        self._is_closed = False
        self.is_failing = False  # the last commit was not taken
        self._thread = threading.Thread(target=self._work, name="webhook log", daemon=True)
        self._thread.start()

    @property
    def is_stuck(self) -> bool:
        """Whether the disk does not answer."""
        began = self._began
        return began is not None and time.monotonic() - began > STUCK_AFTER

    async def written(self, step: Callable[[], T]) -> T:
        """Run a step in the next commit, and return what it returned once that is on the disk.

        Whoever is cancelled before its step has begun has written nothing.

        Raises:
            NotWrittenError: the disk does not take it.
            Exception: what the step raised; nothing of it was written.
        """
        self._loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = self._loop.create_future()
        if not self._is_closed:  # after that nothing is written, and whoever waits is cancelled with the loop
            self._waiting.put(_Write(step, future))
        return await future

    async def surely(self, step: Callable[[], T]) -> T:
        """Do the same, as often as it takes."""
        while True:
            try:
                return await self.written(step)
            except NotWrittenError:
                await asyncio.sleep(RETRY_AFTER)

    def close(self, last: Callable[[], None]) -> None:
        """Write what is waiting, then a last step, and nothing after that."""
        if not self._is_closed:
            self._is_closed = True
            self._waiting.put(_Write(last))
            self._waiting.put(None)

    def wait(self) -> bool:
        """Wait for the last step, from another thread; return `False` if the disk does not answer."""
        self._thread.join(STUCK_AFTER)
        return not self._thread.is_alive()

    # In the thread

    def _work(self) -> None:
        while batch := self._next_batch():
            self._began = time.monotonic()
            self._write(batch)
            self._began = None
            if self._loop:
                with contextlib.suppress(RuntimeError):  # it is closed
                    self._loop.call_soon_threadsafe(_tell, batch)

    def _next_batch(self) -> list[_Write]:
        """Take all that waits, if need be after the first of it has come; an empty list is the end."""
        batch = []
        while (write := self._waiting.get()) is not None:
            batch.append(write)
            if self._waiting.empty():
                return batch
        self._waiting.put(None)  # for the next time
        return batch

    def _write(self, batch: list[_Write]) -> None:
        try:
            with self._transaction():
                for write in batch:
                    write.do()
        except BaseException as error:
            is_locked = isinstance(error, sqlite3.OperationalError) and "locked" in str(error)
            if len(batch) > 1 and not is_locked:  # one that cannot be written must not keep the others from it
                for write in batch:
                    self._write([write])
                return
            is_of_the_disk = _is_of_the_disk(error)
            if is_of_the_disk and not self.is_failing:
                message = "The delivery log cannot be written (%s). New deliveries get a 503 until it can. %s"
                logger.error(message, error, "Is the disk full?")
            self.is_failing = is_of_the_disk or self.is_failing
            for write in batch:
                write.error = NotWrittenError(str(error)) if is_of_the_disk else error
        else:
            if self.is_failing:
                logger.info("The delivery log can be written again.")
            self.is_failing = False


def _tell(batch: list[_Write]) -> None:
    for write in batch:
        write.tell()


def _is_of_the_disk(error: BaseException) -> bool:
    # The subclasses of `DatabaseError` but for this one are about the step: to repeat it would not help.
    return isinstance(error, (OSError, sqlite3.OperationalError)) or type(error) is sqlite3.DatabaseError
