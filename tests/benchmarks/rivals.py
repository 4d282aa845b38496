"""Compare this server with the one of `huggingface_hub`, which it replaces. A table, no test.

    python tests/benchmarks/rivals.py [--seconds 5] [--rounds 5]

Needs Linux, wrk, and what a Space has: `pip install -r requirements.txt "gradio[oauth,mcp]" websockets spaces`.
A full run takes about 15 minutes. The sides take turns in each round, each alone on the machine. This server writes
each delivery to the disk before it answers; the other one writes nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
FOLDERS = HERE / "environments"  # of the logs: on the disk of the repository, and not in memory
FIXTURE = ROOT / "tests" / "server" / "fixtures" / "repo.content-update.json"
SECRET = "the secret of the benchmark"
CONNECTIONS = 16
MEMORY_DELIVERIES = 100_000

SERVER, UPSTREAM = "this server", "upstream"
SCRIPTS = {SERVER: "ours.py", UPSTREAM: "upstream.py"}
Seen = dict[str, float]


class Server:
    """A side that runs. It writes no `.pyc` file, as in a new container."""

    def __init__(self, side: str, folder: Path) -> None:
        self.answered = 0
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        shutil.copytree(ROOT / "webhooks", folder / "webhooks", ignore=shutil.ignore_patterns("__pycache__"))
        self.payload = folder / "payload.json"
        self.payload.write_text(json.dumps(json.loads(FIXTURE.read_text("utf-8")), separators=(",", ":")), "utf-8")
        self.environment = {
            **{name: os.environ[name] for name in ("HOME", "LANG", "PATH") if name in os.environ},
            **{"WEBHOOK_SECRET": SECRET, "GRADIO_SHARE": "False", "GRADIO_ANALYTICS_ENABLED": "False"},
            **{"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "PAYLOAD": str(self.payload)},
        }
        started = time.perf_counter()
        self.popen = subprocess.Popen(
            [sys.executable, str(HERE / "sides" / SCRIPTS[side]), str(self.port)],
            cwd=folder,
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,  # a line for each delivery
            start_new_session=True,
        )
        while not self.takes_a_delivery():
            assert self.popen.poll() is None, f"{side} has ended"
            assert time.perf_counter() - started < 120, f"{side} takes no delivery"
            time.sleep(0.003)
        self.start_seconds = time.perf_counter() - started

    def takes_a_delivery(self) -> bool:
        headers = {"Content-Type": "application/json", "X-Webhook-Secret": SECRET}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("POST", "/webhooks/hook", self.payload.read_bytes(), headers)
            return connection.getresponse().status == 200
        return False

    def load(self, handler: str, seconds: int, connections: int = CONNECTIONS) -> Seen:
        """Post as fast as answers come. Return the deliveries a second, and the p99 in milliseconds."""
        url = f"http://127.0.0.1:{self.port}/webhooks/{handler}"
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}", "--timeout=10", f"-s{HERE}/sides/post.lua", url]
        done = subprocess.run(command, env=self.environment, check=True, capture_output=True, text=True)
        seen = json.loads(done.stdout.splitlines()[-1])
        assert seen["answers"], f"{handler} was not answered"
        assert seen["not_200"] + seen["errors"] == 0, f"not all answers to {handler} were 200: {seen}"
        self.answered += seen["answers"]
        return {"rate": seen["answers"] / seen["seconds"], "p99": seen["p99"] / 1000}

    def warm_load(self, handler: str, seconds: int) -> Seen:
        self.load(handler, 1)
        return self.load(handler, seconds)

    def memory(self) -> float:
        """Return MiB. Of what is shared with other processes, only this process's part counts (PSS)."""
        rollup = Path(f"/proc/{self.popen.pid}/smaps_rollup").read_text()
        return int(re.findall(r"^Pss: +(\d+) kB$", rollup, re.MULTILINE)[0]) / 1024

    def stop(self) -> None:
        os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait()


