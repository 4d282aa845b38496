"""What a program gives to `launch(app_kwargs=...)`, or adds to `fastapi_app`, works beside the webhooks."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from fastapi import Depends, Request
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send
from support.servers import Servers, launch

from webhooks import SetupError


class RefuseEvil:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_evil = (b"x-evil", b"1") in scope.get("headers", ())
        await (PlainTextResponse("refused", 403) if is_evil else self._app)(scope, receive, send)


def test_a_middleware_refuses_webhooks_as_well(make: Servers) -> None:
    server, ran = make(), []
    server.add_webhook("/f")(lambda: ran.append(1))
    url = launch(server, app_kwargs={"middleware": [Middleware(RefuseEvil)]})
    for path in ("/", "/webhooks/f"):
        assert httpx.request("POST" if path != "/" else "GET", url + path, headers={"X-Evil": "1"}).status_code == 403
    assert ran == []
    assert httpx.post(f"{url}/webhooks/f").status_code == 200
    assert ran == [1]


def test_routes_are_reached_beside_a_webhook(make: Servers) -> None:
    server = make("f")
    url = launch(server, app_kwargs={"routes": [Route("/mine", lambda _: PlainTextResponse("mine"))]})
    assert httpx.get(f"{url}/mine").text == "mine"
    app: Any = server.fastapi_app
    app.get("/webhooks/f")(lambda: "get")
    app.post("/webhooks/later")(lambda: "post")
    app.mount("/webhooks/mounted", Starlette(routes=[Route("/x", lambda _: PlainTextResponse("mount"))]))
    assert httpx.get(f"{url}/webhooks/f").json() == "get"
    assert httpx.post(f"{url}/webhooks/later").json() == "post"
    assert httpx.get(f"{url}/webhooks/mounted/x").text == "mount"
    assert httpx.post(f"{url}/webhooks/f").json() == "f"
    assert httpx.post(f"{url}/webhooks/other").status_code == 404


def database(request: Request) -> str:
    return str(request.app.state.db)


def test_dependencies_of_the_app_are_refused(make: Servers) -> None:
    """The webhooks are no FastAPI routes, so a guard among the dependencies would not guard them."""
    with pytest.raises(SetupError, match="dependencies"):
        launch(make("f"), app_kwargs={"dependencies": [Depends(database)]})
