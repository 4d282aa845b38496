"""What a page of the owner's list costs when the log is full: 50 deliveries out of 10,000, against 50 out of 100.

    python tests/benchmarks/pages.py

Takes half a minute, in one process, without a network. The two logs take turns, and the fastest of 15 rounds counts.
What a filter finds is either every second delivery, or the 50 oldest, for which it has to look at all. A text that is
nowhere is the worst that can be asked for: every error is read, and half of the 10,000 have failed.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "server")]

from support.long_lists import compared

print("| filter | it finds | of 10,000 | of 100 | ratio |\n| --- | --- | --- | --- | --- |")
for name, place, many, few in compared():
    print(f"| {name} | {place} | {many * 1000:.1f} ms | {few * 1000:.1f} ms | {many / few:.2f} |", flush=True)
