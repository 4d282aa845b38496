"""Start servers when the code of the `__main__` script has come to its end."""

from __future__ import annotations

import dis
import sys
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any, Protocol


class Launch(Protocol):
    def __call__(self, prevent_thread_lock: bool) -> object: ...


_waiting: list[Launch] = []


def _do_nothing() -> None: ...


_remove_hook: Callable[[], object] = _do_nothing


def is_at_prompt() -> bool:
    """Return whether this is a Python prompt or a notebook, where nothing may block."""
    return hasattr(sys, "ps1")


def is_called_by_script() -> bool:
    """Return whether code of the `__main__` script itself called this package."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__package__") == __package__:
        frame = frame.f_back
    return frame is not None and frame.f_globals is vars(sys.modules["__main__"])


def launch_at_script_end(launch: Launch) -> Callable[[], object]:
    """Launch a server once the last line of the `__main__` script has run, and not if the script raises or exits.

    `atexit` is too late: by then the interpreter starts no threads ("can't register atexit after shutdown"). So the
    return of the script's code is observed, by `sys.monitoring` from Python 3.12 on, else by a profile function, which
    slows the script down until then. In a notebook or at a prompt there is no script, and nothing is launched.

    Returns:
        A function that calls the launch off.
    """
    global _remove_hook
    frame = _script_frame()
    # A test run imports handlers and then ends, in some editors as a script that returns: it must not wait there.
    if frame is None or is_at_prompt() or "_pytest" in sys.modules:
        return _do_nothing
    if not _waiting:
        _remove_hook = _when_code_returns(frame.f_code, _launch_all)
    _waiting.append(launch)

    def call_off() -> None:
        if launch in _waiting:
            _waiting.remove(launch)
            if not _waiting:
                _remove_hook()

    return call_off


def _launch_all() -> None:
    *others, last = _waiting
    _waiting.clear()
    for launch in others:
        launch(prevent_thread_lock=True)
    last(prevent_thread_lock=False)


def _script_frame() -> FrameType | None:
    """Return the frame of the running script. A tool that runs it, such as `runpy`, may have another `__main__`."""
    script = vars(sys.modules["__main__"])
    found = None
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_globals is script and frame.f_code.co_name == "<module>":
            found = frame
        frame = frame.f_back
    return found


if sys.version_info >= (3, 12):

    def _when_code_returns(code: CodeType, call: Callable[[], object]) -> Callable[[], object]:
        monitoring = sys.monitoring
        # Debuggers, coverage and profilers have the smaller numbers (Python's documentation of sys.monitoring).
        tool = next(number for number in (4, 3, 2, 1, 0) if monitoring.get_tool(number) is None)
        monitoring.use_tool_id(tool, "webhooks")

        def remove() -> None:
            if monitoring.get_tool(tool) == "webhooks":
                monitoring.set_local_events(tool, code, monitoring.events.NO_EVENTS)
                monitoring.free_tool_id(tool)

        def returned(*_: object) -> None:
            remove()
            call()

        monitoring.register_callback(tool, monitoring.events.PY_RETURN, returned)
        monitoring.set_local_events(tool, code, monitoring.events.PY_RETURN)
        return remove

else:

    def _when_code_returns(code: CodeType, call: Callable[[], object]) -> Callable[[], object]:
        former = sys.getprofile()
        if former is not None and not callable(former):  # a profiler that is written in C cannot share
            return _do_nothing
        return_value = dis.opmap["RETURN_VALUE"]

        def profile(frame: FrameType, event: Any, arg: Any) -> None:
            if former is not None:
                former(frame, event, arg)
            # An exception that leaves the frame is a "return", too, but not from a return instruction.
            if event == "return" and frame.f_code is code and code.co_code[frame.f_lasti] == return_value:
                remove()
                call()

        def remove() -> None:
            if sys.getprofile() is profile:
                sys.setprofile(former)

        sys.setprofile(profile)
        return remove
