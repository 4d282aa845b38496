"""Write bytes to a server's socket, and read its memory."""

from __future__ import annotations

import contextlib
import re
import socket
from pathlib import Path

from support.processes import Process


def memory(server: Process) -> float:
    """Return how much memory a server uses, in MiB."""
    status = Path(f"/proc/{server.popen.pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found
    return int(found[1]) / 1024


def connect(server: Process) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=30)


def send_raw(server: Process, *pieces: bytes) -> bytes:
    """Send bytes as they are, and return all that the server sends until it closes."""
    received = b""
    with connect(server) as client, contextlib.suppress(ConnectionError):
        with contextlib.suppress(ConnectionError):  # a server that refuses a body closes before its end
            for piece in pieces:
                client.sendall(piece)
        while piece := client.recv(65536):
            received += piece
    return received
