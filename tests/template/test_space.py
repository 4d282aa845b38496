"""app.py starts on a Space: with the platform's environment, and with the versions that its builder installs."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from packaging.requirements import Requirement
from support.hub import CLIENT, Hub
from support.payloads import load
from support.processes import ROOT, Process

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
Boot = Any


@pytest.fixture
def boot(tmp_path: Path) -> Iterator[Boot]:
    """Start app.py in a folder of its own, as a Space does. Arguments are variables and secrets."""
    processes: list[Process] = []
    shutil.copy(ROOT / "app.py", tmp_path)
    with Hub() as hub:
        hub.add_user("julien")
        hub.add_token(TOKEN, "julien")

        def boot(**environment: str) -> Process:
            given = {**hub.space(), **SPACE, "HF_ENDPOINT": hub.url, **environment}
            processes.append(Process(tmp_path / "app.py", given))
            return processes[-1].wait_until_ready()

        boot.hub = hub
        yield boot
        assert hub.unknown == []
        for process in processes:
            process.stop()


def deliver(app: Process, handler: str = "trigger_training", payload: Any = DATASET_COMMIT) -> httpx.Response:
    return app.post(handler, payload, headers={"X-Webhook-Secret": SECRET})


def test_a_commit_trains_and_the_model_is_evaluated(boot: Boot) -> None:
    app, hub = boot(WEBHOOK_SECRET=SECRET, SPACE_HOST="me-hooks.hf.space, hooks.example.org", **JOBS), boot.hub
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
def test_on_zerogpu_the_startup_report_is_sent(boot: Boot) -> None:
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


def test_the_pinned_versions_resolve_together() -> None:
    """The builder installs `gradio[oauth,mcp]` at the front matter's version beside requirements.txt."""
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pins = {pin.name: next(iter(pin.specifier)).version for pin in map(Requirement, lines)}
    front_matter = (ROOT / "README.md").read_text(encoding="utf-8").split("---")[1]
    assert f"\nsdk_version: {pins['gradio']}\n" in front_matter
    assert importlib.metadata.version("gradio") == pins["gradio"]  # so its metadata is that version's
    for needed in map(Requirement, importlib.metadata.requires("gradio") or []):
        extras = [{"extra": extra} for extra in ("", "oauth", "mcp")]
        if needed.name in pins and (needed.marker is None or any(map(needed.marker.evaluate, extras))):
            assert needed.specifier.contains(pins[needed.name]), needed
