"""A desk in process, and deliveries to put into its log."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

import pytest
from support.dashboard import Client, Office
from support.payloads import load

from webhooks import Delivery
from webhooks.endpoints import Endpoint
from webhooks.payload import parse_payload


@pytest.fixture
def office() -> Iterator[Office]:
    office = Office(Endpoint(lambda: "done", "/train", max_attempts=5), Endpoint(lambda: None, "/report"))
    yield office
    office.close()


@pytest.fixture
def owner(office: Office) -> Client:
    return office.owner()


def arrived(
    endpoint: str = "/webhooks/train",
    repo: str = "dataset/me/data",
    fixture: str = "repo.content-update",
    ago: float | None = None,
    body: bytes | None = None,
    **fields: Any,
) -> Delivery:
    """A delivery as it comes from the Hub, so many seconds ago."""
    payload = load(fixture)
    payload["repo"]["type"], _, payload["repo"]["name"] = repo.partition("/")
    written = body if body is not None else json.dumps(payload).encode()
    if ago is not None:
        at = time.time() - ago
        fields |= {"id": f"{int(at * 1e9):016x}", "received_at": datetime.fromtimestamp(at, timezone.utc)}
    return Delivery(endpoint, parse_payload(written) if body is None else None, body=written, **fields)
