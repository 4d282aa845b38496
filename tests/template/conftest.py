"""The template's tests use the fixtures of the server's tests. All of them are long."""

from pathlib import Path

import pytest
from support.fixtures import hub, one_hub, run, serve

__all__ = ["hub", "one_hub", "run", "serve"]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("long")
