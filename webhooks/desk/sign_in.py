"""Signing in with Hugging Face (https://huggingface.co/docs/hub/spaces-oauth), by the Hub's OpenID provider.

Gradio has a sign-in of its own; its session opens nothing here.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

from authlib.integrations.starlette_client import OAuth  # type: ignore[import-untyped]
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from ..receiver import root_of
from ..settings import Settings
from .access import SESSION_LASTS, Access, Session, base_of, owns
from .guard import SIGN_IN_CALLBACK

PROVIDER_WITHIN = 20.0  # seconds


class SignIn:
    """The way to the Hub and back.

    Args:
        settings: must have all that a Space with `hf_oauth: true` has.
        door: shows whoever is not signed in what everybody sees, and a sentence that says why.
    """

    def __init__(
        self, settings: Settings, access: Access, door: Callable[[Request, str], Awaitable[Response]]
    ) -> None:
        self._settings = settings
        self._access = access
        self._door = door
        assert settings.oauth_client_secret
        self._provider: Any = OAuth().register(
            name="huggingface",
            client_id=settings.oauth_client_id,
            client_secret=settings.oauth_client_secret.get_secret_value(),
            client_kwargs={"scope": settings.oauth_scopes, "timeout": PROVIDER_WITHIN},
            server_metadata_url=f"{settings.openid_provider_url}/.well-known/openid-configuration",
        )

    async def begin(self, request: Request) -> Response:
        """Send somebody to the Hub."""
        state: dict[str, Any] = {}
        try:
            redirect: Response = await self._provider.authorize_redirect(_with(request, state), self._back(request))
        except Exception as error:  # whatever the client raises: the network, a TLS error, an answer that is no JSON
            return await self._door(request, _unreachable(error))
        self._access.begin_sign_in(request, redirect, state)
        return redirect

    async def end(self, request: Request) -> Response:
        """Begin the session of whoever comes back, if that is the owner."""
        state = self._access.end_sign_in(request)
        if "error" in request.query_params:
            return await self._door(request, "You have not signed in.")
        if not state:
            return await self._door(
                request, "This sign-in took too long, or began in another browser. Begin it again."
            )
        try:
            answer = await self._provider.authorize_access_token(_with(request, state))
        except Exception as error:  # a state or a signature that does not fit is as good as no answer
            return await self._door(request, _unreachable(error))
        profile = answer.get("userinfo") or {}
        if not owns(profile, self._settings.space_author_name):
            return await self._door(
                request,
                f"You are signed in as {profile.get('preferred_username')}. What has arrived is shown to "
                f"{self._settings.space_author_name} only. If that is an organization in which you may write, sign in "
                "again and grant access to it.",
            )
        until = min(answer.get("expires_at") or 0, time.time() + SESSION_LASTS)
        response = RedirectResponse(base_of(request), 303)
        self._access.begin(request, response, Session(until, profile["preferred_username"], answer["access_token"]))
        return response

    def _back(self, request: Request) -> str:
        """Any address of the Space will do: the one that the browser knows, as it has the cookie for that."""
        hosts = self._settings.space_hosts
        here = request.headers.get("host", "")
        host = here if here in hosts or not hosts else hosts[0]
        return f"https://{host}{root_of(request.scope)}{SIGN_IN_CALLBACK}"


def _with(request: Request, state: dict[str, Any]) -> Request:
    return Request({**request.scope, "session": state})


def _unreachable(error: Exception) -> str:
    return f"Signing in with Hugging Face has failed ({type(error).__name__}). Try again."
