"""The page of the owner's webhooks: the real client against a stand-in Hub."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from huggingface_hub import constants
from starlette.requests import Request
from starlette.responses import Response
from support.dashboard import Client, PagesHarness, text
from support.hub import Hub

import webhooks.dashboard.hub
from webhooks.dashboard.access import PAGE, Session
from webhooks.endpoints import Endpoint

LIST = "/api/settings/webhooks"
TOKEN, SECRET = "hf_me_and_nobody_else", "s3cret-of-the-webhook"
HERE = "https://tunnel.example.com/webhooks/train"
EVERYTHING = {"SPACE_HOST": "tunnel.example.com", "WEBHOOK_SECRET": SECRET, "HF_TOKEN": TOKEN}
NOTHING_LEFT = "Nothing is missing there any more. Look at the list again."


@pytest.fixture(autouse=True)
def me(one_hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    one_hub.add_user("me")
    for token, scope in ((TOKEN, "webhooks"), ("hf_oauth_me", "webhooks"), ("hf_jobs", "jobs")):
        one_hub.add_token(token, "me", scopes={scope})
    monkeypatch.setattr(constants, "ENDPOINT", one_hub.url)
    yield
    one_hub.forget()
    for thread in threading.enumerate():
        if thread.name == "webhooks hub":  # its answer was held; it would go on during the next test
            thread.join(10)


def owner(train: Any = "dataset:me/data", evaluate: Any = None, **environ: str) -> Client:
    """Return the owner of two handlers that watch this."""
    handlers = [Endpoint(lambda: None, "/train", watched=train), Endpoint(lambda: None, "/evaluate", watched=evaluate)]
    return PagesHarness(*handlers, **{**EVERYTHING, **environ}).owner()


def test_missing_webhooks_are_created(hub: Hub) -> None:
    me = owner(["dataset:me/data", "org:acme"], {"type": "model", "name": "me/tuned", "domains": ["repo"]})
    page = me.get("/hub")
    assert "3 webhooks are missing on the Hub. Create what is missing" in text(page)
    for line in (
        "train dataset me/data commits and settings, discussions missing Create",
        "train every repository of acme commits and settings, discussions missing Create",
        "evaluate model me/tuned commits and settings missing Create",
    ):
        assert line in text(page)
    (query,) = re.findall(r'action="/deliveries/hub\?(row=[^"]*tuned)"', page.body.decode())
    assert me.post("/hub", query=query).headers["location"] == f"{PAGE}/hub"
    assert "evaluate model me/tuned commits and settings enabled Change" in text(me.get("/hub"))
    assert me.post("/hub").status == 303
    for again in (query, "", "row=/webhooks/train+dataset:me/another"):
        assert NOTHING_LEFT in text(me.post("/hub", query=again))
    assert "missing on the Hub" not in text(me.get("/hub"))
    created = [(one["url"], one["watched"], one["domains"], one["secret"]) for one in hub.webhooks["me"]]
    assert created == [
        (HERE.replace("train", "evaluate"), [{"type": "model", "name": "me/tuned"}], ["repo"], SECRET),
        (HERE, [{"type": "dataset", "name": "me/data"}], ["repo", "discussion"], SECRET),
        (HERE, [{"type": "org", "name": "acme"}], ["repo", "discussion"], SECRET),
    ]
    for secret in (SECRET, TOKEN):
        assert secret not in page.body.decode() + me.get("/hub").body.decode()


def test_two_clicks_at_once_create_one_webhook(hub: Hub) -> None:
    me = owner(WEBHOOK_SECRET="")
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(me.post("/hub"))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(answer.status or 0 for answer in answers) == [303, 400]
    (request,) = (request for request in hub.requests if request.method == "POST")
    assert "secret" not in request.json()


FAILURES: dict[str, tuple[Callable[[Hub], object], str]] = {
    "error": (lambda hub: hub.fail("GET", LIST, 500), "The Hub answers 500: scripted"),
    "refusal": (lambda hub: hub.fail("GET", LIST, 400, "You may have 50"), "The Hub answers 400: You may have 50"),
    "cut": (lambda hub: hub.cut("GET", LIST), "The Hub cannot be reached (RemoteProtocolError). Try again later."),
    "silence": (lambda hub: hub.hold("GET", LIST), "The Hub cannot be reached (TimeoutError). Try again later."),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_failure_of_the_hub_is_a_sentence(hub: Hub, failure: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if failure == "silence":
        monkeypatch.setattr(webhooks.dashboard.hub, "TIMEOUT_SECONDS", 0.3)
    spoil, sentence = FAILURES[failure]
    spoil(hub)
    page = owner().get("/hub")
    assert (page.status, sentence in text(page)) == (200, True)
    assert "train dataset me/data commits and settings, discussions not known" in text(page)
    assert TOKEN not in page.body.decode()


def test_space_acts_with_the_token_of_the_session_only(hub: Hub) -> None:
    space = {**hub.space("tunnel.example.com"), **EVERYTHING}
    pages = PagesHarness(Endpoint(lambda: None, "/train", watched="dataset:me/data"), **space)
    by_link = pages.owner()
    page = by_link.get("/hub")
    assert "Sign in with Hugging Face to see and create your webhooks." in text(page)
    assert f'href="{PAGE}/sign-in"' in page.body.decode()
    assert by_link.post("/hub").status == 400
    assert hub.requests == []
    request = Request({"type": "http", "scheme": "https", "path": PAGE, "headers": [(b"host", pages.host.encode())]})
    response = Response()
    pages.dashboard.access.begin(request, response, Session(9e9, "me", "hf_oauth_me"))
    signed_in = Client(pages, response.headers["set-cookie"].partition(";")[0])
    assert "Acts as me." in text(signed_in.get("/hub"))
    assert signed_in.post("/hub").status == 303
    assert {request.headers["authorization"] for request in hub.requests} == {"Bearer hf_oauth_me"}
