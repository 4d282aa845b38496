"""Who is the owner: the rules one by one, without a page."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.datastructures import Headers

from webhooks import SetupError, read_settings
from webhooks.dashboard.access import Access, follows_a_link, from_own_page, owns
from webhooks.settings import Settings

HOST = "me-hooks.hf.space"
ADMIN_TOKEN = "admin-token-of-the-owner"

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
        {**HERE, "origin": "http://[me-hooks.hf.space"},
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


TAB = {**HERE, "sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}


@pytest.mark.parametrize(
    ("method", "changed", "follows"),
    [
        ("GET", {}, True),
        ("POST", {}, False),
        ("HEAD", {}, False),
        ("GET", {"sec-fetch-dest": "iframe"}, False),
        ("GET", {"sec-fetch-dest": "script", "sec-fetch-mode": "no-cors"}, False),
        ("GET", {"sec-fetch-mode": "cors"}, False),
        ("GET", {"origin": "https://evil.example"}, False),
    ],
)
def test_a_link_that_is_followed_in_a_tab_is_told_apart(method: str, changed: dict[str, str], follows: bool) -> None:
    assert follows_a_link(method, Headers({**TAB, **changed})) is follows


# --- is who signed in the owner?


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


# --- the token of the link


def access(**environ: str) -> Access:
    return Access(read_settings(Settings, environ), lambda: "http://localhost:7860")


def test_the_link_has_the_token() -> None:
    door = access()
    assert door.link("http://localhost:7860") == f"http://localhost:7860/deliveries?token={door.token}"


def test_each_start_makes_another_token_that_nobody_guesses() -> None:
    tokens = {access().token for _ in range(100)}
    assert len(tokens) == 100
    assert min(map(len, tokens)) >= 32


def test_a_token_that_somebody_chose_is_not_printed() -> None:
    assert access(WEBHOOKS_ADMIN_TOKEN=ADMIN_TOKEN).link("") == "/deliveries?token=<WEBHOOKS_ADMIN_TOKEN>"


def test_a_token_that_could_be_guessed_is_refused_with_a_sentence_that_does_not_show_it() -> None:
    with pytest.raises(SetupError) as caught:
        access(WEBHOOKS_ADMIN_TOKEN="fifteen-letters")
    message = str(caught.value)
    assert message.startswith("WEBHOOKS_ADMIN_TOKEN is wrong: ")
    assert "at least 16 random characters" in message
    assert "fifteen" not in message
