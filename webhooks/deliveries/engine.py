"""The life of a delivery: `Engine._live`, which is read from top to bottom.

Everything here runs on the loop that serves, and nothing of a user's does. What a delivery waits for is a commit, its
handler, or time. It is in the log before its handler runs or its sender is answered, so nothing happens that a crash
could undo, but for one thing: a success is answered as soon as it is known, and written down right after. A crash in
between makes the handler run again, which it may at any time.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
import time
from collections import Counter
from collections.abc import Coroutine, Mapping
from concurrent.futures import CancelledError, TimeoutError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import Response
from starlette.types import Scope

from .. import responses
from ..console import escaped, title
from ..delivery import FINISHED, UNFINISHED, Delivery, continue_after
from ..endpoints import Endpoint, find
from ..redact import Redactor
from . import timing
from .log import DeliveryLog, counts, reading
from .runner import Ended, Runner, quoted_traceback
from .writer import STUCK_AFTER, NotWrittenError, Writer

logger = logging.getLogger("webhooks")

LINGER = 0.01  # seconds that a success waits for others
LAST_WRITES = 1.0  # seconds that what is to be written gets at the end, before all else is let go
MAX_INTERRUPTIONS = 5  # times that the process may end during a delivery's attempts
PRUNE_EVERY = 60.0  # seconds

_SUCCESSES = "successes"
_SUCCEEDED = "%s: succeeded in %.2f s"
_STOPPING = "The server is stopping."
_TOO_MANY = "Too many deliveries are waiting."
_UNWRITABLE = "The delivery log cannot be written."

Call = tuple[Endpoint, Delivery, int]  # a handler, what it is called with, and how often that has failed before


class NotTakenError(Exception):
    """A delivery was neither recorded nor run; the text says why."""


@dataclass(eq=False)
class Life:
    """A delivery that is not over: where it stands, and what its sender waits for.

    Attributes:
        path: of its endpoint.
        status: what the log says, or `arriving`.
        subject: what it is about, while a newer one about the same may take its place.
        due_at: when it runs, in seconds since 1970, if it has to wait for that.
        scope: the request as it came, with what the log does not keep; `None` where another process took it.
        recorded: done once it is in the log, or will never be.
        answer: what its sender is told, as soon as that is known; or that it was not taken.
    """

    id: str
    path: str
    status: str = "queued"
    subject: str | None = None
    due_at: float = 0.0
    scope: Scope | None = None
    recorded: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    answer: asyncio.Future[Response] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    task: asyncio.Task[None] | None = None

    def tell(self, answer: Response) -> None:
        if not self.answer.done():
            self.answer.set_result(answer)

    def refuse(self, reason: str) -> None:
        if not self.recorded.done():
            self.recorded.set_result(None)
            if not self.answer.done():
                self.answer.set_exception(NotTakenError(reason))
                self.answer.exception()  # nobody may be there to hear it, of which asyncio would complain


class Engine:
    """Takes deliveries and sees them through.

    Args:
        endpoints: by path.
        log: where all is written down; the engine closes it when it stops.
        max_pending: how many deliveries may be unfinished at once.
        redact: takes the server's secrets out of what is logged, recorded and answered.
        secret: the server's own, which requests that carried it carry again.
    """

    def __init__(
        self,
        endpoints: Mapping[str, Endpoint],
        log: DeliveryLog,
        max_pending: int,
        redact: Redactor,
        secret: str | None = None,
    ) -> None:
        self.log, self.writer = log, Writer(log.transaction)
        self._endpoints, self._max_pending, self._redact, self._secret = endpoints, max_pending, redact, secret
        self._runner = Runner(redact)
        self._lives: dict[str, Life] = {}  # those that are not over
        self._tasks: dict[str, asyncio.Task[None]] = {}  # what is under way, also to write down what is over
        self._told: list[tuple[Delivery, Ended, float]] = []  # successes that are still to be written down
        self._loop: asyncio.AbstractEventLoop | None = None
        self._hurry = asyncio.Event()  # nobody sleeps
        self._stopping = self._has_taken_over = False
        self._stop_once = threading.Lock()
        self._all_ended: bool | None = None  # known when it has stopped
        continue_after(log.last_number)

    # For everybody else

    def start(self) -> None:
        """Begin to take deliveries, on the loop that runs now; a second one, of a test client, changes nothing."""
        if not self._loop:
            self._loop = asyncio.get_running_loop()
            self._begin("pruning", self._prune())

    def recover(self) -> None:
        """Go on with everything that the last process left unfinished. From any thread, after the start."""
        assert self._loop
        self._loop.call_soon_threadsafe(lambda: self._begin("recovery", self._recover()))

    async def take(self, endpoint: Endpoint, delivery: Delivery, reply_within: float) -> Response:
        """Record a delivery, have its handler run, and return what its sender is told.

        Args:
            reply_within: seconds to wait for the handler; after that the answer is a 202.

        Raises:
            NotTakenError: it was neither recorded nor run.
        """
        assert self._loop
        if not self.is_on_this_loop():  # a test client has a loop for each request
            taken = asyncio.run_coroutine_threadsafe(self.take(endpoint, delivery, reply_within), self._loop)
            return await asyncio.wrap_future(taken)
        subject = timing.subject(delivery.endpoint, delivery.payload) if endpoint.debounce else None
        if reason := self._refusal(subject):
            raise NotTakenError(reason)
        life = Life(delivery.id, delivery.endpoint, "arriving", subject, scope=delivery.scope)
        self._bear(life, (endpoint, delivery, 0))
        await asyncio.wait((life.answer,), timeout=reply_within)  # whoever stops to wait for the answer stops nothing
        if not life.answer.done():
            await asyncio.wait((life.recorded,))
        return life.answer.result() if life.answer.done() else responses.accepted(life.id, life.status)

    def is_on_this_loop(self) -> bool:
        """Tell whether the caller runs on the loop that serves."""
        with suppress(RuntimeError):  # none runs in this thread
            return asyncio.get_running_loop() is self._loop
        return False

    def replay(self, id: str) -> str:
        """Run a recorded delivery again as a new one; return the new one's id. From any thread.

        Raises:
            KeyError: there is none with this id.
            NotTakenError: nothing more can be taken now.
        """
        if reason := self._refusal():
            raise NotTakenError(reason)
        assert self._loop
        replay = asyncio.run_coroutine_threadsafe(self._replay(id), self._loop)
        try:
            return replay.result(STUCK_AFTER)
        except NotWrittenError as error:
            raise NotTakenError(f"{_UNWRITABLE} ({error})") from error
        except (TimeoutError, CancelledError):
            raise NotTakenError(
                "The delivery log does not answer. If it does so later, this replay runs then."
            ) from None

    def set_stage(self, job_id: str, stage: str) -> None:
        """Write down the present stage of a Job. From any thread; if it cannot be written, it is asked for again."""
        if self._loop and not self._stopping:
            write = self.writer.written(lambda: self.log.set_stage(job_id, stage))
            asyncio.run_coroutine_threadsafe(write, self._loop)

    def deliver(self, path: str, body: bytes) -> str:
        """Record an event that did not come over HTTP, and run its handler; return the delivery's id.

        Raises:
            LookupError: there is no endpoint at this path.
            RefusedError: the endpoint does not take this body.
            NotTakenError: nothing more can be taken now.
        """
        from ..receiver import _payload_for

        endpoint = find(self._endpoints, path)
        if endpoint is None:
            raise LookupError(path)
        assert self._loop
        json_header = (b"content-type", b"application/json")
        delivery = Delivery(path, _payload_for(endpoint, body), headers=(json_header,), body=body)
        asyncio.run_coroutine_threadsafe(self.take(endpoint, delivery, 0), self._loop).result(STUCK_AFTER)
        write = self.writer.written(
            lambda: self.log._execute("UPDATE deliveries SET source = 'code' WHERE id = ?", [delivery.id])
        )
        asyncio.run_coroutine_threadsafe(write, self._loop).result(STUCK_AFTER)
        return delivery.id

    def hasten(self, id: str, within: float) -> None:
        """Let time pass until a delivery is over, as tests want it to. From another thread.

        Raises:
            TimeoutError: its handler takes longer than `within` seconds.
        """
        assert self._loop
        asyncio.run_coroutine_threadsafe(asyncio.wait_for(self._outlive(id), within), self._loop).result()

    def health(self) -> tuple[bool, dict[str, int]]:
        """Tell whether deliveries are taken, and how many there are by status. From any thread."""
        is_taking = self._refusal() is None and not self.writer.is_failing and self.log.is_in_place()
        if self.writer.is_failing and self._loop and not self._stopping:  # the next one may be told otherwise
            asyncio.run_coroutine_threadsafe(self.writer.written(self.log.probe), self._loop)
        counted: Counter[str] = Counter()
        if self.log.is_in_place():  # SQLite would delete what belongs to it beside an empty file in its place
            with reading(self.log.path) as database:
                counted = counts(database)
        return is_taking, {status: counted[status] for status in (*UNFINISHED, *FINISHED)}

    def has_room(self) -> bool:
        """Tell whether many replays may go on: half of the room is for the Hub, which does not send again."""
        return self._refusal() is None and len(self._lives) < self._max_pending / 2

    def stop(self, grace: float) -> bool:
        """Take nothing more, wait up to `grace` seconds for running handlers, and close the log. From another thread.

        Returns:
            Whether all of them ended. The others, and all that waits, go on at the next start.
        """
        with self._stop_once:
            if self._all_ended is None:
                self._all_ended = self._stop(grace)
            return self._all_ended

    # The life of a delivery

    async def _live(self, life: Life, call: Call | None) -> None:
        """See a delivery through: from its arrival with its first call, or from where the log has it."""
        if call:
            call = await self._record(life, *call)
        while not self._stopping and life.status in UNFINISHED:
            if call is None:  # what waits is read again from the log: a thousand long bodies need not stay here
                await self._sleep(life.due_at)
                call = await self._next_attempt(life)
            if call is None or self._stopping:
                return  # a newer one has replaced it, or it cannot run, or it does so at the next start
            await self._attempt(life, *call)
            call = None

    async def _attempt(self, life: Life, endpoint: Endpoint, delivery: Delivery, failures: int) -> None:
        """Run the handler once, and write down how it ended, and when it is tried again."""
        began = time.monotonic()
        ended = await self._runner.run(endpoint, delivery, life.tell)
        seconds, error = time.monotonic() - began, ended.error
        is_over = error is None or ended.is_final or failures + 1 >= endpoint.max_attempts
        wait = 0.0 if is_over else timing.backoff(failures + 1)
        status = "succeeded" if error is None else "failed" if is_over else "scheduled"
        life.due_at = time.time() + wait
        if error is None:
            life.tell(ended.answer)
            self._lives.pop(life.id, None)  # whoever was told so may send the next one
            if not delivery.jobs:
                life.status = status
                self._told.append((delivery, ended, seconds))
                if len(self._told) == 1:
                    self._begin(_SUCCESSES, self._write_successes())
                return

        def write() -> None:
            if error is not None:
                self.log.fail_attempt(life.id, error)
            if is_over:
                self.log.finish(life.id, status, ended.answer.status_code, ended.kept)
            else:
                self.log.schedule(life.id, life.due_at)
            self.log.add_jobs(life.id, delivery.jobs)

        await self.writer.surely(write)
        life.status = status
        life.tell(ended.answer if is_over else responses.accepted(life.id, status))
        if error is None:
            logger.info(_SUCCEEDED, title(delivery), seconds)
        else:
            then = "for good" if is_over else f"again in {wait:.1f} s"
            logger.error("%s: failed after %.2f s, %s\n%s", title(delivery), seconds, then, error)

    async def _write_successes(self) -> None:
        """Write down, and log, the successes of a moment at once: nobody waits for them, and half of the commits and
        most of the lines are saved.
        """
        while self._told:
            await asyncio.sleep(LINGER)
            told = self._told[:]

            def write(told: list[tuple[Delivery, Ended, float]] = told) -> None:
                for delivery, ended, _ in told:
                    self.log.finish(delivery.id, "succeeded", ended.answer.status_code, ended.kept)

            await self.writer.surely(write)
            logger.info("%s", "\n".join(_SUCCEEDED % (title(delivery), seconds) for delivery, _, seconds in told))
            del self._told[: len(told)]

    async def _record(self, life: Life, endpoint: Endpoint, delivery: Delivery, failures: int) -> Call | None:
        """Write down what has arrived; return how to run it, unless it has to wait."""
        replaced, subject = None, life.subject
        try:
            if subject is None:
                await self.writer.written(lambda: self.log.add(delivery, "running"))
            else:
                burst = functools.partial(self.log.add_to_burst, delivery, subject, endpoint.debounce)
                replaced, life.due_at = await self.writer.written(burst)
        except NotWrittenError:
            life.refuse(_UNWRITABLE)
            return None
        life.status = "running" if subject is None else "scheduled"
        if not life.recorded.done():
            life.recorded.set_result(None)
        if replaced and (earlier := self._lives.get(replaced)) and earlier.task:
            earlier.task.cancel()
        if subject is None:
            return endpoint, delivery, failures
        life.tell(responses.accepted(life.id, life.status))
        return None

    async def _sleep(self, due_at: float) -> None:
        if (seconds := due_at - time.time()) > 0:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), seconds)

    async def _next_attempt(self, life: Life) -> Call | None:
        """Begin an attempt after a wait; return `None` if the delivery is over."""
        try:
            record = await self.writer.surely(lambda: self.log.start_attempt(life.id))
        except KeyError:  # a newer one has replaced it in the same moment
            return None
        except ValueError as error:
            await self._abandon(life, f"This delivery cannot be read any more: {error}.")
            return None
        life.status, life.subject = "running", None
        delivery = record.delivery.received_before(life.scope, self._secret)
        endpoint = find(self._endpoints, life.path)
        if endpoint is None:
            await self._abandon(life, f"No handler is registered at {life.path} any more.")
        elif endpoint.invoker.takes_payload and delivery.payload is None:
            reason = f"The handler at {life.path} takes a payload now, and the body of this delivery is none."
            await self._abandon(life, reason)
        else:
            return endpoint, delivery, record.failures
        return None

    async def _abandon(self, life: Life, reason: str) -> None:
        """Fail a delivery that cannot run."""
        answer = responses.abandoned(life.id, reason)
        kept = bytes(answer.body)
        await self.writer.surely(lambda: self.log.finish(life.id, "failed", answer.status_code, kept))
        life.status = "failed"
        logger.error("delivery %s: %s failed: %s", life.id, escaped(life.path), escaped(reason))

    # Where a life begins and ends

    def _bear(self, life: Life, call: Call | None = None) -> None:
        self._lives[life.id] = life
        life.task = self._begin(life.id, self._live(life, call))

    def _begin(self, name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        assert self._loop
        task = self._tasks[name] = self._loop.create_task(work)
        task.add_done_callback(functools.partial(self._has_ended, name))
        return task

    def _has_ended(self, name: str, task: asyncio.Task[None]) -> None:
        if self._tasks[name] is task:
            del self._tasks[name]
        if not task.cancelled() and (error := task.exception()):  # a fault of ours: the log still has everything
            logger.error("%s: bookkeeping has failed\n%s", name, quoted_traceback(error, self._redact))
        if life := self._lives.pop(name, None):
            life.refuse(_STOPPING if self._stopping else "The server itself has failed; its log has the traceback.")
            life.tell(responses.accepted(life.id, life.status))

    async def _replay(self, id: str) -> str:
        replay = await self.writer.written(lambda: self.log.add_replay(id))
        self._bear(Life(replay.id, replay.endpoint))
        return replay.id

    async def _recover(self) -> None:
        left = await self.writer.surely(self.log.take_over)
        self._has_taken_over = True
        if left:
            logger.info("%d unfinished deliveries go on.", len(left))
        for one in left:
            life = Life(one["id"], one["endpoint"], one["status"], one["subject"])
            endpoint = find(self._endpoints, life.path)
            if one["interruptions"] >= MAX_INTERRUPTIONS:
                reason = f"The process has ended {MAX_INTERRUPTIONS} times while this delivery's handler ran."
                await self._abandon(life, f"{reason} Does the handler end it, or use up the memory?")
                continue
            if one["due_at"] is not None:  # the clock may have been wrong when that was written
                longest = endpoint.debounce if endpoint and life.subject else timing.MAX_BACKOFF
                life.due_at = min(one["due_at"], time.time() + longest)
            elif one["interruptions"]:
                life.due_at = time.time() + timing.backoff(one["interruptions"])
            self._bear(life)

    async def _prune(self) -> None:
        while True:
            await self.writer.surely(self.log.prune)
            await asyncio.sleep(PRUNE_EVERY)

    async def _outlive(self, id: str) -> None:
        self._hurry.set()
        try:
            for name in (id, _SUCCESSES):
                if task := self._tasks.get(name):
                    await asyncio.wait((task,))
        finally:
            self._hurry.clear()

    def _stop(self, grace: float) -> bool:
        self._stopping = True
        all_ended = not self._lives
        if self._loop and self._loop.is_running():
            ending = asyncio.run_coroutine_threadsafe(self._end(grace), self._loop)
            with suppress(TimeoutError, CancelledError):  # the loop has ended meanwhile
                all_ended = ending.result(grace + 3 * LAST_WRITES)
        self.writer.close(self._put_back)
        self._runner.stop()
        if not self.writer.wait():
            return False
        self.log.close()
        return all_ended

    async def _end(self, grace: float) -> bool:
        """Wait for what runs, let go of what does not end, and have the rest written down."""
        self._tasks["pruning"].cancel()
        for life in self._lives.values():
            if life.status in ("queued", "scheduled") and life.task:
                life.task.cancel()
        await self._wait(grace)
        all_ended = self._runner.let_go()
        await self._wait(LAST_WRITES)
        for life in self._lives.values():
            if life.status == "arriving" and life.task:
                life.task.cancel()  # it is told that it was not taken, and so must not be written
        self.writer.close(self._put_back)
        return all_ended

    async def _wait(self, seconds: float) -> None:
        waits: list[asyncio.Future[Any]] = [*self._tasks.values(), *map(asyncio.wrap_future, self._runner.out)]
        if waits:
            await asyncio.wait(waits, timeout=seconds)

    def _put_back(self) -> None:
        self.log.put_back(0 if self._has_taken_over else self.log.last_number)

    def _refusal(self, subject: str | None = None) -> str | None:
        if self._stopping:
            return _STOPPING
        if self.writer.is_stuck:
            return _UNWRITABLE
        # One that takes the place of another is taken all the same: else the older one would run.
        has_room = len(self._lives) < self._max_pending or (
            subject is not None and any(life.subject == subject for life in self._lives.values())
        )
        return None if has_room else _TOO_MANY
