"""The examples of huggingface_hub's guide run once their import line is changed, and the console says the same."""

import re

import httpx
import pytest
from support.payloads import load
from support.processes import Process, Run

UPDATE = load("repo.content-update")
SECRET = "my_secret_key"
DECORATED = """
# app.py
from webhooks import webhook_endpoint, WebhookPayload

@webhook_endpoint
async def trigger_training(payload: WebhookPayload) -> None:
    if payload.repo.type == "dataset" and payload.event.action == "update":
        # Trigger a training job if a dataset is updated
        ...
"""
EXPLICIT = """
import gradio as gr
from fastapi import Request
from webhooks import WebhooksServer, WebhookPayload

# 1. Define  UI
with gr.Blocks() as ui:
    gr.Markdown("My own page")

# 2. Create WebhooksServer with custom UI and secret
app = WebhooksServer(ui=ui, webhook_secret="my_secret_key")

# 3. Register webhook with explicit name
@app.add_webhook("/say_hello")
async def hello(payload: WebhookPayload):
    return {"message": "hello"}

# 4. Register webhook with implicit name
@app.add_webhook
async def goodbye(request: Request):
    return {"json": await request.json(), "headers": dict(request.headers)}

# 5. Start server (optional)
app.run()
"""
NEWCOMER = """
Webhook secret is not defined. This means your webhook endpoints will be open to everyone.
To close them, set WEBHOOK_SECRET to a long random text: in the environment, or in a file .env that the script loads. \
Then start again.

Local:     LOCAL
Public:    none; only this machine reaches the addresses below
Log:       HERE/.webhooks

See, test and replay deliveries, as the owner (keep this link to yourself):
  LOCAL/deliveries?token=TOKEN

Webhooks are correctly setup and ready to use:
  - POST LOCAL/webhooks/trigger_training
Go to https://huggingface.co/settings/webhooks to setup your webhooks.
"""


def test_the_decorator_example_starts_by_itself(serve: Run) -> None:
    server = serve(DECORATED)
    answer = server.post("trigger_training", UPDATE)
    assert answer.status_code == 200
    assert answer.json() == {"delivery": answer.headers["X-Delivery-Id"], "status": "succeeded"}
    said = server.output.replace(server.url, "LOCAL").replace(str(server.folder), "HERE")
    assert re.sub(r"token=[\w-]+", "token=TOKEN", said).startswith(NEWCOMER)
    assert "/webhooks/trigger_training" in httpx.get(server.url).text  # the landing page


def test_the_explicit_example_serves_behind_its_secret(serve: Run) -> None:
    server = serve(EXPLICIT)
    signed = {"X-Webhook-Secret": SECRET}
    assert server.post("say_hello", UPDATE, headers=signed).json() == {"message": "hello"}
    assert server.post("hello", UPDATE, headers=signed).status_code == 404
    answer = server.post("goodbye", {"any": ["body", 1]}, headers={**signed, "X-Custom": "mine"}).json()
    assert answer["json"] == {"any": ["body", 1]}
    assert (answer["headers"]["x-custom"], answer["headers"]["x-webhook-secret"]) == ("mine", SECRET)
    assert "My own page" in httpx.get(server.url).text


SPACE = {"SPACE_ID": "me/hooks", "SPACE_HOST": "me-hooks.hf.space,hooks.example.com", "SYSTEM": "spaces"}


@pytest.mark.parametrize(
    ("settings", "state", "is_ready"),
    [
        ({"WEBHOOK_SECRET": "s3cret"}, "Webhook secret is correctly defined.", True),
        ({}, "https://huggingface.co/spaces/me/hooks/settings", False),
    ],
    ids=["with a secret", "closed"],
)
def test_the_console_of_a_space_says_who_may_call(
    settings: dict[str, str], state: str, is_ready: bool, serve: Run
) -> None:
    output = serve(DECORATED, **SPACE, **settings).output
    assert state in output
    assert ("Webhooks are correctly setup and ready to use:" in output) == is_ready
    assert output.endswith(f"  - POST https://me-hooks.hf.space/webhooks/trigger_training\n{Process.READY}\n")
    assert not [text for text in ("s3cret", "open to everyone") if text in output]


def test_a_mistake_ends_the_script_with_a_sentence(run: Run) -> None:
    process = run(DECORATED, GRADIO_SHARE="perhaps")
    assert process.wait_for_exit() == 1
    assert "GRADIO_SHARE is wrong:" in process.output.splitlines()[-1]
