"""The repositories of the stand-in Hub."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

if TYPE_CHECKING:
    from support.hub import Hub


def object_id(name: str) -> str:
    """Return the id of an account: as long as the Hub's, and always the same for the same name."""
    return hashlib.sha256(name.encode()).hexdigest()[:24]


def timestamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@dataclass
class Repo:
    """A repository. A test may set `head`, the commit of `main`; an empty repository has an empty one.

    `is_private` hides the repository from requests without a token. A request for a former name, or for one in another
    case, is redirected.
    """

    kind: str
    name: str
    files: dict[str, str]
    head: str = "0" * 40
    is_private: bool = False
    modified_at: datetime = datetime(2026, 1, 1, tzinfo=timezone.utc)

    def commit(self, head: str, age: float = 600.0) -> None:
        """Put a commit on `main` that was made so many seconds ago."""
        self.head, self.modified_at = head, datetime.now(timezone.utc) - timedelta(seconds=age)

    def info(self) -> dict[str, Any]:
        about = {"id": self.name, "private": self.is_private, "lastModified": timestamp(self.modified_at)}
        return {**about, "sha": self.head} if self.head else about


class RepoApi:
    """What the Hub answers about repositories."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def routes(self) -> list[Route]:
        repo = "/api/{kinds}/{namespace}/{name}"
        return [
            Route("/api/buckets/{namespace}/{name}", self._accept, methods=["POST"]),
            Route("/api/spaces/{namespace}/{name}/volumes", self._accept, methods=["PUT"]),
            Route("/api/{kinds:str}", self._list_repos),
            Route(repo, self._repo_info),
            Route(repo + "/revision/main", self._repo_info),
        ]

    async def _accept(self, request: Request) -> Response:
        return JSONResponse({"url": f"{self._hub.url}{request.url.path.removeprefix('/api')}"})

    async def _list_repos(self, request: Request) -> Response:
        """List the repositories of an author, the last modified first, on pages of `limit`."""
        kind, query = request.path_params["kinds"].removesuffix("s"), request.query_params
        has_token = "authorization" in request.headers
        known = [repo for key, repo in self._hub.repos.items() if key[0] == kind]
        found = [repo for repo in known if repo.name.startswith(f"{query['author']}/")]
        listed = sorted(found, key=lambda repo: repo.modified_at)[::-1]
        begin, limit = int(query.get("cursor", 0)), int(query.get("limit", 1000))
        page = listed[begin : begin + limit]
        next_page = request.url.include_query_params(cursor=begin + limit)
        headers = {"Link": f'<{next_page}>; rel="next"'} if begin + limit < len(listed) else {}
        return JSONResponse([repo.info() for repo in page if has_token or not repo.is_private], headers=headers)

    async def _repo_info(self, request: Request) -> Response:
        asked = "{namespace}/{name}".format(**request.path_params)
        kind = request.path_params["kinds"].removesuffix("s")
        for (known_kind, known_name), repo in self._hub.repos.items():
            is_visible = not repo.is_private or "authorization" in request.headers
            names = (known_name.lower(), repo.name.lower())
            if is_visible and known_kind == kind and asked.lower() in names:
                named = request.url.path.replace(asked, repo.name)
                is_current = named == request.url.path
                return JSONResponse(repo.info()) if is_current else RedirectResponse(f"{self._hub.url}{named}")
        raise HTTPException(404, "Repository not found", {"X-Error-Code": "RepoNotFound"})
