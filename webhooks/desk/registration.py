"""The owner's webhooks on the Hub: which of them point here, which are missing, and their changes."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from huggingface_hub import HfApi, WebhookInfo
from huggingface_hub.errors import HfHubHTTPError

from ..watched import Watched
from .comparison import Address, Row, State, compare

HUB_WITHIN = 20.0  # seconds; the client itself waits without end
LOOKS, BETWEEN_LOOKS = 5, 1.0  # times, and seconds, to look whether what was created is in the list

_REASONS = {
    401: "The Hub does not know this token any more. Sign out and in again, or make a new HF_TOKEN.",
    403: (
        "The token may not manage your webhooks. Where you signed in, the Space needs `hf_oauth: true` and the scope "
        "`webhooks` in its README; an HF_TOKEN needs the permission for webhooks."
    ),
    429: "The Hub has had too many requests from here. Try again in a few minutes.",
}

T = TypeVar("T")

# URL and watched item of what is under way: a second click, or another tab, would create the same once more.
_being_created: set[tuple[str, tuple[str, str]]] = set()


class HubSaysNo(Exception):
    """Something could not be done on the Hub; the text is a sentence for the owner, with what to do."""


@dataclass(frozen=True)
class Registration:
    """The webhooks of one account on the Hub, as far as they concern this server.

    Every method that asks the Hub raises `HubSaysNo`.

    Args:
        token: the account's, with the right to manage its webhooks.
        address: where the Hub reaches this server.
        declared: what each handler wants to hear of, by its full path.
        secret: what the Hub has to send.
    """

    token: str
    address: Address
    declared: Mapping[str, Sequence[Watched]]
    secret: str | None = None

    async def pointing_here(self) -> list[WebhookInfo]:
        """List the account's webhooks that point here."""
        return [webhook for webhook in await self._all() if self.address.is_called_by(webhook)]

    async def rows(self) -> list[Row]:
        """Compare what the handlers want to hear of with what is on the Hub."""
        return compare(self.declared, self.address, await self._all())

    async def create(self, endpoint: str, new: Watched) -> None:
        """Have the Hub call a handler, by its full path, on what happens to something."""

        def look(webhooks: Sequence[WebhookInfo]) -> Sequence[str]:
            for webhook in webhooks:
                keys = [Watched(item.type, item.name).key for item in webhook.watched]
                if webhook.url == self._url(endpoint) and new.key in keys:
                    raise HubSaysNo(f"A webhook of yours already watches {new.name} and calls this endpoint.")
            return new.domains

        await self._create(endpoint, new, look)

    async def create_declared(self, endpoint: str, item: str) -> None:
        """Create the webhook for one item that a handler wants to hear of.

        Args:
            endpoint: the handler's full path.
            item: such as `"dataset:me/data"`, the text of a row's `watched`.
        """
        if not await self._create_declared(endpoint, item, (State.MISSING, State.ELSEWHERE)):
            raise HubSaysNo(f"A webhook of yours already watches {item} and calls this endpoint: look at its state.")

    async def create_missing(self) -> list[Row]:
        """Create a webhook for each item that has none, one after the other, and return the rows they were for.

        If one fails, the text of the error says which were created before it.
        """
        created: list[Row] = []
        for row in await self.rows():
            if row.state is not State.MISSING:
                continue
            try:
                if await self._create_declared(row.endpoint, str(row.watched), (State.MISSING,)):
                    created.append(row)
            except HubSaysNo as reason:
                before = ", ".join(f"{done.watched} for {done.endpoint}" for done in created) or "none"
                told = f"The webhook for {row.watched} was not created. {reason} Created before it: {before}."
                raise HubSaysNo(told) from None
        return created

    async def adapt(self, endpoint: str, item: str, id: str) -> None:
        """Make the webhook of a row whose state is `ELSEWHERE` or `OTHER_DOMAINS` what the handler asks for.

        It then calls this server, with this server's secret, and tells of the domains that were lacking, too. All that
        it watches stays, and a disabled one stays disabled.
        """
        row = self._row(endpoint, item, await self._all())
        if row.webhook is None or row.webhook.id != id or row.state not in (State.ELSEWHERE, State.OTHER_DOMAINS):
            raise HubSaysNo("This webhook has changed since. Look at the list again.")
        arguments: dict[str, Any] = {
            "url": self._url(endpoint),
            "watched": row.webhook.watched,  # without it the Hub would have it watch nothing
            "domains": list(dict.fromkeys([*row.webhook.domains, *row.lacks])),
            "secret": self.secret,
        }
        await _ask(lambda api: api.update_webhook(id, **arguments), self.token)

    async def switch(self, id: str, on: bool) -> None:
        """Enable or disable one of the webhooks that point here."""
        if id not in [webhook.id for webhook in await self.pointing_here()]:
            raise HubSaysNo("This webhook is not yours, or does not point here any more.")
        await _ask(lambda api: api.enable_webhook(id) if on else api.disable_webhook(id), self.token)

    async def _all(self) -> list[WebhookInfo]:
        return await _ask(lambda api: api.list_webhooks(), self.token)

    def _row(self, endpoint: str, item: str, webhooks: Iterable[WebhookInfo]) -> Row:
        """Look at the present state of something that a handler wants to hear of."""
        wanted = self._wanted(endpoint, item)
        return compare({endpoint: [wanted]}, self.address, webhooks)[0]

    def _wanted(self, endpoint: str, item: str) -> Watched:
        for wanted in self.declared.get(endpoint, ()):
            if str(wanted) == item:
                return wanted
        raise HubSaysNo(f"The handler at {endpoint} does not ask for {item} any more.")

    async def _create_declared(self, endpoint: str, item: str, states: Collection[State]) -> bool:
        """Create the webhook for an item, if its state still is one of these; return whether it was."""

        def look(webhooks: Sequence[WebhookInfo]) -> Sequence[str]:
            row = self._row(endpoint, item, webhooks)
            return row.lacks if row.state in states else ()

        return await self._create(endpoint, self._wanted(endpoint, item), look)

    async def _create(
        self, endpoint: str, watched: Watched, look: Callable[[Sequence[WebhookInfo]], Sequence[str]]
    ) -> bool:
        """Create a webhook, and return whether that was necessary.

        Args:
            look: decides, by all webhooks that are there, which domains a new one has to tell of; none is no new one.
        """
        url = self._url(endpoint)
        new = (url, watched.key)
        if new in _being_created:
            raise HubSaysNo(f"A webhook for {watched.name} is just being created. Look at the list again.")
        item = {"type": watched.type, "name": watched.name}

        def create(api: HfApi) -> bool:
            try:
                domains: Any = list(look(api.list_webhooks()))
                if domains:
                    _wait_for(api.create_webhook(url=url, watched=[item], domains=domains, secret=self.secret), api)
                return bool(domains)
            finally:  # here, on the thread: it goes on when nobody waits for it any more
                _being_created.discard(new)

        _being_created.add(new)  # before anybody looks: two who have looked would both create it
        return await _ask(create, self.token)

    def _url(self, endpoint: str) -> str:
        return self.address.base + endpoint


