"""What a visitor sees: the endpoints, how to call them, and what is still to be set up."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from jinja2 import Environment, FileSystemLoader
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .deliveries.log import reading, utc
from .endpoints import Endpoint
from .samples import curl, shortest
from .settings import Settings
from .watched import first_repository

HERE = Path(__file__).parent
CSS, JS = ((HERE / name).read_text(encoding="utf-8") for name in ("landing.css", "landing.js"))

# Gradio's own semibold files hold a few letters only (6.31.0); its bold ones are whole.
THEME = gr.themes.Default(
    font=[gr.themes.LocalFont("Source Sans Pro", weights=(400, 700)), "ui-sans-serif", "system-ui", "sans-serif"],
    font_mono=[gr.themes.LocalFont("IBM Plex Mono", weights=(400, 700)), "ui-monospace", "Consolas", "monospace"],
)

Fill = Callable[[str], None]


def html_parts() -> Any:
    """Return the macros of `landing.html`."""
    environment = Environment(loader=FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("landing.html").module


def landing_page(endpoints: Sequence[Endpoint], settings: Settings, has_dashboard: bool) -> tuple[gr.Blocks, Fill]:
    """Build the page, without one function that a visitor could call.

    Returns:
        The page, and what writes the address that the Hub can reach into it: that is known once it is launched.
    """
    parts = html_parts()
    card = "webhooks-card"
    bare = [card, "webhooks-bare"]
    page: gr.Blocks
    with gr.Blocks(title="Webhooks") as page:
        gr.HTML(parts.head(settings), elem_classes=bare)
        gr.HTML(parts.arrivals(settings, has_dashboard), js_on_load=JS, elem_classes=bare)
        gr.HTML(parts.steps(settings, has_dashboard), elem_classes=bare)
        gr.Markdown("## Endpoints")
        shown: list[tuple[Endpoint, gr.Textbox, gr.Code]] = []
        for endpoint in endpoints:
            with gr.Group():
                gr.HTML(parts.endpoint(endpoint.path, endpoint.description), padding=True, elem_classes=card)
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
            shown.append((endpoint, address, command))

    def fill(base_url: str) -> None:
        for endpoint, address, command in shown:
            address.value = base_url + endpoint.path
            about = first_repository(endpoint.watched)
            command.value = curl(address.value, settings, shortest(*about) if about else None)
        page.config = page.get_config_file()  # what Gradio sends to whoever opens the page

    fill(settings.public_url or "")
    return page, fill


def arrivals(counts: Callable[[], Mapping[str, int]], log: Callable[[], Path]) -> Route:
    """Make the route that tells the page whether events arrive: how many there are, and when the last one came."""

    def answer(_: Request) -> Response:
        with reading(log()) as database:
            row = database.execute("SELECT received_at FROM deliveries ORDER BY number DESC LIMIT 1").fetchone()
        last = utc(row[0]).isoformat() if row else None
        return JSONResponse({"count": sum(counts().values()), "last": last}, headers={"Cache-Control": "no-store"})

    return Route("/arrivals", answer)
