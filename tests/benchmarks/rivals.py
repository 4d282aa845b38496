"""What this server costs against the library it replaces, the receiver of the Hub's guides, and a bare ASGI app.

    python tests/benchmarks/rivals.py [--rounds 5] [--seconds 8] [--deliveries 100000] [--log 1000000] [--json FILE]

It takes about 40 minutes, and installs all it needs below tests/benchmarks/environments/. The sides run in turn in
every round, each alone, a ratio is always one of the same round, and the tables give medians. This server writes each
delivery to the disk before it answers, and prunes its log as always while it is measured; the others write nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import platform
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from installed import (
    ENVIRONMENTS,
    ROOT,
    choose_python,
    copy_log,
    ensure_wrk,
    environment,
    filled_log,
    requirements,
    say,
    versions,
    working_folder,
)
from running import BLOCKED, CONNECTIONS, Load, NotMeasured, OwnersPage, Server, compare_pages

ENOUGH = 5  # rounds, for a verdict
SETTLED = 2.0  # seconds from the first delivery to the first look at the memory
SLICE = 5  # seconds
SHORT_LOG = 1000  # deliveries
STOPPED = 0.8 * BLOCKED * 1000  # milliseconds: who answers that late has waited for the handler that blocks


Measures = dict[str, Any]
Results = dict[str, Measures]


@dataclass(frozen=True)
class Side:
    """`grows`: it is also looked at after many deliveries; `blocks`: it has handlers that block."""

    name: str
    environment: str
    script: str
    grows: bool = False
    blocks: bool = False
    long_log: bool = False


OURS = Side("ours", "space", "ours.py", grows=True, blocks=True)
OURS_LONG = Side("ours, long log", "space", "ours.py", grows=True, long_log=True)
UPSTREAM = Side("upstream", "upstream", "upstream.py", grows=True, blocks=True)
FASTAPI = Side("FastAPI receiver", "fastapi", "fastapi_receiver.py", grows=True)
BARE = Side("bare, plain uvicorn", "upstream", "bare.py")
FASTEST = Side("bare, uvloop and httptools", "fastapi", "bare.py")
SIDES = (OURS, UPSTREAM, FASTAPI, BARE, FASTEST, OURS_LONG)
PAGE_SHORT, PAGE_LONG = "page, short log", "page, long log"

# What is asked for, what blocks beside it, and how the two are called in a table.
PAIRS = (
    ("hook", "block", "async def, beside a def that blocks"),
    ("quick", "block_async", "def, beside an async def that blocks"),
)


@dataclass(frozen=True)
class Goal:
    """One measure of one side against another; without a limit it is only reported."""

    what: str
    measure: str
    ours: str
    other: str
    limit: float | None = None
    at_least: bool = False
    other_measure: str | None = None

    @property
    def text(self) -> str:
        return "" if self.limit is None else f"{'at least' if self.at_least else 'at most'} {self.limit:g}"

    def is_met(self, ratio: float) -> bool:
        return self.limit is None or (ratio >= self.limit if self.at_least else ratio <= self.limit)

    def values(self, results: Results) -> tuple[float, float] | None:
        a = results.get(self.ours, {}).get(self.measure)
        b = results.get(self.other, {}).get(self.other_measure or self.measure)
        return (a, b) if a and b else None


GOALS = (
    Goal("deliveries per second", "rate", OURS.name, UPSTREAM.name, 2.0, at_least=True),
    Goal("deliveries per second", "rate", OURS.name, BARE.name, 0.6, at_least=True),
    Goal("deliveries per second", "rate", OURS.name, FASTAPI.name),
    Goal("p99", "p99", OURS.name, UPSTREAM.name, 1.0),
    *(
        Goal(f"p99, {text}", f"p99 beside {block}", OURS.name, OURS.name, 3.0, other_measure=f"p99 of {asked}")
        for asked, block, text in PAIRS
    ),
    Goal("start", "start", OURS.name, UPSTREAM.name, 0.9),
    Goal("memory, fresh", "memory", OURS.name, UPSTREAM.name, 1.15),
    Goal("memory, after all deliveries", "memory after", OURS.name, UPSTREAM.name, 1.15),
    Goal("long log: deliveries per second", "rate", OURS_LONG.name, OURS.name, 0.8, at_least=True),
    Goal("long log: deliveries per second", "rate", OURS_LONG.name, BARE.name),
    Goal("long log: p99", "p99", OURS_LONG.name, OURS.name, 1.2),
    Goal("long log: start", "start", OURS_LONG.name, OURS.name),
    Goal("long log: memory, fresh", "memory", OURS_LONG.name, OURS.name),
    Goal("long log: memory, after all deliveries", "memory after", OURS_LONG.name, OURS.name),
    Goal("owner's page: the list", "list", PAGE_LONG, PAGE_SHORT, 2.0),
    Goal("owner's page: chart and filters", "filters", PAGE_LONG, PAGE_SHORT, 2.0),
    Goal("owner's page: GET", "get", PAGE_LONG, PAGE_SHORT),
)


def read_options() -> argparse.Namespace:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=5, help="at least 5 for a verdict")
    arguments.add_argument("--seconds", type=int, default=8, help="of each load")
    arguments.add_argument("--deliveries", type=int, default=100_000, help="until the second look at the memory")
    arguments.add_argument("--log", type=int, default=1_000_000, help="deliveries in the long log")
    arguments.add_argument("--calls", type=int, default=20, help="of the owner's page, on each side")
    arguments.add_argument("--python", help="make the environments with this one")
    arguments.add_argument("--json", type=Path, metavar="FILE", help="write every number of every round")
    arguments.add_argument("--quick", action="store_true", help="one short round, to try the command out; no verdict")
    options = arguments.parse_args()
    options.warm_up = 2
    if options.json:
        options.json.touch()  # or it would be known only at the end that it cannot be written
    if options.quick:
        options.rounds = options.seconds = options.warm_up = 1
        options.deliveries, options.log, options.calls = 5000, 20_000, 3
    return options


@dataclass
class Benchmark:
    options: argparse.Namespace
    pythons: dict[str, str]
    logs: dict[int, Path]
    folder: Path
    rounds: list[Results] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    title: str = ""

    def run(self) -> None:
        self.title = "once without measuring"
        for side in (side for side in SIDES if not side.long_log):
            with self.attempt("start"), self.serving(side) as server:
                self.tell(f"{side.name}: start {server.wait_for_first_delivery():.2f} s")
        for number in range(self.options.rounds):
            results: Results = {}
            self.rounds.append(results)
            turn = number % len(SIDES)
            for side in SIDES[turn:] + SIDES[:turn]:
                self.title = f"round {number + 1} of {self.options.rounds}, {side.name}"
                with self.attempt("start"):
                    self.measure(side, results.setdefault(side.name, {}))
            self.title = f"round {number + 1} of {self.options.rounds}, owner's page"
            with self.attempt("page"):
                self.measure_pages(results)

    @contextlib.contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        try:
            yield
        except (NotMeasured, OSError, http.client.HTTPException) as reason:
            self.failures.append(f"{self.title}, {what}: {str(reason) or type(reason).__name__}")
            say(f"FAILED: {self.failures[-1]}")

    def tell(self, text: str) -> None:
        say(f"{self.title}: {text}")

    @contextlib.contextmanager
    def serving(self, side: Side, log: int | None = None) -> Iterator[Server]:
        folder = self.folder / f"server-{time.monotonic_ns()}"
        folder.mkdir()
        os.sync()  # what the side before this one left to be written is not this one's affair
        if log:
            copy_log(self.logs[log], folder / "log")
        try:
            with Server(self.pythons[side.environment], side.script, folder) as server:
                yield server
        finally:
            shutil.rmtree(folder, ignore_errors=True)  # a long log is a gigabyte

    def measure(self, side: Side, measures: Measures) -> None:
        with self.serving(side, self.options.log if side.long_log else None) as server:
            measures["start"] = server.wait_for_first_delivery()
            self.tell(f"start {measures['start']:.2f} s")
            time.sleep(SETTLED)
            measures["memory"] = server.memory()
            with self.attempt("rate"):
                server.load("hook", self.options.warm_up)
                idle = server.load("hook", self.options.seconds)
                measures |= {"rate": idle.rate, "p50": idle.p50, "slowest": idle.slowest, "wrk": idle.cpu}
                measures |= {"p99": idle.p99, "p99 of hook": idle.p99}
                self.tell(f"{idle.rate:,.0f} deliveries/s, p99 {idle.p99:.2f} ms, wrk used {idle.cpu:.0%} of a core")
            if side.blocks:
                self.measure_blocking(side, server, measures)
            if side.grows:
                with self.attempt("memory after all deliveries"):
                    measures["memory after"] = self.grow(server)
                    measures["deliveries"] = server.total
                    self.tell(f"{measures['memory']:.0f} MiB, {measures['memory after']:.0f} after {server.total:,}")

    def measure_blocking(self, side: Side, server: Server, measures: Measures) -> None:
        for asked, block, text in PAIRS:
            with self.attempt(text):
                if f"p99 of {asked}" not in measures:
                    server.load(asked, self.options.warm_up)
                    measures[f"p99 of {asked}"] = server.load(asked, self.options.seconds).p99
                with server.handling(block):
                    beside = server.load(asked, self.options.seconds, errors_are_a_result=side is UPSTREAM)
                if beside.answers:
                    measures[f"p99 beside {block}"] = beside.p99
                    measures[f"slowest beside {block}"] = beside.slowest
                measures[f"answers beside {block}"] = beside.answers
                measures[f"errors beside {block}"] = sum(beside.errors.values())
                without = measures[f"p99 of {asked}"]
                self.tell(f"{text}: {_summary(beside)}; p99 without it {without:.2f} ms")

    def grow(self, server: Server) -> float:
        """Deliver until it is all of `--deliveries`, and return the memory after that."""
        seconds = 1
        while (missing := self.options.deliveries - server.total) > 0:
            seen = server.load("hook", seconds)
            seconds = max(1, min(SLICE, round(missing / seen.rate) - seconds))
        return server.memory()

    def measure_pages(self, results: Results) -> None:
        with self.serving(OURS, SHORT_LOG) as short, self.serving(OURS, self.options.log) as long:
            pages = {}
            for name, server in ((PAGE_SHORT, short), (PAGE_LONG, long)):
                server.wait_for_first_delivery()
                pages[name] = OwnersPage(server)
            time.sleep(SETTLED)
            for page in pages.values():  # the first call of each also warms Gradio up
                page.list()
            results |= compare_pages(pages, self.options.calls)
        a, b = results[PAGE_SHORT]["list"], results[PAGE_LONG]["list"]
        self.tell(f"the list {a:.1f} ms out of {SHORT_LOG:,}, {b:.1f} ms out of {self.options.log:,}")


def _summary(load: Load) -> str:
    errors = ", ".join(f"{count} {name}" for name, count in load.errors.items() if count)
    if not load.answers:
        return f"no answer at all, errors: {errors or 'none'}"
    return (
        f"{load.answers:,} answers, p99 {load.p99:.2f} ms, slowest {load.slowest:.0f} ms, errors: {errors or 'none'}"
    )


# What comes out


def over_rounds(rounds: list[Results], side: str, measure: str, join: Callable[..., float] = statistics.median) -> str:
    """Write a side's measure, `-` where there is none."""
    seen = [results[side][measure] for results in rounds if measure in results.get(side, {})]
    return shown(measure, join(seen)) if seen else "-"


