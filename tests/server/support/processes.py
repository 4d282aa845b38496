"""Run scripts as servers, each in its own process."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parents[3]
STARTUP = Path(__file__).parent / "startup"

# The environment of the test run must not decide a test.
_SETTINGS = ("WEBHOOK", "SPACE_", "HF_", "OAUTH_", "GRADIO_", "DRY_RUN", "TRAIN", "EVALUATION_", "SYSTEM", "OPENID_")


def is_setting(name: str) -> bool:
    return name.startswith(_SETTINGS)


def clean_environment(**extra: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not is_setting(name)}
    defaults = {
        "GRADIO_SHARE": "False",
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_NUM_PORTS": "1",
        "WEBHOOKS_CATCH_UP": "0",
        "PYTHONPATH": os.pathsep.join([str(STARTUP), str(ROOT)]),
    }
    return {**kept, **defaults, "PYTHONUNBUFFERED": "1", **extra}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Process:
    """A script in its own Python process.

    Attributes:
        url: the address of its server.
        output: the text that it has printed so far, standard output and error together.
        folder: the folder of the script, which is its working directory.
    """

    READY = "Go to https://huggingface.co/settings/webhooks to setup your webhooks."

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
            start_new_session=True,  # so that `stop` reaches its child processes
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def wait_for(self, text: str, timeout: float = 60) -> str:
        """Return the first line with this text, or fail with all the output."""
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
        """Wait for the end of the process, and return its exit code. `output` is complete then."""
        code = self.popen.wait(timeout)
        while (line := self._lines.get(timeout=timeout)) is not None:
            self.output += line
        return code

    def interrupt(self) -> None:
        self.popen.send_signal(signal.SIGINT)

    def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait()

    def post(self, path: str, content: Any = None, **options: Any) -> httpx.Response:
        """Post a payload (or bytes) to `/webhooks/<path>`."""
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        return httpx.post(f"{self.url}/webhooks/{path}", content=body, timeout=30, **options)


Run = Start = Callable[..., Process]
