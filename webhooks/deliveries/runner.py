"""Run handlers where they block nothing else: `async def` on a loop of their own, `def` in threads."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import logging
import math
import os
import sysconfig
import threading
import time
import traceback
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import anyio.to_thread
from fastapi.exceptions import RequestValidationError, ValidationException
from starlette.exceptions import HTTPException
from starlette.responses import Response

from .. import responses
from ..console import escaped
from ..delivery import Delivery, GiveUp
from ..endpoints import Endpoint
from ..invoke import FastAPIInvoker, Invoker, is_async, name_of
from ..redact import Redactor
from ..responses import OnResponse

try:
    import uvloop as loops
except ImportError:  # it is optional
    import asyncio as loops  # type: ignore[no-redef]

logger = logging.getLogger("webhooks")

SHORT_CALL_SECONDS = 0.002
MAX_THREADS = 10_000  # more than may wait; each is used again
MAX_ERROR_LENGTH = 32 * 1024  # characters of a traceback that the log keeps
MAX_RESPONSE_SIZE = 64 * 1024  # bytes of a response that the log keeps
MAX_RETRY_AFTER_SECONDS = 3600.0
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
        seconds: that the handler took.
        error: the traceback, if the attempt failed.
        is_final: another attempt would not help.
        retry_after: seconds that the error asks to wait.
    """

    response: Response
    stored: bytes
    seconds: float
    error: str | None = None
    is_final: bool = False
    retry_after: float = 0.0


OnEnd = Callable[[Result], object]
T = TypeVar("T")


class HandlerLoop:
    """An event loop in a thread of its own."""

    def __init__(self, name: str) -> None:
        self.loop: asyncio.AbstractEventLoop = loops.new_event_loop()
        self._stopped = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()  # a loop keeps only weak references
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.thread.start()

    def start(self, work: Coroutine[Any, Any, None]) -> Callable[[], object]:
        """Run a coroutine on the loop, and return a function that cancels it. From any thread."""
        begun: list[asyncio.Task[None]] = []

        def begin() -> None:
            begun.append(task := self.loop.create_task(work))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        self._call(begin)
        return lambda: self._call(lambda: [task.cancel() for task in begun])

    def stop(self) -> None:
        """Cancel what still runs on the loop, and end it. From any thread."""
        self._call(self._stopped.set)

    def _call(self, function: Callable[[], object]) -> None:
        with suppress(RuntimeError):  # the loop has ended
            self.loop.call_soon_threadsafe(function)

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
        self.loop.run_until_complete(self.loop.shutdown_default_executor())  # of `asyncio.to_thread`
        self.loop.close()

    async def _serve(self) -> None:
        anyio.to_thread.current_default_thread_limiter().total_tokens = math.inf  # for FastAPI's `def` functions
        await self._stopped.wait()


