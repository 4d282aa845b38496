from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.engines import EngineHarness

from webhooks.deliveries import engine, processing


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[EngineHarness]:
    harness = EngineHarness(tmp_path / "log")
    yield harness
    harness.stop(0)


@pytest.fixture
def no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processing, "backoff", lambda failures: 0.0)


@pytest.fixture
def brief_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "LAST_WRITES_SECONDS", 0.1)
