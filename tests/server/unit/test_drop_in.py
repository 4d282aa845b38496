"""Programs that run on the released `huggingface_hub`, and here once their import is changed."""

from __future__ import annotations

import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient
from support.payloads import load

from webhooks.testing import serving

UPDATE = load("repo.content-update")
SECRET = "the secret of both"
SIGNED = {"X-Webhook-Secret": SECRET}

HEAD = """
from typing import Annotated, Any, Optional

from fastapi import (
    BackgroundTasks, Body, Cookie, Depends, File, Form, Header, HTTPException, Query, Request, Response, UploadFile
)
from pydantic import BaseModel
from huggingface_hub import WebhookPayload, WebhooksServer

app = WebhooksServer(ui=ui, webhook_secret=secret)
"""


class Page:
    """The part of `gr.Blocks` that the released class uses."""

    local_url, share_url = "http://localhost/", None

    def launch(self, **_: Any) -> tuple[FastAPI, None, None]:
        return FastAPI(), None, None


@contextmanager
def upstream(source: str, **names: Any) -> Iterator[TestClient]:
    app = run(source, "huggingface_hub", **names)
    app.launch(prevent_thread_lock=True)
    with TestClient(app.fastapi_app, raise_server_exceptions=False) as client:
        yield client


@contextmanager
def vendored(source: str, **names: Any) -> Iterator[TestClient]:
    with serving(run(source, "webhooks", **names)) as client:
        yield client


def run(source: str, package: str, secret: str | None = SECRET, **names: Any) -> Any:
    program = (HEAD + textwrap.dedent(source)).replace("huggingface_hub", package)
    namespace: dict[str, Any] = {"ui": Page(), "secret": secret, "__name__": "__main__", **names}
    exec(program, namespace)
    return namespace["app"]


def seen(answer: Any) -> Any:
    """Return what a sender sees: of an error FastAPI's own words, without the input."""
    body = answer.json()
    if answer.status_code >= 400 and isinstance(body, dict) and "detail" in body:
        body = body["detail"]
        if isinstance(body, list):
            body = [(problem["type"], problem["loc"], problem["msg"]) for problem in body]
    return answer.status_code, body, answer.headers["content-type"]


PROGRAMS: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "a guard": (
        """
def verify(x_token: str = Header(default="")):
    if x_token != "right":
        raise HTTPException(401, "Not signed.")

@app.add_webhook("/f")
def f(payload: WebhookPayload, _: Annotated[None, Depends(verify)] = None):
    return {"repo": payload.repo.name}
""",
        [
            {"json": UPDATE},
            {"json": UPDATE, "headers": {"X-Token": "wrong"}},
            {"json": UPDATE, "headers": {"X-Token": "right"}},
        ],
    ),
    "parameters as defaults": (
        """
@app.add_webhook("/f")
async def f(body: dict = Body(), agent: str = Header("none"), n: int = Query(3), c: str = Cookie("none"), m=5):
    return [body["repo"]["name"], agent, n, c, m]
""",
        [
            {"json": UPDATE},
            {"json": UPDATE, "params": {"n": "7", "m": "8"}, "headers": {"agent": "a", "cookie": "c=1"}},
            {"json": UPDATE, "params": {"n": "seven"}},
        ],
    ),
    "forms and files": (
        """
@app.add_webhook("/f")
async def f(name: str = Form(), file: UploadFile = File()):
    return [name, file.filename, (await file.read()).decode()]
""",
        [{"data": {"name": "me"}, "files": {"file": ("a.txt", b"text")}}, {"data": {"name": "me"}}],
    ),
    "payload: dict": (
        """
@app.add_webhook("/f")
def f(payload: dict):
    return payload
""",
        [
            {"json": {"any": "thing"}},
            {"json": [1]},
            {"content": b"{", "headers": {"content-type": "application/json"}},
        ],
    ),
    "own model": (
        """
class Issue(BaseModel):
    number: int

@app.add_webhook("/f")
def f(payload: Issue):
    return payload.number + 1
""",
        [{"json": {"number": 1}}, {"json": {"number": "one"}}, {"json": UPDATE}],
    ),
    "an optional payload": (
        """
@app.add_webhook("/f")
async def f(payload: Optional[WebhookPayload] = None):
    return payload and payload.repo.name or "nothing"
""",
        [{}, {"json": UPDATE}],
    ),
    "a return annotation": (
        """
class Out(BaseModel):
    name: str

@app.add_webhook("/f")
def f(payload: WebhookPayload) -> Out:
    return {"name": payload.repo.name, "password": "1234"}
""",
        [{"json": UPDATE}],
    ),
    "the secret that a handler compares itself": (
        f"""
@app.add_webhook("/f")
async def f(request: Request):
    if request.headers.get("X-Webhook-Secret") != "{SECRET}":
        return Response("false", 401, media_type="application/json")
    return (await request.json())["repo"]["name"]
""",
        [{"json": UPDATE}],
    ),
    "all of the request": (
        """
@app.add_webhook("/f")
def f(request: Request):
    return [str(request.url), request.client, sorted(request.headers.items()), request.cookies, request.scope["path"]]
""",
        [
            {"json": UPDATE, "headers": {"Authorization": "Bearer 1", "Cookie": "a=b", "X-Gitlab-Token": "2"}},
            {"url": "https://hooks.example/webhooks/f?a=1", "json": UPDATE},
        ],
    ),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_answers_as_upstream(name: str) -> None:
    source, requests = PROGRAMS[name]
    answers = []
    for side in (upstream, vendored):
        with side(source) as client:
            answers.append([seen(client.post(**signed(request))) for request in requests])
    assert answers[0] == answers[1]
    assert any(status < 300 for status, *_ in answers[0])


def signed(request: dict[str, Any]) -> dict[str, Any]:
    return {"url": "/webhooks/f", **request, "headers": {**SIGNED, **request.get("headers", {})}}


BACKGROUND = """
@app.add_webhook("/f")
def f(tasks: BackgroundTasks):
    tasks.add_task(work)
    return "answered"
"""


def test_background_tasks_run_after_the_response() -> None:
    answered, done = threading.Event(), threading.Event()
    with vendored(BACKGROUND, work=lambda: answered.wait(20) and done.set(), secret=None) as client:
        assert client.post("/webhooks/f").json() == "answered"
        answered.set()
        assert done.wait(20)
