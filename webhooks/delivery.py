"""A delivery: the event, the request that brought it, and what a handler sees of both."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import lru_cache
from typing import Any

from starlette.requests import Request

from .payload import WebhookPayload

UNFINISHED = ("queued", "running", "scheduled")
FINISHED = ("succeeded", "failed", "superseded")


class GiveUp(Exception):
    """Raised by a handler when trying again would not help: the delivery fails at once."""


Headers = tuple[tuple[bytes, bytes], ...]

# Credentials are needed to judge a request, and by nobody after that. Spaces add some of their own (X-IP-Token).
_CREDENTIAL = re.compile(rb"secret|token|auth|cookie|api-?key", re.IGNORECASE)


@lru_cache(maxsize=256)
def _is_credential(name: bytes) -> bool:
    return _CREDENTIAL.search(name) is not None


def without_credentials(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    return tuple([(name, value) for name, value in headers if not _is_credential(name)])


FINAL = frozenset({"COMPLETED", "CANCELED", "ERROR", "DELETED"})  # stages that a Job does not leave


@dataclass(frozen=True)
class StartedJob:
    """A Job on the Hub (https://huggingface.co/docs/hub/jobs) that a handler has started, and its last known stage."""

    id: str
    namespace: str
    url: str
    flavor: str
    stage: str


_ids = threading.Lock()
_last_id = 0


def new_id() -> str:
    """Name a delivery after its nanosecond: ids in order stand side by side in the log, and are written faster."""
    global _last_id
    with _ids:
        _last_id = max(_last_id + 1, time.time_ns())
        return f"{_last_id:016x}"


def continue_after(id: str) -> None:
    """Let every new id be greater than this one, though the clock may have been set back since it was given."""
    global _last_id
    with _ids:
        _last_id = max(_last_id, int(id, 16))


@dataclass(frozen=True)
class Delivery:
    """One event on its way to one handler.

    Attributes:
        id: 16 hexadecimal digits that grow with the time, also sent back to the Hub as `X-Delivery-Id`.
        endpoint: the path it was posted to, such as `/webhooks/trigger_training`.
        payload: the event; `None` only where the handler does not ask for a payload and the body was none.
        received_at: when it arrived, in UTC.
        attempt: 1 for the first run of the handler.
        replay_of: the id of the delivery that this one repeats, or `None`.
        query: of the request's address, without our secret.
        headers: of the request, without the sender's credentials.
        body: of the request, in the bytes that came over the wire.
        jobs: what `launch_job` has started in this attempt.
    """

    endpoint: str
    payload: WebhookPayload | None
    id: str = field(default_factory=new_id)
    received_at: datetime = field(default_factory=lambda: datetime.now(timezone.utc))
    attempt: int = 1
    replay_of: str | None = None
    query: bytes = field(default=b"", repr=False)
    headers: Headers = field(default=(), repr=False)
    body: bytes = field(default=b"", repr=False)
    jobs: list[StartedJob] = field(default_factory=list, init=False, repr=False, compare=False)

    def request(self) -> Request:
        """Build the request again, for a handler that asks for one. It can be read any number of times."""

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": self.body, "more_body": False}

        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": self.endpoint,
            "raw_path": self.endpoint.encode(),
            "root_path": "",
            "query_string": self.query,
            "headers": list(self.headers),
        }
        return Request(scope, receive)
