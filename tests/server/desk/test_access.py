"""Who may see and do what: the rules one by one, and then as those would try it who may not."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import http.server
import json
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import gradio
import gradio_client
import httpx
import itsdangerous
import pytest
from playwright.sync_api import Browser, BrowserContext, Frame, Page, Playwright, TimeoutError, expect, sync_playwright
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import Request
from support.asgi import Exchange, post
from support.browsers import CHROMIUM_ARGUMENTS
from support.hub import Hub, object_id
from support.payloads import load
from support.processes import Process, Start
from support.tls import TlsFront
from webhooks.desk.page import Desk

import webhooks.desk.access
from webhooks import SetupError, read_settings
from webhooks.desk.access import PAGE, SESSION, Access, from_own_page, owns, signed_in, slim
from webhooks.endpoints import Endpoint
from webhooks.settings import Settings

pytestmark = pytest.mark.once

MARK = "zq-"  # in everything that nobody but the owner may see, and in nothing else
SECRET, TOKEN, ADMIN_TOKEN = "zq-webhook-secret", "hf_zq-token", "zq-admin-token-of-the-owner"
HOST = "me-hooks.hf.space"

# --- does a request come from a page of this server?

OWN_HOSTS = ["me-hooks.hf.space", "hooks.example.com"]
HERE = {"host": "me-hooks.hf.space"}


@pytest.mark.parametrize(
    "headers",
    [
        {**HERE, "origin": "https://me-hooks.hf.space", "sec-fetch-site": "same-origin"},
        {**HERE, "origin": "https://me-hooks.hf.space"},
        {**HERE, "sec-fetch-site": "same-origin"},
        {**HERE, "sec-fetch-site": "none"},
        {**HERE},
        {},
        {"host": "10.0.0.7:7860", "origin": "https://hooks.example.com"},
        {"host": "localhost:7860", "origin": "http://localhost:7860"},
        {"host": "[::1]:7860", "origin": "http://[::1]:7860"},
    ],
)
def test_a_page_of_this_server_is_known_under_each_of_its_names(headers: dict[str, str]) -> None:
    assert from_own_page(Headers(headers), OWN_HOSTS)


@pytest.mark.parametrize(
    "headers",
    [
        {**HERE, "origin": "https://evil.example"},
        {**HERE, "origin": "https://me-hooks.hf.space.evil.example"},
        {**HERE, "origin": "https://me-hooks.hf.space@evil.example"},
        {**HERE, "origin": "https://evil.example/me-hooks.hf.space"},
        {**HERE, "origin": "me-hooks.hf.space"},
        {**HERE, "origin": "null"},
        {**HERE, "origin": ""},
        {**HERE, "origin": "null", "sec-fetch-site": "same-origin"},
        {**HERE, "origin": "https://other.hf.space", "sec-fetch-site": "same-site"},
        {**HERE, "sec-fetch-site": "cross-site"},
        {**HERE, "sec-fetch-site": "same-site"},
        {**HERE, "sec-fetch-site": "anything else"},
        {"host": "", "origin": "null"},
        {"host": "localhost:7860", "origin": "http://localhost:8888"},
        {"host": "localhost:7860", "origin": "http://localhost"},
        {"host": "localhost:7860", "origin": "http://127.0.0.1:7860"},
        {**HERE, "origin": "https://evil.example", "x-forwarded-host": "evil.example"},
        {**HERE, "origin": "https://evil.example", "forwarded": "host=evil.example", "referer": "https://" + HOST},
        # The same name over plain http, which whoever owns the network can put a page on.
        {**HERE, "origin": "http://me-hooks.hf.space", "sec-fetch-site": "cross-site"},
    ],
)
def test_a_page_of_another_origin_is_told_apart(headers: dict[str, str]) -> None:
    assert not from_own_page(Headers(headers), OWN_HOSTS)


def test_an_address_that_is_not_known_yet_lets_no_nameless_origin_in() -> None:
    assert not from_own_page(Headers({**HERE, "origin": "null"}), [""])


# --- who is signed in, and is it the owner?

NOW = 1_800_000_000.0


def session(*, iat: Any = NOW - 60, expires_at: Any = NOW + 60, **profile: Any) -> dict[str, Any]:
    return {"oauth_info": {"access_token": "t", "expires_at": expires_at, "userinfo": {"iat": iat, **profile}}}


def test_who_signed_in_is_signed_in_until_the_token_expires_or_8_hours_have_passed() -> None:
    profile = signed_in(session(preferred_username="me"), NOW)
    assert profile is not None
    assert profile["preferred_username"] == "me"
    assert signed_in(session(expires_at=NOW + 1), NOW) is not None
    assert signed_in(session(expires_at=NOW), NOW) is None
    assert signed_in(session(expires_at=NOW - 3600), NOW) is None
    assert signed_in(session(iat=NOW - 8 * 3600 + 1, expires_at=NOW + 9**9), NOW) is not None
    assert signed_in(session(iat=NOW - 8 * 3600, expires_at=NOW + 9**9), NOW) is None


@pytest.mark.parametrize(
    "nobody",
    [
        {},
        {"oauth_info": None},
        {"oauth_info": {}},
        {"oauth_info": {"expires_at": NOW + 60}},
        {"oauth_info": {"expires_at": NOW + 60, "userinfo": None}},
        {"oauth_info": {"userinfo": {"iat": NOW, "preferred_username": "me"}}},
        session(iat=None),
        session(expires_at=None),
        {"userinfo": {"iat": NOW}, "expires_at": NOW + 60},
    ],
)
def test_a_session_that_does_not_say_when_it_ends_is_over(nobody: dict[str, Any]) -> None:
    assert signed_in(nobody, NOW) is None


def member(role: str | None, org: str = "acme") -> dict[str, Any]:
    return {"preferred_username": "julien", "orgs": [{"preferred_username": org, "roleInOrg": role}]}


@pytest.mark.parametrize("profile", [{"preferred_username": "acme"}, member("admin"), member("write")])
def test_the_author_and_those_who_may_write_in_the_authors_organization_own_the_space(profile: dict[str, Any]) -> None:
    assert owns(profile, "acme")


@pytest.mark.parametrize(
    "profile",
    [
        {},
        {"orgs": None},
        {"orgs": [{}]},
        {"preferred_username": None},
        {"preferred_username": "Acme Inc"},
        {"preferred_username": "acme2"},
        {"name": "acme", "sub": "acme", "nickname": "acme", "profile": "https://huggingface.co/acme"},
        {"preferred_username": "julien", "orgs": [{"preferred_username": "acme"}]},
        {"preferred_username": "julien", "orgs": [{"name": "acme", "roleInOrg": "admin"}]},
        member("contributor"),
        member("read"),
        member(None),
        member(""),
        member("no-such-role"),
        member("admin", org="another"),
        {"preferred_username": "julien", "roleInOrg": "admin", "orgs": [{"preferred_username": "acme"}]},
    ],
)
def test_nobody_else_owns_it(profile: dict[str, Any]) -> None:
    assert not owns(profile, "acme")


@pytest.mark.parametrize("author", [None, ""])
def test_a_space_without_an_author_is_owned_by_nobody_who_signs_in(author: str | None) -> None:
    for profile in ({}, {"preferred_username": None}, {"preferred_username": ""}, member("admin", org="")):
        assert not owns(profile, author)


def answer_of_the_provider(organizations: int, role: str = "write") -> dict[str, Any]:
    """What the Hub sends, with names as long as they get: 42 characters."""
    orgs = [
        {
            "sub": object_id(str(number)),
            "name": f"Organization number {number}, limited",
            "preferred_username": f"{number:02d}-{'o' * 39}",
            "picture": f"https://www.gravatar.com/avatar/{object_id(str(number))}?d=retro&size=100",
            "isEnterprise": False,
            "roleInOrg": role,
        }
        for number in range(organizations)
    ]
    return {
        "access_token": "hf_oauth_" + "t" * 300,
        "token_type": "bearer",
        "expires_in": 28800,
        "scope": "openid profile email webhooks jobs",
        "id_token": "i" * 900,
        "expires_at": NOW + 28800,
        "userinfo": {
            "sub": object_id("julien"),
            "name": "Julien",
            "preferred_username": "j" * 42,
            "profile": "https://huggingface.co/" + "j" * 42,
            "picture": "https://cdn-avatars.huggingface.co/v1/production/uploads/" + "p" * 50,
            "website": "",
            "iat": NOW,
            "exp": NOW + 28800,
            "orgs": orgs,
        },
    }


def cookie(session: Mapping[str, Any], key: str = "client-secret", **options: Any) -> str:
    """Sign a session as Gradio does, with a key made of `OAUTH_CLIENT_SECRET`."""
    signer = itsdangerous.TimestampSigner(hashlib.sha256(f"{key}-v4".encode()).hexdigest())
    return signer.sign(base64.b64encode(json.dumps(session).encode())).decode()


@pytest.mark.parametrize("organizations", [0, 1, 4, 12, 50])
def test_the_session_of_who_signs_in_fits_into_a_cookie_and_says_the_same(organizations: int) -> None:
    for number in (0, organizations - 1):
        author = f"{number:02d}-{'o' * 39}"
        whole = answer_of_the_provider(organizations)
        light = slim(whole, author)
        assert len(f"session={cookie({'oauth_info': light})}; path=/; secure; httponly; samesite=none") < 4096
        assert owns(light["userinfo"], author) is owns(whole["userinfo"], author) is (organizations > 0)
        assert signed_in({"oauth_info": light}, NOW) == light["userinfo"]
        assert light["access_token"] == whole["access_token"]
        assert light["userinfo"]["preferred_username"] == whole["userinfo"]["preferred_username"]
        assert len(whole["userinfo"]["orgs"]) == organizations, "what was given is left alone"


@pytest.mark.parametrize("role", ["admin", "write", "contributor", "read"])
def test_a_smaller_session_gives_nobody_another_role(role: str) -> None:
    whole = answer_of_the_provider(50, role)
    author = whole["userinfo"]["orgs"][7]["preferred_username"]
    (kept,) = slim(whole, author)["userinfo"]["orgs"]
    assert (kept["preferred_username"], kept["roleInOrg"]) == (author, role)
    assert slim(whole, None)["userinfo"]["orgs"] == []


# --- the link, and the sessions that it begins


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = NOW
        monkeypatch.setattr(webhooks.desk.access, "time", SimpleNamespace(time=lambda: self.now))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def access(**environ: str) -> Access:
    return Access(read_settings(Settings, environ), lambda: OWN_HOSTS)


def follow(access: Access, token: str | bytes, **headers: str) -> Exchange:
    encoded = quote(token, safe="").encode() if isinstance(token, str) else token
    app = Starlette(routes=[access.route()])
    return post(app, PAGE, method="GET", query=b"token=" + encoded, headers={"host": "localhost:7860", **headers})


def request(cookies: str = "", host: str = "localhost:7860", **headers: str) -> Request:
    given = {"host": host, "cookie": cookies, **headers}
    return Request({"type": "http", "headers": [(k.encode(), v.encode()) for k, v in given.items()]})


def cookie_of(answer: Exchange) -> str:
    return answer.headers["set-cookie"].partition(";")[0]


def test_the_printed_link_makes_its_reader_the_owner_and_leaves_no_token_in_the_address(clock: Clock) -> None:
    door = access()
    link = door.link("http://localhost:7860")
    assert link == f"http://localhost:7860/deliveries?token={door.token}"
    answer = follow(door, door.token)
    assert (answer.status, answer.headers["location"]) == (303, "/deliveries")
    assert door.token not in str(answer)
    assert door.is_owner(request(cookie_of(answer)))
    assert not door.is_owner(request())
    assert not door.is_owner(request(cookie_of(answer), origin="https://evil.example"))


def test_a_session_of_the_link_ends_after_8_hours(clock: Clock) -> None:
    door = access()
    owner = request(cookie_of(follow(door, door.token)))
    clock.now += 8 * 60 * 60 - 1
    assert door.is_owner(owner)
    clock.now += 1
    assert SESSION == 8 * 60 * 60
    assert not door.is_owner(owner)
    another = request(cookie_of(follow(door, door.token)))
    assert door.is_owner(another)
    assert not door.is_owner(owner)


def test_signing_out_ends_that_session_on_the_server_and_no_other(clock: Clock) -> None:
    door = access()
    here, there = (request(cookie_of(follow(door, door.token))) for _ in range(2))
    door.sign_out(here)
    assert not door.is_owner(here)
    assert door.is_owner(there)
    door.sign_out(here)
    door.sign_out(request())
    assert door.is_owner(there)


def test_each_start_makes_another_token_that_nobody_guesses() -> None:
    tokens = {access().token for _ in range(100)}
    assert len(tokens) == 100
    assert min(map(len, tokens)) >= 32


@pytest.mark.parametrize(
    "wrong",
    ["", " ", "x", "é", "\U0001f642", "\x00", "%", "a" * 9999, ADMIN_TOKEN[:-1], ADMIN_TOKEN + "x",
     ADMIN_TOKEN.upper(), b"%ff%fe", b"%zz", b"%", b"\xff", quote(ADMIN_TOKEN, safe="").replace("-", "%252D").encode(),
     f"{ADMIN_TOKEN}&token=x".encode()],
)  # fmt: skip
def test_a_wrong_token_begins_no_session_and_is_told_so(wrong: str | bytes) -> None:
    answer = follow(access(WEBHOOKS_ADMIN_TOKEN=ADMIN_TOKEN), wrong)
    assert (answer.status, answer.headers["location"]) == (303, "/deliveries?notice=link")
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("token", [ADMIN_TOKEN, "a token/with+reserved&characters=%41?#"])
def test_the_right_token_is_taken_however_it_is_encoded(token: str) -> None:
    everything = "".join(f"%{byte:02X}" for byte in token.encode()).encode()
    for encoded in (token, everything):
        assert follow(access(WEBHOOKS_ADMIN_TOKEN=token), encoded).headers["location"] == "/deliveries"


def test_a_token_that_somebody_chose_is_not_printed(clock: Clock) -> None:
    assert access(WEBHOOKS_ADMIN_TOKEN=ADMIN_TOKEN).link("") == "/deliveries?token=<WEBHOOKS_ADMIN_TOKEN>"


def test_a_token_that_could_be_guessed_is_refused_with_a_sentence_that_does_not_show_it() -> None:
    with pytest.raises(SetupError) as caught:
        access(WEBHOOKS_ADMIN_TOKEN="fifteen-letters")
    message = str(caught.value)
    assert message.startswith("WEBHOOKS_ADMIN_TOKEN is wrong: ")
    assert "at least 16 random characters" in message
    assert "fifteen" not in message


def attributes(answer: Exchange) -> set[str]:
    return {part.strip().lower() for part in answer.headers["set-cookie"].split(";")[1:]}


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites_and_ends_with_the_browser() -> None:
    door = access()
    assert attributes(follow(door, door.token)) == {"httponly", "path=/", "samesite=strict"}
    behind_tls = follow(door, door.token, **{"x-forwarded-proto": "https"})
    assert attributes(behind_tls) == {"httponly", "path=/", "samesite=strict", "secure"}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("localhost:7860", "localhost:7861"),
        ("127.0.0.1:7860", "localhost:7860"),
        ("localhost", "localhost:7860"),
        ("[::1]:7860", "[::1]:7861"),
    ],
)
def test_the_cookies_of_two_servers_of_one_machine_have_names_of_their_own(one: str, other: str) -> None:
    door = access()
    first, second = (cookie_of(follow(door, door.token, host=host)) for host in (one, other))
    assert first.partition("=")[0] != second.partition("=")[0]
    assert door.is_owner(request(f"{second}; {first}", host=one))
    assert not door.is_owner(request(second, host=one))


def test_a_cookie_that_somebody_made_up_opens_nothing() -> None:
    door = access()
    name = cookie_of(follow(door, door.token)).partition("=")[0]
    for value in ("", "x", "None", "0", door.token, '""', "*", "é"):
        assert not door.is_owner(request(f"{name}={value}"))


OAUTH = {
    "SYSTEM": "spaces",
    "SPACE_ID": "acme/hooks",
    "SPACE_AUTHOR_NAME": "acme",
    "OAUTH_CLIENT_ID": "client-id",
    "OAUTH_CLIENT_SECRET": "client-secret",
    "OAUTH_SCOPES": "openid profile webhooks",
    "OPENID_PROVIDER_URL": "https://hub.example",
}


@pytest.mark.parametrize("missing", [None, *sorted(OAUTH.keys() - {"SPACE_AUTHOR_NAME"})])
def test_a_sign_in_counts_only_where_all_that_a_space_has_is_there(clock: Clock, missing: str | None) -> None:
    """Else Gradio plays it, with a cookie that anyone can make."""
    door = access(**{name: value for name, value in OAUTH.items() if name != missing})
    visitor = request()
    visitor.scope["session"] = session(preferred_username="acme")
    assert door.is_owner(visitor) is (missing is None)
    assert (door.profile(visitor) is not None) is (missing is None)


def test_a_page_of_another_origin_does_not_learn_who_is_signed_in(clock: Clock) -> None:
    door = access(**OAUTH)
    visitor = request(origin="https://evil.example")
    visitor.scope["session"] = session(preferred_username="acme")
    assert door.profile(visitor) is None
    assert door.hub_token(visitor) is None


# --- the functions behind the pages, called by those who may not

SCRIPT = '''
from pathlib import Path
from webhooks import WebhookPayload, WebhooksServer

Path(".env").write_text("HF_TOKEN=hf_zq-token")
server = WebhooksServer()

@server.add_webhook
def train(payload: WebhookPayload):
    """Trains."""
    if payload.discussion:
        raise RuntimeError("zq-error")
    return {"result": "zq-result"}

server.launch()
'''
SPACE = {
    **OAUTH,
    "SPACE_HOST": HOST,
    "WEBHOOK_SECRET": SECRET,
    "HF_TOKEN": TOKEN,
    "WEBHOOKS_ADMIN_TOKEN": ADMIN_TOKEN,
}


class Server:
    """A server that has received two deliveries with marks everywhere, and what is known of it from outside.

    Attributes:
        folder: where the script is.
        ids: of the deliveries: one succeeded, one failed.
        uploads: where Gradio keeps files.
        home: the headers by which a browser says that a request comes from this server's own page.
        config: what Gradio tells everybody about the app.
    """

    def __init__(self, process: Process, hub: Hub, host: str | None = None) -> None:
        self.process, self.hub, self.url = process, hub, process.url
        self.uploads = Path()
        here = host or httpx.URL(self.url).netloc.decode()
        self.home = {"host": here, "origin": f"https://{here}" if host else self.url}
        self.config: dict[str, Any] = httpx.get(f"{self.url}/config").json()
        self.log = _printed(process, "Log:") / "deliveries.db"
        self.folder = self.log.parent.parent
        commit, comment = load("repo.content-update"), load("discussion.comment-create")
        for payload in (commit, comment):
            payload["repo"]["name"] = "zq-owner/zq-repository"
        comment["discussion"]["title"], comment["comment"]["content"] = "zq-title", "zq-comment"
        secret = {"X-Webhook-Secret": SECRET}
        answers = [process.post("train", payload, headers=secret) for payload in (commit, comment)]
        assert [answer.status_code for answer in answers] == [200, 500]
        self.ids = [answer.headers["X-Delivery-Id"] for answer in answers]

    def functions(self) -> list[dict[str, Any]]:
        return [function for function in self.config["dependencies"] if function["backend_fn"]]

    def buttons(self) -> list[dict[str, Any]]:
        """The functions without those that are the same function again, for another button."""
        return list({re.sub(r"_\d+$", "", function["api_name"]): function for function in self.functions()}.values())

    def has_done(self) -> list[Any]:
        """All that a handler, a test event, a replay or a question to the Hub would change, once nothing runs."""
        deadline = time.monotonic() + 20
        recorded = self._recorded()
        while "running" in {status for _, status, _ in recorded}:
            assert time.monotonic() < deadline
            time.sleep(0.01)
            recorded = self._recorded()
        return [recorded, len(self.hub.requests), {user: list(hooks) for user, hooks in self.hub.webhooks.items()}]

    def _recorded(self) -> list[tuple[str, str, int]]:
        with closing(sqlite3.connect(f"{self.log.as_uri()}?mode=ro", uri=True)) as database:
            return database.execute("SELECT id, status, attempts FROM deliveries ORDER BY number").fetchall()

    def values(self, function: Mapping[str, Any]) -> list[Any]:
        """What the page itself would send to a function."""
        components = {component["id"]: component for component in self.config["components"]}
        return [self._value(components[id]) for id in function["inputs"]]

    def _value(self, component: Mapping[str, Any]) -> Any:
        if component["type"] == "textbox":
            empty = component["props"]["label"] == "Revision"
            return "" if empty else "me/data"
        return None if component["type"] == "state" else component["props"].get("value")


def _printed(process: Process, label: str) -> Path:
    return Path(next(line for line in process.output.splitlines() if line.startswith(label)).split()[1])


# The functions, in an order in which none spoils what the next one needs.
CHOOSE, LOOK, ACT = "choose", r"show(_\d+)?$|sum_up", "run_again|send_test|show_registered|register|switch"


class Visitor:
    """Somebody with a program of his own, and perhaps with cookies."""

    def __init__(self, server: Server, cookie: str = "", **headers: str | None) -> None:
        sent = {**server.home, "cookie": cookie or None, **headers}
        given = {name.replace("_", "-"): value for name, value in sent.items() if value is not None}
        self.client = httpx.Client(base_url=server.url, headers=given, timeout=30)

    def call(self, session: str, bodies: Iterable[Any], **options: Any) -> str:
        """Call functions by way of the queue, all of one session; return all that comes back."""
        back, taken = [], False
        for body in bodies:
            sent = json.dumps({"session_hash": session, **body}).encode()
            headers = {"content-type": "application/json", **options}
            joined = self.client.post("/gradio_api/queue/join", content=sent, headers=headers)
            taken = taken or joined.status_code == 200
            back.append(joined.text)
        if taken:
            with self.client.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as stream:
                back.extend(stream.iter_lines())  # it ends after the last function has
        return "\n".join(back)

    def use_every_button(self, server: Server, session: str, deliveries: int = 1, **options: Any) -> str:
        """Do everything that the page can do: open a delivery and look at it, then all the rest, signing out too."""
        seen = ""
        for id in server.ids[-deliveries:]:
            event = {"open": id, "switch": "0", "on": "True"}
            for names in (f"(?!{CHOOSE}|{LOOK}|{ACT}|end_session)", CHOOSE, LOOK, ACT):
                bodies = [
                    {"fn_index": function["id"], "data": server.values(function), "event_data": event}
                    for function in server.buttons()
                    if re.match(names, function["api_name"])
                ]
                seen += self.call(f"{session}-{id}", bodies, **options)
        sign_out = next(function["id"] for function in server.functions() if function["api_name"] == "end_session")
        return seen + self.call(session, [{"fn_index": sign_out, "data": []}], **options)


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with Hub() as hub:
        for name, orgs in PEOPLE.items():
            hub.add_user(name, orgs)
        hub.add_token(TOKEN, "julien")
        hub.add_token("hf_oauth_julien", "julien", scopes={"webhooks"})
        yield hub
        assert hub.unknown == []


PEOPLE = {
    "acme": {},
    "julien": {"acme": "write", "zebra": "admin"},
    "anna": {"acme": "admin"},
    "omar": {"acme": "read", "zebra": "admin"},
    "carla": {"acme": "contributor"},
    "busy": {**{f"organization-number-{number}-with-a-long-name": "admin" for number in range(11)}, "acme": "write"},
    "stranger": {"zebra": "admin"},
}


@pytest.fixture(scope="module")
def laptop(start: Start, hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Server:
    uploads = tmp_path_factory.mktemp("uploads")
    mine = {"WEBHOOK_SECRET": SECRET, "HF_TOKEN": TOKEN, "WEBHOOKS_ADMIN_TOKEN": ADMIN_TOKEN}
    server = Server(start(SCRIPT, **mine, HF_ENDPOINT=hub.url, GRADIO_TEMP_DIR=str(uploads)), hub)
    server.uploads = uploads
    return server


@pytest.fixture(scope="module")
def space(start: Start, hub: Hub) -> Server:
    return Server(start(SCRIPT, **SPACE | {"OPENID_PROVIDER_URL": hub.url}, HF_ENDPOINT=hub.url), hub, HOST)


@pytest.fixture(params=["laptop", "space"])
def server(request: pytest.FixtureRequest) -> Server:
    return request.getfixturevalue(request.param)


def link_cookie(server: Server) -> str:
    """Open the console's link, and keep the cookie."""
    answer = httpx.get(f"{server.url}/deliveries", params={"token": ADMIN_TOKEN}, headers=server.home)
    assert answer.headers["location"] == "/deliveries"
    return answer.headers["set-cookie"].partition(";")[0]


