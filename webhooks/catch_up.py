"""Find commits that the Hub could not deliver, and deliver them.

The Hub calls once. While the server sleeps, restarts or is rebuilt, the call is lost. So this asks the Hub for the
last commit on `main` of every watched repository, and delivers what the endpoint has not received.

- The first look at a repository only sets its mark: a new handler or an empty log starts nothing.
- Of several commits the last one counts. Discussions, tags, deleted and renamed repositories are not looked for.
- A call of the Hub that comes late all the same is one more delivery.
- The marks are in the delivery log. On a Space without a Storage Bucket they are lost at each restart.
"""

from __future__ import annotations

import functools
import json
import logging
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import takewhile
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from .deliveries.engine import Engine
from .deliveries.log import find, reading
from .deliveries.pending import NotTakenError, retry_after
from .endpoints import Endpoint
from .redact import Redactor
from .samples import sample
from .watched import OWNERS, Watched

logger = logging.getLogger("webhooks")

LOCAL_SECONDS = 30.0  # between two looks, where the Hub cannot reach the server
MIN_AGE_SECONDS = 120.0  # of a commit, where the Hub's own call may still be on its way
HUB_TIMEOUT_SECONDS = 20.0
REPO_TYPES = ("dataset", "model", "space")
MAX_REPOS = 200  # of a user or an organization, for each type
RECENT = 50  # deliveries of a repository that may have brought the commit

_PROBLEMS = {
    401: "the Hub does not accept HF_TOKEN",
    403: "HF_TOKEN may not read it",
    404: "it does not exist, or it is private and HF_TOKEN may not read it",
    429: "the Hub limits the requests from here",
}


@dataclass(frozen=True)
class Head:
    """The last commit on `main` of a repository."""

    type: str
    name: str
    revision: str
    modified_at: datetime
    is_private: bool

    @property
    def repo(self) -> str:
        """The name in the delivery log."""
        return f"{self.type}/{self.name}"


