"""What a stranger gets from all that is served beside the owner's pages, and a page of another site in the browser."""

from __future__ import annotations

import http.server
import json
import re
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, expect, sync_playwright
from support.browsers import CHROMIUM_ARGUMENTS
from support.hub import Hub
from support.payloads import load
from support.processes import Process, Start
from support.tls import TlsFront

pytestmark = pytest.mark.once

MARK = "zq-"  # in everything that nobody but the owner may see, and in nothing else
SECRET, TOKEN, ADMIN_TOKEN = "zq-webhook-secret", "hf_zq-token", "zq-admin-token-of-the-owner"
HOST = "me-hooks.hf.space"
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
MINE = f"""
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
    """A server that has received two deliveries with marks everywhere, one that succeeded and one that failed."""

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
def uploads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("uploads")


@pytest.fixture(scope="module")
def laptop(start: Start, uploads: Path) -> Server:
    settings = {"WEBHOOK_SECRET": SECRET, "HF_TOKEN": TOKEN, "WEBHOOKS_ADMIN_TOKEN": ADMIN_TOKEN}
    return Server(start(SCRIPT, **settings, HF_ENDPOINT="http://127.0.0.1:9", GRADIO_TEMP_DIR=str(uploads)))


@pytest.fixture(scope="module")
def space(start: Start) -> Server:
    settings = {"WEBHOOK_SECRET": SECRET, "HF_TOKEN": TOKEN, "WEBHOOKS_ADMIN_TOKEN": ADMIN_TOKEN}
    here = {"SPACE_ID": "me/hooks", "SPACE_AUTHOR_NAME": "me", "SPACE_HOST": HOST, "SYSTEM": "spaces"}
    return Server(start(SCRIPT, **settings, **here, HF_ENDPOINT="http://127.0.0.1:9"))


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    """Gradio asks it whose token that of the machine is."""
    with Hub() as hub:
        hub.add_user("julien")
        hub.add_token(TOKEN, "julien")
        yield hub


@pytest.fixture(scope="module")
def mine(start: Start, hub: Hub) -> Server:
    """Somebody's own Blocks, with a folder that everybody may read, and a sign-in that Gradio plays."""
    like_a_space = {"SPACE_ID": "julien/hooks", "SPACE_AUTHOR_NAME": "julien", "WEBHOOK_SECRET": SECRET}
    hidden = {"WEBHOOKS_DATA_DIR": "data", "GRADIO_BLOCKED_PATHS": "blocked.txt"}
    return Server(start(MINE, **like_a_space, **hidden, HF_TOKEN=TOKEN, HF_ENDPOINT=hub.url))


@pytest.fixture(params=["laptop", "space", "mine"])
def server(request: pytest.FixtureRequest) -> Server:
    return request.getfixturevalue(request.param)


def test_no_page_shows_a_stranger_anything(server: Server) -> None:
    shown = ("", "?page=deliveries", f"?delivery={server.ids[0]}", "?token=x", "?deep_link=x")
    paths = [f"{page}{query}" for page in ("/", "/deliveries", "/deliveries/", "/config") for query in shown]
    paths += [f"/deliveries/{id}" for id in server.ids]
    paths += [
        "/arrivals",
        "/theme.css",
        "/health",
        "/manifest.json",
        "/robots.txt",
        "/docs",
        "/openapi.json",
    ]
    paths += ["/monitoring", "/monitoring/summary", "/monitoring/x", "/webhooks", "/webhooks/train", "/webhooks/"]
    paths += [f"/gradio_api/{name}" for name in ("info", "openapi.json", "token", "user", "app_id", "queue/status")]
    paths += [f"/gradio_api/{name}" for name in ("startup-events", "runs", "vibe-code", "profiling/traces")]
    paths += [f"/gradio_api/deep_link?session_hash={name}" for name in ("x", server.ids[0])]
    # Gradio fails at some of these, and closes the connection then.
    with httpx.Client(base_url=server.url, headers={"connection": "close"}) as stranger:
        for path in paths:
            assert MARK not in stranger.get(path, follow_redirects=True).text, path