def oauth_cookie(key: str = "client-secret", ends_in: float = 3600, began: float = 0, **profile: Any) -> str:
    """Sign somebody in, as Gradio does. By default the owner, and rightly so."""
    now = time.time()
    account = {"preferred_username": "julien", "name": "Julien", "profile": "", "picture": ""}
    userinfo = {"iat": now - began, **account, **member("write"), **profile}
    answer = {"access_token": "hf_oauth_julien", "expires_at": now + ends_in, "userinfo": userinfo}
    return f"session={cookie({'oauth_info': answer}, key)}"


Cookies = Callable[[Server], str]
OWNERS: dict[str, Cookies] = {"link": link_cookie, "sign-in": lambda server: oauth_cookie()}


@pytest.mark.parametrize("by", OWNERS)
def test_the_owner_sees_and_does_everything(space: Server, by: str) -> None:
    """All the attacks below are these calls, so they would find what is there to be found."""
    before = space.has_done()
    owner = Visitor(space, OWNERS[by](space))
    seen = owner.use_every_button(space, f"owner-{by}", deliveries=2)
    marks = ("zq-owner/zq-repository", "zq-title", "zq-comment", "zq-result", "zq-error", "succeeded", *space.ids)
    for mark in marks:
        assert mark in seen, mark
    assert SECRET not in seen
    assert TOKEN not in seen
    assert ADMIN_TOKEN not in seen
    after = space.has_done()
    assert len(after[0]) > len(before[0]) + 1, "a replay and a test event"
    assert (len(after[2].get("julien", [])) > 0) is (by == "sign-in"), "a webhook on the Hub"


