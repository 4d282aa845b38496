"""The owner's pages in process: a real log and engine, and an HTTP client for the owner or a visitor."""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections.abc import Callable
from datetime import datetime, timezone
from html import unescape
from pathlib import Path
from typing import Any
from unittest.mock import Mock
from urllib.parse import urlencode

from support.asgi import Exchange, exchange, on_loop
from support.engines import start
from support.payloads import load
from webhooks import Delivery
from webhooks.dashboard.access import PAGE
from webhooks.dashboard.routes import Dashboard
from webhooks.deliveries.database import Database
from webhooks.deliveries.engine import Engine
from webhooks.delivery import StartedJob
from webhooks.endpoints import Endpoint
from webhooks.payload import parse_payload
from webhooks.settings import Settings, load_settings

HOST = "localhost:7860"
_folders = tempfile.TemporaryDirectory()


def arrived(
    endpoint: str = "/webhooks/train",
    repo: str = "dataset/me/data",
    fixture: str = "repo.content-update",
    ago: float | None = None,
    body: bytes | None = None,
    **fields: Any,
) -> Delivery:
    """Make a delivery as it comes from the Hub, so many seconds ago."""
    payload = load(fixture)
    payload["repo"]["type"], _, payload["repo"]["name"] = repo.partition("/")
    written = body if body is not None else json.dumps(payload).encode()
    if ago is not None:
        at = time.time() - ago
        fields |= {"id": f"{int(at * 1e9):016x}", "received_at": datetime.fromtimestamp(at, timezone.utc)}
    return Delivery(endpoint, parse_payload(written) if body is None else None, body=written, **fields)


class PagesHarness:
    """The dashboard with its engine and log.

    Args:
        handlers: with their options.
        environ: the settings.
    """

    def __init__(self, *handlers: Endpoint, **environ: str) -> None:
        self.settings = load_settings(Settings, environ)
        self.endpoints = {endpoint.path: endpoint for endpoint in handlers}
        database = Database(Path(tempfile.mkdtemp(dir=_folders.name)))
        self.engine = Engine(self.endpoints, database, 1000, self.settings.redact)
        self.log = self.engine.log
        self.looked_at: list[StartedJob] = []
        self.is_public = "SPACE_HOST" in environ
        self.url = f"https://{environ['SPACE_HOST']}" if self.is_public else f"http://{HOST}"
        self.dashboard = Dashboard(
            self.settings, self.endpoints, self.engine, lambda: self.url, lambda: self.is_public
        )
        self.dashboard.job_watch = Mock(look=self.looked_at.extend)  # it would ask the Hub
        self.app = self.dashboard.app
        self.host = self.url.partition("://")[2]

    def run(self) -> PagesHarness:
        """Run deliveries from now on."""
        on_loop(start, self.engine)
        return self

    def close(self) -> None:
        self.engine.stop(1)

    def put(self, delivery: Delivery, status: str = "succeeded", answer: bytes = b"", **what: Any) -> str:
        """Record a delivery as it is after it has run."""

        def step() -> None:
            self.log.add(delivery, status if status in ("queued", "running") else "running")
            if "error" in what:
                self.log.fail_attempt(delivery.id, what["error"])
            self.log.add_jobs(delivery.id, what.get("jobs", ()))
            if status == "scheduled":
                self.log.schedule(delivery.id, what["due_at"])
            elif status not in ("queued", "running"):
                self.log.finish(delivery.id, status, what.get("answer_status", 200), answer)

        self.write(step)
        return delivery.id

    def write(self, step: Callable[[], object]) -> None:
        """Write to the log as the engine does."""
        on_loop(self.engine.database.write, step)

    def owner(self) -> Client:
        visitor = Client(self)
        answer = visitor.get(query={"token": self.dashboard.access.token})
        assert answer.status == 303
        return visitor.with_cookie(answer)


class Client:
    """A browser on the server's own page, unless `headers` name another page."""

    def __init__(self, pages: PagesHarness, cookie: str = "", **headers: str | None) -> None:
        self.pages, self.cookie = pages, cookie
        self.headers = {"host": pages.host, "cookie": cookie or None, **headers}

    def with_cookie(self, answer: Exchange) -> Client:
        return Client(self.pages, answer.headers["set-cookie"].partition(";")[0])

    def get(self, path: str = "", query: Any = (), **headers: str) -> Exchange:
        return self.ask("GET", path, query, **headers)

    def post(self, path: str, form: Any = (), query: Any = (), **headers: str) -> Exchange:
        body = urlencode(form).encode()
        sent = {"content-type": "application/x-www-form-urlencoded", "content-length": str(len(body))}
        if not self.headers.keys() & {"origin", "sec_fetch_site"}:
            sent["origin"] = f"{self.pages.url.partition('://')[0]}://{self.pages.host}"
        return self.ask("POST", path, query, body=body, **{**sent, **headers})

    def ask(self, method: str, path: str, query: Any = (), body: bytes = b"", **headers: str) -> Exchange:
        given = {**self.headers, **headers}
        sent = {name.replace("_", "-"): value for name, value in given.items() if value is not None}
        encoded = query.encode() if isinstance(query, str) else urlencode(query).encode()
        return on_loop(exchange, self.pages.app, PAGE + path, [body], method=method, headers=sent, query=encoded)


def text(answer: Exchange) -> str:
    """Return what a reader sees of a page, on one line."""
    shown = re.sub(r"<(script|style|title)\b.*?</\1>|<[^>]*>", "", answer.body.decode(), flags=re.DOTALL)
    return " ".join(unescape(shown).split())


def ids_of(answer: Exchange) -> list[str]:
    """Return the ids of the deliveries that a page lists."""
    return re.findall(r'<tr id="d-([0-9a-f]{16})"', answer.body.decode())


def textarea(answer: Exchange) -> str:
    found = re.search(r"<textarea[^>]*>\n(.*?)</textarea>", answer.body.decode(), re.DOTALL)
    assert found
    return unescape(found[1])
