"""Take deliveries, go on with them after a restart, and stop."""

from __future__ import annotations

import asyncio
import functools
import logging
import sqlite3
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from typing import Any, TypeVar

from starlette.responses import Response

from ..delivery import FINISHED, UNFINISHED, Delivery, continue_after
from ..endpoints import Endpoint, find, named
from ..redact import REDACTED, Redactor
from .database import STUCK_SECONDS, Database, NotWrittenError, no_step
from .log import DeliveryLog, counts, reading
from .processing import UNWRITABLE, Call, FailureListener, NotTakenError, Pending, Processor, debounce_key
from .runner import Runner, quoted_traceback

logger = logging.getLogger("webhooks")

LAST_WRITES_SECONDS = 1.0  # for what is still to be written when the server stops
PRUNE_SECONDS = 60.0

STOPPING = "The server is stopping."
TOO_MANY = "Too many deliveries are waiting."

T = TypeVar("T")


class Engine:
    """Take deliveries over HTTP, from code and as replays, and have each one processed.

    Args:
        endpoints: by path.
        database: where the log is; the engine closes it when it stops.
        max_pending: the number of deliveries that may be unfinished.
        redact: takes the server's secrets out of everything that is logged, stored or sent.
        secret: the server's own, for requests that are rebuilt from the log.
        failure_listeners: told of each delivery that has failed for good.

    Attributes:
        log: the statements, for a step of `write_soon`.
        processor: knows everything that is pending.
    """

    def __init__(
        self,
        endpoints: Mapping[str, Endpoint],
        database: Database,
        max_pending: int,
        redact: Redactor,
        secret: str | None = None,
        failure_listeners: Sequence[FailureListener] = (),
    ) -> None:
        self.log, self.database = DeliveryLog(database.connection, database.path), database
        self._endpoints, self._max_pending, self._redact, self._secret = endpoints, max_pending, redact, secret
        self._runner = Runner(redact)
        self.processor = Processor(endpoints, database, self.log, self._runner, secret, failure_listeners)
        self._pending = self.processor.pending
        self._tasks: dict[str, asyncio.Task[None]] = {}  # of pending deliveries, pruning and recovery
        self._loop: asyncio.AbstractEventLoop | None = None
        self._has_taken_over = False
        continue_after(self.log.last_number)

    # For the server

    def start(self, context: Mapping[str, Any] | None = None) -> None:
        """Begin to take deliveries, on the loop that runs now. A second call changes nothing.

        Args:
            context: `app` and `state` for the requests that are rebuilt from the log.
        """
        if not self._loop:
            self._loop = asyncio.get_running_loop()
            self.processor.context = context or {}
            self._begin("pruning", self._prune())

    def recover(self) -> None:
        """Go on with everything that the last process left unfinished. From any thread, after `start`."""
        assert self._loop
        self._loop.call_soon_threadsafe(lambda: self._begin("recovery", self._recover()))

    async def take(self, endpoint: Endpoint, delivery: Delivery, reply_within: float) -> Response:
        """Record a delivery, run its handler, and return the response for its sender.

        Args:
            reply_within: seconds to wait for the handler; afterwards the response is a 202.

        Raises:
            NotTakenError: it was neither recorded nor run.
        """
        assert self._loop
        if not self.is_on_serving_loop():  # a test client has a loop for each request
            taken = asyncio.run_coroutine_threadsafe(self.take(endpoint, delivery, reply_within), self._loop)
            return await asyncio.wrap_future(taken)
        pending = self._accept(endpoint, delivery)
        await pending.recorded
        await asyncio.wait((pending.response,), timeout=reply_within)
        return pending.response.result() if pending.response.done() else pending.accepted()

    def deliver(self, path: str, body: bytes, source: str = "code", also: Callable[[], object] = no_step) -> str:
        """Record an event that did not come over HTTP, run its handler, and return the delivery's id.

        Args:
            path: where the event would be posted to, with or without `/webhooks/`.
            body: the payload as JSON.
            source: what the log says about its origin, `code` or `catch_up`.
            also: a step to be written in the same commit.

        Raises:
            LookupError: no handler is registered at the path.
            RefusedError: the handler takes a payload, and the body is not a payload.
            NotTakenError: too many deliveries are waiting, or the log cannot be written.
        """
        path, endpoint = named(self._endpoints, path)
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        if self._secret is not None:
            headers.append((b"x-webhook-secret", REDACTED.encode()))
        payload = endpoint.read_payload(body)
        delivery = Delivery(path, payload, headers=tuple(headers), body=body, source=source)
        delivery.rebuild_request(self._secret, self.processor.context)
        return self._wait_for(self._deliver(endpoint, delivery, also))

    def replay(self, delivery_id: str) -> str:
        """Run a recorded delivery again as a new one, and return the new one's id.

        Raises:
            KeyError: the log has no delivery with this id.
            NotTakenError: too many deliveries are waiting, or the log cannot be written.
        """
        if reason := self._refusal():
            raise NotTakenError(reason)
        return self._wait_for(self._replay(delivery_id))

    def write_soon(self, step: Callable[[], object]) -> None:
        """Write a step to the log. From any thread; nobody waits for it."""
        if self._loop and not self.processor.is_stopping:
            asyncio.run_coroutine_threadsafe(self.database.write(step), self._loop)

    def finish_now(self, delivery_id: str, within: float) -> None:
        """Skip backoff and debounce until a delivery is finished, for tests. From another thread.

        Raises:
            TimeoutError: its handler takes longer than `within` seconds.
        """
        assert self._loop
        finishing = asyncio.run_coroutine_threadsafe(self._finish(delivery_id), self._loop)
        try:
            finishing.result(within)
        finally:
            finishing.cancel()

    def health(self) -> tuple[bool, dict[str, int]]:
        """Return whether deliveries are taken, and the number of deliveries by status. From any thread."""
        if self.database.is_failing:  # the next call may find room on the disk again
            self.write_soon(self.database.probe)
        is_taking = self._refusal() is None and not self.database.is_failing and self.database.is_in_place()
        counted: Counter[str] = Counter()
        with suppress(OSError, sqlite3.Error), reading(self.log.path) as database:
            counted = counts(database)
        return is_taking, {status: counted[status] for status in (*UNFINISHED, *FINISHED)}

    def has_room(self) -> bool:
        """Return whether many replays may go on: half of the room is for the Hub, which does not send again."""
        return self._refusal() is None and len(self._pending) < self._max_pending / 2

    def is_on_serving_loop(self) -> bool:
        """Return whether the caller runs on the loop that serves, and so must not wait for the engine."""
        with suppress(RuntimeError):  # no loop runs in this thread
            return asyncio.get_running_loop() is self._loop
        return False

    def stop(self, grace: float) -> bool:
        """Take nothing more, wait up to `grace` seconds for running handlers, and close the log. From another thread.

        Returns:
            Whether all handlers ended. What is unfinished goes on at the next start.
        """
        self.processor.is_stopping = True
        all_ended = not self._pending
        if self._loop and self._loop.is_running():
            ending = asyncio.run_coroutine_threadsafe(self._end(grace), self._loop)
            with suppress(FutureTimeoutError, CancelledError):  # the loop has ended meanwhile
                all_ended = ending.result(grace + 3 * LAST_WRITES_SECONDS)
        self.database.close(self._put_back)
        have_loops_ended = self._runner.stop()
        return self.database.wait() and all_ended and have_loops_ended

    # Begin and end

    def _accept(self, endpoint: Endpoint, delivery: Delivery, also: Callable[[], object] = no_step) -> Pending:
        key = debounce_key(delivery.endpoint, delivery.payload) if endpoint.debounce else None
        if reason := self._refusal(key):
            raise NotTakenError(reason)
        pending = Pending(delivery.id, delivery.endpoint, "arriving", key, scope=delivery.scope, also=also)
        self._track(pending, (endpoint, delivery, 0))
        return pending

    def _track(self, pending: Pending, call: Call | None = None) -> None:
        self._pending[pending.id] = pending
        pending.task = self._begin(pending.id, self.processor.process(pending, call))

    def _begin(self, name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        assert self._loop
        task = self._tasks[name] = self._loop.create_task(work)
        task.add_done_callback(functools.partial(self._has_ended, name))
        return task

    def _has_ended(self, name: str, task: asyncio.Task[None]) -> None:
        del self._tasks[name]
        if not task.cancelled() and (error := task.exception()):  # a bug of the server; the log still has everything
            logger.error("%s: the server itself has failed\n%s", name, quoted_traceback(error, self._redact))
        if pending := self._pending.pop(name, None):
            pending.refuse(
                STOPPING if self.processor.is_stopping else "The server itself has failed; its log says why."
            )
            pending.respond(pending.accepted())

    async def _deliver(self, endpoint: Endpoint, delivery: Delivery, also: Callable[[], object]) -> str:
        pending = self._accept(endpoint, delivery, also)
        await pending.recorded
        return pending.id

    async def _replay(self, delivery_id: str) -> str:
        replay = await self.database.write(lambda: self.log.add_replay(delivery_id))
        self._track(Pending(replay.id, replay.endpoint))
        return replay.id

    def _wait_for(self, work: Coroutine[Any, Any, T]) -> T:
        if self.is_on_serving_loop() or not self._loop:
            work.close()
            raise RuntimeError("Call this from a `def` function: an `async def` of a page runs on the serving loop.")
        try:
            return asyncio.run_coroutine_threadsafe(work, self._loop).result(STUCK_SECONDS)
        except NotWrittenError as error:
            raise NotTakenError(f"{UNWRITABLE} ({error})") from error
        except (FutureTimeoutError, CancelledError):
            raise TimeoutError("The delivery log does not respond. What it still writes will run.") from None

    async def _recover(self) -> None:
        left = await self.database.write_with_retry(self.log.take_over)
        self._has_taken_over = True
        if left:
            logger.info("Unfinished deliveries that go on: %d.", len(left))
        for row in left:
            endpoint = find(self._endpoints, row["endpoint"])
            self._track(Pending.from_row(row, endpoint.debounce if endpoint else 0.0))

    async def _prune(self) -> None:
        while True:
            await self.database.write_with_retry(self.log.prune)
            await asyncio.sleep(PRUNE_SECONDS)

    async def _finish(self, delivery_id: str) -> None:
        self.processor.skip_waits.set()
        try:
            if task := self._tasks.get(delivery_id):
                await asyncio.wait((task,))
            await self.database.write(no_step)  # with it everything that nobody waits for
        finally:
            self.processor.skip_waits.clear()

    async def _end(self, grace: float) -> bool:
        """Wait for what runs, cancel what does not end, and write down the rest."""
        if pruning := self._tasks.get("pruning"):
            pruning.cancel()
        for pending in self._pending.values():
            if pending.status in ("queued", "scheduled") and pending.task:
                pending.task.cancel()
        await self._wait_for_tasks(grace)
        all_ended = not self._runner.calls
        for delivery_id in self._runner.calls.values():
            if (late := self._pending.get(delivery_id)) and late.task:
                late.task.cancel()
        await self._wait_for_tasks(LAST_WRITES_SECONDS)
        for pending in self._pending.values():
            if pending.status == "arriving" and pending.task:
                pending.task.cancel()  # its sender is told that it was not taken, so it must not be written
        self.processor.report_successes()
        return all_ended

    async def _wait_for_tasks(self, seconds: float) -> None:
        waits: list[asyncio.Future[Any]] = [*self._tasks.values(), *self._runner.calls]
        if waits:
            await asyncio.wait(waits, timeout=seconds)

    def _put_back(self) -> None:
        self.log.put_back(0 if self._has_taken_over else self.log.last_number)

    def _refusal(self, debounce_key: str | None = None) -> str | None:
        if self.processor.is_stopping:
            return STOPPING
        if self.database.is_stuck:
            return UNWRITABLE
        # At capacity, still accept a delivery that supersedes a waiting one: else the older one would run.
        supersedes = debounce_key is not None and any(p.debounce_key == debounce_key for p in self._pending.values())
        return None if supersedes or len(self._pending) < self._max_pending else TOO_MANY
