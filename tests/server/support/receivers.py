"""A receiver with its dispatcher and log, called without a network."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path
from typing import Any

from webhooks.dispatcher import Dispatcher
from webhooks.endpoints import Endpoint
from webhooks.log import DeliveryLog
from webhooks.receiver import Receiver
from webhooks.settings import Settings

_logs = tempfile.TemporaryDirectory()
_log_numbers = itertools.count()


def receiver(*handlers: Any, reply_within: float = 5, max_pending: int = 1000, **settings: Any) -> Receiver:
    endpoints = {endpoint.path: endpoint for endpoint in map(Endpoint, handlers)}
    log = DeliveryLog(Path(_logs.name, str(next(_log_numbers))))
    dispatcher = Dispatcher(endpoints, log, max_pending, hide=str)
    dispatcher.start()
    return Receiver(endpoints, dispatcher, Settings(**settings), reply_within)
