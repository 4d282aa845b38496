"""Write sample events of the Hub, for the dashboard, for `curl` and for tests."""

from __future__ import annotations

import re
import shlex
from typing import Any

from .payload import FOLDERS, MAIN
from .settings import Settings

KINDS = {  # the name in code, and the words of the dashboard
    "commit": "New commit on main",
    "pull_request_commit": "New commit on a pull request",
    "tag": "New tag",
    "branch_deleted": "Branch deleted",
    "discussion": "Discussion opened",
    "discussion_closed": "Discussion closed",
    "discussion_deleted": "Discussion deleted",
    "pull_request": "Pull request opened",
    "pull_request_merged": "Pull request merged",
    "comment": "Comment",
    "comment_hidden": "Comment hidden",
    "repo_created": "Repository created",
    "repo_moved": "Repository moved",
    "repo_deleted": "Repository deleted",
    "made_private": "Made private",
}
REPO_TYPES = ("dataset", "model", "space", "bucket")

MAX_ARGUMENT = 100_000  # characters; Linux takes 131,071 bytes in one

_REPO_ID = re.compile(r"(\w[\w.-]{0,95}/)?\w[\w.-]{0,95}", re.ASCII)  # a few old models have no owner
REVISION = re.compile(r"[0-9a-f]{40}")
_ID = "6123456789abcdef01234567"
_NEW, _OLD = "c0ffee" * 6 + "c0ff", "0ff1ce" * 6 + "0ff1"


def sample(kind: str, repo_type: str, repo_id: str, revision: str = "") -> dict[str, Any]:
    """Return the payload that the Hub sends for an event.

    Args:
        kind: one of `KINDS`.
        repo_type: one of `REPO_TYPES`.
        repo_id: `username/repository`.
        revision: the commit, 40 hexadecimal digits; empty for a commit that does not exist.

    Raises:
        ValueError: a sentence about what is wrong.
    """
    for name, value, known in (("kind of event", kind, KINDS), ("type of repository", repo_type, REPO_TYPES)):
        if value not in known:
            raise ValueError(f"There is no {name} {value!r}. Choose one of: {', '.join(known)}.")
    if not _REPO_ID.fullmatch(repo_id):
        raise ValueError("The repository must be a name like username/my-dataset.")
    if revision and not REVISION.fullmatch(revision):
        raise ValueError("The revision must be a full commit hash, 40 hexadecimal digits, or empty.")
    url = {
        "web": f"https://huggingface.co/{FOLDERS[repo_type]}{repo_id}",
        "api": f"https://huggingface.co/api/{repo_type}s/{repo_id}",
    }
    scope, action, details = _events(repo_id, url, revision or _NEW)[kind]
    repo = {
        "type": repo_type,
        "name": repo_id,
        "id": _ID,
        "private": kind == "made_private",
        "url": url,
        "owner": {"id": _ID},
    }
    if scope.startswith("repo"):
        repo["headSha"] = _OLD if kind in ("pull_request_commit", "branch_deleted") else revision or _NEW
    webhook = {"id": _ID, "version": 3}
    return {"event": {"action": action, "scope": scope}, "repo": repo, **details, "webhook": webhook}


def _events(repo_id: str, url: dict[str, str], revision: str) -> dict[str, tuple[str, str, dict[str, Any]]]:
    """Return scope, action and further fields of each kind of event."""

    def updated(ref: str, old: str | None, new: str | None) -> tuple[str, str, dict[str, Any]]:
        return "repo.content", "update", {"updatedRefs": [{"ref": ref, "oldSha": old, "newSha": new}]}

    discussion = {
        "id": _ID,
        "num": 1,
        "title": "A discussion to try the webhook",
        "status": "open",
        "isPullRequest": False,
        "author": {"id": _ID},
        "url": {where: f"{address}/discussions/1" for where, address in url.items()},
    }
    changes = {"base": MAIN}
    pull_request = {**discussion, "isPullRequest": True, "changes": changes}
    merged = {**pull_request, "status": "merged", "changes": {**changes, "mergeCommitId": revision}}
    closed = {**discussion, "status": "closed"}
    hidden = {
        "id": _ID,
        "author": {"id": _ID},
        "hidden": True,
        "url": {"web": f"{url['web']}/discussions/1#{_ID}"},
    }
    comment = {**hidden, "hidden": False, "content": "A comment to try the webhook."}
    return {
        "commit": updated(MAIN, _OLD, revision),
        "pull_request_commit": updated("refs/pr/1", None, revision),
        "tag": updated("refs/tags/v1.0", None, revision),
        "branch_deleted": updated("refs/heads/experiment", revision, None),
        "discussion": ("discussion", "create", {"discussion": {**discussion, "pinned": False}, "comment": comment}),
        "discussion_closed": ("discussion", "update", {"discussion": closed}),
        "discussion_deleted": ("discussion", "delete", {"discussion": closed}),
        "pull_request": ("discussion", "create", {"discussion": pull_request, "comment": comment}),
        "pull_request_merged": ("discussion", "update", {"discussion": merged}),
        "comment": ("discussion.comment", "create", {"discussion": discussion, "comment": comment}),
        "comment_hidden": ("discussion.comment", "update", {"discussion": discussion, "comment": hidden}),
        "repo_created": ("repo", "create", {}),
        "repo_moved": ("repo", "move", {"movedTo": {"name": f"{repo_id}-moved", "owner": {"id": _ID}}}),
        "repo_deleted": ("repo", "delete", {}),
        "made_private": ("repo.config", "update", {"updatedConfig": {"private": True}}),
    }


def shortest(repo_type: str = "dataset", repo_id: str = "username/my-dataset") -> str:
    """Return the shortest payload of a commit, which is easy to read."""
    return f"""{{
  "event": {{"action": "update", "scope": "repo.content"}},
  "repo": {{"type": "{repo_type}", "name": "{repo_id}", "id": "1", "private": false,
           "url": {{"web": "https://huggingface.co/{FOLDERS[repo_type]}{repo_id}"}}, "owner": {{"id": "2"}}}},
  "updatedRefs": [{{"ref": "{MAIN}", "oldSha": null, "newSha": "575db8b7"}}],
  "webhook": {{"id": "3", "version": 3}}
}}"""


def curl(url: str, settings: Settings, body: str | None = None) -> str:
    """Write the command that posts a payload to an endpoint. It names the secret, and never shows it."""
    # The shell hands the secret over in a file, so it is in no process list. `-g` keeps curl from expanding `{…}`.
    header = '-H @<(echo "X-Webhook-Secret: $WEBHOOK_SECRET")'
    secret = f"  {header} \\\n" if settings.secrets or settings.is_closed else ""
    first = "# In bash or zsh, after: export WEBHOOK_SECRET=...\n" if secret else ""
    return (
        f"{first}curl -X POST {shlex.quote(url)} \\\n"
        f'  -H "Content-Type: application/json" \\\n{secret}'
        f"  -g --data-raw {shlex.quote(body or shortest())}"
    )
