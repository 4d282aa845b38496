"""The door: who may deliver, what is a delivery, and what the sender is told.

The decisions are functions over headers and bytes that raise `Refused`; `Receiver` does the talking.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from . import answers
from .deadlines import Deadlines
from .delivery import Arrival, Delivery
from .dispatcher import Dispatcher, NotTaken, Outcome
from .endpoints import Endpoint
from .mailbox import Mailbox
from .payload import WebhookPayload, parse_payload
from .settings import Settings

MAX_BODY = 1024 * 1024  # bytes; the Hub's payloads are a few kilobytes, the longest comment is 64 KiB
BODY_WITHIN = 10.0  # seconds
_LATE = "the body is late"
RETRY_AFTER = "30"  # seconds


class Refused(Exception):
    """The request is answered with this status and error, and goes no further."""

    def __init__(self, status: int, error: str, headers: Mapping[str, str] | None = None, **more: Any) -> None:
        super().__init__(error)
        self.answer = answers.answer(status, {"error": error, **more}, headers)


class ClientLeft(Exception):
    """The sender hung up before its request was complete; nobody is there to be answered."""


def find_endpoint(endpoints: Mapping[str, Endpoint], path: str, method: str) -> Endpoint:
    endpoint = endpoints.get(path.rstrip("/"))
    if endpoint is None:
        raise Refused(404, "There is no such webhook endpoint.")
    if method != "POST":
        raise Refused(405, "A webhook endpoint takes POST only.", {"Allow": "POST"})
    return endpoint


def check_sender(settings: Settings, headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Let the request pass if it carries a secret of ours, or if none is needed.

    The Hub sends the secret as it is in `X-Webhook-Secret`; nothing is signed
    (https://huggingface.co/docs/hub/webhooks#webhook-secret).
    """
    if settings.closed:
        raise Refused(
            503,
            "This Space has no WEBHOOK_SECRET yet, so it takes no webhooks. Its owner can add the secret in "
            "the Space's settings, under 'Variables and secrets'.",
        )
    if not settings.secrets:
        return
    sent = next((value for name, value in headers if name.lower() == b"x-webhook-secret"), None)
    if sent is None:
        raise Refused(401, "The X-Webhook-Secret header is missing.")
    # Every secret is compared, in constant time: the answer's delay tells nothing.
    if not sum([hmac.compare_digest(sent, secret) for secret in settings.secrets]):
        raise Refused(403, "The X-Webhook-Secret header is not the secret of this server.")


def check_payload(body: bytes) -> WebhookPayload:
    """Read a payload. The refusal names what is wrong and where, and repeats nothing of the body."""
    try:
        return parse_payload(body)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False, include_input=False)
    if problems[0]["type"] == "json_invalid":
        raise Refused(400, "The body is not JSON.")
    fields = [
        {"field": ".".join(map(str, problem["loc"])) or "body", "reason": problem["msg"]} for problem in problems
    ]
    raise Refused(422, "The body is not a webhook payload of the Hub.", fields=fields)


