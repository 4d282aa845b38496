"""`@webhook_endpoint`: handlers on one shared server, which starts when the script's own code has come to its end."""

from __future__ import annotations

import dis
import sys
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

from .server import WebhooksServer, at_prompt

_shared_server: WebhooksServer | None = None


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
    global _shared_server
    if _shared_server is None:
        _shared_server = WebhooksServer()
        _shared_server.call_off_autostart = when_script_ends(_shared_server.launch)
    return _shared_server


def when_script_ends(start: Callable[[], object]) -> Callable[[], None]:
    """Call `start` once the last line of the `__main__` script has run, and not if the script raises or exits.

    `atexit` is too late for a server: by then the interpreter starts no threads and takes no executor jobs
    ("can't register atexit after shutdown"). The return of the script's code is seen from inside, while all
    still works. In a notebook or at a prompt there is no script, and nothing is called. Call what is returned
    to call it off: before Python 3.12 the script's own thread runs at a third of its speed until then, and a
    debugger that is told to continue ends it too.
    """
    frame = _script_frame()
    # A test run imports handlers and then ends, in some editors as a script that returns: it must not hang there.
    if frame is None or at_prompt() or "_pytest" in sys.modules:
        return lambda: None
    if sys.version_info >= (3, 12):
        return _when_code_returns(frame.f_code, start)
    else:
        return _when_frame_returns(frame, start)


def _script_frame() -> FrameType | None:
    """Return the frame of the script that runs, if the caller was called by one."""
    found = None
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_globals.get("__name__") == "__main__" and frame.f_code.co_name == "<module>":
            found = frame
        frame = frame.f_back
    return found


if sys.version_info >= (3, 12):

    def _when_code_returns(code: CodeType, start: Callable[[], object]) -> Callable[[], None]:
        monitoring = sys.monitoring
        tool = next(number for number in (4, 3, 2, 1, 0) if monitoring.get_tool(number) is None)
        monitoring.use_tool_id(tool, "webhooks")

        def call_off() -> None:
            if monitoring.get_tool(tool) == "webhooks":
                monitoring.set_local_events(tool, code, monitoring.events.NO_EVENTS)
                monitoring.free_tool_id(tool)

        def returned(*_: object) -> None:
            call_off()
            start()

        monitoring.register_callback(tool, monitoring.events.PY_RETURN, returned)
        monitoring.set_local_events(tool, code, monitoring.events.PY_RETURN)
        return call_off

else:

    def _when_frame_returns(frame: FrameType, start: Callable[[], object]) -> Callable[[], None]:
        debugger = frame.f_trace
        return_value = dis.opmap["RETURN_VALUE"]

        def switch_on(*_: object) -> None:
            """Trace no function: that one is set at all makes Python look at `f_trace`."""

        def call_off() -> None:
            frame.f_trace = debugger
            if sys.gettrace() is switch_on:
                sys.settrace(None)

        def trace(frame: FrameType, event: str, arg: Any) -> Any:
            if debugger is not None:
                debugger(frame, event, arg)
            # An exception that leaves the frame is a "return" too, but not from a return instruction.
            if event == "return" and frame.f_code.co_code[frame.f_lasti] == return_value:
                sys.settrace(None)
                start()
            return trace

        frame.f_trace = trace
        if sys.gettrace() is None:
            sys.settrace(switch_on)
        return call_off
