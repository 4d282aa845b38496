"""Who may see and do more than a visitor: the owner, and how this server knows them.

The owner opens the link that the console printed, or, on a Space, signs in with Hugging Face. The decisions are
functions over headers and what was signed in; `Access` keeps the sessions that the link begins.
"""

from __future__ import annotations

import hmac
import json
import re
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..settings import Settings

PAGE = "/deliveries"
SESSION = 8 * 60 * 60  # seconds
MAX_ANSWER = 2800  # bytes that are left of a cookie once it is encoded and signed
MAY_WRITE = ("admin", "write")  # roles in an organization


def from_own_page(headers: Headers, own_hosts: Iterable[str]) -> bool:
    """Tell whether a request comes from a page of this server, and not from one of another origin.

    Gradio lets any page read its answers, cookies included, once it is not served from localhost. Browsers say which
    page a request comes from in `Sec-Fetch-Site`, older ones in `Origin` alone; no page can forge either.
    `X-Forwarded-Host` is not looked at: a page can send that itself.
    """
    if headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
        return False
    origin = headers.get("origin")
    if origin is None:
        return True
    host = urlsplit(origin).netloc  # empty for the origin "null"
    return bool(host) and host in (headers.get("host"), *own_hosts)


def signed_in(session: Mapping[str, Any], now: float) -> Mapping[str, Any] | None:
    """Return the profile in Gradio's signed session, unless it is over: after 8 hours, or earlier if the Hub says so.

    It holds the answer of the Hub's OpenID provider (https://huggingface.co/docs/hub/oauth): the profile, with `iat`
    for when it was issued, and the access token with `expires_at`, both in seconds since 1970.
    """
    answer = session.get("oauth_info") or {}
    profile: Mapping[str, Any] = answer.get("userinfo") or {}
    ends_at = min(answer.get("expires_at") or 0, (profile.get("iat") or 0) + SESSION)
    return profile if now < ends_at else None


def owns(profile: Mapping[str, Any], author: str | None) -> bool:
    """Tell whether a profile is the Space's author, or may write in the organization that is."""
    if not author:
        return False
    writes_in = [org for org in profile.get("orgs") or () if org.get("roleInOrg") in MAY_WRITE]
    return author in [account.get("preferred_username") for account in (profile, *writes_in)]


def slim(answer: Mapping[str, Any], author: str | None) -> dict[str, Any]:
    """Take out of the provider's answer what nobody reads, so that it fits into a cookie.

    Gradio keeps all of it in one. From four organizations on that is over the 4096 bytes which browsers take: they
    drop it, and whoever signed in is not, without a word (gradio 6.31).
    """
    lighter = {name: value for name, value in answer.items() if name != "id_token"}
    if len(json.dumps(lighter)) > MAX_ANSWER:
        profile = lighter.get("userinfo") or {}
        orgs = [org for org in profile.get("orgs") or () if org.get("preferred_username") == author]
        lighter["userinfo"] = {**profile, "orgs": orgs}
    return lighter


class SlimSession:
    """An ASGI middleware that does this in the answer which signs somebody in.

    It belongs inside the one that writes the cookie.
    """

    def __init__(self, app: ASGIApp, author: str | None) -> None:
        self._app = app
        self._author = author

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_slim(message: Message) -> None:
            if answer := scope.get("session", {}).get("oauth_info"):
                scope["session"]["oauth_info"] = slim(answer, self._author)
            await send(message)

        signs_in = scope["type"] == "http" and scope["path"].endswith("/login/callback")
        await self._app(scope, receive, send_slim if signs_in else send)