def shown(measure: str, value: float) -> str:
    kind = measure.split()[0]
    if kind in ("rate", "answers", "errors"):
        return f"{value:,.0f}" + ("/s" if kind == "rate" else "")
    if kind == "wrk":
        return f"{value:.0%}"
    if kind == "memory":
        return f"{value:.0f} MiB"
    return f"{value:.2f} s" if kind == "start" else f"{value:.2f} ms"


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def judge(goal: Goal, rounds: list[Results]) -> tuple[float, str, str]:
    """Return the median ratio, the ratios in words, and whether the goal is met."""
    pairs = [pair for results in rounds if (pair := goal.values(results))]
    if not pairs:
        return float("nan"), "-", "not measured" if goal.limit else ""
    ratios = [a / b for a, b in pairs]
    median = statistics.median(ratios)
    verdict = "" if goal.limit is None else "met" if goal.is_met(median) else "MISSED"
    if len(pairs) < ENOUGH and goal.limit is not None:
        verdict = "no verdict"
    return median, f"{median:.2f} ({min(ratios):.2f} to {max(ratios):.2f})", verdict


def goals_table(rounds: list[Results]) -> str:
    rows = []
    for goal in GOALS:
        _, ratio, verdict = judge(goal, rounds)
        mine = over_rounds(rounds, goal.ours, goal.measure)
        other = over_rounds(rounds, goal.other, goal.other_measure or goal.measure)
        against = "without it" if goal.ours == goal.other else goal.other
        rows.append((goal.what, mine, f"{other} ({against})", ratio, goal.text, verdict))
    return table(("What", "Ours", "Other side", "Ratio: median (min to max)", "Goal", ""), rows)


