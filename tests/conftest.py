"""What the tests share: payload fixtures, and scripts that really run as servers."""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import hypothesis
import pytest
from playwright.sync_api import Browser, sync_playwright

# No deadline, since the disk may take its time; the same examples at every run where a run decides something.
hypothesis.settings.register_profile("webhooks", deadline=None, derandomize=os.environ.get("CI") == "true")
hypothesis.settings.load_profile("webhooks")

ROOT = Path(__file__).parent.parent
FIXTURES = Path(__file__).parent / "fixtures"

# What a server script may find in the environment of whoever runs the tests must not decide a test.
_SETTINGS = (
    "WEBHOOK",
    "WEBHOOKS_",
    "SPACE_",
    "HF_",
    "OAUTH_",
    "GRADIO_",
    "DRY_RUN",
    "TRAIN",
    "EVALUATION_",
    "SYSTEM",
    "OPENID_",
)


def load(name: str) -> dict[str, Any]:
    """Read a payload fixture: `load("repo.content-update")`."""
    return json.loads((FIXTURES / f"{name}.json").read_text(encoding="utf-8"))


def clean_environment(**extra: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_SETTINGS)}
    defaults = {
        "GRADIO_SHARE": "False",
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_NUM_PORTS": "1",
        "PYTHONPATH": str(ROOT),
    }
    return {**kept, **defaults, "PYTHONUNBUFFERED": "1", **extra}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Process:
    """A script in a Python process of its own. Its output is read as it comes, so nothing has to be polled.

    Attributes:
        url: where it serves, if it does.
        output: what it has printed so far, standard output and error in one.
        folder: where the script lies and runs.
    """

    READY = "Tell the Hub about them at"

    def __init__(self, script: Path, environment: Mapping[str, str] | None = None, port: int | None = None) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.output = ""
        self.folder = script.parent
        self._lines: queue.Queue[str | None] = queue.Queue()
        self.popen = subprocess.Popen(
            [sys.executable, script.name],
            cwd=script.parent,
            env=clean_environment(GRADIO_SERVER_PORT=str(self.port), **(environment or {})),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def wait_for(self, text: str, timeout: float = 60) -> str:
        """Wait for a line with this text and return it; fail with all the output if it never comes."""
        while True:
            line = self._lines.get(timeout=timeout)
            assert line is not None, f"ended before printing {text!r}:\n{self.output}"
            self.output += line
            if text in line:
                return line

    def wait_until_ready(self) -> Process:
        self.wait_for(self.READY)
        return self

    def wait_for_exit(self, timeout: float = 60) -> int:
        """Wait for the end of the process; `output` is complete then."""
        code = self.popen.wait(timeout)
        while (line := self._lines.get(timeout=timeout)) is not None:
            self.output += line
        return code

    def interrupt(self) -> None:
        self.popen.send_signal(signal.SIGINT)

    def stop(self) -> None:
        self.popen.kill()
        self.popen.wait()

    def post(self, path: str, content: Any = None, **options: Any) -> httpx.Response:
        """Post a payload (or bytes) to `/webhooks/<path>`."""
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        return httpx.post(f"{self.url}/webhooks/{path}", content=body, timeout=30, **options)


Run = Callable[..., Process]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """Run a script, given as text, and stop it after the test. Further arguments are its environment."""
    processes: list[Process] = []

    def start(source: str, *, port: int | None = None, **environment: str) -> Process:
        script = tmp_path / f"script{len(processes)}.py"
        script.write_text(textwrap.dedent(source), encoding="utf-8")
        processes.append(Process(script, environment, port))
        return processes[-1]

    yield start
    for process in processes:
        process.stop()


@pytest.fixture
def serve(run: Run) -> Run:
    """Like `run`, and wait until the script serves."""
    return lambda source, **options: run(source, **options).wait_until_ready()


Start = Callable[..., Process]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Start a server that every test of a module may look at; further arguments are its environment."""
    processes: list[Process] = []

    def start(source: str, **environment: str) -> Process:
        script = tmp_path_factory.mktemp("server") / "script.py"
        script.write_text(textwrap.dedent(source), encoding="utf-8")
        processes.append(Process(script, environment))
        return processes[-1].wait_until_ready()

    yield start
    for process in processes:
        process.stop()


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of an installed Chromium or Chrome."""
    for name in ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"):
        if path := shutil.which(name):
            return path
    mac = Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")
    if mac.exists():
        return str(mac)
    message = "no Chromium or Google Chrome is installed, so no page can be looked at"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


CHROMIUM_ARGUMENTS = ["--no-sandbox", "--disable-background-networking", "--disable-component-update"]


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_ARGUMENTS)
        yield browser
        browser.close()


SCREENSHOTS = Path(__file__).parent / "screenshots"
LOOKS: dict[str, Any] = {
    "light": {"color_scheme": "light", "viewport": {"width": 1280, "height": 800}},
    "dark": {"color_scheme": "dark", "viewport": {"width": 1280, "height": 800}},
    "phone": {
        "color_scheme": "light",
        "viewport": {"width": 390, "height": 844},
        "device_scale_factor": 2,
        "has_touch": True,
    },
}

# The contrast of every piece of our own text with what is painted behind it, as WCAG 2 counts it.
CONTRASTS = """() => {
  const rgba = color => { const [r, g, b, a = 1] = color.match(/[\\d.]+/g).map(Number); return [r, g, b, a] };
  const over = ([r, g, b, a], under) => [r, g, b].map((part, i) => part * a + under[i] * (1 - a));
  const behind = e => e ? over(rgba(getComputedStyle(e).backgroundColor), behind(e.parentElement)) : [255, 255, 255];
  const light = color => color.map(part => part / 255)
    .map(part => part <= .04045 ? part / 12.92 : ((part + .055) / 1.055) ** 2.4)
    .reduce((sum, part, i) => sum + part * [.2126, .7152, .0722][i], 0);
  return [...document.querySelectorAll(".webhooks-card *")]
    .filter(e => [...e.childNodes].some(node => node.nodeType === Node.TEXT_NODE && node.data.trim()))
    .map(e => {
      const paper = behind(e), [low, high] = [paper, over(rgba(getComputedStyle(e).color), paper)]
        .map(light).sort((a, b) => a - b);
      return [e.innerText, (high + .05) / (low + .05)];
    });
}"""
