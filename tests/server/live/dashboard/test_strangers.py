"""What strangers get from a running server: no mark, no file, no secret."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
from support.hub import Hub
from support.payloads import load
from support.processes import Process, Start

MARK = "zq-"  # in everything that only the owner may see, and in nothing else
SECRET, TOKEN, ADMIN_TOKEN = "zq-webhook-secret", "hf_zq-token", "zq-admin-token-of-the-owner"
HANDLER = """
@server.add_webhook
def train(payload: WebhookPayload):
    if payload.discussion:
        raise RuntimeError("zq-error")
    return {"result": "zq-result"}

"""
SCRIPT = f"""
from pathlib import Path
from webhooks import WebhookPayload, WebhooksServer

Path(".env").write_text("HF_TOKEN=hf_zq-token")
server = WebhooksServer()
{HANDLER}
server.launch()
"""
OWN_UI = f"""
import gradio as gr
from pathlib import Path
from webhooks import WebhookPayload, WebhooksServer

Path(".env").write_text("HF_TOKEN=hf_zq-token")
Path("public.txt").write_text("for everybody")
Path("blocked.txt").write_text("zq-blocked")

with gr.Blocks() as ui:
    gr.LoginButton()

server = WebhooksServer(ui)
{HANDLER}
server.launch(allowed_paths=["."])
"""


class Server:
    """A server with two deliveries that have marks everywhere: a succeeded and a failed one."""

    def __init__(self, process: Process) -> None:
        self.process, self.url = process, process.url
        line = next(line for line in process.output.splitlines() if line.startswith("Log:"))
        self.log = Path(line.split()[1]) / "deliveries.db"
        commit, comment = load("repo.content-update"), load("discussion.comment-create")
        for payload in (commit, comment):
            payload["repo"]["name"] = "zq-owner/zq-repository"
        comment["discussion"]["title"] = "zq-title"
        answers = [process.post("train", it, headers={"X-Webhook-Secret": SECRET}) for it in (commit, comment)]
        assert [answer.status_code for answer in answers] == [200, 500]
        self.ids = [answer.headers["X-Delivery-Id"] for answer in answers]


@pytest.fixture(scope="module")
def space(start: Start) -> Server:
    settings = {"WEBHOOK_SECRET": SECRET, "HF_TOKEN": TOKEN, "WEBHOOKS_ADMIN_TOKEN": ADMIN_TOKEN}
    here = {"SPACE_ID": "me/hooks", "SPACE_AUTHOR_NAME": "me", "SPACE_HOST": "me-hooks.hf.space", "SYSTEM": "spaces"}
    return Server(start(SCRIPT, **settings, **here, HF_ENDPOINT="http://127.0.0.1:9"))


@pytest.fixture(scope="module")
def own_ui(start: Start) -> Iterator[Server]:
    """The user's own Blocks, with a folder that everybody may read, and a sign-in that Gradio imitates."""
    with Hub() as hub:
        hub.add_user("julien")
        hub.add_token(TOKEN, "julien")
        like_a_space = {"SPACE_ID": "julien/hooks", "SPACE_AUTHOR_NAME": "julien", "WEBHOOK_SECRET": SECRET}
        hidden = {"WEBHOOKS_DATA_DIR": "data", "GRADIO_BLOCKED_PATHS": "blocked.txt"}
        yield Server(start(OWN_UI, **like_a_space, **hidden, HF_TOKEN=TOKEN, HF_ENDPOINT=hub.url))


@pytest.fixture(params=["space", "own_ui"])
def server(request: pytest.FixtureRequest) -> Server:
    return request.getfixturevalue(request.param)


