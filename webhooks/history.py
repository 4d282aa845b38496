"""What the delivery log knows, for everybody who only looks: on a connection of their own, from any thread."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timezone
from pathlib import Path

from pydantic import ValidationError

from .delivery import Arrival, Delivery, StartedJob
from .payload import WebhookPayload, parse_payload

UNFINISHED = ("queued", "running", "scheduled")
FINISHED = ("succeeded", "failed", "superseded")

INTERRUPTED = "Interrupted: the server stopped during this attempt."

PAGE = 50  # deliveries on a page of the list
MAX_REPOS = 1000  # repositories to choose from


@dataclass(frozen=True)
class Attempt:
    """One run of a handler. `error` is `None` for one that succeeded or still runs; times are in UTC."""

    attempt: int
    started_at: datetime
    ended_at: datetime | None
    error: str | None


@dataclass(frozen=True)
class Record:
    """A delivery as the log has it."""

    delivery: Delivery
    arrival: Arrival
    status: str
    failures: int
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
    if not (isinstance(id, str) and id.isascii()):
        raise KeyError(id)
    row = database.execute("SELECT * FROM deliveries WHERE id = ?", (id,)).fetchone()
    if row is None:
        raise KeyError(id)
    ended = database.execute("SELECT * FROM attempts WHERE delivery = ? ORDER BY attempt", (id,))
    attempts = [_attempt(a["attempt"], a["started_at"], a["ended_at"], a["error"]) for a in ended]
    if row["started_at"] is not None:  # the one that runs, or that succeeded
        attempts.append(_attempt(row["attempts"], row["started_at"], row["finished_at"], None))
    headers = tuple((n.encode("latin-1"), v.encode("latin-1")) for n, v in json.loads(row["headers"]))
    return Record(
        delivery=Delivery(
            endpoint=row["endpoint"],
            payload=_payload(row["body"]),
            id=row["id"],
            received_at=_utc(row["received_at"]),
            attempt=row["attempts"],
            replay_of=row["replay_of"],
        ),
        arrival=Arrival(row["endpoint"], row["query"], headers, row["body"]),
        status=row["status"],
        failures=row["failures"],
        attempts=tuple(attempts),
        superseded_by=row["superseded_by"],
        answer_status=row["answer_status"],
        answer=row["answer"],
    )


def _attempt(attempt: int, started_at: float, ended_at: float | None, error: str | None) -> Attempt:
    return Attempt(attempt, _utc(started_at), None if ended_at is None else _utc(ended_at), error)


@dataclass(frozen=True)
class Row:
    """A delivery in the list; `number` is its place in the order of arrival."""

    number: int
    id: str
    endpoint: str
    repo: str | None
    event: str | None
    received_at: datetime
    status: str
    attempts: int
    replay_of: str | None


@dataclass(frozen=True)
class Page:
    """Some deliveries, newest first."""

    rows: Sequence[Row]
    has_newer: bool
    has_older: bool


_ROW = ", ".join(field.name for field in fields(Row))


def page(
    database: sqlite3.Connection,
    *,
    endpoint: str | None = None,
    status: str | None = None,
    repo: str | None = None,
    older_than: int | None = None,
    newer_than: int | None = None,
) -> Page:
    """List 50 deliveries: the newest ones, or those next to a number that an earlier page showed.

    Args:
        repo: as the log writes it, `dataset/username/my-dataset`.
    """
    wanted = {"status": status, "repo": repo, "endpoint": endpoint}
    given = {f"{column} = ?": value for column, value in wanted.items() if value is not None}
    # The index of the first one has the others too, so that few rows are read where few fit all of them.
    index = next((f"INDEXED BY deliveries_by_{column}" for column in wanted if wanted[column] is not None), "")

    def find_rows(order: str, side: str = "", number: int | None = None, at_most: int = PAGE) -> list[sqlite3.Row]:
        terms = given if number is None else {**given, f"number {side} ?": number}
        where = " AND ".join(terms) or "true"
        query = f"SELECT {_ROW} FROM deliveries {index} WHERE {where} ORDER BY number {order} LIMIT ?"  # noqa: S608
        return database.execute(query, [*terms.values(), at_most]).fetchall()

    rows = find_rows("DESC", "<", older_than) if newer_than is None else []
    if not rows:  # or they have all been deleted: then the oldest that are left
        rows = find_rows("ASC", ">", newer_than)[::-1]
        rows = rows if len(rows) == PAGE else find_rows("DESC")  # the first page is always a full one
    return Page(
        [_row(row) for row in rows],
        has_newer=bool(rows and find_rows("ASC", ">", rows[0]["number"], at_most=1)),
        has_older=bool(rows and find_rows("DESC", "<", rows[-1]["number"], at_most=1)),
    )


def _row(row: sqlite3.Row) -> Row:
    return Row(**{**dict(row), "received_at": _utc(row["received_at"])})


def endpoints(database: sqlite3.Connection) -> list[str]:
    """List the endpoints that have deliveries, also those that no handler is registered at any more."""
    return [row[0] for row in database.execute(_EACH.format(column="endpoint"), (MAX_REPOS,))]


def repos(database: sqlite3.Connection) -> list[str]:
    """List the repositories that have deliveries, the first thousand of the alphabet at most."""
    return [row[0] for row in database.execute(_EACH.format(column="repo"), (MAX_REPOS,))]


# Jumps along the column's index from one value to the next, while DISTINCT would read all of it.
_EACH = """
WITH RECURSIVE each(value) AS (
    SELECT min({column}) FROM deliveries
    UNION ALL
    SELECT (SELECT min({column}) FROM deliveries WHERE {column} > value) FROM each WHERE value IS NOT NULL
)
SELECT value FROM each WHERE value IS NOT NULL LIMIT ?
"""


def per_hour(database: sqlite3.Connection, now: float | None = None) -> list[tuple[datetime, str, int]]:
    """Count the deliveries of the last 24 hours of the clock, as hour, status and how many.

    The first and the last hour are always there, if only with a zero.
    """
    last = (time.time() if now is None else now) // 3600 * 3600
    first = last - 23 * 3600
    rows = database.execute(
        "SELECT CAST(received_at / 3600 AS INTEGER) * 3600, status, count(*) FROM deliveries "
        "INDEXED BY deliveries_by_status WHERE status IN (?, ?, ?, ?, ?, ?) AND number >= ? AND received_at >= ? "
        "GROUP BY 1, 2",
        (*UNFINISHED, *FINISHED, _first_since(database, first), first),
    )
    ends = [(hour, "succeeded", 0) for hour in (first, last)]
    return [(_utc(hour), status, count) for hour, status, count in [*ends, *rows]]


def _first_since(database: sqlite3.Connection, moment: float) -> int:
    """Find the number from which on deliveries came since then, by halving: they are numbered as they came."""
    ends = "SELECT (SELECT min(number) FROM deliveries), (SELECT max(number) FROM deliveries)"
    low, high = (number or 0 for number in database.execute(ends).fetchone())
    while low < high:
        middle = (low + high) // 2
        next_one = "SELECT number, received_at FROM deliveries WHERE number >= ? ORDER BY number LIMIT 1"
        number, received_at = database.execute(next_one, (middle,)).fetchone()
        if received_at < moment:
            low = number + 1
        else:
            high = middle
    return int(low)


@dataclass(frozen=True)
class Related:
    """What belongs to a delivery: the ids of those that repeat it and of those that it took the place of, its Jobs."""

    replays: Sequence[str]
    superseded: Sequence[str]
    jobs: Sequence[StartedJob]


def related(database: sqlite3.Connection, id: str) -> Related:
    replays = database.execute("SELECT id FROM deliveries WHERE replay_of = ? ORDER BY number", (id,))
    superseded = database.execute("SELECT id FROM deliveries WHERE superseded_by = ? ORDER BY number", (id,))
    jobs = database.execute("SELECT id, namespace, url, flavor, stage FROM jobs WHERE delivery = ?", (id,))
    return Related(
        [row[0] for row in replays], [row[0] for row in superseded], [StartedJob(**dict(row)) for row in jobs]
    )


def _payload(body: bytes) -> WebhookPayload | None:
    try:
        return parse_payload(body)
    except ValidationError:
        return None


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, timezone.utc)
