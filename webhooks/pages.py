"""What a visitor sees: the endpoints, how to call them, and what is still to be set up."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import gradio as gr
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .console import WEBHOOK_SETTINGS, curl
from .deliveries.history import reading
from .endpoints import Endpoint
from .settings import Settings

TOKEN_SETTINGS = "https://huggingface.co/settings/tokens"

CSS = """
.webhooks-card { background: var(--block-background-fill); }
.webhooks-bare { background: none; }
.webhooks-bare .html-container { padding: 0; }
.webhooks-card a { text-decoration: underline; color: inherit; margin: 0 !important; padding: 0 !important; }
.webhooks-card h1, .webhooks-card h3, .webhooks-card b { font-weight: 700; }
.webhooks-card p, .webhooks-card span { margin: 0; color: var(--neutral-600); }
.dark .webhooks-card p { color: var(--neutral-300); }
.dark .webhooks-card span { color: var(--neutral-300); }
.webhooks-card h1 { font-size: 2rem; margin: 0 0 .3rem; line-height: 1.2; }
.webhooks-card h3 { font-size: 1.05rem; margin: 0 0 .15rem; font-family: var(--font-mono); overflow-wrap: anywhere; }
.webhooks-state { display: inline-block; margin-top: .9rem; padding: .15rem .8rem; border-radius: 999px;
  font-size: .9rem; font-weight: 700; }
