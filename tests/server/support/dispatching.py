"""A dispatcher with its log and nothing else: no network, no Gradio."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from support.payloads import load
from webhooks import Delivery, WebhookPayload
from webhooks.delivery import Arrival
from webhooks.dispatcher import Dispatcher, NotTaken, Outcome
from webhooks.endpoints import Endpoint
from webhooks.history import Record
from webhooks.log import DeliveryLog

WAIT = 20  # seconds until a test that waits in vain fails
BODY = load("repo.content-update")


class Ticket:
    """Waits for what becomes of a delivery: `recorded` for its status in the log, `outcome` for its first attempt."""

    def __init__(self, delivery: Delivery) -> None:
        self.delivery = delivery
        self.recorded: Future[str] = Future()
        self.outcome: Future[Outcome] = Future()

    def tell(self, news: Outcome | NotTaken) -> None:
        if isinstance(news, NotTaken):
            self.recorded.set_exception(news)
        elif not self.recorded.done():
            self.recorded.set_result(news.status)
        else:
            self.outcome.set_result(news)  # raises if it is told twice


def take(dispatcher: Dispatcher, endpoint: Endpoint, delivery: Delivery, arrival: Arrival) -> Ticket:
    ticket = Ticket(delivery)
    dispatcher.take(endpoint, delivery, arrival, ticket.tell)
    return ticket


class Desk:
    """A dispatcher with its log, which can be stopped and started again like a process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.endpoints: dict[str, Endpoint] = {}
        self.dispatcher: Dispatcher | None = None

    def add(self, handler: Callable[..., Any], **options: Any) -> Endpoint:
        endpoint = Endpoint(handler, **options)
        self.endpoints[endpoint.path] = endpoint
        return endpoint

    def start(self, max_pending: int = 1000) -> Desk:
        self.log = DeliveryLog(self.folder)
        self.dispatcher = Dispatcher(
            self.endpoints, self.log, max_pending, hide=lambda text: text.replace("s3cret", "***")
        )
        self.dispatcher.start()
        self.dispatcher.recover()
        return self

    def stop(self, grace: float = WAIT) -> bool:
        return self.dispatcher.stop(grace)

    def deliver(self, endpoint: Endpoint, body: Any = BODY, headers: Any = ()) -> Ticket:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        payload = None if isinstance(body, bytes) else WebhookPayload.model_validate(body)
        arrival = Arrival(endpoint.path, b"", tuple(headers), raw)
        return take(self.dispatcher, endpoint, Delivery(endpoint.path, payload), arrival)

    def records(self) -> list[Record]:
        """Stop, and read the whole log."""
        self.stop()
        log = DeliveryLog(self.folder)
        ids = [row[0] for row in log._database.execute("SELECT id FROM deliveries ORDER BY number")]
        records = [log.find(id) for id in ids]
        log.close()
        return records