class CatchUp:
    """Look for commits that the Hub could not deliver, in a thread, until `stop`.

    Args:
        endpoints: by path; read at each look.
        engine: has the log, and runs what is found.
        token: reads private and gated repositories.
        interval: seconds between two looks.
        has_public_url: whether the Hub can call this server.
        redact: takes the server's secrets out of what the Hub says.
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
        self._has_public_url = has_public_url
        self._interval = interval if has_public_url else LOCAL_SECONDS
        self._api = HfApi(token=token or False)
        self._stopped = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._work, name="webhooks catch up", daemon=True).start()

    def stop(self) -> None:
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
            except Exception as error:  # the log is gone, or the disk is in trouble
                logger.error("No look for missed commits: %s", self._redact(f"{type(error).__name__}: {error}"))
                wait = self._interval

    def look(self) -> float:
        """Look once at everything that handlers watch, and return the seconds until the next look."""
        wait = self._interval
        answers: dict[tuple[str, ...], list[Head] | Exception] = {}  # several endpoints may watch the same
        for path, item in self._watched():
            with reading(self._engine.log.path) as database:
                query = "SELECT repo, revision, problem FROM marks WHERE endpoint = ?"
                marks = {row["repo"]: row for row in database.execute(query, (path,))}
            mark = marks.get(_name(item))
            since = (mark["revision"] if mark and item.type in OWNERS else None) or ""
            key = (*item.key, since)
            answer = answers[key] = answers.get(key) or self._ask(item, since)
            if isinstance(answer, Exception):
                wait = max(wait, retry_after(answer))
                self._report(path, item, mark, answer)
            elif item.type in OWNERS:
                delivered = [self._deliver(path, head, head.repo, marks, mark is None) for head in answer]
                is_complete = all(delivered)
                last = max((_text(head.modified_at) for head in answer), default=None)
                self._set_mark(path, _name(item), last if is_complete else None)
                wait = wait if is_complete else min(wait, MIN_AGE_SECONDS)
            elif not all(self._deliver(path, head, _name(item), marks, True) for head in answer):
                wait = min(wait, MIN_AGE_SECONDS)
        return wait

    def _watched(self) -> Iterator[tuple[str, Watched]]:
        for path, endpoint in list(self._endpoints.items()):
            for item in endpoint.watched:
                if "repo" in item.domains and item.type in (*REPO_TYPES, *OWNERS):
                    yield path, item

    def _ask(self, item: Watched, since: str) -> list[Head] | Exception:
        """Return the last commit of a repository, or those of an owner's repositories that changed after `since`."""
        fields: Any = ["sha", "lastModified", "private"]
        try:
            if item.type not in OWNERS:
                info = self._api.repo_info(item.name, repo_type=item.type, timeout=HUB_TIMEOUT_SECONDS, expand=fields)
                if info.id.lower() != item.name.lower():
                    raise LookupError(f"it is {info.id} now: change the name in watched=")
                return list(_heads(item.type, [info]))
            listings: tuple[Any, ...] = (self._api.list_datasets, self._api.list_models, self._api.list_spaces)
            found: list[Head] = []
            for repo_type, listing in zip(REPO_TYPES, listings, strict=True):
                infos = listing(author=item.name, sort="last_modified", limit=MAX_REPOS, expand=fields)
                found += takewhile(lambda head: _text(head.modified_at) > since, _heads(repo_type, infos))
            return found
        except Exception as error:
            return error

    def _deliver(self, path: str, head: Head, key: str, marks: Mapping[str, sqlite3.Row], is_first_look: bool) -> bool:
        """Deliver a commit that the endpoint has not received. Return `False` if that has to wait.

        Args:
            key: of the mark.
            is_first_look: without a mark, set it, and deliver nothing.
        """
        mark = marks.get(key)
        former = mark["revision"] if mark else None
        if (former is None and is_first_look) or former == head.revision or self._is_known(path, head):
            self._set_mark(path, key, head.revision)
            return True
        if self._has_public_url and time.time() - head.modified_at.timestamp() < MIN_AGE_SECONDS:
            return False
        payload = sample("commit", head.type, head.name, head.revision)
        payload["updatedRefs"][0]["oldSha"] = former
        payload["repo"]["private"] = head.is_private
        step = functools.partial(self._engine.log.set_mark, path, key, head.revision)
        try:
            self._engine.deliver(path, json.dumps(payload).encode(), "catch_up", also=step)
        except (LookupError, ValueError, NotTakenError) as error:
            logger.warning("%s: the commit %s of %s waits: %s", path, head.revision, head.repo, error)
            return False
        return True

    def _is_known(self, path: str, head: Head) -> bool:
        """Return whether the endpoint has received this commit."""
        query = "SELECT id FROM deliveries WHERE endpoint = ? AND repo = ? COLLATE NOCASE ORDER BY number DESC LIMIT ?"
        with reading(self._engine.log.path) as database:
            ids = [row["id"] for row in database.execute(query, (path, head.repo, RECENT))]
            payloads = [find(database, delivery_id).delivery.payload for delivery_id in ids]
        return any(payload and payload.revision() == head.revision for payload in payloads)

    def _set_mark(self, path: str, repo: str, revision: str | None, problem: str | None = None) -> None:
        self._engine.write_soon(functools.partial(self._engine.log.set_mark, path, repo, revision, problem))

    def _report(self, path: str, item: Watched, mark: sqlite3.Row | None, error: Exception) -> None:
        """Log a problem once, not at each look."""
        status = error.response.status_code if isinstance(error, HfHubHTTPError) else 0
        text = str(error) if isinstance(error, LookupError) else f"the Hub cannot be reached ({type(error).__name__})"
        problem = self._redact(_PROBLEMS.get(status, f"the Hub answers {status}" if status else text))
        if mark is None or mark["problem"] != problem:
            logger.warning("No look at %s %s, for %s: %s.", item.type, item.name, path, problem)
        self._set_mark(path, _name(item), None, problem)


def _name(item: Watched) -> str:
    return f"{item.type}/{item.name}"


def _text(moment: datetime) -> str:
    return moment.astimezone(timezone.utc).isoformat()


def _heads(repo_type: str, infos: Iterable[Any]) -> Iterator[Head]:
    for info in infos:
        if info.sha:  # an empty repository has no commit
            modified_at = info.last_modified or datetime.now(timezone.utc)
            yield Head(repo_type, info.id, info.sha, modified_at, bool(info.private))
