"""Let Gradio serve the webhooks: launch it, guard it, and wait for its end."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from starlette.middleware import Middleware
from starlette.routing import BaseRoute, Match, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from .console import logging_to_console, show
from .receiver import Receiver, WebhookRoute, is_from_web_page, path_of
from .responses import RefusedError
from .settings import SetupError

if TYPE_CHECKING:
    import gradio as gr
    from fastapi import FastAPI

GRACE_SECONDS = 10.0  # for running handlers when the server stops
MAX_CONNECTIONS = 2000  # at once; uvicorn answers 503 beyond that

# Gradio has hundreds of thousands of objects. With Python's thresholds, looking at all of them for garbage stops every
# thread for a tenth of a second, many times a minute.
GC_THRESHOLDS = (10_000, 50, 20)

# Defaults that the arguments of `launch` override.
GRADIO_DEFAULTS = {
    "quiet": True,
    # The run history acts on the Hub with the token of this machine or of the signed-in user, for every page in the
    # same browser (gradio 6.31, history.py).
    "run_history": False,
    "enable_monitoring": False,  # strangers choose the address of the monitoring page, which is printed
}

PRIVATE = (".env", ".git")  # the settings, and everything that was ever committed
API = "/gradio_api/"
USED = ("startup-events", "theme.css", "login_check")  # by a page without functions
NO_OTHER_ORIGIN = ("/health", "/arrivals")


class Stop(BaseException):
    """Ctrl-C or SIGTERM. Gradio's `block_thread` catches a `KeyboardInterrupt` itself, and leaves no time."""


def launch(
    ui: gr.Blocks, receiver: Receiver, options: dict[str, Any], routes: Iterable[BaseRoute], is_landing_page: bool
) -> FastAPI:
    """Launch Gradio, with the webhooks in it from the first moment.

    The program's own middlewares and routes in `app_kwargs` come before the server's.

    Args:
        options: of `gr.Blocks.launch`.
        routes: of the server, beside the webhooks and `/health`.
        is_landing_page: the `ui` has no functions that a visitor could call, so Gradio's API is closed.

    Raises:
        SetupError: the port is in use, the `ui` is shown already, or `app_kwargs` has dependencies.
    """
    if ui.is_running:
        raise SetupError("Gradio shows this ui already: close() it first, or give this server another ui.")
    app_kwargs = options.get("app_kwargs") or {}
    if app_kwargs.get("dependencies"):
        raise SetupError("The dependencies in app_kwargs would not reach the webhooks: put Depends into each handler.")
    settings = receiver.settings
    private = private_paths(settings.data_dir, receiver.engine.log.path.parent)
    blocked = options.get("blocked_paths") or filter(None, os.environ.get("GRADIO_BLOCKED_PATHS", "").split(","))
    user_lifespan = app_kwargs.get("lifespan")

    @contextlib.asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[Any]:
        if not (app_kwargs.get("middleware") or app_kwargs.get("routes")):
            # Only Gradio's CORS and compression are passed by, a tenth of a delivery (gradio 6.31, starlette 1.10).
            app.middleware_stack = _webhooks_first(app.middleware_stack, webhook_route)
        async with user_lifespan(app) if user_lifespan else contextlib.nullcontext() as state:
            receiver.engine.start({"app": app, "state": dict(state or {})})
            yield state

    # With a login of Gradio's, its API is needed, and closed to strangers.
    is_api_closed = is_landing_page and not options.get("auth")
    own_routes = app_kwargs.get("routes", [])
    guard = Middleware(GradioGuard, private=private, is_api_closed=is_api_closed, own_routes=own_routes)
    webhook_route, health = WebhookRoute(receiver), Route("/health", receiver.health)
    fixed = {
        "prevent_thread_lock": True,
        "app_kwargs": {
            **app_kwargs,
            "routes": [*own_routes, webhook_route, health, *routes],
            "middleware": [*app_kwargs.get("middleware", []), guard],
            "lifespan": lifespan,
        },
        # With server-side rendering, which Spaces ask for, a Node server stands in front and forwards Gradio's own
        # routes only: the Hub would get a 405.
        "ssr_mode": False,
        "blocked_paths": [*map(str, blocked), *map(str, private)],
    }
    defaults = {**GRADIO_DEFAULTS, "share": settings.gradio_share and not settings.is_on_space}
    try:
        app, _, _ = ui.launch(**{**defaults, **options, **fixed})
    except OSError as error:
        if "empty port" not in str(error):  # the words of gradio 6.31, http_server.py
            raise
        port = options.get("server_port")
        raise SetupError(
            f"{f'Port {port} is' if port else 'All the ports that Gradio tries are'} in use by another program. "
            "Stop that program, or choose another port with GRADIO_SERVER_PORT=7870 or launch(server_port=7870)."
        ) from None
    ui.server.config.limit_concurrency = MAX_CONNECTIONS
    # A request with `Upgrade: websocket` and a body would wait forever (uvicorn 0.54). Gradio 6 uses no WebSockets.
    ui.server.config.ws_protocol_class = None
    return app


