"""`gradio app.py`: Gradio runs the whole script again when a file beside it changes, in the process that serves."""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.payloads import load
from support.processes import Process

pytestmark = [pytest.mark.long, pytest.mark.once]

UPDATE = load("repo.content-update")
HANDLERS = """
@server.add_webhook
def note(payload: WebhookPayload):
    return settings.word


@server.add_webhook(max_attempts=2)
def gives_up():
    raise GiveUp
"""
APP = f"""
from webhooks import Delivery, GiveUp, WebhookPayload, WebhooksServer, read_settings

settings = read_settings(word="old")
server = WebhooksServer()

{HANDLERS}

if __name__ == "__main__":
    server.launch()
"""
DECORATED = """
from webhooks import WebhookPayload, webhook_endpoint


@webhook_endpoint
def note(payload: WebhookPayload):
    return "old"


@webhook_endpoint
def other():
    return "other"
"""


class Laptop:
    def __init__(self, folder: Path, source: str) -> None:
        (folder / "app.py").write_text(source)
        (folder / "start.py").write_text("from gradio.cli.cli import cli\ncli()\n")
        self.process = Process(folder / "start.py", {}, arguments=["app.py"])
        self.process.wait_for("Watching demo:")
        self.process.wait_until_ready()

    def post(self, name: str) -> httpx.Response:
        return self.process.post(name, UPDATE)

    def edit(self, source: str, said: str) -> str:
        """Save the file until Gradio has seen it, which it does not while it still loads what was saved before."""
        for _ in range(10):
            (self.process.folder / "app.py").write_text(source)
            with contextlib.suppress(queue.Empty):
                return self.process.wait_for(said, timeout=3)
        raise AssertionError(f"not printed: {said!r}\n{self.process.output}")


@pytest.fixture
def laptop(request: Any, tmp_path: Path) -> Iterator[Laptop]:
    laptop = Laptop(tmp_path, request.param)
    yield laptop
    laptop.process.stop()


@pytest.mark.parametrize("laptop", [APP], indirect=True)
def test_the_same_edits_have_the_same_results(laptop: Laptop) -> None:
    assert laptop.post("note").json() == "old"
    laptop.edit(APP.replace("return settings.word", 'return "new"'), "The handler at /webhooks/note has changed.")
    assert laptop.post("note").json() == "new"

    other = APP.replace("(payload: WebhookPayload)", "(which: Delivery)").replace("settings.word", "which.attempt")
    laptop.edit(other, "The handler at /webhooks/note has changed.")
    assert laptop.post("note").json() == 1

    assert laptop.post("gives_up").status_code == 500  # of the class that the server knows, though it is run again
    laptop.edit(APP.replace("def note", "def annotate"), "The handler at /webhooks/annotate is new.")
    assert laptop.post("annotate").json() == "old"
    assert laptop.post("note").status_code == 404

    laptop.edit(APP.replace('word="old"', 'word="newest"'), "The handler at /webhooks/note is new.")
    assert laptop.post("note").json() == "newest"

    laptop.edit(APP.replace("max_attempts=2", "max_attempts=0"), "max_attempts must be a whole number of 1 or more")
    assert (laptop.post("note").json(), laptop.post("gives_up").status_code) == ("old", 500)
    laptop.edit(APP.replace("WebhooksServer()", "WebhooksServer(reply_within=1)"), "Restart the Space for that")
    assert laptop.post("note").json() == "old"
    assert "already works with the delivery log" not in laptop.process.output
    assert laptop.process.output.count(Process.READY) == 1
    assert httpx.get(laptop.process.url).status_code == 200


@pytest.mark.parametrize("laptop", [DECORATED], indirect=True)
def test_a_server_that_starts_by_itself_follows_too(laptop: Laptop) -> None:
    assert (laptop.post("note").json(), laptop.post("other").json()) == ("old", "other")
    shorter = DECORATED.partition("\n\n\n@webhook_endpoint\ndef other")[0]
    laptop.edit(shorter.replace('"old"', '"new"') + "\n", "The handler at /webhooks/note has changed.")
    assert laptop.post("note").json() == "new"
    assert laptop.post("other").status_code == 404
