"""The owner's webhooks on the Hub: the real client against a stand-in Hub."""

from __future__ import annotations

import asyncio
import copy
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from typing import Any

import pytest
from huggingface_hub import WebhookInfo, constants
from support.hub import Hub
from support.processes import Run, free_port

import webhooks.desk.registration
from webhooks.desk.comparison import Address
from webhooks.desk.registration import HubSaysNo, Registration
from webhooks.watched import Watched, read_watched

pytestmark = pytest.mark.once

LIST = "/api/settings/webhooks"
HERE = "https://me-hooks.hf.space/webhooks/train"
TRAIN, EVALUATE = "/webhooks/train", "/webhooks/evaluate"
DATA = {"type": "dataset", "name": "me/data"}
TOKEN, SECRET, ANOTHER_SECRET = "hf_me_and_nobody_else", "s3cret-of-the-webhook", "s3cret-of-another-one"


@pytest.fixture(scope="module")
def one_hub() -> Iterator[Hub]:
    with Hub() as hub:
        hub.add_user("me")
        hub.add_user("another")
        hub.add_token(TOKEN, "me", scopes={"webhooks"})
        hub.add_token("hf_jobs", "me", scopes={"jobs"})
        yield hub


@pytest.fixture
def hub(one_hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr(constants, "ENDPOINT", one_hub.url)
    monkeypatch.setattr(webhooks.desk.registration, "BETWEEN_LOOKS", 0.01)
    yield one_hub
    unknown = list(one_hub.unknown)
    one_hub.forget()
    for thread in threading.enumerate():
        if thread.name == "webhooks hub":  # whose answer was held; it would ask on during the next test
            thread.join(10)
    assert unknown == []


def add(hub: Hub, url: str | None = HERE, user: str = "me", **fields: Any) -> str:
    """Put a webhook onto the Hub, and return its id."""
    id = f"{sum(map(len, hub.webhooks.values())):024x}"
    common = {"id": id, "watched": [DATA], "domains": ["repo"], "disabled": False, "secret": ANOTHER_SECRET}
    hub.webhooks[user].append({**common, **({"url": url} if url else {}), **fields})
    return id


def registration(
    token: str = TOKEN, declared: Mapping[str, Sequence[Watched]] | None = None, secret: str | None = SECRET
) -> Registration:
    address = Address("https://me-hooks.hf.space", ["me-hooks.hf.space", "hooks.example.com"])
    return Registration(token, address, declared or {}, secret)


def listed(token: str = TOKEN) -> list[WebhookInfo]:
    return asyncio.run(registration(token).pointing_here())


def create(endpoint: str = TRAIN, type: str = "dataset", name: str = "me/data") -> None:
    asyncio.run(registration().create(endpoint, Watched(type, name, ("repo",))))


def switch(id: str, on: bool) -> None:
    asyncio.run(registration().switch(id, on))


def asked_for(hub: Hub, method: str) -> list[str]:
    return [request.path for request in hub.requests if request.method == method]


# --- what points here


@pytest.mark.parametrize(
    "url",
    [
        HERE,
        "https://hooks.example.com/webhooks/train",
        "https://Me-Hooks.HF.space/webhooks/train",
        "https://me-hooks.hf.space/webhooks/a-handler-that-is-gone?a=1",
    ],
)
def test_a_webhook_at_any_of_our_names_points_here(hub: Hub, url: str) -> None:
    id = add(hub, url)
    assert [(webhook.id, webhook.url) for webhook in listed()] == [(id, url)]


@pytest.mark.parametrize(
    "url",
    [
        None,  # as of one that starts a Job
        "",
        "https://another-space.hf.space/webhooks/train",
        "https://me-hooks.hf.space.evil.com/webhooks/train",
        "https://evil-me-hooks.hf.space/webhooks/train",
        "https://hf.space/webhooks/train",
        "https://me-hooks.hf.space@evil.com/webhooks/train",
        "https://evil.com/webhooks/train?to=me-hooks.hf.space#me-hooks.hf.space",
        "https://evil.com/me-hooks.hf.space/webhooks/train",
        "https://me-hooks.hf.space:8443/webhooks/train",
        "https://me-hooks.hf.space",
        "https://me-hooks.hf.space/webhooks",
        "https://me-hooks.hf.space/webhooks-of-another-app/train",
        "https://me-hooks.hf.space/app/webhooks/train",
        "https://[me-hooks.hf.space/webhooks/train",
    ],
)
def test_a_webhook_that_only_looks_like_it_does_not_and_hides_none_that_does(hub: Hub, url: str | None) -> None:
    add(hub, url)
    id = add(hub)
    assert [webhook.id for webhook in listed()] == [id]


def test_webhooks_are_listed_with_what_they_watch_and_whether_they_are_enabled(hub: Hub) -> None:
    everything = [DATA, {"type": "org", "name": "acme"}, {"type": "bucket", "name": "me/files"}]
    add(hub, watched=everything, domains=["repo", "discussion"])
    add(hub, disabled=True)
    on, off = listed()
    assert [{"type": item.type, "name": item.name} for item in on.watched] == everything
    assert (on.domains, on.disabled, off.disabled) == (["repo", "discussion"], False, True)


# --- one more


@pytest.mark.parametrize("secret", [{"secret": SECRET}, {}])
def test_a_webhook_is_created_as_the_owner_chose_it_and_with_nothing_else(hub: Hub, secret: dict[str, str]) -> None:
    watched = {"type": "org", "name": "acme"}
    asyncio.run(registration(secret=secret.get("secret")).create(TRAIN, Watched(**watched, domains=("discussion",))))
    (request,) = (request for request in hub.requests if request.method == "POST")
    assert request.path == LIST
    assert request.json() == {"url": HERE, "watched": [watched], "domains": ["discussion"], **secret}
    assert request.headers["authorization"] == f"Bearer {TOKEN}"
    assert [webhook.url for webhook in listed()] == [HERE]


@pytest.mark.parametrize("name", ["me/data", "Me/Data"])
def test_the_same_webhook_a_second_time_is_refused(hub: Hub, name: str) -> None:
    add(hub, watched=[{"type": "org", "name": "acme"}, DATA])
    with pytest.raises(HubSaysNo, match=r"^A webhook of yours already watches \S+ and calls this endpoint\.$"):
        create(name=name)
    assert asked_for(hub, "POST") == []


@pytest.mark.parametrize(
    ("url", "watched"),
    [
        ("https://me-hooks.hf.space/webhooks/evaluate", DATA),
        ("https://another-space.hf.space/webhooks/train", DATA),
        (HERE, {"type": "model", "name": "me/data"}),
        (HERE, {"type": "dataset", "name": "me/data-2"}),
    ],
)
def test_a_webhook_like_another_is_created(hub: Hub, url: str, watched: dict[str, str]) -> None:
    add(hub, url, watched=[watched])
    create()
    assert (hub.webhooks["me"][1]["url"], hub.webhooks["me"][1]["watched"]) == (HERE, [DATA])


@pytest.mark.parametrize(
    ("lose", "sentence"), [("lose_answer", "already watches me/data"), ("hold", "for me/data is just being created")]
)
def test_who_presses_again_after_a_lost_answer_gets_no_second_webhook(
    hub: Hub, lose: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    getattr(hub, lose)("POST", LIST)
    with monkeypatch.context() as patch:
        if lose == "hold":
            patch.setattr(webhooks.desk.registration, "HUB_WITHIN", 1)
        with pytest.raises(HubSaysNo, match="Try again later"):
            create(f"{TRAIN}-{lose}")
    with pytest.raises(HubSaysNo, match=sentence):
        create(f"{TRAIN}-{lose}")
    assert len(hub.webhooks["me"]) == 1


# --- on and off


@pytest.mark.parametrize("on", [True, False])
def test_switching_changes_nothing_else_of_a_webhook_and_no_other(hub: Hub, on: bool) -> None:
    several = [DATA, {"type": "org", "name": "acme"}]
    ids = [add(hub, watched=several, domains=["discussion"], disabled=on, extra="as it was") for _ in range(2)]
    before = copy.deepcopy(hub.webhooks["me"])
    switch(ids[0], on)
    assert hub.webhooks["me"] == [{**before[0], "disabled": not on}, before[1]]
    assert asked_for(hub, "POST") == [f"{LIST}/{ids[0]}/{'enable' if on else 'disable'}"]


@pytest.mark.parametrize(
    "choose",
    [
        lambda hub: add(hub, user="another"),
        lambda hub: add(hub, "https://another-space.hf.space/webhooks/train"),
        lambda hub: add(hub, None),
        lambda hub: f"../webhooks/{add(hub)}",
        lambda hub: "",
    ],
)
def test_a_webhook_of_somebody_else_or_that_points_elsewhere_cannot_be_switched(
    hub: Hub, choose: Callable[[Hub], str]
) -> None:
    id = choose(hub)
    for on in (True, False):
        with pytest.raises(HubSaysNo, match=r"^This webhook is not yours, or does not point here any more\.$"):
            switch(id, on)
    assert asked_for(hub, "POST") == []


# --- what the handlers ask for

MODEL, ELSEWHERE = {"type": "model", "name": "me/model"}, "https://0a1b2c.gradio.live/webhooks/train"
DECLARED = {
    TRAIN: read_watched({**DATA, "domains": ["repo"]}),
    EVALUATE: read_watched(["model:me/model", "user:me"]),
}


def declaring(declared: Mapping[str, Sequence[Watched]] = DECLARED, secret: str | None = SECRET) -> Registration:
    return registration(declared=declared, secret=secret)


def states(declared: Mapping[str, Sequence[Watched]] = DECLARED) -> dict[str, str]:
    return {str(row.watched): row.state.value for row in asyncio.run(declaring(declared).rows())}


def on_the_hub(hub: Hub) -> list[tuple[str, list[str]]]:
    """What each webhook calls and watches."""
    return [(one["url"], [item["name"] for item in one["watched"]]) for one in hub.webhooks["me"]]


def test_what_is_missing_is_created_at_once_and_never_twice(hub: Hub) -> None:
    add(hub, "https://hooks.example.com/webhooks/evaluate", watched=[MODEL], domains=["repo", "discussion"])
    created = asyncio.run(declaring().create_missing())
    assert [(row.endpoint, str(row.watched)) for row in created] == [(TRAIN, "dataset:me/data"), (EVALUATE, "user:me")]
    _, training, evaluation = hub.webhooks["me"]
    assert {**training, "id": ""} == {
        "id": "",
        "url": HERE,
        "watched": [DATA],
        "domains": ["repo"],
        "secret": SECRET,
        "disabled": False,
    }
    assert (evaluation["url"], evaluation["watched"]) == (
        "https://me-hooks.hf.space/webhooks/evaluate",
        [{"type": "user", "name": "me"}],
    )
    assert evaluation["domains"] == ["repo", "discussion"]
    assert set(states().values()) == {"in order"}
    assert asyncio.run(declaring().create_missing()) == []
    assert len(hub.webhooks["me"]) == 3


def test_one_of_what_is_missing_is_created(hub: Hub) -> None:
    asyncio.run(declaring().create_declared(EVALUATE, "model:me/model"))
    assert on_the_hub(hub) == [("https://me-hooks.hf.space/webhooks/evaluate", ["me/model"])]
    with pytest.raises(HubSaysNo, match="already watches model:me/model and calls this endpoint"):
        asyncio.run(declaring().create_declared(EVALUATE, "model:me/model"))
    with pytest.raises(HubSaysNo, match="does not ask for dataset:me/another any more"):
        asyncio.run(declaring().create_declared(TRAIN, "dataset:me/another"))
    with pytest.raises(HubSaysNo, match=r"^The handler at /webhooks/gone does not ask for"):
        asyncio.run(declaring().create_declared("/webhooks/gone", "dataset:me/data"))
    assert len(hub.webhooks["me"]) == 1


def test_a_new_webhook_tells_only_what_is_lacking(hub: Hub) -> None:
    add(hub, "https://me-hooks.hf.space/webhooks/evaluate", watched=[{"type": "user", "name": "me"}])
    asyncio.run(declaring().create_declared(EVALUATE, "model:me/model"))
    assert hub.webhooks["me"][1]["domains"] == ["discussion"]


def test_what_calls_another_address_stays_and_is_created_here_only_by_name(hub: Hub) -> None:
    add(hub, ELSEWHERE)
    declared = {TRAIN: DECLARED[TRAIN]}
    assert asyncio.run(declaring(declared).create_missing()) == []
    asyncio.run(declaring(declared).create_declared(TRAIN, "dataset:me/data"))
    assert on_the_hub(hub) == [(ELSEWHERE, ["me/data"]), (HERE, ["me/data"])]


@pytest.mark.parametrize("lists_late", [0, 2])
@pytest.mark.parametrize(
    "click",
    [
        lambda here: here.create_missing(),
        lambda here: here.create_declared(TRAIN, "dataset:me/data"),
        lambda here: here.create(TRAIN, DECLARED[TRAIN][0]),
    ],
)
def test_two_who_click_at_once_create_one_webhook(
    hub: Hub, click: Callable[[Registration], Coroutine[Any, Any, object]], lists_late: int
) -> None:
    hub.lists_late = lists_late

    async def both() -> list[object]:
        clicks = [click(declaring({TRAIN: DECLARED[TRAIN]})) for _ in range(2)]
        return await asyncio.gather(*clicks, return_exceptions=True)

    refused = [str(answer) for answer in asyncio.run(both()) if isinstance(answer, HubSaysNo)]
    assert len(refused) < 2
    assert [why for why in refused if "A webhook for me/data is just being created. Look" not in why] == []
    assert on_the_hub(hub) == [(HERE, ["me/data"])]


def test_a_second_click_creates_nothing_though_the_list_was_late(hub: Hub) -> None:
    hub.lists_late = 3
    for _ in range(2):
        asyncio.run(declaring().create_missing())
    assert len(hub.webhooks["me"]) == 3


def test_what_is_created_is_created_whatever_becomes_of_the_list(hub: Hub) -> None:
    hub.lists_late = 100
    create()
    assert len(hub.webhooks["me"]) == 1


def test_a_failure_in_the_middle_says_what_was_done(hub: Hub) -> None:
    hub.fail("POST", LIST, 429)
    refused = raised(lambda: asyncio.run(declaring().create_missing()))
    assert refused == (
        "The webhook for dataset:me/data was not created. The Hub has had too many requests from here. Try again in a "
        "few minutes. Created before it: none."
    )
    hub.fail("POST", LIST, 500, after=1)
    refused = raised(lambda: asyncio.run(declaring().create_missing()))
    assert refused == (
        "The webhook for model:me/model was not created. The Hub is in trouble (status 500). Try again later. "
        "Created before it: dataset:me/data for /webhooks/train."
    )
    assert len(asyncio.run(declaring().create_missing())) == 2
    assert [names for _, names in on_the_hub(hub)] == [["me/data"], ["me/model"], ["me"]]


@pytest.mark.parametrize(
    ("field", "value"),
    [("url", ELSEWHERE), ("url", HERE.replace("https:", "http:")), ("domains", ["discussion"])],
)
def test_a_webhook_becomes_what_the_handler_asks_for(hub: Hub, field: str, value: object) -> None:
    several = [{"type": "dataset", "name": "Me/Data"}, {"type": "org", "name": "acme"}]
    id = add(hub, **{"watched": several, field: value, "disabled": field == "url"})
    another = add(hub, ELSEWHERE, watched=[MODEL])
    before = copy.deepcopy(hub.webhooks["me"])
    asyncio.run(declaring().adapt(TRAIN, "dataset:me/data", id))
    domains = ["discussion", "repo"] if field == "domains" else ["repo"]
    assert hub.webhooks["me"] == [{**before[0], "url": HERE, "domains": domains, "secret": SECRET}, before[1]]
    assert hub.webhooks["me"][1]["id"] == another
    assert states()["dataset:me/data"] == ("disabled" if field == "url" else "in order")


def test_a_webhook_keeps_its_secret_where_the_server_has_none(hub: Hub) -> None:
    id = add(hub, ELSEWHERE)
    asyncio.run(declaring(secret=None).adapt(TRAIN, "dataset:me/data", id))
    assert (hub.webhooks["me"][0]["url"], hub.webhooks["me"][0]["secret"]) == (HERE, ANOTHER_SECRET)


@pytest.mark.parametrize(
    "choose",
    [
        lambda hub: add(hub),
        lambda hub: add(hub, disabled=True),
        lambda hub: add(hub, ELSEWHERE, watched=[MODEL]),
        lambda hub: add(hub, ELSEWHERE, user="another"),
        lambda hub: add(hub, "https://elsewhere.example.com/another-app"),
        lambda hub: f"../webhooks/{add(hub, ELSEWHERE)}",
    ],
)
def test_no_other_webhook_can_be_changed(hub: Hub, choose: Callable[[Hub], str]) -> None:
    id = choose(hub)
    with pytest.raises(HubSaysNo, match=r"^This webhook has changed since"):
        asyncio.run(declaring().adapt(TRAIN, "dataset:me/data", id))
    assert asked_for(hub, "POST") == []


def test_another_setting_is_a_difference_until_the_new_one_is_created_and_the_old_one_disabled(hub: Hub) -> None:
    old, new = ({TRAIN: read_watched(f"dataset:me/{name}")} for name in ("data", "new-data"))
    asyncio.run(declaring(old).create_missing())
    assert states(new) == {"dataset:me/new-data": "missing", "dataset:me/data": "not declared"}
    asyncio.run(declaring(new).create_missing())
    switch(hub.webhooks["me"][0]["id"], False)
    wanted, left = asyncio.run(declaring(new).rows())
    assert (wanted.state.value, left.state.value) == ("in order", "not declared")
    assert left.webhook is not None
    assert (left.webhook.disabled, left.needed) == (True, False)


# --- what goes wrong

FAILURES: dict[str, tuple[Callable[[Hub, str, str], object], str]] = {
    "too many requests": (
        lambda hub, *at: hub.fail(*at, 429),
        "The Hub has had too many requests from here. Try again in a few minutes.",
    ),
    "an error": (
        lambda hub, *at: hub.fail(*at, 500),
        "The Hub is in trouble (status 500). Try again later.",
    ),
    "maintenance": (
        lambda hub, *at: hub.fail(*at, 503),
        "The Hub is in trouble (status 503). Try again later.",
    ),
    "a refusal": (
        lambda hub, *at: hub.fail(*at, 400, "You may have 50 webhooks"),
        "The Hub refuses this: You may have 50 webhooks",
    ),
    "a refusal without a reason": (
        lambda hub, *at: hub.fail(*at, 409, ""),
        "The Hub refuses this: status 409",
    ),
    "a cut": (
        lambda hub, *at: hub.cut(*at),
        "The Hub cannot be reached (RemoteProtocolError). Try again later.",
    ),
    "no JSON": (
        lambda hub, *at: hub.babble(*at, b"<html>Sign in to the hotel's network</html>"),
        "The Hub's answer makes no sense (JSONDecodeError). Try again later, or update huggingface_hub.",
    ),
    "JSON of another kind": (
        lambda hub, *at: hub.babble(*at, b'{"webhook": [{}], "me": 1}'),
        "The Hub's answer makes no sense (TypeError). Try again later, or update huggingface_hub.",
    ),
    "no answer": (
        lambda hub, *at: hub.hold(*at),
        "The Hub has not answered within 0.3 seconds. Try again later.",
    ),
}


def raised(call: Callable[[], object]) -> str:
    with pytest.raises(HubSaysNo) as caught:
        call()
    assert caught.value.__cause__ is None
    assert TOKEN not in str(caught.value)
    assert SECRET not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("failure", FAILURES)
def test_each_failure_is_a_sentence_of_its_own(hub: Hub, failure: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if failure == "no answer":
        monkeypatch.setattr(webhooks.desk.registration, "HUB_WITHIN", 0.3)
    spoil, sentence = FAILURES[failure]
    id = add(hub)
    spoil(hub, "GET", LIST)
    assert raised(listed) == sentence
    spoil(hub, "POST", LIST)
    assert raised(lambda: create(type="user", name="me")) == sentence
    spoil(hub, "POST", f"{LIST}/{id}/disable")
    assert raised(lambda: switch(id, False)) == sentence
    spoil(hub, "GET", LIST)
    assert raised(lambda: asyncio.run(declaring().rows())) == sentence
    spoil(hub, "POST", LIST)
    assert raised(lambda: asyncio.run(declaring().create_declared(EVALUATE, "model:me/model"))) == sentence
    moved = add(hub, ELSEWHERE, watched=[MODEL])
    spoil(hub, "POST", f"{LIST}/{moved}")
    asks = {TRAIN: read_watched("model:me/model")}
    assert raised(lambda: asyncio.run(declaring(asks).adapt(TRAIN, "model:me/model", moved))) == sentence


def test_a_token_that_the_hub_does_not_know_is_told_from_one_that_may_not(hub: Hub) -> None:
    assert raised(lambda: listed("hf_gone")) == (
        "The Hub does not know this token any more. Sign out and in again, or make a new HF_TOKEN."
    )
    assert raised(lambda: listed("hf_jobs")) == (
        "The token may not manage your webhooks. Where you signed in, the Space needs `hf_oauth: true` and the scope "
        "`webhooks` in its README; an HF_TOKEN needs the permission for webhooks."
    )


def test_a_hub_that_is_not_there_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{free_port()}")
    assert raised(listed) == "The Hub cannot be reached (ConnectError). Try again later."


def test_a_hub_that_does_not_answer_keeps_no_server_from_ending(hub: Hub, run: Run) -> None:
    held = hub.hold("GET", LIST)
    process = run(
        f"""
        import asyncio
        import webhooks.desk.registration
        from webhooks.desk.comparison import Address

        webhooks.desk.registration.HUB_WITHIN = 0.5
        try:
            asyncio.run(webhooks.desk.registration.Registration({TOKEN!r}, Address("", []), {{}}).pointing_here())
        except webhooks.desk.registration.HubSaysNo as reason:
            print(reason)
        """,
        HF_ENDPOINT=hub.url,
    )
    process.wait_for("The Hub has not answered within 0.5 seconds.", timeout=20)
    assert process.wait_for_exit(10) == 0
    assert held.arrived.is_set()
    assert not held.released.is_set()
