"""The expectations of huggingface_hub's own tests of its class.

They are from `tests/test_webhooks_server.py` of its repository, at commit 0f4c606.
"""

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import httpx
import huggingface_hub
import pytest
from support.payloads import load
from support.processes import free_port

import webhooks
from webhooks import WebhookPayload, WebhooksServer

pytestmark = pytest.mark.filterwarnings("ignore:.*is experimental:UserWarning")

EVENT = load("discussion-create")
SECRET = "my_webhook_secret"
SIGNED = {"x-webhook-secret": SECRET}


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
def app(ui: Any) -> WebhooksServer:
    app = WebhooksServer(ui=ui, webhook_secret=SECRET)

    @app.add_webhook
    async def report(payload: WebhookPayload) -> None:
        return {"scope": payload.event.scope}  # as theirs does, despite its annotation

    @app.add_webhook("/named")
    def answer() -> dict[str, str]:
        return {"message": "hello"}

    return app


# --- without a launch


def test_the_secret_is_an_attribute(monkeypatch: pytest.MonkeyPatch) -> None:
    assert WebhooksServer().webhook_secret is None
    monkeypatch.setenv("WEBHOOK_SECRET", "set")
    assert WebhooksServer().webhook_secret == "set"
    assert WebhooksServer(webhook_secret="given").webhook_secret == "given"


def test_every_name_and_parameter_of_upstream_is_there() -> None:
    def names(package: ModuleType) -> set[str]:
        return {name for name in dir(package.WebhooksServer()) if not name.startswith("_")}

    def parameters(function: Callable[..., Any]) -> list[str]:
        return [p.name for p in inspect.signature(function).parameters.values() if p.kind != p.VAR_KEYWORD]

    assert names(huggingface_hub) <= names(webhooks)
    for method in ("__init__", "add_webhook", "launch"):
        expected = parameters(getattr(huggingface_hub.WebhooksServer, method))
        assert parameters(getattr(webhooks.WebhooksServer, method))[: len(expected)] == expected
    assert parameters(webhooks.webhook_endpoint) == parameters(huggingface_hub.webhook_endpoint)


# --- after a launch


def test_a_patched_block_thread_ends_the_launch(app: WebhooksServer, ui: Any) -> None:
    from fastapi.testclient import TestClient

    port = free_port()
    for _ in range(2):  # a launched app can be run again
        with patch.object(ui, "block_thread") as waits:
            app.run(server_port=port, share=False)
        waits.assert_called_once_with()
    for post, url in ((TestClient(app.fastapi_app).post, ""), (httpx.post, f"http://127.0.0.1:{port}")):
        answer = post(f"{url}/webhooks/report", headers=SIGNED, json=EVENT)
        assert (answer.status_code, answer.json()) == (200, {"scope": "discussion"})
        assert post(f"{url}/webhooks/named", headers=SIGNED).json() == {"message": "hello"}
        assert post(f"{url}/webhooks/report", json=EVENT).status_code == 401
        wrong = {"x-webhook-secret": "another"}
        assert post(f"{url}/webhooks/report", headers=wrong, json=EVENT).status_code == 403
        assert post(f"{url}/webhooks/report").status_code == 401  # huggingface_hub 2.4.0 answers 422
