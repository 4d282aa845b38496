"""Every route with every method, as each visitor who is not the owner."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.routing import Mount, Route
from support.asgi import Exchange
from support.dashboard import Client, PagesHarness
from support.engines import rows, wait_until
from support.payloads import load

import webhooks.dashboard.access
from webhooks import Delivery
from webhooks.dashboard.access import PAGE
from webhooks.delivery import StartedJob
from webhooks.endpoints import Endpoint
from webhooks.payload import parse_payload

MARK = "zq-"  # in everything that only the owner may see, and in nothing else
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
SECRETS = {
    "WEBHOOK_SECRET": "zq-webhook-secret",
    "HF_TOKEN": "hf_zq-token",
    "WEBHOOKS_ADMIN_TOKEN": "zq-admin-token-it-is",
}
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "QUERY")
FORM = {"endpoint": "/webhooks/zq-handler", "kind": "commit", "body": "{}"}


@pytest.fixture(params=["laptop", "space"], scope="module")
def pages(request: pytest.FixtureRequest) -> Iterator[PagesHarness]:
    """A dashboard with a delivery that has a mark in all that is shown of it."""
    space = OAUTH if request.param == "space" else {}
    pages = PagesHarness(Endpoint(lambda: None, "/zq-handler", watched="dataset:me/zq-data"), **SECRETS, **space)
    payload = load("discussion.comment-create")
    payload["repo"]["name"], payload["discussion"]["title"] = "zq-owner/zq-repository", "zq-title"
    body = json.dumps(payload).encode()
    delivery = Delivery("/webhooks/zq-handler", parse_payload(body), headers=((b"zq-name", b"zq-value"),), body=body)
    job = StartedJob("zq-job", "zq-owner", "https://huggingface.co/jobs/zq", "cpu-basic", "RUNNING")
    pages.put(
        delivery, "failed", b'{"error": "zq-answer"}', error="    | File zq-file\n    | ValueError: zq", jobs=[job]
    )
    pages.write(lambda: pages.log.set_mark("/webhooks/zq-handler", "dataset/me/zq-data", "zq-commit"))
    pages.run()
    yield pages
    pages.close()


def recorded(pages: PagesHarness) -> list[tuple[Any, ...]]:
    return rows(pages.log.path.parent, "SELECT id, status, attempts FROM deliveries ORDER BY number")


def everything(pages: PagesHarness) -> Iterator[tuple[str, str]]:
    """Every method on every address, with and without a slash, and on some addresses that do not exist."""
    (id, _, _), *_ = recorded(pages)
    addresses = {"", "/", "/no-such-page", "/no/such/page", f"/{id}/", "/%2e%2e", "//", "/static", "/static/"}
    for route in pages.app.routes:
        assert isinstance(route, (Mount, Route))
        path = route.path.replace("{id}", id).removeprefix(PAGE)
        addresses |= {path, f"{path}/", path.upper()}
    for address in sorted(addresses - {"/sign-out"}):  # the owner's session is needed until the end
        yield from ((method, address) for method in METHODS)


def use_everything(visitor: Client) -> list[tuple[str, str, Exchange]]:
    answers = []
    for method, address in everything(visitor.pages):
        query = f"of={recorded(visitor.pages)[0][0]}&until=7fffffffffffffff"
        answer = visitor.post(address, FORM, query) if method == "POST" else visitor.ask(method, address, query)
        answers.append((method, address, answer))
    return answers


def test_owner_sees_and_does_everything(pages: PagesHarness) -> None:
    """The attacks below are these calls, so they would find what is there to be found."""
    seen = b"".join(answer.body for _, _, answer in use_everything(pages.owner())).decode()
    for mark in ("zq-handler", "zq-owner/zq-repository", "zq-title", "zq-file", "zq-job", "zq-value", "zq-data"):
        assert mark in seen, mark
    for secret in (*SECRETS.values(), OAUTH["OAUTH_CLIENT_SECRET"]):
        assert secret not in seen
    assert len(recorded(pages)) > 2, "a replay, and a test event"


def strangers(pages: PagesHarness, monkeypatch: pytest.MonkeyPatch) -> dict[str, Client]:
    owner = pages.owner()
    name, _, id = owner.cookie.partition("=")
    signed_out = pages.owner()
    signed_out.post("/sign-out")
    with monkeypatch.context() as patched:
        patched.setattr(webhooks.dashboard.access.time, "time", lambda: 1.0)
        expired = pages.owner()
    frame = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate", "sec_fetch_dest": "iframe"}
    return {
        "no session": Client(pages),
        "an invented session": Client(pages, f"{name}={'A' * 32}"),
        "the owner's token as a session": Client(pages, f"{name}={pages.dashboard.access.token}"),
        "a session under another name": Client(pages, f"session={id}"),
        "the session of another server of this machine": Client(pages, owner.cookie, host="localhost:7861"),
        "an expired session": Client(pages, expired.cookie),
        "a session that was signed out": Client(pages, signed_out.cookie),
        "Gradio's own session": Client(pages, "session=eyJvYXV0aF9pbmZvIjogMX0=.x.y"),
        "a token in a header": Client(pages, authorization=f"Bearer {pages.dashboard.access.token}"),
        "another site": Client(pages, owner.cookie, origin="https://evil.example"),
        "a frame without an origin": Client(pages, owner.cookie, origin="null"),
        "another port": Client(pages, owner.cookie, origin=f"http://{pages.host}8", sec_fetch_site="same-site"),
        "a frame on another site": Client(pages, owner.cookie, **frame),
    }


def test_strangers_see_and_do_nothing(pages: PagesHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    wait_until(lambda: not {"queued", "running"} & {status for _, status, _ in recorded(pages)})
    before = recorded(pages)
    for who, stranger in strangers(pages, monkeypatch).items():
        for method, address, answer in use_everything(stranger):
            where = f"{who}: {method} {address}"
            assert MARK.encode() not in answer.body, where
            assert MARK not in str(answer.headers), where
            assert answer.status in (302, 307, 400, 403, 404, 405), where
            assert "set-cookie" not in answer.headers, where
        assert recorded(pages) == before, who


def test_route_that_is_added_later_is_closed() -> None:
    pages = PagesHarness(Endpoint(lambda: None, "/f"))
    called: list[object] = []
    pages.app.router.routes.insert(0, Route(f"{PAGE}/later", lambda request: called.append(request)))
    assert Client(pages).get("/later").status == 403
    assert called == []


def test_every_answer_forbids_foreign_content(pages: PagesHarness) -> None:
    for _, address, answer in [*use_everything(pages.owner()), *use_everything(Client(pages))]:
        policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
        assert policy["default-src"] == "'none'", address
        assert policy["script-src"] == policy["style-src"] == policy["form-action"] == "'self'", address
        assert policy["frame-ancestors"] == "'self' https://huggingface.co"
        assert "unsafe" not in str(policy)
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] in ("no-store", "no-cache")
        assert "access-control-allow-origin" not in answer.headers


def test_link_on_another_site_only_opens_a_tab(pages: PagesHarness) -> None:
    owner = pages.owner()
    tab = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate", "sec_fetch_dest": "document"}
    assert owner.get("", **tab).status == 200
    before = recorded(pages)
    assert owner.post(f"/{before[0][0]}/replay", **tab, origin="https://evil.example").status == 403
    assert owner.ask("POST", f"/{before[0][0]}/replay", **tab).status == 403
    assert recorded(pages) == before
