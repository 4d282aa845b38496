"""Decide who is the owner, and close all pages to everybody else.

The owner opens the link that the console printed, or signs in with Hugging Face on a Space. Either begins a session.
The server keeps the session; the browser keeps only its id, in a cookie for these pages.
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
SESSION_SECONDS = 8 * 60 * 60
SIGN_IN_SECONDS = 10 * 60
PROVIDER_TIMEOUT_SECONDS = 20.0
ROLES = ("admin", "write")  # of an owner in the organization that the Space belongs to

HEADERS = {
    # Scripts, styles, fonts, pictures and forms come from this server only. The Hub shows a Space in its own page.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'self' https://huggingface.co"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # with "no-referrer" browsers send `Origin: null` with each form
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Vary": "Cookie",
}


def is_from_own_page(headers: Headers, own_hosts: Iterable[str]) -> bool:
    """Return whether a request comes from a page of this server, and not from a page of another origin.

    Gradio lets any page read its responses, cookies included, unless it is served from localhost. Browsers name the
    page in `Sec-Fetch-Site`, older ones only in `Origin`; no page can forge either. `X-Forwarded-Host` counts for
    nothing here: a page can send that itself.
    """
    if headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
        return False
    origin = headers.get("origin")
    host = (origin or "").partition("://")[2]  # empty for the origin "null"
    return origin is None or (host != "" and host in (headers.get("host"), *own_hosts))


def is_followed_link(method: str, headers: Headers) -> bool:
    """Return whether a request only opens a page in a tab or window, where no other page can read it."""
    is_navigation = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    return method == "GET" and is_navigation and "origin" not in headers


def is_owner(profile: Mapping[str, Any], author: str | None) -> bool:
    """Return whether a profile is the Space's author, or has one of `ROLES` in the organization that is."""
    orgs = [org for org in profile.get("orgs") or () if org.get("roleInOrg") in ROLES]
    return bool(author) and author in [account.get("preferred_username") for account in (profile, *orgs)]


def base_of(request: Request) -> str:
    """Return the path of the owner's pages, for the browser that sent this request."""
    return root_of(request.scope) + PAGE


@dataclass(frozen=True)
class Session:
    """An owner's session. One that began with the link has no name and no token for the Hub."""

    until: float  # seconds since 1970
    name: str | None = None
    hub_token: str | None = field(default=None, repr=False)


class SignInError(Exception):
    """The visitor is not signed in; the text says why."""


