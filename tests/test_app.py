"""Tests of your handlers in app.py: change them with your handlers, or delete this file. The server has its own.

Nothing in here reaches the Hub: every Job is a dry run, whatever token you have set.
"""

import pytest

import app
from webhooks.testing import call, event, serving

REVISION = "8d2c41f07be35a96e1f4c0d97b6a28e35f1c9d04"
settings = app.settings


def test_a_commit_to_the_training_dataset_starts_this_job():
    job = call(app.trigger_training, event("commit", "dataset", settings.training_dataset))
    assert job.command == "trl"
    assert job.args == [
        "sft",
        f"--model_name_or_path={settings.base_model}",
        f"--dataset_name={settings.training_dataset}",
        f"--hub_model_id={settings.trained_model}",
        "--push_to_hub",
        "--hub_private_repo=true",
        "--save_strategy=no",
        "--output_dir=trained",
    ]
    assert job.dependencies == ["trl==1.16.0", "transformers<6"]
    assert (job.flavor, job.timeout) == (settings.training_flavor, settings.training_timeout)
    assert (job.namespace, job.cancel_running) == (settings.jobs_namespace, True)


def test_a_commit_to_the_trained_model_is_evaluated_at_that_commit():
    job = call(app.trigger_evaluation, event("commit", "model", settings.trained_model, REVISION))
    assert job.command == "lighteval"
    assert job.args == [
        "accelerate",
        f"model_name={settings.trained_model},revision={REVISION}",
        settings.evaluation_tasks,
        f"--results-org={settings.results_org}",
        "--push-to-hub",
        "--output-dir=results",
    ]
    assert job.dependencies == ["lighteval==0.13.0", "huggingface_hub<2", "xxhash<4"]
    assert (job.flavor, job.timeout) == (settings.evaluation_flavor, settings.evaluation_timeout)
    assert (job.namespace, job.cancel_running) == (settings.jobs_namespace, True)


def test_each_handler_asks_the_hub_for_its_repository():
    declared = {path: [str(item) for item in items] for path, items in app.server.watched.items()}
    assert declared["/webhooks/trigger_training"] == [f"dataset:{settings.training_dataset}"]
    assert declared["/webhooks/trigger_evaluation"] == [f"model:{settings.trained_model}"]


@pytest.mark.parametrize(
    "kind", ["pull_request_commit", "tag", "pull_request", "comment", "repo_created", "made_private"]
)
@pytest.mark.parametrize(
    ("handler", "repo_type", "repo_id"),
    [
        (app.trigger_training, "dataset", settings.training_dataset),
        (app.trigger_evaluation, "model", settings.trained_model),
    ],
)
def test_only_a_commit_to_main_starts_a_job(handler, repo_type, repo_id, kind):
    assert "skipped" in call(handler, event(kind, repo_type, repo_id))


@pytest.mark.parametrize(
    ("handler", "repo_type", "repo_id"),
    [
        (app.trigger_training, "dataset", "somebody/else"),
        (app.trigger_training, "model", settings.trained_model),
        (app.trigger_evaluation, "model", "somebody/else"),
        (app.trigger_evaluation, "dataset", settings.training_dataset),
    ],
)
def test_a_commit_to_another_repository_is_skipped(handler, repo_type, repo_id):
    assert "skipped" in call(handler, event("commit", repo_type, repo_id))


def test_the_hub_is_answered_with_the_job_that_would_be_started():
    with serving(app.server) as client:
        sent = client.deliver("trigger_training", event("commit", "dataset", settings.training_dataset))
        assert sent.answer.status_code == 200
        assert sent.answer.json()["dry_run"] is True
        assert sent.outcome.status == "succeeded"
