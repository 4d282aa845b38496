"""What the owner's pages ask the delivery log, on a connection of their own."""

from __future__ import annotations

import json
import re
import sqlite3
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from ..deliveries.history import find, number, utc
from ..delivery import FINISHED, UNFINISHED, StartedJob
from ..samples import REVISION

PAGE_SIZE = 50  # deliveries on a page of the list
MAX_CHOICES = 200  # repositories, events or endpoints to choose from
HOUR = 3600 * 10**9  # in the unit of a delivery's number: nanoseconds since 1970

STATUSES = (*UNFINISHED, *FINISHED)
OUTCOMES = {
    "done": "status = 'succeeded' AND NOT skipped",
    "skipped": "(status = 'superseded' OR status = 'succeeded' AND skipped)",
    "failed": "status = 'failed'",
    "waiting": "status IN ('queued', 'running', 'scheduled')",
}
_BEGINNING = re.compile("[0-7][0-9a-f]{3,15}")  # of an id
_BY_INDEX = "FROM deliveries INDEXED BY overview"  # else SQLite reads the bodies along with what it looks for
_ERRORS = "SELECT delivery, substr(error, -2000) FROM attempts WHERE delivery IN {} ORDER BY attempt"  # the last stays
_JOBS = "SELECT delivery, id, namespace, url, flavor, stage FROM jobs WHERE delivery IN {}"
_ROWS = (
    "SELECT number, id, endpoint, repo, event, received_at, status, skipped, attempts, failures, due_at, "
    "replay_of IS NOT NULL AS is_replay, status = 'failed' AND EXISTS (SELECT 1 FROM deliveries AS again "
    "WHERE again.replay_of = deliveries.number AND again.status = 'succeeded') AS is_mended, "
    "iif(superseded_by, printf('%016x', superseded_by), NULL) AS superseded_by, "
    "answer_status, substr(answer, 1, 1000) AS answer FROM deliveries WHERE number IN {} ORDER BY number DESC"
)


@dataclass(frozen=True)
class Filter:
    """Which deliveries are looked for; `None` is any.

    Attributes:
        repo: as the log writes it, `dataset/username/my-dataset`.
        outcome: one of `OUTCOMES`.
        q: the beginning of an id, or a part of a repository's name or of an error.
    """

    endpoint: str | None = None
    repo: str | None = None
    event: str | None = None
    status: str | None = None
    outcome: str | None = None
    q: str | None = None

    def where(self) -> tuple[str, list[Any]]:
        """Write the condition without `q`, and the values in it."""
        given = {name: getattr(self, name) for name in ("endpoint", "repo", "event", "status")}
        columns = {name: value for name, value in given.items() if value is not None}
        conditions = [f"{name} = ?" for name in columns]
        if self.outcome is not None:
            conditions.append(OUTCOMES[self.outcome])
        return " AND ".join(conditions) or "true", list(columns.values())


@dataclass(frozen=True)
class Row:
    """A delivery in the list. `error` is the end of the last one, `answer` the beginning.

    A failed one is mended when a replay of it has succeeded.
    """

    id: str
    endpoint: str
    repo: str | None
    event: str | None
    received_at: datetime
    status: str
    skipped: bool
    attempts: int
    failures: int
    due_at: datetime | None
    is_replay: bool
    is_mended: bool
    superseded_by: str | None
    answer_status: int | None
    answer: bytes | None
    error: str | None = None
    jobs: Sequence[StartedJob] = ()


@dataclass(frozen=True)
class Page:
    """Some deliveries, newest first."""

    rows: Sequence[Row]
    has_newer: bool
    has_older: bool


def page(database: sqlite3.Connection, wanted: Filter, before: str | None = None, after: str | None = None) -> Page:
    """List 50 deliveries: the newest ones, or those next to an id that an earlier page showed.

    Raises:
        KeyError: this is no id of a delivery.
    """
    if after is not None:
        newer = _numbers(database, wanted, f"> {number(after)}", PAGE_SIZE + 1)
        if len(newer) > PAGE_SIZE:  # else the first page is a full one
            return Page(_rows(database, newer[:PAGE_SIZE]), has_newer=True, has_older=True)
    end = sys.maxsize if before is None else number(before)
    older = _numbers(database, wanted, f"< {end}", PAGE_SIZE + 1)
    has_newer = before is not None and bool(_numbers(database, wanted, f">= {end}", 1))
    return Page(_rows(database, older[:PAGE_SIZE]), has_newer, has_older=len(older) > PAGE_SIZE)


