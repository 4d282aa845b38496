"""A receiver in the shape of the Hub's guides, on plain uvicorn: it checks secret and payload, and answers."""

import os
import sys

import uvicorn
from fastapi import FastAPI, Header, HTTPException
from huggingface_hub import WebhookPayload

SECRET = os.environ["WEBHOOK_SECRET"]

app = FastAPI()


@app.post("/webhooks/hook")
async def hook(payload: WebhookPayload, x_webhook_secret: str | None = Header(default=None)) -> dict[str, bool]:
    if x_webhook_secret is None:
        raise HTTPException(401, "The header X-Webhook-Secret is missing.")
    if x_webhook_secret != SECRET:
        raise HTTPException(403, "The header X-Webhook-Secret is wrong.")
    return {"ok": True}


port = int(sys.argv[1])
uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", loop="asyncio", http="h11")
