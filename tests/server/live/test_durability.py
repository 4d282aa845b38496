"""The lights go out: real servers that are killed, stopped, starved of disk, and started again."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from support.dispatching import wait_until
from support.payloads import load
from support.processes import Process, Run

pytestmark = pytest.mark.once

PAYLOAD = load("repo.content-update")

# Each handler notes what it has handled in a file of its own, before it returns.
CLINIC = """
import os, time
from webhooks import Delivery, WebhooksServer

server = WebhooksServer(reply_within=0.2, data_dir="log")

def note(delivery):
    file = os.open("handled", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(file, f"{delivery.id}\\n".encode())
    os.close(file)

@server.add_webhook
def quick(delivery: Delivery):
    note(delivery)

@server.add_webhook
async def quick_async(delivery: Delivery):
    note(delivery)

@server.add_webhook
def slow(delivery: Delivery):
    time.sleep(0.5)
    note(delivery)

@server.add_webhook(max_attempts=4)
def flaky(delivery: Delivery):
    if delivery.attempt < 3:
        raise ValueError("again")
    note(delivery)

@server.add_webhook(debounce=0.3)
def debounced(delivery: Delivery):
    note(delivery)

server.launch()
"""


# As on a Space with a Storage Bucket: the log's folder is on a disk without shared memory.
ON_A_BUCKET = f"""
import pathlib, webhooks.settings
webhooks.settings.BUCKET = pathlib.Path.cwd()
{CLINIC}"""


def look(folder: Path, query: str) -> list[tuple[object, ...]]:
    with contextlib.closing(sqlite3.connect(folder / "log" / "deliveries.db")) as database:
        return database.execute(query).fetchall()


def unfinished(folder: Path) -> int:
    ((count,),) = look(folder, "SELECT count(*) FROM deliveries WHERE status IN ('queued', 'running', 'scheduled')")
    return count


@pytest.mark.parametrize(
    ("script", "kills"),
    [
        pytest.param(CLINIC, 1, marks=pytest.mark.quick),
        pytest.param(CLINIC, 5, marks=pytest.mark.long),
        pytest.param(ON_A_BUCKET, 5, marks=pytest.mark.long),
    ],
    ids=["one kill", "WAL", "DELETE"],
)
def test_what_was_answered_2xx_is_handled_however_often_the_process_is_killed(
    run: Run, tmp_path: Path, script: str, kills: int
) -> None:
    """Sixteen senders at a time; the server gets SIGKILL at a random moment, also while it starts and recovers."""
    environment = {"SPACE_ID": "me/hooks", "WEBHOOKS_ALLOW_UNAUTHENTICATED": "true"} if script == ON_A_BUCKET else {}
    answered: list[str] = []

    def send(server: Process) -> None:
        body = load("repo.content-update")
        with httpx.Client(timeout=30) as client:
            while True:
                endpoint = random.choice(["quick", "quick_async", "slow", "flaky", "debounced"])
                body["repo"]["name"] = f"me/{random.randint(1, 3)}"
                try:
                    answer = client.post(f"{server.url}/webhooks/{endpoint}", json=body)
                except httpx.TransportError:
                    return  # the server was killed
                if answer.is_success:
                    answered.append(answer.headers["X-Delivery-Id"])

    def check() -> None:
        assert look(tmp_path, "PRAGMA integrity_check") == [("ok",)]
        recorded = {id for (id,) in look(tmp_path, "SELECT id FROM deliveries")}
        assert set(answered) <= recorded

    for _ in range(kills):
        server = run(script, **environment).wait_until_ready()
        before = len(answered)
        with ThreadPoolExecutor(16) as senders:
            threads = [senders.submit(send, server) for _ in range(16)]
            enough = before + random.randint(20, 120)
            while len(answered) < enough:
                assert not all(thread.done() for thread in threads), server.output
                time.sleep(random.uniform(0, 0.05))  # the moment of the kill is random on purpose
            server.stop()
        check()
        server = run(script, **environment)
        server.wait_for("unfinished deliveries go on" if unfinished(tmp_path) else Process.READY)
        time.sleep(random.uniform(0, 0.2))  # and so is this one's
        server.stop()
        check()
    server = run(script, **environment).wait_until_ready()
    wait_until(lambda: not unfinished(tmp_path), within=120)
    server.stop()
    check()
    assert len(set(answered)) == len(answered) >= 20 * kills
    handled = set((tmp_path / "handled").read_text().split())
    rest = look(tmp_path, "SELECT id, printf('%016x', superseded_by) FROM deliveries WHERE status = 'superseded'")
    replaced_by = dict(rest)
    failed = dict(look(tmp_path, "SELECT id, interruptions FROM deliveries WHERE status = 'failed'"))
    assert set(failed.values()) <= {5}, "failed, though not for five kills while it ran"
    for id in answered:
        while id in replaced_by:
            id = replaced_by[id]
        assert id in handled or id in failed
    journal = look(tmp_path, "PRAGMA journal_mode")
    assert journal == [("delete" if script == ON_A_BUCKET else "wal",)]


def test_a_full_disk_is_503_and_nothing_is_lost(run: Run, tmp_path: Path) -> None:
    """RLIMIT_FSIZE makes every write past a size fail, as a full disk does."""
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))\n" + CLINIC
    server = run(limited).wait_until_ready()
    body = {**PAYLOAD, "padding": "x" * 20_000}
    answers = [server.post("quick", body) for _ in range(60)]
    taken = [answer.headers["X-Delivery-Id"] for answer in answers if answer.is_success]
    refused = [answer for answer in answers if not answer.is_success]
    assert taken
    assert refused
    assert {answer.status_code for answer in refused} == {503}
    assert all("Retry-After" in answer.headers and "X-Delivery-Id" not in answer.headers for answer in refused)
    unhealthy = (httpx.get(f"{server.url}/health").status_code == 503 for _ in range(50) if server.post("quick", body))
    assert any(unhealthy)
    server.stop()
    server = run(CLINIC).wait_until_ready()
    assert server.post("quick", body).is_success  # 202 where all that was left runs first, and the machine is slow
    assert httpx.get(f"{server.url}/health").status_code == 200
    wait_until(lambda: not unfinished(tmp_path))
    assert set(taken) <= set((tmp_path / "handled").read_text().split())
    assert set(taken) <= {id for (id,) in look(tmp_path, "SELECT id FROM deliveries")}


STOPPABLE = """
import threading, time
from webhooks import WebhooksServer, Delivery

server = WebhooksServer(reply_within=0.2)

@server.add_webhook
def brief(delivery: Delivery):
    time.sleep(1.5)
    print("brief is done", flush=True)

@server.add_webhook
def endless(delivery: Delivery):
    print(f"endless, attempt {delivery.attempt}", flush=True)
    time.sleep(3600)

@server.add_webhook
async def endless_executor(delivery: Delivery):
    import asyncio
    await asyncio.to_thread(time.sleep, 3600)

server.launch()
print("the script goes on", flush=True)
"""


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_running_handlers_end_and_refuses_new_deliveries(run: Run, sent: signal.Signals) -> None:
    server = run(STOPPABLE).wait_until_ready()
    assert server.post("brief", PAYLOAD).status_code == 202
    server.popen.send_signal(sent)
    server.wait_for("Stopping")
    answer = server.post("brief", PAYLOAD)
    assert (answer.status_code, "Retry-After" in answer.headers) == (503, True)
    assert httpx.get(f"{server.url}/health").status_code == 503
    assert server.wait_for_exit() == 0
    assert "brief is done" in server.output
    assert "Traceback" not in server.output
    assert "the script goes on" in server.output


def test_handlers_that_do_not_end_are_left_in_the_log_and_the_exit_code_is_0(run: Run) -> None:
    server = run(STOPPABLE).wait_until_ready()
    for endpoint in ("endless", "endless_executor"):
        assert server.post(endpoint, PAYLOAD).status_code == 202
    server.popen.terminate()
    assert server.wait_for_exit() == 0
    assert "What is unfinished runs again at the next start" in server.output
    server = run(STOPPABLE)
    server.wait_for("endless, attempt 2")


def test_a_second_process_on_one_log_says_so_and_exits_1(run: Run) -> None:
    first = run(STOPPABLE).wait_until_ready()
    second = run(STOPPABLE)
    assert second.wait_for_exit() == 1
    assert "Another process already works with the delivery log" in second.output
    assert "Traceback" not in second.output
    assert first.post("brief", PAYLOAD).status_code == 202


def test_a_damaged_log_does_not_keep_the_server_from_starting(run: Run, tmp_path: Path) -> None:
    (tmp_path / ".webhooks").mkdir()
    (tmp_path / ".webhooks" / "deliveries.db").write_bytes(os.urandom(50_000))
    server = run(STOPPABLE).wait_until_ready()
    assert server.output.count("DAMAGED") == 1
    assert len(list((tmp_path / ".webhooks").glob("*.damaged-*"))) == 1
    assert server.post("brief", PAYLOAD).status_code == 202


def test_the_health_endpoint_tells_anyone_the_counts_and_nothing_else(run: Run) -> None:
    server = run(STOPPABLE, WEBHOOK_SECRET="s3cret").wait_until_ready()
    server.post("endless", PAYLOAD, headers={"X-Webhook-Secret": "s3cret"})
    answer = httpx.get(f"{server.url}/health")
    counts = {"queued": 0, "running": 1, "scheduled": 0, "succeeded": 0, "failed": 0, "superseded": 0}
    assert (answer.status_code, answer.json()) == (200, counts)
    assert httpx.head(f"{server.url}/health").status_code == 200


def test_a_space_that_takes_nothing_is_not_healthy(run: Run) -> None:
    server = run(STOPPABLE, SPACE_ID="me/hooks").wait_until_ready()
    assert httpx.get(f"{server.url}/health").status_code == 503
