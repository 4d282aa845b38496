"""Gradio serves the webhooks: one launch of a `gr.Blocks`, the wait for its end, and that end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio.to_thread
from starlette.middleware import Middleware
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from . import console
from .connections import Gate
from .endpoints import PREFIX
from .front import Front
from .limits import MAX_FILE_OF_OWN_UI, MAX_PAGES_AT_ONCE, MAX_SESSIONS, Tally
from .private_files import PrivateFiles, private_paths
from .receiver import Aside, Lifespan, Receiver
from .settings import SetupError

if TYPE_CHECKING:
    import gradio as gr
    from fastapi import FastAPI

GRACE = 10.0  # seconds that running handlers get when the server stops
CONSOLE_WITHIN = 1.0  # seconds that whoever reads the console gets then
# The garbage collector looks at new objects after each 10,000, and not after each 700, where it would find nothing but
# a few deliveries. It looks at all objects a hundred times more rarely than usual: that stops every thread for a tenth
# of a second, since Gradio has hundreds of thousands. (`gc.freeze` would hide them from tools, such as a hot reload.)
COLLECT_AFTER = (10_000, 50, 200)

# Unless `launch` is given something else.
GRADIO_DEFAULTS = {
    "quiet": True,
    # It acts on the Hub with the token of this machine, for every program on it, and with that of who signed in, for
    # every page that is open in the same browser (gradio 6.31, history.py).
    "run_history": False,
    # What strangers can do with any page. (They print the address of the monitoring page, and choose it.)
    "enable_monitoring": False,
    "state_session_capacity": MAX_SESSIONS,
    "max_file_size": MAX_FILE_OF_OWN_UI,
}

_FORWARDED = (b"x-forwarded-for", b"x-forwarded-proto")


class Serving:
    """An ASGI application: the receiver, on the loop that Gradio serves on.

    Args:
        ui: what Gradio shows.
        receiver: what answers below `/webhooks/`.
        close: closes all of the server, and returns whether every handler ended. It is called when somebody closes
            the Gradio app, too.

    Raises:
        SetupError: the `gr.Blocks` is shown already.
    """

    def __init__(self, ui: gr.Blocks, receiver: Receiver, close: Callable[[], bool]) -> None:
        if ui.is_running:
            raise SetupError("Gradio shows this ui already: close() it first, or give this server another one.")
        self._ui = ui
        self._receiver = receiver
        self._close_all = close
        self._close_ui = ui.close
        self._loop: asyncio.AbstractEventLoop | None = None

    def launch(
        self,
        options: dict[str, Any],
        routes: Iterable[BaseRoute],
        middleware: Iterable[Middleware],
        log: Path,
        bodies: Mapping[str, int],
        ui_is_ours: bool,
    ) -> FastAPI:
        """Launch Gradio.

        Args:
            options: as of `gr.Blocks.launch`.
            routes, middleware: to stand before Gradio's own and those in the options.
            log: the folder of the delivery log.
            bodies: by path, how many bytes a body may have there and below.
            ui_is_ours: strangers need little of what Gradio can do.

        Raises:
            SetupError: the port is in use.
        """
        settings = self._receiver.settings
        defaults = {**GRADIO_DEFAULTS, "share": settings.gradio_share and not settings.on_space}
        app_kwargs = options.get("app_kwargs") or {}
        blocked = _blocked_paths(options.get("blocked_paths"), private_paths(settings.data_dir, log))
        tally = Tally()
        front = partial(Front, tally=tally, bodies=bodies, ui_is_ours=ui_is_ours, private=PrivateFiles(blocked))
        pages_are_few = ui_is_ours and not app_kwargs.get("routes")
        fixed = {
            "prevent_thread_lock": True,
            # Handed over before Gradio serves, so the webhooks are there from the first moment.
            "app_kwargs": {
                **app_kwargs,
                "routes": [Route("/health", self._receiver.health), *routes, *app_kwargs.get("routes", [])],
                "middleware": [*middleware, *app_kwargs.get("middleware", [])],
                "lifespan": self._lifespan(app_kwargs.get("lifespan"), front, pages_are_few),
            },
            # With server-side rendering, which Spaces ask for, a Node server stands in front and forwards Gradio's
            # own routes only: the Hub would get a 405.
            "ssr_mode": False,
            "blocked_paths": blocked,
        }
        try:
            app, _, _ = self._ui.launch(**{**defaults, **options, **fixed})
        except OSError as error:
            if "empty port" not in str(error):
                raise
            raise _no_port(options.get("server_port")) from None
        self._ui.close = self._close_from_gradio  # type: ignore[method-assign]
        config = self._ui.server.config
        if not app.root_path:  # which FastAPI puts into each request
            config.loaded_app = self._straight(config.loaded_app)
        Gate(tally, behind_proxy=settings.on_space).stand_in_front(config)
        _log_no_requests()
        _collect_rarely(self)
        return app

    def wait(self) -> None:
        """Wait until the Gradio app is closed, or Ctrl-C or SIGTERM closes the server."""
        with _sigterm_as_ctrl_c():
            try:
                # Gradio's `block_thread` answers Ctrl-C itself, and would leave running handlers no time.
                _interruptible(self._ui.block_thread)
                if not self._ui.is_running:
                    self._close_all()  # of the server, what is not closed yet
                return
            except KeyboardInterrupt:
                pass
            with contextlib.suppress(KeyboardInterrupt):  # a second Ctrl-C does not want to wait
                console.say(f"Stopping: nothing new is taken, running handlers have {GRACE:g} seconds.")
                if _interruptible(self._close_all) and console.wait_until_written(CONSOLE_WITHIN):
                    return
            # A handler that does not end may also hold threads that Python would wait for without end.
            console.say("Not everything has come to its end. What is unfinished runs again at the next start.")
            console.wait_until_written(CONSOLE_WITHIN)
            os._exit(0)

    def close(self) -> None:
        self._close_ui(verbose=False)
        self._ui.close = self._close_ui  # type: ignore[method-assign]
        _collect_as_before(self)

    def is_on_this_loop(self) -> bool:
        try:
            return asyncio.get_running_loop() is self._loop
        except RuntimeError:  # none runs in this thread
            return False

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        here, loop = asyncio.get_running_loop(), self._loop
        if loop is None or loop is here or not loop.is_running():
            return self._receiver(scope, receive, send)

        def from_there(function: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
            async def call(*args: Any) -> Any:
                return await function(*args)

            return lambda *args: asyncio.wrap_future(asyncio.run_coroutine_threadsafe(call(*args), here))

        # `TestClient(server.fastapi_app)` has a loop of its own for each request.
        answering = self._receiver(scope, from_there(receive), from_there(send))
        return asyncio.wrap_future(asyncio.run_coroutine_threadsafe(answering, loop))

    def _lifespan(self, other: Lifespan | None, front: Callable[[ASGIApp], ASGIApp], pages_are_few: bool) -> Lifespan:
        @contextlib.asynccontextmanager
        async def lifespan(app: Any) -> AsyncIterator[Any]:
            if self._loop is None:  # later a test client may bring another one
                self._loop = asyncio.get_running_loop()
                # Before the first request, and in front of Gradio's own middlewares: they fail at some of what is to
                # be refused, and no webhook needs their CORS and compression.
                app.middleware_stack = Aside(front(app.middleware_stack), PREFIX, self)
                if pages_are_few:
                    # A page is built in a thread, which this loop competes with for Python's lock.
                    anyio.to_thread.current_default_thread_limiter().total_tokens = MAX_PAGES_AT_ONCE
            async with self._receiver.lifespan(other)(app) as state:
                yield state

        return lifespan

    def _straight(self, long_way: ASGIApp) -> ASGIApp:
        """Have webhooks come straight from uvicorn. What its layer for proxies and FastAPI do before they come to
        `lifespan` above takes a tenth of a delivery's time.

        That layer tells who sent what a proxy forwards. On a Space it does not: the proxy is on another machine, and
        so not believed, unless `FORWARDED_ALLOW_IPS` says otherwise.
        """
        straight = Aside(long_way, PREFIX, self._receiver)
        if self._receiver.settings.on_space and "FORWARDED_ALLOW_IPS" not in os.environ:
            return straight

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            is_forwarded = any(name in _FORWARDED for name, _ in scope.get("headers", ()))
            await (long_way if is_forwarded else straight)(scope, receive, send)

        return app

    def _close_from_gradio(self, verbose: bool = True) -> None:
        """Stand in for `ui.close`, which `gr.close_all` calls, too."""
        self._close_all()


def _no_port(port: object) -> SetupError:
    return SetupError(
        f"{f'Port {port} is' if port else 'All the ports that Gradio tries are'} in use by another program. "
        "Stop that program, or choose another port with GRADIO_SERVER_PORT=7870 or launch(server_port=7870)."
    )


def _log_no_requests() -> None:
    # Gradio has uvicorn show no line about each request; now it does not compose them either.
    logging.getLogger("uvicorn.access").handlers.clear()
    for name in ("uvicorn.error", "python_multipart"):  # they warn of each request that makes no sense
        logging.getLogger(name).setLevel(logging.ERROR)


def _blocked_paths(given: list[str] | None, ours: list[Path]) -> list[str]:
    """List what Gradio gives to nobody, even if `allowed_paths` or `gr.set_static_paths` covers it."""
    others = given or os.environ.get("GRADIO_BLOCKED_PATHS", "").split(",")
    return [*filter(None, map(str.strip, map(str, others))), *map(str, ours)]


def _interruptible(wait: Callable[[], object]) -> object:
    """Wait in another thread, so that this one hears of a signal within a second.

    On Windows a wait is not interrupted, and elsewhere the system may have told another thread of the signal.
    """
    returned: list[object] = []
    waiting = threading.Thread(target=lambda: returned.append(wait()), name="webhooks wait", daemon=True)
    waiting.start()
    while waiting.is_alive():
        waiting.join(1)
    return returned and returned[0]


@contextlib.contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # which gets no signals
        yield
        return
    former = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        if former is not None:  # one that Python does not know, and could not put back
            signal.signal(signal.SIGTERM, former)


# The garbage collector belongs to the whole process, however many servers are in it.


@contextlib.contextmanager
def nothing_collected() -> Iterator[None]:
    """Leave the garbage collector off while Gradio is imported: it would look at hundreds of thousands of new objects
    again and again, an eighth of the time that a start takes. They are there to stay.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


_served: set[Serving] = set()
_collected_after = gc.get_threshold()  # before the first of them


def _collect_rarely(serving: Serving) -> None:
    global _collected_after
    if not _served:
        _collected_after = gc.get_threshold()
        if 0 < _collected_after[0] < COLLECT_AFTER[0]:  # not what somebody has chosen: rarer, or never
            gc.set_threshold(*COLLECT_AFTER)
    _served.add(serving)


def _collect_as_before(serving: Serving) -> None:
    if serving in _served:
        _served.remove(serving)
        if not _served:
            gc.set_threshold(*_collected_after)
