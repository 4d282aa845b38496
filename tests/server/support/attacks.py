"""Load from outside, and a legitimate sender who is measured beside it."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import httpx

from support.payloads import load
from support.processes import Process

SECRET = "the-secret-of-the-hub"
UPDATE = load("repo.content-update")


def memory(server: Process) -> float:
    """Return how much memory a server has in use, in MiB."""
    status = Path(f"/proc/{server.popen.pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found
    return int(found[1]) / 1024


def counts(server: Process) -> dict[str, int]:
    counted: dict[str, int] = httpx.get(f"{server.url}/health", timeout=30).json()
    return counted


def connect(server: Process) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=30)


def answer_to(server: Process, *pieces: bytes) -> bytes:
    """Send bytes as they are, and return what comes back until the server closes."""
    received = b""
    with connect(server) as client, contextlib.suppress(ConnectionError):
        with contextlib.suppress(ConnectionError):  # it need not read all of it
            for piece in pieces:
                client.sendall(piece)
        while piece := client.recv(65536):
            received += piece
    return received


@contextlib.contextmanager
def many(server: Process, number: int, first: bytes = b"") -> Iterator[list[socket.socket]]:
    """Open many connections, send each the beginning of a request, and hold them."""
    with contextlib.ExitStack() as stack:
        clients = []
        for _ in range(number):
            client = stack.enter_context(connect(server))
            clients.append(client)
            with contextlib.suppress(ConnectionError):
                client.sendall(first)
        yield clients


class Sender:
    """Posts an event with the secret again and again, on a new connection each time, as the Hub does."""

    def __init__(self, server: Process) -> None:
        self._server = server
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._send, daemon=True)
        self.took: list[float] = []
        self.answers: list[int | str] = []

    def __enter__(self) -> Sender:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()

    def _send(self) -> None:
        headers = {"X-Webhook-Secret": SECRET, "Connection": "close"}
        with httpx.Client(base_url=self._server.url, headers=headers, timeout=30) as hub:
            while not self._over.wait(0.05):
                began = time.monotonic()
                try:
                    self.answers.append(hub.post("/webhooks/train", json=UPDATE).status_code)
                except httpx.HTTPError as failure:
                    self.answers.append(repr(failure))
                self.took.append(time.monotonic() - began)
