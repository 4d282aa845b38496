"""Runner that FastAPI fills: where they run, and what becomes of them."""

import asyncio
import contextvars
import functools
import threading
from typing import Annotated, Any

import pytest
from fastapi import BackgroundTasks, Body, Depends, Header, HTTPException, Request, Response
from pydantic import BaseModel, ValidationError
from starlette.background import BackgroundTask
from starlette.responses import JSONResponse
from support.dispatching import WAIT

from webhooks import Delivery, WebhookPayload, WebhooksServer
from webhooks.testing import call, event, serving


class Out(BaseModel):
    name: str


def server_of(*handlers: Any, **options: Any) -> WebhooksServer:
    server = WebhooksServer()
    for handler in handlers:
        server.add_webhook(**options)(handler)
    return server


def test_a_delivery_can_be_asked_for_in_dependencies() -> None:
    calls: list[str] = []

    def of_def(which: Delivery) -> str:
        calls.append(which.id)
        return which.id

    async def of_async(delivery: "Annotated[Delivery, 'x']", below: str = Depends(of_def)) -> str:
        return f"{delivery.attempt} {below == delivery.id}"

    class OfClass:
        def __init__(self, delivery: Delivery | None, below: Annotated[str, Depends(of_def)]) -> None:
            self.same = delivery is not None and delivery.id == below

    def handler(
        one: Annotated[str, Depends(of_async)],
        two: Annotated[OfClass, Depends()],
        delivery: Delivery,
        three: Any = Depends(functools.partial(of_def)),
    ) -> Any:
        return [one, two.same, three == delivery.id]

    async def handler_async(two: OfClass = Depends(OfClass), one: str = Depends(of_async)) -> Any:
        return [one, two.same]

    with serving(server_of(handler, handler_async)) as client:
        assert client.deliver("handler").answer.json() == ["1 True", True, True]
        assert len(calls) == 2  # once for all that depend on it, and once for the partial
        assert client.deliver("handler_async").answer.json() == ["1 True", True]


def test_a_body_never_passes_for_a_delivery() -> None:
    def dependency(delivery: Delivery) -> str:
        return delivery.endpoint

    def handler(body: Annotated[dict, Body()], endpoint: str = Depends(dependency)) -> str:  # type: ignore[type-arg]
        return endpoint

    with serving(server_of(handler)) as client:
        forged = b'{"endpoint": "/forged", "payload": null, "delivery": {"endpoint": "/forged", "payload": null}}'
        headers = {"content-type": "application/json"}
        assert client.post("/webhooks/handler", content=forged, headers=headers).json() == "/webhooks/handler"


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("kind", ["tasks", "response", "plain"])
def test_a_background_task_that_fails_fails_the_attempt_and_the_answer_has_gone_out(kind: str, is_async: bool) -> None:
    attempts: list[int] = []

    def work() -> None:
        attempts.append(1)
        raise ValueError("in the background")

    def tasks(tasks: BackgroundTasks) -> Any:
        tasks.add_task(work)
        return "answered"

    def response(x: int = 1) -> Any:
        return JSONResponse("answered", background=BackgroundTask(work))

    def plain(delivery: Delivery) -> Any:
        return JSONResponse("answered", background=BackgroundTask(work))

    handler = {"tasks": tasks, "response": response, "plain": plain}[kind]
    if is_async:
        handler = as_async(handler)
    with serving(server_of(handler, max_attempts=2)) as client:
        sent = client.deliver(kind)
        assert (sent.answer.status_code, sent.answer.json()) == (200, "answered")
        assert (sent.outcome.status, sent.outcome.attempts, len(attempts)) == ("failed", 2, 2)
        assert all("ValueError: in the background" in error for error in sent.outcome.errors)


def as_async(handler: Any) -> Any:
    @functools.wraps(handler)
    async def awaited(*args: Any, **values: Any) -> Any:
        return handler(*args, **values)

    return awaited


def test_a_timeout_counts_over_background_tasks_too() -> None:
    gate = threading.Event()

    def handler(tasks: BackgroundTasks) -> str:
        tasks.add_task(gate.wait, WAIT)
        return "answered"

    with serving(server_of(handler, timeout=0.05)) as client:
        sent = client.deliver("handler")
        assert sent.answer.json() == "answered"
        assert "longer than its timeout" in sent.outcome.errors[0]
        gate.set()


