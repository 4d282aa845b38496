"""Edits that are brought into the running process, and how the server learns of them.

The Hub's hot reload (package `spaces` 0.51, which has jurigged in it) gives a changed function its new code in place,
runs changed statements again, and takes away what was deleted. Gradio's own, `gradio app.py`, runs the whole script
again in a thread of its own.
"""

from __future__ import annotations

import functools
import logging
import os
import sys
import threading
from collections.abc import Callable
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .endpoints import Endpoint

logger = logging.getLogger("webhooks")


class Follower:
    """Hears of the change of a function that jurigged makes.

    Its package codefind looks for all that refer to the function's old code (`gc.get_referrers`), and calls
    `__conform__` where there is such a method: with the new function, with the same code on other lines, or with
    `None` if the function is gone. Where that search is slow it is made once, so a new follower reports itself.

    A function whose decorator has changed is defined anew, and from then on jurigged may take any code that it ever
    had for its code now. So each of them keeps a follower.

    Args:
        changed: called with the new function, or with `None`. What it raises is in the reload's own answer.
        kept: all followers, which nobody else keeps alive.
    """

    __slots__ = ("__weakref__", "_changed", "_code", "_kept")  # a `__dict__` would be what refers to the code

    def __init__(self, code: CodeType, changed: Callable[[FunctionType | None], object], kept: list[Follower]) -> None:
        self._code = code
        self._changed = changed
        self._kept = kept
        kept.append(self)

    def __conform__(self, new: FunctionType | CodeType | None) -> None:
        if new is not None:
            code = new if isinstance(new, CodeType) else new.__code__
            follower = Follower(code, self._changed, self._kept)
            for name in ("codefind", "spaces._vendor.codefind"):
                if codefind := sys.modules.get(name):
                    codefind.code_registry.update_cache_entry(follower, self._code, code)
        if not isinstance(new, CodeType):
            self._changed(new)


class Edits:
    """What edits make of the handlers of a server.

    Args:
        endpoints: by path.
    """

    def __init__(self, endpoints: dict[str, Endpoint]) -> None:
        self._endpoints = endpoints
        self._followers: list[Follower] = []
        self._main: dict[str, Any] = {}
        self._shown: object = None
        self._make: Callable[[], object] | None = None

    def show(self, ui: object, make: Callable[[], object] | None) -> None:
        """Put what Gradio shows where both hot reloads look for it.

        Args:
            make: makes it anew when the handlers have changed; `None` if it does not show them.
        """
        self._main = vars(sys.modules["__main__"])  # Gradio takes it out of there when it reloads
        if self._main.get("demo") is self._shown:  # nothing, or what was there at an earlier launch
            self._main["demo"] = ui
        self._shown, self._make = self._main["demo"], make
        if watches_script():
            _keep_loaded()

    def follow(self, endpoint: Endpoint) -> None:
        if endpoint.plain:
            changed = functools.partial(self._reloaded, endpoint.definition)
            Follower(endpoint.plain.__code__, changed, self._followers)

    def forget(self, endpoint: Endpoint) -> None:
        del self._endpoints[endpoint.path]
        self.tell(endpoint.path, "is gone, and what waits for it fails")

    def tell(self, path: str, what: str) -> None:
        logger.info("The handler at %s %s.", path, what)
        if is_reloading() and self._make and self._main["demo"] is self._shown:
            self._main["demo"] = self._shown = self._make()  # Gradio looks there when the reload is over

    def _reloaded(self, definition: tuple[str, str] | None, new: FunctionType | None) -> None:
        """Learn that the code of a handler has changed in place, or that the handler is gone."""
        mine = [endpoint for endpoint in self._endpoints.values() if endpoint.definition == definition]
        if new is None:
            for endpoint in mine:
                if endpoint.registered_by is not threading.current_thread():  # or it has just come in its place
                    self.forget(endpoint)
            return
        for endpoint in mine:
            endpoint.check(new)
        for endpoint in mine:
            if endpoint.become(new):
                self.tell(endpoint.path, "has changed")


def is_reloading() -> bool:
    """Tell whether this thread is bringing an edit into the process. Gradio's own `launch` asks the same."""
    reload = sys.modules.get("gradio.cli.commands.reload")
    return reload is not None and getattr(reload.reload_thread, "running_reload", False)


def script_runs_again() -> bool:
    """Tell whether that means all of the script, as with `gradio app.py`."""
    return is_reloading() and watches_script()


def watches_script() -> bool:
    """Tell whether Gradio runs the script again when it changes (the environment is that of `gradio app.py`)."""
    return bool(os.environ.get("GRADIO_WATCH_DIRS"))


def _keep_loaded() -> None:
    """Keep this package loaded while `gradio app.py` loads all modules around the script again.

    Gradio takes a module without a file for none of the script's (`utils.py`, `watchfn`). With two copies of this
    package, what a handler raises or gets would be of the other copy's classes.
    """
    package = __name__.partition(".")[0]
    for name, module in list(sys.modules.items()):
        if name == package or name.startswith(f"{package}."):
            module.__file__ = None
