"""Decide when a delivery runs: after a failure, or at the end of a burst."""

from __future__ import annotations

import random
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any

from ..payload import WebhookPayload

MAX_BACKOFF_SECONDS = 300.0
MAX_RETRY_AFTER_SECONDS = 3600.0
MAX_WINDOWS = 10  # of a stream of debounced events that never pauses


def backoff(failures: int) -> float:
    """Return the seconds to wait after so many failed attempts: about 1 after the first, then twice as many each time.

    The wait is drawn evenly from zero to that bound ("full jitter"), so that deliveries which failed together do not
    come back together.
    """
    return random.uniform(0, min(MAX_BACKOFF_SECONDS, 2.0 ** min(failures, 16)))  # noqa: S311 - not a secret


def retry_after(error: BaseException) -> float:
    """Return the seconds that an error or its cause asks to wait, as the Hub's errors do in `Retry-After`; else 0."""
    for source in (error, error.__cause__):
        headers = getattr(source, "headers", None) or getattr(getattr(source, "response", None), "headers", None)
        if not isinstance(headers, Mapping):
            continue
        value: Any = next((headers[name] for name in headers if name.lower() == "retry-after"), "0")
        with suppress(ValueError, TypeError):
            is_date = not str(value).replace(".", "").isdigit()
            now = datetime.now(timezone.utc)
            seconds = (parsedate_to_datetime(value) - now).total_seconds() if is_date else float(value)
            return min(max(seconds, 0.0), MAX_RETRY_AFTER_SECONDS)
    return 0.0


def debounced_until(now: float, burst_at: float, window: float) -> float:
    """Return when a burst of events that began at `burst_at` runs, if none follows the event of `now`."""
    return min(now + window, burst_at + MAX_WINDOWS * window)


def debounce_key(endpoint: str, payload: WebhookPayload | None) -> str | None:
    """Return what an event is about: a newer event with the same key supersedes it. `None` without a payload.

    The key contains the kind of event, the refs and the discussion beside endpoint and repository. A comment must not
    supersede the commit to `main` that came a second before: the training would be lost.
    """
    if payload is None:
        return None
    refs = sorted(updated.ref for updated in payload.updatedRefs or ())
    discussion = [payload.discussion.id] if payload.discussion else []
    return " ".join([endpoint, payload.repo.type, payload.repo.name, payload.event.scope, *discussion, *refs])
