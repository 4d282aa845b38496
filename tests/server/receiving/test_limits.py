"""What is refused before it costs anything: the decisions, and the layer in front of Gradio, without a network."""

from __future__ import annotations

import asyncio
import json
import logging
import queue
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send
from support.asgi import Exchange, exchange, on_loop, post
from support.payloads import load
from support.receivers import receiver

import webhooks.front
import webhooks.limits
from webhooks.front import Front
from webhooks.limits import Tally
from webhooks.private_files import PrivateFiles
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


def front(inner: Any = app, ui_is_ours: bool = True, **bodies: int) -> Front:
    return Front(inner, Tally(), {f"/{name}": limit for name, limit in bodies.items()}, ui_is_ours, PrivateFiles([]))


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


def test_a_request_with_very_many_headers_is_431_for_a_webhook_and_for_a_page() -> None:
    headers = {f"x-{number}": "x" for number in range(101)}
    for answerer, path in ((receiver(hello), "/webhooks/hello"), (front(), "/")):
        answer = post(answerer, path, UPDATE, headers=headers)
        assert (answer.status, answer.received) == (431, 0)


def test_a_body_that_says_that_it_is_too_large_is_not_read() -> None:
    for length, status in ((MiB, 200), (MiB + 1, 413)):
        answer = post(front(), "/login", b"x", headers={"content-length": str(length)})
        assert (answer.status, answer.received) == (status, int(status == 200))


def test_a_body_that_does_not_say_how_large_it_is_is_read_up_to_the_limit() -> None:
    assert post(front(), "/login", b"x" * MiB).json() == MiB
    answer = post(front(), "/login", *[b"x" * 1000] * 10_000)
    assert (answer.status, set(answer.json())) == (413, {"error"})
    assert answer.received < 1100


def test_the_owners_pages_take_the_form_of_a_large_event() -> None:
    pages = front(deliveries=4 * MiB)
    assert post(pages, "/deliveries/test", b"x" * 3 * MiB).json() == 3 * MiB
    assert post(pages, "/deliveries/test", b"x" * 5 * MiB).status == 413
    assert post(pages, "/deliveries-of-others", b"x" * 3 * MiB).status == 413


def test_a_ui_of_ones_own_takes_files_and_no_huge_json() -> None:
    own = front(ui_is_ours=False)
    assert post(own, "/gradio_api/queue/join", b"x" * 4 * MiB).json() == 4 * MiB
    assert post(own, "/gradio_api/queue/join", b"x" * 5 * MiB).status == 413
    files = {"content-type": "multipart/form-data; boundary=x"}
    assert post(own, "/gradio_api/upload", b"x" * 5 * MiB, headers=files).json() == 5 * MiB


def test_a_body_that_does_not_go_on_is_408(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks.front, "WAIT", 0.05)

    async def stalls() -> Exchange:
        return await exchange(front(), "/login", [])

    assert on_loop(stalls).status == 408


def test_who_watches_whether_the_other_side_is_there_waits_as_long_as_it_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(webhooks.front, "WAIT", 0.01)

    async def events(scope: Scope, receive: Receive, send: Send) -> None:
        async def pieces() -> AsyncIterator[str]:
            for number in range(10):
                await asyncio.sleep(0.01)
                yield str(number)

        await StreamingResponse(pieces())(scope, receive, send)

    async def stays() -> Exchange:
        return await exchange(front(events), "/", [b""], method="GET")

    assert on_loop(stays).body == b"0123456789"


def test_as_many_requests_as_there_is_room_for_are_answered_at_once_and_health_always(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(webhooks.front, "max_connections", lambda: 4)

    async def crowd() -> list[Exchange]:
        gate = asyncio.Event()

        async def waits(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["path"] != "/health":
                await gate.wait()
            await Response()(scope, receive, send)

        busy = front(waits)
        asked = [asyncio.ensure_future(exchange(busy, "/", method="GET")) for _ in range(2)]
        await asyncio.sleep(0)
        third, health = await exchange(busy, "/", method="GET"), await exchange(busy, "/health", method="GET")
        gate.set()
        return [third, health, *await asyncio.gather(*asked), await exchange(busy, "/", method="GET")]

    assert [answer.status for answer in on_loop(crowd)] == [503, 200, 200, 200, 200]


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


def test_a_browser_that_names_its_page_and_not_its_host_is_no_browser() -> None:
    assert post(front(), "/", headers={"origin": "https://evil.example"}).status == 400
    assert post(front(), "/", headers={"origin": "https://evil.example", "host": "localhost"}).status == 200


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


class Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.said: queue.Queue[str] = queue.Queue()

    def emit(self, record: logging.LogRecord) -> None:
        self.said.put(record.getMessage())


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[queue.Queue[str]]:
    monkeypatch.setattr(webhooks.limits, "SAID_AFTER", 0.2)
    handler = Lines()
    logging.getLogger("webhooks").addHandler(handler)
    yield handler.said
    logging.getLogger("webhooks").removeHandler(handler)


def test_an_error_that_no_code_of_ones_own_takes_part_in_is_a_line_and_not_a_traceback(
    lines: queue.Queue[str],
) -> None:
    broken = front(StaticFiles(directory="/nowhere", check_dir=False))
    for _ in range(3):
        answer = post(broken, "/x", method="GET")
        assert (answer.status, set(answer.json())) == (500, {"error"})
    assert lines.get(timeout=10) == "Turned away: 3 x Gradio fails at a request: RuntimeError"


def test_an_error_in_ones_own_code_stays_one() -> None:
    async def mine(scope: Scope, receive: Receive, send: Send) -> None:
        raise LookupError("in my own route")

    with pytest.raises(LookupError, match="in my own route"):
        post(front(mine), "/")


def test_what_is_turned_away_is_counted_in_one_line_a_minute(
    lines: queue.Queue[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    timers: list[threading.Timer] = []
    monkeypatch.setattr(threading.Timer, "start", lambda timer: timers.append(timer))
    refusing = front()
    for _ in range(200):
        post(refusing, "/gradio_api/queue/join", b"x")
        post(refusing, "/", b"x", headers={"content-length": str(MiB + 1)})
    (timer,) = timers
    assert timer.interval < 5
    timer.function()
    counted = "Turned away: 200 x There is nothing at this address; 200 x The body is over 1048576 bytes"
    assert lines.get(timeout=10) == counted
    post(refusing, "/gradio_api/queue/join", b"x")
    assert 55 < timers[1].interval <= 60
