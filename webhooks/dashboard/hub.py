"""The owner's webhooks on the Hub, beside what the handlers ask for, and their changes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any, TypeVar
from urllib.parse import urlsplit

from huggingface_hub import HfApi, WebhookInfo, constants
from huggingface_hub.errors import HfHubHTTPError

from ..endpoints import PREFIX
from ..watched import OWNERS, Watched

SETTINGS = f"{constants.ENDPOINT}/settings/webhooks"
HUB_WITHIN = 20.0  # seconds; the client itself waits without end

_REASONS = {
    401: "The Hub does not know this token any more. Sign out and in again, or make a new HF_TOKEN.",
    403: (
        "The token may not manage your webhooks. Where you signed in, the Space needs `hf_oauth: true` and the scope "
        "`webhooks` in its README; an HF_TOKEN needs the permission for webhooks."
    ),
    429: "The Hub has had too many requests from here. Try again in a few minutes.",
}

T = TypeVar("T")

_creating = threading.Lock()  # two who look at once would both create the same


class HubError(Exception):
    """Something could not be done on the Hub; the text is a sentence for the owner, with what to do."""


@dataclass(frozen=True)
class Row:
    """One line of the comparison: what a handler asks for, or a webhook that calls this server without need.

    Attributes:
        watched: what is asked for, with the domains that nothing tells yet if it is missing; and what else the webhook
            watches.
        kind: how it is drawn: one of the list's outcomes.
        said: how it is on the Hub.
        webhook: the one that it is about, or `None` if it is missing. Its secret cannot be compared: the Hub need not
            tell it.
    """

    endpoint: str
    watched: Sequence[Watched]
    kind: str
    said: str
    webhook: WebhookInfo | None = None

    @property
    def key(self) -> str:
        """What a form says to mean this row."""
        return " ".join([self.endpoint, *map(str, self.watched)])


@dataclass(frozen=True)
class Address:
    """Where the Hub reaches this server.

    Args:
        base: the URL that is told to the Hub, without a path.
        hosts: all names of this server, ports included.
    """

    base: str
    hosts: Collection[str]

    def called_by(self, webhook: WebhookInfo) -> str | None:
        """Return the path that a webhook calls here. What is posted by http to a Space is lost in a redirect."""
        try:
            url = urlsplit(webhook.url or "")
        except ValueError:  # somebody's "https://[me" hides none of the others
            return None
        is_here = url.netloc.lower() in self.hosts and url.scheme == urlsplit(self.base).scheme
        return url.path.rstrip("/") if is_here and url.path.startswith(PREFIX) else None


def compare(declared: Mapping[str, Sequence[Watched]], address: Address, webhooks: Sequence[WebhookInfo]) -> list[Row]:
    """Compare what is declared with what the Hub has.

    Args:
        declared: what each handler wants to hear of, by its full path.
        address: where this server is.
        webhooks: all of one account's.

    Returns:
        A row for each declared item, in their order, and then the webhooks that call this server without need.
    """
    rows: list[Row] = []
    needed: list[WebhookInfo] = []
    for endpoint, items in declared.items():
        here = [webhook for webhook in webhooks if address.called_by(webhook) == endpoint]
        for item in items:
            row, used = _look_for(endpoint, item, here)
            rows.append(row)
            needed += used
    for webhook in webhooks:
        path = address.called_by(webhook)
        if path and webhook not in needed:
            why = "" if declared.get(path) == () else ": no handler needs it"
            kind = "skipped" if why else "waiting" if webhook.disabled else "done"
            rows.append(Row(path, _items(webhook), kind, _state(webhook) + why, webhook))
    return rows


def _look_for(endpoint: str, item: Watched, here: Iterable[WebhookInfo]) -> tuple[Row, list[WebhookInfo]]:
    """Find out what tells a handler of an item, and return the row with the webhooks that it needs.

    One that watches a user or an organization tells of the repositories there, too.
    """
    telling = [webhook for webhook in here if any(one.covers(item) for one in _items(webhook))]
    exact = [webhook for webhook in telling if item.key in [one.key for one in _items(webhook)]]
    lacks, used = item.domains, []
    for webhook in sorted(telling, key=lambda one: one not in exact):
        if not webhook.disabled and {*lacks} & {*webhook.domains}:
            lacks = tuple(domain for domain in lacks if domain not in webhook.domains)
            used.append(webhook)
    disabled = [webhook for webhook in exact if webhook.disabled and lacks]
    if lacks and not disabled:
        return Row(endpoint, [replace(item, domains=lacks)], "failed", "missing"), used
    webhook = (disabled or used)[0]
    watched = [item, *(one for one in _items(webhook) if one.key != item.key)]
    return Row(endpoint, watched, "waiting" if disabled else "done", _state(webhook), webhook), [*used, *disabled]


def _items(webhook: WebhookInfo) -> list[Watched]:
    return [Watched(item.type, item.name, tuple(webhook.domains)) for item in webhook.watched]


def _state(webhook: WebhookInfo) -> str:
    disabled = "disabled" if webhook.disabled is True else "disabled by the Hub, since calls have failed"
    return disabled if webhook.disabled else "enabled"


def watches(item: Watched) -> str:
    """Say what a webhook watches."""
    return f"every repository of {item.name}" if item.type in OWNERS else f"{item.type} {item.name}"


@dataclass(frozen=True)
class Webhooks:
    """The webhooks of one account on the Hub, as far as they concern this server. To be asked through `ask`.

    Args:
        api: with the account's token, which has the right to manage its webhooks.
        address: where the Hub reaches this server.
        declared: what each handler wants to hear of, by its full path.
        secret: what the Hub has to send.
    """

    api: HfApi
    address: Address
    declared: Mapping[str, Sequence[Watched]]
    secret: str | None = None

    def rows(self) -> list[Row]:
        return compare(self.declared, self.address, self.api.list_webhooks())

    def create(self, key: str | None = None) -> None:
        """Create the webhook of a row, or all that are missing, one after the other."""
        with _creating:
            missing = [row for row in self.rows() if row.webhook is None and key in (None, row.key)]
            if not missing:
                raise HubError("Nothing is missing there any more. Look at the list again.")
            for row in missing:
                self._create(row)

    def _create(self, row: Row) -> None:
        item = row.watched[0]
        watched: Any = [{"type": item.type, "name": item.name}]
        domains: Any = list(item.domains)
        url = self.address.base + row.endpoint
        self.api.create_webhook(url=url, watched=watched, domains=domains, secret=self.secret)


async def ask(question: Callable[[], T]) -> T:
    """Ask the Hub on a thread, and make a sentence of whatever goes wrong.

    The thread may be left behind. One of an executor would keep the process from ending.

    Raises:
        HubError: with that sentence.
    """
    answer: Future[T] = Future()
    answer.set_running_or_notify_cancel()

    def run() -> None:
        try:
            answer.set_result(question())
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=run, name="webhooks hub", daemon=True).start()
    try:
        return await asyncio.wait_for(asyncio.wrap_future(answer), HUB_WITHIN)
    except HubError:
        raise
    except HfHubHTTPError as error:
        status, message = error.response.status_code, error.server_message or "no reason given"
        raise HubError(_REASONS.get(status, f"The Hub answers {status}: {message}")) from None
    except Exception as error:
        raise HubError(f"The Hub cannot be reached ({type(error).__name__}). Try again later.") from None
