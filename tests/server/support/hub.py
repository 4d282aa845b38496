"""A stand-in for huggingface.co: as much of it, over real HTTP, as the real client and Gradio's sign-in ask for.

Paths, fields and headers are the ones that `huggingface_hub` 2.4.0 sends and reads (`hf_api.py`, `_jobs_api.py`,
`_commit_api.py`, `community.py`, `utils/_http.py`) and that Authlib expects of an OpenID provider.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import hashlib
import html
import json
import math
import re
import secrets
import socket
import threading
import time
import urllib.parse
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from fnmatch import fnmatchcase
from typing import Any

import uvicorn
import yaml
from joserfc import jwt
from joserfc.jwk import RSAKey
from starlette.applications import Starlette
from starlette.datastructures import URL
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

FINISHED = {"COMPLETED", "CANCELED", "ERROR", "DELETED"}
# What `HfApi.update_job_labels` says of keys and values.
LABEL = re.compile(r"[A-Za-z0-9_-]{0,100}")
# The client asks once a process, unless a file in its cache is fresh, whether an agent runs it. Told 404, it gives up.
# An answer would land in the cache of whoever runs the tests.
TELEMETRY = "/api/agent-harnesses"
CLIENT = ("client-id", "client-secret")  # id and secret of the OAuth application
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]


@dataclass(frozen=True)
class Seen:
    """A request as it arrived."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class User:
    """An account. `orgs` maps the names of its organizations to its roles: admin, write, contributor or read."""

    name: str
    orgs: Mapping[str, str]


@dataclass(frozen=True)
class Token:
    user: User
    scopes: frozenset[str]
    expires: float = math.inf


@dataclass
class Job:
    """A Job as the client sent it. A test may set `stage` and `logs`."""

    id: str
    namespace: str
    image: str
    command: list[str]
    arguments: list[str]
    environment: dict[str, str]
    secrets: dict[str, str]
    flavor: str
    timeout: int | None
    labels: dict[str, str]
    created_at: datetime = field(default_factory=lambda: datetime.now(timezone.utc))
    stage: str = "SCHEDULING"
    logs: list[str] = field(default_factory=list)

    def spec(self) -> dict[str, Any]:
        """The Job as a webhook repeats it. A secret is never given back."""
        return {
            "dockerImage": self.image,
            "command": self.command,
            "arguments": self.arguments,
            "environment": self.environment,
            "secrets": dict.fromkeys(self.secrets, ""),
            "flavor": self.flavor,
            "timeout": self.timeout,
            "labels": self.labels,
        }

    def info(self, owner_type: str) -> dict[str, Any]:
        return {
            **self.spec(),
            "id": self.id,
            "createdAt": timestamp(self.created_at),
            "status": {"stage": self.stage, "message": None},
            "owner": {"id": object_id(self.namespace), "name": self.namespace, "type": owner_type},
        }


@dataclass
class Discussion:
    """A discussion, or a pull request with the files it would change. A test may call `close`, or set `status`."""

    num: int
    title: str
    author: str
    files: dict[str, str] | None = None
    status: str = "open"
    events: list[dict[str, Any]] = field(default_factory=list)

    def comment(self, author: str, text: str) -> dict[str, Any]:
        latest = {"raw": text, "html": html.escape(text), "updatedAt": _now(), "author": {"name": author}}
        return self._add("comment", author, {"edited": False, "hidden": False, "latest": latest, "history": []})

    def close(self, author: str) -> None:
        self.status = "closed"
        self._add("status-change", author, {"status": self.status})

    def _add(self, kind: str, author: str, data: dict[str, Any]) -> dict[str, Any]:
        event = {
            "id": secrets.token_hex(12),
            "type": kind,
            "createdAt": _now(),
            "author": {"name": author},
            "data": data,
        }
        self.events.append(event)
        return event

    def info(self, repo: Repo) -> dict[str, Any]:
        return {
            "num": self.num,
            "title": self.title,
            "author": {"name": self.author},
            "createdAt": timestamp(repo.created_at),
            "status": self.status,
            "repo": {"name": repo.name, "type": repo.kind},
            "isPullRequest": self.files is not None,
        }

    def details(self, repo: Repo) -> dict[str, Any]:
        pull = {} if self.files is None else {"changes": {"base": "refs/heads/main"}, "filesWithConflicts": []}
        return {**self.info(repo), "events": self.events, **pull}


