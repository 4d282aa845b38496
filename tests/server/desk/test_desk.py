"""The owner's page in a real browser: see, test and replay deliveries on the real server."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import gradio
import httpx
import pytest
import webhooks.desk.page
from playwright.sync_api import Browser, Locator, Page, TimeoutError, expect
from support.browsers import CONTRASTS, LOOKS, SCREENSHOTS
from support.payloads import load
from support.processes import Process, Start
from webhooks.desk.page import LIVE, View

from webhooks import Delivery, read_settings
from webhooks.deliveries.log import DATABASE, DeliveryLog
from webhooks.desk.access import Access
from webhooks.desk.queries import PAGE
from webhooks.endpoints import Endpoint
from webhooks.payload import parse_payload
from webhooks.samples import KINDS, sample
from webhooks.settings import Settings

pytestmark = pytest.mark.once

SECRET = {"X-Webhook-Secret": "the secret of the desk"}
ADMIN_TOKEN = "an owner's own token"
COMMIT = load("repo.content-update")
REPO = COMMIT["repo"]["name"]

HANDLERS = """
import json, os, threading
from fastapi import Request
from webhooks import Delivery, WebhookPayload, WebhooksServer

server = WebhooksServer(reply_within=1)
gate = threading.Event()

@server.add_webhook
def keep(delivery: Delivery, request: Request):
    with open("seen.jsonl", "a") as file:
        print(json.dumps({"id": delivery.id, "headers": dict(request.headers)}), file=file)
    return {"kept": delivery.payload.repo.name}

@server.add_webhook
def wait(payload: WebhookPayload):
    gate.wait()
    gate.clear()

@server.add_webhook
def let_go():
    gate.set()

@server.add_webhook(max_attempts=2)
def second_time_lucky(delivery: Delivery):
    if delivery.attempt == 1:
        raise RuntimeError("no <b>GPU</b> is free")
    return "done on the second"

@server.add_webhook(debounce=1)
def last_of_a_burst(payload: WebhookPayload):
    return {"ran for": payload.revision()}

@server.add_webhook
def echo(payload: WebhookPayload):
    return {payload.repo.name: payload.comment.content}

@server.add_webhook
def shout(payload: WebhookPayload):
    raise RuntimeError(payload.comment.content)

