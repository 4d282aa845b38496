"""A delivery: the event, and the request that brought it, as a handler sees them."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any
from urllib.parse import parse_qsl, quote

from starlette.requests import Request
from starlette.types import Scope

from .payload import WebhookPayload
from .redact import REDACTED, Headers, secret_parts

# A scheduled delivery waits for its next attempt, or for newer events. A newer event replaced a superseded delivery.
UNFINISHED = ("queued", "running", "scheduled")
FINISHED = ("succeeded", "failed", "superseded")
FINAL_STAGES = frozenset({"COMPLETED", "CANCELED", "ERROR", "DELETED"})  # the last stages of a Job

# The parts of an ASGI scope that a handler's request keeps. The others belong to the application that received it.
_REQUEST_KEYS = (
    "http_version", "method", "scheme", "path", "raw_path", "root_path", "query_string", "headers", "client", "server",
    "app", "state",
)  # fmt: skip


class GiveUp(Exception):
    """Raise this in a handler when another attempt would not help: the delivery fails at once."""


@dataclass(frozen=True)
class StartedJob:
    """A Job on the Hub (https://huggingface.co/docs/hub/jobs) that a handler has started, and its last known stage."""

    id: str
    namespace: str
    url: str
    flavor: str
    stage: str


_id_lock = threading.Lock()
_last_id = 0


def new_id() -> str:
    """Return a delivery id: the time in nanoseconds, so that ids sort by arrival."""
    global _last_id
    with _id_lock:
        _last_id = max(_last_id + 1, time.time_ns())
        return f"{_last_id:016x}"


def continue_after(number: int) -> None:
    """Make each new id greater than this number, even if the clock has been set back."""
    global _last_id
    with _id_lock:
        _last_id = max(_last_id, number)


@dataclass(eq=False)
class Delivery:
    """One event for one handler.

    Attributes:
        endpoint: the path that the event was posted to, such as `/webhooks/trigger_training`.
        payload: the event; `None` only where the handler takes no payload and the body was not a payload.
        id: 16 hexadecimal digits that grow with time, also sent as `X-Delivery-Id`.
        received_at: the time of arrival, in UTC.
        attempt: 1 for the first run of the handler.
        replay_of: the id of the delivery that this one repeats, or `None`.
        query: the query string of the request, with `***` for credentials.
        headers: the headers of the request, without credentials. The server's own secret is `***`.
        withheld: the names of the headers that are credentials.
        body: the body of the request, in bytes.
        source: `code` for `WebhooksServer.deliver`, `catch_up` for a commit that the server found itself, else `None`.
        jobs: the Jobs that `launch_job` has started or found in this attempt.
        job_names: the names of these Jobs, also in a dry run.
    """

    endpoint: str
    payload: WebhookPayload | None
    id: str = field(default_factory=new_id)
    received_at: datetime = field(default_factory=lambda: datetime.now(timezone.utc))
    attempt: int = 1
    replay_of: str | None = None
    query: bytes = field(default=b"", repr=False)
    headers: Headers = field(default=(), repr=False)
    withheld: tuple[bytes, ...] = field(default=(), repr=False)
    body: bytes = field(default=b"", repr=False)
    source: str | None = field(default=None, repr=False)
    jobs: list[StartedJob] = field(default_factory=list, init=False, repr=False)
    job_names: set[str] = field(default_factory=set, init=False, repr=False)

    def __post_init__(self) -> None:
        # Not fields: a handler may return, print or serialize a delivery, and the scope contains credentials.
        self._scope: Scope | None = None
        self._is_rebuilt = False
        self.is_open_to_strangers = False  # anybody could have sent it: no secret is set, and the address is public

    def attach_request(self, scope: Scope) -> None:
        """Make `request()` return the request as it came. Its credentials stay in this process."""
        self._scope = {name: scope[name] for name in _REQUEST_KEYS if name in scope}

    def rebuild_request(self, secret: str | None, context: Mapping[str, Any]) -> None:
        """Make `request()` return what the log has of the request.

        Args:
            secret: the server's own secret, for a request that carried it.
            context: `app` and `state` of the running server.
        """
        mark = (secret or REDACTED).encode()
        self._is_rebuilt = True
        self._scope = {
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": self.endpoint,
            "raw_path": quote(self.endpoint).encode(),
            "root_path": "",
            "query_string": self.query,
            "headers": [(name, mark if name.lower() == b"x-webhook-secret" else v) for name, v in self.headers],
            **context,
        }

    @property
    def scope(self) -> Scope:
        """The ASGI scope of the request."""
        if self._scope is None:
            self.rebuild_request(None, {})
        assert self._scope is not None
        return self._scope

    @property
    def missing_credentials(self) -> tuple[str, ...]:
        """The names of the credentials that the sender sent and a rebuilt request lacks."""
        scope = self.scope
        if not self._is_rebuilt:
            return ()
        marked = {name for name, value in scope["headers"] if value == REDACTED.encode()}
        names = sorted({name.decode("latin-1") for name in (*self.withheld, *marked)})
        is_address_redacted = f"={REDACTED}".encode() in self.query or REDACTED in self.endpoint
        return (*names, *(["a part of the address"] if is_address_redacted else []))

    @property
    def credentials(self) -> set[str]:
        """The secret parts of the sender's credentials, as far as this process has them."""
        hidden = {name for name, value in parse_qsl(self.query.decode("latin-1")) if value == REDACTED}
        if not (self.withheld or hidden):
            return set()
        sent = [value.decode("latin-1") for name, value in self.scope["headers"] if name in self.withheld]
        asked = parse_qsl(self.scope["query_string"].decode("latin-1"))
        return secret_parts([*sent, *(value for name, value in asked if name in hidden)])

    def request(self) -> Request:
        """Build the request for a handler that takes one. Its body can be read any number of times."""

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": self.body, "more_body": False}

        # A server of ASGI 2.4 or later reports a lost client in send(), so nothing waits for that in receive().
        asgi = {"version": "3.0", "spec_version": "2.4"}
        return Request({"type": "http", "asgi": asgi, **self.scope, "headers": list(self.scope["headers"])}, receive)