def _numbers(database: sqlite3.Connection, wanted: Filter, place: str, at_most: int = sys.maxsize) -> list[int]:
    """Find the numbers of deliveries at a place such as `< 17`, the nearest first."""
    where, values = wanted.where()
    order, nearer = ("DESC", ">") if place.startswith("<") else ("ASC", "<")
    found: list[int] = []
    for key, source, condition, more in _sources(wanted):
        within = f"{key} {place}"
        if len(found) == at_most:
            within += f" AND {key} {nearer} {found[-1]}"
        query = (
            f"SELECT DISTINCT {key} {source} WHERE {where} AND {within} AND {condition} ORDER BY {key} {order} LIMIT ?"
        )
        numbers = [row[0] for row in database.execute(query, [*values, *more, at_most])]
        found = sorted({*found, *numbers}, reverse=order == "DESC")[:at_most]
    return found


def _sources(wanted: Filter) -> list[tuple[str, str, str, list[Any]]]:
    """Return where to look: the column of the number, the tables, the condition that has `q`, the values in it."""
    if wanted == Filter():
        return [("number", "FROM deliveries", "true", [])]
    if wanted.q is None:
        return [("number", _BY_INDEX, "true", [])]
    part = "%" + re.sub("([%_|])", r"|\1", wanted.q) + "%"
    # The first and the last id that begin with it; between 1 and 0 there is none.
    ids = [int(wanted.q.ljust(16, digit), 16) for digit in "0f"] if _BEGINNING.fullmatch(wanted.q) else [1, 0]
    return [
        ("number", _BY_INDEX, "(repo LIKE ? ESCAPE '|' OR number BETWEEN ? AND ?)", [part, *ids]),
        # In the order of the attempts: errors are long, and read until there are enough.
        ("delivery", "FROM attempts CROSS JOIN deliveries ON number = delivery", "error LIKE ? ESCAPE '|'", [part]),
    ]


def row(database: sqlite3.Connection, id: str) -> Row:
    """Read a delivery as the list has it.

    Raises:
        KeyError: the log has none with this id.
    """
    for found in _rows(database, [number(id)]):
        return found
    raise KeyError(id)


def _rows(database: sqlite3.Connection, numbers: Sequence[int]) -> list[Row]:
    found = f"({', '.join('?' * len(numbers))})"
    errors = dict(database.execute(_ERRORS.format(found), numbers).fetchall())
    jobs = defaultdict(list)
    for values in map(dict, database.execute(_JOBS.format(found), numbers)):
        jobs[values.pop("delivery")].append(StartedJob(**values))
    return [_row(dict(row), errors, jobs) for row in database.execute(_ROWS.format(found), numbers)]


def _row(values: dict[str, Any], errors: Mapping[int, str], jobs: Mapping[int, Sequence[StartedJob]]) -> Row:
    key = values.pop("number")
    values["received_at"] = utc(values["received_at"])
    values["due_at"] = None if values["due_at"] is None else utc(values["due_at"])
    return Row(**values, error=errors.get(key), jobs=jobs.get(key, ()))


def counts(database: sqlite3.Connection, wanted: Filter) -> Counter[str]:
    """Count what the filter would show of each outcome; without `q`, for which all errors would have to be read."""
    where, values = replace(wanted, outcome=None).where()
    query = f"SELECT status, skipped, count(*) {_BY_INDEX} WHERE {where} GROUP BY status, skipped"  # as the index is
    found: Counter[str] = Counter()
    for status, skipped, count in database.execute(query, values):
        found[outcome_of(status, skipped)] += count
    return found


def outcome_of(status: str, skipped: bool) -> str:
    """Return the one of `OUTCOMES` whose condition is true."""
    if status in UNFINISHED:
        return "waiting"
    if status == "failed":
        return "failed"
    return "skipped" if skipped or status == "superseded" else "done"


def choices(database: sqlite3.Connection) -> dict[str, list[str]]:
    """List what can be filtered by, the first two hundred of the alphabet at most."""
    columns = ("endpoint", "repo", "event")
    lists = ", ".join(f"json_group_array(DISTINCT {column})" for column in columns)
    found = database.execute(f"SELECT {lists} {_BY_INDEX}").fetchone()
    known = [sorted(filter(None, json.loads(values)))[:MAX_CHOICES] for values in found]
    return dict(zip(columns, known, strict=True))


