"""What a long log costs the owner's page: the list, its filters and the chart, over 100,000 deliveries against 1,000.

    .venv/bin/python tests/benchmarks/list_page.py [--deliveries 100000] [--rounds 15]

Both sides run in turn in every round, each on a connection of its own as the page makes one, and a line gives the
median of each side and of their ratios. The goal is about what is asked every two seconds, by every open page.
"""

from __future__ import annotations

import argparse
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from filled import BODY, EVALUATE, PAYLOAD, REPOS, TRAIN, fill

from webhooks import Delivery, history
from webhooks.delivery import Arrival
from webhooks.log import DeliveryLog

SHORT = 1000
GOAL = 0.050  # seconds


def fill_with_unfinished(folder: Path, deliveries: int) -> DeliveryLog:
    log = fill(folder, deliveries)
    with log.transaction():
        log._database.execute("UPDATE deliveries SET status = 'running', finished_at = NULL WHERE number <= 5")
    return log


def questions(deliveries: int) -> dict[str, Callable[[sqlite3.Connection], object]]:
    repo = f"dataset/{REPOS[0]}"
    lists = {
        "the newest": {},
        "far down": {"older_than": deliveries // 2},
        "back from far down": {"newer_than": deliveries // 2},
        "a rare status": {"status": "running"},
        "a frequent status": {"status": "succeeded"},
        "a repository": {"repo": repo},
        "a repository, far down": {"repo": repo, "older_than": deliveries // 2},
        "an endpoint": {"endpoint": TRAIN},
        "an endpoint, a rare status": {"endpoint": TRAIN, "status": "running"},
        "a repository, a rare status": {"repo": repo, "status": "running"},
        "an endpoint, another's repository": {"endpoint": EVALUATE, "repo": repo},
        "all three, found nowhere": {"endpoint": EVALUATE, "repo": repo, "status": "succeeded"},
    }
    asked: dict[str, Callable[[sqlite3.Connection], object]] = {
        name: lambda database, wanted=wanted: history.page(database, **wanted) for name, wanted in lists.items()
    }
    asked["deliveries per hour"] = history.per_hour
    asked["endpoints and repositories"] = lambda database: (history.endpoints(database), history.repos(database))
    return asked


def ask(path: Path, question: Callable[[sqlite3.Connection], object]) -> float:
    before = time.perf_counter()
    with history.reading(path) as database:
        question(database)
    return time.perf_counter() - before


def record(log: DeliveryLog) -> float:
    """Return the seconds that one delivery of a full batch costs, its end and its share of the commit included."""
    deliveries = [replace(Delivery(TRAIN, PAYLOAD)) for _ in range(256)]
    before = time.perf_counter()
    with log.transaction():
        for delivery in deliveries:
            log.add(delivery, Arrival(TRAIN, b"", (), BODY), "running")
    with log.transaction():
        for delivery in deliveries:
            log.finish(delivery.id, "succeeded", 200, b"null")
    return (time.perf_counter() - before) / len(deliveries)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--deliveries", type=int, default=100_000)
    arguments.add_argument("--rounds", type=int, default=15)
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        short = fill_with_unfinished(Path(folder, "short"), SHORT)
        long = fill_with_unfinished(Path(folder, "long"), options.deliveries)
        sides = {name: (questions(SHORT)[name], question) for name, question in questions(options.deliveries).items()}
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
        for _ in range(options.rounds):
            for name, (of_short, of_long) in sides.items():
                times[name].append((ask(short.path, of_short), ask(long.path, of_long)))
        times["(to record one)"] = [(record(short), record(long)) for _ in range(options.rounds)]
        short.close()
        long.close()
    print(f"{'':34} {SHORT:>9,} {options.deliveries:>12,}     ratio")
    for name, pairs in times.items():
        a, b = (statistics.median(side) for side in zip(*pairs, strict=True))
        ratio = statistics.median(b / a for a, b in pairs)
        slow = "" if b < GOAL else f"  over {GOAL * 1000:g} ms"
        print(f"{name:34} {a * 1000:6.2f} ms {b * 1000:9.2f} ms {ratio:9.2f}{slow}")


if __name__ == "__main__":
    main()
