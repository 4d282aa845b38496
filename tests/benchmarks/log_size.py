"""What a long log costs: start-up and the time to record a delivery, over 100,000 deliveries against none.

    .venv/bin/python tests/benchmarks/log_size.py [--deliveries 100000] [--rounds 7]

Both sides run in turn in every round, on copies of their logs, and the last lines give the median of the ratios. The
log is the real one and is pruned as always while it is measured: that is part of what a long log costs.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).parents[1]))

from conftest import Process, load
from filled import fill

SERVER = """
from webhooks import WebhooksServer

server = WebhooksServer(data_dir="log")
server.add_webhook("/f")(lambda payload: None)
server.launch()
"""
PAYLOAD = load("repo.content-update")
REQUESTS = 200


def measure(filled: Path) -> tuple[float, float]:
    """Return the seconds to the first accepted delivery, and the median seconds of one delivery after it."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(filled, folder, dirs_exist_ok=True)
        os.sync()  # or the server's first commit would have to wait for the copy to reach the disk
        script = Path(folder, "server.py")
        script.write_text(SERVER)
        started = time.perf_counter()
        process = Process(script)
        with httpx.Client(timeout=60) as client:
            try:
                while True:
                    try:
                        client.post(f"{process.url}/webhooks/f", json=PAYLOAD).raise_for_status()
                        break
                    except httpx.ConnectError:
                        time.sleep(0.002)
                start_up = time.perf_counter() - started
                times = []
                for _ in range(REQUESTS):
                    before = time.perf_counter()
                    client.post(f"{process.url}/webhooks/f", json=PAYLOAD).raise_for_status()
                    times.append(time.perf_counter() - before)
            finally:
                process.stop()
    return start_up, statistics.median(times)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--deliveries", type=int, default=100_000)
    arguments.add_argument("--rounds", type=int, default=7)
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        empty, full = Path(folder, "empty"), Path(folder, "full")
        fill(empty / "log", 0).close()
        fill(full / "log", options.deliveries).close()
        start_ups, records = [], []
        print(f"round   start-up, empty / {options.deliveries:,}      one delivery, empty / {options.deliveries:,}")
        for number in range(1, options.rounds + 1):
            (start_a, record_a), (start_b, record_b) = measure(empty), measure(full)
            start_ups.append(start_b / start_a)
            records.append(record_b / record_a)
            print(
                f"{number:5}   {start_a:6.2f} s / {start_b:5.2f} s = {start_b / start_a:5.2f}"
                f"      {record_a * 1000:6.2f} ms / {record_b * 1000:5.2f} ms = {record_b / record_a:5.2f}"
            )
    for name, ratios in (("start-up", start_ups), ("one delivery", records)):
        median, low, high = statistics.median(ratios), min(ratios), max(ratios)
        verdict = "met" if median < 1.2 else "MISSED"
        print(f"{name}: {median:.2f} times an empty log ({low:.2f} to {high:.2f}); goal under 1.20: {verdict}")


if __name__ == "__main__":
    main()