def made_up(server: Server) -> str:
    return link_cookie(server).partition("=")[0] + "=" + "A" * 32


STRANGERS: dict[str, Cookies] = {
    "nobody": lambda server: "",
    "a made-up session": made_up,
    "the owner's token for a session": lambda server: made_up(server).replace("A" * 32, ADMIN_TOKEN),
    "somebody else": lambda server: oauth_cookie(preferred_username="stranger", orgs=[]),
    "a member who may read": lambda server: oauth_cookie(**member("read")),
    "a member who contributes": lambda server: oauth_cookie(**member("contributor")),
    "a member who did not grant access": lambda server: oauth_cookie(**member(None)),
    "a token that expired": lambda server: oauth_cookie(ends_in=-1),
    "a sign-in 8 hours ago": lambda server: oauth_cookie(began=8 * 3600),
    "a session signed with another key": lambda server: oauth_cookie("guess"),
    # The key that Gradio takes where there is no OAUTH_CLIENT_SECRET: everybody knows it.
    "a session signed with the public key": lambda server: oauth_cookie(""),
    "a session that was changed": lambda server: oauth_cookie(ends_in=-1).replace("=ey", "=eyJ4IjoxfQ.ey"),
}


@pytest.mark.parametrize("who", STRANGERS)
def test_nobody_else_sees_or_does_anything(space: Server, who: str) -> None:
    before = space.has_done()
    seen = Visitor(space, STRANGERS[who](space)).use_every_button(space, who)
    assert "process_completed" in seen
    assert MARK not in seen
    assert "succeeded" not in seen, "the chart"
    assert space.has_done() == before