def test_no_page_shows_a_stranger_anything(server: Server) -> None:
    queries = ("", "?page=deliveries", f"?delivery={server.ids[0]}", "?token=x", "?deep_link=x")
    paths = [f"{page}{query}" for page in ("/", "/deliveries", "/deliveries/", "/config") for query in queries]
    paths += [f"/deliveries/{id}" for id in server.ids]
    paths += ["/arrivals", "/theme.css", "/health", "/manifest.json", "/docs", "/openapi.json", "/monitoring/summary"]
    paths += ["/monitoring", "/webhooks", "/webhooks/train", "/webhooks/"]
    paths += [f"/gradio_api/{name}" for name in ("info", "openapi.json", "token", "user", "app_id", "queue/status")]
    paths += [f"/gradio_api/{name}" for name in ("startup-events", "runs", "vibe-code", "profiling/traces")]
    paths += [f"/gradio_api/deep_link?session_hash={name}" for name in ("x", server.ids[0])]
    # Gradio fails at some of these, and closes the connection then.
    with httpx.Client(base_url=server.url, headers={"connection": "close"}) as stranger:
        for path in paths:
            assert MARK not in stranger.get(path, follow_redirects=True).text, path


def test_sign_in_of_gradio_makes_nobody_the_owner(own_ui: Server) -> None:
    with httpx.Client(base_url=own_ui.url) as visitor:
        session = visitor.get("/login/callback").headers["set-cookie"].partition(";")[0]
        assert session.startswith("session=")
        for path in ("/deliveries", f"/deliveries/{own_ui.ids[0]}", "/deliveries/hub"):
            answer = visitor.get(path, headers={"cookie": session})
            assert (answer.status_code, MARK in answer.text) == (403, False)


def file_addresses(path: Path) -> Iterator[str]:
    """Return every way to ask Gradio for a file of the folder that the server was started in."""
    relative = path.relative_to(path.anchor)
    here = path.name if path.suffix in (".py", ".txt") or path.name == ".env" else f"{path.parent.name}/{path.name}"
    up = f"{'../' * 9}{relative}"
    names = [str(path), f"/{path}", here, f"./{here}", f"x/../{here}", f"/proc/self/cwd/{here}", up, here.upper()]
    names += [quote(str(path), safe=""), quote(quote(str(path), safe=""), safe=""), str(path).replace("/", "\\")]
    names += [f"file://{path}", f"{path}/.", f"{path}%00.txt", f"{path.parent}//{path.name}"]
    yield from (f"/gradio_api/file={name}" for name in names)
    yield from (f"/gradio_api/file/{name}" for name in names[:4])
    for route in ("file=", "static/", "assets/", "svelte/", "gradio_api/proxy=", "?deep_link="):
        yield from (f"/{route}{name}" for name in (str(path), up))


def addresses_that_give(server: Server, path: Path) -> set[str]:
    content, found = path.read_bytes(), set()
    with httpx.Client(base_url=server.url, headers={"connection": "close"}) as client:
        for address in file_addresses(path):
            answer = client.get("/", extensions={"target": address.encode()})  # as it is, dots and all
            if answer.is_success and (answer.content == content or (content and content[:4096] in answer.content)):
                found.add(address)
    return found


def test_no_private_file_is_given_to_anybody(server: Server) -> None:
    folder = server.process.folder
    log_files = ("deliveries.db", "deliveries.db-wal", "lock", ".gitignore")
    private = [*map(server.log.with_name, log_files), folder / ".env"]
    if (folder / "public.txt").exists():
        assert "/gradio_api/file=public.txt" in addresses_that_give(server, folder / "public.txt")
        private.append(folder / "blocked.txt")
    for path in private:
        assert addresses_that_give(server, path) == set(), path


def test_no_secret_is_printed_or_kept(space: Server, own_ui: Server) -> None:
    for server in (space, own_ui):
        kept = b"".join(path.read_bytes() for path in server.log.parent.iterdir())
        assert b"zq-title" in kept
        server.process.unread()
        printed = server.process.output
        assert "zq-error" in printed
        for secret in (SECRET, TOKEN, ADMIN_TOKEN):
            assert secret.encode() not in kept, secret
            assert secret not in printed, secret
    assert re.findall(r"\?token=(?!<)", space.process.output) == []
    (token,) = re.findall(r"\?token=(\S+)", own_ui.process.output)
    assert token.encode() not in b"".join(path.read_bytes() for path in own_ui.log.parent.iterdir())
