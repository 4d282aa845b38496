"""Payloads as the Hub sends them, one file for each kind of event."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FIXTURES = Path(__file__).parent.parent / "fixtures"


def load(name: str) -> dict[str, Any]:
    """Read a payload fixture: `load("repo.content-update")`."""
    return json.loads((FIXTURES / f"{name}.json").read_text(encoding="utf-8"))
