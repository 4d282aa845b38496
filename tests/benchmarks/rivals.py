"""What this server costs, against the one it replaces, its own code of before, a FastAPI receiver and a bare ASGI app.

    python tests/benchmarks/rivals.py [--seconds 5] [--rounds 5] [--only NAME ...] [--previous COMMIT]

A full run takes about 20 minutes, on Linux, and is no test: it ends well whatever it finds. The sides take turns in
every round, each alone on the machine, and a ratio is always one of neighbours. Our own sides write each delivery to
the disk before they answer; the others write nothing. The load comes from wrk, or, where that is not installed, from
`sides/post.py`, which is slower than some of the servers.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import http.client
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
ENVIRONMENTS = HERE / "environments"  # also of what is temporary: on the disk of the repository, and not in memory
FIXTURE = ROOT / "tests" / "server" / "fixtures" / "repo.content-update.json"
SECRET = "the secret of the benchmark"
CONNECTIONS = 16
WARM_UP = 1  # seconds of load that do not count
SETTLED = 2.0  # seconds from the first delivery until a server has nothing left to do
IDLE = 10.0  # seconds
KEPT = 10_000  # finished deliveries: then the log is full, and the oldest goes for each that comes
DELIVERIES = 100_000  # until the second look at the memory

OURS, BEFORE, UPSTREAM = "this server", "the commit before", "upstream"
FASTAPI, BARE, FULL, EMPTY = "FastAPI receiver", "bare ASGI app", "full log", "empty log"
SCRIPTS = {UPSTREAM: "upstream.py", FASTAPI: "fastapi_receiver.py", BARE: "bare.py"}  # all others: ours.py
Seen = dict[str, float]


class NotMeasured(Exception):
    """A measurement could not be made; the text says why."""


FAULTS = (NotMeasured, OSError, ValueError, http.client.HTTPException, subprocess.SubprocessError, sqlite3.Error)


# What is looked at, of a server that has just taken its first delivery


def look_at_load(server: Server, seconds: int, handler: str = "hook") -> Seen:
    server.load(handler, WARM_UP)
    return server.load(handler, seconds)


def look_beside_blocking(server: Server, seconds: int) -> Seen:
    """Have one delivery at any time with a handler that blocks for three seconds."""
    seen = {}
    with ThreadPoolExecutor() as pool:
        for asked, blocking, alone, beside in (
            ("hook", "block", "p99", "p99 beside block"),
            ("quick", "block_async", "p99 def", "p99 beside async"),
        ):
            seen[alone] = look_at_load(server, seconds, asked)["p99"]
            busy = pool.submit(server.load, blocking, seconds + 4, connections=1)
            time.sleep(0.5)
            seen[beside] = server.load(asked, seconds)["p99"]
            busy.result()
    return seen


def look_at_start(server: Server, _: int) -> Seen:
    return {"start": server.start}


def look_at_memory(server: Server, _: int) -> Seen:
    time.sleep(SETTLED)
    seen = {"memory fresh": server.memory()}
    while server.answered < DELIVERIES:
        server.load("hook", 1)
    return seen | {"memory grown": server.memory()}


def look_at_a_second(server: Server, _: int) -> Seen:
    """Look no longer, or an empty log would be full, too."""
    for _ in range(200):
        server.post("hook")
    seen = server.load("hook", 1)
    if server.side == EMPTY and server.answered > KEPT:
        server.bench.note("The empty log was full within the second, so what is said of it says little.")
    return seen


def look_at_idleness(server: Server, _: int) -> Seen:
    time.sleep(SETTLED)
    before = server.cpu()
    time.sleep(IDLE)
    return {"cpu": server.cpu() - before}


# For each group: the sides, how often each of them has its turn in a round, and what is looked at then.
GROUPS: dict[str, tuple[list[str], int, Callable[[Server, int], Seen]]] = {
    "async": ([OURS, UPSTREAM, BARE, FASTAPI, BEFORE], 1, look_at_load),
    "def": ([OURS, BEFORE, UPSTREAM], 1, functools.partial(look_at_load, handler="quick")),
    "blocked": ([OURS], 1, look_beside_blocking),
    "start": ([OURS, UPSTREAM], 3, look_at_start),
    "memory": ([OURS, UPSTREAM], 1, look_at_memory),
    "log": ([FULL, EMPTY], 5, look_at_a_second),
    "idle": ([OURS, UPSTREAM], 1, look_at_idleness),
}
UNITS = {"rate": "{:,.0f}/s", "p99": "{:.2f} ms", "start": "{:.2f} s", "memory": "{:.0f} MiB", "cpu": "{:.1f} ms"}
RATE, RATE_DEF = "deliveries a second, `async def`", "deliveries a second, `def`"


class Row(NamedTuple):
    """A measure of one side, divided by that of the other, or by a second measure (`measure/second`)."""

    group: str
    what: str
    measure: str
    one: str
    other: str
    goal: str = ""  # without one, it is only to know


ROWS = (
    Row("async", RATE, "rate", OURS, UPSTREAM, "2.2 or more"),
    Row("async", RATE, "rate", OURS, BARE, "0.65 or more"),
    Row("async", RATE, "rate", OURS, FASTAPI),
    Row("async", RATE, "rate", OURS, BEFORE),
    Row("def", RATE_DEF, "rate", OURS, BEFORE, "1.6 or more"),
    Row("def", RATE_DEF, "rate", OURS, UPSTREAM),
    Row("async", "p99, `async def`", "p99", OURS, UPSTREAM, "0.8 at most"),
    Row("blocked", "p99, `async def` beside a `def` that blocks", "p99 beside block/p99", OURS, OURS, "1.5 at most"),
    Row(
        "blocked", "p99, `def` beside an `async def` that does", "p99 beside async/p99 def", OURS, OURS, "1.5 at most"
    ),
    Row("start", "start to first delivery, no `.pyc` of its own", "start", OURS, UPSTREAM, "0.8 at most"),
    Row("memory", "memory, fresh", "memory fresh", OURS, UPSTREAM, "1.10 at most"),
    Row("memory", f"memory after {DELIVERIES:,} deliveries", "memory grown", OURS, UPSTREAM, "1.15 at most"),
    Row("log", f"deliveries a second, {KEPT:,} in the log", "rate", FULL, EMPTY, "0.9 or more"),
    Row("log", f"p99, {KEPT:,} in the log", "p99", FULL, EMPTY, "1.1 at most"),
    Row("idle", f"CPU time in {IDLE:g} s without a delivery", "cpu", OURS, UPSTREAM, "1.0 at most"),
)


def line(row: Row, turns: list[dict[str, Seen]]) -> str:
    """Write a line of the table, with medians over all turns."""
    own, _, others = row.measure.partition("/")
    both = [(turn.get(row.one, {}).get(own), turn.get(row.other, {}).get(others or own)) for turn in turns]
    pairs = [(one, other) for one, other in both if one and other]
    if not pairs:
        return f"| {row.what} | - | - ({row.other}) | - | {row.goal} | not measured |"
    ratios = [one / other for one, other in pairs]
    one, other = (UNITS[own.split()[0]].format(statistics.median(side)) for side in zip(*pairs, strict=True))
    middle = statistics.median(ratios)
    ratio = f"{middle:.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    return f"| {row.what} | {one} | {other} ({row.other}) | {ratio} | {row.goal} | {met(row.goal, middle)} |"


def met(goal: str, ratio: float) -> str:
    limit, _, kind = goal.partition(" ")
    if not goal:
        return ""
    return "yes" if (ratio >= float(limit) if kind == "or more" else ratio <= float(limit)) else "**no**"


class Bench:
    """Lets the sides take turns. What is in `folder` is gone afterwards."""

    def __init__(self, python: str, folder: Path, previous: str) -> None:
        self.python, self.folder = python, folder
        self.notes: list[str] = []
        self.payload = folder / "payload.json"
        self.payload.write_text(json.dumps(json.loads(FIXTURE.read_text("utf-8")), separators=(",", ":")), "utf-8")
        shutil.copytree(ROOT / "webhooks", folder / OURS / "webhooks", ignore=shutil.ignore_patterns("__pycache__"))
        archive = str(folder / "previous.tar")
        git = ["git", "-C", str(ROOT), "archive", f"--output={archive}", previous, "webhooks"]
        self.has_previous = not subprocess.run(git, capture_output=True).returncode
        if self.has_previous:
            shutil.unpack_archive(archive, folder / BEFORE, filter="data")
        else:
            self.note(f"The commit {previous} is not in this clone, so nothing is compared with it.")

    def note(self, text: str) -> None:
        say(text)
        self.notes.append(text)

    def look(self, group: str, number: int, seconds: int) -> Iterator[dict[str, Seen]]:
        """Give what every turn of a round has seen, by side; another side begins each time."""
        sides, turns, look_at = GROUPS[group]
        sides = [side for side in sides if side != BEFORE or self.has_previous]
        for turn in range(turns):
            seen: dict[str, Seen] = {}
            first = (number + turn) % len(sides)
            for side in sides[first:] + sides[:first]:
                try:
                    with self.serving(side) as server:
                        seen[side] = look_at(server, seconds)
                    say(f"Round {number + 1}, {group}, {side}: {seen[side]}")
                except FAULTS as error:
                    self.note(f"Round {number + 1}, {group}, {side}: not measured. {error or type(error).__name__}")
            yield seen

    @contextlib.contextmanager
    def serving(self, side: str) -> Iterator[Server]:
        """Run a side in a folder of its own, from its first delivery to the end of the block."""
        with tempfile.TemporaryDirectory(dir=self.folder, ignore_cleanup_errors=True) as folder:
            if side == FULL:
                shutil.copytree(self.full_log, Path(folder, "log"))
            os.sync()  # what was written before is not this server's affair
            server = Server(self, side, Path(folder))
            try:
                server.wait_for_first_delivery()
                yield server
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(server.popen.pid, signal.SIGKILL)
                server.popen.wait()

    @functools.cached_property
    def full_log(self) -> Path:
        with self.serving(OURS) as server:
            while server.answered < KEPT:
                server.load("hook", 1)
            server.popen.terminate()
            server.popen.wait(30)
            return Path(shutil.copytree(server.folder / "log", self.folder / "full"))


class Server:
    """A side that runs. There are no `.pyc` files of its own, and none are written, as in a new container."""

    def __init__(self, bench: Bench, side: str, folder: Path) -> None:
        self.bench, self.side, self.folder = bench, side, folder
        self.answered = 0
        self.start = 0.0  # seconds to the first delivery
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.environment = {
            **{name: os.environ[name] for name in ("HOME", "LANG", "PATH") if name in os.environ},
            **{"WEBHOOK_SECRET": SECRET, "GRADIO_SHARE": "False", "GRADIO_ANALYTICS_ENABLED": "False"},
            **{"PYTHONPATH": str(bench.folder / (BEFORE if side == BEFORE else OURS)), "PYTHONDONTWRITEBYTECODE": "1"},
            "PAYLOAD": str(bench.payload),
        }
        command = [bench.python, str(HERE / "sides" / SCRIPTS.get(side, "ours.py")), str(self.port)]
        with open(folder / "output", "wb") as output:
            self.started = time.perf_counter()
            self.popen = subprocess.Popen(
                command, cwd=folder, env=self.environment, stdout=output, stderr=output, start_new_session=True
            )

    def wait_for_first_delivery(self) -> None:
        while not self.start:
            with contextlib.suppress(OSError, http.client.HTTPException, NotMeasured):
                self.post("hook")
                self.start = time.perf_counter() - self.started
            if self.popen.poll() is not None or time.perf_counter() - self.started > 120:
                printed = (self.folder / "output").read_text(errors="replace").strip().splitlines()
                raise NotMeasured(f"it takes no delivery: {printed[-1] if printed else 'it says nothing'}")
            time.sleep(0.003)

    def post(self, handler: str) -> None:
        headers = {"Content-Type": "application/json", "X-Webhook-Secret": SECRET, "Connection": "close"}
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            connection.request("POST", f"/webhooks/{handler}", self.bench.payload.read_bytes(), headers)
            response = connection.getresponse()
            response.read()
        if response.status != 200:
            raise NotMeasured(f"{handler} was answered {response.status}")
        self.answered += 1

    def load(self, handler: str, seconds: int, connections: int = CONNECTIONS) -> Seen:
        """Post as fast as answers come; return the deliveries a second, and the p99 in milliseconds."""
        url = f"http://127.0.0.1:{self.port}/webhooks/{handler}"
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}", "--timeout=10", f"-s{HERE}/sides/post.lua", url]
        if not shutil.which("wrk"):
            command = [self.bench.python, f"{HERE}/sides/post.py", url, str(seconds), str(connections)]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=seconds + 60)
        seen = json.loads(done.stdout.splitlines()[-1]) if done.stdout else {"answers": 0, "error": done.stderr}
        if not seen["answers"] or seen["not_200"] or seen["errors"]:
            raise NotMeasured(f"not all answers to {handler} were 200: {seen}")
        self.answered += seen["answers"]
        if self.side not in SCRIPTS:
            self.check_log()
        return {"rate": seen["answers"] / seen["seconds"], "p99": seen["p99"] / 1000}

    def check_log(self) -> None:
        """See that the log holds all that was answered, as far as it keeps it, and that all of it has succeeded."""
        counted = "total(status = 'succeeded' AND answer_status = 200), total(status = 'failed')"
        path = f"{(self.folder / 'log' / 'deliveries.db').as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(path, uri=True, timeout=10)) as database:
            for _ in range(50):  # an end is written down a little after the answer
                succeeded, failed = database.execute(f"SELECT {counted} FROM deliveries").fetchone()
                if succeeded >= min(self.answered, KEPT) and not failed:
                    return
                time.sleep(0.1)
        raise NotMeasured(f"{self.answered} were answered, in the log {succeeded:g} succeeded and {failed:g} failed")

    def memory(self) -> float:
        """Return MiB; of what is shared with other processes, this one's part (PSS)."""
        rollup = Path(f"/proc/{self.popen.pid}/smaps_rollup").read_text()
        return int(re.findall(r"^Pss: +(\d+) kB$", rollup, re.MULTILINE)[0]) / 1024

    def cpu(self) -> float:
        """Return the milliseconds for which all threads have run."""
        threads = Path(f"/proc/{self.popen.pid}/task").glob("*/schedstat")
        return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e6


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def front_matter(name: str) -> str:
    return re.findall(rf'^{name}: "?([^"\n]+)"?$', (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)[0]


def space_python() -> str:
    """Find a Python of the Space's version, else take this one."""
    version = front_matter("python_version")
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv", "versions")
    for python in filter(None, [shutil.which(f"python{version}"), *pyenv.glob(f"{version}*/bin/python")]):
        if not subprocess.run([python, "-c", ""], capture_output=True).returncode:
            return str(python)
    say(f"There is no Python {version}, which the Space has; taking {sys.executable}.")
    return sys.executable


def build(environment: Path) -> None:
    """Install what a Space's builder would; what is there already stays."""
    say("Installing what a Space has")
    subprocess.run([space_python(), "-m", "venv", environment], check=True)
    builder = [f"gradio[oauth,mcp]=={front_matter('sdk_version')}", "uvicorn>=0.14.0", "websockets>=10.4", "spaces"]
    pip = [environment / "bin" / "python", "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
    subprocess.run([*pip, "-r", ROOT / "requirements.txt", *builder], check=True)


def machine(python: str) -> str:
    asked = [["stat", "-f", "-c%T", str(HERE)], [python, "--version"], ["git", "-C", str(ROOT), "rev-parse", "HEAD"]]
    disk, version, commit = (subprocess.run(one, capture_output=True, text=True).stdout.strip() for one in asked)
    cpu = re.findall(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE) or ["an unknown CPU"]
    load = "wrk" if shutil.which("wrk") else "sides/post.py"
    return f"{os.cpu_count()} cores of {cpu[0]}, {disk}, {version}, {load}, checkout at {commit[:7]}"


def read_options() -> argparse.Namespace:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--seconds", type=int, default=5, help="of each load")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--only", nargs="+", choices=GROUPS, default=list(GROUPS))
    options.add_argument("--previous", default="94d422b", metavar="COMMIT", help="to compare this server with")
    options.add_argument("--environment", type=Path, metavar="PATH", help="a virtual environment to take as it is")
    return options.parse_args()


def main() -> None:
    options = read_options()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the same as Ctrl-C, so that nothing is left running
    ENVIRONMENTS.mkdir(exist_ok=True)
    environment = options.environment or ENVIRONMENTS / f"python{front_matter('python_version')}"
    python = environment.absolute() / "bin" / "python"
    if options.environment is None or not python.exists():
        build(environment)
    seen: dict[str, list[dict[str, Seen]]] = {group: [] for group in options.only}
    with tempfile.TemporaryDirectory(dir=ENVIRONMENTS, prefix="run-", ignore_cleanup_errors=True) as folder:
        bench = Bench(str(python), Path(folder), options.previous)
        try:
            list(bench.look("start", -1, 0))  # once without measuring: what is imported is in memory from here on
            for number in range(options.rounds):
                for group in options.only:
                    seen[group] += bench.look(group, number, options.seconds)
        except KeyboardInterrupt:
            bench.note("Stopped early.")
    print(f"Medians of {options.rounds} rounds with {options.seconds} s for each load; {machine(str(python))}.\n")
    print("| what | ours | against | ratio (min to max) | goal | met |\n| --- | --- | --- | --- | --- | --- |")
    for row in ROWS:
        if row.group in seen:
            print(line(row, seen[row.group]))
    print("", *bench.notes, sep="\n")


if __name__ == "__main__":
    main()