def look_beside_blocking(server: Server, seconds: int) -> Seen:
    """Measure a handler alone, and while another one blocks for three seconds at any time."""
    alone = server.warm_load("hook", seconds)["p99"]
    with ThreadPoolExecutor() as pool:
        busy = pool.submit(server.load, "block", seconds + 4, connections=1)
        time.sleep(0.5)
        beside = server.load("hook", seconds)["p99"]
        busy.result()
    return {"alone": alone, "beside": beside}


def look_at_memory(server: Server, seconds: int) -> Seen:
    time.sleep(2)  # until a new server has nothing left to do
    fresh = server.memory()
    while server.answered < MEMORY_DELIVERIES:
        server.load("hook", seconds)
    return {"fresh": fresh, "grown": server.memory()}


# The sides of each group, and how a server of it is measured.
GROUPS = {
    "async": ([SERVER, UPSTREAM], lambda server, seconds: server.warm_load("hook", seconds)),
    "def": ([SERVER, UPSTREAM], lambda server, seconds: server.warm_load("quick", seconds)),
    "filled": ([SERVER, UPSTREAM], lambda server, seconds: server.warm_load("filled", seconds)),
    "block": ([SERVER], look_beside_blocking),
    "start": ([SERVER, UPSTREAM], lambda server, seconds: {"start": server.start_seconds}),
    "memory": ([SERVER, UPSTREAM], look_at_memory),
}
# A ratio: its group, what it is, the measure of this server, and the side and measure that it is divided by.
ROWS = (
    ("async", "deliveries a second, `async def`", "rate", UPSTREAM, "rate"),
    ("def", "deliveries a second, `def`", "rate", UPSTREAM, "rate"),
    ("filled", "deliveries a second, a `def` that FastAPI fills", "rate", UPSTREAM, "rate"),
    ("async", "p99 in ms, `async def`", "p99", UPSTREAM, "p99"),
    ("def", "p99 in ms, `def`", "p99", UPSTREAM, "p99"),
    ("block", "p99 in ms, `async def` beside a `def` that blocks", "beside", SERVER, "alone"),
    ("start", "seconds to the first delivery, without `.pyc` files", "start", UPSTREAM, "start"),
    ("memory", "memory in MiB, fresh", "fresh", UPSTREAM, "fresh"),
    ("memory", f"memory in MiB, after {MEMORY_DELIVERIES:,} deliveries", "grown", UPSTREAM, "grown"),
)


@contextlib.contextmanager
def serving(side: str) -> Iterator[Server]:
    """Run a side in a folder of its own."""
    with tempfile.TemporaryDirectory(dir=FOLDERS, prefix="run-", ignore_cleanup_errors=True) as folder:
        os.sync()  # so that no earlier write slows this server
        server = Server(side, Path(folder))
        try:
            yield server
        finally:
            server.stop()


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--seconds", type=int, default=5, help="of each load")
    options.add_argument("--rounds", type=int, default=5)
    given = options.parse_args()
    if not shutil.which("wrk"):
        sys.exit("Install wrk first; the load comes from it.")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the same as Ctrl-C, so that no server is left
    FOLDERS.mkdir(exist_ok=True)
    for side in SCRIPTS:  # once without measuring: from here on the packages are in the disk cache
        with serving(side):
            pass
    turns: dict[str, list[dict[str, Seen]]] = {group: [] for group in GROUPS}
    for number in range(given.rounds):
        for group, (sides, look) in GROUPS.items():
            turn = {}
            for side in sides[:: 1 if number % 2 else -1]:  # another side begins in each round
                with serving(side) as server:
                    turn[side] = look(server, given.seconds)
                print(f"Round {number + 1}, {group}, {side}: {turn[side]}", file=sys.stderr, flush=True)
            turns[group].append(turn)
    print("| measure | this server | against | ratio (min to max) |\n| --- | --- | --- | --- |")
    for group, name, measure, against, other in ROWS:
        pairs = [(turn[SERVER][measure], turn[against][other]) for turn in turns[group]]
        ratios = [one / two for one, two in pairs]
        one, two = (statistics.median(side) for side in zip(*pairs, strict=True))
        ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"| {name} | {one:,.2f} | {two:,.2f} ({against}, {other}) | {ratio} |")


if __name__ == "__main__":
    main()
