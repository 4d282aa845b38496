"""What the Hub sends is read whole, under the names that huggingface_hub gives it."""

from __future__ import annotations

import copy
import json
import warnings
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import _webhooks_payload as hub
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError
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
def test_an_event_is_read_and_nothing_of_it_is_lost(name: str) -> None:
    text = (FIXTURES / f"{name}.json").read_text(encoding="utf-8")
    payload = WebhookPayload.model_validate_json(text)
    assert payload.model_dump(by_alias=True, exclude_unset=True) == json.loads(text)
    assert json.loads(payload.model_dump_json(by_alias=True, exclude_unset=True)) == json.loads(text)


def test_an_event_from_the_future_shows_what_is_new_in_it() -> None:
    payload: Any = read("repo.config.dois-publish")
    assert (payload.webhook.version, payload.event.action) == (4, "publish")
    assert payload.sentAt == "2027-01-01T00:00:00.000Z"
    assert payload.repo.region == "eu"
    assert payload.discussion.author.kind == "bot"
    assert payload.updatedRefs[0].signed is True


# --- the names of huggingface_hub


def hub_can_read(name: str) -> bool:
    try:
        huggingface_hub.WebhookPayload.model_validate(load(name))
    except ValidationError:
        return False
    return True


READABLE_BY_HUB = list(filter(hub_can_read, EVENTS))


def has_equal_values(theirs: Any, ours: Any) -> bool:
    if isinstance(theirs, BaseModel):
        names = type(theirs).model_fields
        return all(has_equal_values(getattr(theirs, name), getattr(ours, name)) for name in names)
    if isinstance(theirs, list):
        return len(theirs) == len(ours) and all(map(has_equal_values, theirs, ours))
    return bool(theirs == ours)


def hub_models() -> list[type[BaseModel]]:
    models = [model for model in vars(hub).values() if isinstance(model, type) and issubclass(model, BaseModel)]
    return [model for model in models if model is not BaseModel]


@pytest.mark.parametrize("theirs", hub_models(), ids=lambda model: model.__name__)
def test_every_model_of_huggingface_hub_is_here_with_all_its_fields(theirs: type[BaseModel]) -> None:
    ours = getattr(webhooks, theirs.__name__)
    assert set(theirs.model_fields) <= set(ours.model_fields)
    required = {name for name, field in theirs.model_fields.items() if field.is_required()}
    assert required == {name for name, field in ours.model_fields.items() if field.is_required()}


@pytest.mark.parametrize("name", READABLE_BY_HUB)
def test_the_values_are_those_that_huggingface_hub_reads(name: str) -> None:
    content = load(name)
    repo = content["repo"]
    # Its model waits for "head_sha", which the Hub does not send.
    renamed = {**content, "repo": {**repo, "head_sha": repo["headSha"]} if "headSha" in repo else repo}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert has_equal_values(huggingface_hub.WebhookPayload.model_validate(renamed), read(name))


def test_what_huggingface_hub_refuses_is_read_here_too() -> None:
    assert set(EVENTS) - set(READABLE_BY_HUB) <= {"bucket-update", "repo.config.dois-publish"}
    assert read("bucket-update").repo.type == "bucket"


def test_the_last_commit_is_read_under_both_its_names() -> None:
    repo = read("repo.content-update").repo
    assert repo.head_sha == repo.headSha == COMMIT


@pytest.mark.parametrize("name", [name for name in EVENTS if name.startswith("discussion")])
def test_a_discussion_has_no_last_commit(name: str) -> None:
    repo = read(name).repo
    assert repo.head_sha is repo.headSha is None


def test_a_model_can_be_made_by_the_python_names() -> None:
    content = read("repo.content-update").repo.model_dump()
    assert webhooks.WebhookPayloadRepo(**content).head_sha == content["head_sha"] == COMMIT


@pytest.mark.parametrize(("name", "config"), [("private", {"private": True}), ("empty", {})])
def test_a_changed_setting_is_shown(name: str, config: dict[str, Any]) -> None:
    assert read(f"repo.config-update-{name}").updatedConfig == config


def test_a_hidden_comment_has_no_content() -> None:
    comment = read("discussion.comment-update-hidden").comment
    assert comment is not None
    assert (comment.hidden, comment.content) == (True, None)


# --- what has to be there, and what may come along


