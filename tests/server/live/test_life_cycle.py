"""A server is launched, closed and launched again, alone and beside other servers."""

from __future__ import annotations

import threading
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from support.engines import WAIT, wait_until
from support.payloads import load
from support.servers import Servers, launch

from webhooks import SetupError, WebhooksServer

EVENT = load("repo.content-update")
BOTH = pytest.mark.parametrize("own_ui", [False, True], ids=["landing page", "own page"])


@pytest.fixture
def ui() -> Any:
    import gradio as gr

    with gr.Blocks() as ui:
        gr.Markdown("A page of my own")
    return ui


def launch_and_wait(server: WebhooksServer, **options: Any) -> tuple[threading.Thread, str]:
    """Launch, and wait in a thread for the end of the server."""
    url = launch(server, **options)
    thread = threading.Thread(target=server.launch, daemon=True)
    thread.start()
    return thread, url


def has_ended(thread: threading.Thread) -> bool:
    thread.join(WAIT)
    return not thread.is_alive()


def call(url: str, name: str, **options: Any) -> Any:
    answer = httpx.post(f"{url}/webhooks/{name}", json=EVENT, timeout=WAIT, **options)
    return answer.json() if answer.status_code == 200 else answer.status_code


def counts(url: str) -> dict[str, int]:
    """Return the counts once nothing runs: a success is answered before it is written."""
    wait_until(lambda: not httpx.get(f"{url}/health").json()["running"])
    return {status: number for status, number in httpx.get(f"{url}/health").json().items() if number}


# --- the end


@BOTH
def test_closing_gradio_closes_the_server(make: Servers, ui: Any, own_ui: bool) -> None:
    import gradio as gr

    server = make("first", ui=ui if own_ui else None)
    for done, close in enumerate((ui.close if own_ui else gr.close_all, gr.close_all), start=1):
        wait, url = launch_and_wait(server)
        assert call(url, "first") == "first"
        assert counts(url) == {"succeeded": done}
        close(verbose=False)
        assert has_ended(wait)
        assert server.fastapi_app is None
        with pytest.raises(httpx.ConnectError):
            httpx.get(url)


# --- another launch


def test_a_failed_launch_leaves_nothing_behind(make: Servers, ui: Any) -> None:
    server, taken = make("first", ui=ui), make("other")
    port = int(launch(taken).rpartition(":")[2])
    with pytest.raises(SetupError, match=f"Port {port} is in use"):
        launch(server, server_port=port)
    with pytest.raises(TypeError):
        launch(server, no_such_option=True)
    assert call(launch(server), "first") == "first"
    with pytest.raises(SetupError, match="Gradio shows this ui already"):
        launch(make("second", ui=ui))
    assert call(f"http://127.0.0.1:{port}", "other") == "other"


def test_an_unchecked_secret_is_not_replaced_on_replay(make: Servers) -> None:
    """A forged secret, sent to an open server, must not become the right one."""
    seen: list[str | None] = []

    def handler(request: Request) -> None:
        seen.append(request.headers.get("x-webhook-secret"))

    is_open, has_secret = make(), make(webhook_secret="the-right-one")
    for server in (is_open, has_secret):
        server.add_webhook(handler)
    answer = httpx.post(f"{launch(is_open)}/webhooks/handler", headers={"X-Webhook-Secret": "forged"})
    is_open.close()
    launch(has_secret)
    has_secret.replay(answer.headers["X-Delivery-Id"])
    wait_until(lambda: len(seen) == 2)
    assert seen == ["forged", None]


# --- several servers


def test_each_server_has_its_own_log(make: Servers) -> None:
    servers = {name: make(name) for name in ("first", "second")}
    urls = {name: launch(server) for name, server in servers.items()}
    for name, url in urls.items():
        assert [call(url, other) for other in urls] == [name if other == name else 404 for other in urls]
        assert counts(url) == {"succeeded": 1}
    assert servers["first"].close()
    assert call(urls["second"], "second") == "second"
    servers["second"].close()
    assert counts(launch(servers["second"])) == {"succeeded": 2}, "it has another server's log"
    assert counts(launch(servers["first"])) == {"succeeded": 1}
