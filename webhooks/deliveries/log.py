"""The delivery log: everything that arrived and what became of it."""

from __future__ import annotations

import json
import sqlite3
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from pydantic_core import to_json
from starlette.responses import Response

from ..delivery import FINAL, Delivery, StartedJob, new_id
from . import timing
from .database import Database
from .history import INTERRUPTED, STOPPED, Record, find, number

DATABASE = "deliveries.db"
MAX_INTERRUPTIONS = 5  # times that the process may end during a delivery's attempts

_VERSION = 5  # of the schema: another one is moved aside
_SCHEMA = """
CREATE TABLE deliveries (
    number        INTEGER PRIMARY KEY,  -- the id as a number
    id            TEXT AS (printf('%016x', number)),
    endpoint      TEXT NOT NULL,
    repo          TEXT,                 -- type/name, such as dataset/username/my-dataset
    event         TEXT,                 -- scope and action, such as repo.content update
    received_at   REAL NOT NULL,        -- this and all other times: seconds since 1970, UTC
    replay_of     INTEGER,
    status        TEXT NOT NULL,
    due_at        REAL,                 -- when a scheduled one runs
    subject       TEXT,                 -- what a debounced one is about; a newer one about the same replaces it
    burst_at      REAL,                 -- when the burst of events that it belongs to began
    superseded_by INTEGER,
    attempts      INTEGER NOT NULL DEFAULT 0,
    failures      INTEGER NOT NULL DEFAULT 0,
    interruptions INTEGER NOT NULL DEFAULT 0,  -- attempts during which the process ended
    started_at    REAL,                 -- when the attempt began that runs, or that succeeded
    finished_at   REAL,
    answer_status INTEGER,
    skipped       INTEGER NOT NULL DEFAULT 0,  -- 1 if the handler answered {"skipped": reason}
    query         BLOB NOT NULL,
    headers       TEXT NOT NULL,        -- JSON: [[name, value], ...]; the value of a credential is null
    answer        BLOB,
    body          BLOB NOT NULL
);
-- All that the owner's list can be filtered by, so that it is read without the bodies.
CREATE INDEX overview ON deliveries (status, skipped, endpoint, repo, event);
CREATE INDEX bursts ON deliveries (subject) WHERE status = 'scheduled' AND subject IS NOT NULL;
CREATE INDEX replays ON deliveries (replay_of) WHERE replay_of IS NOT NULL;
CREATE INDEX superseded ON deliveries (superseded_by) WHERE superseded_by IS NOT NULL;
CREATE TABLE attempts (                 -- those that failed
    delivery   INTEGER NOT NULL REFERENCES deliveries ON DELETE CASCADE,
    attempt    INTEGER NOT NULL,
    started_at REAL NOT NULL,
    ended_at   REAL NOT NULL,
    error      TEXT NOT NULL,
    PRIMARY KEY (delivery, attempt)
);                                      -- with a rowid: else each error of 1 KB or more has a page of its own
CREATE TABLE jobs (
    id        TEXT NOT NULL PRIMARY KEY,
    delivery  INTEGER NOT NULL REFERENCES deliveries ON DELETE CASCADE,
    namespace TEXT NOT NULL,
    url       TEXT NOT NULL,
    flavor    TEXT NOT NULL,
    stage     TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX jobs_by_delivery ON jobs (delivery);
"""

_SKIPPED = b'{"skipped":'
_ADD = "INSERT INTO deliveries ({columns}) VALUES {rows}"
_FINISH = (
    "WITH finished ({columns}) AS (VALUES {rows}) UPDATE deliveries SET status = finished.status, due_at = NULL, "
    "finished_at = finished.finished_at, answer_status = finished.answer_status, skipped = finished.skipped, "
    "answer = finished.answer "
    "FROM finished WHERE deliveries.number = finished.number"
)


@dataclass(frozen=True)
class Unfinished:
    """What is still to be done."""

    id: str
    endpoint: str
    status: str
    due_at: float | None
    subject: str | None


