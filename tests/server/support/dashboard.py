"""The owner's pages in process: a real log and engine, and an HTTP client that is somebody."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any
from unittest.mock import Mock
from urllib.parse import urlencode

from support.asgi import Exchange, exchange, on_loop
from support.engines import start
from webhooks import Delivery, read_settings
from webhooks.dashboard.access import PAGE, Access
from webhooks.dashboard.routes import Dashboard
from webhooks.deliveries.engine import Engine
from webhooks.deliveries.log import DeliveryLog
from webhooks.delivery import StartedJob
from webhooks.endpoints import Endpoint
from webhooks.settings import Settings

HOST = "localhost:7860"
_folders = tempfile.TemporaryDirectory()


class Office:
    """A desk with what is behind it.

    Args:
        handlers: with their options.
        max_pending: as of the server.
        environ: the settings.
    """

    def __init__(self, *handlers: Endpoint, max_pending: int = 1000, **environ: str) -> None:
        self.settings = read_settings(Settings, environ)
        self.endpoints = {endpoint.path: endpoint for endpoint in handlers}
        self.log = DeliveryLog(Path(tempfile.mkdtemp(dir=_folders.name)))
        self.engine = Engine(self.endpoints, self.log, max_pending, redact=self.settings.redact)
        self.looked_at: list[StartedJob] = []
        self.url = f"https://{environ['SPACE_HOST']}" if "SPACE_HOST" in environ else f"http://{HOST}"
        self.room: Callable[[], bool] = lambda: True
        self.dashboard = Dashboard(
            self.settings,
            self.endpoints,
            Access(self.settings, lambda: self.url),
            log=lambda: self.log.path,
            replay=self.engine.replay,
            has_room=lambda: self.room(),
            learn_stage=self.engine.learn_stage,
            local_url=lambda: "http://127.0.0.1:9",
            public_url=lambda: self.url,
        )
        self.dashboard.job_watch = Mock(look=self.looked_at.extend)  # it would ask the Hub
        self.app = self.dashboard.app()
        self.host = self.url.partition("://")[2]

    def open(self) -> Office:
        """Run what is replayed from now on. The log is the engine's alone then: nothing can be `put` any more."""
        on_loop(start, self.engine)
        return self

    def close(self) -> None:
        self.engine.stop(1)

    def put(self, delivery: Delivery, status: str = "succeeded", answer: bytes = b"", **what: Any) -> str:
        """Write down a delivery as it would be after it has run."""
        error, jobs = what.get("error"), what.get("jobs", ())
        with self.log.transaction():
            if status in ("queued", "running"):
                self.log.add(delivery, status)
                return delivery.id
            self.log.add(delivery, "running")
            if error:
                self.log.fail_attempt(delivery.id, error)
            self.log.add_jobs(delivery.id, jobs)
            if status == "scheduled":
                self.log.schedule(delivery.id, what["due_at"])
            else:
                self.log.finish(delivery.id, status, what.get("answer_status", 200), answer)
        return delivery.id

    def owner(self) -> Client:
        visitor = Client(self)
        answer = visitor.get(query={"token": self.dashboard.access.token})
        assert answer.status == 303
        return visitor.with_cookie(answer)


def delivery_page(log: Path, id: str) -> str:
    """The page of a delivery, made from somebody else's log."""
    office = Office()
    office.dashboard.log = lambda: log
    answer = office.owner().get(f"/{id}")
    assert answer.status == 200
    return answer.body.decode()


class Client:
    """Somebody with a browser, on the server's own page unless `headers` say where else."""

    def __init__(self, office: Office, cookie: str = "", **headers: str | None) -> None:
        self.office, self.cookie = office, cookie
        self.headers = {"host": office.host, "cookie": cookie or None, **headers}

    def with_cookie(self, answer: Exchange) -> Client:
        return Client(self.office, answer.headers["set-cookie"].partition(";")[0])

    def get(self, path: str = "", query: Any = (), **headers: str) -> Exchange:
        return self.ask("GET", path, query, **headers)

    def post(self, path: str, form: Any = (), **headers: str) -> Exchange:
        body = urlencode(form).encode()
        sent = {"content-type": "application/x-www-form-urlencoded", "content-length": str(len(body))}
        if not self.headers.keys() & {"origin", "sec_fetch_site"}:
            sent["origin"] = f"{self.office.url.partition('://')[0]}://{self.office.host}"
        return self.ask("POST", path, body=body, **{**sent, **headers})

    def ask(self, method: str, path: str, query: Any = (), body: bytes = b"", **headers: str) -> Exchange:
        given = {**self.headers, **headers}
        sent = {name.replace("_", "-"): value for name, value in given.items() if value is not None}
        encoded = query.encode() if isinstance(query, str) else urlencode(query).encode()
        return on_loop(exchange, self.office.app, PAGE + path, [body], method=method, headers=sent, query=encoded)


def text(answer: Exchange) -> str:
    """What a reader sees of a page, on one line."""
    shown = re.sub(r"<(script|style|title)\b.*?</\1>|<[^>]*>", "", answer.body.decode(), flags=re.DOTALL)
    return " ".join(unescape(shown).split())
