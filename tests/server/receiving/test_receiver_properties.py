"""Whatever is thrown at the receiver: never a 500, never a traceback to the sender, never a handler called."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from support.asgi import Exchange, post
from support.payloads import FIXTURES, load
from support.receivers import receiver

from webhooks import WebhookPayload

pytestmark = pytest.mark.long

SECRET = "s3cret"
REFUSALS = {400, 401, 403, 404, 405, 413, 422}

called: list[object] = []


def handler(payload: WebhookPayload) -> None:
    called.append(payload)


APP = receiver(handler, webhook_secret=SECRET)


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


def is_payload(body: Any) -> bool:
    """Judge by the shape alone, not by asking the model under test."""
    return isinstance(body, dict) and {"event", "repo", "webhook"} <= body.keys()


@given(path=st.text(), method=st.sampled_from(["POST", "GET", "PUT"]), headers=headers, body=st.binary())
def test_strangers_get_nothing(path: str, method: str, headers: dict[str, bytes], body: bytes) -> None:
    assume(SECRET.encode() not in headers.values())
    for target in (path, "/webhooks/" + path, "/webhooks/handler"):
        answer = post(APP, target, body, method=method, headers=headers)
        assert_refused(answer)
        assert answer.received == 0


@given(chunks=st.lists(st.binary(max_size=300), min_size=1, max_size=5))
def test_bytes_that_are_no_payload_are_refused(chunks: list[bytes]) -> None:
    assert_refused(post(APP, "/webhooks/handler", *chunks, headers={"x-webhook-secret": SECRET}))


@given(body=json_values(st.floats()))
def test_json_that_is_no_payload_is_refused(body: Any) -> None:
    assume(not is_payload(body))
    answer = post(APP, "/webhooks/handler", json.dumps(body).encode(), headers={"x-webhook-secret": SECRET})
    assert_refused(answer)


paths = [("event",), ("event", "action"), ("repo",), ("repo", "url"), ("repo", "url", "web"), ("webhook", "version")]


@given(where=st.sampled_from(paths), value=st.none() | st.lists(st.integers(), max_size=2))
def test_a_payload_with_a_wrong_part_is_refused(where: tuple[str, ...], value: Any) -> None:
    body = load("repo.content-update")
    part = body
    for name in where[:-1]:
        part = part[name]
    part[where[-1]] = value
    answer = post(APP, "/webhooks/handler", json.dumps(body).encode(), headers={"x-webhook-secret": SECRET})
    assert_refused(answer)
    assert any(problem["field"].startswith(".".join(where)) for problem in answer.json()["fields"])


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
def test_what_is_not_known_yet_is_taken(
    name: str, extra: dict[str, Any], action: str, scope: str, repo_type: str
) -> None:
    body = {**extra, **load(name)}
    body["event"].update(action=action, scope=scope)
    body["repo"]["type"] = repo_type
    raw = json.dumps(body, ensure_ascii=False).encode()
    answer = post(APP, "/webhooks/handler", raw, headers={"x-webhook-secret": SECRET})
    payload = called.pop()
    assert called == []
    assert answer.status == 200
    assert (payload.event.action, payload.event.scope, payload.repo.type) == (action, scope, repo_type)
    payload.event.matches("repo")  # neither of these raises
    payload.updates("dataset")
