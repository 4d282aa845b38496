"""Decides what becomes of each delivery, writes it down, and has its handler run.

One thread does the bookkeeping. Everybody else hands it steps (something arrived, an attempt ended, somebody wants a
replay), and it takes all that are waiting together: their changes to the log are one commit, and only after it do
their consequences happen (a handler starts, a sender is answered). So nothing happens that a crash could undo, but for
one thing: a success is answered as soon as it is known, and written down a moment later. A crash in between makes the
handler run again, which it may at any time.
"""

from __future__ import annotations

import contextlib
import functools
import heapq
import itertools
import logging
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from starlette.responses import Response

from . import answers, life
from .console import escaped
from .delivery import Arrival, Delivery
from .endpoints import Endpoint
from .history import FINISHED, UNFINISHED
from .inbox import Inbox
from .log import MAX_RESULT, DeliveryLog, Unfinished
from .runner import Result, Runner, cut, quoted_traceback

logger = logging.getLogger("webhooks")

RETRY_WRITE = 1.0  # seconds between two tries to write what could not be written
POSTPONE = 1.0  # seconds until a handler that the machine could not start is started again
PRUNE_EVERY = 60.0  # seconds
PRUNE_AGAIN = 1.0  # seconds, while there still was something to prune
PRUNED_AT_ONCE = 200  # deliveries, so that none that arrives has to wait long
QUIET = 0.01  # seconds without anything to do, after which the console hears what has been done
LINES_AT_ONCE = 100
BATCH = 256  # steps that share a commit, at most

_STOPPING = "The server is stopping."
_UNWRITABLE = "The delivery log cannot be written."


class NotTaken(Exception):
    """A delivery was neither recorded nor run; the text says why."""


@dataclass(frozen=True)
class Outcome:
    """What has become of a delivery. Once nothing more comes, or not soon, that is its sender's answer."""

    status: str
    answer: Response | None = None


Tell = Callable[[Outcome | NotTaken], object]


@dataclass
class _Run:
    """An attempt that has been started."""

    endpoint: Endpoint
    delivery: Delivery
    arrival: Arrival
    tell: Tell = lambda _: None
    started: float = field(default_factory=time.monotonic)
    give_up: Callable[[], object] = lambda: None
    end: threading.Lock = field(default_factory=threading.Lock)  # whoever gets it decides how the attempt has ended

    @property
    def key(self) -> tuple[str, int]:
        return self.delivery.id, self.delivery.attempt


def _total(counts: Counter[str], statuses: tuple[str, ...]) -> int:
    return sum(map(counts.__getitem__, statuses))


@dataclass
class _Change:
    """What a commit changes beside the log: the counts, and what is to happen when it is done."""

    counts: Counter[str]
    finished: int = 0
    consequences: list[tuple[Callable[..., object], tuple[object, ...]]] = field(default_factory=list)

    def then(self, call: Callable[..., object], *args: object) -> None:
        self.consequences.append((call, args))

    def move(self, old: str | None, new: str) -> None:
        if old:
            self.counts[old] -= 1
        self.counts[new] += 1
        self.finished += new in FINISHED


class _Step(NamedTuple):
    """A piece of bookkeeping. If it cannot be written: refused where somebody waits for it, else kept until it can."""

    apply: Callable[[_Change], object]
    hear_refusal: Callable[[NotTaken], object] | None = None

    def refuse(self, reason: str) -> None:
        if self.hear_refusal:
            self.hear_refusal(NotTaken(reason))


