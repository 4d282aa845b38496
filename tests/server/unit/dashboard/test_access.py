"""The rules of who is the owner, one by one."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.datastructures import Headers
from support.dashboard import Client, PagesHarness

import webhooks.dashboard.access
from webhooks import SetupError
from webhooks.dashboard.access import PAGE, SESSION_SECONDS, Access, is_from_own_page, is_owner
from webhooks.endpoints import Endpoint
from webhooks.settings import Settings, load_settings

ADMIN_TOKEN = "admin-token-of-the-owner"
OWN_HOSTS = ["me-hooks.hf.space", "hooks.example.com"]
HERE = {"host": "me-hooks.hf.space"}
TAB = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}


OWN_PAGES: list[dict[str, str]] = [
    {**HERE, "origin": "https://me-hooks.hf.space", "sec-fetch-site": "same-origin"},
    {**HERE, "sec-fetch-site": "none"},
    HERE,
    {"host": "10.0.0.7:7860", "origin": "https://hooks.example.com"},
    {"host": "localhost:7860", "origin": "http://localhost:7860"},
]
OTHER_PAGES = [
    {**HERE, "origin": "https://evil.example", "x-forwarded-host": "evil.example", "forwarded": "host=evil.example"},
    {**HERE, "origin": "https://me-hooks.hf.space.evil.example"},
    {**HERE, "origin": "https://me-hooks.hf.space@evil.example"},
    {**HERE, "origin": "null", "sec-fetch-site": "same-origin"},
    {**HERE, "sec-fetch-site": "cross-site"},
    {**HERE, "sec-fetch-site": "same-site"},
    {"host": "", "origin": "null"},
    {"host": "localhost:7860", "origin": "http://localhost:8888"},
    {"host": "localhost:7860", "origin": "http://127.0.0.1:7860"},
]


@pytest.mark.parametrize("headers", [*OWN_PAGES, *OTHER_PAGES], ids=str)
def test_page_of_another_origin_is_recognized(headers: dict[str, str]) -> None:
    assert is_from_own_page(Headers(headers), OWN_HOSTS) is (headers in OWN_PAGES)


def member(role: str | None, org: str = "acme") -> dict[str, Any]:
    return {"preferred_username": "julien", "orgs": [{"preferred_username": org, "roleInOrg": role}]}


@pytest.mark.parametrize("profile", [{"preferred_username": "acme"}, member("admin"), member("write")])
def test_author_and_writing_members_own_the_space(profile: dict[str, Any]) -> None:
    assert is_owner(profile, "acme")


@pytest.mark.parametrize(
    "profile",
    [
        {},
        {"name": "acme", "sub": "acme", "nickname": "acme", "profile": "https://huggingface.co/acme"},
        {"preferred_username": "julien", "orgs": [{"preferred_username": "acme"}]},
        {"preferred_username": "julien", "orgs": [{"name": "acme", "roleInOrg": "admin"}]},
        member("contributor"),
        member("read"),
        member("admin", org="another"),
    ],
)
def test_every_other_profile_does_not(profile: dict[str, Any]) -> None:
    assert not is_owner(profile, "acme")


# The token and its link


def access(**environ: str) -> Access:
    return Access(load_settings(Settings, environ), lambda: "http://localhost:7860")


def test_link_has_the_token_unless_the_owner_chose_it() -> None:
    random = access()
    assert random.link("http://localhost:7860") == f"http://localhost:7860/deliveries?token={random.token}"
    assert access(WEBHOOKS_ADMIN_TOKEN=ADMIN_TOKEN).link("") == "/deliveries?token=<WEBHOOKS_ADMIN_TOKEN>"


def test_short_token_is_refused_and_not_shown() -> None:
    with pytest.raises(SetupError, match=r"WEBHOOKS_ADMIN_TOKEN is wrong: .*at least 16 random") as caught:
        access(WEBHOOKS_ADMIN_TOKEN="fifteen-letters")
    assert "fifteen" not in str(caught.value)


def test_link_begins_a_session_and_hides_the_token(pages: PagesHarness) -> None:
    answer = Client(pages).get("", {"token": pages.dashboard.access.token})
    assert (answer.status, answer.headers["location"]) == (303, PAGE)
    attributes = {part.strip().lower() for part in answer.headers["set-cookie"].split(";")[1:]}
    assert attributes == {"httponly", f"path={PAGE}", "samesite=strict"}
    assert Client(pages).with_cookie(answer).get().status == 200


def test_link_works_on_a_page_of_another_site(pages: PagesHarness) -> None:
    headers = {name.replace("-", "_"): value for name, value in TAB.items()}
    answer = Client(pages).get("", {"token": pages.dashboard.access.token}, **headers)
    assert (answer.status, answer.headers["refresh"]) == (200, f"0; url={PAGE}")
    assert Client(pages).with_cookie(answer).get().status == 200


def test_cookie_is_secure_over_https(pages: PagesHarness) -> None:
    link = {"token": pages.dashboard.access.token}
    assert "secure" in Client(pages).get(query=link, x_forwarded_proto="https").headers["set-cookie"].lower()


@pytest.mark.parametrize("wrong", ["token=", "token=x", "token=%ff%fe"])
def test_wrong_token_begins_no_session_and_says_so(pages: PagesHarness, wrong: str) -> None:
    answer = Client(pages).get("", wrong)
    assert (answer.status, "set-cookie" in answer.headers) == (303, False)
    notice = Client(pages).get("", answer.headers["location"].partition("?")[2])
    assert b"This token is not valid." in notice.body


def test_session_ends_after_8_hours_or_by_signing_out(monkeypatch: pytest.MonkeyPatch) -> None:
    pages = PagesHarness(Endpoint(lambda: None, "/f"))
    now = 1_800_000_000.0
    monkeypatch.setattr(webhooks.dashboard.access.time, "time", lambda: now)
    owner, another = pages.owner(), pages.owner()
    assert (owner.get().status, SESSION_SECONDS) == (200, 8 * 3600)
    assert another.post("/sign-out", origin="https://evil.example").status == 403
    assert another.post("/sign-out").headers["location"] == PAGE
    assert (owner.get().status, another.get().status) == (200, 403)
    now += SESSION_SECONDS - 1
    assert owner.get().status == 200
    now += 1
    assert owner.get().status == 403
