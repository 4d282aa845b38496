"""Compare the owner's webhooks on the Hub with what the handlers watch, and create those that are missing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from huggingface_hub import HfApi, WebhookInfo, constants
from huggingface_hub.errors import HfHubHTTPError

from ..deliveries.runner import call_within
from ..endpoints import PREFIX, Endpoint, find
from ..watched import OWNERS, Watched

SETTINGS = f"{constants.ENDPOINT}/settings/webhooks"
TIMEOUT_SECONDS = 20.0  # the client itself waits without end

_REASONS = {
    401: "The Hub does not know this token any more. Sign out and in again, or make a new HF_TOKEN.",
    403: "The token may not manage webhooks. It needs the permission for that, a Space the scope `webhooks`.",
    429: "The Hub has had too many requests from here. Try again in a few minutes.",
}

_creating = threading.Lock()  # two requests at once would create the same webhook twice


class HubError(Exception):
    """Something could not be done on the Hub; the text says what to do."""


@dataclass(frozen=True)
class WebhookRow:
    """A line of the comparison: what a handler watches, or a webhook that no handler needs.

    Attributes:
        watched: what the handler watches, with the domains that are missing; then what else the webhook watches.
        kind: decides colour and shape, as in the list of deliveries.
        state: in words.
        webhook: on the Hub; `None` if it is missing.
    """

    endpoint: str
    watched: Sequence[Watched]
    kind: str
    state: str
    webhook: WebhookInfo | None = None

    @property
    def key(self) -> str:
        """The value by which a form names this row."""
        return " ".join([self.endpoint, *map(str, self.watched)])


def watched_rows(endpoints: Mapping[str, Endpoint]) -> list[WebhookRow]:
    """Return a row for each watched item, while the Hub cannot be asked."""
    return [WebhookRow(path, [item], "skipped", "") for path, handler in endpoints.items() for item in handler.watched]


def _items(webhook: WebhookInfo) -> list[Watched]:
    return [Watched(item.type, item.name, tuple(webhook.domains)) for item in webhook.watched]


def _state(webhook: WebhookInfo) -> str:
    disabled = "disabled" if webhook.disabled is True else "disabled by the Hub, since calls have failed"
    return disabled if webhook.disabled else "enabled"


def watched_name(item: Watched) -> str:
    return f"every repository of {item.name}" if item.type in OWNERS else f"{item.type} {item.name}"


@dataclass(frozen=True)
class Webhooks:
    """The webhooks of one account on the Hub. `rows` and `create` block: call them through `ask`.

    Args:
        api: with a token that may manage the account's webhooks.
        base_url: of this server, as the Hub reaches it.
        hosts: all names of this server, with their ports.
        secret: what the Hub has to send.
    """

    api: HfApi
    base_url: str
    hosts: Collection[str]
    endpoints: Mapping[str, Endpoint]
    secret: str | None = None

    def rows(self) -> list[WebhookRow]:
        """Compare what the handlers watch with all webhooks of the account.

        Returns:
            A row for each watched item, in their order, then one for each webhook that calls this server without need.
        """
        called = [(path, webhook) for webhook in self.api.list_webhooks() if (path := self._path_of(webhook))]
        rows: list[WebhookRow] = []
        needed: list[WebhookInfo] = []
        for endpoint in self.endpoints.values():
            here = [webhook for path, webhook in called if path == endpoint.path]
            for item in endpoint.watched:
                row, used = _compare(endpoint.path, item, here)
                rows.append(row)
                needed += used
        for path, webhook in called:
            if webhook not in needed:
                handler = find(self.endpoints, path)
                why = "" if handler and not handler.watched else ": no handler needs it"
                kind = "skipped" if why else "waiting" if webhook.disabled else "done"
                rows.append(WebhookRow(path, _items(webhook), kind, _state(webhook) + why, webhook))
        return rows

    def create(self, key: str | None = None) -> None:
        """Create the webhook of a row, or all that are missing."""
        with _creating:
            missing = [row for row in self.rows() if row.webhook is None and key in (None, row.key)]
            if not missing:
                raise HubError("Nothing is missing there any more. Look at the list again.")
            for row in missing:
                item, url = row.watched[0], self.base_url + row.endpoint
                watched: Any = [{"type": item.type, "name": item.name}]
                domains: Any = list(item.domains)
                self.api.create_webhook(url=url, watched=watched, domains=domains, secret=self.secret)

    def _path_of(self, webhook: WebhookInfo) -> str | None:
        """Return the path that a webhook calls here. A POST by http to a Space is lost in a redirect."""
        try:
            url = urlsplit(webhook.url or "")
        except ValueError:  # an invalid URL, such as "https://[me"
            return None
        is_here = url.netloc.lower() in self.hosts and url.scheme == urlsplit(self.base_url).scheme
        return url.path.rstrip("/") if is_here and url.path.startswith(PREFIX) else None


def _compare(path: str, item: Watched, here: Iterable[WebhookInfo]) -> tuple[WebhookRow, list[WebhookInfo]]:
    """Return the row of a watched item, with the webhooks that it needs.

    A webhook that watches a user or an organization covers the repositories there.
    """
    covering = [webhook for webhook in here if any(other.covers(item) for other in _items(webhook))]
    exact = [webhook for webhook in covering if item.key in [other.key for other in _items(webhook)]]
    missing, used = item.domains, []
    for webhook in sorted(covering, key=lambda webhook: webhook not in exact):
        if not webhook.disabled and {*missing} & {*webhook.domains}:
            missing = tuple(domain for domain in missing if domain not in webhook.domains)
            used.append(webhook)
    disabled = [webhook for webhook in exact if webhook.disabled and missing]
    if missing and not disabled:
        return WebhookRow(path, [replace(item, domains=missing)], "failed", "missing"), used
    webhook = (disabled or used)[0]
    watched = [item, *(other for other in _items(webhook) if other.key != item.key)]
    row = WebhookRow(path, watched, "waiting" if disabled else "done", _state(webhook), webhook)
    return row, [*used, *disabled]


def ask(question: Callable[[], Any]) -> Any:
    """Ask the Hub, with a timeout.

    Raises:
        HubError: with a sentence for each thing that can go wrong.
    """
    try:
        return call_within(TIMEOUT_SECONDS, question)
    except HubError:
        raise
    except HfHubHTTPError as error:
        status, message = error.response.status_code, error.server_message or "no reason given"
        raise HubError(_REASONS.get(status, f"The Hub answers {status}: {message}")) from None
    except Exception as error:
        raise HubError(f"The Hub cannot be reached ({type(error).__name__}). Try again later.") from None
