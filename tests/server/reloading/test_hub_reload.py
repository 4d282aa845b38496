"""Edits that the Hub brings into the running process, on the reload server of its own package `spaces`.

Deliveries come in all the time: none may be lost, or be answered 404 where there is a handler before and after.
"""

from __future__ import annotations

import importlib.util
import json
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, expect
from support.dispatching import wait_until
from support.payloads import load
from support.processes import Process, Start, free_port

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("spaces") is None, reason="the package `spaces`, which every Space has, is missing"
    ),
]

UPDATE = load("repo.content-update")
SECRET = {"X-Webhook-Secret": "s3cret"}
SPACE = {
    "SYSTEM": "spaces",
    "SPACE_ID": "me/hooks",
    "SPACE_HOST": "me-hooks.hf.space",
    "SPACE_AUTHOR_NAME": "me",
    "GRADIO_HOT_RELOAD": "true",
    "WEBHOOK_SECRET": "s3cret",
}

APP = '''
import functools
import threading
from webhooks import Delivery, GiveUp, WebhookPayload, WebhooksServer, read_settings

gate = threading.Event()
settings = read_settings(
    word="old",
    size=(int, 1),
)
server = WebhooksServer(reply_within=2)


@server.add_webhook
def note(payload: WebhookPayload):
    """Notes it."""
    return "old"


@server.add_webhook
def steady(payload: WebhookPayload):
    return settings.word


@server.add_webhook(max_attempts=2)
def fails(payload: WebhookPayload):
    raise ValueError("old")


@server.add_webhook
def waits(payload: WebhookPayload):
    gate.wait(30)
    return "old"


@server.add_webhook
def opens():
    gate.set()


@server.add_webhook(debounce=2)
def calm(payload: WebhookPayload):
    return "calm"


@server.add_webhook(debounce=15)
def calmer(payload: WebhookPayload):
    return "calmer"


def twice(function):
    @functools.wraps(function)
    def wrapper(*arguments, **named):
        return 2 * function(*arguments, **named)

    return wrapper


@server.add_webhook
@twice
def wrapped(payload: WebhookPayload):
    return "old"


if __name__ == "__main__":
    server.launch()
'''

NOTE = APP.partition("@server.add_webhook\ndef note")[1] + APP.partition("def note")[2].partition("\n\n\n")[0]
NEW_NOTE = NOTE.replace('"old"', '"new"')


class Space:
    """A Space that runs `APP`, and is edited again and again."""

    def __init__(self, process: Process, reload_port: int) -> None:
        self.process = process
        self.source = APP
        self._reload_url = f"http://127.0.0.1:{reload_port}"

    def post(self, name: str) -> httpx.Response:
        return self.process.post(name, UPDATE, headers=SECRET)

    def edit(self, old: str, new: str) -> list[dict[str, Any]]:
        """Change the app as somebody does in the Hub's editor; return what the reload says it has done."""
        assert self.source.count(old) == 1
        return self.reload(self.source.replace(old, new))

    def reload(self, source: str) -> list[dict[str, Any]]:
        self.source = source
        script = next(self.process.folder.glob("script*.py")).name
        # It serves a moment after the Space does: the client waits, and knocks again.
        with httpx.Client(base_url=self._reload_url, timeout=60, transport=httpx.HTTPTransport(retries=6)) as client:
            created = client.post("/create-reload", json={"filepath": script, "contents": source}).json()["res"]
            assert created["status"] == "created"
            with client.stream("POST", "/get-reload", json={"reloadId": created["reloadId"]}) as stream:
                lines = [line.partition(":")[2] for line in stream.iter_lines() if line.startswith("data:")]
        return [json.loads(line)["data"] for line in lines]

    def log(self, text: str) -> str:
        return self.process.wait_for(text, timeout=40)


@pytest.fixture(scope="module")
def running(start: Start) -> Space:
    port = free_port()
    return Space(start(APP, RELOAD_PORT=str(port), **SPACE), port)


@pytest.fixture
def space(running: Space) -> Iterator[Space]:
    """The Space, with a sender that never pauses. Afterwards its app is again what it was."""
    answers: list[int] = []
    over = threading.Event()

    def send() -> None:
        with httpx.Client(headers=SECRET, timeout=30) as client:
            while not over.is_set():
                answers.append(client.post(f"{running.process.url}/webhooks/steady", json=UPDATE).status_code)

    sender = threading.Thread(target=send)
    sender.start()
    yield running
    running.reload(APP)
    over.set()
    sender.join()
    assert set(answers) == {200}


