"""Files that nobody gets, whatever folder around them Gradio may serve: with secrets in them, or with deliveries."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path

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
    """What nobody gets, under whatever name.

    Gradio compares names in small letters, and makes them small before it follows links (6.31, `is_allowed_file`). So
    it would give out what lies in a folder with a capital letter to whoever asks through `/proc/self/cwd`.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        self._names = {_true_name(path) for path in paths}

    def asked_for(self, url_path: str) -> bool:
        """Tell whether the path of an address asks Gradio for one."""
        asked = url_path.partition(_SERVED_AT)[2][1:]
        try:
            found = Path(_true_name(asked))
        except ValueError:  # a name that no file has
            return False
        return bool(asked) and any(str(path) in self._names for path in (found, *found.parents))


def _true_name(path: str) -> str:
    return os.path.realpath(os.path.abspath(path)).lower()
