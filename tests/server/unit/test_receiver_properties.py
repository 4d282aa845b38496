"""Whatever a stranger sends: an error without a traceback, and no handler runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from support.asgi import Exchange
from support.payloads import FIXTURES, load
from support.receivers import post, receiving

from webhooks import WebhookPayload
from webhooks.testing import Client

pytestmark = pytest.mark.long

SECRET = "s3cret"
SIGNED = {"x-webhook-secret": SECRET}
REFUSALS = {400, 401, 403, 404, 405, 413, 422}

called: list[WebhookPayload] = []


def handler(payload: WebhookPayload) -> None:
    called.append(payload)


@pytest.fixture(scope="module")
def app() -> Iterator[Client]:
    with receiving(handler, webhook_secret=SECRET) as client:
        yield client


def json_values(floats: st.SearchStrategy[float]) -> st.SearchStrategy[Any]:
    return st.recursive(
        st.none() | st.booleans() | st.integers() | floats | st.text(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
        max_leaves=20,
    )


header_names = st.text(st.characters(codec="ascii", categories=["L", "N"], include_characters="-_"), min_size=1)
headers = st.dictionaries(header_names, st.binary(max_size=200), max_size=6)


def assert_refused(answer: Exchange) -> None:
    assert answer.status in REFUSALS
    assert answer.headers["content-type"] == "application/json"
    assert b"Traceback" not in answer.body
    assert isinstance(answer.json()["error"], str)
    assert "x-delivery-id" not in answer.headers
    assert called == []


@given(path=st.text(), method=st.sampled_from(["POST", "GET", "PUT"]), headers=headers, body=st.binary())
def test_a_stranger_is_refused(app: Client, path: str, method: str, headers: dict[str, bytes], body: bytes) -> None:
    assume(SECRET.encode() not in headers.values())
    for target in ("/webhooks/" + path, "/webhooks/handler"):
        answer = post(app, target, body, method=method, headers=headers)
        assert_refused(answer)
        assert answer.received == 0


@given(chunks=st.lists(st.binary(max_size=300), min_size=1, max_size=5))
def test_bytes_that_are_no_payload_are_refused(app: Client, chunks: list[bytes]) -> None:
    assert_refused(post(app, "/webhooks/handler", *chunks, headers=SIGNED))


@given(body=json_values(st.floats()))
def test_json_that_is_no_payload_is_refused(app: Client, body: Any) -> None:
    assume(not (isinstance(body, dict) and {"event", "repo", "webhook"} <= body.keys()))
    assert_refused(post(app, "/webhooks/handler", json.dumps(body).encode(), headers=SIGNED))


@given(
    name=st.sampled_from(sorted(file.stem for file in FIXTURES.glob("*.json"))),
    extra=st.dictionaries(
        st.text().filter(lambda key: key not in WebhookPayload.model_fields),
        json_values(st.floats(allow_nan=False, allow_infinity=False)),
        max_size=3,
    ),
    action=st.text(),
    scope=st.text(),
    repo_type=st.text(),
)
def test_an_unknown_kind_of_event_is_accepted(
    app: Client, name: str, extra: dict[str, Any], action: str, scope: str, repo_type: str
) -> None:
    body = {**extra, **load(name)}
    body["event"].update(action=action, scope=scope)
    body["repo"]["type"] = repo_type
    answer = post(app, "/webhooks/handler", json.dumps(body, ensure_ascii=False).encode(), headers=SIGNED)
    payload = called.pop()
    assert (called, answer.status) == ([], 200)
    assert (payload.event.action, payload.event.scope, payload.repo.type) == (action, scope, repo_type)
    payload.event.matches("repo")  # neither call raises
    payload.updates("dataset")
