"""Puts the parts together: handlers, receiver and page become one Gradio app."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, overload

from starlette.routing import Route

from .autostart import at_prompt, when_script_ends
from .dispatcher import Dispatcher
from .endpoints import PREFIX, Endpoint, Handler
from .receiver import Receiver
from .settings import Settings, SetupError, read_settings

if TYPE_CHECKING:
    import gradio as gr
    from fastapi import FastAPI

F = TypeVar("F", bound=Handler)

_ONLY_LOCAL = "Public:    none; only this machine reaches the addresses below. share=True makes a public link."


class WebhooksServer:
    """A Gradio app that answers the Hub's webhooks.

    Args:
        ui: a `gr.Blocks` to show instead of the landing page.
        webhook_secret: what the Hub has to send in `X-Webhook-Secret`; by default the environment's
            `WEBHOOK_SECRET`. While a secret is being changed, `WEBHOOK_SECRET_PREVIOUS` is accepted too.
        reply_within: seconds that the Hub waits for a handler. One that takes longer goes on after a 202.
        max_pending: how many deliveries may be unfinished; those above are answered 503.

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
    ) -> None:
        given = {"WEBHOOK_SECRET": webhook_secret} if webhook_secret else {}
        self._settings = read_settings(Settings, {**os.environ, **given})
        self._endpoints: dict[str, Endpoint] = {}
        self._receiver = Receiver(
            self._endpoints,
            Dispatcher(int(_at_least(1, "max_pending", max_pending))),
            self._settings,
            _at_least(0, "reply_within", reply_within),
        )
        self._ui = ui
        self.fastapi_app: FastAPI | None = None

    @property
    def registered_webhooks(self) -> dict[str, Handler]:
        """The handlers, by their full path."""
        return {path: endpoint.function for path, endpoint in self._endpoints.items()}

    @overload
    def add_webhook(self, path: F) -> F: ...

    @overload
    def add_webhook(self, path: str | None = None) -> Callable[[F], F]: ...

    def add_webhook(self, path: F | str | None = None) -> F | Callable[[F], F]:
        """Register a handler; use it as `@server.add_webhook` or `@server.add_webhook("/path")`.

        The handler is a `def` or an `async def`, and takes any of a `WebhookPayload`, a `Delivery` and a
        `fastapi.Request`. What it returns is the answer. One that takes no payload accepts any body.

        Args:
            path: where to reach it under `/webhooks/`; by default the function's name.

        Raises:
            SetupError: a `ValueError`: the path is taken or unusable, or a parameter cannot be filled.
        """
        if callable(path):
            return self.add_webhook()(path)
        if not (path is None or isinstance(path, str)):
            raise SetupError(f'The path of a webhook must be text such as "/my-webhook", not {path!r}.')

        def register(function: F) -> F:
            endpoint = Endpoint(function, path)
            if endpoint.path in self._endpoints:
                raise SetupError(
                    f"There already is a webhook at {endpoint.path}. Rename the function, or give one of the "
                    f'two a path of its own: @...add_webhook("/another-path").'
                )
            self._endpoints[endpoint.path] = endpoint
            return function

        return register

    def launch(self, prevent_thread_lock: bool = False, **gradio_launch_kwargs: Any) -> None:
        """Start serving, print where, and wait until the server is stopped. A second call only prints.

        Args:
            prevent_thread_lock: return at once; the server goes on as long as the script does. At a prompt
                or in a notebook it always does.
            gradio_launch_kwargs: passed on to `gr.Blocks.launch`. Outside a Space a public link is made
                unless `share=False` or `GRADIO_SHARE=False` says otherwise.

        Raises:
            SetupError: no handler is registered, or the port is in use.
        """
        if self.fastapi_app is None:
            self._start(gradio_launch_kwargs)
        self._print_summary()
        if not (prevent_thread_lock or at_prompt()):
            assert self._ui is not None
            self._ui.block_thread()

    run = launch

    def _start(self, options: dict[str, Any]) -> None:
        from .pages import CSS, THEME, landing_page

        if not self._endpoints:
            raise SetupError("There is no webhook to serve. Put @webhook_endpoint above a function first.")
        _log_to_console()
        options.setdefault("share", self._settings.gradio_share and not self._settings.on_space)
        options.setdefault("quiet", True)
        if self._ui is None:
            self._ui = landing_page(list(self._endpoints.values()), self._settings, lambda: self._url)
            options.setdefault("css", CSS)
            options.setdefault("theme", THEME)
            options.setdefault("footer_links", ["gradio", "settings"])
        # With server-side rendering, which Spaces ask for, a Node server stands in front and forwards
        # Gradio's own routes only: the Hub would get a 405.
        options["ssr_mode"] = False
        # Handed over before Gradio serves, so the webhooks are there from the first moment.
        routes = [Route(PREFIX + "{name:path}", self._receiver), Route(PREFIX.rstrip("/"), self._receiver)]
        app_kwargs = options.pop("app_kwargs", None) or {}
        app_kwargs["routes"] = [*routes, *app_kwargs.get("routes", [])]
        try:
            self.fastapi_app, _, _ = self._ui.launch(prevent_thread_lock=True, app_kwargs=app_kwargs, **options)
        except OSError as error:
            if "empty port" not in str(error):
                raise
            raise SetupError(
                f"{_ports(options)} in use by another program. Stop that program, or choose another port with "
                "GRADIO_SERVER_PORT=7870 or launch(server_port=7870)."
            ) from None

    @property
    def _url(self) -> str:
        """The address that the Hub can reach, as far as it is known."""
        assert self._ui is not None
        return (self._settings.public_url or self._ui.share_url or self._ui.local_url or "").rstrip("/")

    def _print_summary(self) -> None:
        from .pages import WEBHOOK_SETTINGS

        assert self._ui is not None
        local = (self._ui.local_url or "").rstrip("/")
        lines = ["", _secret_state(self._settings), "", f"Local:     {local}"]
        lines += [f"Public:    {self._url}"] if self._url != local else [_ONLY_LOCAL]
        lines += ["Webhooks:", *(f"  POST {self._url}{path}" for path in self._endpoints)]
        lines += ["", f"Tell the Hub about them at {WEBHOOK_SETTINGS}"]
        print("\n".join(lines), flush=True)


