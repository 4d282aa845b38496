"""The parts of `webhooks/` depend on each other in one direction, and importing it changes nothing else."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

from support.processes import ROOT, clean_environment

import webhooks

SOURCES = sorted(path.relative_to(ROOT) for path in (ROOT / "webhooks").rglob("*.py"))
DELETABLE = ("webhooks.dashboard", "webhooks.catch_up", "webhooks.jobs")


def module_name(source: Path) -> str:
    return ".".join(source.with_suffix("").parts).removesuffix(".__init__")


def imports(source: Path) -> Iterator[str]:
    """Name the modules that a file imports, also inside functions and for type checkers."""
    for node in ast.walk(ast.parse((ROOT / source).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = source.parts[: len(source.parts) - node.level] if node.level else ()
            module = ".".join([*above, *filter(None, [node.module])])
            submodules = [f"{module}.{name.name}" for name in node.names]
            yield from (name if name in MODULES else module for name in submodules)


MODULES = {module_name(source): source for source in SOURCES}
GRAPH = {module: set(imports(source)) for module, source in MODULES.items()}


def importers(*targets: str) -> set[str]:
    """Name the modules that import a target, or a module inside it, from outside."""
    inside = tuple(f"{target}." for target in targets)
    importing = {name for name, used in GRAPH.items() if any(f"{module}.".startswith(inside) for module in used)}
    return {name for name in importing if not f"{name}.".startswith(inside)}


def test_nothing_imports_the_server_nor_the_app() -> None:
    assert importers("webhooks.server") == {"webhooks", "webhooks.testing"}
    assert not [name for name, used in GRAPH.items() if used & {"webhooks", "app"}]


def test_only_the_server_imports_what_can_be_deleted() -> None:
    for module in DELETABLE:
        assert importers(module) <= {"webhooks.server"}


def test_deliveries_import_neither_sender_nor_page() -> None:
    above = importers(*DELETABLE, "webhooks.receiver", "webhooks.server")
    assert not [name for name in above if name.startswith("webhooks.deliveries")]


def test_no_modules_import_each_other() -> None:
    TopologicalSorter(GRAPH).prepare()  # raises CycleError, which names them


IMPORT_TWICE = """
import atexit, logging, os, signal, sys, threading, warnings

hooks = []
os.register_at_fork = lambda **_: hooks.append("fork")

def state():
    loggers = [log for log in logging.root.manager.loggerDict.values() if hasattr(log, "filters")]
    others = [logging.root, *(log for log in loggers if not log.name.startswith("webhooks"))]
    return {
        "threads": len(threading.enumerate()),
        "excepthook": (sys.excepthook, threading.excepthook, sys.unraisablehook),
        "logging": [(log.name, list(log.filters), list(log.handlers)) for log in others],
        "log records": logging.getLogRecordFactory(),
        "atexit": atexit._ncallbacks(),
        "fork": len(hooks),
        "warnings": list(warnings.filters),
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
    }

import webhooks, webhooks.jobs  # with all packages that they use
for name in [name for name in sys.modules if name.partition(".")[0] == "webhooks"]:
    del sys.modules[name]
warnings.resetwarnings()  # a filter that is added again would change nothing
before = state()
import webhooks, webhooks.jobs
after = state()
print("CHANGED", [name for name in before if before[name] != after[name]])
"""


def test_an_import_changes_nothing_outside() -> None:
    command = [sys.executable, "-c", IMPORT_TWICE]
    done = subprocess.run(command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, timeout=60)
    assert done.stdout.endswith("CHANGED []\n"), done.stdout + done.stderr


def test_the_readme_names_the_version_and_every_module() -> None:
    text = (ROOT / "webhooks" / "README.md").read_text(encoding="utf-8")
    assert text.startswith(f"# The webhook server, version {webhooks.__version__}\n")
    assert f"\n### {webhooks.__version__}\n" in text.partition("\n## Changes\n")[2]
    named = re.findall(r"`(?:\w+/)*(\w+\.py)`", text)
    assert {source.name for source in SOURCES} - {"__init__.py"} <= set(named)
