"""The owner's page in HTML. Strangers write what is in it, so all of their text goes through `text` or `lines`."""

from __future__ import annotations

import contextlib
import html
import json
import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from urllib.parse import quote

from huggingface_hub import WebhookInfo, constants

from ..console import escaped
from ..deliveries.history import INTERRUPTED, STOPPED, Attempt, Record
from ..delivery import Delivery, StartedJob
from ..payload import FOLDERS
from .access import PAGE
from .queries import Page, Related, Row

MAX_SHOWN = 256 * 1024  # characters of a payload
MAX_NAME = 200  # characters of a name in a list

CSS = """
.webhooks-list table { width: 100%; border: 0; border-collapse: collapse; font-size: .95rem; }
.webhooks-list thead, .webhooks-list tr { border: 0; }
.webhooks-list th { text-align: left; font-weight: 700; }
.webhooks-list th, .webhooks-list td { padding: .55rem .7rem; border: 0;
  border-bottom: 1px solid var(--border-color-primary); vertical-align: top; overflow-wrap: anywhere; }
.webhooks-list time { white-space: nowrap; font-variant-numeric: tabular-nums; }
.webhooks-list tr[data-open] { cursor: pointer; }
.webhooks-list tbody tr:hover { background: var(--background-fill-secondary); }
.webhooks-list a:focus-visible, .webhooks-list button:focus-visible { outline: 2px solid var(--color-accent);
  outline-offset: 2px; }
.webhooks-list code, .webhooks-list pre { font-family: var(--font-mono); font-size: .88em; }
.webhooks-list pre { margin: .4rem 0 0; padding: .7rem; max-height: 24rem; overflow: auto; white-space: pre-wrap;
  overflow-wrap: anywhere; border-radius: var(--radius-md); background: var(--background-fill-secondary);
  color: var(--body-text-color); }
.webhooks-list h2:focus { outline: none; }
.webhooks-list h2 { font-size: 1.3rem; font-weight: 700; margin: 0 0 .5rem; }
.webhooks-list h3 { margin: 1.1rem 0 .3rem; font-family: var(--font); }
.webhooks-list dl { display: grid; grid-template-columns: max-content 1fr; gap: .3rem 1.2rem; margin: 0; }
.webhooks-list dt { font-weight: 700; }
.webhooks-list dd { margin: 0; overflow-wrap: anywhere; }
.webhooks-list ol { margin: 0; padding: 0; list-style: none; }
.webhooks-list li { padding: .45rem 0; border-bottom: 1px solid var(--border-color-primary); }
.webhooks-list button { text-decoration: underline; }
.webhooks-card a.webhooks-button { display: inline-block; margin-top: .8rem !important;
  padding: .5rem 1.1rem !important; border-radius: var(--button-large-radius); font-weight: 700;
  text-decoration: none; background: var(--button-secondary-background-fill);
  color: var(--button-secondary-text-color); }
.webhooks-away { display: none; }
.webhooks-chart .vega-embed { height: calc(100% - 2.2rem) !important; }
.webhooks-corner { flex: none; width: auto; align-self: flex-end; }
.webhooks-buttons { justify-content: space-between; }
.webhooks-buttons button { flex: none; width: auto; min-width: 8rem; }
.webhooks-empty { padding: 2.2rem 1rem; text-align: center; border-radius: var(--block-radius);
  border: 1px dashed var(--border-color-primary); }
.webhooks-empty > b { display: block; margin-bottom: .3rem; font-size: 1.1rem; }
.webhooks-pill { display: inline-block; padding: 0 .6rem; border-radius: 999px; font-size: .85rem; font-weight: 700;
  white-space: nowrap; background: var(--border-color-primary); }
.webhooks-pill.succeeded { background: #16a34a1f; color: #166534; }
.webhooks-pill.failed { background: #dc26261f; color: #991b1b; }
.webhooks-pill.running, .webhooks-pill.queued { background: #2563eb1f; color: #1e40af; }
.webhooks-pill.scheduled { background: #f59e0b2b; color: #92400e; }
.dark .webhooks-pill.succeeded { color: #4ade80; }
.dark .webhooks-pill.failed { color: #fca5a5; }
.dark .webhooks-pill.running { color: #93c5fd; }
.dark .webhooks-pill.queued { color: #93c5fd; }
.dark .webhooks-pill.scheduled { color: #fbbf24; }
@media (max-width: 640px) {
  .webhooks-list thead { display: none; }
  .webhooks-list tr { display: flex; flex-wrap: wrap; gap: .1rem .8rem; padding: .7rem 0;
    border-bottom: 1px solid var(--border-color-primary); }
  .webhooks-list td { padding: 0; border: 0; }
  .webhooks-list td.wide { flex-basis: 100%; }
  .webhooks-list td:first-child { order: -2; }
  .webhooks-list td:last-child { order: -1; margin-left: auto; }
  .webhooks-list dl { grid-template-columns: 1fr; gap: 0; }
  .webhooks-list dd { margin-bottom: .5rem; }
}
"""

