"""Nobody but the owner sees or does anything: every route, with every method, as each of those who may not."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from starlette.routing import Mount, Route
from support.asgi import Exchange
from support.dashboard import Client, Office
from support.payloads import load

import webhooks.dashboard.access
from webhooks import Delivery
from webhooks.dashboard.access import PAGE, SESSION_LASTS
from webhooks.delivery import StartedJob
from webhooks.endpoints import Endpoint
from webhooks.payload import parse_payload

MARK = "zq-"  # in everything that nobody but the owner may see, and in nothing else
OAUTH = {
    "SYSTEM": "spaces",
    "SPACE_ID": "acme/hooks",
    "SPACE_AUTHOR_NAME": "acme",
    "SPACE_HOST": "acme-hooks.hf.space",
    "OAUTH_CLIENT_ID": "client-id",
    "OAUTH_CLIENT_SECRET": "zq-client-secret",
    "OAUTH_SCOPES": "openid profile webhooks",
    "OPENID_PROVIDER_URL": "http://127.0.0.1:9",
}
ADMIN_TOKEN = "zq-admin-token-it-is"
SECRETS = {"WEBHOOK_SECRET": "zq-webhook-secret", "HF_TOKEN": "hf_zq-token", "WEBHOOKS_ADMIN_TOKEN": ADMIN_TOKEN}
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "QUERY")


@pytest.fixture(params=["laptop", "space"], scope="module")
def office(request: pytest.FixtureRequest) -> Iterator[Office]:
    """A desk with a delivery that has a mark in all that is shown of it."""
    space = OAUTH if request.param == "space" else {}
    office = Office(Endpoint(lambda: None, "/zq-handler"), **SECRETS, **space)
    payload = load("discussion.comment-create")
    payload["repo"]["name"], payload["discussion"]["title"] = "zq-owner/zq-repository", "zq-title"
    body = json.dumps(payload).encode()
    delivery = Delivery("/webhooks/zq-handler", parse_payload(body), headers=((b"zq-name", b"zq-value"),), body=body)
    job = StartedJob("zq-job", "zq-owner", "https://huggingface.co/jobs/zq", "cpu-basic", "RUNNING")
    office.put(delivery, "failed", b'{"error": "zq-answer"}', error="ValueError: zq-error", jobs=[job])
    office.open()
    yield office
    office.close()


def ids(office: Office) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(office.log.path)) as database:
        return database.execute("SELECT id, status, attempts FROM deliveries ORDER BY number").fetchall()


def everything(office: Office) -> Iterator[tuple[str, str]]:
    """Every method on every address of the desk, in both spellings, and some that are none."""
    (id, _, _), *_ = ids(office)
    addresses = {"", "/", "/no-such-page", "/no/such/page", f"/{id}/", "/%2e%2e", "//", "/static", "/static/"}
    for route in office.app.routes:
        assert isinstance(route, (Mount, Route))
        path = route.path.replace("{id}", id).removeprefix(PAGE)
        addresses |= {path, f"{path}/", path.upper()}
    for address in sorted(addresses):
        yield from ((method, address) for method in METHODS)


FORM = {
    "until": "7fffffffffffffff",
    "endpoint": "/webhooks/zq-handler",
    "body": "{}",
    "type": "dataset",
    "name": "me/data",
    "domain_repo": "on",
    "switch": "0",
    "on": "yes",
}


def use_everything(visitor: Client) -> list[tuple[str, str, Exchange]]:
    answers = []
    for method, address in everything(visitor.office):
        if address == "/sign-out":  # the owner's session is needed until the end
            continue
        if method == "POST":
            answer = visitor.post(address, FORM)
        else:
            answer = visitor.ask(method, address, f"of={ids(visitor.office)[0][0]}")
        answers.append((method, address, answer))
    return answers


def test_the_owner_sees_everything_and_can_do_everything(office: Office) -> None:
    """All the attacks below are these calls, so they would find what is there to be found."""
    seen = b"".join(answer.body for _, _, answer in use_everything(office.owner())).decode()
    for mark in ("zq-handler", "zq-owner/zq-repository", "zq-title", "zq-error", "zq-answer", "zq-job", "zq-value"):
        assert mark in seen, mark
    for secret in (*SECRETS.values(), OAUTH["OAUTH_CLIENT_SECRET"]):
        assert secret not in seen
    assert len(ids(office)) > 1, "a replay"


def strangers(office: Office, monkeypatch: pytest.MonkeyPatch) -> dict[str, Client]:
    owner = office.owner()
    name, _, id = owner.cookie.partition("=")
    signed_out = office.owner()
    signed_out.post("/sign-out")
    with monkeypatch.context() as patched:
        patched.setattr(webhooks.dashboard.access.time, "time", lambda: 1.0)
        expired = office.owner()
    return {
        "nobody": Client(office),
        "a made-up session": Client(office, f"{name}={'A' * 32}"),
        "the owner's token for a session": Client(office, f"{name}={office.dashboard.access.token}"),
        "a session under another name": Client(office, f"session={id}"),
        "the session of another server of this machine": Client(office, owner.cookie, host="localhost:7861"),
        "an expired session": Client(office, expired.cookie),
        "a session that was signed out": Client(office, signed_out.cookie),
        "Gradio's own session": Client(office, "session=eyJvYXV0aF9pbmZvIjogMX0=.x.y"),
        "a token in a header": Client(office, authorization=f"Bearer {office.dashboard.access.token}"),
        "another site": Client(office, owner.cookie, origin="https://evil.example"),
        "another Space": Client(office, owner.cookie, origin="https://evil.hf.space", sec_fetch_site="cross-site"),
        "a frame without an origin": Client(office, owner.cookie, origin="null"),
        "another port": Client(office, owner.cookie, origin=f"http://{office.host}8", sec_fetch_site="same-site"),
        "a picture on another site": Client(
            office, owner.cookie, sec_fetch_site="cross-site", sec_fetch_mode="no-cors"
        ),
        "a frame on another site": Client(
            office, owner.cookie, sec_fetch_site="cross-site", sec_fetch_mode="navigate", sec_fetch_dest="iframe"
        ),
        "a forwarded host": Client(
            office, owner.cookie, origin="https://evil.example", x_forwarded_host="evil.example", referer=office.url
        ),
    }


def test_nobody_else_sees_or_does_anything(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    before = ids(office)
    for who, stranger in strangers(office, monkeypatch).items():
        for method, address, answer in use_everything(stranger):
            where = f"{who}: {method} {address}"
            assert MARK.encode() not in answer.body, where
            assert MARK not in str(answer.headers), where
            assert answer.status in (302, 307, 400, 403, 404, 405), where
            assert "set-cookie" not in answer.headers, where
        assert ids(office) == before, who


def test_a_route_that_is_added_later_is_closed() -> None:
    office = Office(Endpoint(lambda: None, "/f"))
    called: list[object] = []
    office.app.router.routes.insert(0, Route(f"{PAGE}/later", lambda request: called.append(request)))
    assert Client(office).get("/later").status == 403
    assert called == []


def test_every_answer_keeps_scripts_styles_and_frames_of_others_out(office: Office) -> None:
    for _, address, answer in [*use_everything(office.owner()), *use_everything(Client(office))]:
        policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
        assert policy["default-src"] == "'none'", address
        assert policy["script-src"] == policy["style-src"] == policy["form-action"] == "'self'", address
        assert policy["frame-ancestors"] == "'self' https://huggingface.co"
        assert "unsafe" not in str(policy)
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] in ("no-store", "no-cache")
        assert "access-control-allow-origin" not in answer.headers


def test_a_link_on_another_site_opens_the_page_in_a_tab_and_no_form_there_does_anything(office: Office) -> None:
    owner = office.owner()
    tab = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate", "sec_fetch_dest": "document"}
    assert owner.get("", **tab).status == 200
    before = ids(office)
    assert owner.post(f"/{before[0][0]}/replay", **tab, origin="https://evil.example").status == 403
    assert owner.ask("POST", f"/{before[0][0]}/replay", **tab).status == 403
    assert ids(office) == before


# --- the link, and sessions


def test_the_printed_link_makes_its_reader_the_owner_and_leaves_no_token_in_the_address(office: Office) -> None:
    answer = Client(office).get(query={"token": office.dashboard.access.token})
    assert (answer.status, answer.headers["location"]) == (303, PAGE)
    assert office.dashboard.access.token not in str(answer)
    attributes = {part.strip().lower() for part in answer.headers["set-cookie"].split(";")[1:]}
    secure = {"secure"} if office.settings.is_on_space else set()
    assert attributes == {"httponly", f"path={PAGE}", "samesite=strict", *secure}


def test_the_link_works_on_a_page_of_another_site_whose_redirect_would_leave_the_cookie_behind(office: Office) -> None:
    answer = Client(office).get(
        query={"token": office.dashboard.access.token},
        sec_fetch_site="cross-site",
        sec_fetch_mode="navigate",
        sec_fetch_dest="document",
    )
    assert (answer.status, answer.headers["refresh"]) == (200, f"0; url={PAGE}")
    assert Client(office).with_cookie(answer).get().status == 200


def test_the_cookie_is_secure_where_the_outside_is_https() -> None:
    office = Office(Endpoint(lambda: None, "/f"))
    link = {"token": office.dashboard.access.token}
    assert "secure" not in Client(office).get(query=link).headers["set-cookie"].lower()
    assert "secure" in Client(office).get(query=link, x_forwarded_proto="https").headers["set-cookie"].lower()
    office.url = "https://1234.gradio.live"
    shared = Client(office, host="1234.gradio.live")
    assert "secure" in shared.get(query=link).headers["set-cookie"].lower()


@pytest.mark.parametrize(
    "wrong", ["", " ", "x", "é", "\U0001f642", "\x00", "%", "a" * 9999, "zq-admin-token-it-i", "zq-admin-token-it-isx"]
)
def test_a_wrong_token_begins_no_session_and_is_told_so(office: Office, wrong: str) -> None:
    answer = Client(office).get(query={"token": wrong})
    assert (answer.status, answer.headers["location"]) == (303, f"{PAGE}?notice=link")
    assert "set-cookie" not in answer.headers
    told = Client(office).get(query="notice=link")
    assert told.status == 403
    assert b"This link is not valid any more" in told.body


@pytest.mark.parametrize("query", [b"token=%ff%fe", b"token=%zz", b"token", b"token=a&token=b", b"token[]=x"])
def test_a_token_that_is_no_text_is_no_error(office: Office, query: bytes) -> None:
    assert Client(office).get(query=query.decode("latin-1")).status in (303, 403)


def test_a_session_ends_after_8_hours_and_after_signing_out_only_that_one(monkeypatch: pytest.MonkeyPatch) -> None:
    office = Office(Endpoint(lambda: None, "/f"))
    now = 1_800_000_000.0
    monkeypatch.setattr(webhooks.dashboard.access.time, "time", lambda: now)
    owner, another = office.owner(), office.owner()
    assert (owner.get().status, SESSION_LASTS) == (200, 8 * 3600)
    assert another.post("/sign-out").headers["location"] == PAGE
    assert (owner.get().status, another.get().status) == (200, 403)
    now += SESSION_LASTS - 1
    assert owner.get().status == 200
    now += 1
    assert owner.get().status == 403


def test_signing_out_is_a_form_of_the_own_page(office: Office) -> None:
    owner = office.owner()
    assert owner.get("/sign-out").status in (404, 405)
    assert owner.post("/sign-out", origin="https://evil.example").status == 403
    assert owner.get().status == 200
