"""Jobs: one for each delivery, whatever fails on the way, with the real client against a stand-in Hub."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import httpx2
import hypothesis.strategies as st
import pytest
from fastapi import HTTPException
from huggingface_hub.errors import HfHubHTTPError
from hypothesis import HealthCheck, example, given, settings
from support.asgi import wait_until_written
from support.dashboard import delivery_page
from support.dispatching import WAIT, wait_until
from support.hub import Hub
from support.jobs import CANCEL, JOBS, LOOK_UP, START, TOKEN, WHOAMI, Office, arrived, commit_to, old_job, train

import webhooks.jobs
from webhooks import Delivery, GiveUp
from webhooks.dashboard.stages import JobWatch
from webhooks.deliveries.log import DeliveryLog, find, reading
from webhooks.delivery import StartedJob
from webhooks.jobs import Job, JobRefused, StartUnknown, label, launch_job

pytestmark = pytest.mark.once

Script = Callable[[Hub], Any]


def test_a_job_is_started_as_it_was_asked_for(hub: Hub) -> None:
    delivery = arrived()
    job = train(delivery, timeout="2h")
    (started,) = hub.jobs
    assert (job.dry_run, job.id, job.stage, job.namespace) == (False, started.id, "SCHEDULING", "julien")
    assert job.url == f"{hub.url}/jobs/julien/{started.id}"
    assert started.command[-3:] == ["trl", "sft", "--push_to_hub"]
    assert (started.flavor, started.timeout, started.secrets) == ("t4-small", 7200, {"HF_TOKEN": TOKEN})
    assert started.labels["webhook-delivery"] == delivery.id
    assert TOKEN not in str([started.command, started.arguments, started.environment, started.labels])
    assert TOKEN not in job.model_dump_json()


def test_another_attempt_of_the_same_delivery_finds_its_job(hub: Hub) -> None:
    delivery = arrived()
    first, second = train(delivery), train(replace(delivery, attempt=2))
    assert first.id == second.id
    assert len(hub.jobs) == 1


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404])
def test_a_refusal_gives_up_with_the_hubs_reason(hub: Hub, status: int) -> None:
    hub.fail("POST", "/api/jobs/*", status, "Insufficient credit.")
    with pytest.raises(JobRefused, match=rf"{status} .*Insufficient credit\."):
        train(arrived())
    assert hub.jobs == []


def test_several_jobs_of_one_delivery_are_told_apart_by_name(hub: Hub) -> None:
    delivery = arrived()
    ids = {train(delivery, name=name).id for name in ("small", "large", "small")}
    assert len(ids) == len(hub.jobs) == 2
    assert {job.id for job in delivery.jobs} == ids


def test_cancel_running_cancels_the_earlier_job_of_the_same_endpoint_and_repository(hub: Hub) -> None:
    train(arrived())
    other_repo, other_endpoint = train(arrived(repo="me/other")), train(arrived("/webhooks/other"))
    finished = train(arrived())
    next(job for job in hub.jobs if job.id == finished.id).stage = "COMPLETED"
    train(arrived(), cancel_running=True)
    stages = {job.id: job.stage for job in hub.jobs}
    assert stages.pop(other_repo.id) == stages.pop(other_endpoint.id) == "SCHEDULING"
    assert list(stages.values()) == ["CANCELED", "COMPLETED", "SCHEDULING"]


def test_a_late_retry_does_not_cancel_the_job_of_a_newer_event(hub: Hub) -> None:
    old, new = arrived(), arrived()
    train(new, cancel_running=True)
    train(old, cancel_running=True)
    assert [job.stage for job in hub.jobs] == ["SCHEDULING", "SCHEDULING"]


def test_an_organization_pays_where_it_is_named(hub: Hub) -> None:
    assert train(arrived(), namespace="acme").namespace == "acme"
    assert hub.jobs[0].namespace == "acme"


@pytest.mark.parametrize("setting", ["DRY_RUN", "HF_TOKEN"])
def test_a_dry_run_asks_the_hub_nothing(hub: Hub, monkeypatch: pytest.MonkeyPatch, setting: str) -> None:
    monkeypatch.setenv(setting, "true" if setting == "DRY_RUN" else "")
    job = train(arrived())
    assert (job.dry_run, job.id, setting in (job.reason or "")) == (True, None, True)
    assert hub.requests == []


def test_the_token_among_the_arguments_is_refused(hub: Hub) -> None:
    with pytest.raises(JobRefused, match="token"):
        launch_job(arrived(), "python", [f"--token={TOKEN}"])
    assert hub.requests == []


def test_a_label_is_what_the_hub_takes_and_never_the_same_for_two_names() -> None:
    names = ["train", "me/data", label("me/data"), "me-data", "me.data", "ü" * 200, "x" * 101, "x" * 102, ""]
    assert len({label(name) for name in names}) == len(names)
    assert all(
        len(label(name)) <= 100 and set(label(name)) <= set("abcdefghijklmnopqrstuvwxyz0123456789_-") for name in names
    )
    assert label("train") == "train"


# --- from the handler to the log, through the engine


def slow_list(hub: Hub) -> None:
    for _ in range(6):
        hub.hold(*LOOK_UP)


WAYS: dict[str, Script] = {
    "429": lambda hub: hub.fail(*START, 429),
    "500": lambda hub: hub.fail(*START, 500),
    "503": lambda hub: hub.fail(*START, 503, times=3),
    "408": lambda hub: hub.fail(*START, 408),
    "cut before it takes effect": lambda hub: hub.cut(*START),
    "answer lost, then no list": lambda hub: (
        hub.fail(*LOOK_UP, 500, times=36, after=1),
        hub.lose_answer(*START),
    ),
    "list 503": lambda hub: hub.fail(*LOOK_UP, 503, times=6),
    "list cut": lambda hub: hub.cut(*LOOK_UP, times=6),
    "list never answered": slow_list,
    "whoami 429": lambda hub: hub.fail(*WHOAMI, 429),
    "whoami cut": lambda hub: hub.cut(*WHOAMI),
    "everything once": lambda hub: (
        hub.fail(*WHOAMI, 500),
        hub.cut(*LOOK_UP, times=6),
        hub.fail(*START, 503),
        hub.lose_answer(*START),
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_however_a_launch_fails_the_attempts_lead_to_one_job(
    office: Office, hub: Hub, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    if way == "list never answered":
        monkeypatch.setattr(webhooks.jobs, "ANSWER_WITHIN", 0.5)
    endpoint = office.start().add_training()
    WAYS[way](hub)
    id = office.begin(endpoint)
    (record,) = office.wait_until_finished(id)
    (job,) = hub.jobs
    assert (record.status, len(record.attempts) > 1) == ("succeeded", True)
    assert [started.id for started in office.jobs(id)] == [job.id]


def test_ten_deliveries_of_different_repositories_at_once_start_ten_jobs(office: Office, hub: Hub) -> None:
    endpoint = office.start().add_training(max_attempts=9)
    hub.lose_answer(*START, times=4)
    hub.fail(*START, 503, times=3)
    held = hub.hold(*WHOAMI)
    ids = [office.begin(endpoint, commit_to(f"me/data{number}")) for number in range(10)]
    assert held.arrived.wait(WAIT)
    held.released.set()
    assert {record.status for record in office.wait_until_finished(*ids)} == {"succeeded"}
    assert Counter(job.labels["webhook-delivery"] for job in hub.jobs) == Counter(ids)
    assert len({job.labels["webhook-repo"] for job in hub.jobs}) == 10
    assert sum(request.path == WHOAMI[1] for request in hub.requests) == 1  # it may be asked a few times a minute


def test_an_attempt_that_timed_out_and_goes_on_does_not_start_a_second_job(office: Office, hub: Hub) -> None:
    """It has been told that there is no Job yet, and the next attempts begin before it starts one."""
    third = threading.Event()
    held = hub.hold(*LOOK_UP)

    def handler(delivery: Delivery) -> Job:
        if delivery.attempt == 3:  # the second had all its time to start a Job
            third.set()
        return train(delivery)

    endpoint = office.start().add(handler, timeout=0.5, max_attempts=50)
    id = office.begin(endpoint)
    assert third.wait(WAIT)
    assert hub.jobs == []
    held.released.set()
    (record,) = office.wait_until_finished(id)
    assert (record.status, len(hub.jobs)) == ("succeeded", 1)
    assert "TimeoutError" in (record.attempts[0].error or "")


def test_a_replay_starts_a_new_job(office: Office, hub: Hub) -> None:
    endpoint = office.start().add_training()
    id = office.begin(endpoint)
    office.wait_until_finished(id)
    new_id = office.engine.replay(id)
    office.wait_until_finished(new_id)
    assert [job.labels["webhook-delivery"] for job in hub.jobs] == [id, new_id]


REFUSALS = {
    "no credit": (START, 402, "Pre-paid credit balance is insufficient."),
    "bad flavor": (START, 400, "Invalid flavor <b>h900</b>"),
    "bad token": (WHOAMI, 401, "Invalid credentials in Authorization header"),
    "no permission": (START, 403, "This token lacks the scope job.write"),
    "no such namespace": (LOOK_UP, 404, "No such organization"),
}


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_refusal_fails_after_one_attempt_and_the_page_shows_the_hubs_reason(
    office: Office, hub: Hub, caplog: pytest.LogCaptureFixture, refusal: str
) -> None:
    request, status, reason = REFUSALS[refusal]
    hub.fail(*request, status, reason)
    id, answer = office.start().take(office.add_training(), reply_within=WAIT)
    assert answer.status_code == 500
    assert reason.encode() not in answer.body
    (record,) = office.wait_until_finished(id)
    assert record.status == "failed"
    (attempt,) = record.attempts
    if refusal == "bad token":  # the client has words of its own for that
        reason = "Invalid user token"
    assert f"JobRefused: The Hub refuses this Job: {status} {reason}" in (attempt.error or "")
    page = delivery_page(office.folder / "deliveries.db", id)
    assert reason.replace("<", "&lt;").replace(">", "&gt;") in page
    assert "<b>h900" not in page
    assert wait_until_written(WAIT)
    assert reason in caplog.text
    assert hub.jobs == []


@pytest.mark.parametrize("is_async", [False, True])
def test_a_handler_that_gives_up_is_not_run_again_and_one_that_fails_is(office: Office, is_async: bool) -> None:
    errors = [ValueError("again"), HTTPException(503, "again"), GiveUp("it is no use")]
    left = iter(errors)

    def handler() -> None:
        raise next(left)

    async def async_handler() -> None:
        raise next(left)

    endpoint = office.add(async_handler if is_async else handler, max_attempts=5)
    id = office.start().begin(endpoint)
    (record,) = office.wait_until_finished(id)
    assert (record.status, record.failures, len(record.attempts)) == ("failed", 3, 3)
    assert "GiveUp: it is no use" in (record.attempts[-1].error or "")


def test_a_missing_file_is_no_reason_to_try_again(hub: Hub) -> None:
    with pytest.raises(JobRefused, match=r"no-such-file\.py"):
        launch_job(arrived(), "python", ["no-such-file.py"])
    assert hub.jobs == []


# --- among other Jobs


def test_a_job_is_found_among_hundreds_whether_or_not_the_hub_filters(hub: Hub) -> None:
    hub.page_size = 50
    delivery = arrived()
    train(delivery)
    for number in range(240):
        old_job(hub, **{"webhook-delivery": f"{number:016x}", "webhook-job": "trl", "other": "ü"})
    for hub.ignores_labels in (False, True):
        assert train(replace(delivery)).id == hub.jobs[0].id
    pages = [request for request in hub.requests if "cursor" in request.query]
    assert len(pages) == 4
    assert len(hub.jobs) == 241


def test_what_to_cancel_is_looked_for_among_the_jobs_of_the_same_repository_only(hub: Hub) -> None:
    hub.page_size = 50
    for _ in range(200):
        old_job(hub, **{"webhook-endpoint": "train", "webhook-received": "1"})
    train(arrived(), cancel_running=True)
    # Whose token it is, what has been started for this delivery, and for its repository, and whether it has appeared.
    assert asked(hub) == 3
    assert {job.stage for job in hub.jobs} == {"RUNNING", "SCHEDULING"}


def test_labels_that_somebody_else_wrote_neither_hinder_a_job_nor_get_theirs_cancelled(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPACE_ID", "me/hooks")
    repo = {"webhook-endpoint": "train", "webhook-repo": label("dataset/username/my-dataset")}
    repo["webhook-server"] = label("me/hooks")
    for received in ({}, {"webhook-received": "yesterday"}, {"webhook-received": ""}, {"webhook-received": "9" * 100}):
        old_job(hub, **repo, **received)
        old_job(hub, **received)
    mine = old_job(hub, **repo, **{"webhook-received": "1"})
    assert train(arrived(), cancel_running=True).stage == "SCHEDULING"
    assert [job for job in hub.jobs if job.stage == "CANCELED"] == [mine]


def test_an_earlier_job_that_the_hub_does_not_cancel_does_not_hinder_the_new_one(hub: Hub) -> None:
    for _ in range(3):
        train(arrived())
    hub.fail(*CANCEL, 409, "The Job has ended")
    hub.fail(*CANCEL, 404)
    train(arrived(), cancel_running=True)
    assert Counter(job.stage for job in hub.jobs) == {"SCHEDULING": 3, "CANCELED": 1}


def test_a_hub_in_trouble_while_it_cancels_is_left_to_the_next_attempt(hub: Hub) -> None:
    train(arrived())
    hub.fail(*CANCEL, 503)
    delivery = arrived()
    with pytest.raises(HfHubHTTPError):
        train(delivery, cancel_running=True)
    assert len(hub.jobs) == 1
    train(delivery, cancel_running=True)
    assert [job.stage for job in hub.jobs] == ["CANCELED", "SCHEDULING"]


def test_of_two_commits_in_a_row_the_later_cancels_the_jobs_of_the_earlier(hub: Hub) -> None:
    first, second = arrived(), arrived()
    hub.hold(*LOOK_UP).released.set()
    held = hub.hold(*LOOK_UP)  # the first knows now that there is nothing to cancel
    with ThreadPoolExecutor(2) as threads:
        starts = [threads.submit(train, first, cancel_running=True)]
        assert held.arrived.wait(WAIT)
        starts.append(threads.submit(train, second, cancel_running=True))
        with pytest.raises(FutureTimeout):
            starts[1].result(0.5)
        held.released.set()
        ids = [start.result(WAIT).id for start in starts]
    assert [(job.id, job.stage) for job in hub.jobs] == [(ids[0], "CANCELED"), (ids[1], "SCHEDULING")]


def test_a_start_that_hangs_holds_up_those_of_the_same_repository_for_a_while_only(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks.jobs, "PATIENCE", 0.1)
    held = hub.hold(*START)
    with ThreadPoolExecutor(1) as threads:
        hanging = threads.submit(train, arrived(), cancel_running=True)
        assert held.arrived.wait(WAIT)
        assert train(arrived(), cancel_running=True).stage == "SCHEDULING"
        held.released.set()
        hanging.result(WAIT)
    assert [job.stage for job in hub.jobs] == ["CANCELED", "SCHEDULING"]


def test_names_in_any_script_make_labels_that_the_hub_takes(hub: Hub) -> None:
    delivery = arrived(repo="me/größe-データ")
    ids = {train(delivery, name=name).id for name in ("größe", "グレース", "größe", "x" * 300, "a=b&c")}
    assert len(ids) == len(hub.jobs) == 4


def test_another_token_is_another_account(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add_user("lysandre")
    hub.add_token("hf_another", "lysandre")
    assert train(arrived()).namespace == "julien"
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    assert train(arrived()).namespace == "lysandre"


# --- on the delivery


def test_a_job_is_on_its_delivery_whatever_the_handler_does_with_it(office: Office, hub: Hub) -> None:
    def forget(delivery: Delivery) -> None:
        train(delivery)

    def stumble(delivery: Delivery) -> None:
        train(delivery)
        raise ValueError("after the launch")

    async def async_handler(delivery: Delivery) -> None:
        train(delivery, name="one")
        await asyncio.to_thread(train, delivery, name="two")

    office.start()
    ids = [office.begin(office.add(handler)) for handler in (forget, stumble, async_handler)]
    records = office.wait_until_finished(*ids)
    assert [record.status for record in records] == ["succeeded", "failed", "succeeded"]
    assert [len(office.jobs(id)) for id in ids] == [1, 1, 2]
    page = delivery_page(office.folder / "deliveries.db", ids[0])
    (job,) = office.jobs(ids[0])
    assert f'href="{hub.url}/jobs/julien/{job.id}"' in page
    assert "t4-small" in page
    assert "scheduling" in page


@pytest.fixture
def late_write(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set when what a handler did after its timeout has gone into the log."""
    written = threading.Event()
    add_jobs, finish = DeliveryLog.add_jobs, DeliveryLog.finish
    finished: set[str] = set()

    def see_finish(self: DeliveryLog, id: str, *args: Any) -> None:
        finish(self, id, *args)
        finished.add(id)

    def see_add_jobs(self: DeliveryLog, id: str, jobs: list[StartedJob]) -> None:
        add_jobs(self, id, jobs)
        if id in finished:
            written.set()

    monkeypatch.setattr(DeliveryLog, "finish", see_finish)
    monkeypatch.setattr(DeliveryLog, "add_jobs", see_add_jobs)
    return written


