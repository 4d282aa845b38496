"""Nonsense for every route, ours and Gradio's, as fast as this machine sends it.

    python tests/server/attacks/fuzz.py [--requests 1000000] [--seconds 60] [--seed 0] [--ui ours]

It starts a server, and stops after so many requests or seconds. It fails if a handler has run without the secret, if a
route of ours has answered 500, if somebody with the secret has not been answered, if the console or the memory has
grown beyond a bound, or if the pages do not work at the end. The seed decides which requests are sent.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import re
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS.parents[1]), str(TESTS)]

import httpx  # noqa: E402
from support.attacks import SECRET, Sender, counts, memory  # noqa: E402
from support.payloads import FIXTURES  # noqa: E402
from support.processes import Process  # noqa: E402

TOKEN = "the-token-of-the-owner"
SCRIPT = """
import json, threading
import gradio as gr
from webhooks import WebhookPayload, WebhooksServer

server = WebhooksServer({ui})

@server.add_webhook
async def train(payload: WebhookPayload):
    return "trained"

@server.add_webhook("/anything")
def anything(request):
    return "taken"

server.launch(prevent_thread_lock=True)
print("ROUTES", json.dumps([route.path for route in server.fastapi_app.routes if hasattr(route, "path")]), flush=True)
threading.Event().wait()
"""
UIS = {"ours": "", "own": 'gr.Interface(lambda text: text, "text", "text")'}
OURS = ["/webhooks/train", "/webhooks/anything", "/webhooks/", "/webhooks/none", "/health", "/arrivals", "/deliveries"]
OURS += [f"/deliveries/{name}" for name in ("replay", "test", "hub", "sign-in", "sign-in/callback", "sign-out")]
OURS += [
    f"/deliveries/{name}" for name in ("static/dashboard.css", "static/../views.py", "18ea", "18ea/replay", "static")
]
WORKERS = 32
PATIENCE = 0.3  # seconds; what is not answered by then waits for more, which never comes
MAX_LINES = 50  # of the console, and as many for each minute
MAX_MEMORY = 200  # MiB

IN_A_PATH = ["", "x", "0", "-1", "99999999999999999999", "%00", "%2e%2e%2f", "..", "../../etc/passwd", "%", "%ff"]
IN_A_PATH += ["\xff", "'", '"', "<script>", "{}", "[]", "null", "true"]
NASTY = [*IN_A_PATH, "x" * 3000, "%F0%9F%AA%9D", "a b", "\t", "?", "#", ";", "="]
METHODS = ["GET", "GET", "GET", "POST", "POST", "POST", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"]
QUERIES = ["page", "deep_link", "session_hash", "token", "q", "before", "after", "status", "outcome", "endpoint"]
QUERIES += ["code", "state", "upload_id", "__theme", "logs", "repo", "event"]
HEADERS = {
    "Host": ["localhost", "evil.example", "", "[::1", "localhost:99999"],
    "Origin": ["null", "https://evil.example", "", "http://localhost", "%"],
    "Sec-Fetch-Site": ["cross-site", "same-origin", "none", "?"],
    "Content-Type": ["application/json", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"],
    "X-Forwarded-Host": ["evil.example", "%", ","],
    "X-Forwarded-Proto": ["https", "https,http", "x"],
    "X-Forwarded-For": ["1.2.3.4", "x, y", "::1"],
    "X-Webhook-Secret": ["", "wrong", "\xff", "x" * 2000],
    "Cookie": ["webhooks_localhost=x", "session=e30=.x.y", "access-token-x=1", ";=;", "\xff=\xff"],
    "Authorization": ["Bearer x", "Basic eDp4", "x"],
    "Range": ["bytes=0-", "bytes=-1", "bytes=9-1", "x"],
    "Accept-Encoding": ["gzip", "br", "x;q=9"],
    "If-None-Match": ["*", '"x"'],
    "If-Modified-Since": ["x", "Thu, 01 Jan 1970 00:00:00 GMT"],
    "Expect": ["100-continue", "x"],
    "Connection": ["close", "Upgrade", "keep-alive"],
    "Upgrade": ["websocket", "h2c"],
    "Sec-WebSocket-Key": ["x"],
    "X-Gradio-User": ["x"],
    "Content-Length": ["0", "1", "99", "-1", "99999999999", "x"],
    "Transfer-Encoding": ["chunked", "x"],
}


class Fuzz(random.Random):
    """Makes requests up. Routes are those of the server, with something nasty where they take a name."""

    routes: list[str]
    payloads: list[bytes]

    def request(self) -> bytes:
        body = self.body()
        headers = [(name, self.choice(HEADERS[name])) for name in self.sample(list(HEADERS), self.randrange(6))]
        if self.random() < 0.9:
            headers = [pair for pair in headers if pair[0] not in ("Content-Length", "Transfer-Encoding")]
            headers.append(("Content-Length", str(len(body))))
        if self.random() < 0.9:
            headers = [("Host", "localhost"), *(pair for pair in headers if pair[0] != "Host")]
        if self.random() < 0.01:
            headers += [(f"X-{number}", "x" * self.randrange(300)) for number in range(self.randrange(200))]
        lines = [f"{self.choice(METHODS)} {self.target()} HTTP/1.1", *(f"{name}: {it}" for name, it in headers)]
        whole = "\r\n".join([*lines, "", ""]).encode("latin-1", "replace") + body
        return self.broken(whole) if self.random() < 0.1 else whole

    def target(self) -> str:
        path = re.sub(r"\{[^}]*\}", lambda _: self.choice(IN_A_PATH), self.choice(self.routes))
        change = self.random()
        if change < 0.05:
            path = self.choice(["/", "//", "/x", "/./", "/%2f"]) + path.lstrip("/")
        elif change < 0.1:
            path += self.choice(["/", "//", "/..", "%00", ";x", "/x"])
        if self.random() < 0.4:
            pairs = [f"{self.choice(QUERIES)}={self.choice(NASTY)}" for _ in range(self.randrange(1, 4))]
            path += "?" + "&".join(pairs)
        return path

    def body(self) -> bytes:
        kind = self.randrange(8)
        if kind < 3:
            return b""
        if kind == 3:
            return self.choice(self.payloads)
        if kind == 4:
            return self.broken(self.choice(self.payloads))
        if kind == 5:
            return b"[" * self.randrange(5000)
        if kind == 6:
            value = self.choice(NASTY).encode("latin-1")
            return b"--x\r\nContent-Disposition: form-data; name=%s; filename=x\r\n\r\n%s\r\n--x--" % (value, value)
        sent = {name: self.choice(NASTY) for name in self.sample(QUERIES, 3)}
        call = {"data": [self.choice(NASTY)], "fn_index": self.randrange(3), "session_hash": self.choice(NASTY)}
        return json.dumps({**call, **sent}).encode()

    def broken(self, whole: bytes) -> bytes:
        made = bytearray(whole)
        for _ in range(self.randrange(1, 5)):
            at, change = self.randrange(len(made) + 1), self.randrange(4)
            if change == 0:
                made[at : at + 1] = self.randbytes(1)
            elif change == 1:
                del made[at:]
            elif change == 2:
                made[at:at] = made[self.randrange(len(made) + 1) :][:100]
            else:
                made[at:at] = self.choice([b"\r\n", b"\0", b"\n", b": ", b" ", b"\xff"])
        return bytes(made)


class Run:
    def __init__(self, server: Process, arguments: argparse.Namespace) -> None:
        self.server = server
        self.most = arguments.requests
        self.until = time.monotonic() + arguments.seconds
        self.sent = 0
        self.statuses: Counter[str] = Counter()
        self.failures_of_gradio: Counter[str] = Counter()
        self.failed: list[str] = []

    async def worker(self, fuzz: Fuzz) -> None:
        while self.sent < self.most and time.monotonic() < self.until:
            requests = [fuzz.request() for _ in range(fuzz.randrange(1, 9))]
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port)
                try:
                    for request in requests:
                        self.sent += 1
                        writer.write(request)
                        received = await self.answer(reader)
                        self.look_at(request, received)
                        if not received or b"connection: close" in received.lower():
                            break
                finally:
                    writer.transport.abort()

    async def answer(self, reader: asyncio.StreamReader) -> bytes:
        """Read an answer, or what has come of it until it stalls."""
        received = b""
        with contextlib.suppress(OSError, asyncio.TimeoutError):
            while piece := await asyncio.wait_for(reader.read(65536), PATIENCE):
                received += piece
                head, end, body = received.partition(b"\r\n\r\n")
                length = re.search(rb"content-length: (\d+)", head, re.I)
                is_whole = len(body) >= int(length[1]) if length else body.endswith(b"0\r\n\r\n")
                if end and (is_whole or re.match(rb"HTTP/1.1 (204|304)", head)):
                    break
        return received

    def look_at(self, request: bytes, received: bytes) -> None:
        status = received[9:12].decode("latin-1") or "none"
        self.statuses[status] += 1
        path = request.partition(b" ")[2].lstrip(b"/")
        is_ours = path.startswith((b"webhooks", b"deliveries", b"health", b"arrivals"))
        if status == "500" and is_ours:
            self.failed.append(f"500 for {request[:300]!r}: {received[:300]!r}")
        elif status == "500":
            self.failures_of_gradio[re.split(rb"[?/ ]", path)[0].decode("latin-1")] += 1
        if b"Traceback" in received or b"x-delivery-id" in received.lower():
            self.failed.append(f"{request[:300]!r}: {received[:300]!r}")


async def fuzz(run: Run, routes: list[str], seed: int) -> None:
    makers = []
    for number in range(WORKERS):
        maker = Fuzz(seed * 1000 + number)
        maker.routes = routes + OURS * 3
        maker.payloads = [path.read_bytes() for path in sorted(FIXTURES.glob("*.json"))]
        makers.append(maker)
    await asyncio.gather(*map(run.worker, makers))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ui", choices=UIS, default="ours", help="whose Gradio page is served")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "script.py")
        script.write_text(SCRIPT.format(ui=UIS[arguments.ui]))
        server = Process(script, {"WEBHOOK_SECRET": SECRET, "WEBHOOKS_ADMIN_TOKEN": TOKEN})
        try:
            check(server.wait_until_ready(), arguments)
        finally:
            server.stop()


def check(server: Process, arguments: argparse.Namespace) -> None:
    routes = sorted({*json.loads(server.wait_for("ROUTES").partition(" ")[2])})
    httpx.get(server.url)  # so that what a first page needs is in memory
    run, before, began = Run(server, arguments), memory(server), time.monotonic()
    with Sender(server) as sender:
        asyncio.run(fuzz(run, routes, arguments.seed))
    took, grown = time.monotonic() - began, memory(server) - before
    console = "".join(line for line in server.unread().splitlines(True) if " INFO delivery " not in line)
    print(f"{run.sent} requests in {took:.0f} s ({run.sent / took * 60:.0f} a minute), seed {arguments.seed}")
    print(f"Answers: {dict(run.statuses.most_common())}; {grown:.0f} MiB more; {console.count(chr(10))} lines")
    print(f"Gradio's own 500: {dict(run.failures_of_gradio)}; the last line: {console.splitlines()[-1:]}")
    print(f"The sender's {len(sender.took)} deliveries took up to {max(sender.took) * 1000:.0f} ms each")
    faults = run.failed[:5]
    kept = min(len(sender.answers), 10_000)  # the oldest are pruned
    if set(sender.answers) != {200} or not kept <= counts(server)["succeeded"] <= len(sender.answers):
        faults.append(f"The sender was answered {Counter(sender.answers)}, and {counts(server)} is in the log.")
    if console.count("\n") > MAX_LINES * (1 + took / 60) or grown > MAX_MEMORY:
        faults.append(f"The console or the memory has grown:\n{console[-5000:]}")
    with httpx.Client(base_url=server.url, timeout=30) as visitor:
        visitor.get(f"/deliveries?token={TOKEN}")
        wrong = [path for path in ("/", "/deliveries", "/health") if visitor.get(path).status_code != 200]
    if wrong:
        faults.append(f"{wrong} do not work any more:\n{console[-5000:]}")
    if faults:
        sys.exit("\n".join(faults))


if __name__ == "__main__":
    main()
