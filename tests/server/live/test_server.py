"""The real server on a real port."""

from __future__ import annotations

import concurrent.futures
import json
import re
import socket
import time

import httpx
import pytest
from playwright.sync_api import Browser, expect
from support.payloads import load
from support.processes import Process, Run

pytestmark = pytest.mark.once

UPDATE = load("repo.content-update")

BLOCKING = """
import asyncio, threading, time
from webhooks import WebhooksServer

server = WebhooksServer(reply_within=0.3)
gate = threading.Event()

@server.add_webhook
def blocked(payload):
    gate.wait()
    return "released"

@server.add_webhook
async def blocked_async(payload):
    gate.wait()  # what time.sleep() does to an event loop
    return "released"

@server.add_webhook
def quick(payload):
    return "done"

@server.add_webhook
async def quick_async(payload):
    return "done"

@server.add_webhook
def release(payload):
    gate.set()

@server.add_webhook
async def last(payload):
    return "released" if gate.is_set() else "still blocked"

server.launch()
"""


@pytest.mark.parametrize("blocked", ["blocked", "blocked_async"])
def test_a_handler_that_blocks_delays_nobody_else(serve: Run, blocked: str) -> None:
    server = serve(BLOCKING)
    with concurrent.futures.ThreadPoolExecutor(40) as senders:
        answers = list(senders.map(lambda _: server.post(blocked, UPDATE), range(40)))
        assert {answer.status_code for answer in answers} == {202}
    # Forty handlers wait for the gate, which only /release opens: all of this happens while they block.
    assert server.post("quick", UPDATE).json() == "done"
    assert httpx.get(server.url).status_code == 200
    quick_async = server.post("quick_async", UPDATE)
    assert quick_async.status_code == (202 if blocked == "blocked_async" else 200)
    assert server.post("blocked", UPDATE).status_code == 202
    assert server.post("quick", UPDATE).json() == "done"
    assert server.post("release", UPDATE).status_code == 200
    assert server.post("last", UPDATE).json() == "released"


GREETER = """
from webhooks import WebhookPayload, webhook_endpoint

@webhook_endpoint
def greet(payload: WebhookPayload):
    return {"hello": payload.repo.name, "head": payload.repo.head_sha}
"""


def raw(server: Process, request: bytes) -> bytes:
    """Send bytes as they are and read what comes back until the server closes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(request)
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
        return answer


@pytest.mark.quick
def test_the_table_of_answers_holds_on_the_wire(serve: Run) -> None:
    server = serve(GREETER, WEBHOOK_SECRET="s3cret")
    secret = {"X-Webhook-Secret": "s3cret"}
    good = server.post("greet", UPDATE, headers=secret)
    assert (good.status_code, good.json()["head"]) == (200, UPDATE["repo"]["headSha"])
    assert server.post("other", UPDATE, headers=secret).status_code == 404
    assert server.post("greet", UPDATE).status_code == 401
    assert server.post("greet", UPDATE, headers={"X-Webhook-Secret": "guess"}).status_code == 403
    assert server.post("greet", b"x" * 1_048_577, headers=secret).status_code == 413
    assert server.post("greet", b"x" * 50_000_000, headers=secret).status_code == 413
    assert server.post("greet", b"hello", headers=secret).status_code == 400
    assert server.post("greet", {}, headers=secret).status_code == 422
    for path in ("greet", "greet/"):
        answer = httpx.get(f"{server.url}/webhooks/{path}")
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert httpx.head(f"{server.url}/webhooks/greet").status_code == 405
    assert httpx.post(f"{server.url}/webhooks").status_code == 404
    unread = raw(server, b"POST /webhooks/greet HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 5\r\n\r\n")
    assert unread.startswith(b"HTTP/1.1 401 ")
    chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(json.dumps(UPDATE)), json.dumps(UPDATE).encode())
    answer = raw(server, b"POST /webhooks/greet HTTP/1.1\r\nHost: x\r\nX-Webhook-Secret: s3cret\r\n"
                         b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked)  # fmt: skip
    assert answer.startswith(b"HTTP/1.1 200 ")
    server.stop()
    assert "s3cret" not in server.output
    assert "Traceback" not in server.output


SENDER = """
from webhooks import webhook_endpoint

@webhook_endpoint
async def sender(request):
    return f"{request.client.host} by {request.url.scheme}"