server.launch()
"""


class Desk(NamedTuple):
    """A server, the link that opens its page, and the folder that its script runs in."""

    process: Process
    link: str
    folder: Path

    @property
    def page(self) -> str:
        return f"{self.process.url}/deliveries"

    def deliver(self, endpoint: str, content: Any = COMMIT) -> str:
        """Deliver as the Hub would, and return the id."""
        return str(self.process.post(endpoint, content, headers=SECRET).headers["X-Delivery-Id"])

    def seen(self) -> dict[str, dict[str, Any]]:
        """Return what the handler `keep` wrote down, by delivery."""
        file = self.folder / "seen.jsonl"
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        return {line["id"]: line for line in map(json.loads, lines)}


def desk_of(process: Process, link: str | None = None) -> Desk:
    printed = re.search(r"^  (http\S+/deliveries\?token=\S+)$", process.output, re.MULTILINE)
    assert printed
    return Desk(process, link or printed[1], Path(f"/proc/{process.popen.pid}/cwd").resolve())


@pytest.fixture(scope="module", autouse=True)
def patience() -> Iterator[None]:
    """The page looks for something new every two seconds, and the machine may be slow."""
    expect.set_options(timeout=15_000)
    yield
    expect.set_options(timeout=5_000)


@pytest.fixture(scope="module")
def desk(start: Start) -> Desk:
    return desk_of(start(HANDLERS, WEBHOOK_SECRET=SECRET["X-Webhook-Secret"]))


@pytest.fixture(scope="module")
def new_space(start: Start) -> Desk:
    """A Space that was just duplicated: nothing has arrived, and without a secret nothing will."""
    return desk_of(start(HANDLERS, SPACE_ID="me/hooks", SPACE_AUTHOR_NAME="me"))


@pytest.fixture(scope="module")
def full(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """A server with 120 deliveries, and a token that its owner has set."""
    folder = tmp_path_factory.mktemp("full")
    fill(folder)
    process = start(HANDLERS, WEBHOOKS_ADMIN_TOKEN=ADMIN_TOKEN, WEBHOOKS_DATA_DIR=str(folder))
    return desk_of(process, f"{process.url}/deliveries?token={ADMIN_TOKEN}")


OLD_ENDPOINT, OTHER_REPO = "/webhooks/of_last_year", "model/username/my-model"
FULL = 2 * PAGE + 20

# What Gradio complains about when a page is left while it asks for something.
LEAVING = re.compile("AbortError: signal is aborted|Connection errored out")


def fill(folder: Path) -> None:
    """Write 120 deliveries, one every ten minutes: every 4th failed, every 6th about a model, every 10th elsewhere."""
    log = DeliveryLog(folder)
    now = datetime.now(timezone.utc)
    bodies = [json.dumps(load(name)).encode() for name in ("repo.content-update", "repo.content-update-model")]
    with log.transaction():
        for number in range(1, FULL + 1):
            body = bodies[number % 6 == 0]
            endpoint = OLD_ENDPOINT if number % 10 == 0 else "/webhooks/keep"
            received_at = now - timedelta(minutes=10 * (FULL - number))
            id, payload = f"{number:016x}", parse_payload(body)
            delivery = Delivery(endpoint, payload, id, received_at, body=body)
            log.add(delivery, "running")
            if number % 4 == 0:
                log.fail_attempt(delivery.id, "    | Traceback\n    | RuntimeError: it failed")
                log.finish(delivery.id, "failed", 500, b'{"error": 1}')
            else:
                log.finish(delivery.id, "succeeded", 200, b'{"a": 1}')
    log.close()


@contextmanager
def opened(browser: Browser, desk: Desk, delivery: str = "", *, link: str = "", **options: Any) -> Iterator[Page]:
    """Open the page as the owner, or a delivery on it; or a link as a visitor.

    Whatever the browser complains about fails the test.
    """
    complaints: list[str] = []
    with browser.new_context(**options) as context:
        context.grant_permissions(["clipboard-read", "clipboard-write"], origin=desk.process.url)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(f"dialog: {dialog.message}"))
        if link:
            page.goto(link)
        else:
            context.request.get(desk.link, max_redirects=0)
            page.goto(f"{desk.page}?delivery={delivery}" if delivery else desk.page)
            expect(details(page).locator("h2, .webhooks-empty") if delivery else listing(page)).to_be_visible()
        yield page
    assert [complaint for complaint in complaints if not LEAVING.search(complaint)] == []


def door(page: Page) -> Locator:
    return page.get_by_text("What has arrived is shown to")


def listing(page: Page) -> Locator:
    return page.locator("#webhooks-listing table, #webhooks-listing .webhooks-empty")


def rows(page: Page) -> Locator:
    return page.locator("#webhooks-listing tbody tr")


def row(page: Page, id: str) -> Locator:
    return page.locator(f'#webhooks-listing tr[data-open="{id}"]')


def details(page: Page) -> Locator:
    return page.locator("#webhooks-details")


def heading(page: Page, id: str) -> Locator:
    return details(page).locator(f'h2[id="{id}"]')


def fact(page: Page, name: str) -> Locator:
    return details(page).locator(f"dt:text-is('{name}') + dd")


def toasts(page: Page) -> Locator:
    return page.get_by_test_id("toast-text")


def button(page: Page, name: str) -> Locator:
    return page.get_by_role("button", name=name)


def choose(page: Page, label: str, option: str) -> None:
    page.get_by_label(label, exact=True).locator("visible=true").click()
    page.get_by_role("option", name=option, exact=True).click()


def fill_in_test_event(page: Page, kind: str, repo: str = REPO, revision: str = "") -> None:
    page.get_by_role("tab", name="Test event").click()
    choose(page, "Event", kind)
    page.get_by_role("textbox", name="Repository").fill(repo)
    page.get_by_role("textbox", name="Revision").fill(revision)


def id_in_address(page: Page) -> str:
    return parse_qs(urlsplit(page.url).query)["delivery"][0]


def wait_for_clipboard(page: Page, json_text: str) -> None:
    """Wait until the clipboard has this JSON, however it is written."""
    page.wait_for_function(
        "async wanted => { try { return JSON.stringify(JSON.parse(await navigator.clipboard.readText())) === wanted }"
        " catch { return false } }",
        arg=json_text,
    )


def wait_for_focus(page: Page, on: str) -> None:
    page.wait_for_function("selector => document.activeElement?.matches(selector)", arg=on)


# --- who gets in


@pytest.mark.parametrize("name", ["desk", "full"])
def test_the_link_opens_the_page_and_leaves_no_token_in_its_address(
    browser: Browser, request: pytest.FixtureRequest, name: str
) -> None:
    desk: Desk = request.getfixturevalue(name)
    with opened(browser, desk, link=desk.link) as page:
        expect(listing(page)).to_be_visible()
        assert page.url == desk.page
        assert page.evaluate("[document.referrer, document.cookie]") == ["", ""]
        expect(door(page)).not_to_be_visible()


def test_a_token_of_ones_own_is_not_printed(full: Desk) -> None:
    assert ADMIN_TOKEN not in full.process.output
    assert "/deliveries?token=<WEBHOOKS_ADMIN_TOKEN>" in full.process.output


def test_an_old_link_says_so_and_shows_nothing(browser: Browser, full: Desk) -> None:
    with opened(browser, full, link=f"{full.page}?token=of-an-earlier-start") as page:
        expect(page.get_by_text("This link is not valid any more")).to_be_visible()
        assert "of-an-earlier-start" not in page.url
        assert REPO not in page.inner_text("body")
        assert rows(page).count() == 0


def test_a_visitor_sees_the_door_and_nothing_that_runs_something(browser: Browser, full: Desk) -> None:
    with opened(browser, full, link=full.page) as page:
        expect(page.get_by_text("/deliveries?token=…")).to_be_visible()
        things = page.locator("button, input, textarea, [role=tab], table, svg.marks").locator("visible=true")
        assert [thing.inner_text().strip() for thing in things.all()] == ["Settings"]  # Gradio's own, in the footer
        assert REPO not in page.inner_text("body")


def test_an_address_of_a_delivery_shows_a_visitor_the_door(browser: Browser, full: Desk) -> None:
    with opened(browser, full, link=f"{full.page}?delivery={1:016x}") as page:
        expect(door(page)).to_be_visible()
        assert details(page).count() == 0
        assert REPO not in page.inner_text("body")


def test_after_signing_out_the_old_cookie_opens_nothing(browser: Browser, new_space: Desk) -> None:
    with opened(browser, new_space) as page:
        cookies = page.context.cookies()
        assert len(cookies) == 1
        button(page, "Sign out").click()
        expect(door(page)).to_be_visible()
        page.context.clear_cookies()
        page.context.add_cookies([{**cookies[0]}])
        page.goto(new_space.page)
        expect(door(page)).to_be_visible()
        expect(listing(page)).not_to_be_visible()


def test_a_page_whose_session_is_over_locks_itself_in_silence(browser: Browser, full: Desk) -> None:
    with opened(browser, full) as page:
        expect(rows(page)).to_have_count(PAGE)
        page.context.clear_cookies()
        expect(door(page)).to_be_visible()
        assert REPO not in page.inner_text("body")
        assert page.locator("#webhooks-listing, #webhooks-details, svg.marks, [role=tab]").count() == 0
        with pytest.raises(TimeoutError), page.expect_request("**/queue/join*", timeout=1500 * LIVE):
            pass  # the page asks for nothing any more, so nothing can be refused
        assert toasts(page).count() == 0


# --- what has arrived


def test_a_new_server_says_what_to_do_next(browser: Browser, new_space: Desk) -> None:
    with opened(browser, new_space) as page:
        expect(listing(page)).to_contain_text("Nothing has arrived yet")
        expect(listing(page)).to_contain_text("Send one under Test event, or create a webhook under On the Hub")
        expect(page.locator("svg.marks")).not_to_be_visible()


def test_a_delivery_appears_and_changes_without_a_reload(browser: Browser, desk: Desk) -> None:
    with opened(browser, desk) as page:
        id = desk.deliver("wait")
        expect(rows(page).first).to_have_attribute("data-open", id)
        expect(row(page, id)).to_contain_text(re.compile("/webhooks/wait.*repo.content update.*dataset/.*running"))
        desk.deliver("let_go")
        expect(row(page, id)).to_contain_text("succeeded")


@pytest.mark.parametrize("delivery", [None, f"{7:016}"])
def test_a_look_that_finds_nothing_new_sends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, delivery: str | None
) -> None:
    fill(tmp_path)
    settings = read_settings(Settings, {})
    access = Access(settings, lambda: [])
    monkeypatch.setattr(access, "is_owner", lambda _: True)
    desk = webhooks.desk.page.Desk(
        settings, {"/webhooks/f": Endpoint(lambda: None, "/f")}, access, tmp_path / DATABASE, str, print, str, str
    )
    with gradio.Blocks() as ui:
        pass
    desk.add_to(ui)
    look = partial(desk.show, "", "", "", View(), delivery, request=gradio.Request())
    first = look(0)
    assert desk.listing in first or desk.details in first
    assert look(first[desk.seen]) == {desk.seen: first[desk.seen]}


def test_an_open_delivery_changes_without_a_reload(browser: Browser, desk: Desk) -> None:
    id = desk.deliver("wait")
    with opened(browser, desk, id) as page:
        expect(heading(page, id)).to_contain_text("running")
        expect(details(page).locator("li")).to_contain_text("running")
        desk.deliver("let_go")
        expect(heading(page, id)).to_contain_text("succeeded")
        expect(fact(page, "Answer")).to_have_text("200")


def test_a_delivery_is_shown_with_payload_attempts_errors_and_result(browser: Browser, desk: Desk) -> None:
    id = desk.deliver("second_time_lucky")
    with opened(browser, desk) as page:
        expect(row(page, id)).to_contain_text("succeeded attempt 2")
        row(page, id).click()
        expect(heading(page, id)).to_contain_text("succeeded")
        expect(fact(page, "Endpoint")).to_have_text("/webhooks/second_time_lucky")
        expect(fact(page, "Event")).to_have_text("repo.content update")
        repo = fact(page, "Repository").get_by_role("link", name=f"dataset {REPO}")
        expect(repo).to_have_attribute("href", f"https://huggingface.co/datasets/{REPO}")
        first, second = details(page).locator("li").all()
        expect(first).to_contain_text(re.compile("1 · .* s failed"))
        expect(first.locator("pre")).to_contain_text("RuntimeError: no <b>GPU</b> is free")
        expect(second).to_contain_text(re.compile("2 · .* s succeeded"))
        expect(details(page).locator("h3:text-is('Result') + pre")).to_have_text('"done on the second"')
        button(page, "Copy").click()
        wait_for_clipboard(page, json.dumps(COMMIT, separators=(",", ":")))


def test_times_are_those_of_the_reader(browser: Browser, full: Desk) -> None:
    with opened(browser, full, f"{1:016x}", timezone_id="Asia/Kolkata", locale="en-GB") as page:
        time = fact(page, "Received").locator("time")
        utc = datetime.fromisoformat(time.get_attribute("datetime") or "")
        local = utc.astimezone(timezone(timedelta(hours=5, minutes=30)))
        expect(time).to_contain_text(f"{local:%H:%M:%S}")


def test_a_delivery_links_to_the_one_that_took_its_place_and_back(browser: Browser, desk: Desk) -> None:
    older, newer = desk.deliver("last_of_a_burst"), desk.deliver("last_of_a_burst")
    with opened(browser, desk, older) as page:
        expect(heading(page, older)).to_contain_text("superseded")
        expect(details(page)).to_contain_text("None yet.")
        fact(page, "Superseded by").get_by_role("link", name=newer).click()
        expect(heading(page, newer)).to_contain_text("succeeded")
        fact(page, "In place of").get_by_role("link", name=older).click()
        expect(heading(page, older)).to_be_visible()


def test_the_address_follows_what_is_open_and_opens_it_again(browser: Browser, full: Desk) -> None:
    id = f"{FULL - 1:016x}"
    with opened(browser, full) as page:
        row(page, id).click()
        expect(heading(page, id)).to_be_visible()
        expect(page).to_have_url(f"{full.page}?delivery={id}")
        page.reload()
        expect(heading(page, id)).to_be_visible()
        expect(rows(page).first).not_to_be_visible()
        button(page, "All deliveries").click()
        expect(rows(page)).to_have_count(PAGE)
        expect(heading(page, id)).not_to_be_visible()
        expect(page).to_have_url(full.page)


def test_an_unknown_delivery_is_said_to_be_none(browser: Browser, full: Desk) -> None:
    with opened(browser, full, "ffffffffffffffff") as page:
        expect(details(page)).to_contain_text("There is no such delivery")
        button(page, "Replay").click()
        expect(toasts(page)).to_have_text("There is no such delivery any more.")
        button(page, "All deliveries").click()
        expect(rows(page)).to_have_count(PAGE)


def test_a_replay_runs_the_handler_again_and_opens(browser: Browser, desk: Desk) -> None:
    id = desk.deliver("keep")
    with opened(browser, desk, id) as page:
        button(page, "Replay").click()
        expect(fact(page, "Replay of")).to_have_text(id)
        replay = id_in_address(page)
        assert replay != id
        expect(heading(page, replay)).to_contain_text("succeeded")
        assert {id, replay} <= desk.seen().keys()
        fact(page, "Replay of").get_by_role("link").click()
        expect(fact(page, "Replayed as")).to_have_text(replay)
        button(page, "All deliveries").click()
        expect(row(page, replay)).to_contain_text("succeeded replay")


# --- filters, pages, chart


def test_the_list_has_pages_of_fifty(browser: Browser, full: Desk) -> None:
    newer, older = "← Newer", "Older →"

    def first_shown(page: Page, number: int, count: int = PAGE) -> None:
        expect(rows(page).first).to_have_attribute("data-open", f"{number:016x}")
        expect(rows(page)).to_have_count(count)

    with opened(browser, full) as page:
        first_shown(page, FULL)
        expect(button(page, newer)).to_be_disabled()
        button(page, older).click()
        first_shown(page, FULL - PAGE)
        expect(button(page, newer)).to_be_enabled()
        button(page, older).click()
        first_shown(page, FULL - 2 * PAGE, 20)
        expect(button(page, older)).to_be_disabled()
        button(page, newer).click()
        first_shown(page, FULL - PAGE)
        button(page, newer).click()
        first_shown(page, FULL)
        expect(button(page, newer)).to_be_disabled()
        expect(button(page, older)).to_be_enabled()


def test_filters_narrow_the_list_together_and_begin_at_its_first_page(browser: Browser, full: Desk) -> None:
    with opened(browser, full) as page:
        button(page, "Older →").click()
        expect(button(page, "← Newer")).to_be_enabled()
        choose(page, "Status", "failed")
        expect(rows(page)).to_have_count(FULL // 4)
        expect(button(page, "← Newer")).to_be_disabled()
        assert set(page.locator(".webhooks-pill").all_inner_texts()) == {"failed"}
        choose(page, "Repository", OTHER_REPO)
        expect(rows(page)).to_have_count(FULL // 12)
        choose(page, "Endpoint", OLD_ENDPOINT)
        expect(rows(page)).to_have_count(FULL // 60)
        expect(rows(page).first).to_contain_text(re.compile(f"{OLD_ENDPOINT}.*{OTHER_REPO}.*failed"))
        choose(page, "Status", "running")
        expect(listing(page)).to_contain_text("No delivery is like that")
        choose(page, "Status", "Every status")
        choose(page, "Repository", "Every repository")
        expect(rows(page)).to_have_count(FULL // 10)
        assert set(rows(page).locator("td:nth-child(2)").all_inner_texts()) == {OLD_ENDPOINT}


def test_a_repository_that_is_new_can_be_filtered_by_at_once(browser: Browser, desk: Desk) -> None:
    with opened(browser, desk) as page:
        payload = {**COMMIT, "repo": {**COMMIT["repo"], "name": "username/never-seen"}}
        id = desk.deliver("keep", payload)
        expect(row(page, id)).to_be_visible()
        choose(page, "Repository", "dataset/username/never-seen")
        expect(rows(page)).to_have_count(1)
        assert rows(page).get_attribute("data-open") == id


def test_the_chart_shows_the_last_day_by_status_with_a_legend(browser: Browser, full: Desk) -> None:
    with opened(browser, full) as page:
        chart = page.locator("svg.marks")
        expect(chart).to_be_visible()
        expect(chart.locator(".role-legend-label text")).to_have_text(["succeeded", "failed"])
        fills = chart.locator(".role-legend-symbol path").evaluate_all("all => all.map(e => e.getAttribute('fill'))")
        assert fills == ["#16a34a", "#dc2626"]
        bars = chart.locator("[aria-roledescription=bar]")
        shown = [
            re.findall(r"deliveries: (\d+); status: (\w+)", bar.get_attribute("aria-label") or "")[0]
            for bar in bars.all()
        ]
        counts = {
            status: sum(int(count) for count, its in shown if its == status) for status in ("succeeded", "failed")
        }
        assert counts == {"succeeded": FULL * 3 // 4, "failed": FULL // 4}
        block = page.locator(".webhooks-chart").bounding_box()
        legend = chart.locator(".role-legend-label").last.bounding_box()
        assert block
        assert legend
        assert legend["y"] + legend["height"] < block["y"] + block["height"]


# --- test events


def test_a_test_event_reaches_the_handler_and_opens(browser: Browser, desk: Desk) -> None:
    revision = "0123456789abcdef0123456789abcdef01234567"
    with opened(browser, desk) as page:
        shown = page.url
        for kind in ("commit", "comment", "repo_moved"):
            event = sample(kind, "dataset", REPO, revision)
            fill_in_test_event(page, KINDS[kind], revision=revision)
            button(page, "Send test event").click()
            expect(page).not_to_have_url(shown)
            shown, id = page.url, id_in_address(page)
            expect(heading(page, id)).to_contain_text("succeeded")
            expect(fact(page, "Event")).to_contain_text(f"{event['event']['scope']} {event['event']['action']}")
            button(page, "Copy").click()
            wait_for_clipboard(page, json.dumps(event, separators=(",", ":")))
            assert desk.seen()[id]["headers"]["user-agent"] == "webhooks-test-event"


def test_a_test_event_that_makes_no_sense_is_not_sent(browser: Browser, desk: Desk) -> None:
    before = httpx.get(f"{desk.process.url}/health").json()
    with opened(browser, desk) as page:
        fill_in_test_event(page, "Comment", repo="my-dataset")
        button(page, "Send test event").click()
        expect(toasts(page)).to_have_text(["The repository must be a name like username/my-dataset."])
        page.get_by_test_id("toast-close").click()
        fill_in_test_event(page, "Comment", revision="main")
        page.get_by_role("textbox", name="Revision").press("Enter")
        expect(toasts(page)).to_have_text(
            ["The revision must be a full commit hash, 40 hexadecimal digits, or empty."]
        )
    assert httpx.get(f"{desk.process.url}/health").json() == before


def test_a_test_event_whose_handler_fails_opens_with_the_error(browser: Browser, desk: Desk) -> None:
    with opened(browser, desk) as page:
        fill_in_test_event(page, "Comment")
        choose(page, "Endpoint", "/webhooks/shout")
        button(page, "Send test event").click()
        expect(details(page).locator("h2")).to_contain_text("failed")
        expect(details(page).locator("li pre")).to_contain_text("RuntimeError: A comment to try the webhook.")
        expect(fact(page, "Answer")).to_have_text("500")


def test_a_test_event_on_a_space_without_a_secret_says_why_it_was_refused(browser: Browser, new_space: Desk) -> None:
    with opened(browser, new_space) as page:
        fill_in_test_event(page, "New commit on main")
        button(page, "Send test event").click()
        expect(toasts(page)).to_contain_text("The endpoint answered 503: This Space has no WEBHOOK_SECRET yet")
        assert new_space.seen() == {}


# --- what strangers write

INVISIBLE = "\x00\x01\x1b[31m\x7f\x85\u2028\u200b\u200f\u202e\u2066\ufeff\U000e0041"
HTML = '<img src=x onerror="window.broken=1"><script>window.broken=1</script></textarea></pre><h1 id=injected>'
MARKDOWN = "**bold** [link](javascript:window.broken=1) ![](x) `code` $x$ {{7*7}}"
HOSTILE = f"{HTML}{MARKDOWN}{INVISIBLE}\nsecond line & <b>"
LONG = "w" * 64 * 1024


def hostile() -> bytes:
    """Make a payload of a comment with all of it in every field that a stranger may fill, and half a character."""
    payload = load("discussion.comment-create")
    payload["repo"] |= {"name": f"{HOSTILE}{LONG}", "url": {"web": "javascript:window.broken=1"}}
    payload["event"] = {"scope": f"discussion.comment{HTML}", "action": HOSTILE}
    payload["discussion"]["title"] = f"{HOSTILE}{LONG}"
    payload["comment"]["content"] = f"{HOSTILE}{LONG}"
    payload["updatedRefs"] = [{"ref": f"refs/heads/{HOSTILE}", "oldSha": None, "newSha": HTML}]
    return json.dumps(payload).replace("second line", r"second line \ud83e").encode()


def shows_no_more_than_text(page: Page) -> None:
    assert page.evaluate("window.broken") is None
    assert page.locator("#injected, [onerror], img[src=x], a[href^=javascript]").count() == 0
    assert (
        re.findall(
            r"[^\S \n\t\xa0]|[\x00-\x08\x0e-\x1f\x7f-\x9f\u200c-\u200f\u202a-\u202e\u2060-\u206f]",
            page.evaluate("document.querySelector('.gradio-container').textContent"),
        )
        == []
    )
    root = "document.documentElement"
    assert page.evaluate(f"{root}.scrollWidth <= {root}.clientWidth")


@pytest.mark.parametrize("endpoint", ["echo", "shout"])
def test_what_strangers_write_is_shown_as_text(browser: Browser, desk: Desk, endpoint: str) -> None:
    id = desk.deliver(endpoint, hostile())
    with opened(browser, desk, **LOOKS["phone"]) as page:
        expect(row(page, id)).to_contain_text(f"model/{HTML[:60]}")
        assert (row(page, id).bounding_box() or {})["height"] < 500
        shows_no_more_than_text(page)
        page.get_by_label("Repository", exact=True).click()
        expect(page.get_by_role("option").filter(has_text=HTML)).to_be_visible()
        shows_no_more_than_text(page)
        page.keyboard.press("Escape")
        row(page, id).get_by_role("link").click()
        expect(heading(page, id)).to_be_visible()
        expect(fact(page, "Event")).to_contain_text(HTML)
        expect(fact(page, "Event")).to_contain_text(r"\x00\x01\x1b[31m")
        expect(details(page).locator("pre").last).to_contain_text("**bold** [link]")
        expect(page.locator(".cm-content")).to_contain_text(HTML[:12])
        shows_no_more_than_text(page)


def test_what_strangers_write_is_one_line_of_the_console(desk: Desk) -> None:
    id = desk.deliver("echo", hostile())
    line = desk.process.wait_for(f"delivery {id}")
    assert line.endswith(" s\n")
    assert line[:-1].isprintable()
    assert HTML in line
    assert "succeeded in" in line


# --- how it looks


def fits(page: Page, name: str) -> None:
    """Take a picture, and check that nothing sticks out of the screen and every text can be read."""
    SCREENSHOTS.mkdir(exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"desk-{name}.png", full_page=True)
    root = "document.documentElement"
    assert page.evaluate(f"{root}.scrollWidth <= {root}.clientWidth")
    ours = page.locator(".webhooks-card, .block").locator("visible=true")
    ends = ours.evaluate_all("all => all.map(part => part.getBoundingClientRect().right)")
    assert max(ends) <= page.evaluate(f"{root}.clientWidth")
    contrasts = page.evaluate(CONTRASTS)
    assert contrasts
    assert [(text, contrast) for text, contrast in contrasts if contrast < 4.5] == []


@pytest.mark.parametrize(("look", "options"), LOOKS.items())
def test_every_part_of_the_page_fits_the_screen_and_can_be_read(
    browser: Browser, full: Desk, look: str, options: dict[str, Any]
) -> None:
    with opened(browser, full, link=full.page, **options) as page:
        expect(door(page)).to_be_visible()
        fits(page, f"door-{look}")
        assert page.evaluate("document.body.classList.contains('dark')") is (look == "dark")
    with opened(browser, full, **options) as page:
        expect(page.locator("svg.marks .role-legend-label").first).to_be_visible()
        fits(page, f"list-{look}")
        row(page, f"{FULL:016x}").click()
        expect(details(page).locator("li pre")).to_be_visible()
        expect(page.locator(".cm-content")).to_contain_text("event")
        fits(page, f"details-{look}")
        page.get_by_role("tab", name="Test event").click()
        expect(button(page, "Send test event")).to_be_visible()
        fits(page, f"test-event-{look}")
        page.get_by_role("tab", name="On the Hub").click()
        expect(page.get_by_text("The Hub cannot reach this machine.")).to_be_visible()
        fits(page, f"hub-{look}")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_status_can_be_read(browser: Browser, desk: Desk, scheme: str) -> None:
    ids = [
        desk.deliver("wait"),
        desk.deliver("last_of_a_burst"),
        desk.deliver("last_of_a_burst"),
        desk.deliver("keep"),
    ]
    ids.append(desk.deliver("shout", load("discussion.comment-create")))
    with opened(browser, desk, color_scheme=scheme) as page:
        statuses = set(page.locator(".webhooks-pill").all_inner_texts())
        assert {"running", "superseded", "succeeded", "failed"} <= statuses
        assert [(text, contrast) for text, contrast in page.evaluate(CONTRASTS) if contrast < 4.5] == []
    desk.deliver("let_go")


# --- with the keyboard alone


def press_tab_until(page: Page, selector: str, key: str = "Tab") -> None:
    for _ in range(25):
        page.keyboard.press(key)
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
    raise AssertionError(f"the keyboard does not get to {selector}")


def test_a_delivery_is_opened_replayed_and_left_with_the_keyboard_alone(browser: Browser, desk: Desk) -> None:
    id = desk.deliver("keep")
    with opened(browser, desk) as page:
        expect(row(page, id)).to_be_visible()
        press_tab_until(page, f"#d-{id}")
        page.keyboard.press("Enter")
        expect(heading(page, id)).to_be_focused()
        press_tab_until(page, "button", "Shift+Tab")
        expect(button(page, "Replay")).to_be_focused()
        page.keyboard.press("Enter")
        expect(fact(page, "Replay of")).to_have_text(id)
        press_tab_until(page, "button", "Shift+Tab")
        expect(button(page, "All deliveries")).to_be_focused()
        page.keyboard.press("Enter")
        expect(rows(page).first).to_be_visible()
        wait_for_focus(page, "#webhooks-listing tr a")


def test_the_focus_stays_on_its_row_when_the_list_is_drawn_again(browser: Browser, desk: Desk) -> None:
    id = desk.deliver("keep")
    with opened(browser, desk) as page:
        expect(row(page, id)).to_be_visible()
        row(page, id).get_by_role("link").focus()
        newer = desk.deliver("keep")
        expect(row(page, newer)).to_be_visible()
        wait_for_focus(page, f"#d-{id}")


# --- around it

OWN_UI = """
import gradio as gr
from webhooks import WebhooksServer

