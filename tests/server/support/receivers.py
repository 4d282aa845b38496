"""A server without a network, which gets its requests in pieces."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from support.asgi import Exchange, exchange
from webhooks import WebhooksServer
from webhooks.testing import Client, serving

Receiver = Callable[..., Client]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """Serve handlers until the end of the test. Further arguments are settings, in small letters."""
    with contextlib.ExitStack() as stack:

        def receiver(*handlers: Any, reply_within: float = 5, max_pending: int = 1000, **settings: str) -> Client:
            with pytest.MonkeyPatch.context() as patched:
                for name, value in settings.items():
                    patched.setenv(name.upper(), value)
                server = WebhooksServer(reply_within=reply_within, max_pending=max_pending)
            for handler in handlers:
                server.add_webhook(handler)
            return stack.enter_context(serving(server))

        yield receiver


def post(client: Client, path: str, *chunks: bytes | None, **options: Any) -> Exchange:
    """Send a request in pieces, on the loop that serves the client."""
    assert client.portal is not None
    return client.portal.call(functools.partial(exchange, client.app, path, chunks or (b"",), **options))
