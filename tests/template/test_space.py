"""app.py starts on a Space: with the platform's environment, and with the versions that its builder installs."""

from __future__ import annotations

import importlib.util
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import httpx
import pytest
from support.hub import CLIENT, Hub
from support.payloads import load
from support.processes import ROOT, Process, Run

SECRET = "s3cret"
TOKEN = "hf_" + "token" * 7
JOBS = {
    "HF_TOKEN": TOKEN,
    "TRAINING_DATASET": "username/my-dataset",
    "TRAINED_MODEL": "username/my-model",
    "RESULTS_ORG": "results",
}
SPACE = {
    "SPACE_REPO_NAME": "hooks",
    "SPACE_CREATOR_USER_ID": "0123456789abcdef01234567",
    "GRADIO_SERVER_NAME": "0.0.0.0",
}

DATASET_COMMIT, MODEL_COMMIT = load("repo.content-update"), load("repo.content-update-model")


@pytest.fixture
def boot(serve: Run, hub: Hub) -> Run:
    """Start app.py as a Space does. Arguments are variables and secrets."""
    hub.add_user("julien")
    hub.add_token(TOKEN, "julien")
    app, space = (ROOT / "app.py").read_text(encoding="utf-8"), {**hub.space(), **SPACE, "HF_ENDPOINT": hub.url}
    return lambda **environment: serve(app, **{**space, **environment})


def deliver(app: Process, handler: str = "trigger_training", payload: Any = DATASET_COMMIT) -> httpx.Response:
    return app.post(handler, payload, headers={"X-Webhook-Secret": SECRET})


def test_a_commit_trains_and_the_model_is_evaluated(boot: Run, hub: Hub) -> None:
    app = boot(WEBHOOK_SECRET=SECRET, SPACE_HOST="me-hooks.hf.space, hooks.example.org", **JOBS)
    assert "POST https://me-hooks.hf.space/webhooks/trigger_training" in app.output
    assert not [secret for secret in (SECRET, CLIENT[1]) if secret in app.output]
    assert deliver(app).json()["dry_run"] is False
    assert deliver(app, "trigger_evaluation", MODEL_COMMIT).json()["dry_run"] is False
    training, evaluation = hub.jobs
    assert {"trl", "sft", "--hub_model_id=username/my-model"} <= set(training.command)
    revision = MODEL_COMMIT["updatedRefs"][0]["newSha"]
    assert {"lighteval", f"model_name=username/my-model,revision={revision}"} <= set(evaluation.command)
    for handler in ("trigger_training", "trigger_evaluation"):
        for repo in ("results/details_username__my-model_private", "results/my-dataset", "results/my-model"):
            result = {**DATASET_COMMIT, "repo": {**DATASET_COMMIT["repo"], "name": repo}}
            assert list(deliver(app, handler, result).json()) == ["skipped"]
    assert [job.stage for job in hub.jobs] == ["SCHEDULING", "SCHEDULING"]


@pytest.mark.skipif(importlib.util.find_spec("spaces") is None, reason="the package `spaces` is not installed")
def test_on_zerogpu_the_startup_report_is_sent(boot: Run) -> None:
    reports: list[str] = []

    class DeviceApi(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            reports.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), DeviceApi) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        app = boot(WEBHOOK_SECRET=SECRET, SPACES_ZERO_GPU="true", SPACES_ZERO_DEVICE_API_URL=url)
        assert deliver(app).status_code == 200
        server.shutdown()
    assert reports == ["/startup-report"]
