"""Runs handlers where they block no delivery on its way in: async ones share a loop, each other one has a thread."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import inspect
import logging
import math
import os
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio.to_thread
import fastapi
import starlette
from fastapi.exceptions import RequestValidationError, ValidationException
from starlette.responses import Response
from starlette.types import Message, Scope

from .. import answers, own_loop
from ..answers import Tell
from ..console import escaped, log
from ..delivery import Delivery, GiveUp
from ..endpoints import Endpoint, Way
from ..filling import Filled
from ..hiding import Hide
from .mailbox import Mailbox
from .threads import Threads

MAX_ERROR = 32 * 1024  # characters of a traceback that are kept
MAX_ANSWER = 64 * 1024  # bytes of an answer that are kept

# Where a traceback does not begin: in this package, and in what it calls a handler through.
_CALLED_THROUGH = (own_loop, fastapi, starlette, anyio, asyncio, concurrent.futures)
_MACHINERY = (*(os.path.dirname(inspect.getfile(module)) + os.sep for module in _CALLED_THROUGH), contextlib.__file__)
_SCOPE: Scope = {"type": "http", "method": "POST", "headers": [], "asgi": {"spec_version": "2.4"}}


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
        hide: takes the server's secrets out of what is logged, recorded and answered.
        late: called on the loop that serves, with a delivery whose handler came back after its timeout.
    """

    def __init__(self, hide: Hide, late: Callable[[Delivery], object]) -> None:
        self._hide = hide
        self._late = late
        self._to_handlers: Mailbox | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._awaited: set[asyncio.Future[Ended]] = set()
        self._out = 0  # calls that have not come back, though they may be awaited no more
        self._all_back: asyncio.Future[None] | None = None
        self._over = asyncio.Event()  # for the loop of the async handlers

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let `loop` be the one that serves."""
        self._to_server = Mailbox(loop)
        self._threads = Threads(loop)

    async def run(self, endpoint: Endpoint, delivery: Delivery, answered: Tell) -> Ended:
        """Run a handler once, whatever it does. What it does after its timeout changes nothing any more.

        Args:
            answered: called with the answer, on this loop, if that is complete while the attempt goes on.
        """
        ended: asyncio.Future[Ended] = self._to_server.loop.create_future()
        tasks: list[asyncio.Task[None]] = []
        way = endpoint.way  # now: a reload may change it while the handler runs
        tell = partial(self._post, answered)
        try:
            if way.is_async:
                self._handlers_loop().post(self._begin, way, delivery, tell, ended, tasks)
            else:
                self._threads.run(partial(self._call, way, delivery, tell, ended))
        except (RuntimeError, OSError) as error:  # the machine gives no more threads or files
            reason = f"    | Not started: {escaped(str(error))}. It runs later."
            return Ended(answers.failed(delivery, error), b"", reason, has_run=False)
        self._out += 1
        self._awaited.add(ended)
        try:
            return await (ended if endpoint.timeout is None else asyncio.wait_for(ended, endpoint.timeout))
        except (asyncio.CancelledError, asyncio.TimeoutError) as error:
            if way.is_async:
                with contextlib.suppress(RuntimeError):  # the server is closed
                    self._handlers_loop().post(lambda: tasks[0].cancel())
            if isinstance(error, asyncio.CancelledError):
                raise
            late = TimeoutError(f"The handler took longer than its timeout of {endpoint.timeout:g} seconds.")
            return self._failure(delivery, late)
        finally:
            self._awaited.discard(ended)

    async def come_back(self) -> None:
        """Wait until every call has, those that have timed out, too."""
        if self._out:
            self._all_back = self._to_server.loop.create_future()
            await self._all_back

    def let_go(self) -> bool:
        """Wait no longer: each `run` ends as cancelled. Return whether every call had come back by then."""
        all_back = not self._out
        for ended in self._awaited:
            ended.cancel()
        return all_back

    def stop(self) -> None:
        """Cancel the async handlers that still run, and end their loop. From any thread."""
        if self._to_handlers:
            with contextlib.suppress(RuntimeError):  # it has ended
                self._to_handlers.post(self._over.set)

    # In a thread: a `def` handler

    def _call(self, way: Way, delivery: Delivery, tell: Tell, ended: asyncio.Future[Ended]) -> None:
        try:
            if isinstance(way, Filled):
                returned = own_loop.run(way.answer(delivery, tell))
            else:
                returned = way.call(delivery)
                if inspect.isawaitable(returned) or isinstance(returned, Response):
                    returned = own_loop.run(_settled(returned, tell))
            result = self._success(delivery, returned)
        except BaseException as error:  # sys.exit() in a handler ends the handler, not the server
            result = self._failure(delivery, error)
        self._post(self._end, delivery, ended, result)

    # On the handlers' loop: an `async def` handler

    def _begin(
        self,
        way: Way,
        delivery: Delivery,
        tell: Tell,
        ended: asyncio.Future[Ended],
        tasks: list[asyncio.Task[None]],
    ) -> None:
        task = asyncio.create_task(self._await(way, delivery, tell, ended))
        tasks.append(task)
        self._tasks.add(task)  # a loop alone does not keep a task from being collected
        task.add_done_callback(self._tasks.discard)

    async def _await(self, way: Way, delivery: Delivery, tell: Tell, ended: asyncio.Future[Ended]) -> None:
        try:
            if isinstance(way, Filled):
                returned = await way.answer(delivery, tell)
            else:
                returned = await _settled(way.call(delivery), tell)
            result = self._success(delivery, returned)
        except BaseException as error:
            result = self._failure(delivery, error)
        self._post(self._end, delivery, ended, result)

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
        serving = loop.create_task(self._serve())
        while not serving.done():
            try:
                loop.run_until_complete(serving)
            except BaseException as error:  # sys.exit() in a task that a handler left behind
                log(logging.ERROR, "A task that a handler started has failed\n%s", quoted_traceback(error, self._hide))
        if tasks := asyncio.all_tasks(loop):
            for task in tasks:
                task.cancel()
            loop.run_until_complete(asyncio.wait(tasks))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()

    async def _serve(self) -> None:
        """Be there as long as the loop: the threads in which FastAPI runs `def` dependencies last as long as this."""
        anyio.to_thread.current_default_thread_limiter().total_tokens = math.inf
        await self._over.wait()

    # And back

    def _post(self, call: Callable[..., object], *args: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the server is closed
            self._to_server.post(call, *args)

    def _end(self, delivery: Delivery, ended: asyncio.Future[Ended], result: Ended) -> None:
        self._out -= 1
        if self._all_back and not self._out and not self._all_back.done():
            self._all_back.set_result(None)
        if ended.done():
            self._late(delivery)
        else:
            ended.set_result(result)

    def _success(self, delivery: Delivery, returned: Any) -> Ended:
        answer = answers.succeeded(delivery, returned)
        return Ended(answer, self._kept(delivery, answer))

    def _failure(self, delivery: Delivery, error: BaseException) -> Ended:
        """Describe an error where it was raised: its `__str__` is the user's code too, and may block or raise."""
        answer = answers.without_secrets(answers.failed(delivery, error), self._hide)
        try:
            text = self._described(delivery, error)
        except BaseException as another:
            text = f"    | {type(error).__name__}, which cannot be shown ({type(another).__name__})"
        return Ended(answer, self._kept(delivery, answer), text, _is_final(delivery, error))

    def _kept(self, delivery: Delivery, answer: Response) -> bytes:
        return kept(answer, self._hide_all(delivery))

    def _hide_all(self, delivery: Delivery) -> Hide:
        """Hide the sender's credentials, too. At once with ours: either may be a part of the other."""
        credentials = delivery.credentials
        return self._hide | Hide(credentials) if credentials else self._hide

    def _described(self, delivery: Delivery, error: BaseException) -> str:
        hide = self._hide_all(delivery)
        if isinstance(error, ValidationException):  # whose own text repeats what it is about
            problems = (f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in answers.problems(error))
            text = _quoted(hide("\n".join([type(error).__name__, *problems])))
        else:
            text = quoted_traceback(error, hide)
        if reason := answers.lacks_credentials(delivery, error):
            text = f"{_quoted(reason)}\n{text}"
        return text


