"""app.py on a Space: the file itself, with the environment that the platform gives it.

`.ci/run` runs this in environments that the Space builder's own pip line has made. What needs the package `spaces` or
Node is skipped where they are missing.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.hub import CLIENT, Hub
from support.payloads import load
from support.processes import ROOT, Process

SECRET = "s3cret"
COMMIT = load("repo.content-update")
SPACE = {
    "SPACE_REPO_NAME": "hooks",
    "SPACE_CREATOR_USER_ID": "0123456789abcdef01234567",
    "GRADIO_SERVER_NAME": "0.0.0.0",
}

Boot = Any


@pytest.fixture
def boot(tmp_path: Path) -> Iterator[Boot]:
    """Start app.py in a folder of its own, as a Space does; further arguments are variables and secrets."""
    processes: list[Process] = []
    shutil.copy(ROOT / "app.py", tmp_path)

    with Hub() as hub:

        def boot(script: str = "app.py", **environment: str) -> Process:
            given = {**hub.space(), **SPACE, "HF_ENDPOINT": hub.url, **environment}
            processes.append(Process(tmp_path / script, given))
            return processes[-1].wait_until_ready()

        yield boot
        for process in processes:
            process.stop()


with_spaces = pytest.mark.skipif(
    importlib.util.find_spec("spaces") is None, reason="the package `spaces` is not installed"
)


def deliver(app: Process, **headers: str) -> httpx.Response:
    return app.post("trigger_training", COMMIT, headers={"X-Webhook-Secret": SECRET, **headers})


def page(app: Process) -> str:
    return httpx.get(f"{app.url}/config").text


def test_with_a_secret_it_takes_deliveries(boot: Boot) -> None:
    app = boot(WEBHOOK_SECRET=SECRET, TRAINING_DATASET="username/my-dataset")
    assert (deliver(app).status_code, deliver(app).json()["dry_run"]) == (200, True)
    assert httpx.get(f"{app.url}/health").status_code == 200
    assert "POST https://me-hooks.hf.space/webhooks/trigger_training" in app.output


def test_the_first_boot_of_a_duplicate_has_no_secret_and_says_what_to_do(boot: Boot) -> None:
    app = boot()
    answer = deliver(app)
    assert (answer.status_code, "WEBHOOK_SECRET" in answer.json()["error"]) == (503, True)
    assert "Add the secret WEBHOOK_SECRET" in page(app)
    assert "https://huggingface.co/spaces/me/hooks/settings" in page(app)


@with_spaces
def test_the_console_says_nothing_that_is_not_meant_for_the_owner(boot: Boot) -> None:
    app = boot(WEBHOOK_SECRET=SECRET)
    assert "webhooks/" not in app.output.partition("Webhook secret")[0]  # no traceback of ours
    assert "GRADIO_HOT_RELOAD" not in app.output
    assert CLIENT[1] not in app.output


def test_with_a_custom_domain_the_first_name_is_shown(boot: Boot) -> None:
    app = boot(WEBHOOK_SECRET=SECRET, SPACE_HOST="me-hooks.hf.space, hooks.example.org")
    assert deliver(app, Host="hooks.example.org").status_code == 200
    assert "POST https://me-hooks.hf.space/webhooks/trigger_training" in app.output


@pytest.mark.skipif(not (os.environ.get("GRADIO_NODE_PATH") or shutil.which("node")), reason="there is no Node")
def test_server_side_rendering_does_not_stand_in_the_way(boot: Boot) -> None:
    node = os.environ.get("GRADIO_NODE_PATH") or shutil.which("node")
    app = boot(WEBHOOK_SECRET=SECRET, GRADIO_SSR_MODE="true", GRADIO_NODE_PATH=str(node))
    assert deliver(app).status_code == 200
    assert "Node" not in app.output


def test_a_bucket_at_data_keeps_the_deliveries(boot: Boot, tmp_path: Path) -> None:
    bucket = tmp_path / "bucket"
    bucket.mkdir()
    (tmp_path / "with_bucket.py").write_text(
        "import pathlib, runpy, webhooks.settings\n"
        f"webhooks.settings.BUCKET = pathlib.Path({str(bucket)!r})\n"
        "runpy.run_path('app.py', run_name='__main__')\n"
    )
    app = boot("with_bucket.py", WEBHOOK_SECRET=SECRET)
    assert deliver(app).status_code == 200
    assert f"Log:       {bucket}/webhooks" in app.output
    assert "A Storage Bucket is attached" in page(app)
    assert sorted(path.name for path in (bucket / "webhooks").glob("deliveries*")) == ["deliveries.db"]  # no WAL


@with_spaces
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


def test_elsewhere_nothing_of_zerogpu_is_loaded(boot: Boot, tmp_path: Path) -> None:
    (tmp_path / "look.py").write_text(
        "import sys, webhooks\n"
        "server = webhooks.WebhooksServer()\n"
        "server.add_webhook('/any')(lambda: None)\n"
        "server.launch(prevent_thread_lock=True)\n"
        "print('loaded:', [name for name in sys.modules if name.startswith('spaces.zero.torch')], flush=True)\n"
    )
    app = boot("look.py", WEBHOOK_SECRET=SECRET)
    assert app.wait_for("loaded:") == "loaded: []\n"