class Dispatcher:
    """Takes deliveries and sees them through.

    Args:
        endpoints: by path.
        log: where all is written down; the dispatcher closes it when it stops.
        max_pending: how many deliveries may be unfinished at once.
        hide: takes secrets out of what is logged and recorded.

    Attributes:
        changed: notified when the status of a delivery has changed, and that has been written down.
    """

    def __init__(
        self, endpoints: Mapping[str, Endpoint], log: DeliveryLog, max_pending: int, hide: Callable[[str], str]
    ) -> None:
        self._endpoints = endpoints
        self._log = log
        self._hide = hide
        self._max_pending = max_pending
        self._runner = Runner(hide)
        self._inbox: Inbox[_Step] = Inbox()
        self._timers: list[tuple[float, int, _Step]] = []
        self._timer_numbers = itertools.count()
        self._running: dict[tuple[str, int], _Run] = {}
        self._counts = log.counts()
        self._left = log.unfinished()  # by the last process; what arrives from now on is ours
        self._succeeded: list[str] = []  # lines for the console
        self._to_prune = 0  # that have finished since the log was last pruned
        self._writable = True
        self._stopping = False
        self._closed = False
        self._idle = threading.Event()
        self.changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="webhook bookkeeping", daemon=True)

    # For everybody else, from any thread

    def start(self) -> None:
        """Begin to take deliveries."""
        self._inbox.put(_Step(self._prune_more))
        self._thread.start()

    def recover(self) -> None:
        """Go on with everything that the last process left unfinished."""
        self._inbox.put(_Step(self._recover))

    def take(self, endpoint: Endpoint, delivery: Delivery, arrival: Arrival, tell: Tell) -> None:
        """Record a delivery and have its handler run.

        Args:
            tell: called from other threads, with what becomes of it: that it was not taken; or, once it is in the log
                for good, with its status, and if that is `running`, with how the first attempt ended. It must not
                block or raise.
        """
        self._ask(_Step(lambda change: self._arrive(change, endpoint, delivery, arrival, tell), tell))

    def replay(self, id: str) -> str:
        """Run a recorded delivery again as a new one; return the new one's id.

        Raises:
            KeyError: there is none with this id.
            NotTaken: nothing more can be taken now.
        """
        new_id: Future[str] = Future()
        self._ask(_Step(lambda change: self._replay(change, id, new_id), new_id.set_exception))
        return new_id.result()

    def hasten(self) -> None:
        """Run at once what waits for its next attempt or for the end of a burst, as tests want it to."""
        self._inbox.put(_Step(self._due_now))

    def learn_stage(self, job_id: str, stage: str) -> None:
        """Write down the present stage of a Job."""
        self._inbox.put(_Step(lambda change: self._log.set_stage(job_id, stage)))

    def _ask(self, step: _Step) -> None:
        if self._stopping:
            step.refuse(_STOPPING)
        else:
            self._inbox.put(step)

    def health(self) -> tuple[bool, dict[str, int]]:
        """Tell whether deliveries are taken, and how many there are by status."""
        counts = self._counts
        pending = _total(counts, UNFINISHED)
        taking = self._thread.is_alive() and self._writable and not self._stopping and pending < self._max_pending
        return taking, {status: counts[status] for status in (*UNFINISHED, *FINISHED)}

    def stop(self, grace: float) -> bool:
        """Take nothing more, wait up to `grace` seconds for running handlers, and close the log.

        Returns:
            Whether all of them ended. The others, and all that waits, go on at the next start.
        """
        look_again = _Step(lambda change: None)
        self._stopping = True
        self._inbox.put(look_again)
        all_ended = self._idle.wait(grace)
        self._closed = True
        self._inbox.put(look_again)
        self._thread.join()
        if all_ended:
            self._runner.stop()
        return all_ended

    # The bookkeeping thread

    def _work(self) -> None:
        while not self._closed:
            if steps := self._next_steps():
                self._write(steps)
            if len(self._succeeded) >= LINES_AT_ONCE or not steps:
                self._log_successes()
            if self._to_prune >= PRUNED_AT_ONCE:
                self._write([_Step(self._prune)])
            if self._stopping and not self._running:
                self._idle.set()
        while steps := self._inbox.take(BATCH, wait=0):
            self._write(steps)
        self._log_successes()
        self._log.close()
        for step in self._inbox.take(BATCH, wait=0):  # whoever came too late must not wait for ever
            step.refuse(_STOPPING)

    def _next_steps(self) -> list[_Step]:
        """Wait until there is something to do, and return all of it that is there."""
        wait = max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else None
        if self._succeeded:
            wait = QUIET if wait is None else min(wait, QUIET)
        steps = self._inbox.take(BATCH, wait)
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            steps.append(heapq.heappop(self._timers)[2])
        return steps

    def _write(self, steps: list[_Step]) -> None:
        change = _Change(self._counts.copy())
        try:
            with self._log.transaction():
                for step in steps:
                    step.apply(change)
        except Exception as error:
            if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):  # waiting again helps nobody
                for step in steps:
                    self._not_written(step, error)
            elif len(steps) > 1:  # one that cannot be written must not keep the others from it
                for step in steps:
                    self._write([step])
            else:
                self._not_written(steps[0], error)
            return
        moved, self._counts = change.counts != self._counts, change.counts
        self._to_prune += change.finished
        for call, args in change.consequences:
            try:
                call(*args)
            except Exception as error:  # a fault of ours must not end the bookkeeping
                _log(logging.ERROR, "Bookkeeping has failed\n%s", quoted_traceback(error, self._hide))
        self._runner.wake()
        if moved:
            with self.changed:
                self.changed.notify_all()

    def _log_successes(self) -> None:
        """Log many as one record where many come together: one for each would cost as much as they do."""
        if self._succeeded:
            _log(logging.INFO, "%s", "\n".join(self._succeeded))
            self._succeeded.clear()

    def _not_written(self, step: _Step, error: Exception) -> None:
        if self._writable:
            self._writable = False
            cause = escaped(str(error)) or type(error).__name__
            _log(
                logging.ERROR,
                "The delivery log cannot be written (%s). New deliveries get a 503 until it can. Is the disk full?",
                cause,
            )
            self._after(RETRY_WRITE, _Step(self._probe))
        if step.hear_refusal:
            step.refuse(_UNWRITABLE)
        else:
            self._after(RETRY_WRITE, step)

    def _probe(self, change: _Change) -> None:
        """Learn whether the log can be written again; until it can, this step comes back."""
        self._log.probe()
        change.then(setattr, self, "_writable", True)
        change.then(_log, logging.INFO, "The delivery log can be written again.")

    def _after(self, seconds: float, step: _Step) -> None:
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._timer_numbers), step))

    def _run_at(self, due_at: float, id: str) -> None:
        self._after(max(0.0, due_at - time.time()), _Step(lambda change: self._due(change, id)))

    # The steps

    def _arrive(self, change: _Change, endpoint: Endpoint, delivery: Delivery, arrival: Arrival, tell: Tell) -> None:
        subject = life.subject(endpoint.path, delivery.payload) if endpoint.debounce else None
        burst_at = self._log.supersede(subject, by=delivery.id) if subject and not self._stopping else None
        if burst_at is not None:  # it needs no room of its own, and refused it would leave the older one to run
            change.move("scheduled", "superseded")
        elif reason := self._refusal(change):
            change.then(tell, NotTaken(reason))
            return
        if subject:
            now = time.time()
            burst_at = now if burst_at is None else min(burst_at, now)
            due_at = life.debounced_until(now, burst_at, endpoint.debounce)
            self._log.add(delivery, arrival, "scheduled", due_at=due_at, subject=subject, burst_at=burst_at)
            change.move(None, "scheduled")
            change.then(self._run_at, due_at, delivery.id)
            change.then(tell, Outcome("scheduled", answers.accepted(delivery, "scheduled")))
        else:
            self._log.add(delivery, arrival, "running")
            change.move(None, "running")
            change.then(tell, Outcome("running"))
            change.then(self._start, _Run(endpoint, delivery, arrival, tell))

    def _refusal(self, change: _Change) -> str | None:
        if self._stopping:
            return _STOPPING
        if _total(change.counts, UNFINISHED) >= self._max_pending:
            return "Too many deliveries are waiting."
        return None

    def _start(self, run: _Run) -> None:
        self._running[run.key] = run
        try:
            done = functools.partial(self._done, run)
            run.give_up = self._runner.start(run.endpoint, run.delivery, run.arrival, done)
        except Exception as error:  # the machine gives no more threads or files
            reason = f"Not started: {error}."
            self._inbox.put(_Step(lambda change: self._postpone(change, run, reason)))
            return
        if run.endpoint.timeout is not None:
            key = run.key  # not the run: a long timeout must not keep what has long ended
            self._after(run.endpoint.timeout, _Step(lambda change: change.then(self._time_out, key)))

    def _done(self, run: _Run, result: Result) -> None:
        """Hear from the handler's thread how an attempt ended."""
        if not run.end.acquire(blocking=False):  # it has timed out before, and this is its thread coming back
            self._inbox.put_later(_Step(lambda change: self._add_jobs(run.delivery)))
            return
        step = _Step(lambda change: self._ended(change, run, result))
        if result.error is None:
            self._inbox.put_later(step)  # first, so that whoever is answered finds room for the next one
            run.tell(Outcome("succeeded", result.answer))
        else:
            self._inbox.put(step)

    def _postpone(self, change: _Change, run: _Run, reason: str) -> None:
        self._log.fail_attempt(run.delivery.id, reason, counts=False)
        change.then(_log, logging.ERROR, "%s: %s It runs later.", _title(run.delivery), reason)
        outcome = self._again(change, run.delivery, POSTPONE)
        change.then(run.tell, outcome)
        self._settle(change, run, outcome)

    def _time_out(self, key: tuple[str, int]) -> None:
        run = self._running.get(key)
        if run and run.end.acquire(blocking=False):
            run.give_up()
            error = TimeoutError(f"The handler took longer than its timeout of {run.endpoint.timeout:g} seconds.")
            result = self._runner.failure(run.delivery, error)
            self._inbox.put(_Step(lambda change: self._ended(change, run, result)))

    def _ended(self, change: _Change, run: _Run, result: Result) -> None:
        delivery = run.delivery
        title = f"{_title(delivery)}, attempt {delivery.attempt}"
        seconds = time.monotonic() - run.started
        self._add_jobs(delivery)
        if result.error is None:
            change.then(self._succeeded.append, f"{title}: succeeded in {seconds:.2f} s")
            outcome = self._finish(delivery, "succeeded", result.answer)
        else:
            change.then(_log, logging.ERROR, "%s: failed after %.2f s\n%s", title, seconds, result.error)
            failures = self._log.fail_attempt(delivery.id, result.error)
            if failures < run.endpoint.max_attempts and not result.final:
                outcome = self._again(change, delivery, life.backoff(failures))
            else:
                outcome = self._finish(delivery, "failed", result.answer)
            change.then(run.tell, outcome)
        self._settle(change, run, outcome)

    def _add_jobs(self, delivery: Delivery) -> None:
        for job in delivery.jobs:
            self._log.add_job(delivery.id, job)

    def _finish(self, delivery: Delivery, status: str, answer: Response) -> Outcome:
        body = cut(bytes(answer.body[: 2 * MAX_RESULT]).decode("latin-1"), MAX_RESULT, self._hide).encode("latin-1")
        self._log.finish(delivery.id, status, answer.status_code, body)
        return Outcome(status, answer)

    def _again(self, change: _Change, delivery: Delivery, seconds: float) -> Outcome:
        due_at = time.time() + seconds
        self._log.schedule(delivery.id, due_at)
        change.then(self._run_at, due_at, delivery.id)
        return Outcome("scheduled", answers.accepted(delivery, "scheduled"))

    def _settle(self, change: _Change, run: _Run, outcome: Outcome) -> None:
        change.move("running", outcome.status)
        change.then(self._running.pop, run.key, None)

    def _due(self, change: _Change, id: str) -> None:
        if self._stopping:
            return
        try:
            record = self._log.find(id)
        except KeyError:
            return
        except (ValueError, TypeError, OverflowError, OSError) as error:  # damaged since it was written
            reason = f"This delivery cannot be read any more: {error}."
            status = self._log.fail_unreadable(id)
            change.move(status, "failed")
            change.then(_log, logging.ERROR, "delivery %s failed: %s", id, escaped(reason))
            return
        if record.status not in ("queued", "scheduled"):
            return
        delivery = replace(record.delivery, attempt=len(record.attempts) + 1)
        endpoint = self._endpoints.get(delivery.endpoint)
        if endpoint is None or (endpoint.takes_payload and delivery.payload is None):
            self._abandon(change, record.status, delivery, endpoint)
            return
        change.move(record.status, "running")
        self._log.start_attempt(delivery)
        change.then(self._start, _Run(endpoint, delivery, record.arrival))

    def _due_now(self, change: _Change) -> None:
        for left in self._log.unfinished():
            self._due(change, left.id)

    def _abandon(self, change: _Change, status: str, delivery: Delivery, endpoint: Endpoint | None) -> None:
        reason = (
            f"No handler is registered at {delivery.endpoint} any more."
            if endpoint is None
            else f"The handler at {delivery.endpoint} takes a payload now, and the body of this delivery is none."
        )
        outcome = self._finish(delivery, "failed", answers.answer(500, {"error": reason, "delivery": delivery.id}))
        change.move(status, outcome.status)
        change.then(_log, logging.ERROR, "%s failed: %s", _title(delivery), reason)

    def _replay(self, change: _Change, id: str, new_id: Future[str]) -> None:
        try:
            record = self._log.find(id)
        except KeyError as error:
            change.then(new_id.set_exception, error)
            return
        if reason := self._refusal(change):
            change.then(new_id.set_exception, NotTaken(reason))
            return
        delivery = Delivery(record.delivery.endpoint, record.delivery.payload, replay_of=id)
        self._log.add(delivery, record.arrival, "queued")
        change.move(None, "queued")
        change.then(self._run_at, 0, delivery.id)
        change.then(new_id.set_result, delivery.id)

    def _recover(self, change: _Change) -> None:
        unfinished = self._left
        interrupted = self._log.interrupt_running(left.id for left in unfinished)
        change.counts["running"] -= interrupted
        change.counts["queued"] += interrupted
        if unfinished:
            change.then(_log, logging.INFO, "%d unfinished deliveries go on.", len(unfinished))
        for left in unfinished:
            change.then(self._run_at, min(left.due_at, time.time() + self._longest_wait(left)), left.id)

    def _longest_wait(self, left: Unfinished) -> float:
        """Return the seconds that it may have to wait: the clock may have been wrong when it was written down."""
        endpoint = self._endpoints.get(left.endpoint)
        return endpoint.debounce if endpoint and left.is_debounced else life.MAX_BACKOFF

    def _prune(self, change: _Change) -> None:
        """Keep a log that is full from growing: as many go as come, once they are worth a statement."""
        if excess := self._excess(change):
            change.counts -= self._log.prune(excess, at_most=self._to_prune)
        self._to_prune = 0

    def _prune_more(self, change: _Change) -> None:
        """Delete what is too old, or too much since before the start, a little at a time."""
        pruned = self._log.prune(self._excess(change), PRUNED_AT_ONCE)
        change.counts -= pruned
        wait = PRUNE_AGAIN if pruned else PRUNE_EVERY
        change.then(self._after, wait, _Step(self._prune_more))

    def _excess(self, change: _Change) -> int:
        return max(0, _total(change.counts, FINISHED) - self._log.keep)


def _log(level: int, message: str, *args: object) -> None:
    """Log without fail: what a program hangs into its logging must not end the bookkeeping."""
    with contextlib.suppress(Exception):
        logger.log(level, message, *args)


def _title(delivery: Delivery) -> str:
    repo = delivery.payload.repo if delivery.payload else None
    about = f" ({repo.type} {repo.name})" if repo else ""
    return f"delivery {delivery.id}: {delivery.endpoint}{escaped(about)}"