def sides_table(rounds: list[Results], deliveries: int) -> str:
    measures = ("rate", "p50", "p99", "start", "memory", "memory after", "wrk")
    rows = [(side.name, *(over_rounds(rounds, side.name, measure) for measure in measures)) for side in SIDES]
    after = f"after {deliveries:,}"
    return table(("Side", "Deliveries", "p50", "p99", "Start", "Memory, fresh", after, "wrk's share of a core"), rows)


def stopped(measures: Measures, block: str) -> bool:
    return measures.get(f"answers beside {block}") == 0 or measures.get(f"slowest beside {block}", 0) > STOPPED


def blocking_table(rounds: list[Results]) -> str:
    rows = []
    for side in (OURS, UPSTREAM):
        for asked, block, text in PAIRS:
            stops = any(stopped(results.get(side.name, {}), block) for results in rounds)
            rows.append(
                (
                    side.name,
                    text,
                    over_rounds(rounds, side.name, f"p99 of {asked}"),
                    over_rounds(rounds, side.name, f"p99 beside {block}"),
                    over_rounds(rounds, side.name, f"slowest beside {block}", max),
                    over_rounds(rounds, side.name, f"answers beside {block}"),
                    over_rounds(rounds, side.name, f"errors beside {block}", sum),
                    "stops answering meanwhile" if stops else "",
                )
            )
    return table(("Side", "Load", "p99 without it", "p99", "Slowest of all", "Answers", "Errors of all", ""), rows)