# Times in the reader's own zone, a click that tells the server what was chosen, and the keyboard's place kept when
# the list is drawn again.
JS = """
const seconds = { dateStyle: "medium", timeStyle: "medium" };
const localTimes = () => element.querySelectorAll("time").forEach(time => {
  time.textContent = new Date(time.dateTime).toLocaleString([], seconds);
});
let place = null;
element.addEventListener("focusin", event => { place = event.target.id; });
element.addEventListener("focusout", event => { if (event.relatedTarget) place = null; });
element.addEventListener("click", event => {
  const chosen = event.target.closest("[data-open], [data-switch]");
  if (!chosen || event.ctrlKey || event.metaKey || event.shiftKey || getSelection().toString()) return;
  event.preventDefault();
  trigger("click", { ...chosen.dataset });
});
watch("value", () => {
  localTimes();
  const at = document.activeElement;
  if (place && at.id !== place && (at === document.body || element.contains(at)))
    document.getElementById(place)?.focus();
});
localTimes();
"""

# The page's address follows what is open, so that it can be kept or sent to somebody; and so does the keyboard.
JS_OPEN = (
    JS
    + """
const follow = () => {
  const title = element.querySelector("h2");
  if (title?.id) history.replaceState(null, "", `${location.pathname}?delivery=${title.id}`);
  if (document.activeElement === document.body) title?.focus();
};
watch("value", follow);
follow();
"""
)
JS_CLOSE = """() => history.replaceState(
  { left: new URLSearchParams(location.search).get("delivery") }, "", location.pathname)"""
JS_RETURN = "() => requestAnimationFrame(() => document.getElementById(`d-${history.state?.left}`)?.focus())"


def text(value: object, at_most: int = MAX_NAME) -> str:
    """Show text as text: no HTML, nothing invisible, and no letters that turn the line around them."""
    return f"<bdi>{html.escape(plain(str(value), at_most))}</bdi>"


def plain(value: str, at_most: int = MAX_NAME) -> str:
    """Keep text short and its characters visible, for where no HTML is read."""
    return escaped(value if len(value) <= at_most else value[:at_most] + "…")


def lines(value: str, at_most: int = MAX_SHOWN) -> str:
    """Make text of several lines showable, as text: whatever could be mistaken for something else is written out."""
    shown = value if len(value) <= at_most else f"{value[:at_most]}\n… {len(value) - at_most} more characters"
    return "\n".join(map(escaped, shown.replace("\r\n", "\n").split("\n")))


def empty(title: str, advice: str) -> str:
    """Say that there is nothing, and what to do next. The advice is HTML."""
    return f'<div class="webhooks-empty"><b>{html.escape(title)}</b><p>{advice}</p></div>'


def button(path: str, label: str) -> str:
    """Show a link to another page of this server as a button."""
    return f'<a class="webhooks-button" href="{html.escape(path)}">{html.escape(label)}</a>'


def listing(page: Page, filtered: bool) -> str:
    """List a page of deliveries."""
    if not page.rows:
        if filtered:
            return empty("No delivery is like that", "Take a filter off to see more.")
        return empty(
            "Nothing has arrived yet",
            "Send one under <b>Test event</b>, or create a webhook under <b>On the Hub</b> and make a commit.",
        )
    return _table(("Received", "Endpoint", "Event", "Repository", "Status"), map(_row, page.rows))


def _table(titles: Iterable[str], rows: Iterable[str]) -> str:
    head = "".join(f"<th scope=col>{title}</th>" for title in titles)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _row(row: Row) -> str:
    again = f" <small>attempt {row.attempts}</small>" if row.attempts > 1 else ""
    replay = " <small>replay</small>" if row.is_replay else ""
    opener = f'<a id="d-{row.id}" href="{_address(row.id)}" data-open="{row.id}">{_time(row.received_at)}</a>'
    return (
        f'<tr data-open="{row.id}"><td>{opener}</td><td>{text(row.endpoint)}</td>'
        f"<td>{text(row.event or 'no payload')}</td><td class=wide>{text(row.repo or '')}</td>"
        f"<td>{_pill(row.status)}{again}{replay}</td></tr>"
    )


