"""What handlers want to hear of, beside what the Hub has: tables."""

from __future__ import annotations

from typing import Any

import pytest
from huggingface_hub import WebhookInfo, WebhookWatchedItem

from webhooks.dashboard.hub import Address, Row, compare
from webhooks.watched import read_watched

HOME = Address("https://me-hooks.hf.space", ["me-hooks.hf.space", "hooks.example.com"])
TRAIN = "/webhooks/train"
HERE = f"https://me-hooks.hf.space{TRAIN}"
OLD_TUNNEL = f"https://0a1b2c.gradio.live{TRAIN}"
BOTH = ("repo", "discussion")


def hook(
    id: str, *watched: str, url: str | None = HERE, domains: tuple[str, ...] = BOTH, disabled: Any = False
) -> Any:
    items: list[Any] = [WebhookWatchedItem(*item.split(":")) for item in watched]  # type: ignore[arg-type]
    return WebhookInfo(id, url, None, items, list(domains), None, disabled)  # type: ignore[arg-type]


def rows(wanted: Any, *webhooks: WebhookInfo, **others: Any) -> list[Row]:
    """Compare with what `train`, and other handlers, want to hear of."""
    declared = {f"/webhooks/{name}": read_watched(watched) for name, watched in {"train": wanted, **others}.items()}
    return compare(declared, HOME, webhooks)


def told(wanted: Any, *webhooks: WebhookInfo, **others: Any) -> list[tuple[str, str, str | None]]:
    """The same, as text: what is watched, what is said, and the id of the webhook."""
    compared = rows(wanted, *webhooks, **others)
    return [(" ".join(map(str, row.watched)), row.said, row.webhook.id if row.webhook else None) for row in compared]


DATA = "dataset:me/data"
REPO_ONLY = {"type": "dataset", "name": "me/data", "domains": ["repo"]}
HTTP = HERE.replace("https:", "http:")


@pytest.mark.parametrize(
    ("wanted", "webhook", "said"),
    [
        (DATA, hook("a", DATA), "enabled"),
        (DATA, hook("a", "dataset:Me/Data"), "enabled"),
        ("dataset:Me/DATA", hook("a", DATA), "enabled"),
        (DATA, hook("a", "model:me/model", DATA), "enabled"),
        (DATA, hook("a", DATA, url=f"https://hooks.example.com{TRAIN}"), "enabled"),
        (DATA, hook("a", DATA, url=f"https://ME-hooks.hf.space{TRAIN}/?a=1"), "enabled"),
        (REPO_ONLY, hook("a", DATA, domains=("repo",)), "enabled"),
        (REPO_ONLY, hook("a", DATA), "enabled"),
        (DATA, hook("a", "user:me"), "enabled"),
        (DATA, hook("a", "org:ME"), "enabled"),
        ("user:me", hook("a", "user:Me"), "enabled"),
        (DATA, hook("a", DATA, disabled=True), "disabled"),
        (DATA, hook("a", DATA, disabled="suspended"), "disabled by the Hub, since calls have failed"),
        (DATA, hook("a", DATA, domains=("repo",), disabled=True), "disabled"),
    ],
)
def test_a_webhook_for_what_a_handler_wants_is_found(wanted: Any, webhook: WebhookInfo, said: str) -> None:
    row = rows(wanted, webhook)[0]
    assert (row.endpoint, row.watched[0], row.said) == (TRAIN, read_watched(wanted)[0], said)
    assert row.webhook is webhook


@pytest.mark.parametrize(
    "webhook",
    [
        hook("a", DATA, url=OLD_TUNNEL),
        hook("a", DATA, url=OLD_TUNNEL, disabled=True),
        hook("a", DATA, url=f"https://old-name.example.com{TRAIN}"),
        hook("a", DATA, url=f"https://me-hooks.hf.space.evil.com{TRAIN}"),
        hook("a", DATA, url=f"https://me-hooks.hf.space@evil.com{TRAIN}"),
        hook("a", DATA, url=f"https://me-hooks.hf.space:8443{TRAIN}"),
        hook("a", DATA, url="https://me-hooks.hf.space"),
        hook("a", DATA, url="https://me-hooks.hf.space/app/webhooks/train"),
        hook("a", DATA, url=None),
        hook("a", DATA, url=f"https://[me-hooks.hf.space{TRAIN}"),
    ],
)
def test_what_has_no_webhook_that_calls_here_is_missing(webhook: WebhookInfo) -> None:
    assert told(DATA) == [(DATA, "missing", None)]
    assert told(DATA, webhook) == [(DATA, "missing", None)]