def machine(pythons: dict[str, str], folder: Path) -> list[str]:
    pages = [os.sysconf(name) for name in ("SC_PAGE_SIZE", "SC_PHYS_PAGES")]
    lines = [
        f"CPU: {cpu_model()}, {os.cpu_count()} cores",
        f"Memory: {pages[0] * pages[1] / 2**30:.1f} GiB",
        f"System: {platform.system()} {platform.release()}",
        f"Disk of the log: {file_system(folder)}",
    ]
    found = {name: versions(python) for name, python in pythons.items()}
    for name, seen in found.items():
        known = ", ".join(f"{what} {version}" if version else f"no {what}" for what, version in seen.items())
        lines.append(f"Environment {name}: {known}")
    commit = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty"], capture_output=True, text=True
    )
    return [*lines, f"Commit: {commit.stdout.strip() or 'unknown'}"]


def cpu_model() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    with contextlib.suppress(OSError):
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True).stdout.strip() or platform.machine()
    return platform.machine()


def file_system(folder: Path) -> str:
    try:
        mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return "unknown"
    holding = [(where, kind) for where, kind in mounts if folder.resolve().is_relative_to(where)]
    kind = max(holding, key=lambda mount: len(mount[0]))[1]  # of two at one place, the earlier; rare enough
    return f"{kind}, WHICH IS MEMORY: THE COMMIT IS NOT MEASURED" if kind in ("tmpfs", "ramfs") else kind


