"""Whole ways through the owner's pages, in a real browser and on the real server, with and without JavaScript."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Locator, Page, expect
from support.browsers import CONTRASTS, LOOKS, SCREENSHOTS
from support.dispatching import wait_until
from support.payloads import load
from support.processes import Process, Start

pytestmark = pytest.mark.once

SECRET = {"X-Webhook-Secret": "the secret of the desk"}
ADMIN_TOKEN = "an-owner's-own-token"
HANDLERS = """
import threading
from webhooks import Delivery, WebhookPayload, WebhooksServer

server = WebhooksServer(reply_within=0.2)
gate, mended = threading.Event(), threading.Event()

@server.add_webhook
def keep(payload: WebhookPayload):
    return {"kept": payload.repo.name}

@server.add_webhook
def skip(payload: WebhookPayload):
    return {"skipped": "not a new commit on main of the dataset me/data"}

@server.add_webhook
def wait(payload: WebhookPayload):
    gate.wait()

@server.add_webhook
def let_go():
    gate.set()

@server.add_webhook
def break_down(payload: WebhookPayload):
    if not mended.is_set():
        raise RuntimeError("no <b>GPU</b> is free")
    return "worked"

@server.add_webhook
def mend():
    mended.set()

@server.add_webhook(max_attempts=5)
def try_again(payload: WebhookPayload):
    raise ConnectionError("503 from the Hub")

@server.add_webhook(debounce=600)
def burst(payload: WebhookPayload):
    pass

