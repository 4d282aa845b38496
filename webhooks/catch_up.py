"""Find commits that the Hub could not deliver, and deliver them.

The Hub calls once. While the server sleeps, restarts or is rebuilt, the call is lost. So this asks the Hub for the
last commit on `main` of every watched repository, and delivers it to each endpoint that has not received it.

- The first look at a repository only sets its mark: a new handler or an empty log starts nothing.
- Of several commits the last one counts. Discussions, tags, deleted and renamed repositories are not looked for.
- Of a user or an organization, the 300 models, datasets and Spaces each that changed last are looked at.
- A call of the Hub that comes late all the same is one more delivery.
- In such an event, the ids of the repository, its owner and the webhook are placeholders.
- A Space that refuses deliveries for want of a secret looks for none either.
- The marks are in the delivery log. On a Space without a Storage Bucket they are lost at each restart.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import Any

from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # it exports them only at run time
    build_hf_headers,
    get_session,
    hf_raise_for_status,
    parse_datetime,
)

from .console import escaped
from .deliveries.engine import Engine
from .deliveries.log import reading
from .deliveries.processing import NotTakenError
from .deliveries.runner import retry_after
from .endpoints import Endpoint
from .payload import parse_payload
from .redact import Redactor
from .samples import sample
from .watched import OWNERS, Watched

logger = logging.getLogger("webhooks")

LOCAL_SECONDS = 30.0  # between two looks, where the Hub cannot reach the server
MIN_AGE_SECONDS = 120.0  # of a commit, where the Hub's own call may still be on its way
HUB_TIMEOUT_SECONDS = 20.0
REPO_TYPES = ("dataset", "model", "space")
PAGE_SIZE, MAX_PAGES = 100, 3  # of the repositories of a user or an organization, for each type
RECENT = 50  # deliveries of a repository that may have brought the commit

_FIELDS = ["sha", "lastModified", "private"]
_PROBLEMS = {
    401: "the Hub does not accept HF_TOKEN",
    403: "there is no HF_TOKEN that may read it",
    404: "it does not exist, or it is private and there is no HF_TOKEN that may read it",
    429: "the Hub limits the requests from here",
}


class HubError(Exception):
    """The Hub does not say what the last commit is; the text says why."""


@dataclass(frozen=True)
class Head:
    """The last commit on `main` of a repository; its `revision` is empty if there is none."""

    type: str
    name: str
    revision: str
    modified_at: datetime
    is_private: bool


class CatchUp:
    """Look for commits that the Hub could not deliver, in a thread, until `stop`.

    Args:
        endpoints: by path; read at each look.
        engine: has the log, and runs what is found.
        token: reads private repositories.
        interval: seconds between two looks.
        has_public_url: whether the Hub can call this server.
        redact: takes the server's secrets out of problems.
    """

    def __init__(
        self,
        endpoints: Mapping[str, Endpoint],
        engine: Engine,
        token: str | None,
        interval: float,
        has_public_url: bool,
        redact: Redactor,
    ) -> None:
        self._endpoints, self._engine, self._redact = endpoints, engine, redact
        self._token: str | bool = token or False
        self._has_public_url = has_public_url
        self._interval = interval if has_public_url else LOCAL_SECONDS
        self._marks: dict[tuple[str, str], sqlite3.Row] = {}  # as they were when the look began
        self._retry_at: dict[tuple[str, Watched], float] = {}  # by the monotonic clock, where the Hub asks to wait
        self._stopped = threading.Event()

    def start(self) -> None:
        """Begin to look, unless no handler watches a repository by now."""
        if any(self._watched()):
            threading.Thread(target=self._work, name="webhooks catch up", daemon=True).start()

    def stop(self) -> None:
        """Look no more, without a wait for what the Hub still has to answer."""
        self._stopped.set()

    def description(self) -> str | None:
        """Return what is looked at, for a user whose server the Hub cannot reach."""
        watched = sorted({f"{item.type} {item.name}" for _, item in self._watched()})
        if self._has_public_url or not watched:
            return None
        return f"Looking at {', '.join(watched)} every {self._interval:g} s, since the Hub cannot reach this machine."

    def _work(self) -> None:
        wait = 0.0
        while not self._stopped.wait(wait):
            try:
                wait = self.look()
            except Exception as error:  # the log is gone, or cannot be read
                wait = self._interval
                if not self._stopped.is_set():
                    logger.error("Cannot look for missed commits: %s", self._describe(error))

    def look(self) -> float:
        """Look once at everything that handlers watch, and return the seconds until the next look."""
        with reading(self._engine.log.path) as database:
            rows = database.execute("SELECT endpoint, repo, revision, problem FROM marks").fetchall()
        self._marks = {(row["endpoint"], row["repo"].lower()): row for row in rows}
        are_done = True
        for path, item in self._watched():
            if self._stopped.is_set():
                break
            if time.monotonic() < self._retry_at.get((path, item), 0.0):
                continue
            try:
                look_at = self._look_at_owner if item.type in OWNERS else self._look_at_repo
                are_done = look_at(path, item) and are_done
            except Exception as error:
                self._retry_at[path, item] = time.monotonic() + retry_after(error)
                self._report(path, item, error)
        return self._interval if are_done else min(self._interval, MIN_AGE_SECONDS)

    def _watched(self) -> Iterator[tuple[str, Watched]]:
        for path, endpoint in list(self._endpoints.items()):
            for item in endpoint.watched:
                if "repo" in item.domains and item.type in (*REPO_TYPES, *OWNERS):
                    yield path, item

    def _look_at_repo(self, path: str, item: Watched) -> bool:
        """Deliver the last commit of a repository, if that is due; return `False` if it has to wait."""
        url = f"{constants.ENDPOINT}/api/{item.type}s/{item.name}"
        info, _ = self._get(url, {"expand": _FIELDS})
        head = _head(item.type, info)
        if head.name.lower() != item.name.lower():
            raise HubError(f"it is {head.name} now: change the name in watched=")
        return self._deliver(path, head, None)

    def _look_at_owner(self, path: str, item: Watched) -> bool:
        """Deliver the last commits of the repositories that an owner has changed since the last look."""
        mark = self._mark(path, item)
        since = mark["revision"] if mark else None  # here it is a time
        heads = [head for repo_type in REPO_TYPES for head in self._list(repo_type, item.name, since or "")]
        # A repository without a mark is new, except at the first look.
        are_done = [self._deliver(path, head, None if since is None else "") for head in heads]
        # The three lists are not of one moment, so the next look begins a little earlier.
        times = [_text(head.modified_at - timedelta(seconds=MIN_AGE_SECONDS)) for head in heads]
        self._set_mark(path, item, max([since or "", *times]) if all(are_done) else None)
        return all(are_done)

    def _list(self, repo_type: str, owner: str, since: str) -> Iterator[Head]:
        """Return the repositories of an owner that were changed after a time, the last changed first."""
        url = f"{constants.ENDPOINT}/api/{repo_type}s"
        params: Any = {"author": owner, "sort": "lastModified", "limit": PAGE_SIZE, "expand": _FIELDS}
        for _ in range(MAX_PAGES):
            infos, url = self._get(url, params)
            for info in infos:
                head = _head(repo_type, info)
                if _text(head.modified_at) <= since:
                    return
                yield head
            if not url:
                return
            params = None  # they are in the address of the next page

    def _get(self, url: str, params: Any) -> tuple[Any, str]:
        """Return what the Hub answers, and the address of the next page if there is one.

        The lists of `HfApi` have no timeout, and sleep as long as `Retry-After` says: all else would wait for them.
        """
        try:
            headers = build_hf_headers(token=self._token)  # it may ask the Hub itself (huggingface_hub 2.4.0)
            response = get_session().get(url, params=params, headers=headers, timeout=HUB_TIMEOUT_SECONDS)
            hf_raise_for_status(response)
            return response.json(), response.links.get("next", {}).get("url", "")
        except HfHubHTTPError as error:  # the Hub answers 401, too, if a repository does not exist
            status = 404 if isinstance(error, RepositoryNotFoundError) else error.response.status_code
            raise HubError(_PROBLEMS.get(status, f"the Hub answers {status}")) from error
        except Exception as error:
            raise HubError(f"the Hub cannot be reached ({type(error).__name__})") from error

    def _deliver(self, path: str, head: Head, without_mark: str | None) -> bool:
        """Deliver a commit that the endpoint has not received. Return `False` if that has to wait.

        Args:
            without_mark: the commit that the endpoint knows if there is no mark; empty for an empty repository, `None`
                at the first look, which delivers nothing.
        """
        mark = self._mark(path, head)
        former = without_mark if mark is None or mark["revision"] is None else mark["revision"]
        if former is None or former == head.revision or not head.revision or self._is_known(path, head, former):
            self._set_mark(path, head, head.revision)
            return True
        is_young = time.time() - head.modified_at.timestamp() < MIN_AGE_SECONDS
        if (self._has_public_url and is_young) or not self._engine.has_room():
            self._set_mark(path, head, None)
            return False
        payload = sample("commit", head.type, head.name, head.revision)
        payload["updatedRefs"][0]["oldSha"] = former or None
        payload["repo"]["private"] = head.is_private
        step = partial(self._engine.log.set_mark, path, _name(head), head.revision)
        try:
            self._engine.deliver(path, json.dumps(payload).encode(), "catch_up", also=step)
        except NotTakenError:  # the disk is full, or the server stops
            return False
        return True

    def _is_known(self, path: str, head: Head, former: str) -> bool:
        """Return whether the endpoint has received this commit, after the former one."""
        query = (
            "SELECT body FROM deliveries WHERE endpoint = ? AND repo = ? COLLATE NOCASE "
            "AND event LIKE 'repo.content%' AND replay_of IS NULL ORDER BY number DESC LIMIT ?"
        )
        with reading(self._engine.log.path) as database:
            for row in database.execute(query, (path, _name(head), RECENT)):
                revision = parse_payload(row["body"]).revision()
                if revision in (head.revision, former):
                    return revision == head.revision
        return False

    def _mark(self, path: str, about: Head | Watched) -> sqlite3.Row | None:
        return self._marks.get((path, _name(about).lower()))  # the Hub ignores the case of names

    def _set_mark(self, path: str, about: Head | Watched, revision: str | None, problem: str | None = None) -> None:
        """Write down what a look has found; `None` leaves the commit as it is."""
        self._engine.write_soon(partial(self._engine.log.set_mark, path, _name(about), revision, problem))

    def _report(self, path: str, item: Watched, error: Exception) -> None:
        """Log a problem once, not at each look."""
        problem, mark = self._describe(error), self._mark(path, item)
        if not (self._stopped.is_set() or (mark and mark["problem"] == problem)):
            logger.warning("Cannot look at %s %s, for %s: %s.", item.type, item.name, path, problem)
        self._set_mark(path, item, None, problem)

    def _describe(self, error: Exception) -> str:
        text = str(error) if isinstance(error, HubError) else f"{type(error).__name__}: {error}"
        return escaped(self._redact(text))


def _name(about: Head | Watched) -> str:
    """Return the name in the delivery log."""
    return f"{about.type}/{about.name}"


def _text(moment: datetime) -> str:
    return moment.astimezone(timezone.utc).isoformat(timespec="milliseconds")


def _head(repo_type: str, info: Mapping[str, Any]) -> Head:
    revision, is_private = info.get("sha") or "", bool(info.get("private"))
    return Head(repo_type, info["id"], revision, parse_datetime(info["lastModified"]), is_private)
