"""The fixtures of the server's tests."""

import os
from collections.abc import Iterator

import pytest
from support.fixtures import browser, chromium, prunes_at_once, run, serve, start
from support.processes import is_setting

__all__ = ["browser", "chromium", "prunes_at_once", "run", "serve", "start"]


STARTS_SOMETHING = {"run", "start", "browser"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if STARTS_SOMETHING.intersection(getattr(item, "fixturenames", ())) and not item.get_closest_marker("quick"):
            item.add_marker("long")


@pytest.fixture(scope="module", autouse=True)
def no_setting_of_yours_decides_a_test() -> Iterator[None]:
    """Importing app.py, as tests/test_app.py does, has brought what is in .env into this process."""
    with pytest.MonkeyPatch.context() as patched:
        for name in filter(is_setting, list(os.environ)):
            patched.delenv(name)
        yield
