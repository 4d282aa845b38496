"""Starts of which nobody knows how they ended, lists that lag, and a Hub that does not answer: one Job in the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from huggingface_hub.errors import HfHubHTTPError
from support.dispatching import WAIT
from support.hub import Hub
from support.jobs import CANCEL, LOOK_UP, START, TOKEN, WHOAMI, Naps, Office, arrived, old_job, train

import webhooks.jobs
from webhooks import Delivery
from webhooks.jobs import JobRefused, StartUnknown

pytestmark = pytest.mark.once

LIVE, CANCELED = "SCHEDULING", "CANCELED"


def stages(hub: Hub) -> list[str]:
    return [job.stage for job in hub.jobs]


def starts(hub: Hub) -> int:
    return sum((request.method, request.path) == START for request in hub.requests)


def next_attempt(delivery: Delivery) -> Delivery:
    return replace(delivery, attempt=delivery.attempt + 1)


# --- one start in doubt


@pytest.mark.parametrize("after", [1, 4, 55])
@pytest.mark.parametrize("status", [504, 500, 408, None])
def test_a_job_that_is_made_after_its_start_has_failed_is_waited_for(
    hub: Hub, naps: Naps, status: int | None, after: float
) -> None:
    naps.make(hub.late(*START, status), after)
    job = train(arrived())
    assert [made.id for made in hub.jobs] == [job.id]
    assert starts(hub) == 1


def test_a_start_that_was_cut_after_the_job_was_made_and_is_listed_late_is_not_repeated(hub: Hub) -> None:
    hub.lists_late = 4
    hub.lose_answer(*START)
    assert train(arrived()).id == hub.jobs[0].id
    assert starts(hub) == 1


def test_a_job_that_never_appears_is_started_again_by_another_attempt_a_minute_later(hub: Hub, naps: Naps) -> None:
    delivery = arrived()
    hub.fail(*START, 504)
    with pytest.raises(StartUnknown) as unknown:
        train(delivery)
    assert naps.seconds >= 60
    assert f"hf jobs ls --all --namespace julien --label webhook-delivery={delivery.id}" in str(unknown.value)
    assert isinstance(unknown.value.__cause__, HfHubHTTPError)
    assert train(next_attempt(delivery)).id == hub.jobs[0].id
    assert (naps.seconds, starts(hub)) == (120, 2)


def test_lists_that_fail_after_a_start_in_doubt_do_not_hide_the_doubt(hub: Hub, naps: Naps) -> None:
    hub.fail(*LOOK_UP, 503, times=1000, after=1)
    hub.fail(*START, 504)
    with pytest.raises(StartUnknown):
        train(arrived())
    assert naps.seconds >= 60


@pytest.mark.parametrize("status", [402, 429])
def test_a_start_that_the_hub_has_refused_is_in_no_doubt(hub: Hub, naps: Naps, status: int) -> None:
    delivery = arrived()
    hub.fail(*START, status)
    with pytest.raises((JobRefused, HfHubHTTPError)):
        train(delivery)
    assert naps.seconds == 0
    train(next_attempt(delivery))
    assert len(hub.jobs) == 1


@pytest.mark.parametrize("content", [b"<html>", b"{}", b"\xff"])
def test_an_answer_that_says_nothing_leaves_a_start_in_doubt(hub: Hub, naps: Naps, content: bytes) -> None:
    hub.babble(*START, content)
    with pytest.raises(StartUnknown):
        train(arrived())
    assert naps.seconds >= 60


def test_an_error_of_the_hub_that_repeats_the_token_is_not_repeated_in_ours(hub: Hub) -> None:
    hub.fail(*START, 500, f"{TOKEN} is not to be seen")
    with pytest.raises(StartUnknown) as unknown:
        train(arrived())
    assert TOKEN not in str(unknown.value)


# --- another attempt


def test_after_a_kill_the_hub_has_a_minute_to_show_what_was_started(hub: Hub, naps: Naps) -> None:
    delivery = arrived()
    on_its_way = hub.late(*START, None)
    with pytest.raises(StartUnknown):
        train(delivery)
    naps.seconds = 0
    naps.make(on_its_way, 50)
    assert train(next_attempt(delivery)).id == hub.jobs[0].id
    assert (naps.seconds, starts(hub)) == (60, 1)


def test_after_a_kill_before_the_start_the_job_is_started_a_minute_later(hub: Hub, naps: Naps) -> None:
    train(next_attempt(arrived()))
    assert (naps.seconds, stages(hub)) == (60, [LIVE])


def test_a_first_attempt_waits_for_nothing(hub: Hub, naps: Naps) -> None:
    train(arrived())
    assert (naps.seconds, len(hub.jobs)) == (0, 1)


# --- two Jobs


def test_a_job_whose_list_does_not_come_is_not_lost(hub: Hub) -> None:
    hub.fail(*LOOK_UP, 503, times=1000, after=1)
    assert train(arrived()).id == hub.jobs[0].id


def two_jobs(hub: Hub, delivery: Delivery, *stages: str) -> None:
    """Have the Hub hold Jobs of one delivery, the oldest of which it lists first."""
    train(delivery)
    (first,) = hub.jobs
    now = datetime.now(timezone.utc)
    hub.jobs[:] = [old_job(hub, **first.labels, stage=stage) for stage in stages]
    for age, job in enumerate(hub.jobs):
        job.id, job.created_at = f"{9 - age:024x}", now - timedelta(seconds=age)


@pytest.mark.parametrize("attempt", [1, 2])
def test_whoever_finds_two_live_jobs_of_a_delivery_cancels_the_younger(hub: Hub, attempt: int) -> None:
    delivery = replace(arrived(), attempt=attempt)
    two_jobs(hub, delivery, "RUNNING", "RUNNING", "RUNNING")
    oldest = hub.jobs[-1].id
    assert train(delivery).id == oldest
    assert stages(hub) == [CANCELED, CANCELED, "RUNNING"]


def test_a_job_that_has_ended_ends_no_other(hub: Hub) -> None:
    delivery = arrived()
    two_jobs(hub, delivery, "RUNNING", "ERROR")
    assert train(delivery).stage == "RUNNING"
    assert stages(hub) == ["RUNNING", "ERROR"]


def test_a_second_job_that_the_hub_does_not_cancel_is_left_to_the_next_attempt(hub: Hub) -> None:
    delivery = arrived()
    two_jobs(hub, delivery, "RUNNING", "RUNNING")
    hub.fail(*CANCEL, 503)
    with pytest.raises(HfHubHTTPError):
        train(delivery)
    train(delivery)
    assert stages(hub) == [CANCELED, "RUNNING"]


# --- a Hub that does not answer


@pytest.mark.parametrize("request_", [WHOAMI, LOOK_UP, CANCEL])
def test_a_call_that_is_never_answered_ends(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, request_: tuple[str, str]
) -> None:
    if request_ == CANCEL:
        train(arrived())
    monkeypatch.setattr(webhooks.jobs, "ANSWER_WITHIN", 0.5)
    held = hub.hold(*request_)
    delivery = arrived()
    with pytest.raises(TimeoutError, match=r"within 0\.5 seconds"):
        train(delivery, cancel_running=True)
    assert held.arrived.is_set()
    monkeypatch.setattr(webhooks.jobs, "ANSWER_WITHIN", WAIT)
    assert train(delivery, cancel_running=True).id == hub.jobs[-1].id


def test_a_start_that_is_never_answered_is_looked_for(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks.jobs, "ANSWER_WITHIN", 1)
    hub.hold(*START)
    assert train(arrived()).id == hub.jobs[0].id
    assert starts(hub) == 1


# --- two servers of one namespace


def test_two_spaces_leave_each_others_jobs_alone(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    for space in ("me/one", "me/two", "me/one"):
        monkeypatch.setenv("SPACE_ID", space)
        train(arrived(), cancel_running=True)
    assert stages(hub) == [CANCELED, LIVE, LIVE]


def test_two_logs_of_a_laptop_leave_each_others_jobs_alone(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for log in ("one", "two", "one"):
        monkeypatch.setenv("WEBHOOKS_DATA_DIR", str(tmp_path / log))
        train(arrived(), cancel_running=True)
    assert stages(hub) == [CANCELED, LIVE, LIVE]
    assert str(tmp_path) not in str([job.labels for job in hub.jobs])


def test_a_job_is_found_again_by_a_machine_that_has_another_name(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    delivery = arrived()
    first = train(delivery)
    monkeypatch.setattr("platform.node", lambda: "another")
    assert train(next_attempt(delivery)).id == first.id


def test_one_event_that_two_webhooks_bring_in_the_same_nanosecond_is_two_deliveries(hub: Hub) -> None:
    one = arrived()
    assert one.payload
    webhook = one.payload.webhook.model_copy(update={"id": "f" * 24})
    two = replace(one, payload=one.payload.model_copy(update={"webhook": webhook}))
    assert train(one).id != train(two).id


# --- through the engine: every way in which the Hub fails around a start, and a handler without another attempt

Invoker = Callable[[Hub, Naps], object]


def late(status: int | None, after: float) -> Invoker:
    return lambda hub, naps: naps.make(hub.late(*START, status), after)


WAYS: dict[str, Invoker] = {
    "answered": lambda hub, naps: None,
    "late": late(504, 4),
    "cut and late": late(None, 4),
    "cut after": lambda hub, naps: hub.lose_answer(*START),
    "never answered": lambda hub, naps: hub.hold(*START),
}


@pytest.mark.parametrize("cancel_running", [False, True])
@pytest.mark.parametrize("lists_late", [0, 3])
@pytest.mark.parametrize("way", WAYS)
def test_however_a_start_ends_one_attempt_leads_to_one_job(
    office: Office, hub: Hub, naps: Naps, monkeypatch: pytest.MonkeyPatch,
    way: str, lists_late: int, cancel_running: bool,
) -> None:  # fmt: skip
    monkeypatch.setattr(webhooks.jobs, "ANSWER_WITHIN", 1 if way == "never answered" else WAIT)
    hub.lists_late = lists_late
    WAYS[way](hub, naps)
    training = office.add(lambda delivery: train(delivery, cancel_running=cancel_running), path="/train")
    id = office.start().begin(training)
    (record,) = office.wait_until_finished(id)
    (job,) = hub.jobs
    assert (record.status, len(record.attempts), job.stage) == ("succeeded", 1, LIVE)
    assert [started.id for started in office.jobs(id)] == [job.id]


def test_a_handler_without_another_attempt_fails_with_the_way_to_look(office: Office, hub: Hub) -> None:
    hub.fail(*START, 504)
    id = office.start().begin(office.add_training(max_attempts=1))
    (record,) = office.wait_until_finished(id)
    assert record.status == "failed"
    assert f"hf jobs ls --all --namespace julien --label webhook-delivery={id}" in (record.attempts[0].error or "")
