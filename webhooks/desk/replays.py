"""Many replays, one after the other, as long as there is room for what the Hub sends."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..console import escaped, log
from ..deliveries.life import NotTaken

TRY_AGAIN = 0.5  # seconds


@dataclass(frozen=True)
class Progress:
    """How far the replays are that were asked for last."""

    done: int
    waiting: int


class Replays:
    """Replays deliveries in a thread of its own, while there are any.

    Args:
        replay: runs a delivery again.
        has_room: tells whether there is room for one more.
    """

    def __init__(self, replay: Callable[[str], str], has_room: Callable[[], bool]) -> None:
        self._replay = replay
        self._has_room = has_room
        self._lock = threading.Lock()
        self._waiting: list[str] = []
        self._done = 0
        self._ended = threading.Event()

    @property
    def progress(self) -> Progress:
        return Progress(self._done, len(self._waiting))

    def begin(self, choose: Callable[[Sequence[str]], Sequence[str]]) -> None:
        """Replay what is chosen.

        Args:
            choose: is given those that still wait, and chooses others: two who ask at once replay nothing twice.
        """
        with self._lock:
            chosen = choose(list(self._waiting))
            is_first = not self._waiting
            self._waiting += chosen
            if is_first and chosen:
                self._done = 0
                self._ended = threading.Event()
                threading.Thread(target=self._run, args=(self._ended,), name="webhooks replays", daemon=True).start()

    def end(self) -> None:
        """Replay no more: the server is closed."""
        with self._lock:
            self._ended.set()
            self._waiting.clear()

    def _run(self, ended: threading.Event) -> None:
        while not ended.is_set():
            if not self._has_room() or not self._replay_next():
                ended.wait(TRY_AGAIN)
                continue
            with self._lock:
                if ended.is_set():
                    return
                self._done += 1
                del self._waiting[0]
                if not self._waiting:
                    return

    def _replay_next(self) -> bool:
        """Replay one, and return whether that is settled."""
        try:
            for id in self._waiting[:1]:  # none, if the end comes in between
                self._replay(id)
        except NotTaken:
            return False
        except KeyError:  # pruned meanwhile
            pass
        except Exception as error:  # or none of those that wait would ever be replayed
            log(logging.ERROR, "A delivery cannot be replayed: %s", escaped(str(error)))
        return True
