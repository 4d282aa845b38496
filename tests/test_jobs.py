"""Jobs: one for each delivery, whatever fails on the way, with the real client against a stand-in Hub."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import huggingface_hub
import pytest
from conftest import load
from hub import Hub
from huggingface_hub.errors import HfHubHTTPError

import webhooks.jobs
from webhooks import Delivery, GiveUp, WebhookPayload
from webhooks.jobs import Job, JobRefused, label, launch_job

TOKEN = "hf_" + "token" * 7


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub() as hub:
        hub.add_user("julien", orgs={"acme": "write"})
        hub.add_token(TOKEN, "julien")
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.url)
        monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", hub.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.delenv("DRY_RUN", raising=False)
        webhooks.jobs._ask_account.cache_clear()
        yield hub
        assert hub.unknown == []


def arrived(endpoint: str = "/webhooks/train", repo: str = "username/my-dataset") -> Delivery:
    payload = load("repo.content-update")
    payload["repo"]["name"] = repo
    return Delivery(endpoint, WebhookPayload.model_validate(payload))


def train(delivery: Delivery, **options: Any) -> Job:
    return launch_job(delivery, "trl", ["sft", "--push_to_hub"], dependencies=["trl"], flavor="t4-small", **options)


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


def test_a_start_that_was_never_answered_is_not_repeated(hub: Hub) -> None:
    delivery = arrived()
    hub.lose_answer("POST", "/api/jobs/*")
    with pytest.raises(Exception, match="disconnected") as lost:
        train(delivery)
    assert not isinstance(lost.value, GiveUp)
    assert train(replace(delivery, attempt=2)).id == hub.jobs[0].id
    assert len(hub.jobs) == 1


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_hub_in_trouble_is_left_to_the_next_attempt(hub: Hub, status: int) -> None:
    delivery = arrived()
    hub.fail("POST", "/api/jobs/*", status, "later")
    with pytest.raises(HfHubHTTPError):
        train(delivery)
    assert train(delivery).dry_run is False
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
    names = ["train", "me/data", "me-data", "me.data", "ü" * 200, "x" * 101, "x" * 102, ""]
    assert len({label(name) for name in names}) == len(names)
    assert all(
        len(label(name)) <= 100 and set(label(name)) <= set("abcdefghijklmnopqrstuvwxyz0123456789_-") for name in names
    )
    assert label("train") == "train"
