"""The repositories of the stand-in Hub: their commits, and the discussions and pull requests that recipes need."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import secrets
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import yaml
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

if TYPE_CHECKING:
    from support.hub import Hub


def object_id(name: str) -> str:
    """Return the id of an account: as long as the Hub's, and always the same for the same name."""
    return hashlib.sha256(name.encode()).hexdigest()[:24]


def commit_id(content: object) -> str:
    return hashlib.sha1(repr(content).encode()).hexdigest()


def timestamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _now() -> str:
    return timestamp(datetime.now(timezone.utc))


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
        about = {"id": secrets.token_hex(12), "type": kind, "createdAt": _now(), "author": {"name": author}}
        self.events.append({**about, "data": data})
        return self.events[-1]

    def info(self, repo: Repo) -> dict[str, Any]:
        return {
            "num": self.num,
            "title": self.title,
            "author": {"name": self.author},
            "createdAt": _now(),
            "status": self.status,
            "repo": {"name": repo.name, "type": repo.kind},
            "isPullRequest": self.files is not None,
        }


@dataclass
class Repo:
    """A repository. A test may set its files, and `head`, the commit of `main`.

    Without a `head` the files decide it; an empty repository has an empty one. `is_private` hides the repository from
    requests without a token. A request for a former name, or for one in another case, is redirected.
    """

    kind: str
    name: str
    files: dict[str, str]
    head: str | None = None
    is_private: bool = False
    modified_at: datetime = datetime(2026, 1, 1, tzinfo=timezone.utc)
    discussions: list[Discussion] = field(default_factory=list)

    @property
    def sha(self) -> str:
        return commit_id(self.files) if self.head is None else self.head

    def commit(self, head: str, age: float = 600.0) -> None:
        """Put a commit on `main` that was made so many seconds ago."""
        self.head, self.modified_at = head, datetime.now(timezone.utc) - timedelta(seconds=age)

    @property
    def pull_requests(self) -> list[Discussion]:
        return [discussion for discussion in self.discussions if discussion.files is not None]

    def open(self, author: str, title: str, files: dict[str, str] | None = None) -> Discussion:
        """Open a discussion, or with files a pull request."""
        self.discussions.append(Discussion(len(self.discussions) + 1, title, author, files))
        return self.discussions[-1]

    def info(self) -> dict[str, Any]:
        _, fence, rest = self.files.get("README.md", "").partition("---\n")
        card = {"cardData": yaml.safe_load(rest.partition("\n---")[0])} if fence else {}
        about = {"id": self.name, "private": self.is_private, "lastModified": timestamp(self.modified_at), **card}
        return {**about, "sha": self.sha} if self.sha else about


