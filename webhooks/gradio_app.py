"""Gradio serves the webhooks: one launch of a `gr.Blocks`, and the wait for its end."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.middleware import Middleware
from starlette.routing import BaseRoute, Route

from .endpoints import PREFIX
from .gradio_guard import GradioGuard, private_paths
from .receiver import Aside, Receiver
from .settings import SetupError

if TYPE_CHECKING:
    import gradio as gr
    from fastapi import FastAPI

GRACE = 10.0  # seconds that running handlers get when the server stops

# While it serves, all objects are looked at for garbage more rarely than Python does by itself: Gradio has hundreds of
# thousands of them, and each look stops every thread for a tenth of a second.
COLLECT_AFTER = (10_000, 50, 20)

# Unless `launch` is given something else.
GRADIO_DEFAULTS = {
    "quiet": True,
    # It acts on the Hub with the token of this machine, for every program on it, and with that of who signed in, for
    # every page that is open in the same browser (gradio 6.31, history.py).
    "run_history": False,
    "enable_monitoring": False,  # strangers print the address of the monitoring page, and choose it
}


class Stop(BaseException):
    """Ctrl-C or SIGTERM. Gradio's `block_thread` would answer a `KeyboardInterrupt` itself, and leave no time."""


def launch(
    ui: gr.Blocks,
    receiver: Receiver,
    options: dict[str, Any],
    routes: Iterable[BaseRoute],
    log: Path,
    ui_is_ours: bool,
) -> FastAPI:
    """Launch Gradio, with the webhooks in it from the first moment.

    Args:
        options: as of `gr.Blocks.launch`.
        routes: to stand before Gradio's own routes and those in the options.
        log: the folder of the delivery log.
        ui_is_ours: strangers need little of what Gradio can do.

    Raises:
        SetupError: the port is in use, or the `ui` is shown already.
    """
    if ui.is_running:
        raise SetupError("Gradio shows this ui already: close() it first, or give this server another one.")
    settings = receiver.settings
    app_kwargs = options.get("app_kwargs") or {}
    private = private_paths(settings.data_dir, log)
    blocked = options.get("blocked_paths") or filter(None, os.environ.get("GRADIO_BLOCKED_PATHS", "").split(","))
    other_lifespan = app_kwargs.get("lifespan")

    @contextlib.asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[Any]:
        receiver.engine.start()  # on the loop that serves
        # In front of Gradio's own middlewares: no webhook needs their CORS and compression, a tenth of its time.
        app.middleware_stack = Aside(app.middleware_stack, PREFIX, receiver)
        async with other_lifespan(app) if other_lifespan else contextlib.nullcontext() as state:
            yield state

    fixed = {
        "prevent_thread_lock": True,
        "app_kwargs": {
            **app_kwargs,
            "routes": [Route("/health", receiver.health), *routes, *app_kwargs.get("routes", [])],
            "middleware": [
                Middleware(GradioGuard, private=private, ui_is_ours=ui_is_ours),
                *app_kwargs.get("middleware", []),
            ],
            "lifespan": lifespan,
        },
        # With server-side rendering, which Spaces ask for, a Node server stands in front and forwards Gradio's own
        # routes only: the Hub would get a 405.
        "ssr_mode": False,
        "blocked_paths": [*map(str, blocked), *map(str, private)],
    }
    defaults = {**GRADIO_DEFAULTS, "share": settings.gradio_share and not settings.on_space}
    try:
        app, _, _ = ui.launch(**{**defaults, **options, **fixed})
    except OSError as error:
        if "empty port" not in str(error):
            raise
        port = options.get("server_port")
        raise SetupError(
            f"{f'Port {port} is' if port else 'All the ports that Gradio tries are'} in use by another program. "
            "Stop that program, or choose another port with GRADIO_SERVER_PORT=7870 or launch(server_port=7870)."
        ) from None
    logging.getLogger("uvicorn.access").handlers.clear()  # Gradio shows none of its lines; now none is composed either
    for name in ("uvicorn.error", "python_multipart"):  # they warn of each request that makes no sense
        logging.getLogger(name).setLevel(logging.ERROR)
    return app


_collected_after = gc.get_threshold()


def collect_rarely() -> None:
    global _collected_after
    _collected_after = gc.get_threshold()
    if 0 < _collected_after[0] < COLLECT_AFTER[0]:  # not what somebody has chosen: rarer, or never
        gc.set_threshold(*COLLECT_AFTER)


def collect_as_before() -> None:
    gc.set_threshold(*_collected_after)


def wait(ui: gr.Blocks, close: Callable[[], bool]) -> None:
    """Wait until the Gradio app is closed, or Ctrl-C or SIGTERM closes the server.

    Args:
        close: closes all of the server, and returns whether every handler ended.
    """
    all_ended = True
    with _signals_stop():
        try:
            try:
                ui.block_thread()
                if not ui.is_running:
                    close()  # of the server, what is not closed yet
                return
            except Stop:
                print(f"Stopping: nothing new is taken, running handlers have {GRACE:g} seconds.", flush=True)
                all_ended = close()
        except Stop:  # a second one does not want to wait
            all_ended = False
    if not all_ended:
        print("Not everything has come to its end. What is unfinished runs again at the next start.", flush=True)
        os._exit(0)  # a handler that does not end holds threads that Python would wait for without end


@contextlib.contextmanager
def _signals_stop() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # which gets no signals
        yield
        return

    def stop(*_: object) -> None:
        raise Stop

    numbers = [signal.SIGTERM]
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is the program's own
        numbers.append(signal.SIGINT)
    former = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in former.items():
            if handler is not None:  # one that Python does not know, and could not put back
                signal.signal(number, handler)
