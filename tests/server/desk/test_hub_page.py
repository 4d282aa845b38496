"""The page about the owner's webhooks on the Hub: the real client against a stand-in Hub."""

from __future__ import annotations

import re
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
NEW = {"type": "dataset", "name": " me/data ", "endpoint": "/webhooks/train", "domain_repo": "on", "act": "create"}


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


def owner(train: Any = None, evaluate: Any = None, **environ: str) -> Client:
    """The owner of two handlers that ask for this."""
    handlers = [Endpoint(lambda: None, "/train", watched=train), Endpoint(lambda: None, "/evaluate", watched=evaluate)]
    return Office(*handlers, **{**EVERYTHING, **environ}).owner()


def webhook(url: str, **fields: Any) -> dict[str, Any]:
    watched = [{"type": "org", "name": "acme"}]
    return {"id": "a1", "url": url, "watched": watched, "domains": ["repo"], "disabled": True, **fields}


def test_the_owner_sees_creates_and_switches_webhooks(hub: Hub) -> None:
    me = owner()
    assert "No webhook of yours calls this server yet" in text(me.get("/hub"))
    hub.webhooks["me"].append(webhook("https://tunnel.example.com/webhooks/evaluate", secret="another"))
    hub.webhooks["me"].append(webhook("https://elsewhere.example.com/webhooks/train", id="a2"))
    page = text(me.get("/hub"))
    assert "evaluate every repository of acme repo disabled" in page
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
    for act, disabled in (("disable", True), ("enable", False)):
        assert me.post("/hub", {"act": act, "id": created["id"]}).status == 303
        assert hub.webhooks["me"][-1] == {**created, "disabled": disabled}
    for answer in (me.get("/hub"), me.post("/hub", NEW)):
        assert not {SECRET, TOKEN, "another"} & set(answer.body.decode().replace('"', " ").split())


def test_what_the_handlers_ask_for_is_compared_with_the_hub_and_created(hub: Hub) -> None:
    me = owner(["dataset:me/data", "org:acme"], {"type": "model", "name": "me/tuned", "domains": ["repo"]})
    page = me.get("/hub")
    assert "3 of 3 are missing. Create what is missing" in text(page)
    for line in (
        "train dataset me/data repo, discussion missing Create",
        "train every repository of acme repo, discussion missing Create",
        "evaluate model me/tuned repo missing Create",
    ):
        assert line in text(page)
    one = {"act": "create declared", "endpoint": "/webhooks/evaluate", "item": "model:me/tuned"}
    assert me.post("/hub", one).headers["location"] == f"{PAGE}/hub"
    assert "evaluate model me/tuned repo enabled Disable" in text(me.get("/hub"))
    assert "2 of 3 are missing." in text(me.get("/hub"))
    assert me.post("/hub", {"act": "create missing"}).status == 303
    assert me.post("/hub", {"act": "create missing"}).status == 303
    assert "missing" not in text(me.get("/hub"))
    told = [(one["url"], one["watched"], one["domains"], one["secret"]) for one in hub.webhooks["me"]]
    evaluate = "https://tunnel.example.com/webhooks/evaluate"
    assert told == [
        (evaluate, [{"type": "model", "name": "me/tuned"}], ["repo"], SECRET),
        (HERE, [{"type": "dataset", "name": "me/data"}], ["repo", "discussion"], SECRET),
        (HERE, [{"type": "org", "name": "acme"}], ["repo", "discussion"], SECRET),
    ]


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({}, "train dataset me/data repo enabled Disable"),
        ({"disabled": True}, "train dataset me/data repo disabled Enable"),
        (
            {"disabled": "suspended-after-failure"},
            "train dataset me/data repo disabled by the Hub, since calls have failed Enable",
        ),
        ({"domains": ["discussion"]}, "train dataset me/data repo enabled, but does not tell of repo Add repo"),
        (
            {"url": "https://old.example.com/webhooks/train"},
            "train dataset me/data repo calls another address: https://old.example.com/webhooks/train "
            "Create another Move it here",
        ),
        (
            {"watched": [{"type": "dataset", "name": "me/old"}, {"type": "dataset", "name": "me/data"}]},
            "train dataset me/data repo enabled, and watches dataset me/old Disable "
            "train dataset me/old repo enabled: no handler asks for it By hand",
        ),
        (
            {"watched": [{"type": "dataset", "name": "me/old"}]},
            "train dataset me/data repo missing Create "
            "train dataset me/old repo enabled: no handler asks for it Disable",
        ),
    ],
)
def test_where_the_hub_and_the_code_disagree_is_said_with_what_can_be_done(
    hub: Hub, fields: dict[str, Any], line: str
) -> None:
    data = {"watched": [{"type": "dataset", "name": "me/data"}], "disabled": False}
    hub.webhooks["me"].append(webhook(**{"url": HERE, **data, **fields}))
    me = owner({"type": "dataset", "name": "me/data", "domains": ["repo"]})
    assert line in text(me.get("/hub"))


