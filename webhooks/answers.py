"""What the sender gets back: every answer of this server is built here, and each one that is ours is JSON."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping
from typing import Any

from fastapi.exceptions import RequestValidationError, ValidationException
from pydantic_core import PydanticSerializationError, to_json
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope

from .delivery import Delivery
from .hiding import Hide

Tell = Callable[[Response], object]

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


def content(delivery: Delivery, result: Any) -> Any:
    """Say what is answered where the handler has returned this."""
    return {"delivery": delivery.id, "status": "succeeded"} if result is None else result


def succeeded(delivery: Delivery, result: Any) -> Response:
    """Answer with what the handler returned; a Starlette response has to be `collected` before.

    Raises:
        TypeError: it has no form in JSON.
    """
    try:
        return result if isinstance(result, Response) else answer(200, content(delivery, result))
    except PydanticSerializationError as error:
        raise TypeError(f"What the handler returned has no form in JSON: {error}") from None


def failed(delivery: Delivery, error: BaseException) -> Response:
    """Answer for a handler that raised. Only what was written to be sent says why, and nothing repeats the request."""
    reason = lacks_credentials(delivery, error)
    with contextlib.suppress(BaseException):  # a detail without a form in JSON, a header that is no text, no status
        if isinstance(error, HTTPException):
            reason = reason or (error.detail if isinstance(error.detail, str) else "The handler refuses the delivery.")
            body = {"detail": error.detail, "error": reason, "delivery": delivery.id}
            return sendable(answer(error.status_code, body, error.headers))
        if isinstance(error, RequestValidationError):
            reason = reason or "The request does not fit the parameters of the handler."
            return answer(422, {"detail": problems(error), "error": reason, "delivery": delivery.id})
    reason = f"The handler failed. The server's log has the traceback, under delivery {delivery.id}."
    return abandoned(delivery.id, reason)


def abandoned(id: str, reason: str) -> Response:
    return answer(500, {"error": reason, "delivery": id})


def problems(error: ValidationException) -> list[dict[str, Any]]:
    """List what is wrong and where, without the input: it may be a credential."""
    return [{name: problem[name] for name in ("type", "loc", "msg") if name in problem} for problem in error.errors()]


def lacks_credentials(delivery: Delivery, error: BaseException) -> str | None:
    """Say which credentials are missing, if an attempt failed that was without them. Another would fail, too."""
    is_refusal = isinstance(error, HTTPException) and error.status_code in (401, 403)
    if not (is_refusal or isinstance(error, RequestValidationError)) or not (missing := delivery.missing):
        return None
    return (
        "This request was built again from the log, which keeps no credentials. So it is without "
        f"{', '.join(missing)}, and the handler refuses it: have its sender send it again."
    )


def without_secrets(response: Response, hide: Hide) -> Response:
    """Hide secrets in the body of an answer for a failure: the text of an error may have one by accident."""
    body = bytes(response.body)
    hidden = hide(body.decode("latin-1")).encode("latin-1")
    if hidden != body:
        response.body = hidden
        sendable(response)
    return response


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


async def collected(app: ASGIApp, tell: Tell, scope: Scope, receive: Receive) -> Response:
    """Run a response or an application where the handler ran, and keep the bytes that it sends.

    So nothing of the user's runs on the loop that serves requests. `tell` gets the answer as soon as that is complete;
    background tasks run after that.
    """
    head: Message = {}
    body = bytearray()
    complete: list[Response] = []

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            head.update(message)
            return
        body.extend(message.get("body", b""))
        if not message.get("more_body", False):
            whole = Response(bytes(body), head["status"])
            whole.raw_headers = list(head["headers"])
            complete.append(sendable(whole))
            tell(whole)

    await app(scope, receive, send)
    return complete[0]
