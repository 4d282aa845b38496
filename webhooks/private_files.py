"""Files that nobody gets, whatever folder around them Gradio may serve: with secrets in them, or with deliveries."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path

from starlette.types import ASGIApp, Receive, Scope, Send

from . import answers

NAMES = (".env", ".git")  # the settings, and what was ever committed
_SERVED_AT = "/gradio_api/file"  # `=`, or `/` as Gradio once had it, and a path on the disk (gradio 6.31, routes.py)


def private_paths(*folders: Path) -> list[Path]:
    """List these folders, and the private files around the script and the working directory.

    `load_dotenv` looks for `.env` beside the script, or where that was started from, and then ever higher.
    """
    script = getattr(sys.modules["__main__"], "__file__", None)
    starts = [Path.cwd(), *([Path(os.path.abspath(script)).parent] if script else [])]
    around = [folder / name for start in starts for folder in (start, *start.parents) for name in NAMES]
    return list(dict.fromkeys(path for found in (*folders, *around) for path in (found.absolute(), found.resolve())))


class PrivateFiles:
    """An ASGI middleware: what Gradio is told to block stays blocked under every name.

    Gradio compares names in small letters, and makes them small before it follows links (6.31, `is_allowed_file`). So
    it would give out what lies in a folder with a capital letter to whoever asks through `/proc/self/cwd`.
    """

    def __init__(self, app: ASGIApp, paths: Iterable[str]) -> None:
        self._app = app
        self._private = {_true_name(path) for path in paths}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = scope["path"].partition(_SERVED_AT)[2] if scope["type"] == "http" else ""
        if asked and self._is_private(asked[1:]):
            await answers.answer(403, {"error": "This file is private."})(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _is_private(self, asked: str) -> bool:
        try:
            found = Path(_true_name(asked))
        except ValueError:  # a name that no file has
            return False
        return any(str(path) in self._private for path in (found, *found.parents))


def _true_name(path: str) -> str:
    return os.path.realpath(os.path.abspath(path)).lower()
