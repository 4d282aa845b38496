"""When a delivery runs, as plain functions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.payloads import load

from webhooks import WebhookPayload
from webhooks.deliveries import timing


@given(failures=st.integers(1, 10_000))
def test_the_backoff_doubles_up_to_five_minutes(failures: int) -> None:
    waits = [timing.backoff(failures) for _ in range(20)]
    assert all(0 <= wait <= min(300, 2.0 ** min(failures, 20)) for wait in waits)


def test_the_first_backoff_is_about_a_second_and_no_two_are_the_same() -> None:
    waits = [timing.backoff(1) for _ in range(1000)]
    assert 0.9 < sum(waits) / len(waits) < 1.1
    assert len(set(waits)) == 1000


@given(events=st.lists(st.floats(0, 100), min_size=1), window=st.floats(0.1, 60))
def test_a_burst_runs_a_window_after_its_last_event_and_ten_windows_after_its_first_at_the_latest(
    events: list[float], window: float
) -> None:
    events.sort()
    due_at = [timing.debounced_until(now, events[0], window) for now in events]
    assert due_at[0] == events[0] + window
    assert due_at == sorted(due_at)
    assert due_at[-1] <= events[0] + 10 * window


def named(fixture: str) -> str | None:
    return timing.subject("/webhooks/f", WebhookPayload.model_validate(load(fixture)))


def test_a_newer_commit_makes_an_older_one_needless() -> None:
    older, newer = load("repo.content-update"), load("repo.content-update")
    newer["updatedRefs"][0].update(oldSha=older["updatedRefs"][0]["newSha"], newSha="f" * 40)
    assert len({timing.subject("/webhooks/f", WebhookPayload.model_validate(body)) for body in (older, newer)}) == 1


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
def test_a_commit_to_main_is_made_needless_by_nothing_else(other: str) -> None:
    assert named("repo.content-update") != named(other)


def test_a_comment_makes_needless_only_those_before_it_in_its_discussion() -> None:
    here, again, elsewhere = (load("discussion.comment-create") for _ in range(3))
    again["comment"]["id"] = "another"
    elsewhere["discussion"]["id"] = "another"
    subjects = [
        timing.subject("/webhooks/f", WebhookPayload.model_validate(body)) for body in (here, again, elsewhere)
    ]
    assert subjects[0] == subjects[1] != subjects[2]


def test_another_endpoint_is_another_subject_and_no_payload_is_none() -> None:
    payload = WebhookPayload.model_validate(load("repo.content-update"))
    assert timing.subject("/webhooks/a", payload) != timing.subject("/webhooks/b", payload)
    assert timing.subject("/webhooks/a", None) is None
