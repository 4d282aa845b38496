"""For the tests of your own handlers: events as the Hub reports them, and a server without a port.

Nothing in here reaches the Hub, whatever token the environment has: Jobs are dry runs, and any other call of
`huggingface_hub` in a handler raises `OfflineModeIsEnabled`, unless the test puts something in its place.

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
import inspect
import json
import os
import tempfile
from collections.abc import Awaitable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import constants
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.testclient import TestClient
from starlette.types import ASGIApp

from . import own_loop
from .console import wait_until_written
from .decorator import shared_server
from .deliveries.history import Record, find, reading
from .deliveries.log import DATABASE
from .delivery import FINISHED, Delivery
from .endpoints import PREFIX, Endpoint
from .endpoints import find as find_endpoint
from .filling import Filled
from .payload import WebhookPayload
from .receiver import Aside
from .samples import sample
from .server import WebhooksServer
from .signatures import Handler

if TYPE_CHECKING:
    from httpx2 import Response

__all__ = ["Client", "Outcome", "Sent", "call", "event", "event_json", "serving"]

Body = WebhookPayload | Mapping[str, Any] | bytes

REPO_ID = "username/my-repo"
WITHIN = 10.0  # seconds that an outcome is waited for


def event_json(
    kind: str = "commit",
    repo_type: str = "dataset",
    repo_id: str = REPO_ID,
    revision: str | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """Write an event as the JSON that the Hub sends (https://huggingface.co/docs/hub/webhooks#webhook-payloads).

    Args:
        kind: what happened: `commit` (on `main`), `pull_request_commit`, `tag`, `branch_deleted`, `discussion`,
            `discussion_closed`, `discussion_deleted`, `pull_request`, `pull_request_merged`, `comment`,
            `comment_hidden`, `repo_created`, `repo_moved`, `repo_deleted` or `made_private`.
        repo_type: `dataset`, `model`, `space` or `bucket`.
        repo_id: `username/repository`.
        revision: the commit that the event is about, 40 hexadecimal digits; by default one that does not exist.
        changes: what else is to be different, by the names of the payload. Objects are changed in part:
            `comment={"content": "Hi"}` leaves the other fields of the comment as they are.

    Raises:
        ValueError: there is no such kind or type, and the text lists those there are; or a name or revision is none.
    """
    return _changed(sample(kind, repo_type, repo_id, revision or ""), changes)


def event(
    kind: str = "commit",
    repo_type: str = "dataset",
    repo_id: str = REPO_ID,
    revision: str | None = None,
    **changes: Any,
) -> WebhookPayload:
    """Make the payload that a handler gets for an event. `event_json` explains the arguments and what is raised."""
    return WebhookPayload.model_validate(event_json(kind, repo_type, repo_id, revision, **changes))


def _changed(value: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    changed = dict(value)
    for name, change in changes.items():
        both = isinstance(change, Mapping) and isinstance(value.get(name), dict)
        changed[name] = _changed(value[name], change) if both else change
    return changed


def call(handler: Handler, payload: WebhookPayload | Mapping[str, Any] | None = None, *, attempt: int = 1) -> Any:
    """Call a handler with what it asks for, as the server would, and return what it returns.

    Args:
        handler: the function, `def` or `async def`.
        payload: the event; by default a commit to a dataset.
        attempt: what the handler reads in `delivery.attempt`.

    Raises:
        SetupError: the handler has a parameter that nothing can fill.
        Exception: whatever the handler raises.
    """
    endpoint = Endpoint(handler)
    way = endpoint.way
    body = _body(payload)
    delivery = Delivery(
        endpoint.path,
        WebhookPayload.model_validate_json(body),
        attempt=attempt,
        headers=((b"content-type", b"application/json"),),
        body=body,
    )
    with _without_the_hub():
        returned = way.returned(delivery) if isinstance(way, Filled) else way.call(delivery)
        if not inspect.isawaitable(returned):
            return returned
        with ThreadPoolExecutor(1) as thread:  # the test may itself run on an event loop
            return thread.submit(_run, returned).result()


def _run(returned: Awaitable[Any]) -> Any:
    async def awaited() -> Any:
        return await returned

    try:
        return own_loop.run(awaited())
    finally:
        own_loop.close_loop()


@dataclass(frozen=True)
class Outcome:
    """What became of a delivery.

    Attributes:
        status: `succeeded`, `failed` or `superseded`.
        attempts: how often the handler ran.
        errors: the traceback of each attempt that failed.
        result: what the sender would be answered by now: what the handler returned, from JSON, or the error.
    """

    status: str
    attempts: int
    errors: tuple[str, ...]
    result: Any


@dataclass(frozen=True)
class Sent:
    """A delivery that was posted. `answer` is what the Hub was told at once; `id` is `None` if it was not taken."""

    answer: Response
    _client: Client

    @property
    def id(self) -> str | None:
        return self.answer.headers.get("X-Delivery-Id")

    @property
    def outcome(self) -> Outcome:
        """What becomes of it in the end; `Client.outcome` says what is raised."""
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
        receiver = server._take_deliveries(Path(folder))
        pages = Starlette(routes=[Route("/health", receiver.health)], lifespan=receiver.lifespan())
        all_ended = False
        try:
            with Client(Aside(pages, PREFIX, receiver), server, Path(folder, DATABASE)) as client:
                try:
                    yield client
                finally:
                    all_ended = server.close(WITHIN)  # while its loop still runs
        finally:
            server.close(0)
        if not all_ended:
            raise TimeoutError(f"A handler still runs {WITHIN:g} seconds after the end of the test.")


class Client(TestClient):
    """What `serving` gives: Starlette's `TestClient` (`post`, `get`, …) for the webhooks and `/health`, and more."""

    __test__ = False  # whatever its base class is called

    def __init__(self, app: ASGIApp, server: WebhooksServer, log: Path) -> None:
        super().__init__(app)
        self._server = server
        self._log = log

    def deliver(self, endpoint: str, payload: Body | None = None, **options: Any) -> Sent:
        """Post an event as the Hub would.

        Args:
            endpoint: the handler's path, with or without `/webhooks/`.
            payload: what `event` or `event_json` made, or the bytes of any body; by default a commit to a dataset.
            options: as of `TestClient.post`; `headers` take the place of the secret's.

        Raises:
            LookupError: there is no such handler; the text lists those there are.
        """
        path = PREFIX + endpoint.removeprefix(PREFIX).strip("/")
        handlers = self._server.registered_webhooks
        if find_endpoint(self._server._endpoints, path) is None:
            raise LookupError(f"There is no handler at {path}. Those there are: {', '.join(handlers)}.")
        secret = self._server._settings.secret_to_send
        options.setdefault("headers", {"X-Webhook-Secret": secret} if secret else {})
        answer = self.post(path, content=_body(payload), **options)
        wait_until_written(WITHIN)  # for tests that look at what was logged
        return Sent(answer, self)

    def outcome(self, delivery_id: str, within: float = WITHIN) -> Outcome:
        """Let time pass until a delivery is over: no retry is waited for, and no burst.

        Args:
            within: seconds that its handler may take in all.

        Raises:
            KeyError: there is no such delivery: it was not taken.
            RuntimeError: the `with` block has ended.
            TimeoutError: the handler does not end.
        """
        engine = self._server._engine
        if engine is None:
            raise RuntimeError("The log is gone: ask for an outcome inside the `with` block.")
        with contextlib.suppress(asyncio.TimeoutError):
            engine.hasten(delivery_id, within)
        record = self._find(delivery_id)
        if record.status not in FINISHED:
            raise TimeoutError(f"Delivery {delivery_id} is still {record.status} after {within:g} seconds.")
        errors = tuple(attempt.error for attempt in record.attempts if attempt.error is not None)
        return Outcome(record.status, len(record.attempts), errors, _result(record))

    def _find(self, delivery_id: str) -> Record:
        with reading(self._log) as database:
            return find(database, delivery_id)


def _body(payload: Body | None) -> bytes:
    payload = event() if payload is None else payload
    if isinstance(payload, bytes):
        return payload
    if isinstance(payload, WebhookPayload):
        return payload.model_dump_json(by_alias=True, exclude_unset=True).encode()
    return json.dumps(payload).encode()


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
