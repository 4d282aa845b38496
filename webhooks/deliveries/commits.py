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
from typing import Any, TypeVar

from ..console import escaped, log

RETRY_AFTER = 1.0  # seconds between two tries to write what could not be written
STUCK_AFTER = 10.0  # seconds that a commit has been under way, before the disk is taken for one that hangs

T = TypeVar("T")


class NotWritten(Exception):
    """The disk does not take a step, and nothing of it is in the log."""


class _Write:
    """A step that is to be written down: what it returned or raised is told when it is on the disk."""

    __slots__ = ("error", "future", "step", "value")

    def __init__(self, step: Callable[[], Any], future: asyncio.Future[Any] | None) -> None:
        self.step, self.future = step, future
        self.value: Any = None
        self.error: BaseException | None = None

    def do(self) -> None:
        if self.future is None or not self.future.cancelled():
            self.value = self.step()

    def tell(self) -> None:
        if self.future is None or self.future.done():
            return
        if self.error:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.value)


class Commits:
    """Runs steps in a thread of its own, as transactions, one after the other.

    Args:
        transaction: what a step runs in; it is on the disk when that ends.
        probe: a step that raises if the disk has no room.
    """

    def __init__(self, transaction: Callable[[], AbstractContextManager[None]], probe: Callable[[], None]) -> None:
        self._transaction = transaction
        self._probe = probe
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()  # `None` is the end
        self._began: float | None = None  # by the monotonic clock, the commit that is under way
        self._probing: asyncio.Task[None] | None = None  # while nothing can be written
        self._finished = False
        self._thread = threading.Thread(target=self._work, name="webhook log", daemon=True)
        self._thread.start()

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let `loop` be the one that steps come from."""
        self._loop = loop

    @property
    def are_possible(self) -> bool:
        """Whether the disk takes what is written, and answers."""
        began = self._began
        is_stuck = began is not None and time.monotonic() - began > STUCK_AFTER
        return self._probing is None and not is_stuck

    async def written(self, step: Callable[[], T]) -> T:
        """Run a step in the next commit, and return what it returned once that is on the disk.

        Whoever is cancelled before its step has begun has written nothing.

        Raises:
            NotWritten: the disk does not take it.
            Exception: what the step raised; nothing of it was written.
        """
        assert self._loop
        future: asyncio.Future[T] = self._loop.create_future()
        if not self._finished:  # after that nothing is written, and whoever waits is cancelled with the loop
            self._waiting.put(_Write(step, future))
        try:
            return await future
        except NotWritten as error:
            self._cannot_write(error)
            raise

    async def surely(self, step: Callable[[], T]) -> T:
        """Do the same, as often as it takes."""
        while True:
            try:
                return await self.written(step)
            except NotWritten:
                await asyncio.sleep(RETRY_AFTER)

    def finish(self, last: Callable[[], None]) -> None:
        """Write what is waiting, then a last step, and nothing after that. On the loop, or when that has ended."""
        if self._finished:
            return
        self._finished = True
        self._waiting.put(_Write(last, None))
        self._waiting.put(None)
        if self._probing:
            self._probing.cancel()

    def wait(self) -> bool:
        """Wait for the last step, from another thread; return `False` if the disk does not answer."""
        self._thread.join(STUCK_AFTER)
        return not self._thread.is_alive()

    def _cannot_write(self, error: NotWritten) -> None:
        if self._probing is None and not self._finished:
            assert self._loop
            self._probing = self._loop.create_task(self._until_it_can_be_written())
            message = (
                "The delivery log cannot be written (%s). New deliveries get a 503 until it can. Is the disk full?"
            )
            log(logging.ERROR, message, escaped(str(error)))

    async def _until_it_can_be_written(self) -> None:
        while True:
            await asyncio.sleep(RETRY_AFTER)
            with contextlib.suppress(NotWritten):
                await self.written(self._probe)
                break
        self._probing = None
        log(logging.INFO, "The delivery log can be written again.")

    # In the thread

    def _work(self) -> None:
        while batch := self._next_batch():
            self._began = time.monotonic()
            self._write(batch)
            self._began = None
            if self._loop:
                with contextlib.suppress(RuntimeError):  # it is closed
                    self._loop.call_soon_threadsafe(_report, batch)

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
            else:  # to wait again for each helps nobody
                for write in batch:
                    write.error = _not_written(error) if _is_of_the_disk(error) else error


def _report(batch: list[_Write]) -> None:
    for write in batch:
        write.tell()


def _is_of_the_disk(error: BaseException) -> bool:
    # The subclasses of `DatabaseError` but for this one are about the step: to repeat it would not help.
    return isinstance(error, (OSError, sqlite3.OperationalError)) or type(error) is sqlite3.DatabaseError


def _not_written(error: BaseException) -> NotWritten:
    return NotWritten(str(error) or type(error).__name__)