class Runner:
    """Run handlers for the serving loop.

    Args:
        redact: takes the server's secrets out of everything that is logged, stored or sent.

    Attributes:
        calls: a future for each call of a handler or a failure listener that has not returned, even if nobody waits
            for it, with the delivery's id.
    """

    def __init__(self, redact: Redactor) -> None:
        self.calls: dict[asyncio.Future[Any], str] = {}
        self._redact = redact
        self._threads = ThreadPoolExecutor(MAX_THREADS, "webhook handler")
        self._threads.submit(lambda: None)  # a thread that can take calls when the machine gives no more
        self._short_calls: deque[Callable[[], object]] = deque()
        self._is_thread_free = False
        self._async_loop = HandlerLoop("webhook async handlers")
        # FastAPI runs `def` handlers in threads, from a loop that no `async def` handler can block.
        self._sync_loop = HandlerLoop("webhook sync handlers")

    async def run(self, endpoint: Endpoint, delivery: Delivery, on_response: OnResponse) -> Result:
        """Run a handler once. After its timeout the handler may go on, and its result is ignored.

        Args:
            on_response: called on this loop with the response if that is complete before the attempt has ended.
        """
        began, serving_loop = time.monotonic(), asyncio.get_running_loop()
        returned: asyncio.Future[Result] = serving_loop.create_future()
        self.calls[returned] = delivery.id

        def call_back(function: Callable[[Any], object], value: object) -> None:
            with suppress(RuntimeError):  # the server is closed
                serving_loop.call_soon_threadsafe(function, value)

        def finish(result: Result) -> None:
            self.calls.pop(returned, None)
            if not returned.done():
                returned.set_result(result)

        invoker = endpoint.invoker()
        respond, end = functools.partial(call_back, on_response), functools.partial(call_back, finish)
        cancel: Callable[[], object] | None = None  # a thread cannot be stopped
        if invoker.is_async or isinstance(invoker, FastAPIInvoker):
            handler_loop = self._async_loop if invoker.is_async else self._sync_loop
            cancel = handler_loop.start(self._run_on_loop(invoker, delivery, respond, end))
        else:
            self._call_in_thread(functools.partial(self._run_in_thread, invoker, delivery, respond, end))
        try:
            if endpoint.timeout is None:
                return await returned
            await asyncio.wait((returned,), timeout=endpoint.timeout)
        except asyncio.CancelledError:
            if cancel:
                cancel()
            raise
        if returned.done():
            return returned.result()
        if cancel:
            cancel()
        timeout = TimeoutError(f"The handler took longer than its timeout of {endpoint.timeout:g} seconds.")
        return self._failure(delivery, timeout, began)

    async def notify(self, function: Callable[..., Any], delivery: Delivery, error: str) -> None:
        """Call a function with a failed delivery and its error. What the function raises is a line in the console."""
        ended: Future[None] = Future()

        def call() -> None:
            with self._reporting(function, delivery):
                function(delivery, error)
            ended.set_result(None)

        async def call_async() -> None:
            with self._reporting(function, delivery):
                await function(delivery, error)
            ended.set_result(None)

        if is_async(function):
            self._async_loop.start(call_async())
        else:
            self._call_in_thread(call)
        waiting = asyncio.wrap_future(ended)
        self.calls[waiting] = delivery.id
        waiting.add_done_callback(self.calls.pop)
        await asyncio.wait((waiting,))

    @contextlib.contextmanager
    def _reporting(self, listener: Callable[..., Any], delivery: Delivery) -> Iterator[None]:
        """Log what a failure listener raises. It may even be `SystemExit`, or have no text."""
        try:
            yield
        except BaseException as problem:
            text = type(problem).__name__
            with suppress(BaseException):
                text = escaped(self._redact(f"{text}: {problem}"))
            logger.error("delivery %s: %s(), for failures, has failed: %s", delivery.id, name_of(listener), text)

    def stop(self) -> bool:
        """Cancel the async handlers that still run, and end the loops. From any thread.

        Returns:
            Whether the loops have ended within a second, and with them what runs in threads of theirs.
        """
        self._threads.shutdown(wait=False)
        loops = (self._async_loop, self._sync_loop)
        for loop in loops:
            loop.stop()
        threads = [loop.thread for loop in loops if loop.thread is not threading.current_thread()]  # a handler's own
        for thread in threads:
            thread.join(1.0)
        return not any(thread.is_alive() for thread in threads)

    def _call_in_thread(self, call: Callable[[], object]) -> None:
        self._short_calls.append(functools.partial(contextvars.copy_context().run, call))
        if not self._is_thread_free:
            self._use_another_thread()

    def _use_another_thread(self) -> None:
        """Let a thread take calls one after the other, and look soon whether one of them blocks it.

        A thread for each call would wake so many threads that an empty handler takes twice as long.
        """
        self._is_thread_free = True
        with suppress(RuntimeError):  # the machine gives no more threads: the next free thread takes the call
            self._threads.submit(self._take_calls)
        asyncio.get_running_loop().call_later(SHORT_CALL_SECONDS, self._look_at_threads)

    def _take_calls(self) -> None:
        with suppress(IndexError):
            while True:
                self._short_calls.popleft()()
        self._is_thread_free = False

    def _look_at_threads(self) -> None:
        self._is_thread_free = False
        if self._short_calls:
            self._use_another_thread()

    def _run_in_thread(self, invoker: Invoker, delivery: Delivery, respond: OnResponse, end: OnEnd) -> None:
        began = time.monotonic()
        try:
            returned = invoker.call(delivery, respond)
            if isinstance(returned, (Awaitable, Response)):
                settled = asyncio.run_coroutine_threadsafe(responses.settle(returned, respond), self._sync_loop.loop)
                returned = settled.result()
            end(self._success(delivery, returned, began))
        except BaseException as error:  # sys.exit() in a handler ends the handler, not the server
            end(self._failure(delivery, error, began))

    async def _run_on_loop(self, invoker: Invoker, delivery: Delivery, respond: OnResponse, end: OnEnd) -> None:
        began = time.monotonic()
        while True:
            try:
                returned = await responses.settle(invoker.call(delivery, respond), respond)
                end(self._success(delivery, returned, began))
                return
            except BaseException as error:
                if not _lacks_thread(error):
                    end(self._failure(delivery, error, began))
                    return
            await asyncio.sleep(THREAD_RETRY_SECONDS)

    def _success(self, delivery: Delivery, returned: object, began: float) -> Result:
        response = responses.succeeded(delivery, returned)
        return Result(response, _stored(response, self._redactor(delivery)), time.monotonic() - began)

    def _failure(self, delivery: Delivery, error: BaseException, began: float) -> Result:
        """Describe an error in the handler's thread: its attributes are the user's code, and may block or raise."""
        seconds = time.monotonic() - began
        try:
            redact, reason = self._redactor(delivery), responses.missing_credentials_reason(delivery, error)
            response = responses.failed(delivery, error, reason, self._redact)
            text = quoted_traceback(error, redact)
            is_final = isinstance(error, (GiveUp, RequestValidationError)) or _is_unparsable(error)
            text, is_final = (f"{_quoted(reason)}\n{text}", True) if reason else (text, is_final)
            return Result(response, _stored(response, redact), seconds, text, is_final, retry_after(error))
        except BaseException as another:
            text = f"    | {type(error).__name__}, which cannot be shown ({type(another).__name__})"
            return Result(responses.not_run(delivery.id, "The handler failed."), b"", seconds, text)

    def _redactor(self, delivery: Delivery) -> Redactor:
        """Return a redactor for the sender's credentials and the server's secrets; one may contain the other."""
        return self._redact | Redactor(delivery.credentials)


