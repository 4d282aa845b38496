"""A stand-in for huggingface.co on 127.0.0.1: what the server and its recipes ask of it, with the real client.

Paths, fields and headers are those of `huggingface_hub` 2.4.0 and of Authlib. Repositories are in `support.repos`.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import json
import re
import secrets
import socket
import threading
import time
import urllib.parse
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from fnmatch import fnmatchcase
from typing import Any

import httpx
import uvicorn
from joserfc import jwt
from joserfc.jwk import RSAKey
from starlette.applications import Starlette
from starlette.datastructures import URL
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from support.repos import Repo, RepoApi, object_id, timestamp
from webhooks.delivery import FINAL_STAGES

LABEL = re.compile(r"[A-Za-z0-9_-]{0,100}")  # what `HfApi.update_job_labels` says of keys and values
TELEMETRY = "/api/agent-harnesses"  # the client asks for it once a process; an answer would land in its cache
CLIENT = ("client-id", "client-secret")  # of the OAuth application
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
class Token:
    """An access token of a user. `orgs` maps the user's organizations to roles: admin, write, contributor or read."""

    user: str
    orgs: Mapping[str, str]
    scopes: frozenset[str]


@dataclass
class Job:
    """A Job as the client sent it. A test may set `stage`."""

    namespace: str
    command: list[str]
    environment: dict[str, str]
    secrets: dict[str, str]
    flavor: str
    timeout: int | None
    labels: dict[str, str]
    id: str = field(default_factory=lambda: secrets.token_hex(12))
    created_at: datetime = field(default_factory=lambda: datetime.now(timezone.utc))
    stage: str = "SCHEDULING"

    def info(self) -> dict[str, Any]:
        """Return what the Hub shows of the Job. It never shows a secret."""
        shown = {"id": self.id, "command": self.command, "environment": self.environment, "flavor": self.flavor}
        owner = {"id": object_id(self.namespace), "name": self.namespace, "type": "user"}
        status = {"stage": self.stage, "message": None}
        created = timestamp(self.created_at)
        return {**shown, "labels": self.labels, "createdAt": created, "status": status, "owner": owner}


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
    """A Hub for as long as the `with` block lasts.

    Attributes:
        url: where it serves; for `HF_ENDPOINT` and `OPENID_PROVIDER_URL`.
        requests: everything that was asked, in order, but for the client's telemetry.
        unknown: what it had no answer to, as `"GET /path"`. A test that leaves something here went astray.
        jobs: every Job that was started, oldest first.
        webhooks: the webhooks of each user, as JSON.
        repos: every repository, by its type and name.
        on_request: called with each request before its answer, on a thread.
        lists_late: from how many lists of Jobs a new Job is missing at first.
        signed_in: the user in the browser, at the moment of a sign-in; with `None` it is declined.
        withheld: organizations to which that user does not let the application: named to it, but without a role.
        token_lifetime: seconds until an access token expires.
    """

    def __init__(self) -> None:
        self.requests: list[Seen] = []
        self.unknown: list[str] = []
        self.jobs: list[Job] = []
        self.webhooks: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        self.repos: dict[tuple[str, str], Repo] = {}
        self.on_request: Callable[[Seen], None] | None = None
        self.lists_late = 0
        self.signed_in: str | None = None
        self.withheld: set[str] = set()
        self.token_lifetime = 28800
        self._users: dict[str, Mapping[str, str]] = {}
        self._tokens: dict[str, Token] = {}
        self._late: dict[str, int] = {}
        self._codes: dict[str, tuple[str, Mapping[str, str]]] = {}
        self._scripts: list[Script] = []
        self._held: list[Held] = []
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

    # --- for tests

    def forget(self) -> None:
        """Begin anew, but for users and tokens: nothing asked, nothing there, nothing scripted, nothing held."""
        released = list(self._held)
        for kept in (self.requests, self.unknown, self.jobs, self.webhooks, self.repos, self._scripts, self._held):
            kept.clear()
        for held in released:
            held.released.set()
        self.on_request, self.lists_late = None, 0
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
        self._users[name] = orgs or {}

    def add_token(self, token: str, user: str, scopes: Iterable[str] = ("webhooks", "jobs", "discussions")) -> None:
        """Make a string an access token of this user."""
        self._tokens[token] = Token(user, self._users[user], frozenset(scopes))

    def add_repo(self, kind: str, name: str, files: Mapping[str, str] | None = None, **fields: Any) -> Repo:
        """Add a model, dataset or space. A list of repositories begins with the last one added."""
        self.repos[kind, name] = Repo(kind, name, dict(files or {}), **fields)
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

    def repeat(self, method: str, path: str) -> None:
        """Let the last such request take effect now, which had none when it came."""
        seen = [request for request in self.requests if (request.method, request.path) == (method, path)][-1]
        url = f"{self.url}{path}?{seen.query}"
        httpx.request(method, url, headers=dict(seen.headers), content=seen.body).raise_for_status()

    # --- requests

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        body = await request.body()
        seen = Seen(request.method, request.url.path, request.url.query, dict(request.headers), body)
        if seen.path == TELEMETRY:
            await _error(404, "Not here")(scope, receive, send)
            return
        self.requests.append(seen)
        if self.on_request:
            await asyncio.to_thread(self.on_request, seen)
        unread: list[Message] = [{"type": "http.request", "body": body}]

        async def again() -> Message:
            return unread.pop() if unread else await receive()

        script = next((script for script in self._scripts if script.takes(seen)), None)
        if script:
            script.times -= 1
        await (script.app if script else self._hub)(scope, again, send)

    def _routes(self) -> list[Route]:
        webhooks, jobs = "/api/settings/webhooks", "/api/jobs/{namespace}"
        return [
            Route("/api/whoami-v2", self._whoami),
            Route(webhooks, self._list_webhooks),
            Route(webhooks, self._create_webhook, methods=["POST"]),
            Route(jobs, self._list_jobs),
            Route(jobs, self._run_job, methods=["POST"]),
            Route(jobs + "/{id}", self._inspect_job),
            Route(jobs + "/{id}/cancel", self._cancel_job, methods=["POST"]),
            *RepoApi(self).routes(),
            Route("/.well-known/openid-configuration", self._openid_configuration),
            Route("/oauth/authorize", self._authorize),
            Route("/oauth/token", self._token, methods=["POST"]),
            Route("/oauth/jwks", self._jwks),
            Route("/{path:path}", self._unknown, methods=METHODS),
        ]

    async def _unknown(self, request: Request) -> Response:
        self.unknown.append(f"{request.method} {request.url.path}")
        return _error(404, "Not found")

    def allowed(self, request: Request, scope: str | None = None) -> Token:
        """Return the token of a request, or refuse the request."""
        token = self._tokens.get(request.headers.get("authorization", "").removeprefix("Bearer "))
        if token is None:
            raise HTTPException(401, "Invalid credentials in Authorization header")
        if scope and scope not in token.scopes:
            raise HTTPException(403, f"This token lacks the scope that this needs: {scope}")
        return token

    async def _whoami(self, request: Request) -> Response:
        token = self.allowed(request)
        orgs = [{"type": "org", "name": org, "roleInOrg": role} for org, role in token.orgs.items()]
        return JSONResponse({"type": "user", "id": object_id(token.user), "name": token.user, "orgs": orgs})

    # --- webhooks

    async def _list_webhooks(self, request: Request) -> Response:
        return JSONResponse(self.webhooks[self.allowed(request, "webhooks").user])

    async def _create_webhook(self, request: Request) -> Response:
        webhooks = self.webhooks[self.allowed(request, "webhooks").user]
        webhooks.append({"id": secrets.token_hex(12), "disabled": False, **await request.json()})
        return JSONResponse({"webhook": webhooks[-1]})

    # --- Jobs

    def _namespace(self, request: Request) -> str:
        token, namespace = self.allowed(request, "jobs"), str(request.path_params["namespace"])
        if namespace != token.user and token.orgs.get(namespace, "read") == "read":
            raise HTTPException(403, f"You may not run Jobs under {namespace}")
        return namespace

    def _job(self, request: Request) -> Job:
        namespace = self._namespace(request)
        for job in self.jobs:
            if (job.namespace, job.id) == (namespace, request.path_params["id"]):
                return job
        raise HTTPException(404, "Job not found")

    async def _list_jobs(self, request: Request) -> Response:
        namespace = self._namespace(request)
        labels = {tuple(label.split("=", 1)) for label in request.query_params.getlist("label")}
        listed = [
            job.info()
            for job in reversed(self.jobs)
            if job.namespace == namespace and labels <= job.labels.items() and job.id not in self._late
        ]
        self._late = {id: times - 1 for id, times in self._late.items() if times > 1}
        return JSONResponse(listed)

    async def _run_job(self, request: Request) -> Response:
        namespace, sent = self._namespace(request), await request.json()
        labels = sent.get("labels", {})
        if not all(LABEL.fullmatch(text) for label in labels.items() for text in label):
            raise HTTPException(400, "Labels may hold letters, digits, dashes and underscores, at most 100 of them")
        flavor, timeout = sent["flavor"], sent.get("timeoutSeconds")
        job = Job(namespace, sent["command"], sent["environment"], sent.get("secrets", {}), flavor, timeout, labels)
        self.jobs.append(job)
        if self.lists_late:
            self._late[job.id] = self.lists_late
        return JSONResponse(job.info())

    async def _inspect_job(self, request: Request) -> Response:
        return JSONResponse(self._job(request).info())

    async def _cancel_job(self, request: Request) -> Response:
        job = self._job(request)
        if job.stage not in FINAL_STAGES:
            job.stage = "CANCELED"
        return JSONResponse(job.info())

    # --- sign in

    async def _openid_configuration(self, request: Request) -> Response:
        return JSONResponse(
            {
                "issuer": self.url,
                "authorization_endpoint": f"{self.url}/oauth/authorize",
                "token_endpoint": f"{self.url}/oauth/token",
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
            self._codes[answer["code"]] = self.signed_in, query
        return RedirectResponse(URL(query["redirect_uri"]).include_query_params(**answer, state=query["state"]), 302)

    async def _token(self, request: Request) -> Response:
        if request.headers.get("authorization") != "Basic " + base64.b64encode(":".join(CLIENT).encode()).decode():
            return JSONResponse({"error": "invalid_client"}, 401)
        form = dict(urllib.parse.parse_qsl((await request.body()).decode()))
        user, asked = self._codes.pop(form.get("code", ""), ("", {}))
        if not user or form.get("redirect_uri") != asked["redirect_uri"]:
            return JSONResponse({"error": "invalid_grant"}, 400)
        now, access_token = int(time.time()), "hf_oauth_" + secrets.token_urlsafe()
        times = {"iat": now, "exp": now + self.token_lifetime}
        token = Token(user, self._users[user], frozenset(asked["scope"].split()))
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
        name = token.user
        orgs = [
            {**self._profile(org), "isEnterprise": False, **({} if org in self.withheld else {"roleInOrg": role})}
            for org, role in token.orgs.items()
        ]
        return {**self._profile(name), "profile": f"{self.url}/{name}", "website": "", "orgs": orgs}

    def _profile(self, name: str) -> dict[str, str]:
        return {
            "sub": object_id(name),
            "name": name.title(),
            "preferred_username": name,
            "picture": f"{self.url}/avatars/{name}.svg",
        }

    async def _jwks(self, request: Request) -> Response:
        return JSONResponse({"keys": [_key().as_dict(private=False)]})


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
