"""What a handler may ask for, and where it is reached."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import threading
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Annotated, Any

import fastapi
import pytest
import starlette.requests
from fastapi import Depends
from pydantic_core import to_json
from support.payloads import load

from webhooks import Delivery, SetupError, WebhookPayload, WebhooksServer
from webhooks.endpoints import Endpoint
from webhooks.redact import split_credentials

if TYPE_CHECKING:
    from webhooks import WebhookPayload as OnlyForTypeCheckers

PAYLOAD = WebhookPayload.model_validate(load("repo.content-update"))
DELIVERY = Delivery(
    "/webhooks/f", PAYLOAD, query=b"a=1", headers=((b"content-type", b"application/json"),), body=b'{"a": 1}'
)


def by_annotation(a: WebhookPayload, b: Delivery, c: fastapi.Request) -> Any:
    return a, b, type(c)


def by_starlette_annotation(a: WebhookPayload, b: Delivery, c: starlette.requests.Request) -> Any:
    return a, b, type(c)


def by_name(payload, delivery, request):  # type: ignore[no-untyped-def]
    return payload, delivery, type(request)


def positional_only(a: WebhookPayload, b: Delivery, /, *, c: fastapi.Request) -> Any:
    return a, b, type(c)


def by_web_socket(socket: fastapi.WebSocket) -> None: ...


def by_unknown_type(lock: Annotated[threading.Lock, fastapi.Body()]) -> None: ...


class Callable:
    def __call__(self, a: WebhookPayload, b: Delivery, c: fastapi.Request) -> Any:
        return a, b, type(c)

    def method(self, a: WebhookPayload, b: Delivery, c: fastapi.Request) -> Any:
        return a, b, type(c)


@pytest.mark.parametrize(
    "handler",
    [
        by_annotation,
        by_starlette_annotation,
        by_name,
        positional_only,
        Callable(),
        Callable().method,
        functools.partial(by_annotation),
    ],
)
def test_a_handler_gets_what_it_asks_for(handler: Any) -> None:
    endpoint = Endpoint(handler, "/f")
    assert endpoint.invoker.call(DELIVERY) == (PAYLOAD, DELIVERY, fastapi.Request)
    assert endpoint.invoker.takes_payload
    assert not endpoint.invoker.is_async


def test_a_type_for_type_checkers_only_is_refused_unless_its_name_is_ours() -> None:
    def unknown(payload: OnlyForTypeCheckers) -> Any: ...

    def ours(payload: "fastapi.Request", other: "Delivery") -> Any:  # noqa: UP037
        return type(payload), other

    with pytest.raises(SetupError, match=r"unknown\(\).*'payload: OnlyForTypeCheckers'"):
        Endpoint(unknown)
    assert Endpoint(ours).invoker.call(DELIVERY) == (fastapi.Request, DELIVERY)


def test_a_handler_may_ask_for_nothing() -> None:
    endpoint = Endpoint(lambda: "called", "/f")
    assert endpoint.invoker.call(DELIVERY) == "called"
    assert not endpoint.invoker.takes_payload


async def coroutine(payload: WebhookPayload) -> Any:
    return payload


class Async:
    async def __call__(self, payload: WebhookPayload) -> Any:
        return payload


@pytest.mark.parametrize("handler", [coroutine, functools.partial(coroutine), Async(), Async().__call__])
def test_an_async_handler_is_recognised(handler: Any) -> None:
    endpoint = Endpoint(handler, "/f")
    assert endpoint.invoker.is_async
    assert asyncio.run(endpoint.invoker.call(DELIVERY)) is PAYLOAD


def test_the_request_can_be_read_again_and_again() -> None:
    async def read(request: fastapi.Request) -> Any:
        return await request.json(), await request.body(), request.query_params["a"], request.url.path

    for _ in range(2):
        result = asyncio.run(Endpoint(read).invoker.call(DELIVERY))
        assert result == ({"a": 1}, b'{"a": 1}', "1", "/webhooks/f")


def test_nothing_that_is_shown_of_a_delivery_has_a_credential() -> None:
    sent = [(b"x-webhook-secret", b"s3cret-1"), (b"authorization", b"s3cret-2"), (b"a", b"b")]
    headers, withheld = split_credentials(sent, is_ours=True)
    delivery = Delivery("/webhooks/f", None, headers=headers, withheld=withheld).received_as({"headers": sent})
    assert delivery.request().headers.items() == [
        ("x-webhook-secret", "s3cret-1"),
        ("authorization", "s3cret-2"),
        ("a", "b"),
    ]
    for shown in (repr(delivery), repr(dataclasses.asdict(delivery)), to_json(delivery).decode()):
        assert "s3cret" not in shown


@pytest.mark.parametrize(
    ("path", "full"),
    [
        (None, "/webhooks/by_annotation"),
        ("hello", "/webhooks/hello"),
        ("/hello", "/webhooks/hello"),
        ("/hello/", "/webhooks/hello"),
        ("/{name}", "/webhooks/{name}"),
        ("/v1/{number:int}/x", "/webhooks/v1/{number:int}/x"),
        ("/v1/hello-world.json", "/webhooks/v1/hello-world.json"),
    ],
)
def test_every_path_is_under_webhooks(path: str | None, full: str) -> None:
    assert Endpoint(by_annotation, path).path == full


@pytest.mark.parametrize("path", ["", "/", "a b", "a?b", "a#b", "{a b}", "{id:colour}", "a//b", "entraîner", "a\n"])
def test_a_path_that_cannot_be_called_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="cannot be the path"):
        Endpoint(by_annotation, path)


class Depending:
    def __init__(self, *args: Any) -> None: ...


def positional(a: int, /) -> None: ...


@pytest.mark.parametrize(
    "handler",
    [
        lambda *args: None,
        lambda payload, **kwargs: None,
        lambda a=Depends(Depending): None,
        lambda a=Depends(lambda **kwargs: None): None,
        lambda a=Depends(lambda b=Depends(positional): None): None,
        positional,
        by_web_socket,
        by_unknown_type,
    ],
)
def test_what_nothing_can_fill_is_refused_with_a_sentence(handler: Any) -> None:
    with pytest.raises(SetupError, match=r"nothing can fill|^FastAPI cannot fill the webhook handler by_unknown_type"):
        Endpoint(handler, "/f")


def test_adding_a_webhook_returns_the_function_itself() -> None:
    server = WebhooksServer()

    def one() -> None: ...

    def two() -> None: ...

    def three() -> None: ...

    assert server.add_webhook(one) is one
    assert server.add_webhook()(two) is two
    assert server.add_webhook("/drei")(three) is three
    assert server.registered_webhooks == {"/webhooks/one": one, "/webhooks/two": two, "/webhooks/drei": three}


def test_the_same_path_twice_is_a_value_error() -> None:
    server = WebhooksServer()
    server.add_webhook("/hello")(by_annotation)
    with pytest.raises(ValueError, match="/webhooks/hello"):
        server.add_webhook("hello/")(by_name)


@pytest.mark.parametrize("second", ["/hook/{id}", "/hook/{name}/"])
def test_two_paths_that_mean_the_same_collide(second: str) -> None:
    server = WebhooksServer()
    server.add_webhook("/hook/{name}")(by_annotation)
    server.add_webhook("/hook/mine")(by_annotation)
    server.add_webhook("/hook/{name:int}")(by_annotation)
    with pytest.raises(ValueError, match="There already is a webhook"):
        server.add_webhook(second)(by_name)


def test_a_delivery_knows_when_it_came_and_has_an_id_of_its_own() -> None:
    deliveries = [Delivery("/webhooks/f", PAYLOAD) for _ in range(1000)]
    assert len({delivery.id for delivery in deliveries}) == 1000
    assert all(int(delivery.id, 16) >= 0 and len(delivery.id) == 16 for delivery in deliveries)
    assert deliveries[0].received_at.tzinfo is timezone.utc
    assert datetime.now(timezone.utc) - deliveries[0].received_at < timedelta(minutes=1)
    assert (deliveries[0].attempt, deliveries[0].replay_of) == (1, None)
