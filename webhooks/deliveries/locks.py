"""Locks that a program in this process cannot drop by accident.

POSIX takes a process's locks on a file away as soon as any part of that process closes the file: a copy of the log's
folder does. SQLite's own locks go that way, too. The next program that looks into the log then takes it for abandoned
and deletes the WAL, and what is written after that is lost. Locks of an open file description stay until it is closed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
import sys
from pathlib import Path

from ..settings import SetupError

try:
    import fcntl
except ImportError:  # Windows, whose locks belong to the open file anyway
    fcntl = None  # type: ignore[assignment]

# Every connection in WAL mode holds a shared lock on this range of the database, and whoever deletes the WAL needs the
# range alone (https://sqlite.org/src/file/src/os.h, SHARED_FIRST and SHARED_SIZE).
_SHARED = (0x40000000 + 2, 510)
# Every one also holds a shared lock on this byte of the -shm file, or the next to come starts that file afresh
# (https://sqlite.org/src/file/src/os_unix.c, UNIX_SHM_DMS).
_IN_USE = (128, 1)


_held: set[int] = set()  # the open files that hold a lock


def _open(path: Path, flags: int) -> int:
    file = os.open(path, flags, 0o600)
    _held.add(file)
    return file


def _close(file: int) -> None:
    _held.discard(file)
    os.close(file)


def _let_go() -> None:
    for file in list(_held):
        _close(file)


if hasattr(os, "register_at_fork"):
    # A forked process has the open files, too, and with them the locks: it would keep them after this one is killed.
    os.register_at_fork(after_in_child=_let_go)


class FolderLock:
    """Keeps other processes away from a folder, until it is closed or this process ends, however it ends.

    Raises:
        SetupError: another one has it.
    """

    def __init__(self, path: Path) -> None:
        self._file = _open(path, os.O_RDWR | os.O_CREAT)
        try:
            if fcntl:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            else:
                import msvcrt

                msvcrt.locking(self._file, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        except OSError as error:
            _close(self._file)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):  # a file system without locks, and the like
                raise
            raise SetupError(
                f"Another process already works with the delivery log in {path.parent}. Stop that one first, or give "
                "this one a folder of its own with WEBHOOKS_DATA_DIR."
            ) from None

    def close(self) -> None:
        _close(self._file)


class ReadLock:
    """Keeps other programs from deleting the WAL of an open database. On other systems than Linux it does nothing."""

    def __init__(self, database: Path) -> None:
        self._files: list[int] = []
        if sys.platform != "linux":
            return
        for path, (start, length) in ((database, _SHARED), (Path(f"{database}-shm"), _IN_USE)):
            with contextlib.suppress(OSError):  # a file system without locks
                file = _open(path, os.O_RDONLY)
                self._files.append(file)
                lock = struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, start, length, 0)  # struct flock
                fcntl.fcntl(file, fcntl.F_OFD_SETLK, lock)

    def close(self) -> None:
        """To be called before the database is closed, and not after it."""
        for file in self._files:
            _close(file)
        self._files.clear()
