"""What a page of the owner's list costs when the log is full: 50 deliveries out of 10,000, against 50 out of 100.

    python tests/benchmarks/pages.py

Takes half a minute, in one process, without a network. The two logs take turns, and the fastest of 15 rounds counts.
What a filter finds is either every second delivery, or the 50 oldest, for which it has to look at all. A text that is
nowhere is the worst that can be asked for: every error is read, and half of the 10,000 have failed.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "server")]

from support.dashboard import Client, PagesHarness
from support.payloads import load

from webhooks import Delivery
from webhooks.endpoints import Endpoint
from webhooks.payload import parse_payload

ROUNDS = 15
ERROR = "    | Traceback (most recent call last):\n" + '    |   File "/app/app.py", line 12, in train\n' * 20
NOWHERE = "text that is nowhere"
FILTERS: dict[str, dict[str, str]] = {
    "none": {},
    "outcome": {"outcome": "failed"},
    "endpoint": {"endpoint": "/webhooks/train"},
    "repository": {"repo": "dataset/me/data"},
    "event": {"event": "repo.content update"},
    "text of an error": {"q": "payment required"},
    "part of a repository": {"q": "me/da"},
    "endpoint and repository": {"endpoint": "/webhooks/train", "repo": "dataset/me/data"},
    "outcome and text": {"outcome": "failed", "q": "payment"},
    "all of them": {"outcome": "failed", "endpoint": "/webhooks/train",
                    "repo": "dataset/me/data", "event": "repo.content update", "q": "payment"},
    NOWHERE: {"q": "nowhere"},
}  # fmt: skip
PLACES: dict[str, Callable[[int, int], bool]] = {  # of those that the filters find, among all, oldest first
    "every second": lambda place, of: place % 2 == 0,
    "the oldest": lambda place, of: place < 50,
}


def made(count: int, is_found: Callable[[int, int], bool]) -> Client:
    """Fill a log, and return its owner."""
    pages = PagesHarness(Endpoint(lambda: None, "/train"))
    wanted, other = load("repo.content-update"), load("discussion-create")
    wanted["repo"] |= {"type": "dataset", "name": "me/data"}
    bodies = {True: json.dumps(wanted).encode(), False: json.dumps(other).encode()}
    now = time.time()

    def fill() -> None:
        for place in range(count):
            found, at = is_found(place, count), now - 80_000 * (1 - place / count)
            delivery = Delivery(
                "/webhooks/train" if found else "/webhooks/report",
                parse_payload(bodies[found]),
                id=f"{int(at * 1e9):016x}",
                received_at=datetime.fromtimestamp(at, timezone.utc),
                body=bodies[found],
            )
            pages.log.add(delivery, "running")
            if found:
                pages.log.fail_attempt(delivery.id, ERROR + "    | JobRefused: 402 Payment required")
                pages.log.finish(delivery.id, "failed", 500, b"")
            else:
                pages.log.finish(delivery.id, "succeeded", 200, b'{"pull_request": 4}')

    pages.write(fill)
    return pages.owner()


def compared() -> Iterator[tuple[str, str, float, float]]:
    """Yield, for each filter and each place, the seconds of a page of 50 out of 10,000, and out of 100."""
    for place, is_found in PLACES.items():
        logs = [made(count, is_found) for count in (10_000, 100)]
        times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in FILTERS}
        for _ in range(ROUNDS):  # of all filters, so that a busy moment of the machine spoils one time of each at most
            for name, query in FILTERS.items():
                for client, taken in zip(logs, times[name], strict=True):
                    began = time.perf_counter()
                    page = client.get(query=query)
                    taken.append(time.perf_counter() - began)
                    assert page.body.count(b'<tr id="d-') == (0 if name == NOWHERE else 50), query
        for name, (many, few) in times.items():
            yield name, place, min(many), min(few)


print("| filter | it finds | of 10,000 | of 100 | ratio |\n| --- | --- | --- | --- | --- |")
for name, place, many, few in compared():
    print(f"| {name} | {place} | {many * 1000:.1f} ms | {few * 1000:.1f} ms | {many / few:.2f} |", flush=True)
