"""Jobs: a failing Hub, a kill and a second commit at every step around a start, in a process of its own."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from support.hub import Hub, Seen
from support.jobs import CANCEL, LOOK, START, TOKEN, WHOAMI, Trainer

FAULTS: dict[str, Callable[[Hub], object]] = {
    "none": lambda hub: None,
    "refused 402": lambda hub: hub.fail(*START, 402),
    "refused 403": lambda hub: hub.fail(*START, 403),
    "refused 422": lambda hub: hub.fail(*START, 422),
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
STEPS = ("at the look", "at the start", "at the look again")


@pytest.fixture(scope="module")
def one_hub() -> Iterator[Hub]:
    # The process that forks imports the modules once, which takes longer than a test. It sees no other path.
    with pytest.MonkeyPatch.context() as patched, Hub() as hub:
        patched.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        hub.add_user("julien")
        hub.add_token(TOKEN, "julien")
        yield hub


@pytest.fixture
def hub(one_hub: Hub) -> Iterator[Hub]:
    yield one_hub
    unknown = list(one_hub.unknown)
    one_hub.forget()
    assert unknown == []


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


@pytest.mark.parametrize("second", [None, *STEPS, "after"])
@pytest.mark.parametrize("killed", [None, *STEPS])
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
    assert live == [id for id in [newest] if trainer.outcomes[id] == "started"]
    assert (trainer.outcomes[newest] == "refused") <= (fault.startswith("refused") and newest == first)
    assert max(Counter(job.labels["webhook-delivery"] for job in hub.jobs).values(), default=1) == 1
