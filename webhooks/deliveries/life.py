"""The life of a delivery: `Life.live`, which is read from top to bottom.

Everything here runs on the loop that serves, and nothing of a user's does. What a delivery waits for is a commit, its
handler, or time. It is in the log before its handler runs or its sender is answered, so nothing happens that a crash
could undo, but for one thing: a success is answered as soon as it is known, and written down a moment later. A crash
in between makes the handler run again, which it may at any time.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from starlette.responses import Response
from starlette.types import Scope

from .. import answers, console
from ..delivery import Delivery
from ..endpoints import Endpoint, find
from . import timing
from .commits import NotWritten
from .handlers import Ended
from .log import MAX_INTERRUPTIONS, Unfinished
from .successes import Success

if TYPE_CHECKING:
    from .engine import Engine

POSTPONE = 1.0  # seconds until a handler that the machine could not start is started again

UNWRITABLE = "The delivery log cannot be written."

Call = tuple[Endpoint, Delivery]  # a handler, and what it is called with


class NotTaken(Exception):
    """A delivery was neither recorded nor run; the text says why."""


@dataclass(eq=False, slots=True)
class Life:
    """A delivery that is not over: where it stands, and who waits for it.

    Attributes:
        path: of its endpoint.
        status: what the log says, or `arriving`.
        subject: what it is about, while a newer one about the same may take its place.
        due_at: when its next attempt begins, in seconds since 1970; `None` while it runs.
        failures: attempts that have failed.
        left: what the last process left of it, until that is written down as going on.
        scope: the request as it came, with what the log does not keep; `None` where another process took it.
        answer: what its sender is told, as soon as that is known.
        is_late: its sender has waited long enough, and is told as soon as it is recorded.
        alarm: what it sleeps until.
    """

    engine: Engine
    id: str
    path: str
    status: str
    subject: str | None = None
    due_at: float | None = None
    failures: int = 0
    left: Unfinished | None = None
    scope: Scope | None = field(default=None, repr=False)
    answer: asyncio.Future[Response] | None = None
    is_late: bool = False
    task: asyncio.Task[None] | None = None
    alarm: asyncio.Future[None] | None = None

    async def live(self, call: Call | None) -> None:
        """See the delivery through: from its arrival with its first call, or from where the log has it."""
        if self.left:
            await self._resume(self.left)
        elif call and not await self._record(*call):
            return
        while not self.engine.stopping:
            if self.due_at is not None:
                call = None  # what waits is read again from the log: a thousand long bodies need not stay here
                await self._sleep(self.due_at)
                call = await self._next_attempt()
            if call is None or self.engine.stopping:
                return  # a newer one has replaced it, or it cannot run, or it does so at the next start
            endpoint, delivery = call
            began = time.monotonic()
            ended = await self.engine.handlers.run(endpoint, delivery, self.tell)
            seconds = time.monotonic() - began
            if ended.error is None:
                self.tell(ended.answer)
                self.engine.successes.add(Success(self, delivery, ended, seconds))
                return
            await self._fail(endpoint, delivery, ended, seconds)
            if self.due_at is None:
                return
            del endpoint, delivery, ended

    async def _record(self, endpoint: Endpoint, delivery: Delivery) -> bool:
        """Write down what has arrived; return whether it is."""
        log, commits = self.engine.log, self.engine.commits
        replaced = None
        try:
            if self.subject is None:
                await commits.written(lambda: log.add(delivery, "running"))
            else:
                burst = delivery, self.subject, endpoint.debounce
                replaced, self.due_at = await commits.written(lambda: log.add_to_burst(*burst))
        except NotWritten:
            self.refuse(UNWRITABLE)
            return False
        self.move("running" if self.due_at is None else "scheduled")
        if replaced and (earlier := self.engine.lives.get(replaced)):
            earlier.move("superseded")
            if earlier.task:
                earlier.task.cancel()
        if self.is_late or self.due_at is not None:
            self.accept()
        return True

    async def _resume(self, left: Unfinished) -> None:
        """Write down that what the last process left goes on, or that it has ended the process too often."""
        log = self.engine.log
        reason = f"The process has ended {MAX_INTERRUPTIONS} times while this delivery's handler ran."
        reason = f"{reason} Does the handler end it, or use up the memory?"
        endpoint = find(self.engine.endpoints, self.path)
        longest_wait = endpoint.debounce if endpoint and left.subject else timing.MAX_BACKOFF

        def resume() -> float | None:
            due_at = log.resume(left, longest_wait)
            if due_at is None:
                log.abandon(self.id, answers.abandoned(self.id, reason))
            return due_at

        self.due_at = await self.engine.commits.surely(resume)
        self.left = None
        if self.due_at is None:
            self._is_abandoned(reason)
        elif self.status == "running":
            self.move("scheduled")

    async def _sleep(self, due_at: float) -> None:
        if (seconds := due_at - time.time()) > 0 and not self.engine.hurries:
            loop = asyncio.get_running_loop()
            self.alarm = loop.create_future()
            timer = loop.call_later(seconds, self.wake_up)
            try:
                await self.alarm
            finally:
                timer.cancel()
                self.alarm = None

    async def _next_attempt(self) -> Call | None:
        """Begin an attempt after a wait; return `None` if the delivery is over."""
        try:
            record = await self.engine.commits.surely(lambda: self.engine.log.start_attempt(self.id))
        except KeyError:  # a newer one has replaced it in the same moment
            return None
        except ValueError as error:
            await self._abandon(f"This delivery cannot be read any more: {error}.")
            return None
        self.move("running")
        self.subject, self.due_at, self.failures = None, None, record.failures
        delivery = record.delivery.received_before(self.scope, self.engine.secret)
        endpoint = find(self.engine.endpoints, self.path)
        if endpoint is None:
            await self._abandon(f"No handler is registered at {self.path} any more.")
        elif endpoint.way.takes_payload and delivery.payload is None:
            reason = f"The handler at {self.path} takes a payload now, and the body of this delivery is none."
            await self._abandon(reason)
        else:
            return endpoint, delivery
        return None

    async def _fail(self, endpoint: Endpoint, delivery: Delivery, ended: Ended, seconds: float) -> None:
        """Write down a failed attempt, and when the next one is due."""
        log = self.engine.log
        error = ended.error or ""
        wait: float | None = POSTPONE
        if ended.has_run:
            self.failures += 1
            is_last = ended.is_final or self.failures >= endpoint.max_attempts
            wait = None if is_last else timing.backoff(self.failures)
        due_at = self.due_at = None if wait is None else time.time() + wait

        def write() -> None:
            if ended.has_run:
                log.fail_attempt(self.id, error)
            else:
                log.forget_attempt(self.id)
            log.add_jobs(self.id, delivery.jobs)
            if due_at is None:
                log.finish(self.id, "failed", ended.answer.status_code, ended.kept)
            else:
                log.schedule(self.id, due_at)

        await self.engine.commits.surely(write)
        then = "for good" if wait is None else f"again in {wait:.1f} s"
        console.log(logging.ERROR, "%s: failed after %.2f s, %s\n%s", console.title(delivery), seconds, then, error)
        if due_at is None:
            self.move("failed")
            self.tell(ended.answer)
        else:
            self.move("scheduled")
            self.accept()

    async def _abandon(self, reason: str) -> None:
        """Fail a delivery that cannot run."""
        answer = answers.abandoned(self.id, reason)
        await self.engine.commits.surely(lambda: self.engine.log.abandon(self.id, answer))
        self._is_abandoned(reason)

    def _is_abandoned(self, reason: str) -> None:
        console.log(logging.ERROR, "delivery %s: %s failed: %s", self.id, self.path, console.escaped(reason))
        self.move("failed")

    def move(self, status: str) -> None:
        """Count what the log says now."""
        self.engine.pruner.count(self.status, status)
        self.status = status

    def wake_up(self) -> None:
        if self.alarm and not self.alarm.done():
            self.alarm.set_result(None)

    # Its sender

    def tell(self, answer: Response) -> None:
        if self.answer and not self.answer.done():
            self.answer.set_result(answer)

    def accept(self) -> None:
        if self.answer and not self.answer.done():  # else there is nobody to build an answer for
            self.answer.set_result(answers.accepted(self.id, self.status))

    def refuse(self, reason: str) -> None:
        if self.answer and not self.answer.done():
            self.answer.set_exception(NotTaken(reason))

    def has_waited(self) -> None:
        """Its sender waits no longer than it takes to write it down."""
        self.is_late = True
        if self.status == "running":
            self.accept()
