"""What the sender gets back: every answer of this server is built here, and each one that is ours is JSON."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from fastapi.exceptions import RequestValidationError, ValidationException
from pydantic_core import PydanticSerializationError, to_json
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope

from .delivery import Delivery
from .redact import Redactor

Tell = Callable[[Response], object]

_NO_REQUEST: Scope = {"type": "http", "method": "POST", "headers": [], "asgi": {"spec_version": "2.4"}}


class RefusedError(Exception):
    """The request is answered with this status and error, and goes no further."""

    def __init__(self, status: int, error: str, headers: Mapping[str, str] | None = None, **more: Any) -> None:
        super().__init__(error)
        self.response = answer(status, {"error": error, **more}, headers)


def no_one(_: Response) -> None:
    """Nobody waits for an answer."""


def answer(status: int, content: Any, headers: Mapping[str, str] | None = None) -> Response:
    """Build a JSON answer. Whatever pydantic can serialize may be in it, and NaN becomes null.

    Raises:
        pydantic_core.PydanticSerializationError: `content` has no form in JSON.
    """
    body = b"" if status in (204, 304) else to_json(content, inf_nan_mode="null")
    return Response(body, status, headers, "application/json")


def accepted(id: str, status: str) -> Response:
    return answer(202, {"delivery": id, "status": status})


def succeeded(delivery: Delivery, result: Any) -> Response:
    """Answer with what the handler returned; a Starlette response has to be `collected` before.

    Raises:
        TypeError: it has no form in JSON.
    """
    if isinstance(result, Response) and result.body != b"null":  # as FastAPI writes it where nothing was returned
        return result
    try:
        nothing = result is None or isinstance(result, Response)
        whole = answer(200, {"delivery": delivery.id, "status": "succeeded"} if nothing else result)
    except PydanticSerializationError as error:
        raise TypeError(f"What the handler returned has no form in JSON: {error}") from None
    if isinstance(result, Response):
        result.body = whole.body
        return _sendable(result)
    return whole


def failed(delivery: Delivery, error: BaseException, redact: Redactor) -> Response:
    """Answer for a handler that raised. Only what was written to be sent says why, and nothing repeats the request."""
    reason = lacks_credentials(delivery, error)
    whole = abandoned(
        delivery.id, f"The handler failed. The server's log has the traceback, under delivery {delivery.id}."
    )
    with contextlib.suppress(BaseException):  # a detail without a form in JSON, a header that is no text, no status
        if isinstance(error, HTTPException):
            reason = reason or (error.detail if isinstance(error.detail, str) else "The handler refuses the delivery.")
            body = {"detail": error.detail, "error": reason, "delivery": delivery.id}
            whole = _sendable(answer(error.status_code, body, error.headers))
        elif isinstance(error, RequestValidationError):
            reason = reason or "The request does not fit the parameters of the handler."
            whole = answer(422, {"detail": problems(error), "error": reason, "delivery": delivery.id})
    whole.body = redact(bytes(whole.body).decode("latin-1")).encode("latin-1")  # the text may have one by accident
    return _sendable(whole)


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


async def settled(returned: Any, tell: Tell) -> Any:
    """Wait for what a handler has returned, and run it where the handler ran if it is a response."""
    if inspect.isawaitable(returned):
        returned = await returned
    if isinstance(returned, Response):
        return await collected(returned, tell, dict(_NO_REQUEST), _hung_up)
    return returned


async def _hung_up() -> Message:
    return {"type": "http.disconnect"}


async def collected(app: ASGIApp, tell: Tell, scope: Scope, receive: Receive) -> Response:
    """Run a response or an application, and keep the bytes that it sends, so that none of it runs on the loop that
    serves. `tell` gets the answer as soon as that is complete; background tasks run after that.
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
            complete.append(_sendable(whole))
            tell(whole)

    await app(scope, receive, send)
    return complete[0]


def _sendable(response: Response) -> Response:
    """Make the headers fit the body.

    Raises:
        ValueError: the status or a header is none that HTTP knows.
    """
    if not (isinstance(response.status_code, int) and 200 <= response.status_code <= 599):
        raise ValueError(f"{response.status_code!r} is not a status of HTTP.")
    if any(b"\r" in value or b"\n" in value for _, value in response.raw_headers):
        raise ValueError("A header has a line break.")
    framing = (b"content-length", b"transfer-encoding", b"connection")
    response.raw_headers = [pair for pair in response.raw_headers if pair[0].lower() not in framing]
    if response.status_code in (204, 304):
        response.body = b""
    else:
        response.headers["content-length"] = str(len(response.body))
    return response