def without(content: Any, path: str) -> Any:
    content = copy.deepcopy(content)
    *parents, last = (int(key) if key.isdigit() else key for key in path.split("."))
    part = content
    for key in parents:
        part = part[key]
    del part[last]
    return content


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("repo.content-update", "event event.action event.scope webhook webhook.id webhook.version updatedRefs.0.ref"),
        ("repo.content-update", "repo repo.type repo.name repo.id repo.private repo.url.web repo.owner repo.owner.id"),
        ("repo-move", "movedTo.name movedTo.owner movedTo.owner.id"),
        ("discussion-create", "discussion.id discussion.num discussion.title discussion.status discussion.author"),
        ("discussion-create", "discussion.isPullRequest discussion.url discussion.url.web discussion.author.id"),
        ("discussion-create", "comment.id comment.author comment.hidden comment.url comment.url.web"),
        ("discussion-create-pull-request", "discussion.changes.base"),
    ],
)
def test_a_payload_without_a_required_field_is_refused_by_its_name(name: str, fields: str) -> None:
    for field in fields.split():
        with pytest.raises(ValidationError) as refused:
            WebhookPayload.model_validate(without(load(name), field))
        assert [".".join(map(str, error["loc"])) for error in refused.value.errors()] == [field]


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("repo.content-update", "repo.headSha repo.tags repo.url.api updatedRefs updatedRefs.0.oldSha"),
        ("repo.config-update-private", "updatedConfig"),
        ("repo-update", "repo.subdomain"),
        ("discussion-create", "discussion comment comment.content discussion.url.api discussion.pinned"),
        ("discussion-update-merged", "discussion.changes discussion.changes.mergeCommitId"),
        ("repo-move", "movedTo"),
    ],
)
def test_a_payload_without_an_optional_field_is_read(name: str, fields: str) -> None:
    for field in fields.split():
        content = without(load(name), field)
        assert WebhookPayload.model_validate(content).model_dump(by_alias=True, exclude_unset=True) == content


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3),
    max_leaves=5,
)
NAMES = st.text(max_size=8) | st.sampled_from(
    ["updates", "revision", "matches", "model_dump", "__class__", "self", "ref"]
)
KNOWN = {field.alias or name for model in hub_models() for name, field in model.model_fields.items()}
KNOWN |= {"headSha", "head_sha", "updatedConfig"}
EXTRAS = st.dictionaries(NAMES.filter(lambda name: name not in KNOWN), JSON, max_size=3)


def with_extras(content: Any, draw: st.DataObject) -> Any:
    if isinstance(content, list):
        return [with_extras(item, draw) for item in content]
    if not isinstance(content, dict):
        return content
    return {name: with_extras(value, draw) for name, value in content.items()} | draw.draw(EXTRAS)


@pytest.mark.long
@given(st.sampled_from(["repo.content-update", "discussion-create-pull-request", "repo-move"]), st.data())
def test_unknown_fields_at_any_level_survive_and_change_nothing(name: str, draw: st.DataObject) -> None:
    content = with_extras(load(name), draw)
    payload = WebhookPayload.model_validate_json(json.dumps(content))
    assert payload.model_dump(by_alias=True, exclude_unset=True) == content
    assert payload.updates("dataset", DATASET) == (name == "repo.content-update")


# --- the two questions that handlers ask


@pytest.mark.parametrize(
    ("scope", "action", "asked", "answer"),
    [
        ("repo.content", "update", ("repo.content", "update"), True),
        ("repo.content", "update", ("repo.content",), True),
        ("repo.content", "update", ("repo", "update"), True),
        ("repo.content", "update", ("repo",), True),
        ("repo.content", "update", ("repo", "create"), False),
        ("repo.content", "update", ("repo.content", "create"), False),
        ("repo.content", "update", ("repo.config",), False),
        ("repo.content", "update", ("repo.cont",), False),
        ("repo.content", "update", ("content",), False),
        ("repo.content", "update", ("discussion",), False),
        ("repo", "create", ("repo", "create"), True),
        ("repo", "create", ("repo", "update"), False),
        ("repo", "update", ("repo.content",), False),
        ("repo", "update", ("",), False),
        # Scopes and actions that are not known yet: any action on a narrower scope is an update of the broader.
        ("repo.config.dois", "publish", ("repo.config.dois", "publish"), True),
        ("repo.config.dois", "publish", ("repo.config.dois", "update"), False),
        ("repo.config.dois", "publish", ("repo.config", "update"), True),
        ("repo.config.dois", "create", ("repo", "update"), True),
        ("repo.config.dois", "create", ("repo.config", "create"), False),
        ("repo.config.dois", "create", ("repo.content",), False),
        ("discussion.comment", "create", ("discussion.comment", "create"), True),
        ("discussion.comment", "create", ("discussion", "create"), False),
        ("discussion.comment", "create", ("discussion", "update"), True),
        # A dot ends a scope; a word that only begins with one is another.
        ("repository", "update", ("repo",), False),
        ("repo2", "update", ("repo",), False),
        ("repo2.content", "update", ("repo",), False),
    ],
)
def test_an_event_matches_its_scope_and_the_broader_ones(
    scope: str, action: str, asked: tuple[str, ...], answer: bool
) -> None:
    event = WebhookPayloadEvent(scope=scope, action=action)
    assert event.matches(*asked) is answer
    assert event.matches(scope=asked[0], action=asked[1] if len(asked) > 1 else None) is answer


