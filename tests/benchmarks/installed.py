"""What has to be there before two servers can be compared: Pythons with their packages, wrk, and filled logs."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
ENVIRONMENTS = HERE / "environments"
FIXTURE = ROOT / "tests" / "server" / "fixtures" / "repo.content-update.json"
REQUIREMENTS = ROOT / "requirements.txt"
PACKAGES = ("gradio", "huggingface_hub", "fastapi", "starlette", "pydantic", "uvicorn", "uvloop", "httptools", "h11")
DAY = 24 * 60 * 60  # seconds

VERSIONS = """
import importlib.metadata, json, platform, sqlite3, sys
found = {"Python": platform.python_version(), "sqlite3": sqlite3.sqlite_version}
for name in sys.argv[1:]:
    try:
        found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        found[name] = None
print(json.dumps(found))
"""


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def front_matter(name: str) -> str:
    """Read a value of the README's front matter."""
    found = re.search(rf'^{name}: "?([^"\n]+)"?$', (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    if not found:
        sys.exit(f"The front matter of README.md does not have {name}.")
    return found[1]


def requirements() -> dict[str, list[str]]:
    """List what pip installs into each environment: what the Space builder makes, the same without ours, FastAPI."""
    pinned = re.search(r"^huggingface_hub==\S+", REQUIREMENTS.read_text(encoding="utf-8"), re.MULTILINE)
    if not pinned:
        sys.exit("requirements.txt does not pin huggingface_hub.")
    builder = [f"gradio[oauth,mcp]=={front_matter('sdk_version')}", "uvicorn>=0.14.0", "websockets>=10.4", "spaces"]
    return {
        "space": ["-r", str(REQUIREMENTS), *builder],
        "upstream": [pinned[0], *builder],
        "fastapi": ["fastapi", "uvicorn[standard]"],
    }


def choose_python(given: str | None) -> str:
    """Find a Python of the Space's version, else take this one."""
    if given:
        found = shutil.which(given)
        return found or sys.exit(f"There is no Python {given}.")
    version = front_matter("python_version")
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv", "versions")
    candidates = [shutil.which(f"python{version}"), *map(str, pyenv.glob(f"{version}*/bin/python"))]
    for candidate in filter(None, candidates):
        if _version(candidate).startswith(version):  # one of pyenv's stand-ins may have nothing behind it
            return candidate
    say(f"There is no Python {version}, which the Space has; taking {sys.executable}.")
    return sys.executable


def _version(python: str) -> str:
    printed = "import platform; print(platform.python_version())"
    return subprocess.run([python, "-c", printed], capture_output=True, text=True).stdout.strip()


def environment(name: str, python: str, packages: list[str]) -> str:
    """Make a virtual environment, unless it is there as it has to be; return its Python."""
    folder = ENVIRONMENTS / name
    files = [REQUIREMENTS.read_text(encoding="utf-8")] if "-r" in packages else []
    content = json.dumps([_version(python), packages, files])
    inside = str(folder / "bin" / "python")
    if not _is_stamped(folder, content):
        say(f"Installing the environment {name}: {' '.join(packages).replace(f'{ROOT}{os.sep}', '')}")
        shutil.rmtree(folder, ignore_errors=True)
        _run(python, "-m", "venv", str(folder))
        _run(inside, "-m", "pip", "install", "-qq", "--disable-pip-version-check", *packages)
        _stamp(folder, content)
    return inside


def versions(python: str) -> dict[str, str | None]:
    return json.loads(_run(python, "-c", VERSIONS, *PACKAGES))


def ensure_wrk() -> None:
    if shutil.which("wrk"):
        return
    if not (shutil.which("apt-get") and os.geteuid() == 0):
        sys.exit("The load comes from wrk. Install it first: apt-get install wrk, or brew install wrk.")
    say("Installing wrk")
    _run("apt-get", "update", "-qq")
    _run("apt-get", "install", "-y", "-qq", "wrk", DEBIAN_FRONTEND="noninteractive")


def filled_log(python: str, deliveries: int) -> Path:
    """Fill a log, unless there is one of today as the code would make it now; return its folder."""
    folder = ENVIRONMENTS / f"log-{deliveries}"
    with tempfile.TemporaryDirectory(dir=ENVIRONMENTS) as empty:
        _fill(python, Path(empty), 0)
        content = json.dumps([_schema(Path(empty)), (HERE / "filled.py").read_text(), FIXTURE.read_text()])
    if not _is_stamped(folder, content, younger_than=DAY):
        say(f"Filling a log with {deliveries:,} deliveries")
        shutil.rmtree(folder, ignore_errors=True)
        _fill(python, folder, deliveries)
        _stamp(folder, content)
    return folder


def copy_log(source: Path, target: Path) -> None:
    """Copy a log, and wait until it is on the disk, or the server's first commits would wait for that."""
    target.mkdir()
    for file in source.glob("deliveries.db*"):
        shutil.copyfile(file, target / file.name)
        with open(target / file.name, "rb+") as copy:
            os.fsync(copy.fileno())


def _fill(python: str, folder: Path, deliveries: int) -> None:
    _run(python, str(HERE / "filled.py"), str(folder), str(deliveries))


def _schema(folder: Path) -> list[object]:
    with contextlib.closing(sqlite3.connect(folder / "deliveries.db")) as database:
        version = database.execute("PRAGMA user_version").fetchone()[0]
        return [version, database.execute("SELECT sql FROM sqlite_schema ORDER BY name").fetchall()]


def _stamp(folder: Path, content: str) -> None:
    (folder / "stamp").write_text(hashlib.sha256(content.encode()).hexdigest())


def _is_stamped(folder: Path, content: str, younger_than: float = float("inf")) -> bool:
    stamp = folder / "stamp"
    try:
        age = time.time() - stamp.stat().st_mtime
        return stamp.read_text() == hashlib.sha256(content.encode()).hexdigest() and age < younger_than
    except OSError:
        return False


def _run(*command: str, **extra: str) -> str:
    outside = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(command, env={**outside, **extra}, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"This failed: {' '.join(command)}")
    return done.stdout


@contextlib.contextmanager
def working_folder() -> Iterator[Path]:
    """Make a folder on the disk of this repository, and leave nothing of it."""
    with tempfile.TemporaryDirectory(dir=ENVIRONMENTS, prefix="run-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)
