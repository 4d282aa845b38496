"""Jobs from real servers: killed at the worst moments, chained, watched, and searched for secrets."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, expect
from support.dashboard import delivery_page
from support.dispatching import WAIT, wait_until
from support.hub import Held, Hub
from support.hub import Job as HubJob
from support.jobs import CANCEL, LOOK_UP, START, TOKEN, WHOAMI, commit_to
from support.payloads import load
from support.processes import Process, Run

pytestmark = [pytest.mark.long, pytest.mark.once]

SECRET = "a-webhook-s3cret"
DATASET_COMMIT = load("repo.content-update")
MODEL_COMMIT = load("repo.content-update-model")


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with Hub() as hub:
        hub.add_user("julien")
        hub.add_token(TOKEN, "julien")
        yield hub


@pytest.fixture(autouse=True)
def a_quiet_hub(hub: Hub) -> Iterator[None]:
    hub.forget()
    yield
    assert hub.unknown == []


# --- killed

# The client tries a list again by itself, and would sleep up to 8 seconds before each try.
TRAINER = """
import os, threading, time, types
import huggingface_hub.utils._http as http
import webhooks.jobs
from webhooks import Delivery, WebhookPayload, WebhooksServer
from webhooks.deliveries import timing
from webhooks.jobs import launch_job

webhooks.jobs.LOOK_AGAIN = (0.4,) * 6
http.time = types.SimpleNamespace(time=time.time, sleep=lambda seconds: None)
timing.backoff = lambda failures: 0.5
server = WebhooksServer(reply_within=0, data_dir="log")

@server.add_webhook(max_attempts=9)
def train(payload: WebhookPayload, delivery: Delivery):
    launch_job(delivery, "trl", ["sft"], cancel_running=True)
    print("launched for", payload.repo.name, flush=True)
    if os.environ.get("HELD_AFTER_LAUNCH") == payload.repo.name:
        threading.Event().wait()

