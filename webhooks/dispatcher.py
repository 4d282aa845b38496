"""Decides what becomes of each delivery, writes it down, and has its handler run.

One thread does the bookkeeping. Everybody else hands it steps (something arrived, an attempt ended, somebody wants a
replay), and it takes all that are waiting together: their changes to the log are one commit, and only after it do
their consequences happen (a handler starts, a sender is answered). So nothing happens that a crash could undo.
"""

from __future__ import annotations

import contextlib
import functools
import heapq
import itertools
import logging
import queue
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any

from starlette.responses import Response

from . import answers, life
from .console import escaped
from .delivery import Arrival, Delivery
from .endpoints import Endpoint
from .history import FINISHED, UNFINISHED
from .log import DeliveryLog
from .runner import Result, Runner, quoted_traceback

logger = logging.getLogger("webhooks")

RETRY_WRITE = 1.0  # seconds between two tries to write what could not be written
POSTPONE = 1.0  # seconds until a handler that the machine could not start is started again
PRUNE_EVERY = 60.0  # seconds
PRUNE_AGAIN = 1.0  # seconds, while there still was something to prune
PRUNED_AT_ONCE = 100  # deliveries, so that none that arrives has to wait long
BATCH = 256  # steps that share a commit, at most

_STOPPING = "The server is stopping."
_UNWRITABLE = "The delivery log cannot be written."


class NotTaken(Exception):
    """A delivery was neither recorded nor run; the text says why."""


@dataclass(frozen=True)
class Outcome:
    """What became of a delivery, as far as its sender can wait for it."""

    status: str
    answer: Response


def _promise() -> Future[Any]:
    """A future that whoever waits for it cannot cancel, only stop waiting for."""
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()
    return future


@dataclass(frozen=True)
class Ticket:
    """What the sender of a delivery may wait for.

    Attributes:
        recorded: its status, once it is in the log for good. Raises `NotTaken`.
        outcome: how its first attempt ended.
    """

    delivery: Delivery
    recorded: Future[str] = field(default_factory=_promise)
    outcome: Future[Outcome] = field(default_factory=_promise)


@dataclass
class _Run:
    """An attempt that has been started."""

    endpoint: Endpoint
    delivery: Delivery
    arrival: Arrival
    outcome: Future[Outcome] | None = None
    started: float = field(default_factory=time.monotonic)
    give_up: Callable[[], object] = lambda: None

    @property
    def key(self) -> tuple[str, int]:
        return self.delivery.id, self.delivery.attempt


def _total(counts: Counter[str], statuses: tuple[str, ...]) -> int:
    return sum(counts[status] for status in statuses)


@dataclass
class _Change:
    """What a commit changes beside the log: the counts, and what is to happen when it is done."""

    counts: Counter[str]
    finished: int = 0
    consequences: list[Callable[[], object]] = field(default_factory=list)

    def then(self, call: Callable[..., object], *args: object) -> None:
        self.consequences.append(functools.partial(call, *args))

    def move(self, old: str | None, new: str) -> None:
        if old:
            self.counts[old] -= 1
        self.counts[new] += 1
        self.finished += new in FINISHED


@dataclass(frozen=True)
class _Step:
    """A piece of bookkeeping. If it cannot be written: refused where somebody waits for it, else kept until it can."""

    apply: Callable[[_Change], object]
    waiting: Future[Any] | None = None

    def refuse(self, reason: str) -> None:
        if self.waiting:
            self.waiting.set_exception(NotTaken(reason))