"""


@pytest.mark.parametrize(
    ("environment", "sender"),
    [
        ({}, "203.0.113.7 by https"),
        ({"GRADIO_ROOT_PATH": "/hooks"}, "203.0.113.7 by https"),
        ({"SPACE_ID": "me/hooks", "FORWARDED_ALLOW_IPS": "127.0.0.1"}, "203.0.113.7 by https"),
    ],
    ids=str,
)
def test_a_handler_hears_from_a_proxy_on_this_machine_who_has_sent_a_request(
    serve: Run, environment: dict[str, str], sender: str
) -> None:
    server = serve(SENDER, WEBHOOK_SECRET="s3cret", **environment)
    secret = {"X-Webhook-Secret": "s3cret"}
    forwarded = {**secret, "X-Forwarded-For": "203.0.113.7", "X-Forwarded-Proto": "https"}
    for below in ("", environment.get("GRADIO_ROOT_PATH", "")):
        url = f"{server.url}{below}/webhooks/sender"
        assert httpx.post(url, headers=forwarded).json() == sender
        assert httpx.post(url, headers=secret).json() == "127.0.0.1 by http"


def test_a_body_that_does_not_come_is_waited_for_ten_seconds(serve: Run) -> None:
    stalled = raw(serve(GREETER), b"POST /webhooks/greet HTTP/1.1\r\nHost: x\r\n"
                                  b"Connection: close\r\nContent-Length: 500\r\n\r\n{")  # fmt: skip
    assert stalled.startswith(b"HTTP/1.1 408 ")


@pytest.mark.quick
def test_the_main_page_shows_the_endpoints_and_the_owners_page_a_delivery(serve: Run, browser: Browser) -> None:
    server = serve(GREETER)
    server.post("greet", UPDATE)
    link = re.search(r"http\S+/deliveries\?token=\S+", server.output)
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(server.url)
        expect(page.get_by_role("heading", name="/webhooks/greet")).to_be_visible()
        expect(page.get_by_text(UPDATE["repo"]["name"])).to_have_count(0)
        page.goto(link[0] if link else "")
        expect(page.get_by_role("cell", name=f"dataset {UPDATE['repo']['name']}", exact=True)).to_be_visible()


def test_no_server_side_rendering_stands_in_front_even_when_it_is_asked_for(serve: Run) -> None:
    server = serve(
        """
        import gradio as gr
        from webhooks import WebhooksServer

        with gr.Blocks() as ui:
            gr.Markdown("mine")

        server = WebhooksServer(ui)
        server.add_webhook("/rendered-by-node")(lambda: ui.ssr_mode)
        server.launch(ssr_mode=True)
        """,
        GRADIO_SSR_MODE="true",
    )
    assert server.post("rendered-by-node").json() is False


def test_a_space_prints_its_own_address_and_takes_nothing_without_a_secret(serve: Run) -> None:
    space = {"SPACE_ID": "me/hooks", "SPACE_HOST": "me-hooks.hf.space,hooks.example.com", "SYSTEM": "spaces"}
    server = serve(GREETER, **space)
    assert "POST https://me-hooks.hf.space/webhooks/greet\n" in server.output
    assert "https://huggingface.co/spaces/me/hooks/settings" in server.output
    assert server.post("greet", UPDATE).status_code == 503


def test_the_page_and_the_webhooks_come_up_together(run: Run) -> None:
    """From the first answer that the port gives, a webhook is no 404."""
    server = run(GREETER)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            first = server.post("greet", UPDATE)
            break
        except httpx.ConnectError:
            continue
    assert first.status_code == 200


def test_a_handler_registered_after_the_launch_is_reachable(serve: Run) -> None:
    server = serve(
        """
        from webhooks import WebhooksServer

        server = WebhooksServer()

        @server.add_webhook
        def first(payload):
            server.add_webhook("/second")(lambda payload: "second")

        server.launch()
        """
    )
    assert server.post("second", UPDATE).status_code == 404
    assert server.post("first", UPDATE).status_code == 200
    assert server.post("second", UPDATE).json() == "second"


def test_the_guides_decorator_takes_the_options_and_its_server_replays(serve: Run) -> None:
    server = serve(
        """
        from webhooks import Delivery, WebhookPayload, webhook_endpoint

        @webhook_endpoint(max_attempts=2, timeout=5)
        def flaky(payload: WebhookPayload, delivery: Delivery):
            if delivery.attempt == 1:
                raise ValueError
            print(f"handled {delivery.id}, a replay of {delivery.replay_of}", flush=True)

        @webhook_endpoint("/replay", debounce=0)
        async def again(request):
            from webhooks.autostart import shared_server
            try:
                return shared_server().replay((await request.body()).decode())
            except KeyError as error:
                return repr(error)
        """
    )
    answer = server.post("flaky", UPDATE)
    id = answer.headers["X-Delivery-Id"]
    assert (answer.status_code, answer.json()) == (202, {"delivery": id, "status": "scheduled"})
    server.wait_for(f"handled {id}, a replay of None")
    new_id = server.post("replay", id.encode()).json()
    server.wait_for(f"handled {new_id}, a replay of {id}")
    assert server.post("replay", b"no-such-id").json() == "KeyError('no-such-id')"


def test_the_users_own_routes_stay(serve: Run) -> None:
    server = serve(
        """
        from starlette.responses import PlainTextResponse
        from starlette.routing import Route
        from webhooks import WebhooksServer

        server = WebhooksServer()
        server.add_webhook("/hello")(lambda: "hello")
        server.launch(app_kwargs={"routes": [Route("/mine", lambda request: PlainTextResponse("mine"))]})
        """
    )
    assert httpx.get(f"{server.url}/mine").text == "mine"
    assert server.post("hello").json() == "hello"
