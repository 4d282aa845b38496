"""The README's commands do what it says, and its example of a tested handler passes; test_recipes.py runs the rest."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.git_server import GitServer, commit, git, new_repository
from support.hub import Hub
from support.processes import ROOT, clean_environment

pytestmark = pytest.mark.once

README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", README, re.S) for line in block.splitlines() if line]
TOKEN = "hf_" + "readme" * 6


def run_command(command: str, folder: Path, **environment: str) -> None:
    """Run a command of the README with the `hf` of this environment, as somebody who is logged in."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    given = {"PATH": path, "HOME": str(folder), "HF_HOME": str(folder / "hf"), "HF_TOKEN": TOKEN, **environment}
    done = subprocess.run(["bash", "-euc", command], cwd=folder, env=given, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_every_command_is_run_here_or_by_ci() -> None:
    run_by_ci = [line for line in COMMANDS if line.endswith(("-m pytest", "bin/python app.py"))]
    run_here = [line for line in COMMANDS if line.startswith("hf ") or line.endswith("sync-space.sh")]
    assert len(run_by_ci) == 2
    assert sorted(COMMANDS) == sorted([*run_by_ci, *run_here])


def test_the_commands_for_a_bucket_make_it_and_attach_it_at_data(tmp_path: Path) -> None:
    with Hub() as hub:
        hub.add_user("username")
        hub.add_token(TOKEN, "username")
        for command in COMMANDS:
            if command.startswith(("hf buckets", "hf spaces")):
                run_command(command, tmp_path, HF_ENDPOINT=hub.url)
        asked = [(request.method, request.path, request.json()) for request in hub.requests]
    assert asked == [
        ("POST", "/api/buckets/username/hooks", {"visibility": "private"}),
        (
            "PUT",
            "/api/spaces/username/my-space/volumes",
            {"volumes": [{"type": "bucket", "source": "username/hooks", "mountPath": "/data"}]},
        ),
    ]


def test_the_command_for_a_webhook_creates_the_one_that_is_asked_for_above_it(tmp_path: Path) -> None:
    command = next(line for line in COMMANDS if line.startswith("hf webhooks"))
    with Hub() as hub:
        hub.add_user("username")
        hub.add_token(TOKEN, "username")
        run_command(command, tmp_path, HF_ENDPOINT=hub.url, WEBHOOK_SECRET="s3cret")
        (webhook,) = hub.webhooks["username"]
    assert {**webhook, "id": ""} == {
        "id": "",
        "url": "https://username-my-space.hf.space/webhooks/trigger_training",
        "watched": [{"type": "dataset", "name": "username/my-dataset"}],
        "domains": ["repo"],
        "secret": "s3cret",
        "disabled": False,
    }


def test_the_command_for_the_sync_pushes_a_clone_to_the_space(tmp_path: Path) -> None:
    space = new_repository(tmp_path / "hub" / "spaces" / "username" / "my-space", "--bare")
    clone = new_repository(tmp_path / "clone")
    shutil.copytree(ROOT / ".github", clone / ".github")
    git(clone, "add", ".github")
    pushed = commit(clone, "app.py")
    command = next(line for line in COMMANDS if line.endswith("sync-space.sh"))
    with GitServer(tmp_path / "hub", TOKEN) as server:
        run_command(command, clone, HF_ENDPOINT=server.url)
    assert git(space, "rev-parse", "refs/heads/main") == pushed


def test_the_example_of_a_handler_with_its_test_passes(tmp_path: Path) -> None:
    section = README.partition("\n## Test your handlers\n")[2].partition("\n## ")[0]
    app, test = re.findall(r"^```python\n(.*?)^```", section, re.M | re.S)
    (tmp_path / "app.py").write_text(app)
    (tmp_path / "test_app.py").write_text(test)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "test_app.py"]
    done = subprocess.run(command, cwd=tmp_path, env=clean_environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout
    assert " 4 passed" in done.stdout
