"""What the owner's page asks the delivery log, on a connection of its own."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

from ..deliveries.history import number
from ..delivery import StartedJob

PAGE = 50  # deliveries on a page of the list
MAX_REPOS = 1000  # repositories to choose from


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
    is_replay: bool


@dataclass(frozen=True)
class Page:
    """Some deliveries, newest first."""

    rows: Sequence[Row]
    has_newer: bool
    has_older: bool


_ROW = "number, id, endpoint, repo, event, received_at, status, attempts, replay_of IS NOT NULL AS is_replay"


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
    wanted = {"endpoint": endpoint, "status": status, "repo": repo}
    given = {f"{column} = ?": value for column, value in wanted.items() if value is not None}
    where = " AND ".join(given) or "true"
    # An index has the numbers. All in one row, for Python's lock is let go and taken again for each.
    query = f"SELECT json_group_array(number) FROM deliveries WHERE {where}"  # noqa: S608 - columns, no values
    numbers = sorted(json.loads(database.execute(query, [*given.values()]).fetchone()[0]), reverse=True)
    start = 0
    if newer_than is not None:
        start = sum(number > newer_than for number in numbers) - PAGE  # the first page is always a full one
    elif older_than is not None:
        start = sum(number >= older_than for number in numbers)
        if start == len(numbers):  # they have all been deleted: then the oldest that are left
            start -= PAGE
    start = max(start, 0)
    shown = numbers[start : start + PAGE]
    marks = ", ".join("?" * len(shown))
    query = f"SELECT {_ROW} FROM deliveries WHERE number IN ({marks}) ORDER BY number DESC"  # noqa: S608
    rows = database.execute(query, shown)
    return Page([_row(row) for row in rows], has_newer=start > 0, has_older=start + PAGE < len(numbers))


def _row(row: sqlite3.Row) -> Row:
    return Row(**{**dict(row), "received_at": _utc(row["received_at"]), "is_replay": bool(row["is_replay"])})


def endpoints(database: sqlite3.Connection) -> list[str]:
    """List the endpoints that have deliveries, also those that no handler is registered at any more."""
    return [row[0] for row in database.execute("SELECT DISTINCT endpoint FROM deliveries ORDER BY endpoint")]


def repos(database: sqlite3.Connection) -> list[str]:
    """List the repositories that have deliveries, the first thousand of the alphabet at most."""
    query = "SELECT DISTINCT repo FROM deliveries WHERE repo IS NOT NULL ORDER BY repo LIMIT ?"
    return [row[0] for row in database.execute(query, (MAX_REPOS,))]


def per_hour(database: sqlite3.Connection, now: float | None = None) -> list[tuple[datetime, str, int]]:
    """Count the deliveries of the last 24 hours of the clock, as hour, status and how many.

    The first and the last hour are always there, if only with a zero.
    """
    last = (time.time() if now is None else now) // 3600 * 3600
    first = last - 23 * 3600
    rows = database.execute(
        "SELECT CAST(received_at / 3600 AS INTEGER) * 3600, status, count(*) FROM deliveries WHERE received_at >= ? "
        "GROUP BY 1, 2",
        (first,),
    )
    ends = [(hour, "succeeded", 0) for hour in (first, last)]
    return [(_utc(hour), status, count) for hour, status, count in [*ends, *rows]]


@dataclass(frozen=True)
class Related:
    """What belongs to a delivery: the ids of those that repeat it and of those that it took the place of, its Jobs."""

    replays: Sequence[str]
    superseded: Sequence[str]
    jobs: Sequence[StartedJob]


def related(database: sqlite3.Connection, id: str) -> Related:
    replays = database.execute("SELECT id FROM deliveries WHERE replay_of = ? ORDER BY number", (number(id),))
    superseded = database.execute("SELECT id FROM deliveries WHERE superseded_by = ? ORDER BY number", (number(id),))
    jobs = database.execute("SELECT id, namespace, url, flavor, stage FROM jobs WHERE delivery = ?", (number(id),))
    return Related(
        [row[0] for row in replays], [row[0] for row in superseded], [StartedJob(**dict(row)) for row in jobs]
    )


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, timezone.utc)
