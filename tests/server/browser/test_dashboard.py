"""The owner's pages in a browser: with and without JavaScript, live, and readable."""

from __future__ import annotations

import re
from contextlib import AbstractContextManager
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect
from support.browsers import CONTRASTS, FITS, LOOKS, opened_page
from support.engines import wait_until
from support.payloads import load
from support.processes import Process, Start

SECRET = {"X-Webhook-Secret": "the secret of the server"}
ADMIN_TOKEN = "an-owner's-own-token"
SETTINGS = {"WEBHOOK_SECRET": SECRET["X-Webhook-Secret"], "WEBHOOKS_ADMIN_TOKEN": ADMIN_TOKEN}
HANDLERS = """
import threading
from webhooks import WebhookPayload, WebhooksServer

server = WebhooksServer(reply_within=0.2)
released, fixed = threading.Event(), threading.Event()

@server.add_webhook
def keep(payload: WebhookPayload):
    return {"kept": payload.repo.name}

@server.add_webhook
def skip(payload: WebhookPayload):
    return {"skipped": "not a new commit on main of the dataset me/data"}

@server.add_webhook
def wait(payload: WebhookPayload):
    released.wait()

@server.add_webhook
def release():
    released.set()

@server.add_webhook
def break_down(payload: WebhookPayload):
    if not fixed.is_set():
        raise RuntimeError("no <b>GPU</b> is free")
    return "worked"

@server.add_webhook
def fix():
    fixed.set()

server.launch()
"""


@pytest.fixture
def server(start: Start) -> Process:
    return start(HANDLERS, **SETTINGS)


def deliver(server: Process, endpoint: str, fixture: str = "repo.content-update") -> str:
    return str(server.post(endpoint, load(fixture), headers=SECRET).headers["X-Delivery-Id"])


def opened(browser: Browser, server: Process, **options: Any) -> AbstractContextManager[Page]:
    """Open the list as the owner."""
    return opened_page(browser, server, f"/deliveries?token={ADMIN_TOKEN}", **options)


def rows(page: Page) -> Locator:
    return page.locator("#rows tbody tr")


@pytest.mark.parametrize("javascript", [True, False], ids=["with JavaScript", "without JavaScript"])
def test_failure_is_found_fixed_and_replayed(browser: Browser, server: Process, javascript: bool) -> None:
    ids = [deliver(server, "break_down") for _ in range(2)]
    deliver(server, "skip")
    with opened(browser, server, java_script_enabled=javascript) as page:
        expect(rows(page)).to_have_count(2)
        page.get_by_role("link", name="Failed 2").click()
        page.get_by_role("link", name="RuntimeError: no <b>GPU</b> is free").last.click()
        expect(page).to_have_url(f"{server.url}/deliveries/{ids[0]}")
        expect(page.get_by_label("Error of attempt 1")).to_contain_text("in break_down")
        page.get_by_role("link", name="← Deliveries").click()

        server.post("fix", {}, headers=SECRET)
        page.get_by_role("link", name="Replay 2 failed…").click()
        expect(page.get_by_text(re.compile("2 . break_down. Jobs that they start are billed."))).to_be_visible()
        page.get_by_role("button", name="Replay 2 deliveries").click()
        expect(page.get_by_role("status")).to_contain_text("2 deliveries run again.")
        done = f"{server.url}/deliveries?outcome=done&endpoint=/webhooks/break_down"
        wait_until(lambda: page.goto(done) and rows(page).count() == 2)
        expect(rows(page).first).to_contain_text("worked replay")

        page.get_by_role("link", name="Test event").click()
        page.get_by_label("Handler").select_option("keep")
        if not javascript:
            page.get_by_role("button", name="Fill in").click()
        box = page.get_by_label("Payload for /webhooks/keep")
        box.fill(box.input_value().replace("username/my-dataset", "me/changed") + ",")
        page.get_by_role("button", name="Send").click()
        expect(page.get_by_role("alert")).to_contain_text("This is not JSON")
        box.fill(box.input_value().rstrip(","))
        page.get_by_role("button", name="Send").click()
        expect(page.get_by_role("heading", level=1)).to_contain_text("kept: me/changed")
        page.get_by_role("link", name="Edit and send").click()
        expect(box).to_have_value(re.compile("me/changed"))
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_text("Only the owner sees what arrived.")).to_be_visible()


def test_list_is_live_and_does_not_jump(browser: Browser, server: Process) -> None:
    with opened(browser, server) as page:
        expect(page.get_by_text("Nothing has arrived yet")).to_be_visible()
        deliver(server, "keep")
        expect(page.locator("#outcomes")).to_be_visible()
        for _ in range(50):
            deliver(server, "keep")
        id = deliver(server, "wait")
        expect(rows(page).first).to_have_attribute("id", f"d-{id}")
        expect(rows(page).first).to_contain_text("running")
        server.post("release", {}, headers=SECRET)
        expect(page.locator(f"#d-{id}")).to_contain_text("done")

        page.evaluate("scrollTo(0, 800)")
        place = page.evaluate("document.querySelectorAll('#rows tbody tr')[30].getBoundingClientRect().top")
        newest = deliver(server, "keep")
        fresh = page.get_by_role("button", name="1 new")
        expect(fresh).to_be_visible()
        assert page.evaluate("document.querySelectorAll('#rows tbody tr')[30].getBoundingClientRect().top") == place
        fresh.click()
        expect(rows(page).first).to_have_attribute("id", f"d-{newest}")

        page.context.clear_cookies()
        expect(page.get_by_text("Only the owner sees what arrived.")).to_be_visible()


@pytest.mark.parametrize("look", LOOKS)
def test_every_page_fits_the_screen_and_is_readable(browser: Browser, server: Process, look: str) -> None:
    for endpoint in ("keep", "skip", "break_down"):
        deliver(server, endpoint)
    failed = deliver(server, "break_down", "discussion.comment-create")
    with opened(browser, server, **LOOKS[look]) as page:
        for path in ("", "?q=nothing-like-this", f"/{failed}", "/replay", "/test", "/hub", "/no-such-page"):
            page.goto(f"{server.url}/deliveries{path}")
            contrasts = page.evaluate(CONTRASTS.replace(".webhooks-card *", "body *:not(option, title, script)"))
            assert len(contrasts) > 5
            assert [(text, round(ratio, 1)) for text, ratio in contrasts if ratio < 4.5] == [], path
            assert page.evaluate(FITS), path
            assert page.evaluate("getComputedStyle(document.body).fontFamily").startswith('"Source Sans Pro"')


def test_everything_is_reached_with_the_keyboard(browser: Browser, server: Process) -> None:
    deliver(server, "keep")
    with opened(browser, server) as page:
        reached = []
        for _ in range(24):
            page.keyboard.press("Tab")
            reached.append(
                page.evaluate("document.activeElement.ariaLabel || document.activeElement.textContent.trim()")
            )
        assert {"Skip the chart", "Deliveries", "Test event", "On the Hub", "Sign out", "Search", "Find"} <= set(
            reached
        )
        assert any("kept: " in name for name in reached)