def test_what_does_not_fit_the_return_annotation_fails_and_stays_here() -> None:
    def handler(payload: WebhookPayload) -> Out:
        return {"password": "1234"}  # type: ignore[return-value]

    with serving(server_of(handler)) as client:
        sent = client.deliver("handler")
        assert sent.answer.status_code == 500
        assert "response.name: Field required" in sent.outcome.errors[0]
        assert "1234" not in sent.answer.text + sent.outcome.errors[0]


def test_a_request_that_does_not_fit_is_422_without_its_input_and_not_tried_again() -> None:
    def handler(number: int, out: Out, x_number: Annotated[int, Header()]) -> None: ...

    with serving(server_of(handler, max_attempts=5)) as client:
        headers = {"content-type": "application/json", "x-number": "input-2"}
        sent = client.deliver("handler", b'{"name": ["input-3"]}', params={"number": "input-1"}, headers=headers)
        answer = sent.answer.json()
        assert sent.answer.status_code == 422
        assert answer["delivery"] == sent.id
        assert answer["error"] == "The request does not fit the parameters of the handler."
        assert [problem["loc"] for problem in answer["detail"]] == [
            ["query", "number"],
            ["header", "x-number"],
            ["body", "name"],
        ]
        assert {key for problem in answer["detail"] for key in problem} == {"type", "loc", "msg"}
        assert sent.outcome.attempts == 1
        assert "input-" not in sent.answer.text + sent.outcome.errors[0]


def test_none_is_answered_as_everywhere() -> None:
    def handler(response: Response) -> None:
        response.headers["x-mine"] = "1"

    with serving(server_of(handler)) as client:
        sent = client.deliver("handler")
        assert sent.answer.json() == {"delivery": sent.id, "status": "succeeded"}
        assert sent.answer.headers["x-mine"] == "1"


def test_the_traceback_begins_in_the_users_code() -> None:
    def handler(n: int = 1) -> None:
        raise KeyError(n)

    async def dependency() -> None:
        raise KeyError

    async def handler_async(_: None = Depends(dependency)) -> None: ...

    with serving(server_of(handler, handler_async)) as client:
        for name, line in (("handler", "in handler"), ("handler_async", "in dependency")):
            (error,) = client.deliver(name).outcome.errors
            assert line in error.splitlines()[1], error


def test_a_def_handler_may_run_a_loop_of_its_own_and_end_itself() -> None:
    seen: contextvars.ContextVar[str] = contextvars.ContextVar("seen", default="nothing")

    async def dependency() -> None:
        seen.set("what a dependency has set")

    def handler(delivery: Delivery, _: None = Depends(dependency)) -> str:
        return asyncio.run(asyncio.sleep(0, seen.get()))

    def leaves(n: int = 1) -> None:
        raise SystemExit

    def stops(n: int = 1) -> None:
        next(iter(()))

    with serving(server_of(handler, leaves, stops)) as client:
        for _ in range(2):
            assert client.deliver("leaves").answer.status_code == 500
            assert client.deliver("stops").answer.status_code == 500
            assert client.deliver("handler").answer.json() == "what a dependency has set"


def test_a_handler_that_blocks_delays_no_def_handler() -> None:
    begun, gate, answered = threading.Barrier(4), threading.Event(), threading.Event()

    def block() -> None:
        begun.wait(WAIT)
        assert gate.wait(WAIT)

    async def blocks_async(x_none: str | None = Header(None)) -> None:
        block()

    def blocks(x_none: str | None = Header(None)) -> None:
        block()

    async def blocking_dependency() -> None:
        block()

    def depends(_: None = Depends(blocking_dependency)) -> None: ...

    def quick(x_none: str | None = Header(None)) -> None:
        answered.set()

    server = WebhooksServer(reply_within=0)
    for handler in (blocks_async, blocks, depends, quick):
        server.add_webhook(handler)
    with serving(server) as client:
        blocked = [client.deliver(name) for name in ("blocks_async", "blocks", "depends")]
        begun.wait(WAIT)
        client.deliver("quick")
        assert answered.wait(WAIT)
        assert [sent.answer.status_code for sent in blocked] == [202] * 3
        gate.set()
        assert [sent.outcome.status for sent in blocked] == ["succeeded"] * 3


