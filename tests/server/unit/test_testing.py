"""`webhooks.testing`: what the tests of somebody's own handlers are made of."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import HTTPException, Request
from support.hub import Hub
from support.processes import clean_environment

from webhooks import Delivery, SetupError, WebhookPayload, WebhooksServer, webhook_endpoint
from webhooks.samples import KINDS, REPO_TYPES
from webhooks.testing import Client, call, event, event_json, serving

REVISION = "8d2c41f07be35a96e1f4c0d97b6a28e35f1c9d04"


# --- events


@pytest.mark.parametrize("repo_type", REPO_TYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_an_event_of_each_kind_is_a_payload_and_the_json_of_one(kind: str, repo_type: str) -> None:
    payload = event(kind, repo_type, "me/mine", REVISION)
    assert payload == WebhookPayload.model_validate(event_json(kind, repo_type, "me/mine", REVISION))
    assert (payload.repo.type, payload.repo.name) == (repo_type, "me/mine")


def test_an_event_needs_no_arguments() -> None:
    assert event().updates("dataset")


def test_the_documentation_of_an_event_names_each_kind() -> None:
    assert [kind for kind in KINDS if f"`{kind}`" not in (event_json.__doc__ or "")] == []


def test_anything_in_an_event_can_be_changed_and_the_rest_stays() -> None:
    plain, changed = event_json("comment"), event_json("comment", comment={"content": "Hi", "author": {"id": "x"}})
    assert changed["comment"].pop("content") == "Hi"
    assert changed["comment"].pop("author") == {"id": "x"}
    for field in ("content", "author"):
        del plain["comment"][field]
    assert changed == plain
    assert event(updatedRefs=[{"ref": "refs/heads/dev", "newSha": REVISION}]).updates("dataset", ref="refs/heads/dev")
    assert event(repo={"private": True}, brandNew={"a": 1}).brandNew == {"a": 1}
    assert event(repo={"headSha": None}).repo.headSha is None


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("commits",), "There is no kind of event 'commits'. Choose one of: commit, "),
        (("commit", "datasets"), "There is no type of repository 'datasets'. Choose one of: dataset, model, space"),
        (("commit", "dataset", "mine"), "a name like username/my-dataset"),
        (("commit", "dataset", "me/mine", "main"), "a full commit hash"),
    ],
)
def test_an_event_that_does_not_exist_is_refused_with_what_does(arguments: Any, sentence: str) -> None:
    for make in (event, event_json):
        with pytest.raises(ValueError, match=sentence):
            make(*arguments)


# --- call


def everything(payload: WebhookPayload, delivery: Delivery, request: Request) -> dict[str, Any]:
    body = asyncio.run(request.json())
    return {"payload": payload, "delivery": delivery, "body": body, "path": request.url.path}


async def everything_async(payload: WebhookPayload, delivery: Delivery, request: Request) -> dict[str, Any]:
    return {"payload": payload, "delivery": delivery, "body": await request.json(), "path": request.url.path}


@pytest.mark.parametrize("handler", [everything, everything_async])
def test_a_handler_is_called_with_what_it_asks_for(handler: Any) -> None:
    sent = event("comment", "model", "me/mine")
    for argument in (sent, event_json("comment", "model", "me/mine")):
        got = call(handler, argument, attempt=3)
        assert got["payload"] == got["delivery"].payload == sent
        assert got["body"] == event_json("comment", "model", "me/mine")
        assert got["path"] == got["delivery"].endpoint == f"/webhooks/{handler.__name__}"
        assert got["delivery"].attempt == 3


def test_a_call_returns_and_raises_what_the_handler_does() -> None:
    result = object()

    def returns() -> Any:
        return result

    assert call(returns) is result

    def raises(payload: WebhookPayload) -> None:
        raise HTTPException(409, payload.repo.name)

    with pytest.raises(HTTPException) as caught:
        call(raises, event("tag", "model", "me/mine"))
    assert caught.value.detail == "me/mine"


def test_a_test_that_is_async_itself_can_call_a_handler() -> None:
    async def test() -> Any:
        return call(everything_async, event("tag"))["payload"].event.scope

    assert asyncio.run(test()) == "repo.content"


# --- nothing reaches the Hub


HANDLERS = """
import os
import huggingface_hub, pytest
from huggingface_hub.errors import OfflineModeIsEnabled
from webhooks import Delivery, WebhookPayload, WebhooksServer
from webhooks.jobs import launch_job
from webhooks.testing import call, event, serving