class Dispatcher:
    """Takes deliveries and sees them through.

    Args:
        endpoints: by path.
        log: where all is written down; the dispatcher closes it when it stops.
        max_pending: how many deliveries may be unfinished at once.
        hide: takes secrets out of what is logged and recorded.
    """

    def __init__(
        self, endpoints: Mapping[str, Endpoint], log: DeliveryLog, max_pending: int, hide: Callable[[str], str]
    ) -> None:
        self._endpoints = endpoints
        self._log = log
        self._hide = hide
        self._max_pending = max_pending
        self._runner = Runner(hide)
        self._steps: queue.SimpleQueue[_Step | None] = queue.SimpleQueue()
        self._timers: list[tuple[float, int, _Step]] = []
        self._timer_numbers = itertools.count()
        self._running: dict[tuple[str, int], _Run] = {}
        self._counts = log.counts()
        self._left = log.unfinished()  # by the last process; what arrives from now on is ours
        self._writable = True
        self._stopping = False
        self._closed = False
        self._idle = threading.Event()
        self._thread = threading.Thread(target=self._work, name="webhook bookkeeping", daemon=True)

    # For everybody else, from any thread

    def start(self) -> None:
        """Begin to take deliveries."""
        self._steps.put(_Step(self._prune_more))
        self._thread.start()

    def recover(self) -> None:
        """Go on with everything that the last process left unfinished."""
        self._steps.put(_Step(self._recover))

    def take(self, endpoint: Endpoint, delivery: Delivery, arrival: Arrival) -> Ticket:
        """Record a delivery and have its handler run."""
        ticket = Ticket(delivery)
        self._ask(_Step(lambda change: self._arrive(change, ticket, endpoint, arrival), ticket.recorded))
        return ticket

    def replay(self, id: str) -> str:
        """Run a recorded delivery again as a new one; return the new one's id.

        Raises:
            KeyError: there is none with this id.
            NotTaken: nothing more can be taken now.
        """
        new_id: Future[str] = _promise()
        self._ask(_Step(lambda change: self._replay(change, id, new_id), new_id))
        return new_id.result()

    def learn_stage(self, job_id: str, stage: str) -> None:
        """Write down the present stage of a Job."""
        self._steps.put(_Step(lambda change: self._log.set_stage(job_id, stage)))

    def _ask(self, step: _Step) -> None:
        if self._stopping:
            step.refuse(_STOPPING)
        else:
            self._steps.put(step)

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
        self._stopping = True
        self._steps.put(_Step(lambda change: None))
        all_ended = self._idle.wait(grace)
        self._steps.put(None)
        self._thread.join()
        if all_ended:
            self._runner.stop()
        return all_ended

    # The bookkeeping thread

    def _work(self) -> None:
        while not self._closed:
            if steps := self._next_steps():
                self._write(steps)
            if self._stopping and not self._running:
                self._idle.set()
        self._log.close()
        while not self._steps.empty():  # whoever came too late must not wait for ever
            if step := self._steps.get():
                step.refuse(_STOPPING)

    def _next_steps(self) -> list[_Step]:
        """Wait until there is something to do, and return all of it that is there."""
        steps: list[_Step] = []
        wait = max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else None
        with contextlib.suppress(queue.Empty):
            while len(steps) < BATCH and not self._closed:
                step = self._steps.get_nowait() if steps else self._steps.get(timeout=wait)
                if step is None:
                    self._closed = True
                else:
                    steps.append(step)
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
                self._prune(change, at_most=change.finished)
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
        self._counts = change.counts
        for happen in change.consequences:
            try:
                happen()
            except Exception as error:  # a fault of ours must not end the bookkeeping
                _log(logging.ERROR, "Bookkeeping has failed\n%s", quoted_traceback(error, self._hide))

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
        if step.waiting:
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

    def _arrive(self, change: _Change, ticket: Ticket, endpoint: Endpoint, arrival: Arrival) -> None:
        delivery = ticket.delivery
        if reason := self._refusal(change):
            change.then(ticket.recorded.set_exception, NotTaken(reason))
            return
        subject = life.subject(endpoint.path, delivery.payload) if endpoint.debounce else None
        if subject:
            now = time.time()
            burst_at = self._log.supersede(subject, by=delivery.id)
            if burst_at is None:
                burst_at = now
            else:
                change.move("scheduled", "superseded")
            due_at = life.debounced_until(now, burst_at, endpoint.debounce)
            self._log.add(delivery, arrival, "scheduled", due_at=due_at, subject=subject, burst_at=burst_at)
            change.move(None, "scheduled")
            change.then(self._run_at, due_at, delivery.id)
            change.then(ticket.recorded.set_result, "scheduled")
        else:
            self._log.add(delivery, arrival, "running")
            change.move(None, "running")
            change.then(ticket.recorded.set_result, "running")
            self._begin(change, _Run(endpoint, delivery, arrival, ticket.outcome))

    def _refusal(self, change: _Change) -> str | None:
        if self._stopping:
            return _STOPPING
        if _total(change.counts, UNFINISHED) >= self._max_pending:
            return "Too many deliveries are waiting."
        return None

    def _begin(self, change: _Change, run: _Run) -> None:
        self._log.start_attempt(run.delivery)
        change.then(self._start, run)

    def _start(self, run: _Run) -> None:
        self._running[run.key] = run
        try:
            run.give_up = self._runner.start(
                run.endpoint,
                run.delivery,
                run.arrival,
                lambda result: self._steps.put(_Step(lambda change: self._ended(change, run, result))),
            )
        except Exception as error:  # the machine gives no more threads or files
            reason = f"Not started: {error}."
            self._steps.put(_Step(lambda change: self._postpone(change, run, reason)))
            return
        if run.endpoint.timeout is not None:
            key = run.key  # not the run: a long timeout must not keep what has long ended
            self._after(run.endpoint.timeout, _Step(lambda change: self._timed_out(change, key)))

    def _postpone(self, change: _Change, run: _Run, reason: str) -> None:
        self._log.end_attempt(run.delivery, reason, failed=False)
        change.then(_log, logging.ERROR, "%s: %s It runs later.", _title(run.delivery), reason)
        self._settle(change, run, self._again(change, run.delivery, POSTPONE))

    def _timed_out(self, change: _Change, key: tuple[str, int]) -> None:
        if run := self._running.get(key):
            error = TimeoutError(f"The handler took longer than its timeout of {run.endpoint.timeout:g} seconds.")
            self._ended(change, run, self._runner.failure(run.delivery, error))
            change.then(run.give_up)

    def _ended(self, change: _Change, run: _Run, result: Result) -> None:
        delivery, endpoint = run.delivery, run.endpoint
        seconds = time.monotonic() - run.started
        error = result.error
        for job in delivery.jobs:
            self._log.add_job(delivery.id, job)
        failures = self._log.end_attempt(delivery, error)
        if failures is None:  # it has timed out before, and this is its thread coming back
            return
        change.then(_log_end, delivery, error, seconds)
        if error is not None and not result.final and failures < endpoint.max_attempts:
            outcome = self._again(change, delivery, life.backoff(failures))
        else:
            outcome = Outcome("succeeded" if error is None else "failed", result.answer)
            body = self._hide(bytes(result.answer.body).decode("latin-1")).encode("latin-1")
            self._log.finish(delivery.id, outcome.status, result.answer.status_code, body)
        self._settle(change, run, outcome)

    def _again(self, change: _Change, delivery: Delivery, seconds: float) -> Outcome:
        due_at = time.time() + seconds
        self._log.schedule(delivery.id, due_at)
        change.then(self._run_at, due_at, delivery.id)
        return Outcome("scheduled", answers.accepted(delivery, "scheduled"))

    def _settle(self, change: _Change, run: _Run, outcome: Outcome) -> None:
        change.move("running", outcome.status)
        change.then(self._running.pop, run.key, None)
        if run.outcome:
            change.then(run.outcome.set_result, outcome)

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
        self._begin(change, _Run(endpoint, delivery, record.arrival))

    def _abandon(self, change: _Change, status: str, delivery: Delivery, endpoint: Endpoint | None) -> None:
        reason = (
            f"No handler is registered at {delivery.endpoint} any more."
            if endpoint is None
            else f"The handler at {delivery.endpoint} takes a payload now, and the body of this delivery is none."
        )
        answer = answers.answer(500, {"error": reason, "delivery": delivery.id})
        self._log.finish(delivery.id, "failed", answer.status_code, bytes(answer.body))
        change.move(status, "failed")
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
        interrupted = self._log.interrupt_running(id for id, _ in unfinished)
        change.counts["running"] -= interrupted
        change.counts["queued"] += interrupted
        if unfinished:
            change.then(_log, logging.INFO, "%d unfinished deliveries go on.", len(unfinished))
        for id, due_at in unfinished:
            change.then(self._run_at, due_at, id)

    def _prune(self, change: _Change, at_most: int) -> None:
        """Keep a log that is full from growing: as many go as come."""
        excess = _total(change.counts, FINISHED) - self._log.keep
        if excess > 0 and at_most > 0:
            change.counts -= self._log.prune(excess, at_most)

    def _prune_more(self, change: _Change) -> None:
        """Delete what is too old, or too much since before the start, a little at a time."""
        pruned = self._log.prune(max(0, _total(change.counts, FINISHED) - self._log.keep), PRUNED_AT_ONCE)
        change.counts -= pruned
        wait = PRUNE_AGAIN if pruned else PRUNE_EVERY
        change.then(self._after, wait, _Step(self._prune_more))


def _log(level: int, message: str, *args: object) -> None:
    """Log without fail: what a program hangs into its logging must not end the bookkeeping."""
    with contextlib.suppress(Exception):
        logger.log(level, message, *args)


def _log_end(delivery: Delivery, error: str | None, seconds: float) -> None:
    title = f"{_title(delivery)}, attempt {delivery.attempt}"
    if error is None:
        _log(logging.INFO, "%s: succeeded in %.2f s", title, seconds)
    else:
        _log(logging.ERROR, "%s: failed after %.2f s\n%s", title, seconds, error)


def _title(delivery: Delivery) -> str:
    repo = delivery.payload.repo if delivery.payload else None
    about = f" ({repo.type} {repo.name})" if repo else ""
    return f"delivery {delivery.id}: {delivery.endpoint}{escaped(about)}"
