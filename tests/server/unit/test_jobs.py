"""`launch_job` with the real client against the stand-in Hub."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import hf_api
from huggingface_hub.errors import HfHubHTTPError
from support.hub import Hub
from support.jobs import LOOK, START, TOKEN, WHOAMI, arrived, train

from webhooks import Delivery
from webhooks.jobs import Job, JobRefusedError, StartUnknownError, label, launch_job

LIVE, CANCELED = "SCHEDULING", "CANCELED"
WAIT = 30  # seconds until a test that waits in vain fails


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Note the seconds that `launch_job` waits, instead of waiting."""
    seconds: list[float] = []
    monkeypatch.setattr("webhooks.jobs.time", SimpleNamespace(sleep=seconds.append))
    return seconds


@pytest.fixture(autouse=True)
def client(one_hub: Hub, waits: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    one_hub.add_user("julien", orgs={"acme": "write"})
    one_hub.add_token(TOKEN, "julien")
    monkeypatch.setattr(hf_api.api, "endpoint", one_hub.url)
    monkeypatch.setattr(hf_api.api, "_whoami_cache", {})
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    # The client repeats a failed list up to 5 times, and would sleep before each.
    monkeypatch.setattr("huggingface_hub.utils._http.time", SimpleNamespace(time=lambda: 0, sleep=lambda _: None))


def started(delivery: Delivery, **options: Any) -> Job:
    job = train(delivery, **options)
    assert isinstance(job, Job)
    return job


def stages(hub: Hub) -> list[str]:
    return [job.stage for job in hub.jobs]


def count(hub: Hub, request: tuple[str, str]) -> int:
    return sum((seen.method, seen.path) == request for seen in hub.requests)


def retry(delivery: Delivery) -> Delivery:
    return replace(delivery, attempt=delivery.attempt + 1)


# --- what is asked for


@pytest.mark.parametrize(("named", "namespace"), [({}, "julien"), ({"namespace": "acme"}, "acme")])
def test_a_job_is_started_as_asked_for(hub: Hub, waits: list[float], named: dict[str, str], namespace: str) -> None:
    delivery = arrived()
    job = started(delivery, timeout="2h", **named)
    (sent,) = hub.jobs
    assert (job.dry_run, job.id, job.stage, job.namespace) == (False, sent.id, LIVE, namespace)
    assert job.url == f"{hub.url}/jobs/{namespace}/{sent.id}"
    assert sent.command == ["uv", "run", "--with", "trl", "trl", "sft", "--push_to_hub"]
    assert (sent.flavor, sent.timeout, sent.secrets) == ("t4-small", 7200, {"HF_TOKEN": TOKEN})
    assert TOKEN not in str([sent.command, sent.environment, sent.labels]) + job.model_dump_json()
    assert [(kept.id, kept.namespace, kept.flavor) for kept in delivery.jobs] == [(sent.id, namespace, "t4-small")]
    assert sum(waits) == 0


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "args as a text": ({"args": "accelerate --help"}, "args='accelerate --help'"),
    "dependencies as a text": ({"dependencies": "lighteval==0.13.0"}, "dependencies='lighteval==0.13.0'"),
    "no duration": ({"timeout": "two hours"}, "timeout='two hours'"),
    "the token": ({"args": [f"--token={TOKEN}"]}, "HF_TOKEN is among the arguments"),
}


@pytest.mark.parametrize("dry_run", ["true", "false"])
@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_arguments_are_refused(hub: Hub, monkeypatch: pytest.MonkeyPatch, wrong: str, dry_run: str) -> None:
    monkeypatch.setenv("DRY_RUN", dry_run)
    options, sentence = WRONG[wrong]
    with pytest.raises(JobRefusedError, match=sentence):
        launch_job(arrived(), "trl", **options)
    assert hub.requests == []


@pytest.mark.parametrize("dry_run", ["true", "false"])
def test_a_second_job_needs_a_name(hub: Hub, monkeypatch: pytest.MonkeyPatch, dry_run: str) -> None:
    monkeypatch.setenv("DRY_RUN", dry_run)
    delivery = arrived()
    train(delivery)
    train(delivery, name="second")
    for name in (None, "trl", "second"):
        with pytest.raises(JobRefusedError, match="name="):
            train(delivery, name=name)
    assert len(hub.jobs) == (2 if dry_run == "false" else 0)


def test_labels_suit_the_hub_and_never_collide() -> None:
    names = ["train", "me/data", label("me/data"), "me-data", "me.data", "ü" * 200, "x" * 101, "x" * 102, ""]
    assert len({label(name) for name in names}) == len(names)
    allowed = set("abcdefghijklmnopqrstuvwxyz0123456789_-")
    assert all(len(label(name)) <= 100 and set(label(name)) <= allowed for name in names)
    assert label("train") == "train"


# --- dry runs


