"""The delivery log: everything that arrived and what became of it, in one SQLite file."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import re
import shutil
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any

from pydantic import ValidationError
from pydantic_core import to_json

from ..delivery import FINAL, Delivery, StartedJob, new_id
from ..payload import WebhookPayload, parse_payload
from ..settings import SetupError
from . import timing

try:
    import fcntl
except ImportError:  # Windows, where nothing keeps a second process from the same log
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger("webhooks")

DATABASE = "deliveries.db"
LOCKED_FOR = 1.0  # seconds to wait for another program that looks into the log
MIN_FREE = 8 * 1024 * 1024  # bytes of the disk, before a log that ran full is taken for writable again
PRUNED_AT_ONCE = 1000  # deliveries, so that none that arrives has to wait long
INTERRUPTED = "Interrupted: the process ended during this attempt."
STOPPED = "Interrupted: the server was stopped during this attempt."

_APPLICATION_ID = 0x77686B73  # "whks", in the header of the file, tells a log from any other SQLite database
_VERSION = 6  # of the schema: a file of another one is moved aside
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
    body          BLOB NOT NULL,
    source        TEXT                  -- NULL: over HTTP; catch_up: found by looking; code: deliver()
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
CREATE TABLE marks (endpoint TEXT, repo TEXT, revision TEXT, looked_at REAL, problem TEXT);
"""
_FINISH = """
WITH ended (number, status, at, answer_status, skipped, answer) AS (VALUES {})
UPDATE deliveries SET status = ended.status, due_at = NULL, finished_at = ended.at,
    answer_status = ended.answer_status, skipped = ended.skipped, answer = ended.answer
FROM ended WHERE deliveries.number = ended.number
"""
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
    """A delivery as the log has it; it is due when it waits for a time."""

    delivery: Delivery
    status: str
    failures: int
    due_at: datetime | None
    attempts: tuple[Attempt, ...]
    superseded_by: str | None
    answer_status: int | None
    answer: bytes | None