def test_a_sign_in_that_gradio_plays_makes_nobody_the_owner(mine: Server) -> None:
    with httpx.Client(base_url=mine.url) as visitor:
        played = visitor.get("/login/callback").headers["set-cookie"].partition(";")[0]
        assert played.startswith("session=")
        for path in ("/deliveries", f"/deliveries/{mine.ids[0]}", "/deliveries/hub"):
            answer = visitor.get(path, headers={"cookie": played})
            assert (answer.status_code, MARK in answer.text) == (403, False)


def file_addresses(path: Path) -> Iterator[str]:
    """Every way to ask Gradio for a file of the folder that the server was started in."""
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
    yield f"/gradio_api/custom_component/x/client/{quote(up, safe='')}/x"
    yield f"/gradio_api/stream/x/{quote(up, safe='')}/1/playlist-file"


def fetch(server: Server, path: Path) -> set[str]:
    """Return the addresses at which a file is given out."""
    there = path.read_bytes()
    found = set()
    with httpx.Client(base_url=server.url, headers={"connection": "close"}) as client:  # Gradio fails at some
        for address in file_addresses(path):
            answer = client.get("/", extensions={"target": address.encode()})  # as it is, dots and all
            if answer.is_success and (answer.content == there or (there and there[:4096] in answer.content)):
                found.add(address)
    return found


def private_files(server: Server) -> list[Path]:
    in_the_log = ("deliveries.db", "deliveries.db-wal", "lock", ".gitignore")
    return [*map(server.log.with_name, in_the_log), server.process.folder / ".env"]


def test_no_file_of_the_server_can_be_fetched(laptop: Server) -> None:
    for path in [*private_files(laptop), laptop.process.folder / "script.py"]:
        assert fetch(laptop, path) == set(), path


def test_what_is_private_stays_so_where_the_folder_around_it_is_allowed(mine: Server) -> None:
    folder = mine.process.folder
    given = fetch(mine, folder / "public.txt")
    assert "/gradio_api/file=public.txt" in given
    assert f"/gradio_api/file={folder / 'public.txt'}" in given
    for path in [*private_files(mine), folder / "blocked.txt"]:
        assert fetch(mine, path) == set(), path


def test_a_stranger_cannot_fill_the_disk_with_uploads(laptop: Server, uploads: Path) -> None:
    def there() -> list[Path]:
        return [path for path in uploads.rglob("*") if path.is_file()]

    before = there()
    for address, name in (("upload", "files"), ("process_recording", "video"), ("component_server", "files")):
        fields = {"component_id": "1", "session_hash": "x", "fn_name": "x"}
        url = f"{laptop.url}/gradio_api/{address}"
        answer = httpx.post(url, data=fields, files={name: ("x.mp4", b"x" * 9999)})
        assert answer.status_code == 404, address
    assert there() == before


def test_uploads_work_in_a_page_of_ones_own(mine: Server) -> None:
    assert httpx.post(f"{mine.url}/gradio_api/upload", files={"files": ("x.txt", b"x")}).status_code == 200


def test_gradios_run_history_does_not_use_the_token_for_others(server: Server) -> None:
    """It would on a laptop for all that reaches it as localhost, and on a Space for pages of other origins."""
    headers = {"host": f"localhost:{server.process.port}", "origin": "https://evil.example"}
    with httpx.Client(base_url=server.url, headers=headers) as other:
        assert other.get("/gradio_api/run-history/buckets").status_code == 404
        assert other.post("/gradio_api/run-history/connect", json={"bucket_id": "me/x"}).status_code == 404


def test_no_secret_is_printed_or_kept(laptop: Server, space: Server, mine: Server) -> None:
    for server in (laptop, space, mine):
        kept = b"".join(path.read_bytes() for path in server.log.parent.iterdir())
        assert b"zq-title" in kept
        server.process.unread()
        printed = server.process.output
        assert "zq-error" in printed
        for secret in (SECRET, TOKEN, ADMIN_TOKEN):
            assert secret.encode() not in kept, secret
            assert secret not in printed, secret
    assert len(re.findall(r"\?token=(?!<)", laptop.process.output + space.process.output)) == 0
    (token,) = re.findall(r"\?token=(\S+)", mine.process.output)
    assert token.encode() not in b"".join(path.read_bytes() for path in mine.log.parent.iterdir())


# --- in the owner's browser


