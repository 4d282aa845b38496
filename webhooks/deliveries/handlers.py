"""Runs handlers where they block no delivery on its way in: async ones share a loop, each other one has a thread."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import logging
import os
import queue
import threading
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.responses import Response

from .. import answers
from ..console import escaped, log
from ..delivery import Delivery, GiveUp
from ..endpoints import Endpoint
from .mailbox import Mailbox

IDLE = 10.0  # seconds that a thread waits for its next call
MAX_ERROR = 32 * 1024  # characters of a traceback that are kept
MAX_ANSWER = 64 * 1024  # bytes of an answer that are kept
_MARGIN = 8 * 1024  # characters: more than a secret has, which must not be cut before it is hidden

_HERE = os.path.dirname(os.path.dirname(__file__)) + os.sep

Hide = Callable[[str], str]


@dataclass(frozen=True)
class Ended:
    """How an attempt ended.

    Attributes:
        answer: for its sender.
        kept: what the log keeps of the answer.
        error: the traceback, if it failed.
        is_final: another attempt would not help.
        has_run: the machine had a thread for it.
    """

    answer: Response
    kept: bytes
    error: str | None = None
    is_final: bool = False
    has_run: bool = True


class Handlers:
    """Runs handlers for the loop that serves.

    Args:
        hide: takes secrets out of tracebacks.
        late: called on the loop that serves, with a delivery whose handler came back after its timeout.
    """

    def __init__(self, hide: Hide, late: Callable[[Delivery], object]) -> None:
        self._hide = hide
        self._late = late
        self._to_handlers: Mailbox | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._threads = Threads()
        self._awaited: set[asyncio.Future[Ended]] = set()
        self._out = 0  # calls that have not come back, though they may be awaited no more
        self._stopped = False

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let `loop` be the one that serves."""
        self._to_server = Mailbox(loop)

    async def run(self, endpoint: Endpoint, delivery: Delivery) -> Ended:
        """Run a handler once, whatever it does. What it does after its timeout changes nothing any more."""
        ended: asyncio.Future[Ended] = self._to_server.loop.create_future()
        tasks: list[asyncio.Task[None]] = []
        is_async = endpoint.is_async  # now: a reload may change it while the handler runs
        try:
            if is_async:
                self._handlers_loop().post(self._begin, endpoint, delivery, ended, tasks)
            else:
                self._threads.run(partial(self._call, endpoint, delivery, ended))
        except (RuntimeError, OSError) as error:  # the machine gives no more threads or files
            reason = f"    | Not started: {escaped(str(error))}. It runs later."
            return Ended(answers.failed(delivery, error), b"", reason, has_run=False)
        self._out += 1
        self._awaited.add(ended)
        try:
            return await (ended if endpoint.timeout is None else asyncio.wait_for(ended, endpoint.timeout))
        except (asyncio.CancelledError, asyncio.TimeoutError) as error:
            if is_async:
                with contextlib.suppress(RuntimeError):  # the server is closed
                    self._handlers_loop().post(lambda: tasks[0].cancel())
            if isinstance(error, asyncio.CancelledError):
                raise
            late = TimeoutError(f"The handler took longer than its timeout of {endpoint.timeout:g} seconds.")
            return self._failure(delivery, late)
        finally:
            self._awaited.discard(ended)

    def let_go(self) -> bool:
        """Wait no longer: each `run` ends as cancelled. Return whether every call had come back by then."""
        all_back = not self._out
        for ended in self._awaited:
            ended.cancel()
        return all_back

    def stop(self) -> None:
        """Cancel the async handlers that still run, and end their loop. From any thread."""
        self._stopped = True
        if self._to_handlers:
            loop = self._to_handlers.loop
            with contextlib.suppress(RuntimeError):  # it has ended
                loop.call_soon_threadsafe(loop.stop)

    # In a thread: a `def` handler

    def _call(self, endpoint: Endpoint, delivery: Delivery, ended: asyncio.Future[Ended]) -> None:
        try:
            returned = endpoint.call(delivery)
            if inspect.isawaitable(returned) or isinstance(returned, Response):
                returned = asyncio.run(_settled(returned))
            result = self._success(delivery, returned)
        except BaseException as error:  # sys.exit() in a handler ends the handler, not the server
            result = self._failure(delivery, error)
        self._tell(delivery, ended, result)

    # On the handlers' loop: an `async def` handler

    def _begin(
        self, endpoint: Endpoint, delivery: Delivery, ended: asyncio.Future[Ended], tasks: list[asyncio.Task[None]]
    ) -> None:
        task = asyncio.create_task(self._await(endpoint, delivery, ended))
        tasks.append(task)
        self._tasks.add(task)  # a loop alone does not keep a task from being collected
        task.add_done_callback(self._tasks.discard)

    async def _await(self, endpoint: Endpoint, delivery: Delivery, ended: asyncio.Future[Ended]) -> None:
        try:
            result = self._success(delivery, await _settled(endpoint.call(delivery)))
        except BaseException as error:
            result = self._failure(delivery, error)
        self._tell(delivery, ended, result)

    def _handlers_loop(self) -> Mailbox:
        if self._to_handlers is None:
            try:
                loop = type(self._to_server.loop)()  # uvloop's where it is there, as for all else that is served
            except TypeError:  # of a host program, and made in a way of its own
                loop = asyncio.new_event_loop()
            threading.Thread(target=self._run_loop, args=(loop,), name="webhooks", daemon=True).start()
            self._to_handlers = Mailbox(loop)
        return self._to_handlers

    def _run_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        while not self._stopped:
            try:
                loop.run_forever()
            except BaseException as error:  # sys.exit() in a task that a handler left behind
                log(logging.ERROR, "A task that a handler started has failed\n%s", quoted_traceback(error, self._hide))
        if tasks := asyncio.all_tasks(loop):
            for task in tasks:
                task.cancel()
            loop.run_until_complete(asyncio.wait(tasks))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()

    # And back

    def _tell(self, delivery: Delivery, ended: asyncio.Future[Ended], result: Ended) -> None:
        with contextlib.suppress(RuntimeError):  # the server is closed
            self._to_server.post(self._end, delivery, ended, result)

    def _end(self, delivery: Delivery, ended: asyncio.Future[Ended], result: Ended) -> None:
        self._out -= 1
        if ended.done():
            self._late(delivery)
        else:
            ended.set_result(result)

    def _success(self, delivery: Delivery, returned: Any) -> Ended:
        answer = answers.succeeded(delivery, returned)
        return Ended(answer, kept(answer, self._hide))

    def _failure(self, delivery: Delivery, error: BaseException) -> Ended:
        """Describe an error where it was raised: its `__str__` is the user's code too, and may block or raise."""
        answer = answers.failed(delivery, error)
        try:
            text = quoted_traceback(error, self._hide)
        except BaseException as another:
            text = f"    | {type(error).__name__}, which cannot be shown ({type(another).__name__})"
        return Ended(answer, kept(answer, self._hide), text, isinstance(error, GiveUp))


