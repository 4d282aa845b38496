"""What the templates show: outcomes in words, and text of strangers made visible."""

from __future__ import annotations

import contextlib
import json
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from huggingface_hub import constants
from markupsafe import Markup, escape

from ..console import escaped
from ..deliveries.log import INTERRUPTED, STOPPED, Attempt
from ..delivery import UNFINISHED, Delivery, StartedJob
from ..endpoints import PREFIX, Endpoint
from ..payload import FOLDERS
from .queries import Row

MAX_SHOWN = 256 * 1024  # characters of a payload
MAX_LINE = 200  # characters of an outcome, a name or a title

# The Hub's scopes and actions, in words; any other is shown as it is.
SCOPES = {"repo": "repository", "repo.content": "content", "repo.config": "settings", "discussion.comment": "comment"}
ACTIONS = {"create": "created", "update": "changed", "move": "moved", "delete": "deleted"}
STAGES = {  # of a Job: the kind, and the word
    "COMPLETED": ("done", "completed"),
    "ERROR": ("failed", "failed"),
    "CANCELED": ("skipped", "canceled"),
    "DELETED": ("skipped", "deleted"),
}
QUOTED = re.compile(r"^ {4}\| ?", re.MULTILINE)  # how the console's log sets a traceback off

# Text


def visible(value: Any) -> Any:
    """Write out whatever is invisible in a text or turns the line around it; for everything that a template shows.

    A template writes `| forceescape` where a form has to send the very same text back.
    """
    return value if isinstance(value, Markup) or not isinstance(value, str) else escaped(value)


def short(value: str, at_most: int = MAX_LINE) -> str:
    return value if len(value) <= at_most else value[:at_most] + "…"


def lines(value: str, at_most: int = MAX_SHOWN) -> Markup:
    """Make text of several lines showable: whatever could be mistaken for something else is written out."""
    shown = value if len(value) <= at_most else f"{value[:at_most]}\n… {len(value) - at_most} more characters"
    return escape("\n".join(map(escaped, shown.replace("\r\n", "\n").split("\n"))))


def read_json(written: bytes | None) -> Any:
    """Read JSON, or any other text as it is."""
    with contextlib.suppress(ValueError, RecursionError):
        return json.loads(written or b"")
    return (written or b"").decode("utf-8", "replace")


def pretty(body: bytes) -> str:
    """Write JSON with one field a line, and anything else as it is."""
    value = read_json(body)
    return value if isinstance(value, str) else plain_json(value, indent=2)


def plain_json(value: Any, indent: int | None = None) -> str:
    """Write JSON in which whatever could be mistaken for something else is written out, and still means the same."""
    separators = (",", ":") if indent is None else None
    written = json.dumps(value, indent=indent, ensure_ascii=False, separators=separators)
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in written)


def name(endpoint: str) -> str:
    return endpoint.removeprefix(PREFIX)


def event_name(event: str | None) -> str:
    scope, _, action = (event or "no payload").partition(" ")
    return f"{SCOPES.get(scope, scope)} {ACTIONS.get(action, action)}"


def repo_name(repo: str | None) -> str:
    """Write `dataset/me/data`, as the log has it, as `dataset me/data`."""
    return (repo or "").replace("/", " ", 1)


# What came of a delivery


@dataclass(frozen=True)
class Outcome:
    """What came of a delivery, in a line.

    Attributes:
        kind: one of `OUTCOMES`, or `job`; decides colour and shape.
        due_at: when it goes on, if it waits for a time.
        job: what it has started, if that is what came of it.
        more: what follows the time or the Job.
    """

    kind: str
    text: str = ""
    due_at: datetime | None = None
    job: StartedJob | None = None
    more: str = ""