class Launchable(Protocol):
    """A handler that can start the server it is registered on."""

    launch: Callable[..., None]
    run: Callable[..., None]

    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...


_shared_server: WebhooksServer | None = None


@overload
def webhook_endpoint(path: Handler) -> Launchable: ...


@overload
def webhook_endpoint(path: str | None = None) -> Callable[[Handler], Launchable]: ...


def webhook_endpoint(path: Any = None) -> Any:
    """Register a handler on one shared server, which starts by itself when the script ends.

    Use it as `@webhook_endpoint` or `@webhook_endpoint("/path")`. The function comes back as it was, with
    `.launch()` and `.run()` to start the server by hand, as in a notebook. If the script raises or exits,
    nothing starts.

    Args:
        path: where to reach it under `/webhooks/`; by default the function's name.

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
    global _shared_server
    if callable(path):
        return webhook_endpoint()(path)
    if _shared_server is None:
        _shared_server = WebhooksServer()
        when_script_ends(_launch_shared_server)
    server = _shared_server

    def register(function: Any) -> Any:
        server.add_webhook(path)(function)
        function.launch = function.run = server.launch
        return function

    return register


def _launch_shared_server() -> None:
    if _shared_server is not None and _shared_server.fastapi_app is None:
        _shared_server.launch()


def _at_least(minimum: float, name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not minimum <= value < math.inf:
        raise SetupError(f"{name} must be a number of {minimum:g} or more, not {value!r}.")
    return value


def _secret_state(settings: Settings) -> str:
    if settings.secrets:
        previous = " (and the previous one is still accepted)" if len(settings.secrets) > 1 else ""
        return f"The webhook secret is set{previous}."
    if settings.closed:
        return (
            "No webhook secret is set, so every delivery is answered 503. Add WEBHOOK_SECRET in the settings "
            f"of this Space: https://huggingface.co/spaces/{settings.space_id}/settings"
        )
    return (
        "No webhook secret is set: anyone who knows an address below can call it. Set WEBHOOK_SECRET in the "
        "environment or in .env to close it."
    )


def _ports(options: dict[str, Any]) -> str:
    port = options.get("server_port")
    return f"Port {port} is" if port else "All the ports that Gradio tries are"


def _log_to_console() -> None:
    """Show the log of deliveries on the console, unless the program has set up logging itself."""
    logger = logging.getLogger("webhooks")
    if not logger.hasHandlers():
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
