"""Signing in with Hugging Face, against a stand-in of the Hub's OpenID provider."""

from __future__ import annotations

import re
import time
import urllib.parse

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
    "omar": {"acme": "read", "zebra": "admin"},
}
TAB = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate", "sec_fetch_dest": "document"}


@pytest.fixture(autouse=True)
def people(one_hub: Hub) -> None:
    for name, orgs in PEOPLE.items():
        one_hub.add_user(name, orgs)
    one_hub.signed_in, one_hub.withheld, one_hub.token_lifetime = "acme", set(), 28800


def space_pages(hub: Hub, **environ: str) -> PagesHarness:
    hosts = "acme-hooks.hf.space, hooks.example.com"
    space = {**hub.space(hosts), "SPACE_ID": "acme/hooks", "SPACE_AUTHOR_NAME": "acme", "WEBHOOK_SECRET": "s3cret"}
    pages = PagesHarness(Endpoint(lambda: None, "/train"), **{**space, **environ})
    pages.url, pages.host = "https://acme-hooks.hf.space", "acme-hooks.hf.space"
    pages.put(arrived(repo="dataset/zq/data"), answer=b"{}")
    return pages


@pytest.fixture
def pages(hub: Hub) -> PagesHarness:
    return space_pages(hub)


def sign_in(pages: PagesHarness) -> Exchange:
    visitor = Client(pages)
    return come_back(visitor, *begin(visitor))


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


@pytest.mark.parametrize("person", ["acme", "julien"])
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


@pytest.mark.parametrize("person", ["omar", "julien"])
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


def test_sign_in_cookie_opens_nothing_and_works_once(pages: PagesHarness, hub: Hub) -> None:
    visitor = Client(pages)
    cookie, address = begin(visitor)
    assert re.search(r"; HttpOnly; Max-Age=600; Path=/deliveries; SameSite=lax; Secure$", cookie)
    assert Client(pages, cookie.partition(";")[0]).get().status == 403
    assert Client(pages, cookie.partition(";")[0].replace("_in=", "=")).get().status == 403
    assert come_back(visitor, cookie, address).status == 303
    assert come_back(visitor, cookie, address).status == 403


def test_declined_or_forged_sign_in_fails(pages: PagesHarness, hub: Hub) -> None:
    visitor = Client(pages)
    cookie, _ = begin(visitor)
    _, of_another = begin(visitor)
    declined = "https://x/deliveries/sign-in/callback?error=access_denied"
    for sent, address in ((cookie, of_another), ("", of_another), (cookie, declined)):
        answer = come_back(visitor, sent, address)
        assert answer.status == 403
        assert "set-cookie" not in answer.headers


def test_session_ends_with_the_hubs_token(pages: PagesHarness, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.token_lifetime = 60
    owner = Client(pages).with_cookie(sign_in(pages))
    assert owner.get().status == 200
    later = time.time() + 61
    monkeypatch.setattr(webhooks.dashboard.access.time, "time", lambda: later)
    assert owner.get().status == 403


@pytest.mark.parametrize("missing", ["SPACE_ID", "SYSTEM", "OAUTH_CLIENT_ID", "OAUTH_CLIENT_SECRET"])
def test_nobody_signs_in_outside_a_space(hub: Hub, missing: str) -> None:
    answer = Client(space_pages(hub, **{missing: ""})).get("/sign-in")
    assert (answer.status, "Sign in with" in text(answer)) == (403, False)
    assert hub.requests == []
