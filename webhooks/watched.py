"""Read the option `watched=`, in the words of the Hub (https://huggingface.co/docs/hub/webhooks)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, is_dataclass
from typing import TYPE_CHECKING, Any

from .settings import SetupError

if TYPE_CHECKING:
    from huggingface_hub import WebhookWatchedItem

    Watchable = str | Mapping[str, Any] | WebhookWatchedItem
    ToWatch = Watchable | Iterable[Watchable] | None

OWNERS = ("user", "org")
WATCHABLE = ("dataset", "model", "space", "bucket", *OWNERS)
DOMAINS = ("repo", "discussion")


@dataclass(frozen=True)
class Watched:
    """A repository, a user or an organization that a webhook watches, and the kinds of events.

    Attributes:
        type: one of `WATCHABLE`.
        name: of the repository with its owner, of the user or of the organization. The Hub ignores its case.
        domains: the kinds of events, out of `DOMAINS`.
    """

    type: str
    name: str
    domains: tuple[str, ...] = DOMAINS

    def __str__(self) -> str:
        return f"{self.type}:{self.name}"

    @property
    def key(self) -> tuple[str, str]:
        """Equal for two items with the same type and name."""
        return self.type, self.name.lower()

    def covers(self, other: Watched) -> bool:
        """Return whether a webhook that watches this item also gets the events of the other item."""
        belongs_here = self.type in OWNERS and other.name.lower().startswith(f"{self.name.lower()}/")
        return belongs_here or self.key == other.key


def read_watched(given: ToWatch) -> tuple[Watched, ...]:
    """Return the items of `watched=`.

    An item is a dictionary or a `WebhookWatchedItem` as for `huggingface_hub.create_webhook`, or text as for
    `hf webhooks create --watch`. Without `"domains"` it has all domains, as on the Hub.

    Raises:
        SetupError: the Hub cannot watch this; the text names the item.
    """
    if given is None:
        return ()
    items = [given] if isinstance(given, str | Mapping) or not isinstance(given, Iterable) else given
    read: dict[tuple[str, str], Watched] = {}
    for item in map(_read, items):
        wanted = {*item.domains, *(read[item.key].domains if item.key in read else ())}
        read[item.key] = Watched(item.type, item.name, tuple(domain for domain in DOMAINS if domain in wanted))
    return tuple(read.values())


def first_repository(watched: Iterable[Watched]) -> tuple[str, str] | None:
    """Return type and name of the first repository, for a sample event."""
    return next(((item.type, item.name) for item in watched if item.type not in OWNERS), None)


def _read(item: Any) -> Watched:
    fields = asdict(item) if is_dataclass(item) and not isinstance(item, type) else item
    if isinstance(item, str):
        fields = dict(zip(("type", "name"), item.split(":", 1), strict=False))
    try:
        kind, name, domains = fields["type"], fields["name"], fields.get("domains", DOMAINS)
        domains = (domains,) if isinstance(domains, str) else tuple(domains)
        pattern = r"[\w.-]+" if kind in OWNERS else r"([\w.-]+/)?[\w.-]+"  # a few old models have no owner
        is_known = kind in WATCHABLE and {*fields} <= {"type", "name", "domains"} and {*domains} <= {*DOMAINS}
        if is_known and domains and re.fullmatch(pattern, name, re.ASCII):
            return Watched(kind, name, domains)
    except (KeyError, TypeError, AttributeError):
        pass
    raise SetupError(
        f'No webhook can watch {item!r}: write it as "dataset:me/data" or as '
        '{"type": "dataset", "name": "me/data"}, where "domains" may follow. '
        f"A type is one of {', '.join(WATCHABLE)}, a domain {' or '.join(DOMAINS)}."
    )
