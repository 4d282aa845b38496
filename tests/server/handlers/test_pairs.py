"""Property: whatever two parameters a handler asks for, it gets here what it gets on a plain FastAPI application."""

from __future__ import annotations

import itertools
import json  # noqa: F401 - for the sources of handlers, as more below
from collections.abc import Iterator
from typing import Annotated, Any, Optional  # noqa: F401

import fastapi
import pytest
from fastapi import (  # noqa: F401
    BackgroundTasks,
    Body,
    Cookie,
    Depends,
    Form,
    Header,
    Query,
    Request,
    Response,
    Security,
    UploadFile,
)
from fastapi.security import SecurityScopes
from pydantic import BaseModel
from starlette.requests import HTTPConnection
from starlette.testclient import TestClient
from support.payloads import load

from webhooks import SetupError, WebhookPayload, WebhooksServer
from webhooks.testing import serving

UPDATE = load("repo.content-update")


class Own(BaseModel):
    repo: dict[str, Any]


class Stamped(WebhookPayload):
    stamp: int = 3


class Commons:
    def __init__(self, q: str = "q", x_own: str = Header("none")) -> None:
        self.shown = [q, x_own]


def plain(q: int = 1) -> int:
    return q + 1


async def waiting(request: Request, commons: Commons = Depends()) -> str:
    return f"{request.url.path} {commons.shown}"


def yielding(x_own: str = Header("none")) -> Iterator[str]:
    yield f"yielded {x_own}"


def scoped(scopes: SecurityScopes, one: int = Depends(plain)) -> str:
    return f"{scopes.scopes} {one}"


class Callable:
    def __call__(self, n: int = 4) -> int:
        return n * 2


PARAMETERS = {
    "payload": "WebhookPayload",
    "optional": "Optional[WebhookPayload] = None",
    "anything": "dict",
    "own": "Own",
    "stamped": "Stamped",
    "listed": "Optional[list[int]] = Query(None)",
    "request": "Request",
    "connection": "HTTPConnection",
    "response": "Response",
    "tasks": "BackgroundTasks",
    "x_own": "str = Header()",
    "agent": "Annotated[str, Header(alias='user-agent')]",
    "n": "int = 5",
    "bare": None,
    "cookie": "str = Cookie('none')",
    "body": "Any = Body()",
    "embedded": "Any = Body(embed=True)",
    "field": "str = Form('none')",
    "file": "Optional[UploadFile] = None",
    "of_def": "int = Depends(plain)",
    "of_async": "Annotated[str, Depends(waiting)]",
    "of_class": "Annotated[Commons, Depends()]",
    "of_yield": "str = Depends(yielding)",
    "of_object": "int = Depends(Callable())",
    "of_scopes": "str = Security(scoped, scopes=['a', 'b'])",
    "name": "str",  # of the path
}

HEADERS = {"x-own": "own", "cookie": "cookie=c"}
FORM = (
    b'--X\r\nContent-Disposition: form-data; name="field"\r\n\r\nf\r\n'
    b'--X\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\ntext\r\n--X--\r\n'
)
REQUESTS: list[dict[str, Any]] = [
    {"json": UPDATE},
    {"json": UPDATE, "headers": HEADERS, "params": {"q": 7, "n": 8, "listed": [1, 2], "bare": "b"}},
    {"json": dict.fromkeys(PARAMETERS, UPDATE), "headers": HEADERS},
    {
        "content": FORM,
        "headers": {**HEADERS, "content-type": "multipart/form-data; boundary=X"},
        "params": {"bare": "b"},
    },
    {},
]


def show(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return type(value).__name__, value.model_dump_json()
    if isinstance(value, HTTPConnection):
        return str(value.url), sorted(value.headers.items()), value.client, value.cookies, value.path_params
    if isinstance(value, (Response, BackgroundTasks)):
        return type(value).__name__
    return getattr(value, "shown", getattr(value, "filename", value))


def handler(first: str, second: str, is_async: bool) -> Any:
    named = [f"{name}: {kind}" if (kind := PARAMETERS[name]) else name for name in (first, second)]
    source = f"def f(*, {', '.join(named)}):\n    return json.dumps([show({first}), show({second})], default=repr)"
    namespace: dict[str, Any] = {}
    exec(("async " if is_async else "") + source, {**globals()}, namespace)
    return namespace["f"]


@pytest.mark.parametrize("step", [5, pytest.param(1, marks=pytest.mark.long)], ids=["every fifth pair", "every pair"])
def test_a_handler_gets_what_fastapi_gives(step: int) -> None:
    app, server, paths = fastapi.FastAPI(), WebhooksServer(), []
    for number, pair in enumerate(itertools.islice(itertools.combinations(PARAMETERS, 2), 0, None, step)):
        path = f"/{number}/{{name}}" if "name" in pair else f"/{number}"
        function = handler(*pair, is_async=bool(number % 2))
        try:
            app.post(f"/webhooks{path}")(function)
        except Exception:
            with pytest.raises(SetupError):
                server.add_webhook(path)(function)
        else:
            server.add_webhook(path)(function)
            paths.append((pair, f"/webhooks/{number}{'/alice' * ('name' in pair)}"))
    assert len(paths) > 300 / step
    differ = []
    with TestClient(app) as there, serving(server) as here:
        for (pair, path), (number, request) in itertools.product(paths, enumerate(REQUESTS)):
            expected, got = (client.post(path, **request) for client in (there, here))
            if "X-Delivery-Id" not in got.headers:  # refused at the door, since it is no payload
                is_same = got.status_code in (400, 422) and expected.status_code == 422
            else:
                is_same = (got.status_code, seen(got)) == (expected.status_code, seen(expected))
            if not is_same:
                differ.append((pair, number, expected.text, got.text))
    assert differ == []


def seen(answer: Any) -> Any:
    if answer.status_code == 422:
        return [(problem["type"], problem["loc"], problem["msg"]) for problem in answer.json()["detail"]]
    return answer.json()
