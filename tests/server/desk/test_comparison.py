"""What handlers want to hear of, beside what the Hub has: tables."""

from __future__ import annotations

from typing import Any

import pytest
from huggingface_hub import WebhookInfo, WebhookWatchedItem

from webhooks.desk.comparison import Address, Row, compare
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
    """The same, as text: what is watched, its state, and the id of its webhook."""
    compared = rows(wanted, *webhooks, **others)
    return [(str(row.watched), row.state.value, row.webhook.id if row.webhook else None) for row in compared]


DATA = "dataset:me/data"
REPO_ONLY = {"type": "dataset", "name": "me/data", "domains": ["repo"]}


@pytest.mark.parametrize(
    ("wanted", "webhook", "state"),
    [
        (DATA, hook("a", DATA), "in order"),
        (DATA, hook("a", "dataset:Me/Data"), "in order"),
        ("dataset:Me/DATA", hook("a", DATA), "in order"),
        (DATA, hook("a", "model:me/model", DATA), "in order"),
        (DATA, hook("a", DATA, url=f"https://hooks.example.com{TRAIN}"), "in order"),
        (DATA, hook("a", DATA, url=f"https://ME-hooks.hf.space{TRAIN}/?a=1"), "in order"),
        (REPO_ONLY, hook("a", DATA, domains=("repo",)), "in order"),
        (REPO_ONLY, hook("a", DATA), "in order"),
        (DATA, hook("a", "user:me"), "in order"),
        (DATA, hook("a", "org:ME"), "in order"),
        ("user:me", hook("a", "user:Me"), "in order"),
        (DATA, hook("a", DATA, domains=("repo",)), "other domains"),
        (REPO_ONLY, hook("a", DATA, domains=("discussion",)), "other domains"),
        (DATA, hook("a", DATA, disabled=True), "disabled"),
        (DATA, hook("a", DATA, disabled="suspended-after-failure"), "disabled"),
        (DATA, hook("a", DATA, domains=("repo",), disabled=True), "disabled"),
        (DATA, hook("a", DATA, url=OLD_TUNNEL), "at another address"),
        (DATA, hook("a", DATA, url=OLD_TUNNEL, disabled=True), "at another address"),
        (DATA, hook("a", DATA, url=HERE.replace("https:", "http:")), "at another address"),
        (DATA, hook("a", DATA, url=f"https://old-name.example.com{TRAIN}"), "at another address"),
    ],
)
def test_a_webhook_for_what_a_handler_wants_is_found_in_whatever_state_it_is(
    wanted: Any, webhook: WebhookInfo, state: str
) -> None:
    row = rows(wanted, webhook)[0]
    assert (row.endpoint, row.watched, row.state.value) == (TRAIN, read_watched(wanted)[0], state)
    assert row.webhook is webhook


@pytest.mark.parametrize(
    "webhook",
    [
        hook("a", "model:me/data", url=OLD_TUNNEL),
        hook("a", "dataset:me/data-2", url=OLD_TUNNEL),
        hook("a", "user:m", url=OLD_TUNNEL),
        hook("a", "user:me", url=OLD_TUNNEL),  # only a webhook for the very thing is offered to be changed
        hook("a", DATA, url="https://0a1b2c.gradio.live/webhooks/evaluate"),
        hook("a", DATA, url="https://0a1b2c.gradio.live/app/webhooks/train"),
        hook("a", DATA, url=None),
        hook("a", DATA, url=f"https://[me-hooks.hf.space{TRAIN}"),
    ],
)
def test_what_has_no_webhook_is_missing(webhook: WebhookInfo) -> None:
    assert told(DATA) == [(DATA, "missing", None)]
    assert told(DATA, webhook) == [(DATA, "missing", None)]


@pytest.mark.parametrize(
    ("wanted", "webhooks", "state", "lacks"),
    [
        (DATA, [], "missing", BOTH),
        (REPO_ONLY, [], "missing", ("repo",)),
        (DATA, [hook("a", DATA, domains=("repo",))], "other domains", ("discussion",)),
        (DATA, [hook("a", DATA, domains=("discussion",), disabled=True)], "disabled", BOTH),
        # What one for the whole user does not tell is missing: nobody wants it of all the user's repositories.
        (DATA, [hook("a", "user:me", domains=("repo",))], "missing", ("discussion",)),
        (DATA, [hook("a", DATA, domains=("repo",)), hook("b", DATA, domains=("discussion",))], "in order", ()),
        (DATA, [hook("a", DATA, domains=("repo",)), hook("b", "user:me", domains=BOTH)], "in order", ()),
    ],
)
def test_what_is_lacking_is_counted_over_all_webhooks(
    wanted: Any, webhooks: list[WebhookInfo], state: str, lacks: tuple[str, ...]
) -> None:
    row = rows(wanted, *webhooks)[0]
    assert (row.state.value, row.lacks) == (state, lacks)


