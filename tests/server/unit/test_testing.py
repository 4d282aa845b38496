"""`webhooks.testing`: events, calls of a handler, and a server without a port."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from fastapi import Header, HTTPException, Request
from huggingface_hub import constants
from huggingface_hub.errors import OfflineModeIsEnabled
from pydantic import ValidationError

from webhooks import Delivery, WebhookPayload, WebhooksServer
from webhooks.jobs import launch_job
from webhooks.samples import KINDS
from webhooks.testing import Client, call, event, event_json, serving

REVISION = "8d2c41f07be35a96e1f4c0d97b6a28e35f1c9d04"


# --- events


@pytest.mark.parametrize("kind", KINDS)
def test_an_event_is_a_payload_of_its_json(kind: str) -> None:
    payload = event(kind, "model", "me/mine", REVISION)
    assert (payload.repo.type, payload.repo.name) == ("model", "me/mine")
    assert f"`{kind}`" in (event_json.__doc__ or "")


def test_a_change_leaves_the_rest_of_an_event() -> None:
    plain, changed = event_json("comment"), event_json("comment", comment={"content": "Hi"}, brandNew=[1])
    assert (changed["comment"].pop("content"), changed.pop("brandNew")) == ("Hi", [1])
    del plain["comment"]["content"]
    assert changed == plain


# --- call


async def everything(payload: WebhookPayload, delivery: Delivery, request: Request, n: int = 3) -> dict[str, Any]:
    return {"payload": payload, "delivery": delivery, "body": await request.json(), "n": n}


@pytest.mark.parametrize("make", [event, event_json])
def test_call_gives_a_handler_its_parameters(make: Any) -> None:
    got = call(everything, make("comment", "model", "me/mine"), attempt=3)
    assert got["payload"] == got["delivery"].payload == event("comment", "model", "me/mine")
    assert got["body"] == event_json("comment", "model", "me/mine")
    assert (got["delivery"].endpoint, got["delivery"].attempt, got["n"]) == ("/webhooks/everything", 3, 3)


def test_call_returns_and_raises_like_the_handler() -> None:
    def returns(payload: WebhookPayload) -> str:
        return payload.repo.name

    async def raises(payload: WebhookPayload, x_token: str | None = Header(None)) -> None:
        raise HTTPException(409, payload.repo.name)

    assert call(returns, event(repo_id="me/mine")) == "me/mine"
    with pytest.raises(HTTPException, match="409: me/mine"):
        call(raises, event(repo_id="me/mine"))
    with pytest.raises(ValidationError):
        call(returns, {"no": "payload"})


# --- the Hub


def test_no_test_reaches_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_token")
    monkeypatch.setenv("DRY_RUN", "false")
    server = WebhooksServer()

    @server.add_webhook
    def train(delivery: Delivery) -> Any:
        return launch_job(delivery, "trl", ["sft"], cancel_running=True)

    async def answer(payload: WebhookPayload) -> None:
        huggingface_hub.comment_discussion(payload.repo.name, 1, "Hi")

    with pytest.raises(OfflineModeIsEnabled):
        call(answer, event("comment"))
    with serving(server) as client:
        assert client.deliver("train", event()).answer.json()["dry_run"]
    assert os.environ["DRY_RUN"] == "false"
    assert not constants.is_offline_mode()


# --- serving


@pytest.fixture
def server() -> WebhooksServer:
    server = WebhooksServer(webhook_secret="s3cret")

    @server.add_webhook("/nested/hello")
    def hello(payload: WebhookPayload, request: Request) -> dict[str, Any]:
        return {"hello": payload.repo.name, "mine": request.headers.get("x-mine")}

    @server.add_webhook(max_attempts=3)
    async def flaky(delivery: Delivery) -> int:
        if delivery.attempt < 3:
            raise ValueError(f"attempt {delivery.attempt}")
        return delivery.attempt

    @server.add_webhook(debounce=3600)
    def calm(payload: WebhookPayload) -> str | None:
        return payload.revision()

    return server


@pytest.fixture
def client(server: WebhooksServer) -> Iterator[Client]:
    with serving(server) as client:
        yield client


def test_deliver_posts_as_the_hub_does(client: Client) -> None:
    sent = client.deliver("nested/hello", event("commit", "model", "me/mine"))
    assert (sent.answer.status_code, sent.answer.json()) == (200, {"hello": "me/mine", "mine": None})
    assert sent.id == sent.answer.headers["X-Delivery-Id"]
    assert (sent.outcome.status, sent.outcome.attempts, sent.outcome.errors) == ("succeeded", 1, ())
    assert sent.outcome.result == sent.answer.json()


def test_a_refused_delivery_has_no_outcome(client: Client) -> None:
    assert client.post("/webhooks/nested/hello", json=event_json()).status_code == 401
    sent = client.deliver("nested/hello", b"no JSON")
    assert sent.answer.status_code == 400
    with pytest.raises(KeyError):
        sent.outcome  # noqa: B018


def test_an_outcome_waits_for_no_retry(client: Client) -> None:
    sent = client.deliver("flaky", event())
    assert (sent.answer.status_code, sent.answer.json()["status"]) == (202, "scheduled")
    outcome = sent.outcome
    assert (outcome.status, outcome.attempts, outcome.result) == ("succeeded", 3, 3)
    assert ["attempt 1" in outcome.errors[0], "attempt 2" in outcome.errors[1]] == [True, True]


def test_an_outcome_waits_for_no_debounce(client: Client) -> None:
    sent = [client.deliver("calm", event(revision=digit * 40)) for digit in "abc"]
    assert [one.answer.status_code for one in sent] == [202] * 3
    assert [one.outcome.status for one in sent] == ["superseded", "superseded", "succeeded"]
    assert sent[-1].outcome.result == "c" * 40


def test_an_unknown_handler_is_a_lookup_error(client: Client) -> None:
    with pytest.raises(LookupError, match=r"no handler at /webhooks/helo\. There are: /webhooks/nested/hello, "):
        client.deliver("helo", event())


def test_each_serving_has_a_log_that_goes(
    server: WebhooksServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for _ in range(2):
        with serving(server) as client:
            assert client.deliver("nested/hello", event()).outcome.status == "succeeded"
            assert client.get("/health").json()["succeeded"] == 1
    assert list(tmp_path.iterdir()) == []