@pytest.mark.parametrize("name", ["model:me/data", "dataset:me/data-2", "user:m"])
def test_a_webhook_for_something_else_tells_nothing_of_it(name: str) -> None:
    assert told(DATA, hook("a", name)) == [(DATA, "missing", None), (name, "enabled: no handler needs it", "a")]


@pytest.mark.parametrize(
    ("wanted", "webhooks", "lacks"),
    [
        (DATA, [], BOTH),
        (REPO_ONLY, [], ("repo",)),
        (DATA, [hook("a", DATA, domains=("repo",))], ("discussion",)),
        (DATA, [hook("a", DATA, url=HTTP)], BOTH),
        (DATA, [hook("a", "user:me", domains=("repo",))], ("discussion",)),
        (DATA, [hook("a", DATA, domains=("repo",)), hook("b", DATA, domains=("discussion",))], ()),
        (DATA, [hook("a", DATA, domains=("repo",)), hook("b", "user:me", domains=BOTH)], ()),
    ],
)
def test_what_is_lacking_is_counted_over_all_webhooks(
    wanted: Any, webhooks: list[WebhookInfo], lacks: tuple[str, ...]
) -> None:
    row, *others = rows(wanted, *webhooks)
    assert (row.said, others) == ("missing" if lacks else "enabled", [])
    assert not lacks or row.watched[0].domains == lacks


@pytest.mark.parametrize(
    ("webhooks", "said", "id"),
    [
        ([hook("off", DATA, disabled=True), hook("on", DATA)], "enabled", "on"),
        ([hook("wide", "user:me"), hook("on", DATA)], "enabled", "on"),
        ([hook("off", DATA, disabled=True), hook("half", DATA, domains=("repo",))], "disabled", "off"),
    ],
)
def test_of_several_webhooks_the_one_that_is_nearest_to_what_is_wanted_counts(
    webhooks: list[WebhookInfo], said: str, id: str
) -> None:
    assert told(DATA, *webhooks)[0] == (DATA, said, id)


@pytest.mark.parametrize(
    ("webhook", "left"),
    [
        (hook("b", "dataset:me/old"), ("dataset:me/old", "enabled: no handler needs it")),
        (hook("b", "dataset:me/old", disabled=True), ("dataset:me/old", "disabled: no handler needs it")),
        (hook("b", url=HERE), ("", "enabled: no handler needs it")),
        (hook("b", DATA, url="https://hooks.example.com/webhooks/gone"), (DATA, "enabled: no handler needs it")),
        (hook("b", DATA), (DATA, "enabled: no handler needs it")),
        (hook("b", "user:me"), ("user:me", "enabled: no handler needs it")),
        (hook("b", DATA, url="https://me-hooks.hf.space/webhooks/other"), (DATA, "enabled")),
    ],
)
def test_what_calls_here_and_nobody_needs_is_listed_after_the_rest(
    webhook: WebhookInfo, left: tuple[str, str]
) -> None:
    assert told(DATA, hook("a", DATA), webhook, other=None) == [(DATA, "enabled", "a"), (*left, "b")]


def test_what_else_a_webhook_watches_is_told_beside_what_is_wanted() -> None:
    assert told(DATA, hook("a", "dataset:me/old", DATA)) == [(f"{DATA} dataset:me/old", "enabled", "a")]


def test_a_webhook_that_calls_somebody_else_is_nobody_s_business() -> None:
    assert told(DATA, hook("a", DATA), hook("b", "dataset:me/old", url=OLD_TUNNEL)) == [(DATA, "enabled", "a")]


def test_a_part_of_what_is_wanted_is_not_the_whole() -> None:
    assert told("user:me", hook("a", DATA)) == [
        ("user:me", "missing", None),
        (DATA, "enabled: no handler needs it", "a"),
    ]


def test_rows_come_handler_by_handler_and_item_by_item() -> None:
    compared = rows([DATA, "user:me"], evaluate=["model:me/model"], by_hand=None)
    assert [(row.endpoint, str(row.watched[0])) for row in compared] == [
        (TRAIN, DATA),
        (TRAIN, "user:me"),
        ("/webhooks/evaluate", "model:me/model"),
    ]
