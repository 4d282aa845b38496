"""The delivery log: everything that arrived and what became of it, in one SQLite file."""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import os
import shutil
import sqlite3
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

from pydantic_core import to_json

from .delivery import FINAL, Arrival, Delivery, StartedJob
from .history import INTERRUPTED, Record, find
from .locks import FolderLock, ReadLock
from .settings import SetupError

logger = logging.getLogger("webhooks")

DATABASE = "deliveries.db"

LOCKED_FOR = 1.0  # seconds to wait for another program that looks into the log
MIN_FREE = 8 * 1024 * 1024  # bytes of the disk, before a log that ran full is taken for writable again
MAX_RESULT = 64 * 1024  # bytes of a handler's answer that are kept
CACHE = 4096  # KiB of the file that SQLite keeps (it would keep 2,000): both ends of each index of a long log
ROWS_AT_ONCE = 500  # of 18 values each; a statement may have 32,766 (https://sqlite.org/limits.html)

_COLUMNS = (
    "id, endpoint, repo, event, received_at, query, headers, body, replay_of, status, due_at, subject, burst_at, "
    "attempts, started_at, finished_at, answer_status, answer"
)
_VALUES = f"({', '.join('?' * (_COLUMNS.count(',') + 1))})"
# A new one whose id is taken may not have a status: that is an error, and nothing is overwritten.
_OR_FINISH = (
    "ON CONFLICT (id) DO UPDATE SET status = iif(excluded.finished_at IS NULL, NULL, excluded.status), due_at = NULL, "
    "finished_at = excluded.finished_at, answer_status = excluded.answer_status, answer = excluded.answer"
)
_UNFINISHED = (None, None, None)  # no finished_at, answer_status and answer yet
_WRITTEN = ("", None, None, 0, b"", "", b"", None)  # for the columns of a finished one that are there and stay
_AS_IT_WAS = (None, None, None, 0, None)

_APPLICATION_ID = 0x77686B73  # "whks", in the header of the file, tells a log from any other SQLite database

# Each entry brings a log from the version of its index to the next; PRAGMA user_version says where a log stands.
_MIGRATIONS = [
    """
    CREATE TABLE deliveries (
        number        INTEGER PRIMARY KEY,  -- in the order of arrival
        id            TEXT NOT NULL UNIQUE,
        endpoint      TEXT NOT NULL,
        repo          TEXT,                 -- type/name, such as dataset/username/my-dataset
        received_at   REAL NOT NULL,        -- this and all other times: seconds since 1970, UTC
        query         BLOB NOT NULL,
        headers       TEXT NOT NULL,        -- JSON: [[name, value], ...], without credentials
        body          BLOB NOT NULL,
        replay_of     TEXT,
        status        TEXT NOT NULL,
        due_at        REAL,                 -- when a scheduled one runs
        subject       TEXT,                 -- what a debounced one is about; a newer one about the same replaces it
        burst_at      REAL,                 -- when the burst of events that it belongs to began
        superseded_by TEXT,
        attempts      INTEGER NOT NULL DEFAULT 0,
        failures      INTEGER NOT NULL DEFAULT 0,
        finished_at   REAL,
        answer_status INTEGER,
        answer        BLOB
    );
    CREATE INDEX deliveries_by_status ON deliveries (status, number);
    CREATE UNIQUE INDEX one_per_subject ON deliveries (subject) WHERE status = 'scheduled' AND subject IS NOT NULL;
    CREATE TABLE attempts (
        delivery   TEXT NOT NULL REFERENCES deliveries (id) ON DELETE CASCADE,
        attempt    INTEGER NOT NULL,
        started_at REAL NOT NULL,
        ended_at   REAL,
        error      TEXT,
        PRIMARY KEY (delivery, attempt)
    ) WITHOUT ROWID;
    """,
    """
    ALTER TABLE deliveries ADD COLUMN event TEXT;  -- scope and action, such as repo.content update
    DROP INDEX deliveries_by_status;
    -- What follows the number in an index is looked at beside it: to count by the hour, to filter by several columns.
    CREATE INDEX deliveries_by_status ON deliveries (status, number, received_at, repo, endpoint);
    CREATE INDEX deliveries_by_repo ON deliveries (repo, number, endpoint);
    CREATE INDEX deliveries_by_endpoint ON deliveries (endpoint, number);
    CREATE INDEX replays ON deliveries (replay_of) WHERE replay_of IS NOT NULL;
    CREATE TABLE jobs (
        id        TEXT NOT NULL PRIMARY KEY,
        delivery  TEXT NOT NULL REFERENCES deliveries (id) ON DELETE CASCADE,
        namespace TEXT NOT NULL,
        url       TEXT NOT NULL,
        flavor    TEXT NOT NULL,
        stage     TEXT NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX jobs_by_delivery ON jobs (delivery);
    CREATE INDEX superseded ON deliveries (superseded_by) WHERE superseded_by IS NOT NULL;
    """,
    """
    ALTER TABLE deliveries ADD COLUMN started_at REAL;  -- when the attempt began that runs, or that succeeded
    UPDATE deliveries SET started_at = (
        SELECT started_at FROM attempts WHERE delivery = id AND attempt = attempts AND ended_at IS NULL
    );
    DELETE FROM attempts WHERE ended_at IS NULL;  -- from now on it has those that failed, when they have
    """,
]


