"""Run handlers where they block nothing else: `async def` on a loop of their own, `def` in threads."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import logging
import math
import os
import sysconfig
import threading
import time
import traceback
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import anyio.to_thread
from fastapi.exceptions import RequestValidationError, ValidationException
from starlette.exceptions import HTTPException
from starlette.responses import Response

from .. import responses
from ..console import escaped, title
from ..delivery import Delivery, GiveUp
from ..endpoints import Endpoint
from ..invoke import FastAPIInvoker, Invoker, is_async
from ..redact import Redactor
from ..responses import OnResponse
from . import timing

logger = logging.getLogger("webhooks")

MAX_THREADS = 10_000  # more than may wait; each is used again
MAX_ERROR_LENGTH = 32 * 1024  # characters of a traceback that the log keeps
MAX_RESPONSE_SIZE = 64 * 1024  # bytes of a response that the log keeps
NOTIFY_SECONDS = 30.0  # for a function that is told of a failure
THREAD_RETRY_SECONDS = 0.5  # when the machine gives no more threads

# Frames at the start of a traceback that are not the user's: this package, and what it calls a handler through.
_PACKAGE = os.path.dirname(os.path.dirname(__file__)) + os.sep
_MACHINERY = (_PACKAGE, *{sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")})


@dataclass(frozen=True)
class Result:
    """How an attempt ended.

    Attributes:
        response: for the sender.
        stored: the part of the response's body that the log keeps.
        error: the traceback, if the attempt failed.
        is_final: another attempt would not help.
        retry_after: seconds that the error asks to wait.
    """

    response: Response
    stored: bytes
    error: str | None = None
    is_final: bool = False
    retry_after: float = 0.0


class HandlerLoop:
    """An event loop in a thread of its own."""

    def __init__(self, name: str) -> None:
        self.loop = asyncio.new_event_loop()
        self._stopped = asyncio.Event()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def stop(self) -> None:
        """Cancel what still runs on the loop, and end it. From any thread."""
        with suppress(RuntimeError):  # it has ended
            self.loop.call_soon_threadsafe(self._stopped.set)

    def _run(self) -> None:
        serving = self.loop.create_task(self._serve())
        while not serving.done():
            try:
                self.loop.run_until_complete(serving)
            except BaseException as error:  # sys.exit() in a task that a handler left behind
                logger.error("A task that a handler started has failed\n%s", quoted_traceback(error, Redactor()))
        if tasks := asyncio.all_tasks(self.loop):
            for task in tasks:
                task.cancel()
            self.loop.run_until_complete(asyncio.wait(tasks))
        self.loop.close()

    async def _serve(self) -> None:
        anyio.to_thread.current_default_thread_limiter().total_tokens = math.inf  # for FastAPI's `def` functions
        await self._stopped.wait()


class Runner:
    """Run handlers for the serving loop.

    Args:
        redact: takes the server's secrets out of everything that is logged, stored or sent.
    """

    def __init__(self, redact: Redactor) -> None:
        self._redact = redact
        self._threads = ThreadPoolExecutor(MAX_THREADS, "webhook handler")
        self._threads.submit(bool)  # a thread that can take calls when the machine gives no more
        self._async_loop = HandlerLoop("webhook async handlers")
        # FastAPI runs `def` handlers in threads, from a loop that no `async def` handler can block.
        self._sync_loop = HandlerLoop("webhook sync handlers")
        self.calls: set[Future[Result]] = set()  # calls that have not returned, even if nobody waits for them
        self._awaited: set[asyncio.Future[Result]] = set()

    async def run(self, endpoint: Endpoint, delivery: Delivery, on_response: OnResponse) -> Result:
        """Run a handler once. After its timeout the handler may go on, and its result is ignored.

        Args:
            on_response: called on this loop with the response if that is complete before the attempt has ended.
        """
        serving_loop = asyncio.get_running_loop()
        invoker = endpoint.invoker()

        def respond(response: Response) -> None:
            with suppress(RuntimeError):  # the server is closed
                serving_loop.call_soon_threadsafe(on_response, response)

        call: Future[Result]
        if invoker.is_async or isinstance(invoker, FastAPIInvoker):
            handler_loop = self._async_loop if invoker.is_async else self._sync_loop
            work = self._run_on_loop(invoker, delivery, respond)
            call = asyncio.run_coroutine_threadsafe(work, handler_loop.loop)
        else:
            call = self._in_thread(functools.partial(self._run_in_thread, invoker, delivery, respond))
        self.calls.add(call)
        result: asyncio.Future[Result] = serving_loop.create_future()
        call.add_done_callback(functools.partial(self._has_returned, result))
        self._awaited.add(result)
        try:
            return await asyncio.wait_for(result, endpoint.timeout)
        except asyncio.TimeoutError:
            timeout = TimeoutError(f"The handler took longer than its timeout of {endpoint.timeout:g} seconds.")
            return self._failure(delivery, timeout)
        finally:
            call.cancel()  # has no effect in a thread
            self._awaited.discard(result)

    async def notify(self, function: Callable[..., Any], delivery: Delivery, error: str) -> None:
        """Call a function with a failed delivery and its error. What the function raises is one line in the log."""

        async def called() -> None:
            if isinstance(returned := function(delivery, error), Awaitable):
                await returned

        call: Future[Any]
        if is_async(function):
            call = asyncio.run_coroutine_threadsafe(called(), self._async_loop.loop)
        else:
            call = self._in_thread(functools.partial(function, delivery, error))
        try:
            await asyncio.wait_for(asyncio.wrap_future(call), NOTIFY_SECONDS)
        except Exception as problem:
            name = getattr(function, "__name__", type(function).__name__)
            text = escaped(self._redact(f"{type(problem).__name__}: {problem}"))
            logger.error("delivery %s: %s(), for failures, has failed: %s", delivery.id, name, text)

    def stop_waiting(self) -> bool:
        """Make each `run` end as cancelled. Return whether every call had returned by then."""
        all_returned = not self.calls
        for result in list(self._awaited):
            result.cancel()
        return all_returned

    def stop(self) -> None:
        """Cancel the async handlers that still run, and end the loops. From any thread."""
        self._threads.shutdown(wait=False)
        self._async_loop.stop()
        self._sync_loop.stop()

    def _has_returned(self, result: asyncio.Future[Result], call: Future[Result]) -> None:
        """Do in the handler's thread, and in fewer steps, what `asyncio.wrap_future` does."""
        self.calls.discard(call)
        if not call.cancelled():
            with suppress(RuntimeError):  # the server is closed
                result.get_loop().call_soon_threadsafe(_set_result, result, call.result())

    def _in_thread(self, function: Callable[[], Any]) -> Future[Any]:
        call: Future[Any] = Future()

        def run() -> None:
            if call.set_running_or_notify_cancel():
                try:
                    call.set_result(function())
                except BaseException as error:
                    call.set_exception(error)

        with suppress(RuntimeError):  # the machine gives no more threads: the next free thread takes the call
            self._threads.submit(contextvars.copy_context().run, run)
        return call

    def _run_in_thread(self, invoker: Invoker, delivery: Delivery, respond: OnResponse) -> Result:
        began = time.monotonic()
        try:
            returned = invoker.call(delivery, respond)
            if isinstance(returned, (Awaitable, Response)):
                settled = asyncio.run_coroutine_threadsafe(responses.settle(returned, respond), self._sync_loop.loop)
                returned = settled.result()
            return self._success(delivery, returned, began)
        except BaseException as error:  # sys.exit() in a handler ends the handler, not the server
            return self._failure(delivery, error)

    async def _run_on_loop(self, invoker: Invoker, delivery: Delivery, respond: OnResponse) -> Result:
        began = time.monotonic()
        while True:
            try:
                returned = await responses.settle(invoker.call(delivery, respond), respond)
                return self._success(delivery, returned, began)
            except BaseException as error:
                if not (isinstance(error, RuntimeError) and "can't start new thread" in str(error)):
                    return self._failure(delivery, error)
            await asyncio.sleep(THREAD_RETRY_SECONDS)  # FastAPI had no thread for the handler, which has not run

    def _success(self, delivery: Delivery, returned: object, began: float) -> Result:
        response = responses.succeeded(delivery, returned)
        result = Result(response, _stored(response, self._redactor(delivery)))
        logger.info("%s: succeeded in %.2f s", title(delivery), time.monotonic() - began)
        return result

    def _failure(self, delivery: Delivery, error: BaseException) -> Result:
        """Describe an error in the thread of the handler: its `__str__` is the user's code, and may block or raise."""
        response, redact = responses.failed(delivery, error, self._redact), self._redactor(delivery)
        reason = responses.missing_credentials_reason(delivery, error)
        try:
            text = quoted_traceback(error, redact)
        except BaseException as another:
            text = f"    | {type(error).__name__}, which cannot be shown ({type(another).__name__})"
        return Result(
            response,
            _stored(response, redact),
            f"{_quoted(reason)}\n{text}" if reason else text,
            is_final=reason is not None
            or isinstance(error, (GiveUp, RequestValidationError))
            or _is_unparsable(error),
            retry_after=timing.retry_after(error),
        )

    def _redactor(self, delivery: Delivery) -> Redactor:
        """Return a redactor for the sender's credentials and the server's secrets; one may contain the other."""
        return self._redact | Redactor(delivery.credentials)


