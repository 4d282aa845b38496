"""Sample events have the form of the Hub's own."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from support.payloads import load

from webhooks import WebhookPayload
from webhooks.samples import KINDS, REPO_TYPES, sample

NAME, REVISION = "username/my-dataset", "8d2c41f07be35a96e1f4c0d97b6a28e35f1c9d04"
FIXTURES = {
    "commit": "repo.content-update",
    "pull_request_commit": "repo.content-update-pull-request",
    "tag": "repo.content-update-tag",
    "branch_deleted": "repo.content-update-deleted-branch",
    "discussion": "discussion-create",
    "discussion_closed": "discussion-delete",
    "discussion_deleted": "discussion-delete",
    "pull_request": "discussion-create-pull-request",
    "pull_request_merged": "discussion-update-merged",
    "comment": "discussion.comment-create",
    "comment_hidden": "discussion.comment-update-hidden",
    "repo_created": "repo-create",
    "repo_moved": "repo-move",
    "repo_deleted": "repo-delete",
    "made_private": "repo.config-update-private",
}
OPTIONAL = ("repo.tags", "repo.subdomain")  # fields that the Hub sends sometimes


def shape(value: Any, path: str = "") -> dict[str, str]:
    """Return the type of each field of a payload."""
    if isinstance(value, dict):
        inner = [shape(part, f"{path}.{name}".lstrip(".")) for name, part in value.items()]
        return {path: "object", **{name: type for part in inner for name, type in part.items()}}
    if isinstance(value, list):
        return {path: "list", **(shape(value[0], path + "[]") if value else {})}
    return {path: type(value).__name__}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_has_the_fields_of_the_hubs(kind: str) -> None:
    recorded = load(FIXTURES[kind])
    fields = {path: type for path, type in shape(recorded).items() if not path.startswith(OPTIONAL)}
    for repo_type in REPO_TYPES:
        payload = sample(kind, repo_type, NAME, REVISION)
        assert shape(payload) == fields
        if kind != "discussion_closed":  # no fixture of its own
            assert payload["event"] == recorded["event"]


@pytest.mark.parametrize(("kind", "repo_type"), list(itertools.product(KINDS, REPO_TYPES)))
def test_only_a_commit_on_main_is_new_content(kind: str, repo_type: str) -> None:
    payload = WebhookPayload.model_validate_json(json.dumps(sample(kind, repo_type, NAME, REVISION)))
    assert payload.updates(repo_type, NAME) is (kind == "commit")
    assert payload.revision() == (REVISION if kind == "commit" else None)
    assert payload.updates(repo_type, NAME, "refs/pr/1") is (kind == "pull_request_commit")
    assert not payload.updates(repo_type, "username/another")
    assert payload.repo.private == (kind == "made_private")


def test_a_model_without_an_owner_has_events() -> None:
    assert sample("commit", "model", "gpt2")["repo"]["name"] == "gpt2"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("comments", "dataset", NAME), "^There is no kind of event .* Choose one of: commit, .*, made_private"),
        (("comment", "datasets", NAME), "^There is no type of repository .* dataset, model, space, bucket"),
        (("comment", "dataset", "a/b/c"), "^The repository must be a name like username/my-dataset"),
        (("comment", "dataset", NAME, "main"), "^The revision must be a full commit hash, 40 hexadecimal"),
    ],
)
def test_a_wrong_argument_is_refused_with_a_sentence(arguments: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        sample(*arguments)
