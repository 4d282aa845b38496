"""What handlers, disks, consoles and other programs do to a real server, over HTTP."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from support.dispatching import wait_until
from support.payloads import load
from support.processes import Process, Run, clean_environment, free_port

pytestmark = pytest.mark.once

PAYLOAD = load("repo.content-update")
WAIT = 60  # seconds until a test that waits in vain fails

SERVER = """
import os, time
from webhooks import Delivery, WebhooksServer

server = WebhooksServer(reply_within=0.2, data_dir="log")

@server.add_webhook
def quick(delivery: Delivery): ...

@server.add_webhook
def deadly(delivery: Delivery):
    os._exit(9)

@server.add_webhook
def loud(delivery: Delivery):
    raise ValueError("x" * 20_000)

server.launch()
"""


def health(server: Process) -> httpx.Response:
    return httpx.get(f"{server.url}/health", timeout=30)


def wait_for_health(url: str, status: int) -> None:
    def is_so() -> bool:
        try:
            return httpx.get(f"{url}/health").status_code == status
        except httpx.TransportError:
            return False  # it does not serve yet

    wait_until(is_so, within=WAIT)


@pytest.mark.long
def test_a_handler_that_ends_the_process_runs_five_times_and_then_no_more(run: Run) -> None:
    server = run(SERVER).wait_until_ready()
    with pytest.raises(httpx.TransportError):
        server.post("deadly", PAYLOAD)
    assert server.wait_for_exit() == 9
    for _ in range(4):
        server = run(SERVER)
        assert server.wait_for_exit() == 9
        assert "1 unfinished deliveries go on." in server.output
    server = run(SERVER)
    line = server.wait_for("failed: ")
    assert "The process has ended 5 times while this delivery's handler ran." in line
    assert server.post("quick", PAYLOAD).status_code == 200
    counts = health(server).json()
    assert (counts["failed"], counts["running"], counts["scheduled"]) == (1, 0, 0)


@pytest.mark.long
def test_a_log_that_is_replaced_under_the_server_is_503_until_it_is_back(run: Run, tmp_path: Path) -> None:
    server = run(SERVER).wait_until_ready()
    assert server.post("quick", PAYLOAD).status_code == 200
    log, mine = tmp_path / "log" / "deliveries.db", tmp_path / "mine"
    log.rename(mine)
    log.write_bytes(b"")
    answer = server.post("quick", PAYLOAD)
    assert (answer.status_code, "Retry-After" in answer.headers) == (503, True)
    assert health(server).status_code == 503
    assert "was deleted or replaced" in server.wait_for("cannot be written")
    log.unlink()
    mine.rename(log)
    wait_for_health(server.url, 200)
    assert server.post("quick", PAYLOAD).status_code == 200
    wait_for_health(server.url, 200)
    assert health(server).json()["succeeded"] + health(server).json()["running"] == 2


STUCK = SERVER.replace(
    "server.launch()",
    """
import threading
from webhooks.deliveries import log, writer

writer.STUCK_AFTER = 0.2
gate = threading.Event()
add = log.DeliveryLog.add

def add_slowly(self, delivery, status, **more):
    if delivery.endpoint.endswith("loud"):
        gate.wait()  # as a disk that does not answer
    add(self, delivery, status, **more)

log.DeliveryLog.add = add_slowly
server.launch(prevent_thread_lock=True)
input()
gate.set()
server.launch()  # which waits now
""",
)


@pytest.mark.long
def test_a_disk_that_does_not_answer_is_told_to_the_monitor(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(STUCK)
    port = free_port()
    command = [sys.executable, "script.py"]
    environment = clean_environment(GRADIO_SERVER_PORT=str(port))
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdin=pipe, text=True) as server:
        try:
            assert server.stdin is not None
            url = f"http://127.0.0.1:{port}"
            wait_for_health(url, 200)
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(f"{url}/webhooks/loud", json=PAYLOAD, timeout=1)
            wait_for_health(url, 503)
            assert httpx.post(f"{url}/webhooks/quick", json=PAYLOAD).status_code == 503
            server.stdin.write("\n")
            server.stdin.flush()
            wait_for_health(url, 200)
            assert httpx.post(f"{url}/webhooks/quick", json=PAYLOAD).status_code == 200
        finally:
            server.kill()
