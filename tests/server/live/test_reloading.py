"""A hot reload of the Hub brings an edit into the running process. `gradio app.py` is refused."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from support.payloads import load
from support.processes import Process, Run, Start, free_port

UPDATE = load("repo.content-update")
SECRET = {"X-Webhook-Secret": "s3cret"}
SPACE = {
    "SYSTEM": "spaces",
    "SPACE_ID": "me/hooks",
    "SPACE_HOST": "me-hooks.hf.space",
    "GRADIO_HOT_RELOAD": "true",
    "WEBHOOK_SECRET": "s3cret",
}
NOTE = """@server.add_webhook
def note(payload: WebhookPayload):
    return "old"
"""
APP = f"""
import os, spaces.reloading
from webhooks import Delivery, WebhookPayload, WebhooksServer

# Gradio takes the same port for all Spaces.
spaces.reloading.start_reload_server.__defaults__ = (int(os.environ["RELOAD_PORT"]),)
server = WebhooksServer()


{NOTE}

@server.add_webhook(max_attempts=2)
def fails(payload: WebhookPayload):
    raise ValueError("old")


if __name__ == "__main__":
    server.launch()
"""


class Space:
    """A Space that runs `APP`. Its package `spaces` serves the reloads (spaces/reloading)."""

    def __init__(self, process: Process, reload_port: int) -> None:
        self.process = process
        self._reload_url = f"http://127.0.0.1:{reload_port}"

    def post(self, name: str) -> httpx.Response:
        return self.process.post(name, UPDATE, headers=SECRET)

    def edit(self, old: str, new: str) -> None:
        assert APP.count(old) == 1
        self.reload(APP.replace(old, new))

    def reload(self, source: str) -> None:
        script = next(self.process.folder.glob("script*.py")).name
        # The reload server starts a moment after the Space, so the first connection can fail.
        with httpx.Client(base_url=self._reload_url, timeout=60, transport=httpx.HTTPTransport(retries=6)) as client:
            created = client.post("/create-reload", json={"filepath": script, "contents": source}).json()["res"]
            with client.stream("POST", "/get-reload", json={"reloadId": created["reloadId"]}) as stream:
                lines = [line.partition(":")[2] for line in stream.iter_lines() if line.startswith("data:")]
        reported: list[dict[str, Any]] = [json.loads(line)["data"] for line in lines]
        assert [entry["traceback"] for entry in reported if "traceback" in entry] == []


@pytest.fixture(scope="module")
def running(start: Start) -> Space:
    if importlib.util.find_spec("spaces") is None:
        pytest.skip("the package `spaces`, which every Space has, is not installed")
    port = free_port()
    return Space(start(APP, RELOAD_PORT=str(port), **SPACE), port)


@pytest.fixture
def space(running: Space) -> Iterator[Space]:
    yield running
    running.reload(APP)


@pytest.mark.parametrize("more", ["", ", n: int = 7"], ids=["plain", "filled by FastAPI"])
def test_a_new_body_and_parameters_are_in_force(space: Space, more: str) -> None:
    parameters = "payload: WebhookPayload, delivery: Delivery" + more
    space.edit(NOTE, NOTE.replace("payload: WebhookPayload", parameters).replace('"old"', "delivery.attempt"))
    assert space.post("note").json() == 1


def test_a_new_handler_is_reached(space: Space) -> None:
    assert space.post("more").status_code == 404
    space.edit(NOTE, NOTE + "\n\n" + NOTE.replace("note", "more"))
    assert space.post("more").json() == space.post("note").json() == "old"


def test_the_first_new_options_are_in_force(space: Space) -> None:
    assert space.post("fails").json()["status"] == "scheduled"
    space.edit("(max_attempts=2)", "(max_attempts=1)")
    assert space.post("fails").status_code == 500


CLI = "import sys; sys.argv = ['gradio', 'app.py']; from gradio.cli import cli; cli()"


def test_gradio_app_py_is_refused(run: Run, tmp_path: Any) -> None:
    script = "from webhooks import webhook_endpoint\n@webhook_endpoint\ndef f(): ...\nf.launch()\n"
    (tmp_path / "app.py").write_text(script, encoding="utf-8")
    process = run(f"import os, sys\nos.execv(sys.executable, [sys.executable, '-c', {CLI!r}])")
    process.wait_for("gradio app.py", timeout=20)
    process.wait_for_exit()
    assert Process.READY not in process.output