@pytest.mark.parametrize("who", ["nobody", "a made-up session", "a session signed with the public key"])
def test_nobody_else_does_on_a_laptop(laptop: Server, who: str) -> None:
    before = laptop.has_done()
    seen = Visitor(laptop, STRANGERS[who](laptop)).use_every_button(laptop, who)
    assert "process_completed" in seen
    assert MARK not in seen
    assert laptop.has_done() == before


def test_a_session_of_gradios_makes_nobody_the_owner_who_knows_its_name(space: Server) -> None:
    """It holds what the owner chose; what it is called is in the addresses that a page asks for."""
    owner, name = Visitor(space, link_cookie(space)), "a name that got about"
    assert MARK in owner.use_every_button(space, name)
    before = space.has_done()
    session = f"{name}-{space.ids[-1]}"  # a delivery is open in it
    for names in (ACT, LOOK, ""):
        functions = [function for function in space.functions() if re.match(names, function["api_name"])]
        bodies = [{"fn_index": function["id"], "data": space.values(function)} for function in functions]
        assert MARK not in Visitor(space).call(session, bodies)
    assert space.has_done() == before


ELSEWHERE: dict[str, dict[str, str | None]] = {
    "another site": {"origin": "https://evil.example", "x-forwarded-host": "evil.example"},
    "another Space": {"origin": "https://evil.hf.space", "sec-fetch-site": "cross-site"},
    "a frame without an origin": {"origin": "null"},
    "another port": {"origin": f"https://{HOST}:8443"},
    "the same name without TLS": {"origin": f"http://{HOST}", "sec-fetch-site": "cross-site"},
    "a form": {"origin": None, "sec-fetch-site": "cross-site"},
}


