"""The server starts and runs in a copy of `webhooks/` without the parts that can be deleted."""

from __future__ import annotations

import shutil
from pathlib import Path

import httpx
import pytest
from support.payloads import load
from support.processes import ROOT, Run

# The server would start Jobs and look for commits if it could reach the Hub.
SETTINGS = {
    "WEBHOOK_SECRET": "s3cret",
    "HF_TOKEN": "hf_" + "token" * 7,
    "HF_ENDPOINT": "http://127.0.0.1:9",
    "WEBHOOKS_CATCH_UP": "15",
}
SCRIPT = """
import webhooks
from webhooks import WebhookPayload, WebhooksServer

print("The server is", webhooks.__file__)
server = WebhooksServer(data_dir="log")

@server.add_webhook(watched="dataset:username/my-dataset")
def note(payload: WebhookPayload):
    return payload.repo.name

server.launch()
"""
ROOMS = ["dashboard", "catch_up.py", "jobs.py"]


@pytest.mark.parametrize("rooms", [*([room] for room in ROOMS), ROOMS], ids=" ".join)
def test_the_server_runs_without(rooms: list[str], run: Run, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "webhooks", tmp_path / "webhooks", ignore=shutil.ignore_patterns("__pycache__", *rooms))
    server = run(SCRIPT, **SETTINGS).wait_until_ready()
    assert f"The server is {tmp_path / 'webhooks' / '__init__.py'}\n" in server.output
    response = server.post("note", load("repo.content-update"), headers={"X-Webhook-Secret": "s3cret"})
    assert (response.status_code, response.json()) == (200, "username/my-dataset")
    assert httpx.get(f"{server.url}/health").json()["succeeded"] == 1
    has_dashboard = "dashboard" not in rooms
    assert ("deliveries" in httpx.get(server.url).text) == has_dashboard
    assert httpx.get(f"{server.url}/deliveries").status_code == (403 if has_dashboard else 404)
    server.interrupt()
    assert server.wait_for_exit() == 0
    assert "Traceback" not in server.output
    assert ("Looking at dataset username/my-dataset" in server.output) == ("catch_up.py" not in rooms)
