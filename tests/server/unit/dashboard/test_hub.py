"""What the handlers watch, beside what the Hub has: tables."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any
from unittest.mock import Mock

import pytest
from huggingface_hub import WebhookInfo, WebhookWatchedItem
from support.dashboard import PagesHarness, text

from webhooks.dashboard.hub import WebhookRow, Webhooks
from webhooks.endpoints import Endpoint
from webhooks.watched import read_watched

BASE, HOSTS = "https://me-hooks.hf.space", ["me-hooks.hf.space", "hooks.example.com"]
TRAIN = "/webhooks/train"
HERE = f"{BASE}{TRAIN}"
OLD_TUNNEL = f"https://0a1b2c.gradio.live{TRAIN}"
BOTH = ("repo", "discussion")
DATA = "dataset:me/data"
REPO_ONLY = {"type": "dataset", "name": "me/data", "domains": ["repo"]}


def hook(
    id: str, *watched: str, url: str | None = HERE, domains: tuple[str, ...] = BOTH, disabled: Any = False
) -> Any:
    items: list[Any] = [WebhookWatchedItem(*item.split(":")) for item in watched]  # type: ignore[arg-type]
    return WebhookInfo(id, url, None, items, list(domains), None, disabled)  # type: ignore[arg-type]


def rows(watched: Any, *webhooks: WebhookInfo, **others: Any) -> list[WebhookRow]:
    """Compare the webhooks with what `train` and other handlers watch."""
    handlers = {"/train": watched, **{f"/{name}": other for name, other in others.items()}}
    endpoints = [Endpoint(lambda: None, path, watched=items) for path, items in handlers.items()]
    api = Mock(list_webhooks=lambda: list(webhooks))
    return Webhooks(api, BASE, HOSTS, {endpoint.path: endpoint for endpoint in endpoints}).rows()


def states(watched: Any, *webhooks: WebhookInfo, **others: Any) -> list[tuple[str, str, str | None]]:
    """Return what is watched, the state, and the id of the webhook, for each row."""
    compared = rows(watched, *webhooks, **others)
    return [(" ".join(map(str, row.watched)), row.state, row.webhook.id if row.webhook else None) for row in compared]


@pytest.mark.parametrize(
    ("watched", "webhook", "state"),
    [
        (DATA, hook("a", DATA), "enabled"),
        (DATA, hook("a", "dataset:Me/Data"), "enabled"),
        (DATA, hook("a", DATA, url=f"https://hooks.example.com{TRAIN}"), "enabled"),
        (REPO_ONLY, hook("a", DATA), "enabled"),
        (DATA, hook("a", "user:me"), "enabled"),
        ("user:me", hook("a", "user:Me"), "enabled"),
        (DATA, hook("a", DATA, disabled=True), "disabled"),
        (DATA, hook("a", DATA, disabled="suspended"), "disabled by the Hub, since calls have failed"),
    ],
)
def test_webhook_of_a_handler_is_found(watched: Any, webhook: WebhookInfo, state: str) -> None:
    row = rows(watched, webhook)[0]
    assert (row.endpoint, row.watched[0], row.state) == (TRAIN, read_watched(watched)[0], state)
    assert row.webhook is webhook


@pytest.mark.parametrize(
    "webhook",
    [
        hook("a", DATA, url=OLD_TUNNEL),
        hook("a", DATA, url=f"https://me-hooks.hf.space.evil.com{TRAIN}"),
        hook("a", DATA, url=f"https://me-hooks.hf.space@evil.com{TRAIN}"),
        hook("a", DATA, url=HERE.replace("https:", "http:")),
        hook("a", DATA, url=None),
        hook("a", DATA, domains=("repo",)),  # discussions are missing
    ],
)
def test_other_webhook_does_not_count(webhook: WebhookInfo) -> None:
    assert states(DATA) == states(DATA, webhook) == [(DATA, "missing", None)]


@pytest.mark.parametrize(
    ("webhook", "row"),
    [
        (hook("b", "dataset:me/old"), ("dataset:me/old", "enabled: no handler needs it")),
        (hook("b", DATA, url=f"{BASE}/webhooks/gone"), (DATA, "enabled: no handler needs it")),
        (hook("b", "user:me"), ("user:me", "enabled: no handler needs it")),
        (hook("b", DATA, url=f"{BASE}/webhooks/other"), (DATA, "enabled")),
    ],
)
def test_needless_webhook_is_listed_last(webhook: WebhookInfo, row: tuple[str, str]) -> None:
    assert states(DATA, hook("a", DATA), webhook, other=None) == [(DATA, "enabled", "a"), (*row, "b")]


def test_webhook_of_a_path_with_a_parameter_is_needed() -> None:
    webhook = hook("b", DATA, url=f"{BASE}/webhooks/by/us")
    endpoints = {"/webhooks/by/{team}": Endpoint(lambda team: None, "/by/{team}")}
    (row,) = Webhooks(Mock(list_webhooks=lambda: [webhook]), BASE, HOSTS, endpoints).rows()
    assert (row.endpoint, row.state) == ("/webhooks/by/us", "enabled")


# The page, where the Hub is not asked


def pages_of(*watched: Any, **environ: str) -> PagesHarness:
    handlers: Sequence[Endpoint] = [Endpoint(lambda: None, f"/f{n}", watched=item) for n, item in enumerate(watched)]
    return PagesHarness(*handlers, **environ)


def test_page_without_an_address_shows_what_is_watched() -> None:
    page = text(pages_of(DATA, ["user:me", REPO_ONLY]).owner().get("/hub"))
    assert "The Hub cannot reach this machine" in page
    assert "f0 dataset me/data commits and settings, discussions not known" in page
    assert "f1 every repository of me commits and settings, discussions not known" in page
    assert "Create what is missing" not in page


def test_without_a_token_the_page_says_what_to_do() -> None:
    page = text(pages_of(DATA, SPACE_HOST="me-hooks.hf.space").owner().get("/hub"))
    assert "Set HF_TOKEN and start again to see and create your webhooks." in page
    assert "No handler watches anything yet" in text(pages_of(None).owner().get("/hub"))


def test_page_shows_when_each_repository_was_looked_at() -> None:
    pages = pages_of(DATA)
    pages.write(lambda: pages.log.set_mark("/webhooks/f0", "dataset/me/data", "575db8b7aa"))
    pages.write(lambda: pages.log.set_mark("/webhooks/f0", "model/me/gone", None, "The Hub does not know it."))
    page = text(pages.owner().get("/hub"))
    assert re.search(r"dataset me/data for f0: commit 575db8b7, 20\S+ \S+ UTC", page)
    assert re.search(r"model me/gone for f0: looked at 20\S+ \S+ UTC The Hub does not know it\.", page)
