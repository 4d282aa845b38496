from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.dispatching import Desk

from webhooks.deliveries import timing


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path)
    yield desk
    desk.stop(0)


@pytest.fixture
def no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "backoff", lambda failures: 0.0)
