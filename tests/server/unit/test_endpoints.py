"""Which handlers can be registered, and at which path."""

# ruff: noqa: B008 - FastAPI's parameters are calls in defaults

from __future__ import annotations

import functools
import threading
from typing import TYPE_CHECKING, Annotated, Any

import fastapi
import pytest
from fastapi import Depends

from webhooks import Delivery, SetupError, WebhookPayload, WebhooksServer
from webhooks.endpoints import Endpoint
from webhooks.testing import call

if TYPE_CHECKING:
    from webhooks import WebhookPayload as OnlyForTypeCheckers

KINDS = (WebhookPayload, Delivery, fastapi.Request)


def by_annotation(a: WebhookPayload, b: Delivery, c: fastapi.Request) -> Any:
    return type(a), type(b), type(c)


def by_name(payload, delivery, request):  # type: ignore[no-untyped-def]
    return type(payload), type(delivery), type(request)


class Bot:
    async def method(self, a: WebhookPayload, b: Delivery, /, *, c: fastapi.Request) -> Any:
        return type(a), type(b), type(c)


HANDLERS = {
    "annotation": by_annotation,
    "name": by_name,
    "async method": Bot().method,
    "partial": functools.partial(by_annotation),
}


@pytest.mark.parametrize("name", HANDLERS)
def test_a_handler_gets_what_it_asks_for(name: str) -> None:
    kinds = call(HANDLERS[name])
    assert all(issubclass(kind, expected) for kind, expected in zip(kinds, KINDS, strict=True))


def test_a_type_for_type_checkers_is_refused() -> None:
    def handler(payload: OnlyForTypeCheckers) -> Any: ...

    with pytest.raises(SetupError, match=r"handler\(\).*'payload: OnlyForTypeCheckers'"):
        Endpoint(handler)


def test_an_annotation_in_quotes_wins_over_the_name() -> None:
    def handler(payload: "fastapi.Request", other: "Delivery") -> Any:  # noqa: UP037
        return payload.url.path, other.endpoint

    assert call(handler) == ("/webhooks/handler", "/webhooks/handler")


# --- paths


@pytest.mark.parametrize(
    ("path", "full"),
    [
        (None, "/webhooks/by_annotation"),
        ("hello", "/webhooks/hello"),
        ("/hello/", "/webhooks/hello"),
        ("/v1/{number:int}/x", "/webhooks/v1/{number:int}/x"),
        ("/v1/hello-world.json", "/webhooks/v1/hello-world.json"),
    ],
)
def test_every_path_is_under_webhooks(path: str | None, full: str) -> None:
    assert Endpoint(by_annotation, path).path == full


@pytest.mark.parametrize("path", ["", "a b", "a?b", "{id:colour}", "a//b", "entraîner", "a\n"])
def test_a_path_that_cannot_be_called_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="cannot be the path"):
        Endpoint(by_annotation, path)


@pytest.mark.parametrize("second", ["hook/mine/", "/hook/{id}", "/hook/{name}/"])
def test_the_same_path_twice_is_a_value_error(second: str) -> None:
    server = WebhooksServer()
    for first in ("/hook/{name}", "/hook/mine", "/hook/{name:int}"):
        server.add_webhook(first)(by_annotation)
    with pytest.raises(ValueError, match="There already is a webhook"):
        server.add_webhook(second)(by_name)


# --- registration


def positional(a: int, /) -> None: ...


def by_unknown_type(lock: Annotated[threading.Lock, fastapi.Body()]) -> None: ...


REFUSED = {
    "args": lambda *args: None,
    "kwargs of a dependency": lambda a=Depends(lambda b=Depends(lambda **kwargs: None): None): None,
    "positional": positional,
    "no type for FastAPI": by_unknown_type,
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_parameter_that_nothing_fills_is_refused(name: str) -> None:
    with pytest.raises(SetupError, match=r"nothing can fill|^FastAPI cannot fill the webhook handler by_unknown_type"):
        Endpoint(REFUSED[name], "/f")


def test_a_parameter_like_a_payload_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    def handler(event): ...

    def by_the_path(name, page=1): ...

    server = WebhooksServer()
    server.add_webhook(handler)
    server.add_webhook("/of/{name}")(by_the_path)
    (record,) = caplog.records
    assert "handler(): its parameter 'event' has no annotation" in record.getMessage()


def test_adding_a_webhook_returns_the_function() -> None:
    server = WebhooksServer()
    one, two, three = (lambda: 1), (lambda: 2), (lambda: 3)
    one.__name__ = "one"
    assert server.add_webhook(one) is one
    assert server.add_webhook("/two")(two) is two
    assert server.add_webhook(path="/three", max_attempts=2)(three) is three
    assert server.registered_webhooks == {"/webhooks/one": one, "/webhooks/two": two, "/webhooks/three": three}
