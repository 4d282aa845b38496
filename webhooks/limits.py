"""What nobody may exceed, in one table, and the count of those who did."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter

from . import console

MAX_HEAD = 32 * 1024  # bytes of a request's first line and headers
MAX_HEADERS = 100
MAX_BODY = 1024 * 1024  # bytes; the Hub's payloads are a few kilobytes, the longest comment is 64 KiB
MAX_BODY_OF_OWN_UI = 4 * 1024 * 1024  # bytes, outside /webhooks/; Gradio makes fifty times as much of JSON
MAX_FILE_OF_OWN_UI = "100mb"  # files are written to the disk; `launch(max_file_size=...)` says otherwise
MAX_CONNECTIONS = 1000  # or half of the files that the process may open; one sender, where it is known, may have half
MAX_SESSIONS = 1000  # of Gradio's pages, each of which takes a hundred kilobytes or more
MAX_PAGES_AT_ONCE = 2  # of ours; forty at once, as usual, would keep a webhook waiting for seconds
BODY_WITHIN = 10.0  # seconds, for all of a webhook's body
WAIT = 10.0  # seconds for all headers of a request, for the next piece of its body, for a sender to read on
SAID_EVERY = 60.0  # seconds between two lines about what was turned away
SAID_AFTER = 2.0  # seconds


def max_connections() -> int:
    try:
        import resource
    except ImportError:  # on Windows, which has no such limit
        return MAX_CONNECTIONS
    open_files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MAX_CONNECTIONS if open_files < 0 else min(MAX_CONNECTIONS, open_files // 2)


class Tally:
    """Counts what is turned away. Whoever floods the server must not flood its console."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._said_at = -SAID_EVERY
        self._will_say = False

    def add(self, reason: str) -> None:
        with self._lock:
            self._counts[reason.rstrip(".")] += 1
            if self._will_say:
                return
            self._will_say = True
            soon = max(SAID_AFTER, self._said_at + SAID_EVERY - time.monotonic())
        timer = threading.Timer(soon, self._say)
        timer.daemon = True
        timer.start()

    def _say(self) -> None:
        with self._lock:
            counts, self._counts = self._counts, Counter()
            self._said_at, self._will_say = time.monotonic(), False
        listed = "; ".join(f"{count} x {reason}" for reason, count in counts.most_common())
        console.log(logging.WARNING, "Turned away: %s", listed)
