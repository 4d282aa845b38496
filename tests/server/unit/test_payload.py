"""Each event of the Hub is read whole, under the names that huggingface_hub gives it."""

from __future__ import annotations

import json

import pytest
from huggingface_hub import _webhooks_payload as hub
from pydantic import BaseModel
from support.payloads import FIXTURES, load

import webhooks
from webhooks import WebhookPayload, WebhookPayloadEvent
from webhooks.payload import parse_payload

EVENTS = sorted(path.stem for path in FIXTURES.glob("*.json"))
DATASET, MODEL, MAIN = "username/my-dataset", "username/my-model", "refs/heads/main"
COMMIT = "8d2c41f07be35a96e1f4c0d97b6a28e35f1c9d04"


def read(name: str) -> WebhookPayload:
    return WebhookPayload.model_validate(load(name))


@pytest.mark.parametrize("name", EVENTS)
def test_an_event_is_read_whole(name: str) -> None:
    text = (FIXTURES / f"{name}.json").read_text(encoding="utf-8")
    payload = WebhookPayload.model_validate_json(text)
    assert payload.model_dump(by_alias=True, exclude_unset=True) == json.loads(text)
    assert json.loads(payload.model_dump_json(by_alias=True, exclude_unset=True)) == json.loads(text)


# --- the names of huggingface_hub


def hub_models() -> list[type[BaseModel]]:
    models = [model for model in vars(hub).values() if isinstance(model, type) and issubclass(model, BaseModel)]
    return [model for model in models if model is not BaseModel]


@pytest.mark.parametrize("theirs", hub_models(), ids=lambda model: model.__name__)
def test_each_model_has_the_fields_of_the_hubs(theirs: type[BaseModel]) -> None:
    ours = getattr(webhooks, theirs.__name__)
    assert set(theirs.model_fields) <= set(ours.model_fields)
    required = {name for name, field in theirs.model_fields.items() if field.is_required()}
    assert required == {name for name, field in ours.model_fields.items() if field.is_required()}


# --- required and optional fields


def test_half_an_emoji_becomes_a_question_mark() -> None:
    body = load("discussion-create")
    body["discussion"]["title"] = "cut \ud83e here, whole 🤗 there"
    raw = json.dumps(body).encode()
    assert b"\\ud83e" in raw
    assert parse_payload(raw).discussion.title == "cut ? here, whole 🤗 there"


# --- event.matches and updates


@pytest.mark.parametrize(
    ("scope", "action", "asked", "answer"),
    [
        ("repo.content", "update", ("repo.content", "update"), True),
        ("repo.content", "update", ("repo",), True),
        ("repo.content", "update", ("repo", "create"), False),
        ("repo.content", "update", ("repo.config",), False),
        ("repo", "create", ("repo", "update"), False),
        ("repo", "update", ("repo.content",), False),
        # Any action on a narrower scope is an update of the broader scope.
        ("repo.config.dois", "publish", ("repo.config.dois", "update"), False),
        ("repo.config.dois", "publish", ("repo.config", "update"), True),
        ("discussion.comment", "create", ("discussion", "update"), True),
        # A scope ends at a dot, not within a word.
        ("repo2.content", "update", ("repo",), False),
    ],
)
def test_an_event_matches_its_scope_and_broader_ones(
    scope: str, action: str, asked: tuple[str, ...], answer: bool
) -> None:
    assert WebhookPayloadEvent(scope=scope, action=action).matches(*asked) is answer


@pytest.mark.parametrize(
    ("name", "asked", "answer"),
    [
        ("", ("dataset", DATASET), True),
        ("", ("dataset",), True),
        ("", ("dataset", "UserName/My-Dataset"), True),
        ("", ("model", DATASET), False),
        ("", ("dataset", DATASET, "refs/heads/dev"), False),
        ("-model", ("model", MODEL), True),
        ("-pull-request", ("dataset", DATASET), False),
        ("-pull-request", ("dataset", DATASET, "refs/pr/3"), True),
        ("-tag", ("dataset", DATASET), False),
        ("-tag", ("dataset", DATASET, "refs/tags/v1.0"), True),
        ("-deleted-branch", ("dataset", DATASET), False),
        ("-deleted-branch", ("dataset", DATASET, "refs/heads/experiment"), False),
    ],
)
def test_new_content_is_a_commit_on_that_ref(name: str, asked: tuple[str, ...], answer: bool) -> None:
    payload = read(f"repo.content-update{name}")
    assert payload.updates(*asked) is answer
    if answer:
        assert payload.revision(*asked[2:]) == payload.updatedRefs[0].newSha


@pytest.mark.parametrize("name", [name for name in EVENTS if not name.startswith(("repo.content-", "bucket"))])
def test_another_event_is_no_new_content(name: str) -> None:
    refs = [{"ref": MAIN, "oldSha": None, "newSha": COMMIT}]
    payload = WebhookPayload.model_validate({**load(name), "updatedRefs": refs})
    assert not payload.updates(payload.repo.type)
    assert payload.revision() is None


def test_one_push_can_update_several_refs() -> None:
    content = load("repo.content-update")
    content["event"] = {"scope": "repo.content.files", "action": "create"}  # a narrower scope
    content["updatedRefs"] = [
        {"ref": "refs/heads/old", "oldSha": "1", "newSha": None},
        {"ref": "refs/pr/3", "oldSha": "1", "newSha": "2"},
        {"ref": MAIN, "oldSha": "1", "newSha": "3"},
    ]
    payload = WebhookPayload.model_validate(content)
    assert [payload.revision(ref) for ref in ("refs/heads/old", "refs/pr/3", MAIN)] == [None, "2", "3"]
    assert not WebhookPayload.model_validate({**content, "updatedRefs": None}).updates("dataset", DATASET)
