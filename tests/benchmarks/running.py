"""A server of any side while it runs: started, asked, put under load, and looked at from outside."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from installed import FIXTURE, HERE, ROOT

SECRET = "the secret of the benchmark"
ADMIN_TOKEN = "owner-of-the-benchmark"
PAYLOAD = json.dumps(json.loads(FIXTURE.read_text(encoding="utf-8")), separators=(",", ":")).encode()
POLL = 0.003  # seconds
START_WITHIN = 300.0  # seconds
GIVE_UP = 10  # seconds that wrk waits for an answer
CONNECTIONS = 16
BLOCKED = 3.0  # seconds, as the handlers of the sides have it


class NotMeasured(Exception):
    """A measurement could not be made; the text says why."""


@dataclass(frozen=True)
class Load:
    """What wrk saw; times in milliseconds. `cpu` is the share of one core that wrk itself used."""

    answers: int
    seconds: float
    p50: float
    p99: float
    slowest: float
    errors: dict[str, int]
    cpu: float

    @property
    def rate(self) -> float:
        return self.answers / self.seconds


def clean_environment(**extra: str) -> dict[str, str]:
    """Leave out what whoever runs this has set, for a server or for Python."""
    kept = {name: os.environ[name] for name in ("HOME", "LANG", "PATH", "TMPDIR") if name in os.environ}
    ours = {"GRADIO_SHARE": "False", "GRADIO_ANALYTICS_ENABLED": "False", "WEBHOOK_SECRET": SECRET}
    return {**kept, **ours, "WEBHOOKS_ADMIN_TOKEN": ADMIN_TOKEN, "PYTHONPATH": str(ROOT), **extra}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A side's script in a process of its own, from `with` to its end; `folder` is where it runs."""

    def __init__(self, python: str, script: str, folder: Path) -> None:
        self.port = free_port()
        self.folder = folder
        self.total = 0  # deliveries answered
        with open(folder / "output", "wb") as output:
            self.started = time.perf_counter()
            self.popen = subprocess.Popen(
                [python, str(HERE / "sides" / script), str(self.port)],
                cwd=folder,
                env=clean_environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        _kill(self.popen)

    def wait_for_first_delivery(self) -> float:
        """Return the seconds from the start of the process to its first accepted delivery."""
        while True:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if 200 <= self.post("hook") < 300:
                    return time.perf_counter() - self.started
            if self.popen.poll() is not None:
                raise NotMeasured(f"it ended by itself:\n{self.printed()}")
            if time.perf_counter() - self.started > START_WITHIN:
                raise NotMeasured(f"it took no delivery within {START_WITHIN:g} s:\n{self.printed()}")
            time.sleep(POLL)

    def printed(self) -> str:
        return (self.folder / "output").read_text(encoding="utf-8", errors="replace")[-2000:]

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> http.client.HTTPResponse:
        """Ask on a connection of its own, which ends when the answer has been read."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, {**sent, "Connection": "close"})
        return connection.getresponse()

    def post(self, handler: str) -> int:
        headers = {"Content_Type": "application/json", "X_Webhook_Secret": SECRET}
        with self.ask("POST", f"/webhooks/{handler}", PAYLOAD, **headers) as response:
            response.read()
            return response.status

    def memory(self) -> float:
        """Return what of the process is in memory, in MiB."""
        status = Path(f"/proc/{self.popen.pid}/status")
        if status.exists():
            found = re.search(r"^VmRSS:\s+(\d+) kB$", status.read_text(), re.MULTILINE)
            kib = found[1] if found else ""
        else:
            ps = ["ps", "-o", "rss=", "-p", str(self.popen.pid)]
            kib = subprocess.run(ps, capture_output=True, text=True).stdout.strip()
        if not kib:
            raise NotMeasured(f"it ended by itself:\n{self.printed()}")
        return int(kib) / 1024

    def load(self, handler: str, seconds: int, *, errors_are_a_result: bool = False) -> Load:
        """Post as fast as answers come, on 16 connections."""
        load = _wrk(f"http://127.0.0.1:{self.port}/webhooks/{handler}", seconds, self.folder)
        self.total += load.answers
        if not errors_are_a_result and (not load.answers or any(load.errors.values())):
            counted = ", ".join(f"{count} {name}" for name, count in load.errors.items() if count)
            raise NotMeasured(f"{load.answers} answers to {handler}, with errors: {counted or 'none'}")
        return load

    @contextlib.contextmanager
    def handling(self, handler: str) -> Iterator[None]:
        """Keep a handler busy that takes 3 seconds: there is always one delivery for it on the way."""
        over = threading.Event()
        refused: list[int] = []

        def post_on() -> None:
            while not over.is_set():
                try:
                    status = self.post(handler)
                except (OSError, http.client.HTTPException):
                    over.wait(0.1)
                else:
                    refused.extend([status] if status != 200 else [])

        thread = threading.Thread(target=post_on, daemon=True)
        thread.start()
        time.sleep(0.3)
        try:
            yield
        finally:
            over.set()
            thread.join(60)
        if refused:
            raise NotMeasured(f"{handler} was answered {sorted(set(refused))}")


def _wrk(url: str, seconds: int, folder: Path) -> Load:
    payload = folder / "payload.json"
    payload.write_bytes(PAYLOAD)
    options = ["-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", f"--timeout={GIVE_UP}s", f"--script={HERE}/sides/post.lua"]
    started = time.perf_counter()
    wrk = subprocess.Popen(
        ["wrk", *options, url],
        env=clean_environment(PAYLOAD=str(payload)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        assert wrk.stdout is not None
        printed = wrk.stdout.read().decode(errors="replace")
        _, status, used = os.wait4(wrk.pid, 0)
        wrk.returncode = os.waitstatus_to_exitcode(status)
    finally:
        _kill(wrk)
    wall = time.perf_counter() - started
    try:
        seen: Mapping[str, Any] = json.loads(printed.strip().splitlines()[-1])
    except (IndexError, ValueError):
        raise NotMeasured(f"wrk gave no numbers:\n{printed}") from None
    milliseconds = {name: seen[name] / 1000 for name in ("p50", "p99", "slowest")}
    cpu = (used.ru_utime + used.ru_stime) / wall
    return Load(seen["answers"], seen["seconds"], errors=dict(seen["errors"]), cpu=cpu, **milliseconds)


def _kill(popen: subprocess.Popen[bytes]) -> None:
    if popen.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(popen.pid, signal.SIGKILL)
        popen.wait()
    if popen.stdout:
        popen.stdout.close()


class OwnersPage:
    """The owner's page of a server, opened by the link with the token; each call takes some milliseconds."""

    ROWS = 50
    LIST, SUMS = "show", "sum_up"

    def __init__(self, server: Server) -> None:
        self._server = server
        with server.ask("GET", f"/deliveries?token={ADMIN_TOKEN}") as response:
            self._cookie = (response.getheader("Set-Cookie") or "").partition(";")[0]
        with server.ask("GET", "/config") as response:
            config = json.load(response)
        self._functions = {re.sub(r"_\d+$", "", one["api_name"]): one for one in config["dependencies"][::-1]}
        self._components = {component["id"]: component for component in config["components"]}
        self._sessions = 0

    def open(self) -> float:
        """Fetch the page itself."""
        before = time.perf_counter()
        with self._server.ask("GET", "/deliveries", Cookie=self._cookie) as response:
            response.read()
            if response.status != 200:
                raise NotMeasured(f"the page was answered {response.status}")
        return (time.perf_counter() - before) * 1000

    def list(self) -> float:
        """Fill the list, as a page does that was just opened."""
        milliseconds, output = self._call(self.LIST)
        rows = len(re.findall(r'<tr data-open=\\?"', output))
        if rows != self.ROWS:
            raise NotMeasured(f"the page showed {rows} deliveries, not {self.ROWS}: {output[:500]}")
        return milliseconds

    def sum_up(self) -> float:
        """Draw the chart, and fill the filters."""
        return self._call(self.SUMS)[0]

    def _call(self, name: str) -> tuple[float, str]:
        if name not in self._functions:
            raise NotMeasured(f"the page has no function {name}")
        function = self._functions[name]
        self._sessions += 1  # a page that is opened anew has been shown nothing
        session = f"page{self._sessions}"
        values = [self._components[id]["props"].get("value") for id in function["inputs"]]
        body = json.dumps({"session_hash": session, "fn_index": function["id"], "data": values}).encode()
        before = time.perf_counter()
        headers = {"Content_Type": "application/json", "Cookie": self._cookie}
        with self._server.ask("POST", "/gradio_api/queue/join", body, **headers) as response:
            if response.status != 200:
                raise NotMeasured(f"{name} was answered {response.status}: {response.read()!r}")
            response.read()
        output = self._result(name, session)
        return (time.perf_counter() - before) * 1000, output

    def _result(self, name: str, session: str) -> str:
        with self._server.ask("GET", f"/gradio_api/queue/data?session_hash={session}", Cookie=self._cookie) as stream:
            for line in stream:
                message = json.loads(line.partition(b":")[2]) if line.startswith(b"data:") else {}
                if message.get("msg") == "process_completed":
                    if not message["success"]:
                        raise NotMeasured(f"{name} failed: {message}")
                    return json.dumps(message["output"])
        raise NotMeasured(f"{name} gave no result")


def compare_pages(pages: Mapping[str, OwnersPage], calls: int) -> dict[str, dict[str, Any]]:
    """Return the median milliseconds of each page's parts, asked in alternation, and all of them."""
    parts = {"list": OwnersPage.list, "filters": OwnersPage.sum_up, "get": OwnersPage.open}
    times: dict[str, dict[str, list[float]]] = {name: {part: [] for part in parts} for name in pages}
    for number in range(calls):
        for name in sorted(pages, reverse=bool(number % 2)):
            for part, ask in parts.items():
                times[name][part].append(ask(pages[name]))
    return {
        name: {part: statistics.median(seen) for part, seen in each.items()} | {"calls": each}
        for name, each in times.items()
    }