server.launch()
"""


def of(id: str, jobs: list[HubJob]) -> list[HubJob]:
    return [job for job in jobs if job.labels["webhook-delivery"] == id]


def test_a_server_that_is_killed_at_the_worst_moments_starts_each_job_once(hub: Hub, run: Run, tmp_path: Path) -> None:
    ids: dict[str, str] = {}
    hub_settings = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN}

    def deliver(server: Process, repo: str) -> None:
        answer = server.post("train", commit_to(repo))
        assert answer.status_code == 202
        ids[answer.headers["X-Delivery-Id"]] = repo

    server = run(TRAINER, **hub_settings).wait_until_ready()
    whoami = hub.hold(*WHOAMI)
    deliver(server, "me/whoami")
    assert whoami.arrived.wait(WAIT)
    server.stop()
    whoami.released.set()

    server = run(TRAINER, HELD_AFTER_LAUNCH="me/answered", **hub_settings).wait_until_ready()
    server.wait_for("launched for me/whoami")
    held = [hub.hold(*LOOK_UP)]
    deliver(server, "me/look-up")
    assert held[0].arrived.wait(WAIT)
    held.append(hub.hold(*START))
    deliver(server, "me/created")
    assert held[1].arrived.wait(WAIT)
    deliver(server, "me/cancel")
    server.wait_for("launched for me/cancel")
    held.append(hub.hold(*CANCEL))
    deliver(server, "me/cancel")
    assert held[2].arrived.wait(WAIT)
    deliver(server, "me/answered")
    server.wait_for("launched for me/answered")
    hub.lose_answer(*START)
    deliver(server, "me/lost")
    server.wait_for("launched for me/lost")
    server.stop()
    assert Counter(ids[job.labels["webhook-delivery"]] for job in hub.jobs) == {
        "me/whoami": 1,
        "me/created": 1,
        "me/cancel": 1,
        "me/answered": 1,
        "me/lost": 1,
    }
    for answer in held:
        answer.released.set()

    server = run(TRAINER, **hub_settings).wait_until_ready()
    with ThreadPoolExecutor(10) as senders:
        list(senders.map(lambda number: deliver(server, f"me/data{number}"), range(10)))
    wait_until(lambda: httpx.get(f"{server.url}/health").json()["succeeded"] == len(ids) == 17)
    assert {id: len(of(id, hub.jobs)) for id in ids} == dict.fromkeys(ids, 1)
    assert [job.stage for job in hub.jobs if ids[job.labels["webhook-delivery"]] == "me/cancel"] == [
        "CANCELED",
        "SCHEDULING",
    ]
    with contextlib.closing(sqlite3.connect(tmp_path / "log" / "deliveries.db")) as database:
        recorded = dict(
            database.execute(
                "SELECT deliveries.id, jobs.id FROM jobs JOIN deliveries ON number = jobs.delivery"
            ).fetchall()
        )
    assert recorded == {id: of(id, hub.jobs)[0].id for id in ids}


WAYS: dict[str, tuple[Callable[[Hub], Held | None], int]] = {  # and from how many lists the Job is missing
    "listed late": (lambda hub: None, 3),
    "503": (lambda hub: hub.fail(*START, 503), 0),
    "late": (lambda hub: hub.late(*START, 504), 0),
    "cut, late, and listed late": (lambda hub: hub.late(*START, None), 2),
    "cut after, and listed late": (lambda hub: hub.lose_answer(*START), 3),
    "never answered": (lambda hub: hub.hold(*START), 0),
}


def has_started(hub: Hub) -> bool:
    return any((request.method, request.path) == START for request in hub.requests)


def looks(hub: Hub) -> int:
    return sum((request.method, request.path) == LOOK_UP for request in hub.requests)


@pytest.mark.parametrize("moment", ["at the look-up", "at the start", "at the look after it", "after it"])
@pytest.mark.parametrize("way", WAYS)
def test_however_a_start_ends_and_whenever_the_server_is_killed_one_job_lives(
    hub: Hub, run: Run, way: str, moment: str
) -> None:
    if way == "never answered" and moment in ("at the look after it", "after it"):
        pytest.skip("it does not get there within the time that the Hub has for an answer")
    hub_settings = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN}
    server = run(TRAINER, HELD_AFTER_LAUNCH="me/data", **hub_settings).wait_until_ready()
    fail, hub.lists_late = WAYS[way]
    pending = fail(hub)
    if moment == "at the look after it":
        hub.hold(*LOOK_UP).released.set()
    look = hub.hold(*LOOK_UP) if moment.startswith("at the look") else None
    id = server.post("train", commit_to("me/data")).headers["X-Delivery-Id"]
    if look:
        assert look.arrived.wait(WAIT)
    else:
        wait_until(lambda: has_started(hub))
    if moment == "after it":
        if pending:
            pending.released.set()
        server.wait_for("launched for me/data")
    server.stop()

    looked = looks(hub)
    server = run(TRAINER, **hub_settings).wait_until_ready()
    wait_until(lambda: looks(hub) > looked)
    if pending:
        pending.released.set()
    wait_until(lambda: httpx.get(f"{server.url}/health").json()["succeeded"] == 1)
    assert [job.stage for job in of(id, hub.jobs)] == ["SCHEDULING"]


# --- an app with two triggers

# The Hub is asked for a stage as often as the page looks, so that the test need not wait.
APP = """
import webhooks.dashboard.stages
from webhooks import Delivery, WebhookPayload, WebhooksServer
from webhooks.jobs import launch_job

webhooks.dashboard.stages.ASK_AGAIN = 0.1
server = WebhooksServer(data_dir="log")

@server.add_webhook(max_attempts=5)
def train(payload: WebhookPayload, delivery: Delivery):
    if not payload.updates("dataset"):
        return {"skipped": "no commit to a dataset"}
    return launch_job(delivery, "trl", ["sft"], flavor="a10g-small", cancel_running=True)

@server.add_webhook(max_attempts=5)
def evaluate(payload: WebhookPayload, delivery: Delivery):
    return launch_job(delivery, "lighteval", [payload.revision()], cancel_running=True)

