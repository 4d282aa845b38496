"""What is private is served to nobody, though Gradio may serve the folders around it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from support.processes import Process, Start

pytestmark = [pytest.mark.quick, pytest.mark.once]

SERVER = """
import os
from pathlib import Path
from webhooks import WebhooksServer

os.chdir(os.environ["RUNS_IN"])  # as if it had been started from there
server = WebhooksServer()

@server.add_webhook
def nothing():
    ...

server.launch(allowed_paths=os.environ["ALLOWED"].split(os.pathsep))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the script runs, with capital letters in its name, and another folder above it."""
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


def ways(server: Process, folder: Path, name: str) -> Iterator[str]:
    """Yield the names that a file has: beside the script, where that runs and above it."""
    yield f"{server.folder}/{name}"
    yield f"{folder}/{name}"
    yield f"{folder.parent}/{name}"
    yield name
    yield f"../{name}"
    yield f"{folder.parent}/Link/{name}"
    yield f"{folder.parent}/Link/../{folder.name}/{name}"
    yield f"{folder}//./{name}"
    if sys.platform == "linux":
        yield f"/proc/self/cwd/{name}"
        yield f"/proc/self/root{folder.parent}/{name}"


def served(server: Process, name: str) -> bool:
    """Ask as a raw client does, which leaves `..` as it is."""
    with httpx.Client() as client:
        answers = [
            client.get(server.url, headers=headers, extensions={"target": f"/gradio_api/file{sign}{name}".encode()})
            for sign in "=/"
            for headers in ({}, {"Range": "bytes=0-9"})
        ]
    return any(answer.is_success for answer in answers)


def test_what_may_be_served_is_served_by_all_these_names(server: Process, folder: Path) -> None:
    for name in ways(server, folder, "public.txt"):
        assert served(server, name), name


@pytest.mark.parametrize("private", [".env", ".git/config", ".git/objects/pack"])
def test_settings_and_commits_are_served_by_none(server: Process, folder: Path, private: str) -> None:
    for name in ways(server, folder, private):
        assert not served(server, name), name
    assert not served(server, f"{folder}/Settings.txt")


def test_the_log_is_served_by_none(server: Process, folder: Path) -> None:
    for file in sorted((folder / ".webhooks").iterdir()):
        for place in (folder, "/proc/self/cwd", f"{folder.parent}/Link", "."):
            assert not served(server, f"{place}/.webhooks/{file.name}"), (place, file)
