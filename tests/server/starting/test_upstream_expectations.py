"""What huggingface_hub's own tests expect of its class, and what programs use of it: asked of that class and of this.

Its tests are `tests/test_webhooks_server.py` of its repository, read at commit 0f4c606.
"""

import importlib
import inspect
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import httpx
import pytest
from support.payloads import load
from support.processes import free_port

pytestmark = [pytest.mark.long, pytest.mark.filterwarnings("ignore:.*is experimental:UserWarning")]

UPSTREAM, OURS = "huggingface_hub", "webhooks"
EVENT = load("discussion-create")
SECRET = "my_webhook_secret"
GUIDE = [
    "Webhook secret is not defined. This means your webhook endpoints will be open to everyone.",
    "Webhooks are correctly setup and ready to use:",
    "  - POST {url}/webhooks/report",
    "  - POST {url}/webhooks/named",
    "Go to https://huggingface.co/settings/webhooks to setup your webhooks.",
]


@pytest.fixture(scope="module", params=[UPSTREAM, OURS])
def package(request: Any) -> ModuleType:
    return importlib.import_module(request.param)


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")


@pytest.fixture
def ui() -> Iterator[Any]:
    import gradio as gr

    with gr.Blocks() as ui:
        gr.Markdown("Hello World!")
    yield ui
    ui.close(verbose=False)


@pytest.fixture
def our_app(ui: Any) -> Any:
    return server(importlib.import_module(OURS), ui, SECRET)


@pytest.fixture
def app(package: ModuleType, ui: Any) -> Any:
    return server(package, ui, SECRET)


def server(package: ModuleType, ui: Any = None, secret: str | None = None) -> Any:
    app = package.WebhooksServer(ui=ui, webhook_secret=secret)

    WebhookPayload = package.WebhookPayload

    @app.add_webhook
    async def report(payload: WebhookPayload) -> None:
        return {"scope": payload.event.scope}  # as theirs does, whatever its annotation says

    @app.add_webhook("/named")
    def answer() -> dict[str, str]:
        return {"message": "hello"}

    return app


def launch(app: Any, port: int | None = None, **options: Any) -> str:
    """Launch as a program does that need not wait, and return where."""
    port = port or free_port()
    app.launch(prevent_thread_lock=True, server_port=port, share=False, **options)
    return f"http://127.0.0.1:{port}"


def run(app: Any, ui: Any) -> tuple[Any, str]:
    """Launch as those tests do: with a wait that is none. Return the client that they ask."""
    from fastapi.testclient import TestClient

    port = ui.server_port if ui.is_running else free_port()
    with patch.object(ui, "block_thread") as waits:
        getattr(app, "run", app.launch)(server_port=port, share=False)  # earlier versions of theirs have `run`, too
    waits.assert_called_once_with()
    return TestClient(app.fastapi_app), f"http://127.0.0.1:{port}"


# --- without a launch


def test_the_path_is_the_functions_name(package: ModuleType) -> None:
    app = package.WebhooksServer()

    @app.add_webhook
    async def handler() -> None: ...

    assert "/webhooks/handler" in app.registered_webhooks


@pytest.mark.parametrize("path", ["/hook", "hook", "hook/"])
def test_a_path_of_ones_own_is_below_webhooks_too(package: ModuleType, path: str) -> None:
    app = package.WebhooksServer()

    @app.add_webhook(path=path)
    async def handler() -> None: ...

    assert list(app.registered_webhooks) == ["/webhooks/hook"]


def test_the_same_path_twice_is_an_error(package: ModuleType) -> None:
    app = package.WebhooksServer()
    app.add_webhook("hook")(lambda: "first")
    with pytest.raises(ValueError, match="/webhooks/hook"):
        app.add_webhook("hook")(lambda: "second")
    assert app.registered_webhooks["/webhooks/hook"]() == "first"