@dataclass
class Repo:
    """A public repository: the text files on `main`, its discussions and its pull requests. A test may set `files`."""

    kind: str
    name: str
    files: dict[str, str]
    discussions: list[Discussion] = field(default_factory=list)
    created_at: datetime = field(default_factory=lambda: datetime.now(timezone.utc))

    @property
    def sha(self) -> str:
        return commit_id(self.files)

    @property
    def pull_requests(self) -> list[Discussion]:
        return [discussion for discussion in self.discussions if discussion.files is not None]

    def open(self, author: str, title: str, files: dict[str, str] | None = None) -> Discussion:
        """Open a discussion, or with files a pull request."""
        self.discussions.append(Discussion(len(self.discussions) + 1, title, author, files))
        return self.discussions[-1]

    def card_data(self) -> Any:
        _, fence, rest = self.files.get("README.md", "").partition("---\n")
        return yaml.safe_load(rest.partition("\n---")[0]) if fence else None


@dataclass(frozen=True)
class Held:
    """An answer that waits: `arrived` is set once the request has taken effect; set `released` to let it go."""

    arrived: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)


@dataclass
class Script:
    """What the next `times` matching requests meet in place of the Hub."""

    method: str
    pattern: str
    app: ASGIApp
    times: int

    def takes(self, request: Seen) -> bool:
        return self.times > 0 and request.method == self.method and fnmatchcase(request.path, self.pattern)