def _webhooks_first(app: ASGIApp, route: WebhookRoute) -> ASGIApp:
    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        is_webhook = route.matches(scope)[0] is Match.FULL
        await (route.handle if is_webhook else app)(scope, receive, send)

    return call


@contextlib.contextmanager
def process_for_serving() -> Iterator[None]:
    """Log to the console, and look for garbage less often. A choice of the program's stays as it is."""
    former = gc.get_threshold()
    with logging_to_console():
        if former[0] in range(1, GC_THRESHOLDS[0]):
            gc.set_threshold(*GC_THRESHOLDS)
        try:
            yield
        finally:
            gc.set_threshold(*former)


def wait(
    ui: gr.Blocks, announce: Callable[[], object], close: Callable[[], bool], close_all: Callable[[], bool]
) -> None:
    """Announce a server, and wait until its Gradio app is closed, or Ctrl-C or SIGTERM closes all servers.

    Args:
        announce: prints the addresses, once a signal is heeded.
        close: closes the server.
        close_all: closes all servers of the process, and returns whether every handler ended.
    """
    all_ended = True
    with _signals_stop():
        try:
            try:
                announce()
                ui.block_thread()
                if not ui.is_running:
                    close()
                return
            except Stop:
                show(f"Stopping: nothing new is taken, running handlers have {GRACE_SECONDS:g} seconds.")
                all_ended = close_all()
        except Stop:  # a second signal ends the wait
            all_ended = False
    if not all_ended:
        show("Not every handler has ended. What is unfinished runs again at the next start.")
        os._exit(0)  # Python would wait forever for the thread of a handler that does not end


@contextlib.contextmanager
def _signals_stop() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # only the main thread gets signals
        yield
        return
    process = os.getpid()

    def stop(number: int, _: object) -> None:
        if os.getpid() != process:  # a child that a handler forked has inherited this function
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        raise Stop

    numbers = [signal.SIGTERM]
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # another function is the program's own
        numbers.append(signal.SIGINT)
    former = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in former.items():
            if handler is not None:  # a handler that was not set by Python cannot be put back
                signal.signal(number, handler)


def private_paths(*folders: Path) -> list[Path]:
    """Return these folders, and the private files beside and above the script and the working directory.

    `load_dotenv` looks for `.env` there.
    """
    script = getattr(sys.modules["__main__"], "__file__", None)
    starts = [Path.cwd(), *([Path(script).absolute().parent] if script else [])]
    around = [folder / name for start in starts for folder in (start, *start.parents) for name in PRIVATE]
    return list(dict.fromkeys(path for found in (*folders, *around) for path in (found.absolute(), found.resolve())))


class GradioGuard:
    """An ASGI middleware that refuses private files, and what the landing page does not need of Gradio.

    Args:
        private: files and folders that Gradio gives to nobody.
        is_api_closed: the page has no function that a visitor could call, and takes no file.
        own_routes: of the program; they come first.
    """

    def __init__(
        self, app: ASGIApp, private: Iterable[Path], is_api_closed: bool, own_routes: Sequence[BaseRoute]
    ) -> None:
        self._app, self._is_api_closed, self._own_routes = app, is_api_closed, own_routes
        self._private = {_real_path(str(path)) for path in private}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                self._check("/" + path_of(scope).lstrip("/"), scope)
            except RefusedError as refused:
                refused.response.headers["connection"] = "close"  # else uvicorn reads the body to its end
                await refused.response(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _check(self, path: str, scope: Scope) -> None:
        if path.endswith("\n"):  # the patterns of routes ignore it, the comparisons below would not
            raise RefusedError(404, "There is nothing at this address.")
        if self._is_private(path.partition(f"{API}file")[2][1:]):
            raise RefusedError(403, "This file is private.")
        if any(route.matches(scope)[0] is Match.FULL for route in self._own_routes):
            return
        if path in NO_OTHER_ORIGIN and is_from_web_page(scope["headers"]):
            raise RefusedError(403, "This request comes from a page of another origin.")
        if not self._is_api_closed:
            return
        name = path.removeprefix(API)
        is_file = name.startswith("file=") and not name.startswith("file=http")
        is_unused_api = path.startswith(API) and name.rstrip("/") not in USED and not is_file
        # Gradio has one page here, and fails at any other.
        is_other_page = path == "/" and b"page" in parse_qs(scope["query_string"], keep_blank_values=True)
        if is_unused_api or is_other_page or path.rstrip("/") == "/login":
            raise RefusedError(404, "There is nothing at this address.")

    def _is_private(self, name: str) -> bool:
        """Return whether a name leads to a private file.

        Gradio turns names into small letters before it follows links (6.31), and so would serve a private file by a
        link.
        """
        try:
            found = Path(_real_path(name)) if name else None
        except ValueError:  # no file has such a name
            return False
        return found is not None and any(str(path) in self._private for path in (found, *found.parents))


def _real_path(path: str) -> str:
    return os.path.realpath(os.path.abspath(path)).lower()
