"""app.py as a newcomer runs it: the file itself, in a server of its own."""

from __future__ import annotations

import shutil
import subprocess
from unittest.mock import ANY

import httpx
import pytest
from conftest import ROOT, Process, load

from webhooks.jobs import label

DATASET_COMMIT = load("repo.content-update")
MODEL_COMMIT = load("repo.content-update-model")


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("app")
    shutil.copy(ROOT / "app.py", folder)
    (folder / ".env").write_text("TRAINING_DATASET=username/my-dataset\nTRAINING_TIMEOUT=90m\nRESULTS_ORG=results\n")
    process = Process(folder / "app.py", {"WEBHOOK_SECRET": "s3cret", "TRAINING_FLAVOR": "a100-large"})
    yield process.wait_until_ready()
    process.stop()


def deliver(app: Process, endpoint: str, payload: object) -> httpx.Response:
    return app.post(endpoint, payload, headers={"X-Webhook-Secret": "s3cret"})


def test_a_commit_to_the_training_dataset_is_answered_with_the_exact_training_job(app: Process) -> None:
    answer = deliver(app, "trigger_training", DATASET_COMMIT)
    assert answer.status_code == 200
    assert answer.json() == {
        "dry_run": True,
        "reason": "HF_TOKEN is not set.",
        "id": None,
        "url": None,
        "stage": None,
        "command": "trl",
        "args": [
            "sft",
            "--model_name_or_path=Qwen/Qwen3-0.6B",
            "--dataset_name=username/my-dataset",
            "--hub_model_id=username/my-model",
            "--push_to_hub",
            "--hub_private_repo=true",
            "--save_strategy=no",
            "--output_dir=trained",
        ],
        "dependencies": ["trl==1.16.0", "transformers<6"],
        "flavor": "a100-large",
        "timeout": "90m",
        "labels": {
            "webhook-delivery": answer.headers["X-Delivery-Id"],
            "webhook-endpoint": "trigger_training",
            "webhook-job": "trl",
            "webhook-received": ANY,
            "webhook-repo": label("dataset/username/my-dataset"),
        },
        "secrets": ["HF_TOKEN"],
        "namespace": None,
        "cancel_running": True,
    }


def test_a_commit_to_the_trained_model_is_evaluated_at_that_commit(app: Process) -> None:
    revision = MODEL_COMMIT["updatedRefs"][0]["newSha"]
    job = deliver(app, "trigger_evaluation", MODEL_COMMIT).json()
    assert job["command"] == "lighteval"
    assert job["args"] == [
        "accelerate",
        f"model_name=username/my-model,revision={revision}",
        "gsm8k|0",
        "--results-org=results",
        "--push-to-hub",
        "--output-dir=results",
    ]
    assert job["dependencies"] == ["lighteval==0.13.0", "huggingface_hub<2", "xxhash<4"]


@pytest.mark.parametrize(
    ("endpoint", "fixture", "name"),
    [
        ("trigger_training", "repo.content-update", "somebody/else"),
        ("trigger_training", "repo.content-update-model", None),
        ("trigger_evaluation", "repo.content-update", None),
        ("trigger_evaluation", "repo.content-update-model", "username/other-model"),
        ("trigger_training", "repo.content-update-pull-request", None),
        ("trigger_evaluation", "discussion-create", None),
    ],
)
def test_other_events_are_skipped_with_a_reason(app: Process, endpoint: str, fixture: str, name: str | None) -> None:
    payload = load(fixture)
    payload["repo"]["name"] = name or payload["repo"]["name"]
    answer = deliver(app, endpoint, payload)
    assert (answer.status_code, list(answer.json())) == (200, ["skipped"])


def test_a_stranger_cannot_start_anything(app: Process) -> None:
    assert app.post("trigger_training", DATASET_COMMIT).status_code == 401


def test_the_only_file_most_users_edit_is_about_a_hundred_lines() -> None:
    assert len((ROOT / "app.py").read_text(encoding="utf-8").splitlines()) <= 110


def test_the_repository_holds_text_only() -> None:
    """The Hub refuses binary files in a plain git push."""
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, files.split("\0")):
        (ROOT / name).read_text(encoding="utf-8")