.webhooks-state.good { background: #16a34a1f; color: #166534; }
.webhooks-state.warn { background: #f59e0b2b; color: #92400e; }
.dark .webhooks-state.good { color: #4ade80; }
.dark .webhooks-state.warn { color: #fbbf24; }
.webhooks-arrivals { display: flex; flex-wrap: wrap; gap: .4rem 1rem; align-items: center; min-height: 2.5rem; }
.webhooks-arrivals a.webhooks-button { padding: .4rem 1.1rem !important; border-radius: var(--button-large-radius);
  font-weight: 700; text-decoration: none; background: var(--button-secondary-background-fill);
  color: var(--button-secondary-text-color); }
.webhooks-steps { list-style: none; margin: 0 !important; padding: .3rem .8rem !important;
  background: var(--block-background-fill);
  border: 1px solid var(--border-color-primary); border-radius: var(--block-radius); }
.webhooks-steps li { display: flex; gap: .8rem; margin: 0; padding: .8rem 0;
  border-top: 1px solid var(--border-color-primary); }
.webhooks-steps li:first-child { border-top: 0; }
.webhooks-steps code { font-family: var(--font-mono); font-size: .9em; overflow-wrap: anywhere; }
.webhooks-steps b { display: block; }
.webhooks-steps .mark { flex: none; width: 1.6rem; height: 1.6rem; line-height: 1.6rem; border-radius: 999px;
  text-align: center; font-size: .85rem; font-weight: 700; background: var(--border-color-primary); }
.webhooks-steps .done .mark { background: #16a34a1f; color: #166534; }
.dark .webhooks-steps .done .mark { color: #4ade80; }
"""


# Says what has arrived, and hands on the colours that were chosen with Gradio's own switch.
JS = """
const said = element.querySelector(".webhooks-arrivals span");
const link = element.querySelector("a");
const theme = new URLSearchParams(location.search).get("__theme");
if (link && theme) link.search = new URLSearchParams({ __theme: theme });
fetch("arrivals").then(answer => answer.json()).then(({ count, last }) => {
  if (!last) return;
  const when = new Date(last).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
  said.textContent = `${count} ${count === 1 ? "event has" : "events have"} arrived, the last one on ${when}.`;
}).catch(() => {});
"""


# Gradio's own semibold files hold a few letters only (6.31.0); its bold ones are whole.
THEME = gr.themes.Default(
    font=[gr.themes.LocalFont("Source Sans Pro", weights=(400, 700)), "ui-sans-serif", "system-ui", "sans-serif"],
    font_mono=[gr.themes.LocalFont("IBM Plex Mono", weights=(400, 700)), "ui-monospace", "Consolas", "monospace"],
)


@dataclass(frozen=True)
class Step:
    """One thing to set up, with where to do it. `text` is HTML."""

    done: bool
    title: str
    text: str


def setup_steps(settings: Settings, has_desk: bool = True) -> list[Step]:
    """List what this server needs before the Hub's events do real work, done or not."""
    steps = [_secret_step(settings), _token_step(settings), _register_step(settings, has_desk)]
    return [*steps, _storage_step(settings)] if settings.on_space else steps


def _secret_step(settings: Settings) -> Step:
    if settings.secrets:
        return Step(True, "The webhook secret is set", "Only calls that carry it are taken.")
    if settings.closed:
        return Step(
            False,
            "Add the secret WEBHOOK_SECRET",
            f"Until then this Space answers every call with 503. {_where(settings)} Any long random text will do.",
        )
    return Step(
        False,
        "No webhook secret: anyone who knows an address below can call it",
        f"Set <code>WEBHOOK_SECRET</code> to close it. {_where(settings)}",
    )


def _token_step(settings: Settings) -> Step:
    if settings.dry_run:
        return Step(True, "Dry run", "<code>DRY_RUN</code> is set: handlers say what they would start.")
    if settings.hf_token:
        return Step(True, "The Hub token is set", "Handlers can act on the Hub.")
    return Step(
        False,
        "Add the secret HF_TOKEN to start Jobs",
        f"Without it handlers only say what they would start. {_where(settings)} "
        f"{_link(TOKEN_SETTINGS, 'Create a token')} that may write to your repositories and start Jobs.",
    )


def _register_step(settings: Settings, has_desk: bool) -> Step:
    secret = " and the same secret" if settings.secrets else ""
    text = f"{_link(WEBHOOK_SETTINGS, 'Add a webhook')} with an address from below{secret}, and what it should watch."
    if has_desk:
        text += " The page Deliveries can do it for you."
    return Step(False, "Tell the Hub where to call", text)


def _storage_step(settings: Settings) -> Step:
    if settings.has_bucket:
        return Step(True, "A Storage Bucket is attached", "Deliveries are kept when the Space restarts.")
    command = f"hf spaces volumes set {settings.space_id} -v hf://buckets/&lt;you&gt;/hooks:/data"
    return Step(
        False,
        "Attach a Storage Bucket",
        "Until then, deliveries that wait or run are lost when the Space restarts, and so is their history. "
        f"Create one (<code>hf buckets create</code>), then: <code>{command}</code>",
    )


def _where(settings: Settings) -> str:
    if settings.on_space:
        url = f"https://huggingface.co/spaces/{settings.space_id}/settings"
        return f"{_link(url, 'Settings')}, “Variables and secrets”."
    return "Put it into the file <code>.env</code> and start again."


def _link(url: str, text: str) -> str:
    return f'<a href="{html.escape(url)}" target="_blank" rel="noopener">{html.escape(text)}</a>'


Fill = Callable[[str], None]


def landing_page(endpoints: Sequence[Endpoint], settings: Settings, has_desk: bool) -> tuple[gr.Blocks, Fill]:
    """Build the page, without one function that a visitor could call.

    Returns:
        The page, and what writes the address that the Hub can reach into it: that is known once it is launched.
    """
    page: gr.Blocks
    with gr.Blocks(title="Webhooks") as page:
        gr.HTML(_head(settings), elem_classes=["webhooks-card", "webhooks-bare"])
        gr.HTML(_arrivals(settings, has_desk), js_on_load=JS, elem_classes=["webhooks-card", "webhooks-bare"])
        gr.HTML(_steps(setup_steps(settings, has_desk)), elem_classes=["webhooks-card", "webhooks-bare"])
        gr.Markdown("## Endpoints")
        shown: list[tuple[str, gr.Textbox, gr.Code]] = []
        for endpoint in endpoints:
            with gr.Group():
                gr.HTML(_endpoint(endpoint), padding=True, elem_classes="webhooks-card")
                address = gr.Textbox(
                    label="Address", interactive=False, buttons=["copy"], elem_classes="webhooks-address"
                )
                with gr.Accordion("Try it", open=False):
                    command = gr.Code(
                        language="shell",
                        show_label=False,
                        interactive=False,
                        lines=1,
                        buttons=["copy"],
                        show_line_numbers=False,
                    )
            shown.append((endpoint.path, address, command))

    def fill(base_url: str) -> None:
        for path, address, command in shown:
            address.value, command.value = base_url + path, curl(base_url + path, settings)
        page.config = page.get_config_file()  # what Gradio sends to whoever opens the page

    fill(settings.public_url or "")
    return page, fill


def arrivals(counts: Callable[[], Mapping[str, int]], log: Callable[[], Path]) -> Route:
    """Make the route that tells the page whether events arrive: how many there are, and when the last one came."""

    def last_at() -> str | None:
        with reading(log()) as database:
            at = database.execute("SELECT received_at FROM deliveries ORDER BY number DESC LIMIT 1").fetchone()
        return datetime.fromtimestamp(at[0], timezone.utc).isoformat() if at else None

    async def answer(_: Request) -> Response:
        told = {"count": sum(counts().values()), "last": await run_in_threadpool(last_at)}
        return JSONResponse(told, headers={"Cache-Control": "no-store"})

    return Route("/arrivals", answer)


def _arrivals(settings: Settings, has_desk: bool) -> str:
    where = ' target="_blank"' if settings.on_space else ""  # the Hub's frame keeps no session
    link = f'<a class="webhooks-button" href="deliveries"{where}>Deliveries</a>' if has_desk else ""
    return f'<div class="webhooks-arrivals">{link}<span role="status"></span></div>'


def _head(settings: Settings) -> str:
    kind, state = ("good", "Receiving")
    if settings.closed:
        kind, state = ("warn", "Not receiving yet")
    elif not settings.secrets:
        kind, state = ("warn", "Open to everyone")
    return (
        "<div><h1>Webhooks</h1>"
        "<p>Runs your code when a dataset, model or Space changes on the Hub.</p>"
        f'<div class="webhooks-state {kind}">{state}</div></div>'
    )


def _steps(steps: Sequence[Step]) -> str:
    items = [
        f'<li class="{"done" if step.done else "todo"}"><div class="mark">{"✓" if step.done else number}</div>'
        f"<div><b>{html.escape(step.title)}</b><span>{step.text}</span></div></li>"
        for number, step in enumerate(steps, start=1)
    ]
    return f'<ul class="webhooks-steps">{"".join(items)}</ul>'


def _endpoint(endpoint: Endpoint) -> str:
    return f"<div><h3>{html.escape(endpoint.path)}</h3><p>{html.escape(endpoint.description)}</p></div>"
