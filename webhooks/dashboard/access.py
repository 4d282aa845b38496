"""Who may see and do more than a visitor: the owner, how this server knows them, and the guard in front of the pages.

The owner opens the link that the console printed, or, on a Space, signs in with Hugging Face. Either begins a session,
which is kept here: the browser has its name only, in a cookie for these pages alone.
"""

from __future__ import annotations

import hmac
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from itsdangerous import BadData, URLSafeTimedSerializer
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response

from ..receiver import path_of, root_of
from ..settings import Settings

PAGE = "/deliveries"
SIGN_IN = f"{PAGE}/sign-in"
SIGN_IN_CALLBACK = f"{SIGN_IN}/callback"
STATIC = f"{PAGE}/static"
SESSION_LASTS = 8 * 60 * 60  # seconds
SIGN_IN_WITHIN = 10 * 60  # seconds
PROVIDER_WITHIN = 20.0  # seconds
MAY_WRITE = ("admin", "write")  # roles in an organization

HEADERS = {
    # No script, style, picture or form but our own; the Hub shows a Space inside its own page about it.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'self' https://huggingface.co"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # with "no-referrer" browsers would not say which page a form is from
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Vary": "Cookie",
}


def from_own_page(headers: Headers, own_hosts: Iterable[str]) -> bool:
    """Tell whether a request comes from a page of this server, and not from one of another origin.

    Gradio lets any page read its answers, cookies included, once it is not served from localhost. Browsers say which
    page a request comes from in `Sec-Fetch-Site`, older ones in `Origin` alone; no page can forge either.
    `X-Forwarded-Host` is not looked at: a page can send that itself.
    """
    if headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
        return False
    origin = headers.get("origin")
    host = (origin or "").partition("://")[2]  # empty for the origin "null"
    return origin is None or (host != "" and host in (headers.get("host"), *own_hosts))


def follows_a_link(method: str, headers: Headers) -> bool:
    """Tell whether a request only opens a page, in a tab or window of its own: no other page can read it there."""
    navigates = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    return method == "GET" and navigates and "origin" not in headers


def owns(profile: Mapping[str, Any], author: str | None) -> bool:
    """Tell whether a profile is the Space's author, or may write in the organization that is."""
    writes_in = [org for org in profile.get("orgs") or () if org.get("roleInOrg") in MAY_WRITE]
    return bool(author) and author in [account.get("preferred_username") for account in (profile, *writes_in)]


def base_of(request: Request) -> str:
    """Return where the owner's pages are, for a browser that sent this request."""
    return root_of(request.scope) + PAGE


@dataclass(frozen=True)
class Session:
    """An owner's session. Who came by the link has no name, and no token for the Hub."""

    until: float  # seconds since 1970
    name: str | None = None
    hub_token: str | None = field(default=None, repr=False)


