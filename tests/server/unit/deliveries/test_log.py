"""The statements of the log."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from support.engines import rows
from support.payloads import load

from webhooks import Delivery, WebhookPayload
from webhooks.deliveries import log as module
from webhooks.deliveries.database import Database
from webhooks.deliveries.log import DeliveryLog, Record, find, reading
from webhooks.delivery import StartedJob


@pytest.fixture
def log(tmp_path: Path) -> Iterator[DeliveryLog]:
    database = Database(tmp_path)
    yield DeliveryLog(database.connection, database.path)  # outside of a batch each statement is a commit
    database.close(bool)
    database.wait()


def add(log: DeliveryLog, status: str = "running", **fields: object) -> Delivery:
    delivery = Delivery("/webhooks/f", **{"payload": None, "body": b"{}", **fields})
    log.add(delivery, status)
    return delivery


def find_in(log: DeliveryLog, id: str) -> Record:
    with reading(log.path) as database:
        return find(database, id)


def test_delivery_is_read_as_it_was_written(log: DeliveryLog) -> None:
    payload = WebhookPayload.model_validate(load("repo.content-update"))
    delivery = add(
        log,
        payload=payload,
        body=payload.model_dump_json(by_alias=True, exclude_unset=True).encode(),
        query=b"a=1",
        headers=((b"content-type", b"application/json"), (b"x-odd", b"\xff")),
        withheld=(b"cookie",),
        received_at=datetime(2026, 11, 23, 12, tzinfo=timezone(timedelta(hours=5))),
        replay_of="0123456789abcdef",
        source="catch_up",
    )
    log.fail_attempt(delivery.id, "Traceback 1")
    log.schedule(delivery.id, time.time())
    assert vars(log.start_attempt(delivery.id).delivery) == vars(replace(delivery, attempt=2))
    assert find_in(log, delivery.id).attempts[1].ended_at is None
    log.finish(delivery.id, "succeeded", 200, b'{"job": 1}')
    record = find_in(log, delivery.id)
    assert record.delivery.received_at.tzinfo == timezone.utc
    assert (record.status, record.failures) == ("succeeded", 1)
    assert (record.answer_status, record.answer) == (200, b'{"job": 1}')
    assert [(a.attempt, a.error) for a in record.attempts] == [(1, "Traceback 1"), (2, None)]
    assert all(a.ended_at is not None and a.started_at <= a.ended_at for a in record.attempts)


def test_only_the_oldest_finished_are_pruned(log: DeliveryLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEEP", 3)
    waiting = [add(log, status) for status in ("queued", "scheduled", "running")]
    finished = [add(log) for _ in range(8)]
    for delivery in finished:
        log.fail_attempt(delivery.id, "Traceback")
        log.finish(delivery.id, "failed", 500, b"{}")
    log.prune()
    folder, kept = log.path.parent, [(delivery.id,) for delivery in waiting + finished[-3:]]
    assert rows(folder, "SELECT id FROM deliveries ORDER BY number") == kept
    assert rows(folder, "SELECT printf('%016x', delivery) FROM attempts ORDER BY delivery") == kept[-3:]


def test_finished_are_pruned_after_thirty_days(log: DeliveryLog, monkeypatch: pytest.MonkeyPatch) -> None:
    finished, unfinished = add(log), add(log)
    log.finish(finished.id, "succeeded", 200, b"{}")
    now = time.time()
    for days, left in ((29.9, [finished, unfinished]), (30.1, [unfinished])):
        monkeypatch.setattr(time, "time", lambda days=days: now + days * 24 * 60 * 60)
        log.prune()
        assert rows(log.path.parent, "SELECT id FROM deliveries") == [(delivery.id,) for delivery in left]


def test_final_stage_of_a_job_stays(log: DeliveryLog) -> None:
    job = StartedJob("6f00", "me", "https://huggingface.co/jobs/me/6f00", "cpu-basic", "RUNNING")
    log.add_jobs(add(log).id, [job, "no Job"])
    log.set_stage(job.id, "COMPLETED")
    log.set_stage(job.id, "RUNNING")  # responses of the Hub may come late
    assert rows(log.path.parent, "SELECT id, stage FROM jobs") == [(job.id, "COMPLETED")]