server.launch()
"""


class Dashboard:
    def __init__(self, process: Process) -> None:
        self.process = process
        self.url = f"{process.url}/deliveries"

    def deliver(self, endpoint: str, fixture: str = "repo.content-update") -> str:
        return str(self.process.post(endpoint, load(fixture), headers=SECRET).headers["X-Delivery-Id"])


@pytest.fixture
def desk(start: Start) -> Dashboard:
    return Dashboard(start(HANDLERS, WEBHOOK_SECRET=SECRET["X-Webhook-Secret"], WEBHOOKS_ADMIN_TOKEN=ADMIN_TOKEN))


@contextmanager
def opened(browser: Browser, desk: Dashboard, **options: Any) -> Iterator[Page]:
    """Open the list as the owner. Whatever the browser complains about fails the test."""
    complaints: list[str] = []
    with browser.new_context(**options) as context:
        context.grant_permissions(["clipboard-read", "clipboard-write"], origin=desk.process.url)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(f"dialog: {dialog.message}"))
        page.goto(f"{desk.url}?token={ADMIN_TOKEN}")
        assert page.url == desk.url
        yield page
    assert [text for text in complaints if "status of 4" not in text] == []


def rows(page: Page) -> Locator:
    return page.locator("#rows tbody tr")


@pytest.mark.parametrize("javascript", [True, False], ids=["with JavaScript", "without JavaScript"])
def test_what_failed_is_found_mended_and_replayed_and_a_test_event_sent(
    browser: Browser, desk: Dashboard, javascript: bool
) -> None:
    ids = [desk.deliver("break_down") for _ in range(2)]
    desk.deliver("skip")
    with opened(browser, desk, java_script_enabled=javascript) as page:
        expect(rows(page)).to_have_count(3)
        page.get_by_role("link", name="Failed 2").click()
        expect(rows(page)).to_have_count(2)
        page.get_by_role("link", name="RuntimeError: no <b>GPU</b> is free").last.click()
        expect(page).to_have_url(f"{desk.url}/{ids[0]}")
        expect(page.get_by_label("Error of attempt 1")).to_contain_text("RuntimeError: no <b>GPU</b> is free")
        page.get_by_role("link", name="Newer").click()
        expect(page).to_have_url(f"{desk.url}/{ids[1]}")
        page.get_by_role("link", name="← Deliveries").click()

        desk.process.post("mend", {}, headers=SECRET)
        page.get_by_role("link", name="Replay what failed…").click()
        page.get_by_role("button", name="Replay 2 deliveries").click()
        done = f"{desk.url}?outcome=done&endpoint=/webhooks/break_down"
        wait_until(lambda: page.goto(done) and rows(page).count() == 2)
        expect(rows(page).first).to_contain_text("answered worked replay")

        page.get_by_role("link", name="Test event").click()
        page.get_by_label("Handler").select_option("keep")
        if not javascript:
            page.get_by_role("button", name="Fill in").click()
        expect(page.get_by_text("Payload for /webhooks/keep")).to_be_visible()
        box = page.get_by_label("Payload for /webhooks/keep")
        box.fill(box.input_value().replace("username/my-dataset", "me/changed") + ",")
        page.get_by_role("button", name="Send").click()
        expect(page.get_by_role("alert")).to_contain_text("This is no JSON")
        box.fill(box.input_value().rstrip(","))
        page.get_by_role("button", name="Send").click()
        expect(page.get_by_role("heading", level=1)).to_contain_text('answered {"kept": "me/changed"}')

        page.get_by_role("link", name="Edit and send").click()
        expect(box).to_have_value(re.compile("me/changed"))
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_text("What has arrived is shown to the owner only.")).to_be_visible()


def test_what_arrives_appears_without_a_reload_and_without_a_jump(browser: Browser, desk: Dashboard) -> None:
    for _ in range(55):
        desk.deliver("keep")
    with opened(browser, desk) as page:
        id = desk.deliver("wait")
        expect(rows(page).first).to_have_attribute("id", f"d-{id}")
        expect(rows(page).first).to_contain_text("running")
        desk.process.post("let_go", {}, headers=SECRET)
        expect(page.locator(f"#d-{id}")).to_contain_text("done")

        page.evaluate("scrollTo(0, 800)")
        place = page.evaluate("document.querySelectorAll('#rows tbody tr')[30].getBoundingClientRect().top")
        newest = desk.deliver("skip")
        fresh = page.get_by_role("button", name="1 new")
        expect(fresh).to_be_visible()
        assert page.evaluate("document.querySelectorAll('#rows tbody tr')[30].getBoundingClientRect().top") == place
        fresh.click()
        expect(rows(page).first).to_have_attribute("id", f"d-{newest}")
        expect(fresh).to_be_hidden()

        rows(page).nth(1).get_by_role("link").first.focus()
        desk.deliver("skip")
        expect(fresh).to_be_visible()
        assert page.evaluate("document.activeElement.className").startswith("open")
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", level=1)).to_be_visible()


def test_a_page_whose_session_is_over_shows_the_door(browser: Browser, desk: Dashboard) -> None:
    desk.deliver("keep")
    with opened(browser, desk) as page:
        expect(rows(page)).to_have_count(1)
        page.context.clear_cookies()
        expect(page.get_by_text("shown to the owner only")).to_be_visible()
        assert rows(page).count() == 0


def test_an_open_delivery_changes_without_a_reload_and_then_asks_no_more(browser: Browser, desk: Dashboard) -> None:
    id = desk.deliver("wait")
    with opened(browser, desk) as page:
        page.goto(f"{desk.url}/{id}")
        expect(page.get_by_role("heading", level=1)).to_contain_text("running")
        desk.process.post("let_go", {}, headers=SECRET)
        expect(page.get_by_role("heading", level=1)).to_contain_text("done")
        page.wait_for_function("!document.body.dataset.live")


def test_times_are_those_of_the_reader(browser: Browser, desk: Dashboard) -> None:
    id = desk.deliver("keep")
    with opened(browser, desk, timezone_id="Asia/Kolkata", locale="en-GB") as page:
        expect(rows(page).first.locator("time")).to_have_text(re.compile(r"^\d+ s ago$"))
        bar = page.get_by_role("link", name=re.compile(r"^1 done, \d\d:30$"))
        expect(bar).to_have_count(1)
        bar.click()
        expect(rows(page)).to_have_count(1)
        page.goto(f"{desk.url}/{id}")
        time = page.locator("dd time").first
        utc = datetime.fromisoformat(time.get_attribute("datetime") or "")
        local = utc.astimezone(timezone(timedelta(hours=5, minutes=30)))
        expect(time).to_contain_text(f"{local:%H:%M:%S}")


def test_the_payload_and_the_command_are_copied(browser: Browser, desk: Dashboard) -> None:
    id = desk.deliver("keep")
    with opened(browser, desk) as page:
        page.goto(f"{desk.url}/{id}")
        page.get_by_role("button", name="Copy", exact=True).click()
        expect(page.get_by_role("button", name="Copied")).to_be_visible()
        assert json.loads(page.evaluate("navigator.clipboard.readText()")) == load("repo.content-update")
        page.get_by_role("button", name="Copy as curl").click()
        page.wait_for_function("async () => (await navigator.clipboard.readText()).includes('curl -X POST')")


def stop_the_queue(url: str) -> None:
    """Do what anybody can do to Gradio's queue: 2,300 sessions that nobody reads."""
    config = httpx.get(f"{url}/config").json()
    with httpx.Client(base_url=url, timeout=30) as client:
        for number in range(2300):
            body = {"session_hash": f"s{number}", "fn_index": config["dependencies"][0]["id"], "data": []}
            if client.post("/gradio_api/queue/join", json=body).status_code == 503:
                return


