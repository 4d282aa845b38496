"""What strangers get from a running server: nothing that has a mark."""

from __future__ import annotations

import httpx
from support.payloads import load
from support.processes import Start

MARK = "zq-"  # in everything that only the owner may see, and in nothing else
SETTINGS = {"WEBHOOK_SECRET": "zq-webhook-secret", "HF_TOKEN": "hf_zq-token", "SPACE_ID": "julien/hooks"}
SCRIPT = """
from webhooks import WebhookPayload, WebhooksServer

server = WebhooksServer()

@server.add_webhook
def train(payload: WebhookPayload):
    if payload.discussion:
        raise RuntimeError("zq-error")
    return {"result": "zq-result"}

server.launch()
"""


def test_no_page_shows_a_stranger_anything(start: Start) -> None:
    server = start(SCRIPT, **SETTINGS, HF_ENDPOINT="http://127.0.0.1:9")
    commit, comment = load("repo.content-update"), load("discussion.comment-create")
    for payload in (commit, comment):
        payload["repo"]["name"] = "zq-owner/zq-repository"
    comment["discussion"]["title"] = "zq-title"
    secret = {"X-Webhook-Secret": SETTINGS["WEBHOOK_SECRET"]}
    answers = [server.post("train", payload, headers=secret) for payload in (commit, comment)]
    assert [answer.status_code for answer in answers] == [200, 500]
    ids = [answer.headers["X-Delivery-Id"] for answer in answers]
    queries = ("", "?page=deliveries", f"?delivery={ids[0]}", "?token=x", "?deep_link=x")
    paths = [f"{page}{query}" for page in ("/", "/deliveries", "/deliveries/", "/config") for query in queries]
    paths += [f"/deliveries/{id}" for id in ids]
    paths += ["/arrivals", "/theme.css", "/health", "/manifest.json", "/docs", "/openapi.json", "/monitoring/summary"]
    paths += ["/monitoring", "/webhooks", "/webhooks/train", "/webhooks/"]
    paths += [f"/gradio_api/{name}" for name in ("info", "openapi.json", "token", "user", "app_id", "queue/status")]
    paths += [f"/gradio_api/{name}" for name in ("startup-events", "runs", "vibe-code", "profiling/traces")]
    paths += [f"/gradio_api/deep_link?session_hash={name}" for name in ("x", ids[0])]
    # Gradio fails at some of these, and closes the connection then.
    with httpx.Client(base_url=server.url, headers={"connection": "close"}) as stranger:
        for path in paths:
            assert MARK not in stranger.get(path, follow_redirects=True).text, path
