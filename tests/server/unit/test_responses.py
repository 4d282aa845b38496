"""The response to what a handler returns or raises."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from datetime import timedelta
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import HTTPException, Request
from pydantic import BaseModel
from starlette.responses import PlainTextResponse, StreamingResponse
from support.receivers import Receiver, post

BOTH = pytest.mark.parametrize("is_async", [False, True], ids=["def", "async def"])


class Report(BaseModel):
    rows: int


@dataclasses.dataclass
class Row:
    name: str


# --- results


@pytest.mark.parametrize(
    ("result", "body"),
    [
        ({"a": [1, 2.5, None]}, {"a": [1, 2.5, None]}),
        (False, False),
        (Report(rows=3), {"rows": 3}),
        ([Row("a")], [{"name": "a"}]),
        (float("nan"), None),
        ({"when": {1, 2}}, {"when": [1, 2]}),
        ([Decimal("1.5"), timedelta(minutes=1), SimpleNamespace(a=Row("b"))], [1.5, 60.0, {"a": {"name": "b"}}]),
    ],
    ids=str,
)
def test_a_result_is_answered_as_json(receiver: Receiver, result: Any, body: Any) -> None:
    answer = post(receiver(returns(result)), "/webhooks/handler")
    assert (answer.status, answer.json()) == (200, body)
    assert answer.headers["content-type"] == "application/json"


def returns(result: Any) -> Any:
    def handler() -> Any:
        if isinstance(result, BaseException):
            raise result
        return result

    return handler


def test_no_result_is_answered_with_the_delivery(receiver: Receiver) -> None:
    answer = post(receiver(returns(None)), "/webhooks/handler")
    assert answer.status == 200
    assert answer.json() == {"delivery": answer.headers["x-delivery-id"], "status": "succeeded"}


def test_a_result_without_json_is_500(receiver: Receiver) -> None:
    sent = receiver(returns(object())).deliver("handler", b"")
    assert (sent.answer.status_code, set(sent.answer.json())) == (500, {"error", "delivery"})
    assert "has no form in JSON" in sent.outcome.errors[0]


def test_a_slow_handler_is_202_and_goes_on(receiver: Receiver) -> None:
    ends = threading.Event()

    def handler() -> str:
        ends.wait(30)
        return "done"

    app = receiver(handler, reply_within=0.05)
    answer = post(app, "/webhooks/handler")
    id = answer.headers["x-delivery-id"]
    assert (answer.status, answer.json()) == (202, {"delivery": id, "status": "running"})
    ends.set()
    assert app.outcome(id).result == "done"


# --- responses of Starlette's


@BOTH
def test_a_response_is_passed_on(receiver: Receiver, is_async: bool) -> None:
    async def pieces() -> Any:
        yield b"one "
        yield b"two"

    def handler(request: Request) -> Any:
        is_stream = request.url.query == "stream"
        return StreamingResponse(pieces()) if is_stream else PlainTextResponse("null", 418, {"X-Tea": "pot"})

    async def handler_async(request: Request) -> Any:
        return handler(request)

    app, path = receiver(handler, handler_async), f"/webhooks/handler{'_async' * is_async}"
    plain, stream = post(app, path), post(app, path, query=b"stream")
    assert (plain.status, plain.body, plain.headers["x-tea"]) == (418, b"null", "pot")
    assert plain.headers["content-type"] == "text/plain; charset=utf-8"
    assert (stream.status, stream.body, len(stream.headers["x-delivery-id"])) == (200, b"one two", 16)


def test_a_line_break_in_a_header_is_500(receiver: Receiver) -> None:
    answer = post(receiver(returns(PlainTextResponse("", headers={"x": "a\r\nset-cookie: b"}))), "/webhooks/handler")
    assert (answer.status, "set-cookie" in answer.headers) == (500, False)


# --- errors


def test_an_error_is_500_without_its_traceback(receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    answer = post(receiver(returns(ValueError("pass" + "word"))), "/webhooks/handler")
    assert (answer.status, set(answer.json())) == (500, {"error", "delivery"})
    assert answer.json()["delivery"] == answer.headers["x-delivery-id"]
    assert b"password" not in answer.body
    assert b"Traceback" not in answer.body
    assert answer.headers["x-delivery-id"] in caplog.text
    assert "Traceback" in caplog.text


@pytest.mark.parametrize("status", [200, 403])
def test_an_http_exception_sets_the_status(receiver: Receiver, status: int) -> None:
    app = receiver(returns(HTTPException(status, "no credit", {"X-Reason": "credit"})))
    sent = app.deliver("handler", b"")
    assert (sent.answer.status_code, sent.answer.headers["x-reason"]) == (status, "credit")
    assert sent.answer.json() == {"detail": "no credit", "error": "no credit", "delivery": sent.id}
    assert sent.outcome.status == "failed"


def test_a_task_left_behind_stops_no_other_handler(receiver: Receiver) -> None:
    tasks: list[asyncio.Task[None]] = []

    async def handler(request: Request) -> None:
        async def leave() -> None:
            raise SystemExit

        if await request.body():
            tasks.append(asyncio.get_running_loop().create_task(leave()))

    app = receiver(handler)
    for body in (b"leave a task", b"leave a task", b""):
        assert post(app, "/webhooks/handler", body).status == 200
    assert [type(task.exception()) for task in tasks] == [SystemExit, SystemExit]
