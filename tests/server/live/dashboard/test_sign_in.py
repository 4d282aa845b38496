"""Signing in with Hugging Face, against a stand-in of the Hub's OpenID provider: in process, and in a browser."""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Iterator

import httpx
import pytest
from dashboard.conftest import arrived
from playwright.sync_api import Page, expect, sync_playwright
from support.asgi import Exchange
from support.browsers import CHROMIUM_ARGUMENTS, SCREENSHOTS
from support.dashboard import Client, Office, text
from support.hub import Hub
from support.payloads import load
from support.processes import Run
from support.tls import TlsFront

import webhooks.dashboard.access
from webhooks.endpoints import Endpoint

pytestmark = pytest.mark.once

PEOPLE = {
    "acme": {},
    "julien": {"acme": "write", "zebra": "admin"},
    "anna": {"acme": "admin"},
    "omar": {"acme": "read", "zebra": "admin"},
    "carla": {"acme": "contributor"},
    "busy": {**{f"organization-number-{number}-with-a-long-name": "admin" for number in range(50)}, "acme": "write"},
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
    yield one_hub
    one_hub.signed_in, one_hub.withheld, one_hub.token_lifetime = None, set(), 28800
    unknown = list(one_hub.unknown)
    one_hub.forget()
    assert unknown == []


def space_of(hub: Hub) -> dict[str, str]:
    hosts = "acme-hooks.hf.space, hooks.example.com"
    return {**hub.space(hosts), "SPACE_ID": "acme/hooks", "SPACE_AUTHOR_NAME": "acme", "WEBHOOK_SECRET": "s3cret"}


@pytest.fixture
def office(hub: Hub) -> Office:
    office = Office(Endpoint(lambda: None, "/train"), **space_of(hub))
    office.url, office.host = "https://acme-hooks.hf.space", "acme-hooks.hf.space"
    office.put(arrived(repo="dataset/zq/data"), answer=b"{}")
    return office


def begin(visitor: Client) -> tuple[str, str]:
    """Go to the Hub; return the cookie of the way, and the address to come back to."""
    away = visitor.get("/sign-in")
    assert away.status == 302
    answer = httpx.get(away.headers["location"])
    assert answer.status_code == 302
    return away.headers["set-cookie"], answer.headers["location"]


def come_back(visitor: Client, cookie: str, address: str) -> Exchange:
    url = urllib.parse.urlsplit(address)
    assert url.path == "/deliveries/sign-in/callback"
    return visitor.get("/sign-in/callback", url.query, cookie=cookie.partition(";")[0], **TAB)


def sign_in(office: Office) -> Exchange:
    visitor = Client(office)
    return come_back(visitor, *begin(visitor))


@pytest.mark.parametrize("person", ["acme", "anna", "julien", "busy"])
def test_who_may_write_signs_in_sees_the_deliveries_and_signs_out(office: Office, hub: Hub, person: str) -> None:
    hub.signed_in = person
    answer = sign_in(office)
    assert (answer.status, answer.headers["location"]) == (303, "/deliveries")
    attributes = {part.strip().lower() for part in answer.headers["set-cookie"].split(";")[1:]}
    assert attributes == {"httponly", "path=/deliveries", "samesite=lax", "secure"}
    owner = Client(office).with_cookie(answer)
    assert "zq/data" in text(owner.get())
    assert f"{person} Sign out" in text(owner.get(**TAB))
    assert "hf_oauth_" not in str(owner.get())
    assert owner.post("/sign-out").status == 303
    assert owner.get().status == 403


@pytest.mark.parametrize("person", ["omar", "carla", "stranger", "julien"])
def test_who_may_not_write_is_told_so_and_sees_nothing(office: Office, hub: Hub, person: str) -> None:
    hub.signed_in, hub.withheld = person, {"acme"}  # which is what keeps the last one of these out
    answer = sign_in(office)
    assert answer.status == 403
    assert f"You are signed in as {person}. What has arrived is shown to acme only." in text(answer)
    assert "set-cookie" not in answer.headers
    assert "zq" not in text(answer)


def test_the_address_to_come_back_to_targets_the_space_under_the_name_that_the_browser_knows(
    office: Office, hub: Hub
) -> None:
    hub.signed_in = "acme"
    for host, there in [
        ("acme-hooks.hf.space", "acme-hooks.hf.space"),
        ("hooks.example.com", "hooks.example.com"),
        ("evil.example", "acme-hooks.hf.space"),
        ("10.0.0.7:7860", "acme-hooks.hf.space"),
    ]:
        _, address = begin(Client(office, host=host))
        assert address.startswith(f"https://{there}/deliveries/sign-in/callback?")


def test_the_cookie_of_the_way_opens_nothing_and_is_good_once(office: Office, hub: Hub) -> None:
    hub.signed_in = "acme"
    visitor = Client(office)
    cookie, address = begin(visitor)
    assert re.search(r"; HttpOnly; Max-Age=600; Path=/deliveries; SameSite=lax; Secure$", cookie)
    assert Client(office, cookie.partition(";")[0]).get().status == 403
    assert Client(office, cookie.partition(";")[0].replace("_in=", "=")).get().status == 403
    assert come_back(visitor, cookie, address).status == 303
    assert come_back(visitor, cookie, address).status == 403


def test_a_sign_in_that_another_browser_began_signs_nobody_in(office: Office, hub: Hub) -> None:
    hub.signed_in = "acme"
    visitor = Client(office)
    cookie, _ = begin(visitor)
    _, of_another = begin(visitor)
    for answer in (come_back(visitor, cookie, of_another), come_back(visitor, "", of_another)):
        assert answer.status == 403
        assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("query", ["", "code=x", "state=x", "code=x&state=x", "code=&state=", "error=access_denied"])
def test_an_answer_that_is_none_of_the_hubs_is_a_sentence(office: Office, query: str) -> None:
    visitor = Client(office)
    cookie, _ = begin(visitor)
    answer = come_back(visitor, cookie, f"https://x/deliveries/sign-in/callback?{query}")
    assert answer.status == 403
    assert re.search("You have not signed in|has failed", text(answer))


def test_who_declines_stays_a_visitor(office: Office, hub: Hub) -> None:
    hub.signed_in = None
    answer = sign_in(office)
    assert "You have not signed in." in text(answer)
    assert "Sign in with Hugging Face" in text(answer)


def test_a_sign_in_that_takes_too_long_is_begun_again(
    office: Office, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.signed_in = "acme"
    monkeypatch.setattr(webhooks.dashboard.access, "SIGN_IN_WITHIN", -1)
    assert "took too long" in text(sign_in(office))


def test_a_session_ends_with_the_hubs_token(office: Office, hub: Hub) -> None:
    hub.signed_in, hub.token_lifetime = "acme", 0
    answer = sign_in(office)
    assert Client(office).with_cookie(answer).get().status == 403


def test_a_hub_that_cannot_be_reached_is_a_sentence(office: Office, hub: Hub) -> None:
    away = Office(Endpoint(lambda: None, "/f"), **{**space_of(hub), "OPENID_PROVIDER_URL": "http://127.0.0.1:9"})
    answer = Client(away, host="acme-hooks.hf.space").get("/sign-in")
    assert answer.status == 403
    assert "Signing in with Hugging Face has failed (ConnectError). Try again." in text(answer)


@pytest.mark.parametrize(
    "missing", ["SPACE_ID", "SYSTEM", "OAUTH_CLIENT_ID", "OAUTH_CLIENT_SECRET", "OAUTH_SCOPES", "OPENID_PROVIDER_URL"]
)
def test_nobody_signs_in_where_something_of_a_space_is_missing(hub: Hub, missing: str) -> None:
    office = Office(Endpoint(lambda: None, "/f"), **{k: v for k, v in space_of(hub).items() if k != missing})
    for path in ("/sign-in", "/sign-in/callback"):
        answer = Client(office).get(path, "code=x&state=x")
        assert answer.status == 403
        assert "Sign in with" not in text(answer)
    assert hub.requests == []


SCRIPT = """
from webhooks import WebhookPayload, WebhooksServer

server = WebhooksServer()

@server.add_webhook(watched=["dataset:acme/data", "dataset:acme/more-data"])
def train(payload: WebhookPayload):
    return {"trained": payload.repo.name}

server.launch()
"""


def look_after_the_webhooks(desk: Page) -> None:
    desk.get_by_role("link", name="On the Hub").click()
    expect(desk.get_by_text("2 webhooks are missing")).to_be_visible()
    desk.get_by_role("row", name="more-data").get_by_role("button", name="Create").click()
    expect(desk.get_by_text("1 webhook is missing")).to_be_visible()
    desk.get_by_role("button", name="Create what is missing").click()
    expect(desk.get_by_text("enabled")).to_have_count(2)
    SCREENSHOTS.mkdir(exist_ok=True)
    for width in (1280, 390):
        desk.set_viewport_size({"width": width, "height": 800})
        desk.screenshot(path=SCREENSHOTS / f"desk-webhooks-{width}.png", full_page=True)
        assert desk.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"), width


def test_the_owner_signs_in_behind_tls_in_a_browser(hub: Hub, run: Run, chromium: str) -> None:
    hub.signed_in = "julien"
    process = run(SCRIPT, **space_of(hub), HF_ENDPOINT=hub.url).wait_until_ready()
    process.post("train", load("repo.content-update"), headers={"X-Webhook-Secret": "s3cret"})
    with TlsFront(process.port, "acme-hooks.hf.space") as front, sync_playwright() as playwright:
        arguments = [*CHROMIUM_ARGUMENTS, front.chromium_argument]
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        context = browser.new_context(ignore_https_errors=True)
        page = context.new_page()
        page.goto(front.url)
        with context.expect_page() as opened:  # a tab of its own: the Hub's frame would keep no session
            page.get_by_role("link", name="Deliveries", exact=True).click()
        desk = opened.value
        desk.get_by_role("link", name="Sign in with Hugging Face").click()
        expect(desk.locator("#rows tbody tr")).to_have_count(1)
        assert desk.url == f"{front.url}/deliveries"
        (session,) = [cookie for cookie in context.cookies() if cookie["name"].endswith("hf_space")]
        assert (session["path"], session["httpOnly"], session["secure"]) == ("/deliveries", True, True)
        desk.get_by_role("link", name="answered").click()
        expect(desk.get_by_role("heading", level=1)).to_contain_text("answered")
        desk.get_by_role("button", name="Replay").click()
        expect(desk.get_by_text("Replay of")).to_be_visible()
        look_after_the_webhooks(desk)
        desk.get_by_role("button", name="Sign out").click()
        expect(desk.get_by_role("link", name="Sign in with Hugging Face")).to_be_visible()
        browser.close()
