"""Real servers that are killed, stopped, starved of disk, and started again."""

from __future__ import annotations

import contextlib
import random
import signal
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from support.engines import wait_until
from support.payloads import load
from support.processes import Process, Run

PAYLOAD = load("repo.content-update")
ENDPOINTS = ["quick", "quick_async", "by_fastapi", "slow", "flaky", "debounced"]

# Each handler writes the id of its delivery to a file before it returns.
SERVER = """
import os, resource, time
from fastapi import Request
from webhooks import Delivery, WebhooksServer

resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
server = WebhooksServer(reply_within=0.2, data_dir="log")

def write_down(delivery):
    file = os.open("handled", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(file, f"{delivery.id}\\n".encode())
    os.close(file)

@server.add_webhook
def quick(delivery: Delivery):
    write_down(delivery)

@server.add_webhook
async def quick_async(delivery: Delivery):
    write_down(delivery)

@server.add_webhook
def by_fastapi(delivery: Delivery, note: str = "none"):
    write_down(delivery)
    return {"note": note}

@server.add_webhook
def slow(delivery: Delivery):
    time.sleep(0.5)
    write_down(delivery)

@server.add_webhook(max_attempts=4)
def flaky(delivery: Delivery):
    if delivery.attempt < 3:
        raise ValueError("again")
    write_down(delivery)

@server.add_webhook(debounce=0.3)
def debounced(delivery: Delivery):
    write_down(delivery)

server.launch()
"""


# A Storage Bucket is a disk without shared memory.
ON_A_BUCKET = f"""
import pathlib, webhooks.settings
webhooks.settings.BUCKET = pathlib.Path.cwd()
{SERVER}"""


def query(folder: Path, statement: str) -> list[tuple[object, ...]]:
    with contextlib.closing(sqlite3.connect(folder / "log" / "deliveries.db")) as database:
        return database.execute(statement).fetchall()


def unfinished(folder: Path) -> int:
    ((count,),) = query(folder, "SELECT count(*) FROM deliveries WHERE status IN ('queued', 'running', 'scheduled')")
    return count


@pytest.mark.parametrize(
    ("script", "mode", "environment"),
    [
        pytest.param(SERVER, "wal", {}, id="WAL"),
        pytest.param(
            ON_A_BUCKET, "delete", {"SPACE_ID": "me/hooks", "WEBHOOKS_ALLOW_UNAUTHENTICATED": "true"}, id="DELETE"
        ),
    ],
)
def test_every_2xx_is_handled_after_five_kills(
    run: Run, tmp_path: Path, script: str, mode: str, environment: dict[str, str]
) -> None:
    """Sixteen senders at a time; each SIGKILL comes at a random moment, also during start and recovery."""
    answered: list[str] = []

    def send(server: Process) -> None:
        body = load("repo.content-update")
        with httpx.Client(timeout=30) as client:
            while True:
                body["repo"]["name"] = f"me/{random.randint(1, 3)}"
                try:
                    response = client.post(f"{server.url}/webhooks/{random.choice(ENDPOINTS)}", json=body)
                except httpx.TransportError:
                    return  # the server was killed
                if response.is_success:
                    answered.append(response.headers["X-Delivery-Id"])

    def check() -> None:
        assert query(tmp_path, "PRAGMA integrity_check") == [("ok",)]
        assert set(answered) <= {id for (id,) in query(tmp_path, "SELECT id FROM deliveries")}

    for _ in range(5):
        server = run(script, **environment).wait_until_ready()
        enough = len(answered) + random.randint(20, 120)
        with ThreadPoolExecutor(16) as threads:
            senders = [threads.submit(send, server) for _ in range(16)]
            while len(answered) < enough:
                assert not all(sender.done() for sender in senders), server.output
                time.sleep(random.uniform(0, 0.05))  # the moment of the kill is random on purpose
            server.stop()
        check()
        server = run(script, **environment)
        server.wait_for("Unfinished deliveries that go on" if unfinished(tmp_path) else Process.READY)
        time.sleep(random.uniform(0, 0.2))  # and so is this one's
        server.stop()
        check()
    server = run(script, **environment).wait_until_ready()
    wait_until(lambda: not unfinished(tmp_path), within=120)
    server.stop()
    check()
    assert len(set(answered)) == len(answered) >= 100
    assert query(tmp_path, "PRAGMA journal_mode") == [(mode,)]
    handled = set((tmp_path / "handled").read_text().split())
    superseded = "SELECT id, printf('%016x', superseded_by) FROM deliveries WHERE status = 'superseded'"
    superseded_by = dict(query(tmp_path, superseded))
    interruptions = dict(query(tmp_path, "SELECT id, interruptions FROM deliveries WHERE status = 'failed'"))
    assert set(interruptions.values()) <= {5}
    for id in answered:
        while id in superseded_by:
            id = superseded_by[id]
        assert id in handled or id in interruptions


