"""Pending deliveries: when each one runs, and its whole life in `Processor.process`."""

from __future__ import annotations

import asyncio
import logging
import random
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import Response
from starlette.types import Scope

from .. import responses
from ..console import escaped, title
from ..delivery import UNFINISHED, Delivery
from ..endpoints import Endpoint, find
from ..payload import WebhookPayload
from .database import Database, NotWrittenError, no_step
from .log import DeliveryLog
from .runner import MAX_RETRY_AFTER_SECONDS, Result, Runner

logger = logging.getLogger("webhooks")

MAX_INTERRUPTIONS = 5  # ends of the process during the attempts of one delivery
REPORT_SECONDS = 0.05  # from a success to its line in the console
UNWRITABLE = "The delivery log cannot be written."
MAX_BACKOFF_SECONDS = 300.0


FailureListener = Callable[[Delivery, str], Any]
Call = tuple[Endpoint, Delivery, int]  # a handler, its delivery, and how often that has failed before


def backoff(failures: int) -> float:
    """Return the seconds to wait after so many failed attempts: about 1 after the first, then twice as many each time.

    The wait is drawn evenly from zero to that bound ("full jitter"), so that deliveries which failed together do not
    come back together.
    """
    return random.uniform(0, min(MAX_BACKOFF_SECONDS, 2.0 ** min(failures, 16)))  # noqa: S311 - not a secret


def debounce_key(endpoint: str, payload: WebhookPayload | None) -> str | None:
    """Return what an event is about: a newer event with the same key supersedes it. `None` without a payload.

    The key contains the kind of event, the refs and the discussion beside endpoint and repository. A comment must not
    supersede the commit to `main` that came a second before: the training would be lost.
    """
    if payload is None:
        return None
    refs = sorted(updated.ref for updated in payload.updatedRefs or ())
    discussion = [payload.discussion.id] if payload.discussion else []
    return " ".join([endpoint, payload.repo.type, payload.repo.name, payload.event.scope, *discussion, *refs])


class NotTakenError(Exception):
    """A delivery was neither recorded nor run; the text says why."""


def _future() -> asyncio.Future[Any]:
    return asyncio.get_running_loop().create_future()


@dataclass(eq=False)
class Pending:
    """A delivery that is not finished.

    Attributes:
        path: of its endpoint.
        status: the one in the log, or `arriving`.
        debounce_key: set while a newer delivery may supersede this one.
        due_at: when its next attempt begins, in seconds since 1970.
        scope: the request as it came, with credentials; `None` where another process received it.
        also: what is written in the same commit as the delivery itself.
        failure: why it must not run again.
        recorded: done once it is in the log; raises `NotTakenError` if it is refused.
        response: done once the response for its sender is known.
    """

    id: str
    path: str
    status: str = "queued"
    debounce_key: str | None = None
    due_at: float = 0.0
    scope: Scope | None = None
    also: Callable[[], object] = no_step
    failure: str | None = None
    recorded: asyncio.Future[None] = field(default_factory=_future)
    response: asyncio.Future[Response] = field(default_factory=_future)
    task: asyncio.Task[None] | None = None

    def respond(self, response: Response) -> None:
        if not self.response.done():
            self.response.set_result(response)

    def accepted(self) -> Response:
        return responses.accepted(self.id, self.status)

    def refuse(self, reason: str) -> None:
        """End the wait of the sender, if the delivery has not been recorded."""
        if not self.recorded.done():
            self.recorded.set_exception(NotTakenError(reason))
            self.recorded.exception()  # asyncio complains of an exception that nobody looks at

    @classmethod
    def from_row(cls, row: sqlite3.Row, debounce: float) -> Pending:
        """Return a delivery that another process has left, with the time of its next attempt.

        Args:
            debounce: seconds that it waits at most, if a newer delivery may supersede it.
        """
        pending = cls(row["id"], row["endpoint"], row["status"], row["subject"])
        if row["interruptions"] >= MAX_INTERRUPTIONS:
            reason = f"The process has ended {MAX_INTERRUPTIONS} times while this delivery's handler ran."
            pending.failure = f"{reason} Does the handler end it, or use up the memory?"
            return pending
        if row["due_at"] is not None:  # the clock may have been wrong when it was written
            longest = debounce if pending.debounce_key else MAX_RETRY_AFTER_SECONDS
            pending.due_at = min(row["due_at"], time.time() + longest)
        elif row["interruptions"]:
            pending.due_at = time.time() + backoff(row["interruptions"])
        return pending


