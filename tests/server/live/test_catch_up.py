"""A real server that finds the commits of its sleep, is killed while it does, and works without a link."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.engines import rows, wait_until
from support.hub import Hub
from support.processes import Process, Run, Start
from support.repos import Repo

from webhooks.testing import event_json

A, B, C = "a" * 40, "b" * 40, "c" * 40
LINE = "Looking at dataset me/data every {} s, since the Hub cannot reach this machine."

SERVER = """
import os, signal
from webhooks import WebhookPayload, WebhooksServer, catch_up
from webhooks.deliveries.log import DeliveryLog

catch_up.LOCAL_SECONDS = float(os.environ.get("LOCAL_SECONDS", "30"))
server = WebhooksServer(data_dir="log")

def die(step):
    if os.environ.get("DIE") == step:
        os.kill(os.getpid(), signal.SIGKILL)

def dying(name):
    original = getattr(DeliveryLog, name)
    def method(*arguments, **values):
        die(f"before {name}")
        result = original(*arguments, **values)
        die(f"after {name}")
        return result
    setattr(DeliveryLog, name, method)

for name in ("set_mark", "add", "finish"):
    dying(name)

@server.add_webhook(watched="dataset:me/data")
def handle(payload: WebhookPayload):
    die("in the handler")
    with open("handled", "a") as file:
        file.write(payload.model_dump_json(by_alias=True, exclude_unset=True) + "\\n")

server.launch()
"""
STEPS = ["before set_mark", "after set_mark", "before add", "after add", "in the handler", "before finish"]


@pytest.fixture(scope="module")
def log_with_mark(one_hub: Hub, start: Start) -> Path:
    """The log of a server that has looked at the repository once, and was killed."""
    one_hub.add_repo("dataset", "me/data", head=A)
    server = start(SERVER, HF_ENDPOINT=one_hub.url, WEBHOOKS_CATCH_UP="15")
    server.wait_for(f"{LINE.format(30)}\n")
    wait_until(lambda: marks(server.folder) == [(A,)])
    server.stop()
    return server.folder / "log"


@pytest.fixture
def data(hub: Hub, log_with_mark: Path, tmp_path: Path) -> Repo:
    shutil.copytree(log_with_mark, tmp_path / "log")
    return hub.add_repo("dataset", "me/data", head=A)


def marks(folder: Path) -> list[tuple[Any, ...]]:
    return rows(folder / "log", "SELECT revision FROM marks")


def handled(folder: Path) -> list[Any]:
    file = folder / "handled"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def begin(run: Run, hub: Hub, **environment: str) -> Process:
    return run(SERVER, HF_ENDPOINT=hub.url, **{"WEBHOOKS_CATCH_UP": "15", **environment})


@pytest.mark.parametrize("step", ["nowhere", "while the Hub is asked", *STEPS])
def test_commit_of_the_sleep_is_recorded_once(hub: Hub, data: Repo, run: Run, tmp_path: Path, step: str) -> None:
    data.commit(B)
    if step in STEPS:
        begin(run, hub, DIE=step).wait_for_exit()
    elif step != "nowhere":
        held = hub.hold("GET", "/api/datasets/me/data")
        killed = begin(run, hub)
        assert held.arrived.wait(60)
        killed.stop()
    server = begin(run, hub)
    log, query = tmp_path / "log", "SELECT source, status FROM deliveries"
    wait_until(lambda: rows(log, query) == [("catch_up", "succeeded")])
    server.stop()
    server.wait_for_exit()
    assert "Traceback" not in server.output
    ref = {"ref": "refs/heads/main", "oldSha": A, "newSha": B}
    payload = event_json("commit", "dataset", "me/data", B, updatedRefs=[ref])
    assert handled(tmp_path) == [payload] * (2 if step == "before finish" else 1)  # at least once, as always
    assert marks(tmp_path) == [(B,)]


def test_laptop_handles_a_commit_without_a_link(hub: Hub, data: Repo, run: Run, tmp_path: Path) -> None:
    begin(run, hub, LOCAL_SECONDS="0.2").wait_for(f"{LINE.format(0.2)}\n")
    for revision in (B, C):
        data.commit(revision, age=0)
        wait_until(lambda revision=revision: marks(tmp_path) == [(revision,)])
    wait_until(lambda: [payload["repo"]["headSha"] for payload in handled(tmp_path)] == [B, C])


@pytest.mark.parametrize(
    "environment", [{"WEBHOOKS_CATCH_UP": "0"}, {"SPACE_ID": "me/hooks"}], ids=["switched off", "without a secret"]
)
def test_server_does_not_look(hub: Hub, data: Repo, run: Run, environment: dict[str, str]) -> None:
    data.commit(B)
    server = begin(run, hub, **environment).wait_until_ready()
    assert httpx.get(f"{server.url}/health").json()["running"] == 0
    server.interrupt()
    assert server.wait_for_exit() == 0
    assert (hub.requests, "Looking at" in server.output) == ([], False)
