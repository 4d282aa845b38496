"""Who may see and do more than a visitor: the owner, and how this server knows them.

The owner opens the link that the console printed, or, on a Space, signs in with Hugging Face. Either begins a session,
which is kept here: the browser has its name only, in a cookie for these pages alone.
"""

from __future__ import annotations

import hmac
import re
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response

from ..receiver import root_of
from ..settings import Settings

PAGE = "/deliveries"
SESSION_LASTS = 8 * 60 * 60  # seconds
SIGN_IN_WITHIN = 10 * 60  # seconds
MAX_SIGNING_IN = 10_000  # anybody may begin to
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
    host = origin.partition("://")[2]  # empty for the origin "null"
    return bool(host) and host in (headers.get("host"), *own_hosts)


def follows_a_link(method: str, headers: Headers) -> bool:
    """Tell whether a request only opens a page, in a tab or window of its own: no other page can read it there."""
    navigates = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    return method == "GET" and navigates and "origin" not in headers


def owns(profile: Mapping[str, Any], author: str | None) -> bool:
    """Tell whether a profile is the Space's author, or may write in the organization that is."""
    if not author:
        return False
    writes_in = [org for org in profile.get("orgs") or () if org.get("roleInOrg") in MAY_WRITE]
    return author in [account.get("preferred_username") for account in (profile, *writes_in)]


def base_of(request: Request) -> str:
    """Return where the owner's pages are, for a browser that sent this request."""
    return root_of(request.scope) + PAGE


@dataclass(frozen=True)
class Session:
    """An owner's session. Who came by the link has no name, and no token for the Hub."""

    until: float  # seconds since 1970
    name: str | None = None
    hub_token: str | None = field(default=None, repr=False)


class Access:
    """Knows the owner's requests from all others.

    Args:
        settings: the owner's token if one is set, and whose Space it is.
        public_url: gives the address under which the Hub, and most readers, reach this server.
    """

    def __init__(self, settings: Settings, public_url: Callable[[], str]) -> None:
        given = settings.webhooks_admin_token
        self.token = given.get_secret_value() if given else secrets.token_urlsafe(24)
        self._settings = settings
        self._public_url = public_url
        self._sessions: dict[str, Session] = {}  # by the name in the cookie
        self._signing_in: dict[str, tuple[float, dict[str, Any]]] = {}  # until when, and what Authlib keeps of it

    def link(self, url: str) -> str:
        """Write the owner's link, as the console shows it. A token that the owner has set is not repeated."""
        token = "<WEBHOOKS_ADMIN_TOKEN>" if self._settings.webhooks_admin_token else self.token
        return f"{url}{PAGE}?token={token}"

    def is_token(self, token: str) -> bool:
        return hmac.compare_digest(token.encode(), self.token.encode())

    def lets_in(self, request: Request) -> bool:
        """Decide whether a request may have an answer at all: not if a page of another origin could use it."""
        own_hosts = (*self._settings.space_hosts, urlsplit(self._public_url()).netloc)
        return from_own_page(request.headers, own_hosts) or follows_a_link(request.method, request.headers)

    def session(self, request: Request) -> Session | None:
        """Return the owner's session that a request belongs to."""
        session = self._sessions.get(request.cookies.get(_cookie(request), ""))
        return session if session and session.until > time.time() else None

    def begin(self, request: Request, response: Response, session: Session | None = None) -> None:
        """Begin an owner's session; by default that of the link, whose cookie follows no link of another site."""
        now = time.time()
        self._sessions = {id: open for id, open in self._sessions.items() if open.until > now}
        id = secrets.token_urlsafe(24)
        self._sessions[id] = session or Session(now + SESSION_LASTS)
        self._set_cookie(request, response, _cookie(request), id, "lax" if session else "strict")

    def sign_out(self, request: Request) -> None:
        self._sessions.pop(request.cookies.get(_cookie(request), ""), None)

    def hub_token(self, request: Request) -> str | None:
        """Return the token to act on the Hub with: on a Space that of who is signed in, else `HF_TOKEN`."""
        session = self.session(request)
        if session and session.hub_token:
            return session.hub_token
        token = self._settings.hf_token
        return token.get_secret_value() if token and not self._settings.oauth else None

    # While somebody signs in

    def begin_sign_in(self, request: Request, response: Response, state: dict[str, Any]) -> None:
        """Keep what the answer of the Hub will be held against."""
        now = time.time()
        waiting = {id: entry for id, entry in self._signing_in.items() if entry[0] > now}
        while len(waiting) >= MAX_SIGNING_IN:
            del waiting[next(iter(waiting))]
        id = secrets.token_urlsafe(24)
        waiting[id] = (now + SIGN_IN_WITHIN, state)
        self._signing_in = waiting
        self._set_cookie(request, response, f"{_cookie(request)}_in", id, "lax", max_age=SIGN_IN_WITHIN)

    def end_sign_in(self, request: Request) -> dict[str, Any]:
        """Return what was kept, once."""
        until, state = self._signing_in.pop(request.cookies.get(f"{_cookie(request)}_in", ""), (0.0, {}))
        return state if until > time.time() else {}

    def _set_cookie(
        self,
        request: Request,
        response: Response,
        name: str,
        value: str,
        same_site: Literal["lax", "strict"],
        max_age: int | None = None,
    ) -> None:
        public = urlsplit(self._public_url())
        is_public = public.scheme == "https" and request.headers.get("host") == public.netloc
        over_tls = "https" in (request.url.scheme, request.headers.get("x-forwarded-proto"))
        secure = over_tls or is_public or self._settings.on_space
        path = base_of(request)
        response.set_cookie(name, value, max_age, path=path, httponly=True, samesite=same_site, secure=secure)


def _cookie(request: Request) -> str:
    """Name the cookie after host and port: all servers of one machine share its cookies."""
    return "webhooks_" + re.sub(r"\W", "_", request.headers.get("host", ""), flags=re.ASCII)
