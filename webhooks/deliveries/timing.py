"""When a delivery runs: at once, again after a failure, or when a burst of events is over. No I/O."""

from __future__ import annotations

import random

from ..payload import WebhookPayload

MAX_BACKOFF = 300.0  # seconds
MAX_WINDOWS = 10  # a stream of events that never pauses runs at least every ten windows


def backoff(failures: int) -> float:
    """Return the seconds to wait after so many failed attempts: about 1 after the first, then ever more.

    The wait is drawn evenly from zero to a bound that doubles ("full jitter"), so that deliveries which failed
    together do not come back together.
    """
    return random.uniform(0, min(MAX_BACKOFF, 2.0 ** min(failures, 16)))  # noqa: S311 - not a secret


def debounced_until(now: float, burst_at: float, window: float) -> float:
    """Return when a burst of events that began at `burst_at` runs, if none follows the one of `now`."""
    return min(now + window, burst_at + MAX_WINDOWS * window)


def subject(endpoint: str, payload: WebhookPayload | None) -> str | None:
    """Name what an event is about: a newer one with the same name makes it needless. `None` if nothing can.

    It is the endpoint and the repository, and also the kind of event, the refs it touches and the discussion. A
    comment or a pull request must not replace the commit to `main` that came a second before: the handler would see
    only the comment, skip it, and the training would be lost. Nor must a comment replace one in another discussion.
    """
    if payload is None:
        return None
    refs = sorted(updated.ref for updated in payload.updatedRefs or ())
    thread = [payload.discussion.id] if payload.discussion else []
    return " ".join([endpoint, payload.repo.type, payload.repo.name, payload.event.scope, *thread, *refs])
