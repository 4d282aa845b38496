"""What stands in front of all of the owner's pages: nothing of them gets to anybody else."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..receiver import path_of
from .access import PAGE, Access, base_of

SIGN_IN = f"{PAGE}/sign-in"
SIGN_IN_CALLBACK = f"{SIGN_IN}/callback"
STATIC = f"{PAGE}/static"

_HEADERS = {
    # No script, style, picture or form but our own; the Hub shows a Space inside its own page about it.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'self' https://huggingface.co"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # with "no-referrer" browsers would not say which page a form is from
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Vary": "Cookie",
}


class Guard:
    """An ASGI middleware that lets the owner through, and everybody else to the sign-in and the static files only.

    Whatever route is added behind it is closed.

    Args:
        access: knows the owner.
        door: is what everybody else sees.
    """

    def __init__(self, app: ASGIApp, access: Access, door: Callable[[Request], Awaitable[Response]]) -> None:
        self._app = app
        self._access = access
        self._door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # there is no other kind of route
            return

        request = Request(scope, receive)
        path = path_of(scope)
        is_file = path.startswith(f"{STATIC}/") and request.method in ("GET", "HEAD")

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(_HEADERS)
                if is_file:
                    headers["Cache-Control"] = "no-cache"  # kept, and asked for again
            await send(message)

        answer = None if is_file else await self._answer(request, path)
        await (answer or self._app)(scope, receive, send_guarded)

    async def _answer(self, request: Request, path: str) -> Response | None:
        """Answer a request that must not go on."""
        if not self._access.lets_in(request):
            return PlainTextResponse("This request comes from a page of another origin.", 403)
        if path == PAGE and request.method == "GET" and "token" in request.query_params:
            return self._follow_link(request)
        is_sign_in = path in (SIGN_IN, SIGN_IN_CALLBACK) and request.method == "GET"
        if is_sign_in or self._access.session(request):
            return None
        return await self._door(request)

    def _follow_link(self, request: Request) -> Response:
        """Begin a session, and go on to the page without the token in its address."""
        here = base_of(request)
        if not self._access.is_token(request.query_params["token"]):
            return RedirectResponse(f"{here}?notice=link", 303)
        response: Response = RedirectResponse(here, 303)
        if request.headers.get("sec-fetch-site") == "cross-site":
            # The link was on a page of another site, such as the Hub's page of this Space's log. A redirect would
            # still count as coming from there, and the cookie would stay behind.
            response = Response(headers={"Refresh": f"0; url={here}"})
        self._access.begin(request, response)
        return response
