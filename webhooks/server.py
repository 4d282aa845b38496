"""Puts the parts together: handlers, receiver and page become one Gradio app."""

from __future__ import annotations

import itertools
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import console, gradio_app
from .deliveries.engine import Engine
from .deliveries.log import DeliveryLog
from .endpoints import Endpoint
from .invoke import Handler
from .receiver import Receiver
from .settings import Settings, SetupError, at_least, read_settings

if TYPE_CHECKING:
    import gradio as gr
    from fastapi import FastAPI
    from starlette.routing import BaseRoute

    from .dashboard.routes import Dashboard
    from .watched import ToWatch, Watched

# One more promise, which can be deleted, like jobs.py: the server takes, keeps and runs deliveries without it.
HAS_DASHBOARD = Path(__file__).with_name("dashboard").is_dir()
RESTART = "Restart the Space for that (or, on your machine, the script)."


class WebhooksServer:
    """A Gradio app that answers the Hub's webhooks.

    Args:
        ui: a `gr.Blocks` to show instead of the landing page.
        webhook_secret: what the Hub has to send in `X-Webhook-Secret`; by default the environment's
            `WEBHOOK_SECRET`. While a secret is being changed, `WEBHOOK_SECRET_PREVIOUS` is accepted too.
        reply_within: seconds that the Hub waits for a handler. One that takes longer goes on after a 202.
        max_pending: how many deliveries may be unfinished; those above are answered 503.
        data_dir: the folder of the delivery log; by default `WEBHOOKS_DATA_DIR`, else `/data/webhooks` on a Space
            with a Storage Bucket, else `.webhooks`. The second server that a process launches there has its log in
            the folder `2` inside, and so on: each finds its own again if they are launched in the same order. One
            with a handler at the same path as one that is closed by then goes on with the log of that one.

    Raises:
        SetupError: a `ValueError` that says which setting is wrong.

    Example:
        ```python
        from webhooks import WebhookPayload, WebhooksServer

        server = WebhooksServer()

        @server.add_webhook
        def say_hello(payload: WebhookPayload):
            return {"hello": payload.repo.name}

        server.launch()
        ```
    """

    def __init__(
        self,
        ui: gr.Blocks | None = None,
        webhook_secret: str | None = None,
        *,
        reply_within: float = 5.0,
        max_pending: int = 1000,
        data_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        if _is_reloading() and _running:
            raise SetupError(f"The server runs, and cannot become another one while it does. {RESTART}")
        given = {"WEBHOOK_SECRET": str(webhook_secret)} if webhook_secret else {}
        if data_dir is not None:
            given["WEBHOOKS_DATA_DIR"] = os.fspath(data_dir)
        self._settings = read_settings(Settings, {**os.environ, **given})
        console.never_show(self._settings.redact)
        self._has_own_folder = data_dir is not None
        self._endpoints: dict[str, Endpoint] = {}
        self._max_pending = int(at_least(1, "max_pending", max_pending, whole=True))
        self._reply_within = at_least(0, "reply_within", reply_within)
        self._engine: Engine | None = None
        self._lifecycle = threading.RLock()  # held by whoever launches or closes
        self._close_ui: Callable[[], None] = lambda: None
        self._folder: Path | None = None
        self._log_path = Path()
        self._ui = ui
        self._ui_is_ours = False
        self._dashboard: Dashboard | None = None
        self.fastapi_app: FastAPI | None = None
        self.call_off_autostart: Callable[[], None] = lambda: None

    @property
    def webhook_secret(self) -> str | None:
        """The secret that the Hub has to send."""
        secret = self._settings.webhook_secret
        return secret.get_secret_value() if secret else None

    @property
    def registered_webhooks(self) -> dict[str, Handler]:
        """The handlers, by their full path."""
        return {path: endpoint.function for path, endpoint in self._endpoints.items()}

    @property
    def watched(self) -> dict[str, tuple[Watched, ...]]:
        """What the handlers want to hear of on the Hub, by their full path."""
        return {path: endpoint.watched for path, endpoint in self._endpoints.items()}

    def add_webhook(
        self,
        path: Handler | str | None = None,
        *,
        max_attempts: int = 1,
        timeout: float | None = None,
        debounce: float = 0,
        watched: ToWatch = None,
    ) -> Any:
        """Register a handler; use it as `@server.add_webhook` or `@server.add_webhook("/path")`.

        The handler is a `def` or an `async def`, and takes whatever a FastAPI path operation takes, and a `Delivery`.
        An annotation says what a parameter is, else its name does: `payload`, `delivery` or `request`. Only where it
        takes a `WebhookPayload` must the body be one. What it returns is the answer.

        Args:
            path: where to reach it under `/webhooks/`, such as `/hook` or `/hook/{name}`; by default the function's
                name.
            max_attempts: how often to run it for one delivery until it does not raise. Between two attempts there
                is about 1 second at first and up to 5 minutes later.
            timeout: seconds for one attempt, which then counts as failed. An `async def` handler is cancelled; the
                thread of a `def` handler cannot be stopped and is left behind.
            debounce: seconds to wait for a newer event of the same kind in the same repository, which then takes the
                place of this one. A stream that never pauses still runs at least every ten times that long.
            watched: what on the Hub it wants to hear of, for the owner's page, which creates its webhooks: one or
                several of `"dataset:me/data"` or `{"type": "dataset", "name": "me/data", "domains": ["repo"]}`. The
                domains are `repo` and `discussion`, by default both.

        Raises:
            SetupError: a `ValueError`: the path is taken or unusable, a parameter cannot be filled, nothing
                can be watched like that, or a number makes no sense.
        """
        if callable(path):
            return self.add_webhook()(path)
        if not (path is None or isinstance(path, str)):
            raise SetupError(f'The path of a webhook must be text such as "/my-webhook", not {path!r}.')

        def register(function: Handler) -> Handler:
            endpoint = Endpoint(
                function, path, max_attempts=max_attempts, timeout=timeout, debounce=debounce, watched=watched
            )
            former = next((one for one in self._endpoints.values() if one.shape == endpoint.shape), None)
            defined_again = former and former.definition == endpoint.definition is not None
            if former and not (defined_again and (self._engine or at_prompt())):
                raise SetupError(
                    f"There already is a webhook at {endpoint.path}. Rename the function, or give one of the "
                    f'two a path of its own: @...add_webhook("/another-path").'
                )
            if former:
                del self._endpoints[former.path]
            self._endpoints[endpoint.path] = endpoint
            return function

        return register

    def launch(self, prevent_thread_lock: bool = False, **gradio_launch_kwargs: Any) -> None:
        """Start serving, print where, and wait until the server is stopped. A second call only prints.

        It stops at Ctrl-C or SIGTERM: new deliveries are answered 503, running handlers get 10 seconds, and the rest
        waits in the log for the next start. `close()` does the same from elsewhere, and so does the `close()` of the
        Gradio app. After that it can be launched again.

        Args:
            prevent_thread_lock: return at once, and leave signals alone; the server goes on as long as the script
                does. At a prompt or in a notebook it always does.
            gradio_launch_kwargs: passed on to `gr.Blocks.launch`. Outside a Space a public link is made
                unless `share=False` or `GRADIO_SHARE=False` says otherwise.

        Raises:
            SetupError: no handler is registered, the port or the `ui` is in use, or the delivery log cannot be used.
        """
        self.call_off_autostart()
        if _is_reloading():
            raise SetupError(f"The server runs, and cannot be launched otherwise while it does. {RESTART}")
        with self._lifecycle:
            if self._engine is None:
                self._start(gradio_launch_kwargs)
            link = self._dashboard.access.link(self._url) if self._dashboard else None
            folder = self._log_path.parent
            summary = console.summary(self._settings, self._endpoints, folder, self._local_url, self._url, link)
            # At once, or what a handler prints comes before the end of the line.
            print(summary, end="\n", flush=True)
        if not (prevent_thread_lock or at_prompt()):
            assert self._ui is not None
            gradio_app.wait(self._ui, self.close)

    run = launch

    def replay(self, delivery_id: str) -> str:
        """Run a recorded delivery again, at once and as a new one; return the new one's id.

        Raises:
            KeyError: the log has no delivery with this id.
            NotTakenError: too many deliveries are waiting, or the log cannot be written.
            SetupError: the server is not running.
        """
        if self._engine is None:
            raise SetupError("Nothing can be replayed before the server runs: launch() it first.")
        return self._engine.replay(delivery_id)

    def close(self, grace: float = gradio_app.GRACE) -> bool:
        """Stop taking deliveries, wait up to `grace` seconds for running handlers, and stop gradio_app.

        Returns:
            Whether every handler ended. What did not end, or was still to run, goes on at the next launch.
        """
        if self._engine and self._engine.is_on_this_loop():  # to wait here would stop what is waited for
            threading.Thread(target=self.close, args=(grace,), name="webhooks close").start()
            return False
        with self._lifecycle:
            if self._engine is None:
                return True
            all_ended = self._engine.stop(grace)
            self._close_ui()
            self._engine = self.fastapi_app = None
            _running.discard(self._log_path.parent)
            if not _running:
                gradio_app.collect_as_before()
            return all_ended

    def _start(self, options: dict[str, Any]) -> None:
        console.show_log()
        receiver = self.take_deliveries()
        try:
            self.fastapi_app = self._launch_gradio(receiver, options)
        except BaseException:
            self.close(grace=0)
            raise
        receiver.engine.recover()

    def take_deliveries(self, folder: Path | None = None) -> Receiver:
        """Begin to take deliveries, with the server's log or one in this folder; the caller serves them."""
        if not self._endpoints:
            raise SetupError("No webhook to serve: put @webhook_endpoint or @server.add_webhook above a function.")
        if self._engine:
            raise SetupError("This server is running already: close() it first.")
        settings = self._settings
        shared_disk = folder is None and settings.on_shared_disk
        log = DeliveryLog(folder or self._choose_folder(), shared_disk=shared_disk)
        self._engine = Engine(self._endpoints, log, self._max_pending, settings.redact, settings.secret_to_send)
        self._log_path = log.path
        if not _running:
            gradio_app.collect_rarely()
        _running.add(log.path.parent)
        return Receiver(self._endpoints, self._engine, settings, self._reply_within)

    def _choose_folder(self) -> Path:
        """Give each server of this process a log of its own, and the same one at its next launch."""
        first = self._settings.data_dir.absolute()
        if self._has_own_folder and first in _running:
            raise SetupError(
                f"Another server of this process works with the delivery log in {first}. Give one of the two a "
                'folder of its own: WebhooksServer(data_dir="...").'
            )
        if self._folder is None or self._folder in _running:
            others = (first / str(number) for number in itertools.count(2))
            self._folder = next(folder for folder in itertools.chain([first], others) if folder not in _running)
        return self._folder

    def _launch_gradio(self, receiver: Receiver, options: dict[str, Any]) -> FastAPI:
        from .landing import CSS, THEME, arrivals, landing_page

        routes: list[BaseRoute] = []
        if ui_is_ours := self._ui is None or self._ui_is_ours:
            self._ui, fill = landing_page(list(self._endpoints.values()), self._settings, HAS_DASHBOARD)
            self._ui_is_ours = True
            # Nothing on our page takes a file, so a stranger cannot fill the disk that the log needs.
            ours = {"theme": THEME, "footer_links": ["gradio", "settings"], "max_file_size": 0}
            routes = [arrivals(receiver.engine)]
            options = {**ours, **options, "css": "\n".join([CSS, options.get("css") or ""])}
        if HAS_DASHBOARD:
            self._dashboard = self._build_dashboard(receiver.engine)
            routes += self._dashboard.routes()
        ui = self._ui
        assert ui is not None
        if self._settings.on_space:
            vars(sys.modules["__main__"]).setdefault("demo", ui)  # where the Hub's hot reload looks for it
        folder = self._log_path.parent
        app = gradio_app.launch(ui, receiver, options, routes, folder, ui_is_ours)
        close = ui.close

        def close_ui() -> None:
            ui.close = close  # type: ignore[method-assign]
            close(verbose=False)

        self._close_ui = close_ui
        ui.close = lambda verbose=True: self._close_from_gradio()  # type: ignore[method-assign]
        if ui_is_ours:
            fill(self._url, self._has_public_address)
        return app

    def _close_from_gradio(self) -> None:
        """Stand in for `ui.close`, which `gr.close_all` calls, too."""
        self.close()

    def _build_dashboard(self, engine: Engine) -> Dashboard:
        from .dashboard.routes import Dashboard

        return Dashboard(
            self._settings,
            self._endpoints,
            engine,
            public_url=lambda: self._url,
            has_public_address=lambda: self._has_public_address,
        )

    @property
    def _local_url(self) -> str:
        return ((self._ui and self._ui.local_url) or "").rstrip("/")

    @property
    def _has_public_address(self) -> bool:
        return self._url != self._local_url

    @property
    def _url(self) -> str:
        """The address that the Hub can reach, or else the local one."""
        return (self._settings.public_url or (self._ui and self._ui.share_url) or self._local_url).rstrip("/")


def at_prompt() -> bool:
    """Tell whether somebody sits at a Python prompt or in a notebook, where nothing may block."""
    return hasattr(sys, "ps1")


def _is_reloading() -> bool:
    """Tell whether this thread is bringing an edit into the running process. Gradio's own `launch` asks the same."""
    reload = sys.modules.get("gradio.cli.commands.reload")
    return reload is not None and getattr(reload.reload_thread, "running_reload", False)


_running: set[Path] = set()  # the folders of the logs that are in use