def test_a_dry_run_says_why_and_asks_nothing(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    open_delivery = arrived()
    open_delivery.is_open_to_strangers = True
    reasons = [started(open_delivery).reason]
    monkeypatch.setenv("HF_TOKEN", "")
    reasons.append(started(arrived()).reason)
    monkeypatch.setenv("DRY_RUN", "true")
    reasons.append(started(arrived()).reason)
    assert [str(reason).split()[:3] for reason in reasons] == [
        ["Anyone", "could", "have"],
        ["HF_TOKEN", "is", "not"],
        ["DRY_RUN", "is", "set."],
    ]
    assert hub.requests == []


# --- one delivery, one Job


def test_another_attempt_finds_the_job(hub: Hub) -> None:
    delivery = arrived()
    again = retry(delivery)
    assert started(delivery).id == started(again).id == again.jobs[0].id
    assert len(hub.jobs) == 1


@pytest.mark.parametrize("request_", [WHOAMI, LOOK, START], ids=["whoami", "list", "start"])
@pytest.mark.parametrize("status", [401, 402, 403, 404, 422])
def test_a_refusal_gives_up_with_the_hubs_reason(hub: Hub, request_: tuple[str, str], status: int) -> None:
    hub.fail(*request_, status, "Insufficient credit.", times=6)
    with pytest.raises(JobRefusedError, match=f"The Hub refuses this Job: {status} "):
        train(arrived())
    assert (hub.jobs, count(hub, request_)) == ([], 1)


def test_a_rate_limit_says_how_long_to_wait(hub: Hub, waits: list[float]) -> None:
    hub.fail(*START, 429, headers={"Retry-After": "60"})
    with pytest.raises(HfHubHTTPError) as limited:
        train(arrived())
    assert limited.value.response.headers["Retry-After"] == "60"
    assert sum(waits) == 0


def test_an_unanswered_start_is_looked_for_a_minute(hub: Hub, waits: list[float]) -> None:
    hub.cut(*START)
    delivery = arrived()
    with pytest.raises(StartUnknownError, match=f"--namespace julien --label webhook-delivery={delivery.id}"):
        train(delivery)
    assert (sum(waits), hub.jobs) == (60, [])
    assert started(retry(delivery)).id == hub.jobs[0].id
    assert (sum(waits), count(hub, START)) == (120, 2)


def test_an_attempt_that_runs_on_starts_no_second_job(hub: Hub) -> None:
    delivery = arrived()
    held = hub.hold(*LOOK)
    with ThreadPoolExecutor(2) as threads:
        starts = [threads.submit(started, delivery)]
        assert held.arrived.wait(WAIT)
        starts.append(threads.submit(started, retry(delivery)))
        held.released.set()
        assert len({start.result(WAIT).id for start in starts}) == len(hub.jobs) == 1


def test_of_two_jobs_of_one_delivery_the_oldest_stays(hub: Hub) -> None:
    delivery = arrived()
    train(delivery)
    (first,) = hub.jobs
    now = datetime.now(timezone.utc)
    for age, stage in enumerate(["RUNNING", "RUNNING", "ERROR"], start=1):
        hub.jobs.append(replace(first, id=f"{age:024x}", stage=stage, created_at=now - timedelta(hours=age)))
    assert started(retry(delivery)).id == hub.jobs[2].id
    assert stages(hub) == [CANCELED, CANCELED, "RUNNING", "ERROR"]


# --- the newest commit wins


def test_a_commit_cancels_its_repositorys_earlier_job(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    train(arrived())
    train(arrived(repo="me/other"))
    train(arrived("/webhooks/other"))
    monkeypatch.setenv("SPACE_ID", "me/hooks")
    train(arrived())
    monkeypatch.setenv("SPACE_ID", "")
    train(arrived())
    hub.jobs[-1].stage = "COMPLETED"
    assert started(arrived(), cancel_running=True).id == hub.jobs[-1].id
    assert stages(hub) == [CANCELED, LIVE, LIVE, LIVE, "COMPLETED", LIVE]


@pytest.mark.parametrize("stage", [LIVE, "COMPLETED", "ERROR", CANCELED])
def test_an_older_commit_starts_nothing_after_a_newer(hub: Hub, stage: str) -> None:
    old, new = arrived(), arrived()
    hub.fail(*START, 429)
    with pytest.raises(HfHubHTTPError):
        train(old, cancel_running=True)
    job = started(new, cancel_running=True)
    hub.jobs[0].stage = stage
    assert train(retry(old), cancel_running=True) == {"skipped": f"a newer commit has a Job: {job.url}"}
    assert stages(hub) == [stage]


def test_a_replay_of_an_older_commit_starts(hub: Hub) -> None:
    old, new = arrived(), arrived()
    train(new, cancel_running=True)
    assert started(arrived(replay_of=old.id), cancel_running=True).id == hub.jobs[1].id
    assert stages(hub) == [CANCELED, LIVE]