def call_within(seconds: float, call: Callable[[], T]) -> T:
    """Return the result of a call in a daemon thread: Python would wait at its end for the thread of an executor.

    Raises:
        TimeoutError: the call takes longer. It goes on, and its effect is unknown.
    """
    result: Future[T] = Future()

    def run() -> None:
        try:
            result.set_result(call())
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=run, name="webhooks call", daemon=True).start()
    try:
        return result.result(seconds)
    except FutureTimeoutError:
        raise TimeoutError(f"No answer within {seconds:g} seconds.") from None


def retry_after(error: BaseException) -> float:
    """Return the seconds that an error or its cause asks to wait, as the Hub's errors do in `Retry-After`; else 0."""
    for source in (error, error.__cause__):
        headers = getattr(source, "headers", None) or getattr(getattr(source, "response", None), "headers", None)
        if not isinstance(headers, Mapping):
            continue
        value: Any = next((headers[name] for name in headers if name.lower() == "retry-after"), "0")
        with suppress(ValueError, TypeError, OverflowError):
            is_date = not str(value).replace(".", "").isdigit()
            now = datetime.now(timezone.utc)
            seconds = (parsedate_to_datetime(value) - now).total_seconds() if is_date else float(value)
            return min(max(seconds, 0.0), MAX_RETRY_AFTER_SECONDS)
    return 0.0


def _lacks_thread(error: BaseException) -> bool:
    """Return whether FastAPI got no thread. The same error of the handler's own is a failure."""
    if not (isinstance(error, RuntimeError) and "can't start new thread" in str(error)):
        return False
    modules = [str(frame.f_globals.get("__name__")) for frame, _ in traceback.walk_tb(error.__traceback__)]
    return len(modules) > 1 and modules[-2].startswith("anyio.")  # the last frame is that of threading


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
