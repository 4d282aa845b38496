"""The owner's pages: what arrived, what came of it, and all of it again; test events, and webhooks on the Hub."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import httpx
from huggingface_hub import HfApi
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.templating import Jinja2Templates

from .. import samples
from ..deliveries.engine import NotTakenError
from ..deliveries.log import find, reading
from ..delivery import FINAL, UNFINISHED, Delivery
from ..endpoints import Endpoint
from ..receiver import Aside
from ..settings import Settings
from ..watched import first_repository
from . import hub, queries, views
from .access import PAGE, SIGN_IN, SIGN_IN_CALLBACK, STATIC, Access, SignInError, base_of, guard
from .queries import Filter
from .stages import JobWatch

HERE = Path(__file__).parent
NEWEST = "7fffffffffffffff"  # after every id
POST_WITHIN = 30.0  # seconds that a test event's answer may take
MAX_VALUE = 300  # characters of a filter
MAX_FORM = 4 * 1024 * 1024  # bytes; a payload may be 1 MiB, and a form writes some characters as three


@dataclass
class Dashboard:
    """The pages, and what they need. What asks the log is a `def`, which Starlette runs in a thread.

    Attributes:
        log: gives the file of the delivery log.
        replay: runs a recorded delivery again and returns the new one's id.
        has_room: tells whether one of many replays may run, or would take the place of what the Hub sends.
        learn_stage: is told the id of a Job and its present stage, from another thread.
        local_url: gives the address of this server on its own machine.
        public_url: gives the one that the Hub reaches.
    """

    settings: Settings
    endpoints: Mapping[str, Endpoint]
    access: Access
    log: Callable[[], Path]
    replay: Callable[[str], str]
    has_room: Callable[[], bool]
    learn_stage: Callable[[str, str], object]
    local_url: Callable[[], str]
    public_url: Callable[[], str]

    def __post_init__(self) -> None:
        token = self.settings.hf_token
        self.job_watch = JobWatch(token.get_secret_value() if token else None, self.learn_stage)
        self._templates = Jinja2Templates(HERE / "templates")
        environment = self._templates.env
        environment.finalize = views.visible
        environment.trim_blocks = environment.lstrip_blocks = True
        environment.globals.update(views=views, settings=self.settings, endpoints=self.endpoints, kinds=samples.KINDS)
        environment.globals.update(outcomes=queries.OUTCOMES, hub=hub.SETTINGS)

    def middleware(self) -> Middleware:
        """Make what brings the pages into another application."""
        return Middleware(Aside, path=f"{PAGE}/", aside=self.app())

    def app(self) -> Starlette:
        """Make the application for everything at `PAGE` and below."""
        routes = [
            Mount(STATIC, StaticFiles(directory=HERE / "static")),
            Route(SIGN_IN, self.sign_in),
            Route(SIGN_IN_CALLBACK, self.sign_in),
            Route(PAGE, self.overview),
            Route(f"{PAGE}/replay", self.ask_to_replay_all),
            Route(f"{PAGE}/replay", self.replay_all, methods=["POST"]),
            Route(f"{PAGE}/test", self.test_event),
            Route(f"{PAGE}/test", self.send_test_event, methods=["POST"]),
            Route(f"{PAGE}/hub", self.webhooks),
            Route(f"{PAGE}/hub", self.create_webhooks, methods=["POST"]),
            Route(f"{PAGE}/sign-out", self.sign_out, methods=["POST"]),
            Route(f"{PAGE}/{{id}}", self.details),
            Route(f"{PAGE}/{{id}}/replay", self.replay_one, methods=["POST"]),
        ]
        told = dict.fromkeys((NotTakenError, HTTPException), self.sorry)
        return Starlette(routes=routes, middleware=[guard(self.access, self.door)], exception_handlers=told)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """Open the log; an id that it does not have is a page that says so."""
        try:
            with reading(self.log()) as database:
                yield database
        except KeyError:
            raise HTTPException(404, "There is no such delivery. It may be too old, and deleted.") from None

    # What arrived

    def overview(self, request: Request) -> Response:
        wanted, before = filter_of(request.query_params), request.query_params.get("before") or None
        with self._reading() as database:
            rows, has_older = queries.page(database, wanted, before)
            counts, hours = queries.counts(database, wanted), queries.per_hour(database)
            choices = queries.choices(database)
        self.job_watch.look(job for row in rows for job in row.jobs)
        values = {"rows": rows, "has_older": has_older, "counts": counts, "hours": hours, "choices": choices}
        return self.show(request, "list.html", {**values, "wanted": asdict(wanted), "before": before})

    def details(self, request: Request) -> Response:
        id = request.path_params["id"]
        with self._reading() as database:
            record, row, related = find(database, id), queries.row(database, id), queries.related(database, id)
        self.job_watch.look(row.jobs)
        is_over = record.status not in UNFINISHED and all(job.stage in FINAL for job in row.jobs)
        values = {"record": record, "row": row, "delivery": record.delivery, "is_over": is_over, **related}
        return self.show(request, "delivery.html", {**values, "command": self._curl(record.delivery)})

    def _curl(self, delivery: Delivery) -> str | None:
        """Write the command that sends the same again, if a command can hold it."""
        query = f"?{delivery.query.decode('latin-1')}" if delivery.query else ""
        try:
            body = views.plain_json(json.loads(delivery.body))
        except (ValueError, RecursionError):
            return None
        url = f"{self.public_url()}{delivery.endpoint}{query}"
        return samples.curl(url, self.settings, body) if len(body.encode()) < samples.MAX_ARGUMENT else None

    # Once more

    def replay_one(self, request: Request) -> Response:
        try:
            return self.go(request, "/" + self.replay(request.path_params["id"]))
        except KeyError:
            raise HTTPException(404, "There is no such delivery any more.") from None

    def ask_to_replay_all(self, request: Request) -> Response:
        wanted = filter_of(request.query_params)
        chosen, gone = self._to_replay(wanted, NEWEST)
        return self.show(request, "replay.html", {"wanted": asdict(wanted), "chosen": chosen, "gone": gone})

    def replay_all(self, request: Request) -> Response:
        """Replay what the page before has shown, as long as there is room; nothing that has failed since."""
        wanted = filter_of(request.query_params)
        for id, _ in self._to_replay(wanted, request.query_params.get("until", ""))[0]:
            if not self.has_room():
                return self.go(request, "/replay", asdict(wanted))
            with contextlib.suppress(KeyError):  # pruned meanwhile
                self.replay(id)
        return self.go(request)

    def _to_replay(self, wanted: Filter, until: str) -> tuple[list[tuple[str, str]], int]:
        """Return ids and endpoints, and how many more cannot be replayed because their endpoint is gone."""
        with self._reading() as database:
            failed = queries.to_replay(database, wanted, until)
        chosen = [(id, endpoint) for id, endpoint in failed if endpoint in self.endpoints]
        return chosen, len(failed) - len(chosen)

    # A test event

    def test_event(self, request: Request) -> Response:
        """Show an event, to be changed and sent: one like a recorded delivery, or about what a handler asks for."""
        id, endpoint, kind = (request.query_params.get(name, "") for name in ("of", "endpoint", "kind"))
        with self._reading() as database:
            if id:
                delivery = find(database, id).delivery
                return self._event_page(request, endpoint=delivery.endpoint, body=views.pretty(delivery.body))
            handler = self.endpoints.get(endpoint := endpoint or next(iter(self.endpoints), ""))
            about = first_repository(handler.watched) if handler else None
            repo, commit = queries.last_commit(database, "/".join(about) if about else None)
        type, _, name = repo.partition("/")
        try:
            event = samples.sample(kind or "commit", type, name, commit)
        except ValueError as error:
            return self._event_page(request, 400, endpoint=endpoint, kind=kind, notice=str(error))
        return self._event_page(request, endpoint=endpoint, kind=kind, body=views.plain_json(event, indent=2))

    async def send_test_event(self, request: Request) -> Response:
        """Post the event to its endpoint as the Hub would, and open its delivery."""
        form = await form_of(request)
        endpoint, kind, body = (form.get(name, "") for name in ("endpoint", "kind", "body"))
        try:
            return self.go(request, "/" + await self._post(endpoint, body))
        except HTTPException as error:
            values = {"endpoint": endpoint, "kind": kind, "body": body, "notice": self.settings.redact(error.detail)}
            return self._event_page(request, error.status_code, **values)

    def _event_page(self, request: Request, status: int = 200, **values: str) -> Response:
        return self.show(request, "test.html", values, status)

    async def _post(self, endpoint: str, body: str) -> str:
        if endpoint not in self.endpoints:
            raise HTTPException(400, "There is no such endpoint.")
        try:
            content = json.dumps(json.loads(body), ensure_ascii=False).encode("utf-8", "replace")
        except (ValueError, RecursionError) as error:
            raise HTTPException(400, f"This is no JSON: {error}.") from None
        headers = {"User-Agent": "webhooks-test-event", "Content-Type": "application/json"}
        if secret := self.settings.secret_to_send:
            headers["X-Webhook-Secret"] = secret
        try:
            async with httpx.AsyncClient(trust_env=False, verify=False, timeout=POST_WITHIN) as client:  # noqa: S501 - this very machine
                answer = await client.post(self.local_url() + endpoint, content=content, headers=headers)
        except httpx.HTTPError as error:
            raise HTTPException(502, f"This server could not reach itself ({type(error).__name__}).") from None
        if "X-Delivery-Id" not in answer.headers:
            raise HTTPException(400, f"The endpoint answered {answer.status_code}: {answer.text[:1000]}")
        return answer.headers["X-Delivery-Id"]

    # Webhooks on the Hub

    async def webhooks(self, request: Request, notice: str = "") -> Response:
        """Show what the handlers ask for, beside what the Hub has."""
        trouble, rows = "", []
        try:
            rows = await hub.ask(self._webhooks_of(request).rows)
        except hub.HubError as reason:
            trouble = self.settings.redact(str(reason))
        values = {"rows": rows, "notice": notice, "trouble": trouble, "watches": hub.watches}
        return self.show(request, "hub.html", values, 400 if notice else 200)

    async def create_webhooks(self, request: Request) -> Response:
        """Create the one that a row lacks, or all that are missing; then show how it is."""
        form = await form_of(request)
        try:
            if self.settings.closed:
                raise hub.HubError("Set WEBHOOK_SECRET first: without it this Space answers every call with 503.")
            await hub.ask(partial(self._webhooks_of(request).create, form.get("row")))
        except hub.HubError as reason:
            return await self.webhooks(request, self.settings.redact(str(reason)))
        return self.go(request, "/hub")

    def _webhooks_of(self, request: Request) -> hub.Webhooks:
        public, token = self.public_url(), self.access.hub_token(request)
        if public == self.local_url():
            raise hub.HubError(
                "The Hub cannot reach this machine, for it has no public link (GRADIO_SHARE=False, or no network to "
                "make one). Run this on a Space, or start it with a link."
            )
        if token is None:
            how = "Sign in with Hugging Face" if self.settings.oauth else "Set HF_TOKEN and start again"
            raise hub.HubError(f"{how} to see and create your webhooks.")
        address = hub.Address(public, [urlsplit(public).netloc, *self.settings.space_hosts])
        declared = {path: endpoint.watched for path, endpoint in self.endpoints.items()}
        return hub.Webhooks(HfApi(token=token), address, declared, self.settings.secret_to_send)

    # Who comes in, and what is shown

    async def sign_in(self, request: Request) -> Response:
        comes_back = request.url.path.endswith(SIGN_IN_CALLBACK)
        try:
            return await (self.access.end_sign_in(request) if comes_back else self.access.begin_sign_in(request))
        except SignInError as why:
            return await self.door(request, str(why))

    async def sign_out(self, request: Request) -> Response:
        self.access.sign_out(request)
        return self.go(request)

    async def door(self, request: Request, notice: str = "") -> Response:
        """Show what everybody sees who is not the owner."""
        if request.query_params.get("notice") == "link":
            notice = "This link is not valid any more: each start makes a new one."
        return self.show(request, "sign_in.html", {"notice": notice}, 403)

    async def sorry(self, request: Request, error: Exception) -> Response:
        status, sentence = getattr(error, "status_code", 400), getattr(error, "detail", str(error))
        if sentence in ("Not Found", "Method Not Allowed"):  # as Starlette says it
            sentence = "There is no such page."
        return self.show(request, "error.html", {"sentence": self.settings.redact(sentence)}, status)

    def show(self, request: Request, template: str, values: Mapping[str, Any], status: int = 200) -> Response:
        """Fill in a template; say only that nothing has changed to a page that has it already."""
        base = base_of(request)
        common = {"base": base, "session": self.access.session(request), "link": partial(with_query, base)}
        response = self._templates.TemplateResponse(request, template, {**common, **values}, status_code=status)
        response.headers["ETag"] = tag = f'"{hashlib.sha256(response.body).hexdigest()[:16]}"'
        is_known = status == 200 and request.headers.get("if-none-match") == tag
        return Response(status_code=304) if is_known else response

    def go(self, request: Request, path: str = "", query: Mapping[str, object] | None = None) -> Response:
        return RedirectResponse(with_query(base_of(request), path, **query or {}), 303)


def filter_of(asked: Mapping[str, str]) -> Filter:
    """Read a filter out of an address or a form; what is empty is any."""
    return Filter(**{field.name: asked.get(field.name, "").strip()[:MAX_VALUE] or None for field in fields(Filter)})


async def form_of(request: Request) -> dict[str, str]:
    """Read a form. Of fields with one name it has the last."""
    form = await request.form(max_part_size=MAX_FORM)
    return {name: value for name, value in form.items() if isinstance(value, str)}


def with_query(base: str, path: str = "", /, **query: object) -> str:
    given = {name: value for name, value in query.items() if value}
    return f"{base}{path}?{urlencode(given)}" if given else base + path