class Unfinished(NamedTuple):
    """A delivery that is still to be run; `due_at` is in seconds since 1970."""

    id: str
    endpoint: str
    due_at: float
    is_debounced: bool


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
        folder = folder.absolute()  # a handler may change the working directory
        self.path = folder / DATABASE
        self.keep, self.keep_days = keep, keep_days
        self._journal_mode = "DELETE" if shared_disk else "WAL"
        self._rows: list[tuple[Any, ...]] = []  # what the transaction has still to write
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not (folder / ".gitignore").exists():
                (folder / ".gitignore").write_text("*\n")  # payloads may name private repositories
            with contextlib.ExitStack() as undo:
                self._lock = undo.enter_context(contextlib.closing(FolderLock(folder / "lock")))
                self._open()
                undo.callback(self._database.close)
                self._migrate()
                self._read_lock = None if shared_disk else ReadLock(self.path)
                undo.pop_all()
        except (OSError, sqlite3.Error) as error:
            raise SetupError(
                f"The delivery log in {folder} cannot be used: {error}. Free the disk or give the folder's "
                "permissions, or set WEBHOOKS_DATA_DIR to another folder."
            ) from None

    def close(self) -> None:
        if self._read_lock:
            self._read_lock.close()
        self._database.close()
        self._lock.close()

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
        self._database = sqlite3.connect(self.path, isolation_level=None, timeout=LOCKED_FOR, check_same_thread=False)
        self._database.row_factory = sqlite3.Row
        try:
            is_new = _one(self._database, "SELECT count(*) FROM sqlite_schema") == 0
            if not is_new:
                self._check_origin()
            self._database.execute(f"PRAGMA journal_mode = {self._journal_mode}")
            self._database.execute("PRAGMA synchronous = FULL")
            self._database.execute(f"PRAGMA cache_size = -{CACHE}")
            # Some systems' SQLite writes zeros over all that is deleted, which doubles what pruning writes.
            self._database.execute("PRAGMA secure_delete = FAST")
            if not is_new:
                self._check_content()
        except BaseException:
            self._database.close()
            raise

    def _check_origin(self) -> None:
        if _one(self._database, "PRAGMA application_id") != _APPLICATION_ID:
            raise sqlite3.DatabaseError("it is the database of another program")
        if not 1 <= _one(self._database, "PRAGMA user_version") <= len(_MIGRATIONS):
            raise sqlite3.DatabaseError("it is of a version that this server does not know")

    def _check_content(self) -> None:
        fault = _one(self._database, "PRAGMA quick_check(1)")
        if fault != "ok":
            raise sqlite3.DatabaseError(fault)
        # What that check does not see: the log has to be readable and writable, too.
        self._database.execute(
            "SELECT delivery, attempt, started_at, ended_at, error FROM attempts LIMIT 1"
        ).fetchall()
        self.counts()
        self.unfinished()
        self._database.execute(f"PRAGMA user_version = {_one(self._database, 'PRAGMA user_version')}")

    def _migrate(self) -> None:
        version = _one(self._database, "PRAGMA user_version")
        for number, migration in enumerate(_MIGRATIONS[version:], start=version + 1):
            self._database.executescript(
                f"BEGIN IMMEDIATE; PRAGMA application_id = {_APPLICATION_ID}; {migration}; "
                f"PRAGMA user_version = {number}; COMMIT"
            )

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Do all or nothing, on the disk when it ends.

        Raises:
            sqlite3.Error: the disk is full or fails; nothing was written.
        """
        try:
            yield
            self._write_rows()
            if self._database.in_transaction:
                self._database.execute("COMMIT")
        except BaseException:
            self._rows.clear()
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise

    def _execute(self, query: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        self._begin()
        self._write_rows()
        return self._database.execute(query, values)

    def _flush(self) -> None:
        """Write the rows now, as the beginning of a transaction that more belongs to."""
        if self._rows:
            self._begin()
            self._write_rows()

    def _begin(self) -> None:
        if not self._database.in_transaction:
            self._database.execute("BEGIN IMMEDIATE")

    def _put(self, *row: Any) -> None:
        self._rows.append(row)
        if len(self._rows) >= ROWS_AT_ONCE:
            self._flush()

    def _write_rows(self) -> None:
        """Write what has arrived and what has finished as one statement, which is a transaction if nothing else is.

        On a busy server a statement costs what Python's interpreter lock costs: it is let go for each, and comes back
        when the thread that serves has to wait for something. (`execute` lets go of it once more, for `lastrowid`.)
        """
        if self._rows:
            values = ", ".join([_VALUES] * len(self._rows))
            query = f"INSERT INTO deliveries ({_COLUMNS}) VALUES {values} {_OR_FINISH}"  # noqa: S608
            self._database.executemany(query, [list(itertools.chain.from_iterable(self._rows))])
            self._rows.clear()

    # What arrives

    def add(
        self,
        delivery: Delivery,
        arrival: Arrival,
        status: str,
        *,
        due_at: float | None = None,
        subject: str | None = None,
        burst_at: float | None = None,
    ) -> None:
        """Write down a delivery; if its status is `running`, its first attempt begins."""
        payload = delivery.payload
        headers = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in arrival.headers]
        running = status == "running"
        self._put(
            delivery.id,
            delivery.endpoint,
            f"{payload.repo.type}/{payload.repo.name}" if payload else None,
            f"{payload.event.scope} {payload.event.action}" if payload else None,
            delivery.received_at.timestamp(),
            arrival.query,
            to_json(headers).decode(),
            arrival.body,
            delivery.replay_of,
            status,
            due_at,
            subject,
            burst_at,
            int(running),
            time.time() if running else None,
            *_UNFINISHED,
        )

    def supersede(self, subject: str, by: str) -> float | None:
        """Replace the scheduled delivery about this subject; return when its burst began, `None` if there is none."""
        row = self._execute(
            "UPDATE deliveries SET status = 'superseded', superseded_by = ?, finished_at = ?, due_at = NULL "
            "WHERE subject = ? AND status = 'scheduled' RETURNING burst_at",
            (by, time.time(), subject),
        ).fetchone()
        return float(row["burst_at"]) if row else None

    # What becomes of it

    def start_attempt(self, delivery: Delivery) -> None:
        """Write down that a delivery which had to wait runs now."""
        self._execute(
            # Once it runs, nothing replaces it any more, nor does it when it has to wait for another attempt.
            "UPDATE deliveries SET status = 'running', due_at = NULL, subject = NULL, attempts = ?, started_at = ? "
            "WHERE id = ?",
            (delivery.attempt, time.time(), delivery.id),
        )

    def fail_attempt(self, id: str, error: str, *, counts: bool = True) -> int:
        """Write down that the attempt which runs has failed, and return how many have by now.

        Args:
            counts: whether it is one of them; one that the server cut short is not.
        """
        self._execute(
            "INSERT INTO attempts (delivery, attempt, started_at, ended_at, error) "
            "SELECT id, attempts, started_at, ?, ? FROM deliveries WHERE id = ? AND started_at IS NOT NULL",
            (time.time(), error, id),
        )
        row = self._execute(
            "UPDATE deliveries SET started_at = NULL, failures = failures + ? WHERE id = ? RETURNING failures",
            (counts, id),
        ).fetchone()
        return int(row["failures"])

    def add_job(self, id: str, job: StartedJob) -> None:
        """Write down a Job that a handler has started for a delivery; once, however often it is found again.

        The handler may end long after it has started the Job: when its stage is known better, and even when the
        delivery has been pruned.
        """
        self._execute(
            "INSERT INTO jobs (id, delivery, namespace, url, flavor, stage) SELECT ?, id, ?, ?, ?, ? "
            "FROM deliveries WHERE id = ? ON CONFLICT (id) DO NOTHING",
            (job.id, job.namespace, job.url, job.flavor, job.stage, id),
        )

    def set_stage(self, job_id: str, stage: str) -> None:
        """Write down the stage of a Job, unless it has reached a final one: answers may come late."""
        row = self._execute("SELECT stage FROM jobs WHERE id = ?", (job_id,)).fetchone()
        if row and row["stage"] not in FINAL:
            self._execute("UPDATE jobs SET stage = ? WHERE id = ?", (stage, job_id))

    def schedule(self, id: str, due_at: float) -> None:
        self._execute("UPDATE deliveries SET status = 'scheduled', due_at = ? WHERE id = ?", (due_at, id))

    def finish(self, id: str, status: str, answer_status: int, answer: bytes) -> None:
        self._put(id, *_WRITTEN, status, *_AS_IT_WAS, time.time(), answer_status, answer[:MAX_RESULT])

    def fail_unreadable(self, id: str) -> str:
        """Finish an unfinished delivery whose row is damaged, and return the status that it had."""
        status = self._execute("SELECT status FROM deliveries WHERE id = ?", (id,)).fetchone()["status"]
        self.finish(id, "failed", 500, b"")
        return str(status)

    def interrupt_running(self, ids: Iterable[str]) -> int:
        """Put back those of these that ran when the last process ended, and return how many.

        Its attempt counts as begun, and not as failed.
        """
        interrupted = 0
        for id in ids:
            was_running = self._execute(
                "UPDATE deliveries SET status = 'queued' WHERE id = ? AND status = 'running'", (id,)
            ).rowcount
            if was_running:
                self.fail_attempt(id, INTERRUPTED, counts=False)
                interrupted += 1
        return interrupted

    def prune(self, excess: int, at_most: int = 100) -> Counter[str]:
        """Delete a few finished deliveries, oldest first; return how many by status.

        Args:
            excess: how many there are over the limit; those that are past their days go too.
            at_most: how many to delete now, so that it never takes long.
        """
        too_old = time.time() - self.keep_days * 24 * 60 * 60
        oldest = self._execute(
            "SELECT id, status, finished_at FROM deliveries WHERE finished_at IS NOT NULL ORDER BY number LIMIT ?",
            (at_most,),
        ).fetchall()
        pruned = [row for place, row in enumerate(oldest) if place < excess or row["finished_at"] < too_old]
        ids = [row["id"] for row in pruned]
        # A cascade would look into the other tables for each delivery, at twice the price.
        for table, column in (("attempts", "delivery"), ("jobs", "delivery"), ("deliveries", "id")):
            self._execute(f"DELETE FROM {table} WHERE {column} IN ({', '.join('?' * len(ids))})", ids)  # noqa: S608
        return Counter(row["status"] for row in pruned)

    def probe(self) -> None:
        """Write something that changes nothing, to learn whether the log can be written.

        Raises:
            OSError: there is so little room that it could not be written for long.
        """
        if shutil.disk_usage(self.path.parent).free < MIN_FREE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._execute(f"PRAGMA user_version = {len(_MIGRATIONS)}")

    # What it knows

    def counts(self) -> Counter[str]:
        rows = self._database.execute("SELECT status, count(*) FROM deliveries GROUP BY status")
        return Counter(dict(rows.fetchall()))

    def unfinished(self) -> list[Unfinished]:
        """List what is still to be done."""
        rows = self._database.execute(
            "SELECT id, endpoint, coalesce(due_at, 0), subject IS NOT NULL FROM deliveries "
            "WHERE status IN ('queued', 'running', 'scheduled') ORDER BY number"
        )
        return [Unfinished(*row) for row in rows]

    def find(self, id: str) -> Record:
        """Return a delivery.

        Raises:
            KeyError: the log has none with this id.
        """
        self._flush()
        return find(self._database, id)


def _move_aside(path: Path) -> Path:
    name = f"{path.name}.damaged-{datetime.now(timezone.utc):%Y%m%d-%H%M%S-%f}"
    for suffix in ("-wal", "-shm", "-journal", ""):
        with contextlib.suppress(FileNotFoundError):
            os.replace(f"{path}{suffix}", path.with_name(name + suffix))
    return path.with_name(name)


def _is_outside(error: Exception, path: Path) -> bool:
    """Tell whether the disk, a permission or another program is the cause, and not the log itself."""
    text = str(error)
    if not isinstance(error, sqlite3.OperationalError):
        return False
    if "readonly" in text:  # or the file's header has a format that can only be read
        return not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK))
    return any(cause in text for cause in ("full", "unable to open", "locked", "I/O", "permission", "memory"))


def _one(database: sqlite3.Connection, query: str) -> Any:
    return database.execute(query).fetchone()[0]
