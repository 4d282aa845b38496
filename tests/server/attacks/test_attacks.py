"""Attacks on a real server, each with a sender beside it who has the secret, and what works after it."""

from __future__ import annotations

import contextlib
import re
import socket
import statistics
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from support.attacks import SECRET, Sender, answer_to, counts, memory
from support.dispatching import wait_until
from support.processes import Process, Start

pytestmark = pytest.mark.once

TOKEN = "the-token-of-the-owner"
SCRIPT = """
import resource, sys
{before}
resource.setrlimit(resource.RLIMIT_NOFILE, (1024, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
from webhooks import WebhookPayload, WebhooksServer

server = WebhooksServer()

@server.add_webhook
async def train(payload: WebhookPayload):
    return "trained"

server.launch()
"""
WITHOUT_HTTPTOOLS = 'sys.modules["httptools"] = None'  # as where only Gradio is installed: uvicorn takes h11
HTTP = "POST /{} HTTP/1.1\r\nHost: localhost\r\n{}\r\n"
MORE = 200  # MiB
SOON, AT_LAST = 1.0, 5.0  # seconds; other tests run on this machine at the same time


@pytest.fixture(scope="module", params=["", WITHOUT_HTTPTOOLS], ids=["httptools", "h11"])
def server(request: pytest.FixtureRequest, start: Start) -> Process:
    return start(SCRIPT.format(before=request.param), WEBHOOK_SECRET=SECRET, WEBHOOKS_ADMIN_TOKEN=TOKEN)


@contextlib.contextmanager
def attack(server: Process) -> Iterator[None]:
    """Measure the sender while it lasts, and look at everything after it."""
    before, had = memory(server), counts(server)["succeeded"]
    with Sender(server) as sender:
        yield
        wait_until(lambda: len(sender.took) >= 5, within=60)
    assert set(sender.answers) == {200}
    assert statistics.median(sender.took) < SOON
    assert max(sender.took) < AT_LAST
    assert memory(server) - before < MORE
    assert counts(server)["succeeded"] == had + len(sender.answers), "what has the secret, and nothing else, has run"
    with httpx.Client(base_url=server.url, timeout=30) as visitor:
        assert "Webhooks" in visitor.get("/").text
        visitor.get(f"/deliveries?token={TOKEN}")
        assert visitor.get("/deliveries").status_code == 200


def head(path: str, **headers: object) -> bytes:
    return HTTP.format(path, "".join(f"{name.replace('_', '-')}: {it}\r\n" for name, it in headers.items())).encode()


def test_gradios_queue_cannot_be_filled(server: Process) -> None:
    def join(number: int) -> bytes:
        body = b'{"data": [], "fn_index": 0, "session_hash": "%d"}' % number
        join = head("gradio_api/queue/join", Connection="close", Content_Length=len(body))
        return answer_to(server, join + body)[:12]

    with attack(server), ThreadPoolExecutor(8) as attackers:
        assert set(attackers.map(join, range(2300))) == {b"HTTP/1.1 404"}


@pytest.mark.parametrize("path", ["gradio_api/queue/join", "login", "deliveries/test", "webhooks/train"])
def test_a_giant_body_is_not_taken(server: Process, path: str) -> None:
    giant = b'{"data": [%s]}' % b",".join([b"{}"] * 20_000_000)  # 60 MB
    chunked = b"".join(b"%x\r\n%s\r\n" % (1_000_000, giant[:1_000_000]) for _ in range(60))
    kind = {"Connection": "close", "Content-Type": "application/x-www-form-urlencoded"}
    with attack(server):
        for _ in range(3):
            said = answer_to(server, head(path, **kind, Content_Length=len(giant)), giant)
            counted = answer_to(server, head(path, **kind, Transfer_Encoding="chunked"), chunked)
            for answer in (said, counted):  # which is lost where the server closes before all has come
                assert re.match(rb"$|HTTP/1.1 (401|403|404|413) ", answer), answer[:200]


BEGINNINGS = {
    "nothing": b"",
    "half of the headers": head("webhooks/train")[:-2],
    "a body that does not come": head("login", Content_Type="application/x-www-form-urlencoded", Content_Length=1000),
    "a body with a wrong secret": head("webhooks/train", X_Webhook_Secret="wrong", Content_Length=1000),
    "a body that goes on for ever": head("login", Transfer_Encoding="chunked") + b"1\r\nx\r\n",
    "a whole request": b"GET /theme.css HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "an answer that is not read": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 10,
}


def said(server: Process) -> list[str]:
    """Return what has been printed since this was last asked, but for the deliveries of the sender."""
    return [line for line in server.unread().splitlines() if " INFO delivery " not in line]


OWN_UI = """
import gradio as gr
from webhooks import WebhookPayload, WebhooksServer

server = WebhooksServer(gr.Interface(lambda text: text, "text", "text"))

@server.add_webhook
async def train(payload: WebhookPayload):
    return "trained"

server.launch()
"""


def test_what_gradio_keeps_of_visitors_does_not_grow_without_end(start: Start) -> None:
    server = start(OWN_UI, WEBHOOK_SECRET=SECRET)
    before = memory(server)

    def visit(number: int) -> bytes:
        asked = b'{"data": 1, "component_id": 1, "fn_name": "x", "session_hash": "%d"}' % number
        kind = {"Connection": "close", "Content_Type": "application/json", "Content_Length": len(asked)}
        return answer_to(server, head("gradio_api/component_server", **kind) + asked)[:12]

    with Sender(server) as sender, ThreadPoolExecutor(8) as visitors:
        assert set(visitors.map(visit, range(4000))) == {b"HTTP/1.1 404"}
    assert memory(server) - before < MORE
    assert set(sender.answers) == {200}
    assert statistics.median(sender.took) < SOON


def own_address() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        probe.connect(("192.0.2.1", 9))  # sends nothing
        address = str(probe.getsockname()[0])
        if not address.startswith("127."):
            return address
    pytest.skip("this machine has no address but localhost")
