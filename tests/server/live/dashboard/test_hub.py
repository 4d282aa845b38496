"""The page about the owner's webhooks on the Hub: the real client against a stand-in Hub."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from huggingface_hub import constants
from starlette.requests import Request
from starlette.responses import Response
from support.dashboard import Client, Office, text
from support.hub import Hub

from webhooks.dashboard.access import PAGE, Session
from webhooks.endpoints import Endpoint

pytestmark = pytest.mark.once

LIST = "/api/settings/webhooks"
TOKEN, SECRET = "hf_me_and_nobody_else", "s3cret-of-the-webhook"
HERE = "https://tunnel.example.com/webhooks/train"
EVERYTHING = {"SPACE_HOST": "tunnel.example.com", "WEBHOOK_SECRET": SECRET, "HF_TOKEN": TOKEN}


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


def test_what_the_handlers_ask_for_is_compared_with_the_hub_and_created(hub: Hub) -> None:
    me = owner(["dataset:me/data", "org:acme"], {"type": "model", "name": "me/tuned", "domains": ["repo"]})
    page = me.get("/hub")
    assert "3 webhooks are missing on the Hub. Create what is missing" in text(page)
    for line in (
        "train dataset me/data repo, discussion missing Create",
        "train every repository of acme repo, discussion missing Create",
        "evaluate model me/tuned repo missing Create",
    ):
        assert line in text(page)
    (key,) = re.findall(r'name="row" value="([^"]*tuned)"', page.body.decode())
    assert me.post("/hub", {"row": key}).headers["location"] == f"{PAGE}/hub"
    assert "evaluate model me/tuned repo enabled Change" in text(me.get("/hub"))
    assert "2 webhooks are missing on the Hub." in text(me.get("/hub"))
    assert me.post("/hub").status == 303
    assert "Nothing is missing there any more." in text(me.post("/hub"))
    pages = [me.get("/hub"), me.post("/hub")]
    assert "missing on the Hub" not in text(pages[0])
    told = [(one["url"], one["watched"], one["domains"], one["secret"]) for one in hub.webhooks["me"]]
    evaluate = "https://tunnel.example.com/webhooks/evaluate"
    assert told == [
        (evaluate, [{"type": "model", "name": "me/tuned"}], ["repo"], SECRET),
        (HERE, [{"type": "dataset", "name": "me/data"}], ["repo", "discussion"], SECRET),
        (HERE, [{"type": "org", "name": "acme"}], ["repo", "discussion"], SECRET),
    ]
    for answer in pages:
        assert not {SECRET, TOKEN} & set(answer.body.decode().replace('"', " ").split())


def test_a_desk_whose_handlers_ask_for_nothing_says_how_they_do(hub: Hub) -> None:
    page = text(owner().get("/hub"))
    assert "No handler asks for anything yet" in page
    assert "add a webhook by hand" in page


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({}, "train dataset me/data repo enabled Change"),
        ({"disabled": True}, "train dataset me/data repo disabled Change"),
        ({"disabled": "suspended"}, "train dataset me/data repo disabled by the Hub, since calls have failed Change"),
        ({"domains": ["discussion"]}, "train dataset me/data repo missing Create"),
        ({"url": "https://old.example.com/webhooks/train"}, "train dataset me/data repo missing Create"),
        (
            {"watched": [{"type": "dataset", "name": "me/old"}, {"type": "dataset", "name": "me/data"}]},
            "train dataset me/data, dataset me/old repo enabled Change",
        ),
        (
            {"watched": [{"type": "dataset", "name": "me/old"}]},
            "train dataset me/data repo missing Create train dataset me/old repo enabled: no handler needs it Change",
        ),
    ],
)
def test_where_the_hub_and_the_code_disagree_is_said(hub: Hub, fields: dict[str, Any], line: str) -> None:
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


def test_a_failure_of_the_hub_is_a_sentence(hub: Hub) -> None:
    me = owner("dataset:me/data")
    hub.fail("GET", LIST, 403)
    assert "The token may not manage your webhooks." in text(me.get("/hub"))
    hub.lose_answer("POST", LIST)
    answer = me.post("/hub")
    assert answer.status == 400
    assert "The Hub cannot be reached (RemoteProtocolError). Try again later." in text(answer)
    assert len(hub.webhooks["me"]) == 1


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({"HF_TOKEN": ""}, "Set HF_TOKEN and start again to see and create your webhooks."),
        ({"SPACE_ID": "me/hooks", "WEBHOOK_SECRET": ""}, "Set WEBHOOK_SECRET first"),
    ],
)
def test_what_is_missing_is_said_and_nothing_created(hub: Hub, environ: dict[str, str], sentence: str) -> None:
    answer = owner("dataset:me/data", **environ).post("/hub")
    assert answer.status == 400
    assert sentence in text(answer)
    assert hub.webhooks.get("me", []) == []


def test_a_machine_that_the_hub_does_not_reach_is_told_so(hub: Hub) -> None:
    office = Office(Endpoint(lambda: None, "/train"), HF_TOKEN=TOKEN)
    office.dashboard.local_url = lambda: office.url
    assert "The Hub cannot reach this machine, for it has no public link" in text(office.owner().get("/hub"))
    assert hub.requests == []


def test_on_a_space_the_owner_acts_with_the_token_of_who_is_signed_in_and_with_no_other(hub: Hub) -> None:
    space = {**hub.space("tunnel.example.com"), **EVERYTHING}
    office = Office(Endpoint(lambda: None, "/train", watched="dataset:me/data"), **space)
    by_link = office.owner()
    door = by_link.get("/hub")
    assert "Sign in with Hugging Face to see and create your webhooks." in text(door)
    assert f'href="{PAGE}/sign-in"' in door.body.decode()
    assert by_link.post("/hub").status == 400
    assert hub.requests == []
    request = Request({"type": "http", "scheme": "https", "path": PAGE, "headers": [(b"host", office.host.encode())]})
    response = Response()
    office.dashboard.access.begin(request, response, Session(9e9, "me", "hf_oauth_me"))
    signed_in = Client(office, response.headers["set-cookie"].partition(";")[0])
    assert "Acts as me." in text(signed_in.get("/hub"))
    assert signed_in.post("/hub").status == 303
    assert {request.headers["authorization"] for request in hub.requests} == {"Bearer hf_oauth_me"}
