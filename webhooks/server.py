"""Put the parts together: handlers, receiver and page become one Gradio app."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

from . import console, gradio_app
from .autostart import is_at_prompt, is_called_by_script, launch_at_script_end
from .deliveries.database import Database
from .deliveries.engine import Engine
from .deliveries.processing import FailureListener
from .endpoints import Endpoint
from .invoke import Handler
from .payload import WebhookPayload, to_body
from .receiver import Receiver
from .settings import Settings, SetupError, check_number, load_settings

if TYPE_CHECKING:
    import gradio as gr
    from fastapi import FastAPI
    from starlette.routing import BaseRoute

    from .watched import ToWatch, Watched

    F = TypeVar("F", bound=Callable[..., Any])

# Each of these can be deleted, and the server runs without it.
HAS_DASHBOARD = Path(__file__).with_name("dashboard").is_dir()
HAS_CATCH_UP = Path(__file__).with_name("catch_up.py").is_file()

LOOPBACK = ("127.0.0.1", "localhost")  # names of a server that only this machine reaches

_running: dict[Path, WebhooksServer] = {}  # by the folder of the log
_undo_last = contextlib.ExitStack()  # what the first server changes in the process, until the last one is closed
_shared_server: WebhooksServer | None = None


class WebhooksServer:
    """A Gradio app that answers the Hub's webhooks.

    A server that the script itself makes and never launches starts when the script ends.

    Args:
        ui: a `gr.Blocks` to show instead of the landing page.
        webhook_secret: what the Hub has to send in `X-Webhook-Secret`; by default the environment's
            `WEBHOOK_SECRET`. While a secret is being changed, `WEBHOOK_SECRET_PREVIOUS` is accepted, too.
        reply_within: seconds that the Hub waits for a handler. A handler that takes longer goes on after a 202.
        max_pending: how many deliveries may be unfinished; further ones are answered 503.
        data_dir: the folder of the delivery log; by default `WEBHOOKS_DATA_DIR`, else `/data/webhooks` on a Space
            with a Storage Bucket, else `.webhooks`. A second server of the process has its log in the folder `2`
            inside, and so on, in the order in which they are launched.

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
            raise SetupError("A running server cannot be replaced: restart the Space.")
        given = {"WEBHOOK_SECRET": str(webhook_secret)} if webhook_secret else {}
        if data_dir is not None:
            given["WEBHOOKS_DATA_DIR"] = os.fspath(data_dir)
        self._settings = load_settings(Settings, {**os.environ, **given})
        self._has_own_folder = data_dir is not None
        self._endpoints: dict[str, Endpoint] = {}
        self._failure_listeners: list[FailureListener] = []
        self._max_pending = int(check_number("max_pending", max_pending, 1, is_whole=True))
        self._reply_within = check_number("reply_within", reply_within, 0)
        self._engine: Engine | None = None
        self._lifecycle = threading.RLock()  # held while launching and closing
        self._undo = contextlib.ExitStack()  # what a launch has changed in the process
        self._folder: Path | None = None
        self._ui = ui
        self._is_landing_page = ui is None
        self._owner_link: str | None = None
        self._catch_up_line: str | None = None
        self.fastapi_app: FastAPI | None = None
        self._cancel_autostart: Callable[[], object] = lambda: None
        if is_called_by_script():
            self._start_at_script_end()

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
        """What the handlers watch on the Hub, by their full path."""
        return {path: endpoint.watched for path, endpoint in self._endpoints.items()}

    @overload
    def add_webhook(self, path: F) -> F: ...

    @overload
    def add_webhook(
        self,
        path: str | None = None,
        *,
        max_attempts: int = 1,
        timeout: float | None = None,
        debounce: float = 0,
        watched: ToWatch = None,
    ) -> Callable[[F], F]: ...

    def add_webhook(self, path: Any = None, **options: Any) -> Any:
        """Register a handler; use it as `@server.add_webhook` or `@server.add_webhook("/path")`.

        The handler is a `def` or an `async def`, and takes whatever a FastAPI path operation takes, and a `Delivery`.
        An annotation says what a parameter is, else its name does: `payload`, `delivery` or `request`. Only where it
        takes a `WebhookPayload` must the body be one. The result of the handler is the response.

        Args:
            path: where to reach it under `/webhooks/`, such as `/hook` or `/hook/{name}`; by default the function's
                name.
            max_attempts: how often to run it for one delivery until it does not raise. The wait before another attempt
                is about 1 second at first and up to 5 minutes later, or what the error asks for in `Retry-After`.
            timeout: seconds for one attempt, which then counts as failed. An `async def` handler is cancelled; the
                thread of a `def` handler cannot be stopped and goes on.
            debounce: seconds to wait for a newer event of the same kind in the same repository, which supersedes this
                one. A stream that never pauses still runs at least every ten times that long.
            watched: what the handler watches on the Hub: one or several of `"dataset:me/data"` or
                `{"type": "dataset", "name": "me/data", "domains": ["repo"]}`. The domains are `repo` and `discussion`,
                by default both. The dashboard creates webhooks from it, and a commit that the Hub could not deliver
                is found by it.

        Raises:
            SetupError: a `ValueError`: the path is taken or unusable, a parameter cannot be filled, nothing
                can be watched like that, or a number makes no sense.
        """
        if callable(path):
            return self.add_webhook()(path)
        if not (path is None or isinstance(path, str)):
            raise SetupError(f'The path of a webhook must be text such as "/my-webhook", not {path!r}.')

        def register(function: F) -> F:
            endpoint = Endpoint(function, path, **options)
            former = next((other for other in self._endpoints.values() if other.shape == endpoint.shape), None)
            if former:
                can_replace = self._engine or is_at_prompt()  # a hot reload, or a cell that runs again
                if not can_replace or former.definition != endpoint.definition:
                    raise SetupError(
                        f"There already is a webhook at {endpoint.path}. Rename the function, or give one of the "
                        f'two a path of its own: @...add_webhook("/another-path").'
                    )
                del self._endpoints[former.path]
            self._endpoints[endpoint.path] = endpoint
            return function

        return register

    def on_failure(self, function: F) -> F:
        """Register a function that is called with each delivery that has failed for good, and its error.

        It is a `def` or an `async def` that takes a `Delivery` and a text: the traceback, as the dashboard shows it.
        It runs as a handler does. What it raises is a line in the console.
        """
        self._failure_listeners.append(function)
        return function

    def launch(self, prevent_thread_lock: bool = False, **gradio_launch_kwargs: Any) -> None:
        """Start serving, print where, and wait until the server is stopped. A second call only prints.

        Ctrl-C or SIGTERM stops it: new deliveries are answered 503, running handlers get 10 seconds, and the rest
        waits in the log for the next start. `close()` does the same, and so does the `close()` of the Gradio app.
        Afterwards it can be launched again.

        Args:
            prevent_thread_lock: return at once, and leave signals alone; the server goes on as long as the script
                does. At a prompt or in a notebook it always does.
            gradio_launch_kwargs: passed on to `gr.Blocks.launch`. Outside a Space a public link is made
                unless `share=False` or `GRADIO_SHARE=False` says otherwise.

        Raises:
            SetupError: no handler is registered, the port or the `ui` is in use, or the delivery log cannot be used.
        """
        self._cancel_autostart()
        if os.environ.get("GRADIO_WATCH_DIRS") and not self._settings.is_on_space:  # set by Gradio's command line
            raise SetupError("`gradio app.py` is not supported: it replaces a running server. Use `python app.py`.")
        with self._lifecycle:
            if self._engine is None:
                self._start(gradio_launch_kwargs)
            assert self._ui is not None
            ui = self._ui
        if prevent_thread_lock or is_at_prompt():
            self._announce()
        else:
            gradio_app.wait(ui, self._announce, self.close, _close_all)

    run = launch

    def deliver(self, handler: Handler | str, payload: WebhookPayload | Mapping[str, Any] | bytes) -> str:
        """Record an event that did not come over HTTP, run its handler, and return the delivery's id.

        Call it from a `def` function.

        Args:
            handler: the function, or its path, with or without `/webhooks/`.
            payload: the event, such as `webhooks.testing.event("commit", "dataset", "me/data")`.

        Raises:
            LookupError: there is no such handler.
            ValueError: the handler takes a payload, and this is not a payload.
            NotTakenError: too many deliveries are waiting, or the log cannot be written.
            TimeoutError: the log does not respond; what it still writes will run.
            SetupError: the server is not running.
        """
        paths = [path for path, function in self.registered_webhooks.items() if function == handler]
        return self._running_engine().deliver(paths[0] if paths else str(handler), to_body(payload))

    def replay(self, delivery_id: str) -> str:
        """Run a recorded delivery again, at once and as a new one; return the new one's id.

        Call it from a `def` function.

        Raises:
            KeyError: the log has no delivery with this id.
            NotTakenError: too many deliveries are waiting, or the log cannot be written.
            TimeoutError: the log does not respond; what it still writes will run.
            SetupError: the server is not running.
        """
        return self._running_engine().replay(delivery_id)

    def close(self, grace: float = gradio_app.GRACE_SECONDS) -> bool:
        """Stop taking deliveries, wait up to `grace` seconds for running handlers, and stop serving.

        Returns:
            Whether every handler ended. What did not end, or was still to run, goes on at the next launch.
        """
        if self._engine and self._engine.is_on_serving_loop():  # which must not wait for itself
            threading.Thread(target=self.close, args=(grace,), name="webhooks close").start()
            return False
        with self._lifecycle:
            if self._engine is None:
                return True
            all_ended = self._engine.stop(grace)
            self._undo.close()
            self._engine = self.fastapi_app = None
            return all_ended

    def serve(self, folder: Path | None = None) -> Receiver:
        """Begin to take deliveries, with the server's log or one in this folder. The caller serves the receiver."""
        if not self._endpoints:
            raise SetupError("No webhook to serve: put @webhook_endpoint or @server.add_webhook above a function.")
        if self._engine:
            raise SetupError("This server is running already: close() it first.")
        settings = self._settings
        database = Database(folder or self._choose_folder(), on_bucket=folder is None and settings.is_on_bucket)
        self._engine = Engine(
            self._endpoints,
            database,
            self._max_pending,
            settings.redact,
            settings.secret_to_send,
            self._failure_listeners,
        )
        if not _running:
            _undo_last.enter_context(gradio_app.process_for_serving())
        _running[database.path.parent] = self
        self._undo.callback(_leave, database.path.parent)
        self._undo.enter_context(console.redacting(settings.redact))
        return Receiver(self._endpoints, self._engine, settings, self._reply_within)

    def _start(self, options: dict[str, Any]) -> None:
        receiver = self.serve()
        receiver.engine.processor.is_open_to_strangers = not self._settings.secrets  # until it is known who reaches it
        try:
            self.fastapi_app = self._launch_gradio(receiver, options)
        except BaseException:
            self.close(grace=0)
            raise
        receiver.engine.processor.is_open_to_strangers = self._is_reachable and not self._settings.secrets
        receiver.engine.recover()
        if self._has_catch_up:
            self._catch_up(receiver.engine)

    def _announce(self) -> None:
        if self._engine:
            summary = console.summary(
                self._settings,
                self._endpoints,
                self._engine.log.path.parent,
                self._local_url,
                self._url,
                is_reachable=self._is_reachable,
                link=self._owner_link,
                catch_up=self._catch_up_line,
            )
            console.show(summary)

    def _catch_up(self, engine: Engine) -> None:
        from .catch_up import CatchUp

        token = self._settings.hf_token.get_secret_value() if self._settings.hf_token else None
        seconds = self._settings.webhooks_catch_up * 60
        catch_up = CatchUp(self._endpoints, engine, token, seconds, self._has_public_url(), self._settings.redact)
        self._catch_up_line = catch_up.description()
        self._undo.callback(catch_up.stop)
        catch_up.start()

    def _launch_gradio(self, receiver: Receiver, options: dict[str, Any]) -> FastAPI:
        from .landing import CSS, THEME, arrivals, landing_page

        routes: list[BaseRoute] = []
        if self._is_landing_page:
            self._ui, fill = landing_page(
                list(self._endpoints.values()), self._settings, HAS_DASHBOARD, self._has_catch_up
            )
            # Nothing on this page takes a file, so a stranger cannot fill the disk that the log needs.
            ours = {"theme": THEME, "footer_links": ["gradio", "settings"], "max_file_size": 0}
            routes = [arrivals(receiver.engine)]
            options = {**ours, **options, "css": "\n".join([CSS, options.get("css") or ""])}
        ui = self._ui
        assert ui is not None
        if HAS_DASHBOARD:
            from .dashboard.routes import Dashboard

            dashboard = Dashboard(
                self._settings, self._endpoints, receiver.engine, lambda: self._url, self._has_public_url
            )
            routes += dashboard.routes()
        if self._settings.is_on_space:  # the Hub's hot reload looks for the page there
            main = vars(sys.modules["__main__"])
            if "demo" not in main:
                main["demo"] = ui
                self._undo.callback(main.pop, "demo", None)
        app = gradio_app.launch(ui, receiver, options, routes, self._is_landing_page)
        close = ui.close

        def close_ui() -> None:
            ui.close = close  # type: ignore[method-assign]
            close(verbose=False)

        self._undo.callback(close_ui)
        ui.close = lambda verbose=True: self.close()  # type: ignore[method-assign, assignment]
        if self._is_landing_page:
            fill(self._url, self._has_public_url(), self._is_reachable)
        self._owner_link = dashboard.access.link(self._url) if HAS_DASHBOARD else None
        return app

    def _choose_folder(self) -> Path:
        """Return a folder that no other server of this process uses, and the same one at the next launch."""
        first = self._settings.data_dir.absolute()
        if self._has_own_folder:
            return first
        if self._folder is None or self._folder in _running:
            others = (first / str(number) for number in itertools.count(2))
            self._folder = next(folder for folder in itertools.chain([first], others) if folder not in _running)
        return self._folder

    def _running_engine(self) -> Engine:
        if self._engine is None:
            raise SetupError("The server is not running: launch() it first.")
        return self._engine

    def _start_at_script_end(self) -> None:
        def launch(prevent_thread_lock: bool) -> None:
            if self._endpoints:
                self.launch(prevent_thread_lock=prevent_thread_lock)

        self._cancel_autostart()
        self._cancel_autostart = launch_at_script_end(launch)

    @property
    def _has_catch_up(self) -> bool:
        return HAS_CATCH_UP and self._settings.webhooks_catch_up > 0 and not self._settings.is_closed

    @property
    def _is_reachable(self) -> bool:
        """Whether other machines reach this server."""
        return self._has_public_url() or (self._ui is not None and self._ui.server_name not in LOOPBACK)

    def _has_public_url(self) -> bool:
        return self._url != self._local_url

    @property
    def _local_url(self) -> str:
        return ((self._ui and self._ui.local_url) or "").rstrip("/")

    @property
    def _url(self) -> str:
        """The address that the Hub can reach, else the local one."""
        return (self._settings.public_url or (self._ui and self._ui.share_url) or self._local_url).rstrip("/")


