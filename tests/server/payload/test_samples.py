"""Test events: as the Hub would send them, and nothing else can be made of them."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from support.payloads import load

from webhooks.payload import parse_payload
from webhooks.samples import KINDS, REPO_TYPES, sample

pytestmark = pytest.mark.once

NAME, REVISION = "username/my-dataset", "8d2c41f07be35a96e1f4c0d97b6a28e35f1c9d04"
EACH = list(itertools.product(KINDS, REPO_TYPES))
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
SOMETIMES = {"repo.tags", "repo.subdomain"}  # in a payload of the Hub's


@pytest.mark.parametrize(("kind", "repo_type"), EACH)
def test_each_kind_of_event_is_a_payload_about_that_repository(kind: str, repo_type: str) -> None:
    payload = parse_payload(json.dumps(sample(kind, repo_type, NAME, REVISION)).encode())
    assert (payload.repo.type, payload.repo.name) == (repo_type, NAME)
    assert payload.webhook.version == 3
    assert payload.repo.private == (kind == "made_private")
    if not payload.event.scope.startswith("repo"):
        assert payload.repo.head_sha is None
    elif kind in ("pull_request_commit", "branch_deleted"):  # main is where it was
        assert payload.repo.head_sha not in (None, REVISION)
    else:
        assert payload.repo.head_sha == REVISION


@pytest.mark.parametrize(("kind", "repo_type"), EACH)
def test_only_a_new_commit_on_main_is_new_content(kind: str, repo_type: str) -> None:
    payload = parse_payload(json.dumps(sample(kind, repo_type, NAME, REVISION)).encode())
    is_commit = kind == "commit"
    assert payload.updates(repo_type, NAME) is is_commit
    assert payload.revision() == (REVISION if is_commit else None)
    assert not any(payload.updates(other, NAME) for other in REPO_TYPES if other != repo_type)
    assert not payload.updates(repo_type, "username/another")
    assert payload.updates(repo_type, NAME, "refs/pr/1") is (kind == "pull_request_commit")


CONTENT = [("repo.content", "update"), ("repo", "update")]
MATCHES = {
    "commit": CONTENT,
    "pull_request_commit": CONTENT,
    "tag": CONTENT,
    "branch_deleted": CONTENT,
    "discussion": [("discussion", "create")],
    "discussion_closed": [("discussion", "update")],
    "discussion_deleted": [("discussion", "delete")],
    "pull_request": [("discussion", "create")],
    "pull_request_merged": [("discussion", "update")],
    "comment": [("discussion.comment", "create"), ("discussion", "update")],
    "comment_hidden": [("discussion.comment", "update"), ("discussion", "update")],
    "repo_created": [("repo", "create")],
    "repo_moved": [("repo", "move")],
    "repo_deleted": [("repo", "delete")],
    "made_private": [("repo.config", "update"), ("repo", "update")],
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_matches_what_it_says_and_nothing_else(kind: str) -> None:
    event = parse_payload(json.dumps(sample(kind, "model", NAME)).encode()).event
    scopes = ("repo", "repo.content", "repo.config", "discussion", "discussion.comment")
    actions = ("create", "update", "delete", "move")
    matched = [pair for pair in itertools.product(scopes, actions) if event.matches(*pair)]
    assert sorted(matched) == sorted(MATCHES[kind])


def test_a_pull_request_a_comment_a_move_and_a_setting_say_what_happened() -> None:
    pull_request = sample("pull_request", "model", NAME)
    assert pull_request["discussion"]["isPullRequest"] is True
    assert pull_request["discussion"]["changes"] == {"base": "refs/heads/main"}
    assert sample("comment", "model", NAME)["discussion"]["isPullRequest"] is False
    assert sample("repo_moved", "model", NAME)["movedTo"]["name"] not in ("", NAME)
    assert sample("made_private", "model", NAME)["updatedConfig"] == {"private": True}


def shape(value: Any, path: str = "") -> dict[str, str]:
    """Name every field of a payload, and the type of what is in it."""
    if isinstance(value, dict):
        inner = [shape(part, f"{path}.{name}".lstrip(".")) for name, part in value.items()]
        return {path: "object", **{name: type for part in inner for name, type in part.items()}}
    if isinstance(value, list):
        return {path: "list", **(shape(value[0], path + "[]") if value else {})}
    return {path: type(value).__name__}


def without(fields: dict[str, str], prefixes: set[str]) -> dict[str, str]:
    return {path: type for path, type in fields.items() if not path.startswith(tuple(prefixes))}


@pytest.mark.parametrize(("kind", "repo_type"), EACH)
def test_each_kind_has_the_fields_that_the_hub_s_has(kind: str, repo_type: str) -> None:
    recorded = without(shape(load(FIXTURES[kind])), SOMETIMES)
    assert len(recorded) > 10
    assert shape(sample(kind, repo_type, NAME)) == recorded


@pytest.mark.parametrize(
    ("repo_type", "web", "api"),
    [
        ("model", "https://huggingface.co/username/my-dataset", "models"),
        ("dataset", "https://huggingface.co/datasets/username/my-dataset", "datasets"),
        ("space", "https://huggingface.co/spaces/username/my-dataset", "spaces"),
        ("bucket", "https://huggingface.co/buckets/username/my-dataset", "buckets"),
    ],
)
def test_the_addresses_are_those_of_the_type(repo_type: str, web: str, api: str) -> None:
    for kind in KINDS:
        payload = sample(kind, repo_type, NAME)
        assert payload["repo"]["url"] == {"web": web, "api": f"https://huggingface.co/api/{api}/{NAME}"}
        if "discussion" in payload:
            assert payload["discussion"]["url"] == {
                "web": f"{web}/discussions/1",
                "api": f"https://huggingface.co/api/{api}/{NAME}/discussions/1",
            }


def test_without_a_revision_there_still_is_one_that_looks_like_it() -> None:
    payload = sample("commit", "dataset", NAME)
    (updated,) = payload["updatedRefs"]
    assert payload["repo"]["headSha"] == updated["newSha"] != updated["oldSha"]
    for revision in (updated["newSha"], updated["oldSha"]):
        assert sample("commit", "dataset", NAME, revision)["updatedRefs"][0]["newSha"] == revision


@pytest.mark.parametrize(
    "name", ["username/my-dataset", "u/d", "User-1/a.b_c-d", f"{'u' * 96}/{'d' * 96}", "1/2", "acme/v1.0"]
)
def test_a_name_as_the_hub_has_them_is_taken(name: str) -> None:
    assert sample("comment", "dataset", name)["repo"]["name"] == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "my-dataset",
        "/my-dataset",
        "username/",
        "username/my/dataset",
        "datasets/username/my-dataset",
        "https://huggingface.co/username/my-dataset",
        "../my-dataset",
        "username/..",
        "username/.",
        "../..",
        "username/my dataset",
        " username/my-dataset",
        "username/my-dataset\n",
        "username/my-dataset\x00",
        "username/\u202emy-dataset",
        "username/<script>alert(1)</script>",
        "username/'; DROP TABLE deliveries --",
        "üser/dataset",
        "username/my-dataset?a=1",
        "username/" + "d" * 97,
        "u" * 65536 + "/d",
    ],
)
def test_a_name_that_no_repository_has_is_refused_with_a_sentence(name: str) -> None:
    with pytest.raises(ValueError, match=r"^The repository must be a name like username/my-dataset\.$"):
        sample("comment", "dataset", name)


@pytest.mark.parametrize(
    "revision",
    ["main", "refs/heads/main", "8d2c41f", "8" * 39, "8" * 41, "g" * 40, REVISION.upper(), REVISION + "\n", "٣" * 40],
)
def test_a_revision_that_no_commit_has_is_refused_with_a_sentence(revision: str) -> None:
    sentence = r"^The revision must be a full commit hash, 40 hexadecimal digits, or empty\.$"
    with pytest.raises(ValueError, match=sentence):
        sample("comment", "dataset", NAME, revision)


@pytest.mark.parametrize("kind", ["", "Comment", "comments", "new commit on main"])
def test_a_kind_that_does_not_exist_is_refused_with_those_that_do(kind: str) -> None:
    with pytest.raises(ValueError, match=r"^There is no kind of event .* Choose one of: commit, .*, made_private\.$"):
        sample(kind, "dataset", NAME)


@pytest.mark.parametrize("repo_type", ["", "user", "datasets"])
def test_a_type_that_does_not_exist_is_refused_with_those_that_do(repo_type: str) -> None:
    with pytest.raises(ValueError, match=r"^There is no type of repository .* dataset, model, space, bucket\.$"):
        sample("comment", repo_type, NAME)
