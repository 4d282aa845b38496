"""The SQLite file of the delivery log: one process holds it, and one thread writes to it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import queue
import shutil
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar

from ..settings import SetupError

try:
    import fcntl
except ImportError:  # Windows, where nothing keeps a second process out
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger("webhooks")

FILE_NAME = "deliveries.db"
LOCKED_SECONDS = 5.0  # to wait for what reads the log: a page, where it is in a bucket, or another program
RETRY_SECONDS = 1.0  # between two attempts to write
STUCK_SECONDS = 10.0  # a commit that takes longer means that the disk hangs
LINGER_SECONDS = 0.01  # that a step waits for others, if nobody waits for it
MIN_FREE_BYTES = 8 * 1024 * 1024  # of the disk, before a log that ran full counts as writable again

_APPLICATION_ID = 0x77686B73  # "whks", in the header of the file, tells a log from other SQLite files
_FIRST_VERSION = 5
_MIGRATIONS = {  # by the version of the schema that they lead to
    6: """
        ALTER TABLE deliveries ADD COLUMN source TEXT;  -- NULL for HTTP, code, or catch_up
        CREATE TABLE marks (                -- the last commit of each watched repository that an endpoint knows
            endpoint  TEXT NOT NULL,
            repo      TEXT NOT NULL COLLATE NOCASE,  -- type/name, as in deliveries
            revision  TEXT,
            looked_at REAL NOT NULL,
            problem   TEXT,                 -- why the last look failed
            PRIMARY KEY (endpoint, repo)
        ) WITHOUT ROWID;
    """,
}
_VERSION = max(_MIGRATIONS)

T = TypeVar("T")


def no_step() -> None:
    """Write nothing. A step."""


class NotWrittenError(Exception):
    """The disk does not take a step, and nothing of it is in the log."""


@dataclass(eq=False)
class _Write:
    step: Callable[[], Any]
    future: asyncio.Future[Any] | None = None  # nobody waits if there is none
    value: Any = None
    error: BaseException | None = None

    def resolve(self) -> None:
        if self.future and not self.future.done():
            self.future.set_exception(self.error) if self.error else self.future.set_result(self.value)


class Database:
    """The log's file in a folder, open until `close`. Steps that write run in one thread and share commits.

    A commit has reached the disk when it ends (`synchronous=FULL`).

    Args:
        folder: created if it does not exist.
        on_bucket: the folder is in a Storage Bucket, whose mount has no shared memory for WAL mode.

    Raises:
        SetupError: the folder cannot be used, another process uses it, or a newer version wrote the log.
    """

    def __init__(self, folder: Path, *, on_bucket: bool = False) -> None:
        self.path = folder.absolute() / FILE_NAME  # absolute: a handler may change the working directory
        self.is_failing = False  # the last commit failed
        self._journal_mode = "DELETE" if on_bucket else "WAL"
        self._loop: asyncio.AbstractEventLoop | None = None
        self._queue: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()  # `None` is the end
        self._later: deque[_Write] = deque()
        self._commit_began: float | None = None  # by the monotonic clock
        self._is_closing = False
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with contextlib.suppress(OSError):  # a full disk
                (folder / ".gitignore").write_text("*\n")  # payloads may name private repositories
            self._lock = _lock(folder)
            try:
                self._open()
            except BaseException:
                self._unlock()
                raise
        except (OSError, sqlite3.Error) as error:
            raise SetupError(
                f"The delivery log in {folder} cannot be used: {error}. Make room on the disk, check the folder's "
                "permissions, or set WEBHOOKS_DATA_DIR to another folder."
            ) from None
        self._thread = threading.Thread(target=self._work, name="webhook log", daemon=True)
        self._thread.start()

    # Open

    def _open(self) -> None:
        try:
            self._connect()
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            if _is_outside(error, self.path):
                raise
            moved_to = _rename_damaged(self.path)
            logger.error(
                "THE DELIVERY LOG IS DAMAGED (%s). It is now %s, and a new log begins: deliveries that were "
                "unfinished do not run. The Hub can send them again, from the webhook's Activity tab.",
                " ".join(str(error).split()),
                moved_to,
            )
            self._connect()

    def _connect(self) -> None:
        self.connection = sqlite3.connect(
            self.path, timeout=LOCKED_SECONDS, isolation_level=None, check_same_thread=False
        )
        self.connection.row_factory = sqlite3.Row
        try:
            self._prepare()
        except BaseException:
            self.connection.close()
            raise
        self._inode = self.path.stat().st_ino

    def _prepare(self) -> None:
        is_new = self._one("SELECT count(*) FROM sqlite_schema") == 0
        version = self._one("PRAGMA user_version")
        if not is_new and self._one("PRAGMA application_id") != _APPLICATION_ID:
            raise sqlite3.DatabaseError("another program wrote it")
        if version > _VERSION:
            raise SetupError(
                f"A newer version of webhooks/ wrote the delivery log {self.path} (schema {version}, this one knows "
                f"{_VERSION}). Take that version again, or set WEBHOOKS_DATA_DIR to another folder."
            )
        if not is_new and version < _FIRST_VERSION:
            raise sqlite3.DatabaseError(f"it is older than 0.1.0: schema {version}")
        self.connection.execute(f"PRAGMA journal_mode = {self._journal_mode}")
        self.connection.execute("PRAGMA synchronous = FULL")
        self.connection.execute("PRAGMA foreign_keys = ON")
        schema = Path(__file__).with_name("schema.sql").read_text(encoding="utf-8") if is_new else ""
        steps = [schema, *(step for leads_to, step in _MIGRATIONS.items() if leads_to > version)]
        if is_new or version < _VERSION:
            mark = f"PRAGMA application_id = {_APPLICATION_ID}; PRAGMA user_version = {_VERSION}"
            self.connection.executescript(f"BEGIN IMMEDIATE; {' '.join(steps)}; {mark}; COMMIT")
        if (fault := self._one("PRAGMA quick_check(1)")) != "ok":
            raise sqlite3.DatabaseError(fault)
        for table in ("deliveries", "attempts"):  # of a damaged file, tables may be missing
            self.connection.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchall()  # noqa: S608
        try:
            self.probe()
        except (sqlite3.OperationalError, OSError) as error:
            if "readonly" in str(error):
                raise
            # A full disk, or another program that reads the log: both pass.

    def _one(self, query: str) -> Any:
        return self.connection.execute(query).fetchone()[0]

    def is_in_place(self) -> bool:
        """Return whether the opened file still has its name. SQLite writes on into a deleted or replaced file."""
        with contextlib.suppress(FileNotFoundError):
            return self.path.stat().st_ino == self._inode
        return False

    def probe(self) -> None:
        """Write without a change, to learn whether the disk has room again. To be used as a step.

        Raises:
            OSError, sqlite3.OperationalError: it has not.
        """
        if shutil.disk_usage(self.path.parent).free < MIN_FREE_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.connection.execute(f"PRAGMA user_version = {_VERSION}")

    # Write

    @property
    def is_stuck(self) -> bool:
        """Whether the disk does not respond."""
        began = self._commit_began
        return began is not None and time.monotonic() - began > STUCK_SECONDS

    async def write(self, step: Callable[[], T]) -> T:
        """Run a step in the next commit, and return its result once that is on the disk.

        A caller that is cancelled before the step has begun has written nothing.

        Raises:
            NotWrittenError: the disk does not take it.
            Exception: the step raised it, and nothing of the step was written.
        """
        self._loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = self._loop.create_future()
        if not self._is_closing:  # afterwards nothing is written, and waiting tasks are cancelled with their loop
            self._queue.put(_Write(step, future))
        return await future

    async def write_with_retry(self, step: Callable[[], T]) -> T:
        """Like `write`, but retry until the disk accepts it."""
        while True:
            try:
                return await self.write(step)
            except NotWrittenError:
                await asyncio.sleep(RETRY_SECONDS)

    def write_later(self, step: Callable[[], object], within: float = LINGER_SECONDS) -> None:
        """Run a step in the next commit, or in its own after `within` seconds. Nobody waits for it.

        Call it on the loop of an earlier `write`.
        """
        self._later.append(_Write(step))
        if len(self._later) == 1 and self._loop:
            self._loop.call_later(within, self._queue.put, _Write(no_step))  # wakes the thread

    def close(self, last: Callable[[], object]) -> None:
        """Write everything that waits, then a last step, and nothing afterwards."""
        if not self._is_closing:
            self._is_closing = True
            self._queue.put(_Write(last))
            self._queue.put(None)

    def wait(self) -> bool:
        """Wait in another thread until everything is written and the file is closed; `False` if the disk hangs."""
        self._thread.join(STUCK_SECONDS)
        if self._thread.is_alive():
            return False
        self.connection.close()
        self._unlock()
        return True

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # In the thread

    def _work(self) -> None:
        while batch := self._next_batch():
            self._commit_began = time.monotonic()
            self._commit(batch)
            self._commit_began = None
            if self._loop:
                with contextlib.suppress(RuntimeError):  # the loop is closed
                    self._loop.call_soon_threadsafe(self._resolve, batch)

    def _next_batch(self) -> list[_Write]:
        """Return everything that waits, once there is something; an empty list is the end."""
        batch: list[_Write] = []
        while (write := self._queue.get()) is not None:
            batch.append(write)
            if self._queue.empty():
                break
        else:
            self._queue.put(None)  # for the next call
        later: list[_Write] = []
        while batch and self._later:  # to its end: a step that comes meanwhile has set no timer
            later.append(self._later.popleft())
        return later + batch

    def _commit(self, batch: list[_Write]) -> None:
        try:
            with self._transaction():
                for write in batch:
                    if write.future is None or not write.future.cancelled():
                        write.value = write.step()
        except BaseException as error:
            is_locked = isinstance(error, sqlite3.OperationalError) and "locked" in str(error)
            if len(batch) > 1 and not is_locked:  # a step that cannot be written must not stop the others
                for write in batch:
                    self._commit([write])
                return
            is_disk_error = _is_disk_error(error)
            if is_disk_error and not self.is_failing:
                logger.error(
                    "The delivery log cannot be written (%s). Deliveries get a 503 until it can. Is the disk full, or "
                    "does another program use the file?",
                    error,
                )
            self.is_failing = is_disk_error or self.is_failing
            for write in batch:
                write.error = NotWrittenError(str(error)) if is_disk_error else error
        else:
            if self.is_failing:
                logger.info("The delivery log can be written again.")
            self.is_failing = False

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        if not self.is_in_place():
            raise OSError(f"{self.path} was deleted or replaced: put it back, or restart the server")
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.connection.execute("COMMIT")
        except BaseException:
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
            raise

    def _resolve(self, batch: list[_Write]) -> None:
        for write in batch:
            if write.future is None and isinstance(write.error, NotWrittenError):
                self.write_later(write.step, RETRY_SECONDS)
            write.resolve()


def _is_disk_error(error: BaseException) -> bool:
    # The other subclasses of `DatabaseError` are about the step, and repeating it would not help.
    return isinstance(error, (OSError, sqlite3.OperationalError)) or type(error) is sqlite3.DatabaseError


def _is_outside(error: Exception, path: Path) -> bool:
    """Return whether the disk, a permission or another program is the cause, and not the file."""
    if not isinstance(error, sqlite3.OperationalError):
        return False
    if "readonly" in str(error):  # also for a file whose header has a format that can only be read
        return not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK))
    return any(cause in str(error) for cause in ("full", "unable to open", "locked", "I/O", "permission", "memory"))


def _lock(folder: Path) -> int | None:
    """Keep other processes out of a folder until this process ends, however it ends.

    The lock is on the folder: a file could be deleted, and a process would lock its successor. It is not of SQLite's
    own kind (POSIX), which any part of this process drops that opens and closes the file, such as a backup.

    Raises:
        SetupError: another process works with the folder.
    """
    if fcntl is None:
        return None
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise SetupError(
            f"Another process already works with the delivery log in {folder}, or another server of this process. "
            "Stop it, or give this server another folder, by WEBHOOKS_DATA_DIR or WebhooksServer(data_dir=...)."
        ) from None
    except OSError as error:  # some mounts lock no folders, such as NFS; a Space has only one process
        logger.warning("The folder %s cannot be locked (%s). Start no second server with it.", folder, error)
    return descriptor


def _rename_damaged(path: Path) -> Path:
    name = f"{path.name}.damaged-{datetime.now(timezone.utc):%Y%m%d-%H%M%S-%f}"
    for suffix in ("-wal", "-shm", "-journal", ""):
        with contextlib.suppress(FileNotFoundError):
            os.replace(f"{path}{suffix}", path.with_name(name + suffix))
    return path.with_name(name)
