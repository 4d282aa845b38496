"""The delivery log: everything that arrived, and what became of it."""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import to_json

from ..delivery import FINAL_STAGES, Delivery, StartedJob, new_id
from ..payload import WebhookPayload, parse_payload

KEEP = 10_000  # finished deliveries
KEEP_SECONDS = 30 * 24 * 60 * 60.0
MAX_WINDOWS = 10  # of a stream of debounced events that never pauses
PRUNED_AT_ONCE = 1000  # deliveries, so that none that arrives has to wait long
INTERRUPTED = "Interrupted: the process ended during this attempt."
STOPPED = "Interrupted: the server was stopped during this attempt."

_ID = re.compile("[0-7][0-9a-f]{15}")  # SQLite has 63 bits for it


@dataclass(frozen=True)
class Attempt:
    """One run of a handler. `error` is `None` for one that succeeded or still runs; times are in UTC."""

    attempt: int
    started_at: datetime
    ended_at: datetime | None
    error: str | None


@dataclass(frozen=True)
class Record:
    """A delivery as the log has it; `due_at` is the time of its next attempt."""

    delivery: Delivery
    status: str
    failures: int
    due_at: datetime | None
    attempts: tuple[Attempt, ...]
    superseded_by: str | None
    answer_status: int | None
    answer: bytes | None