@pytest.mark.parametrize("by", OWNERS)
@pytest.mark.parametrize("where", ELSEWHERE)
def test_a_page_of_another_origin_does_nothing_in_the_owners_name(space: Server, where: str, by: str) -> None:
    before = space.has_done()
    page = Visitor(space, OWNERS[by](space), **ELSEWHERE[where])
    seen = page.use_every_button(space, f"{where} by {by}")
    assert "process_completed" in seen
    assert MARK not in seen
    assert "julien" not in seen
    assert space.has_done() == before


def test_a_page_of_another_port_does_nothing_on_a_laptop(laptop: Server) -> None:
    """Cookies know no ports, so a notebook on the same machine sends the owner's along."""
    before, cookie = laptop.has_done(), link_cookie(laptop)
    notebook = Visitor(laptop, cookie, origin="http://127.0.0.1:8888")
    assert MARK not in notebook.use_every_button(laptop, "a notebook")
    assert laptop.has_done() == before
    assert MARK in Visitor(laptop, cookie).use_every_button(laptop, "the owner's own page")


def test_a_request_that_needs_no_preflight_does_nothing_in_the_owners_name(space: Server) -> None:
    before = space.has_done()
    for by, kind in [(by, kind) for by in OWNERS for kind in ("text/plain", "application/x-www-form-urlencoded", "")]:
        page = Visitor(space, OWNERS[by](space), origin="https://evil.example")
        assert MARK not in page.use_every_button(space, f"{kind} by {by}", **{"content-type": kind})
    assert space.has_done() == before


def test_a_signed_out_owner_is_a_stranger(space: Server) -> None:
    owner = Visitor(space, link_cookie(space))
    assert MARK in owner.use_every_button(space, "signs out at the end")
    before = space.has_done()
    assert MARK not in owner.use_every_button(space, "signed out")
    assert space.has_done() == before


HOSTILE = "<img src=x onerror=alert(1)>\u202e\x00' OR 1=1 -- ../../../etc/passwd {{7*7}} ${7*7}"


def arguments(server: Server) -> Iterator[Any]:
    """Everything that may be sent in the place of a value."""
    id, log = server.ids[0], str(server.log)
    yield from (None, "", id, HOSTILE, -1, 1.5e308, True, [id], {"older_than": None})
    yield {"__type__": "update", "value": id, "visible": True}
    yield {"path": log, "url": log, "meta": {"_type": "gradio.FileData"}, "orig_name": "x"}
    yield {"value": {"path": log, "meta": {"_type": "gradio.FileData"}}, "id": 1}


def shapes(server: Server) -> Iterator[dict[str, Any]]:
    """What else a call may carry."""
    id = server.ids[0]
    yield {}
    yield {"event_data": {"open": id, "switch": id, "on": "True", "value": id, "index": [0, 0], "_data": {"open": id}}}
    yield {"event_data": id, "trigger_id": 10**9}
    yield {"event_data": [id], "trigger_id": 0, "event_id": id, "simple_format": True}
    yield {"batched": True, "oauth_token": "hf_oauth_julien", "username": "julien"}
    yield {"request": {"headers": {"cookie": "x"}, "session": {}}, "session_state": {"34": id}, "is_owner": True}


@pytest.mark.parametrize("kind", range(12))
def test_no_argument_of_a_stranger_makes_a_function_do_anything(laptop: Server, kind: int) -> None:
    before = laptop.has_done()
    value, others = list(arguments(laptop))[kind], list(shapes(laptop))
    bodies = []
    for function in laptop.config["dependencies"]:
        count = len(function["inputs"])
        for number in {count} if kind else {0, count, count + 1}:
            other = others[(function["id"] + kind + number) % len(others)]
            bodies.append({"fn_index": function["id"], "data": [value] * number, **other})
    seen = Visitor(laptop).call(f"kind-{kind}", bodies)
    assert MARK not in seen
    assert laptop.has_done() == before


