"""Servers on a port of this process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.processes import free_port
from webhooks import WebhooksServer


class Servers:
    """Make servers in this process, and close them after the test."""

    def __init__(self) -> None:
        self.made: list[WebhooksServer] = []

    def __call__(self, *names: str, ui: Any = None, **options: Any) -> WebhooksServer:
        server = WebhooksServer(ui, **options)
        for name in names:
            server.add_webhook(f"/{name}")(lambda name=name: name)
        self.made.append(server)
        return server


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Servers]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    monkeypatch.setenv("GRADIO_SHARE", "False")
    servers = Servers()
    yield servers
    for server in servers.made:
        server.close(0)


def launch(server: WebhooksServer, **options: Any) -> str:
    port = options.setdefault("server_port", free_port())
    server.launch(prevent_thread_lock=True, **options)
    return f"http://127.0.0.1:{port}"