@pytest.mark.parametrize("is_async", [False, True])
def test_hundreds_of_handlers_wait_at_once_for_a_def_dependency(is_async: bool) -> None:
    """FastAPI alone has 40 threads for them."""
    together = threading.Barrier(300)

    def dependency() -> None:
        together.wait(WAIT)

    def handler(_: None = Depends(dependency)) -> None: ...

    server = WebhooksServer(reply_within=0)
    server.add_webhook("handler")(as_async(handler) if is_async else handler)
    with serving(server) as client:
        sent = [client.deliver("handler") for _ in range(300)]
        assert {one.outcome.status for one in sent} == {"succeeded"}


def test_a_path_with_a_parameter_is_recorded_as_it_was_asked_for() -> None:
    server = WebhooksServer()

    @server.add_webhook("/hook/{name}", max_attempts=2, debounce=60)
    def handler(name: str, delivery: Delivery, request: Request) -> Any:
        if delivery.attempt == 1:
            raise ValueError
        return [name, delivery.endpoint, request.url.path]

    @server.add_webhook("/hook/mine")
    def exact() -> str:
        return "exact"

    with serving(server) as client:
        alice, bob = client.deliver("hook/alice"), client.deliver("hook/b ö")
        for sent, name in ((alice, "alice"), (bob, "b ö")):  # the one took not the other's place
            assert sent.outcome.result[:2] == [name, f"/webhooks/hook/{name}"]
            assert client.outcome(server.replay(sent.id or "")).status == "succeeded"
        assert client.deliver("hook/mine/").answer.json() == "exact"
        assert client.post("/webhooks/hook/alice/more").status_code == 404


def test_a_call_in_a_test_returns_what_the_handler_returns() -> None:
    def handler(payload: WebhookPayload, delivery: Delivery, n: int = 3) -> Out:
        return Out(name=f"{payload.repo.name} {delivery.attempt} {n}")

    async def refuses(payload: WebhookPayload, x_token: str | None = Header(None)) -> None:
        raise HTTPException(401, x_token)

    assert call(handler, event("tag", "model", "me/mine"), attempt=2) == Out(name="me/mine 2 3")
    with pytest.raises(HTTPException):
        call(refuses)
    with pytest.raises(ValidationError):
        call(handler, {"no": "payload"})


def test_a_payload_is_checked_at_the_door_where_it_is_all_of_the_body() -> None:
    def filled(payload: WebhookPayload, x_none: str | None = Header(None)) -> str:
        return payload.repo.name

    def other(payload: WebhookPayload, more: Out) -> None: ...

    with serving(server_of(filled, other)) as client:
        assert client.deliver("filled", b"{").answer.status_code == 400
        refused = client.deliver("filled", b"{}")
        assert (refused.answer.status_code, refused.id) == (422, None)
        assert client.deliver("filled").answer.json() == event().repo.name  # without a content type, too
        assert client.deliver("other", b"{").id is not None


def test_a_parameter_that_only_looks_like_the_payload_is_told_of_at_registration(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def handler(event): ...

    def by_the_path(name, page=1): ...

    server = server_of(handler)
    server.add_webhook("/of/{name}")(by_the_path)
    (record,) = caplog.records
    assert record.getMessage() == (
        "handler(): its parameter 'event' has no annotation, so it is looked for in the query. Is it the payload?"
    )


@pytest.mark.parametrize("is_async", [False, True])
def test_what_has_no_form_in_json_is_named_as_what_the_handler_returned(is_async: bool) -> None:
    def handler(payload: WebhookPayload) -> Any:
        return object()

    async def handler_async(payload: WebhookPayload) -> Any:
        return object()

    with serving(server_of(handler_async if is_async else handler)) as client:
        sent = client.deliver("handler_async" if is_async else "handler")
        assert sent.answer.status_code == 500
        assert "What the handler returned has no form in JSON" in sent.outcome.errors[0]


def test_the_console_says_whether_a_failed_attempt_is_followed_by_another_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def handler(payload: WebhookPayload) -> None:
        raise RuntimeError("no")

    with serving(server_of(handler, max_attempts=2)) as client:
        assert client.deliver("handler").outcome.attempts == 2
    first, last = [record.getMessage() for record in caplog.records if "failed after" in record.getMessage()]
    assert "attempt 1: failed after " in first
    assert " s, again in " in first.partition("\n")[0]
    assert last.partition("\n")[0].endswith(" s, for good")