calls = []

def count():
    calls.append(1)
    return str(len(calls))

with gr.Blocks() as ui:
    gr.Markdown("# A page of my own")
    gr.Textbox(value=count, label="Calls")

server = WebhooksServer(ui)
server.add_webhook("/f")(lambda: None)
server.launch()
"""


def test_a_ui_of_ones_own_keeps_working_beside_the_page(browser: Browser, start: Start) -> None:
    desk = desk_of(start(OWN_UI))
    with opened(browser, desk) as page:
        expect(listing(page)).to_contain_text("Nothing has arrived yet")
        expect(page.locator(".webhooks-empty")).to_have_css("border-top-style", "dashed")
        page.get_by_role("link", name="Home").click()
        expect(page.get_by_role("heading", name="A page of my own")).to_be_visible()
        expect(page.get_by_label("Calls")).to_have_value("2")  # the first call is Gradio's, when the page is built
        page.reload()
        expect(page.get_by_label("Calls")).to_have_value("3")
        page.get_by_role("link", name="Deliveries").click()
        expect(listing(page)).to_be_visible()


def test_the_page_works_after_a_second_launch(browser: Browser, start: Start) -> None:
    again = "server.launch(prevent_thread_lock=True)\nserver.close()\nprint('Closed.')\nserver.launch()"
    process = start(HANDLERS.replace("server.launch()", again))
    process.wait_for("Closed.")
    desk = desk_of(process.wait_until_ready())
    with opened(browser, desk) as page:
        id = desk.deliver("keep")
        expect(row(page, id)).to_contain_text("succeeded")
        row(page, id).click()
        button(page, "Replay").click()
        expect(fact(page, "Replay of")).to_have_text(id)