def test_a_commit_to_main_is_new_content() -> None:
    payload = read("repo.content-update")
    assert payload.updates("dataset", DATASET)
    assert payload.updates("dataset")
    assert payload.updates("dataset", "UserName/My-Dataset")
    assert payload.revision() == COMMIT


def test_a_commit_to_another_repository_or_ref_is_no_new_content_here() -> None:
    payload = read("repo.content-update")
    assert not payload.updates("model", DATASET)
    assert not payload.updates("dataset", MODEL)
    assert not payload.updates("dataset", "my-dataset")
    assert not payload.updates("dataset", DATASET, ref="refs/heads/dev")
    assert not payload.updates("dataset", DATASET, ref="main")
    assert payload.revision("refs/heads/dev") is None


def test_a_model_is_new_content_at_the_pushed_revision() -> None:
    payload = read("repo.content-update-model")
    assert payload.updates("model", MODEL)
    assert payload.revision() == payload.repo.head_sha
    assert not payload.updates("dataset", MODEL)


def test_a_pull_request_is_no_new_content_on_main() -> None:
    payload = read("repo.content-update-pull-request")
    assert not payload.updates("dataset", DATASET)
    assert payload.revision() is None
    assert payload.updates("dataset", DATASET, ref="refs/pr/3")
    assert not payload.updates("dataset", DATASET, ref="refs/pr/33")


def test_a_tag_is_no_new_content_on_main() -> None:
    payload = read("repo.content-update-tag")
    assert not payload.updates("dataset", DATASET)
    assert payload.revision("refs/tags/v1.0") == COMMIT


def test_a_deleted_branch_is_no_new_content_anywhere() -> None:
    payload = read("repo.content-update-deleted-branch")
    assert not payload.updates("dataset", DATASET)
    assert not payload.updates("dataset", DATASET, ref="refs/heads/experiment")
    assert payload.revision("refs/heads/experiment") is None


@pytest.mark.parametrize("name", [name for name in EVENTS if not name.startswith(("repo.content-", "bucket"))])
def test_an_event_about_something_else_is_no_new_content_whatever_refs_it_lists(name: str) -> None:
    content = load(name)
    content["updatedRefs"] = [{"ref": MAIN, "oldSha": None, "newSha": COMMIT}]
    payload = WebhookPayload.model_validate(content)
    assert not payload.updates(payload.repo.type)
    assert payload.revision() is None


@pytest.mark.parametrize("refs", [None, []])
def test_a_push_without_refs_is_no_new_content(refs: list[Any] | None) -> None:
    payload = WebhookPayload.model_validate({**load("repo.content-update"), "updatedRefs": refs})
    assert not payload.updates("dataset", DATASET)


def test_one_push_can_bring_new_content_to_several_refs() -> None:
    content = load("repo.content-update")
    content["updatedRefs"] = [
        {"ref": "refs/heads/old", "oldSha": "1", "newSha": None},
        {"ref": "refs/pr/3", "oldSha": "1", "newSha": "2"},
        {"ref": MAIN, "oldSha": "1", "newSha": "3"},
    ]
    payload = WebhookPayload.model_validate(content)
    assert [payload.revision(ref) for ref in ("refs/heads/old", "refs/pr/3", MAIN)] == [None, "2", "3"]


def test_a_narrower_scope_of_content_is_new_content_too() -> None:
    content = load("repo.content-update")
    content["event"] = {"scope": "repo.content.files", "action": "create"}
    assert WebhookPayload.model_validate(content).updates("dataset", DATASET)


def test_a_title_cut_within_an_emoji_is_mended_rather_than_lost() -> None:
    body = load("discussion-create")
    body["discussion"]["title"] = "cut \ud83e here, whole 🤗 there"
    raw = json.dumps(body).encode()
    assert b"\\ud83e" in raw
    assert parse_payload(raw).discussion.title == "cut ? here, whole 🤗 there"