OWN_UI = """
import gradio as gr
from webhooks import WebhookPayload, WebhooksServer

with gr.Blocks() as ui:
    gr.Textbox()
    ui.load(lambda: None)

server = WebhooksServer(ui)

@server.add_webhook
def keep(payload: WebhookPayload):
    return {"kept": payload.repo.name}

server.launch()
"""


def test_the_desk_works_beside_a_page_of_ones_own_whose_queue_is_stopped(browser: Browser, start: Start) -> None:
    desk = Dashboard(start(OWN_UI, WEBHOOK_SECRET=SECRET["X-Webhook-Secret"], WEBHOOKS_ADMIN_TOKEN=ADMIN_TOKEN))
    assert len(httpx.get(f"{desk.process.url}/config").json()["dependencies"]) == 1, "nothing is added to it"
    stop_the_queue(desk.process.url)
    desk.deliver("keep")
    with opened(browser, desk) as page:
        expect(rows(page)).to_have_count(1)
        page.get_by_role("link", name="answered").click()
        page.get_by_role("button", name="Replay").click()
        expect(page.get_by_text("Replay of")).to_be_visible()


@pytest.mark.parametrize(("look", "options"), LOOKS.items())
def test_every_page_fits_the_screen_and_can_be_read(
    browser: Browser, desk: Dashboard, look: str, options: dict[str, Any]
) -> None:
    """And at 200 % zoom, which is half of the width."""
    SCREENSHOTS.mkdir(exist_ok=True)
    with opened(browser, desk, **options) as page:
        page.screenshot(path=SCREENSHOTS / f"desk-empty-{look}.png")
        for endpoint in ("keep", "skip", "break_down", "try_again", "burst", "burst"):
            desk.deliver(endpoint)
        failed = desk.deliver("break_down", "discussion.comment-create")
        for name, path in {
            "list": "",
            "none": "?q=nothing-like-this",
            "delivery": f"/{failed}",
            "replay": "/replay",
            "test": "/test",
            "hub": "/hub",
            "sorry": "/no-such-page",
        }.items():
            page.goto(desk.url + path)
            page.screenshot(path=SCREENSHOTS / f"desk-{name}-{look}.png", full_page=True)
            contrasts = page.evaluate(CONTRASTS.replace(".webhooks-card *", "body *:not(option, title, script)"))
            assert len(contrasts) > 5
            assert [(text, round(ratio, 1)) for text, ratio in contrasts if ratio < 4.5] == [], name
            for width in (options["viewport"]["width"], options["viewport"]["width"] // 2):
                page.set_viewport_size({"width": max(width, 320), "height": options["viewport"]["height"]})
                root = "document.documentElement"
                assert page.evaluate(f"{root}.scrollWidth <= {root}.clientWidth"), (name, width)
            page.set_viewport_size(options["viewport"])


def test_everything_is_reached_with_the_keyboard_alone(browser: Browser, desk: Dashboard) -> None:
    desk.deliver("keep")
    with opened(browser, desk) as page:
        reached = []
        for _ in range(24):
            page.keyboard.press("Tab")
            reached.append(
                page.evaluate("document.activeElement.ariaLabel || document.activeElement.textContent.trim()")
            )
        for name in (
            "Skip the chart",
            "Deliveries",
            "Test event",
            "On the Hub",
            "Sign out",
            "Search",
            "Handler",
            "Find",
        ):
            assert name in reached, name
        assert any("answered" in name for name in reached)


def test_fifteen_deliveries_and_the_chart_are_seen_at_once_and_nothing_moves(
    browser: Browser, desk: Dashboard
) -> None:
    for endpoint in ("keep", "skip", "break_down") * 8:
        desk.deliver(endpoint)
    with opened(browser, desk, **LOOKS["light"]) as page:
        page.add_init_script(
            "window.moved = 0; new PerformanceObserver(list => list.getEntries().forEach(e => moved += e.value))"
            ".observe({ type: 'layout-shift', buffered: true })"
        )
        page.reload()
        desk.deliver("keep")
        expect(rows(page)).to_have_count(25)
        seen = "e => e.getBoundingClientRect().bottom <= innerHeight"
        assert page.locator("#day").evaluate(seen)
        assert rows(page).nth(14).evaluate(seen), "a screen holds 15 deliveries"
        page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        assert page.evaluate("moved") < 0.1
