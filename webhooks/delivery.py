"""A delivery: the event, the request that brought it, and what a handler sees of both."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, ClassVar
from urllib.parse import quote

from starlette.requests import Request
from starlette.types import Scope

from .payload import WebhookPayload
from .redact import Headers, is_credential, secrets_in

UNFINISHED = ("queued", "running", "scheduled")
FINISHED = ("succeeded", "failed", "superseded")
FINAL = frozenset({"COMPLETED", "CANCELED", "ERROR", "DELETED"})  # stages that a Job does not leave

_ASGI = {"version": "3.0", "spec_version": "2.4"}

# What a request is on the wire. The rest of a scope is of the application that took it.
_ON_THE_WIRE = (
    "http_version", "method", "scheme", "path", "raw_path", "root_path", "query_string", "headers", "client", "server",
)  # fmt: skip


class GiveUp(Exception):
    """Raised by a handler when trying again would not help: the delivery fails at once."""


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


def continue_after(number: int) -> None:
    """Let every new id be greater than this one, though the clock may have been set back since it was given."""
    global _last_id
    with _ids:
        _last_id = max(_last_id, number)


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
        headers: of the request, without the sender's credentials; instead of the server's own secret they have `***`.
        withheld: the names of the headers with those credentials.
        body: of the request, in the bytes that came over the wire.
        jobs: what `launch_job` has started or found in this attempt.
        job_names: the names of these Jobs, and of those of a dry run.
        is_open_to_strangers: whether the server has a public address and no secret.
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
    jobs: list[StartedJob] = field(default_factory=list, init=False, repr=False, compare=False)
    job_names: set[str] = field(default_factory=set, init=False, repr=False, compare=False)

    # No field: it describes the server, not the event.
    is_open_to_strangers: ClassVar[bool] = False

    # No field: whoever shows, compares or serializes a delivery must find no credential in it.
    _scope: ClassVar[Scope | None] = None

    def received_as(self, scope: Scope) -> Delivery:
        """Have `request()` return the request as it came, credentials included. They stay in this process."""
        object.__setattr__(self, "_scope", scope)
        return self

    def mark_open_to_strangers(self) -> Delivery:
        """Note that the server has a public address and no secret, so anyone may have sent this delivery."""
        object.__setattr__(self, "is_open_to_strangers", True)
        return self

    def received_before(self, scope: Scope | None, secret: str | None) -> Delivery:
        """Have `request()` return it again: as it came, if this process has seen that, else as far as the log has it.

        Args:
            scope: what `scope` of the first attempt's delivery is.
            secret: the server's own, for a request that carried it.
        """
        return self.received_as(scope or self._rebuilt(secret))

    @property
    def scope(self) -> Scope:
        """The request's ASGI scope."""
        return self._scope or self._rebuilt(None)

    @property
    def missing(self) -> tuple[str, ...]:
        """The names of the credentials that the sender had, and `request()` has not."""
        present = {name for name, _ in self.scope["headers"]}
        sent = [*self.withheld, *(name for name, _ in self.headers if is_credential(name))]
        return tuple(sorted({name.decode("latin-1") for name in sent if name not in present}))

    def request(self) -> Request:
        """Build the request, for a handler that asks for one. It can be read any number of times."""

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": self.body, "more_body": False}

        scope = {name: value for name, value in self.scope.items() if name in _ON_THE_WIRE}
        # An ASGI server of version 2.4 or later reports a lost sender in send(): nobody waits for one in receive().
        return Request({"type": "http", "asgi": _ASGI, **scope, "headers": list(scope["headers"])}, receive)

    @property
    def credentials(self) -> set[str]:
        """What in the sender's credentials is secret, as far as they are here."""
        return secrets_in(self.scope["headers"]) if self.withheld else set()

    def _rebuilt(self, secret: str | None) -> Scope:
        headers = [(name, value) for name, value in self.headers if not is_credential(name)]
        if secret is not None:  # the only credential among the headers is the one that it takes the place of
            headers += [(name, secret.encode()) for name, _ in self.headers if is_credential(name)]
        return {
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": self.endpoint,
            "raw_path": quote(self.endpoint).encode(),
            "root_path": "",
            "query_string": self.query,
            "headers": headers,
        }