@overload
def webhook_endpoint(path: F) -> F: ...


@overload
def webhook_endpoint(path: str | None = None, **options: Any) -> Callable[[F], F]: ...


def webhook_endpoint(path: Any = None, **options: Any) -> Any:
    """Register a handler on one shared server, which starts by itself when the script ends.

    Use it as `@webhook_endpoint` or `@webhook_endpoint("/path")`. The function comes back as it was, with
    `.launch()` and `.run()` to start the server by hand, as in a notebook. If the script raises or exits,
    nothing starts.

    Args:
        path: where to reach it under `/webhooks/`; by default the function's name.
        options: `max_attempts`, `timeout`, `debounce` and `watched`, as in `WebhooksServer.add_webhook`.

    Raises:
        SetupError: see `WebhooksServer.add_webhook`.

    Example:
        ```python
        from webhooks import WebhookPayload, webhook_endpoint

        @webhook_endpoint
        async def trigger_training(payload: WebhookPayload) -> None:
            if payload.updates("dataset", "username/my-dataset"):
                ...
        ```
    """
    if callable(path):
        return webhook_endpoint()(path)
    server = shared_server()

    def register(function: Any) -> Any:
        server.add_webhook(path, **options)(function)
        with contextlib.suppress(AttributeError):  # a method of an object has no attributes of its own
            function.launch = function.run = server.launch
        return function

    return register


def shared_server() -> WebhooksServer:
    """Return the server of `webhook_endpoint`, which starts when the script ends."""
    global _shared_server
    if _shared_server is None:
        _shared_server = WebhooksServer()
        _shared_server._start_at_script_end()
    return _shared_server


def _close_all() -> bool:
    """Close all servers of the process at once, and return whether every handler ended."""
    threads = ThreadPoolExecutor()
    try:
        return all(threads.map(WebhooksServer.close, [*_running.values()]))
    finally:
        threads.shutdown(wait=False)  # a second signal ends the wait


def _leave(folder: Path) -> None:
    _running.pop(folder, None)
    if not _running:
        _undo_last.close()


def _is_reloading() -> bool:
    """Return whether this thread brings an edit into the running process. Gradio's own `launch` asks the same."""
    reload = sys.modules.get("gradio.cli.commands.reload")
    return reload is not None and getattr(reload.reload_thread, "running_reload", False)
