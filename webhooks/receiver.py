"""The door: who may deliver, what is a delivery, and what the sender is told.

The decisions are functions over headers and bytes that raise `RefusedError`; `Receiver` does the talking.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import anyio
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from . import responses
from .deliveries.engine import Engine, NotTakenError
from .delivery import Delivery
from .endpoints import Endpoint, find
from .payload import WebhookPayload, parse_payload
from .redact import split_credentials
from .responses import RefusedError
from .settings import Settings

MAX_BODY = 1024 * 1024  # bytes; the Hub's payloads are a few kilobytes, the longest comment is 64 KiB
BODY_WITHIN = 10.0  # seconds, for all of a webhook's body
RETRY_AFTER = "30"  # seconds


class ClientDisconnect(Exception):
    """The sender hung up before its request was complete; nobody is there to be answered."""


def find_endpoint(endpoints: Mapping[str, Endpoint], path: str, method: str) -> Endpoint:
    endpoint = find(endpoints, path)
    if endpoint is None:
        raise RefusedError(404, "There is no such webhook endpoint.")
    if method != "POST":
        raise RefusedError(405, "A webhook endpoint takes POST only.", {"Allow": "POST"})
    return endpoint


def check_sender(settings: Settings, headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Let the request pass if it carries a secret of ours, or if none is needed.

    The Hub sends the secret as it is in `X-Webhook-Secret`; nothing is signed
    (https://huggingface.co/docs/hub/webhooks#webhook-secret).
    """
    if settings.closed:
        raise RefusedError(
            503,
            "This Space has no WEBHOOK_SECRET yet, so it takes no webhooks. Its owner can add the secret in "
            "the Space's settings, under 'Variables and secrets'.",
        )
    if not settings.secrets:
        if from_a_page(headers):
            raise RefusedError(
                403,
                "This request comes from a web page. Any page that is open in a browser could send one, so that is "
                "not allowed as long as no secret is needed: set WEBHOOK_SECRET.",
            )
        return
    sent = next((value for name, value in headers if name.lower() == b"x-webhook-secret"), None)
    if sent is None:
        raise RefusedError(401, "The X-Webhook-Secret header is missing.")
    # Every secret is compared, in constant time: the answer's delay tells nothing.
    if not sum([hmac.compare_digest(sent, secret) for secret in settings.secrets]):
        raise RefusedError(403, "The X-Webhook-Secret header is not the secret of this server.")


def from_a_page(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Tell whether a script or a form of a web page has sent a request; the Hub and curl say none of this.

    A page of any other site can send one to a server on its reader's own machine, which nobody else can reach
    (https://developer.mozilla.org/en-US/docs/Web/HTTP/Reference/Headers/Sec-Fetch-Site). `Origin` is not compared with
    our own address: the name of another site can lead to this machine.
    """
    sent = dict(headers)
    return b"origin" in sent or sent.get(b"sec-fetch-site", b"none") not in (b"none", b"same-origin")


def check_payload(body: bytes) -> WebhookPayload:
    """Read a payload. The refusal names what is wrong and where, and repeats nothing of the body."""
    try:
        return parse_payload(body)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False, include_input=False)
    if problems[0]["type"] == "json_invalid":
        raise RefusedError(400, "The body is not JSON.")
    fields = [
        {"field": ".".join(map(str, problem["loc"])) or "body", "reason": problem["msg"]} for problem in problems
    ]
    raise RefusedError(422, "The body is not a webhook payload of the Hub.", fields=fields)


class Aside:
    """An ASGI middleware: what is sent below a path goes to an application of its own, past what is for pages."""

    def __init__(self, app: ASGIApp, path: str, aside: ASGIApp) -> None:
        self._app = app
        self._path = path
        self._aside = aside

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_aside = scope["type"] == "http" and f"{path_of(scope)}/".startswith(self._path)
        await (self._aside if is_aside else self._app)(scope, receive, send)


def path_of(scope: Scope) -> str:
    """Return the path below the address at which the whole app is mounted."""
    path: str = scope["path"]
    root = root_of(scope)
    return path[len(root) :] if root and path.startswith(f"{root}/") else path


def root_of(scope: Scope) -> str:
    """Return where the whole app is mounted: a path, though a setting may say the whole address, or end with "/"."""
    return urlsplit(scope.get("root_path", "")).path.rstrip("/")


@dataclass(eq=False)
class Receiver:
    """The ASGI application behind `/webhooks/`.

    Attributes:
        endpoints: by path; read at each request, so one that is added later is reachable at once.
        engine: runs what is accepted.
        settings: who may deliver.
        reply_within: seconds that a sender waits for the handler's own answer; after that it gets a 202.
    """

    endpoints: Mapping[str, Endpoint]
    engine: Engine
    settings: Settings
    reply_within: float

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            response = await self._answer(scope, receive)
        except RefusedError as refused:
            response = refused.response
        except ClientDisconnect:
            return
        await response(scope, receive, send)

    def health(self, _: Request) -> Response:
        """Answer a monitor: 200 while deliveries are taken, 503 while they are not, with the counts by status."""
        taking, counts = self.engine.health()
        return responses.answer(200 if taking and not self.settings.closed else 503, counts)

    async def _answer(self, scope: Scope, receive: Receive) -> Response:
        path = path_of(scope).rstrip("/")
        endpoint = find_endpoint(self.endpoints, path, scope["method"])
        check_sender(self.settings, scope["headers"])
        body = await _read_body(receive)
        headers, withheld = split_credentials(scope["headers"], is_ours=bool(self.settings.secrets))
        payload = _payload_for(endpoint, body)
        # The log keeps the query, and so must not find our secret in it.
        query = self.settings.redact(scope["query_string"].decode("latin-1")).encode("latin-1")
        delivery = Delivery(path, payload, query=query, headers=headers, withheld=withheld, body=body)
        # On a Space only the proxy reaches the server, over plain HTTP; uvicorn believes none on another machine.
        is_https = self.settings.on_space and (b"x-forwarded-proto", b"https") in scope["headers"]
        delivery.received_as({**scope, "scheme": "https"} if is_https else scope)
        try:
            response = await self.engine.take(endpoint, delivery, self.reply_within)
        except NotTakenError as reason:
            error = f"{reason} This delivery was not taken: send it again later."
            raise RefusedError(503, error, {"Retry-After": RETRY_AFTER}) from None
        response.raw_headers.append((b"x-delivery-id", delivery.id.encode()))
        return response


def _payload_for(endpoint: Endpoint, body: bytes) -> WebhookPayload | None:
    """Only where a payload is all that a handler takes must the body be one. Its delivery shows it wherever it is."""
    try:
        return check_payload(body)
    except RefusedError:
        if endpoint.invoker.takes_payload:
            raise
        return None


async def _read_body(receive: Receive) -> bytes:
    with anyio.move_on_after(BODY_WITHIN):  # `asyncio.wait_for` would begin a task for each
        return await _whole_body(receive)
    raise RefusedError(408, f"The body was not complete within {BODY_WITHIN:g} seconds.")


async def _whole_body(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message.get("body", b"")
        if len(body) > MAX_BODY:
            raise RefusedError(413, f"The body is over {MAX_BODY} bytes.")
        if not message.get("more_body", False):
            return bytes(body)