def outcome(row: Row, endpoint: Endpoint | None) -> Outcome:
    """Say what came of a delivery to an endpoint, which may be gone."""
    if row.status in UNFINISHED:
        return _waiting(row, endpoint)
    if row.status == "superseded":
        return Outcome("skipped", "replaced by a newer event about the same")
    if row.status == "failed":
        return Outcome("failed", short(last_line(row.error) or _said(row.answer, "error") or "failed"))
    if row.skipped:
        return Outcome("skipped", f"skipped: {short(_said(row.answer, 'skipped'))}")
    if row.jobs:
        return job_outcome(row.jobs[-1], len(row.jobs))
    return Outcome("done", short(_answered(row)))


def job_outcome(job: StartedJob, count: int = 1) -> Outcome:
    kind, word = STAGES.get(job.stage, ("job", job.stage.lower()))
    others = f", and {count - 1} more" if count > 1 else ""
    return Outcome(kind, job=job, more=f" {word}, {job.flavor}{others}")


def _waiting(row: Row, endpoint: Endpoint | None) -> Outcome:
    total = f" of {endpoint.max_attempts}" if endpoint and endpoint.max_attempts > 1 else ""
    attempt = f"attempt {row.failures + 1}{total}" if row.failures or total else ""
    if row.status != "scheduled":
        return Outcome("waiting", row.status, more=f", {attempt}" if row.attempts > 1 and attempt else "")
    if not row.attempts:
        return Outcome("waiting", "runs", row.due_at, more=", unless a newer event replaces it")
    error = short(last_line(row.error))
    return Outcome("waiting", attempt or "goes on", row.due_at, more=f": {error}" if error else "")


def last_line(error: str | None) -> str:
    """Return what an error says in the end: the exception, and not the way to it."""
    kept = [line.strip() for line in quoted(error or "").splitlines() if line.strip()]
    return kept[-1] if kept else ""


def quoted(error: str) -> str:
    return QUOTED.sub("", error)


def _said(answer: bytes | None, key: str) -> str:
    """Return what an answer of the form `{key: text}` says."""
    said = read_json(answer)
    return _text(said.get(key, "") if isinstance(said, dict) else said)


def _answered(row: Row) -> str:
    said = read_json(row.answer)
    if said == "":
        return f"answered {row.answer_status}"
    if said == {"delivery": row.id, "status": "succeeded"}:
        return "done"
    if isinstance(said, dict) and said.get("dry_run") is True and "command" in said:
        return f"dry run, nothing started: {_text(said['command'])} on {_text(said.get('flavor'))}"
    status = f"{row.answer_status}: " if row.answer_status != 200 else ""
    return f"answered {status}{_text(said)}"


def _text(said: Any) -> str:
    return said if isinstance(said, str) else json.dumps(said, ensure_ascii=False)


# One delivery


def attempt_kind(attempt: Attempt) -> tuple[str, str]:
    """Return how an attempt is drawn, and the word for how it ended."""
    if attempt.error in (INTERRUPTED, STOPPED):
        return "skipped", "interrupted"
    if attempt.error:
        return "failed", "failed"
    return ("done", "succeeded") if attempt.ended_at else ("waiting", "running")


def about(delivery: Delivery) -> str:
    """Say what has happened, as exactly as the payload does."""
    payload = delivery.payload
    if payload is None:
        return "no payload"
    refs = ", ".join(updated.ref for updated in payload.updatedRefs or ())
    discussion = f"#{payload.discussion.num} {payload.discussion.title}" if payload.discussion else ""
    event = event_name(f"{payload.event.scope} {payload.event.action}")
    return short(", ".join(filter(None, [event, refs, discussion])))


def repo_url(delivery: Delivery) -> str | None:
    """Return the repository's address, made here: the one in the payload may lead anywhere."""
    repo = delivery.payload.repo if delivery.payload else None
    if not repo or repo.type not in FOLDERS or not re.fullmatch(r"[\w.-]+/[\w.-]+", repo.name, re.ASCII):
        return None
    return f"{constants.ENDPOINT}/{FOLDERS[repo.type]}{repo.name}"


def web_url(url: str) -> str | None:
    """Return an address that may be linked to: none that runs something."""
    return url if url.startswith(("https://", "http://")) else None
