"""A delivery log as a busy server has it after a month; the benchmarks of what a long log costs share it.

.venv/bin/python tests/benchmarks/filled.py FOLDER DELIVERIES
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from webhooks import Delivery, WebhookPayload
from webhooks.delivery import Arrival
from webhooks.log import DeliveryLog

FIXTURE = Path(__file__).parents[1] / "server" / "fixtures" / "repo.content-update.json"
PAYLOAD = WebhookPayload.model_validate(json.loads(FIXTURE.read_text(encoding="utf-8")))
BODY = PAYLOAD.model_dump_json(by_alias=True, exclude_unset=True).encode()
HEADERS = ((b"content-type", b"application/json"), (b"user-agent", b"hub"))
REPOS = [f"me/data-{number}" for number in range(20)]
TRAIN, EVALUATE = "/webhooks/train", "/webhooks/evaluate"
BATCH = 10_000  # deliveries in one commit


def fill(folder: Path, deliveries: int) -> DeliveryLog:
    """Fill a log with what has come and ended in 30 days: each endpoint has repositories of its own, little fails."""
    log = DeliveryLog(folder)
    payloads = [PAYLOAD.model_copy(update={"repo": PAYLOAD.repo.model_copy(update={"name": name})}) for name in REPOS]
    numbered = zip(range(deliveries), itertools.cycle(payloads), strict=False)
    now, apart = datetime.now(timezone.utc), timedelta(days=30) / max(deliveries, 1)
    while batch := list(itertools.islice(numbered, BATCH)):
        with log.transaction():
            for number, payload in batch:
                _add(log, number, payload, now - apart * (deliveries - 1 - number))
    return log


def _add(log: DeliveryLog, number: int, payload: WebhookPayload, received_at: datetime) -> None:
    endpoint = TRAIN if payload.repo.name < "me/data-15" else EVALUATE
    delivery = Delivery(endpoint, payload, received_at=received_at)
    log.add(delivery, Arrival(endpoint, b"", HEADERS, BODY), "running")
    if number % 97 == 0:
        log.finish(delivery.id, "failed", 500, b'{"error":"RuntimeError: no GPU is free"}')
    else:
        log.finish(delivery.id, "superseded" if number % 11 == 0 else "succeeded", 200, b'{"ok":true}')


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("deliveries", type=int)
    options = arguments.parse_args()
    fill(options.folder, options.deliveries).close()


if __name__ == "__main__":
    main()
