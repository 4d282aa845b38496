"""Random sequences of deliver, succeed, fail, kill, restart and replay, held against a model of what must be true."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, precondition, rule
from support.dispatching import WAIT, Dashboard, wait_until

from webhooks import Delivery
from webhooks.deliveries.engine import MAX_INTERRUPTIONS
from webhooks.deliveries.log import find, reading
from webhooks.delivery import FINISHED

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("no_backoff")]

MAX_ATTEMPTS = 3


class Call:
    """A running handler that waits for the test to say how it ends."""

    def __init__(self, delivery: Delivery) -> None:
        self.delivery = delivery
        self.fails = False
        self.go = threading.Event()


class LifeOfDeliveries(RuleBasedStateMachine):
    acknowledged = Bundle("acknowledged")

    @initialize()
    def begin(self) -> None:
        self.dashboard = EngineHarness(Path(tempfile.mkdtemp()) / "log")
        self.calls: list[Call] = []
        self.arrived = threading.Condition()
        self.known: set[str] = set()
        self.done: set[str] = set()  # ids whose outcome was told
        self.failures: Counter[str] = Counter()
        self.kills: Counter[str] = Counter()  # while its handler ran
        self.ran_when_done: list[str] = []
        self.start()

    def start(self) -> None:
        self.process = process = object()

        def handler(delivery: Delivery) -> None:
            call = Call(delivery)
            with self.arrived:
                if self.process is process:
                    if delivery.id in self.done:
                        self.ran_when_done.append(delivery.id)
                    self.calls.append(call)
                    self.arrived.notify_all()
            call.go.wait(WAIT)
            if call.fails:
                raise ValueError

        self.dashboard.endpoints.clear()
        self.endpoint = self.dashboard.add(handler, max_attempts=MAX_ATTEMPTS)
        self.dashboard.start()
        self.wait_for_calls()

    def wait_for_calls(self) -> None:
        """Every unfinished delivery has, or soon gets, a running handler: nothing waits for anything else."""
        unfinished = self.known - self.done
        with self.arrived:
            running = lambda: {call.delivery.id for call in self.calls}  # noqa: E731
            assert self.arrived.wait_for(lambda: running() == unfinished, WAIT), (running(), unfinished)

    @rule(target=acknowledged)
    def deliver(self) -> str:
        id = self.dashboard.record(self.endpoint)
        self.known.add(id)
        self.wait_for_calls()
        return id

    def end(self, number: int, fails: bool) -> None:
        call = self.calls.pop(number % len(self.calls))
        before = self.dashboard.counts()
        id = call.delivery.id
        self.failures[id] += fails
        final = not fails or self.failures[id] == MAX_ATTEMPTS
        if final:
            self.done.add(id)
        call.fails = fails
        call.go.set()
        if final:
            status = "failed" if fails else "succeeded"
            wait_until(lambda: self.dashboard.counts()[status] == before[status] + 1)
        self.wait_for_calls()

    @precondition(lambda self: self.calls)
    @rule(number=st.integers(0, 100))
    def succeed(self, number: int) -> None:
        self.end(number, fails=False)

    @precondition(lambda self: self.calls)
    @rule(number=st.integers(0, 100))
    def fail(self, number: int) -> None:
        self.end(number, fails=True)

    @rule()
    def kill_and_restart(self) -> None:
        """What the process did after this moment is not written: the log is what was on the disk."""
        with self.arrived:
            killed, self.calls, self.process = self.calls, [], None
        copy = Dashboard.copied(self.dashboard.folder)
        for call in killed:
            call.go.set()
            self.kills[call.delivery.id] += 1
            if self.kills[call.delivery.id] == MAX_INTERRUPTIONS:
                self.done.add(call.delivery.id)
        self.dashboard.stop()
        shutil.rmtree(self.dashboard.folder)
        self.dashboard.folder = copy
        self.start()

    @rule()
    def stop_and_restart(self) -> None:
        with self.arrived:
            stopped, self.calls, self.process = self.calls, [], None
        self.dashboard.stop(0)
        for call in stopped:
            call.go.set()
        self.start()

    @rule(target=acknowledged, id=acknowledged)
    def replay(self, id: str) -> str:
        new_id = self.dashboard.engine.replay(id)
        assert new_id not in self.known
        self.known.add(new_id)
        self.wait_for_calls()
        return new_id

    @rule(id=consumes(acknowledged))
    def the_log_knows_it(self, id: str) -> None:
        with reading(self.dashboard.folder / "deliveries.db") as database:
            record = find(database, id)
        assert (record.status in FINISHED) == (id in self.done)
        assert record.failures == self.failures[id]

    @invariant()
    def nothing_finished_runs_again(self) -> None:
        assert getattr(self, "ran_when_done", []) == []

    def teardown(self) -> None:
        if not hasattr(self, "dashboard"):
            return
        for call in self.calls:
            call.go.set()
        self.dashboard.stop()
        shutil.rmtree(self.dashboard.folder.parent)


TestLifeOfDeliveries = LifeOfDeliveries.TestCase
TestLifeOfDeliveries.settings = settings(
    max_examples=40, stateful_step_count=30, suppress_health_check=list(HealthCheck)
)
