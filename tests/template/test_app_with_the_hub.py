"""app.py itself, with a token, in a server that meets a Hub: a commit trains, the trained model is evaluated."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from support.hub import Hub
from support.payloads import load
from support.processes import ROOT, Process, Run

pytestmark = pytest.mark.once

SECRET = "a-webhook-s3cret"
TOKEN = "hf_" + "token" * 7
DATASET_COMMIT = load("repo.content-update")
MODEL_COMMIT = load("repo.content-update-model")
SOURCE = (ROOT / "app.py").read_text(encoding="utf-8")
SETTINGS = {
    "WEBHOOK_SECRET": SECRET,
    "HF_TOKEN": TOKEN,
    "TRAINING_DATASET": "username/my-dataset",
    "TRAINED_MODEL": "username/my-model",
    "RESULTS_ORG": "results",
}


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as hub:
        hub.add_user("julien")
        hub.add_token(TOKEN, "julien")
        yield hub
        assert hub.unknown == []


def deliver(app: Process, endpoint: str, payload: dict[str, Any]) -> httpx.Response:
    return app.post(endpoint, payload, headers={"X-Webhook-Secret": SECRET})


def commit_to(repo: str) -> dict[str, Any]:
    return {**DATASET_COMMIT, "repo": {**DATASET_COMMIT["repo"], "name": repo}}


def test_a_dataset_commit_trains_then_the_pushed_model_is_evaluated_and_the_results_start_nothing(
    serve: Run, hub: Hub
) -> None:
    app = serve(SOURCE, HF_ENDPOINT=hub.url, **SETTINGS)
    assert deliver(app, "trigger_training", DATASET_COMMIT).json()["dry_run"] is False
    (training,) = hub.jobs
    assert "--hub_model_id=username/my-model" in training.command
    assert training.command[:2] == ["uv", "run"]
    assert training.command[training.command.index("trl") + 1] == "sft"

    deliver(app, "trigger_evaluation", MODEL_COMMIT)
    deliver(app, "trigger_training", MODEL_COMMIT)
    _, evaluation = hub.jobs
    revision = MODEL_COMMIT["updatedRefs"][0]["newSha"]
    assert f"model_name=username/my-model,revision={revision}" in evaluation.command
    assert "--results-org=results" in evaluation.command

    skipped = [
        deliver(app, endpoint, commit_to(repo)).json()
        for endpoint in ("trigger_training", "trigger_evaluation")
        for repo in ("results/details_username__my-model_private", "results/my-dataset", "results/my-model")
    ]
    assert [list(answer) for answer in skipped] == [["skipped"]] * 6
    assert len(hub.jobs) == 2
    assert training.stage == evaluation.stage == "SCHEDULING"


def test_a_newcomer_adds_a_third_trigger_by_copying_one_function(hub: Hub, serve: Run) -> None:
    lines = SOURCE.splitlines(keepends=True)
    function = next(part for part in ast.parse(SOURCE).body if getattr(part, "name", "") == "trigger_evaluation")
    copied = "".join(lines[function.decorator_list[0].lineno - 1 : function.end_lineno])
    third = copied.replace("trigger_evaluation", "trigger_report").replace(
        'payload.updates("model", settings.trained_model)', 'payload.updates("dataset", "username/other")'
    )
    assert third.count("trigger_report") == third.count("username/other") == 1
    main = SOURCE.index('if __name__ == "__main__":')
    server = serve(f"{SOURCE[:main]}{third}\n\n{SOURCE[main:]}", HF_ENDPOINT=hub.url, **SETTINGS)
    assert "/webhooks/trigger_report\n" in server.output
    answer = deliver(server, "trigger_report", commit_to("username/other"))
    (job,) = hub.jobs
    assert (answer.status_code, answer.json()["id"]) == (200, job.id)
    assert job.labels["webhook-endpoint"] == "trigger_report"
    assert list(deliver(server, "trigger_report", DATASET_COMMIT).json()) == ["skipped"]
    deliver(server, "trigger_training", DATASET_COMMIT)
    deliver(server, "trigger_evaluation", MODEL_COMMIT)
    assert [("trl" in job.command, "lighteval" in job.command) for job in hub.jobs[1:]] == [
        (True, False),
        (False, True),
    ]
