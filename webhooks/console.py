"""What the owner reads in the terminal, or in the Space's log."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from .delivery import Delivery
from .hiding import Hide
from .settings import Settings

WEBHOOK_SETTINGS = "https://huggingface.co/settings/webhooks"

_ONLY_LOCAL = "none; only this machine reaches the addresses below"


def summary(settings: Settings, paths: Iterable[str], folder: Path, local_url: str, url: str, link: str | None) -> str:
    """Say what was started: who may call, where, and where to register it; in the words of huggingface_hub's guide
    (https://huggingface.co/docs/huggingface_hub/guides/webhooks).
    """
    return "\n".join(
        [
            "",
            _secret_state(settings),
            "",
            f"Local:     {local_url}",
            f"Public:    {url if url != local_url else _ONLY_LOCAL}",
            f"Log:       {folder}",
            *_desk(link),
            "",
            f"Webhooks are {'not yet ready' if settings.closed else 'correctly setup and ready'} to use:",
            *(f"  - POST {url}{path}" for path in paths),
            f"Go to {WEBHOOK_SETTINGS} to setup your webhooks.",
        ]
    )


def _desk(link: str | None) -> list[str]:
    if link is None:
        return []
    return ["", "See, test and replay deliveries, as the owner (keep this link to yourself):", f"  {link}"]


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
    return f"delivery {delivery.id}: {delivery.endpoint}{escaped(about)}, attempt {delivery.attempt}"


logger = logging.getLogger("webhooks")
_hide = Hide()  # the secrets of all servers of this process


def never_show(hide: Hide) -> None:
    """Keep secrets out of all that is logged and said from now on, whichever of the program's handlers writes it.

    The summary alone has a secret in it: the owner's link.
    """
    global _hide
    _hide |= hide


class _Hiding(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        hidden = _hide(message)
        if hidden != message:
            record.msg, record.args = hidden, ()
        return True


logger.addFilter(_Hiding())

MAX_WAITING = 1000  # records; what comes while so many wait for a console that nobody reads is counted, and left out


class _Console:
    """Writes to the log and the terminal in a thread of its own: it may be a pipe that nobody reads any more."""

    def __init__(self) -> None:
        self._waiting: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._left_out = 0
        threading.Thread(target=self._write, name="webhook console", daemon=True).start()

    def put(self, write: Callable[..., object], *args: object) -> None:
        if self._waiting.qsize() >= MAX_WAITING:
            self._left_out += 1
            return
        if self._left_out:
            left_out, self._left_out = self._left_out, 0
            self._waiting.put(partial(logger.warning, "%d records were left out: the console was full.", left_out))
        self._waiting.put(partial(write, *args))

    def wait(self, seconds: float) -> bool:
        written = threading.Event()
        self._waiting.put(written.set)
        return written.wait(seconds)

    def _write(self) -> None:
        while True:
            write = self._waiting.get()
            with contextlib.suppress(BaseException):  # what a program hangs into its logging
                write()


_console = _Console()


def log(level: int, message: str, *args: object) -> None:
    """Log soon, in order, and without fail: a delivery must not wait for whoever reads it."""
    _console.put(_log, time.time(), level, message, args)


def _log(now: float, level: int, message: str, args: tuple[object, ...]) -> None:
    if logger.isEnabledFor(level):
        record = logger.makeRecord(logger.name, level, __file__, 0, message, args, None)
        record.created, record.msecs = now, now % 1 * 1000  # it may have waited
        logger.handle(record)


def say(text: str) -> None:
    """Print soon."""
    _console.put(partial(print, _hide(text), flush=True))


def wait_until_written(seconds: float) -> bool:
    """Wait for what was logged and said; return whether it is written now."""
    return _console.wait(seconds)


def show_log() -> None:
    """Show the log of deliveries on the console, unless the program has set up logging itself."""
    if not logger.hasHandlers():
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
