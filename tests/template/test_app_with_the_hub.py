"""app.py as it is: a commit to the dataset trains, the trained model is evaluated, and no result starts a Job."""

from __future__ import annotations

from typing import Any

from support.hub import Hub
from support.payloads import load
from support.processes import ROOT, Run

SECRET = "a-webhook-s3cret"
TOKEN = "hf_" + "token" * 7
DATASET_COMMIT, MODEL_COMMIT = load("repo.content-update"), load("repo.content-update-model")
SETTINGS = {
    "WEBHOOK_SECRET": SECRET,
    "HF_TOKEN": TOKEN,
    "TRAINING_DATASET": "username/my-dataset",
    "TRAINED_MODEL": "username/my-model",
    "RESULTS_ORG": "results",
}


def test_a_commit_trains_and_the_model_is_evaluated(serve: Run) -> None:
    with Hub() as hub:
        hub.add_user("julien")
        hub.add_token(TOKEN, "julien")
        app = serve((ROOT / "app.py").read_text(encoding="utf-8"), HF_ENDPOINT=hub.url, **SETTINGS)

        def deliver(handler: str, payload: dict[str, Any], repo: str | None = None) -> dict[str, Any]:
            about = {**payload["repo"], **({"name": repo} if repo else {})}
            return app.post(handler, {**payload, "repo": about}, headers={"X-Webhook-Secret": SECRET}).json()

        assert deliver("trigger_training", DATASET_COMMIT)["dry_run"] is False
        assert deliver("trigger_evaluation", MODEL_COMMIT)["dry_run"] is False
        training, evaluation = hub.jobs
        assert {"trl", "sft", "--hub_model_id=username/my-model"} <= set(training.command)
        revision = MODEL_COMMIT["updatedRefs"][0]["newSha"]
        assert {"lighteval", f"model_name=username/my-model,revision={revision}"} <= set(evaluation.command)

        for handler in ("trigger_training", "trigger_evaluation"):
            for repo in ("results/details_username__my-model_private", "results/my-dataset", "results/my-model"):
                assert list(deliver(handler, DATASET_COMMIT, repo)) == ["skipped"]
        assert [job.stage for job in hub.jobs] == ["SCHEDULING", "SCHEDULING"]
        assert hub.unknown == []
