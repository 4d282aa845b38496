"""A loop in a thread that has a `def` handler to run: what FastAPI does around the handler is `async`."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import functools
import inspect
import selectors
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _Selector(selectors.DefaultSelector):
    """Looks for events only when there is nothing else to do: each look hands the interpreter to another thread."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return [] if timeout == 0 else super().select(timeout)


class _Thread(threading.local):
    """A thread's own loop, and the call for which it stands still."""

    loop: asyncio.AbstractEventLoop | None = None
    call: Callable[[], None] | None = None


_thread = _Thread()


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on a loop of this thread, which stays for the next one.

    While a `def` handler in it runs, the loop stands still: so the handler may have one of its own (`asyncio.run`).
    """
    loop = _thread.loop = _thread.loop or asyncio.SelectorEventLoop(_Selector())
    task = loop.create_task(coroutine)
    task.add_done_callback(lambda _: loop.stop())
    while not task.done():
        with contextlib.suppress(SystemExit, KeyboardInterrupt):  # they end the loop, and are in the result, too
            loop.run_forever()
        if call := _thread.call:
            _thread.call = None
            call()
    return task.result()


async def aside(call: Callable[..., Any], /, **values: Any) -> Any:
    """Have `run` make a call while the loop stands still."""
    loop = asyncio.get_running_loop()
    over: asyncio.Future[concurrent.futures.Future[Any]] = loop.create_future()
    in_context = contextvars.copy_context().run

    def make() -> None:
        outcome: concurrent.futures.Future[Any] = concurrent.futures.Future()
        try:
            outcome.set_result(in_context(functools.partial(call, **values)))
        except BaseException as error:  # sys.exit() in a handler ends the handler, not the server
            outcome.set_exception(error)
        over.set_result(outcome)

    _thread.call = make
    loop.stop()
    returned = (await over).result()
    return await returned if inspect.isawaitable(returned) else returned


def close_loop() -> None:
    """Give back what `run` has kept in this thread."""
    if _thread.loop:
        _thread.loop.close()
        _thread.loop = None
