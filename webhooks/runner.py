"""Runs handlers, each where it can block nobody but itself: async ones on a loop of their own, others in threads."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import os
import threading
import traceback
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response

from . import answers
from .console import escaped
from .delivery import Arrival, Delivery
from .endpoints import Endpoint
from .life import GiveUp
from .mailbox import Mailbox

logger = logging.getLogger("webhooks")

MAX_ERROR = 32 * 1024  # characters of a traceback that are kept
_MARGIN = 8 * 1024  # characters: more than a secret has, so that none is cut in two before it is hidden

_HERE = os.path.dirname(__file__) + os.sep


@dataclass(frozen=True)
class Result:
    """How an attempt ended: the answer for its sender, and if it failed, the traceback and whether that is final."""

    answer: Response
    error: str | None = None
    final: bool = False


class Runner:
    """Starts handlers. It keeps nothing of what they do: that is the dispatcher's business.

    Args:
        hide: takes secrets out of tracebacks.
    """

    def __init__(self, hide: Callable[[str], str]) -> None:
        self._hide = hide
        self._loop: asyncio.AbstractEventLoop | None = None
        self._mailbox: Mailbox | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopped = False

    def start(
        self, endpoint: Endpoint, delivery: Delivery, arrival: Arrival, done: Callable[[Result], object]
    ) -> Callable[[], object]:
        """Start an attempt and return at once. `done` is called once, from another thread, whatever the handler does.

        Returns:
            What gives the attempt up: an async handler is cancelled; the thread of another one is left behind.

        Raises:
            RuntimeError, OSError: the machine gives no more threads or files.
        """
        if endpoint.is_async:
            return self._start_on_loop(self._handler_loop(), self._on_loop(endpoint, delivery, arrival, done))
        run = (endpoint, delivery, arrival, done)
        threading.Thread(target=self._in_thread, args=run, name=f"webhook {delivery.id}", daemon=True).start()
        return lambda: None

    def wake(self) -> None:
        """See to it that the async handlers which were started begin."""
        if self._mailbox:
            self._mailbox.wake()

    def stop(self) -> None:
        """End the loop of the async handlers; none may be running."""
        self._stopped = True
        if self._loop:
            self._loop.call_soon_threadsafe(self._loop.stop)

    def failure(self, delivery: Delivery, error: BaseException) -> Result:
        """Describe an error where it was raised: its `__str__` is the user's code too, and may block or raise."""
        answer = answers.failed(delivery, error)
        try:
            return Result(answer, quoted_traceback(error, self._hide), isinstance(error, GiveUp))
        except BaseException as another:
            return Result(answer, f"    | {type(error).__name__}, which cannot be shown ({type(another).__name__})")

    def _in_thread(
        self, endpoint: Endpoint, delivery: Delivery, arrival: Arrival, done: Callable[[Result], object]
    ) -> None:
        try:
            returned = endpoint.call(delivery, arrival)
            if inspect.isawaitable(returned) or isinstance(returned, Response):
                returned = asyncio.run(_settled(returned))
            result = Result(answers.succeeded(delivery, returned))
        except BaseException as error:  # sys.exit() in a handler ends the handler, not the server
            result = self.failure(delivery, error)
        done(result)

    async def _on_loop(
        self, endpoint: Endpoint, delivery: Delivery, arrival: Arrival, done: Callable[[Result], object]
    ) -> None:
        try:
            result = Result(answers.succeeded(delivery, await _settled(endpoint.call(delivery, arrival))))
        except BaseException as error:
            result = self.failure(delivery, error)
        done(result)

    def _start_on_loop(self, mailbox: Mailbox, attempt: Coroutine[Any, Any, None]) -> Callable[[], object]:
        tasks: list[asyncio.Task[None]] = []

        def begin() -> None:
            task = asyncio.create_task(attempt)
            tasks.append(task)
            self._tasks.add(task)  # a loop alone does not keep a task from being collected
            task.add_done_callback(self._tasks.discard)

        mailbox.leave(begin)
        return lambda: mailbox.post(lambda: tasks[0].cancel())

    def _handler_loop(self) -> Mailbox:
        if self._mailbox is None:  # no lock: only the bookkeeping thread starts handlers
            loop = asyncio.new_event_loop()
            threading.Thread(target=self._run_loop, args=(loop,), name="webhooks", daemon=True).start()
            self._loop, self._mailbox = loop, Mailbox(loop)
        return self._mailbox

    def _run_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        while not self._stopped:
            try:
                loop.run_forever()
            except BaseException as error:  # sys.exit() in a task that a handler left behind
                with contextlib.suppress(Exception):
                    logger.error("A task that a handler started has failed\n%s", quoted_traceback(error, self._hide))
        loop.close()


async def _settled(returned: Any) -> Any:
    if inspect.isawaitable(returned):
        returned = await returned
    return await answers.collected(returned) if isinstance(returned, Response) else returned


def quoted_traceback(error: BaseException, hide: Callable[[str], str]) -> str:
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


def cut(text: str, at_most: int, hide: Callable[[str], str]) -> str:
    """Return the beginning of a text without secrets, and look at no more of it than that takes."""
    if len(text) <= at_most:
        return hide(text)
    # A secret that this cuts in two is not hidden, but stands in the part that is left out.
    shown = hide(text[: at_most + 2 * _MARGIN])
    return shown[: max(0, len(shown) - _MARGIN)][:at_most]
