"""What the owner's pages ask the delivery log, on a connection of their own."""

# ruff: noqa: S608 - what is written into a query is from this file; values are parameters

from __future__ import annotations

import json
import re
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from types import SimpleNamespace
from typing import Any

from ..deliveries.log import number, utc
from ..delivery import StartedJob
from ..samples import REPO_TYPES, REVISION

PAGE_SIZE = 50  # deliveries on a page of the list
MAX_CHOICES = 200  # repositories, events or endpoints to choose from
HOUR = 3600 * 10**9  # in the unit of a delivery's number: nanoseconds since 1970

OUTCOMES = ("done", "skipped", "failed", "waiting")
_OUTCOME = (
    "CASE WHEN status = 'failed' THEN 'failed' WHEN status IN ('queued', 'running', 'scheduled') THEN 'waiting' "
    "WHEN skipped OR status = 'superseded' THEN 'skipped' ELSE 'done' END"
)
_ROW = """
    id, endpoint, repo, event, received_at, status, skipped, attempts, failures, due_at, answer_status,
    replay_of IS NOT NULL AS is_replay, answer,
    status = 'failed' AND EXISTS (SELECT 1 FROM deliveries AS again
        WHERE again.replay_of = deliveries.number AND again.status = 'succeeded') AS is_mended,
    (SELECT substr(error, -2000) FROM attempts WHERE delivery = number ORDER BY attempt DESC LIMIT 1) AS error,
    (SELECT json_group_array(json_object('id', id, 'namespace', namespace, 'url', url, 'flavor', flavor,
        'stage', stage)) FROM jobs WHERE delivery = number) AS jobs
"""


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
    outcome: str | None = None
    q: str | None = None

    def where(self) -> tuple[str, list[str]]:
        """Write the condition, and the values in it."""
        given = {"endpoint": self.endpoint, "repo": self.repo, "event": self.event, _OUTCOME: self.outcome}
        conditions = [f"{column} = ?" for column, value in given.items() if value is not None]
        values = [value for value in given.values() if value is not None]
        if self.q is not None:
            part = "%" + re.sub("([%_|])", r"|\1", self.q) + "%"
            conditions.append(
                "(id LIKE ? ESCAPE '|' OR repo LIKE ? ESCAPE '|' OR "
                "EXISTS (SELECT 1 FROM attempts WHERE delivery = number AND error LIKE ? ESCAPE '|'))"
            )
            values += [part[1:] if len(self.q) > 3 else "", part, part]
        return " AND ".join(conditions) or "true", values


class Row(SimpleNamespace):
    """A delivery in the list: the columns of `_ROW`. A failed one is mended when a replay of it has succeeded."""


def page(database: sqlite3.Connection, wanted: Filter, before: str | None = None) -> tuple[list[Row], bool]:
    """List the 50 newest deliveries, or the 50 before an id, and tell whether there are older ones.

    Raises:
        KeyError: this is no id of a delivery.
    """
    where, values = wanted.where()
    end = sys.maxsize if before is None else number(before)
    rows = _rows(database, f"{where} AND number < ? ORDER BY number DESC LIMIT ?", [*values, end, PAGE_SIZE + 1])
    return rows[:PAGE_SIZE], len(rows) > PAGE_SIZE


def row(database: sqlite3.Connection, id: str) -> Row:
    """Read a delivery as the list has it.

    Raises:
        KeyError: the log has none with this id.
    """
    for found in _rows(database, "number = ?", [number(id)]):
        return found
    raise KeyError(id)


def _rows(database: sqlite3.Connection, where: str, values: Sequence[Any]) -> list[Row]:
    rows = [Row(**row) for row in database.execute(f"SELECT {_ROW} FROM deliveries WHERE {where}", values)]
    for row in rows:
        row.received_at, row.due_at = utc(row.received_at), row.due_at and utc(row.due_at)
        row.jobs = [StartedJob(**job) for job in json.loads(row.jobs)]
    return rows


def counts(database: sqlite3.Connection, wanted: Filter) -> Counter[str]:
    """Count what the filter would show of each outcome."""
    where, values = replace(wanted, outcome=None).where()
    query = f"SELECT {_OUTCOME}, count(*) FROM deliveries WHERE {where} GROUP BY 1"
    return Counter(dict(map(tuple, database.execute(query, values))))


def choices(database: sqlite3.Connection) -> dict[str, list[str]]:
    """List what can be filtered by, the first two hundred of the alphabet at most."""
    query = "SELECT DISTINCT {0} FROM deliveries WHERE {0} != '' ORDER BY {0} LIMIT ?"
    columns = ("endpoint", "repo", "event")
    return {name: [row[0] for row in database.execute(query.format(name), (MAX_CHOICES,))] for name in columns}


def per_hour(database: sqlite3.Connection) -> dict[datetime, Counter[str]]:
    """Count the deliveries of the last 24 hours of the clock by their outcome, hour by hour."""
    last = time.time_ns() // HOUR
    counted: dict[int, Counter[str]] = {hour: Counter() for hour in range(last - 23, last + 1)}
    query = f"SELECT min(number / {HOUR}, ?), {_OUTCOME}, count(*) FROM deliveries WHERE number >= ? GROUP BY 1, 2"
    for hour, outcome, count in database.execute(query, (last, min(counted) * HOUR)):
        counted[hour][outcome] = count
    return {utc(hour * 3600): counts for hour, counts in counted.items()}


def to_replay(database: sqlite3.Connection, wanted: Filter, until: str) -> list[tuple[str, str]]:
    """List id and endpoint of the failed deliveries of a filter that were never replayed, oldest first.

    A replay that has failed, too, stands for what it repeats.

    Args:
        until: the id of the newest one that whoever asks has seen.
    """
    where, values = replace(wanted, outcome="failed").where()
    never = "NOT EXISTS (SELECT 1 FROM deliveries AS again WHERE again.replay_of = deliveries.number)"
    query = f"SELECT id, endpoint FROM deliveries WHERE {where} AND number <= ? AND {never} ORDER BY number"
    return [(row["id"], row["endpoint"]) for row in database.execute(query, [*values, number(until)])]


def related(database: sqlite3.Connection, id: str) -> dict[str, list[str]]:
    """Return the ids of the deliveries that have to do with one: those that repeat it, those that it took the place
    of, the one that arrived next, and the one before.
    """
    conditions = {
        "replays": "replay_of = ? ORDER BY number",
        "replaced": "superseded_by = ? ORDER BY number",
        "newer": "number > ? ORDER BY number LIMIT 1",
        "older": "number < ? ORDER BY number DESC LIMIT 1",
    }
    found = {name: f"SELECT id FROM deliveries WHERE {condition}" for name, condition in conditions.items()}
    return {name: [row["id"] for row in database.execute(query, (number(id),))] for name, query in found.items()}


def last_commit(database: sqlite3.Connection, repo: str | None) -> tuple[str, str]:
    """Return the last commit that was heard of: of a repository, or of any; without one the commit is empty."""
    query = (
        "SELECT repo, json_extract(CAST(body AS TEXT), '$.repo.headSha') FROM deliveries WHERE event LIKE 'repo%' "
        f"AND substr(repo, 1, instr(repo, '/') - 1) IN {REPO_TYPES} AND repo = coalesce(?, repo) "
        "ORDER BY number DESC LIMIT 1"
    )
    for found, commit in database.execute(query, (repo,)):
        return found, commit if REVISION.fullmatch(str(commit)) else ""
    return repo or "dataset/username/my-dataset", ""
