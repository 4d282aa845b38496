"""What the owner reads in the terminal, or in the Space's log."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from .delivery import Delivery
from .redact import Redactor
from .settings import Settings

logger = logging.getLogger("webhooks")
log = logger.log


def summary(settings: Settings, paths: Iterable[str], folder: Path, local_url: str, url: str, link: str | None) -> str:
    """Say what was started: who may call, where, and where to register it; in the words of huggingface_hub's guide
    (https://huggingface.co/docs/huggingface_hub/guides/webhooks).
    """
    owner = ["", "See, test and replay deliveries, as the owner (keep this link to yourself):", f"  {link}"]
    return "\n".join(
        [
            "",
            _secret_state(settings),
            "",
            f"Local:     {local_url}",
            f"Public:    {url if url != local_url else 'none; only this machine reaches the addresses below'}",
            f"Log:       {folder}",
            *(owner if link else ()),
            "",
            f"Webhooks are {'not yet ready' if settings.closed else 'correctly setup and ready'} to use:",
            *(f"  - POST {url}{path}" for path in paths),
            "Go to https://huggingface.co/settings/webhooks to setup your webhooks.",
            "",
        ]
    )


def _secret_state(settings: Settings) -> str:
    if settings.secrets:
        previous = " The previous one is accepted, too." if len(settings.secrets) > 1 else ""
        return f"Webhook secret is correctly defined.{previous}"
    if settings.closed:
        return (
            "Webhook secret is not defined. Until it is, every delivery is answered 503: add WEBHOOK_SECRET in the "
            f"settings of this Space, https://huggingface.co/spaces/{settings.space_id}/settings"
        )
    return (
        "Webhook secret is not defined. This means your webhook endpoints will be open to everyone.\n"
        "To close them, set WEBHOOK_SECRET in the environment, or in .env if the script calls load_dotenv()."
    )


def escaped(text: str) -> str:
    """Keep text that a stranger wrote on one line, and what it does to a terminal off."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def title(delivery: Delivery) -> str:
    """Name a delivery in a line for the console."""
    repo = delivery.payload.repo if delivery.payload else None
    about = f" ({repo.type} {repo.name})" if repo else ""
    return f"delivery {delivery.id}: {escaped(delivery.endpoint + about)}, attempt {delivery.attempt}"


class _Hiding(logging.Filter):
    """Keeps the secrets of all servers of this process out of the log, whoever writes it."""

    redact = Redactor()

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = self.redact(record.getMessage()), ()
        return True


_hiding = _Hiding()
logger.addFilter(_hiding)


def never_show(redact: Redactor) -> None:
    """Keep these secrets out of all that is logged from now on."""
    _hiding.redact |= redact


def show_log() -> None:
    """Show the log of deliveries on the console, unless the program has set up logging itself."""
    if not logger.hasHandlers():
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