class Protocol(H11Protocol):
    """HTTP whose application may cut the connection, which ASGI alone cannot ask for."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        app = self.app

        async def with_transport(scope: Any, receive: Any, send: Any) -> None:
            await app({**scope, "transport": transport}, receive, send)

        self.app = with_transport


class Hub:
    """A Hub of one's own on 127.0.0.1, for as long as the `with` block lasts.

    Attributes:
        url: where it serves; for `HF_ENDPOINT` and `OPENID_PROVIDER_URL`.
        requests: everything that was asked, in order, but for the client's telemetry.
        unknown: what it had no answer to, as `"GET /path"`. A test that leaves something here went astray.
        jobs: every Job that was started, oldest first.
        webhooks: the webhooks of each user, as JSON.
        lists_late: from how many lists of webhooks, or of Jobs, one that is created is missing at first.
        repos: every repository, by its type and name.
        page_size: how many Jobs or discussions a page of a list holds.
        ignores_labels: whether a list holds every Job, whatever labels are asked for.
        signed_in: the user in the browser, at the moment of a sign-in; with `None` it is declined.
        withheld: organizations to which that user does not let the application: named to it, but without a role.
        token_lifetime: seconds until an access token expires.
    """

    def __init__(self) -> None:
        self.requests: list[Seen] = []
        self.unknown: list[str] = []
        self.jobs: list[Job] = []
        self.webhooks: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        self.lists_late = 0
        self.repos: dict[tuple[str, str], Repo] = {}
        self.page_size = 100
        self.ignores_labels = False
        self.signed_in: str | None = None
        self.withheld: set[str] = set()
        self.token_lifetime = 28800
        self._users: dict[str, User] = {}
        self._tokens: dict[str, Token] = {}
        self._late: dict[str, int] = {}
        self._codes: dict[str, tuple[User, Mapping[str, str]]] = {}
        self._scripts: list[Script] = []
        self._held: list[Held] = []
        self._to_come: set[asyncio.Task[None]] = set()
        self._hub = Starlette(routes=self._routes(), exception_handlers={HTTPException: _refused})
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # or each answer takes 40 ms
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        config = uvicorn.Config(self._answer, interface="asgi3", http=Protocol, lifespan="off", log_config=None)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), daemon=True)

    def __enter__(self) -> Hub:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.forget()
        self._server.should_exit = self._server.force_exit = True
        self._thread.join()
        self._socket.close()

    # --- what a test says

    def forget(self) -> None:
        """Begin anew, but for users and tokens: nothing asked, nothing there, nothing scripted, nothing held."""
        released = list(self._held)
        for kept in (self.requests, self.unknown, self.jobs, self.webhooks, self.repos, self._scripts, self._held):
            kept.clear()
        for held in released:
            held.released.set()
        self.page_size, self.ignores_labels, self.lists_late = 100, False, 0
        self._late.clear()

    def space(self, host: str = "me-hooks.hf.space") -> dict[str, str]:
        """Return the environment of a Space whose visitors sign in here."""
        return {
            "SYSTEM": "spaces",
            "SPACE_ID": "me/hooks",
            "SPACE_HOST": host,
            "SPACE_AUTHOR_NAME": "me",
            "OAUTH_CLIENT_ID": CLIENT[0],
            "OAUTH_CLIENT_SECRET": CLIENT[1],
            "OAUTH_SCOPES": "openid profile webhooks",
            "OPENID_PROVIDER_URL": self.url,
        }

    def add_user(self, name: str, orgs: Mapping[str, str] | None = None) -> None:
        """Add an account, with the organizations it belongs to and its role in each."""
        self._users[name] = User(name, orgs or {})

    def add_token(self, token: str, user: str, scopes: Iterable[str] = ("webhooks", "jobs", "discussions")) -> None:
        """Make a string an access token of this user."""
        self._tokens[token] = Token(self._users[user], frozenset(scopes))

    def add_repo(self, kind: str, name: str, files: Mapping[str, str] | None = None) -> Repo:
        """Add a public repository: a model, dataset or space."""
        self.repos[kind, name] = Repo(kind, name, dict(files or {}))
        return self.repos[kind, name]

    def fail(
        self,
        method: str,
        pattern: str,
        status: int,
        message: str = "scripted",
        headers: Mapping[str, str] | None = None,
        times: int = 1,
        after: int = 0,
    ) -> None:
        """Answer the next matching requests with an error; they take no effect. `*` in the pattern is any text.

        Args:
            after: how many matching requests pass before them.
        """
        if after:
            self._scripts.append(Script(method, pattern, self._hub, after))
        self._scripts.append(Script(method, pattern, _error(status, message, headers), times))

    def babble(self, method: str, pattern: str, content: bytes) -> None:
        """Answer the next matching request with 200 and this, whatever it is; it takes no effect."""
        self._scripts.append(Script(method, pattern, Response(content, media_type="application/json"), 1))

    def cut(self, method: str, pattern: str, times: int = 1) -> None:
        """Close the connection of the next matching requests without an answer; they take no effect."""
        self._scripts.append(Script(method, pattern, _cut, times))

    def lose_answer(self, method: str, pattern: str, times: int = 1) -> None:
        """Let the next matching requests take effect, and close the connection in place of an answer."""

        async def lose(scope: Scope, receive: Receive, send: Send) -> None:
            await self._hub(scope, receive, _discard)
            await _cut(scope, receive, send)

        self._scripts.append(Script(method, pattern, lose, times))

    def hold(self, method: str, pattern: str) -> Held:
        """Let the next matching request take effect, and keep its answer until the test releases it."""
        held = Held()

        async def wait(scope: Scope, receive: Receive, send: Send) -> None:
            messages: list[Message] = []

            async def keep(message: Message) -> None:
                messages.append(message)

            await self._hub(scope, receive, keep)
            held.arrived.set()
            await asyncio.to_thread(held.released.wait)
            for message in messages:
                await send(message)

        self._held.append(held)
        self._scripts.append(Script(method, pattern, wait, 1))
        return held

    def late(self, method: str, pattern: str, status: int | None = 504) -> Held:
        """Answer the next matching request with an error, or without a status cut it off; it takes effect later.

        Returns:
            What to release for that; it arrives when that is done.
        """
        held = Held()
        answer = _cut if status is None else _error(status, "The server was too slow")

        async def take_effect(scope: Scope, body: bytes) -> None:
            async def receive() -> Message:
                return {"type": "http.request", "body": body}

            await asyncio.to_thread(held.released.wait)
            if held in self._held:  # else the test is over
                await self._hub(scope, receive, _discard)
                held.arrived.set()

        async def answer_first(scope: Scope, receive: Receive, send: Send) -> None:
            task = asyncio.create_task(take_effect(scope, (await receive())["body"]))
            self._to_come.add(task)
            task.add_done_callback(self._to_come.discard)
            await answer(scope, receive, send)

        self._held.append(held)
        self._scripts.append(Script(method, pattern, answer_first, 1))
        return held

    # --- the way of a request

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        body = await request.body()
        seen = Seen(request.method, request.url.path, request.url.query, dict(request.headers), body)
        if seen.path == TELEMETRY:
            await _error(404, "Not here")(scope, receive, send)
            return
        self.requests.append(seen)
        unread: list[Message] = [{"type": "http.request", "body": body}]

        async def again() -> Message:
            return unread.pop() if unread else await receive()

        script = next((script for script in self._scripts if script.takes(seen)), None)
        if script:
            script.times -= 1
        await (script.app if script else self._hub)(scope, again, send)

    def _routes(self) -> list[Route]:
        webhooks, jobs = "/api/settings/webhooks", "/api/jobs/{namespace}"
        repo = "/api/{kinds}/{namespace}/{name}"
        return [
            Route("/api/whoami-v2", self._whoami),
            Route(webhooks, self._list_webhooks),
            Route(webhooks, self._create_webhook, methods=["POST"]),
            Route(webhooks + "/{id}", self._get_webhook),
            Route(webhooks + "/{id}", self._update_webhook, methods=["POST"]),
            Route(webhooks + "/{id}", self._delete_webhook, methods=["DELETE"]),
            Route(webhooks + "/{id}/enable", self._switch_webhook, methods=["POST"]),
            Route(webhooks + "/{id}/disable", self._switch_webhook, methods=["POST"]),
            Route(jobs, self._list_jobs),
            Route(jobs, self._run_job, methods=["POST"]),
            Route(jobs + "/{id}", self._inspect_job),
            Route(jobs + "/{id}/logs", self._job_logs),
            Route(jobs + "/{id}/cancel", self._cancel_job, methods=["POST"]),
            Route("/api/buckets/{namespace}/{name}", self._create_bucket, methods=["POST"]),
            Route("/api/spaces/{namespace}/{name}/volumes", self._set_volumes, methods=["PUT"]),
            Route("/api/validate-yaml", self._validate_yaml, methods=["POST"]),
            Route("/api/models/{namespace}/{name}", self._model_info),
            Route(repo + "/discussions", self._list_discussions),
            Route(repo + "/discussions/{num:int}", self._discussion_details),
            Route(repo + "/discussions/{num:int}/comment", self._comment, methods=["POST"]),
            Route(repo + "/preupload/main", self._preupload, methods=["POST"]),
            Route(repo + "/commit/main", self._commit, methods=["POST"]),
            Route("/{namespace}/{name}/resolve/main/{file:path}", self._download),
            Route("/.well-known/openid-configuration", self._openid_configuration),
            Route("/oauth/authorize", self._authorize),
            Route("/oauth/token", self._token, methods=["POST"]),
            Route("/oauth/jwks", self._jwks),
            Route("/oauth/userinfo", self._userinfo),
            Route("/{path:path}", self._unknown, methods=METHODS),
        ]

    async def _unknown(self, request: Request) -> Response:
        self.unknown.append(f"{request.method} {request.url.path}")
        return _error(404, "Sorry, we can't find the page you are looking for.")

    # --- who asks

    def _allowed(self, request: Request, scope: str | None = None) -> Token:
        token = self._tokens.get(request.headers.get("authorization", "").removeprefix("Bearer "))
        if token is None or token.expires <= time.time():
            raise HTTPException(401, "Invalid credentials in Authorization header")
        if scope and scope not in token.scopes:
            raise HTTPException(403, f"This token lacks the scope that this needs: {scope}")
        return token

    async def _whoami(self, request: Request) -> Response:
        user = self._allowed(request).user
        return JSONResponse(
            {
                "type": "user",
                "id": object_id(user.name),
                "name": user.name,
                "fullname": user.name.title(),
                "avatarUrl": f"{self.url}/avatars/{user.name}.svg",
                "isPro": False,
                "canPay": True,
                "orgs": [
                    {"type": "org", "id": object_id(org), "name": org, "fullname": org.title(), "roleInOrg": role}
                    for org, role in user.orgs.items()
                ],
                "auth": {"type": "access_token", "accessToken": {"displayName": "test", "role": "write"}},
            }
        )

    # --- webhooks

    def _webhook(self, request: Request) -> dict[str, Any]:
        user = self._allowed(request, "webhooks").user
        for webhook in self.webhooks[user.name]:
            if webhook["id"] == request.path_params["id"]:
                return webhook
        raise HTTPException(404, "Webhook not found")

    async def _read_webhook(self, request: Request) -> dict[str, Any]:
        given: dict[str, Any] = await request.json()
        if source := given.pop("jobSourceId", None):
            job = next(job for job in self.jobs if job.id == source)
            given["job"] = {**job.spec(), "secrets": dict.fromkeys(given.pop("secrets", {}), "")}
        return given

    async def _list_webhooks(self, request: Request) -> Response:
        all_of_them = self.webhooks[self._allowed(request, "webhooks").user.name]
        listed = [webhook for webhook in all_of_them if webhook["id"] not in self._late]
        self._let_appear()
        return JSONResponse(listed)

    def _let_appear(self) -> None:
        """After a list, another one may show what was missing."""
        self._late = {id: times - 1 for id, times in self._late.items() if times > 1}

    def _created(self, id: str) -> None:
        if self.lists_late:
            self._late[id] = self.lists_late

    async def _create_webhook(self, request: Request) -> Response:
        user = self._allowed(request, "webhooks").user
        webhook = {"id": secrets.token_hex(12), "disabled": False, **await self._read_webhook(request)}
        self.webhooks[user.name].append(webhook)
        self._created(webhook["id"])
        return JSONResponse({"webhook": webhook})

    async def _get_webhook(self, request: Request) -> Response:
        return JSONResponse({"webhook": self._webhook(request)})

    async def _update_webhook(self, request: Request) -> Response:
        webhook = self._webhook(request)
        webhook.update(await self._read_webhook(request))
        return JSONResponse({"webhook": webhook})

    async def _delete_webhook(self, request: Request) -> Response:
        webhook = self._webhook(request)
        self.webhooks[self._allowed(request).user.name].remove(webhook)
        return JSONResponse({"success": True})

    async def _switch_webhook(self, request: Request) -> Response:
        webhook = self._webhook(request)
        webhook["disabled"] = request.url.path.endswith("/disable")
        return JSONResponse({"webhook": webhook})

    # --- Jobs

    def _namespace(self, request: Request) -> str:
        user, namespace = self._allowed(request, "jobs").user, request.path_params["namespace"]
        if namespace != user.name and user.orgs.get(namespace, "read") == "read":
            raise HTTPException(403, f"You may not run Jobs under {namespace}")
        return str(namespace)

    def _job(self, request: Request) -> Job:
        namespace = self._namespace(request)
        for job in self.jobs:
            if (job.namespace, job.id) == (namespace, request.path_params["id"]):
                return job
        raise HTTPException(404, "Job not found")

    def _info(self, job: Job) -> dict[str, Any]:
        return job.info("user" if job.namespace in self._users else "org")

    async def _list_jobs(self, request: Request) -> Response:
        namespace = self._namespace(request)
        stages = request.query_params.getlist("stage")
        asked = [] if self.ignores_labels else request.query_params.getlist("label")
        labels = {tuple(label.split("=", 1)) for label in asked}
        found = [
            self._info(job)
            for job in reversed(self.jobs)
            if job.namespace == namespace and (not stages or job.stage in stages) and labels <= job.labels.items()
            if job.id not in self._late
        ]
        self._let_appear()
        start = int(request.query_params.get("cursor", 0))
        end = start + self.page_size
        following = f'<{request.url.include_query_params(cursor=end)}>; rel="next"'
        return JSONResponse(found[start:end], headers={"Link": following} if end < len(found) else None)

    async def _run_job(self, request: Request) -> Response:
        namespace = self._namespace(request)
        sent = await request.json()
        labels = sent.get("labels", {})
        if not all(LABEL.fullmatch(text) for label in labels.items() for text in label):
            raise HTTPException(400, "Labels may hold letters, digits, dashes and underscores, at most 100 of them")
        job = Job(
            id=secrets.token_hex(12),
            namespace=namespace,
            image=sent["dockerImage"],
            command=sent["command"],
            arguments=sent["arguments"],
            environment=sent["environment"],
            secrets=sent.get("secrets", {}),
            flavor=sent["flavor"],
            timeout=sent.get("timeoutSeconds"),
            labels=labels,
        )
        self.jobs.append(job)
        self._created(job.id)
        return JSONResponse(self._info(job))

    async def _inspect_job(self, request: Request) -> Response:
        return JSONResponse(self._info(self._job(request)))

    async def _cancel_job(self, request: Request) -> Response:
        job = self._job(request)
        if job.stage not in FINISHED:
            job.stage = "CANCELED"
        return JSONResponse(self._info(job))

    async def _job_logs(self, request: Request) -> Response:
        job = self._job(request)
        events = [{"data": line, "timestamp": timestamp(job.created_at)} for line in job.logs]
        lines = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
        return PlainTextResponse(lines, media_type="text/event-stream")

    # --- buckets and repositories

    async def _create_bucket(self, request: Request) -> Response:
        namespace, name = request.path_params["namespace"], request.path_params["name"]
        return JSONResponse({"url": f"{self.url}/buckets/{namespace}/{name}"})

    async def _set_volumes(self, request: Request) -> Response:
        return JSONResponse({})

    def _repo(self, request: Request) -> Repo:
        at = {"kinds": "models", **request.path_params}
        repo = self.repos.get((at["kinds"].removesuffix("s"), f"{at['namespace']}/{at['name']}"))
        if repo is None:
            raise HTTPException(404, "Repository not found", {"X-Error-Code": "RepoNotFound"})
        return repo

    def _discussion(self, request: Request) -> Discussion:
        for discussion in self._repo(request).discussions:
            if discussion.num == request.path_params["num"]:
                return discussion
        raise HTTPException(404, "Discussion not found")

    async def _validate_yaml(self, request: Request) -> Response:
        return JSONResponse({"errors": [], "warnings": []})

    async def _model_info(self, request: Request) -> Response:
        repo = self._repo(request)
        card = repo.card_data()
        return JSONResponse({"id": repo.name, "sha": repo.sha, **({"cardData": card} if card else {})})

    async def _download(self, request: Request) -> Response:
        repo, file = self._repo(request), request.path_params["file"]
        commit = {"X-Repo-Commit": repo.sha}
        if file not in repo.files:
            raise HTTPException(404, "Entry not found", {"X-Error-Code": "EntryNotFound", **commit})
        return PlainTextResponse(repo.files[file], headers={**commit, "ETag": f'"{commit_id(repo.files[file])}"'})

    async def _list_discussions(self, request: Request) -> Response:
        repo, query = self._repo(request), request.query_params
        found = [discussion.info(repo) for discussion in reversed(repo.discussions)]
        if author := query.get("author"):
            found = [one for one in found if one["author"]["name"] == author]
        if (kind := query.get("type", "all")) != "all":
            found = [one for one in found if one["isPullRequest"] == (kind == "pull_request")]
        if (status := query.get("status", "all")) != "all":
            found = [one for one in found if (one["status"] in ("open", "draft")) == (status == "open")]
        start = int(query.get("p", 0)) * self.page_size
        page = found[start : start + self.page_size]
        return JSONResponse({"discussions": page, "count": len(found), "start": start})

    async def _discussion_details(self, request: Request) -> Response:
        return JSONResponse(self._discussion(request).details(self._repo(request)))

    async def _comment(self, request: Request) -> Response:
        author = self._allowed(request, "discussions").user.name
        text = (await request.json())["comment"]
        return JSONResponse({"newMessage": self._discussion(request).comment(author, text)})

    async def _preupload(self, request: Request) -> Response:
        self._allowed(request, "discussions")
        files = [{"path": file["path"]} for file in (await request.json())["files"]]
        return JSONResponse({"files": [{**file, "uploadMode": "regular", "shouldIgnore": False} for file in files]})

    async def _commit(self, request: Request) -> Response:
        author = self._allowed(request, "discussions").user.name
        if request.query_params.get("create_pr") != "1":
            raise HTTPException(403, "Forbidden: pass `create_pr=1` as a query parameter to create a Pull Request")
        repo = self._repo(request)
        header, *files = (json.loads(line)["value"] for line in (await request.body()).splitlines())
        content = {file["path"]: base64.b64decode(file["content"]).decode() for file in files}
        pull = repo.open(author, header["summary"], {**repo.files, **content})
        at, sha = f"{self.url}/{repo.name}", commit_id(pull.files)
        return JSONResponse(
            {
                "success": True,
                "commitOid": sha,
                "commitUrl": f"{at}/commit/{sha}",
                "pullRequestUrl": f"{at}/discussions/{pull.num}",
            }
        )

    # --- sign in

    async def _openid_configuration(self, request: Request) -> Response:
        return JSONResponse(
            {
                "issuer": self.url,
                "authorization_endpoint": f"{self.url}/oauth/authorize",
                "token_endpoint": f"{self.url}/oauth/token",
                "userinfo_endpoint": f"{self.url}/oauth/userinfo",
                "jwks_uri": f"{self.url}/oauth/jwks",
                "id_token_signing_alg_values_supported": ["RS256"],
            }
        )

    async def _authorize(self, request: Request) -> Response:
        query = dict(request.query_params)
        if (query.get("client_id"), query.get("response_type")) != (CLIENT[0], "code"):
            raise HTTPException(400, "Unknown client, or no code asked for")
        if self.signed_in is None:
            answer = {"error": "access_denied"}
        else:
            answer = {"code": secrets.token_urlsafe()}
            self._codes[answer["code"]] = self._users[self.signed_in], query
        return RedirectResponse(URL(query["redirect_uri"]).include_query_params(**answer, state=query["state"]), 302)

    async def _token(self, request: Request) -> Response:
        if request.headers.get("authorization") != basic(*CLIENT):
            return JSONResponse({"error": "invalid_client"}, 401)
        form = dict(urllib.parse.parse_qsl((await request.body()).decode()))
        user, asked = self._codes.pop(form.get("code", ""), (None, {}))
        if user is None or form.get("redirect_uri") != asked["redirect_uri"]:
            return JSONResponse({"error": "invalid_grant"}, 400)
        now, access_token = int(time.time()), "hf_oauth_" + secrets.token_urlsafe()
        times = {"iat": now, "exp": now + self.token_lifetime}
        token = Token(user, frozenset(asked["scope"].split()), times["exp"])
        claims = {"iss": self.url, "aud": CLIENT[0], "nonce": asked.get("nonce"), **times, **self._claims(token)}
        self._tokens[access_token] = token
        return JSONResponse(
            {
                "access_token": access_token,
                "token_type": "bearer",
                "expires_in": self.token_lifetime,
                "scope": asked["scope"],
                "id_token": jwt.encode({"alg": "RS256", "kid": _key().kid}, claims, _key()),
            }
        )

    def _claims(self, token: Token) -> dict[str, Any]:
        name = token.user.name
        email = {"email": f"{name}@example.com", "email_verified": True} if "email" in token.scopes else {}
        orgs = [
            {**self._profile(org), "isEnterprise": False, **({} if org in self.withheld else {"roleInOrg": role})}
            for org, role in token.user.orgs.items()
        ]
        return {**self._profile(name), "profile": f"{self.url}/{name}", "website": "", "orgs": orgs, **email}

    def _profile(self, name: str) -> dict[str, str]:
        return {
            "sub": object_id(name),
            "name": name.title(),
            "preferred_username": name,
            "picture": f"{self.url}/avatars/{name}.svg",
        }

    async def _jwks(self, request: Request) -> Response:
        return JSONResponse({"keys": [_key().as_dict(private=False)]})

    async def _userinfo(self, request: Request) -> Response:
        return JSONResponse(self._claims(self._allowed(request)))


def object_id(name: str) -> str:
    """The id of an account: as long as the Hub's, and always the same for the same name."""
    return hashlib.sha256(name.encode()).hexdigest()[:24]


def commit_id(content: object) -> str:
    """As long as Git's, and always the same for the same content."""
    return hashlib.sha1(repr(content).encode()).hexdigest()


def timestamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _now() -> str:
    return timestamp(datetime.now(timezone.utc))


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@functools.cache
def _key() -> Any:
    return RSAKey.generate_key(2048, {"use": "sig", "alg": "RS256"}, auto_kid=True)


def _error(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    told = {"X-Error-Message": message, "X-Request-Id": "Root=1-" + secrets.token_hex(12), **(headers or {})}
    return JSONResponse({"error": message}, status, told)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _error(error.status_code, error.detail, error.headers)


async def _cut(scope: Scope, receive: Receive, send: Send) -> None:
    scope["transport"].abort()
    while (await receive())["type"] != "http.disconnect":
        pass


async def _discard(message: Message) -> None:
    pass