def conclusion(rounds: list[Results]) -> str:
    if len(rounds) < ENOUGH:
        return f"There is no verdict: that takes at least {ENOUGH} rounds."
    judged = [(goal, *judge(goal, rounds)) for goal in GOALS if goal.limit is not None]
    missed = [
        f"{goal.what} against {goal.other} ({median:.2f}, {goal.text})"
        for goal, median, _, verdict in judged
        if verdict == "MISSED"
    ]
    open_ones = [f"{goal.what} against {goal.other}" for goal, _, _, verdict in judged if verdict.startswith("no")]
    without = f" Without a verdict: {'; '.join(open_ones)}." if open_ones else ""
    return (f"Missed: {'; '.join(missed)}." if missed else "No goal is missed.") + without


def report(benchmark: Benchmark, about: list[str], command: str) -> str:
    rounds, options = benchmark.rounds, benchmark.options
    return "\n\n".join(
        [
            f"Medians of {len(rounds)} rounds; wrk with {CONNECTIONS} connections, {options.seconds} s for each load; "
            f"a long log has {options.log:,} deliveries, a short one {SHORT_LOG:,}.",
            goals_table(rounds),
            sides_table(rounds, options.deliveries),
            blocking_table(rounds),
            "\n".join(f"- {line}" for line in [*about, f"Command: `{command}`"]),
            *(f"FAILED: {failure}" for failure in benchmark.failures),
            conclusion(rounds),
        ]
    )


def check_sides(pythons: dict[str, str]) -> None:
    """Make sure that the two bare sides are what their names say."""
    plain, fast = versions(pythons["upstream"]), versions(pythons["fastapi"])
    if plain["uvloop"] or plain["httptools"]:
        sys.exit("The environment upstream has uvloop or httptools, so there is no plain uvicorn to compare with.")
    if not (fast["uvloop"] and fast["httptools"]):
        sys.exit("The environment fastapi lacks uvloop or httptools.")


def main() -> None:
    options = read_options()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the same as Ctrl-C
    command = shlex.join(["python", "tests/benchmarks/rivals.py", *sys.argv[1:]])
    ENVIRONMENTS.mkdir(exist_ok=True)
    try:
        ensure_wrk()
        python = choose_python(options.python)
        pythons = {name: environment(name, python, packages) for name, packages in requirements().items()}
        check_sides(pythons)
        logs = {size: filled_log(pythons["space"], size) for size in (SHORT_LOG, options.log)}
        with working_folder() as folder:
            about = machine(pythons, folder)
            benchmark = Benchmark(options, pythons, logs, folder)
            benchmark.run()
    except KeyboardInterrupt:
        sys.exit("Stopped; nothing is left running.")
    print(report(benchmark, about, command))
    if options.json:
        raw = {"command": command, "machine": about, "options": vars(options)}
        raw |= {"rounds": benchmark.rounds, "failures": benchmark.failures}
        options.json.write_text(json.dumps(raw, indent=2, default=str) + "\n", encoding="utf-8")
    sys.exit(1 if benchmark.failures else 0)


if __name__ == "__main__":
    main()