def use_other_ways(server: Server, visitor: Visitor) -> str:
    """Call every function by all routes but the queue's, and what components have; return all that comes back."""
    seen, post = "", visitor.client.post
    for function in server.functions():
        name, body = function["api_name"], {"data": server.values(function)}
        if name != "end_session":
            for route in ("run", "api"):
                seen += post(f"/gradio_api/{route}/{name}", json=body).text
            seen += post("/gradio_api/run/predict", json={**body, "fn_index": function["id"]}).text
            for route in ("call", "call/v2"):
                answer = post(f"/gradio_api/{route}/{name}", json=body)
                seen += answer.text
                if answer.is_success:
                    seen += visitor.client.get(f"/gradio_api/{route}/{name}/{answer.json()['event_id']}").text
    return seen


def test_no_other_way_to_call_a_function_is_open_to_a_stranger(server: Server) -> None:
    # Gradio fails at some of these, and closes the connection then.
    before, stranger = server.has_done(), Visitor(server, connection="close")
    assert MARK not in use_other_ways(server, stranger)
    assert server.has_done() == before
    assert MARK in use_other_ways(server, Visitor(server, link_cookie(server), connection="close"))
    assert server.has_done() != before


def test_no_component_has_functions_of_its_own(server: Server) -> None:
    stranger = Visitor(server).client
    for component in server.config["components"]:
        assert not component["props"].get("server_fns")
        for name in ("value", "postprocess", "__init__"):
            sent = {"component_id": component["id"], "fn_name": name, "session_hash": "x", "data": server.ids[0]}
            assert stranger.post("/gradio_api/component_server", json=sent).status_code == 404


def test_no_function_is_one_for_programs(server: Server) -> None:
    """So none is a tool of Gradio's MCP server either (seen with gradio[mcp] 6.31)."""
    assert {function["api_visibility"] for function in server.config["dependencies"]} == {"private"}
    assert httpx.get(f"{server.url}/gradio_api/info", params={"all_endpoints": True}).json() == {
        "named_endpoints": {},
        "unnamed_endpoints": {},
    }


def test_gradios_own_client_gets_nothing_as_a_stranger_and_all_of_it_as_the_owner(laptop: Server) -> None:
    def look(cookie: str, *kinds: Callable[[list[Any]], list[Any]]) -> str:
        client = gradio_client.Client(laptop.url, headers={"Cookie": cookie}, verbose=False, download_files=False)
        jobs = []
        for function in laptop.functions():
            client.endpoints[function["id"]].is_valid = True  # it would not call a private one; a stranger's would
            values = [value for value in laptop.values(function) if value is not None]
            if function["api_name"] != "end_session":
                jobs += [client.submit(*kind(values), fn_index=function["id"]) for kind in kinds]
        seen = [str(job.exception(timeout=30) or job.result()) for job in jobs]
        client.close()
        return "\n".join(seen)

    before = laptop.has_done()
    assert MARK not in look("", list, lambda values: [laptop.ids[0]] * len(values))
    assert laptop.has_done() == before
    assert MARK in look(link_cookie(laptop), list)
    assert laptop.has_done() != before


# --- pages and files


def test_no_page_shows_a_stranger_anything(server: Server) -> None:
    stranger = Visitor(server).client
    shown = ("", "?page=deliveries", f"?delivery={server.ids[0]}", "?token=x", "?deep_link=x")
    paths = [f"{page}{query}" for page in ("/", "/deliveries", "/deliveries/", "/config") for query in shown]
    paths += ["/theme.css", "/health", "/manifest.json", "/robots.txt", "/docs", "/openapi.json", "/logout"]
    paths += ["/monitoring", "/monitoring/summary", "/monitoring/x", "/webhooks", "/webhooks/train", "/webhooks/"]
    paths += [f"/gradio_api/{name}" for name in ("info", "openapi.json", "token", "user", "app_id", "queue/status")]
    paths += [f"/gradio_api/{name}" for name in ("startup-events", "runs", "vibe-code", "profiling/traces")]
    paths += [f"/gradio_api/deep_link?session_hash={name}" for name in ("owner-link", "x", server.ids[0])]
    paths += [f"/gradio_api/queue/data?session_hash={name}" for name in ("", "x", server.ids[0])]
    for path in paths:
        try:
            assert MARK not in stranger.get(path, follow_redirects=True).text, path
        except httpx.RemoteProtocolError:  # Gradio breaks off a stream that does not exist
            assert "/queue/data" in path


def file_addresses(path: Path) -> Iterator[str]:
    """Every way to ask Gradio for a file of the folder that the server was started in."""
    relative = path.relative_to(path.anchor)
    here = path.name if path.suffix in (".py", ".txt") or path.name == ".env" else f"{path.parent.name}/{path.name}"
    up = f"{'../' * 9}{relative}"
    names = [str(path), f"/{path}", here, f"./{here}", f"x/../{here}", f"/proc/self/cwd/{here}", up, here.upper()]
    names += [quote(str(path), safe=""), quote(quote(str(path), safe=""), safe=""), str(path).replace("/", "\\")]
    names += [f"file://{path}", f"{path}/.", f"{path}%00.txt", f"{path.parent}//{path.name}"]
    yield from (f"/gradio_api/file={name}" for name in names)
    yield from (f"/gradio_api/file/{name}" for name in names[:4])
    for route in ("file=", "static/", "assets/", "svelte/", "gradio_api/proxy=", "?deep_link="):
        yield from (f"/{route}{name}" for name in (str(path), up))
    yield f"/gradio_api/custom_component/x/client/{quote(up, safe='')}/x"
    yield f"/gradio_api/stream/x/{quote(up, safe='')}/1/playlist-file"


def fetch(server: Server, path: Path) -> set[str]:
    """Return the addresses at which a file is given out."""
    there = path.read_bytes()
    found = set()
    with closing(Visitor(server, connection="close").client) as client:  # Gradio fails at some, and closes
        for address in file_addresses(path):
            answer = client.get("/", extensions={"target": address.encode()})  # as it is, dots and all
            if answer.is_success and (answer.content == there or (there and there[:4096] in answer.content)):
                found.add(address)
    return found


MINE = """
import gradio as gr
from pathlib import Path
from webhooks import WebhookPayload, WebhooksServer

Path(".env").write_text("HF_TOKEN=hf_zq-token")
Path("public.txt").write_text("for everybody")
Path("blocked.txt").write_text("zq-blocked")

def who(profile: gr.OAuthProfile | None):
    return f"signed in: {profile.username if profile else None}"

with gr.Blocks() as ui:
    gr.LoginButton()
    ui.load(who, outputs=gr.Textbox())

server = WebhooksServer(ui)

@server.add_webhook
def train(payload: WebhookPayload):
    if payload.discussion:
        raise RuntimeError("zq-error")
    return {"result": "zq-result"}

server.launch(allowed_paths=["."])
"""


