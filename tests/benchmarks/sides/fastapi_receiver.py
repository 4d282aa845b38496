"""A receiver in the shape of the Hub's guides: FastAPI, a model of the payload, the work in the background.

It records nothing.
"""

import os
import sys

import uvicorn
from fastapi import BackgroundTasks, FastAPI, Header, HTTPException
from pydantic import BaseModel

SECRET = os.environ["WEBHOOK_SECRET"]

app = FastAPI()


class Event(BaseModel):
    action: str
    scope: str


class Repo(BaseModel):
    type: str
    name: str
    id: str
    private: bool
    headSha: str | None = None


class Payload(BaseModel):
    event: Event
    repo: Repo


async def work(payload: Payload) -> dict[str, bool]:
    return {"ok": True}


@app.post("/webhooks/hook")
async def hook(
    payload: Payload, background: BackgroundTasks, x_webhook_secret: str | None = Header(default=None)
) -> dict[str, bool]:
    if x_webhook_secret is None:
        raise HTTPException(401, "The header X-Webhook-Secret is missing.")
    if x_webhook_secret != SECRET:
        raise HTTPException(403, "The header X-Webhook-Secret is wrong.")
    background.add_task(work, payload)
    return {"processed": True}


uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
