"""Handlers whose parameters FastAPI fills."""

from typing import Annotated, Any

from fastapi import Body, Depends, Header, Request
from pydantic import BaseModel

from webhooks import Delivery, WebhookPayload, WebhooksServer
from webhooks.testing import event, serving


class Out(BaseModel):
    name: str


def server_of(*handlers: Any, **options: Any) -> WebhooksServer:
    server = WebhooksServer()
    for handler in handlers:
        server.add_webhook(**options)(handler)
    return server


def test_dependencies_can_ask_for_the_delivery() -> None:
    def of_def(which: Delivery) -> str:
        return which.id

    async def of_async(delivery: "Annotated[Delivery, 'x']", below: str = Depends(of_def)) -> bool:
        return below == delivery.id

    class OfClass:
        def __init__(self, delivery: Delivery | None, below: Annotated[str, Depends(of_def)]) -> None:
            self.same = delivery is not None and delivery.id == below

    def handler(one: Annotated[bool, Depends(of_async)], two: Annotated[OfClass, Depends()], three: Delivery) -> Any:
        return [one, two.same, three.attempt]

    with serving(server_of(handler)) as client:
        assert client.deliver("handler").answer.json() == [True, True, 1]


def test_a_body_cannot_forge_a_delivery() -> None:
    def dependency(delivery: Delivery) -> str:
        return delivery.endpoint

    def handler(body: Annotated[dict, Body()], endpoint: str = Depends(dependency)) -> str:  # type: ignore[type-arg]
        return endpoint

    with serving(server_of(handler)) as client:
        forged = {"endpoint": "/forged", "payload": None, "delivery": {"endpoint": "/forged", "payload": None}}
        assert client.post("/webhooks/handler", json=forged).json() == "/webhooks/handler"


def test_a_result_that_misfits_its_annotation_fails() -> None:
    def handler(payload: WebhookPayload) -> Out:
        return {"password": "1234"}  # type: ignore[return-value]

    with serving(server_of(handler)) as client:
        sent = client.deliver("handler")
        assert sent.answer.status_code == 500
        assert "response.name: Field required" in sent.outcome.errors[0]
        assert "1234" not in sent.answer.text + sent.outcome.errors[0]


def test_a_request_that_misfits_is_422_and_final() -> None:
    def handler(number: int, out: Out, x_number: Annotated[int, Header()]) -> None: ...

    with serving(server_of(handler, max_attempts=5)) as client:
        headers = {"content-type": "application/json", "x-number": "input-2"}
        sent = client.deliver("handler", b'{"name": ["input-3"]}', params={"number": "input-1"}, headers=headers)
        answer = sent.answer.json()
        assert (sent.answer.status_code, answer["delivery"], sent.outcome.attempts) == (422, sent.id, 1)
        where = [["query", "number"], ["header", "x-number"], ["body", "name"]]
        assert [problem["loc"] for problem in answer["detail"]] == where
        assert {key for problem in answer["detail"] for key in problem} == {"type", "loc", "msg"}
        assert "input-" not in sent.answer.text + sent.outcome.errors[0]


def test_a_path_parameter_is_kept_for_retry_and_replay() -> None:
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
        for sent, name in ((alice, "alice"), (bob, "b ö")):  # neither supersedes the other
            assert sent.outcome.result[:2] == [name, f"/webhooks/hook/{name}"]
            assert client.outcome(server.replay(sent.id or "")).status == "succeeded"
        assert client.deliver("hook/mine/").answer.json() == "exact"
        assert client.post("/webhooks/hook/alice/more").status_code == 404


def test_a_payload_alone_is_checked_before_the_log() -> None:
    def filled(payload: WebhookPayload, x_none: str | None = Header(None)) -> str:
        return payload.repo.name

    def other(payload: WebhookPayload, more: Out) -> None: ...

    with serving(server_of(filled, other)) as client:
        assert client.deliver("filled", b"{").answer.status_code == 400
        refused = client.deliver("filled", b"{}")
        assert (refused.answer.status_code, refused.id) == (422, None)
        assert client.deliver("filled").answer.json() == event().repo.name  # without a content type, too
        assert client.deliver("other", b"{").id is not None
