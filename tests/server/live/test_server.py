"""One server on a real port: its responses, its room, and what blocks it."""

from __future__ import annotations

import json
import re
import signal
import socket
import time

import httpx
from support.payloads import load
from support.processes import Process, Run

UPDATE = load("repo.content-update")
GREETER = """
from webhooks import WebhookPayload, webhook_endpoint

@webhook_endpoint
def greet(payload: WebhookPayload):
    return {"hello": payload.repo.name, "head": payload.repo.head_sha}
"""


def send_raw(server: Process, request: bytes) -> bytes:
    """Send bytes as they are, and return the first bytes of the response."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
        client.sendall(request)
        return client.recv(65536)


def test_the_table_of_responses_holds_on_the_wire(serve: Run) -> None:
    server = serve(GREETER, WEBHOOK_SECRET="s3cret")
    secret = {"X-Webhook-Secret": "s3cret"}
    good = server.post("greet", UPDATE, headers=secret)
    assert (good.status_code, good.json()["head"]) == (200, UPDATE["repo"]["headSha"])
    bodies = {413: b"x" * 1_048_577, 400: b"hello", 422: {}}
    assert [server.post("greet", body, headers=secret).status_code for body in bodies.values()] == [*bodies]
    assert server.post("other", UPDATE, headers=secret).status_code == 404
    assert server.post("greet", UPDATE).status_code == 401
    assert server.post("greet", UPDATE, headers={"X-Webhook-Secret": "guess"}).status_code == 403
    answer = httpx.get(f"{server.url}/webhooks/greet")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    head = b"POST /webhooks/greet HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    assert send_raw(server, head + b"Content-Length: 5\r\n\r\n").startswith(b"HTTP/1.1 401 ")  # no body is read
    chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(json.dumps(UPDATE)), json.dumps(UPDATE).encode())
    head += b"X-Webhook-Secret: s3cret\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert send_raw(server, head + chunked).startswith(b"HTTP/1.1 200 ")
    # httptools reads no body after an upgrade, so the answer is a 400 then.
    upgrade = b"POST /webhooks/greet HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    upgrade += b"X-Webhook-Secret: s3cret\r\nContent-Length: 2\r\n\r\n{}"
    assert re.match(rb"HTTP/1.1 4(00|22) ", send_raw(server, upgrade))
    server.stop()
    assert "s3cret" not in server.output
    assert "Traceback" not in server.output


def test_no_node_server_stands_in_front(serve: Run) -> None:
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


def test_300_handlers_work_with_256_file_descriptors(serve: Run) -> None:
    server = serve(
        """
        import resource
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
        import threading
        from fastapi import Query
        from webhooks import WebhooksServer

        server = WebhooksServer(reply_within=0)
        together = threading.Barrier(300, timeout=60)

        @server.add_webhook(timeout=90)
        def handler(number: int = Query()):
            together.wait()

        server.launch()
        """
    )
    with httpx.Client(base_url=server.url, timeout=30) as client:
        answers = [client.post("/webhooks/handler", params={"number": n}).status_code for n in range(299)]
        assert client.get("/").status_code == 200  # while 299 handlers wait for the last one
        answers.append(client.post("/webhooks/handler", params={"number": 299}).status_code)
        assert answers == [202] * 300
        deadline = time.monotonic() + 90
        while (counts := client.get("/health").json())["running"] and time.monotonic() < deadline:
            time.sleep(0.1)
    assert {status: count for status, count in counts.items() if count} == {"succeeded": 300}


def test_a_handler_can_terminate_its_child_process(serve: Run) -> None:
    server = serve(
        """
        import multiprocessing, time
        from webhooks import webhook_endpoint

        @webhook_endpoint(timeout=30)
        def handler():
            child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
            child.start()
            time.sleep(0.2)  # into the sleep
            child.terminate()
            child.join(4)
            code = child.exitcode
            child.kill()
            return code
        """
    )
    assert server.post("handler").json() == -signal.SIGTERM
