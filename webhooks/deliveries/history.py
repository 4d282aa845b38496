"""What the delivery log knows, for everybody who only looks: on a connection of their own, from any thread."""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from pydantic import ValidationError

from ..delivery import Delivery
from ..payload import WebhookPayload, parse_payload

INTERRUPTED = "Interrupted: the process ended during this attempt."
STOPPED = "Interrupted: the server was stopped during this attempt."

_ID = re.compile("[0-7][0-9a-f]{15}")  # SQLite has 63 bits for it


def number(id: str) -> int:
    """Return the key under which the log has a delivery.

    Raises:
        KeyError: this is no id of a delivery.
    """
    if not (isinstance(id, str) and _ID.fullmatch(id)):
        raise KeyError(id)
    return int(id, 16)


def _id(number: int | None) -> str | None:
    return None if number is None else f"{number:016x}"


def utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, timezone.utc)


@dataclass(frozen=True)
class Attempt:
    """One run of a handler. `error` is `None` for one that succeeded or still runs; times are in UTC."""

    attempt: int
    started_at: datetime
    ended_at: datetime | None
    error: str | None


@dataclass(frozen=True)
class Record:
    """A delivery as the log has it; it is due when it waits for a time."""

    delivery: Delivery
    status: str
    failures: int
    due_at: datetime | None
    attempts: tuple[Attempt, ...]
    superseded_by: str | None
    answer_status: int | None
    answer: bytes | None


@contextlib.contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a log to look into it, from any thread, while another one writes."""
    with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
        database.row_factory = sqlite3.Row
        yield database


def find(database: sqlite3.Connection, id: str) -> Record:
    """Return a delivery.

    Raises:
        KeyError: the log has none with this id.
    """
    row = database.execute("SELECT * FROM deliveries WHERE number = ?", (number(id),)).fetchone()
    if row is None:
        raise KeyError(id)
    ended = database.execute("SELECT * FROM attempts WHERE delivery = ? ORDER BY attempt", (number(id),))
    attempts = [_attempt(a["attempt"], a["started_at"], a["ended_at"], a["error"]) for a in ended]
    if row["started_at"] is not None:  # the one that runs, or that succeeded
        attempts.append(_attempt(row["attempts"], row["started_at"], row["finished_at"], None))
    headers = [(name.encode("latin-1"), value) for name, value in json.loads(row["headers"])]
    return Record(
        delivery=Delivery(
            endpoint=row["endpoint"],
            payload=_payload(row["body"]),
            id=row["id"],
            received_at=utc(row["received_at"]),
            attempt=row["attempts"],
            replay_of=_id(row["replay_of"]),
            query=row["query"],
            headers=tuple((name, value.encode("latin-1")) for name, value in headers if value is not None),
            withheld=tuple(name for name, value in headers if value is None),
            body=row["body"],
        ),
        status=row["status"],
        failures=row["failures"],
        due_at=None if row["due_at"] is None else utc(row["due_at"]),
        attempts=tuple(attempts),
        superseded_by=_id(row["superseded_by"]),
        answer_status=row["answer_status"],
        answer=row["answer"],
    )


def _attempt(attempt: int, started_at: float, ended_at: float | None, error: str | None) -> Attempt:
    return Attempt(attempt, utc(started_at), None if ended_at is None else utc(ended_at), error)


def _payload(body: bytes) -> WebhookPayload | None:
    try:
        return parse_payload(body)
    except ValidationError:
        return None