@pytest.mark.usefixtures("hub", "prunes_at_once")
def test_a_handler_that_starts_a_job_after_its_delivery_was_pruned_leaves_the_log_writable(
    office: Office, late_write: threading.Event
) -> None:
    gate = threading.Event()

    def late(delivery: Delivery) -> None:
        train(delivery)
        gate.wait(WAIT)
        train(delivery, name="another")

    slow, quick = office.add(late, timeout=0.1), office.add(lambda: None, path="/quick")
    office.start(keep=0)
    id, answer = office.take(slow, reply_within=WAIT)
    assert answer.status_code == 500
    wait_until(lambda: not office.counts()["failed"])  # it is pruned
    gate.set()
    assert late_write.wait(WAIT)
    for _ in range(3):
        assert office.take(quick, reply_within=WAIT)[1].status_code == 200
    assert office.engine.health()[0] is True
    with reading(office.log_path) as database, pytest.raises(KeyError):
        find(database, id)


def test_a_final_stage_stays_whatever_comes_late_and_after_a_restart_without_the_hub(
    office: Office, hub: Hub, late_write: threading.Event
) -> None:
    gate = threading.Event()

    def slow(delivery: Delivery) -> None:
        train(delivery)
        gate.wait(WAIT)

    id = office.start().begin(office.add(slow, timeout=0.1))
    office.wait_until_finished(id)
    (job,) = office.jobs(id)
    office.engine.learn_stage(job.id, "COMPLETED")
    office.engine.learn_stage(job.id, "RUNNING")
    gate.set()
    assert late_write.wait(WAIT)
    office.stop()
    asked = len(hub.requests)
    office.start()
    (job,) = office.jobs(id)
    assert job.stage == "COMPLETED"
    watch = Watch()
    watch.look([job])
    assert len(hub.requests) == asked


