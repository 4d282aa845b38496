"""The owner's pages: what arrived, what came of it, and all of it again."""

from __future__ import annotations

import hashlib
import json
import math
import sqlite3
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.templating import Jinja2Templates

from ..deliveries import history
from ..deliveries.life import NotTaken
from ..delivery import FINAL, UNFINISHED, Delivery
from ..endpoints import Endpoint
from ..receiver import Aside
from ..samples import MAX_ARGUMENT, curl
from ..settings import Settings
from . import queries, views
from .access import PAGE, Access, base_of
from .forms import MAX_FORM, Sorry, filter_of, form_of
from .guard import SIGN_IN, SIGN_IN_CALLBACK, STATIC, Guard
from .hub import HubPage
from .queries import Filter
from .replays import Replays
from .stages import JobWatch
from .test_event import EventPage

HERE = Path(__file__).parent
SUMS_ARE_NEW = 5.0  # seconds
NEWEST = "7fffffffffffffff"  # after every id
_THEMES = ("light", "dark")  # that Gradio's switch knows


@dataclass
class Desk:
    """The pages, and what they need.

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
        self._sums: tuple[float, dict[str, Any]] = (-math.inf, {})
        self.replays = Replays(self.replay, self.has_room)
        token = self.settings.hf_token
        self.job_watch = JobWatch(token.get_secret_value(), self.learn_stage) if token else None
        self._templates = Jinja2Templates(HERE / "templates")
        environment = self._templates.env
        environment.finalize = views.visible
        environment.trim_blocks = environment.lstrip_blocks = True
        environment.globals.update(views=views, settings=self.settings)

    @property
    def bodies(self) -> dict[str, int]:
        """By path, how many bytes a body may have there and below."""
        return {PAGE: MAX_FORM}

    def middleware(self) -> Middleware:
        """Make what brings the pages into another application."""
        return Middleware(Aside, path=f"{PAGE}/", aside=self.app())

    def app(self) -> Starlette:
        """Make the application for everything at `PAGE` and below.

        What asks the log is a `def`, which Starlette runs in a thread.
        """
        test, hub = EventPage(self), HubPage(self)
        begin: Callable[[Request], Awaitable[Response]] = self.door
        end = begin
        if self.settings.oauth:
            from .sign_in import SignIn  # with Authlib, which `gradio[oauth]` brings

            sign_in = SignIn(self.settings, self.access, self.door)
            begin, end = sign_in.begin, sign_in.end
        routes = [
            Mount(STATIC, StaticFiles(directory=HERE / "static")),
            Route(SIGN_IN, begin),
            Route(SIGN_IN_CALLBACK, end),
            Route(PAGE, self.overview),
            Route(f"{PAGE}/replay", self.ask_to_replay_all),
            Route(f"{PAGE}/replay", self.replay_all, methods=["POST"]),
            Route(f"{PAGE}/test", test.show),
            Route(f"{PAGE}/test", test.send, methods=["POST"]),
            Route(f"{PAGE}/hub", hub.show),
            Route(f"{PAGE}/hub", hub.change, methods=["POST"]),
            Route(f"{PAGE}/sign-out", self.sign_out, methods=["POST"]),
            Route(f"{PAGE}/{{id}}", self.details),
            Route(f"{PAGE}/{{id}}/replay", self.replay_one, methods=["POST"]),
        ]
        told = dict.fromkeys((Sorry, NotTaken, HTTPException), self.sorry)
        guard = Middleware(Guard, access=self.access, door=self.door)
        return Starlette(routes=routes, middleware=[guard], exception_handlers=told)

    # All of them

    def overview(self, request: Request) -> Response:
        """List the deliveries."""
        wanted = filter_of(request.query_params)
        place = {name: request.query_params.get(name) or None for name in ("before", "after")}
        with history.reading(self.log()) as database:
            try:
                page = queries.page(database, wanted, **place)
            except KeyError:
                raise Sorry("There is no such page of the list.", 404) from None
            counts = queries.counts(database, wanted) if wanted.q is None else None
            sums = self._sum_up(database)
        if self.job_watch:
            self.job_watch.look(job for row in page.rows for job in row.jobs)
        return self.show(
            request,
            "list.html",
            page=page,
            counts=counts,
            **sums,
            wanted=asdict(wanted),
            is_first=not any(place.values()),
            progress=self.replays.progress,
            paths=sorted({*self.endpoints, *sums["choices"]["endpoint"]}),
            endpoints=self.endpoints,
        )

    def _sum_up(self, database: sqlite3.Connection) -> dict[str, Any]:
        """Return what is said of all deliveries, a few seconds old: it costs more than a page of the list."""
        at, sums = self._sums
        if time.monotonic() - at > SUMS_ARE_NEW:
            sums = {"hours": queries.per_hour(database), "choices": queries.choices(database)}
            self._sums = time.monotonic(), sums
        return sums

    def ask_to_replay_all(self, request: Request) -> Response:
        wanted = filter_of(request.query_params)
        chosen, gone = self._to_replay(wanted, NEWEST, ())
        return self.show(request, "replay.html", wanted=asdict(wanted), chosen=chosen, gone=gone)

    async def replay_all(self, request: Request) -> Response:
        """Replay what the page before has shown, and nothing that has failed since."""
        form = await form_of(request)
        wanted, until = filter_of(form), form.get("until", "")
        try:
            await run_in_threadpool(self.replays.begin, lambda waiting: self._to_replay(wanted, until, waiting)[0])
        except KeyError:
            raise Sorry("It is not said up to which delivery. Open the page before once more.") from None
        return self.go(request)

    def _to_replay(self, wanted: Filter, until: str, besides: Sequence[str]) -> tuple[list[str], int]:
        with history.reading(self.log()) as database:
            return queries.to_replay(database, wanted, until, self.endpoints, besides)

    # One of them

    def details(self, request: Request) -> Response:
        id = request.path_params["id"]
        with history.reading(self.log()) as database:
            try:
                record, row = history.find(database, id), queries.row(database, id)
            except KeyError:
                raise Sorry("There is no such delivery. It may be too old, and deleted.", 404) from None
            replays, replaced = queries.replays_and_replaced(database, id)
            newer, older = queries.neighbours(database, id)
        if self.job_watch:
            self.job_watch.look(row.jobs)
        return self.show(
            request,
            "delivery.html",
            record=record,
            row=row,
            replays=replays,
            replaced=replaced,
            newer=newer,
            older=older,
            delivery=record.delivery,
            endpoint=self.endpoints.get(record.delivery.endpoint),
            command=self._curl(record.delivery),
            is_over=record.status not in UNFINISHED and all(job.stage in FINAL for job in row.jobs),
        )

    def replay_one(self, request: Request) -> Response:
        try:
            return self.go(request, "/" + self.replay(request.path_params["id"]))
        except KeyError:
            raise Sorry("There is no such delivery any more.", 404) from None

    def _curl(self, delivery: Delivery) -> str | None:
        """Write the command that sends the same again, if a command can hold it."""
        query = f"?{delivery.query.decode('latin-1')}" if delivery.query else ""
        try:
            body = views.plain_json(json.loads(delivery.body))
        except (ValueError, RecursionError):
            return None
        url = f"{self.public_url()}{delivery.endpoint}{query}"
        return curl(url, self.settings, body) if len(body.encode()) < MAX_ARGUMENT else None

    # Who comes in

    async def sign_out(self, request: Request) -> Response:
        self.access.sign_out(request)
        return self.go(request)

    async def door(self, request: Request, notice: str = "") -> Response:
        """Show what everybody sees who is not the owner."""
        if request.query_params.get("notice") == "link":
            notice = "This link is not valid any more: each start makes a new one."
        return self.show(request, "door.html", 403, notice=notice)

    # What is shown

    async def sorry(self, request: Request, error: Exception) -> Response:
        status = getattr(error, "status_code", 400)
        sentence = "There is no such page." if status in (404, 405) and not isinstance(error, Sorry) else str(error)
        return self.show(request, "sorry.html", status, sentence=self.settings.hide(sentence))

    def show(self, request: Request, template: str, status: int = 200, **values: Any) -> Response:
        """Fill in a template; say only that nothing has changed to a page that has it already."""
        chosen = request.query_params.get("__theme")
        theme = chosen if chosen in _THEMES else request.cookies.get("webhooks_theme")
        values |= {
            "base": base_of(request),
            "theme": theme if theme in _THEMES else "",
            "session": self.access.session(request),
            "link": lambda path="", **query: _with_query(base_of(request) + path, query),
        }
        response: Response = self._templates.TemplateResponse(request, template, values, status_code=status)
        response.headers["ETag"] = f'"{hashlib.sha256(response.body).hexdigest()[:16]}"'
        if status == 200 and request.headers.get("if-none-match") == response.headers["ETag"]:
            return Response(status_code=304)
        if chosen in _THEMES:
            secure = self.settings.on_space
            response.set_cookie("webhooks_theme", chosen, path=base_of(request), samesite="lax", secure=secure)
        return response

    def go(self, request: Request, path: str = "") -> Response:
        return RedirectResponse(base_of(request) + path, 303)


def _with_query(path: str, query: Mapping[str, object]) -> str:
    given = {name: value for name, value in query.items() if value}
    return f"{path}?{urlencode(given)}" if given else path