class DeliveryLog:
    """A log in a folder, held by one process at a time.

    What a transaction wrote has reached the disk when it ends (`synchronous=FULL`). All methods that write
    belong inside `transaction()`, and all of them into one thread.

    Args:
        folder: made if it is not there.
        shared_disk: the folder is a Storage Bucket's mount, which has no shared memory and so no WAL.
        keep: how many finished deliveries `prune` leaves.
        keep_days: for how many days it leaves them.

    Raises:
        SetupError: the folder cannot be used, or another process uses it.
    """

    def __init__(self, folder: Path, *, shared_disk: bool = False, keep: int = 10_000, keep_days: float = 30) -> None:
        self.keep, self.keep_days = keep, keep_days
        journal_mode = "DELETE" if shared_disk else "WAL"
        self._database = Database(folder / DATABASE, _SCHEMA, _VERSION, (_ADD, _FINISH), journal_mode, _check)
        self.path = self._database.path
        self.transaction, self.probe = self._database.transaction, self._database.probe
        self.close = self._database.close

    # What arrives

    def add(
        self,
        delivery: Delivery,
        status: str,
        *,
        due_at: float | None = None,
        subject: str | None = None,
        burst_at: float | None = None,
    ) -> None:
        """Write down a delivery; if its status is `running`, its first attempt begins."""
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
            "status": status,
            "due_at": due_at,
            "subject": subject,
            "burst_at": burst_at,
            "attempts": int(is_running),
            "started_at": time.time() if is_running else None,
            "query": delivery.query,
            "headers": to_json([*headers, *withheld]).decode(),
            "body": delivery.body,
        }
        self._database.put(_ADD, columns)

    def add_to_burst(self, delivery: Delivery, subject: str, window: float) -> tuple[str | None, float]:
        """Write down a debounced delivery in the place of the scheduled one about the same subject.

        Returns:
            The id of that one, if there was one, and when the new one is due.
        """
        now = time.time()
        earlier = self._database.execute(
            "UPDATE deliveries SET status = 'superseded', superseded_by = ?, finished_at = ?, due_at = NULL "
            "WHERE subject = ? AND status = 'scheduled' RETURNING id, burst_at",
            (number(delivery.id), now, subject),
        ).fetchone()
        burst_at = min(now, earlier["burst_at"]) if earlier else now
        due_at = timing.debounced_until(now, burst_at, window)
        self.add(delivery, "scheduled", due_at=due_at, subject=subject, burst_at=burst_at)
        return (earlier["id"] if earlier else None), due_at

    def add_replay(self, id: str) -> Delivery:
        """Write down a delivery that repeats another one, and return it.

        Raises:
            KeyError: the log does not have that one.
        """
        delivery = find(self._database.connection, id).delivery
        replay = replace(delivery, id=new_id(), received_at=datetime.now(timezone.utc), attempt=1, replay_of=id)
        self.add(replay, "queued")
        return replay

    # What becomes of it

    def start_attempt(self, id: str) -> Record:
        """Write down that a delivery which had to wait runs now, and return it.

        Raises:
            KeyError: it is over: a newer one has replaced it.
            ValueError: it cannot be read any more.
        """
        started = self._database.execute(
            # Once it runs, nothing replaces it any more, nor does it when it has to wait for another attempt.
            "UPDATE deliveries SET status = 'running', due_at = NULL, subject = NULL, attempts = attempts + 1, "
            "started_at = ? WHERE number = ? AND status IN ('queued', 'scheduled')",
            (time.time(), number(id)),
        )
        if not started.rowcount:
            raise KeyError(id)
        try:
            return find(self._database.connection, id)
        except Exception as error:
            if isinstance(error, sqlite3.Error) and "decode" not in str(error):
                raise
            raise ValueError(str(error)) from error  # damaged since it was written

    def fail_attempt(self, id: str, error: str) -> None:
        """Write down that the attempt which runs has failed."""
        self._end_attempt(id, error)
        self._database.execute("UPDATE deliveries SET failures = failures + 1 WHERE number = ?", (number(id),))

    def forget_attempt(self, id: str) -> None:
        """Take back an attempt that the machine could not begin."""
        self._database.execute(
            "UPDATE deliveries SET attempts = attempts - 1, started_at = NULL WHERE number = ?", (number(id),)
        )

    def resume(self, left: Unfinished, longest_wait: float) -> float | None:
        """Write down that a delivery which the last process left goes on.

        Args:
            longest_wait: seconds from now that it may have to wait: the clock may have been wrong when it was written.

        Returns:
            When it is due, in seconds since 1970; `None` if it was interrupted too often to run once more.
        """
        if left.status != "running":
            return min(left.due_at or 0.0, time.time() + longest_wait)
        self._end_attempt(left.id, INTERRUPTED)
        update = "UPDATE deliveries SET interruptions = interruptions + 1 WHERE number = ? RETURNING interruptions"
        interruptions = self._database.execute(update, (number(left.id),)).fetchone()["interruptions"]
        if interruptions >= MAX_INTERRUPTIONS:
            return None
        due_at = time.time() + timing.backoff(interruptions)
        self.schedule(left.id, due_at)
        return due_at

    def put_back(self, besides: Iterable[str] = ()) -> None:
        """Leave what still runs when the server is stopped for the next start, `besides` what it had not begun."""
        running = self._database.execute("SELECT id FROM deliveries WHERE status = 'running'").fetchall()
        for id in {row["id"] for row in running}.difference(besides):
            self._end_attempt(id, STOPPED)
            self._database.execute("UPDATE deliveries SET status = 'queued' WHERE number = ?", (number(id),))

    def _end_attempt(self, id: str, error: str) -> None:
        self._database.execute(
            "INSERT OR REPLACE INTO attempts (delivery, attempt, started_at, ended_at, error) "
            "SELECT number, attempts, started_at, ?, ? FROM deliveries WHERE number = ? AND started_at IS NOT NULL",
            (time.time(), error, number(id)),
        )
        self._database.execute("UPDATE deliveries SET started_at = NULL WHERE number = ?", (number(id),))

    def schedule(self, id: str, due_at: float) -> None:
        self._database.execute(
            "UPDATE deliveries SET status = 'scheduled', due_at = ? WHERE number = ?", (due_at, number(id))
        )

    def finish(self, id: str, status: str, answer_status: int, answer: bytes) -> None:
        columns = {
            "number": number(id),
            "status": status,
            "finished_at": time.time(),
            "answer_status": answer_status,
            "skipped": int(status == "succeeded" and answer.startswith(_SKIPPED)),
            "answer": answer,
        }
        self._database.put(_FINISH, columns)

    def abandon(self, id: str, answer: Response) -> None:
        """Write down that a delivery fails without another attempt."""
        self.finish(id, "failed", answer.status_code, bytes(answer.body))

    def add_jobs(self, id: str, jobs: Iterable[StartedJob]) -> None:
        """Write down the Jobs that a handler has started for a delivery; once, however often they are found again.

        The handler may end long after it has started a Job: when its stage is known better, and even when the
        delivery has been pruned.
        """
        for job in jobs:
            if not isinstance(job, StartedJob):  # the list is the handler's to fill
                continue
            self._database.execute(
                "INSERT INTO jobs (id, delivery, namespace, url, flavor, stage) SELECT ?, number, ?, ?, ?, ? "
                "FROM deliveries WHERE number = ? ON CONFLICT (id) DO NOTHING",
                (job.id, job.namespace, job.url, job.flavor, job.stage, number(id)),
            )

    def set_stage(self, job_id: str, stage: str) -> None:
        """Write down the stage of a Job, unless it has reached a final one: answers may come late."""
        row = self._database.execute("SELECT stage FROM jobs WHERE id = ?", (job_id,)).fetchone()
        if row and row["stage"] not in FINAL:
            self._database.execute("UPDATE jobs SET stage = ? WHERE id = ?", (stage, job_id))

    def prune(self, excess: int, at_most: int = 100, *, by_age: bool = True) -> Counter[str]:
        """Delete a few finished deliveries, oldest first; return how many by status.

        Args:
            excess: how many there are over the limit.
            at_most: how many to delete now, so that it never takes long.
            by_age: those that are past their days go too.
        """
        too_old = time.time() - self.keep_days * 24 * 60 * 60 if by_age else 0
        # All in one row, and deleted by one statement: for each row Python's lock would be let go and taken again.
        found = self._database.execute(
            "SELECT json_group_array(json_array(number, status, finished_at)) FROM (SELECT number, status, "
            "finished_at FROM deliveries WHERE finished_at IS NOT NULL ORDER BY number LIMIT ?)",
            (at_most,),
        ).fetchone()[0]
        pruned = {
            number: status
            for place, (number, status, finished_at) in enumerate(json.loads(found))
            if place < excess or finished_at < too_old
        }
        numbers = json.dumps(list(pruned))
        self._database.execute("DELETE FROM deliveries WHERE number IN (SELECT value FROM json_each(?))", (numbers,))
        return Counter(pruned.values())

    # What it knows

    def counts(self) -> Counter[str]:
        return _counts(self._database.connection)

    def unfinished(self) -> list[Unfinished]:
        return _unfinished(self._database.connection)

    def last_id(self) -> str:
        last = self._database.one("SELECT coalesce(max(number), 0) FROM deliveries")
        return f"{last:016x}"


def _check(connection: sqlite3.Connection) -> None:
    """Read what the server cannot start without.

    Raises:
        sqlite3.DatabaseError, UnicodeDecodeError: the file is damaged, though its pages look right.
    """
    _counts(connection)
    _unfinished(connection)
    connection.execute("SELECT delivery, attempt, started_at, ended_at, error FROM attempts LIMIT 1").fetchall()


def _counts(connection: sqlite3.Connection) -> Counter[str]:
    return Counter(dict(connection.execute("SELECT status, count(*) FROM deliveries GROUP BY status").fetchall()))


def _unfinished(connection: sqlite3.Connection) -> list[Unfinished]:
    rows = connection.execute(
        "SELECT id, endpoint, status, due_at, subject FROM deliveries "
        "WHERE status IN ('queued', 'running', 'scheduled') ORDER BY number"
    )
    return [Unfinished(*row) for row in rows]
