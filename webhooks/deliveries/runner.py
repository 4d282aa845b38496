"""Runs handlers where they block no delivery on its way in: async ones share a loop, each other one has a thread."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import logging
import math
import os
import sysconfig
import threading
import traceback
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

import anyio.to_thread
from fastapi.exceptions import RequestValidationError, ValidationException
from starlette.responses import Response

from .. import responses
from ..console import escaped
from ..delivery import Delivery, GiveUp
from ..endpoints import Endpoint, Invoker
from ..redact import Redactor

logger = logging.getLogger("webhooks")

MAX_THREADS = 10_000  # more than may wait, and each is used again
MAX_ERROR = 32 * 1024  # characters of a traceback that are kept
MAX_ANSWER = 64 * 1024  # bytes of an answer that are kept

# Where a traceback does not begin: in this package, and in what it calls a handler through.
_PACKAGE = os.path.dirname(os.path.dirname(__file__)) + os.sep
_MACHINERY = (_PACKAGE, *{sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")})


@dataclass(frozen=True)
class Ended:
    """How an attempt ended.

    Attributes:
        answer: for its sender.
        kept: what the log keeps of the answer.
        error: the traceback, if it failed.
        is_final: another attempt would not help.
    """

    answer: Response
    kept: bytes
    error: str | None = None
    is_final: bool = False


class Runner:
    """Runs handlers for the loop that serves.

    Args:
        redact: takes the server's secrets out of what is logged, recorded and answered.
    """

    def __init__(self, redact: Redactor) -> None:
        self._redact = redact
        self._threads = ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="webhook handler")
        self._loop: asyncio.AbstractEventLoop | None = None  # of the async ones
        self.out: set[Future[Ended]] = set()  # calls that have not come back, though they may be awaited no more
        self._awaited: set[asyncio.Future[Ended]] = set()

    async def run(self, endpoint: Endpoint, delivery: Delivery, answered: responses.Tell) -> Ended:
        """Run a handler once, whatever it does. What it does after its timeout changes nothing any more.

        Args:
            answered: called with the answer, on this loop, if that is complete while the attempt goes on.
        """
        here = asyncio.get_running_loop()
        way = endpoint.invoker  # now: a reload may change it while the handler runs

        def tell(answer: Response) -> None:
            with suppress(RuntimeError):  # the server is closed
                here.call_soon_threadsafe(answered, answer)

        if way.is_async:
            out = asyncio.run_coroutine_threadsafe(self._await(way, delivery, tell), self._handlers_loop())
        else:
            out = Future()
            call = functools.partial(self._call, out, way, delivery, tell)
            with suppress(RuntimeError):  # the machine gives no more threads: the next one that is free takes it
                self._threads.submit(contextvars.copy_context().run, call)
        self.out.add(out)
        ended: asyncio.Future[Ended] = here.create_future()
        out.add_done_callback(functools.partial(self._has_come_back, ended))
        self._awaited.add(ended)
        try:
            return await asyncio.wait_for(ended, endpoint.timeout)
        except asyncio.TimeoutError:
            late = TimeoutError(f"The handler took longer than its timeout of {endpoint.timeout:g} seconds.")
            return self._failure(delivery, late)
        finally:
            out.cancel()  # what is over, or runs in a thread, cannot be
            self._awaited.discard(ended)

    def _has_come_back(self, ended: asyncio.Future[Ended], out: Future[Ended]) -> None:
        """Do in fewer steps what `asyncio.wrap_future` does, in the thread of the handler."""
        self.out.discard(out)
        if not out.cancelled():
            with suppress(RuntimeError):  # the server is closed
                ended.get_loop().call_soon_threadsafe(_set, ended, out.result())

    def let_go(self) -> bool:
        """Wait no longer: each `run` ends as cancelled. Return whether every call had come back by then."""
        all_back = not self.out
        for ended in list(self._awaited):
            ended.cancel()
        return all_back

    def stop(self) -> None:
        """Cancel the async handlers that still run, and end their loop. From any thread."""
        self._threads.shutdown(wait=False)
        if self._loop:
            self._loop.call_soon_threadsafe(self._over.set)

    # In a thread: a `def` handler

    def _call(self, out: Future[Ended], way: Invoker, delivery: Delivery, tell: responses.Tell) -> None:
        if not out.set_running_or_notify_cancel():
            return
        try:
            returned = way.call(delivery, tell)
            if inspect.isawaitable(returned) or isinstance(returned, Response):
                returned = asyncio.run(responses.settled(returned, tell))
            out.set_result(self._success(delivery, returned))
        except BaseException as error:  # sys.exit() in a handler ends the handler, not the server
            out.set_result(self._failure(delivery, error))

    # On the handlers' loop: an `async def` handler

    async def _await(self, way: Invoker, delivery: Delivery, tell: responses.Tell) -> Ended:
        try:
            return self._success(delivery, await responses.settled(way.call(delivery, tell), tell))
        except BaseException as error:
            return self._failure(delivery, error)

    def _handlers_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._over = asyncio.Event()
            threading.Thread(target=self._run_loop, args=(self._loop,), name="webhooks", daemon=True).start()
        return self._loop

    def _run_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        serving = loop.create_task(self._serve())
        while not serving.done():
            try:
                loop.run_until_complete(serving)
            except BaseException as error:  # sys.exit() in a task that a handler left behind
                logger.error("A task that a handler started has failed\n%s", quoted_traceback(error, self._redact))
        if tasks := asyncio.all_tasks(loop):
            for task in tasks:
                task.cancel()
            loop.run_until_complete(asyncio.wait(tasks))
        loop.close()

    async def _serve(self) -> None:
        anyio.to_thread.current_default_thread_limiter().total_tokens = math.inf  # of FastAPI's `def` dependencies
        await self._over.wait()

    # How it ended

    def _success(self, delivery: Delivery, returned: object) -> Ended:
        answer = responses.succeeded(delivery, returned)
        return Ended(answer, _kept(answer, self._redact_all(delivery)))

    def _failure(self, delivery: Delivery, error: BaseException) -> Ended:
        """Describe an error where it was raised: its `__str__` is the user's code too, and may block or raise."""
        answer, redact = responses.failed(delivery, error, self._redact), self._redact_all(delivery)
        try:
            text = quoted_traceback(error, redact)
            if reason := responses.lacks_credentials(delivery, error):
                text = f"{_quoted(reason)}\n{text}"
        except BaseException as another:
            text = f"    | {type(error).__name__}, which cannot be shown ({type(another).__name__})"
        is_refused = responses.lacks_credentials(delivery, error) is not None
        is_final = is_refused or isinstance(error, (GiveUp, RequestValidationError))
        return Ended(answer, _kept(answer, redact), text, is_final)

    def _redact_all(self, delivery: Delivery) -> Redactor:
        """Redactor the sender's credentials, too. At once with ours: either may be a part of the other."""
        return self._redact | Redactor(delivery.credentials)


def _set(ended: asyncio.Future[Ended], result: Ended) -> None:
    if not ended.done():
        ended.set_result(result)


def quoted_traceback(error: BaseException, redact: Redactor) -> str:
    """Write a traceback from the handler on, behind bars, so that no text in it can pass for a line of the log."""
    begin = error.__traceback__
    while begin and begin.tb_frame.f_code.co_filename.startswith(_MACHINERY):
        begin = begin.tb_next
    if isinstance(error, ValidationException):  # whose own text repeats what it is about
        problems = (f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in responses.problems(error))
        text = redact("\n".join([type(error).__name__, *problems]))
    else:
        text = redact("".join(traceback.format_exception(type(error), error, begin)))
    if len(text) > MAX_ERROR:
        half = MAX_ERROR // 2
        text = f"{text[:half]}\n... {len(text) - MAX_ERROR} characters ...\n{text[-half:]}"
    return _quoted(text)


def _quoted(text: str) -> str:
    return "\n".join(f"    | {escaped(line)}" for line in text.split("\n") if line)


def _kept(answer: Response, redact: Redactor) -> bytes:
    return redact(bytes(answer.body).decode("latin-1")).encode("latin-1")[:MAX_ANSWER]
