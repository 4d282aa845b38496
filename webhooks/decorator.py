"""`@webhook_endpoint`: handlers on one shared server, which starts when the script ends."""

from __future__ import annotations

from collections.abc import Callable
from types import CodeType
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar, overload

from .autostart import script_frame, when_script_ends
from .reloading import script_runs_again
from .server import WebhooksServer

if TYPE_CHECKING:
    from .watched import ToWatch

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)


class Launchable(Protocol[P, R_co]):
    """A handler that can start the server it is registered on."""

    __name__: str
    launch: Callable[..., None]
    run: Callable[..., None]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...


_shared_server: WebhooksServer | None = None
_shared_in: CodeType | None = None  # the run of the script that made it


@overload
def webhook_endpoint(path: Callable[P, R_co]) -> Launchable[P, R_co]: ...


@overload
def webhook_endpoint(
    path: str | None = None,
    *,
    max_attempts: int = 1,
    timeout: float | None = None,
    debounce: float = 0,
    watched: ToWatch = None,
) -> Callable[[Callable[P, R_co]], Launchable[P, R_co]]: ...


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
        function.launch = function.run = server.launch
        return function

    return register


def shared_server() -> WebhooksServer:
    """Return the server of `webhook_endpoint`, which launches when the script ends."""
    global _shared_server, _shared_in
    script = script_frame()
    runs_again = script_runs_again() and script is not None and script.f_code is not _shared_in
    if _shared_server is None or runs_again:
        _shared_server, _shared_in = WebhooksServer(), script and script.f_code
        _shared_server.call_off_autostart = when_script_ends(_shared_server.launch)
    return _shared_server
