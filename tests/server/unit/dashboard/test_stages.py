"""The stages of Jobs, as the Hub reports them."""

from __future__ import annotations

import queue

import pytest
from support.hub import Hub, Job
from support.jobs import TOKEN

from webhooks.dashboard.stages import JobWatch
from webhooks.delivery import StartedJob


def test_stage_of_an_unfinished_job_is_asked(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
    hub.add_user("julien")
    hub.add_token(TOKEN, "julien")
    hub.jobs.append(Job("julien", [], {}, {}, "t4-small", None, {}, id="ended", stage="COMPLETED"))
    stages: queue.Queue[tuple[str, str]] = queue.Queue()
    jobs = [StartedJob(id, "julien", "", "t4-small", "RUNNING") for id in ("ended", "deleted")]
    jobs.append(StartedJob("known", "julien", "", "t4-small", "ERROR"))
    watch = JobWatch(TOKEN, lambda id, stage: stages.put((id, stage)))
    watch.look(jobs)
    assert {stages.get(timeout=30), stages.get(timeout=30)} == {("ended", "COMPLETED"), ("deleted", "DELETED")}
    watch.look(jobs)  # a moment later, so the Hub is not asked again
    JobWatch(None, stages.put).look(jobs)
    assert sorted(request.path for request in hub.requests) == ["/api/jobs/julien/deleted", "/api/jobs/julien/ended"]
