"""What a handler declares with `watched=`."""

from __future__ import annotations

from typing import Any

import pytest
from huggingface_hub import WebhookWatchedItem

from webhooks import SetupError, WebhooksServer
from webhooks.watched import Watched

DATA = Watched("dataset", "me/data", ("repo", "discussion"))


def watched(given: Any) -> tuple[Watched, ...]:
    server = WebhooksServer()
    server.add_webhook("/train", watched=given)(lambda: None)
    return server.watched["/webhooks/train"]


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (None, ()),
        ("dataset:me/data", (DATA,)),
        ({"type": "dataset", "name": "me/data"}, (DATA,)),
        ((WebhookWatchedItem("dataset", "me/data"), "user:me"), (DATA, Watched("user", "me"))),
        ({"type": "dataset", "name": "me/data", "domains": "repo"}, (Watched("dataset", "me/data", ("repo",)),)),
        ("model:bert-base-uncased", (Watched("model", "bert-base-uncased"),)),
    ],
    ids=str,
)
def test_each_form_of_the_hubs_client_is_read(given: Any, read: object) -> None:
    assert watched(given) == read


@pytest.mark.parametrize(
    "given",
    [
        "me/data",
        {"type": "dataset"},
        {"type": "dataset", "name": "me/data", "domain": "repo"},
        ["dataset:me/data", "file:me/data"],
        "dataset:me/data/train",
        "user:me/data",
        {"type": "user", "name": "me", "domains": ["repos"]},
    ],
    ids=str,
)
def test_an_unknown_item_is_refused_with_an_example(given: Any) -> None:
    with pytest.raises(SetupError, match=r"^No webhook can watch .*: write it as"):
        watched(given)
