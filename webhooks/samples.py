"""Events as the Hub would report them, to try a handler with."""

from __future__ import annotations

import re
from typing import Any

from .payload import FOLDERS

KINDS = {
    "New commit on main": ("repo.content", "update"),
    "Pull request opened": ("discussion", "create"),
    "Comment": ("discussion.comment", "create"),
    "Repository created": ("repo", "create"),
    "Repository moved": ("repo", "move"),
    "Repository deleted": ("repo", "delete"),
    "Made private": ("repo.config", "update"),
}
REPO_TYPES = ("dataset", "model", "space", "bucket")

_REPO_ID = re.compile(r"\w[\w.-]{0,95}/\w[\w.-]{0,95}", re.ASCII)
_REVISION = re.compile(r"[0-9a-f]{40}")
_ID = "6123456789abcdef01234567"  # of everything that has one
_NEW, _OLD = "c0ffee" * 6 + "c0ff", "0ff1ce" * 6 + "0ff1"


def sample(kind: str, repo_type: str, name: str, revision: str = "") -> dict[str, Any]:
    """Write the payload that the Hub sends for such an event.

    Args:
        kind: one of `KINDS`.
        repo_type: one of `REPO_TYPES`.
        name: `username/repository`.
        revision: the commit that `main` is at, 40 hexadecimal digits; empty for one that does not exist.

    Raises:
        ValueError: a sentence about what is wrong.
    """
    if kind not in KINDS or repo_type not in REPO_TYPES:
        raise ValueError("Choose a kind of event and a type of repository from the lists.")
    if not _REPO_ID.fullmatch(name):
        raise ValueError("The repository must be a name like username/my-dataset.")
    if revision and not _REVISION.fullmatch(revision):
        raise ValueError("The revision must be a full commit hash, 40 hexadecimal digits, or empty.")
    scope, action = KINDS[kind]
    web = f"https://huggingface.co/{FOLDERS[repo_type]}{name}"
    payload: dict[str, Any] = {
        "event": {"action": action, "scope": scope},
        "repo": {
            "type": repo_type,
            "name": name,
            "id": _ID,
            "private": kind == "Made private",
            "url": {"web": web, "api": f"https://huggingface.co/api/{repo_type}s/{name}"},
            "owner": {"id": _ID},
        },
        "webhook": {"id": _ID, "version": 3},
    }
    if scope.startswith("repo"):
        payload["repo"]["headSha"] = revision or _NEW
    return payload | _details(kind, name, payload["repo"]["url"], revision or _NEW)


def _details(kind: str, name: str, url: dict[str, str], revision: str) -> dict[str, Any]:
    discussion = {
        "id": _ID,
        "num": 1,
        "title": "A discussion to try the webhook",
        "status": "open",
        "isPullRequest": False,
        "author": {"id": _ID},
        "url": {where: f"{address}/discussions/1" for where, address in url.items()},
    }
    pull_request = {**discussion, "isPullRequest": True, "changes": {"base": "refs/heads/main"}}
    comment = {
        "id": _ID,
        "author": {"id": _ID},
        "content": "A comment to try the webhook.",
        "hidden": False,
        "url": {"web": f"{url['web']}/discussions/1#{_ID}"},
    }
    details: dict[str, dict[str, Any]] = {
        "New commit on main": {"updatedRefs": [{"ref": "refs/heads/main", "oldSha": _OLD, "newSha": revision}]},
        "Pull request opened": {"discussion": pull_request, "comment": comment},
        "Comment": {"discussion": discussion, "comment": comment},
        "Repository moved": {"movedTo": {"name": f"{name}-moved", "owner": {"id": _ID}}},
        "Made private": {"updatedConfig": {"private": True}},
    }
    return details.get(kind, {})
