"""Share fixtures, and mark what starts a server or a browser."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.fixtures import browser, chromium, hub, one_hub, run, serve, start
from support.processes import ROOT, is_setting
from support.receivers import receiver
from support.servers import make

from webhooks import settings

__all__ = ["browser", "chromium", "hub", "make", "one_hub", "receiver", "run", "serve", "start"]

LONG = {Path(__file__).with_name("live"), Path(__file__).with_name("browser")}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if LONG.intersection(item.path.parents):
            item.add_marker("long")


@pytest.fixture(scope="module", autouse=True)
def environment_without_settings() -> Iterator[None]:
    """Remove the settings that tests/test_app.py has loaded from .env, and read neither that file nor the Hub."""
    with pytest.MonkeyPatch.context() as patched:
        for name in filter(is_setting, list(os.environ)):
            patched.delenv(name)
        patched.setenv("WEBHOOKS_CATCH_UP", "0")
        find = settings.find_dotenv
        patched.setattr(settings, "find_dotenv", lambda **options: "" if Path.cwd() == ROOT else find(**options))
        yield
