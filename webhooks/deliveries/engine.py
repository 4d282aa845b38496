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
import time
from collections.abc import Coroutine, Mapping
from concurrent.futures import TimeoutError as FutureTimeoutError
from functools import partial
from typing import Any, NamedTuple

from starlette.responses import Response

from .. import answers
from ..console import escaped, log
from ..delivery import FINISHED, UNFINISHED, Delivery, continue_after
from ..endpoints import Endpoint
from . import timing
from .commits import FAULTS, STUCK_AFTER, Commits
from .handlers import Ended, Handlers, Hide, kept, quoted_traceback
from .life import Life, NotTaken
from .log import MAX_INTERRUPTIONS, DeliveryLog, Unfinished
from .pruning import Pruner

LINGER = 0.01  # seconds that a success waits for others, to be written down with them
POSTPONE = 1.0  # seconds until a handler that the machine could not start is started again
LAST_WRITES = 1.0  # seconds that the log gets at the end to write down what is told already

_STOPPING = "The server is stopping."
_UNWRITABLE = "The delivery log cannot be written."
_TOO_MANY = "Too many deliveries are waiting."

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
        self._left = log.unfinished()  # by the last process; what arrives from now on is ours
        continue_after(log.last_id())
        self._lives = {left.id: Life(left.id, left.endpoint, left.status, left.subject) for left in self._left}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._succeeded: list[_Success] = []  # told, and still to be written down
        self._writing: asyncio.Task[None] | None = None
        self._commits = Commits(log.transaction, log.probe)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._finished = 0
        self._stopping = self._hurries = False

    # For everybody else

    def start(self) -> None:
        """Begin to take deliveries, on the loop that runs now."""
        if self._stopping or self._loop is (loop := asyncio.get_running_loop()):
            return
        self._loop = loop
        self._commits.start(loop)
        self._handlers = Handlers(loop, self._hide, self._came_back)
        self._pruner = Pruner(self._log, self._commits, self._counts)
        self._pruning = loop.create_task(self._pruner.run())

    def recover(self) -> None:
        """Go on with everything that the last process left unfinished. From any thread, after the start."""
        assert self._loop
        self._loop.call_soon_threadsafe(lambda: self._begin(self._recover()))

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
        try:
            replay = self._commits.write(lambda: self._log.add_replay(id)).result(STUCK_AFTER)
        except (FutureTimeoutError, *FAULTS) as error:
            raise NotTaken(f"{_UNWRITABLE} ({error})") from error
        assert self._loop
        self._loop.call_soon_threadsafe(self._run_replay, replay)
        return replay.id

    def learn_stage(self, job_id: str, stage: str) -> None:
        """Write down the present stage of a Job. From any thread; if it cannot be written, it is asked for again."""
        self._commits.write(lambda: self._log.set_stage(job_id, stage))

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
        self._stopping = True
        all_ended = True
        if self._loop and self._loop.is_running():
            all_ended = asyncio.run_coroutine_threadsafe(self._end(grace), self._loop).result()
        if not self._commits.close():
            return False  # the disk does not answer
        self._log.close()
        return all_ended

    # The life of a delivery

    async def _live(self, life: Life, call: Call | None) -> None:
        """See one delivery through: from its arrival with its first call, or from where the log has it."""
        if call and not await self._record(life, *call):
            return
        while True:
            if life.due_at is not None:
                if self._stopping:
                    return
                call = None  # what waits is read again from the log: a thousand long bodies need not stay here
                await self._sleep(life, life.due_at)
                call = await self._next_attempt(life)
            if call is None:
                return  # a newer one has replaced it, or it cannot run
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
            del endpoint, delivery

    async def _record(self, life: Life, endpoint: Endpoint, delivery: Delivery) -> bool:
        """Write down what has arrived; return whether it is."""
        replaced = None
        try:
            if life.subject is None:
                await self._commits.written(lambda: self._log.add(delivery, "running"))
            else:
                burst = delivery, life.subject, endpoint.debounce
                replaced, life.due_at = await self._commits.written(lambda: self._log.add_to_burst(*burst))
        except FAULTS:
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
        await asyncio.sleep(LINGER)
        succeeded, self._succeeded = self._succeeded, []

        def write() -> None:
            for _, delivery, answer, _ in succeeded:
                self._finish(delivery, "succeeded", answer)

        await self._commits.surely(write)
        for life, *_ in succeeded:
            self._move(life, "succeeded")
        log(logging.INFO, "%s", "\n".join(f"{_title(s.delivery)}: succeeded in {s.seconds:.2f} s" for s in succeeded))

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
            self._log.fail_attempt(delivery.id, error, counts=ended.has_run)
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
        answer = answers.answer(500, {"error": reason, "delivery": life.id})
        body = bytes(answer.body)
        await self._commits.surely(lambda: self._log.finish(life.id, "failed", 500, body))
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
        if not task.cancelled() and (error := task.exception()):  # a fault of ours: the log still has the delivery
            log(logging.ERROR, "Delivery %s: bookkeeping has failed\n%s", life.id, quoted_traceback(error, self._hide))
        if life.status == "arriving":
            life.refuse(_STOPPING)
        else:
            life.accept()

    def _run_replay(self, replay: Delivery) -> None:
        life = Life(replay.id, replay.endpoint, "queued", due_at=0.0)
        self._counts["queued"] += 1
        self._bear(life, None)

    async def _recover(self) -> None:
        left, self._left = self._left, []
        if left:
            log(logging.INFO, "%d unfinished deliveries go on.", len(left))
        due = await self._commits.surely(
            lambda: {one.id: self._log.resume(one, self._longest_wait(one)) for one in left}
        )
        for id, due_at in due.items():
            life = self._lives[id]
            life.due_at = due_at
            if due_at is None:
                reason = f"The process has ended {MAX_INTERRUPTIONS} times while this delivery's handler ran."
                await self._abandon(life, f"{reason} Does the handler end it, or use up the memory?")
                self._lives.pop(life.id)
            else:
                if life.status == "running":
                    self._move(life, "scheduled")
                self._bear(life, None)

    def _longest_wait(self, left: Unfinished) -> float:
        endpoint = self._endpoints.get(left.endpoint)
        return endpoint.debounce if endpoint and left.subject else timing.MAX_BACKOFF

    async def _outlive(self, id: str) -> None:
        self._hurries = True
        for life in self._lives.values():
            life.wake_up()
        if (found := self._lives.get(id)) and found.task:
            await asyncio.wait((found.task,))
        if self._writing:
            await asyncio.wait((self._writing,))

    async def _end(self, grace: float) -> bool:
        lives = {life.task for life in self._lives.values() if life.task}
        for life in self._lives.values():
            if life.alarm and life.task:
                life.task.cancel()
        if lives:
            await asyncio.wait(lives, timeout=grace)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=LAST_WRITES)
        self._pruning.cancel()
        with contextlib.suppress(asyncio.TimeoutError, *FAULTS):  # whoever has just arrived is in the log by then
            await asyncio.wait_for(self._commits.written(lambda: None), LAST_WRITES)
        left = [life.id for life in self._lives.values() if life.status == "running" and life.task]
        if left:
            with contextlib.suppress(asyncio.TimeoutError, *FAULTS):  # then they count as interrupted
                await asyncio.wait_for(self._commits.written(lambda: self._log.put_back(left)), LAST_WRITES)
        else:
            self._handlers.stop()
        for task in lives | self._tasks:
            task.cancel()
        return not left

    def _begin(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        assert self._loop
        task: asyncio.Task[Any] = self._loop.create_task(work)
        self._tasks.add(task)  # a loop alone does not keep a task from being collected
        task.add_done_callback(self._tasks.discard)
        return task

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
