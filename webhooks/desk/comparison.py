"""What the handlers want to hear of, beside what the webhooks on the Hub tell them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from urllib.parse import urlsplit

from huggingface_hub import WebhookInfo

from ..endpoints import PREFIX
from ..watched import Watched


class State(Enum):
    """What becomes of something that a handler wants to hear of, or of a webhook that calls this server.

    The last three are about webhooks that no handler needs.
    """

    IN_ORDER = "in order"
    MISSING = "missing"
    OTHER_DOMAINS = "other domains"  # its webhook tells only some of the events that are wanted
    DISABLED = "disabled"
    ELSEWHERE = "at another address"  # its webhook calls the same path at another host, or by http
    TWICE = "twice"  # another webhook tells the same handler of it already
    UNDECLARED = "not declared"  # its handler is gone, or wants to hear of other things
    BY_HAND = "by hand"  # its handler does not say what it wants to hear of


@dataclass(frozen=True)
class Row:
    """One line of the comparison.

    Attributes:
        endpoint: the path that is called, or has to be.
        watched: what is to be heard of, or is; `None` for a webhook that watches nothing.
        webhook: the one on the Hub, if there is one. Where the Hub itself has disabled it after failures, its
            `disabled` is text and not `True`. Its secret cannot be compared: the Hub need not tell it, so `None`
            does not mean that there is none. If it is another one than ours, the webhook's calls are answered 403.
        lacks: the domains that no enabled webhook tells here.
        needed: whether some handler needs the webhook, be it for something else that it watches, so that disabling
            it leaves a handler without events.
    """

    endpoint: str
    watched: Watched | None
    state: State
    webhook: WebhookInfo | None = None
    lacks: tuple[str, ...] = ()
    needed: bool = True


@dataclass(frozen=True)
class Address:
    """Where the Hub reaches this server.

    Args:
        base: the URL that is told to the Hub, without a path.
        hosts: all names of this server, ports included.
    """

    base: str
    hosts: Collection[str]

    def is_called_by(self, webhook: WebhookInfo) -> bool:
        """Tell whether a webhook calls this server, be it in a way that does not work."""
        _, host, path = _parts(webhook)
        return host in self.hosts and path.startswith(PREFIX)

    def is_reached_by(self, webhook: WebhookInfo) -> bool:
        """Tell whether it does so in the right way: what is posted by http to a Space is lost in a redirect."""
        return self.is_called_by(webhook) and _parts(webhook)[0] == urlsplit(self.base).scheme


def compare(declared: Mapping[str, Sequence[Watched]], address: Address, webhooks: Iterable[WebhookInfo]) -> list[Row]:
    """Compare what is declared with what the Hub has.

    A webhook may watch several things, and one that watches a user or an organization also tells of the repositories
    there. That makes a declared repository one in order; it is never what has to be changed for it.

    Args:
        declared: what each handler wants to hear of, by its full path.
        address: where this server is.
        webhooks: all of one account's.

    Returns:
        A row for each declared item, in their order, and then the webhooks that call this server without need.
    """
    calls = [call for webhook in webhooks for call in _calls(webhook)]
    rows: list[Row] = []
    used: list[_Call] = []
    for endpoint, items in declared.items():
        there = [call for call in calls if call.endpoint == endpoint]
        for item in items:
            row, its_calls = _look_for(endpoint, item, there, address)
            rows.append(row)
            used += its_calls
    needed = {call.webhook.id for call in used}
    telling = [call for call in used if address.is_reached_by(call.webhook) and not call.webhook.disabled]
    for call in calls:
        if call not in used and address.is_called_by(call.webhook):
            state = _why_left(call, declared.get(call.endpoint), telling)
            rows.append(Row(call.endpoint, call.watched, state, call.webhook, needed=call.webhook.id in needed))
    return rows


@dataclass(frozen=True, eq=False)
class _Call:
    """That a webhook calls an endpoint when something happens to one of the items that it watches."""

    endpoint: str
    watched: Watched | None
    webhook: WebhookInfo

    def tells_of(self, item: Watched) -> bool:
        return self.watched is not None and self.watched.covers(item)

    def is_for(self, item: Watched) -> bool:
        return self.watched is not None and self.watched.key == item.key


def _calls(webhook: WebhookInfo) -> Iterator[_Call]:
    endpoint = _parts(webhook)[2].rstrip("/")
    domains = tuple(webhook.domains)
    for item in webhook.watched:
        yield _Call(endpoint, Watched(item.type, item.name, domains), webhook)
    if not webhook.watched:
        yield _Call(endpoint, None, webhook)


def _look_for(endpoint: str, item: Watched, there: Iterable[_Call], address: Address) -> tuple[Row, list[_Call]]:
    """Find out what tells a handler of an item, and return the row with the calls that it is about."""
    telling = [call for call in there if call.tells_of(item)]
    # One for a whole user counts only where there is none for this very item, and a disabled one comes last.
    telling.sort(key=lambda call: (not call.is_for(item), bool(call.webhook.disabled)))
    here = [call for call in telling if address.is_reached_by(call.webhook)]
    lacks, used = set(item.domains), []
    for call in here:
        if not call.webhook.disabled and lacks & set(call.webhook.domains):
            lacks -= set(call.webhook.domains)
            used.append(call)
    if not lacks:
        return Row(endpoint, item, State.IN_ORDER, used[0].webhook), used
    to_change = {
        State.OTHER_DOMAINS: [call for call in here if not call.webhook.disabled],
        State.DISABLED: [call for call in here if call.webhook.disabled],
        State.ELSEWHERE: [call for call in telling if call not in here],
    }
    missing = tuple(domain for domain in item.domains if domain in lacks)
    for state, calls in to_change.items():
        for call in calls:
            if call.is_for(item):
                return Row(endpoint, item, state, call.webhook, missing), [*used, call]
    return Row(endpoint, item, State.MISSING, None, missing), used


def _why_left(call: _Call, declared: Sequence[Watched] | None, telling: Iterable[_Call]) -> State:
    if declared is not None and not declared:
        return State.BY_HAND
    told = [
        item for other in telling if other.endpoint == call.endpoint for item in declared or () if other.tells_of(item)
    ]
    return State.TWICE if any(call.tells_of(item) for item in told) else State.UNDECLARED


def _parts(webhook: WebhookInfo) -> tuple[str, str, str]:
    """Return scheme, host and path of where a webhook calls."""
    try:
        url = urlsplit(webhook.url or "")
    except ValueError:  # somebody's "https://[me" hides none of the others
        return "", "", ""
    return url.scheme, url.netloc.lower(), url.path
