"""What the sender gets back: every answer of this server is built here, and each one that is ours is JSON."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from typing import Any

from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Message

from .delivery import Delivery

_WITHOUT_BODY = (204, 304)
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


def answer(status: int, content: Any, headers: Mapping[str, str] | None = None) -> Response:
    """Build a JSON answer. Whatever pydantic can serialize may be in it, and NaN becomes null.

    Raises:
        pydantic_core.PydanticSerializationError: `content` has no form in JSON.
    """
    body = b"" if status in _WITHOUT_BODY else to_json(content, inf_nan_mode="null")
    return Response(body, status, headers, "application/json")


def accepted(id: str, status: str) -> Response:
    return answer(202, {"delivery": id, "status": status})


def succeeded(delivery: Delivery, result: Any) -> Response:
    """Answer with what the handler returned; a Starlette response has to be `collected` before."""
    if isinstance(result, Response):
        return result
    return answer(200, {"delivery": delivery.id, "status": "succeeded"} if result is None else result)


def failed(delivery: Delivery, error: BaseException) -> Response:
    """Answer for a handler that raised. Only an `HTTPException` may say why: it was written to be sent."""
    with contextlib.suppress(BaseException):  # a detail without a form in JSON, a header that is no text, no status
        if isinstance(error, HTTPException):
            return sendable(answer(error.status_code, {"error": error.detail, "delivery": delivery.id}, error.headers))
    reason = f"The handler failed. The server's log has the traceback, under delivery {delivery.id}."
    return answer(500, {"error": reason, "delivery": delivery.id})


def abandoned(id: str, reason: str) -> Response:
    return answer(500, {"error": reason, "delivery": id})


def sendable(response: Response) -> Response:
    """Make the headers fit the body.

    Raises:
        ValueError: the status or a header is none that HTTP knows.
    """
    if not (isinstance(response.status_code, int) and 200 <= response.status_code <= 599):
        raise ValueError(f"{response.status_code!r} is not a status of HTTP.")
    if any(not _NAME.fullmatch(name) or _CONTROL.search(value) for name, value in response.raw_headers):
        raise ValueError("A header has characters that HTTP does not allow.")
    framing = (b"content-length", b"transfer-encoding", b"connection")
    response.raw_headers = [pair for pair in response.raw_headers if pair[0].lower() not in framing]
    if response.status_code in _WITHOUT_BODY:
        response.body = b""
    else:
        response.headers["content-length"] = str(len(response.body))
    return response


async def collected(response: Response) -> Response:
    """Run a response that a handler returned, stream and background tasks included, and keep its bytes.

    It runs where the handler ran, so that nothing of the user's runs on the loop that serves requests.
    """
    head: Message = {}
    body = bytearray()

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            head.update(message)
        body.extend(message.get("body", b""))

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    # An ASGI server of version 2.4 or later reports a lost client in send(), so receive() is not asked.
    scope = {"type": "http", "method": "POST", "headers": [], "asgi": {"spec_version": "2.4"}}
    await response(scope, receive, send)
    whole = Response(bytes(body), head["status"])
    whole.raw_headers = list(head["headers"])
    return sendable(whole)
