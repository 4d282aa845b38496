"""Show visitors the endpoints and how to call them, and the owner what is still to be set up."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from jinja2 import Environment, FileSystemLoader
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .deliveries.engine import Engine
from .deliveries.log import reading, utc
from .endpoints import Endpoint
from .samples import curl, shortest
from .settings import Settings
from .watched import first_repository

HERE = Path(__file__).parent
CSS, JS = ((HERE / name).read_text(encoding="utf-8") for name in ("landing.css", "landing.js"))

# Gradio's own semibold fonts hold only a few letters (6.31.0). Its bold fonts are complete.
THEME = gr.themes.Default(
    font=[gr.themes.LocalFont("Source Sans Pro", weights=(400, 700)), "ui-sans-serif", "system-ui", "sans-serif"],
    font_mono=[gr.themes.LocalFont("IBM Plex Mono", weights=(400, 700)), "ui-monospace", "Consolas", "monospace"],
)

Fill = Callable[[str, bool, bool], None]


def html_parts() -> Any:
    """Return the macros of `landing.html`."""
    environment = Environment(loader=FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.tests["match_start"] = str.startswith
    return environment.get_template("landing.html").module


def landing_page(
    endpoints: Sequence[Endpoint], settings: Settings, has_dashboard: bool, has_catch_up: bool
) -> tuple[gr.Blocks, Fill]:
    """Build the page, without a function that a visitor could call.

    Args:
        has_dashboard: the server has pages for its owner.
        has_catch_up: the server looks on the Hub for what handlers watch.

    Returns:
        The page, and a function that writes into it what is known only after the launch: the server's address, and
        whether the Hub and other machines reach that.
    """
    parts = html_parts()
    watched = [item for endpoint in endpoints for item in endpoint.watched]
    page: gr.Blocks
    with gr.Blocks(title=settings.space_id or "Webhooks") as page:
        top = gr.HTML(js_on_load=JS, elem_classes=["webhooks-card", "webhooks-bare"])
        gr.Markdown("## Endpoints")
        filled: list[tuple[Endpoint, gr.Textbox, gr.Code]] = []
        for endpoint in endpoints:
            with gr.Group():
                about = parts.endpoint(endpoint.path, endpoint.description, endpoint.watched)
                gr.HTML(about, padding=True, elem_classes="webhooks-card")
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
            filled.append((endpoint, address, command))

    def fill(base_url: str, is_public: bool, is_reachable: bool) -> None:
        needs_no_webhook = has_catch_up and watched and not is_public
        top.value = parts.top(settings, watched, has_dashboard, is_reachable, needs_no_webhook)
        for endpoint, address, command in filled:
            address.value = base_url + endpoint.path
            repository = first_repository(endpoint.watched)
            command.value = curl(address.value, settings, shortest(*repository) if repository else None)
        page.config = page.get_config_file()  # Gradio sends this to each visitor

    fill(settings.public_url or "", settings.is_on_space, settings.is_on_space)
    return page, fill


def arrivals(engine: Engine) -> Route:
    """Return the route that tells the page how many events have arrived, and when the last one came."""

    def answer(_: Request) -> Response:
        count, last, from_hub = 0, None, False
        with contextlib.suppress(OSError, sqlite3.Error), reading(engine.log.path) as database:
            count, last, from_hub = database.execute(
                "SELECT (SELECT count(*) FROM deliveries), "
                "(SELECT received_at FROM deliveries ORDER BY number DESC LIMIT 1), "
                "EXISTS (SELECT 1 FROM deliveries WHERE source IS NULL AND replay_of IS NULL)"
            ).fetchone()
        body = {"count": count, "last": last and utc(last).isoformat(), "from_hub": bool(from_hub)}
        return JSONResponse(body, headers={"Cache-Control": "no-store"})

    return Route("/arrivals", answer)
