"""Gradio serves no settings, no commits and no log, under any of their names."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from support.processes import Process, Start

SERVER = """
import os
from webhooks import WebhooksServer

os.chdir(os.environ["RUNS_IN"])
server = WebhooksServer()
server.add_webhook("/nothing")(lambda: None)
server.launch(allowed_paths=os.environ["ALLOWED"].split(os.pathsep))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the server's working directory: its name has capital letters, and a link leads to it."""
    folder = tmp_path_factory.mktemp("Started-From") / "Here"
    folder.mkdir()
    (folder.parent / "Link").symlink_to(folder)
    return folder


@pytest.fixture(scope="module")
def server(start: Start, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Process:
    allowed = os.pathsep.join([str(folder.parent), str(tmp_path_factory.getbasetemp())])
    server = start(SERVER, RUNS_IN=str(folder), ALLOWED=allowed)
    for place in (server.folder, folder, folder.parent):
        (place / ".git" / "objects").mkdir(parents=True)
        for name in ("public.txt", ".env", ".git/config", ".git/objects/pack"):
            (place / name).write_text(f"{name} in {place}")
    (folder / "Settings.txt").symlink_to(folder / ".env")
    return server


def names(server: Process, folder: Path, name: str) -> Iterator[str]:
    """Yield the names of a file beside the script, in the working directory and above it."""
    yield from (f"{place}/{name}" for place in (server.folder, folder, folder.parent))
    yield from (name, f"../{name}", f"{folder}//./{name}")
    yield from (f"{folder.parent}/Link/{name}", f"{folder.parent}/Link/../{folder.name}/{name}")
    if sys.platform == "linux":
        yield from (f"/proc/self/cwd/{name}", f"/proc/self/root{folder.parent}/{name}")


def is_served(server: Process, name: str) -> bool:
    """Ask as a raw client does, which leaves `..` in the path."""
    with httpx.Client() as client:
        targets = [f"/gradio_api/file{sign}{name}{end}".encode() for sign in "=/" for end in ("", "%0A")]
        answers = [client.get(server.url, extensions={"target": target}) for target in targets]
    return any(answer.is_success for answer in answers)


def test_an_allowed_file_is_served_under_each_name(server: Process, folder: Path) -> None:
    assert [name for name in names(server, folder, "public.txt") if not is_served(server, name)] == []


@pytest.mark.parametrize("private", [".env", ".git/config", ".git/objects/pack", ".webhooks/deliveries.db"])
def test_settings_commits_and_log_are_not_served(server: Process, folder: Path, private: str) -> None:
    assert [name for name in names(server, folder, private) if is_served(server, name)] == []
    assert not is_served(server, f"{folder}/Settings.txt")
