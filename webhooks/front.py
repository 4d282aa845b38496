"""What stands in front of all that is served beside the webhooks: Gradio, the owner's pages, `/health`."""

from __future__ import annotations

import asyncio
import contextlib
import math
import sysconfig
from collections.abc import Iterator, Mapping
from traceback import walk_tb
from urllib.parse import parse_qs

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from . import answers, receiver
from .limits import MAX_BODY, MAX_BODY_OF_OWN_UI, MAX_HEADERS, WAIT, Tally, max_connections
from .private_files import PrivateFiles
from .receiver import Refused, from_a_page, path_of

API = "/gradio_api/"
# Of Gradio's own routes, those that a page without one function to call and without a file to take has a use for.
USED = ("startup-events", "theme.css", "login_check")
NO_OTHER_ORIGIN = ("/health", "/arrivals")

# Files that a request passes through on its way to a handler, or to an error.
_PASSED = ("<frozen ", *{sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")})
_PASSED_HERE = (__file__, receiver.__file__)


def check_request(scope: Scope, ui_is_ours: bool, private: PrivateFiles) -> None:
    """Let a request pass that something here may answer."""
    path, headers = "/" + path_of(scope).lstrip("/"), scope["headers"]
    if len(headers) > MAX_HEADERS:
        raise Refused(431, f"There are more than {MAX_HEADERS} headers.")
    names = {name for name, _ in headers}
    if b"origin" in names and b"host" not in names:  # Gradio compares the two
        raise Refused(400, "The Host header is missing.")
    if path in NO_OTHER_ORIGIN and from_a_page(headers):
        raise Refused(403, "This request comes from a page of another origin.")
    if private.asked_for(path):
        raise Refused(403, "This file is private.")
    if not ui_is_ours:
        return
    if path.startswith(API):
        name = path.removeprefix(API)
        # Files are there for `launch(allowed_paths=...)`; Gradio would fetch those of other servers, too.
        is_there = name.rstrip("/") in USED or (name.startswith("file=") and not name.startswith("file=http"))
    else:  # Gradio fails where there is no such page, and has one only
        is_there = path != "/" or not parse_qs(scope["query_string"], keep_blank_values=True).get(b"page")
    if not is_there:
        raise Refused(404, "There is nothing at this address.")


def body_limit(scope: Scope, bodies: Mapping[str, int], ui_is_ours: bool) -> float:
    """Return how many bytes a body may have, if it has not announced more than that."""
    headers, path = Headers(scope=scope), f"{path_of(scope)}/"
    limit: float = MAX_BODY if ui_is_ours else MAX_BODY_OF_OWN_UI
    if not ui_is_ours and headers.get("content-type", "").lower().startswith("multipart/form-data"):
        limit = math.inf  # files are written to the disk as they come, and Gradio stops at a limit of its own
    limit = next((most for below, most in bodies.items() if path.startswith(f"{below}/")), limit)
    if int(headers.get("content-length", "0")) > limit:
        raise _too_large(limit)
    return limit


def _too_large(limit: float) -> Refused:
    return Refused(413, f"The body is over {limit} bytes.")


class Front:
    """An ASGI middleware that refuses what is too much, and says in one line what Gradio fails at.

    Args:
        tally: counts what is refused.
        bodies: by path, how many bytes a body may have there and below.
        ui_is_ours: Gradio shows our landing page, which needs little of what Gradio can do.
        private: files that Gradio gives to nobody.
    """

    def __init__(
        self, app: ASGIApp, tally: Tally, bodies: Mapping[str, int], ui_is_ours: bool, private: PrivateFiles
    ) -> None:
        self._app = app
        self._tally = tally
        self._bodies = bodies
        self._ui_is_ours = ui_is_ours
        self._private = private
        self._room = max_connections() // 2  # so that whatever is asked for here, webhooks find a connection
        self._at_once = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        self._at_once += 1
        exchange = _Exchange(receive, send)
        try:
            if self._at_once > self._room and path_of(scope) != "/health":  # which takes no time
                raise Refused(503, "Too many requests are being answered. Send yours again.", {"Retry-After": "10"})
            check_request(scope, self._ui_is_ours, self._private)
            exchange.limit = body_limit(scope, self._bodies, self._ui_is_ours)
            await self._app(scope, exchange.receive, exchange.send)
        except Refused as refused:
            exchange.refused = refused
        except Exception as error:
            if exchange.refused is None:
                if not all(_is_passed(file) for file in _files(error)):
                    raise  # it is in somebody's own code, or in ours, and uvicorn shows where
                self._tally.add(f"Gradio fails at a request: {type(error).__name__}")
                await exchange.end(scope)
        finally:
            self._at_once -= 1
        if exchange.refused:
            self._tally.add(str(exchange.refused))
            if not exchange.started:
                if any(name in (b"content-length", b"transfer-encoding") for name, _ in scope["headers"]):
                    exchange.refused.answer.headers["connection"] = "close"  # or a body would be read to its end
                await exchange.refused.answer(scope, receive, send)


class _Exchange:
    """A request whose body is counted while it comes, and how much of it has been answered."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._size = 0
        self._more_body = True
        self._ended = False
        self.limit = math.inf
        self.started = False
        self.refused: Refused | None = None

    async def receive(self) -> Message:
        if self.refused is None:
            try:
                message = await asyncio.wait_for(self._receive(), WAIT if self._more_body else None)
            except asyncio.TimeoutError:
                self.refused = Refused(408, f"Nothing more of the body has come for {WAIT:g} seconds.")
            else:
                self._more_body = message.get("more_body", False)
                self._size += len(message.get("body", b""))
                if self._size <= self.limit:
                    return message
                self.refused = _too_large(self.limit)
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if self.refused and not self.started:
            return  # what an application says of half a body
        self.started = True
        self._ended = message["type"] == "http.response.body" and not message.get("more_body", False)
        await self._send(message)

    async def end(self, scope: Scope) -> None:
        """End an answer that failed."""
        if not self.started:
            await answers.answer(500, {"error": "This has failed."})(scope, self._receive, self._send)
        elif not self._ended:
            with contextlib.suppress(Exception):  # of uvicorn: it is shorter than was announced
                await self._send({"type": "http.response.body", "body": b""})


def _is_passed(file: str) -> bool:
    return file.startswith(_PASSED) or file in _PASSED_HERE


def _files(error: BaseException) -> Iterator[str]:
    """List the files of a traceback."""
    for frame, _ in walk_tb(error.__traceback__):
        yield frame.f_code.co_filename
    for inner in getattr(error, "exceptions", ()):  # of a group
        yield from _files(inner)
