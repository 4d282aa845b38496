"""The landing page: what it tells a visitor, in words and in a real browser."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect
from support.browsers import CONTRASTS, LOOKS, SCREENSHOTS
from support.payloads import load
from support.processes import Process, Start

import webhooks.settings
from webhooks.samples import curl
from webhooks.settings import Settings, read_settings

pytestmark = pytest.mark.long  # importing Gradio takes seconds

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
OWN_UI = '''
import gradio as gr
from webhooks import WebhookPayload, WebhooksServer

with gr.Blocks() as ui:
    gr.Markdown("# A page of my own")

server = WebhooksServer(ui)

@server.add_webhook
def train(payload: WebhookPayload):
    """Trains the model."""

server.launch()
'''


@pytest.fixture(scope="module")
def laptop(start: Start) -> Process:
    return start(HANDLERS, WEBHOOK_SECRET=SECRET, HF_TOKEN=TOKEN)


@pytest.fixture(scope="module")
def new_space(start: Start) -> Process:
    """A Space that was just duplicated: it has no secrets yet."""
    return start(HANDLERS, SPACE_ID="me/hooks", SPACE_HOST="me-hooks.hf.space")


@pytest.fixture(scope="module")
def own_ui(start: Start) -> Process:
    return start(OWN_UI)


@dataclass
class Step:
    done: bool
    title: str
    text: str


def setup_steps(settings: Settings) -> list[Step]:
    from webhooks import landing

    listed = landing.html_parts().steps(settings, True)
    pattern = r'<li class="(\w+)"><div class="mark"></div><div><b>(.*?)</b><span>(.*?)</span></div></li>'
    steps = [Step(state == "done", title, text) for state, title, text in re.findall(pattern, listed, re.S)]
    assert len(steps) == listed.count("<li") > 2
    return steps


def settings(**environ: str) -> Settings:
    return read_settings(Settings, {name.upper(): value for name, value in environ.items()})


# --- in words


@pytest.mark.parametrize(
    ("environ", "done"),
    [
        ({}, [False, False, False]),
        ({"webhook_secret": "s"}, [True, False, False]),
        ({"webhook_secret_previous": "s"}, [True, False, False]),
        ({"hf_token": "t"}, [False, True, False]),
        ({"dry_run": "true"}, [False, True, False]),
        ({"space_id": "me/hooks"}, [False, False, False, False]),
        ({"space_id": "me/hooks", "webhooks_allow_unauthenticated": "true"}, [False, False, False, False]),
        ({"space_id": "me/hooks", "webhook_secret": "s", "hf_token": "t"}, [True, True, False, False]),
    ],
)
def test_a_step_is_done_once_its_setting_is_there(environ: dict[str, str], done: list[bool]) -> None:
    assert [step.done for step in setup_steps(settings(**environ))] == done


def test_a_space_without_a_bucket_is_told_how_to_attach_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    on_space = settings(space_id="me/hooks")
    monkeypatch.setattr(webhooks.settings, "BUCKET", tmp_path / "data")
    missing = setup_steps(on_space)[-1]
    assert not missing.done
    assert "hf spaces volumes set me/hooks -v hf://buckets/&lt;you&gt;/hooks:/data" in missing.text
    (tmp_path / "data").mkdir()
    assert setup_steps(on_space)[-1].done


def test_a_step_says_where_it_is_done() -> None:
    for step in setup_steps(settings(space_id="me/hooks"))[:2]:
        assert 'href="https://huggingface.co/spaces/me/hooks/settings"' in step.text
    for step in setup_steps(settings())[:2]:
        assert "<code>.env</code>" in step.text
        assert "/settings</" not in step.text


def test_a_new_space_is_told_that_it_answers_503_and_an_open_one_that_anyone_can_call() -> None:
    assert "503" in setup_steps(settings(space_id="me/hooks"))[0].text
    for environ in ({}, {"space_id": "me/hooks", "webhooks_allow_unauthenticated": "true"}):
        assert "anyone" in setup_steps(settings(**environ))[0].title


def test_no_step_and_no_command_shows_a_secret() -> None:
    given = settings(webhook_secret="hunter1", webhook_secret_previous="hunter2", hf_token="hunter3")
    assert "hunter" not in str(setup_steps(given)) + curl("https://me-hooks.hf.space/webhooks/train", given)


@pytest.mark.parametrize(
    ("environ", "named"),
    [({}, False), ({"webhook_secret": "s"}, True), ({"space_id": "me/hooks"}, True)],
)
def test_the_command_names_the_secret_where_one_is_needed(environ: dict[str, str], named: bool) -> None:
    assert ("X-Webhook-Secret" in curl("https://me-hooks.hf.space", settings(**environ))) is named


def run_in_shell(command: str, **environment: str) -> str:
    """Run what the page offers, and return the body and the status."""
    line = f"{command} --silent --show-error --noproxy '*' --write-out ' %{{http_code}}'"
    done = subprocess.run(["bash", "-c", line], env={"PATH": "/usr/bin:/bin", **environment}, capture_output=True)
    assert done.stderr == b""
    return done.stdout.decode()


def test_the_command_works_as_it_is_with_a_secret_in_the_environment(laptop: Process) -> None:
    command = curl(laptop.url + TRAIN, settings(webhook_secret=SECRET))
    answer = run_in_shell(command, WEBHOOK_SECRET=SECRET)
    assert answer == '{"trained on":"username/my-dataset","at":"575db8b7"} 200'
    assert run_in_shell(command, WEBHOOK_SECRET="another").endswith(" 403")
    assert run_in_shell(command).endswith(" 401")


def test_the_command_works_as_it_is_where_no_secret_is_set(own_ui: Process) -> None:
    assert run_in_shell(curl(own_ui.url + TRAIN, settings())).endswith('"status":"succeeded"} 200')


# --- in a browser


@contextmanager
def opened(browser: Browser, server: Process, **options: Any) -> Iterator[Page]:
    """Open the page and wait until it is filled. Whatever it complains about fails the test."""
    complaints: list[str] = []
    with browser.new_context(**options) as context:
        context.grant_permissions(["clipboard-read", "clipboard-write"], origin=server.url)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(server.url)
        expect(addresses(page).last).to_have_value(re.compile(LONG))
        yield page
    assert complaints == []


def addresses(page: Page) -> Any:
    return page.locator(".webhooks-address textarea")


def states(page: Page) -> Any:
    return page.evaluate("[...document.querySelectorAll('.webhooks-steps li')].map(step => step.className)")


def clipboard(page: Page) -> str:
    return str(page.evaluate("navigator.clipboard.readText()"))


def wait_for_clipboard(page: Page, text: str) -> None:
    page.wait_for_function("async text => await navigator.clipboard.readText() === text", arg=text)


@pytest.mark.once
def test_the_page_shows_every_endpoint_with_its_description_and_address(browser: Browser, laptop: Process) -> None:
    with opened(browser, laptop) as page:
        assert page.get_by_role("heading", level=3).all_inner_texts() == [TRAIN, LONG]
        expect(page.get_by_text("Writes a report about it.", exact=True)).to_be_visible()
        expect(page.get_by_text("those who read the code")).to_have_count(0)
        assert [box.input_value() for box in addresses(page).all()] == [laptop.url + TRAIN, laptop.url + LONG]


@pytest.mark.once
def test_html_in_a_description_is_shown_as_text(browser: Browser, laptop: Process) -> None:
    with opened(browser, laptop) as page:
        expect(
            page.get_by_text("Trains <img src=x onerror=\"document.title='broken in'\"> the model.")
        ).to_be_visible()
        assert page.locator("img[src=x]").count() == 0
        assert page.title() == "Webhooks"


@pytest.mark.once
def test_a_server_with_secret_and_token_receives_and_shows_neither(browser: Browser, laptop: Process) -> None:
    with opened(browser, laptop) as page:
        expect(page.get_by_text("Receiving", exact=True)).to_be_visible()
        assert states(page) == ["done", "done", "todo"]
        register = page.get_by_role("link", name="Add a webhook")
        expect(register).to_have_attribute("href", "https://huggingface.co/settings/webhooks")
        sent = page.content() + page.request.get(f"{laptop.url}/config").text()
        assert "/webhooks/train" in sent
        assert "s3cret" not in sent
        assert TOKEN not in sent


@pytest.mark.once
def test_a_new_space_says_that_it_receives_nothing_and_links_to_its_settings(
    browser: Browser, new_space: Process
) -> None:
    with opened(browser, new_space) as page:
        expect(page.get_by_text("Not receiving yet", exact=True)).to_be_visible()
        assert states(page) == ["todo"] * 4
        for link in page.get_by_role("link", name="Settings", exact=True).all():
            expect(link).to_have_attribute("href", "https://huggingface.co/spaces/me/hooks/settings")
        assert page.get_by_role("link", name="Settings", exact=True).count() == 2


@pytest.mark.once
def test_a_space_shows_the_addresses_that_the_hub_can_reach(browser: Browser, new_space: Process) -> None:
    with opened(browser, new_space) as page:
        space = "https://me-hooks.hf.space"
        assert [box.input_value() for box in addresses(page).all()] == [space + TRAIN, space + LONG]
        page.get_by_role("button", name="Try it").first.click()
        expect(page.locator(".cm-content").first).to_contain_text(f"curl -X POST {space}{TRAIN} ")
        page.get_by_role("button", name="Try it").last.click()
        expect(page.locator(".cm-content").last).to_contain_text('"type": "model", "name": "me/tuned"')


@pytest.mark.once
def test_the_copy_buttons_copy_the_address_and_the_command(browser: Browser, laptop: Process) -> None:
    with opened(browser, laptop) as page:
        copy = page.get_by_role("button", name="Copy")
        copy.first.click()
        wait_for_clipboard(page, laptop.url + TRAIN)
        page.get_by_role("button", name="Try it").first.click()
        expect(copy).to_have_count(3)
        copy.nth(1).click()
        wait_for_clipboard(page, curl(laptop.url + TRAIN, settings(webhook_secret=SECRET)))
        assert run_in_shell(clipboard(page), WEBHOOK_SECRET=SECRET).endswith(" 200")


@pytest.mark.once
def test_the_address_can_be_copied_with_the_keyboard_alone(browser: Browser, laptop: Process) -> None:
    with opened(browser, laptop) as page:
        reached: list[str] = []
        while "Copy" not in reached and len(reached) < 10:
            page.keyboard.press("Tab")
            reached.append(page.evaluate("document.activeElement.ariaLabel || document.activeElement.innerText"))
        assert reached[:2] == ["Deliveries", "Add a webhook"]
        assert reached[-1] == "Copy"
        page.keyboard.press("Enter")
        wait_for_clipboard(page, laptop.url + TRAIN)


@pytest.mark.once
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("server", ["laptop", "new_space"])
def test_every_text_stands_out_from_its_background(
    browser: Browser, request: pytest.FixtureRequest, server: str, scheme: str
) -> None:
    with opened(browser, request.getfixturevalue(server), color_scheme=scheme) as page:
        contrasts = page.evaluate(CONTRASTS)
        assert len(contrasts) > 10
        assert [(text, contrast) for text, contrast in contrasts if contrast < (3 if text == "✓" else 4.5)] == []


@pytest.mark.once
@pytest.mark.parametrize("server", ["laptop", "new_space"])
@pytest.mark.parametrize(("look", "options"), LOOKS.items())
def test_the_page_fits_the_screen(
    browser: Browser, request: pytest.FixtureRequest, server: str, look: str, options: dict[str, Any]
) -> None:
    with opened(browser, request.getfixturevalue(server), **options) as page:
        page.get_by_role("button", name="Try it").last.click()
        expect(page.locator(".cm-content")).to_be_visible()
        SCREENSHOTS.mkdir(exist_ok=True)
        page.screenshot(path=SCREENSHOTS / f"{server.replace('_', '-')}-{look}.png", full_page=True)
        root = "document.documentElement"
        assert page.evaluate(f"{root}.scrollWidth <= {root}.clientWidth")
        ends = page.locator(".webhooks-card *, .webhooks-address *").evaluate_all(
            "parts => parts.map(part => part.getBoundingClientRect().right)"
        )
        assert max(ends) <= options["viewport"]["width"]
        assert page.evaluate("document.body.classList.contains('dark')") is (look == "dark")


# --- what has arrived


@pytest.mark.parametrize("server", ["laptop", "own_ui"])
def test_a_visitor_finds_no_function_to_call_and_no_way_to_the_owners_pages_in_gradio(
    request: pytest.FixtureRequest, server: str
) -> None:
    process: Process = request.getfixturevalue(server)
    config = httpx.get(f"{process.url}/config").json()
    assert config["dependencies"] == []
    assert len(config.get("pages", [""])) == 1
    for path in ("/?page=deliveries", "/?page=/deliveries"):
        assert "payload" not in httpx.get(process.url + path).text.lower().replace("webhookpayload", "")


@pytest.mark.once
def test_the_page_says_how_many_events_have_arrived_and_no_name(browser: Browser, start: Start) -> None:
    server = start(HANDLERS)
    assert httpx.get(f"{server.url}/arrivals").json() == {"count": 0, "last": None}
    with opened(browser, server) as page:
        expect(page.locator(".webhooks-arrivals")).to_have_text("Deliveries")
    server.post("train", load("repo.content-update"))
    told = httpx.get(f"{server.url}/arrivals")
    assert (told.json()["count"], "username" in told.text) == (1, False)
    with opened(browser, server) as page:
        expect(page.get_by_text("1 event has arrived, the last one on")).to_be_visible()
        page.goto(f"{server.url}/?__theme=dark")
        link = page.get_by_role("link", name="Deliveries", exact=True)
        expect(link).to_have_attribute("href", re.compile("/deliveries.__theme=dark$"))