class RepoApi:
    """What the Hub answers about repositories."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def routes(self) -> list[Route]:
        repo = "/api/{kinds}/{namespace}/{name}"
        return [
            Route("/api/buckets/{namespace}/{name}", self._accept, methods=["POST"]),
            Route("/api/spaces/{namespace}/{name}/volumes", self._accept, methods=["PUT"]),
            Route("/api/validate-yaml", self._accept, methods=["POST"]),
            Route("/api/{kinds:str}", self._list_repos),
            Route(repo, self._repo_info),
            Route(repo + "/revision/main", self._repo_info),
            Route(repo + "/discussions", self._list_discussions),
            Route(repo + "/discussions/{num:int}", self._discussion_details),
            Route(repo + "/discussions/{num:int}/comment", self._comment, methods=["POST"]),
            Route(repo + "/preupload/main", self._preupload, methods=["POST"]),
            Route(repo + "/commit/main", self._commit, methods=["POST"]),
            Route("/{namespace}/{name}/resolve/main/{file:path}", self._download),
        ]

    async def _accept(self, request: Request) -> Response:
        path = request.url.path.removeprefix("/api")
        return JSONResponse({"url": f"{self._hub.url}{path}", "errors": [], "warnings": []})

    def _repo(self, request: Request) -> Repo:
        at = {"kinds": "models", **request.path_params}
        kind, name = at["kinds"].removesuffix("s"), f"{at['namespace']}/{at['name']}".lower()
        known = {key: repo for key, repo in self._hub.repos.items() if key[0] == kind}
        repo = next((repo for key, repo in known.items() if name in (key[1].lower(), repo.name.lower())), None)
        if repo is None or (repo.is_private and "authorization" not in request.headers):
            raise HTTPException(404, "Repository not found", {"X-Error-Code": "RepoNotFound"})
        return repo

    def _discussion(self, request: Request) -> Discussion:
        for discussion in self._repo(request).discussions:
            if discussion.num == request.path_params["num"]:
                return discussion
        raise HTTPException(404, "Discussion not found")

    async def _list_repos(self, request: Request) -> Response:
        """List the repositories of an author, the last modified first, on pages of `limit`."""
        kind, query = request.path_params["kinds"].removesuffix("s"), request.query_params
        has_token = "authorization" in request.headers
        found = [
            repo
            for repo in self._hub.repos.values()
            if repo.kind == kind and repo.name.startswith(f"{query['author']}/")
        ]
        listed = sorted(found, key=lambda repo: repo.modified_at)[::-1]
        begin, limit = int(query.get("cursor", 0)), int(query.get("limit", 1000))
        page = listed[begin : begin + limit]
        next_page = request.url.include_query_params(cursor=begin + limit)
        headers = {"Link": f'<{next_page}>; rel="next"'} if begin + limit < len(listed) else {}
        return JSONResponse([repo.info() for repo in page if has_token or not repo.is_private], headers=headers)

    async def _repo_info(self, request: Request) -> Response:
        repo = self._repo(request)
        named = request.url.path.replace("{namespace}/{name}".format(**request.path_params), repo.name)
        if named != request.url.path:
            return RedirectResponse(f"{self._hub.url}{named}")
        return JSONResponse(repo.info())

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
            found = [info for info in found if info["author"]["name"] == author]
        if (kind := query.get("type", "all")) != "all":
            found = [info for info in found if info["isPullRequest"] == (kind == "pull_request")]
        return JSONResponse({"discussions": found, "count": len(found), "start": 0})

    async def _discussion_details(self, request: Request) -> Response:
        discussion = self._discussion(request)
        pull = {} if discussion.files is None else {"changes": {"base": "refs/heads/main"}, "filesWithConflicts": []}
        return JSONResponse({**discussion.info(self._repo(request)), "events": discussion.events, **pull})

    async def _comment(self, request: Request) -> Response:
        author = self._hub.allowed(request, "discussions").user
        text = (await request.json())["comment"]
        return JSONResponse({"newMessage": self._discussion(request).comment(author, text)})

    async def _preupload(self, request: Request) -> Response:
        self._hub.allowed(request, "discussions")
        files = [{"path": file["path"]} for file in (await request.json())["files"]]
        return JSONResponse({"files": [{**file, "uploadMode": "regular", "shouldIgnore": False} for file in files]})

    async def _commit(self, request: Request) -> Response:
        author = self._hub.allowed(request, "discussions").user
        if request.query_params.get("create_pr") != "1":
            raise HTTPException(403, "Forbidden: pass `create_pr=1` as a query parameter to create a Pull Request")
        repo = self._repo(request)
        header, *files = (json.loads(line)["value"] for line in (await request.body()).splitlines())
        content = {file["path"]: base64.b64decode(file["content"]).decode() for file in files}
        pull = repo.open(author, header["summary"], {**repo.files, **content})
        at, sha = f"{self._hub.url}/{repo.name}", commit_id(pull.files)
        urls = {"commitUrl": f"{at}/commit/{sha}", "pullRequestUrl": f"{at}/discussions/{pull.num}"}
        return JSONResponse({"success": True, "commitOid": sha, **urls})