class Watch(JobWatch):
    """A JobWatch that knows what it has learned, and can wait until it has asked."""

    def __init__(self) -> None:
        self.learned: list[tuple[str, str]] = []
        super().__init__(TOKEN, lambda id, stage: self.learned.append((id, stage)))

    def look(self, jobs: list[StartedJob], *, wait: bool = True) -> None:
        before = set(threading.enumerate())
        super().look(jobs)
        for thread in (set(threading.enumerate()) - before) if wait else ():
            thread.join(WAIT)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that a JobWatch sees, in seconds."""
    now = [100.0]
    monkeypatch.setattr("webhooks.dashboard.stages.time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def started(hub: Hub, stage: str = "SCHEDULING") -> StartedJob:
    job = old_job(hub)
    return StartedJob(job.id, job.namespace, "", "f", stage)


def asked(hub: Hub) -> int:
    return sum(request.method == "GET" for request in hub.requests)


def test_the_hub_is_asked_for_a_stage_every_ten_seconds_at_most_and_after_a_final_one_never(
    hub: Hub, clock: list[float]
) -> None:
    watch, job, other = Watch(), started(hub), started(hub, stage="RUNNING")
    for _ in range(5):
        watch.look([job, other])
    assert (watch.learned, asked(hub)) == ([(job.id, "RUNNING")], 2)
    clock[0] += 9.9
    watch.look([job, other])
    assert asked(hub) == 2
    clock[0] += 0.2
    watch.look([job])
    assert asked(hub) == 3
    for stage in ("COMPLETED", "CANCELED", "ERROR", "DELETED"):
        watch.look([started(hub, stage)])
    assert asked(hub) == 3


def test_the_hub_is_asked_for_the_stages_of_ten_unfinished_jobs_at_once(hub: Hub) -> None:
    over, running = ([started(hub, stage) for _ in range(12)] for stage in ("COMPLETED", "RUNNING"))
    Watch().look([*over, *running])
    asked_for = [request.path.rpartition("/")[2] for request in hub.requests]
    assert sorted(asked_for) == sorted(job.id for job in running[:10])


def test_a_job_that_is_gone_is_deleted_and_a_hub_that_is_down_changes_nothing(hub: Hub, clock: list[float]) -> None:
    watch, job = Watch(), started(hub)
    for trouble in (lambda: hub.fail("GET", "*", 503), lambda: hub.cut("GET", "*"), lambda: hub.fail("GET", "*", 401)):
        trouble()
        watch.look([job])
        clock[0] += 11
    assert (watch.learned, asked(hub)) == ([], 3)
    hub.jobs.clear()
    watch.look([job])
    assert watch.learned == [(job.id, "DELETED")]


def test_a_hub_that_does_not_answer_makes_nobody_wait_and_is_not_asked_again_meanwhile(
    hub: Hub, clock: list[float]
) -> None:
    watch, job = Watch(), started(hub)
    held = hub.hold("GET", "*")
    watch.look([job], wait=False)
    assert held.arrived.wait(WAIT)
    clock[0] += 20
    watch.look([job])
    assert asked(hub) == 1
    clock[0] += 41
    watch.look([job])
    assert asked(hub) == 2


def test_a_watch_forgets_the_jobs_that_nobody_looks_at_any_more(hub: Hub, clock: list[float]) -> None:
    watch = Watch()
    for _ in range(5):
        watch.look([started(hub)])
        clock[0] += 11
    assert len(watch._not_before) == 1


# --- whatever happens

LAUNCH = st.tuples(st.integers(0, 2), st.sampled_from(["trl", "other"]), st.booleans())
FAULTS: dict[str, Script] = {
    **{
        f"{method} {status}": lambda hub, m=method, s=status: hub.fail(m, JOBS, s)
        for method in ("GET", "POST")
        for status in (402, 429, 500)
    },
    "cut": lambda hub: hub.cut(*START),
    "lose": lambda hub: hub.lose_answer(*START),
    "lose a cancel": lambda hub: hub.lose_answer(*CANCEL),
    "end": lambda hub: [setattr(job, "stage", "COMPLETED") for job in hub.jobs[-1:]],
    "unfiltered": lambda hub: setattr(hub, "ignores_labels", True),
}
STEPS = st.one_of(LAUNCH, st.sampled_from(sorted(FAULTS)), st.lists(LAUNCH, min_size=2, max_size=4))


@pytest.mark.long
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(STEPS, max_size=12))
@example(["lose", (0, "trl", True), [(0, "trl", False)] * 4, "lose", [(1, "trl", True)] * 4])
def test_no_sequence_of_launches_and_failures_gives_two_jobs_with_the_same_delivery_and_name(
    hub: Hub, steps: list[Any]
) -> None:
    """A step is a launch, several at once, or something that befalls the Hub."""
    hub.forget()
    deliveries = [arrived() for _ in range(3)]
    succeeded = set()

    def launch(number: int, name: str, cancel_running: bool) -> None:
        with contextlib.suppress(GiveUp, StartUnknown, httpx2.HTTPError):
            train(replace(deliveries[number]), name=name, cancel_running=cancel_running)
            succeeded.add((deliveries[number].id, name))

    with ThreadPoolExecutor(4) as threads:
        for step in steps:
            if isinstance(step, str):
                FAULTS[step](hub)
            elif isinstance(step, tuple):
                launch(*step)
            else:
                list(threads.map(lambda one: launch(*one), step))
    made = Counter((job.labels["webhook-delivery"], job.labels["webhook-job"]) for job in hub.jobs)
    assert max(made.values(), default=1) == 1
    assert succeeded <= set(made)
