"""A page of another site, open in the owner's browser, reads and does nothing."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, expect, sync_playwright
from support.browsers import CHROMIUM_ARGUMENTS
from support.payloads import load
from support.processes import Process, Start
from support.tls import TlsProxy

HOST, TOKEN = "me-hooks.hf.space", "an-owner's-own-token"
SECRET = "the secret of the server"
SCRIPT = """
from webhooks import WebhooksServer

server = WebhooksServer()

@server.add_webhook
def keep():
    return "kept it"

server.launch()
"""
FETCH = """async ([url, mode, method]) =>
  fetch(url, { method, mode, credentials: "include" }).then(answer => answer.text()).catch(String)"""
POST = 'url => fetch(url, { method: "POST", mode: "no-cors", body: "{}" }).then(answer => answer.type)'
FORM = """url => {
  const form = document.createElement("form");
  [form.method, form.action] = ["post", url];
  document.body.append(form);
  form.submit();
}"""
FRAME = """address => new Promise(loaded => {
  const frame = document.createElement("iframe");
  [frame.src, frame.onload] = [address, () => loaded()];
  document.body.append(frame);
})"""


class OtherSite(http.server.BaseHTTPRequestHandler):
    """An empty site; a test gives it its scripts."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<title>Another site</title>")

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def other_port() -> Iterator[int]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), OtherSite) as site:
        threading.Thread(target=site.serve_forever, daemon=True).start()
        yield site.server_port
        site.shutdown()


@pytest.fixture(scope="module")
def space(start: Start) -> Process:
    settings = {"WEBHOOK_SECRET": SECRET, "WEBHOOKS_ADMIN_TOKEN": TOKEN}
    return start(SCRIPT, **settings, SPACE_ID="me/hooks", SPACE_AUTHOR_NAME="me", SPACE_HOST=HOST)


@pytest.fixture
def context(space: Process, other_port: int, chromium: str, tmp_path: Path) -> Iterator[BrowserContext]:
    """A browser that sends the cookies of all sites along, as its user chose."""
    (tmp_path / "Default").mkdir()
    profile = {"block_third_party_cookies": False, "cookie_controls_mode": 0}
    (tmp_path / "Default" / "Preferences").write_text(json.dumps({"profile": profile}))
    with TlsProxy(space.port, HOST) as here, TlsProxy(other_port, "evil.example") as there, sync_playwright() as play:
        rules = f"{here.chromium_argument},{there.chromium_argument.partition('=')[2]}"
        options: dict[str, Any] = {"executable_path": chromium, "args": [*CHROMIUM_ARGUMENTS, rules]}
        launched = play.chromium.launch_persistent_context(tmp_path, **options, ignore_https_errors=True)
        with closing(launched) as context:
            yield context


def test_page_of_another_site_reads_and_does_nothing(context: BrowserContext, space: Process) -> None:
    id = space.post("keep", load("repo.content-update"), headers={"X-Webhook-Secret": SECRET}).headers["X-Delivery-Id"]
    pages = f"https://{HOST}/deliveries"
    own = context.new_page()
    own.goto(f"{pages}?token={TOKEN}")
    expect(own.locator("#rows tbody tr")).to_have_count(1)
    assert "kept it" in own.evaluate(FETCH, [pages, "cors", "GET"]), "the own page may do what is tried below"
    evil = context.new_page()
    evil.goto("https://evil.example")
    for url in (pages, f"{pages}/{id}", f"{pages}/{id}/replay", f"{pages}/replay", f"{pages}/sign-out"):
        for mode in ("cors", "no-cors"):
            for method in ("GET", "POST"):
                assert "kept it" not in evil.evaluate(FETCH, [url, mode, method])
        evil.evaluate(FORM, url)
        expect(evil.get_by_text("This request comes from a page of another origin.")).to_be_visible()
        evil.goto("https://evil.example")
    evil.evaluate(FRAME, pages)
    assert "kept it" not in "".join(frame.content() for frame in evil.frames)
    own.reload()
    expect(own.locator("#rows tbody tr")).to_have_count(1)
