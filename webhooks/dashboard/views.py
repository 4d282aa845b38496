"""Word what the templates show: what came of a delivery in a line, and text of strangers made visible."""

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
from ..delivery import UNFINISHED, Delivery, StartedJob
from ..endpoints import PREFIX, Endpoint
from ..payload import FOLDERS
from .queries import ListRow

MAX_PAYLOAD = 256 * 1024  # characters that are shown
MAX_LINE = 200  # characters of a summary, a name or a title

# The Hub's scopes and actions in words. Unknown ones are shown as they are.
SCOPES = {"repo": "repository", "repo.content": "content", "repo.config": "settings", "discussion.comment": "comment"}
ACTIONS = {"create": "created", "update": "changed", "move": "moved", "delete": "deleted"}
DOMAINS = {"repo": "commits and settings", "discussion": "discussions"}
SOURCES = {"catch_up": "found by looking", "code": "sent from here"}  # the others came over HTTP
STAGES = {"COMPLETED": "done", "ERROR": "failed", "CANCELED": "skipped", "DELETED": "skipped"}  # of a Job: the kind
QUOTED = re.compile(r"^ {4}\| ?", re.MULTILINE)  # how the log indents a traceback

# Text


def visible(value: Any) -> Any:
    """Write out invisible characters, and those that change the direction of a line. Every template value passes here.

    A template writes `| forceescape` where a form has to send back the very same text.
    """
    return value if isinstance(value, Markup) or not isinstance(value, str) else escaped(value)


def short(value: str, at_most: int = MAX_LINE) -> str:
    return value if len(value) <= at_most else value[:at_most] + "…"


def lines(value: str, at_most: int = MAX_PAYLOAD) -> Markup:
    """Like `visible`, for text of several lines."""
    shown = value if len(value) <= at_most else f"{value[:at_most]}\n… {len(value) - at_most} more characters"
    return escape("\n".join(map(escaped, shown.replace("\r\n", "\n").split("\n"))))


def read_json(written: bytes | None) -> Any:
    """Read JSON; return any other text as it is."""
    with contextlib.suppress(ValueError, RecursionError):
        return json.loads(written or b"")
    return (written or b"").decode("utf-8", "replace")


def pretty(body: bytes) -> str:
    """Write JSON with one field a line, and any other text as it is."""
    value = read_json(body)
    return value if isinstance(value, str) else plain_json(value, indent=2)


def plain_json(value: Any, indent: int | None = None) -> str:
    """Write JSON whose unprintable characters are escaped. It still means the same."""
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


def duration(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


# What came of a delivery


@dataclass(frozen=True)
class Summary:
    """What came of a delivery, in a line.

    Attributes:
        kind: one of `OUTCOMES`, or `job`; decides colour and shape.
        due_at: when it runs, if it waits for a time.
        job: the Job that it started.
        more: what follows the time or the Job.
    """

    kind: str
    text: str = ""
    due_at: datetime | None = None
    job: StartedJob | None = None
    more: str = ""


def summarize(row: ListRow, endpoint: Endpoint | None) -> Summary:
    """Say what came of a delivery. Its endpoint may have been removed."""
    if row.status in UNFINISHED:
        return _waiting(row, endpoint)
    if row.status == "superseded":
        return Summary("skipped", "superseded by a newer event")
    if row.status == "failed":
        return Summary("failed", short(last_line(row.error) or _value(row.answer, "error") or "failed"))
    if row.skipped:
        return Summary("skipped", f"skipped: {short(_value(row.answer, 'skipped'))}")
    if row.jobs:
        return job_summary(row.jobs[-1], len(row.jobs))
    return Summary("done", short(_returned(row)))


def job_summary(job: StartedJob, count: int = 1) -> Summary:
    word = "failed" if job.stage == "ERROR" else job.stage.lower()
    others = f", and {count - 1} more" if count > 1 else ""
    return Summary(STAGES.get(job.stage, "job"), job=job, more=f" {word}, {job.flavor}{others}")


def _waiting(row: ListRow, endpoint: Endpoint | None) -> Summary:
    attempt = f"attempt {row.failures + 1} of {endpoint.max_attempts}" if endpoint and row.failures else ""
    if row.status != "scheduled":
        return Summary("waiting", row.status, more=f", {attempt}" if attempt else "")
    if not row.attempts:
        return Summary("waiting", "runs", row.due_at, more=", unless a newer event supersedes it")
    return Summary("waiting", attempt or "runs", row.due_at, more=f": {short(last_line(row.error))}")


def last_line(error: str | None) -> str:
    """Return the exception at the end of a traceback."""
    kept = [line.strip() for line in QUOTED.sub("", error or "").splitlines() if line.strip()]
    return kept[-1] if kept else ""


def traceback(error: str, known: str) -> str:
    """Return a traceback, without its last line if the page shows that already."""
    text = QUOTED.sub("", error).rstrip()
    head, _, last = text.rpartition("\n")
    return head if last.strip() == known else text


def _value(answer: bytes | None, key: str) -> str:
    """Return the text of an answer `{key: text}`."""
    answered = read_json(answer)
    return _text(answered.get(key, "") if isinstance(answered, dict) else answered)


def _returned(row: ListRow) -> str:
    answered = read_json(row.answer)
    if answered in ("", {}, {"delivery": row.id, "status": "succeeded"}):
        return "done" if row.answer_status == 200 else f"answered {row.answer_status}"
    if isinstance(answered, dict) and answered.get("dry_run") is True and "command" in answered:
        return f"dry run: {_text(answered['command'])} on {_text(answered.get('flavor'))}"
    pairs = answered.items() if isinstance(answered, dict) else ()
    text = ", ".join(f"{key}: {_text(value)}" for key, value in pairs) or _text(answered)
    return text if row.answer_status == 200 else f"{row.answer_status}: {text}"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


# One delivery


def describe(delivery: Delivery) -> str:
    """Say what happened on the Hub, with refs and discussion."""
    payload = delivery.payload
    if payload is None:
        return "no payload"
    refs = ", ".join(updated.ref for updated in payload.updatedRefs or ())
    discussion = f"#{payload.discussion.num} {payload.discussion.title}" if payload.discussion else ""
    event = f"{payload.event.scope} {payload.event.action}"
    return short(", ".join(filter(None, [event_name(event), refs, discussion])))


def repo_url(delivery: Delivery) -> str | None:
    """Return the address of the repository. It is made here: the one in the payload may lead anywhere."""
    repo = delivery.payload.repo if delivery.payload else None
    if not repo or repo.type not in FOLDERS or not re.fullmatch(r"[\w.-]+/[\w.-]+", repo.name, re.ASCII):
        return None
    return f"{constants.ENDPOINT}/{FOLDERS[repo.type]}{repo.name}"


def web_url(url: str) -> str | None:
    """Return an address if a link may have it: `javascript:` may not."""
    return url if url.startswith(("https://", "http://")) else None


def example_path(path: str) -> str:
    """Fill in the parameters of a path, for a test event."""
    examples = {":int": "1", ":float": "1.0", ":uuid": "00000000-0000-4000-8000-000000000000"}
    return re.sub(r"{(\w+)(:\w+)?}", lambda found: examples.get(found[2], found[1]), path)
