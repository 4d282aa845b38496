"""What strangers reach of Gradio beside the webhooks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from support.asgi import Exchange, exchange, on_loop

from webhooks.gradio_app import GradioGuard

UNUSED = ["queue/join", "queue/data", "upload", "run/predict", "call/x", "deep_link", "info", "monitoring"]
UNUSED += ["file=https://evil.example/x", "proxy=x", "stream/x", "component_server"]


def send(path: str, *, is_api_closed: bool = True, own_routes: Sequence[Route] = (), **options: Any) -> Exchange:
    guard = GradioGuard(PlainTextResponse("Gradio"), [], is_api_closed, own_routes)
    return on_loop(exchange, guard, path, (b"x",), **options)


@pytest.mark.parametrize("name", UNUSED)
def test_gradio_routes_the_page_does_not_use_are_404(name: str) -> None:
    for path in (f"/gradio_api/{name}", f"/gradio_api/{name}/", f"//gradio_api/{name}"):
        answer = send(path)
        assert (answer.status, answer.received) == (404, 0)
        assert send(path, is_api_closed=False).status == 200


def test_allowed_files_are_reached() -> None:
    assert send("/gradio_api/file=/home/me/shown.txt", method="GET").status == 200


@pytest.mark.parametrize(
    ("query", "status"), [(b"", 200), (b"__theme=dark", 200), (b"page=/x", 404), (b"%70age=x", 404)]
)
def test_the_page_has_no_other_page(query: bytes, status: int) -> None:
    assert send("/", method="GET", query=query).status == status


@pytest.mark.parametrize("path", ["/login", "/gradio_api/queue/join", "/health"])
def test_routes_of_the_program_come_first(path: str) -> None:
    options: Any = {"method": "GET", "headers": {"origin": "https://evil.example"}}
    assert send(path, **options).status in (403, 404)
    assert send(path, own_routes=[Route(path, send)], **options).status == 200


@pytest.mark.parametrize("path", ["/health", "/arrivals"])
def test_other_origins_read_no_counts(path: str) -> None:
    assert send(path, method="GET").status == 200
    assert send(path, method="GET", headers={"origin": "https://evil.example"}).status == 403