@pytest.fixture(scope="module")
def mine(start: Start, hub: Hub) -> Server:
    """Somebody's own Blocks with a sign-in that Gradio plays, as the variable `SYSTEM` is not there."""
    like_a_space = {"SPACE_ID": "julien/hooks", "SPACE_AUTHOR_NAME": "julien", "WEBHOOK_SECRET": SECRET}
    hidden = {"WEBHOOKS_DATA_DIR": "data", "GRADIO_BLOCKED_PATHS": "blocked.txt"}
    return Server(start(MINE, **like_a_space, **hidden, HF_TOKEN=TOKEN, HF_ENDPOINT=hub.url), hub)


def private_files(server: Server) -> list[Path]:
    in_the_log = ("deliveries.db", "deliveries.db-wal", "lock", ".gitignore")
    return [*map(server.log.with_name, in_the_log), server.folder / ".env"]


def test_no_file_of_the_server_can_be_fetched(laptop: Server) -> None:
    for path in [*private_files(laptop), laptop.folder / "script.py"]:
        assert fetch(laptop, path) == set(), path


def test_what_is_private_stays_so_where_the_folder_around_it_is_allowed(mine: Server) -> None:
    given = fetch(mine, mine.folder / "public.txt")
    assert "/gradio_api/file=public.txt" in given
    assert f"/gradio_api/file={mine.folder / 'public.txt'}" in given
    for path in [*private_files(mine), mine.folder / "blocked.txt"]:
        assert fetch(mine, path) == set(), path


def test_a_stranger_cannot_fill_the_disk_with_uploads(laptop: Server) -> None:
    def uploads() -> list[Path]:
        return [path for path in laptop.uploads.rglob("*") if path.is_file()]

    before, stranger = uploads(), Visitor(laptop).client
    for address, name in (("upload", "files"), ("process_recording", "video"), ("component_server", "files")):
        fields = {"component_id": "1", "session_hash": "x", "fn_name": "x"}
        answer = stranger.post(f"/gradio_api/{address}", data=fields, files={name: ("x.mp4", b"x" * 9999)})
        assert answer.status_code == 413, address
    assert uploads() == before


def test_no_component_of_the_owners_page_fetches_a_file_for_a_stranger(tmp_path: Path) -> None:
    with gradio.Blocks() as ui:
        theirs = gradio.Image()
    settings = read_settings(Settings, {})
    endpoints = {"/webhooks/f": Endpoint(lambda: None, "/f")}
    access = Access(settings, lambda: [])
    Desk(settings, endpoints, access, tmp_path / "log", str, print, str, str).add_to(ui)
    ours = [
        block for block in ui.blocks.values() if isinstance(block, gradio.components.Component) and block != theirs
    ]
    assert len(ours) > 20
    for component in ours:
        with pytest.raises(gradio.Error, match="takes a file"):
            asyncio.run(component.async_move_resource_to_block_cache("https://example.org/endless"))
    assert "async_move_resource_to_block_cache" not in vars(theirs)


def test_uploads_work_in_a_page_of_ones_own(mine: Server) -> None:
    assert Visitor(mine).client.post("/gradio_api/upload", files={"files": ("x.txt", b"x")}).status_code == 200


def test_gradios_run_history_does_not_use_the_token_for_others(server: Server) -> None:
    """It would on a laptop for all that reaches it as localhost, and on a Space for pages of other origins."""
    before = server.has_done()
    other = Visitor(server, oauth_cookie(), host=f"localhost:{server.process.port}", origin="https://evil.example")
    assert other.client.get("/gradio_api/run-history/buckets").status_code == 404
    assert other.client.post("/gradio_api/run-history/connect", json={"bucket_id": "julien/x"}).status_code == 404
    assert server.has_done() == before


def test_a_played_sign_in_makes_nobody_the_owner(mine: Server) -> None:
    visitor = httpx.Client(base_url=mine.url)
    answer = visitor.get("/login/callback")  # what the button does, which asks for no password
    played = answer.headers["set-cookie"].partition(";")[0]
    forged = oauth_cookie("", preferred_username="julien")  # where there is no OAUTH_CLIENT_SECRET, the key is known
    load = next(function["id"] for function in mine.functions() if function["api_name"] == "who")
    before = mine.has_done()
    for number, cookie in enumerate((played, forged)):
        guest = Visitor(mine, cookie)
        assert "signed in: julien" in guest.call(f"who {number}", [{"fn_index": load, "data": []}])
        assert MARK not in guest.use_every_button(mine, f"guest {number}")
    assert mine.has_done() == before
    (link,) = re.findall(r"deliveries\?token=\S+", mine.process.output)
    owner = httpx.get(f"{mine.url}/{link}").headers["set-cookie"].partition(";")[0]
    assert MARK in Visitor(mine, owner).use_every_button(mine, "the owner")


# --- in the browser


class Tab(Visitor):
    """A page that is open in a browser, whose scripts call the Space's functions with all cookies there are."""

    def __init__(self, page: Page | Frame, mode: str = "cors") -> None:
        self.page, self.mode = page, mode

    def call(self, session: str, bodies: Iterable[Any], **options: Any) -> str:
        sent = [json.dumps({"session_hash": session, **body}) for body in bodies]
        return str(self.page.evaluate(CALL, [f"https://{HOST}/gradio_api", session, sent, self.mode]))


CALL = """async ([api, session, bodies, mode]) => {
  const headers = { "Content-Type": mode === "cors" ? "application/json" : "text/plain" };
  const ask = (path, options) =>
    fetch(api + path, { credentials: "include", mode, ...options }).then(answer => answer.text()).catch(String);
  let seen = "";
  for (const body of bodies) seen += await ask("/queue/join", { method: "POST", headers, body });
  return seen + await ask("/queue/data?session_hash=" + encodeURIComponent(session));
}"""


