"""Signing in with Hugging Face, against a stand-in of the Hub's OpenID provider."""

from __future__ import annotations

import re
import time
import urllib.parse
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from support.asgi import Exchange
from support.dashboard import Client, PagesHarness, arrived, text
from support.hub import Hub

import webhooks.dashboard.access
from webhooks.endpoints import Endpoint

PEOPLE = {
    "acme": {},
    "julien": {"acme": "write", "zebra": "admin"},
    "anna": {"acme": "admin"},
    "omar": {"acme": "read", "zebra": "admin"},
    "carla": {"acme": "contributor"},
    "stranger": {"zebra": "admin"},
}
TAB = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate", "sec_fetch_dest": "document"}


@pytest.fixture(scope="module")
def one_hub() -> Iterator[Hub]:
    with Hub() as hub:
        for name, orgs in PEOPLE.items():
            hub.add_user(name, orgs)
        yield hub


@pytest.fixture
def hub(one_hub: Hub) -> Iterator[Hub]:
    one_hub.signed_in = "acme"
    yield one_hub
    one_hub.withheld, one_hub.token_lifetime = set(), 28800
    one_hub.forget()


def space_of(hub: Hub) -> dict[str, str]:
    hosts = "acme-hooks.hf.space, hooks.example.com"
    return {**hub.space(hosts), "SPACE_ID": "acme/hooks", "SPACE_AUTHOR_NAME": "acme", "WEBHOOK_SECRET": "s3cret"}


def space_pages(**environ: str) -> PagesHarness:
    pages = PagesHarness(Endpoint(lambda: None, "/train"), **environ)
    pages.url, pages.host = "https://acme-hooks.hf.space", "acme-hooks.hf.space"
    return pages


@pytest.fixture
def pages(hub: Hub) -> PagesHarness:
    pages = space_pages(**space_of(hub))
    pages.put(arrived(repo="dataset/zq/data"), answer=b"{}")
    return pages


def begin(visitor: Client) -> tuple[str, str]:
    """Go to the Hub; return the cookie of this sign-in, and the address to come back to."""
    away = visitor.get("/sign-in")
    assert away.status == 302
    answer = httpx.get(away.headers["location"])
    assert answer.status_code == 302
    return away.headers["set-cookie"], answer.headers["location"]


def come_back(visitor: Client, cookie: str, address: str) -> Exchange:
    url = urllib.parse.urlsplit(address)
    assert url.path == "/deliveries/sign-in/callback"
    return visitor.get("/sign-in/callback", url.query, cookie=cookie.partition(";")[0], **TAB)


def sign_in(pages: PagesHarness) -> Exchange:
    visitor = Client(pages)
    return come_back(visitor, *begin(visitor))


@pytest.mark.parametrize("person", ["acme", "anna", "julien"])
def test_author_and_writing_members_sign_in(pages: PagesHarness, hub: Hub, person: str) -> None:
    hub.signed_in = person
    answer = sign_in(pages)
    assert (answer.status, answer.headers["location"]) == (303, "/deliveries")
    attributes = {part.strip().lower() for part in answer.headers["set-cookie"].split(";")[1:]}
    assert attributes == {"httponly", "path=/deliveries", "samesite=lax", "secure"}
    owner = Client(pages).with_cookie(answer)
    assert "zq/data" in text(owner.get())
    assert f"{person} Sign out" in text(owner.get(**TAB))
    assert "hf_oauth_" not in str(owner.get())
    assert owner.post("/sign-out").status == 303
    assert owner.get().status == 403


@pytest.mark.parametrize("person", ["omar", "carla", "stranger", "julien"])
def test_other_people_stay_visitors(pages: PagesHarness, hub: Hub, person: str) -> None:
    hub.signed_in, hub.withheld = person, {"acme"}  # julien grants no access to acme
    answer = sign_in(pages)
    assert answer.status == 403
    assert f"You are signed in as {person}. Only acme sees what arrived." in text(answer)
    assert "set-cookie" not in answer.headers
    assert "zq" not in text(answer)


