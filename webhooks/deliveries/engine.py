"""Takes deliveries, and begins and ends their lives; how one is lived is in `life.py`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Coroutine, Mapping
from concurrent.futures import CancelledError as FutureCancelledError
from concurrent.futures import TimeoutError as FutureTimeoutError
from functools import partial
from typing import Any

from starlette.responses import Response

from ..console import log
from ..delivery import FINISHED, UNFINISHED, Delivery, continue_after
from ..endpoints import Endpoint
from ..hiding import Hide
from . import timing
from .commits import STUCK_AFTER, Commits, NotWritten
from .handlers import Handlers, quoted_traceback
from .life import UNWRITABLE, Call, Life, NotTaken
from .log import DeliveryLog
from .pruning import Pruner
from .successes import Successes

LAST_WRITES = 1.0  # seconds that what is to be written gets at the end, before all else is let go

_STOPPING = "The server is stopping."
_TOO_MANY = "Too many deliveries are waiting."
_FAULT = "The server itself has failed; its log has the traceback."


class Engine:
    """Takes deliveries and sees them through.

    Args:
        endpoints: by path.
        log: where all is written down; the engine closes it when it stops.
        max_pending: how many deliveries may be unfinished at once.
        hide: takes the server's secrets out of what is logged, recorded and answered.
        secret: the server's own, which requests that carried it carry again.

    Attributes:
        lives: by id, those that are not over.
        stopping: nothing begins any more.
        hurries: nobody sleeps.
    """

    def __init__(
        self,
        endpoints: Mapping[str, Endpoint],
        log: DeliveryLog,
        max_pending: int,
        hide: Hide,
        secret: str | None = None,
    ) -> None:
        self.endpoints, self.log, self.secret = endpoints, log, secret
        self.commits = Commits(log.transaction, log.probe)
        self.handlers = Handlers(hide, self._came_back)
        self.successes = Successes(log, self.commits, self._begin, self._log_fault)
        self.pruner = Pruner(log, self.commits)
        self.lives: dict[str, Life] = {}
        self.stopping = self.hurries = False
        self._max_pending = max_pending
        self._hide = hide
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        continue_after(log.last_id())
        for left in log.unfinished():  # by the last process; what arrives from now on is ours
            self.lives[left.id] = Life(self, left.id, left.endpoint, left.status, left.subject, left=left)
        self._stop_once = threading.Lock()
        self._all_ended: bool | None = None  # known when it has stopped

    # For everybody else

    def start(self) -> None:
        """Begin to take deliveries, on the loop that runs now.

        An application's lifespan may run on other loops, too (a test client does it): those change nothing.

        Raises:
            RuntimeError: the loop that it began on has ended, and with it what was under way.
        """
        if self.stopping or (self._loop and self._loop.is_running()):
            return
        if self._loop:
            raise RuntimeError("The event loop of this server has ended. Close the server, and launch another one.")
        self._loop = loop = asyncio.get_running_loop()
        self.commits.start(loop)
        self.handlers.start(loop)
        self._pruning = self._begin(self.pruner.run())

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
        subject = timing.subject(delivery.endpoint, delivery.payload) if endpoint.debounce else None
        if reason := self._refusal(subject):
            raise NotTaken(reason)
        assert self._loop
        answer: asyncio.Future[Response] = self._loop.create_future()
        life = Life(self, delivery.id, delivery.endpoint, "arriving", subject, scope=delivery.scope, answer=answer)
        self._bear(life, (endpoint, delivery))
        timer = self._loop.call_later(reply_within, life.has_waited)
        try:
            return await answer
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
            raise NotTaken(f"{UNWRITABLE} ({error})") from error
        except (FutureTimeoutError, FutureCancelledError):
            raise NotTaken("The delivery log does not answer. If it does so later, this replay runs then.") from None

    def learn_stage(self, job_id: str, stage: str) -> None:
        """Write down the present stage of a Job. From any thread; if it cannot be written, it is asked for again."""
        if self._loop and not self.stopping:
            write = self.commits.written(lambda: self.log.set_stage(job_id, stage))
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
        counts = self.pruner.counts
        return self._refusal(None) is None, {status: counts[status] for status in (*UNFINISHED, *FINISHED)}

    def has_room(self) -> bool:
        """Tell whether many replays may go on: half of the room is for the Hub, which does not send again."""
        return self._refusal(None) is None and len(self.lives) < self._max_pending / 2

    def stop(self, grace: float) -> bool:
        """Take nothing more, wait up to `grace` seconds for running handlers, and close the log. From another thread.

        Returns:
            Whether all of them ended. The others, and all that waits, go on at the next start.
        """
        with self._stop_once:
            if self._all_ended is None:
                self._all_ended = self._stop(grace)
            return self._all_ended

    # Where a life begins and ends

    def _bear(self, life: Life, call: Call | None) -> None:
        self.lives[life.id] = life
        assert self._loop
        life.task = self._loop.create_task(life.live(call))
        life.task.add_done_callback(partial(self._bury, life))

    def _bury(self, life: Life, task: asyncio.Task[None]) -> None:
        self.lives.pop(life.id, None)
        error = None if task.cancelled() else task.exception()
        if error:
            self._log_fault(f"Delivery {life.id}", error)
        if life.status == "arriving":
            life.refuse(_FAULT if error else _STOPPING)
        else:
            life.accept()

    async def _replay(self, id: str) -> str:
        replay = await self.commits.written(lambda: self.log.add_replay(id))
        self.pruner.count(None, "queued")
        self._bear(Life(self, replay.id, replay.endpoint, "queued", due_at=0.0), None)
        return replay.id

    def _recover(self) -> None:
        left = [life for life in self.lives.values() if life.left and not self.stopping]
        if left:
            log(logging.INFO, "%d unfinished deliveries go on.", len(left))
        for life in left:
            self._bear(life, None)

    async def _outlive(self, id: str) -> None:
        self.hurries = True
        try:
            for life in self.lives.values():
                life.wake_up()
            if (found := self.lives.get(id)) and found.task:
                await asyncio.wait((found.task,))
            if self.successes.writing:
                await asyncio.wait((self.successes.writing,))
        finally:
            self.hurries = False

    def _stop(self, grace: float) -> bool:
        self.stopping = True
        all_ended = not self.lives
        if self._loop and self._loop.is_running():
            ending = asyncio.run_coroutine_threadsafe(self._end(grace), self._loop)
            with contextlib.suppress(FutureTimeoutError, FutureCancelledError):  # the loop has ended meanwhile
                all_ended = ending.result(grace + 3 * LAST_WRITES)
        self.commits.finish(self._write_the_rest)
        self.handlers.stop()
        if not self.commits.wait():
            return False
        self.log.close()
        return all_ended

    async def _end(self, grace: float) -> bool:
        """Wait for what runs, let go of what does not end, and have the rest written down."""
        self._pruning.cancel()
        for life in self.lives.values():
            if life.alarm and life.task:
                life.task.cancel()
        back = self._begin(self.handlers.come_back())
        await self._wait(grace)
        back.cancel()
        all_ended = self.handlers.let_go()
        await self._wait(LAST_WRITES)
        for life in self.lives.values():
            if life.status == "arriving" and life.task:
                life.task.cancel()  # it is told that it was not taken, and so must not be written
        self.commits.finish(self._write_the_rest)
        return all_ended

    async def _wait(self, seconds: float) -> None:
        if tasks := {life.task for life in self.lives.values() if life.task} | self._tasks:
            await asyncio.wait(tasks, timeout=seconds)

    def _write_the_rest(self) -> None:
        """Write down what is told already, and that all which still runs goes on at the next start."""
        self.successes.write()
        self.log.put_back(besides=[life.id for life in list(self.lives.values()) if life.left])

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

    def _came_back(self, delivery: Delivery) -> None:
        """A handler has come back after its timeout; the Jobs that it has started by then are to be seen, too."""
        if delivery.jobs and not self.stopping:
            self._begin(self.commits.surely(lambda: self.log.add_jobs(delivery.id, delivery.jobs)))

    def _refusal(self, subject: str | None) -> str | None:
        if self.stopping:
            return _STOPPING
        if not self.commits.are_possible:
            return UNWRITABLE
        if len(self.lives) < self._max_pending:
            return None
        # One that takes the place of another is taken all the same: else the older one would run.
        if subject and any(life.subject == subject for life in self.lives.values()):
            return None
        return _TOO_MANY