class OtherSite(http.server.BaseHTTPRequestHandler):
    """A site with nothing on it; a test makes of it what it needs."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<title>Another site</title>")

    def log_message(self, *_: Any) -> None:
        pass


@dataclass
class Web:
    """A browser in which the Space, and another site, are reached by their names."""

    playwright: Playwright
    options: dict[str, Any]
    browser: Browser


@pytest.fixture(scope="module")
def web(space: Server, chromium: str) -> Iterator[Web]:
    other = http.server.ThreadingHTTPServer(("127.0.0.1", 0), OtherSite)
    threading.Thread(target=other.serve_forever, daemon=True).start()
    with TlsFront(space.process.port, HOST) as here, TlsFront(other.server_port, "evil.example") as there:
        rules = f"{here.chromium_argument},{there.chromium_argument.partition('=')[2]}"
        options = {"executable_path": chromium, "args": [*CHROMIUM_ARGUMENTS, rules]}
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(**options)
            yield Web(playwright, options, browser)
            browser.close()
    other.shutdown()


@pytest.fixture
def context(web: Web, hub: Hub) -> Iterator[BrowserContext]:
    with closing(web.browser.new_context(ignore_https_errors=True)) as context:
        yield context
    hub.signed_in, hub.withheld = None, set()


@pytest.fixture
def trusting(web: Web, hub: Hub, tmp_path: Path) -> Iterator[BrowserContext]:
    """A browser that lets every site send the cookies of others along, as its user chose."""
    profile = {"block_third_party_cookies": False, "cookie_controls_mode": 0}
    (tmp_path / "Default").mkdir()
    (tmp_path / "Default" / "Preferences").write_text(json.dumps({"profile": profile}))
    options = {**web.options, "ignore_https_errors": True}
    with closing(web.playwright.chromium.launch_persistent_context(tmp_path, **options)) as context:
        yield context
    hub.signed_in = None


def sign_in(context: BrowserContext, hub: Hub, person: str | None) -> Page:
    hub.signed_in = person
    page = context.new_page()
    page.goto(f"https://{HOST}{SIGN_IN_HERE}")
    return page


FRAME = """([address, sandbox]) => new Promise(loaded => {
  const frame = document.createElement("iframe");
  if (sandbox) frame.sandbox = sandbox;
  [frame.src, frame.onload] = [address, () => loaded()];
  (document.body || document.documentElement).append(frame);
})"""


def see(page: Page, text: str) -> None:
    """Wait for a text. Gradio loses an answer at times on a busy machine (6.31); then the page is loaded again."""
    shown = page.get_by_text(text).first
    try:
        shown.wait_for(timeout=15_000)
    except TimeoutError:
        page.reload()
        expect(shown).to_be_visible(timeout=30_000)


SIGN_IN_HERE = "/login/huggingface?_target_url=/deliveries"
SIGN_IN = "What has arrived is shown to acme only. Sign in, or open"


@pytest.mark.once
@pytest.mark.parametrize("person", ["acme", "anna", "julien", "busy"])
def test_who_may_write_signs_in_sees_the_deliveries_and_signs_out(
    context: BrowserContext, hub: Hub, person: str
) -> None:
    page = sign_in(context, hub, person)
    see(page, "zq-owner/zq-repository")
    expect(page).to_have_url(f"https://{HOST}/deliveries")
    (cookie,) = [cookie for cookie in context.cookies() if cookie["name"] == "session"]
    assert cookie["httpOnly"]
    assert cookie["secure"]
    page.get_by_role("button", name="Sign out").click()
    see(page, SIGN_IN)
    expect(page).to_have_url(f"https://{HOST}/deliveries")
    assert MARK not in page.content()
    page.reload()
    see(page, SIGN_IN)


@pytest.mark.once
@pytest.mark.parametrize("person", ["omar", "carla", "stranger", "julien"])
def test_who_may_not_write_is_told_so_sees_nothing_and_can_sign_out(
    context: BrowserContext, hub: Hub, person: str
) -> None:
    hub.withheld = {"acme"}  # which is what keeps the last one of these out
    page = sign_in(context, hub, person)
    see(page, f"You are signed in as {person}. What has arrived is shown to acme only.")
    expect(page).to_have_url(f"https://{HOST}/deliveries")
    expect(page.get_by_role("tab", name="Test event")).to_be_hidden()
    assert MARK not in page.content()
    page.get_by_role("link", name="Sign out").click()
    see(page, SIGN_IN)


@pytest.mark.once
def test_a_visitor_is_sent_to_sign_in_and_one_who_declines_stays_a_visitor(context: BrowserContext, hub: Hub) -> None:
    page = context.new_page()
    page.goto(f"https://{HOST}/deliveries")
    see(page, SIGN_IN)
    button = page.get_by_role("link", name="Sign in with Hugging Face")
    expect(button).to_have_attribute("href", SIGN_IN_HERE)
    hub.signed_in = None
    with page.expect_request(lambda request: "error=access_denied" in request.url):
        button.click()
    page.goto(f"https://{HOST}/deliveries")
    see(page, SIGN_IN)
    assert MARK not in page.content()


def is_a_call(request: Any) -> bool:
    return request.method == "POST" and request.url.endswith("/queue/join")


@pytest.mark.once
def test_a_page_of_another_site_in_the_owners_browser_reads_and_does_nothing(
    trusting: BrowserContext, hub: Hub, space: Server
) -> None:
    own = sign_in(trusting, hub, "julien")
    see(own, "zq-owner/zq-repository")
    own.goto(f"https://{HOST}/deliveries?token={ADMIN_TOKEN}")  # now signed in in both ways
    see(own, "zq-owner/zq-repository")
    own.goto(f"https://{HOST}/theme.css")  # asks for nothing by itself
    before = space.has_done()

    evil = trusting.new_page()
    evil.goto("https://evil.example")
    with evil.expect_request(is_a_call) as asked:
        seen = Tab(evil).use_every_button(space, "another site")
    assert "process_completed" in seen
    assert MARK not in seen
    assert "julien" not in seen
    sent = asked.value.all_headers()
    assert sent["origin"] == "https://evil.example"
    assert "session=" in sent["cookie"], "the browser does send the cookie of the sign-in"
    assert "webhooks_" not in sent["cookie"], "but not the one of the link"
    assert MARK not in Tab(evil, "no-cors").use_every_button(space, "another site, no preflight")
    evil.evaluate(FRAME, ["https://evil.example", "allow-scripts"])
    seen = Tab(evil.frames[1]).use_every_button(space, "a frame without an origin")
    assert "process_completed" in seen
    assert MARK not in seen
    assert space.has_done() == before

    assert MARK in Tab(own).use_every_button(space, "the owner's own page")
    assert space.has_done() != before


@pytest.mark.once
def test_a_page_of_another_site_cannot_show_the_owners_page_for_a_click_to_land_on(
    trusting: BrowserContext, hub: Hub
) -> None:
    own = sign_in(trusting, hub, "julien")
    see(own, "zq-owner/zq-repository")
    evil = trusting.new_page()
    evil.goto("https://evil.example")
    for path in ("/deliveries", "/?page=deliveries"):
        for page, shown in ((evil, "chrome-error://"), (own, f"https://{HOST}{path}")):
            with page.expect_event("framenavigated", lambda frame, shown=shown: frame.url.startswith(shown)):
                page.evaluate(FRAME, [f"https://{HOST}{path}", None])


# --- what is left behind


def test_no_secret_is_printed_or_kept(laptop: Server, space: Server, mine: Server) -> None:
    for server in (laptop, space, mine):
        kept = b"".join(path.read_bytes() for path in server.log.parent.iterdir())
        assert b"zq-title" in kept
        printed = server.process.output + "".join(list(server.process._lines.queue))
        assert "zq-error" in printed
        for secret in (SECRET, TOKEN, ADMIN_TOKEN, "client-secret", "hf_oauth_"):
            assert secret.encode() not in kept, secret
            assert secret not in printed, secret
    assert len(re.findall(r"\?token=(?!<)", laptop.process.output + space.process.output)) == 0
    (token,) = re.findall(r"\?token=(\S+)", mine.process.output)
    assert token.encode() not in b"".join(path.read_bytes() for path in mine.log.parent.iterdir())
