"""Test your own handlers: with events of every kind, and with a server that needs no port.

Nothing here reaches the Hub, whatever token the environment has. Jobs are dry runs, and any other call of
`huggingface_hub` in a handler raises `OfflineModeIsEnabled`, unless the test replaces it.

Example:
    ```python
    import app
    from webhooks.testing import call, event, serving

    def test_a_commit_starts_a_training():
        job = call(app.trigger_training, event("commit", "dataset", app.settings.training_dataset))
        assert job.command == "trl"

    def test_a_comment_is_answered_with_the_reason_why_it_is_skipped():
        with serving(app.server) as client:
            sent = client.deliver("trigger_training", event("comment"))
        assert "skipped" in sent.answer.json()
    ```
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import json
import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import constants
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.testclient import TestClient

from .deliveries.log import Record, find, reading
from .delivery import FINISHED, Delivery
from .endpoints import Endpoint, named
from .invoke import Handler, is_async
from .payload import WebhookPayload, to_body
from .receiver import Receiver, WebhookRoute
from .samples import sample
from .server import WebhooksServer, shared_server

if TYPE_CHECKING:
    from httpx2 import Response

__all__ = ["Client", "Outcome", "Sent", "call", "event", "event_json", "serving"]

Body = WebhookPayload | Mapping[str, Any] | bytes

REPO_ID = "username/my-repo"
WITHIN_SECONDS = 10.0  # to wait for an outcome


def event_json(
    kind: str = "commit",
    repo_type: str = "dataset",
    repo_id: str = REPO_ID,
    revision: str | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """Return an event as the JSON that the Hub sends (https://huggingface.co/docs/hub/webhooks#webhook-payloads).

    Args:
        kind: what happened: `commit` (on `main`), `pull_request_commit`, `tag`, `branch_deleted`, `discussion`,
            `discussion_closed`, `discussion_deleted`, `pull_request`, `pull_request_merged`, `comment`,
            `comment_hidden`, `repo_created`, `repo_moved`, `repo_deleted` or `made_private`.
        repo_type: `dataset`, `model`, `space` or `bucket`.
        repo_id: `username/repository`.
        revision: the commit, 40 hexadecimal digits; by default a commit that does not exist.
        changes: further fields of the payload. Objects are changed in part:
            `comment={"content": "Hi"}` leaves the other fields of the comment as they are.

    Raises:
        ValueError: the kind, type, name or revision is wrong; the text says what is possible.
    """
    return _changed(sample(kind, repo_type, repo_id, revision or ""), changes)


def event(
    kind: str = "commit",
    repo_type: str = "dataset",
    repo_id: str = REPO_ID,
    revision: str | None = None,
    **changes: Any,
) -> WebhookPayload:
    """Return an event as the payload that a handler gets. `event_json` explains the arguments."""
    return WebhookPayload.model_validate(event_json(kind, repo_type, repo_id, revision, **changes))


def _changed(value: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    changed = dict(value)
    for name, change in changes.items():
        both = isinstance(change, Mapping) and isinstance(value.get(name), dict)
        changed[name] = _changed(value[name], change) if both else change
    return changed


def call(handler: Handler, payload: WebhookPayload | Mapping[str, Any] | None = None, *, attempt: int = 1) -> Any:
    """Call a handler as the server would, and return its result.

    Args:
        handler: the function, `def` or `async def`.
        payload: the event; by default a commit to a dataset.
        attempt: the value of `delivery.attempt`.

    Raises:
        SetupError: the handler has a parameter that nothing can fill.
        Exception: whatever the handler raises.
    """
    returned: list[Any] = []

    @functools.wraps(handler)
    def kept(*args: Any, **values: Any) -> Any:
        returned.append(handler(*args, **values))
        return returned[0]

    @functools.wraps(handler)
    async def kept_async(*args: Any, **values: Any) -> Any:
        returned.append(await handler(*args, **values))
        return returned[0]

    endpoint = Endpoint(kept_async if is_async(handler) else kept)
    body = to_body(event() if payload is None else payload)
    delivery = Delivery(
        endpoint.path,
        WebhookPayload.model_validate_json(body),
        attempt=attempt,
        headers=((b"content-type", b"application/json"),),
        body=body,
    )
    with _without_the_hub():
        answer = endpoint.invoker().call(delivery, lambda _: None)
        if inspect.isawaitable(answer):
            with ThreadPoolExecutor(1) as thread:  # the test may itself run on an event loop
                answer = thread.submit(lambda: asyncio.run(_awaited(answer))).result()
    return returned[0] if returned else answer


async def _awaited(answer: Awaitable[Any]) -> Any:
    return await answer


@dataclass(frozen=True)
class Outcome:
    """The end of a delivery.

    Attributes:
        status: `succeeded`, `failed` or `superseded`.
        attempts: how often the handler ran.
        errors: the traceback of each attempt that failed.
        result: the result of the handler, read from JSON, or the error.
    """

    status: str
    attempts: int
    errors: tuple[str, ...]
    result: Any


@dataclass(frozen=True)
class Sent:
    """A posted delivery. `answer` is the response to the Hub; `id` is `None` if the delivery was not taken."""

    answer: Response
    _client: Client

    @property
    def id(self) -> str | None:
        return self.answer.headers.get("X-Delivery-Id")

    @property
    def outcome(self) -> Outcome:
        """The end of the delivery; `Client.outcome` lists the errors."""
        return self._client.outcome(self.id or "")


@contextlib.contextmanager
def serving(server: WebhooksServer | None = None) -> Iterator[Client]:
    """Serve in this process, without a port, and with a log that is gone at the end of the `with` block.

    Handlers that still run then have 10 seconds to end.

    Args:
        server: by default the one that `@webhook_endpoint` registers handlers on.

    Raises:
        SetupError: the server has no handler, or is running.
        TimeoutError: at the end, a handler does not end.
    """
    server = server or shared_server()
    with _without_the_hub(), tempfile.TemporaryDirectory(prefix="webhooks-") as folder:
        receiver = server.serve(Path(folder))

        @contextlib.asynccontextmanager
        async def lifespan(app: Starlette) -> AsyncIterator[None]:
            receiver.engine.start({"app": app, "state": {}})
            yield

        app = Starlette(routes=[WebhookRoute(receiver), Route("/health", receiver.health)], lifespan=lifespan)
        all_ended = False
        try:
            with Client(app, server, receiver) as client:
                try:
                    yield client
                finally:
                    all_ended = server.close(WITHIN_SECONDS)  # while its loop still runs
        finally:
            server.close(0)
        if not all_ended:
            raise TimeoutError(f"A handler still runs {WITHIN_SECONDS:g} seconds after the end of the test.")


class Client(TestClient):
    """What `serving` gives: Starlette's `TestClient` (`post`, `get`, …) for the webhooks and `/health`, and more."""

    __test__ = False  # pytest takes a class with this name for a test

    def __init__(self, app: Starlette, server: WebhooksServer, receiver: Receiver) -> None:
        super().__init__(app)
        self._server, self._receiver = server, receiver

    def deliver(self, endpoint: str, payload: Body | None = None, **options: Any) -> Sent:
        """Post an event as the Hub would.

        Args:
            endpoint: the handler's path, with or without `/webhooks/`.
            payload: from `event` or `event_json`, or any bytes; by default a commit to a dataset.
            options: of `TestClient.post`; `headers` replace the header with the secret.

        Raises:
            LookupError: there is no such handler; the text lists the handlers.
        """
        path, _ = named(self._receiver.endpoints, endpoint)
        secret = self._server.webhook_secret
        options.setdefault("headers", {"X-Webhook-Secret": secret} if secret else {})
        content = to_body(event() if payload is None else payload)
        return Sent(self.post(path, content=content, **options), self)

    def outcome(self, delivery_id: str, within: float = WITHIN_SECONDS) -> Outcome:
        """Skip the waits for retries and debouncing until a delivery is finished, and return its end.

        Args:
            within: seconds of real time for its handler.

        Raises:
            KeyError: the delivery was not taken.
            RuntimeError: the `with` block has ended.
            TimeoutError: the handler does not end.
        """
        engine = self._receiver.engine
        if not engine.log.path.exists():
            raise RuntimeError("The log is gone: ask for an outcome inside the `with` block.")
        with contextlib.suppress(FutureTimeoutError):
            engine.finish_now(delivery_id, within)
        with reading(engine.log.path) as database:
            record = find(database, delivery_id)
        if record.status not in FINISHED:
            raise TimeoutError(f"Delivery {delivery_id} is still {record.status} after {within:g} seconds.")
        errors = tuple(attempt.error for attempt in record.attempts if attempt.error is not None)
        return Outcome(record.status, len(record.attempts), errors, _result(record))


def _result(record: Record) -> Any:
    try:
        return json.loads(record.answer or b"null")
    except ValueError:
        return record.answer


@contextlib.contextmanager
def _without_the_hub() -> Iterator[None]:
    before, offline = os.environ.get("DRY_RUN"), constants.HF_HUB_OFFLINE
    os.environ["DRY_RUN"], constants.HF_HUB_OFFLINE = "true", True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = offline
        if before is None:
            del os.environ["DRY_RUN"]
        else:
            os.environ["DRY_RUN"] = before
