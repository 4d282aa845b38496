"""What is refused before it costs anything: the decisions, and the layer in front of Gradio, without a network."""

from __future__ import annotations

import json
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send
from support.asgi import post
from support.payloads import load
from support.receivers import receiver
from webhooks.gradio_guard import GradioGuard

from webhooks.receiver import from_a_page, path_of

UPDATE = json.dumps(load("repo.content-update")).encode()
MiB = 1024 * 1024


def hello() -> str:
    return "hello"


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with how many bytes have come, in the way that Gradio's routes read them."""
    request = Request(scope, receive)
    response: Response = JSONResponse(len(await request.body()))
    await response(scope, receive, send)


def front(inner: Any = app, ui_is_ours: bool = True) -> GradioGuard:
    return GradioGuard(inner, [], ui_is_ours)


# Pages of other origins

PAGES = [{"origin": "https://evil.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}]
PAGES += [{"sec-fetch-site": "same-site"}, {"origin": "http://localhost:7860", "sec-fetch-site": "same-origin"}]
NO_PAGES: list[dict[str, str]] = [{}, {"sec-fetch-site": "none"}, {"sec-fetch-site": "same-origin"}]


@pytest.mark.parametrize("headers", [*PAGES, *NO_PAGES])
def test_browsers_say_that_a_page_sends_a_request(headers: dict[str, str]) -> None:
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    assert from_a_page(raw) == (headers in PAGES)


@pytest.mark.parametrize("headers", PAGES)
def test_without_a_secret_no_page_reaches_a_handler_and_is_told_what_to_do(headers: dict[str, str]) -> None:
    answer = post(receiver(hello), "/webhooks/hello", UPDATE, headers=headers)
    assert (answer.status, answer.received) == (403, 0)
    assert "WEBHOOK_SECRET" in answer.json()["error"]
    assert "x-delivery-id" not in answer.headers


@pytest.mark.parametrize("headers", [*PAGES, *NO_PAGES])
def test_with_a_secret_it_is_the_secret_that_counts(headers: dict[str, str]) -> None:
    guarded = receiver(hello, webhook_secret="s3cret")
    assert post(guarded, "/webhooks/hello", UPDATE, headers=headers).status == 401
    assert post(guarded, "/webhooks/hello", UPDATE, headers={**headers, "X-Webhook-Secret": "s3cret"}).status == 200


@pytest.mark.parametrize("path", ["/health", "/arrivals"])
def test_no_other_origin_learns_how_much_arrives(path: str) -> None:
    for headers in PAGES:
        assert post(front(), path, method="GET", headers={"host": "localhost", **headers}).status == 403
    for headers in NO_PAGES:
        assert post(front(), path, method="GET", headers=headers).status == 200


# Sizes


# What of Gradio is there

UNUSED = ["queue/join", "queue/data", "upload", "run/predict", "call/x", "deep_link", "info", "heartbeat/x"]
UNUSED += ["file=https://evil.example/x", "proxy=x", "stream/x", "component_server", "monitoring"]


@pytest.mark.parametrize("name", UNUSED)
def test_what_our_page_does_not_use_is_not_there(name: str) -> None:
    for path in (f"/gradio_api/{name}", f"/gradio_api/{name}/", f"//gradio_api/{name}"):
        answer = post(front(), path, b"x")
        assert (answer.status, answer.received) == (404, 0)
        assert post(front(ui_is_ours=False), path, b"x").status == 200


def test_files_that_are_allowed_are_there() -> None:
    assert post(front(), "/gradio_api/file=/home/me/shown.txt", method="GET").status == 200


def test_our_page_is_the_only_one() -> None:
    for query, status in ((b"", 200), (b"__theme=dark", 200), (b"page=/deliveries", 404), (b"%70age=x", 404)):
        assert post(front(), "/", method="GET", query=query).status == status


@pytest.mark.parametrize(
    ("root", "path", "below"),
    [
        ("", "/webhooks/train", "/webhooks/train"),
        ("/x", "/webhooks/train", "/webhooks/train"),
        ("/x", "/x/webhooks/train", "/webhooks/train"),
        ("/x/", "/x/webhooks/train", "/webhooks/train"),
        ("/", "/webhooks/train", "/webhooks/train"),
        ("/web", "/webhooks/train", "/webhooks/train"),
        ("https://example.com/x", "/x/deliveries", "/deliveries"),
        ("https://example.com", "/deliveries", "/deliveries"),
    ],
)
def test_an_app_that_is_mounted_somewhere_knows_its_paths(root: str, path: str, below: str) -> None:
    assert path_of({"type": "http", "path": path, "root_path": root}) == below


# What Gradio fails at
