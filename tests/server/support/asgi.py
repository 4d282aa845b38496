"""Call an ASGI application without a network, and keep its response."""

from __future__ import annotations

import asyncio
import functools
import json
import threading
from collections.abc import Callable, Coroutine, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

from starlette.types import ASGIApp, Message

T = TypeVar("T")


@dataclass
class Exchange:
    """One request and its response. `received` counts the pieces of the body that the application read."""

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    received: int = 0

    def json(self) -> Any:
        return json.loads(self.body)


async def exchange(
    app: ASGIApp,
    path: str,
    chunks: Iterable[bytes | None] = (b"",),
    *,
    method: str = "POST",
    headers: Mapping[str, str | bytes] | None = None,
    query: bytes = b"",
) -> Exchange:
    """Send a request in pieces. `None` stands for a sender that hangs up, no piece for one that stalls."""
    result = Exchange()
    pieces = list(chunks)

    async def receive() -> Message:
        result.received += 1
        if not pieces:
            await asyncio.Event().wait()
        piece = pieces.pop(0)
        if piece is None:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            assert result.status is None, "two responses to one request"
            result.status = message["status"]
            result.headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in message["headers"]}
        else:
            result.body += message["body"]

    raw = [(k.lower().encode(), v if isinstance(v, bytes) else v.encode()) for k, v in (headers or {}).items()]
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "root_path": "",
        "query_string": query,
        "headers": raw,
    }
    await app(scope, receive, send)
    return result


def on_loop(function: Callable[..., Coroutine[Any, Any, T]], *args: Any, **options: Any) -> T:
    """Run a coroutine function on the loop of all tests in this process, and return its result."""
    return soon(function, *args, **options).result()


def soon(function: Callable[..., Coroutine[Any, Any, T]], *args: Any, **options: Any) -> Future[T]:
    """Start a coroutine function on that loop."""
    return asyncio.run_coroutine_threadsafe(function(*args, **options), _loop())


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    return loop
