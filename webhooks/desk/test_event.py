"""The page that sends a test event: one of a kind, or one like a delivery that arrived."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import httpx
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from .. import samples
from ..deliveries import history
from . import queries, views
from .forms import Sorry, form_of

if TYPE_CHECKING:
    from .routes import Desk

POST_WITHIN = 30.0  # seconds that a test event's answer may take
FIELDS = ("endpoint", "kind", "type", "repo", "revision")


class TestEventPage:
    __test__ = False  # for pytest

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def show(self, request: Request) -> Response:
        """Show the event that was chosen, to be changed and sent."""
        asked = {name: request.query_params.get(name, "").strip() for name in FIELDS}
        last, endpoint, body = await run_in_threadpool(self._look, request.query_params.get("of"))
        last_type, _, last_name = (last or "").partition("/")
        paths = list(self._desk.endpoints)
        chosen = {
            "endpoint": asked["endpoint"] or endpoint or next(iter(paths), ""),
            "kind": asked["kind"] or "commit",
            "type": asked["type"] or (last_type if last_type in samples.REPO_TYPES else "dataset"),
            "repo": asked["repo"] or last_name or "username/my-dataset",
            "revision": asked["revision"].lower(),
        }
        notice = ""
        if body is None:
            try:
                kind, repo_type, repo, revision = (chosen[name] for name in FIELDS[1:])
                body = views.plain_json(samples.sample(kind, repo_type, repo, revision), indent=2)
            except ValueError as error:
                notice, body = str(error), ""
        return self._page(request, chosen, body, notice)

    async def send(self, request: Request) -> Response:
        """Post the event to its endpoint as the Hub would, and open its delivery."""
        form = await form_of(request)
        body, endpoint = form.get("body", ""), form.get("endpoint", "")
        try:
            if endpoint not in self._desk.endpoints:
                raise Sorry("There is no such endpoint.")
            content = _as_json(body)
            return self._desk.go(request, "/" + await self._post(endpoint, content))
        except Sorry as reason:
            chosen = {name: form.get(name, "") for name in FIELDS}
            return self._page(request, chosen, body, self._desk.settings.hide(str(reason)), reason.status)

    def _page(self, request: Request, chosen: dict[str, str], body: str, notice: str, status: int = 0) -> Response:
        return self._desk.show(
            request,
            "test.html",
            status or (400 if notice else 200),
            chosen=chosen,
            body=body,
            notice=notice,
            paths=list(self._desk.endpoints),
            kinds=samples.KINDS,
            types=samples.REPO_TYPES,
        )

    def _look(self, id: str | None) -> tuple[str | None, str | None, str | None]:
        """Return the last repository, and the endpoint and the body of a delivery that is to be sent once more."""
        with history.reading(self._desk.log()) as database:
            if not id:
                return queries.last_repo(database), None, None
            try:
                delivery = history.find(database, id).delivery
            except KeyError:
                raise Sorry("There is no such delivery. It may be too old, and deleted.", 404) from None
        repo = delivery.payload.repo if delivery.payload else None
        return f"{repo.type}/{repo.name}" if repo else None, delivery.endpoint, views.pretty(delivery.body)

    async def _post(self, endpoint: str, content: bytes) -> str:
        headers = {"User-Agent": "webhooks-test-event", "Content-Type": "application/json"}
        if secret := self._desk.settings.secret_to_send:
            headers["X-Webhook-Secret"] = secret
        try:
            async with httpx.AsyncClient(trust_env=False, verify=False) as client:  # noqa: S501 - this very machine
                url = self._desk.local_url() + endpoint
                answer = await client.post(url, content=content, headers=headers, timeout=POST_WITHIN)
        except httpx.HTTPError as error:
            raise Sorry(f"This server could not reach itself ({type(error).__name__}).", 502) from None
        if "X-Delivery-Id" in answer.headers:
            return str(answer.headers["X-Delivery-Id"])
        raise Sorry(f"The endpoint answered {answer.status_code}: {_error(answer)}")


def _as_json(body: str) -> bytes:
    try:
        return json.dumps(json.loads(body), ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    except (ValueError, RecursionError) as error:
        where = f" in line {error.lineno}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        raise Sorry(f"This is no JSON: there is a mistake{where}.") from None


def _error(answer: httpx.Response) -> str:
    try:
        said = answer.json()
        fields = [f"{field['field']}: {field['reason']}" for field in said.get("fields", ())]
        return " ".join([said["error"], "; ".join(fields)]).strip()
    except (ValueError, KeyError, TypeError, AttributeError):
        return answer.reason_phrase