class Processor:
    """See each delivery through. `process` is the whole life of a delivery, read from top to bottom.

    It runs on the serving loop, and nothing of a user's does. A delivery is in the log before its handler runs and
    before its sender gets a response. A success is sent first and written right afterwards: after a crash in between,
    the handler runs again, as it may at any time.

    Args:
        endpoints: by path.
        database: writes the log.
        log: the statements.
        runner: runs handlers.
        secret: the server's own, for requests that are rebuilt from the log.
        failure_listeners: told of each delivery that has failed for good.

    Attributes:
        pending: the deliveries that are not finished, by id.
        context: `app` and `state` for the requests that are rebuilt from the log.
        is_open_to_strangers: others reach the server, and it has no secret.
        is_stopping: no further attempt begins.
        skip_waits: set while tests skip backoff and debounce.
    """

    def __init__(
        self,
        endpoints: Mapping[str, Endpoint],
        database: Database,
        log: DeliveryLog,
        runner: Runner,
        secret: str | None,
        failure_listeners: Sequence[FailureListener],
    ) -> None:
        self.pending: dict[str, Pending] = {}
        self.context: Mapping[str, Any] = {}
        self.is_open_to_strangers = self.is_stopping = False
        self.skip_waits = asyncio.Event()
        self._endpoints, self._database, self._log, self._runner = endpoints, database, log, runner
        self._secret, self._failure_listeners = secret, failure_listeners
        self._successes: list[str] = []  # to be reported

    async def process(self, pending: Pending, call: Call | None) -> None:
        """Write a delivery down, run its handler, write down how that ended, and if need be wait and run it again.

        Args:
            call: the first attempt of a delivery that has just arrived; `None` for one that is in the log.
        """
        if pending.failure:
            await self._fail(pending, pending.failure)
            return
        if call:
            call = await self._record(pending, *call)
        while not self.is_stopping and pending.status in UNFINISHED:
            if call is None:  # read from the log again: the bodies of waiting deliveries need not stay in memory
                await self._sleep_until(pending.due_at)
                call = await self._start_attempt(pending)
            if call is None or self.is_stopping:
                return  # it is superseded, it cannot run, or it runs at the next start
            await self._run(pending, *call)
            call = None

    async def _record(self, pending: Pending, endpoint: Endpoint, delivery: Delivery, failures: int) -> Call | None:
        """Write down what has arrived. Return its first attempt, unless it has to wait."""
        key = pending.debounce_key

        def step() -> tuple[str | None, float]:
            pending.also()
            if key is not None:
                return self._log.add_debounced(delivery, key, endpoint.debounce)
            self._log.add(delivery, "running")
            return None, 0.0

        try:
            superseded, pending.due_at = await self._database.write(step)
        except NotWrittenError:
            pending.refuse(UNWRITABLE)
            return None
        pending.status = "running" if key is None else "scheduled"
        if not pending.recorded.done():
            pending.recorded.set_result(None)
        if key is None:
            return endpoint, delivery, failures
        if superseded and (earlier := self.pending.get(superseded)) and earlier.task:
            earlier.task.cancel()
        pending.respond(pending.accepted())
        return None

    async def _run(self, pending: Pending, endpoint: Endpoint, delivery: Delivery, failures: int) -> None:
        """Run the handler once, write down how it ended, and respond."""
        delivery.is_open_to_strangers = self._is_open_to_strangers(delivery)
        result = await self._runner.run(endpoint, delivery, pending.respond)
        is_over = result.error is None or result.is_final or failures + 1 >= endpoint.max_attempts
        wait = 0.0 if is_over else max(backoff(failures + 1), result.retry_after)
        status = "succeeded" if result.error is None else "failed" if is_over else "scheduled"
        pending.due_at = time.time() + wait

        def step() -> None:
            if result.error is not None:
                self._log.fail_attempt(delivery.id, result.error)
            if is_over:
                self._log.finish(delivery.id, status, result.response.status_code, result.stored)
            else:
                self._log.schedule(delivery.id, pending.due_at)
            self._log.add_jobs(delivery.id, delivery.jobs)

        if result.error is None and not delivery.jobs:  # the most frequent end, and nobody has to wait for its commit
            self._database.write_later(step)
        else:
            await self._database.write_with_retry(step)
        pending.status = status
        if is_over:
            self.pending.pop(pending.id, None)  # the sender may send the next one as soon as it has the response
        pending.respond(result.response if is_over else pending.accepted())
        if result.error is None:
            self._report_success(delivery, result)
            return
        then = "for good" if is_over else f"again in {wait:.1f} s"
        logger.error("%s: failed after %.2f s, %s\n%s", title(delivery), result.seconds, then, result.error)
        if is_over:
            await self._notify(delivery, result.error)

    def _is_open_to_strangers(self, delivery: Delivery) -> bool:
        """Return whether anybody could have sent a delivery.

        The log may have it from the time before a secret was set. A proxy on this machine may have brought it.
        """
        names = [name.lower() for name, _ in delivery.headers]
        is_unverified = not (delivery.source or delivery.replay_of) and b"x-webhook-secret" not in names
        may_be_remote = self._secret is not None or b"x-forwarded-for" in names
        return self.is_open_to_strangers or (is_unverified and may_be_remote)

    def _report_success(self, delivery: Delivery, result: Result) -> None:
        """Write the successes of a moment to the console together: a line for each would cost a tenth of the rate."""
        self._successes.append(f"{title(delivery)}: succeeded in {result.seconds:.2f} s")
        if len(self._successes) == 1:
            asyncio.get_running_loop().call_later(REPORT_SECONDS, self.report_successes)

    def report_successes(self) -> None:
        if self._successes:
            logger.info("%s", "\n".join(self._successes))
            self._successes.clear()

    async def _sleep_until(self, due_at: float) -> None:
        if (seconds := due_at - time.time()) > 0:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.skip_waits.wait(), seconds)

    async def _start_attempt(self, pending: Pending) -> Call | None:
        """Begin an attempt after a wait; `None` if the delivery is over."""
        try:
            record = await self._database.write_with_retry(lambda: self._log.start_attempt(pending.id))
        except KeyError:  # superseded at the same moment
            return None
        except ValueError as error:
            await self._fail(pending, f"This delivery cannot be read any more: {error}.")
            return None
        pending.status, pending.debounce_key = "running", None
        delivery = record.delivery
        if pending.scope is None:
            delivery.rebuild_request(self._secret, self.context)
        else:
            delivery.attach_request(pending.scope)
        endpoint = find(self._endpoints, pending.path)
        if endpoint is None:
            await self._fail(pending, f"No handler is registered at {pending.path} any more.", delivery)
        elif endpoint.invoker().takes_payload and delivery.payload is None:
            reason = f"The handler at {pending.path} takes a payload now, and this delivery's body is not a payload."
            await self._fail(pending, reason, delivery)
        else:
            return endpoint, delivery, record.failures
        return None

    async def _fail(self, pending: Pending, reason: str, delivery: Delivery | None = None) -> None:
        """Fail a delivery that cannot run."""
        response = responses.not_run(pending.id, reason)
        body = bytes(response.body)
        await self._database.write_with_retry(
            lambda: self._log.finish(pending.id, "failed", response.status_code, body)
        )
        pending.status = "failed"
        logger.error("delivery %s: %s failed: %s", pending.id, escaped(pending.path), escaped(reason))
        await self._notify(delivery or Delivery(pending.path, None, pending.id), reason)

    async def _notify(self, delivery: Delivery, error: str) -> None:
        self.pending.pop(delivery.id, None)  # it needs no room any more
        for listener in self._failure_listeners:
            await self._runner.notify(listener, delivery, error)
