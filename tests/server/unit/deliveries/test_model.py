"""Random sequences of deliveries, failures, kills, restarts and replays, compared with a model."""

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
from support.engines import WAIT, EngineHarness, wait_until

from webhooks import Delivery
from webhooks.deliveries.log import find, reading
from webhooks.deliveries.processing import MAX_INTERRUPTIONS
from webhooks.delivery import FINISHED

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("no_backoff", "brief_stops")]

MAX_ATTEMPTS = 3


class Call:
    """A running handler that waits for the test to decide how it ends."""

    def __init__(self, delivery: Delivery) -> None:
        self.delivery = delivery
        self.fails = False
        self.go = threading.Event()


class DeliveryMachine(RuleBasedStateMachine):
    acknowledged = Bundle("acknowledged")

    @initialize()
    def begin(self) -> None:
        self.harness = EngineHarness(Path(tempfile.mkdtemp()) / "log")
        self.calls: list[Call] = []
        self.has_changed = threading.Condition()
        self.known: set[str] = set()
        self.finished: dict[str, str] = {}  # the status by id
        self.failures: Counter[str] = Counter()
        self.kills: Counter[str] = Counter()  # while its handler ran
        self.ran_when_finished: list[str] = []
        self.start()

    def start(self) -> None:
        self.process = process = object()

        def handler(delivery: Delivery) -> None:
            call = Call(delivery)
            with self.has_changed:
                if self.process is process:
                    if delivery.id in self.finished:
                        self.ran_when_finished.append(delivery.id)
                    self.calls.append(call)
                    self.has_changed.notify_all()
            call.go.wait(WAIT)
            if call.fails:
                raise ValueError

        self.harness.endpoints.clear()
        self.endpoint = self.harness.add(handler, max_attempts=MAX_ATTEMPTS)
        self.harness.start()
        self.wait_for_calls()

    def wait_for_calls(self) -> None:
        """Wait until the handler of each unfinished delivery runs, and the others are finished in the log."""
        unfinished = self.known - self.finished.keys()
        with self.has_changed:
            running = lambda: {call.delivery.id for call in self.calls}  # noqa: E731
            assert self.has_changed.wait_for(lambda: running() == unfinished, WAIT), (running(), unfinished)
        expected = Counter(self.finished.values())
        wait_until(lambda: all(self.harness.counts()[status] == expected[status] for status in FINISHED))

    @rule(target=acknowledged)
    def deliver(self) -> str:
        id = self.harness.record(self.endpoint)
        self.known.add(id)
        self.wait_for_calls()
        return id

    @rule(target=acknowledged, id=acknowledged)
    def replay(self, id: str) -> str:
        new_id = self.harness.engine.replay(id)
        assert new_id not in self.known
        self.known.add(new_id)
        self.wait_for_calls()
        return new_id

    @precondition(lambda self: self.calls)
    @rule(number=st.integers(0, 100), fails=st.booleans())
    def end_a_call(self, number: int, fails: bool) -> None:
        call = self.calls.pop(number % len(self.calls))
        id = call.delivery.id
        self.failures[id] += fails
        if not fails or self.failures[id] == MAX_ATTEMPTS:
            self.finished[id] = "failed" if fails else "succeeded"
        call.fails = fails
        call.go.set()
        self.wait_for_calls()

    @rule()
    def kill_and_restart(self) -> None:
        with self.has_changed:
            interrupted, self.calls, self.process = self.calls, [], None
        folder, killed = self.harness.folder, self.harness.kill()
        for call in interrupted:
            call.go.set()
            self.kills[call.delivery.id] += 1
            if self.kills[call.delivery.id] == MAX_INTERRUPTIONS:
                self.finished[call.delivery.id] = "failed"
        killed.stop(WAIT)
        shutil.rmtree(folder)
        self.start()

    @rule()
    def stop_and_restart(self) -> None:
        with self.has_changed:
            stopped, self.calls, self.process = self.calls, [], None
        self.harness.stop(0)
        for call in stopped:
            call.go.set()
        self.start()

    @rule(id=consumes(acknowledged))
    def find_in_the_log(self, id: str) -> None:
        with reading(self.harness.path) as database:
            record = find(database, id)
        assert record.status == self.finished.get(id, "running")
        assert record.failures == self.failures[id]

    @invariant()
    def nothing_finished_runs_again(self) -> None:
        assert getattr(self, "ran_when_finished", []) == []

    def teardown(self) -> None:
        if not hasattr(self, "harness"):
            return
        for call in self.calls:
            call.go.set()
        self.harness.stop()
        shutil.rmtree(self.harness.folder.parent)


TestDeliveries = DeliveryMachine.TestCase
TestDeliveries.settings = settings(max_examples=40, stateful_step_count=30, suppress_health_check=list(HealthCheck))
