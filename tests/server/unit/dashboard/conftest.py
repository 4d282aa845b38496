"""The dashboard of two handlers, and its owner."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.dashboard import Client, PagesHarness

from webhooks.endpoints import Endpoint


@pytest.fixture
def pages() -> Iterator[PagesHarness]:
    pages = PagesHarness(Endpoint(lambda: "done", "/train", max_attempts=5), Endpoint(lambda: None, "/report"))
    yield pages
    pages.close()


@pytest.fixture
def owner(pages: PagesHarness) -> Client:
    return pages.owner()
