"""Runs handlers, each where it can block nobody but itself: async ones on a loop of their own, others in threads."""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
import time
import traceback
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Literal

from starlette.responses import Response

from . import answers
from .delivery import Arrival, Delivery
from .endpoints import Endpoint

logger = logging.getLogger("webhooks")


class Overloaded(Exception):
    """As many deliveries as allowed are waiting already; this one was not taken."""


@dataclass(frozen=True)
class Outcome:
    """How a delivery ended, and what its sender is told."""

    status: Literal["succeeded", "failed"]
    answer: Response


class Dispatcher:
    """Takes deliveries and runs their handlers.

    Args:
        max_pending: how many deliveries may be unfinished at once.
    """

    def __init__(self, max_pending: int) -> None:
        self.max_pending = max_pending
        self._pending = 0
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def dispatch(self, endpoint: Endpoint, delivery: Delivery, arrival: Arrival) -> Future[Outcome]:
        """Start the handler and return at once. The future always gets an outcome, whatever the handler does.

        Raises:
            Overloaded: nothing was started.
        """
        with self._lock:
            if self._pending >= self.max_pending:
                raise Overloaded
            self._pending += 1
        outcome: Future[Outcome] = Future()
        outcome.set_running_or_notify_cancel()
        outcome.add_done_callback(self._finished)
        run = _Run(endpoint, delivery, arrival, outcome)
        try:
            if endpoint.is_async:
                asyncio.run_coroutine_threadsafe(run.on_loop(), self._handler_loop())
            else:
                threading.Thread(target=run.in_thread, name=f"webhook {delivery.id}", daemon=True).start()
        except RuntimeError as error:  # the machine gives no more threads
            self._finished(outcome)
            raise Overloaded from error
        return outcome

    def _finished(self, _: Future[Outcome]) -> None:
        with self._lock:
            self._pending -= 1

    def _handler_loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                loop = asyncio.new_event_loop()
                threading.Thread(target=_run_forever, args=(loop,), name="webhooks", daemon=True).start()
                self._loop = loop
            return self._loop


class _Run:
    """One attempt of one handler."""

    def __init__(self, endpoint: Endpoint, delivery: Delivery, arrival: Arrival, outcome: Future[Outcome]) -> None:
        self.endpoint, self.delivery, self.arrival, self.outcome = endpoint, delivery, arrival, outcome
        self.started = time.monotonic()

    def in_thread(self) -> None:
        try:
            result = self.endpoint.call(self.delivery, self.arrival)
            if inspect.isawaitable(result) or isinstance(result, Response):
                result = asyncio.run(_settled(result))
            self._succeed(result)
        except BaseException as error:  # sys.exit() in a handler ends the handler, not the server
            self._fail(error)

    async def on_loop(self) -> None:
        try:
            self._succeed(await _settled(self.endpoint.call(self.delivery, self.arrival)))
        except BaseException as error:
            self._fail(error)

    def _succeed(self, result: Any) -> None:
        answer = answers.succeeded(self.delivery, result)
        logger.info("%s succeeded in %.2f s", self._title(), time.monotonic() - self.started)
        self.outcome.set_result(Outcome("succeeded", answer))

    def _fail(self, error: BaseException) -> None:
        seconds = time.monotonic() - self.started
        logger.error("%s failed after %.2f s\n%s", self._title(), seconds, _quoted_traceback(error))
        self.outcome.set_result(Outcome("failed", answers.failed(self.delivery, error)))

    def _title(self) -> str:
        payload = self.delivery.payload
        about = f" ({payload.repo.type} {payload.repo.name})" if payload else ""
        return f"delivery {self.delivery.id}: {self.endpoint.path}{_escaped(about)}"


def _run_forever(loop: asyncio.AbstractEventLoop) -> None:
    while True:
        try:
            loop.run_forever()
        except BaseException as error:  # sys.exit() in a task that a handler left behind
            logger.error("A task that a handler started has failed\n%s", _quoted_traceback(error))


async def _settled(result: Any) -> Any:
    if inspect.isawaitable(result):
        result = await result
    return await answers.collected(result) if isinstance(result, Response) else result


def _escaped(text: str) -> str:
    """Keep text that a stranger wrote on one line, and what it does to a terminal off."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _quoted_traceback(error: BaseException) -> str:
    """Indent a traceback behind bars, so that no text in it can pass for a line of this log."""
    lines = "".join(traceback.format_exception(type(error), error, error.__traceback__)).split("\n")
    return "\n".join(f"    | {_escaped(line)}" for line in lines if line)