def kinds(said: list[dict[str, Any]]) -> list[str]:
    return [entry["kind"] for entry in said]


def problems(said: list[dict[str, Any]]) -> str:
    return "\n".join(entry["traceback"] for entry in said if "traceback" in entry)


def test_a_changed_body_is_in_force(space: Space) -> None:
    said = space.edit(NOTE, NEW_NOTE)
    assert "update" in kinds(said)
    assert space.post("note").json() == "new"
    space.log("The handler at /webhooks/note has changed.")


@pytest.mark.parametrize(
    ("parameters", "result", "answer"),
    [
        ("payload: WebhookPayload, delivery: Delivery", "delivery.attempt", 1),
        ("payload: WebhookPayload, which: Delivery", "which.endpoint", "/webhooks/note"),
        ("event: WebhookPayload", "event.repo.name", UPDATE["repo"]["name"]),
        ("delivery", "delivery.attempt", 1),
        ("", "7", 7),
        ('payload: WebhookPayload, word="default"', "word", "default"),
        ("payload: WebhookPayload, delivery: Delivery, n: int = 7", "n * delivery.attempt", 7),
    ],
)
def test_other_parameters_are_filled(space: Space, parameters: str, result: str, answer: object) -> None:
    new = NOTE.replace("payload: WebhookPayload", parameters).replace('return "old"', f"return {result}")
    assert problems(space.edit(NOTE, new)) == ""
    assert space.post("note").json() == answer


def test_a_handler_that_is_wrapped_follows_too(space: Space) -> None:
    assert space.post("wrapped").json() == "oldold"
    old = 'def wrapped(payload: WebhookPayload):\n    return "old"'
    assert problems(space.edit(old, "def wrapped(which: Delivery):\n    return which.attempt")) == ""
    assert space.post("wrapped").json() == 2


def test_a_def_becomes_an_async_def_and_back(space: Space) -> None:
    new = NOTE.replace("def note", "async def note").replace('"old"', '"async"')
    space.edit(NOTE, new)
    assert space.post("note").json() == "async"
    space.edit(new, NOTE)
    assert space.post("note").json() == "old"


def test_other_options_are_in_force(space: Space) -> None:
    assert space.post("fails").json()["status"] == "scheduled"
    said = space.edit("(max_attempts=2)", "(max_attempts=1)")
    assert problems(said) == ""
    assert space.post("fails").status_code == 500
    space.log("The handler at /webhooks/fails has changed.")


def test_another_path_takes_the_place_of_the_old_one(space: Space) -> None:
    said = space.edit("@server.add_webhook\ndef note", '@server.add_webhook("/other")\ndef note')
    assert problems(said) == ""
    assert space.post("other").json() == "old"
    assert space.post("note").status_code == 404
    space.edit('@server.add_webhook("/other")\ndef note', "@server.add_webhook\ndef note")
    assert (space.post("note").json(), space.post("other").status_code) == ("old", 404)


def test_a_new_handler_is_there_and_a_removed_one_is_not(space: Space) -> None:
    assert space.post("more").status_code == 404
    more = NOTE.replace("note", "more").replace("Notes", "Does more with")
    space.edit(NOTE, f"{NOTE}\n\n\n{more}")
    assert space.post("more").json() == "old"
    space.log("The handler at /webhooks/more is new.")
    said = space.edit(f"\n\n\n{more}", "")
    assert "delete" in kinds(said)
    assert space.post("more").status_code == 404
    assert space.post("note").json() == "old"
    space.log("The handler at /webhooks/more is gone")


def test_a_renamed_handler_is_found_under_its_new_name(space: Space) -> None:
    space.edit("def note(", "def annotate(")
    assert space.post("annotate").json() == "old"
    assert space.post("note").status_code == 404


def test_two_different_functions_on_one_path_stay_an_error(space: Space) -> None:
    another = '@server.add_webhook("/note")\ndef another(payload: WebhookPayload):\n    return "another"'
    said = space.edit(NOTE, f"{NOTE}\n\n\n{another}")
    assert "There already is a webhook at /webhooks/note." in problems(said)
    assert space.post("note").json() == "old"