server.launch()
"""
SETTINGS = {"WEBHOOK_SECRET": SECRET, "HF_TOKEN": TOKEN}


def start_app(folder: Path, endpoint: str) -> Process:
    (folder / "script.py").write_text(APP, encoding="utf-8")
    return Process(folder / "script.py", {**SETTINGS, "HF_ENDPOINT": endpoint})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("app")


@pytest.fixture(scope="module")
def app(folder: Path, hub: Hub) -> Iterator[Process]:
    app = start_app(folder, hub.url).wait_until_ready()
    yield app
    app.stop()


def deliver(app: Process, endpoint: str, payload: dict[str, Any]) -> httpx.Response:
    return app.post(endpoint, payload, headers={"X-Webhook-Secret": SECRET})


def link(app: Process) -> str:
    return re.search(r"http\S+/deliveries\?token=\S+", app.output)[0]


def test_of_a_burst_of_commits_each_job_ends_the_earlier_ones_of_its_own_repository(app: Process, hub: Hub) -> None:
    deliver(app, "evaluate", MODEL_COMMIT)
    with ThreadPoolExecutor(8) as senders:
        answers = senders.map(lambda _: deliver(app, "train", DATASET_COMMIT), range(8))
        ids = [answer.headers["X-Delivery-Id"] for answer in answers]
    deliver(app, "train", DATASET_COMMIT)
    evaluation, *trainings, last = hub.jobs
    assert {job.labels["webhook-delivery"] for job in trainings} == set(ids)
    assert (evaluation.stage, last.stage, len(trainings)) == ("SCHEDULING", "SCHEDULING", 8)
    assert {job.stage for job in trainings} == {"CANCELED"}


def test_no_secret_gets_anywhere_it_does_not_belong(app: Process, folder: Path, hub: Hub) -> None:
    deliver(app, "train", DATASET_COMMIT)
    hub.fail(*START, 402, f"{TOKEN} has no credit. {SECRET}")
    failed = deliver(app, "train", DATASET_COMMIT)
    assert failed.status_code == 500
    last = deliver(app, "train", MODEL_COMMIT)
    app.wait_for(f"{last.headers['X-Delivery-Id']}: /webhooks/train")
    token = link(app).rpartition("=")[2]

    id = failed.headers["X-Delivery-Id"]
    shown = delivery_page(folder / "log" / "deliveries.db", id)
    assert "*** has no credit" in shown
    with httpx.Client(base_url=app.url, follow_redirects=True) as owner, httpx.Client(base_url=app.url) as visitor:
        owner.get(link(app))
        paths = ("/", "/config", "/deliveries", "/arrivals", "/health")
        answers = [client.get(path) for client in (owner, visitor) for path in paths]
    fields = [{name: value for name, value in asdict(job).items() if name != "secrets"} for job in hub.jobs]
    files = {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert {"deliveries.db", "deliveries.db-wal"} <= set(files)
    assert id.encode() in files["deliveries.db"] + files["deliveries.db-wal"]
    assert hub.jobs[0].secrets == {"HF_TOKEN": TOKEN}
    assert [answer.status_code for answer in answers] == [200] * 7 + [403] + [200] * 2
    everything = {
        "the fields of the Jobs": str(fields),
        "the answer": failed.text + str(failed.headers),
        "the page of the delivery": shown,
        "the pages": str([answer.text + str(answer.headers) for answer in answers]),
        "the console": app.output.replace(link(app), ""),
        "the process list": Path(f"/proc/{app.popen.pid}/cmdline").read_text(),
        **{name: content.decode("latin-1") for name, content in files.items()},
    }
    leaks = [
        (name, secret) for name, text in everything.items() for secret in (TOKEN, SECRET, token) if secret in text
    ]
    assert leaks == []


def test_the_page_of_a_delivery_links_its_job_and_shows_its_stage_to_the_end(
    app: Process, folder: Path, hub: Hub, browser: Browser
) -> None:
    id = deliver(app, "train", DATASET_COMMIT).headers["X-Delivery-Id"]
    (job,) = hub.jobs
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(link(app))
        page.goto(f"{app.url}/deliveries/{id}")
        card = page.locator("main")
        expect(card.locator("dd").get_by_role("link", name=job.id)).to_have_attribute(
            "href", f"{hub.url}/jobs/julien/{job.id}"
        )
        for job.stage in ("SCHEDULING", "RUNNING", "COMPLETED"):
            said = card.locator("dd", has_text=f"{job.id} {job.stage.lower()}, a10g-small")
            expect(said).to_be_visible(timeout=WAIT * 1000)
    app.stop()
    again = start_app(folder, "http://127.0.0.1:9").wait_until_ready()
    try:
        with browser.new_context() as context:
            page = context.new_page()
            page.goto(link(again))
            page.goto(f"{again.url}/deliveries/{id}")
            expect(page.locator("dd", has_text=f"{job.id} completed")).to_be_visible()
    finally:
        again.stop()