def test_full_disk_is_a_503_and_loses_nothing(run: Run, tmp_path: Path) -> None:
    """With RLIMIT_FSIZE each write past a size fails, as on a full disk."""
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))\n" + SERVER
    server = run(limited).wait_until_ready()
    body = {**PAYLOAD, "padding": "x" * 20_000}
    responses = [server.post("quick", body) for _ in range(60)]
    taken = {response.headers["X-Delivery-Id"] for response in responses if response.is_success}
    refused = [response for response in responses if not response.is_success]
    assert taken
    assert {response.status_code for response in refused} == {503}
    assert all("Retry-After" in each.headers and "X-Delivery-Id" not in each.headers for each in refused)
    server.stop()
    server = run(SERVER).wait_until_ready()
    assert server.post("quick", body).is_success
    assert httpx.get(f"{server.url}/health").status_code == 200
    wait_until(lambda: not unfinished(tmp_path))
    assert taken <= set((tmp_path / "handled").read_text().split())


STOPPABLE = """
import asyncio, os, threading, time
from webhooks import WebhooksServer, Delivery

server = WebhooksServer(reply_within=0.2)

@server.add_webhook
def brief(delivery: Delivery):
    while not os.path.exists("go on"):
        time.sleep(0.05)
    print("brief is done", flush=True)

@server.add_webhook
def endless(delivery: Delivery):
    print(f"endless, attempt {delivery.attempt}", flush=True)
    time.sleep(3600)

@server.add_webhook(timeout=0.1)
async def late_thread():
    await asyncio.to_thread(time.sleep, 3600)

@server.add_webhook
async def endless_thread(delivery: Delivery):
    await asyncio.to_thread(time.sleep, 3600)

server.launch()
print("the script goes on", flush=True)
"""


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_signal_lets_running_handlers_end(run: Run, sent: signal.Signals) -> None:
    server = run(STOPPABLE).wait_until_ready()
    assert server.post("brief", PAYLOAD).status_code == 202
    server.popen.send_signal(sent)
    server.wait_for("Stopping")
    response = server.post("brief", PAYLOAD)
    assert (response.status_code, "Retry-After" in response.headers) == (503, True)
    assert httpx.get(f"{server.url}/health").status_code == 503
    (server.folder / "go on").touch()
    assert server.wait_for_exit() == 0
    assert "brief is done" in server.output
    assert "Traceback" not in server.output
    assert "the script goes on" in server.output


def test_thread_of_a_late_handler_keeps_no_process(run: Run) -> None:
    server = run(STOPPABLE).wait_until_ready()
    assert server.post("late_thread", PAYLOAD).status_code == 500
    server.popen.terminate()
    assert server.wait_for_exit(timeout=8) == 0


def test_endless_handlers_run_at_the_next_start(run: Run) -> None:
    server = run(STOPPABLE).wait_until_ready()
    for endpoint in ("endless", "endless_thread"):
        assert server.post(endpoint, PAYLOAD).status_code == 202
    second = run(STOPPABLE)
    assert second.wait_for_exit() == 1
    assert "Another process already works with the delivery log" in second.output
    server.popen.terminate()
    server.wait_for("Stopping")
    wait_until(lambda: httpx.get(f"{server.url}/health").status_code == 503)
    server.popen.terminate()  # a second signal does not wait ten seconds for the handlers
    assert server.wait_for_exit(timeout=8) == 0
    assert "the script goes on" not in server.output
    assert "What is unfinished runs again at the next start" in server.output
    run(STOPPABLE).wait_for("endless, attempt 2")