def _set_result(future: asyncio.Future[Result], result: Result) -> None:
    if not future.done():
        future.set_result(result)


def _is_unparsable(error: BaseException) -> bool:
    """Return whether FastAPI or Starlette refuses the body: a handler's own `HTTPException` ends in another frame."""
    if not (isinstance(error, HTTPException) and error.status_code == 400 and error.__traceback__):
        return False
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__", "")).split(".")[0] in ("fastapi", "starlette")


def quoted_traceback(error: BaseException, redact: Redactor) -> str:
    """Return a traceback from the handler on, with a bar before each line, so that no text in it can forge a line."""
    begin = error.__traceback__
    while begin and begin.tb_frame.f_code.co_filename.startswith(_MACHINERY):
        begin = begin.tb_next
    if isinstance(error, ValidationException):  # its own text repeats the input
        lines = [f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in responses.problems(error)]
        text = redact("\n".join([type(error).__name__, *lines]))
    else:
        text = redact("".join(traceback.format_exception(type(error), error, begin)))
    if len(text) > MAX_ERROR_LENGTH:
        half = MAX_ERROR_LENGTH // 2
        text = f"{text[:half]}\n... {len(text) - MAX_ERROR_LENGTH} characters ...\n{text[-half:]}"
    return _quoted(text)


def _quoted(text: str) -> str:
    return "\n".join(f"    | {escaped(line)}" for line in text.split("\n") if line)


def _stored(response: Response, redact: Redactor) -> bytes:
    return redact.redact_bytes(bytes(response.body))[:MAX_RESPONSE_SIZE]
