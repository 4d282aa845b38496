"""The page about the owner's webhooks on the Hub: those that point here, and one more."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response

from ..watched import DOMAINS, WATCHABLE
from .forms import Sorry, form_of
from .registration import HubSaysNo, Registration

if TYPE_CHECKING:
    from .routes import Desk


class HubPage:
    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def show(self, request: Request) -> Response:
        return await self._page(request, {"type": "dataset", "domain_repo": "on"})

    async def change(self, request: Request) -> Response:
        """Create a webhook, or switch one on or off; then show how it is."""
        form = await form_of(request)
        try:
            if id := form.get("switch"):
                await self._registration(request).switch(id, form.get("on") == "yes")
            else:
                await self._create(request, form)
        except (HubSaysNo, Sorry) as reason:
            return await self._page(request, form, self._desk.settings.hide(str(reason)), 400)
        return self._desk.go(request, "/hub")

    async def _create(self, request: Request, form: dict[str, str]) -> None:
        desk = self._desk
        watched = {"type": form.get("type", ""), "name": form.get("name", "").strip()}
        domains = [domain for domain in DOMAINS if form.get(f"domain_{domain}")]
        endpoint = form.get("endpoint", "")
        if watched["type"] not in WATCHABLE or not watched["name"]:
            raise Sorry("Say what to watch, such as the dataset username/my-dataset.")
        if endpoint not in desk.endpoints or not domains:
            raise Sorry("Choose an endpoint, and the events of at least one domain.")
        if desk.settings.closed:
            raise Sorry("Set WEBHOOK_SECRET first: without it this Space answers every call with 503.")
        url = desk.public_url() + endpoint
        await self._registration(request).create(url, watched, domains, desk.settings.secret_to_send)

    async def _page(self, request: Request, form: dict[str, str], notice: str = "", status: int = 200) -> Response:
        """Show what the Hub has, and what was filled in."""
        trouble, webhooks = "", []
        try:
            webhooks = await self._registration(request).pointing_here()
        except HubSaysNo as reason:
            trouble = self._desk.settings.hide(str(reason))
        return self._desk.show(
            request,
            "hub.html",
            status,
            form=form,
            notice=notice,
            trouble=trouble,
            webhooks=webhooks,
            paths=list(self._desk.endpoints),
            watchable=WATCHABLE,
            domains=DOMAINS,
        )

    def _registration(self, request: Request) -> Registration:
        desk = self._desk
        public = desk.public_url()
        if public == desk.local_url():
            raise HubSaysNo(
                "The Hub cannot reach this machine. Start without GRADIO_SHARE=False to get a public link, or run "
                "this on a Space."
            )
        token = desk.access.hub_token(request)
        if token is None:
            how = "Sign in with Hugging Face" if desk.settings.oauth else "Set HF_TOKEN and start again"
            raise HubSaysNo(f"{how} to see and create your webhooks.")
        return Registration(token, [urlsplit(public).netloc, *desk.settings.space_hosts])
