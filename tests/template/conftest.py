"""The fixtures of the template's tests: those of the server's."""

from support.fixtures import browser, chromium, run, serve, start

__all__ = ["browser", "chromium", "run", "serve", "start"]