@pytest.mark.parametrize(
    ("webhooks", "state", "id"),
    [
        ([hook("off", DATA, disabled=True), hook("on", DATA)], "in order", "on"),
        ([hook("away", DATA, url=OLD_TUNNEL), hook("on", DATA)], "in order", "on"),
        ([hook("wide", "user:me"), hook("on", DATA)], "in order", "on"),
        ([hook("away", DATA, url=OLD_TUNNEL), hook("off", DATA, disabled=True)], "disabled", "off"),
        ([hook("off", DATA, disabled=True), hook("half", DATA, domains=("repo",))], "other domains", "half"),
        (
            [hook("dead", DATA, url=OLD_TUNNEL, disabled=True), hook("away", DATA, url=OLD_TUNNEL)],
            "at another address",
            "away",
        ),
    ],
)
def test_of_several_webhooks_the_one_that_is_nearest_to_what_is_wanted_counts(
    webhooks: list[WebhookInfo], state: str, id: str
) -> None:
    assert told(DATA, *webhooks)[0] == (DATA, state, id)


@pytest.mark.parametrize(
    ("wanted", "webhook", "left"),
    [
        (DATA, hook("b", "dataset:me/old"), ("dataset:me/old", "not declared")),
        (DATA, hook("b", "user:another"), ("user:another", "not declared")),
        (DATA, hook("b", url=HERE), ("None", "not declared")),
        (DATA, hook("b", DATA, url="https://hooks.example.com/webhooks/removed"), (DATA, "not declared")),
        (DATA, hook("b", DATA), (DATA, "twice")),
        (DATA, hook("b", "user:me"), ("user:me", "twice")),
        (DATA, hook("b", DATA, url=HERE.replace("https:", "http:")), (DATA, "twice")),
        (DATA, hook("b", DATA, url="https://me-hooks.hf.space/webhooks/other"), (DATA, "by hand")),
    ],
)
def test_what_points_here_and_nobody_needs_is_listed_after_the_rest(
    wanted: Any, webhook: WebhookInfo, left: tuple[str, str]
) -> None:
    assert told(wanted, hook("a", DATA), webhook, other=None) == [(DATA, "in order", "a"), (*left, "b")]


def test_a_webhook_that_calls_somebody_else_is_nobody_s_business() -> None:
    assert told(DATA, hook("a", DATA), hook("b", "dataset:me/old", url=OLD_TUNNEL)) == [(DATA, "in order", "a")]


def test_a_disabled_webhook_for_the_whole_user_tells_nothing_twice() -> None:
    assert told(DATA, hook("a", "user:me", disabled=True)) == [
        (DATA, "missing", None),
        ("user:me", "not declared", "a"),
    ]


def test_a_part_of_what_is_wanted_is_not_the_whole() -> None:
    assert told("user:me", hook("a", DATA)) == [("user:me", "missing", None), (DATA, "not declared", "a")]


def test_it_is_seen_whether_a_handler_needs_the_webhook_for_something_else() -> None:
    compared = rows(DATA, hook("a", DATA, "dataset:me/old"), hook("b", "dataset:me/older"))
    assert [(str(row.watched), row.needed) for row in compared] == [
        (DATA, True),
        ("dataset:me/old", True),
        ("dataset:me/older", False),
    ]


def test_rows_come_handler_by_handler_and_item_by_item() -> None:
    compared = rows([DATA, "user:me"], evaluate=["model:me/model"], by_hand=None)
    assert [(row.endpoint, str(row.watched)) for row in compared] == [
        (TRAIN, DATA),
        (TRAIN, "user:me"),
        ("/webhooks/evaluate", "model:me/model"),
    ]


def test_a_setting_that_changes_shows_as_a_difference() -> None:
    registered = hook("a", DATA, domains=("repo",))
    declared = {"type": "dataset", "domains": ["repo"]}
    assert told({**declared, "name": "me/data"}, registered) == [(DATA, "in order", "a")]
    assert told({**declared, "name": "me/new-data"}, registered) == [
        ("dataset:me/new-data", "missing", None),
        (DATA, "not declared", "a"),
    ]


def test_a_webhook_at_another_address_tells_nothing_twice() -> None:
    """One that is for all of the user's, and disabled, is not told of by an old tunnel's."""
    compared = told(DATA, hook("a", DATA, url=OLD_TUNNEL), hook("b", "user:me", disabled=True))
    assert compared == [(DATA, "at another address", "a"), ("user:me", "not declared", "b")]
