"""The file of the log, and the thread that writes to it."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from pathlib import Path

import pytest
from support.asgi import on_loop, soon
from support.engines import WAIT, execute, rows, wait_until

from webhooks import Delivery, SetupError
from webhooks.deliveries import database as module
from webhooks.deliveries.database import Database, NotWrittenError
from webhooks.deliveries.log import DeliveryLog


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with opened(tmp_path / "log") as database:
        yield database


@contextlib.contextmanager
def opened(folder: Path, **options: bool) -> Iterator[Database]:
    database = Database(folder, **options)
    yield database
    database.close(bool)
    assert database.wait()


def add(database: Database, size: int = 10) -> None:
    """Add a delivery with a body of so many bytes. A step."""
    DeliveryLog(database.connection, database.path).add(Delivery("/webhooks/f", None, body=b"x" * size), "running")


async def write_later(database: Database, step: Callable[[], None], within: float = 0) -> None:
    database.write_later(step, within)


def count(folder: Path) -> int:
    return rows(folder, "SELECT count(*) FROM deliveries")[0][0]


# Write


def test_failing_step_does_not_fail_its_batch(database: Database) -> None:
    busy = threading.Event()

    def add_and_fail() -> None:
        add(database)
        raise ValueError

    first = soon(database.write, lambda: busy.wait(WAIT))
    writes = [soon(database.write, step) for step in (lambda: add(database), add_and_fail, lambda: add(database))]
    busy.set()
    wait([first, *writes], WAIT)
    assert [type(write.exception()) for write in writes] == [type(None), ValueError, type(None)]
    assert count(database.path.parent) == 2


def test_writes_that_wait_share_a_commit(database: Database) -> None:
    busy, statements = threading.Event(), []
    database.connection.set_trace_callback(statements.append)
    first = soon(database.write, lambda: busy.wait(WAIT))
    wait_until(lambda: statements)
    writes = [soon(database.write, lambda: add(database)) for _ in range(50)]
    on_loop(write_later, database, lambda: add(database), 3600)  # afterwards each write is in the queue
    busy.set()
    wait([first, *writes], WAIT)
    assert statements.count("COMMIT") == 2
    assert count(database.path.parent) == 51


@contextlib.contextmanager
def full_disk(folder: Path) -> Iterator[None]:
    """Let no file of this process grow past the largest file in the folder."""
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (max(path.stat().st_size for path in folder.iterdir()), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)


def test_full_disk_delays_what_must_be_written(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.05)

    def add_large() -> None:
        add(database, 1_000_000)

    with full_disk(database.path.parent):
        with pytest.raises(NotWrittenError):
            on_loop(database.write, add_large)
        assert database.is_failing
        retried = soon(database.write_with_retry, add_large)
        on_loop(write_later, database, add_large)
        assert count(database.path.parent) == 0
    retried.result(WAIT)
    wait_until(lambda: count(database.path.parent) == 2)
    assert not database.is_failing


# Open


@pytest.mark.parametrize(("on_bucket", "mode"), [(False, "wal"), (True, "delete")])
def test_commits_are_written_for_a_loss_of_power(tmp_path: Path, on_bucket: bool, mode: str) -> None:
    with opened(tmp_path, on_bucket=on_bucket) as database:
        assert rows(tmp_path, "PRAGMA journal_mode") == [(mode,)]
        assert tuple(database.connection.execute("PRAGMA synchronous").fetchone()) == (2,)  # FULL


def test_second_user_of_a_folder_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path), pytest.raises(SetupError, match="Another process already works with the delivery log"):
        Database(tmp_path)
    with opened(tmp_path):  # once the first one has closed it
        pass


# Damage


def replace_by_another_database(path: Path) -> None:
    path.unlink()
    execute(path, "PRAGMA user_version = 6", "CREATE TABLE deliveries (parcel TEXT)")


DAMAGES = {
    "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
    "random bytes": lambda path: path.write_bytes(os.urandom(20_000)),
    "another program's database": replace_by_another_database,
    "older than 0.1.0": lambda path: execute(path, "PRAGMA user_version = 4"),
    "missing table": lambda path: execute(path, "DROP TABLE attempts"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_log_is_renamed_loudly(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    with opened(tmp_path) as database:
        for _ in range(20):
            on_loop(database.write, lambda: add(database))
    DAMAGES[damage](database.path)
    damaged = database.path.read_bytes()
    with opened(tmp_path) as database:
        on_loop(database.write, lambda: add(database))
        assert count(tmp_path) == 1
    (renamed,) = tmp_path.glob("deliveries.db.damaged-*[0-9]")
    assert renamed.read_bytes() == damaged
    (error,) = [record.message for record in caplog.records if record.levelname == "ERROR"]
    assert "DAMAGED" in error
    assert str(renamed) in error
    assert "\n" not in error


def test_log_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    with opened(tmp_path) as database:
        on_loop(database.write, lambda: add(database))
    execute(database.path, "PRAGMA user_version = 99")
    before = database.path.read_bytes()
    with pytest.raises(SetupError, match="newer version"):
        Database(tmp_path)
    assert database.path.read_bytes() == before
    assert not list(tmp_path.glob("*damaged*"))


def test_folder_that_cannot_be_locked_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOTSUP, "not supported")

    monkeypatch.setattr("fcntl.flock", refuse)
    Database(tmp_path).close(bool)
