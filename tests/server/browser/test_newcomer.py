"""The way of a newcomer: from the first start to the webhooks on the Hub, without typing an address."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import BrowserContext, Page, expect, sync_playwright
from support.browsers import CHROMIUM_ARGUMENTS
from support.hub import Hub
from support.processes import Run, free_port
from support.tls import TlsProxy

HOST = "acme-hooks.hf.space"
SCRIPT = """
from webhooks import WebhookPayload, WebhooksServer

server = WebhooksServer()

@server.add_webhook(watched=["dataset:acme/data", "dataset:acme/more-data"])
def train(payload: WebhookPayload):
    return {"trained": payload.repo.name}

server.launch()
"""


@contextmanager
def browsing(chromium: str, proxy: TlsProxy) -> Iterator[BrowserContext]:
    arguments = [*CHROMIUM_ARGUMENTS, proxy.chromium_argument]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        yield browser.new_context(ignore_https_errors=True)
        browser.close()


def done_steps(page: Page) -> list[bool]:
    states = page.locator(".webhooks-steps li")
    expect(states).to_have_count(5)
    return [state == "done" for state in states.evaluate_all("steps => steps.map(step => step.className)")]


def sign_in(page: Page) -> None:
    page.get_by_role("link", name="Sign in with Hugging Face").click()
    expect(page.get_by_role("button", name="Sign out")).to_be_visible()


def test_newcomer_reaches_the_webhooks_on_the_hub(run: Run, chromium: str) -> None:
    with Hub() as hub:
        hub.add_user("julien", {"acme": "write"})
        hub.signed_in = "julien"
        names = {"SPACE_ID": "acme/hooks", "SPACE_AUTHOR_NAME": "acme", "HF_ENDPOINT": hub.url}
        environ, port = {**hub.space(HOST), **names}, free_port()
        process = run(SCRIPT, port=port, **environ).wait_until_ready()
        with TlsProxy(port, HOST) as proxy, browsing(chromium, proxy) as context:
            home = context.new_page()
            home.goto(proxy.url)
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