class DeliveryLog:
    """The statements that write. Each method is a step, or a part of one, of `Database.write`.

    Args:
        connection: the one that writes.
        path: the file of the log, for those that read.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._execute = connection.execute
        self._connection = connection
        self.path = path
        self.last_number: int = self._execute("SELECT coalesce(max(number), 0) FROM deliveries").fetchone()[0]

    # Arrive

    def add(self, delivery: Delivery, status: str, **more: Any) -> None:
        """Add a delivery. With the status `running` its first attempt begins. `more` are further columns."""
        payload = delivery.payload
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in delivery.headers]
        withheld = [(name.decode("latin-1"), None) for name in delivery.withheld]
        is_running = status == "running"
        columns = {
            "number": number(delivery.id),
            "endpoint": delivery.endpoint,
            "repo": f"{payload.repo.type}/{payload.repo.name}" if payload else None,
            "event": f"{payload.event.scope} {payload.event.action}" if payload else None,
            "received_at": delivery.received_at.timestamp(),
            "replay_of": number(delivery.replay_of) if delivery.replay_of else None,
            "source": delivery.source,
            "status": status,
            "attempts": int(is_running),
            "started_at": time.time() if is_running else None,
            "query": delivery.query,
            "headers": to_json([*headers, *withheld]).decode(),
            "body": delivery.body,
            **more,
        }
        marks = ", ".join("?" * len(columns))
        query = f"INSERT INTO deliveries ({', '.join(columns)}) VALUES ({marks})"  # noqa: S608 - the names above
        self._execute(query, [*columns.values()])

    def add_debounced(self, delivery: Delivery, key: str, window: float) -> tuple[str | None, float]:
        """Add a debounced delivery; it supersedes the scheduled one with the same key.

        Returns:
            The id of the superseded delivery, if there was one, and when the new one is due.
        """
        now = time.time()
        earlier = self._execute(
            "UPDATE deliveries SET status = 'superseded', superseded_by = ?, finished_at = ?, due_at = NULL "
            "WHERE subject = ? AND status = 'scheduled' RETURNING id, burst_at",
            (number(delivery.id), now, key),
        ).fetchone()
        burst_at = min(now, earlier["burst_at"]) if earlier else now
        due_at = debounced_until(now, burst_at, window)
        self.add(delivery, "scheduled", due_at=due_at, subject=key, burst_at=burst_at)
        return (earlier["id"] if earlier else None), due_at

    def add_replay(self, delivery_id: str) -> Delivery:
        """Add a delivery that repeats another one, and return it.

        Raises:
            KeyError: the log does not have that one.
        """
        delivery = find(self._connection, delivery_id).delivery
        now = datetime.now(timezone.utc)
        replay = replace(delivery, id=new_id(), received_at=now, attempt=1, replay_of=delivery_id, source=None)
        self.add(replay, "queued")
        return replay

    # Run

    def start_attempt(self, delivery_id: str) -> Record:
        """Begin the next attempt of a delivery that had to wait, and return the delivery.

        Raises:
            KeyError: a newer delivery has superseded it.
            ValueError: it cannot be read any more.
        """
        started = self._execute(
            # Once started it cannot be superseded, not even while it waits for a retry.
            "UPDATE deliveries SET status = 'running', due_at = NULL, subject = NULL, attempts = attempts + 1, "
            "started_at = ? WHERE number = ? AND status IN ('queued', 'scheduled')",
            (time.time(), number(delivery_id)),
        )
        if not started.rowcount:
            raise KeyError(delivery_id)
        try:
            return find(self._connection, delivery_id)
        except Exception as error:
            if isinstance(error, sqlite3.Error) and "decode" not in str(error):
                raise
            raise ValueError(str(error)) from error  # damaged since it was written

    def fail_attempt(self, delivery_id: str, error: str) -> None:
        """End the attempt that runs with an error."""
        self._end_attempts(error, "number = ?", number(delivery_id))
        self._execute(
            "UPDATE deliveries SET started_at = NULL, failures = failures + 1 WHERE number = ?", (number(delivery_id),)
        )

    def schedule(self, delivery_id: str, due_at: float) -> None:
        self._execute(
            "UPDATE deliveries SET status = 'scheduled', due_at = ? WHERE number = ?", (due_at, number(delivery_id))
        )

    def finish(self, delivery_id: str, status: str, answer_status: int, answer: bytes) -> None:
        is_skipped = status == "succeeded" and answer.startswith(b'{"skipped":')
        self._execute(
            "UPDATE deliveries SET status = ?, due_at = NULL, finished_at = ?, answer_status = ?, skipped = ?, "
            "answer = ? WHERE number = ?",
            (status, time.time(), answer_status, is_skipped, answer, number(delivery_id)),
        )

    def add_jobs(self, delivery_id: str, jobs: Iterable[StartedJob]) -> None:
        """Add the Jobs that a handler has started; a Job that an attempt has found again is there already."""
        for job in jobs:
            if isinstance(job, StartedJob):  # a handler can put anything into the list
                self._execute(
                    "INSERT INTO jobs (id, delivery, namespace, url, flavor, stage) VALUES (?, ?, ?, ?, ?, ?) "
                    "ON CONFLICT (id) DO NOTHING",
                    (job.id, number(delivery_id), job.namespace, job.url, job.flavor, job.stage),
                )

    def set_stage(self, job_id: str, stage: str) -> None:
        """Set the stage of a Job, unless it has a final one: responses of the Hub may come late."""
        row = self._execute("SELECT stage FROM jobs WHERE id = ?", (job_id,)).fetchone()
        if row and row["stage"] not in FINAL_STAGES:
            self._execute("UPDATE jobs SET stage = ? WHERE id = ?", (stage, job_id))

    # Start and stop

    def take_over(self) -> list[sqlite3.Row]:
        """Count the attempts that ended with the last process, and return its unfinished deliveries."""
        self._requeue(INTERRUPTED, 0, self.last_number, interruptions=1)  # later deliveries are of this process
        return self._execute(
            "SELECT id, endpoint, status, due_at, subject, interruptions FROM deliveries "
            "WHERE status IN ('queued', 'scheduled') AND number <= ? ORDER BY number",
            (self.last_number,),
        ).fetchall()

    def put_back(self, above: int) -> None:
        """Queue what still runs when the server stops, for the next start."""
        self._requeue(STOPPED, above + 1, sys.maxsize, interruptions=0)

    def _requeue(self, error: str, first: int, last: int, interruptions: int) -> None:
        self._end_attempts(error, "status = 'running' AND number BETWEEN ? AND ?", first, last)
        self._execute(
            "UPDATE deliveries SET status = 'queued', started_at = NULL, interruptions = interruptions + ? "
            "WHERE status = 'running' AND number BETWEEN ? AND ?",
            (interruptions, first, last),
        )

    def _end_attempts(self, error: str, condition: str, *values: int) -> None:
        query = (
            "INSERT INTO attempts (delivery, attempt, started_at, ended_at, error) SELECT number, attempts, started_at"
        )
        self._execute(f"{query}, ?, ? FROM deliveries WHERE {condition}", (time.time(), error, *values))

    def prune(self) -> None:
        """Delete finished deliveries beyond `KEEP` or `KEEP_SECONDS`, oldest first, 1,000 at most."""
        self._execute(
            "DELETE FROM deliveries WHERE number IN (SELECT number FROM (SELECT number, finished_at, "
            "row_number() OVER (ORDER BY number DESC) AS place FROM deliveries WHERE finished_at IS NOT NULL) "
            "WHERE place > ? OR finished_at < ? ORDER BY number LIMIT ?)",
            (KEEP, time.time() - KEEP_SECONDS, PRUNED_AT_ONCE),
        )

    # Catch up

    def set_mark(self, endpoint: str, repo: str, revision: str | None, problem: str | None = None) -> None:
        """Set the last commit of a repository that an endpoint knows; `None` keeps the one that is set."""
        self._execute(
            "INSERT INTO marks (endpoint, repo, revision, looked_at, problem) VALUES (?, ?, ?, ?, ?) "
            "ON CONFLICT (endpoint, repo) DO UPDATE SET revision = coalesce(excluded.revision, revision), "
            "looked_at = excluded.looked_at, problem = excluded.problem",
            (endpoint, repo, revision, time.time(), problem),
        )


def debounced_until(now: float, burst_at: float, window: float) -> float:
    """Return when a burst of events that began at `burst_at` runs, if none follows the event of `now`."""
    return min(now + window, burst_at + MAX_WINDOWS * window)


# Read, from any thread


@contextlib.contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a log to read it, while another thread writes.

    Raises:
        OSError, sqlite3.Error: the file is gone, or is not a log.
    """
    if not path.stat().st_size:  # SQLite would delete the journal beside an empty file that took the log's place
        raise OSError(f"{path} is empty")
    with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
        database.row_factory = sqlite3.Row
        yield database


