"""A receiver with its engine and log, called without a network."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from support.asgi import on_loop
from support.engines import start
from webhooks.deliveries.database import Database
from webhooks.deliveries.engine import Engine
from webhooks.endpoints import Endpoint
from webhooks.receiver import Receiver
from webhooks.redact import Redactor
from webhooks.settings import Settings

_folders = tempfile.TemporaryDirectory()


def receiver(*handlers: Any, reply_within: float = 5, max_pending: int = 1000, **settings: Any) -> Receiver:
    registered = [handler if isinstance(handler, Endpoint) else Endpoint(handler) for handler in handlers]
    endpoints = {endpoint.path: endpoint for endpoint in registered}
    database = Database(Path(tempfile.mkdtemp(dir=_folders.name)))
    engine = Engine(endpoints, database, max_pending, redact=Redactor())
    on_loop(start, engine)
    return Receiver(endpoints, engine, Settings(**settings), reply_within)
