"""The server of `huggingface_hub`, which records nothing."""

import sys
import time

import gradio  # noqa: F401  # or it says that gradio is missing
from huggingface_hub import WebhookPayload, WebhooksServer

server = WebhooksServer()


@server.add_webhook
async def hook(payload: WebhookPayload):
    return {"ok": True}


@server.add_webhook
def quick(payload: WebhookPayload):
    return {"ok": True}


@server.add_webhook
def block(payload: WebhookPayload):
    time.sleep(3)
    return {"ok": True}


@server.add_webhook
async def block_async(payload: WebhookPayload):
    time.sleep(3)
    return {"ok": True}


server.launch(share=False, server_port=int(sys.argv[1]))
