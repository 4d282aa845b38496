"""The template's tests use the fixtures of the server's, and are all long: a quick run is about what users edit."""

from pathlib import Path

import pytest
from support.fixtures import browser, chromium, run, serve, start

__all__ = ["browser", "chromium", "run", "serve", "start"]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("long")
