"""Deliveries that start Jobs on the stand-in Hub, in this process or in a process that a test can kill."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
import time
from multiprocessing.connection import Connection
from types import SimpleNamespace
from typing import Any

import huggingface_hub.utils._http
from huggingface_hub import hf_api

import webhooks.jobs
from support.payloads import load
from webhooks import Delivery, GiveUp, WebhookPayload
from webhooks.jobs import Job, launch_job

TOKEN = "hf_" + "token" * 7
JOBS = "/api/jobs/julien"
WHOAMI, LOOK, START, CANCEL = ("GET", "/api/whoami-v2"), ("GET", JOBS), ("POST", JOBS), ("POST", JOBS + "/*/cancel")


def arrived(endpoint: str = "/webhooks/train", repo: str = "username/my-dataset", **fields: Any) -> Delivery:
    return Delivery(endpoint, WebhookPayload.model_validate(commit_to(repo)), **fields)


def train(delivery: Delivery, **options: Any) -> Job | dict[str, str]:
    return launch_job(delivery, "trl", ["sft", "--push_to_hub"], dependencies=["trl"], flavor="t4-small", **options)


def commit_to(repo: str) -> dict[str, Any]:
    payload = load("repo.content-update")
    payload["repo"]["name"] = repo
    return payload


class Trainer:
    """A process that trains for each delivery and retries like the engine. It can be killed and started again."""

    def __init__(self, hub_url: str) -> None:
        self._hub_url = hub_url
        self.outcomes: dict[str, str | None] = {}  # by delivery; `None` until there is one
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["support.jobs"])
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_train_for_all, args=(theirs, self._hub_url), daemon=True)
        self._process.start()
        theirs.close()

    def deliver(self) -> str:
        """Deliver a commit, and return the id of the delivery. A dead process gets it when it starts again."""
        id = arrived().id
        self.outcomes[id] = None
        self._send(id, 1)
        return id

    def _send(self, id: str, attempt: int) -> None:
        with contextlib.suppress(OSError):  # the process is dead
            self._pipe.send((id, attempt))

    def kill(self) -> None:
        self._process.kill()
        self._process.join()

    def wait(self) -> None:
        """Wait for all outcomes. After a kill, start again and make another attempt at each open delivery."""
        while None in self.outcomes.values():
            try:
                assert self._pipe.poll(30)
                id, outcome = self._pipe.recv()
                self.outcomes[id] = outcome
            except (EOFError, ConnectionResetError):
                self._start()
                for id in [id for id, outcome in self.outcomes.items() if outcome is None]:
                    self._send(id, 2)


def _train_for_all(pipe: Connection, hub_url: str) -> None:
    hf_api.api.endpoint = hub_url
    os.environ["HF_TOKEN"] = TOKEN
    webhooks.jobs.LOOK_AGAIN_SECONDS, webhooks.jobs.ANSWER_SECONDS = (0.02,) * 6, 0.5
    # The client repeats a failed list up to 5 times, and would sleep up to 8 seconds before each.
    huggingface_hub.utils._http.time = SimpleNamespace(time=time.time, sleep=lambda seconds: None)
    while True:
        threading.Thread(target=_train_for, args=(pipe, *pipe.recv()), daemon=True).start()


def _train_for(pipe: Connection, id: str, attempt: int) -> None:
    while True:
        try:
            launched = train(arrived(id=id, attempt=attempt), cancel_running=True)
            pipe.send((id, "started" if isinstance(launched, Job) else "skipped"))
            return
        except GiveUp:
            pipe.send((id, "refused"))
            return
        except Exception:
            attempt += 1
            time.sleep(0.02)