class DeliveryLog:
    """A log in a folder, held by one process at a time.

    What a transaction wrote has reached the disk when it ends (`synchronous=FULL`). All methods that write belong
    inside `transaction()`, and all of them into one thread.

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
        self.path = folder.absolute() / DATABASE  # a handler may change the working directory
        self._journal_mode = "DELETE" if shared_disk else "WAL"
        self._query, self._rows = "", list[Sequence[Any]]()  # what the transaction has still to write
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with contextlib.suppress(OSError):  # a full disk
                (folder / ".gitignore").write_text("*\n")  # payloads may name private repositories
            with contextlib.ExitStack() as undo:
                self._lock = undo.enter_context(_lock(folder / "lock"))
                self._open()
                undo.pop_all()
        except (OSError, sqlite3.Error) as error:
            raise SetupError(
                f"The delivery log in {folder} cannot be used: {error}. Make room on the disk, see to the folder's "
                "permissions, or set WEBHOOKS_DATA_DIR to another folder."
            ) from None

    def close(self) -> None:
        self._database.close()
        self._lock.close()

    # The file

    def _open(self) -> None:
        try:
            self._connect()
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            if _is_outside(error, self.path):
                raise
            aside = _move_aside(self.path)
            logger.error(
                "THE DELIVERY LOG IS DAMAGED (%s). It is kept as %s, and a new one begins: what was unfinished in "
                "it does not run. Deliveries can be sent again from the webhook's Activity tab on the Hub.",
                " ".join(str(error).split()),
                aside,
            )
            self._connect()

    def _connect(self) -> None:
        self._database = sqlite3.connect(self.path, LOCKED_FOR, isolation_level=None, check_same_thread=False)
        self._database.row_factory = sqlite3.Row
        try:
            is_new = self._one("SELECT count(*) FROM sqlite_schema") == 0
            marks = (self._one("PRAGMA application_id"), self._one("PRAGMA user_version"))
            if not is_new and marks != (_APPLICATION_ID, _VERSION):
                raise sqlite3.DatabaseError(f"it is of another program or version: {marks[1]} instead of {_VERSION}")
            self._execute(f"PRAGMA journal_mode = {self._journal_mode}")
            self._execute("PRAGMA synchronous = FULL")
            self._execute("PRAGMA foreign_keys = ON")
            if is_new:
                mark = f"PRAGMA application_id = {_APPLICATION_ID}; PRAGMA user_version = {_VERSION}"
                self._database.executescript(f"BEGIN IMMEDIATE; {_SCHEMA}; {mark}; COMMIT")
            if (fault := self._one("PRAGMA quick_check(1)")) != "ok":
                raise sqlite3.DatabaseError(fault)
            self.counts()
            self._execute("SELECT error FROM attempts LIMIT 1").fetchall()
            self.last_number = self._one("SELECT coalesce(max(number), 0) FROM deliveries")
            try:
                self.probe()
            except (sqlite3.OperationalError, OSError) as error:
                if "readonly" in str(error):
                    raise
                # The disk is full, or another program looks into the log: that passes.
        except BaseException:
            self._database.close()
            raise
        self._file = self.path.stat().st_ino

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Do all or nothing, on the disk when it ends.

        Raises:
            sqlite3.Error, OSError: the disk is full or fails, or the file is gone; nothing was written.
        """
        # SQLite writes on into a file that has been deleted or replaced, and the next start would not find that.
        if not self.is_in_place():
            raise OSError(f"{self.path} was deleted or replaced: put it back, or restart the server")
        self._execute("BEGIN IMMEDIATE")
        try:
            yield
            self._execute("COMMIT")
        except BaseException:
            self._rows.clear()
            if self._database.in_transaction:
                self._execute("ROLLBACK")
            raise

    def is_in_place(self) -> bool:
        """Tell whether the file is there that was opened. From any thread."""
        with contextlib.suppress(FileNotFoundError):
            return self.path.stat().st_ino == self._file
        return False

    def _put(self, query: str, row: Sequence[Any]) -> None:
        """Write a row, as one statement with those that come next with the same query: each statement lets go of
        Python's lock, and waits for it.
        """
        if query != self._query:
            self._write_rows()
            self._query = query
        self._rows.append(row)

    def _write_rows(self) -> None:
        rows, self._rows = self._rows, []
        if rows:
            marks = ", ".join([f"({', '.join('?' * len(rows[0]))})"] * len(rows))
            self._database.execute(self._query.format(marks), [value for row in rows for value in row])

    def _execute(self, query: str, values: Any = ()) -> sqlite3.Cursor:
        self._write_rows()
        return self._database.execute(query, values)

    def _one(self, query: str) -> Any:
        return self._execute(query).fetchone()[0]

    def probe(self) -> None:
        """Write something that changes nothing, to learn whether it can be written, and for more than a moment."""
        if shutil.disk_usage(self.path.parent).free < MIN_FREE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._execute(f"PRAGMA user_version = {_VERSION}")

    # What arrives

    def add(self, delivery: Delivery, status: str, **more: Any) -> None:
        """Write down a delivery; if its status is `running`, its first attempt begins. `more` are further columns."""
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
            "attempts": int(is_running),
            "started_at": time.time() if is_running else None,
            "query": delivery.query,
            "headers": to_json([*headers, *withheld]).decode(),
            "body": delivery.body,
            **more,
        }
        query = f"INSERT INTO deliveries ({', '.join(columns)}) VALUES {{}}"  # noqa: S608 - the names above
        self._put(query, [*columns.values()])

    def add_to_burst(self, delivery: Delivery, subject: str, window: float) -> tuple[str | None, float]:
        """Write down a debounced delivery in the place of the scheduled one about the same subject.

        Returns:
            The id of that one, if there was one, and when the new one is due.
        """
        now = time.time()
        earlier = self._execute(
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
        delivery = find(self._database, id).delivery
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
        started = self._execute(
            # Once it runs, nothing replaces it any more, nor does it when it has to wait for another attempt.
            "UPDATE deliveries SET status = 'running', due_at = NULL, subject = NULL, attempts = attempts + 1, "
            "started_at = ? WHERE number = ? AND status IN ('queued', 'scheduled')",
            (time.time(), number(id)),
        )
        if not started.rowcount:
            raise KeyError(id)
        try:
            return find(self._database, id)
        except Exception as error:
            if isinstance(error, sqlite3.Error) and "decode" not in str(error):
                raise
            raise ValueError(str(error)) from error  # damaged since it was written

    def fail_attempt(self, id: str, error: str) -> None:
        """Write down that the attempt which runs has failed."""
        self._execute(
            "INSERT INTO attempts (delivery, attempt, started_at, ended_at, error) "
            "SELECT number, attempts, started_at, ?, ? FROM deliveries WHERE number = ?",
            (time.time(), error, number(id)),
        )
        self._execute(
            "UPDATE deliveries SET started_at = NULL, failures = failures + 1 WHERE number = ?", (number(id),)
        )

    def schedule(self, id: str, due_at: float) -> None:
        self._execute("UPDATE deliveries SET status = 'scheduled', due_at = ? WHERE number = ?", (due_at, number(id)))

    def finish(self, id: str, status: str, answer_status: int, answer: bytes) -> None:
        is_skipped = status == "succeeded" and answer.startswith(b'{"skipped":')
        self._put(_FINISH, (number(id), status, time.time(), answer_status, is_skipped, answer))

    def take_over(self) -> list[sqlite3.Row]:
        """Write down that the last process has ended, and return what it has left to be done."""
        self._cut_short(INTERRUPTED, 0, self.last_number, interruptions=1)  # what has arrived since runs here
        return self._execute(
            "SELECT id, endpoint, status, due_at, subject, interruptions FROM deliveries "
            "WHERE status IN ('queued', 'scheduled') AND number <= ? ORDER BY number",
            (self.last_number,),
        ).fetchall()

    def put_back(self, above: int) -> None:
        """Leave what still runs when the server is stopped for the next start."""
        self._cut_short(STOPPED, above + 1, sys.maxsize, interruptions=0)

    def _cut_short(self, error: str, first: int, last: int, interruptions: int) -> None:
        self._execute(
            "INSERT INTO attempts (delivery, attempt, started_at, ended_at, error) "
            "SELECT number, attempts, started_at, ?, ? FROM deliveries "
            "WHERE status = 'running' AND number BETWEEN ? AND ?",
            (time.time(), error, first, last),
        )
        self._execute(
            "UPDATE deliveries SET status = 'queued', started_at = NULL, interruptions = interruptions + ? "
            "WHERE status = 'running' AND number BETWEEN ? AND ?",
            (interruptions, first, last),
        )

    def add_jobs(self, id: str, jobs: Iterable[StartedJob]) -> None:
        """Write down the Jobs that a handler has started for a delivery; once, however often they are found again."""
        for job in jobs:
            if isinstance(job, StartedJob):  # the list is the handler's to fill
                self._execute(
                    "INSERT INTO jobs (id, delivery, namespace, url, flavor, stage) VALUES (?, ?, ?, ?, ?, ?) "
                    "ON CONFLICT (id) DO NOTHING",
                    (job.id, number(id), job.namespace, job.url, job.flavor, job.stage),
                )

    def set_stage(self, job_id: str, stage: str) -> None:
        """Write down the stage of a Job, unless it has reached a final one: answers may come late."""
        row = self._execute("SELECT stage FROM jobs WHERE id = ?", (job_id,)).fetchone()
        if row and row["stage"] not in FINAL:
            self._execute("UPDATE jobs SET stage = ? WHERE id = ?", (stage, job_id))

    def prune(self) -> None:
        """Delete some of the finished deliveries that are over the limit or past their days, oldest first."""
        self._execute(
            "DELETE FROM deliveries WHERE number IN (SELECT number FROM (SELECT number, finished_at, "
            "row_number() OVER (ORDER BY number DESC) AS place FROM deliveries WHERE finished_at IS NOT NULL) "
            "WHERE place > ? OR finished_at < ? ORDER BY number LIMIT ?)",
            (self.keep, time.time() - self.keep_days * 24 * 60 * 60, PRUNED_AT_ONCE),
        )

    def counts(self) -> Counter[str]:
        return counts(self._database)


# For everybody who only looks: on a connection of their own, from any thread


@contextlib.contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a log to look into it, while another thread writes."""
    with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
        database.row_factory = sqlite3.Row
        yield database


def counts(database: sqlite3.Connection) -> Counter[str]:
    """Count the deliveries by status."""
    return Counter(dict(database.execute("SELECT status, count(*) FROM deliveries GROUP BY status").fetchall()))


def find(database: sqlite3.Connection, id: str) -> Record:
    """Return a delivery.

    Raises:
        KeyError: the log has none with this id.
    """
    row = database.execute("SELECT * FROM deliveries WHERE number = ?", (number(id),)).fetchone()
    if row is None:
        raise KeyError(id)
    ended = database.execute("SELECT * FROM attempts WHERE delivery = ? ORDER BY attempt", (number(id),))
    attempts = [Attempt(a["attempt"], utc(a["started_at"]), utc(a["ended_at"]), a["error"]) for a in ended]
    if row["started_at"] is not None:  # the one that runs, or that succeeded
        end = row["finished_at"]
        attempts.append(Attempt(row["attempts"], utc(row["started_at"]), None if end is None else utc(end), None))
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


def _payload(body: bytes) -> WebhookPayload | None:
    try:
        return parse_payload(body)
    except ValidationError:
        return None


def _lock(path: Path) -> IO[str]:
    """Keep other processes away from a folder, until this file is closed or this process ends, however it ends."""
    file = path.open("a")
    try:
        # Not SQLite's own kind of lock: any part of this process that copies the folder would drop that.
        if fcntl:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise SetupError(
            f"Another process already works with the delivery log in {path.parent}. Stop that one first, or give "
            "this one a folder of its own with WEBHOOKS_DATA_DIR."
        ) from None
    return file


def _move_aside(path: Path) -> Path:
    name = f"{path.name}.damaged-{datetime.now(timezone.utc):%Y%m%d-%H%M%S-%f}"
    for suffix in ("-wal", "-shm", "-journal", ""):
        with contextlib.suppress(FileNotFoundError):
            os.replace(f"{path}{suffix}", path.with_name(name + suffix))
    return path.with_name(name)


def _is_outside(error: Exception, path: Path) -> bool:
    """Tell whether the disk, a permission or another program is the cause, and not the file itself."""
    if not isinstance(error, sqlite3.OperationalError):
        return False
    if "readonly" in str(error):  # or the file's header has a format that can only be read
        return not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK))
    return any(cause in str(error) for cause in ("full", "unable to open", "locked", "I/O", "permission", "memory"))
