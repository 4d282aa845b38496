"""What the Hub sends: pydantic models of a webhook payload, version 3.

The fields are those of the Hub's documentation (https://huggingface.co/docs/hub/webhooks), with the names of
`huggingface_hub`. A refused payload would be a lost event, so actions, scopes, repository types and statuses are plain
strings, and unknown fields stay readable as attributes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

MAIN = "refs/heads/main"
FOLDERS = {"model": "", "dataset": "datasets/", "space": "spaces/", "bucket": "buckets/"}  # of a type, on the Hub


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow", populate_by_name=True)


class ObjectId(_Part):
    id: str


class WebhookPayloadUrl(_Part):
    web: str
    api: str | None = None


class WebhookPayloadWebhook(ObjectId):
    version: int


class WebhookPayloadMovedTo(_Part):
    name: str
    owner: ObjectId


class WebhookPayloadUpdatedRef(_Part):
    """A branch, tag or pull request that now points elsewhere.

    `oldSha` is `None` for a ref that was created, `newSha` for one that was deleted.
    """

    ref: str
    oldSha: str | None = None
    newSha: str | None = None


class WebhookPayloadEvent(_Part):
    action: str
    scope: str

    def matches(self, scope: str, action: str | None = None) -> bool:
        """Return whether this event belongs to a scope or to a narrower one.

        The Hub adds scopes over time. Its documentation says: any action on a narrower scope is an `update` of the
        broader one. So `repo.config.dois` is an update of `repo.config` and of `repo`.

        Args:
            scope: `repo`, `repo.content`, `repo.config`, `discussion`, `discussion.comment`, or any other.
            action: `create`, `update`, `delete` or `move`; `None` for any.

        Example:
            ```python
            if payload.event.matches("discussion.comment", action="create"):
                ...
            ```
        """
        if self.scope == scope:
            return action in (None, self.action)
        return self.scope.startswith(scope + ".") and action in (None, "update")


class WebhookPayloadRepo(ObjectId):
    """The repository. `head_sha` (the Hub's `headSha`) is the last commit of `main`; discussions lack it."""

    type: str
    name: str
    private: bool
    url: WebhookPayloadUrl
    owner: ObjectId
    head_sha: str | None = Field(default=None, alias="headSha")
    subdomain: str | None = None
    tags: list[str] | None = Field(default=None, fail_fast=True)  # one error for a long list, not thousands

    @property
    def headSha(self) -> str | None:
        """The same as `head_sha`, under the name that the Hub's documentation uses."""
        return self.head_sha


class WebhookPayloadDiscussionChanges(_Part):
    base: str
    mergeCommitId: str | None = None


class WebhookPayloadDiscussion(ObjectId):
    """A discussion or a pull request. Any Hub user may have written its title."""

    num: int
    title: str
    status: str
    isPullRequest: bool
    author: ObjectId
    url: WebhookPayloadUrl
    changes: WebhookPayloadDiscussionChanges | None = None
    pinned: bool | None = None


class WebhookPayloadComment(ObjectId):
    """A comment. Any Hub user may have written its `content`, which is `None` once it is hidden."""

    author: ObjectId
    hidden: bool
    url: WebhookPayloadUrl
    content: str | None = None


class WebhookPayload(_Part):
    """One event, as the Hub reports it."""

    event: WebhookPayloadEvent
    repo: WebhookPayloadRepo
    webhook: WebhookPayloadWebhook
    updatedRefs: list[WebhookPayloadUpdatedRef] | None = Field(default=None, fail_fast=True)
    updatedConfig: dict[str, Any] | None = None
    movedTo: WebhookPayloadMovedTo | None = None
    discussion: WebhookPayloadDiscussion | None = None
    comment: WebhookPayloadComment | None = None

    def updates(self, repo_type: str, name: str | None = None, ref: str = MAIN) -> bool:
        """Return whether this event brings new content to a ref of a repository.

        False for pull requests (they have refs of their own), tags, deleted refs, settings and discussions.

        Args:
            repo_type: `model`, `dataset`, `space` or `bucket`.
            name: `username/repository`, in any case; `None` for every repository of that type.
            ref: the branch, as a full Git ref.

        Example:
            ```python
            if payload.updates("dataset", "username/my-dataset"):
                ...
            ```
        """
        return (
            self.repo.type == repo_type
            and (name is None or self.repo.name.lower() == name.lower())
            and self.revision(ref) is not None
        )

    def revision(self, ref: str = MAIN) -> str | None:
        """Return the commit that this event put on a ref, or `None` if it put none there."""
        if not self.event.matches("repo.content", action="update"):
            return None
        return next((updated.newSha for updated in self.updatedRefs or () if updated.ref == ref), None)


def parse_payload(body: bytes) -> WebhookPayload:
    """Return the payload in the bytes that the Hub sent.

    Half a character, as in a title that was cut within an emoji, is legal in JSON (`"\\ud83e"`) and in no Python text:
    it becomes a question mark. A byte order mark, UTF-16 and UTF-32 are taken, too: PowerShell writes them.

    Raises:
        pydantic.ValidationError: the bytes are not JSON (its only error is of type `json_invalid`), or not a payload.
    """
    try:
        return WebhookPayload.model_validate_json(body)
    except ValidationError as error:
        if error.errors(include_url=False)[0]["type"] != "json_invalid":
            raise
        try:
            mended = json.dumps(json.loads(body), ensure_ascii=False).encode("utf-8", "replace")
        except (ValueError, RecursionError):
            raise error from None
    return WebhookPayload.model_validate_json(mended)


def to_body(payload: WebhookPayload | Mapping[str, Any] | bytes) -> bytes:
    """Return a payload as the body of the Hub's request."""
    if isinstance(payload, WebhookPayload):
        return payload.model_dump_json(by_alias=True, exclude_unset=True).encode()
    return payload if isinstance(payload, bytes) else json.dumps(payload).encode()
