"""The owner's webhooks on the Hub: which of them point here, and one more (https://huggingface.co/docs/hub/webhooks)."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

from huggingface_hub import HfApi, WebhookInfo
from huggingface_hub.errors import HfHubHTTPError

from ..endpoints import PREFIX

WATCHABLE = ("dataset", "model", "space", "bucket", "user", "org")
DOMAINS = ("repo", "discussion")
HUB_WITHIN = 20.0  # seconds; the client itself waits without end

T = TypeVar("T")


class HubSaysNo(Exception):
    """Something could not be done on the Hub; the text is a sentence for the owner, with what to do."""


@dataclass(frozen=True)
class Registration:
    """The webhooks of one account on the Hub, as far as they concern this server.

    Every method raises `HubSaysNo`.

    Args:
        token: the account's, with the right to manage its webhooks.
        hosts: the names, ports included, under which the Hub reaches this server.
    """

    token: str
    hosts: Sequence[str]

    async def pointing_here(self) -> list[WebhookInfo]:
        """List the account's webhooks that point here."""
        webhooks = await _ask(lambda api: api.list_webhooks(), self.token)
        return [webhook for webhook in webhooks if self._points_here(webhook)]

    async def create(self, url: str, watched: dict[str, str], domains: Sequence[str], secret: str | None) -> None:
        """Have the Hub call `url` on what happens to `watched`, such as `{"type": "dataset", "name": "me/data"}`."""
        wanted = (watched["type"], watched["name"].lower())
        for webhook in await self.pointing_here():
            if webhook.url == url and wanted in [(item.type, item.name.lower()) for item in webhook.watched]:
                raise HubSaysNo(f"A webhook of yours already watches {watched['name']} and calls this endpoint.")
        arguments: dict[str, Any] = {"url": url, "watched": [watched], "domains": list(domains), "secret": secret}
        await _ask(lambda api: api.create_webhook(**arguments), self.token)

    async def switch(self, id: str, on: bool) -> None:
        """Enable or disable one of the webhooks that point here."""
        if id not in [webhook.id for webhook in await self.pointing_here()]:
            raise HubSaysNo("This webhook is not yours, or does not point here any more.")
        await _ask(lambda api: api.enable_webhook(id) if on else api.disable_webhook(id), self.token)

    def _points_here(self, webhook: WebhookInfo) -> bool:
        try:
            url = urlsplit(webhook.url or "")
        except ValueError:  # somebody's "https://[me" hides none of the others
            return False
        return url.netloc.lower() in self.hosts and url.path.startswith(PREFIX)


async def _ask(question: Callable[[HfApi], T], token: str) -> T:
    """Call the Hub on a thread, and make a sentence of whatever goes wrong."""
    try:
        return await asyncio.wait_for(asyncio.wrap_future(_on_thread(question, HfApi(token=token))), HUB_WITHIN)
    except HfHubHTTPError as error:
        status = error.response.status_code
        raise HubSaysNo(_REASONS.get(status) or _reason(status, error.server_message)) from None
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


_REASONS = {
    401: "The Hub does not know this token any more. Sign out and in again, or make a new HF_TOKEN.",
    403: (
        "The token may not manage your webhooks. Where you signed in, the Space needs `hf_oauth: true` and the scope "
        "`webhooks` in its README; an HF_TOKEN needs the permission for webhooks."
    ),
    429: "The Hub has had too many requests from here. Try again in a few minutes.",
}


def _reason(status: int, message: str | None) -> str:
    if status >= 500:
        return f"The Hub is in trouble (status {status}). Try again later."
    return f"The Hub refuses this: {message or f'status {status}'}"
