"""This server, with its log in the folder `log`."""

import sys
import time

from webhooks import WebhookPayload, WebhooksServer

server = WebhooksServer(data_dir="log")


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


server.launch(server_port=int(sys.argv[1]))
