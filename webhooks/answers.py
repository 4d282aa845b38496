"""What the sender gets back: every answer of this server is built here, and each one that is ours is JSON."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Message

from .delivery import Delivery

_WITHOUT_BODY = (204, 304)


def answer(status: int, content: Any, headers: Mapping[str, str] | None = None) -> Response:
    """Build a JSON answer. Whatever pydantic can serialize may be in it, and NaN becomes null.

    Raises:
        pydantic_core.PydanticSerializationError: `content` has no form in JSON.
    """
    body = b"" if status in _WITHOUT_BODY else to_json(content, inf_nan_mode="null")
    return Response(body, status, headers, "application/json")


def accepted(delivery: Delivery, status: str) -> Response:
    return answer(202, {"delivery": delivery.id, "status": status})


def succeeded(delivery: Delivery, result: Any) -> Response:
    """Answer with what the handler returned; a Starlette response has to be `collected` before."""
    if isinstance(result, Response):
        return result
    return answer(200, {"delivery": delivery.id, "status": "succeeded"} if result is None else result)


def failed(delivery: Delivery, error: BaseException) -> Response:
    """Answer for a handler that raised. Only an `HTTPException` may say why: it was written to be sent."""
    if isinstance(error, HTTPException) and 200 <= error.status_code <= 599:
        with contextlib.suppress(Exception):  # a detail without a form in JSON, a header that is no text
            return answer(error.status_code, {"error": error.detail, "delivery": delivery.id}, error.headers)
    reason = f"The handler failed. The server's log has the traceback, under delivery {delivery.id}."
    return answer(500, {"error": reason, "delivery": delivery.id})


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
    return whole
