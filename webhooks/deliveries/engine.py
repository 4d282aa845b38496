"""The life of each delivery: `Engine._live`, which is read from top to bottom.

Everything here runs on the loop that serves, and nothing of a user's does. What a delivery waits for is a commit, its
handler, or time. It is in the log before its handler runs or its sender is answered, so nothing happens that a crash
could undo, but for one thing: a success is answered as soon as it is known, and written down a moment later. A crash
in between makes the handler run again, which it may at any time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Coroutine, Mapping
from concurrent.futures import CancelledError as FutureCancelledError
from concurrent.futures import TimeoutError as FutureTimeoutError
from functools import partial
from typing import Any, NamedTuple

from starlette.responses import Response

from .. import answers
from ..console import escaped, log
from ..delivery import FINISHED, UNFINISHED, Delivery, continue_after
from ..endpoints import Endpoint
from . import timing
from .commits import STUCK_AFTER, Commits, NotWritten
from .handlers import Ended, Handlers, Hide, kept, quoted_traceback
from .life import Life, NotTaken
from .log import MAX_INTERRUPTIONS, DeliveryLog, Unfinished
from .pruning import Pruner

LINGER = 0.01  # seconds that a success waits for others, to be written down with them
POSTPONE = 1.0  # seconds until a handler that the machine could not start is started again
LAST_WRITES = 1.0  # seconds that what is to be written gets at the end, before all else is let go

_STOPPING = "The server is stopping."
_UNWRITABLE = "The delivery log cannot be written."
_TOO_MANY = "Too many deliveries are waiting."
_FAULT = "The server itself has failed; its log has the traceback."

Call = tuple[Endpoint, Delivery]  # a handler, and what it is called with


class _Success(NamedTuple):
    life: Life
    delivery: Delivery
    answer: Response
    seconds: float


class Engine:
    """Takes deliveries and sees them through.

    Args:
        endpoints: by path.
        log: where all is written down; the engine closes it when it stops.
        max_pending: how many deliveries may be unfinished at once.
        hide: takes secrets out of what is logged and recorded.
    """

    def __init__(self, endpoints: Mapping[str, Endpoint], log: DeliveryLog, max_pending: int, hide: Hide) -> None:
        self._endpoints = endpoints
        self._log = log
        self._max_pending = max_pending
        self._hide = hide
        self._counts = log.counts()
        continue_after(log.last_id())
        left = log.unfinished()  # by the last process; what arrives from now on is ours
        self._lives = {one.id: Life(one.id, one.endpoint, one.status, one.subject, left=one) for one in left}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._succeeded: list[_Success] = []  # told, and still to be written down
        self._writing: asyncio.Task[None] | None = None
        self._commits = Commits(log.transaction, log.probe)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._finished = 0
        self._hurries = False
        self._stopping = False
        self._stop_once = threading.Lock()
        self._all_ended: bool | None = None  # known when it has stopped

    # For everybody else

    def start(self) -> None:
        """Begin to take deliveries, on the loop that runs now.

        An application's lifespan may run on other loops, too (a test client does it): those change nothing.

        Raises:
            RuntimeError: the loop that it began on has ended, and with it what was under way.
        """
        if self._stopping or (self._loop and self._loop.is_running()):
            return
        if self._loop:
            raise RuntimeError("The event loop of this server has ended. Close the server, and launch another one.")
        self._loop = loop = asyncio.get_running_loop()
        self._commits.start(loop)
        self._handlers = Handlers(loop, self._hide, self._came_back)
        self._pruner = Pruner(self._log, self._commits, self._counts)
        self._pruning = self._begin(self._pruner.run())

    def recover(self) -> None:
        """Go on with everything that the last process left unfinished. From any thread, after the start."""
        assert self._loop
        self._loop.call_soon_threadsafe(self._recover)

    async def take(self, endpoint: Endpoint, delivery: Delivery, reply_within: float) -> Response:
        """Record a delivery, have its handler run, and return what its sender is told.

        Args:
            reply_within: seconds to wait for the handler; after that the answer is a 202.

        Raises:
            NotTaken: it was neither recorded nor run.
        """
        subject = timing.subject(endpoint.path, delivery.payload) if endpoint.debounce else None
        if reason := self._refusal(subject):
            raise NotTaken(reason)
        assert self._loop
        life = Life(delivery.id, endpoint.path, "arriving", subject, answer=self._loop.create_future())
        self._bear(life, (endpoint, delivery))
        timer = self._loop.call_later(reply_within, self._grow_late, life)
        try:
            assert life.answer
            return await life.answer
        finally:
            timer.cancel()

    def replay(self, id: str) -> str:
        """Run a recorded delivery again as a new one; return the new one's id. From any thread.

        Raises:
            KeyError: there is none with this id.
            NotTaken: nothing more can be taken now.
        """
        if reason := self._refusal(None):
            raise NotTaken(reason)
        assert self._loop
        replay = asyncio.run_coroutine_threadsafe(self._replay(id), self._loop)
        try:
            return replay.result(STUCK_AFTER)
        except NotWritten as error:
            raise NotTaken(f"{_UNWRITABLE} ({error})") from error
        except (FutureTimeoutError, FutureCancelledError):
            raise NotTaken("The delivery log does not answer. If it does so later, this replay runs then.") from None

    def learn_stage(self, job_id: str, stage: str) -> None:
        """Write down the present stage of a Job. From any thread; if it cannot be written, it is asked for again."""
        if self._loop and not self._stopping:
            write = self._commits.written(lambda: self._log.set_stage(job_id, stage))
            asyncio.run_coroutine_threadsafe(write, self._loop)

    def hasten(self, id: str, within: float) -> None:
        """Let time pass until a delivery is over, as tests want it to. From another thread.

        Raises:
            asyncio.TimeoutError: its handler takes longer than `within` seconds.
        """
        assert self._loop
        asyncio.run_coroutine_threadsafe(asyncio.wait_for(self._outlive(id), within), self._loop).result()

    def health(self) -> tuple[bool, dict[str, int]]:
        """Tell whether deliveries are taken, and how many there are by status."""
        return self._refusal(None) is None, {status: self._counts[status] for status in (*UNFINISHED, *FINISHED)}

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
        """See one delivery through: from its arrival with its first call, or from where the log has it."""
        if life.left:
            await self._resume(life, life.left)
        elif call and not await self._record(life, *call):
            return
        while not self._stopping:
            if life.due_at is not None:
                call = None  # what waits is read again from the log: a thousand long bodies need not stay here
                await self._sleep(life, life.due_at)
                call = await self._next_attempt(life)
            if call is None or self._stopping:
                return  # a newer one has replaced it, or it cannot run, or it does so at the next start
            endpoint, delivery = call
            began = time.monotonic()
            ended = await self._handlers.run(endpoint, delivery)
            seconds = time.monotonic() - began
            if ended.error is None:
                self._succeed(life, delivery, ended, seconds)
                return
            await self._fail(life, endpoint, delivery, ended, seconds)
            if life.due_at is None:
                return
            del endpoint, delivery, ended

    async def _record(self, life: Life, endpoint: Endpoint, delivery: Delivery) -> bool:
        """Write down what has arrived; return whether it is."""
        replaced = None
        try:
            if life.subject is None:
                await self._commits.written(lambda: self._log.add(delivery, "running"))
            else:
                burst = delivery, life.subject, endpoint.debounce
                replaced, life.due_at = await self._commits.written(lambda: self._log.add_to_burst(*burst))
        except NotWritten:
            life.refuse(_UNWRITABLE)
            return False
        self._move(life, "running" if life.due_at is None else "scheduled")
        if replaced and (earlier := self._lives.get(replaced)):
            self._move(earlier, "superseded")
            if earlier.task:
                earlier.task.cancel()
        if life.is_late or life.due_at is not None:
            life.accept()
        return True

    async def _resume(self, life: Life, left: Unfinished) -> None:
        """Write down that what the last process left goes on, or that it has ended the process too often."""
        reason = f"The process has ended {MAX_INTERRUPTIONS} times while this delivery's handler ran."
        reason = f"{reason} Does the handler end it, or use up the memory?"
        endpoint = self._endpoints.get(life.path)
        longest_wait = endpoint.debounce if endpoint and left.subject else timing.MAX_BACKOFF

        def resume() -> float | None:
            due_at = self._log.resume(left, longest_wait)
            if due_at is None:
                self._log.abandon(life.id, answers.abandoned(life.id, reason))
            return due_at

        life.due_at = await self._commits.surely(resume)
        life.left = None
        if life.due_at is None:
            self._is_abandoned(life, reason)
        elif life.status == "running":
            self._move(life, "scheduled")

    async def _sleep(self, life: Life, due_at: float) -> None:
        assert self._loop
        if (seconds := due_at - time.time()) > 0 and not self._hurries:
            life.alarm = self._loop.create_future()
            timer = self._loop.call_later(seconds, life.wake_up)
            try:
                await life.alarm
            finally:
                timer.cancel()
                life.alarm = None

    async def _next_attempt(self, life: Life) -> Call | None:
        """Begin an attempt after a wait; return `None` if the delivery is over."""
        try:
            record = await self._commits.surely(lambda: self._log.start_attempt(life.id))
        except KeyError:  # a newer one has replaced it in the same moment
            return None
        except ValueError as error:
            await self._abandon(life, f"This delivery cannot be read any more: {error}.")
            return None
        self._move(life, "running")
        life.subject, life.due_at, life.failures = None, None, record.failures
        delivery = record.delivery
        endpoint = self._endpoints.get(life.path)
        if endpoint is None:
            await self._abandon(life, f"No handler is registered at {life.path} any more.")
        elif endpoint.takes_payload and delivery.payload is None:
            reason = f"The handler at {life.path} takes a payload now, and the body of this delivery is none."
            await self._abandon(life, reason)
        else:
            return endpoint, delivery
        return None

    def _succeed(self, life: Life, delivery: Delivery, ended: Ended, seconds: float) -> None:
        life.tell(ended.answer)
        if not self._succeeded:
            self._writing = self._begin(self._write_successes())
        self._succeeded.append(_Success(life, delivery, ended.answer, seconds))

    async def _write_successes(self) -> None:
        """Write down together what nobody waits for: each commit takes the interpreter lock from all else."""
        while self._succeeded:
            await asyncio.sleep(LINGER)
            successes = self._succeeded[:]  # they stay there until they are written, where a stop finds them
            try:
                await self._commits.surely(partial(self._finish_all, successes))
            except Exception as error:
                self._log_fault("The successes of a moment", error)
            else:
                for life, *_ in successes:
                    self._move(life, "succeeded")
                lines = [f"{_title(s.delivery)}: succeeded in {s.seconds:.2f} s" for s in successes]
                log(logging.INFO, "%s", "\n".join(lines))
            del self._succeeded[: len(successes)]

    def _finish_all(self, successes: list[_Success]) -> None:
        for _, delivery, answer, _ in successes:
            self._finish(delivery, "succeeded", answer)

    async def _fail(self, life: Life, endpoint: Endpoint, delivery: Delivery, ended: Ended, seconds: float) -> None:
        """Write down a failed attempt, and when the next one is due."""
        error = ended.error or ""
        wait: float | None = POSTPONE
        if ended.has_run:
            life.failures += 1
            is_last = ended.is_final or life.failures >= endpoint.max_attempts
            wait = None if is_last else timing.backoff(life.failures)
        due_at = life.due_at = None if wait is None else time.time() + wait

        def write() -> None:
            if ended.has_run:
                self._log.fail_attempt(delivery.id, error)
            else:
                self._log.forget_attempt(delivery.id)
            if due_at is None:
                self._finish(delivery, "failed", ended.answer)
            else:
                self._log.add_jobs(delivery.id, delivery.jobs)
                self._log.schedule(delivery.id, due_at)

        await self._commits.surely(write)
        log(logging.ERROR, "%s: failed after %.2f s\n%s", _title(delivery), seconds, error)
        if due_at is None:
            self._move(life, "failed")
            life.tell(ended.answer)
        else:
            self._move(life, "scheduled")
            life.accept()

    async def _abandon(self, life: Life, reason: str) -> None:
        """Fail a delivery that cannot run."""
        await self._commits.surely(lambda: self._log.abandon(life.id, answers.abandoned(life.id, reason)))
        self._is_abandoned(life, reason)

    def _is_abandoned(self, life: Life, reason: str) -> None:
        log(logging.ERROR, "delivery %s: %s failed: %s", life.id, life.path, escaped(reason))
        self._move(life, "failed")

    def _finish(self, delivery: Delivery, status: str, answer: Response) -> None:
        self._log.add_jobs(delivery.id, delivery.jobs)
        self._log.finish(delivery.id, status, answer.status_code, kept(answer, self._hide))

    def _came_back(self, delivery: Delivery) -> None:
        """A handler has come back after its timeout; the Jobs that it has started by then are to be seen, too."""
        if delivery.jobs and not self._stopping:
            self._begin(self._commits.surely(lambda: self._log.add_jobs(delivery.id, delivery.jobs)))

    def _grow_late(self, life: Life) -> None:
        life.is_late = True
        if life.status == "running":
            life.accept()

    # Where a life begins and ends

    def _bear(self, life: Life, call: Call | None) -> None:
        self._lives[life.id] = life
        assert self._loop
        life.task = self._loop.create_task(self._live(life, call))
        life.task.add_done_callback(partial(self._bury, life))

    def _bury(self, life: Life, task: asyncio.Task[None]) -> None:
        self._lives.pop(life.id, None)
        error = None if task.cancelled() else task.exception()
        if error:
            self._log_fault(f"Delivery {life.id}", error)
        if life.status == "arriving":
            life.refuse(_FAULT if error else _STOPPING)
        else:
            life.accept()

    async def _replay(self, id: str) -> str:
        replay = await self._commits.written(lambda: self._log.add_replay(id))
        self._counts["queued"] += 1
        self._bear(Life(replay.id, replay.endpoint, "queued", due_at=0.0), None)
        return replay.id

    def _recover(self) -> None:
        left = [life for life in self._lives.values() if life.left and not self._stopping]
        if left:
            log(logging.INFO, "%d unfinished deliveries go on.", len(left))
        for life in left:
            self._bear(life, None)

    async def _outlive(self, id: str) -> None:
        self._hurries = True
        try:
            for life in self._lives.values():
                life.wake_up()
            if (found := self._lives.get(id)) and found.task:
                await asyncio.wait((found.task,))
            if self._writing:
                await asyncio.wait((self._writing,))
        finally:
            self._hurries = False

    def _stop(self, grace: float) -> bool:
        self._stopping = True
        all_ended = not self._lives
        if self._loop and self._loop.is_running():
            ending = asyncio.run_coroutine_threadsafe(self._end(grace), self._loop)
            with contextlib.suppress(FutureTimeoutError, FutureCancelledError):  # the loop has ended meanwhile
                all_ended = ending.result(grace + 3 * LAST_WRITES)
        self._commits.finish(self._write_the_rest)
        if self._loop:
            self._handlers.stop()
        if not self._commits.wait():
            return False
        self._log.close()
        return all_ended

    async def _end(self, grace: float) -> bool:
        """Wait for what runs, let go of what does not end, and have the rest written down."""
        self._pruning.cancel()
        for life in self._lives.values():
            if life.alarm and life.task:
                life.task.cancel()
        await self._wait(grace)
        all_ended = self._handlers.let_go()
        await self._wait(LAST_WRITES)
        for life in self._lives.values():
            if life.status == "arriving" and life.task:
                life.task.cancel()  # it is told that it was not taken, and so must not be written
        self._commits.finish(self._write_the_rest)
        return all_ended

    async def _wait(self, seconds: float) -> None:
        if tasks := {life.task for life in self._lives.values() if life.task} | self._tasks:
            await asyncio.wait(tasks, timeout=seconds)

    def _write_the_rest(self) -> None:
        """Write down what is told already, and that all which still runs goes on at the next start."""
        self._finish_all(list(self._succeeded))
        self._log.put_back(besides=[life.id for life in list(self._lives.values()) if life.left])

    def _begin(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        assert self._loop
        task: asyncio.Task[Any] = self._loop.create_task(work)
        self._tasks.add(task)  # a loop alone does not keep a task from being collected
        task.add_done_callback(self._has_ended)
        return task

    def _has_ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self._log_fault("The server", error)

    def _log_fault(self, what: str, error: BaseException) -> None:
        """Tell of a fault of ours: the log still has every delivery, as it was before."""
        log(logging.ERROR, "%s: bookkeeping has failed\n%s", what, quoted_traceback(error, self._hide))

    # What it knows

    def _refusal(self, subject: str | None) -> str | None:
        if self._stopping:
            return _STOPPING
        if not self._commits.are_possible:
            return _UNWRITABLE
        if len(self._lives) < self._max_pending:
            return None
        # One that takes the place of another is taken all the same: else the older one would run.
        if subject and any(life.subject == subject for life in self._lives.values()):
            return None
        return _TOO_MANY

    def _move(self, life: Life, status: str) -> None:
        """Count what the log says now."""
        if life.status in UNFINISHED:
            self._counts[life.status] -= 1
        self._counts[status] += 1
        life.status = status
        if status in FINISHED:
            self._finished += 1
            self._pruner.one_has_finished(self._finished)


def _title(delivery: Delivery) -> str:
    repo = delivery.payload.repo if delivery.payload else None
    about = f" ({repo.type} {repo.name})" if repo else ""
    return f"delivery {delivery.id}: {delivery.endpoint}{escaped(about)}, attempt {delivery.attempt}"
