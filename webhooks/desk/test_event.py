"""The page that sends a test event: one of a kind, or one like a delivery that arrived."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import httpx
from starlette.requests import Request
from starlette.responses import Response

from .. import samples
from ..deliveries import history
from ..watched import first_repository
from . import queries, views
from .forms import Sorry, form_of

if TYPE_CHECKING:
    from .routes import Desk

POST_WITHIN = 30.0  # seconds that a test event's answer may take
FIELDS = ("endpoint", "kind", "type", "repo", "revision")


class EventPage:
    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def show(self, request: Request) -> Response:
        """Show an event, to be changed and sent: a new one, or one like a delivery that arrived."""
        if id := request.query_params.get("of"):
            return self._page(request, **self._recorded(id))
        asked = {name: request.query_params.get(name, "").strip() for name in (*FIELDS, "filled_for")}
        return self._page(request, **self._new(asked))

    def _recorded(self, id: str) -> dict[str, Any]:
        with history.reading(self._desk.log()) as database:
            try:
                delivery = history.find(database, id).delivery
            except KeyError:
                raise Sorry("There is no such delivery. It may be too old, and deleted.", 404) from None
        repo = delivery.payload.repo if delivery.payload else None
        about = {"type": repo.type, "repo": repo.name} if repo else {"type": "dataset", "repo": ""}
        return {
            "chosen": {"endpoint": delivery.endpoint, "kind": "commit", **about},
            "body": views.pretty(delivery.body),
        }

    def _new(self, asked: dict[str, str]) -> dict[str, Any]:
        """Make up an event about what was asked for, else what the handler declares, else what arrived last."""
        endpoint = asked["endpoint"] or next(iter(self._desk.endpoints), "")
        handler = self._desk.endpoints.get(endpoint)
        declared = first_repository(handler.watched) if handler else None
        if declared and asked["filled_for"] not in ("", endpoint):  # another handler has been chosen since
            asked = {**asked, "type": "", "repo": "", "revision": ""}
        with history.reading(self._desk.log()) as database:
            type, repo = (
                declared or queries.last_repo(database, samples.REPO_TYPES) or ("dataset", "username/my-dataset")
            )
            type, repo = asked["type"] or type, asked["repo"] or repo
            last = queries.last_commit(database, type, repo)
        kind, revision = asked["kind"] or "commit", asked["revision"].lower()
        chosen = {"endpoint": endpoint, "kind": kind, "type": type, "repo": repo, "revision": revision}
        try:
            event = samples.sample(kind, type, repo, revision or last)
        except ValueError as error:
            return {"chosen": chosen, "notice": str(error), "status": 400}
        return {"chosen": chosen, "body": views.plain_json(event, indent=2), "last": last}

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
            notice = self._desk.settings.hide(str(reason))
            return self._page(request, chosen, body, notice, reason.status_code)

    def _page(
        self,
        request: Request,
        chosen: dict[str, str],
        body: str = "",
        notice: str = "",
        status: int = 200,
        last: str = "",
    ) -> Response:
        return self._desk.show(
            request,
            "test.html",
            status,
            chosen=chosen,
            body=body,
            notice=notice,
            last=last,
            paths=list(self._desk.endpoints),
            kinds=samples.KINDS,
            types=samples.REPO_TYPES,
        )

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
