"""`WebhooksServer` without a port: its arguments, `deliver`, `replay` and `on_failure`."""

from __future__ import annotations

from queue import SimpleQueue
from typing import Any

import pytest
from support.engines import WAIT

from webhooks import Delivery, SetupError, WebhookPayload, WebhooksServer
from webhooks.testing import event, event_json, serving


def add(**options: Any) -> Any:
    return lambda: WebhooksServer().add_webhook("/f", **options)(lambda: None)


MISTAKES: list[tuple[Any, str]] = [
    (lambda: WebhooksServer().add_webhook(7), "not 7"),
    (lambda: WebhooksServer().add_webhook()("no function"), "not 'no function'"),
    (lambda: WebhooksServer().launch(), "No webhook to serve"),
    (lambda: WebhooksServer().replay("0" * 16), "launch"),
    *((lambda v=v: WebhooksServer(reply_within=v), "reply_within") for v in ("soon", -1, float("nan"), True, None)),
    *((lambda v=v: WebhooksServer(max_pending=v), "max_pending") for v in (0, "many", 2.5)),
    *((add(max_attempts=value), "max_attempts") for value in (0, 1.5, "3", True)),
    *((add(timeout=value), "timeout") for value in (0, -1, "30s", float("nan"))),
    *((add(debounce=value), "debounce") for value in (-1, "a minute", float("inf"), None)),
]


@pytest.mark.parametrize(("mistake", "message"), MISTAKES)
def test_a_wrong_argument_is_a_setup_error(mistake: Any, message: str) -> None:
    with pytest.raises(SetupError, match=message):
        mistake()


@pytest.fixture
def server() -> WebhooksServer:
    return WebhooksServer()


@pytest.mark.parametrize("make", [event, event_json], ids=["payload", "JSON"])
@pytest.mark.parametrize("by", ["function", "name", "path"])
def test_deliver_runs_a_handler(server: WebhooksServer, make: Any, by: str) -> None:
    @server.add_webhook
    def handler(payload: WebhookPayload) -> str:
        return payload.repo.name

    target = {"function": handler, "name": "handler", "path": "/webhooks/handler"}[by]
    with serving(server) as client:
        id = server.deliver(target, make(repo_id="me/data"))
        assert client.outcome(id).result == "me/data"
        with pytest.raises(KeyError):
            server.replay("no-such-id")


def test_a_handler_can_deliver(server: WebhooksServer) -> None:
    @server.add_webhook
    def second(payload: WebhookPayload) -> str:
        return payload.repo.name

    @server.add_webhook
    async def first(payload: WebhookPayload) -> str:
        return server.deliver(second, payload)

    with serving(server) as client:
        id = client.deliver("first", event(repo_id="me/data")).outcome.result
        assert client.outcome(id).result == "me/data"


@pytest.mark.parametrize(("path", "used"), [("/train", "/train"), ("/train/{name}", "/train/bob")])
def test_secret_in_a_path_loses_no_delivery(path: str, used: str) -> None:
    server = WebhooksServer(webhook_secret="train")

    @server.add_webhook(path, max_attempts=2)
    def handler(delivery: Delivery, name: str = "") -> str:
        if delivery.attempt == 1:
            raise ValueError
        return name

    with serving(server) as client:
        assert client.deliver(used).outcome.status == "succeeded"


def test_on_failure_registers_a_function(server: WebhooksServer) -> None:
    reported: SimpleQueue[tuple[str, str]] = SimpleQueue()

    @server.add_webhook
    def handler() -> None:
        raise ValueError("no data")

    @server.on_failure
    def report(delivery: Delivery, error: str) -> None:
        reported.put((delivery.id, error))

    with serving(server) as client:
        sent = client.deliver("handler")
        id, error = reported.get(timeout=WAIT)
    assert (id, "ValueError: no data" in error) == (sent.id, True)