async def _settled(returned: Any, tell: Tell) -> Any:
    if inspect.isawaitable(returned):
        returned = await returned
    if isinstance(returned, Response):
        return await answers.collected(returned, tell, dict(_SCOPE), _hung_up)
    return returned


async def _hung_up() -> Message:
    return {"type": "http.disconnect"}


def _is_final(delivery: Delivery, error: BaseException) -> bool:
    is_refused = answers.lacks_credentials(delivery, error) is not None
    return is_refused or isinstance(error, (GiveUp, RequestValidationError))


def quoted_traceback(error: BaseException, hide: Hide) -> str:
    """Write a traceback from the handler on, behind bars, so that no text in it can pass for a line of the log."""
    begin = error.__traceback__
    while begin and begin.tb_frame.f_code.co_filename.startswith(_MACHINERY):
        begin = begin.tb_next
    text = "".join(traceback.format_exception(type(error), error, begin))
    if len(text) > MAX_ERROR:
        half = MAX_ERROR // 2
        left_out = f"... {len(text) - MAX_ERROR} characters ..."
        text = "\n".join([hide.beginning(text, half), left_out, hide.end(text, half)])
    else:
        text = hide(text)
    return _quoted(text)


def _quoted(text: str) -> str:
    return "\n".join(f"    | {escaped(line)}" for line in text.split("\n") if line)


def kept(answer: Response, hide: Hide) -> bytes:
    """Return what the log keeps of an answer."""
    body = bytes(answer.body[: hide.reach(MAX_ANSWER)]).decode("latin-1")
    return hide.beginning(body, MAX_ANSWER).encode("latin-1")
