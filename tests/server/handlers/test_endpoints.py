"""What a handler may ask for, and where it is reached."""

from __future__ import annotations

import asyncio
import functools
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Annotated, Any, Optional

import fastapi
import pytest
import starlette.requests
from support.payloads import load

from webhooks import Delivery, WebhookPayload, WebhooksServer
from webhooks.delivery import without_credentials
from webhooks.endpoints import Endpoint

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


def by_unresolvable_annotation(a: OnlyForTypeCheckers, payload, b: Delivery, c: fastapi.Request) -> Any:  # type: ignore[no-untyped-def]
    return payload, b, type(c)


def optional(a: Optional[WebhookPayload], b: Delivery | None, c: Annotated[fastapi.Request, "x"]) -> Any:  # noqa: UP045
    return a, b, type(c)


def positional_only(a: WebhookPayload, b: Delivery, /, *, c: fastapi.Request) -> Any:
    return a, b, type(c)


def with_more(a: WebhookPayload, retries: int = 3, *args: Any, b: Delivery, request: Any, **kwargs: Any) -> Any:
    assert (retries, args, kwargs) == (3, (), {})
    return a, b, type(request)


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
        optional,
        positional_only,
        with_more,
        Callable(),
        Callable().method,
        functools.partial(by_annotation),
    ],
)
def test_a_handler_gets_what_it_asks_for(handler: Any) -> None:
    endpoint = Endpoint(handler, "/f")
    assert endpoint.call(DELIVERY) == (PAYLOAD, DELIVERY, fastapi.Request)
    assert endpoint.takes_payload
    assert not endpoint.is_async


def test_an_annotation_for_type_checkers_only_leaves_the_names_to_decide() -> None:
    with pytest.raises(ValueError, match="'a'"):
        Endpoint(by_unresolvable_annotation)

    def handler(payload: OnlyForTypeCheckers, d: Delivery) -> Any:
        return payload, d

    assert Endpoint(handler).call(DELIVERY) == (PAYLOAD, DELIVERY)


def test_the_payload_class_of_huggingface_hub_is_served_by_name() -> None:
    import huggingface_hub

    def handler(payload: huggingface_hub.WebhookPayload) -> Any:
        return payload

    assert Endpoint(handler).call(DELIVERY) is PAYLOAD


def test_a_handler_may_ask_for_nothing() -> None:
    endpoint = Endpoint(lambda: "called", "/f")
    assert endpoint.call(DELIVERY) == "called"
    assert not endpoint.takes_payload


async def coroutine(payload: WebhookPayload) -> WebhookPayload:
    return payload


class Async:
    async def __call__(self, payload: WebhookPayload) -> WebhookPayload:
        return payload


@pytest.mark.parametrize("handler", [coroutine, functools.partial(coroutine), Async(), Async().__call__])
def test_an_async_handler_is_recognised(handler: Any) -> None:
    endpoint = Endpoint(handler, "/f")
    assert endpoint.is_async
    assert asyncio.run(endpoint.call(DELIVERY)) is PAYLOAD


def test_the_request_can_be_read_again_and_again() -> None:
    async def read(request: fastapi.Request) -> Any:
        return await request.json(), await request.body(), request.query_params["a"], request.url.path

    for _ in range(2):
        result = asyncio.run(Endpoint(read).call(DELIVERY))
        assert result == ({"a": 1}, b'{"a": 1}', "1", "/webhooks/f")


def test_a_request_keeps_no_credentials() -> None:
    headers = [(b"x-webhook-secret", b"1"), (b"authorization", b"2"), (b"cookie", b"3"), (b"content-type", b"4")]
    assert without_credentials(headers) == ((b"content-type", b"4"),)


@pytest.mark.parametrize(
    ("path", "full"),
    [
        (None, "/webhooks/by_annotation"),
        ("hello", "/webhooks/hello"),
        ("/hello", "/webhooks/hello"),
        ("/hello/", "/webhooks/hello"),
        ("/v1/hello-world.json", "/webhooks/v1/hello-world.json"),
    ],
)
def test_every_path_is_under_webhooks(path: str | None, full: str) -> None:
    assert Endpoint(by_annotation, path).path == full


@pytest.mark.parametrize("path", ["", "/", "a b", "a?b", "a#b", "{id}", "a//b", "entraîner", "a\n"])
def test_a_path_that_cannot_be_called_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="cannot be the path"):
        Endpoint(by_annotation, path)


@pytest.mark.parametrize("handler", [lambda event: None, lambda *, config: None, lambda a, payload: None])
def test_a_parameter_that_nothing_can_fill_is_refused_by_name(handler: Any) -> None:
    name = "event" if "event" in handler.__code__.co_varnames else handler.__code__.co_varnames[0]
    with pytest.raises(ValueError, match=f"'{name}'.*WebhookPayload, Delivery or fastapi.Request"):
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


def test_a_delivery_knows_when_it_came_and_has_an_id_of_its_own() -> None:
    deliveries = [Delivery("/webhooks/f", PAYLOAD) for _ in range(1000)]
    assert len({delivery.id for delivery in deliveries}) == 1000
    assert all(int(delivery.id, 16) >= 0 and len(delivery.id) == 16 for delivery in deliveries)
    assert deliveries[0].received_at.tzinfo is timezone.utc
    assert datetime.now(timezone.utc) - deliveries[0].received_at < timedelta(minutes=1)
    assert (deliveries[0].attempt, deliveries[0].replay_of) == (1, None)