def test_what_somebody_has_written_into_a_webhook_is_text_and_visible(hub: Hub) -> None:
    hostile = "<img src=x onerror=alert(1)>\"'\u202e{{7*7}}"
    things = [{"type": hostile, "name": hostile}]
    hub.webhooks["me"].append(webhook(f"{HERE}/{hostile}", watched=things, domains=[hostile], id=hostile))
    hub.webhooks["me"].append(webhook(HERE, watched=things, disabled=hostile))
    page = owner("dataset:me/data").get("/hub").body.decode()
    assert page.count("{{7*7}}") >= 4
    assert "<img" not in page
    assert "\u202e" not in re.sub(r'value="[^"]*"', "", page)
    assert "\\u202e" in page


def test_a_webhook_that_calls_an_old_address_is_moved_here(hub: Hub) -> None:
    watched = [{"type": "dataset", "name": "me/data"}]
    hub.webhooks["me"].append(webhook("https://old.example.com/webhooks/train", watched=watched, disabled=False))
    me = owner("dataset:me/data")
    form = {"act": "adapt", "endpoint": "/webhooks/train", "item": "dataset:me/data", "id": "a1"}
    assert me.post("/hub", form).status == 303
    (moved,) = hub.webhooks["me"]
    assert (moved["url"], moved["domains"], moved["secret"]) == (HERE, ["repo", "discussion"], SECRET)
    assert "This webhook has changed since." in text(me.post("/hub", form))


def test_each_failure_of_the_hub_is_a_sentence_and_the_form_stays_filled_in(hub: Hub) -> None:
    me = owner()
    hub.fail("GET", LIST, 403)
    assert "The token may not manage your webhooks." in text(me.get("/hub"))
    hub.lose_answer("POST", LIST)
    answer = me.post("/hub", NEW)
    assert answer.status == 400
    assert "The Hub cannot be reached (RemoteProtocolError). Try again later." in text(answer)
    assert 'value=" me/data "' in answer.body.decode()
    assert "A webhook of yours already watches me/data and calls this endpoint." in text(me.post("/hub", NEW))
    assert len(hub.webhooks["me"]) == 1
    answer = me.post("/hub", {"act": "disable", "id": "of somebody else"})
    assert "This webhook is not yours, or does not point here any more." in text(answer)


@pytest.mark.parametrize(
    ("form", "sentence"),
    [
        ({"name": "  "}, "Say what to watch"),
        ({"type": "x"}, "Say what to watch"),
        ({"endpoint": "/webhooks/none"}, "Choose an endpoint"),
        ({"endpoint": "https://evil.example"}, "Choose an endpoint"),
        ({"domain_repo": ""}, "Choose an endpoint, and the events of at least one domain."),
        ({"act": "destroy"}, "There is no such button on this page."),
        ({"act": "create declared", "item": "dataset:me/data"}, "does not ask for dataset:me/data any more."),
    ],
)
def test_a_webhook_that_makes_no_sense_is_not_created(hub: Hub, form: dict[str, str], sentence: str) -> None:
    answer = owner().post("/hub", {**NEW, **form})
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
    answer = owner(**environ).post("/hub", NEW)
    assert answer.status == 400
    assert sentence in text(answer)
    assert hub.webhooks.get("me", []) == []


def test_a_machine_that_the_hub_does_not_reach_is_told_so(hub: Hub) -> None:
    office = Office(Endpoint(lambda: None, "/train"), HF_TOKEN=TOKEN)
    office.desk.local_url = lambda: office.url
    assert "The Hub cannot reach this machine, for it has no public link" in text(office.owner().get("/hub"))
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