class Access:
    """Recognize the owner's requests.

    Args:
        settings: the owner's token, if one is set, and the Space's author.
        public_url: returns the address under which the Hub and most readers reach this server.
    """

    def __init__(self, settings: Settings, public_url: Callable[[], str]) -> None:
        given = settings.webhooks_admin_token
        self.token = given.get_secret_value() if given else secrets.token_urlsafe(24)
        self._settings = settings
        self._public_url = public_url
        self._sessions: dict[str, Session] = {}  # by the id in the cookie
        self._signer = URLSafeTimedSerializer(secrets.token_urlsafe())

    def link(self, base_url: str) -> str:
        """Return the owner's link for the console. It does not repeat a token that the owner has set."""
        token = "<WEBHOOKS_ADMIN_TOKEN>" if self._settings.webhooks_admin_token else self.token
        return f"{base_url}{PAGE}?token={token}"

    def is_allowed(self, request: Request) -> bool:
        """Return whether a request may be answered: not if a page of another origin could use the response."""
        own_hosts = (*self._settings.space_hosts, urlsplit(self._public_url()).netloc)
        return is_from_own_page(request.headers, own_hosts) or is_followed_link(request.method, request.headers)

    def session(self, request: Request) -> Session | None:
        """Return the owner's session that a request belongs to."""
        session = self._sessions.get(request.cookies.get(_cookie_name(request), ""))
        return session if session and session.until > time.time() else None

    def follow_link(self, request: Request) -> Response:
        """Begin a session, and redirect to the page without the token in its address."""
        here = base_of(request)
        if not hmac.compare_digest(request.query_params["token"].encode(), self.token.encode()):
            return RedirectResponse(f"{here}?notice=token", 303)
        response: Response = RedirectResponse(here, 303)
        if request.headers.get("sec-fetch-site") == "cross-site":
            # The link was on a page of another site, such as the Hub's page with this Space's log. A redirect counts
            # as cross-site, too, so the browser would not send the new cookie.
            response = Response(headers={"Refresh": f"0; url={here}"})
        self.begin(request, response)
        return response

    def begin(self, request: Request, response: Response, session: Session | None = None) -> None:
        """Begin an owner's session, by default the link's, whose cookie is `SameSite=Strict`."""
        now = time.time()
        self._sessions = {id: open for id, open in self._sessions.items() if open.until > now}
        id = secrets.token_urlsafe(24)
        self._sessions[id] = session or Session(now + SESSION_SECONDS)
        self._set_cookie(request, response, _cookie_name(request), id, samesite="lax" if session else "strict")

    def sign_out(self, request: Request) -> None:
        self._sessions.pop(request.cookies.get(_cookie_name(request), ""), None)

    def hub_token(self, request: Request) -> str | None:
        """Return the token for the Hub: where people sign in, the one of the session, else `HF_TOKEN`."""
        session, token = self.session(request), self._settings.hf_token
        if session and session.hub_token:
            return session.hub_token
        return token.get_secret_value() if token and not self._settings.has_oauth else None

    # Sign in with Hugging Face (https://huggingface.co/docs/hub/spaces-oauth), by the Hub's OpenID provider.
    # Gradio has a sign-in of its own; its session opens nothing here.

    async def begin_sign_in(self, request: Request) -> Response:
        """Redirect to the Hub, with the state of this sign-in in a signed cookie.

        Raises:
            SignInError: the Hub cannot be reached, or nobody can sign in here.
        """
        # The cookie belongs to the host that the browser used, so the Hub has to redirect to that host.
        hosts, here = self._settings.space_hosts, request.headers.get("host", "")
        host = here if here in hosts or not hosts else hosts[0]
        back = f"https://{host}{root_of(request.scope)}{SIGN_IN_CALLBACK}"
        request.scope["session"] = {}  # where Authlib keeps the state
        redirect: Response = await self._ask(lambda hub: hub.authorize_redirect(request, back))
        cookie, value = _cookie_name(request) + "_in", self._signer.dumps(request.session)
        self._set_cookie(request, redirect, cookie, value, samesite="lax", max_age=SIGN_IN_SECONDS)
        return redirect

    async def end_sign_in(self, request: Request) -> Response:
        """Begin the session of the owner who comes back from the Hub.

        Raises:
            SignInError: this is not the owner, or the Hub's response is malformed.
        """
        if "error" in request.query_params:
            raise SignInError("You have not signed in.")
        try:
            state = self._signer.loads(request.cookies.get(_cookie_name(request) + "_in", ""), SIGN_IN_SECONDS)
        except BadData:
            raise SignInError("This sign-in took too long, or began in another browser. Sign in again.") from None
        request.scope["session"] = state
        author = self._settings.space_author_name

        async def read_profile(hub: Any) -> tuple[Session, bool]:
            answer = await hub.authorize_access_token(request)
            profile, until = answer["userinfo"], min(answer["expires_at"], time.time() + SESSION_SECONDS)
            session = Session(until, str(profile["preferred_username"]), answer["access_token"])
            return session, is_owner(profile, author)

        session, is_allowed = await self._ask(read_profile)
        if not is_allowed:
            hint = "Where an organization owns the Space, sign in again and grant access to it."
            raise SignInError(f"You are signed in as {session.name}. Only {author} sees what arrived. {hint}")
        response = RedirectResponse(base_of(request), 303)
        self.begin(request, response, session)
        return response

    async def _ask(self, question: Callable[[Any], Awaitable[Any]]) -> Any:
        if not self._settings.has_oauth:
            raise SignInError
        try:
            return await question(self._provider)
        except Exception as error:  # the network, a malformed response, a state or signature that does not fit
            reason = f"Signing in with Hugging Face has failed ({type(error).__name__}). Try again."
            raise SignInError(reason) from None

    @cached_property
    def _provider(self) -> Any:
        from authlib.integrations.starlette_client import OAuth  # type: ignore[import-untyped]

        settings = self._settings
        assert settings.oauth_client_secret
        return OAuth().register(
            name="huggingface",
            client_id=settings.oauth_client_id,
            client_secret=settings.oauth_client_secret.get_secret_value(),
            client_kwargs={"scope": settings.oauth_scopes, "timeout": PROVIDER_TIMEOUT_SECONDS},
            server_metadata_url=f"{settings.openid_provider_url}/.well-known/openid-configuration",
        )

    def _set_cookie(self, request: Request, response: Response, name: str, value: str, **options: Any) -> None:
        public, host = urlsplit(self._public_url()), request.headers.get("host")
        is_over_tls = "https" in (request.url.scheme, request.headers.get("x-forwarded-proto"))
        secure = is_over_tls or self._settings.is_on_space or (public.scheme, public.netloc) == ("https", host)
        response.set_cookie(name, value, path=base_of(request), httponly=True, secure=secure, **options)


def _cookie_name(request: Request) -> str:
    """Name the cookie after host and port: all servers of one machine share its cookies."""
    return "webhooks_" + re.sub(r"\W", "_", request.headers.get("host", ""), flags=re.ASCII)


def guard(access: Access, sign_in_page: Callable[[Request], Awaitable[Response]]) -> Middleware:
    """Return the middleware that shows visitors only the sign-in page and the static files.

    It closes every route behind it, also one that is added later.
    """

    async def dispatch(request: Request, call_next: RequestResponseEndpoint) -> Response:
        path, method = path_of(request.scope), request.method
        is_file = path.startswith(f"{STATIC}/") and method in ("GET", "HEAD")
        is_sign_in = path in (SIGN_IN, SIGN_IN_CALLBACK) and method == "GET"
        if not (is_file or access.is_allowed(request)):
            response: Response = PlainTextResponse("This request comes from a page of another origin.", 403)
        elif path.rstrip("/") == PAGE and method == "GET" and "token" in request.query_params:
            response = access.follow_link(request)
        elif is_file or is_sign_in or access.session(request):
            response = await call_next(request)
        else:
            response = await sign_in_page(request)
        response.headers.update(HEADERS)
        response.headers["Cache-Control"] = "no-cache" if is_file else "no-store"
        return response

    return Middleware(BaseHTTPMiddleware, dispatch=dispatch)