class Threads:
    """Threads that are used again. As many run as there are calls, and Python never waits for one at its end.

    `anyio.to_thread` has such threads, too, but each of its calls costs as much as all else that a delivery costs.
    """

    def __init__(self) -> None:
        self._idle: deque[queue.SimpleQueue[Callable[[], object]]] = deque()

    def run(self, call: Callable[[], object]) -> None:
        """Make a call, which must not raise.

        Raises:
            RuntimeError: the machine gives no more threads.
        """
        try:
            calls = self._idle.pop()
        except IndexError:
            calls = queue.SimpleQueue()
            threading.Thread(target=self._work, args=(calls,), name="webhook handler", daemon=True).start()
        calls.put(partial(contextvars.copy_context().run, call))  # else it would find what the last call has set

    def _work(self, calls: queue.SimpleQueue[Callable[[], object]]) -> None:
        while True:
            try:
                call = calls.get(timeout=IDLE)
            except queue.Empty:
                try:
                    self._idle.remove(calls)
                    return
                except ValueError:  # it is given a call in this moment
                    continue
            call()
            del call  # with the delivery in it
            self._idle.append(calls)


async def _settled(returned: Any) -> Any:
    if inspect.isawaitable(returned):
        returned = await returned
    return await answers.collected(returned) if isinstance(returned, Response) else returned


def quoted_traceback(error: BaseException, hide: Hide) -> str:
    """Write a traceback from the handler on, behind bars, so that no text in it can pass for a line of the log."""
    begin = error.__traceback__
    while begin and begin.tb_frame.f_code.co_filename.startswith(_HERE):
        begin = begin.tb_next
    text = "".join(traceback.format_exception(type(error), error, begin))
    if len(text) > MAX_ERROR:
        half = MAX_ERROR // 2
        end = hide(text[-half - 2 * _MARGIN :])[_MARGIN:][-half:]
        text = f"{cut(text, half, hide)}\n... {len(text) - MAX_ERROR} characters ...\n{end}"
    else:
        text = hide(text)
    lines = text.split("\n")
    return "\n".join(f"    | {escaped(line)}" for line in lines if line)


def kept(answer: Response, hide: Hide) -> bytes:
    """Return what the log keeps of an answer."""
    return cut(bytes(answer.body[: 2 * MAX_ANSWER]).decode("latin-1"), MAX_ANSWER, hide).encode("latin-1")


def cut(text: str, at_most: int, hide: Hide) -> str:
    """Return the beginning of a text without secrets, and look at no more of it than that takes."""
    if len(text) <= at_most:
        return hide(text)
    # A secret that this cuts in two is not hidden, and stands in the part that is left out.
    shown = hide(text[: at_most + 2 * _MARGIN])
    return shown[: max(0, len(shown) - _MARGIN)][:at_most]