class SignInError(Exception):
    """Somebody stays a visitor; the text is a sentence that says why."""


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
        self._signer = URLSafeTimedSerializer(secrets.token_urlsafe())

    def link(self, url: str) -> str:
        """Write the owner's link, as the console shows it. A token that the owner has set is not repeated."""
        token = "<WEBHOOKS_ADMIN_TOKEN>" if self._settings.webhooks_admin_token else self.token
        return f"{url}{PAGE}?token={token}"

    def lets_in(self, request: Request) -> bool:
        """Decide whether a request may have an answer at all: not if a page of another origin could use it."""
        own_hosts = (*self._settings.space_hosts, urlsplit(self._public_url()).netloc)
        return from_own_page(request.headers, own_hosts) or follows_a_link(request.method, request.headers)

    def session(self, request: Request) -> Session | None:
        """Return the owner's session that a request belongs to."""
        session = self._sessions.get(request.cookies.get(_cookie(request), ""))
        return session if session and session.until > time.time() else None

    def follow_link(self, request: Request) -> Response:
        """Begin a session, and go on to the page without the token in its address."""
        here = base_of(request)
        if not hmac.compare_digest(request.query_params["token"].encode(), self.token.encode()):
            return RedirectResponse(f"{here}?notice=link", 303)
        response: Response = RedirectResponse(here, 303)
        if request.headers.get("sec-fetch-site") == "cross-site":
            # The link was on a page of another site, such as the Hub's page of this Space's log. A redirect would
            # still count as coming from there, and the cookie would stay behind.
            response = Response(headers={"Refresh": f"0; url={here}"})
        self.begin(request, response)
        return response

    def begin(self, request: Request, response: Response, session: Session | None = None) -> None:
        """Begin an owner's session; by default that of the link, whose cookie follows no link of another site."""
        now = time.time()
        self._sessions = {id: open for id, open in self._sessions.items() if open.until > now}
        id = secrets.token_urlsafe(24)
        self._sessions[id] = session or Session(now + SESSION_LASTS)
        self._set_cookie(request, response, _cookie(request), id, samesite="lax" if session else "strict")

    def sign_out(self, request: Request) -> None:
        self._sessions.pop(request.cookies.get(_cookie(request), ""), None)

    def hub_token(self, request: Request) -> str | None:
        """Return the token to act on the Hub with: on a Space that of who is signed in, else `HF_TOKEN`."""
        session, token = self.session(request), self._settings.hf_token
        if session and session.hub_token:
            return session.hub_token
        return token.get_secret_value() if token and not self._settings.oauth else None

    # Signing in with Hugging Face (https://huggingface.co/docs/hub/spaces-oauth), by the Hub's OpenID provider.
    # Gradio has a sign-in of its own; its session opens nothing here.

    async def begin_sign_in(self, request: Request) -> Response:
        """Send somebody to the Hub, with what its answer will be held against in a signed cookie.

        Raises:
            SignInError: the Hub cannot be reached, or nobody can sign in here.
        """
        # Any address of the Space will do to come back to: the one that the browser knows, as it has the cookie.
        hosts, here = self._settings.space_hosts, request.headers.get("host", "")
        host = here if here in hosts or not hosts else hosts[0]
        back = f"https://{host}{root_of(request.scope)}{SIGN_IN_CALLBACK}"
        state: dict[str, Any] = {}
        redirect: Response = await self._ask(lambda hub: hub.authorize_redirect(_with(request, state), back))
        cookie, value = _cookie(request) + "_in", self._signer.dumps(state)
        self._set_cookie(request, redirect, cookie, value, samesite="lax", max_age=SIGN_IN_WITHIN)
        return redirect

    async def end_sign_in(self, request: Request) -> Response:
        """Begin the session of whoever comes back from the Hub.

        Raises:
            SignInError: that is not the owner.
        """
        if "error" in request.query_params:
            raise SignInError("You have not signed in.")
        try:
            state = self._signer.loads(request.cookies.get(_cookie(request) + "_in", ""), SIGN_IN_WITHIN)
        except BadData:
            raise SignInError("This sign-in took too long, or began in another browser. Begin it again.") from None
        answer = await self._ask(lambda hub: hub.authorize_access_token(_with(request, state)))
        profile, author = answer.get("userinfo") or {}, self._settings.space_author_name
        if not owns(profile, author):
            raise SignInError(
                f"You are signed in as {profile.get('preferred_username')}. What has arrived is shown to {author} "
                "only. If that is an organization in which you may write, sign in again and grant access to it."
            )
        until = min(answer.get("expires_at") or 0, time.time() + SESSION_LASTS)
        response = RedirectResponse(base_of(request), 303)
        self.begin(request, response, Session(until, profile["preferred_username"], answer["access_token"]))
        return response

    async def _ask(self, question: Callable[[Any], Awaitable[Any]]) -> Any:
        if not self._settings.oauth:
            raise SignInError
        try:
            return await question(self._provider)
        except Exception as error:  # the network, no JSON, a state or a signature that does not fit: no answer
            told = f"Signing in with Hugging Face has failed ({type(error).__name__}). Try again."
            raise SignInError(told) from None

    @cached_property
    def _provider(self) -> Any:
        from authlib.integrations.starlette_client import OAuth  # type: ignore[import-untyped]

        settings = self._settings
        assert settings.oauth_client_secret
        return OAuth().register(
            name="huggingface",
            client_id=settings.oauth_client_id,
            client_secret=settings.oauth_client_secret.get_secret_value(),
            client_kwargs={"scope": settings.oauth_scopes, "timeout": PROVIDER_WITHIN},
            server_metadata_url=f"{settings.openid_provider_url}/.well-known/openid-configuration",
        )

    def _set_cookie(self, request: Request, to: Response, cookie: str, value: str, **options: Any) -> None:
        public, host = urlsplit(self._public_url()), request.headers.get("host")
        over_tls = "https" in (request.url.scheme, request.headers.get("x-forwarded-proto"))
        secure = over_tls or self._settings.on_space or (public.scheme, public.netloc) == ("https", host)
        to.set_cookie(cookie, value, path=base_of(request), httponly=True, secure=secure, **options)


def _with(request: Request, state: dict[str, Any]) -> Request:
    return Request({**request.scope, "session": state})


def _cookie(request: Request) -> str:
    """Name the cookie after host and port: all servers of one machine share its cookies."""
    return "webhooks_" + re.sub(r"\W", "_", request.headers.get("host", ""), flags=re.ASCII)


def guard(access: Access, door: Callable[[Request], Awaitable[Response]]) -> Middleware:
    """Let the owner through, and everybody else to the sign-in and the static files only.

    Whatever route is added behind it is closed.

    Args:
        access: knows the owner.
        door: is what everybody else sees.
    """

    async def dispatch(request: Request, call_next: RequestResponseEndpoint) -> Response:
        path, method = path_of(request.scope), request.method
        is_file = path.startswith(f"{STATIC}/") and method in ("GET", "HEAD")
        is_sign_in = path in (SIGN_IN, SIGN_IN_CALLBACK) and method == "GET"
        if not (is_file or access.lets_in(request)):
            answer: Response = PlainTextResponse("This request comes from a page of another origin.", 403)
        elif path == PAGE and method == "GET" and "token" in request.query_params:
            answer = access.follow_link(request)
        elif is_file or is_sign_in or access.session(request):
            answer = await call_next(request)
        else:
            answer = await door(request)
        answer.headers.update(HEADERS)
        answer.headers["Cache-Control"] = "no-cache" if is_file else "no-store"  # kept, and asked for again
        return answer

    return Middleware(BaseHTTPMiddleware, dispatch=dispatch)
