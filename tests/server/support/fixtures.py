"""Fixtures: scripts that run as servers, and a browser."""

from __future__ import annotations

import contextlib
import os
import shutil
import textwrap
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from support.browsers import CHROMIUM_ARGUMENTS
from support.hub import Hub
from support.processes import Process, Run, Start

# Without a deadline, since a disk can be slow. CI runs the same examples each time.
hypothesis.settings.register_profile("webhooks", deadline=None, derandomize=os.environ.get("CI") == "true")
hypothesis.settings.load_profile("webhooks")


@contextlib.contextmanager
def processes_in(folder: Path) -> Iterator[Run]:
    """Run scripts, given as text, and stop them at the end. Further arguments are their environment."""
    processes: list[Process] = []

    def run(source: str, *, port: int | None = None, **environment: str) -> Process:
        script = folder / f"script{len(processes)}.py"
        script.write_text(textwrap.dedent(source), encoding="utf-8")
        processes.append(Process(script, environment, port))
        return processes[-1]

    yield run
    for process in processes:
        process.stop()


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with processes_in(tmp_path) as run:
        yield run


@pytest.fixture
def serve(run: Run) -> Run:
    """Like `run`, and wait until the script serves."""
    return lambda source, **options: run(source, **options).wait_until_ready()


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Like `serve`, for all tests of a module. Each server has a folder of its own."""
    with contextlib.ExitStack() as stack:

        def start(source: str, **environment: str) -> Process:
            run = stack.enter_context(processes_in(tmp_path_factory.mktemp("server")))
            return run(source, **environment).wait_until_ready()

        yield start


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of an installed Chromium or Chrome."""
    for name in ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"):
        if path := shutil.which(name):
            return path
    mac = Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")
    if mac.exists():
        return str(mac)
    message = "no Chromium or Google Chrome is installed"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        expect.set_options(timeout=15_000)  # ms; the machine may be busy
        browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def one_hub() -> Iterator[Hub]:
    """A Hub for all tests of a module. They share its users and tokens."""
    with Hub() as hub:
        yield hub


@pytest.fixture
def hub(one_hub: Hub) -> Iterator[Hub]:
    """The Hub of the module, empty. A request that it cannot answer fails the test."""
    yield one_hub
    unknown = list(one_hub.unknown)
    one_hub.forget()
    assert unknown == []
