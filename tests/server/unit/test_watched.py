"""What a handler says that it wants to hear of."""

from __future__ import annotations

from typing import Any

import pytest
from huggingface_hub import WebhookWatchedItem

from webhooks import SetupError, WebhooksServer, webhook_endpoint
from webhooks.autostart import shared_server
from webhooks.watched import WATCHABLE, Watched, first_repository

DATA = Watched("dataset", "me/data", ("repo", "discussion"))


def handler() -> None: ...


def watched(given: Any) -> tuple[Watched, ...]:
    server = WebhooksServer()
    server.add_webhook("/train", watched=given)(handler)
    return server.watched["/webhooks/train"]


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (None, ()),
        ([], ()),
        ("dataset:me/data", (DATA,)),
        (["dataset:me/data"], (DATA,)),
        ({"type": "dataset", "name": "me/data"}, (DATA,)),
        ([{"type": "dataset", "name": "me/data"}], (DATA,)),
        (WebhookWatchedItem("dataset", "me/data"), (DATA,)),
        ((WebhookWatchedItem("dataset", "me/data"), "user:me"), (DATA, Watched("user", "me"))),
        (DATA, (DATA,)),
        ({"type": "dataset", "name": "me/data", "domains": ["repo"]}, (Watched("dataset", "me/data", ("repo",)),)),
        ({"type": "dataset", "name": "me/data", "domains": "repo"}, (Watched("dataset", "me/data", ("repo",)),)),
        ({"type": "dataset", "name": "me/data", "domains": ("discussion", "repo")}, (DATA,)),
        ("dataset:Me/Data.v1", (Watched("dataset", "Me/Data.v1"),)),
        ("model:bert-base-uncased", (Watched("model", "bert-base-uncased"),)),
        (["dataset:me/data", "dataset:me/data"], (DATA,)),
        (
            [{"type": "user", "name": "Me", "domains": ["discussion"]}, "model:me/a", "user:me"],
            (Watched("user", "me"), Watched("model", "me/a")),
        ),
    ],
)
def test_one_or_several_are_read_in_each_form_that_the_hub_s_client_takes(given: Any, read: object) -> None:
    assert watched(given) == read


@pytest.mark.parametrize("kind", WATCHABLE)
def test_everything_that_the_hub_can_watch_can_be_declared(kind: str) -> None:
    assert [str(item) for item in watched(f"{kind}:me")] == [f"{kind}:me"]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("me/data", "'me/data': write it as \"dataset:me/data\" or as"),
        ("", "'': write it as"),
        (7, "7: write it as"),
        ([["dataset:me/data"]], r"\['dataset:me/data'\]: write it as"),
        ({"type": "dataset"}, r"\{'type': 'dataset'\}: write it as"),
        ({"type": "dataset", "name": "me/data", "domain": "repo"}, r"\{.*'domain': 'repo'\}: write it as"),
        ("datasets:me/data", "'datasets:me/data': the type must be one of dataset, model, space, bucket, user, org"),
        (["dataset:me/data", "file:me/data"], "'file:me/data': the type"),
        ({"type": ["dataset"], "name": "me/data"}, r"\{.*\}: the type must be one of"),
        ("dataset:", "'dataset:': the name must be one as on the Hub, such as username/my-dataset"),
        ("dataset:me/data/train", "'dataset:me/data/train': the name"),
        ("dataset:https://huggingface.co/datasets/me/data", "'dataset:https://.*': the name"),
        ("dataset: me/data", "'dataset: me/data': the name"),
        ("model:me/modèle", "'model:me/modèle': the name"),
        ("user:me/data", "'user:me/data': the name must be one as on the Hub, such as username"),
        ({"type": "user", "name": None}, r"\{.*None\}: the name"),
        (
            {"type": "user", "name": "me", "domains": ["repos"]},
            "\\{.*'repos'.*: the domains must be repo or discussion, or",
        ),
        ({"type": "user", "name": "me", "domains": []}, r"\{.*\}: the domains must be"),
        ({"type": "user", "name": "me", "domains": None}, r"\{.*\}: the domains must be"),
    ],
)
def test_what_cannot_be_watched_is_refused_by_its_value(given: Any, reason: str) -> None:
    with pytest.raises(SetupError, match=r"^No webhook can watch .*: write it as"):
        watched(given)


def test_the_shared_server_takes_it_too() -> None:
    @webhook_endpoint("/hears-of-me", watched="user:me")
    def hears_of_me() -> None: ...

    shared_server().call_off_autostart()
    assert shared_server().watched["/webhooks/hears-of-me"] == (Watched("user", "me"),)


@pytest.mark.parametrize(
    ("given", "repository"),
    [
        (None, None),
        (["user:me", "org:acme"], None),
        (["user:me", "model:Me/Model", "dataset:me/data"], ("model", "Me/Model")),
        ("bucket:me/files", ("bucket", "me/files")),
    ],
)
def test_a_test_event_is_about_the_first_repository(given: Any, repository: object) -> None:
    assert first_repository(watched(given)) == repository
