"""The delivery log with real SQLite files."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from support.disks import full_disk
from support.payloads import load
from support.processes import ROOT

from webhooks import Delivery, SetupError, WebhookPayload
from webhooks.deliveries.log import DeliveryLog, Record, reading
from webhooks.deliveries.log import find as find_in
from webhooks.redact import split_credentials

HEADERS = ((b"content-type", b"application/json"), (b"x-odd", b"\xff"))


def new(**fields: object) -> Delivery:
    return Delivery(
        "/webhooks/f", **{"payload": None, "query": b"a=1", "headers": HEADERS, "body": b'{"a": 1}', **fields}
    )


def add(log: DeliveryLog, status: str = "running", **fields: object) -> Delivery:
    delivery = new(**fields)
    with log.transaction():
        log.add(delivery, status)
    return delivery


def find(log: DeliveryLog, id: object) -> Record:
    with reading(log.path) as database:
        return find_in(database, id)


def rows(log: DeliveryLog, query: str) -> list[tuple[object, ...]]:
    with reading(log.path) as database:
        return [tuple(row) for row in database.execute(query)]


def finish(log: DeliveryLog, delivery: Delivery, status: str = "succeeded") -> None:
    with log.transaction():
        if status == "failed":
            log.fail_attempt(delivery.id, "Traceback")
        log.finish(delivery.id, status, 200, b"{}")


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    log = DeliveryLog(tmp_path)
    payload = WebhookPayload.model_validate(load("repo.content-update"))
    body = payload.model_dump_json(by_alias=True, exclude_unset=True).encode()
    delivery = new(payload=payload, body=body, replay_of="0123456789abcdef")
    with log.transaction():
        log.add(delivery, "running")
        log.fail_attempt(delivery.id, "Traceback 1")
        log.schedule(delivery.id, time.time())
    with log.transaction():
        assert log.start_attempt(delivery.id).delivery == replace(
            delivery, attempt=2, received_at=find(log, delivery.id).delivery.received_at
        )
        log.finish(delivery.id, "succeeded", 200, b'{"job": 1}')
    log.close()
    record = find(DeliveryLog(tmp_path), delivery.id)
    assert abs(record.delivery.received_at - delivery.received_at) < timedelta(milliseconds=1)
    assert record.delivery.received_at.tzinfo == timezone.utc
    assert record.delivery == replace(delivery, attempt=2, received_at=record.delivery.received_at)
    assert (record.status, record.failures) == ("succeeded", 1)
    assert (record.answer_status, record.answer) == (200, b'{"job": 1}')
    assert [(a.attempt, a.error) for a in record.attempts] == [(1, "Traceback 1"), (2, None)]
    assert all(a.ended_at is not None and a.started_at <= a.ended_at for a in record.attempts)


@pytest.mark.parametrize(
    "id",
    ["", "0" * 16, "f" * 16, "F" * 16, "1" * 17, "' OR 1=1 --", "%", "ä", "\ud800", "\x00", None, 1, 2**70, ["a"], {}],
)
def test_an_id_that_the_log_does_not_have_is_a_key_error(tmp_path: Path, id: object) -> None:
    add(log := DeliveryLog(tmp_path))
    with pytest.raises(KeyError) as caught:
        find(log, id)
    assert caught.value.args == (id,)


def test_what_runs_has_an_attempt_without_an_end(tmp_path: Path) -> None:
    log = DeliveryLog(tmp_path)
    running, queued = add(log), add(log, "queued")
    assert [(a.attempt, a.ended_at, a.error) for a in find(log, running.id).attempts] == [(1, None, None)]
    assert find(log, queued.id).attempts == ()


def test_many_arrive_and_finish_in_one_transaction(tmp_path: Path) -> None:
    log = DeliveryLog(tmp_path)
    earlier, later = [[new() for _ in range(1200)] for _ in range(2)]
    with log.transaction():
        for delivery in earlier:
            log.add(delivery, "running")
    with log.transaction():
        for done, arrived in zip(earlier, later, strict=True):
            log.finish(done.id, "succeeded", 200, done.id.encode())
            log.add(arrived, "running")
    assert log.counts() == {"succeeded": 1200, "running": 1200}
    with log.transaction():
        for delivery in later:
            log.finish(delivery.id, "succeeded", 200, b"{}")
            log.add(another := new(), "running")
            log.finish(another.id, "failed", 500, b"{}")
    assert log.counts() == {"succeeded": 2400, "failed": 1200}
    record = find(log, earlier[7].id)
    assert (record.delivery.body, record.answer, record.status) == (b'{"a": 1}', earlier[7].id.encode(), "succeeded")


def test_a_transaction_is_all_or_nothing(tmp_path: Path) -> None:
    log = DeliveryLog(tmp_path)
    first, delivery = add(log), new()

    def twice() -> None:
        with log.transaction():
            log.finish(first.id, "succeeded", 200, b"{}")
            log.add(delivery, "running")
            log.fail_attempt(delivery.id, "after what was put before it")
            log.add(delivery, "running")

    with pytest.raises(sqlite3.IntegrityError):
        twice()
    assert log.counts() == {"running": 1}
    add(log)
    assert log.counts() == {"running": 2}


@pytest.mark.parametrize(("shared_disk", "mode"), [(False, "wal"), (True, "delete")])
def test_a_log_survives_a_loss_of_power(tmp_path: Path, shared_disk: bool, mode: str) -> None:
    log = DeliveryLog(tmp_path, shared_disk=shared_disk)
    assert rows(log, "PRAGMA journal_mode") == [(mode,)]
    assert log._one("PRAGMA synchronous") == 2  # FULL; nothing but a loss of power would show it
    assert (tmp_path / "deliveries.db-wal").exists() == (mode == "wal")


def test_only_the_owner_of_the_machine_can_look_into_the_folder(tmp_path: Path) -> None:
    DeliveryLog(tmp_path / "new" / "log")
    assert (tmp_path / "new" / "log").stat().st_mode & 0o777 == 0o700


def execute(path: Path, *statements: str) -> None:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        for statement in statements:
            database.execute(statement)


def another_programs_database(path: Path) -> None:
    path.unlink()
    execute(path, "PRAGMA user_version = 1", "CREATE TABLE deliveries (parcel TEXT)")


def break_byte(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] = 255
    path.write_bytes(content)


def random_bytes_inside(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4096:] = os.urandom(len(content) - 4096)
    path.write_bytes(content)


DAMAGES = {
    "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
    "cut to a stump": lambda path: os.truncate(path, 50),
    "random bytes": lambda path: path.write_bytes(os.urandom(20_000)),
    "random bytes inside": random_bytes_inside,
    "text": lambda path: path.write_text("this is no database\n" * 100),
    "another program's database": another_programs_database,
    "a later version": lambda path: execute(path, "PRAGMA user_version = 99"),
    "an earlier version": lambda path: execute(path, "PRAGMA user_version = 3"),
    "no version": lambda path: execute(path, "PRAGMA user_version = 0"),
    "what SQLite calls an unsupported file format": lambda path: break_byte(path, 47),
    "what SQLite calls a readonly database": lambda path: break_byte(path, 18),
    "a table that is gone": lambda path: execute(path, "DROP TABLE attempts"),
    "a status that is no text": lambda path: execute(path, "UPDATE deliveries SET status = CAST(x'ff' AS TEXT)"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_log_is_moved_aside_loudly_and_a_new_one_begins(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    log = DeliveryLog(tmp_path)
    for _ in range(20):
        add(log)
    log.close()
    DAMAGES[damage](log.path)
    damaged = log.path.read_bytes()
    log = DeliveryLog(tmp_path)
    assert log.counts() == {}
    add(log)
    (aside,) = tmp_path.glob("deliveries.db.damaged-*[0-9]")
    assert aside.read_bytes() == damaged
    (loud,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert "DAMAGED" in loud.message
    assert str(aside) in loud.message
    assert "\n" not in loud.message


def test_an_empty_file_is_a_new_log(tmp_path: Path) -> None:
    (tmp_path / "deliveries.db").touch()
    assert DeliveryLog(tmp_path).counts() == {}
    assert not list(tmp_path.glob("*damaged*"))


def test_a_folder_that_cannot_be_used_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SetupError, match="WEBHOOKS_DATA_DIR"):
        DeliveryLog(tmp_path / "file")


OPEN = (
    "import sys; from pathlib import Path; from webhooks.deliveries.log import DeliveryLog; "
    "log = DeliveryLog(Path(sys.argv[1]))"
)


def open_in_another_process(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", OPEN, str(folder)], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.long
def test_a_second_process_on_one_log_is_refused(tmp_path: Path) -> None:
    log = DeliveryLog(tmp_path)
    second = open_in_another_process(tmp_path)
    assert second.returncode == 1
    assert "Another process already works with the delivery log" in second.stderr
    assert "Traceback" not in second.stderr
    log.close()
    assert open_in_another_process(tmp_path).returncode == 0


def test_a_file_system_without_locks_is_not_taken_for_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fcntl = pytest.importorskip("fcntl")

    def flock(file: int, operation: int) -> None:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(SetupError, match="cannot be used"):
        DeliveryLog(tmp_path)


def test_finished_deliveries_over_the_limit_are_pruned_oldest_first_and_unfinished_ones_never(tmp_path: Path) -> None:
    log = DeliveryLog(tmp_path, keep=3)
    waiting = [add(log, "queued"), add(log, "scheduled"), add(log)]
    done = [add(log) for _ in range(8)]
    for delivery in done:
        finish(log, delivery, "failed")
    with log.transaction():
        log.prune()
        log.prune()
    kept = [(delivery.id,) for delivery in waiting + done[-3:]]
    assert rows(log, "SELECT id FROM deliveries ORDER BY number") == kept
    assert rows(log, "SELECT id FROM deliveries WHERE number IN (SELECT delivery FROM attempts)") == kept[-3:]


def test_finished_deliveries_are_pruned_after_thirty_days(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = DeliveryLog(tmp_path)
    old, unfinished = add(log), add(log)
    finish(log, old)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 29.9 * 24 * 60 * 60)
    with log.transaction():
        log.prune()
    assert sum(log.counts().values()) == 2
    monkeypatch.setattr(time, "time", lambda: now + 30.1 * 24 * 60 * 60)
    with log.transaction():
        log.prune()
    assert log.counts() == {"running": 1}
    assert find(log, unfinished.id).status == "running"


@pytest.mark.parametrize("is_ours", [True, False])
def test_the_log_holds_no_credentials_and_says_which_there_were(tmp_path: Path, is_ours: bool) -> None:
    sent = [(b"x-webhook-secret", b"s3cret-1"), (b"cookie", b"s3cret-2"), (b"x-ip-token", b"s3cret-3"), (b"a", b"b")]
    log = DeliveryLog(tmp_path)
    headers, withheld = split_credentials(sent, is_ours=is_ours)
    written = find(log, add(log, headers=headers, withheld=withheld).id).delivery
    log.close()
    assert (written.headers, written.withheld) == (headers, withheld)
    assert set(withheld) == {b"cookie", b"x-ip-token"} | (set() if is_ours else {b"x-webhook-secret"})
    assert not any(b"s3cret" in file.read_bytes() for file in tmp_path.iterdir())


def test_times_are_utc(tmp_path: Path) -> None:
    log = DeliveryLog(tmp_path)
    moment = datetime(2026, 11, 23, 12, tzinfo=timezone(timedelta(hours=5)))
    delivery = add(log, received_at=moment)
    assert find(log, delivery.id).delivery.received_at == moment


# What other programs do to the file while it is open


@pytest.mark.parametrize("shared_disk", [False, True])
def test_nothing_is_written_while_another_file_is_in_the_place_of_the_log(tmp_path: Path, shared_disk: bool) -> None:
    log = DeliveryLog(tmp_path / "log", shared_disk=shared_disk)
    add(log)
    DeliveryLog(tmp_path / "other").close()
    log.path.rename(tmp_path / "mine")
    shutil.copy(tmp_path / "other" / "deliveries.db", log.path)
    with pytest.raises(OSError, match="was deleted or replaced"):
        add(log)
    os.replace(tmp_path / "mine", log.path)
    add(log)
    assert log.counts() == {"running": 2}


@pytest.mark.parametrize("shared_disk", [False, True])
def test_a_log_opens_on_a_full_disk(tmp_path: Path, shared_disk: bool) -> None:
    log = DeliveryLog(tmp_path, shared_disk=shared_disk)
    add(log)
    log.close()
    with full_disk(tmp_path):
        log = DeliveryLog(tmp_path, shared_disk=shared_disk)
        assert log.counts() == {"running": 1}
        with pytest.raises((sqlite3.Error, OSError)):
            add(log, body=b"x" * 1_000_000)
    add(log)
    assert log.counts() == {"running": 2}