def counts(database: sqlite3.Connection) -> Counter[str]:
    """Count the deliveries by status."""
    return Counter(dict(database.execute("SELECT status, count(*) FROM deliveries GROUP BY status").fetchall()))


def find(database: sqlite3.Connection, delivery_id: str) -> Record:
    """Return a delivery.

    Raises:
        KeyError: the log has no delivery with this id.
    """
    row = database.execute("SELECT * FROM deliveries WHERE number = ?", (number(delivery_id),)).fetchone()
    if row is None:
        raise KeyError(delivery_id)
    query = "SELECT attempt, started_at, ended_at, error FROM attempts WHERE delivery = ? ORDER BY attempt"
    ended = database.execute(query, (row["number"],))
    attempts = [Attempt(a["attempt"], utc(a["started_at"]), utc(a["ended_at"]), a["error"]) for a in ended]
    if row["started_at"] is not None:  # the attempt that runs, or that succeeded
        end = row["finished_at"]
        attempts.append(Attempt(row["attempts"], utc(row["started_at"]), None if end is None else utc(end), None))
    return Record(
        delivery=_delivery(row),
        status=row["status"],
        failures=row["failures"],
        due_at=None if row["due_at"] is None else utc(row["due_at"]),
        attempts=tuple(attempts),
        superseded_by=_id(row["superseded_by"]),
        answer_status=row["answer_status"],
        answer=row["answer"],
    )


def _delivery(row: sqlite3.Row) -> Delivery:
    headers = [(name.encode("latin-1"), value) for name, value in json.loads(row["headers"])]
    return Delivery(
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
        source=row["source"],
    )


def number(delivery_id: str) -> int:
    """Return the primary key of a delivery.

    Raises:
        KeyError: this is not the id of a delivery.
    """
    if not (isinstance(delivery_id, str) and _ID.fullmatch(delivery_id)):
        raise KeyError(delivery_id)
    return int(delivery_id, 16)


def _id(number: int | None) -> str | None:
    return None if number is None else f"{number:016x}"


def utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, timezone.utc)


def _payload(body: bytes) -> WebhookPayload | None:
    try:
        return parse_payload(body)
    except ValidationError:
        return None