def details(record: Record, related: Related) -> str:
    """Show one delivery, but for its payload."""
    delivery = record.delivery
    facts = {
        "Endpoint": text(delivery.endpoint),
        "Event": _event(delivery),
        "Repository": _repo(delivery),
        "Received": _time(delivery.received_at),
        "Replay of": _links([delivery.replay_of]),
        "Replayed as": _links(related.replays),
        "Superseded by": _links([record.superseded_by]),
        "In place of": _links(related.superseded),
        "Job": "<br>".join(map(_job, related.jobs)),
        "Answer": str(record.answer_status) if record.answer_status else "",
    }
    listed = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in facts.items() if value)
    attempts = "".join(map(_attempt, record.attempts)) or "<li>None yet.</li>"
    return (
        f'<h2 id="{html.escape(delivery.id)}" tabindex=-1><code>{text(delivery.id)}</code> {_pill(record.status)}</h2>'
        f"<dl>{listed}</dl>{_result(record)}"
        f"<h3>Attempts</h3><ol>{attempts}</ol>"
    )


def _attempt(attempt: Attempt) -> str:
    took = f" · {(attempt.ended_at - attempt.started_at).total_seconds():.1f} s" if attempt.ended_at else ""
    state = "failed" if attempt.error else "succeeded" if attempt.ended_at else "running"
    state = "interrupted" if attempt.error in (INTERRUPTED, STOPPED) else state
    quoted = _QUOTED.sub("", attempt.error or "")
    error = f"<pre tabindex=0>{html.escape(lines(quoted))}</pre>" if quoted else ""
    return f"<li>{attempt.attempt} · {_time(attempt.started_at)}{took} {_pill(state)}{error}</li>"


_QUOTED = re.compile(r"^ {4}\| ", re.MULTILINE)  # how the console's log sets a traceback off


def _result(record: Record) -> str:
    if not record.answer:
        return ""
    return f"<h3>Result</h3><pre tabindex=0>{html.escape(pretty(record.answer))}</pre>"


def pretty(body: bytes) -> str:
    """Write JSON with one field a line, and anything else as it is."""
    written = body.decode("utf-8", "replace")
    with contextlib.suppress(ValueError, RecursionError):
        written = json.dumps(json.loads(written), indent=2, ensure_ascii=False)
    return lines(written)


def _job(job: StartedJob) -> str:
    pill = {"COMPLETED": "succeeded", "ERROR": "failed", "RUNNING": "running", "SCHEDULING": "queued"}.get(job.stage)
    stage = f'<span class="webhooks-pill {pill or ""}">{text(job.stage.lower())}</span>'
    return f"{_link(job.url, job.id)} · {text(job.flavor)} {stage}"


def registered(webhooks: Sequence[WebhookInfo]) -> str:
    """List the owner's webhooks on the Hub, each with its switch."""
    if not webhooks:
        return empty("No webhook of yours points here yet", "Create one below: choose what to watch, and what to run.")
    return _table(("Calls", "Watches", "Events", "State"), map(_webhook, webhooks))


def _webhook(webhook: WebhookInfo) -> str:
    on = not webhook.disabled
    pill = f'<span class="webhooks-pill {"succeeded" if on else ""}">{"enabled" if on else "disabled"}</span>'
    id = html.escape(webhook.id)
    button = f'<button id="h-{id}" data-switch="{id}" data-on="{not on}">{"Disable" if on else "Enable"}</button>'
    watched = ", ".join(f"{item.type} {item.name}" for item in webhook.watched)
    return (
        f"<tr><td class=wide>{text(webhook.url, 500)}</td><td class=wide>{text(watched, 2000)}</td>"
        f"<td>{text(', '.join(webhook.domains))}</td><td>{pill} {button}</td></tr>"
    )


def _pill(status: str) -> str:
    return f'<span class="webhooks-pill {html.escape(status)}">{html.escape(status)}</span>'


def _time(when: datetime) -> str:
    return f'<time datetime="{when.isoformat()}">{when:%Y-%m-%d %H:%M:%S} UTC</time>'


def _links(ids: Iterable[str | None]) -> str:
    return ", ".join(f'<a href="{_address(id)}" data-open="{html.escape(id)}">{text(id)}</a>' for id in ids if id)


def _address(id: str) -> str:
    return f"{PAGE[1:]}?delivery={quote(id, safe='')}"


def _link(url: str, label: str) -> str:
    return f'<a href="{html.escape(url)}" target="_blank" rel="noopener">{text(label)}</a>'


def _event(delivery: Delivery) -> str:
    payload = delivery.payload
    if payload is None:
        return "no payload"
    title = f" — {text(payload.discussion.title)}" if payload.discussion else ""
    return text(f"{payload.event.scope} {payload.event.action}") + title


def _repo(delivery: Delivery) -> str:
    """Link to the repository, at an address made here: the one in the payload may lead anywhere."""
    if delivery.payload is None:
        return ""
    repo = delivery.payload.repo
    label = f"{repo.type} {repo.name}"
    if repo.type not in FOLDERS or not re.fullmatch(r"[\w.-]+/[\w.-]+", repo.name, re.ASCII):
        return text(label)
    return _link(f"{constants.ENDPOINT}/{FOLDERS[repo.type]}{repo.name}", label)
