"""Ask the delivery log what the owner's pages show, on a connection of their own."""

# ruff: noqa: S608 - the text of each query is from this file; values are parameters

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
from ..payload import parse_payload
from ..samples import REPO_TYPES, REVISION

PAGE_SIZE = 50  # deliveries on a page of the list
MAX_CHOICES = 200  # repositories, events or endpoints to filter by
MAX_VALUE = 300  # characters of a filter
HOUR = 3600 * 10**9  # nanoseconds, as in a delivery's number

OUTCOMES = ("done", "failed", "waiting", "skipped")
_OUTCOME = (
    "CASE WHEN status = 'failed' THEN 'failed' WHEN status IN ('queued', 'running', 'scheduled') THEN 'waiting' "
    "WHEN skipped OR status = 'superseded' THEN 'skipped' ELSE 'done' END"
)
# Failed, and never replayed: a failed replay stands for the delivery that it repeats.
_TO_REPLAY = "(status = 'failed' AND NOT EXISTS (SELECT 1 FROM deliveries AS r WHERE r.replay_of = deliveries.number))"
_COLUMNS = """
    id, endpoint, repo, event, received_at, status, skipped, attempts, failures, due_at, answer_status, answer, source,
    replay_of IS NOT NULL AS is_replay,
    status = 'failed' AND EXISTS (SELECT 1 FROM deliveries AS again
        WHERE again.replay_of = deliveries.number AND again.status = 'succeeded') AS is_mended,
    (SELECT substr(error, -2000) FROM attempts WHERE delivery = number ORDER BY attempt DESC LIMIT 1) AS error,
    coalesce(finished_at - started_at, (SELECT ended_at - started_at FROM attempts
        WHERE delivery = number ORDER BY attempt DESC LIMIT 1)) AS seconds,
    (SELECT json_group_array(json_object('id', id, 'namespace', namespace, 'url', url, 'flavor', flavor,
        'stage', stage)) FROM jobs WHERE delivery = number) AS jobs
"""


@dataclass(frozen=True)
class Filter:
    """Which deliveries a page shows; `None` is any.

    Attributes:
        repo: as the log writes it, `dataset/username/my-dataset`.
        outcome: one of `OUTCOMES`, or `all`. Without an outcome or a text, skipped deliveries are left out.
        q: the beginning of an id, or a part of a repository's name or of an error.
    """

    endpoint: str | None = None
    repo: str | None = None
    event: str | None = None
    outcome: str | None = None
    q: str | None = None

    def where(self) -> tuple[str, list[str]]:
        """Return the condition, and the values in it."""
        outcome = None if self.outcome == "all" else self.outcome
        given = {"endpoint": self.endpoint, "repo": self.repo, "event": self.event, _OUTCOME: outcome}
        conditions = [f"{column} = ?" for column, value in given.items() if value is not None]
        values = [value for value in given.values() if value is not None]
        if self.outcome is None and self.q is None:
            conditions.append(f"{_OUTCOME} != 'skipped'")
        if self.q is not None:
            text = "repo LIKE ? ESCAPE '|' OR number IN (SELECT delivery FROM attempts WHERE error LIKE ? ESCAPE '|')"
            is_id = re.fullmatch("[0-9a-f]{4,16}", self.q)
            conditions.append(f"({text} OR id LIKE ?)" if is_id else f"({text})")
            part = "%" + re.sub("([%_|])", r"|\1", self.q) + "%"
            values += [part, part, f"{self.q}%"] if is_id else [part, part]
        return " AND ".join(conditions) or "true", values


class ListRow(SimpleNamespace):
    """A delivery in the list, with `_COLUMNS` as attributes. It is mended when a replay of it has succeeded."""


def page(database: sqlite3.Connection, wanted: Filter, before: str | None = None) -> tuple[list[ListRow], bool]:
    """Return the 50 newest deliveries, or the 50 before an id, and whether there are older ones.

    Raises:
        KeyError: this is not the id of a delivery.
    """
    where, values = wanted.where()
    end = sys.maxsize if before is None else number(before)
    found = _listed(database, f"{where} AND number < ? ORDER BY number DESC LIMIT ?", [*values, end, PAGE_SIZE + 1])
    return found[:PAGE_SIZE], len(found) > PAGE_SIZE


def listed(database: sqlite3.Connection, id: str) -> ListRow:
    """Read a delivery as the list shows it.

    Raises:
        KeyError: the log has no delivery with this id.
    """
    for found in _listed(database, "number = ?", [number(id)]):
        return found
    raise KeyError(id)


