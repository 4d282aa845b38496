"""The owner's webhooks on the Hub: the real client against a stand-in Hub."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest
from huggingface_hub import HfApi, constants
from support.hub import Hub
from support.processes import Run, free_port

import webhooks.dashboard.hub
from webhooks.dashboard.hub import Address, HubError, Row, Webhooks, ask
from webhooks.watched import Watched, read_watched

pytestmark = pytest.mark.once

LIST = "/api/settings/webhooks"
HERE = "https://me-hooks.hf.space/webhooks/train"
TRAIN, EVALUATE = "/webhooks/train", "/webhooks/evaluate"
DATA, MODEL = {"type": "dataset", "name": "me/data"}, {"type": "model", "name": "me/model"}
TOKEN, SECRET = "hf_me_and_nobody_else", "s3cret-of-the-webhook"
DECLARED = {
    TRAIN: read_watched({**DATA, "domains": ["repo"]}),
    EVALUATE: read_watched(["model:me/model", "user:me"]),
}


@pytest.fixture(scope="module")
def one_hub() -> Iterator[Hub]:
    with Hub() as hub:
        hub.add_user("me")
        hub.add_token(TOKEN, "me", scopes={"webhooks"})
        hub.add_token("hf_jobs", "me", scopes={"jobs"})
        yield hub


@pytest.fixture
def hub(one_hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr(constants, "ENDPOINT", one_hub.url)
    yield one_hub
    unknown = list(one_hub.unknown)
    one_hub.forget()
    for thread in threading.enumerate():
        if thread.name == "webhooks hub":  # whose answer was held; it would ask on during the next test
            thread.join(10)
    assert unknown == []


def add(hub: Hub, url: str, watched: dict[str, str], **fields: Any) -> None:
    """Put a webhook onto the Hub."""
    id = f"{len(hub.webhooks['me']):024x}"
    common = {"id": id, "url": url, "watched": [watched], "domains": ["repo"], "disabled": False}
    hub.webhooks["me"].append({**common, **fields})


def mine(
    declared: Mapping[str, Sequence[Watched]] = DECLARED, secret: str | None = SECRET, token: str = TOKEN
) -> Webhooks:
    address = Address("https://me-hooks.hf.space", ["me-hooks.hf.space", "hooks.example.com"])
    return Webhooks(HfApi(token=token), address, declared, secret)


def rows(webhooks: Webhooks) -> list[Row]:
    return asyncio.run(ask(webhooks.rows))


def create(webhooks: Webhooks, key: str | None = None) -> None:
    asyncio.run(ask(lambda: webhooks.create(key)))


def on_the_hub(hub: Hub) -> list[tuple[str, list[str]]]:
    """What each webhook calls and watches."""
    return [(one["url"], [item["name"] for item in one["watched"]]) for one in hub.webhooks["me"]]


@pytest.mark.parametrize("secret", [{"secret": SECRET}, {}])
def test_what_is_missing_is_created_as_it_was_asked_for_and_with_nothing_else(
    hub: Hub, secret: dict[str, str]
) -> None:
    add(hub, "https://hooks.example.com/webhooks/evaluate", MODEL, domains=["repo", "discussion"])
    create(mine(secret=secret.get("secret")))
    first, second = (request for request in hub.requests if request.method == "POST")
    assert first.json() == {"url": HERE, "watched": [DATA], "domains": ["repo"], **secret}
    evaluate = "https://me-hooks.hf.space/webhooks/evaluate"
    both = {"watched": [{"type": "user", "name": "me"}], "domains": ["repo", "discussion"]}
    assert second.json() == {"url": evaluate, **both, **secret}
    assert {request.headers["authorization"] for request in hub.requests} == {f"Bearer {TOKEN}"}
    assert {row.said for row in rows(mine())} == {"enabled"}


def test_one_of_what_is_missing_is_created_once(hub: Hub) -> None:
    key = f"{EVALUATE} model:me/model"
    create(mine(), key)
    assert on_the_hub(hub) == [("https://me-hooks.hf.space/webhooks/evaluate", ["me/model"])]
    for again in (key, f"{TRAIN} dataset:me/another", ""):
        assert (
            raised(lambda again=again: create(mine(), again))
            == "Nothing is missing there any more. Look at the list again."
        )
    assert len(hub.webhooks["me"]) == 1


def test_a_new_webhook_tells_only_what_is_lacking(hub: Hub) -> None:
    add(hub, "https://me-hooks.hf.space/webhooks/evaluate", {"type": "user", "name": "me"})
    create(mine(), f"{EVALUATE} model:me/model")
    assert hub.webhooks["me"][1]["domains"] == ["discussion"]


@pytest.mark.parametrize("key", [None, f"{TRAIN} dataset:me/data"])
def test_two_who_click_at_once_create_one_webhook(hub: Hub, key: str | None) -> None:
    async def both() -> list[object]:
        clicks = [ask(lambda: mine({TRAIN: DECLARED[TRAIN]}).create(key)) for _ in range(2)]
        return await asyncio.gather(*clicks, return_exceptions=True)

    (refused,) = (str(answer) for answer in asyncio.run(both()) if isinstance(answer, HubError))
    assert refused == "Nothing is missing there any more. Look at the list again."
    assert on_the_hub(hub) == [(HERE, ["me/data"])]


@pytest.mark.parametrize("lose", ["lose_answer", "hold"])
def test_who_presses_again_after_a_lost_answer_gets_no_second_webhook(
    hub: Hub, lose: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = getattr(hub, lose)("POST", LIST)
    webhooks_of_train = mine({TRAIN: DECLARED[TRAIN]})
    with monkeypatch.context() as patch:
        patch.setattr(webhooks.dashboard.hub, "HUB_WITHIN", 1)
        assert "Try again later" in raised(lambda: create(webhooks_of_train))
        if lose == "hold":
            assert "Try again later" in raised(lambda: create(webhooks_of_train))
            held.released.set()
    assert "Nothing is missing there any more" in raised(lambda: create(webhooks_of_train))
    assert len(hub.webhooks["me"]) == 1


def test_what_was_created_before_a_failure_stays_and_is_not_created_again(hub: Hub) -> None:
    hub.fail("POST", LIST, 500, after=1)
    assert raised(lambda: create(mine())) == "The Hub answers 500: scripted"
    create(mine())
    assert [names for _, names in on_the_hub(hub)] == [["me/data"], ["me/model"], ["me"]]


# --- what goes wrong

FAILURES: dict[str, tuple[Callable[[Hub, str, str], object], str]] = {
    "too many requests": (
        lambda hub, *at: hub.fail(*at, 429),
        "The Hub has had too many requests from here. Try again in a few minutes.",
    ),
    "an error": (lambda hub, *at: hub.fail(*at, 500), "The Hub answers 500: scripted"),
    "a refusal": (
        lambda hub, *at: hub.fail(*at, 400, "You may have 50 webhooks"),
        "The Hub answers 400: You may have 50 webhooks",
    ),
    "a cut": (
        lambda hub, *at: hub.cut(*at),
        "The Hub cannot be reached (RemoteProtocolError). Try again later.",
    ),
    "no JSON": (
        lambda hub, *at: hub.babble(*at, b"<html>Sign in to the hotel's network</html>"),
        "The Hub cannot be reached (JSONDecodeError). Try again later.",
    ),
    "no answer": (
        lambda hub, *at: hub.hold(*at),
        "The Hub cannot be reached (TimeoutError). Try again later.",
    ),
}


def raised(call: Callable[[], object]) -> str:
    with pytest.raises(HubError) as caught:
        call()
    assert caught.value.__cause__ is None
    assert TOKEN not in str(caught.value)
    assert SECRET not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("failure", FAILURES)
def test_each_failure_is_a_sentence_of_its_own(hub: Hub, failure: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if failure == "no answer":
        monkeypatch.setattr(webhooks.dashboard.hub, "HUB_WITHIN", 0.3)
    spoil, sentence = FAILURES[failure]
    spoil(hub, "GET", LIST)
    assert raised(lambda: rows(mine())) == sentence
    spoil(hub, "POST", LIST)
    assert raised(lambda: create(mine())) == sentence


def test_a_token_that_the_hub_does_not_know_is_told_from_one_that_may_not(hub: Hub) -> None:
    assert raised(lambda: rows(mine(token="hf_gone"))) == (
        "The Hub does not know this token any more. Sign out and in again, or make a new HF_TOKEN."
    )
    assert raised(lambda: rows(mine(token="hf_jobs"))) == (
        "The token may not manage your webhooks. Where you signed in, the Space needs `hf_oauth: true` and the scope "
        "`webhooks` in its README; an HF_TOKEN needs the permission for webhooks."
    )


def test_a_hub_that_is_not_there_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{free_port()}")
    assert raised(lambda: rows(mine())) == "The Hub cannot be reached (ConnectError). Try again later."


def test_a_hub_that_does_not_answer_keeps_no_server_from_ending(hub: Hub, run: Run) -> None:
    held = hub.hold("GET", LIST)
    process = run(
        f"""
        import asyncio
        from huggingface_hub import HfApi
        import webhooks.dashboard.hub

        webhooks.dashboard.hub.HUB_WITHIN = 0.5
        try:
            asyncio.run(webhooks.dashboard.hub.ask(HfApi(token={TOKEN!r}).list_webhooks))
        except webhooks.dashboard.hub.HubError as reason:
            print(reason)
        """,
        HF_ENDPOINT=hub.url,
    )
    process.wait_for("The Hub cannot be reached (TimeoutError).", timeout=20)
    assert process.wait_for_exit(10) == 0
    assert held.arrived.is_set()
    assert not held.released.is_set()
