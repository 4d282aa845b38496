"""What the terminal or the Space's log shows."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from .delivery import Delivery
from .redact import Redactor
from .settings import Settings

logger = logging.getLogger("webhooks")


def show(text: str) -> None:
    """Print a text at once. Characters that the console's encoding lacks are escaped."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)


def summary(
    settings: Settings,
    paths: Iterable[str],
    folder: Path,
    local_url: str,
    url: str,
    *,
    is_reachable: bool,
    link: str | None,
    catch_up: str | None,
) -> str:
    """Return what was started, in the words of huggingface_hub's guide.

    Source: https://huggingface.co/docs/huggingface_hub/guides/webhooks

    Args:
        is_reachable: other machines reach the server.
        link: to the dashboard, for the owner.
        catch_up: what is looked at on the Hub, if that is worth a line.
    """
    nobody = f"none; only this {'network' if is_reachable else 'machine'} reaches the addresses below"
    owner = ["", "See, test and replay deliveries, as the owner (keep this link to yourself):", f"  {link}"]
    lines = [
        "",
        _secret_state(settings, is_reachable),
        "",
        f"Local:     {local_url}",
        f"Public:    {url if url != local_url else nobody}",
        f"Log:       {folder}{'' if settings.has_lasting_log else ' (lost at each restart: attach a Storage Bucket)'}",
        *(owner if link else ()),
        "",
        f"Webhooks are {'not yet ready' if settings.is_closed else 'correctly setup and ready'} to use:",
        *(f"  - POST {url}{path}" for path in paths),
        "Go to https://huggingface.co/settings/webhooks to setup your webhooks.",
        *(["", catch_up] if catch_up else ()),
        "",
    ]
    return "\n".join(lines)


def _secret_state(settings: Settings, is_reachable: bool) -> str:
    if settings.secrets:
        previous = " The previous one is accepted, too." if len(settings.secrets) > 1 else ""
        return f"Webhook secret is correctly defined.{previous}"
    if settings.is_closed:
        return (
            "Webhook secret is not defined. Until it is, every delivery is answered 503: add WEBHOOK_SECRET in the "
            f"settings of this Space, https://huggingface.co/spaces/{settings.space_id}/settings"
        )
    lines = [
        "Webhook secret is not defined. This means your webhook endpoints will be open to everyone.",
        "To close them, set WEBHOOK_SECRET to a long random text: in the environment, or in a file .env that the "
        "script loads. Then start again.",
        *(["Until then Jobs are dry runs, since others can reach this server."] if is_reachable else ()),
    ]
    return "\n".join(lines)


def escaped(text: str) -> str:
    """Return a stranger's text on one line and without control characters."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def title(delivery: Delivery) -> str:
    """Return the name of a delivery for a line of the console."""
    repo = delivery.payload.repo if delivery.payload else None
    about = f" ({repo.type} {repo.name})" if repo else ""
    return f"delivery {delivery.id}: {escaped(delivery.endpoint + about)}, attempt {delivery.attempt}"


@contextlib.contextmanager
def redacting(redact: Redactor) -> Iterator[None]:
    """Take a server's secrets out of all messages of the logger `webhooks`, and out of the tracebacks below them."""

    def redact_record(record: logging.LogRecord) -> bool:
        record.msg, record.args = redact(record.getMessage()), ()
        if record.exc_info:
            record.exc_text = redact(logging.Formatter().formatException(record.exc_info))
        return True

    logger.addFilter(redact_record)
    try:
        yield
    finally:
        logger.removeFilter(redact_record)


@contextlib.contextmanager
def logging_to_console() -> Iterator[None]:
    """Show the servers' messages on the console, unless the program has set up logging itself."""
    if logger.hasHandlers():
        yield
        return
    handler, level = logging.StreamHandler(), logger.level
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
