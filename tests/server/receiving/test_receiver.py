"""What a sender is answered, case by case, without a network."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import threading
from typing import Any

import pytest
from fastapi import HTTPException, Request
from pydantic import BaseModel
from starlette.background import BackgroundTask
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse
from support.asgi import exchange, post
from support.dispatching import wait_until
from support.payloads import load
from support.receivers import receiver

import webhooks.receiver
from webhooks import Delivery, WebhookPayload

UPDATE = json.dumps(load("repo.content-update")).encode()


def hello(payload: WebhookPayload) -> dict[str, str]:
    return {"hello": payload.repo.name}


def nothing() -> None: ...


def unreachable(payload: WebhookPayload) -> None:
    raise AssertionError("a refused request reached the handler")


def test_an_unknown_endpoint_is_404() -> None:
    for path in ("/webhooks/other", "/webhooks/", "/webhooks", "/webhooks/hello/more"):
        answer = post(receiver(hello), path, UPDATE)
        assert (answer.status, set(answer.json())) == (404, {"error"})


def test_an_unknown_endpoint_is_404_whatever_the_method_or_secret() -> None:
    assert post(receiver(hello, webhook_secret="s3cret"), "/webhooks/other", method="GET").status == 404


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "BREW"])
def test_another_method_than_post_is_405_and_says_so(method: str) -> None:
    answer = post(receiver(unreachable), "/webhooks/unreachable", UPDATE, method=method)
    assert (answer.status, answer.headers["allow"]) == (405, "POST")
    assert answer.headers["content-type"] == "application/json"


def test_a_trailing_slash_is_the_same_endpoint() -> None:
    assert post(receiver(hello), "/webhooks/hello/", UPDATE).status == 200


def test_a_space_without_a_secret_takes_nothing_and_says_which_secret_is_missing() -> None:
    answer = post(receiver(unreachable, space_id="me/hooks"), "/webhooks/unreachable", UPDATE)
    assert answer.status == 503
    assert "WEBHOOK_SECRET" in answer.json()["error"]
    assert "Variables and secrets" in answer.json()["error"]
    assert answer.received == 0


def test_a_space_without_a_secret_is_open_if_it_is_told_to_be() -> None:
    app = receiver(hello, space_id="me/hooks", webhooks_allow_unauthenticated=True)
    assert post(app, "/webhooks/hello", UPDATE).status == 200


def test_outside_a_space_no_secret_means_open() -> None:
    assert post(receiver(hello), "/webhooks/hello", UPDATE).status == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"X-Webhook-Secret": ""}, 403),
        ({"X-Webhook-Secret": "wrong"}, 403),
        ({"X-Webhook-Secret": "s3cre"}, 403),
        ({"X-Webhook-Secret": "s3cret "}, 403),
        ({"X-Webhook-Secret": b"\xff\xfe\x00"}, 403),
        ({"Authorization": "Bearer s3cret"}, 401),
    ],
)
def test_a_missing_or_wrong_secret_is_refused_before_the_body_is_read(headers: dict[str, Any], status: int) -> None:
    answer = post(receiver(unreachable, webhook_secret="s3cret"), "/webhooks/unreachable", UPDATE, headers=headers)
    assert (answer.status, set(answer.json())) == (status, {"error"})
    assert answer.received == 0


def test_the_present_and_the_previous_secret_are_accepted_while_both_are_set() -> None:
    app = receiver(hello, webhook_secret="new", webhook_secret_previous="old")
    for secret, status in (("new", 200), ("old", 200), ("newold", 403)):
        assert post(app, "/webhooks/hello", UPDATE, headers={"x-webhook-secret": secret}).status == status


def test_a_secret_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def compare_digest(sent: bytes, secret: bytes) -> bool:
        compared.append((sent, secret))
        return real(sent, secret)

    real = webhooks.receiver.hmac.compare_digest
    monkeypatch.setattr(webhooks.receiver.hmac, "compare_digest", compare_digest)
    app = receiver(hello, webhook_secret="new", webhook_secret_previous="old")
    assert post(app, "/webhooks/hello", UPDATE, headers={"x-webhook-secret": "new"}).status == 200
    assert compared == [(b"new", b"new"), (b"new", b"old")]


def test_a_body_of_one_mebibyte_is_taken_and_one_byte_more_is_413() -> None:
    def size(request: Request) -> None: ...

    app = receiver(size)
    assert post(app, "/webhooks/size", b"x" * 1024, *[b"x" * 1024] * 1023).status == 200
    answer = post(app, "/webhooks/size", b"x" * 1024, *[b"x" * 1024] * 1023, b"x")
    assert (answer.status, set(answer.json())) == (413, {"error"})


def test_a_body_over_the_limit_is_not_read_to_its_end() -> None:
    answer = post(receiver(unreachable), "/webhooks/unreachable", *[b"x" * 600_000] * 10)
    assert (answer.status, answer.received) == (413, 2)


def test_a_body_that_does_not_arrive_in_time_is_408(monkeypatch: pytest.MonkeyPatch) -> None:
    assert webhooks.receiver.BODY_WITHIN == 10
    monkeypatch.setattr(webhooks.receiver, "BODY_WITHIN", 0.05)

    async def stall() -> Any:
        return await exchange(receiver(unreachable), "/webhooks/unreachable", ())

    answer = asyncio.run(stall())
    assert (answer.status, set(answer.json())) == (408, {"error"})


def test_a_sender_that_hangs_up_gets_no_answer_and_starts_nothing() -> None:
    answer = asyncio.run(exchange(receiver(unreachable), "/webhooks/unreachable", (UPDATE[:20], None)))
    assert answer.status is None


@pytest.mark.parametrize(
    "body", [b"", b"hello", b"{", b"\xff\xfe{}", b'"\\u12', b"[" * 100_000, b"\\u" + b"[" * 100_000]
)
def test_what_is_not_json_is_400(body: bytes) -> None:
    answer = post(receiver(unreachable), "/webhooks/unreachable", body)
    assert (answer.status, answer.json()) == (400, {"error": "The body is not JSON."})


def test_json_that_is_no_payload_is_422_with_field_and_reason_and_no_input() -> None:
    body = load("repo.content-update")
    body["repo"]["private"] = "stranger-text"
    del body["webhook"]["id"]
    answer = post(receiver(unreachable), "/webhooks/unreachable", json.dumps(body).encode())
    assert answer.status == 422
    fields = {problem["field"]: problem["reason"] for problem in answer.json()["fields"]}
    assert set(fields) == {"repo.private", "webhook.id"}
    assert fields["webhook.id"] == "Field required"
    assert b"stranger-text" not in answer.body


@pytest.mark.parametrize("body", [b"null", b"[]", b"3", b'"text"'])
def test_json_that_is_no_object_is_422(body: bytes) -> None:
    answer = post(receiver(unreachable), "/webhooks/unreachable", body)
    assert (answer.status, [problem["field"] for problem in answer.json()["fields"]]) == (422, ["body"])


def test_a_payload_with_very_many_faults_is_answered_with_few() -> None:
    body = {**load("repo.content-update"), "updatedRefs": [0] * 300_000}
    answer = post(receiver(unreachable), "/webhooks/unreachable", json.dumps(body).encode())
    assert (answer.status, len(answer.json()["fields"])) == (422, 1)


def test_a_handler_without_a_payload_accepts_any_body() -> None:
    seen: list[Any] = []

    def anything(delivery: Delivery) -> None:
        seen.append(delivery.payload)

    app = receiver(anything)
    assert [post(app, "/webhooks/anything", body).status for body in (b"", b"\x00\xff", b"{}", UPDATE)] == [200] * 4
    assert seen[:3] == [None] * 3
    assert seen[3].repo.name == "username/my-dataset"


class Report(BaseModel):
    rows: int


@dataclasses.dataclass
class Row:
    name: str


@pytest.mark.parametrize(
    ("result", "body"),
    [
        ({"a": [1, 2.5, None]}, {"a": [1, 2.5, None]}),
        ("text", "text"),
        (0, 0),
        (False, False),
        ([], []),
        (Report(rows=3), {"rows": 3}),
        ([Row("a")], [{"name": "a"}]),
        (float("nan"), None),
        ({"when": {1, 2}}, {"when": [1, 2]}),
    ],
)
def test_the_answer_is_what_the_handler_returned(result: Any, body: Any) -> None:
    def handler() -> Any:
        return result

    answer = post(receiver(handler), "/webhooks/handler", b"")
    assert (answer.status, answer.json()) == (200, body)
    assert answer.headers["content-type"] == "application/json"


def test_a_handler_that_returns_nothing_is_answered_with_its_delivery() -> None:
    answer = post(receiver(nothing), "/webhooks/nothing")
    assert (answer.status, len(answer.headers["x-delivery-id"])) == (200, 16)
    assert answer.json() == {"delivery": answer.headers["x-delivery-id"], "status": "succeeded"}


@pytest.mark.parametrize("is_async", [False, True])
def test_starlette_responses_are_passed_on_with_status_headers_and_background_tasks(is_async: bool) -> None:
    cleaned_up = threading.Event()

    async def pieces() -> Any:
        yield b"one "
        yield b"two"

    def build(kind: str) -> Any:
        return {
            "plain": PlainTextResponse("hi", 418, {"X-Tea": "pot"}, background=BackgroundTask(cleaned_up.set)),
            "json": JSONResponse({"a": 1}, 201),
            "stream": StreamingResponse(pieces(), media_type="text/csv"),
        }[kind]

    if is_async:

        async def handler(request: Request) -> Any:
            return build((await request.body()).decode())
    else:

        def handler(request: Request) -> Any:
            return build(asyncio.run(request.body()).decode())

    app = receiver(handler)
    plain = post(app, "/webhooks/handler", b"plain")
    assert (plain.status, plain.body, plain.headers["x-tea"]) == (418, b"hi", "pot")
    assert plain.headers["content-type"] == "text/plain; charset=utf-8"
    assert cleaned_up.wait(10)  # after the answer
    assert post(app, "/webhooks/handler", b"json").status == 201
    stream = post(app, "/webhooks/handler", b"stream")
    assert (stream.status, stream.body, stream.headers["content-type"]) == (200, b"one two", "text/csv; charset=utf-8")
    assert len(stream.headers["x-delivery-id"]) == 16


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize(
    "error",
    [ValueError("pass" + "word"), SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError(), StopIteration()],
)
def test_a_handler_that_raises_is_500_and_the_traceback_goes_to_the_log_only(
    error: BaseException, is_async: bool, caplog: pytest.LogCaptureFixture
) -> None:
    if is_async:

        async def handler() -> None:
            raise error
    else:

        def handler() -> None:
            raise error

    app = receiver(handler)
    answer = post(app, "/webhooks/handler")
    assert (answer.status, set(answer.json())) == (500, {"error", "delivery"})
    assert answer.json()["delivery"] == answer.headers["x-delivery-id"]
    assert b"password" not in answer.body
    assert b"Traceback" not in answer.body
    assert answer.headers["x-delivery-id"] in caplog.text
    assert "Traceback" in caplog.text
    assert post(app, "/webhooks/handler").status == 500, "the handler after a failed one does not run"


@pytest.mark.parametrize("status", [200, 204, 403, 503])
def test_an_http_exception_sets_the_status_and_counts_as_failed(status: int, caplog: pytest.LogCaptureFixture) -> None:
    def handler() -> None:
        raise HTTPException(status, "no credit", {"X-Reason": "credit"})

    answer = post(receiver(handler), "/webhooks/handler")
    assert (answer.status, answer.headers["x-reason"]) == (status, "credit")
    assert answer.body == b"" if status == 204 else answer.json()["error"] == "no credit"
    assert "failed" in caplog.text


@pytest.mark.parametrize(
    "error", [HTTPException(42), HTTPException(500, detail=object()), HTTPException(400, headers={"X-A": 3})]
)
def test_an_http_exception_that_cannot_be_sent_is_500(error: HTTPException) -> None:
    def handler() -> None:
        raise error

    assert post(receiver(handler), "/webhooks/handler").status == 500


@pytest.mark.parametrize("result", [object(), b"\xff", {1: object()}])
def test_a_result_that_has_no_form_in_json_is_500(result: Any) -> None:
    def handler() -> Any:
        return result

    answer = post(receiver(handler), "/webhooks/handler")
    assert (answer.status, set(answer.json())) == (500, {"error", "delivery"})


@pytest.mark.parametrize("is_async", [False, True])
def test_a_handler_slower_than_reply_within_is_202_and_goes_on(is_async: bool) -> None:
    go, finished = threading.Event(), threading.Event()

    if is_async:

        async def handler() -> None:
            await asyncio.to_thread(go.wait)
            finished.set()
    else:

        def handler() -> None:
            go.wait()
            finished.set()

    answer = post(receiver(handler, reply_within=0.05), "/webhooks/handler")
    assert (answer.status, answer.json()) == (202, {"delivery": answer.headers["x-delivery-id"], "status": "running"})
    assert not finished.is_set()
    go.set()
    assert finished.wait(10)


@pytest.mark.parametrize("is_async", [False, True])
def test_more_than_max_pending_are_503_and_nothing_of_them_runs(is_async: bool) -> None:
    go, started = threading.Event(), []

    if is_async:

        async def handler() -> None:
            started.append(1)
            await asyncio.to_thread(go.wait)
    else:

        def handler() -> None:
            started.append(1)
            go.wait()

    app = receiver(handler, reply_within=0.2, max_pending=2)
    assert [post(app, "/webhooks/handler").status for _ in range(2)] == [202, 202]
    answer = post(app, "/webhooks/handler")
    assert (answer.status, set(answer.json())) == (503, {"error"})
    assert int(answer.headers["retry-after"]) > 0
    assert "x-delivery-id" not in answer.headers
    assert len(started) == 2
    go.set()
    wait_until(lambda: post(app, "/webhooks/handler").status == 200)  # as soon as one is done, another is taken


def test_text_of_a_stranger_stays_on_one_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    hostile = "a\n2026-01-01 INFO delivery 0: succeeded\r\x1b[31m\u202e"

    def handler(payload: WebhookPayload) -> None:
        raise ValueError(payload.repo.name)

    body = load("repo.content-update")
    body["repo"]["name"] = hostile
    post(receiver(handler), "/webhooks/handler", json.dumps(body).encode())
    lines = caplog.messages[0].split("\n")
    assert all(line.startswith("    | ") for line in lines[1:])
    assert not set("\r\x1b\u202e") & set(caplog.messages[0])


def test_a_task_that_a_handler_left_behind_cannot_stop_the_others() -> None:
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


@pytest.mark.parametrize(
    ("response", "status", "body"),
    [
        (PlainTextResponse("hello", headers={"content-length": "50"}), 200, b"hello"),
        (PlainTextResponse("hello", headers={"content-length": "2"}), 200, b"hello"),
        (PlainTextResponse("hello", headers={"x-title": "a\r\nset-cookie: b"}), 500, None),
        (PlainTextResponse("hello", status_code=99), 500, None),
        (PlainTextResponse("hello", status_code=2**70), 500, None),
        (PlainTextResponse("", status_code=204), 204, b""),
    ],
)
def test_a_response_that_cannot_be_sent_as_it_is_is_mended_or_fails(
    response: PlainTextResponse, status: int, body: bytes | None
) -> None:
    def handler() -> PlainTextResponse:
        return response

    answer = post(receiver(handler), "/webhooks/handler")
    assert answer.status == status
    assert "set-cookie" not in answer.headers
    assert answer.headers.get("content-length") == (None if status == 204 else str(len(answer.body)))
    assert body is None or answer.body == body


def test_a_secret_in_the_query_reaches_the_handler_and_no_file() -> None:
    seen: list[tuple[str, bytes]] = []

    def handler(request: Request, delivery: Delivery) -> None:
        seen.append((request.url.query, delivery.query))

    app = receiver(handler, webhook_secret="s3cret")
    headers = {"x-webhook-secret": "s3cret"}
    assert post(app, "/webhooks/handler", b"", headers=headers, query=b"a=1&secret=s3cret").status == 200
    assert seen == [("a=1&secret=s3cret", b"a=1&secret=***")]


@pytest.mark.parametrize(("space", "scheme"), [({"space_id": "me/hooks"}, "https"), ({}, "http")])
def test_behind_the_proxy_of_a_space_the_address_is_the_one_that_was_called(space: Any, scheme: str) -> None:
    def handler(request: Request) -> Any:
        return str(request.url)

    app = receiver(handler, webhook_secret="s3cret", **space)
    headers = {"x-webhook-secret": "s3cret", "host": "me-hooks.hf.space", "x-forwarded-proto": "https"}
    answer = post(app, "/webhooks/handler", headers=headers, query=b"a=1")
    assert answer.json() == f"{scheme}://me-hooks.hf.space/webhooks/handler?a=1"
