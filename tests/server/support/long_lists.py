"""Short and long delivery logs of which every filter finds a page of 50, to compare how long the list takes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone

from support.desk import Client, Office
from support.payloads import load
from webhooks import Delivery
from webhooks.endpoints import Endpoint
from webhooks.payload import parse_payload

ERROR = "    | Traceback (most recent call last):\n" + '    |   File "/app/app.py", line 12, in train\n' * 20
FILTERS: dict[str, dict[str, str]] = {
    "outcome": {"outcome": "failed"},
    "status": {"status": "failed"},
    "endpoint": {"endpoint": "/webhooks/train"},
    "repository": {"repo": "dataset/me/data"},
    "event": {"event": "repo.content update"},
    "text of an error": {"q": "payment required"},
    "part of a repository": {"q": "me/da"},
    "endpoint and repository": {"endpoint": "/webhooks/train", "repo": "dataset/me/data"},
    "outcome and text": {"outcome": "failed", "q": "payment"},
    "all of them": {"outcome": "failed", "status": "failed", "endpoint": "/webhooks/train",
                    "repo": "dataset/me/data", "event": "repo.content update", "q": "payment"},
}  # fmt: skip
PLACES: dict[str, Callable[[int, int], bool]] = {  # of those that the filters find, among all, oldest first
    "every second": lambda place, of: place % 2 == 0,
    "the oldest": lambda place, of: place < 50,
}


def made(count: int, is_found: Callable[[int, int], bool]) -> Client:
    """Fill a log, and return its owner."""
    office = Office(Endpoint(lambda: None, "/train"))
    wanted, other = load("repo.content-update"), load("discussion-create")
    wanted["repo"] |= {"type": "dataset", "name": "me/data"}
    bodies = {True: json.dumps(wanted).encode(), False: json.dumps(other).encode()}
    now = time.time()
    with office.log.transaction():
        for place in range(count):
            found, at = is_found(place, count), now - 80_000 * (1 - place / count)
            delivery = Delivery(
                "/webhooks/train" if found else "/webhooks/report",
                parse_payload(bodies[found]),
                id=f"{int(at * 1e9):016x}",
                received_at=datetime.fromtimestamp(at, timezone.utc),
                body=bodies[found],
            )
            office.log.add(delivery, "running")
            if found:
                office.log.fail_attempt(delivery.id, ERROR + "    | JobRefused: 402 Payment required")
                office.log.finish(delivery.id, "failed", 500, b"")
            else:
                office.log.finish(delivery.id, "succeeded", 200, b'{"pull_request": 4}')
    return office.owner()


def compared() -> Iterator[tuple[str, str, float, float]]:
    """Yield, for each filter and each place, the seconds of a page of 50 out of 10,000, and out of 100."""
    for place, is_found in PLACES.items():
        many, few = (made(count, is_found) for count in (10_000, 100))
        for name, query in ({"none": {}} | FILTERS).items():
            yield name, place, *_fastest(query, 50, many, few)
        yield "text that is nowhere", place, *_fastest({"q": "nowhere"}, 0, many, few)


def _fastest(query: dict[str, str], rows: int, *clients: Client) -> tuple[float, ...]:
    times: list[list[float]] = [[] for _ in clients]
    for _ in range(15):
        for client, taken in zip(clients, times, strict=True):
            began = time.perf_counter()
            page = client.get(query=query)
            taken.append(time.perf_counter() - began)
            assert page.body.count(b'<tr id="d-') == rows, query
    return tuple(map(min, times))
