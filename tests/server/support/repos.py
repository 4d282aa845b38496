"""The repositories of the stand-in Hub."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
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
    """A repository. A test may set `head`, the commit of `main`.

    `is_private` hides the repository from requests without a token.
    """

    kind: str
    name: str
    files: dict[str, str]
    head: str = "0" * 40
    is_private: bool = False

    def info(self) -> dict[str, Any]:
        return {"id": self.name, "sha": self.head, "private": self.is_private}


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
        """List the repositories of an author, the last modified first."""
        kind, author = request.path_params["kinds"].removesuffix("s"), request.query_params["author"]
        has_token = "authorization" in request.headers
        found = [repo for repo in self._hub.repos.values() if repo.kind == kind and repo.name.startswith(f"{author}/")]
        return JSONResponse([repo.info() for repo in reversed(found) if has_token or not repo.is_private])

    async def _repo_info(self, request: Request) -> Response:
        at = request.path_params
        repo = self._hub.repos.get((at["kinds"].removesuffix("s"), f"{at['namespace']}/{at['name']}"))
        if repo is None or (repo.is_private and "authorization" not in request.headers):
            raise HTTPException(404, "Repository not found", {"X-Error-Code": "RepoNotFound"})
        return JSONResponse(repo.info())
