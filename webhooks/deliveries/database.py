"""The SQLite file of the delivery log: opened, checked, held, and written to in transactions."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..settings import SetupError
from .locks import FolderLock, ReadLock

logger = logging.getLogger("webhooks")

LOCKED_FOR = 1.0  # seconds to wait for another program that looks into the log
MIN_FREE = 8 * 1024 * 1024  # bytes of the disk, before a log that ran full is taken for writable again
NEEDED = (3, 35)  # for RETURNING (https://sqlite.org/lang_returning.html)
ROWS_AT_ONCE = 500  # of up to 15 values each; a statement may have 32,766 (https://sqlite.org/limits.html)

_APPLICATION_ID = 0x77686B73  # "whks", in the header of the file, tells a log from any other SQLite database


class NotTheLog(OSError):
    """The file at the log's path is not the one that was opened."""


class Database:
    """A database in a folder, held by one process at a time.

    Args:
        path: its folder is made if it is not there.
        schema: the statements that make the tables of a new one.
        version: of the schema; a file of another one is moved aside.
        batched: the statements of which many rows are written at once, in the order in which they have to be.
        journal_mode: `WAL` or `DELETE`.
        check: reads what is needed from it; raises if the file is damaged.

    Raises:
        SetupError: the folder cannot be used, or another process uses it.
    """

    def __init__(
        self,
        path: Path,
        schema: str,
        version: int,
        batched: Iterable[str],
        journal_mode: str,
        check: Callable[[sqlite3.Connection], object],
    ) -> None:
        self.path = path.absolute()  # a handler may change the working directory
        self._schema, self._version, self._journal_mode, self._check = schema, version, journal_mode, check
        suffixes = ("", "-wal") if journal_mode == "WAL" else ("",)
        self._names = [f"{self.path}{suffix}" for suffix in suffixes]  # as text: each commit asks for them
        self._rows: dict[str, list[dict[str, Any]]] = {query: [] for query in batched}  # still to be written
        folder = self.path.parent
        if sqlite3.sqlite_version_info < NEEDED:
            raise SetupError(f"This Python has SQLite {sqlite3.sqlite_version}; the delivery log needs 3.35 or newer.")
        try:
            _make_folder(folder)
            with contextlib.ExitStack() as undo:
                self._lock = undo.enter_context(contextlib.closing(FolderLock(folder / "lock")))
                self._open()
                undo.pop_all()
        except (OSError, sqlite3.Error) as error:
            raise SetupError(
                f"The delivery log in {folder} cannot be used: {error}. Make room on the disk, see to the folder's "
                "permissions, or set WEBHOOKS_DATA_DIR to another folder."
            ) from None

    def close(self) -> None:
        self._disconnect()
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
        self.connection = sqlite3.connect(self.path, isolation_level=None, timeout=LOCKED_FOR, check_same_thread=False)
        self.connection.row_factory = sqlite3.Row
        try:
            is_new = self.one("SELECT count(*) FROM sqlite_schema") == 0
            if not is_new:
                self._check_origin()
            self.connection.execute(f"PRAGMA journal_mode = {self._journal_mode}")
            self.connection.execute("PRAGMA synchronous = FULL")
            self.connection.execute("PRAGMA foreign_keys = ON")
            # Some systems' SQLite writes zeros over all that is deleted, which doubles what pruning writes.
            self.connection.execute("PRAGMA secure_delete = FAST")
            if is_new:
                marks = f"PRAGMA application_id = {_APPLICATION_ID}; PRAGMA user_version = {self._version}"
                self.connection.executescript(f"BEGIN IMMEDIATE; {self._schema}; {marks}; COMMIT")
            self._check_content()
            self._files = self._identities()
        except BaseException:
            self.connection.close()
            raise
        self._read_lock = ReadLock(self.path) if self._journal_mode == "WAL" else None
        self._is_connected = True

    def _disconnect(self) -> None:
        self._is_connected = False
        if self._read_lock:
            self._read_lock.close()
        self.connection.close()

    def _check_origin(self) -> None:
        if self.one("PRAGMA application_id") != _APPLICATION_ID:
            raise sqlite3.DatabaseError("it is the database of another program")
        if (version := self.one("PRAGMA user_version")) != self._version:
            raise sqlite3.DatabaseError(f"it is of version {version}, and this server knows version {self._version}")

    def _check_content(self) -> None:
        fault = self.one("PRAGMA quick_check(1)")
        if fault != "ok":
            raise sqlite3.DatabaseError(fault)
        self._check(self.connection)
        try:
            self.connection.execute(f"PRAGMA user_version = {self._version}")
        except sqlite3.OperationalError as error:
            if "readonly" in str(error):
                raise
            # The disk is full, or another program looks into the log: that passes.

    def _check_file(self) -> None:
        """See that what is written goes into the files that will be found at the next start.

        SQLite writes on into files that have been deleted, moved or replaced. Whole as they still are for it, they are
        put back where nothing else is in their place.

        Raises:
            NotTheLog: something else is.
        """
        if self._is_connected:
            found = self._identities()
            if found == self._files:
                return
            if found[0] not in (None, self._files[0]):
                reason = "another file has taken the place of"
                raise NotTheLog(f"{reason} {self.path}; move it away, or restart the server")
            self._put_back()
            self._disconnect()  # before the other is opened: it deletes the WAL, and goes by the name for that
        self._connect()
        logger.error("THE DELIVERY LOG WAS DELETED OR MOVED while the server runs. It is back as %s.", self.path)

    def _put_back(self) -> None:
        folder, copy = self.path.parent, self.path.with_name(f"{self.path.name}.put-back")
        _make_folder(folder)
        if not (folder / "lock").exists():
            try:
                lock, self._lock = self._lock, FolderLock(folder / "lock")
            except SetupError as error:
                raise NotTheLog(str(error)) from None
            lock.close()
        copy.unlink(missing_ok=True)
        with contextlib.closing(sqlite3.connect(copy)) as target:
            self.connection.backup(target)
        for suffix in ("-wal", "-shm", "-journal"):
            Path(f"{self.path}{suffix}").unlink(missing_ok=True)
        os.replace(copy, self.path)

    def _identities(self) -> list[tuple[int, int] | None]:
        return [_identity(name) for name in self._names]

    # What is written

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Do all or nothing, on the disk when it ends (`synchronous=FULL`).

        Raises:
            sqlite3.Error, OSError: the disk is full or fails, or the file is gone; nothing was written.
        """
        self._check_file()
        try:
            yield
            if all(self._rows.values()):  # one statement alone needs no BEGIN: SQLite makes it a transaction
                self._begin()
            self._write_rows()
            if self.connection.in_transaction:
                self.connection.execute("COMMIT")
        except BaseException:
            for rows in self._rows.values():
                rows.clear()
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
            raise

    def execute(self, query: str, values: Any = ()) -> sqlite3.Cursor:
        """Make a statement, after everything that was put before it."""
        self._begin()
        self._write_rows()
        return self.connection.execute(query, values)

    def put(self, query: str, row: dict[str, Any]) -> None:
        """Write a row, together with the others that are put with the same statement.

        Each statement lets go of the interpreter lock, and gets it back only when no other thread wants it.

        Args:
            query: one of the batched, with `{columns}` and `{rows}` where these go.
            row: by column; always the same columns for one statement.
        """
        rows = self._rows[query]
        rows.append(row)
        if len(rows) >= ROWS_AT_ONCE:
            self._begin()
            self._write_rows()

    def one(self, query: str) -> Any:
        return self.connection.execute(query).fetchone()[0]

    def probe(self) -> None:
        """Write something that changes nothing, to learn whether it can be written.

        Raises:
            OSError: there is so little room that it could not be written for long.
        """
        if shutil.disk_usage(self.path.parent).free < MIN_FREE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.execute(f"PRAGMA user_version = {self._version}")

    def _begin(self) -> None:
        if not self.connection.in_transaction:
            self.connection.execute("BEGIN IMMEDIATE")

    def _write_rows(self) -> None:
        for query, rows in self._rows.items():
            if not rows:
                continue
            columns = list(rows[0])
            marks = f"({', '.join('?' * len(columns))})"
            statement = query.format(columns=", ".join(columns), rows=", ".join([marks] * len(rows)))
            values = [row[column] for row in rows for column in columns]
            self.connection.executemany(statement, [values])  # `execute` lets go of the lock once more
            rows.clear()


def _make_folder(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not (folder / ".gitignore").exists():
        with contextlib.suppress(OSError):  # a full disk
            (folder / ".gitignore").write_text("*\n")  # payloads may name private repositories


def _identity(name: str) -> tuple[int, int] | None:
    try:
        found = os.stat(name)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _move_aside(path: Path) -> Path:
    name = f"{path.name}.damaged-{datetime.now(timezone.utc):%Y%m%d-%H%M%S-%f}"
    for suffix in ("-wal", "-shm", "-journal", ""):
        with contextlib.suppress(FileNotFoundError):
            os.replace(f"{path}{suffix}", path.with_name(name + suffix))
    return path.with_name(name)


def _is_outside(error: Exception, path: Path) -> bool:
    """Tell whether the disk, a permission or another program is the cause, and not the file itself."""
    text = str(error)
    if not isinstance(error, sqlite3.OperationalError):
        return False
    if "readonly" in text:  # or the file's header has a format that can only be read
        return not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK))
    return any(cause in text for cause in ("full", "unable to open", "locked", "I/O", "permission", "memory"))
