"""A Space in a browser: the way of a newcomer to the webhooks on the Hub, and a page of another site."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Page, expect, sync_playwright
from support.browsers import CHROMIUM_ARGUMENTS
from support.hub import Hub
from support.payloads import load
from support.processes import Run, free_port
from support.tls import TlsProxy

HOST = "acme-hooks.hf.space"
SCRIPT = """
from webhooks import WebhooksServer

server = WebhooksServer()

@server.add_webhook(watched=["dataset:acme/data", "dataset:acme/more-data"])
def train(payload):
    return {"trained": payload.repo.name}

server.launch()
"""
FETCH = """async ([url, mode, method]) =>
  fetch(url, { method, mode, credentials: "include" }).then(answer => answer.text()).catch(String)"""
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

    def log_message(self, *_: object) -> None: ...


@pytest.fixture(scope="module")
def port() -> int:
    """The port of the Space."""
    return free_port()


@pytest.fixture
def context(port: int, chromium: str, tmp_path: Path) -> Iterator[BrowserContext]:
    """A browser that knows the Space and another site. It sends the cookies of all sites, as its user chose."""
    (tmp_path / "Default").mkdir()
    profile = {"block_third_party_cookies": False, "cookie_controls_mode": 0}
    (tmp_path / "Default" / "Preferences").write_text(json.dumps({"profile": profile}))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), OtherSite) as site:
        threading.Thread(target=site.serve_forever, daemon=True).start()
        with TlsProxy(port, HOST) as here, TlsProxy(site.server_port, "evil.example") as there:
            rules = f"{here.chromium_argument},{there.chromium_argument.partition('=')[2]}"
            arguments = [*CHROMIUM_ARGUMENTS, rules]
            with sync_playwright() as playwright:
                launched = playwright.chromium.launch_persistent_context(
                    tmp_path, executable_path=chromium, args=arguments, ignore_https_errors=True
                )
                with closing(launched) as context:
                    yield context
        site.shutdown()


def done_steps(page: Page) -> list[bool]:
    states = page.locator(".webhooks-steps li")
    expect(states).to_have_count(5)
    return [state == "done" for state in states.evaluate_all("steps => steps.map(step => step.className)")]


def sign_in(page: Page) -> None:
    page.get_by_role("link", name="Sign in with Hugging Face").click()
    expect(page.get_by_role("button", name="Sign out")).to_be_visible()


def test_newcomer_reaches_the_webhooks_on_the_hub(run: Run, context: BrowserContext, port: int, hub: Hub) -> None:
    hub.add_user("julien", {"acme": "write"})
    hub.signed_in = "julien"
    environ = {**hub.space(HOST), "SPACE_ID": "acme/hooks", "SPACE_AUTHOR_NAME": "acme", "HF_ENDPOINT": hub.url}
    process = run(SCRIPT, port=port, **environ).wait_until_ready()
    home = context.new_page()
    home.goto(f"https://{HOST}")
    expect(home.get_by_text("Not receiving yet")).to_be_visible()
    assert done_steps(home) == [False, True, False, False, False]
    with context.expect_page() as opened:  # in a tab: browsers keep no session for the Hub's frame
        home.get_by_role("link", name="Choose a handler and an event").click()
    page = opened.value
    expect(page.get_by_text("Only acme sees what arrived.")).to_be_visible()
    sign_in(page)
    page.get_by_role("link", name="Send a test event").click()
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("trained: acme/data")

    page.get_by_role("link", name="On the Hub").click()
    page.get_by_role("button", name="Create what is missing").click()
    expect(page.get_by_role("alert")).to_contain_text("Set WEBHOOK_SECRET first")
    process.stop()
    run(SCRIPT, port=port, WEBHOOK_SECRET="s3cret", **environ).wait_until_ready()
    page.get_by_role("link", name="On the Hub").click()
    sign_in(page)
    page.get_by_role("link", name="On the Hub").click()
    expect(page.get_by_text("2 webhooks are missing")).to_be_visible()
    page.get_by_role("row", name="more-data").get_by_role("button", name="Create").click()
    expect(page.get_by_text("1 webhook is missing")).to_be_visible()
    page.get_by_role("button", name="Create what is missing").click()
    expect(page.get_by_text("enabled")).to_have_count(2)
    assert {webhook["secret"] for webhook in hub.webhooks["julien"]} == {"s3cret"}
    (session,) = [cookie for cookie in context.cookies() if cookie["name"].endswith("hf_space")]
    assert (session["path"], session["httpOnly"], session["secure"]) == ("/deliveries", True, True)

    page.get_by_role("link", name="acme/hooks").click()
    expect(page.get_by_text("Receiving", exact=True)).to_be_visible()
    expect(page.get_by_text("1 event has arrived")).to_be_visible()
    assert done_steps(page) == [True, True, True, False, False]


def test_page_of_another_site_reads_and_does_nothing(run: Run, context: BrowserContext, port: int) -> None:
    space = {"SPACE_ID": "acme/hooks", "SPACE_HOST": HOST, "WEBHOOK_SECRET": "s3cret"}
    process = run(SCRIPT, port=port, WEBHOOKS_ADMIN_TOKEN="an-owner's-own-token", **space).wait_until_ready()
    payload = load("repo.content-update")
    id = process.post("train", payload, headers={"X-Webhook-Secret": "s3cret"}).headers["X-Delivery-Id"]
    pages = f"https://{HOST}/deliveries"
    own = context.new_page()
    own.goto(f"{pages}?token=an-owner's-own-token")
    expect(own.locator("#rows tbody tr")).to_have_count(1)
    assert "trained" in own.evaluate(FETCH, [pages, "cors", "GET"]), "the own page may do what is tried below"
    evil = context.new_page()
    evil.goto("https://evil.example")
    for url in (pages, f"{pages}/{id}", f"{pages}/{id}/replay", f"{pages}/replay", f"{pages}/sign-out"):
        for mode in ("cors", "no-cors"):
            for method in ("GET", "POST"):
                assert "trained" not in evil.evaluate(FETCH, [url, mode, method])
        evil.evaluate(FORM, url)
        expect(evil.get_by_text("This request comes from a page of another origin.")).to_be_visible()
        evil.goto("https://evil.example")
    evil.evaluate(FRAME, pages)
    assert "trained" not in "".join(frame.content() for frame in evil.frames)
    own.reload()
    expect(own.locator("#rows tbody tr")).to_have_count(1)
