"""Which requests the receiver accepts, and its response to each other one."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from support.asgi import exchange
from support.payloads import load
from support.receivers import Receiver, post

import webhooks.receiver
from webhooks import Delivery, WebhookPayload, WebhooksServer
from webhooks.receiver import is_from_web_page, path_of
from webhooks.testing import event, serving

UPDATE = json.dumps(load("repo.content-update")).encode()


def hello(payload: WebhookPayload) -> dict[str, str]:
    return {"hello": payload.repo.name}


def unreachable(payload: WebhookPayload) -> None:
    raise AssertionError("a refused request reached the handler")


def anything(delivery: Delivery) -> bool:
    return delivery.payload is not None


# --- path and method


@pytest.mark.parametrize("path", ["/webhooks/other", "/webhooks/", "/webhooks/hello/more"])
def test_an_unknown_endpoint_is_404(receiver: Receiver, path: str) -> None:
    answer = post(receiver(hello, webhook_secret="s3cret"), path, UPDATE)
    assert (answer.status, set(answer.json())) == (404, {"error"})


@pytest.mark.parametrize("method", ["GET", "PUT", "OPTIONS"])
def test_another_method_is_405_and_names_post(receiver: Receiver, method: str) -> None:
    answer = post(receiver(unreachable), "/webhooks/unreachable", UPDATE, method=method)
    assert (answer.status, answer.headers["allow"]) == (405, "POST")
    assert answer.headers["content-type"] == "application/json"


def test_a_trailing_slash_leads_to_the_endpoint(receiver: Receiver) -> None:
    assert post(receiver(hello), "/webhooks/hello/", UPDATE).status == 200


@pytest.mark.parametrize(
    ("root", "path", "below"),
    [
        ("", "/webhooks/train", "/webhooks/train"),
        ("/x", "/webhooks/train", "/webhooks/train"),
        ("https://example.com/x", "/x/deliveries", "/deliveries"),
    ],
)
def test_a_path_is_read_below_the_root_path(root: str, path: str, below: str) -> None:
    assert path_of({"type": "http", "path": path, "root_path": root}) == below


# --- who may deliver


def test_a_space_without_a_secret_answers_503(receiver: Receiver) -> None:
    answer = post(receiver(unreachable, space_id="me/hooks"), "/webhooks/unreachable", UPDATE)
    assert (answer.status, answer.received) == (503, 0)
    assert "WEBHOOK_SECRET" in answer.json()["error"]
    assert "Variables and secrets" in answer.json()["error"]


@pytest.mark.parametrize(
    "settings", [{}, {"space_id": "me/hooks", "webhooks_allow_unauthenticated": "true"}], ids=["laptop", "open Space"]
)
def test_an_open_server_needs_no_secret(receiver: Receiver, settings: dict[str, str]) -> None:
    assert post(receiver(hello, **settings), "/webhooks/hello", UPDATE).status == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"X-Webhook-Secret": ""}, 403),
        ({"X-Webhook-Secret": "s3cre"}, 403),
        ({"X-Webhook-Secret": "s3cret "}, 403),
        ({"X-Webhook-Secret": b"\xff\xfe\x00"}, 403),
        ({"Authorization": "Bearer s3cret"}, 401),
    ],
)
def test_a_wrong_secret_is_refused_before_the_body(receiver: Receiver, headers: dict[str, Any], status: int) -> None:
    answer = post(receiver(unreachable, webhook_secret="s3cret"), "/webhooks/unreachable", UPDATE, headers=headers)
    assert (answer.status, set(answer.json())) == (status, {"error"})
    assert answer.received == 0
    assert "x-delivery-id" not in answer.headers


def test_the_previous_secret_is_accepted(receiver: Receiver) -> None:
    app = receiver(hello, webhook_secret="new", webhook_secret_previous="old")
    for secret, status in (("new", 200), ("old", 200), ("newold", 403)):
        assert post(app, "/webhooks/hello", UPDATE, headers={"x-webhook-secret": secret}).status == status


def test_each_secret_is_compared_in_constant_time(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []
    real = webhooks.receiver.hmac.compare_digest

    def compare_digest(sent: bytes, secret: bytes) -> bool:
        compared.append(secret)
        return real(sent, secret)

    monkeypatch.setattr(webhooks.receiver.hmac, "compare_digest", compare_digest)
    app = receiver(hello, webhook_secret="new", webhook_secret_previous="old")
    assert post(app, "/webhooks/hello", UPDATE, headers={"x-webhook-secret": "new"}).status == 200
    assert compared == [b"new", b"old"]


PAGES = [{"origin": "https://evil.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}]
PAGES += [{"sec-fetch-site": "same-site"}, {"origin": "http://localhost:7860", "sec-fetch-site": "same-origin"}]
NO_PAGES: list[dict[str, str]] = [{}, {"sec-fetch-site": "none"}, {"sec-fetch-site": "same-origin"}]


@pytest.mark.parametrize("headers", [*PAGES, *NO_PAGES], ids=str)
def test_a_web_page_is_recognised_by_its_headers(headers: dict[str, str]) -> None:
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    assert is_from_web_page(raw) == (headers in PAGES)


def test_a_web_page_is_403_without_a_secret(receiver: Receiver) -> None:
    answer = post(receiver(unreachable), "/webhooks/unreachable", UPDATE, headers=PAGES[0])
    assert (answer.status, answer.received) == (403, 0)
    assert "WEBHOOK_SECRET" in answer.json()["error"]


# --- the body


def test_a_body_over_one_mebibyte_is_413(receiver: Receiver) -> None:
    app = receiver(anything)
    assert post(app, "/webhooks/anything", *[b"x" * 1024] * 1024).status == 200
    answer = post(app, "/webhooks/anything", *[b"x" * 1024] * 1024, b"x", b"never read")
    assert (answer.status, set(answer.json()), answer.received) == (413, {"error"}, 1025)


def test_a_body_that_does_not_end_is_408(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    assert webhooks.receiver.BODY_TIMEOUT_SECONDS == 10
    monkeypatch.setattr(webhooks.receiver, "BODY_TIMEOUT_SECONDS", 0.05)
    client = receiver(unreachable)
    answer = client.portal.call(exchange, client.app, "/webhooks/unreachable", ())
    assert (answer.status, set(answer.json())) == (408, {"error"})


def test_a_sender_that_hangs_up_is_forgotten(receiver: Receiver) -> None:
    assert post(receiver(unreachable), "/webhooks/unreachable", UPDATE, None).status is None


@pytest.mark.parametrize("body", [b"", b"hello", b"\xff\xfe{}", b"[" * 100_000], ids=lambda body: repr(body[:10]))
def test_a_body_that_is_not_json_is_400(receiver: Receiver, body: bytes) -> None:
    answer = post(receiver(unreachable), "/webhooks/unreachable", body)
    assert (answer.status, set(answer.json())) == (400, {"error"})


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_json_in_another_encoding_is_accepted(receiver: Receiver, encoding: str) -> None:
    assert post(receiver(hello), "/webhooks/hello", UPDATE.decode().encode(encoding)).status == 200


def test_no_payload_is_422_with_fields_and_no_input(receiver: Receiver) -> None:
    body = load("repo.content-update")
    body["repo"]["private"] = "stranger-text"
    del body["webhook"]["id"]
    answer = post(receiver(unreachable), "/webhooks/unreachable", json.dumps(body).encode())
    assert answer.status == 422
    fields = {problem["field"]: problem["reason"] for problem in answer.json()["fields"]}
    assert set(fields) == {"repo.private", "webhook.id"}
    assert fields["webhook.id"] == "Field required"
    assert b"stranger-text" not in answer.body
    assert "x-delivery-id" not in answer.headers


def test_any_body_fits_a_handler_without_a_payload(receiver: Receiver) -> None:
    app = receiver(anything)
    results = [post(app, "/webhooks/anything", body).json() for body in (b"", b"\x00\xff", b"{}", UPDATE)]
    assert results == [False, False, False, True]


# --- room


def test_more_than_max_pending_are_503(receiver: Receiver) -> None:
    ends, started = threading.Event(), []

    def waits() -> None:
        started.append(1)
        ends.wait(30)

    app = receiver(waits, reply_within=0.2, max_pending=1)
    first = post(app, "/webhooks/waits")
    answer = post(app, "/webhooks/waits")
    assert (first.status, answer.status, set(answer.json())) == (202, 503, {"error"})
    assert int(answer.headers["retry-after"]) > 0
    assert "x-delivery-id" not in answer.headers
    assert len(started) == 1
    ends.set()
    assert app.outcome(first.headers["x-delivery-id"]).status == "succeeded"
    assert post(app, "/webhooks/waits").status == 200


# --- what reaches the handler and the console


def test_a_strangers_text_stays_on_its_log_line(caplog: pytest.LogCaptureFixture) -> None:
    def fails(payload: WebhookPayload, name: str) -> None:
        raise ValueError(payload.repo.name)

    server = WebhooksServer()
    server.add_webhook("/hook/{name}")(fails)
    payload = event(repo={"name": "a\n2026-01-01 INFO delivery 0: succeeded\r\x1b[31m\u202e"})
    with caplog.at_level("INFO", "webhooks"), serving(server) as client:
        client.deliver("hook/a%0A2026%20INFO%20b%1B%5B31m%C2%85", payload)
    assert len(caplog.messages) == 1
    assert all(line.startswith("    | ") for line in caplog.messages[0].split("\n")[1:])
    assert not set("\r\x1b\x85\u202e") & set(caplog.messages[0])
