"""An engine with its log: no network, no Gradio."""

from __future__ import annotations

import json
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path
from typing import Any

from starlette.responses import Response

from support.asgi import on_loop, soon
from support.payloads import load
from webhooks import Delivery, WebhookPayload
from webhooks.deliveries.database import Database
from webhooks.deliveries.engine import Engine
from webhooks.deliveries.log import Record, find, reading
from webhooks.endpoints import Endpoint
from webhooks.redact import Redactor

WAIT = 30  # seconds until a test that waits in vain fails
BODY = load("repo.content-update")


async def start(engine: Engine, context: Mapping[str, Any] | None = None) -> None:
    engine.start(context)


def wait_until(condition: Callable[[], object], within: float = WAIT) -> None:
    """Wait for a condition that no event announces."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def statuses(records: Iterable[Record]) -> list[str]:
    return [record.status for record in records]


def rows(folder: Path, query: str) -> list[tuple[Any, ...]]:
    """Return what a query finds in the log of a folder."""
    with reading(folder / "deliveries.db") as database:
        return [tuple(row) for row in database.execute(query)]


def execute(path: Path, *statements: str) -> None:
    """Change a SQLite file."""
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        for statement in statements:
            database.execute(statement)


def copy_log(folder: Path) -> Path:
    """Copy the log as it is on the disk now, and as a kill in this moment would leave it."""
    copy = Path(tempfile.mkdtemp(dir=folder.parent))
    for name in ("deliveries.db", "deliveries.db-wal", "deliveries.db-journal"):
        if (folder / name).exists():
            shutil.copy(folder / name, copy)
    return copy


class EngineHarness:
    """An engine with its log, which can be stopped and started again like a process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.endpoints: dict[str, Endpoint] = {}
        self.engine: Engine | None = None
        self.listeners: list[Callable[..., Any]] = []

    @property
    def path(self) -> Path:
        return self.folder / "deliveries.db"

    def add(self, handler: Callable[..., Any], **options: Any) -> Endpoint:
        endpoint = Endpoint(handler, **options)
        self.endpoints[endpoint.path] = endpoint
        return endpoint

    def start(
        self,
        max_pending: int = 1000,
        secret: str | None = None,
        context: Mapping[str, Any] | None = None,
        on_bucket: bool = False,
    ) -> EngineHarness:
        database = Database(self.folder, on_bucket=on_bucket)
        self.engine = Engine(self.endpoints, database, max_pending, Redactor(["s3cret"]), secret, self.listeners)
        on_loop(start, self.engine, context)
        self.engine.recover()
        return self

    def stop(self, grace: float = WAIT) -> bool:
        engine, self.engine = self.engine, None
        return engine.stop(grace) if engine else True

    def kill(self) -> Engine:
        """Go on with a copy of the log, as if the process had been killed. The old engine still has to be stopped."""
        self.folder = copy_log(self.folder)
        killed, self.engine = self.engine, None
        assert killed
        return killed

    def send(self, endpoint: Endpoint, body: Any = BODY, headers: Any = (), reply_within: float = WAIT) -> Future[Any]:
        """Deliver, and wait for nothing."""
        return soon(self.engine.take, endpoint, self.delivery(endpoint, body, headers), reply_within)

    def deliver(self, endpoint: Endpoint, body: Any = BODY, headers: Any = (), reply_within: float = WAIT) -> Response:
        """Deliver, and return the response for the sender."""
        return self.send(endpoint, body, headers, reply_within).result(WAIT + 1)

    def record(self, endpoint: Endpoint, body: Any = BODY) -> str:
        """Deliver, wait only until it is in the log, and return the id."""
        return json.loads(self.deliver(endpoint, body, reply_within=0).body)["delivery"]

    def delivery(self, endpoint: Endpoint, body: Any = BODY, headers: Any = ()) -> Delivery:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        payload = None if isinstance(body, bytes) else WebhookPayload.model_validate(body)
        return Delivery(endpoint.path, payload, headers=tuple(headers), body=raw)

    def wait_for(self, status: str, count: int = 1) -> None:
        """Wait until so many deliveries have a status."""
        wait_until(lambda: self.counts()[status] >= count)

    def counts(self) -> dict[str, int]:
        return self.engine.health()[1]

    def records(self) -> list[Record]:
        """Stop, and read the whole log."""
        self.stop()
        with reading(self.path) as database:
            ids = [row["id"] for row in database.execute("SELECT id FROM deliveries ORDER BY number")]
            return [find(database, id) for id in ids]
