"""Does what wrk does with `post.lua`, where there is no wrk: URL SECONDS CONNECTIONS."""

import asyncio
import json
import os
import re
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Poster(asyncio.Protocol):
    """One connection: posts, and posts again when the answer is there."""

    def __init__(self, request: bytes, times: list[float]) -> None:
        self.request, self.times = request, times
        self.not_200 = self.errors = 0
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport):
        self.transport = transport
        self.post()

    def post(self):
        self.answer = b""
        self.posted = time.perf_counter()
        self.transport.write(self.request)

    def data_received(self, data):
        self.answer += data
        head, end, body = self.answer.partition(b"\r\n\r\n")
        length = LENGTH.search(head)
        if end and length and len(body) >= int(length[1]):
            self.times.append(time.perf_counter() - self.posted)
            self.not_200 += head.split(b" ", 2)[1] != b"200"
            self.post()

    def connection_lost(self, error):
        self.errors += 1


async def main(url: str, seconds: float, connections: int) -> None:
    address = urlsplit(url)
    body = Path(os.environ["PAYLOAD"]).read_bytes()
    head = (
        f"POST {address.path} HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: application/json\r\n"
        f"X-Webhook-Secret: {os.environ['WEBHOOK_SECRET']}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    times: list[float] = []
    posters = [Poster(head.encode() + body, times) for _ in range(connections)]
    loop = asyncio.get_running_loop()
    started = time.perf_counter()
    for poster in posters:
        await loop.create_connection(lambda poster=poster: poster, address.hostname, address.port)
    await asyncio.sleep(seconds)
    seen = {
        "answers": len(times),
        "seconds": time.perf_counter() - started,
        "p99": sorted(times)[len(times) * 99 // 100] * 1e6 if times else 0,
        "not_200": sum(poster.not_200 for poster in posters),
        "errors": sum(poster.errors for poster in posters),
    }
    print(json.dumps(seen))


asyncio.run(main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3])))