def _listed(database: sqlite3.Connection, where: str, values: Sequence[Any]) -> list[ListRow]:
    query = f"SELECT {_COLUMNS} FROM deliveries WHERE {where}"
    found = [ListRow(**row) for row in database.execute(query, values)]
    for row in found:
        row.received_at, row.due_at = utc(row.received_at), row.due_at and utc(row.due_at)
        row.jobs = [StartedJob(**job) for job in json.loads(row.jobs)]
    return found


def counts(database: sqlite3.Connection, wanted: Filter) -> tuple[Counter[str], Counter[str]]:
    """Count what the other filters leave: the deliveries of each outcome, and by endpoint those to replay."""
    where, values = replace(wanted, outcome="all").where()
    outcomes, to_replay = Counter[str](), Counter[str]()
    query = f"SELECT {_OUTCOME}, endpoint, count(*), sum({_TO_REPLAY}) FROM deliveries WHERE {where} GROUP BY 1, 2"
    for outcome, endpoint, count, replays in database.execute(query, values):
        outcomes[outcome] += count
        to_replay[endpoint] += replays
    return outcomes, +to_replay


def choices(database: sqlite3.Connection) -> dict[str, list[str]]:
    """Return the values to filter by, the first two hundred of the alphabet at most."""
    query = "SELECT DISTINCT {0} FROM deliveries WHERE length({0}) BETWEEN 1 AND ? ORDER BY {0} LIMIT ?"
    columns, values = ("endpoint", "repo", "event"), (MAX_VALUE, MAX_CHOICES)
    return {name: [row[0] for row in database.execute(query.format(name), values)] for name in columns}


def per_hour(database: sqlite3.Connection) -> dict[datetime, Counter[str]]:
    """Count the deliveries of the last 24 clock hours by hour and outcome."""
    last = time.time_ns() // HOUR
    counted: dict[int, Counter[str]] = {hour: Counter() for hour in range(last - 23, last + 1)}
    query = f"SELECT min(number / {HOUR}, ?), {_OUTCOME}, count(*) FROM deliveries WHERE +number >= ? GROUP BY 1, 2"
    for hour, outcome, count in database.execute(query, (last, min(counted) * HOUR)):
        counted[hour][outcome] = count
    return {utc(hour * 3600): counts for hour, counts in counted.items()}


def to_replay(database: sqlite3.Connection, wanted: Filter, until: str) -> list[tuple[str, str]]:
    """Return id and endpoint of the deliveries of a filter to replay, oldest first.

    Args:
        until: the id of the newest delivery when the owner was asked.
    """
    where, values = replace(wanted, outcome="failed").where()
    query = f"SELECT id, endpoint FROM deliveries WHERE {where} AND number <= ? AND {_TO_REPLAY} ORDER BY number"
    return [(id, endpoint) for id, endpoint in database.execute(query, [*values, number(until)])]


def newest_id(database: sqlite3.Connection) -> str:
    return database.execute("SELECT printf('%016x', coalesce(max(number), 0)) FROM deliveries").fetchone()[0]  # type: ignore[no-any-return]


def related(database: sqlite3.Connection, id: str) -> dict[str, list[str]]:
    """Return the ids of the replays of a delivery, of those that it superseded, and of its neighbours."""
    queries = {
        "replays": "SELECT id FROM deliveries WHERE replay_of = ? ORDER BY number",
        "superseded": "SELECT id FROM deliveries WHERE superseded_by = ? ORDER BY number",
        "newer": "SELECT id FROM deliveries WHERE number > ? ORDER BY number LIMIT 1",
        "older": "SELECT id FROM deliveries WHERE number < ? ORDER BY number DESC LIMIT 1",
    }
    return {name: [row["id"] for row in database.execute(query, (number(id),))] for name, query in queries.items()}


def marks(database: sqlite3.Connection) -> list[sqlite3.Row]:
    """Return when the server looked at each watched repository, and the commit that it found."""
    return database.execute("SELECT * FROM marks ORDER BY endpoint, repo").fetchall()


def last_commit(database: sqlite3.Connection, repo: str | None) -> tuple[str, str]:
    """Return the repository and the commit of the last event about a repository, or about any.

    The commit is empty where no event names one.
    """
    query = (
        "SELECT repo, body FROM deliveries WHERE event LIKE 'repo%' "
        f"AND substr(repo, 1, instr(repo, '/') - 1) IN {REPO_TYPES} AND repo = coalesce(?, repo) "
        "ORDER BY number DESC LIMIT 1"
    )
    for found, body in database.execute(query, (repo,)):
        commit = parse_payload(body).repo.head_sha or ""
        return found, commit if REVISION.fullmatch(commit) else ""
    return repo or "dataset/username/my-dataset", ""