def per_hour(database: sqlite3.Connection) -> dict[datetime, Counter[str]]:
    """Count the deliveries of the last 24 hours of the clock by their outcome, hour by hour."""
    last = time.time_ns() // HOUR
    counted: dict[int, Counter[str]] = {hour: Counter() for hour in range(last - 23, last + 1)}
    # All of a status in one row, for Python's lock is let go and taken again for each.
    query = (
        f"SELECT status, skipped, json_group_array(number / {HOUR}) {_BY_INDEX} WHERE number >= ? "
        "GROUP BY status, skipped"
    )
    for status, skipped, hours in database.execute(query, (min(counted) * HOUR,)):
        for hour, count in Counter(json.loads(hours)).items():
            counted[min(hour, last)][outcome_of(status, skipped)] += count
    return {utc(hour * 3600): counts for hour, counts in counted.items()}


def to_replay(
    database: sqlite3.Connection, wanted: Filter, until: str, endpoints: Iterable[str], besides: Iterable[str] = ()
) -> tuple[list[str], int]:
    """List the failed deliveries of a filter that nothing has brought through, oldest first.

    Of a delivery and its replays the last one stands for all. One of which a replay has succeeded, or is under way,
    is left out.

    Args:
        until: the id of the newest one that whoever asks has seen.
        endpoints: those that there are.
        besides: those that are about to be replayed.

    Returns:
        Their ids, and how many more cannot be replayed because their endpoint is gone.
    """
    failed = set(_numbers(database, replace(wanted, outcome="failed"), f"<= {number(until)}"))
    needless = {number(id) for id in besides}
    replays = database.execute("SELECT number, replay_of, status FROM deliveries WHERE replay_of IS NOT NULL")
    for replay, original, status in sorted(map(tuple, replays), reverse=True):  # the replays of a replay come first
        if replay in failed or replay in needless or status != "failed":
            needless.add(original)
    lost = "SELECT number FROM deliveries WHERE status = 'failed' AND endpoint NOT IN (SELECT value FROM json_each(?))"
    gone = {row[0] for row in database.execute(lost, [json.dumps(list(endpoints))])}
    left = failed - needless
    return [f"{found:016x}" for found in sorted(left - gone)], len(left & gone)


def neighbours(database: sqlite3.Connection, id: str) -> tuple[str | None, str | None]:
    """Return the ids of the deliveries that arrived next and before."""

    def first(query: str) -> str | None:
        found = database.execute(query, (number(id),)).fetchone()
        return found["id"] if found else None

    return (
        first("SELECT id FROM deliveries WHERE number > ? ORDER BY number LIMIT 1"),
        first("SELECT id FROM deliveries WHERE number < ? ORDER BY number DESC LIMIT 1"),
    )


def replays_and_replaced(database: sqlite3.Connection, id: str) -> tuple[list[str], list[str]]:
    """Return the ids of the deliveries that repeat this one, and of those that it took the place of."""
    replays = database.execute("SELECT id FROM deliveries WHERE replay_of = ? ORDER BY number", (number(id),))
    replaced = database.execute("SELECT id FROM deliveries WHERE superseded_by = ? ORDER BY number", (number(id),))
    return [row["id"] for row in replays], [row["id"] for row in replaced]


def last_repo(database: sqlite3.Connection, types: Sequence[str]) -> tuple[str, str] | None:
    """Return type and name of the repository that was heard of last, of one of these types."""
    known = f"substr(repo, 1, instr(repo, '/') - 1) IN ({', '.join('?' * len(types))})"
    found = database.execute(f"SELECT repo {_BY_INDEX} WHERE {known} ORDER BY number DESC LIMIT 1", types).fetchone()
    if found is None:
        return None
    type, _, name = found["repo"].partition("/")
    return type, name


def last_commit(database: sqlite3.Connection, type: str, name: str) -> str:
    """Return the last commit of a repository that was heard of; empty if none was."""
    query = "SELECT id FROM deliveries WHERE repo = ? AND event LIKE 'repo%' ORDER BY number DESC LIMIT 1"
    found = database.execute(query, (f"{type}/{name}",)).fetchone()
    payload = find(database, found["id"]).delivery.payload if found else None
    commit = payload.repo.head_sha if payload else None
    return commit if commit and REVISION.fullmatch(commit) else ""