class Aside:
    """An ASGI middleware: what is sent below a path goes to an application of its own, past what is for pages."""

    def __init__(self, app: ASGIApp, path: str, aside: ASGIApp) -> None:
        self._app = app
        self._path = path
        self._aside = aside

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and f"{_path(scope)}/".startswith(self._path):
            await self._aside(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def _path(scope: Scope) -> str:
    """Return the path below the address at which the whole app is mounted."""
    return str(scope["path"]).removeprefix(scope.get("root_path", ""))


@dataclass(eq=False)
class Receiver:
    """The ASGI application behind `/webhooks/`.

    Attributes:
        endpoints: by path; read at each request, so one that is added later is reachable at once.
        dispatcher: runs what is accepted.
        settings: who may deliver.
        reply_within: seconds that a sender waits for the handler's own answer; after that it gets a 202.
    """

    endpoints: Mapping[str, Endpoint]
    dispatcher: Dispatcher
    settings: Settings
    reply_within: float
    _waiting: _Waiting | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            response = await self._answer(scope, receive)
        except Refused as refused:
            response = refused.answer
        except ClientLeft:
            return
        await response(scope, receive, send)

    async def health(self, _: Request) -> Response:
        """Answer a monitor: 200 while deliveries are taken, 503 while they are not, with the counts by status."""
        taking, counts = self.dispatcher.health()
        return answers.answer(200 if taking and not self.settings.closed else 503, counts)

    async def _answer(self, scope: Scope, receive: Receive) -> Response:
        endpoint = find_endpoint(self.endpoints, _path(scope), scope["method"])
        check_sender(self.settings, scope["headers"])
        waiting = self._waiting_on(asyncio.get_running_loop())
        body = await _read_body(receive, waiting.bodies)
        payload = _payload_for(endpoint, body)
        arrival = Arrival(endpoint.path, self._query(scope), Arrival.keep(scope["headers"]), body)
        delivery = Delivery(endpoint.path, payload)
        sender = _Sender(delivery, waiting)
        self.dispatcher.take(endpoint, delivery, arrival, sender.tell)
        response = await sender.answer
        response.headers["X-Delivery-Id"] = delivery.id
        return response

    def _query(self, scope: Scope) -> bytes:
        """The log keeps the query, and so must not find our secret in it."""
        return self.settings.hide(scope["query_string"].decode("latin-1")).encode("latin-1")

    def _waiting_on(self, loop: asyncio.AbstractEventLoop) -> _Waiting:
        if self._waiting is None or self._waiting.loop is not loop:
            self._waiting = _Waiting(loop, self.reply_within)
        return self._waiting


class _Waiting:
    """What senders wait for, on the loop that serves them: news from other threads, or that their time is up."""

    def __init__(self, loop: asyncio.AbstractEventLoop, reply_within: float) -> None:
        self.loop = loop
        self.mailbox = Mailbox(loop)
        self.bodies = Deadlines(loop, BODY_WITHIN)
        self.replies = Deadlines(loop, reply_within)


class _Sender:
    """A sender that waits, on the loop that serves, for what the dispatcher tells from other threads.

    Attributes:
        answer: what it gets. Raises `Refused` for a delivery that was not taken.
    """

    def __init__(self, delivery: Delivery, waiting: _Waiting) -> None:
        self.answer: asyncio.Future[Response] = waiting.loop.create_future()
        self._delivery = delivery
        self._waiting = waiting
        self._is_recorded = self._is_late = False
        waiting.replies.set(self, self._come_late)

    def tell(self, news: Outcome | NotTaken) -> None:
        if isinstance(news, Outcome) and news.answer is None:
            self._is_recorded = True
            if not self._is_late:
                return  # not worth a wake-up: how the handler ends comes soon, or the timer does
        with contextlib.suppress(RuntimeError):  # the server has been closed, and nobody waits any more
            self._waiting.mailbox.post(self._hear, news)

    def _hear(self, news: Outcome | NotTaken) -> None:
        if self.answer.done():
            return
        self._waiting.replies.call_off(self)
        if isinstance(news, NotTaken):
            error = f"{news} This delivery was not taken: send it again later."
            self.answer.set_exception(Refused(503, error, {"Retry-After": RETRY_AFTER}))
        else:
            self.answer.set_result(news.answer or answers.accepted(self._delivery, news.status))

    def _come_late(self) -> None:
        self._is_late = True
        if self._is_recorded:
            self._hear(Outcome("running"))


def _payload_for(endpoint: Endpoint, body: bytes) -> WebhookPayload | None:
    """A handler that takes no payload accepts any body; if the body is one, its delivery shows it all the same."""
    try:
        return check_payload(body)
    except Refused:
        if endpoint.takes_payload:
            raise
        return None


async def _read_body(receive: Receive, deadlines: Deadlines) -> bytes:
    task = asyncio.current_task()
    assert task
    deadlines.set(task, lambda: task.cancel(_LATE))
    try:
        return await _whole_body(receive)
    except asyncio.CancelledError as error:
        if error.args != (_LATE,):
            raise
        raise Refused(408, f"The body was not complete within {BODY_WITHIN:g} seconds.") from None
    finally:
        deadlines.call_off(task)


async def _whole_body(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        body += message.get("body", b"")
        if len(body) > MAX_BODY:
            raise Refused(413, f"The body is over {MAX_BODY} bytes.")
        if not message.get("more_body", False):
            return bytes(body)
