"""A delivery that is not finished, and when it runs."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any

from starlette.responses import Response
from starlette.types import Scope

from .. import responses
from ..payload import WebhookPayload

MAX_BACKOFF_SECONDS = 300.0
MAX_RETRY_AFTER_SECONDS = 3600.0
MAX_WINDOWS = 10  # of a stream of debounced events that never pauses


def backoff(failures: int) -> float:
    """Return the seconds to wait after so many failed attempts: about 1 after the first, then twice as many each time.

    The wait is drawn evenly from zero to that bound ("full jitter"), so that deliveries which failed together do not
    come back together.
    """
    return random.uniform(0, min(MAX_BACKOFF_SECONDS, 2.0 ** min(failures, 16)))  # noqa: S311 - not a secret


def retry_after(error: BaseException) -> float:
    """Return the seconds that an error or its cause asks to wait, as the Hub's errors do in `Retry-After`; else 0."""
    for source in (error, error.__cause__):
        headers = getattr(source, "headers", None) or getattr(getattr(source, "response", None), "headers", None)
        if not isinstance(headers, Mapping):
            continue
        value: Any = next((headers[name] for name in headers if name.lower() == "retry-after"), "0")
        with suppress(ValueError, TypeError):
            is_date = not str(value).replace(".", "").isdigit()
            now = datetime.now(timezone.utc)
            seconds = (parsedate_to_datetime(value) - now).total_seconds() if is_date else float(value)
            return min(max(seconds, 0.0), MAX_RETRY_AFTER_SECONDS)
    return 0.0


def debounced_until(now: float, burst_at: float, window: float) -> float:
    """Return when a burst of events that began at `burst_at` runs, if none follows the event of `now`."""
    return min(now + window, burst_at + MAX_WINDOWS * window)


def debounce_key(endpoint: str, payload: WebhookPayload | None) -> str | None:
    """Return what an event is about: a newer event with the same key supersedes it. `None` without a payload.

    The key contains the kind of event, the refs and the discussion beside endpoint and repository. A comment must not
    supersede the commit to `main` that came a second before: the training would be lost.
    """
    if payload is None:
        return None
    refs = sorted(updated.ref for updated in payload.updatedRefs or ())
    discussion = [payload.discussion.id] if payload.discussion else []
    return " ".join([endpoint, payload.repo.type, payload.repo.name, payload.event.scope, *discussion, *refs])


class NotTakenError(Exception):
    """A delivery was neither recorded nor run; the text says why."""


def _future() -> asyncio.Future[Any]:
    return asyncio.get_running_loop().create_future()


@dataclass(eq=False)
class Pending:
    """A delivery that is not finished.

    Attributes:
        path: of its endpoint.
        status: the one in the log, or `arriving`.
        debounce_key: set while a newer delivery may supersede this one.
        due_at: when its next attempt begins, in seconds since 1970.
        scope: the request as it came, with credentials; `None` where another process received it.
        also: what is written in the same commit as the delivery itself.
        is_late: the sender gets a 202 as soon as the delivery is recorded.
        recorded: done once it is in the log, or refused.
        response: done once the response for its sender is known.
    """

    id: str
    path: str
    status: str = "queued"
    debounce_key: str | None = None
    due_at: float = 0.0
    scope: Scope | None = None
    also: Callable[[], object] = bool
    is_late: bool = False
    recorded: asyncio.Future[None] = field(default_factory=_future)
    response: asyncio.Future[Response] = field(default_factory=_future)
    task: asyncio.Task[None] | None = None

    def respond(self, response: Response) -> None:
        if not self.response.done():
            self.response.set_result(response)

    def respond_early(self) -> None:
        """Respond before the handler has ended, as soon as the delivery is recorded."""
        self.is_late = True
        if self.recorded.done():
            self.respond(self.accepted())

    def accepted(self) -> Response:
        return responses.accepted(self.id, self.status)

    def refuse(self, reason: str) -> None:
        """End the wait of the sender, if the delivery has not been recorded."""
        if not self.recorded.done():
            self.recorded.set_result(None)
            if not self.response.done():
                self.response.set_exception(NotTakenError(reason))
                self.response.exception()  # asyncio complains of an exception that nobody looks at

    @classmethod
    def from_row(cls, row: sqlite3.Row, debounce: float) -> Pending:
        """Return a delivery that another process has left, with the time of its next attempt.

        Args:
            debounce: seconds that it waits at most, if a newer delivery may supersede it.
        """
        pending = cls(row["id"], row["endpoint"], row["status"], row["subject"])
        if row["due_at"] is not None:  # the clock may have been wrong when it was written
            longest = debounce if pending.debounce_key else MAX_RETRY_AFTER_SECONDS
            pending.due_at = min(row["due_at"], time.time() + longest)
        elif row["interruptions"]:
            pending.due_at = time.time() + backoff(row["interruptions"])
        return pending
