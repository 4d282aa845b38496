"""What stands in front of Gradio: nobody gets a private file, and our own page answers no more than it has to."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import parse_qs

from starlette.types import ASGIApp, Receive, Scope, Send

from .receiver import from_a_page, path_of
from .responses import RefusedError

PRIVATE = (".env", ".git")  # the settings, and what was ever committed
API = "/gradio_api/"
USED = ("startup-events", "theme.css", "login_check")  # of Gradio's API, what a page without a function has a use for
NO_OTHER_ORIGIN = ("/health", "/arrivals")


def private_paths(*folders: Path) -> list[Path]:
    """List these folders, and the private files around the script and the working directory.

    `load_dotenv` looks for `.env` beside the script, or where that was started from, and then ever higher.
    """
    script = getattr(sys.modules["__main__"], "__file__", None)
    starts = [Path.cwd(), *([Path(script).absolute().parent] if script else [])]
    around = [folder / name for start in starts for folder in (start, *start.parents) for name in PRIVATE]
    return list(dict.fromkeys(path for found in (*folders, *around) for path in (found.absolute(), found.resolve())))


class GradioGuard:
    """An ASGI middleware in front of all but the webhooks.

    Args:
        private: files and folders that Gradio gives to nobody.
        ui_is_ours: Gradio shows our landing page, which has no function that a visitor could call and takes no file.
    """

    def __init__(self, app: ASGIApp, private: Iterable[Path], ui_is_ours: bool) -> None:
        self._app, self._ui_is_ours = app, ui_is_ours
        self._private = {_true_name(str(path)) for path in private}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                self._check("/" + path_of(scope).lstrip("/"), scope)
            except RefusedError as refused:
                refused.response.headers["connection"] = "close"  # or a body would be read to its end
                await refused.response(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _check(self, path: str, scope: Scope) -> None:
        if path in NO_OTHER_ORIGIN and from_a_page(scope["headers"]):
            raise RefusedError(403, "This request comes from a page of another origin.")
        if self._is_private(path.partition(f"{API}file")[2][1:]):
            raise RefusedError(403, "This file is private.")
        if self._ui_is_ours and path.startswith(API):
            name = path.removeprefix(API)
            if name.rstrip("/") not in USED and (not name.startswith("file=") or name.startswith("file=http")):
                raise RefusedError(404, "There is nothing at this address.")
        elif self._ui_is_ours and path == "/" and parse_qs(scope["query_string"], keep_blank_values=True).get(b"page"):
            raise RefusedError(404, "There is nothing at this address.")  # Gradio has one page, and fails at any other

    def _is_private(self, asked: str) -> bool:
        """Tell whether a name leads to a private file. Gradio makes names small before it follows links (6.31), and
        so would give one out to who asks for it through a link.
        """
        try:
            found = Path(_true_name(asked)) if asked else None
        except ValueError:  # a name that no file has
            return False
        return found is not None and any(str(path) in self._private for path in (found, *found.parents))


def _true_name(path: str) -> str:
    return os.path.realpath(os.path.abspath(path)).lower()
