"""The page about the owner's webhooks on the Hub: the real client against a stand-in Hub."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from huggingface_hub import constants
from starlette.requests import Request
from starlette.responses import Response
from support.desk import Client, Office, text
from support.hub import Hub

from webhooks.desk.access import PAGE, Session
from webhooks.endpoints import Endpoint

pytestmark = pytest.mark.once

LIST = "/api/settings/webhooks"
TOKEN, SECRET = "hf_me_and_nobody_else", "s3cret-of-the-webhook"
HERE = "https://tunnel.example.com/webhooks/train"
EVERYTHING = {"SPACE_HOST": "tunnel.example.com", "WEBHOOK_SECRET": SECRET, "HF_TOKEN": TOKEN}
NEW = {"type": "dataset", "name": " me/data ", "endpoint": "/webhooks/train", "domain_repo": "on"}


@pytest.fixture(scope="module")
def one_hub() -> Iterator[Hub]:
    with Hub() as hub:
        hub.add_user("me")
        hub.add_token(TOKEN, "me", scopes={"webhooks"})
        hub.add_token("hf_oauth_me", "me", scopes={"webhooks"})
        yield hub


@pytest.fixture
def hub(one_hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr(constants, "ENDPOINT", one_hub.url)
    yield one_hub
    unknown = list(one_hub.unknown)
    one_hub.forget()
    assert unknown == []


def owner(**environ: str) -> Client:
    return Office(Endpoint(lambda: None, "/train"), Endpoint(lambda: None, "/evaluate"), **environ).owner()


def webhook(url: str, **fields: Any) -> dict[str, Any]:
    watched = [{"type": "org", "name": "acme"}]
    return {"id": "a1", "url": url, "watched": watched, "domains": ["repo"], "disabled": True, **fields}


def test_the_owner_sees_creates_and_switches_webhooks(hub: Hub) -> None:
    me = owner(**EVERYTHING)
    assert "No webhook of yours points here yet" in text(me.get("/hub"))
    hub.webhooks["me"].append(webhook("https://tunnel.example.com/webhooks/evaluate", secret="another"))
    hub.webhooks["me"].append(webhook("https://elsewhere.example.com/webhooks/train", id="a2"))
    page = text(me.get("/hub"))
    assert "https://tunnel.example.com/webhooks/evaluate" in page
    assert "org acme" in page
    assert "disabled" in page
    assert "elsewhere" not in page
    assert me.post("/hub", {**NEW, "domain_discussion": "on"}).headers["location"] == f"{PAGE}/hub"
    created = hub.webhooks["me"][-1]
    assert {**created, "id": ""} == {
        "id": "",
        "url": HERE,
        "watched": [{"type": "dataset", "name": "me/data"}],
        "domains": ["repo", "discussion"],
        "secret": SECRET,
        "disabled": False,
    }
    for on, disabled in (("no", True), ("yes", False)):
        assert me.post("/hub", {"switch": created["id"], "on": on}).status == 303
        assert hub.webhooks["me"][-1] == {**created, "disabled": disabled}
    for answer in (me.get("/hub"), me.post("/hub", NEW)):
        assert not {SECRET, TOKEN, "another"} & set(answer.body.decode().replace('"', " ").split())


def test_each_failure_of_the_hub_is_a_sentence_and_the_form_stays_filled_in(hub: Hub) -> None:
    me = owner(**EVERYTHING)
    hub.fail("GET", LIST, 403)
    assert "The token may not manage your webhooks." in text(me.get("/hub"))
    hub.lose_answer("POST", LIST)
    answer = me.post("/hub", NEW)
    assert answer.status == 400
    assert "The Hub cannot be reached (RemoteProtocolError). Try again later." in text(answer)
    assert 'value=" me/data "' in answer.body.decode()
    assert "A webhook of yours already watches me/data and calls this endpoint." in text(me.post("/hub", NEW))
    assert len(hub.webhooks["me"]) == 1
    answer = me.post("/hub", {"switch": "of somebody else", "on": "no"})
    assert "This webhook is not yours, or does not point here any more." in text(answer)


@pytest.mark.parametrize(
    ("form", "sentence"),
    [
        ({"name": "  "}, "Say what to watch"),
        ({"type": "x"}, "Say what to watch"),
        ({"endpoint": "/webhooks/none"}, "Choose an endpoint"),
        ({"endpoint": "https://evil.example"}, "Choose an endpoint"),
        ({"domain_repo": ""}, "Choose an endpoint, and the events of at least one domain."),
    ],
)
def test_a_webhook_that_makes_no_sense_is_not_created(hub: Hub, form: dict[str, str], sentence: str) -> None:
    answer = owner(**EVERYTHING).post("/hub", {**NEW, **form})
    assert answer.status == 400
    assert sentence in text(answer)
    assert hub.webhooks.get("me", []) == []


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({"HF_TOKEN": ""}, "Set HF_TOKEN and start again to see and create your webhooks."),
        ({"SPACE_ID": "me/hooks", "WEBHOOK_SECRET": ""}, "Set WEBHOOK_SECRET first"),
    ],
)
def test_what_is_missing_is_said_and_nothing_created(hub: Hub, environ: dict[str, str], sentence: str) -> None:
    answer = owner(**{**EVERYTHING, **environ}).post("/hub", NEW)
    assert answer.status == 400
    assert sentence in text(answer)
    assert hub.webhooks.get("me", []) == []


def test_a_machine_that_the_hub_does_not_reach_is_told_so(hub: Hub) -> None:
    office = Office(Endpoint(lambda: None, "/train"), HF_TOKEN=TOKEN)
    office.desk.local_url = lambda: office.url
    assert "The Hub cannot reach this machine." in text(office.owner().get("/hub"))
    assert hub.requests == []


def test_on_a_space_the_owner_acts_with_the_token_of_who_is_signed_in_and_with_no_other(hub: Hub) -> None:
    space = {**hub.space("tunnel.example.com"), **EVERYTHING}
    office = Office(Endpoint(lambda: None, "/train"), **space)
    by_link = office.owner()
    assert "Sign in with Hugging Face to see and create your webhooks." in text(by_link.get("/hub"))
    assert by_link.post("/hub", NEW).status == 400
    assert hub.requests == []
    request = Request({"type": "http", "scheme": "https", "path": PAGE, "headers": [(b"host", office.host.encode())]})
    response = Response()
    office.desk.access.begin(request, response, Session(9e9, "me", "hf_oauth_me"))
    signed_in = Client(office, response.headers["set-cookie"].partition(";")[0])
    assert "Acts as me." in text(signed_in.get("/hub"))
    assert signed_in.post("/hub", NEW).status == 303
    assert {request.headers["authorization"] for request in hub.requests} == {"Bearer hf_oauth_me"}
