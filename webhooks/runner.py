"""Runs handlers, each where it can block nobody but itself: async ones on a loop of their own, others in threads."""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response

from . import answers
from .delivery import Arrival, Delivery
from .endpoints import Endpoint

logger = logging.getLogger("webhooks")

_HERE = os.path.dirname(__file__) + os.sep


@dataclass(frozen=True)
class Result:
    """How an attempt ended: the answer for its sender, and the error if it failed."""

    answer: Response
    error: BaseException | None = None


class Runner:
    """Starts handlers. It keeps nothing of what they do: that is the dispatcher's business."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(
        self, endpoint: Endpoint, delivery: Delivery, arrival: Arrival, done: Callable[[Result], object]
    ) -> Callable[[], object]:
        """Start an attempt and return at once. `done` is called once, from another thread, whatever the handler does.

        Returns:
            What gives the attempt up: an async handler is cancelled; the thread of another one is left behind.

        Raises:
            RuntimeError: the machine gives no more threads.
        """
        if endpoint.is_async:
            coroutine = _run_on_loop(endpoint, delivery, arrival, done)
            return asyncio.run_coroutine_threadsafe(coroutine, self._handler_loop()).cancel
        run = (endpoint, delivery, arrival, done)
        threading.Thread(target=_run_in_thread, args=run, name=f"webhook {delivery.id}", daemon=True).start()
        return lambda: None

    def _handler_loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                loop = asyncio.new_event_loop()
                threading.Thread(target=_run_forever, args=(loop,), name="webhooks", daemon=True).start()
                self._loop = loop
            return self._loop


def _run_in_thread(endpoint: Endpoint, delivery: Delivery, arrival: Arrival, done: Callable[[Result], object]) -> None:
    try:
        returned = endpoint.call(delivery, arrival)
        if inspect.isawaitable(returned) or isinstance(returned, Response):
            returned = asyncio.run(_settled(returned))
        result = Result(answers.succeeded(delivery, returned))
    except BaseException as error:  # sys.exit() in a handler ends the handler, not the server
        result = Result(answers.failed(delivery, error), error)
    done(result)


async def _run_on_loop(
    endpoint: Endpoint, delivery: Delivery, arrival: Arrival, done: Callable[[Result], object]
) -> None:
    try:
        result = Result(answers.succeeded(delivery, await _settled(endpoint.call(delivery, arrival))))
    except BaseException as error:
        result = Result(answers.failed(delivery, error), error)
    done(result)


async def _settled(returned: Any) -> Any:
    if inspect.isawaitable(returned):
        returned = await returned
    return await answers.collected(returned) if isinstance(returned, Response) else returned


def _run_forever(loop: asyncio.AbstractEventLoop) -> None:
    while True:
        try:
            loop.run_forever()
        except BaseException as error:  # sys.exit() in a task that a handler left behind
            logger.error("A task that a handler started has failed\n%s", quoted_traceback(error))


def escaped(text: str) -> str:
    """Keep text that a stranger wrote on one line, and what it does to a terminal off."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def quoted_traceback(error: BaseException) -> str:
    """Write a traceback from the handler on, behind bars, so that no text in it can pass for a line of the log."""
    begin = error.__traceback__
    while begin and begin.tb_frame.f_code.co_filename.startswith(_HERE):
        begin = begin.tb_next
    lines = "".join(traceback.format_exception(type(error), error, begin)).split("\n")
    return "\n".join(f"    | {escaped(line)}" for line in lines if line)