server = WebhooksServer()

@server.add_webhook
def train(payload: WebhookPayload, delivery: Delivery):
    return launch_job(delivery, "trl", ["sft"], cancel_running=True)

@server.add_webhook
async def answer(payload: WebhookPayload):
    huggingface_hub.comment_discussion(payload.repo.name, 1, "Hi")

with pytest.raises(OfflineModeIsEnabled):
    call(answer, event("comment"))
assert call(train, event()).dry_run
with serving(server) as client:
    assert client.deliver("train", event()).answer.json()["dry_run"]
    assert client.deliver("answer", event("comment")).outcome.errors[0].count("OfflineModeIsEnabled")
print("tested", flush=True)
print(huggingface_hub.whoami()["name"], os.environ["DRY_RUN"], flush=True)
"""


def test_nothing_asks_the_hub_anything_though_there_is_a_token_and_all_is_as_before_afterwards(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(HANDLERS)
    with Hub() as hub:
        hub.add_user("julien")
        hub.add_token("hf_julien", "julien")
        given = clean_environment(HF_ENDPOINT=hub.url, HF_TOKEN="hf_julien", DRY_RUN="false")
        command = [sys.executable, "script.py"]
        script = subprocess.run(command, cwd=tmp_path, env=given, stdout=subprocess.PIPE, text=True, timeout=60)
        seen = [(request.method, request.path) for request in hub.requests]
    assert (script.returncode, script.stdout) == (0, "tested\njulien false\n")
    assert seen == [("GET", "/api/whoami-v2")]
    assert list(tmp_path.iterdir()) == [tmp_path / "script.py"]  # no log


# --- serving


@pytest.fixture
def server() -> WebhooksServer:
    server = WebhooksServer(webhook_secret="s3cret")

    @server.add_webhook
    def hello(payload: WebhookPayload) -> dict[str, str]:
        return {"hello": payload.repo.name}

    @server.add_webhook("/nested/any")
    def any(request: Request) -> str:
        return request.headers["x-mine"]

    @server.add_webhook(max_attempts=3)
    async def flaky(delivery: Delivery) -> int:
        if delivery.attempt < 3:
            raise ValueError(f"attempt {delivery.attempt}")
        return delivery.attempt

    @server.add_webhook(max_attempts=2)
    def broken() -> None:
        raise HTTPException(418, "no coffee")

    @server.add_webhook(debounce=3600)
    def calm(payload: WebhookPayload) -> str | None:
        return payload.revision()

    return server


@pytest.fixture
def client(server: WebhooksServer) -> Iterator[Client]:
    with serving(server) as client:
        yield client


@pytest.mark.parametrize("endpoint", ["hello", "/hello", "/webhooks/hello"])
def test_a_delivery_is_answered_as_the_hub_would_be(client: Client, endpoint: str) -> None:
    sent = client.deliver(endpoint, event("commit", "model", "me/mine"))
    assert (sent.answer.status_code, sent.answer.json()) == (200, {"hello": "me/mine"})
    assert sent.id == sent.answer.headers["X-Delivery-Id"]
    assert (sent.outcome.status, sent.outcome.attempts, sent.outcome.errors) == ("succeeded", 1, ())
    assert sent.outcome.result == {"hello": "me/mine"}


def test_a_commit_to_a_dataset_is_what_is_delivered_where_nothing_else_is_given(client: Client) -> None:
    assert client.deliver("hello").answer.json() == {"hello": "username/my-repo"}


def test_the_rest_of_the_table_of_answers_is_there_too(client: Client) -> None:
    assert client.post("/webhooks/hello", json=event_json()).status_code == 401
    assert client.deliver("hello", event(), headers={"X-Webhook-Secret": "another"}).answer.status_code == 403
    assert client.deliver("hello", b"no JSON").answer.status_code == 400
    assert client.deliver("hello", {"no": "payload"}).answer.status_code == 422
    assert client.post("/webhooks/other").status_code == 404
    assert client.get("/webhooks/hello").status_code == 405
    assert client.get("/health").json()["succeeded"] == 0
    assert client.get("/").status_code == 404


def test_bytes_and_headers_arrive_as_they_are(client: Client) -> None:
    given = {"X-Webhook-Secret": "s3cret", "X-Mine": "yes"}
    assert client.deliver("nested/any", b"anything", headers=given).answer.json() == "yes"


def test_retries_are_not_waited_for(client: Client) -> None:
    sent = client.deliver("flaky", event())
    assert (sent.answer.status_code, sent.answer.json()["status"]) == (202, "scheduled")
    outcome = sent.outcome
    assert (outcome.status, outcome.attempts, outcome.result) == ("succeeded", 3, 3)
    assert ["attempt 1" in outcome.errors[0], "attempt 2" in outcome.errors[1]] == [True, True]


def test_what_fails_for_good_says_why(client: Client) -> None:
    outcome = client.deliver("broken", b"").outcome
    assert (outcome.status, outcome.attempts, outcome.result["error"]) == ("failed", 2, "no coffee")
    assert all("no coffee" in error for error in outcome.errors)


def test_a_burst_is_not_waited_for_and_its_last_event_runs(client: Client) -> None:
    sent = [client.deliver("calm", event(revision=digit * 40)) for digit in "abc"]
    assert [one.answer.status_code for one in sent] == [202] * 3
    assert [one.outcome.status for one in sent] == ["superseded", "superseded", "succeeded"]
    assert sent[-1].outcome.result == "c" * 40


def test_a_replay_has_an_outcome_too(client: Client, server: WebhooksServer) -> None:
    sent = client.deliver("hello", event())
    assert client.outcome(server.replay(sent.id or "")).status == "succeeded"


def test_a_handler_that_does_not_exist_is_refused_with_those_that_do(client: Client) -> None:
    with pytest.raises(LookupError, match=r"no handler at /webhooks/helo\. Those there are: /webhooks/hello, /webh"):
        client.deliver("helo", event())


def test_what_was_not_taken_has_no_outcome(client: Client) -> None:
    with pytest.raises(KeyError):
        client.deliver("hello", b"").outcome  # noqa: B018


def test_each_time_it_is_a_new_log_and_none_stays(
    server: WebhooksServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for _ in range(2):
        with serving(server) as client:
            sent = client.deliver("hello", event())
            assert sent.outcome.status == "succeeded"
            assert client.get("/health").json()["succeeded"] == 1
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(RuntimeError, match="inside the `with` block"):
        sent.outcome  # noqa: B018


def test_a_test_that_fails_says_why_and_the_next_one_can_serve_again(server: WebhooksServer) -> None:
    with pytest.raises(ZeroDivisionError), serving(server):
        1 / 0  # noqa: B018
    with serving(server) as client:
        assert client.deliver("hello", event()).outcome.status == "succeeded"


def test_a_server_can_be_served_by_one_test_at_a_time(server: WebhooksServer) -> None:
    with serving(server), pytest.raises(SetupError, match="running already"), serving(server):
        pass


def test_a_server_without_a_handler_says_what_is_missing() -> None:
    with pytest.raises(SetupError, match="No webhook to serve"), serving(WebhooksServer()):
        pass


def test_a_handler_that_does_not_end_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    server, gate = WebhooksServer(reply_within=0), threading.Event()
    server.add_webhook("/slow")(lambda: gate.wait(20))
    monkeypatch.setattr("webhooks.testing.WITHIN", 0.1)

    def somebodys_test() -> None:
        with serving(server) as client:
            sent = client.deliver("slow")
            with pytest.raises(TimeoutError, match=r"is still running after 0\.1 seconds"):
                client.outcome(sent.id or "", within=0.1)

    with pytest.raises(TimeoutError, match="still runs"):
        somebodys_test()
    gate.set()


def test_the_server_of_webhook_endpoint_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("webhooks.autostart._shared_server", None)

    @webhook_endpoint
    async def trigger(payload: WebhookPayload) -> str:
        return payload.repo.name

    with serving() as client:
        assert client.deliver("trigger", event()).answer.json() == "username/my-repo"
    assert call(trigger, event("tag", repo_id="me/mine")) == "me/mine"


# --- in pytest


def pytest_run(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "."],
        cwd=folder,
        env=clean_environment(PYTEST_DISABLE_PLUGIN_AUTOLOAD="1", **environment),
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.long
def test_a_wrong_setting_while_tests_are_collected_is_an_ordinary_error(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text("import webhooks\nserver = webhooks.WebhooksServer()\ndef test(): ...\n")
    assert pytest_run(tmp_path).returncode == 0
    done = pytest_run(tmp_path, DRY_RUN="perhaps")
    assert done.returncode == 2
    assert "SetupError: DRY_RUN is wrong: " in done.stdout
    assert "ERROR test_mine.py - webhooks.settings.SetupError: DRY_RUN is wrong" in done.stdout
    assert "INTERNALERROR" not in done.stdout + done.stderr
