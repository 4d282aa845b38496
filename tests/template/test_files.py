"""The files of the template fit the Hub, its builder and each other."""

from __future__ import annotations

import subprocess

from support.processes import ROOT


def test_the_repository_holds_text_only() -> None:
    """The Hub refuses binary files in a plain git push."""
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, files.split("\0")):
        if (ROOT / name).exists():
            (ROOT / name).read_text(encoding="utf-8")