def _wait_for(created: WebhookInfo, api: HfApi) -> None:
    """Wait a little until the Hub's list shows a new webhook: the next click goes by the list."""
    with contextlib.suppress(Exception):  # it is created, whatever becomes of the list
        for _ in range(LOOKS):
            if created.id in [webhook.id for webhook in api.list_webhooks()]:
                return
            time.sleep(BETWEEN_LOOKS)


async def _ask(question: Callable[[HfApi], T], token: str) -> T:
    """Call the Hub on a thread, and make a sentence of whatever goes wrong."""
    try:
        return await asyncio.wait_for(asyncio.wrap_future(_on_thread(question, HfApi(token=token))), HUB_WITHIN)
    except HubSaysNo:
        raise
    except HfHubHTTPError as error:
        raise HubSaysNo(_reason(error.response.status_code, error.server_message)) from None
    except asyncio.TimeoutError:
        raise HubSaysNo(f"The Hub has not answered within {HUB_WITHIN:g} seconds. Try again later.") from None
    except (ValueError, LookupError, TypeError) as error:
        problem = f"The Hub's answer makes no sense ({type(error).__name__})"
        raise HubSaysNo(f"{problem}. Try again later, or update huggingface_hub.") from None
    except Exception as error:
        raise HubSaysNo(f"The Hub cannot be reached ({type(error).__name__}). Try again later.") from None


def _on_thread(question: Callable[[HfApi], T], api: HfApi) -> Future[T]:
    """Ask on a thread that may be left behind. One of an executor would keep the process from ending."""
    answer: Future[T] = Future()
    answer.set_running_or_notify_cancel()

    def ask() -> None:
        try:
            answer.set_result(question(api))
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=ask, name="webhooks hub", daemon=True).start()
    return answer


def _reason(status: int, message: str | None) -> str:
    if status >= 500:
        return f"The Hub is in trouble (status {status}). Try again later."
    return _REASONS.get(status, f"The Hub refuses this: {message or f'status {status}'}")
