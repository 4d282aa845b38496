"""A Hub to start Jobs on, and no waiting."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from support.hub import Hub
from support.jobs import TOKEN, Naps, Office

import webhooks.jobs
from webhooks.deliveries import timing


@pytest.fixture(scope="module")
def one_hub() -> Iterator[Hub]:
    with Hub() as hub:
        hub.add_user("julien", orgs={"acme": "write"})
        hub.add_token(TOKEN, "julien")
        yield hub


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> Naps:
    naps = Naps()
    monkeypatch.setattr("webhooks.jobs.time", SimpleNamespace(monotonic=time.monotonic, sleep=naps.sleep))
    return naps


@pytest.fixture
def hub(one_hub: Hub, naps: Naps, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    one_hub.forget()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", one_hub.url)
    monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", one_hub.url)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.delenv("DRY_RUN", raising=False)
    # The client tries a list again by itself, up to 5 times, and would sleep up to 8 seconds before each.
    monkeypatch.setattr("huggingface_hub.utils._http.time", SimpleNamespace(time=time.time, sleep=lambda _: None))
    webhooks.jobs._account.cache_clear()
    yield one_hub
    assert one_hub.unknown == []


@pytest.fixture
def office(tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Iterator[Office]:
    monkeypatch.setattr(timing, "backoff", lambda failures: 0.001)
    office = Office(tmp_path)
    yield office
    office.stop(0)
