"""Tests of your handlers in app.py: change them with your handlers, or delete this file. The server has its own.

No test reaches the Hub: every Job is a dry run, even if you have set a token.
"""

import pytest

import app
from webhooks.testing import call, event, serving

REVISION = "8d2c41f07be35a96e1f4c0d97b6a28e35f1c9d04"
DATASET, MODEL = app.settings.training_dataset, app.settings.trained_model


def test_a_commit_to_the_dataset_trains_the_model():
    job = call(app.trigger_training, event("commit", "dataset", DATASET))
    assert job.command == "trl"
    assert f"--dataset_name={DATASET}" in job.args
    assert f"--hub_model_id={MODEL}" in job.args
    assert job.cancel_running


def test_a_commit_to_the_model_evaluates_that_commit():
    job = call(app.trigger_evaluation, event("commit", "model", MODEL, REVISION))
    assert job.command == "lighteval"
    assert f"model_name={MODEL},revision={REVISION}" in job.args
    assert job.cancel_running


def test_each_handler_watches_its_repository():
    watched = {path: [str(item) for item in items] for path, items in app.server.watched.items()}
    assert watched["/webhooks/trigger_training"] == [f"dataset:{DATASET}"]
    assert watched["/webhooks/trigger_evaluation"] == [f"model:{MODEL}"]


@pytest.mark.parametrize("kind", ["pull_request_commit", "tag", "comment", "repo_created"])
def test_only_a_commit_to_main_starts_a_job(kind):
    assert "skipped" in call(app.trigger_training, event(kind, "dataset", DATASET))
    assert "skipped" in call(app.trigger_evaluation, event(kind, "model", MODEL))


@pytest.mark.parametrize("handler", [app.trigger_training, app.trigger_evaluation])
@pytest.mark.parametrize("repo_type", ["dataset", "model"])
def test_a_commit_to_another_repository_is_skipped(handler, repo_type):
    assert "skipped" in call(handler, event("commit", repo_type, "somebody/else"))


def test_the_answer_shows_the_job():
    with serving(app.server) as client:
        sent = client.deliver("trigger_training", event("commit", "dataset", DATASET))
        assert sent.answer.json()["dry_run"] is True
        assert sent.outcome.status == "succeeded"
