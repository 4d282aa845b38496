"""The owner's page: every delivery, its replay, a test event, and the webhooks on the Hub.

Each function behind it is a public endpoint of Gradio's, so each one first asks `Access` whose request it is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import gradio as gr
import httpx
import pandas as pd  # type: ignore[import-untyped]
from gradio.components import Component
from starlette.requests import Request

from .. import samples
from ..deliveries import history
from ..deliveries.life import NotTaken
from ..delivery import FINISHED, UNFINISHED, StartedJob
from ..endpoints import Endpoint
from ..settings import Settings
from ..watched import DOMAINS, WATCHABLE
from . import queries, views
from .access import PAGE, Access
from .registration import HubSaysNo, Registration

LIVE = 2.0  # seconds between two looks for something new
CHART = 30.0  # seconds between two charts
POST_WITHIN = 30.0  # seconds that a test event's answer may take
ALL = ""  # in a filter
COLORS = {
    "succeeded": "#16a34a",
    "failed": "#dc2626",
    "superseded": "#9ca3af",
    "scheduled": "#f59e0b",
    "running": "#2563eb",
    "queued": "#93c5fd",
}

Update = dict[Any, Any]


@dataclass(frozen=True)
class View:
    """What of the list is looked at: deliveries older or newer than a number, or the newest."""

    older_than: int | None = None
    newer_than: int | None = None


@dataclass
class Desk:
    """The page, and what its functions need.

    Attributes:
        log: the file of the delivery log.
        replay: runs a recorded delivery again and returns the new one's id.
        look_at_jobs: sees to it that the log learns their present stages.
        local_url: gives the address of this server on its own machine.
        public_url: gives the one that the Hub reaches.
    """

    settings: Settings
    endpoints: Mapping[str, Endpoint]
    access: Access
    log: Path
    replay: Callable[[str], str]
    look_at_jobs: Callable[[Iterable[StartedJob]], object]
    local_url: Callable[[], str]
    public_url: Callable[[], str]

    def add_to(self, ui: gr.Blocks) -> None:
        """Make the page a part of an app."""
        theirs = _components(ui)
        for component in theirs:
            component.load_event_to_attach = None  # leaving the app's context again would attach it once more
        # The button makes Gradio add its sign-in. Made out here it does nothing else: by itself it would fail for
        # members of organizations, whose profile its `gr.Request.session` cannot read (gradio 6.31).
        sign_in = gr.LoginButton(visible=False, render=False) if self.settings.oauth else None
        with ui.route("Deliveries", PAGE):
            if sign_in:
                sign_in.render()  # type: ignore[no-untyped-call]
            with gr.Column(visible=False) as self.locked:
                self._build_door()
            with gr.Column(visible=False) as self.unlocked:
                with gr.Tabs() as self.tabs:
                    with gr.Tab("Deliveries", id="deliveries"):
                        self._build_deliveries()
                    with gr.Tab("Test event", id="test"):
                        self._build_test_event()
                    with gr.Tab("On the Hub", id="hub") as hub_tab:
                        self._build_registration()
                self.sign_out = gr.Button("Sign out", size="sm", elem_classes="webhooks-corner")
            self._listen(ui, hub_tab)
        for component in _components(ui):
            if component not in theirs:
                vars(component)["async_move_resource_to_block_cache"] = _take_no_file

    # What is on it

    def _build_door(self) -> None:
        gr.HTML("<h1>Deliveries</h1>", elem_classes=["webhooks-card", "webhooks-bare"])
        self.door = gr.HTML(elem_classes=["webhooks-card", "webhooks-bare"])

    def _build_deliveries(self) -> None:
        everything: dict[str, Any] = {"value": ALL, "interactive": True, "min_width": 200}
        paths, statuses = list(self.endpoints), (*UNFINISHED, *FINISHED)
        with gr.Column() as self.list_column:
            with gr.Column(visible=False) as self.chart_column:
                self.chart = gr.BarPlot(
                    x="hour",
                    y="deliveries",
                    color="status",
                    color_map=COLORS,
                    x_bin="1h",
                    y_aggregate="sum",
                    color_title=" ",
                    height=270,
                    label="Deliveries per hour, last day",
                    show_label=True,
                    elem_classes="webhooks-chart",
                )
            with gr.Row():
                self.endpoint = gr.Dropdown(_choices("Every endpoint", paths), label="Endpoint", **everything)
                self.status = gr.Dropdown(_choices("Every status", statuses), label="Status", **everything)
                self.repo = gr.Dropdown(_choices("Every repository", ()), label="Repository", **everything)
            self.listing = gr.HTML(
                js_on_load=views.JS,
                elem_classes=["webhooks-card", "webhooks-bare", "webhooks-list"],
                elem_id="webhooks-listing",
            )
            with gr.Row(elem_classes="webhooks-buttons"):
                self.newer = gr.Button("← Newer", size="sm", interactive=False)
                self.older = gr.Button("Older →", size="sm", interactive=False)
        with gr.Column(visible=False) as self.details_column:
            with gr.Row(elem_classes="webhooks-buttons"):
                self.back = gr.Button("← All deliveries", size="sm")
                self.again = gr.Button("Replay", size="sm", variant="primary")
            self.details = gr.HTML(
                js_on_load=views.JS_OPEN,
                elem_classes=["webhooks-card", "webhooks-bare", "webhooks-list"],
                elem_id="webhooks-details",
            )
            self.payload = gr.Code(
                language="json",
                label="Payload",
                interactive=False,
                wrap_lines=True,
                max_lines=40,
                buttons=["copy"],
            )
        self.view, self.opened = gr.State(View()), gr.State(None)
        self.rows, self.seen = gr.State(()), gr.State(0)
        # Runs from the start, and each time anew: Gradio's page may lose an answer on a busy machine (6.31).
        self.live, self.chart_timer = gr.Timer(LIVE), gr.Timer(CHART, active=False)

    def _build_test_event(self) -> None:
        gr.Markdown(
            "Posts an event like the Hub's to one of your endpoints, with the real secret. "
            "**Your handler really runs**, so it may start a Job."
        )
        with gr.Row():
            paths = list(self.endpoints)
            self.test_endpoint = gr.Dropdown(paths, value=next(iter(paths), None), label="Endpoint", interactive=True)
            kinds = [(label, kind) for kind, label in samples.KINDS.items()]
            self.test_kind = gr.Dropdown(kinds, value="commit", label="Event", interactive=True)
        with gr.Row():
            self.test_type = gr.Dropdown(
                samples.REPO_TYPES, value="dataset", label="Type", interactive=True, min_width=200
            )
            self.test_repo = gr.Textbox(label="Repository", placeholder="username/my-dataset", max_length=200, scale=2)
            self.test_revision = gr.Textbox(
                label="Revision", placeholder="a commit's 40 digits, or empty", max_length=40, scale=2
            )
        self.send = gr.Button("Send test event", variant="primary")

    def _build_registration(self) -> None:
        self.hub_notice = gr.HTML(elem_classes=["webhooks-card", "webhooks-bare"])
        self.webhooks = gr.HTML(
            js_on_load=views.JS,
            elem_classes=["webhooks-card", "webhooks-bare", "webhooks-list"],
            elem_id="webhooks-registered",
        )
        gr.Markdown("### Create a webhook")
        with gr.Row():
            self.watch_type = gr.Dropdown(WATCHABLE, value="dataset", label="Watch", interactive=True, min_width=200)
            self.watch_name = gr.Textbox(
                label="Name",
                placeholder="username/my-dataset; or a user's, an organization's",
                max_length=200,
                scale=2,
            )
        with gr.Row():
            paths = list(self.endpoints)
            self.hub_endpoint = gr.Dropdown(
                paths, value=next(iter(paths), None), label="Call", interactive=True, scale=2
            )
            self.domains = gr.CheckboxGroup(DOMAINS, value=["repo"], label="Events of", min_width=200)
        self.create = gr.Button("Create webhook", variant="primary")

    # What happens on it

    def _listen(self, ui: gr.Blocks, hub_tab: gr.Tab) -> None:
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        where = [self.endpoint, self.status, self.repo, self.view, self.opened, self.seen]
        shown = [
            self.locked,
            self.unlocked,
            self.door,
            self.live,
            self.chart_timer,
            self.list_column,
            self.details_column,
            self.listing,
            self.newer,
            self.older,
            self.details,
            self.payload,
            self.rows,
            self.view,
            self.seen,
        ]
        everything = [*shown, self.opened]
        show = partial(gr.on, fn=self.show, inputs=where, outputs=shown, **quiet)

        ui.load(self.open_page, outputs=everything, **quiet).then(self.show, where, shown, **quiet)
        show(self.live.tick, trigger_mode="multiple")
        drawn = [self.chart, self.chart_column, self.endpoint, self.repo]
        gr.on([self.listing.change, self.chart_timer.tick], self.sum_up, outputs=drawn, **quiet)
        for chosen in (self.listing.click, self.details.click):
            chosen(self.choose, outputs=self.opened, **quiet).then(self.show, where, shown, **quiet)
        self.back.click(lambda: None, outputs=self.opened, js=views.JS_CLOSE, **quiet).then(
            self.show, where, shown, **quiet
        ).then(None, js=views.JS_RETURN)
        for filter in (self.endpoint, self.status, self.repo):
            filter.input(View, outputs=self.view, **quiet).then(self.show, where, shown, **quiet)
        self.older.click(self.go_older, self.rows, self.view, **quiet).then(self.show, where, shown, **quiet)
        self.newer.click(self.go_newer, self.rows, self.view, **quiet).then(self.show, where, shown, **quiet)
        self.again.click(self.run_again, self.opened, self.opened, **quiet).success(self.show, where, shown, **quiet)
        test = [self.test_endpoint, self.test_kind, self.test_type, self.test_repo, self.test_revision]
        gr.on(
            [self.send.click, self.test_repo.submit, self.test_revision.submit],
            self.send_test,
            test,
            [self.opened, self.tabs],
            api_visibility="private",
        ).success(self.show, where, shown, **quiet)
        registered = [self.hub_notice, self.webhooks]
        hub_tab.select(self.show_registered, outputs=registered, **quiet)
        new = [self.watch_type, self.watch_name, self.hub_endpoint, self.domains]
        self.create.click(self.register, new, registered, api_visibility="private")
        self.webhooks.click(self.switch, outputs=registered, **quiet)
        self.sign_out.click(self.end_session, **quiet).then(
            None, js=f"() => location.assign('{_SIGN_OUT if self.settings.oauth else PAGE}')"
        )

    def _check(self, request: gr.Request) -> None:
        if not self.access.is_owner(_http(request)):
            raise gr.Error("Only the owner may do this. Your session may be over: open the page again.", duration=None)

    def open_page(self, request: gr.Request) -> Update:
        """Show the door, or what is behind it."""
        if not self.access.is_owner(_http(request)):
            return self._lock(request)
        return {
            self.opened: request.query_params.get("delivery"),
            self.chart_timer: gr.Timer(active=True),
        }

    def _lock(self, request: gr.Request) -> Update:
        return {
            self.locked: gr.Column(visible=True),
            self.unlocked: gr.Column(visible=False),
            self.door: self._door(request),
            self.live: gr.Timer(active=False),
            self.chart_timer: gr.Timer(active=False),
            self.listing: "",
            self.details: "",
            self.payload: "",
            self.seen: 0,
        }

    def _door(self, request: gr.Request) -> str:
        link = f"the link that this server printed when it started (<code>{PAGE}?token=…</code>)"
        if request.query_params.get("notice") == "link":
            return f"<p>This link is not valid any more: each start makes a new one. Open {link}.</p>"
        if not self.settings.oauth:
            return f"<p>What has arrived is shown to the owner only. Open {link}.</p>"
        owner = views.text(self.settings.space_author_name)
        profile = self.access.profile(_http(request))
        if profile is None:
            return (
                f"<p>What has arrived is shown to {owner} only. Sign in, or open {link}; the Space's logs have it.</p>"
                f"<p>{views.button(_SIGN_IN, 'Sign in with Hugging Face')}</p>"
            )
        return (
            f"<p>You are signed in as {views.text(profile.get('preferred_username'))}. What has arrived is shown to "
            f"{owner} only. If that is an organization in which you may write, sign in again and grant access to it."
            f"</p><p>{views.button(_SIGN_OUT, 'Sign out')}</p>"
        )

    def show(
        self,
        endpoint: str,
        status: str,
        repo: str,
        view: View,
        opened: str | None,
        seen: int,
        request: gr.Request,
    ) -> Update:
        """Show the list, or the delivery that is open; nothing if it is what the page shows already."""
        if not self.access.is_owner(_http(request)):
            return self._lock(request)
        with history.reading(self.log) as database:
            if opened is not None:
                update = self._details(database, opened)
            else:
                page = queries.page(
                    database,
                    endpoint=endpoint or None,
                    status=status or None,
                    repo=repo or None,
                    older_than=view.older_than,
                    newer_than=view.newer_than,
                )
                update = self._list(page, filtered=bool(endpoint or status or repo))
                if view.newer_than is not None and not page.has_newer:
                    update[self.view] = View()  # or what arrives from now on would be on a page of its own
        now_seen = hash((opened, *map(str, update.values())))
        if now_seen == seen:
            return {self.seen: seen}
        return {
            **update,
            self.locked: gr.Column(visible=False),
            self.unlocked: gr.Column(visible=True),
            # Hidden by style: the chart fails when it is taken out of a page that it was drawn on (gradio 6.31).
            self.list_column: gr.Column(elem_classes="" if opened is None else "webhooks-away"),
            self.details_column: gr.Column(visible=opened is not None),
            self.seen: now_seen,
        }

    def _list(self, page: queries.Page, filtered: bool) -> Update:
        return {
            self.listing: views.listing(page, filtered),
            self.newer: gr.update(interactive=page.has_newer),  # a dict: a Button's text is another each time
            self.older: gr.update(interactive=page.has_older),
            self.rows: tuple(row.number for row in page.rows),
        }

    def _details(self, database: Any, id: str) -> Update:
        try:
            record = history.find(database, id)
        except KeyError:
            return {
                self.details: views.empty("There is no such delivery", "It may be too old, and deleted."),
                self.payload: "",
            }
        related = queries.related(database, id)
        self.look_at_jobs(related.jobs)
        return {
            self.details: views.details(record, related),
            self.payload: views.pretty(record.delivery.body),
        }

    def sum_up(self, request: gr.Request) -> Update:
        """Draw the chart, and offer what can be filtered by."""
        if not self.access.is_owner(_http(request)):
            return {self.chart: None}
        with history.reading(self.log) as database:
            counted = queries.per_hour(database)
            paths = sorted({*self.endpoints, *queries.endpoints(database)})
            repos = queries.repos(database)
        # A bar stands for a whole hour, so it is drawn around the middle of it.
        bars = [(hour + timedelta(minutes=30), status, count) for hour, status, count in counted]
        chart = pd.DataFrame(bars, columns=["hour", "status", "deliveries"])
        highest = int(chart.groupby("hour")["deliveries"].sum().max())
        return {
            self.chart: gr.BarPlot(chart, y_lim=[0, max(highest, 5)]),  # from 5 on, no mark is a fraction
            self.chart_column: gr.Column(visible=highest > 0),
            self.endpoint: gr.Dropdown(_choices("Every endpoint", paths)),
            self.repo: gr.Dropdown(_choices("Every repository", repos)),
        }

    def choose(self, event: gr.EventData, request: gr.Request) -> str | None:
        self._check(request)
        return _chosen(event, "open")

    def go_older(self, rows: tuple[int, ...], request: gr.Request) -> View:
        self._check(request)
        return View(older_than=rows[-1]) if rows else View()

    def go_newer(self, rows: tuple[int, ...], request: gr.Request) -> View:
        self._check(request)
        return View(newer_than=rows[0]) if rows else View()

    def run_again(self, opened: str | None, request: gr.Request) -> str:
        self._check(request)
        try:
            return self.replay(opened or "")
        except KeyError:
            raise gr.Error("There is no such delivery any more.") from None
        except NotTaken as reason:
            raise gr.Error(f"{reason} Try again later.") from None

    async def send_test(
        self, endpoint: str, kind: str, repo_type: str, name: str, revision: str, request: gr.Request
    ) -> Update:
        """Post a sample to an endpoint as the Hub would, and open its delivery."""
        self._check(request)
        if endpoint not in self.endpoints:
            raise gr.Error("There is no such endpoint.")
        try:
            payload = samples.sample(kind, repo_type, name.strip(), revision.strip().lower())
        except ValueError as error:
            raise gr.Error(str(error)) from None
        headers = {"User-Agent": "webhooks-test-event"}
        if secret := self.settings.secret_to_send:
            headers["X-Webhook-Secret"] = secret
        try:
            async with httpx.AsyncClient(trust_env=False, verify=False) as client:  # noqa: S501 - this very machine
                url = self.local_url() + endpoint
                answer = await client.post(url, json=payload, headers=headers, timeout=POST_WITHIN)
        except httpx.HTTPError as error:
            raise gr.Error(f"This server could not reach itself ({type(error).__name__}).") from None
        if id := answer.headers.get("X-Delivery-Id"):
            return {self.opened: id, self.tabs: gr.Tabs(selected="deliveries")}
        raise gr.Error(f"The endpoint answered {answer.status_code}: {_error(answer)}")

    async def show_registered(self, request: gr.Request) -> Update:
        self._check(request)
        try:
            webhooks = await self._registration(request).pointing_here()
        except HubSaysNo as reason:
            return {self.hub_notice: f"<p>{views.text(self.settings.hide(str(reason)), 1000)}</p>", self.webhooks: ""}
        return {self.hub_notice: "", self.webhooks: views.registered(webhooks)}

    async def register(
        self, watch_type: str, watch_name: str, endpoint: str, domains: list[str], request: gr.Request
    ) -> Update:
        self._check(request)
        name = watch_name.strip()
        if watch_type not in WATCHABLE or not name:
            raise gr.Error("Say what to watch, such as the dataset username/my-dataset.")
        if endpoint not in self.endpoints or not domains or not set(domains) <= set(DOMAINS):
            raise gr.Error("Choose an endpoint, and the events of at least one domain.")
        if self.settings.closed:
            raise gr.Error("Set WEBHOOK_SECRET first: without it this Space answers every call with 503.")
        url, watched = self.public_url() + endpoint, {"type": watch_type, "name": name}
        with self._saying_why_not():
            await self._registration(request).create(url, watched, domains, self.settings.secret_to_send)
        gr.Info("The webhook is created.")
        return await self.show_registered(request)

    async def switch(self, event: gr.EventData, request: gr.Request) -> Update:
        self._check(request)
        with self._saying_why_not():
            await self._registration(request).switch(_chosen(event, "switch") or "", _chosen(event, "on") == "True")
        return await self.show_registered(request)

    @contextlib.contextmanager
    def _saying_why_not(self) -> Iterator[None]:
        try:
            yield
        except HubSaysNo as reason:
            raise gr.Error(self.settings.hide(str(reason))) from None

    def _registration(self, request: gr.Request) -> Registration:
        public = self.public_url()
        if public == self.local_url():
            raise HubSaysNo(
                "The Hub cannot reach this machine. Start without GRADIO_SHARE=False to get a public link, or run "
                "this on a Space."
            )
        token = self.access.hub_token(_http(request))
        if token is None:
            how = "Sign in with Hugging Face" if self.settings.oauth else "Set HF_TOKEN and start again"
            raise HubSaysNo(f"{how} to see and create your webhooks.")
        return Registration(token, [urlsplit(public).netloc, *self.settings.space_hosts])

    def end_session(self, request: gr.Request) -> None:
        self._check(request)
        self.access.sign_out(_http(request))


# Gradio's own routes (gradio 6.31, oauth.py).
_SIGN_IN = f"/login/huggingface?_target_url={PAGE}"
_SIGN_OUT = f"/logout?_target_url={PAGE}"


def _components(ui: gr.Blocks) -> list[Component]:
    return [block for block in ui.blocks.values() if isinstance(block, Component)]


async def _take_no_file(_: object) -> None:
    """Refuse a file as an argument: Gradio would fetch it from its URL, whatever its size, for everybody (6.31)."""
    raise gr.Error("Nothing here takes a file.")


def _http(request: gr.Request) -> Request:
    """Return the HTTP request behind a call, or one that carries nothing."""
    return request.request or Request({"type": "http", "headers": []})


def _choices(every: str, values: Any) -> list[tuple[str, str]]:
    return [(every, ALL), *((views.plain(value), value) for value in values)]


def _chosen(event: gr.EventData, name: str) -> str | None:
    value = (event._data or {}).get(name)
    return value if isinstance(value, str) else None


def _error(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"])
    except (ValueError, KeyError, TypeError):
        return answer.reason_phrase
