"""Deliveries that start Jobs, on a stand-in Hub."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from starlette.responses import Response

from support.asgi import on_loop
from support.dispatching import BODY, WAIT, Dashboard, wait_until
from support.hub import Held, Hub
from support.hub import Job as HubJob
from support.payloads import load
from webhooks import Delivery, WebhookPayload
from webhooks.dashboard import queries
from webhooks.deliveries.log import Record, find, reading
from webhooks.delivery import FINISHED, StartedJob
from webhooks.jobs import Job, launch_job

TOKEN = "hf_" + "token" * 7
WHOAMI, JOBS = ("GET", "/api/whoami-v2"), "/api/jobs/julien"
START, LOOK_UP, CANCEL = ("POST", JOBS), ("GET", JOBS), ("POST", JOBS + "/*/cancel")


class Naps:
    """What passes for the time while `launch_job` waits: none passes, and what is due meanwhile is done.

    Attributes:
        seconds: that were waited, all in all.
        due: what is done after so many seconds.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.due: list[tuple[float, Callable[[], object]]] = []
        self._lock = threading.Lock()

    def sleep(self, seconds: float) -> None:
        with self._lock:
            self.seconds += seconds
            now = [action for due, action in self.due if due <= self.seconds]
            self.due = [(due, action) for due, action in self.due if due > self.seconds]
        for action in now:
            action()

    def make(self, late: Held, after: float) -> None:
        """Let the Hub do after so many seconds what it was asked for."""

        def make() -> None:
            late.released.set()
            assert late.arrived.wait(WAIT)

        self.due.append((after, make))


def arrived(endpoint: str = "/webhooks/train", repo: str = "username/my-dataset") -> Delivery:
    return Delivery(endpoint, WebhookPayload.model_validate(commit_to(repo)))


def train(delivery: Delivery, **options: Any) -> Job:
    return launch_job(delivery, "trl", ["sft", "--push_to_hub"], dependencies=["trl"], flavor="t4-small", **options)


def commit_to(repo: str) -> dict[str, Any]:
    payload = load("repo.content-update")
    payload["repo"]["name"] = repo
    return payload


def old_job(hub: Hub, **labels: str) -> HubJob:
    stage = labels.pop("stage", "RUNNING")
    spec: dict[str, Any] = {"image": "i", "command": ["c"], "arguments": [], "environment": {}, "secrets": {}}
    hub.jobs.append(
        HubJob(f"{len(hub.jobs):024x}", "julien", **spec, flavor="f", timeout=1, labels=labels, stage=stage)
    )
    return hub.jobs[-1]


class Office(Dashboard):
    """An engine whose handler starts Jobs, and what its page would read."""

    def add_training(self, **options: Any) -> Any:
        def handler(delivery: Delivery) -> Job:
            return train(delivery)

        return self.add(handler, **{"path": "/train", "max_attempts": 5, **options})

    def take(self, endpoint: Any, body: Any = BODY, reply_within: float = 0) -> tuple[str, Response]:
        """Deliver; return the delivery's id and what the sender is told."""
        assert self.engine
        delivery = self.delivery(endpoint, body)
        return delivery.id, on_loop(self.engine.take, endpoint, delivery, reply_within)

    def begin(self, endpoint: Any, body: Any = BODY) -> str:
        """Deliver, wait until it is in the log, and return its id."""
        return self.take(endpoint, body)[0]

    def wait_until_finished(self, *ids: str) -> list[Record]:
        def records() -> list[Record]:
            with reading(self.log_path) as database:
                return [find(database, id) for id in ids]

        wait_until(lambda: all(record.status in FINISHED for record in records()))
        return records()

    def jobs(self, id: str) -> list[StartedJob]:
        with reading(self.log_path) as database:
            return list(queries.row(database, id).jobs)

    @property
    def log_path(self) -> Path:
        return self.folder / "deliveries.db"
