"""Puts the parts together: handlers, receiver and page become one Gradio app."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any, TypeVar, overload
from urllib.parse import urlsplit

from starlette.middleware import Middleware
from starlette.routing import BaseRoute, Route

from . import console
from .autostart import at_prompt
from .deliveries.engine import Engine
from .deliveries.log import DeliveryLog
from .delivery import StartedJob
from .endpoints import PREFIX, Endpoint, Handler
from .receiver import Aside, Receiver
from .reloading import Follower, is_reloading, keep_loaded, script_runs_again, watches_script
from .settings import Settings, SetupError, at_least, read_settings

if TYPE_CHECKING:
    import gradio as gr
    from fastapi import FastAPI

    from .desk.access import Access
    from .jobs import JobWatch

F = TypeVar("F", bound=Handler)

logger = logging.getLogger("webhooks")

GRACE = 10.0  # seconds that running handlers get when the server stops
CONSOLE_WITHIN = 1.0  # seconds that whoever reads the console gets then
# The garbage collector looks at new objects after each 10,000, and not after each 700, where it would find nothing but
# a few deliveries. It looks at all objects a hundred times more rarely than usual: that stops every thread for a tenth
# of a second, since Gradio has hundreds of thousands. (`gc.freeze` would hide them from tools, such as a hot reload.)
COLLECT_AFTER = (10_000, 50, 200)
# Each of these is one more promise, and can be deleted: the server takes, keeps and runs deliveries without it.
HAS_DESK = Path(__file__).with_name("desk").is_dir()
HAS_JOBS = Path(__file__).with_name("jobs.py").is_file()
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
            with a Storage Bucket, else `.webhooks`.

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
        if is_reloading() and not script_runs_again() and _running:
            raise SetupError(f"The server runs, and cannot become another one while it does. {RESTART}")
        given = {"WEBHOOK_SECRET": str(webhook_secret)} if webhook_secret else {}
        if data_dir is not None:
            given["WEBHOOKS_DATA_DIR"] = os.fspath(data_dir)
        self._settings = read_settings(Settings, {**os.environ, **given})
        self._endpoints: dict[str, Endpoint] = {}
        self._followers: list[Follower] = []
        self._max_pending = int(at_least(1, "max_pending", max_pending, whole=True))
        self._reply_within = at_least(0, "reply_within", reply_within)
        self._engine: Engine | None = None
        self._folder: Path | None = None
        self._log_path = Path()
        self._ui = ui
        self._ui_is_ours = False
        self._main: dict[str, Any] = {}
        self._shown: Any = None
        self._has_desk = False
        self._job_watch: JobWatch | None = None
        self._access = self._owners_access() if HAS_DESK else None
        self.fastapi_app: FastAPI | None = None
        self._collected_after = gc.get_threshold()
        self.call_off_autostart: Callable[[], None] = lambda: None

    @property
    def registered_webhooks(self) -> dict[str, Handler]:
        """The handlers, by their full path."""
        return {path: endpoint.function for path, endpoint in self._endpoints.items()}

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
    ) -> Callable[[F], F]: ...

    def add_webhook(
        self,
        path: F | str | None = None,
        *,
        max_attempts: int = 1,
        timeout: float | None = None,
        debounce: float = 0,
    ) -> F | Callable[[F], F]:
        """Register a handler; use it as `@server.add_webhook` or `@server.add_webhook("/path")`.

        The handler is a `def` or an `async def`, and takes any of a `WebhookPayload`, a `Delivery` and a
        `fastapi.Request`. What it returns is the answer. One that takes no payload accepts any body.

        Args:
            path: where to reach it under `/webhooks/`; by default the function's name.
            max_attempts: how often to run it for one delivery until it does not raise. Between two attempts there
                is about 1 second at first and up to 5 minutes later.
            timeout: seconds for one attempt, which then counts as failed. An `async def` handler is cancelled; the
                thread of a `def` handler cannot be stopped and is left behind.
            debounce: seconds to wait for a newer event of the same kind in the same repository, which then takes the
                place of this one. A stream that never pauses still runs at least every ten times that long.

        Raises:
            SetupError: a `ValueError`: the path is taken or unusable, a parameter cannot be filled, or a number
                makes no sense.
        """
        if callable(path):
            return self.add_webhook()(path)
        if not (path is None or isinstance(path, str)):
            raise SetupError(f'The path of a webhook must be text such as "/my-webhook", not {path!r}.')

        def register(function: F) -> F:
            endpoint = Endpoint(function, path, max_attempts=max_attempts, timeout=timeout, debounce=debounce)
            former = self._endpoints.get(endpoint.path)
            defined_again = former and former.definition == endpoint.definition is not None
            if former and not (defined_again and (self._engine or at_prompt())):
                raise SetupError(
                    f"There already is a webhook at {endpoint.path}. Rename the function, or give one of the "
                    f'two a path of its own: @...add_webhook("/another-path").'
                )
            self._endpoints[endpoint.path] = endpoint
            if endpoint.plain:
                changed = partial(self._reloaded, endpoint.definition)
                Follower(endpoint.plain.__code__, changed, self._followers)
            if self._engine:
                self._tell(endpoint.path, "has changed" if former else "is new")
            return function

        return register

    def launch(self, prevent_thread_lock: bool = False, **gradio_launch_kwargs: Any) -> None:
        """Start serving, print where, and wait until the server is stopped. A second call only prints.

        It stops at Ctrl-C or SIGTERM: new deliveries are answered 503, running handlers get 10 seconds, and the rest
        waits in the log for the next start.

        Args:
            prevent_thread_lock: return at once; the server goes on as long as the script does. At a prompt
                or in a notebook it always does.
            gradio_launch_kwargs: passed on to `gr.Blocks.launch`. Outside a Space a public link is made
                unless `share=False` or `GRADIO_SHARE=False` says otherwise.

        Raises:
            SetupError: no handler is registered, the port is in use, or the delivery log cannot be used.
        """
        self.call_off_autostart()
        if script_runs_again():
            self._take_the_place_of_the_former()
            return
        if is_reloading():
            raise SetupError(f"The server runs, and cannot be launched otherwise while it does. {RESTART}")
        if self._engine is None:
            with _nothing_collected():
                self._start(gradio_launch_kwargs)
            self._collected_after = gc.get_threshold()
            if 0 < self._collected_after[0] < COLLECT_AFTER[0]:  # not what somebody has chosen: rarer, or never
                gc.set_threshold(*COLLECT_AFTER)
        link = self._access.link(self._url) if self._access else None
        summary = console.summary(self._settings, self._endpoints, self._local_url, self._url, link)
        print(f"{summary}\n", end="", flush=True)  # at once, or what a handler prints comes before the end of the line
        if not (prevent_thread_lock or at_prompt()):
            self._wait_until_stopped()

    run = launch

    def replay(self, delivery_id: str) -> str:
        """Run a recorded delivery again, at once and as a new one; return the new one's id.

        Raises:
            KeyError: the log has no delivery with this id.
            NotTaken: too many deliveries are waiting, or the log cannot be written.
            SetupError: the server is not running.
        """
        if self._engine is None:
            raise SetupError("Nothing can be replayed before the server runs: launch() it first.")
        return self._engine.replay(delivery_id)

    def _look_at_jobs(self, jobs: Iterable[StartedJob]) -> None:
        if self._job_watch:
            self._job_watch.look(jobs)

    def close(self, grace: float = GRACE) -> bool:
        """Stop taking deliveries, wait up to `grace` seconds for running handlers, and stop serving.

        Returns:
            Whether every handler ended. What did not end, or was still to run, goes on at the next launch.
        """
        if self._engine is None or self._folder is None:
            return True
        all_ended = self._engine.stop(grace)
        if self.fastapi_app and self._ui:
            self._ui.close(verbose=False)
            gc.set_threshold(*self._collected_after)
        self._engine = self.fastapi_app = None
        _running.pop(self._folder, None)
        return all_ended

    def _start(self, options: dict[str, Any]) -> None:
        console.show_log()
        receiver = self._take_deliveries(self._settings.data_dir, shared_disk=self._settings.on_shared_disk)
        engine = receiver.engine
        if HAS_JOBS and (token := self._settings.hf_token):
            from .jobs import JobWatch

            self._job_watch = JobWatch(token.get_secret_value(), engine.learn_stage)
        try:
            self.fastapi_app = self._launch_gradio(receiver, options)
        except BaseException as error:
            self.close(grace=0)
            if isinstance(error, OSError) and "empty port" in str(error):
                raise SetupError(
                    f"{_ports(options)} in use by another program. Stop that program, or choose another port with "
                    "GRADIO_SERVER_PORT=7870 or launch(server_port=7870)."
                ) from None
            raise
        engine.recover()

    def _take_deliveries(self, folder: Path, *, shared_disk: bool = False) -> Receiver:
        """Begin to take deliveries, with a log in this folder. What serves the receiver is up to the caller."""
        if not self._endpoints:
            raise SetupError("There is no webhook to serve. Put @webhook_endpoint above a function first.")
        if self._engine:
            raise SetupError("This server is running already: close() it first.")
        log = DeliveryLog(folder, shared_disk=shared_disk)
        try:
            self._engine = Engine(self._endpoints, log, self._max_pending, self._settings.hide)
        except BaseException:
            log.close()
            raise
        self._folder, self._log_path = folder, log.path
        _running[folder] = self
        return Receiver(self._endpoints, self._engine, self._settings, self._reply_within)

    def _launch_gradio(self, receiver: Receiver, options: dict[str, Any]) -> FastAPI:
        from .pages import CSS, THEME

        if self._ui is None:
            self._ui = self._pages()
            self._ui_is_ours = True
        if self._ui_is_ours:
            # Nothing on our pages takes a file, so a stranger cannot fill the disk that the log needs.
            ours = {"theme": THEME, "footer_links": ["gradio", "settings"], "max_file_size": 0}
            options = {**ours, **options}
        elif not self._has_desk:
            self._add_desk(self._ui)
            self._has_desk = True
        options["css"] = "\n".join([CSS, self._desk_css(), options.get("css") or ""])
        if self._settings.on_space or watches_script():  # where both hot reloads look for what to show
            self._main = vars(sys.modules["__main__"])  # Gradio takes it out of there when it reloads
            self._shown = self._main.setdefault("demo", self._ui)
        if watches_script():
            keep_loaded()
        routes: list[BaseRoute] = [Route("/health", receiver.health)]
        middleware = [Middleware(Aside, path=PREFIX, aside=receiver)]
        if self._access:
            routes.append(self._access.route())
            middleware += self._access.middleware()
        app_kwargs = options.pop("app_kwargs", None) or {}
        defaults = {
            "share": self._settings.gradio_share and not self._settings.on_space,
            "quiet": True,
            # It acts on the Hub with the token of this machine, for every program on it, and with that of who signed
            # in, for every page that is open in the same browser (gradio 6.31, history.py).
            "run_history": False,
        }
        fixed = {
            "prevent_thread_lock": True,
            # Handed over before Gradio serves, so the webhooks are there from the first moment.
            "app_kwargs": {
                **app_kwargs,
                "routes": [*routes, *app_kwargs.get("routes", [])],
                "middleware": [*middleware, *app_kwargs.get("middleware", [])],
                "lifespan": receiver.lifespan(app_kwargs.get("lifespan")),
            },
            # With server-side rendering, which Spaces ask for, a Node server stands in front and forwards Gradio's
            # own routes only: the Hub would get a 405.
            "ssr_mode": False,
            "blocked_paths": self._blocked_paths(options.get("blocked_paths")),
        }
        app, _, _ = self._ui.launch(**{**defaults, **options, **fixed})
        # In front of Gradio's own middlewares, too: no webhook needs their CORS and compression.
        app.middleware_stack = Aside(app.middleware_stack or app.build_middleware_stack(), PREFIX, receiver)
        # Gradio has uvicorn show no line about each request; now it does not compose them either.
        logging.getLogger("uvicorn.access").handlers.clear()
        return app

    def _pages(self) -> gr.Blocks:
        from .pages import landing_page

        pages = landing_page(list(self._endpoints.values()), self._settings, lambda: self._url)
        self._add_desk(pages)
        return pages

    def _add_desk(self, ui: gr.Blocks) -> None:
        if not HAS_DESK:
            return
        from .desk.page import Desk

        assert self._access
        Desk(
            self._settings,
            self._endpoints,
            self._access,
            self._log_path,
            self.replay,
            self._look_at_jobs,
            lambda: self._local_url,
            lambda: self._url,
        ).add_to(ui)

    def _owners_access(self) -> Access:
        from .desk.access import Access

        return Access(self._settings, lambda: [*self._settings.space_hosts, urlsplit(self._url).netloc])

    def _desk_css(self) -> str:
        if not HAS_DESK:
            return ""
        from .desk.views import CSS

        return CSS

    # Edits while the server runs

    def _reloaded(self, definition: tuple[str, str] | None, new: FunctionType | None) -> None:
        """Learn that the code of a handler has changed in place, or that the handler is gone."""
        mine = [endpoint for endpoint in self._endpoints.values() if endpoint.definition == definition]
        if new is None:
            for endpoint in mine:
                if endpoint.registered_by is not threading.current_thread():  # or it has just come in its place
                    self._forget(endpoint)
            return
        for endpoint in mine:
            endpoint.check(new)
        for endpoint in mine:
            if endpoint.become(new):
                self._tell(endpoint.path, "has changed")

    def _forget(self, endpoint: Endpoint) -> None:
        del self._endpoints[endpoint.path]
        self._tell(endpoint.path, "is gone, and what waits for it fails")

    def _take_the_place_of_the_former(self) -> None:
        """Hand the handlers over to the server that runs, and show them; it was made by the script's last run."""
        former = _running.get(self._settings.data_dir)
        if former is None:
            raise SetupError(f"No server of this script runs. {RESTART}")
        for path in former._endpoints.keys() - self._endpoints.keys():
            former._forget(former._endpoints[path])
        for path, endpoint in self._endpoints.items():
            old = former._endpoints.get(path)
            former._endpoints[path] = endpoint
            if old is None or not endpoint.is_like(old):
                former._tell(path, "has changed" if old else "is new")
        if self._ui is not None:
            former._add_desk(self._ui)
        if self._like() != former._like():
            logger.warning("WebhooksServer(...) or a setting of the server has changed. %s", RESTART)
        self.__dict__ = former.__dict__  # so that the script's server is the one that runs

    def _like(self) -> tuple[object, ...]:
        return self._settings, self._max_pending, self._reply_within

    def _tell(self, path: str, what: str) -> None:
        logger.info("The handler at %s %s.", path, what)
        if is_reloading() and self._ui_is_ours and self._main.get("demo") is self._shown:
            self._main["demo"] = self._shown = self._pages()  # Gradio looks there when the reload is over

    def _blocked_paths(self, given: list[str] | None) -> list[str]:
        """List what Gradio gives to nobody, even if `allowed_paths` or `gr.set_static_paths` covers it.

        That is the delivery log and the file with the secrets, besides what the user blocks.
        """
        others = given or os.environ.get("GRADIO_BLOCKED_PATHS", "").split(",")
        data_dir = self._settings.data_dir
        ours = [data_dir.absolute(), data_dir.resolve(), Path(".env").absolute()]
        return [*filter(None, map(str.strip, map(str, others))), *map(str, ours)]

    def _wait_until_stopped(self) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.default_int_handler)  # the same as Ctrl-C
        try:
            while self._engine is not None:  # until close() is called, elsewhere
                time.sleep(1)
            return
        except KeyboardInterrupt:
            pass
        console.say(f"Stopping: nothing new is taken, running handlers have {GRACE:g} seconds.")
        with contextlib.suppress(KeyboardInterrupt):  # a second Ctrl-C does not want to wait
            if self.close() and console.wait_until_written(CONSOLE_WITHIN):
                return
        # A handler that does not end may also hold threads that Python would wait for without end.
        console.say("Some handlers did not end. They run again at the next start.")
        console.wait_until_written(CONSOLE_WITHIN)
        os._exit(0)

    @property
    def _local_url(self) -> str:
        assert self._ui is not None
        return (self._ui.local_url or "").rstrip("/")

    @property
    def _url(self) -> str:
        """The address that the Hub can reach, or else the local one."""
        assert self._ui is not None
        return (self._settings.public_url or self._ui.share_url or self._local_url).rstrip("/")


_running: dict[Path, WebhooksServer] = {}  # by the folder of the log


@contextlib.contextmanager
def _nothing_collected() -> Iterator[None]:
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


def _ports(options: dict[str, Any]) -> str:
    port = options.get("server_port")
    return f"Port {port} is" if port else "All the ports that Gradio tries are"