class OtherSite(http.server.BaseHTTPRequestHandler):
    """A site with nothing on it; a test makes of it what it needs."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<title>Another site</title>")

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def other_port() -> Iterator[int]:
    """Where the other site is."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), OtherSite) as site:
        threading.Thread(target=site.serve_forever, daemon=True).start()
        yield site.server_port
        site.shutdown()


@pytest.fixture
def trusting(space: Server, chromium: str, tmp_path: Path, other_port: int) -> Iterator[BrowserContext]:
    """A browser that lets every site send the cookies of others along, as its user chose."""
    profile = {"block_third_party_cookies": False, "cookie_controls_mode": 0}
    (tmp_path / "Default").mkdir()
    (tmp_path / "Default" / "Preferences").write_text(json.dumps({"profile": profile}))
    with TlsFront(space.process.port, HOST) as here, TlsFront(other_port, "evil.example") as there:
        rules = f"{here.chromium_argument},{there.chromium_argument.partition('=')[2]}"
        options: dict[str, Any] = {"executable_path": chromium, "args": [*CHROMIUM_ARGUMENTS, rules]}
        with sync_playwright() as playwright:
            launched = playwright.chromium.launch_persistent_context(tmp_path, **options, ignore_https_errors=True)
            with closing(launched) as context:
                yield context


ATTACK = """async ([url, mode, method]) => {
  const asked = { method, mode, credentials: "include" };
  if (method === "POST") asked.body = new URLSearchParams({ until: "7fffffffffffffff" });
  return fetch(url, asked).then(answer => answer.text()).catch(String);
}"""
FORM = """url => {
  const form = document.createElement("form");
  [form.method, form.action] = ["post", url];
  document.body.append(form);
  form.submit();
}"""
FRAME = """address => new Promise(loaded => {
  const frame = document.createElement("iframe");
  [frame.src, frame.onload] = [address, () => loaded()];
  document.body.append(frame);
})"""


def test_a_page_of_another_site_in_the_owners_browser_reads_and_does_nothing(
    trusting: BrowserContext, space: Server
) -> None:
    desk = f"https://{HOST}/deliveries"
    own = trusting.new_page()
    own.goto(f"{desk}?token={ADMIN_TOKEN}")
    expect(own.locator("#rows tbody tr")).to_have_count(2)
    assert MARK in own.evaluate(ATTACK, [desk, "cors", "GET"]), "the attack is what the own page may do"
    evil = trusting.new_page()
    evil.goto("https://evil.example")
    targets = [desk, f"{desk}/{space.ids[0]}", f"{desk}/{space.ids[0]}/replay", f"{desk}/replay", f"{desk}/sign-out"]
    for url in targets:
        for mode in ("cors", "no-cors"):
            for method in ("GET", "POST"):
                assert MARK not in evil.evaluate(ATTACK, [url, mode, method])
        evil.evaluate(FORM, url)
        expect(evil.get_by_text("This request comes from a page of another origin.")).to_be_visible()
        evil.goto("https://evil.example")
    evil.evaluate(FRAME, desk)
    assert MARK not in "".join(frame.content() for frame in evil.frames)
    own.reload()
    expect(own.locator("#rows tbody tr")).to_have_count(2)


OPEN = """
from webhooks import WebhooksServer

server = WebhooksServer()

@server.add_webhook
def train():
    return "trained"

server.launch()
"""
SIMPLE_POST = """url => {
  const asked = { method: "POST", mode: "no-cors", headers: { "Content-Type": "text/plain" }, body: "{}" };
  return fetch(url, asked).then(answer => answer.type);
}"""
READ = "url => fetch(url).then(answer => answer.text()).catch(String)"


def test_a_page_of_another_site_calls_no_handler_of_a_laptop_without_a_secret(
    start: Start, browser: Browser, other_port: int
) -> None:
    """Nobody else reaches such a server, but every page does that its owner has open."""
    server = start(OPEN)
    for site in (f"http://localhost:{other_port}", f"http://127.0.0.1:{other_port}"):
        with closing(browser.new_page()) as page:
            page.goto(site)
            assert page.evaluate(SIMPLE_POST, f"{server.url}/webhooks/train") == "opaque", "it has been sent"
            assert "succeeded" not in page.evaluate(READ, f"{server.url}/health")
    assert httpx.get(f"{server.url}/health").json()["succeeded"] == 0
    assert server.post("train").status_code == 200
