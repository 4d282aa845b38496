"""Receive the Hub's requests: who may send, what is a payload, what is the response.

The decisions are plain functions that raise `RefusedError`; `Receiver` does the input and output.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import anyio
from starlette.datastructures import URLPath
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, NoMatchFound
from starlette.types import Receive, Scope, Send

from .deliveries.engine import Engine
from .deliveries.processing import NotTakenError
from .delivery import Delivery
from .endpoints import PREFIX, Endpoint, find
from .redact import redact_query, withhold_headers
from .responses import RefusedError, json_response
from .settings import Settings

MAX_BODY_BYTES = 1024 * 1024  # the Hub's payloads are a few kilobytes, the longest comment is 64 KiB
BODY_TIMEOUT_SECONDS = 10.0
RETRY_AFTER_SECONDS = "30"


def find_endpoint(endpoints: Mapping[str, Endpoint], path: str, method: str) -> Endpoint:
    endpoint = find(endpoints, path)
    if endpoint is None:
        raise RefusedError(404, "There is no such webhook endpoint.")
    if method != "POST":
        raise RefusedError(405, "A webhook endpoint takes POST only.", {"Allow": "POST"})
    return endpoint


def check_sender(settings: Settings, headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Let a request pass that carries the secret, or that needs none.

    The Hub sends the secret as it is in `X-Webhook-Secret`, and signs nothing
    (https://huggingface.co/docs/hub/webhooks#webhook-secret).
    """
    if settings.is_closed:
        raise RefusedError(
            503,
            "This Space has no WEBHOOK_SECRET yet, so it takes no webhooks. Its owner can add the secret in "
            "the Space's settings, under 'Variables and secrets'.",
        )
    if not settings.secrets:
        if is_from_web_page(headers):
            raise RefusedError(
                403,
                "This request comes from a web page. Any open page could have sent it, so it is refused while no "
                "secret is needed. Set WEBHOOK_SECRET.",
            )
        return
    sent = next((value for name, value in headers if name.lower() == b"x-webhook-secret"), None)
    if sent is None:
        raise RefusedError(401, "The X-Webhook-Secret header is missing.")
    # Compare with every secret, each in constant time: the delay of the response says nothing.
    if not sum([hmac.compare_digest(sent, secret) for secret in settings.secrets]):
        raise RefusedError(403, "The X-Webhook-Secret header is not the secret of this server.")


def is_from_web_page(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Return whether a script or a form of a web page sent a request; the Hub and curl send none of these headers.

    A page of any site can send a request to a server on its reader's own machine
    (https://developer.mozilla.org/en-US/docs/Web/HTTP/Reference/Headers/Sec-Fetch-Site). `Origin` is not compared with
    the server's own host: the name of another site can lead to this machine.
    """
    sent = dict(headers)
    return b"origin" in sent or sent.get(b"sec-fetch-site", b"none") not in (b"none", b"same-origin")


def path_of(scope: Scope) -> str:
    """Return the path below the address at which the whole app is mounted."""
    path: str = scope["path"]
    root = root_of(scope)
    return path[len(root) :] if root and path.startswith(f"{root}/") else path


def root_of(scope: Scope) -> str:
    """Return the path at which the whole app is mounted; a setting of Gradio's may contain a whole address."""
    return urlsplit(scope.get("root_path", "")).path.rstrip("/")


@dataclass(eq=False)
class Receiver:
    """The ASGI application behind `/webhooks/`.

    Attributes:
        endpoints: by path; read at each request, so a handler that is added later is reachable at once.
        engine: runs what is accepted.
        settings: say who may send.
        reply_within: seconds that a sender waits for the handler's own response; afterwards it gets a 202.
    """

    endpoints: Mapping[str, Endpoint]
    engine: Engine
    settings: Settings
    reply_within: float

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            response = await self._respond(scope, receive)
        except RefusedError as refused:
            response = refused.response
        except ClientDisconnect:
            return
        await response(scope, receive, send)

    def health(self, _: Request) -> Response:
        """Respond to a monitor: 200 while deliveries are taken, else 503, with the counts by status."""
        is_taking, counts = self.engine.health()
        return json_response(200 if is_taking and not self.settings.is_closed else 503, counts)

    async def _respond(self, scope: Scope, receive: Receive) -> Response:
        path = path_of(scope).rstrip("/")
        endpoint = find_endpoint(self.endpoints, path, scope["method"])
        check_sender(self.settings, scope["headers"])
        body = await _read_body(receive)
        delivery = self._delivery(endpoint, path, scope, body)
        try:
            response = await self.engine.take(endpoint, delivery, self.reply_within)
        except NotTakenError as reason:
            error = f"{reason} This delivery was not taken: send it again later."
            raise RefusedError(503, error, {"Retry-After": RETRY_AFTER_SECONDS}) from None
        response.raw_headers.append((b"x-delivery-id", delivery.id.encode()))
        return response

    def _delivery(self, endpoint: Endpoint, path: str, scope: Scope, body: bytes) -> Delivery:
        redact, declared = self.settings.redact, endpoint.invoker().credential_names
        headers, withheld = withhold_headers(
            scope["headers"], declared, redact, is_verified=bool(self.settings.secrets)
        )
        delivery = Delivery(
            endpoint.redact_path(path, redact),
            endpoint.read_payload(body),
            query=redact_query(scope["query_string"], declared, redact) if scope["query_string"] else b"",
            headers=headers,
            withheld=withheld,
            body=body,
        )
        # A Space's proxy speaks plain HTTP to the server, and uvicorn believes only a proxy on its own machine.
        is_https = self.settings.is_on_space and (b"x-forwarded-proto", b"https") in scope["headers"]
        delivery.attach_request({**scope, "scheme": "https"} if is_https else scope)
        return delivery


class WebhookRoute(BaseRoute):
    """Route POST requests for a registered path to the receiver.

    Other requests below `/webhooks/` match in part only: the receiver responds 404 or 405, unless the program has a
    route of its own for them.
    """

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        path = path_of(scope).rstrip("/")
        if scope["type"] != "http" or not f"{path}/".startswith(PREFIX):
            return Match.NONE, {}
        is_known = scope["method"] == "POST" and find(self._receiver.endpoints, path) is not None
        return Match.FULL if is_known else Match.PARTIAL, {}

    def url_path_for(self, name: str, /, **path_params: Any) -> URLPath:
        raise NoMatchFound(name, path_params)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._receiver(scope, receive, send)


async def _read_body(receive: Receive) -> bytes:
    """Return the whole body.

    Raises:
        RefusedError: it is too large, or takes too long.
        ClientDisconnect: the sender left before it was complete.
    """
    body = bytearray()
    with anyio.move_on_after(BODY_TIMEOUT_SECONDS):
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            body += message.get("body", b"")
            if len(body) > MAX_BODY_BYTES:
                raise RefusedError(413, f"The body is over {MAX_BODY_BYTES} bytes.")
            if not message.get("more_body", False):
                return bytes(body)
    raise RefusedError(408, f"The body was not complete within {BODY_TIMEOUT_SECONDS:g} seconds.")