def test_hub_redirects_to_the_host_of_the_browser(pages: PagesHarness, hub: Hub) -> None:
    for host, there in [
        ("hooks.example.com", "hooks.example.com"),
        ("evil.example", "acme-hooks.hf.space"),
        ("10.0.0.7:7860", "acme-hooks.hf.space"),
    ]:
        _, address = begin(Client(pages, host=host))
        assert address.startswith(f"https://{there}/deliveries/sign-in/callback?")


def test_cookie_of_a_sign_in_opens_nothing_and_works_once(pages: PagesHarness, hub: Hub) -> None:
    visitor = Client(pages)
    cookie, address = begin(visitor)
    assert re.search(r"; HttpOnly; Max-Age=600; Path=/deliveries; SameSite=lax; Secure$", cookie)
    assert Client(pages, cookie.partition(";")[0]).get().status == 403
    assert Client(pages, cookie.partition(";")[0].replace("_in=", "=")).get().status == 403
    assert come_back(visitor, cookie, address).status == 303
    assert come_back(visitor, cookie, address).status == 403


def test_sign_in_of_another_browser_fails(pages: PagesHarness, hub: Hub) -> None:
    visitor = Client(pages)
    cookie, _ = begin(visitor)
    _, of_another = begin(visitor)
    for answer in (come_back(visitor, cookie, of_another), come_back(visitor, "", of_another)):
        assert answer.status == 403
        assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("query", ["", "code=x", "state=x", "code=x&state=x", "code=&state=", "error=access_denied"])
def test_invalid_callback_is_a_sentence(pages: PagesHarness, query: str) -> None:
    visitor = Client(pages)
    cookie, _ = begin(visitor)
    answer = come_back(visitor, cookie, f"https://x/deliveries/sign-in/callback?{query}")
    assert answer.status == 403
    assert re.search("You have not signed in|has failed", text(answer))


@pytest.mark.parametrize(
    "answer",
    [{}, {"userinfo": {}}, {"userinfo": []}, [], None, {"userinfo": {"preferred_username": "acme"}},
     {"userinfo": {"preferred_username": "acme", "orgs": "x"}, "expires_at": 9e9, "access_token": "x"},
     {"userinfo": {"preferred_username": "acme"}, "expires_at": "soon", "access_token": "x"}],
)  # fmt: skip
def test_malformed_profile_is_a_sentence(
    pages: PagesHarness, hub: Hub, monkeypatch: pytest.MonkeyPatch, answer: Any
) -> None:
    async def authorize(request: object) -> Any:
        return answer

    visitor = Client(pages)
    cookie, address = begin(visitor)
    monkeypatch.setattr(pages.dashboard.access._provider, "authorize_access_token", authorize)
    page = come_back(visitor, cookie, address)
    assert (page.status, "Signing in with Hugging Face has failed" in text(page)) == (403, True)
    assert "set-cookie" not in page.headers


def test_session_ends_with_the_hubs_token(pages: PagesHarness, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.token_lifetime = 60
    owner = Client(pages).with_cookie(sign_in(pages))
    assert owner.get().status == 200
    later = time.time() + 61
    monkeypatch.setattr(webhooks.dashboard.access.time, "time", lambda: later)
    assert owner.get().status == 403


def test_unreachable_provider_is_a_sentence(hub: Hub) -> None:
    answer = Client(space_pages(**{**space_of(hub), "OPENID_PROVIDER_URL": "http://127.0.0.1:9"})).get("/sign-in")
    assert answer.status == 403
    assert "Signing in with Hugging Face has failed (ConnectError). Try again." in text(answer)


@pytest.mark.parametrize("missing", ["SPACE_ID", "SYSTEM", "OAUTH_CLIENT_ID", "OAUTH_CLIENT_SECRET"])
def test_nobody_signs_in_outside_a_space(hub: Hub, missing: str) -> None:
    pages = space_pages(**{name: value for name, value in space_of(hub).items() if name != missing})
    for path in ("/sign-in", "/sign-in/callback"):
        answer = Client(pages).get(path, "code=x&state=x")
        assert answer.status == 403
        assert "Sign in with" not in text(answer)
    assert hub.requests == []
