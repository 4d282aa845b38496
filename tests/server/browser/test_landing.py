"""The landing page in a browser, and its command in a shell."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect
from support.browsers import CONTRASTS, FITS, LOOKS, opened_page
from support.processes import Process, Start

SECRET = "s3cret $HOME `id` \"x\" 'y' \\ %41"
TOKEN = "hf_" + "token" * 7
TRAIN = "/webhooks/train"
LONG = "/webhooks/my-team/a-path-that-is-far-too-long-for-one-line/on-the-screen-of-a-phone"

HANDLERS = f'''
from webhooks import WebhookPayload, WebhooksServer

server = WebhooksServer()

@server.add_webhook
def train(payload: WebhookPayload):
    """Trains <img src=x onerror="document.title='broken in'"> the model."""
    return {{"trained on": payload.repo.name, "at": payload.revision()}}

@server.add_webhook("{LONG.removeprefix("/webhooks")}", watched="model:me/tuned")
async def report(payload: WebhookPayload):
    """
    Writes a report
    about it.

    This is for those who read the code.
    """

server.launch()
'''


@pytest.fixture(scope="module")
def laptop(start: Start) -> Process:
    return start(HANDLERS, WEBHOOK_SECRET=SECRET, HF_TOKEN=TOKEN)


@pytest.fixture(scope="module")
def new_space(start: Start) -> Process:
    """A Space that was just duplicated: it has no secrets yet."""
    return start(HANDLERS, SPACE_ID="me/hooks", SPACE_HOST="me-hooks.hf.space")


@contextmanager
def opened(browser: Browser, server: Process, **options: Any) -> Iterator[Page]:
    """Open the page and wait until it is filled."""
    with opened_page(browser, server, **options) as page:
        expect(addresses(page).last).to_have_value(re.compile(LONG))
        yield page


def addresses(page: Page) -> Any:
    return page.locator(".webhooks-address textarea")


def test_page_shows_every_endpoint_and_no_secret(browser: Browser, laptop: Process) -> None:
    with opened(browser, laptop) as page:
        assert page.get_by_role("heading", level=3).all_inner_texts() == [TRAIN, LONG]
        expect(page.get_by_text("Writes a report about it.", exact=True)).to_be_visible()
        expect(page.get_by_text("those who read the code")).to_have_count(0)
        expect(page.get_by_text("Watches model me/tuned.")).to_be_visible()
        expect(
            page.get_by_text("Trains <img src=x onerror=\"document.title='broken in'\"> the model.")
        ).to_be_visible()
        assert page.locator("img[src=x]").count() == 0
        assert page.title() == "Webhooks"
        assert [box.input_value() for box in addresses(page).all()] == [laptop.url + TRAIN, laptop.url + LONG]
        sent = page.content() + page.request.get(f"{laptop.url}/config").text()
        assert "s3cret" not in sent
        assert TOKEN not in sent


def test_copied_command_works_in_a_shell(browser: Browser, laptop: Process) -> None:
    with opened(browser, laptop) as page:
        page.get_by_role("button", name="Try it").first.click()
        expect(page.get_by_role("button", name="Copy")).to_have_count(3)
        page.get_by_role("button", name="Copy").nth(1).click()
        page.wait_for_function("async () => (await navigator.clipboard.readText()).includes('curl')")
        command = page.evaluate("navigator.clipboard.readText()")
    for secret, end in ((SECRET, '"at":"575db8b7"} 200'), ("another", " 403")):
        line = f"{command} --silent --show-error --noproxy '*' --write-out ' %{{http_code}}'"
        environment = {"PATH": "/usr/bin:/bin", "WEBHOOK_SECRET": secret}
        done = subprocess.run(["bash", "-c", line], env=environment, capture_output=True, text=True)
        assert (done.stdout.endswith(end), done.stderr) == (True, "")


@pytest.mark.parametrize("server", ["laptop", "new_space"])
@pytest.mark.parametrize("look", LOOKS)
def test_page_fits_the_screen_and_is_readable(
    browser: Browser, request: pytest.FixtureRequest, server: str, look: str
) -> None:
    with opened(browser, request.getfixturevalue(server), **LOOKS[look]) as page:
        page.get_by_role("button", name="Try it").last.click()
        expect(page.locator(".cm-content")).to_be_visible()
        contrasts = page.evaluate(CONTRASTS)
        assert len(contrasts) > 10
        assert [(text, ratio) for text, ratio in contrasts if ratio < (3 if text == "✓" else 4.5)] == []
        assert page.evaluate(FITS)
        assert page.evaluate("document.body.classList.contains('dark')") is (look == "dark")
        if server == "new_space":
            expect(page.get_by_text("Not receiving yet", exact=True)).to_be_visible()
            assert addresses(page).first.input_value() == f"https://me-hooks.hf.space{TRAIN}"
