"""A server is launched, waits, is closed and launched again, beside others and after them, each with its own log."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from support.dispatching import WAIT, wait_until
from support.payloads import load
from support.processes import Run, free_port

from webhooks import SetupError, WebhooksServer
from webhooks.deliveries.log import DeliveryLog

pytestmark = pytest.mark.long

EVENT = load("repo.content-update")


class Servers:
    """Makes servers that wait for nothing, and closes them after the test."""

    def __init__(self) -> None:
        self.made: list[WebhooksServer] = []

    def __call__(self, *names: str, ui: Any = None, **options: Any) -> WebhooksServer:
        server = WebhooksServer(ui, **options)
        for name in names:
            server.add_webhook(f"/{name}")(lambda name=name: name)
        self.made.append(server)
        return server


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Servers]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    monkeypatch.setenv("GRADIO_SHARE", "False")
    servers = Servers()
    yield servers
    for server in servers.made:
        server.close(0)


@pytest.fixture
def ui() -> Any:
    import gradio as gr

    with gr.Blocks() as ui:
        gr.Markdown("A page of my own")
    return ui


def launch(server: WebhooksServer, **options: Any) -> str:
    port = options.setdefault("server_port", free_port())
    server.launch(prevent_thread_lock=True, **options)
    return f"http://127.0.0.1:{port}"


def waiting(server: WebhooksServer, **options: Any) -> tuple[threading.Thread, str]:
    """Launch in a thread that waits for the end of the server; return when it serves."""
    url = launch(server, **options)
    thread = threading.Thread(target=server.launch, daemon=True)
    thread.start()
    return thread, url


def ended(thread: threading.Thread) -> bool:
    thread.join(WAIT)
    return not thread.is_alive()


def call(url: str, name: str) -> Any:
    answer = httpx.post(f"{url}/webhooks/{name}", json=EVENT, timeout=WAIT)
    return answer.json() if answer.status_code == 200 else answer.status_code


def counts(url: str) -> dict[str, int]:
    """Count once nothing runs any more: a success is answered before it is written down."""
    wait_until(lambda: not httpx.get(f"{url}/health").json()["running"])
    return {status: number for status, number in httpx.get(f"{url}/health").json().items() if number}


def is_free(folder: str) -> bool:
    try:
        DeliveryLog(Path(folder)).close()
    except SetupError:
        return False
    return True


# --- the end


@pytest.mark.parametrize("own_ui", [False, True], ids=["landing page", "own page"])
def test_closing_the_gradio_app_closes_the_server_and_ends_the_wait(make: Servers, ui: Any, own_ui: bool) -> None:
    import gradio as gr

    server = make("first", ui=ui if own_ui else None)
    for close in (ui.close, lambda: gr.close_all(verbose=False)) if own_ui else (gr.close_all,):
        wait, url = waiting(server)
        assert call(url, "first") == "first"
        assert not is_free(".webhooks")
        close()
        assert is_free(".webhooks")
        assert ended(wait)
        assert server.fastapi_app is None
        with pytest.raises(httpx.ConnectError):
            httpx.get(url)


def test_whoever_waits_closes_what_gradio_alone_was_told_to_close(make: Servers, ui: Any) -> None:
    wait, _ = waiting(make("first", ui=ui))
    type(ui).close(ui)
    assert ended(wait)
    assert is_free(".webhooks")


def test_closing_the_gradio_app_gives_running_handlers_time_and_takes_nothing_new(make: Servers, ui: Any) -> None:
    server = make("quick", ui=ui, reply_within=0)
    runs, may_end = threading.Event(), threading.Event()

    @server.add_webhook
    def slow() -> None:
        runs.set()
        assert may_end.wait(WAIT)

    url = launch(server)
    assert call(url, "slow") == 202
    assert runs.wait(WAIT)
    closing = threading.Thread(target=ui.close)
    closing.start()
    wait_until(lambda: call(url, "quick") == 503)
    may_end.set()
    assert ended(closing)
    assert is_free(".webhooks")
    assert counts(launch(server)).keys() == {"succeeded"}


def test_it_can_be_closed_on_the_loop_that_serves_it(make: Servers, ui: Any) -> None:
    server = make("first", ui=ui)

    async def close(request: Request) -> PlainTextResponse:
        ui.close() if "ui" in request.query_params else server.close()
        return PlainTextResponse("closing")

    for query in ("", "?ui"):
        wait, url = waiting(server, app_kwargs={"routes": [Route("/close", close)]})
        assert httpx.get(f"{url}/close{query}").text == "closing"
        assert ended(wait)
        assert is_free(".webhooks")


def test_a_handler_can_close_its_server(make: Servers) -> None:
    server = make("first", reply_within=0)

    @server.add_webhook
    def stop() -> None:
        threading.Thread(target=server.close).start()

    wait, url = waiting(server)
    call(url, "stop")
    assert ended(wait)
    assert counts(launch(server)) == {"succeeded": 1}


# --- and another beginning


@pytest.mark.parametrize("own_ui", [False, True], ids=["landing page", "own page"])
@pytest.mark.parametrize("new", [False, True], ids=["the same server", "a new one"])
def test_it_can_be_launched_again_and_goes_on_with_its_log(make: Servers, ui: Any, own_ui: bool, new: bool) -> None:
    given = ui if own_ui else None
    server = make("first", ui=given)
    for done in range(1, 5):
        url = launch(server)
        assert call(url, "first") == "first"
        assert counts(url) == {"succeeded": done}
        assert server.close()
        if new and not own_ui:
            server = make("first")


def test_the_page_shows_what_was_registered_between_two_launches(make: Servers) -> None:
    server = make("first")
    url = launch(server)
    assert "/webhooks/second" not in httpx.get(url).text
    server.close()
    server.add_webhook("/second")(lambda: "second")
    url = launch(server)
    assert "/webhooks/second" in httpx.get(url).text
    assert call(url, "second") == "second"


def test_a_launch_that_failed_leaves_nothing_behind(make: Servers, ui: Any) -> None:
    server, taken = make("first", ui=ui), make("other")
    port = int(launch(taken).rpartition(":")[2])
    with pytest.raises(SetupError, match=f"Port {port} is in use"):
        launch(server, server_port=port)
    with pytest.raises(TypeError):
        launch(server, no_such_option=True)
    assert call(launch(server), "first") == "first"
    assert call(f"http://127.0.0.1:{port}", "other") == "other"


def test_a_page_that_is_shown_already_is_refused_and_goes_on(make: Servers, ui: Any) -> None:
    first = make("first", ui=ui)
    url = launch(first)
    second = make("second", ui=ui)
    with pytest.raises(SetupError, match="Gradio shows this ui already"):
        launch(second)
    assert call(url, "first") == "first"


# --- several in one process


def test_several_serve_beside_each_other_each_with_its_own_log(make: Servers) -> None:
    servers = {name: make(name) for name in ("first", "second", "third")}
    urls = {name: launch(server) for name, server in servers.items()}
    for number, (name, url) in enumerate(urls.items(), start=1):
        for other in urls:
            assert call(url, other) == (name if other == name else 404)
        assert counts(url) == {"succeeded": 1}
        assert not is_free(".webhooks" if number == 1 else f".webhooks/{number}")
    assert servers["second"].close()
    assert (is_free(".webhooks/2"), is_free(".webhooks"), is_free(".webhooks/3")) == (True, False, False)
    assert [call(urls[name], name) for name in ("first", "third")] == ["first", "third"]


def test_one_that_is_launched_again_has_its_own_log_whatever_the_order(make: Servers) -> None:
    first, second = make("hook"), make("hook", webhook_secret="second")
    for server, calls in ((first, 1), (second, 0)):
        url = launch(server)
        for _ in range(calls):
            call(url, "hook")
    first.close()
    second.close()
    assert (counts(launch(second)), counts(launch(first))) == ({}, {"succeeded": 1})


def test_two_that_are_told_to_share_a_folder_are_told_that_they_cannot(make: Servers) -> None:
    launch(make("first", data_dir="log"))
    with pytest.raises(SetupError, match=r"Another server of this process works with the delivery log in .*log\."):
        launch(make("second", data_dir="log"))


def test_a_folder_of_the_environments_is_for_all_of_them(make: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEBHOOKS_DATA_DIR", "elsewhere")
    for name in ("first", "second"):
        launch(make(name))
    assert not is_free("elsewhere")
    assert not is_free("elsewhere/2")
    assert not Path(".webhooks").exists()


def test_gradio_hands_out_no_file_of_any_of_the_logs(make: Servers, tmp_path: Path) -> None:
    options = {"allowed_paths": [str(tmp_path)]}
    Path("shown.txt").write_text("shown")
    for url in [launch(make(name), **options) for name in ("first", "second")]:
        assert httpx.get(f"{url}/gradio_api/file={tmp_path}/shown.txt").text == "shown"
        for log in (".webhooks", ".webhooks/2"):
            answer = httpx.get(f"{url}/gradio_api/file={tmp_path}/{log}/deliveries.db")
            assert answer.status_code == 403


TWO = """
import threading
from webhooks import WebhookPayload, WebhooksServer

servers = {}
for name in ("first", "second"):
    server = servers[name] = WebhooksServer()

    @server.add_webhook("/hook", debounce=WAIT)
    def hook(payload: WebhookPayload, name=name):
        print(name, "runs it", flush=True)

    server.launch(prevent_thread_lock=True)

print("both serve", flush=True)
threading.Event().wait()
"""


def test_each_finds_its_own_deliveries_again_when_the_script_is_run_again(run: Run) -> None:
    process = run(TWO.replace("WAIT", "1000"), GRADIO_NUM_PORTS="9")
    urls = []
    while not process.output.endswith("both serve\n"):
        line = process.wait_for("")
        if "POST " in line:
            urls.append(line.partition("POST ")[2].strip())
    assert httpx.post(urls[1], json=EVENT).status_code == 202
    process.stop()
    process = run(TWO.replace("WAIT", "0"), GRADIO_NUM_PORTS="9")
    process.wait_for("second runs it")
    assert "first runs it" not in process.output
