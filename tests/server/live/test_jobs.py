"""Jobs: a failing Hub, a kill and a second commit at every step around a start, in a process of its own."""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from support.engines import wait_until
from support.hub import Hub, Seen
from support.jobs import CANCEL, LOOK, START, TOKEN, WHOAMI, Trainer, commit_to
from support.processes import Run

FAULTS: dict[str, Callable[[Hub], object]] = {
    "none": lambda hub: None,
    "refused 402": lambda hub: hub.fail(*START, 402),
    "limited 429": lambda hub: hub.fail(*START, 429, headers={"Retry-After": "1"}),
    "failed 500": lambda hub: hub.fail(*START, 500, times=2),
    "failed 504, started late": lambda hub: hub.fail(*START, 504),
    "cut before the start": lambda hub: hub.cut(*START),
    "cut after the start": lambda hub: hub.lose_answer(*START),
    "never answered": lambda hub: hub.hold(*START),
    "garbage": lambda hub: hub.babble(*START, b"<html>"),
    "account limited": lambda hub: hub.fail(*WHOAMI, 429, times=2),
    "account cut": lambda hub: hub.cut(*WHOAMI),
    "list limited": lambda hub: hub.fail(*LOOK, 429, times=6),
    "list failed": lambda hub: hub.fail(*LOOK, 503, times=6, after=1),
    "list cut": lambda hub: hub.cut(*LOOK, times=6),
    "list late": lambda hub: setattr(hub, "lists_late", 3),
    "cancel failed": lambda hub: hub.fail(*CANCEL, 503),
    "cancel cut": lambda hub: hub.lose_answer(*CANCEL),
}


@pytest.fixture(scope="module", autouse=True)
def julien(one_hub: Hub) -> Iterator[None]:
    # The process that forks imports the modules once, which takes longer than a test. It sees no other path.
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        one_hub.add_user("julien")
        one_hub.add_token(TOKEN, "julien")
        yield


class Story:
    """Does things at steps of the first start: the look before it, the start itself, and the look after it."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._counts: Counter[str] = Counter()
        self._actions: dict[str, list[Callable[[], object]]] = {}
        hub.on_request = self._on_request

    def do(self, step: str | None, action: Callable[[], object]) -> None:
        if step:
            self._actions.setdefault(step, []).append(action)

    def _on_request(self, request: Seen) -> None:
        asked = (request.method, request.path)
        if asked == START:
            self._reach("at the start")
        elif asked == LOOK:
            self._reach("at the look again" if self._counts["at the start"] else "at the look")

    def _reach(self, step: str) -> None:
        self._counts[step] += 1
        for action in self._actions.pop(step, ()):
            action()
        if self._counts[step] == 2 and step == "at the look again":
            for action in self._actions.pop("at the second look again", ()):
                action()


# Each fault with no other event, with a kill at each step, and with a second commit at each step.
STEPS = ("at the look", "at the start", "at the look again")
EVENTS = [(None, None), *((step, None) for step in STEPS), *((None, step) for step in (*STEPS, "after"))]


@pytest.mark.parametrize(("killed", "second"), EVENTS)
@pytest.mark.parametrize("fault", FAULTS)
def test_the_newest_commits_job_is_left(hub: Hub, fault: str, killed: str | None, second: str | None) -> None:
    FAULTS[fault](hub)
    story, trainer = Story(hub), Trainer(hub.url)
    story.do(second, trainer.deliver)
    story.do(killed, trainer.kill)
    if fault.endswith("started late"):
        story.do("at the second look again", lambda: hub.repeat(*START))
    first = trainer.deliver()
    trainer.wait()
    if second and len(trainer.outcomes) == 1:  # there was no such step
        trainer.deliver()
        trainer.wait()
    trainer.kill()
    newest = max(trainer.outcomes)
    live = [job.labels["webhook-delivery"] for job in hub.jobs if job.stage != "CANCELED"]
    if trainer.outcomes[newest] == "refused":
        assert fault.startswith("refused")
        assert live in ([], [first])
        assert (live == [first]) <= (trainer.outcomes[first] == "started")
    else:
        assert (trainer.outcomes[newest], live) == ("started", [newest])
    assert max(Counter(job.labels["webhook-delivery"] for job in hub.jobs).values(), default=1) == 1


SERVER = """
import types, time
import huggingface_hub.utils._http as http
import webhooks.jobs
from webhooks import Delivery, WebhookPayload, WebhooksServer
from webhooks.jobs import launch_job

webhooks.jobs.LOOK_AGAIN_SECONDS = (0.1,) * 3
http.time = types.SimpleNamespace(time=time.time, sleep=lambda seconds: None)
server = WebhooksServer(data_dir="log")

@server.add_webhook(max_attempts=5)
def train(payload: WebhookPayload, delivery: Delivery):
    return launch_job(delivery, "trl", ["sft"], cancel_running=True)

server.launch()
"""
SECRET = "a-webhook-s3cret"


def test_a_killed_server_finds_its_job_again(hub: Hub, run: Run, tmp_path: Path) -> None:
    settings = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "WEBHOOK_SECRET": SECRET}
    headers = {"X-Webhook-Secret": SECRET}
    hub.on_request = lambda request: server.stop() if (request.method, request.path) == START else None
    server = run(SERVER, **settings).wait_until_ready()
    with pytest.raises(httpx.HTTPError):
        server.post("train", commit_to("username/my-dataset"), headers=headers)

    hub.on_request = None
    server = run(SERVER, **settings).wait_until_ready()
    wait_until(lambda: httpx.get(f"{server.url}/health").json()["succeeded"] == 1)
    second = server.post("train", commit_to("username/my-dataset"), headers=headers)
    assert [job.stage for job in hub.jobs] == ["CANCELED", "SCHEDULING"]
    assert second.json()["id"] == hub.jobs[1].id

    hub.fail(*START, 402, f"{TOKEN} has no credit.")
    failed = server.post("train", commit_to("username/my-dataset"), headers=headers)
    assert failed.status_code == 500
    server.wait_for("*** has no credit.")
    link = re.search(r"http\S+/deliveries\?token=\S+", server.output)[0]
    with httpx.Client(follow_redirects=True) as owner:
        page = owner.get(link), owner.get(f"{server.url}/deliveries/{failed.headers['X-Delivery-Id']}")
    assert "*** has no credit." in page[1].text
    places = {
        "Jobs": str([replace(job, secrets={}) for job in hub.jobs]),
        "pages": str([answer.text for answer in (*page, second, failed)]),
        "console": server.output,
        "process list": Path(f"/proc/{server.popen.pid}/cmdline").read_text(),
        **{path.name: path.read_bytes().decode("latin-1") for path in tmp_path.rglob("*") if path.is_file()},
    }
    assert "deliveries.db" in places
    assert [name for name, text in places.items() if TOKEN in text or SECRET in text] == []
