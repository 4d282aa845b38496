"""What the owner reads in the terminal, or in the Space's log."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from .settings import Settings

WEBHOOK_SETTINGS = "https://huggingface.co/settings/webhooks"

_ONLY_LOCAL = "none; only this machine reaches the addresses below"


def summary(settings: Settings, paths: Iterable[str], local_url: str, url: str, link: str) -> str:
    """Say what was started: who may call, where, and where to register it."""
    return "\n".join(
        [
            "",
            _secret_state(settings),
            "",
            f"Local:     {local_url}",
            f"Public:    {url if url != local_url else _ONLY_LOCAL}",
            f"Log:       {settings.data_dir.absolute()}",
            "Webhooks:",
            *(f"  POST {url}{path}" for path in paths),
            "",
            "See, test and replay deliveries, as the owner (keep this link to yourself):",
            f"  {link}",
            "",
            f"Tell the Hub about them at {WEBHOOK_SETTINGS}",
        ]
    )


def _secret_state(settings: Settings) -> str:
    if settings.secrets:
        previous = " (and the previous one is still accepted)" if len(settings.secrets) > 1 else ""
        return f"The webhook secret is set{previous}."
    if settings.closed:
        return (
            "No webhook secret is set, so every delivery is answered 503. Add WEBHOOK_SECRET in the settings "
            f"of this Space: https://huggingface.co/spaces/{settings.space_id}/settings"
        )
    return (
        "No webhook secret is set: anyone who knows an address below can call it. Set WEBHOOK_SECRET in the "
        "environment or in .env to close it."
    )


def escaped(text: str) -> str:
    """Keep text that a stranger wrote on one line, and what it does to a terminal off."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def show_log() -> None:
    """Show the log of deliveries on the console, unless the program has set up logging itself."""
    logger = logging.getLogger("webhooks")
    if not logger.hasHandlers():
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