@pytest.mark.parametrize(("given", "environment", "expected"), [
    ("given", "", "given"), ("given", "set", "given"), (None, "set", "set"), (None, None, None),
])  # fmt: skip
def test_the_secret_is_an_attribute_and_text(
    package: ModuleType,
    given: str | None,
    environment: str | None,
    expected: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if environment is not None:
        monkeypatch.setenv("WEBHOOK_SECRET", environment)
    app = package.WebhooksServer(webhook_secret=given)
    assert app.webhook_secret == expected
    if expected:
        assert expected not in repr(app) + str(app)


def test_the_decorators_function_can_launch(package: ModuleType) -> None:
    @package.webhook_endpoint(f"/decorated-{package.__name__}")
    async def handler() -> str:
        return "called"

    assert callable(handler.launch)
    if package.__name__ == UPSTREAM:  # which would start it at the end of the tests
        import atexit

        atexit.unregister(package._webhooks_server._get_global_app().launch)


def test_every_public_name_and_parameter_of_theirs_is_there() -> None:
    theirs, ours = (importlib.import_module(name) for name in (UPSTREAM, OURS))

    def names(package: ModuleType) -> set[str]:
        return {name for name in dir(package.WebhooksServer()) if not name.startswith("_")}

    def parameters(function: Callable[..., Any]) -> list[str]:
        return [p.name for p in inspect.signature(function).parameters.values() if p.kind != p.VAR_KEYWORD]

    assert names(theirs) <= names(ours)
    for method in ("__init__", "add_webhook", "launch"):
        expected = parameters(getattr(theirs.WebhooksServer, method))
        assert parameters(getattr(ours.WebhooksServer, method))[: len(expected)] == expected
    assert parameters(ours.webhook_endpoint) == parameters(theirs.webhook_endpoint)


# --- with one


def test_a_wait_that_is_none_ends_the_launch_and_the_app_serves(app: Any, ui: Any) -> None:
    client, url = run(app, ui)
    headers = {"x-webhook-secret": SECRET}
    for post, where in ((client.post, ""), (httpx.post, url)):
        answer = post(f"{where}/webhooks/report", headers=headers, json=EVENT)
        assert (answer.status_code, answer.json()) == (200, {"scope": "discussion"})
        assert post(f"{where}/webhooks/named", headers=headers).json() == {"message": "hello"}
        assert post(f"{where}/webhooks/report", json=EVENT).status_code == 401
        wrong = {"x-webhook-secret": "another"}
        assert post(f"{where}/webhooks/report", headers=wrong, json=EVENT).status_code == 403


def test_who_has_no_secret_is_refused_without_a_body_too(our_app: Any, ui: Any) -> None:
    """Their own test expects it, and their class at 2.4.0 answers 422: it judges the body first."""
    client, _ = run(our_app, ui)
    assert client.post("/webhooks/report").status_code == 401


def test_a_launched_app_can_be_run_again(app: Any, ui: Any) -> None:
    run(app, ui)
    client, url = run(app, ui)
    headers = {"x-webhook-secret": SECRET}
    assert client.post("/webhooks/report", headers=headers, json=EVENT).json() == {"scope": "discussion"}
    assert httpx.post(f"{url}/webhooks/report", headers=headers, json=EVENT).json() == {"scope": "discussion"}


def test_a_wait_of_all_blocks_that_is_none_ends_the_launch_of_the_landing_page(package: ModuleType) -> None:
    import gradio as gr

    app = server(package)
    port = free_port()
    with patch.object(gr.Blocks, "block_thread") as waits:
        app.launch(server_port=port, share=False)
    waits.assert_called_once_with()
    try:
        assert httpx.post(f"http://127.0.0.1:{port}/webhooks/named").json() == {"message": "hello"}
    finally:
        gr.close_all(verbose=False)


def test_a_launch_that_need_not_wait_does_not_and_leaves_signals_alone(app: Any, ui: Any) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with patch.object(ui, "block_thread") as waits:
        url = launch(app)
    waits.assert_not_called()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert httpx.get(url).status_code == 200


def test_after_a_close_of_the_gradio_app_it_can_be_launched_again(app: Any, ui: Any) -> None:
    for _ in range(3):
        url = launch(app)
        headers = {"x-webhook-secret": SECRET}
        assert httpx.post(f"{url}/webhooks/report", headers=headers, json=EVENT).json() == {"scope": "discussion"}
        ui.close()
        with pytest.raises(httpx.ConnectError):
            httpx.get(url)


def test_there_can_be_several_at_once(package: ModuleType) -> None:
    import gradio as gr

    with gr.Blocks() as first_ui, gr.Blocks() as second_ui:
        pass
    first, second = launch(server(package, first_ui)), launch(server(package, second_ui, SECRET))
    try:
        assert httpx.post(f"{first}/webhooks/report", json=EVENT).status_code == 200
        assert httpx.post(f"{second}/webhooks/report", json=EVENT).status_code == 401
    finally:
        first_ui.close()
        second_ui.close()


def test_the_guides_lines_are_printed_word_for_word_and_once(
    package: ModuleType, ui: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    url = launch(server(package, ui))
    said = capsys.readouterr().out.splitlines()
    expected = [line.format(url=url) for line in GUIDE]
    assert [line for line in said if line in expected] == expected


def test_a_secret_that_is_set_is_said_to_be(
    package: ModuleType, app: Any, ui: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    launch(app)
    said = capsys.readouterr().out
    if package.__name__ == OURS:  # theirs says it when it is made, before this test
        assert said.count("Webhook secret is correctly defined.") == 1
    assert "open to everyone" not in said
    assert SECRET not in said
