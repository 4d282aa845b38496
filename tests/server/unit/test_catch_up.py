"""Looking for missed commits: `CatchUp.look` with an engine, its log, and the stand-in Hub."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import constants
from support.engines import WAIT, EngineHarness, execute, rows, wait_until
from support.hub import Hub
from support.repos import Repo

from webhooks import catch_up
from webhooks.catch_up import CatchUp
from webhooks.redact import Redactor
from webhooks.testing import event_json

A, B, C = "a" * 40, "b" * 40, "c" * 40
DATA = "/api/datasets/me/data"
INTERVAL = 900.0
FOUND = [("dataset/me/data", "b")]


class Looking(EngineHarness):
    """An engine whose handlers watch repositories."""

    def watch(self, watched: Any, path: str = "/f", **options: Any) -> None:
        self.add(lambda payload: payload.repo.name, path=path, watched=watched, **options)

    def begin(self, token: str | None = None, is_public: bool = False, **options: Any) -> CatchUp:
        self.start(**options)
        self.catch_up = CatchUp(self.endpoints, self.engine, token, INTERVAL, is_public, Redactor())
        return self.catch_up

    def look(self) -> float:
        wait = self.catch_up.look()
        self.engine.finish_now("", WAIT)  # with it all marks are written
        return wait

    def look_first(self, watched: Any, debounce: float = 0, **options: Any) -> None:
        self.watch(watched, debounce=debounce)
        self.begin(**options)
        self.look()
        assert self.found() == []

    def found(self, path: str = "%") -> list[tuple[str, str]]:
        """Return the repositories and commits that were found, the first one first."""
        query = "SELECT repo, body FROM deliveries WHERE source = 'catch_up' AND endpoint LIKE '{}' ORDER BY number"
        deliveries = rows(self.folder, query.format(path))
        return [(repo, json.loads(body)["repo"]["headSha"][0]) for repo, body in deliveries]

    def marks(self) -> dict[str, tuple[str | None, str | None]]:
        return {row[0]: row[1:] for row in rows(self.folder, "SELECT repo, revision, problem FROM marks")}


@pytest.fixture
def data(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Repo:
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    return hub.add_repo("dataset", "me/data", head=A)


@pytest.fixture
def looking(tmp_path: Path, data: Repo) -> Iterator[Looking]:
    looking = Looking(tmp_path / "log")
    yield looking
    looking.stop(0)


def commit(revision: str, name: str = "me/data") -> dict[str, Any]:
    return event_json("commit", "dataset", name, revision)


@pytest.mark.parametrize("is_private", [False, True], ids=["public", "private"])
@pytest.mark.parametrize("former", [A, ""], ids=["after another", "first"])
def test_missed_commit_arrives_as_from_the_hub(data: Repo, looking: Looking, former: str, is_private: bool) -> None:
    data.head, data.is_private = former, is_private
    looking.look_first("dataset:me/data", token="hf_token")
    assert looking.marks() == {"dataset/me/data": (former, None)}
    data.commit(B)
    for _ in range(2):
        looking.look()
    (row,) = rows(looking.folder, "SELECT source, body FROM deliveries")
    ref = {"ref": "refs/heads/main", "oldSha": former or None, "newSha": B}
    payload = event_json("commit", "dataset", "me/data", B, repo={"private": is_private}, updatedRefs=[ref])
    assert (row[0], json.loads(row[1])) == ("catch_up", payload)
    assert looking.marks() == {"dataset/me/data": (B, None)}
    looking.wait_for("succeeded")


def deliver_with_comments(looking: Looking, endpoint: Any) -> None:
    looking.deliver(endpoint, commit(B))
    for number in range(catch_up.RECENT + 1):
        looking.deliver(endpoint, event_json("comment", "dataset", "me/data", comment={"id": str(number)}))


ARRIVALS: dict[str, Callable[[Looking, Any], Any]] = {
    "succeeded": lambda looking, endpoint: looking.deliver(endpoint, commit(B)),
    "superseded": lambda looking, endpoint: [looking.deliver(endpoint, commit(revision)) for revision in (B, C)],
    "in another case": lambda looking, endpoint: looking.deliver(endpoint, commit(B, "Me/Data")),
    "before comments": deliver_with_comments,
}


@pytest.mark.parametrize("arrival", ARRIVALS)
def test_commit_that_arrived_is_not_delivered(data: Repo, looking: Looking, arrival: str) -> None:
    looking.look_first("dataset:me/data", debounce=1000 if arrival == "superseded" else 0)
    data.commit(B)
    ARRIVALS[arrival](looking, looking.endpoints["/webhooks/f"])
    looking.stop()
    looking.begin()
    looking.look()
    assert (looking.found(), looking.marks()) == ([], {"dataset/me/data": (B, None)})


def test_commit_that_main_returns_to_is_delivered(data: Repo, looking: Looking) -> None:
    looking.look_first("dataset:me/data")
    for revision in (B, "", C, B):
        data.commit(revision)
        looking.look()
    assert looking.found() == [("dataset/me/data", sha) for sha in "bcb"]


@pytest.mark.parametrize(
    ("is_public", "looks"),
    [(True, [(120.0, []), (INTERVAL, FOUND)]), (False, [(30.0, FOUND), (30.0, FOUND)])],
    ids=["where the Hub can call", "elsewhere"],
)
def test_young_commit_waits(data: Repo, looking: Looking, is_public: bool, looks: list[Any]) -> None:
    looking.look_first("dataset:me/data", is_public=is_public)
    for age, expected in zip((60, 130), looks, strict=True):
        data.commit(B, age=age)
        assert (looking.look(), looking.found()) == expected


def answer(status: int) -> Callable[[Hub, Repo], object]:
    return lambda hub, data: hub.fail("GET", DATA, status, times=2)


def babble(content: bytes) -> Callable[[Hub, Repo], object]:
    return lambda hub, data: [hub.babble("GET", DATA, content) for _ in range(2)]


PROBLEMS: dict[str, tuple[Callable[[Hub, Repo], object], str]] = {
    "token refused": (answer(401), "the Hub does not accept HF_TOKEN"),
    "forbidden": (answer(403), "there is no HF_TOKEN that may read it"),
    "limited": (answer(429), "the Hub limits the requests from here"),
    "failing": (answer(500), "the Hub answers 500"),
    "cut": (lambda hub, data: hub.cut("GET", DATA, times=2), "the Hub cannot be reached (RemoteProtocolError)"),
    "garbage": (babble(b"<html>"), "the Hub cannot be reached"),
    "no fields": (babble(b"{}"), "KeyError: 'id'"),
    "deleted": (lambda hub, data: hub.repos.clear(), "it does not exist, or it is private"),
    "private": (lambda hub, data: setattr(data, "is_private", True), "it does not exist, or it is private"),
    "renamed": (lambda hub, data: setattr(data, "name", "me/new"), "it is me/new now: change the name in watched="),
}


@pytest.mark.parametrize("problem", PROBLEMS)
def test_problem_is_one_line_once(
    hub: Hub, data: Repo, looking: Looking, problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    begin, text = PROBLEMS[problem]
    looking.look_first("dataset:me/data")
    begin(hub, data)
    for _ in range(2):
        looking.look()
    (line,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    before, _, told = line.removesuffix(".").partition(": ")
    assert before == "Cannot look at dataset me/data, for /webhooks/f"
    assert told.startswith(text)
    assert "\n" not in told
    assert looking.marks() == {"dataset/me/data": (A, told)}
    hub.add_repo("dataset", "me/data", head=A)
    looking.look()
    assert (looking.found(), looking.marks()) == ([], {"dataset/me/data": (A, None)})


@pytest.mark.parametrize("watched", ["dataset:me/data", "user:me"])
def test_first_look_may_follow_a_problem(hub: Hub, looking: Looking, watched: str) -> None:
    hub.fail("GET", "/api/datasets*", 500)
    looking.look_first(watched)
    looking.look()
    assert (looking.found(), looking.marks()["dataset/me/data"]) == ([], (A, None))


def test_failing_repository_stops_no_other(hub: Hub, looking: Looking) -> None:
    repos = [hub.add_repo("model", f"me/{number}", head=A) for number in range(10)]
    looking.look_first([f"model:{repo.name}" for repo in repos])
    for repo in repos:
        repo.commit(B)
    hub.fail("GET", "/api/models/me/3", 500)
    for _ in range(2):
        looking.look()
    assert [name for name, _ in looking.found()] == [f"model/me/{number}" for number in (0, 1, 2, 4, 5, 6, 7, 8, 9, 3)]


@pytest.mark.parametrize("watched", ["dataset:me/data", "user:me"])
def test_retry_after_is_kept_to(
    hub: Hub, data: Repo, looking: Looking, watched: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = hub.add_repo("model", "you/model", head=A)
    looking.look_first([watched, "model:you/model"])
    data.commit(B)
    model.commit(B)
    hub.fail("GET", "/api/datasets*", 429, headers={"Retry-After": "1000"})
    hub.requests.clear()
    for _ in range(2):
        looking.look()
    asked = [request.path for request in hub.requests if request.path.startswith("/api/datasets")]
    assert (len(asked), looking.found()) == (1, [("model/you/model", "b")])
    later = time.monotonic() + 1001
    monkeypatch.setattr(catch_up, "time", SimpleNamespace(time=time.time, monotonic=lambda: later))
    looking.look()
    assert looking.found()[1:] == FOUND


@pytest.mark.parametrize("kind", ["user", "org"])
def test_owner_is_looked_at_for_what_has_changed(hub: Hub, data: Repo, looking: Looking, kind: str) -> None:
    model, space = hub.add_repo("model", "me/model", head=A), hub.add_repo("space", "me/space", head=A)
    looking.look_first(f"{kind}:me")
    model.commit(B, age=300)
    space.commit(B, age=400)
    hub.add_repo("dataset", "me/new").commit(B, age=500)
    hub.add_repo("dataset", "you/data").commit(B)
    data.modified_at = model.modified_at  # by something else than a commit to main
    for _ in range(2):
        looking.look()
    assert looking.found() == [("dataset/me/new", "b"), ("model/me/model", "b"), ("space/me/space", "b")]
    looking.stop()
    looking.begin()
    model.commit(C, age=200)
    looking.look()
    assert looking.found()[3:] == [("model/me/model", "c")]


def test_pages_of_an_owner_are_bounded(hub: Hub, looking: Looking, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catch_up, "PAGE_SIZE", 2)
    monkeypatch.setattr(catch_up, "MAX_PAGES", 2)
    repos = [hub.add_repo("model", f"me/{number}", head=A) for number in range(5)]
    looking.look_first("user:me", is_public=True)
    repos.append(hub.add_repo("model", "me/5"))
    for number, repo in enumerate(repos):
        repo.commit(B, age=1000 - number)
    repos[5].commit(B, age=10)
    assert looking.look() == catch_up.MIN_AGE_SECONDS
    repos[5].commit(B, age=200)
    assert looking.look() == INTERVAL
    assert [name for name, _ in looking.found()] == [f"model/me/{number}" for number in (4, 3, 2, 5)]


def test_names_are_the_same_in_any_case(hub: Hub, looking: Looking) -> None:
    repo = hub.add_repo("dataset", "Me/Other", head=A)
    looking.look_first("dataset:ME/other")
    looking.endpoints.clear()
    looking.watch("dataset:me/OTHER")
    repo.commit(B)
    for _ in range(2):
        looking.look()
    assert looking.found() == [("dataset/Me/Other", "b")]
    assert [*looking.marks().values()] == [(B, None)]


def test_each_endpoint_has_its_own_mark(data: Repo, looking: Looking) -> None:
    looking.watch(["dataset:me/data", "user:me"], "/g")
    looking.look_first("dataset:me/data")
    data.commit(B)
    looking.watch("dataset:me/data", "/later")
    looking.look()
    data.commit(C)
    looking.look()
    both = [*FOUND, ("dataset/me/data", "c")]
    assert [looking.found(path) for path in ("%/f", "%/g", "%/later")] == [both, both, both[1:]]


def test_commit_waits_for_room(hub: Hub, data: Repo, looking: Looking) -> None:
    held = threading.Event()
    busy = looking.add(lambda: held.wait(WAIT), path="/busy")
    looking.look_first("dataset:me/data", max_pending=2)
    hub.fail("GET", DATA, 500)
    looking.look()
    data.commit(B)
    looking.record(busy)
    looking.look()
    assert (looking.found(), looking.marks()) == ([], {"dataset/me/data": (A, None)})
    held.set()
    looking.wait_for("succeeded")
    looking.look()
    assert looking.found() == FOUND


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "webhooks catch up"]


@pytest.mark.parametrize("is_private", [False, True], ids=["commit", "problem"])
def test_stopping_waits_for_no_answer(
    hub: Hub, data: Repo, looking: Looking, is_private: bool, caplog: pytest.LogCaptureFixture
) -> None:
    looking.look_first(["dataset:me/data", "dataset:me/other"])
    caplog.clear()
    data.commit(B)
    data.is_private = is_private
    held = hub.hold("GET", DATA)
    looking.catch_up.start()
    (thread,) = threads()
    assert held.arrived.wait(WAIT)
    assert looking.stop()
    looking.catch_up.stop()
    hub.requests.clear()
    held.released.set()
    thread.join(WAIT)
    assert (thread.is_alive(), hub.requests, looking.found(), caplog.messages) == (False, [], [], [])


NOTHING = [None, "bucket:me/bucket", {"type": "dataset", "name": "me/data", "domains": ["discussion"]}]


@pytest.mark.parametrize("watched", NOTHING, ids=["nothing", "bucket", "discussions"])
def test_nothing_to_look_at_takes_no_thread(hub: Hub, looking: Looking, watched: Any) -> None:
    looking.watch(watched)
    looking.begin().start()
    assert (threads(), looking.catch_up.description(), hub.requests) == ([], None, [])


def test_a_lost_log_is_one_line(looking: Looking, caplog: pytest.LogCaptureFixture) -> None:
    looking.look_first("dataset:me/data")
    execute(looking.path, "DROP TABLE marks")
    looking.catch_up.start()
    wait_until(lambda: caplog.messages)
    looking.catch_up.stop()
    assert caplog.messages == ["Cannot look for missed commits: OperationalError: no such table: marks"]
