"""Serve the owner's pages: the deliveries, replays, test events, and webhooks on the Hub."""

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
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from huggingface_hub import HfApi
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.templating import Jinja2Templates

from .. import samples
from ..deliveries import log
from ..deliveries.engine import Engine
from ..deliveries.processing import NotTakenError
from ..delivery import FINAL_STAGES, UNFINISHED, Delivery
from ..endpoints import Endpoint, find
from ..responses import RefusedError
from ..settings import Settings
from ..watched import first_repository
from . import hub, queries, views
from .access import PAGE, SIGN_IN, SIGN_IN_CALLBACK, STATIC, Access, SignInError, base_of, guard
from .queries import Filter
from .stages import JobWatch

HERE = Path(__file__).parent


@dataclass
class Dashboard:
    """The pages, and what they need. A `def` page reads the log, so Starlette runs it in a thread.

    Attributes:
        endpoints: by path; read at each request.
        public_url: returns the address that the Hub can reach, or else the local one.
        has_public_address: returns whether the Hub can reach this server at all.
    """

    settings: Settings
    endpoints: Mapping[str, Endpoint]
    engine: Engine
    public_url: Callable[[], str]
    has_public_address: Callable[[], bool]

    def __post_init__(self) -> None:
        self.access = Access(self.settings, self.public_url)
        self._find = partial(find, self.endpoints)
        token = self.settings.hf_token
        self.job_watch = JobWatch(token.get_secret_value() if token else None, self._set_stage)
        self._templates = Jinja2Templates(HERE / "templates")
        environment = self._templates.env
        environment.finalize = views.visible
        environment.trim_blocks = environment.lstrip_blocks = True
        environment.globals.update(views=views, settings=self.settings, endpoints=self.endpoints, kinds=samples.KINDS)
        environment.globals.update(find=self._find, outcomes=queries.OUTCOMES)
        environment.globals.update(hub_settings=hub.SETTINGS, utc=log.utc)
        self.app = self._make_app()

    def _set_stage(self, job_id: str, stage: str) -> None:
        self.engine.write_soon(partial(self.engine.log.set_stage, job_id, stage))

    def routes(self) -> list[BaseRoute]:
        """Return the routes that bring the pages into Gradio's application."""
        return [Route(path, self.app) for path in (PAGE, PAGE + "/{path:path}")]

    def _make_app(self) -> Starlette:
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
        handlers = dict.fromkeys((NotTakenError, TimeoutError, HTTPException), self.show_error)
        middleware = [guard(self.access, self.sign_in_page)]
        return Starlette(routes=routes, middleware=middleware, exception_handlers=handlers)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """Open the log. An unknown id or an unreadable log becomes a page that says so."""
        try:
            with log.reading(self.engine.log.path) as database:
                yield database
        except KeyError:
            raise HTTPException(404, "There is no such delivery. It may be too old, and deleted.") from None
        except (OSError, sqlite3.Error) as error:
            raise HTTPException(503, f"The delivery log cannot be read: {error}.") from None

    # What arrived

    def overview(self, request: Request) -> Response:
        wanted, before = read_filter(request.query_params), request.query_params.get("before") or None
        with self._reading() as database:
            rows, has_older = queries.page(database, wanted, before)
            counts, to_replay = queries.counts(database, wanted)
            hours, choices = queries.per_hour(database), queries.choices(database)
        replayable = sum(count for path, count in to_replay.items() if self._find(path))
        self.job_watch.look(job for row in rows for job in row.jobs)
        values = {"rows": rows, "has_older": has_older, "counts": counts, "hours": hours, "choices": choices}
        values |= {"wanted": asdict(wanted), "before": before, "replayable": replayable}
        return self.show(request, "list.html", values)

    def details(self, request: Request) -> Response:
        id = request.path_params["id"]
        with self._reading() as database:
            record, row, related = log.find(database, id), queries.listed(database, id), queries.related(database, id)
        self.job_watch.look(row.jobs)
        is_over = record.status not in UNFINISHED and all(job.stage in FINAL_STAGES for job in row.jobs)
        values = {"record": record, "row": row, "delivery": record.delivery, "is_over": is_over, **related}
        return self.show(request, "delivery.html", {**values, "command": self._curl(record.delivery)})

    def _curl(self, delivery: Delivery) -> str | None:
        """Return the command that sends the same again, if a command can hold it."""
        query = f"?{delivery.query.decode('latin-1')}" if delivery.query else ""
        try:
            body = views.plain_json(json.loads(delivery.body))
        except (ValueError, RecursionError):
            return None
        url = f"{self.public_url()}{quote(delivery.endpoint)}{query}"
        return samples.curl(url, self.settings, body) if len(body.encode()) < samples.MAX_ARGUMENT else None

    # Replays

    def replay_one(self, request: Request) -> Response:
        with self._reading():  # for an unknown id
            return self.redirect(request, "/" + self.engine.replay(request.path_params["id"]))

    def ask_to_replay_all(self, request: Request) -> Response:
        wanted = read_filter(request.query_params)
        with self._reading() as database:
            _, groups = queries.counts(database, wanted)
            until = queries.newest_id(database)
        gone = sum(groups.pop(path) for path in [*groups] if not self._find(path))
        values = {"wanted": asdict(wanted), "until": until, "groups": groups, "gone": gone}
        return self.show(request, "replay.html", values)

    def replay_all(self, request: Request) -> Response:
        """Replay what the question has shown, while there is room, and say how many that were."""
        wanted, count = read_filter(request.query_params), 0
        with self._reading() as database:
            failed = queries.to_replay(database, wanted, request.query_params.get("until", ""))
        for id in [id for id, path in failed if self._find(path)]:
            if not self.engine.has_room():
                return self.redirect(request, "/replay", {**asdict(wanted), "replayed": count})
            with contextlib.suppress(KeyError):  # pruned meanwhile
                self.engine.replay(id)
                count += 1
        return self.redirect(request, "", {**asdict(wanted), "outcome": None, "replayed": count})

    # Test events

    def test_event(self, request: Request) -> Response:
        """Show an event to change and send: a recorded delivery, or one about what a handler watches."""
        id, path, kind = (request.query_params.get(name, "") for name in ("of", "endpoint", "kind"))
        if not id:
            return self._show_event(request, path or next(iter(self.endpoints), ""), kind or "commit")
        with self._reading() as database:
            delivery = log.find(database, id).delivery
        return self._show_event(request, delivery.endpoint, body=views.pretty(delivery.body))

    async def send_test_event(self, request: Request) -> Response:
        """Deliver the event and open its delivery, or only fill in the JSON for another handler or kind."""
        form = await read_form(request)
        path, kind, body = (form.get(name, "") for name in ("endpoint", "kind", "body"))
        if "fill" in form:
            return await run_in_threadpool(self._show_event, request, path, kind, "" if kind else body)
        if (handler := self.endpoints.get(path)) and handler.template:
            path = form.get("path", "")
        try:
            content = json.dumps(json.loads(body), ensure_ascii=False).encode("utf-8", "replace")
            return self.redirect(request, "/" + await run_in_threadpool(self.engine.deliver, path, content))
        except LookupError as error:
            notice = str(error)
        except RefusedError as error:
            fields = views.read_json(bytes(error.response.body)).get("fields", ())
            notice = " ".join([str(error), *(f"{field['field']}: {field['reason']}." for field in fields)])
        except (ValueError, RecursionError) as error:
            notice = f"This is not JSON: {error}."
        return await run_in_threadpool(self._show_event, request, path, kind, body, self.settings.redact(notice))

    def _show_event(self, request: Request, path: str, kind: str = "", body: str = "", notice: str = "") -> Response:
        """Show a test event. Without a body, fill in an event of this kind about what the handler watches."""
        handler = self.endpoints.get(path) or self._find(path)
        if kind and not body:
            about = first_repository(handler.watched) if handler else None
            with self._reading() as database:
                repo, commit = queries.last_commit(database, "/".join(about) if about else None)
            type, _, name = repo.partition("/")
            try:
                body = views.plain_json(samples.sample(kind, type, name, commit), indent=2)
            except ValueError as error:
                notice = str(error)
        if handler and path == handler.path:
            path = views.example_path(path)
        values = {"handler": handler, "path": path, "kind": kind, "body": body, "notice": notice}
        return self.show(request, "test.html", values, 400 if notice else 200)

    # Webhooks on the Hub

    def webhooks(self, request: Request, notice: str = "") -> Response:
        """Show what the handlers watch, beside what the Hub has and what catching up has found."""
        problem, rows = "", hub.watched_rows(self.endpoints)
        try:
            rows = hub.ask(self._webhooks_of(request).rows)
        except hub.HubError as reason:
            problem = self.settings.redact(str(reason))
        with self._reading() as database:
            marks = queries.marks(database)
        values = {"rows": rows, "notice": notice, "problem": problem, "marks": marks, "watched_name": hub.watched_name}
        return self.show(request, "hub.html", values, 400 if notice else 200)

    def create_webhooks(self, request: Request) -> Response:
        """Create the webhook of a row, or all that are missing."""
        try:
            if self.settings.is_closed:
                raise hub.HubError("Set WEBHOOK_SECRET first: without it this Space answers every call with 503.")
            hub.ask(partial(self._webhooks_of(request).create, request.query_params.get("row")))
        except hub.HubError as reason:
            return self.webhooks(request, self.settings.redact(str(reason)))
        return self.redirect(request, "/hub")

    def _webhooks_of(self, request: Request) -> hub.Webhooks:
        public, token = self.public_url(), self.access.hub_token(request)
        if not self.has_public_address():
            raise hub.HubError("The Hub cannot reach this machine, so no webhook can call it.")
        if token is None:
            how = "Sign in with Hugging Face" if self.settings.has_oauth else "Set HF_TOKEN and start again"
            raise hub.HubError(f"{how} to see and create your webhooks.")
        hosts = [urlsplit(public).netloc, *self.settings.space_hosts]
        return hub.Webhooks(HfApi(token=token), public, hosts, self.endpoints, self.settings.secret_to_send)

    # Signing in, and what all pages share

    async def sign_in(self, request: Request) -> Response:
        is_back = request.url.path.endswith(SIGN_IN_CALLBACK)
        try:
            return await (self.access.end_sign_in(request) if is_back else self.access.begin_sign_in(request))
        except SignInError as why:
            return await self.sign_in_page(request, str(why))

    async def sign_out(self, request: Request) -> Response:
        self.access.sign_out(request)
        return self.redirect(request)

    async def sign_in_page(self, request: Request, notice: str = "") -> Response:
        """Show the page that every visitor gets."""
        if request.query_params.get("notice") == "token":
            notice = "This token is not valid. Unless WEBHOOKS_ADMIN_TOKEN is set, each start makes a new one."
        return self.show(request, "sign_in.html", {"notice": notice}, 403)

    async def show_error(self, request: Request, error: Exception) -> Response:
        status, sentence = getattr(error, "status_code", 400), getattr(error, "detail", str(error))
        if sentence in ("Not Found", "Method Not Allowed"):  # Starlette's own words
            sentence = "There is no such page."
        return self.show(request, "error.html", {"sentence": self.settings.redact(sentence)}, status)

    def show(self, request: Request, template: str, values: Mapping[str, Any], status: int = 200) -> Response:
        """Fill in a template. Answer 304 if the browser has the same page already."""
        base = base_of(request)
        common = {
            "base": base,
            "session": self.access.session(request),
            "link": partial(with_query, base),
            "is_open_to_strangers": self.engine.processor.is_open_to_strangers,
        }
        response = self._templates.TemplateResponse(request, template, {**common, **values}, status_code=status)
        response.headers["ETag"] = tag = f'"{hashlib.sha256(response.body).hexdigest()[:16]}"'
        is_known = status == 200 and request.headers.get("if-none-match") == tag
        return Response(status_code=304) if is_known else response

    def redirect(self, request: Request, path: str = "", query: Mapping[str, object] | None = None) -> Response:
        return RedirectResponse(with_query(base_of(request), path, **query or {}), 303)


def read_filter(query: Mapping[str, str]) -> Filter:
    """Read a filter from an address. An empty value is any."""
    values = {field.name: query.get(field.name, "").strip()[: queries.MAX_VALUE] for field in fields(Filter)}
    return Filter(**{name: value or None for name, value in values.items()})


async def read_form(request: Request) -> dict[str, str]:
    """Read a form. Of fields with the same name the last counts."""
    return dict(parse_qsl((await request.body()).decode("utf-8", "replace")))


def with_query(base: str, path: str = "", /, **query: object) -> str:
    given = {name: value for name, value in query.items() if value not in (None, "")}
    return f"{base}{path}?{urlencode(given)}" if given else base + path
