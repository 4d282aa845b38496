"""A server serves its sender while strangers send giant, slow or idle requests."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import re
import time

import httpx
import pytest
from support.attacks import connect, memory, send_raw
from support.payloads import load
from support.processes import Process, Start

SECRET = "the-secret-of-the-hub"
UPDATE = load("repo.content-update")
SCRIPT = """
import sys
{before}
from webhooks import WebhookPayload, WebhooksServer

server = WebhooksServer()

@server.add_webhook
async def train(payload: WebhookPayload):
    return "trained"

server.launch()
"""
WITHOUT_HTTPTOOLS = 'sys.modules["httptools"] = None'  # uvicorn then uses h11, as where only Gradio is installed
MAX_MIB = 200


@pytest.fixture(scope="module", params=["", WITHOUT_HTTPTOOLS], ids=["httptools", "h11"])
def server(request: pytest.FixtureRequest, start: Start) -> Process:
    return start(SCRIPT.format(before=request.param), WEBHOOK_SECRET=SECRET)


def assert_serves(server: Process) -> None:
    began = time.monotonic()
    assert server.post("train", UPDATE, headers={"X-Webhook-Secret": SECRET}).json() == "trained"
    assert httpx.get(server.url, timeout=30).status_code == 200
    assert time.monotonic() - began < 5


def head(path: str, **headers: object) -> bytes:
    lines = [f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items()]
    return f"POST /{path} HTTP/1.1\r\nHost: localhost\r\n{''.join(lines)}\r\n".encode()


@pytest.mark.parametrize("path", ["gradio_api/queue/join", "webhooks/train"])
def test_a_giant_body_is_refused(server: Process, path: str) -> None:
    giant = b'{"data": [%s]}' % b",".join([b"{}"] * 20_000_000)  # 60 MB
    chunked = b"".join(b"%x\r\n%s\r\n" % (1_000_000, giant[:1_000_000]) for _ in range(60))
    options, before = {"Connection": "close", "X_Webhook_Secret": SECRET}, memory(server)
    whole = send_raw(server, head(path, **options, Content_Length=len(giant)), giant)
    counted = send_raw(server, head(path, **options, Transfer_Encoding="chunked"), chunked)
    for answer in (whole, counted):  # the answer is lost where the server closes before the body's end
        assert re.match(rb"$|HTTP/1.1 (404|413) ", answer), answer[:200]
    assert memory(server) - before < MAX_MIB
    assert_serves(server)


@pytest.mark.parametrize("server", [""], indirect=True, ids=["httptools"])
def test_a_slow_body_is_408_after_ten_seconds(server: Process) -> None:
    began = time.monotonic()
    answer = send_raw(server, head("webhooks/train", X_Webhook_Secret=SECRET, Connection="close", Content_Length=500))
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert 9 < time.monotonic() - began < 20


def test_idle_connections_stop_nobody(server: Process) -> None:
    with contextlib.ExitStack() as stack:
        for number in range(200):
            client = stack.enter_context(connect(server))
            client.sendall(head("webhooks/train")[: number % 2 * 20])  # half of them send a part of the headers
        assert_serves(server)


@pytest.mark.skipif(importlib.util.find_spec("websockets") is None, reason="websockets is not installed")
def test_a_websocket_upgrade_is_answered(server: Process) -> None:
    body = json.dumps(UPDATE).encode()
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec_WebSocket_Version": 13}
    key = {"Sec_WebSocket_Key": "dGhlIHNhbXBsZSBub25jZQ=="}
    with connect(server) as client:
        client.settimeout(10)
        request = head("webhooks/train", **upgrade, **key, X_Webhook_Secret=SECRET, Content_Length=len(body))
        client.sendall(request + body)
        assert re.match(rb"HTTP/1.1 (200|400) ", client.recv(65536))  # httptools reads no body after an upgrade
    assert_serves(server)
