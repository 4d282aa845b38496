"""When a delivery runs."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.payloads import load

from webhooks import WebhookPayload
from webhooks.deliveries import log, processing, runner


@given(failures=st.integers(1, 10_000))
def test_backoff_doubles_up_to_five_minutes(failures: int) -> None:
    waits = {processing.backoff(failures) for _ in range(10)}
    assert 0 <= min(waits) < max(waits) <= min(300, 2.0 ** min(failures, 20))  # with jitter


class AskingError(Exception):
    def __init__(self, retry_after: str) -> None:
        self.response = httpx.Response(429, headers={"Retry-After": retry_after})


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        pytest.param("30", 30, id="seconds"),
        pytest.param("-5", 0, id="negative"),
        pytest.param("soon", 0, id="text"),
        pytest.param("1000000", 3600, id="capped at an hour"),
    ],
)
def test_retry_after_is_read(value: str, seconds: float) -> None:
    assert runner.retry_after(AskingError(value)) == seconds


def test_retry_after_may_be_a_date() -> None:
    date = format_datetime(datetime.now(timezone.utc) + timedelta(seconds=600), usegmt=True)
    assert runner.retry_after(AskingError(date)) == pytest.approx(600, abs=10)


@given(events=st.lists(st.floats(0, 100), min_size=1), window=st.floats(0.1, 60))
def test_burst_runs_after_ten_windows_at_the_latest(events: list[float], window: float) -> None:
    events.sort()
    due_at = [log.debounced_until(now, events[0], window) for now in events]
    assert due_at[0] == events[0] + window
    assert due_at == sorted(due_at)
    assert due_at[-1] <= events[0] + 10 * window


def key(body: dict[str, Any], endpoint: str = "/webhooks/f") -> str | None:
    return processing.debounce_key(endpoint, WebhookPayload.model_validate(body))


@pytest.mark.parametrize(
    "other",
    [
        "repo.content-update-pull-request",
        "repo.content-update-tag",
        "repo.content-update-model",
        "repo.config-update-private",
        "discussion.comment-create",
        "repo-delete",
    ],
)
def test_other_events_never_replace_a_commit(other: str) -> None:
    assert key(load("repo.content-update")) != key(load(other))


def test_debounce_key_has_discussion_and_endpoint() -> None:
    here, elsewhere = load("discussion.comment-create"), load("discussion.comment-create")
    elsewhere["discussion"]["id"] = "another"
    assert len({key(here), key(elsewhere), key(here, "/webhooks/other")}) == 3
    assert processing.debounce_key("/webhooks/f", None) is None