def test_what_waits_for_a_removed_handler_fails_with_the_reason(space: Space) -> None:
    calm = "@server.add_webhook(debounce=2)\ndef calm" + APP.partition("def calm")[2].partition("\n\n\n")[0]
    id = space.post("calm").headers["X-Delivery-Id"]
    space.edit(f"\n\n\n{calm}", "")
    line = space.log(f"{id}: /webhooks/calm")
    assert "failed: No handler is registered at /webhooks/calm any more." in line


def test_what_waits_goes_on_if_its_handler_comes_back_in_time(space: Space) -> None:
    calmer = "@server.add_webhook(debounce=15)\ndef calmer" + APP.partition("def calmer")[2].partition("\n\n\n")[0]
    id = space.post("calmer").headers["X-Delivery-Id"]
    space.edit(f"\n\n\n{calmer}", "")
    assert space.post("calmer").status_code == 404
    space.reload(APP)
    assert "succeeded" in space.log(f"{id}: /webhooks/calmer")


def test_a_delivery_that_runs_keeps_the_code_that_it_began_with(space: Space) -> None:
    with ThreadPoolExecutor() as senders:
        answer = senders.submit(space.post, "waits")
        wait_until(lambda: httpx.get(f"{space.process.url}/health").json()["running"] >= 1)
        waits = "def waits(payload: WebhookPayload):\n    gate.wait(30)\n    return "
        space.edit(f'{waits}"old"', f'{waits}"new"')
        space.post("opens")
    assert answer.result().json() == "old"
    assert space.post("waits").json() == "new"


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [('word="old"', 'word="new"', "new"), ("size=(int, 1)", 'size=(int, 2),\n    more="yes"', "old")],
)
def test_a_changed_default_of_a_setting_is_in_force(space: Space, old: str, new: str, word: str) -> None:
    assert problems(space.edit(old, new)) == ""
    assert space.post("steady").json() == word


def test_a_setting_that_makes_no_sense_says_so_and_the_old_ones_stay(space: Space) -> None:
    said = space.edit("size=(int, 1)", 'size=(int, "many")')
    assert "SetupError: The default of size is wrong: Input should be a valid integer" in problems(said)
    assert space.post("steady").json() == "old"


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (
            "WebhooksServer(reply_within=2)",
            "WebhooksServer(reply_within=1)",
            "cannot become another one while it does",
        ),
        ("    server.launch()", "    server.launch(share=False)", "cannot be launched otherwise while it does"),
        ("import threading\n", "import threading\nimport no_such_module\n", "No module named 'no_such_module'"),
        (
            "def note(payload: WebhookPayload)",
            "def note(payload: WebhookPayload, *sizes)",
            "nothing can fill: '*sizes'",
        ),
    ],
)
def test_what_cannot_follow_is_said_in_the_reloads_own_answer_and_in_the_log(
    space: Space, old: str, new: str, sentence: str
) -> None:
    assert sentence in problems(space.edit(old, new))
    if "import" not in new:  # which the server does not hear of
        assert "This edit is not in force: " in space.log(sentence)
    assert space.post("note").json() == space.post("steady").json() == "old"
    space.reload(APP.replace(NOTE, NEW_NOTE))
    assert space.post("note").json() == "new"  # on the server that runs


def test_a_syntax_error_changes_nothing(space: Space) -> None:
    said = space.reload(APP.replace(NOTE, f"{NEW_NOTE} +"))
    assert "SyntaxError" in problems(said)
    assert space.post("note").json() == "old"
    space.reload(APP.replace(NOTE, NEW_NOTE))
    assert space.post("note").json() == "new"


def test_the_pages_show_the_handlers_that_are_there_now(space: Space, browser: Browser) -> None:
    more = NOTE.replace("note", "more").replace("Notes it.", "Does more with it.")
    said = space.edit(NOTE, more)
    assert said[-1] == {"kind": "ui", "updated": True}
    link = re.search(r"/deliveries\?token=\S+", space.process.output)
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(space.process.url)
        expect(page.get_by_role("heading", name="/webhooks/more")).to_be_visible()
        expect(page.get_by_text("Does more with it.")).to_be_visible()
        expect(page.get_by_role("heading", name="/webhooks/note")).to_have_count(0)
        page.goto(space.process.url + (link[0] if link else ""))
        page.get_by_role("link", name="Test event").click()
        handlers = page.get_by_label("Handler").locator("option").all_inner_texts()
        assert "more" in handlers
        assert "note" not in handlers
