"""Build every response of the receiver."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import RequestValidationError, ValidationException
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope

from .delivery import Delivery
from .redact import Redactor

OnResponse = Callable[[Response], object]


class RefusedError(ValueError):
    """A request is refused; `response` says why, and so does the text."""

    def __init__(self, status: int, error: str, headers: Mapping[str, str] | None = None, **details: Any) -> None:
        super().__init__(error)
        self.response = json_response(status, {"error": error, **details}, headers)


def json_response(status: int, content: Any, headers: Mapping[str, str] | None = None) -> Response:
    """Return `content` as FastAPI would write it, but for NaN, which becomes null.

    Raises:
        TypeError: `content` has no form in JSON.
    """
    if status in (204, 304):
        return Response(None, status, headers)
    try:
        body = to_json(jsonable_encoder(content), inf_nan_mode="null")
    except Exception as error:
        raise TypeError(f"The result of the handler has no form in JSON: {error}") from None
    return Response(body, status, headers, "application/json")


def accepted(delivery_id: str, status: str) -> Response:
    return json_response(202, {"delivery": delivery_id, "status": status})


def succeeded(delivery: Delivery, result: Any) -> Response:
    """Return what a handler returned. A Starlette response has to be complete.

    Raises:
        TypeError: `result` has no form in JSON.
    """
    is_json = isinstance(result, Response) and result.headers.get("content-type") == "application/json"
    is_nothing = result is None or (is_json and result.body == b"null")  # FastAPI's body for nothing
    if isinstance(result, Response) and not is_nothing:
        return result
    response = json_response(200, {"delivery": delivery.id, "status": "succeeded"} if is_nothing else result)
    if isinstance(result, Response):  # it may have headers and a status of its own
        result.body = response.body
        return checked(result)
    return response


def failed(delivery: Delivery, error: BaseException, reason: str | None, redact: Redactor) -> Response:
    """Return the response for a handler that raised.

    Only an `HTTPException` says more than that: its detail was written for the sender. The request is never repeated.

    Args:
        reason: from `missing_credentials_reason`.
    """
    response = not_run(
        delivery.id, f"The handler failed. The server's log has the traceback, under delivery {delivery.id}."
    )
    with suppress(Exception):  # a detail without a form in JSON, a header that is no text, an impossible status
        if isinstance(error, HTTPException):
            reason = reason or (error.detail if isinstance(error.detail, str) else "The handler refused the delivery.")
            content = {"detail": error.detail, "error": reason, "delivery": delivery.id}
            response = checked(json_response(error.status_code, content, error.headers))
        elif isinstance(error, RequestValidationError):
            reason = reason or "The request does not fit the parameters of the handler."
            response = json_response(422, {"detail": problems(error), "error": reason, "delivery": delivery.id})
    response.body = redact.redact_bytes(bytes(response.body))
    return checked(response)


def not_run(delivery_id: str, reason: str) -> Response:
    return json_response(500, {"error": reason, "delivery": delivery_id})


def problems(error: ValidationException) -> list[dict[str, Any]]:
    """List the fields and reasons without the input, which may be a credential."""
    return [{name: problem[name] for name in ("type", "loc", "msg") if name in problem} for problem in error.errors()]


def missing_credentials_reason(delivery: Delivery, error: BaseException) -> str | None:
    """Return why an attempt failed that ran without the sender's credentials. Another attempt would fail, too."""
    is_refusal = isinstance(error, HTTPException) and error.status_code in (401, 403)
    if not (is_refusal or isinstance(error, RequestValidationError)) or not delivery.missing_credentials:
        return None
    return (
        "This request was rebuilt from the log, which keeps no credentials. It lacks "
        f"{', '.join(delivery.missing_credentials)}, and the handler refuses it: have the sender send it again."
    )


async def settle(returned: Any, on_response: OnResponse) -> Any:
    """Await what a handler returned. A response is run here, where the handler ran, to collect its body."""
    if isinstance(returned, Awaitable):
        returned = await returned
    if isinstance(returned, Response):
        scope: Scope = {"type": "http", "method": "POST", "headers": [], "asgi": {"spec_version": "2.4"}}
        return await collect(returned, on_response, scope, _disconnected)
    return returned


async def _disconnected() -> Message:
    return {"type": "http.disconnect"}


async def collect(app: ASGIApp, on_response: OnResponse, scope: Scope, receive: Receive) -> Response:
    """Run an ASGI application, and return its response with the whole body.

    Args:
        on_response: called with the response as soon as that is complete, before background tasks run.
    """
    start: Message = {}
    body = bytearray()
    complete: list[Response] = []
    early: list[asyncio.Handle] = []

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            start.update(message)
            return
        body.extend(message.get("body", b""))
        if not message.get("more_body", False):
            response = Response(bytes(body), start["status"])
            response.raw_headers = list(start["headers"])
            complete.append(checked(response))
            early.append(asyncio.get_running_loop().call_soon(on_response, response))

    await app(scope, receive, send)
    for handle in early:  # nothing runs after the response, so the caller has it as soon
        handle.cancel()
    return complete[0]


def checked(response: Response) -> Response:
    """Make the headers of a response fit its body.

    Raises:
        ValueError: HTTP has no such status, or a header has a line break.
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
