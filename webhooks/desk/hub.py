"""The page about the owner's webhooks on the Hub: what the handlers ask for, what there is, and what can be done."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response

from ..watched import DOMAINS, OWNERS, WATCHABLE, Watched
from .comparison import Address, Row, State
from .forms import Sorry, form_of
from .registration import HubSaysNo, Registration

if TYPE_CHECKING:
    from .routes import Desk

CREATING = ("create", "create declared", "create missing", "adapt")
SWITCHING = ("enable", "disable")


class HubPage:
    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def show(self, request: Request) -> Response:
        return await self._page(request, {"type": "dataset", "domain_repo": "on"})

    async def change(self, request: Request) -> Response:
        """Do what the button says that was pressed; then show how it is."""
        form = await form_of(request)
        try:
            await self._change(request, form)
        except (HubSaysNo, Sorry) as reason:
            return await self._page(request, form, self._desk.settings.hide(str(reason)), 400)
        return self._desk.go(request, "/hub")

    async def _change(self, request: Request, form: dict[str, str]) -> None:
        act, endpoint, item, id = (form.get(name, "") for name in ("act", "endpoint", "item", "id"))
        if act not in (*CREATING, *SWITCHING):
            raise Sorry("There is no such button on this page. Look at it again.")
        if act in CREATING and self._desk.settings.closed:
            raise Sorry("Set WEBHOOK_SECRET first: without it this Space answers every call with 503.")
        chosen = self._chosen(form) if act == "create" else None
        hub = self._registration(request)
        if chosen:
            await hub.create(endpoint, chosen)
        elif act == "create declared":
            await hub.create_declared(endpoint, item)
        elif act == "create missing":
            await hub.create_missing()
        elif act == "adapt":
            await hub.adapt(endpoint, item, id)
        else:
            await hub.switch(id, act == "enable")

    def _chosen(self, form: dict[str, str]) -> Watched:
        type, name = form.get("type", ""), form.get("name", "").strip()
        if type not in WATCHABLE or not name:
            raise Sorry("Say what to watch, such as the dataset username/my-dataset.")
        domains = tuple(domain for domain in DOMAINS if form.get(f"domain_{domain}"))
        if form.get("endpoint") not in self._desk.endpoints or not domains:
            raise Sorry("Choose an endpoint, and the events of at least one domain.")
        return Watched(type, name, domains)

    async def _page(self, request: Request, form: dict[str, str], notice: str = "", status: int = 200) -> Response:
        """Show how it is, and what was filled in."""
        trouble, rows = "", []
        try:
            rows = await self._registration(request).rows()
        except HubSaysNo as reason:
            trouble = self._desk.settings.hide(str(reason))
        return self._desk.show(
            request,
            "hub.html",
            status,
            form=form,
            notice=notice,
            trouble=trouble,
            lines=[(row, said(row), buttons(row)) for row in rows],
            asked_for=sum(len(endpoint.watched) for endpoint in self._desk.endpoints.values()),
            missing=sum(row.state is State.MISSING for row in rows),
            paths=list(self._desk.endpoints),
            watchable=WATCHABLE,
            domains=DOMAINS,
            watches=watches,
        )

    def _registration(self, request: Request) -> Registration:
        desk = self._desk
        public = desk.public_url()
        if public == desk.local_url():
            raise HubSaysNo(
                "The Hub cannot reach this machine, for it has no public link (GRADIO_SHARE=False, or no network to "
                "make one). Run this on a Space, or start it with a link."
            )
        token = desk.access.hub_token(request)
        if token is None:
            how = "Sign in with Hugging Face" if desk.settings.oauth else "Set HF_TOKEN and start again"
            raise HubSaysNo(f"{how} to see and create your webhooks.")
        return Registration(
            token,
            Address(public, [urlsplit(public).netloc, *desk.settings.space_hosts]),
            declared={path: endpoint.watched for path, endpoint in desk.endpoints.items()},
            secret=desk.settings.secret_to_send,
        )


def said(row: Row) -> tuple[str, str]:
    """Return how a row is drawn (as an outcome of the list is), and what it says about the webhook on the Hub."""
    webhook, lacks = row.webhook, " and ".join(row.lacks)
    if webhook is None:
        whole = row.watched is None or row.lacks == row.watched.domains
        return "failed", "missing" if whole else f"missing for the events of {lacks}"
    if row.state is State.OTHER_DOMAINS:
        return "waiting", f"enabled, but does not tell of {lacks}"
    if row.state is State.ELSEWHERE:
        return "waiting", f"calls another address: {webhook.url}"
    # Text instead of True is why the Hub has disabled it.
    disabled = "disabled" if webhook.disabled is True else "disabled by the Hub, since calls have failed"
    if row.state is State.TWICE:
        reason = "another webhook tells the same handler of it already"
    elif row.state is State.UNDECLARED:
        reason = "no handler asks for it"
    else:
        return ("waiting", f"{disabled}{_besides(row)}") if webhook.disabled else ("done", f"enabled{_besides(row)}")
    return "skipped", f"{disabled if webhook.disabled else 'enabled'}: {reason}"


def _besides(row: Row) -> str:
    """Name what else the webhook watches: a button changes that, too."""
    items = [Watched(item.type, item.name) for item in row.webhook.watched] if row.webhook else []
    others = [watches(item) for item in items if row.watched is None or item.key != row.watched.key]
    return f", and watches {', '.join(others)}" if others else ""


def buttons(row: Row) -> list[tuple[str, str]]:
    """Return what can be done about a row: the name of the act, and what the button says."""
    if row.state is State.MISSING:
        return [("create declared", "Create")]
    if row.state is State.OTHER_DOMAINS:
        return [("adapt", f"Add {' and '.join(row.lacks)}")]
    if row.state is State.ELSEWHERE:
        return [("create declared", "Create another"), ("adapt", "Move it here")]
    if row.webhook is None or (row.needed and row.state in (State.TWICE, State.UNDECLARED)):
        return []  # the webhook watches something else, too, that a handler asks for
    return [("enable", "Enable")] if row.webhook.disabled else [("disable", "Disable")]


def watches(item: Watched | None) -> str:
    """Say what a webhook watches."""
    if item is None:
        return "nothing"
    return f"every repository of {item.name}" if item.type in OWNERS else f"{item.type} {item.name}"