class Unframed:
    """An ASGI middleware: no page of another site shows the owner's page inside itself, for a click to land on it.

    The Hub does, in its own page about a Space.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_unframed(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).append("Content-Security-Policy", _FRAMES)
            await send(message)

        shows = False
        if scope["type"] == "http" and scope["method"] == "GET":
            # Gradio shows it at any address that names it, too: /?page=deliveries (6.31).
            shows = PAGE[1:] in (scope["path"].strip("/"), Request(scope).query_params.get("page"))
        await self._app(scope, receive, send_unframed if shows else send)


_FRAMES = "frame-ancestors 'self' https://huggingface.co"


class Access:
    """Knows the owner's requests from all others.

    Args:
        settings: the owner's token if one is set, and whose Space it is.
        own_hosts: gives the names, ports included, under which this server's pages are opened.
    """

    def __init__(self, settings: Settings, own_hosts: Callable[[], Iterable[str]]) -> None:
        given = settings.webhooks_admin_token
        self.token = given.get_secret_value() if given else secrets.token_urlsafe(24)
        self._settings = settings
        self._own_hosts = own_hosts
        self._sessions: dict[str, float] = {}  # by id, until when

    def link(self, url: str) -> str:
        """Write the owner's link, as the console shows it. A token that the owner has set is not repeated."""
        token = "<WEBHOOKS_ADMIN_TOKEN>" if self._settings.webhooks_admin_token else self.token
        return f"{url}{PAGE}?token={token}"

    def is_owner(self, request: Request) -> bool:
        """Decide, for every function behind the pages, whether it does anything at all."""
        if not self._is_from_own_page(request):
            return False
        if self._sessions.get(self._session_id(request), 0) > time.time():
            return True
        profile = self.profile(request)
        return profile is not None and owns(profile, self._settings.space_author_name)

    def profile(self, request: Request) -> Mapping[str, Any] | None:
        """Return the profile of whoever is signed in with Hugging Face, owner or not. No other page learns it."""
        if not (self._settings.oauth and self._is_from_own_page(request)):
            return None
        return signed_in(request.scope.get("session") or {}, time.time())

    def hub_token(self, request: Request) -> str | None:
        """Return the token to act on the Hub with: on a Space that of who is signed in, else `HF_TOKEN`."""
        if self.profile(request) is not None:
            return str(request.session["oauth_info"]["access_token"])
        token = self._settings.hf_token
        return token.get_secret_value() if token and not self._settings.oauth else None

    def route(self) -> Route:
        """Make the route of the console's link, to stand before the page's own."""
        return _LinkRoute(PAGE, self._follow_link)

    def middleware(self) -> list[Middleware]:
        """Make what keeps the page out of others, and the session of who signs in small enough."""
        slim = [Middleware(SlimSession, author=self._settings.space_author_name)] if self._settings.oauth else []
        return [Middleware(Unframed), *slim]

    async def _follow_link(self, request: Request) -> Response:
        """Begin a session, and go on to the page without the token in its address."""
        token = request.query_params["token"]
        here = request.scope["root_path"] + PAGE
        if not hmac.compare_digest(token.encode(), self.token.encode()):
            return RedirectResponse(f"{here}?notice=link", 303)
        now = time.time()
        self._sessions = {id: until for id, until in self._sessions.items() if until > now}
        id = secrets.token_urlsafe(24)
        self._sessions[id] = now + SESSION
        response = RedirectResponse(here, 303)
        https = "https" in (request.url.scheme, request.headers.get("x-forwarded-proto"))
        response.set_cookie(_cookie(request), id, httponly=True, samesite="strict", secure=https)
        return response

    def sign_out(self, request: Request) -> None:
        """End a session that the link began."""
        self._sessions.pop(self._session_id(request), None)

    def _is_from_own_page(self, request: Request) -> bool:
        return from_own_page(request.headers, self._own_hosts())

    def _session_id(self, request: Request) -> str:
        return request.cookies.get(_cookie(request), "")


def _cookie(request: Request) -> str:
    """Name the cookie after host and port: all servers of one machine share its cookies."""
    return "webhooks_" + re.sub(r"\W", "_", request.headers.get("host", ""), flags=re.ASCII)


class _LinkRoute(Route):
    """Matches the page's address only if it carries a token; without one Gradio's own route does."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, child_scope = super().matches(scope)
        if match is not Match.NONE and "token" not in Request(scope).query_params:
            return Match.NONE, {}
        return match, child_scope
