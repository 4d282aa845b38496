"""Each command of the README is run, and each example does what the README says."""

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

from webhooks.testing import event

README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", README, re.S) for line in block.splitlines() if line]
HF_COMMANDS = [command for command in COMMANDS if command.startswith("hf ")]
(SYNC_COMMAND,) = [command for command in COMMANDS if command.endswith("sync-space.sh")]
RUN_BY_CI = [command for command in COMMANDS if command.endswith(("-m pytest", "bin/python app.py"))]
APP, METHODS, TEST = re.findall(r"^```python\n(.*?)^```", README, re.M | re.S)
TOKEN = "hf_" + "readme" * 6


def run_command(command: str, folder: Path, **environment: str) -> None:
    """Run a command of the README as somebody who is logged in to the Hub."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    given = {"PATH": path, "HOME": str(folder), "HF_HOME": str(folder / "hf"), "HF_TOKEN": TOKEN, **environment}
    done = subprocess.run(["bash", "-euc", command], cwd=folder, env=given, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_every_command_is_run_here_or_by_ci() -> None:
    assert len(RUN_BY_CI) == 2
    assert sorted(COMMANDS) == sorted([*RUN_BY_CI, *HF_COMMANDS, SYNC_COMMAND])


def test_the_hf_commands_do_what_the_readme_says(tmp_path: Path) -> None:
    with Hub() as hub:
        hub.add_user("username")
        hub.add_token(TOKEN, "username")
        for command in HF_COMMANDS:
            run_command(command, tmp_path, HF_ENDPOINT=hub.url)
        requests = {request.path: request.json() for request in hub.requests if request.method != "GET"}
    assert requests["/api/buckets/username/hooks"] == {"visibility": "private"}
    assert requests["/api/spaces/username/my-space/volumes"] == {
        "volumes": [{"type": "bucket", "source": "username/hooks", "mountPath": "/data"}]
    }


def test_the_sync_command_pushes_a_clone_to_the_space(tmp_path: Path) -> None:
    space = new_repository(tmp_path / "hub" / "spaces" / "username" / "my-space", "--bare")
    clone = new_repository(tmp_path / "clone")
    shutil.copytree(ROOT / ".github", clone / ".github")
    pushed = commit(clone, "app.py")
    with GitServer(tmp_path / "hub", TOKEN) as server:
        run_command(SYNC_COMMAND, clone, HF_ENDPOINT=server.url)
    assert git(space, "rev-parse", "refs/heads/main") == pushed


def test_the_example_of_a_tested_handler_passes(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "test_app.py").write_text(TEST)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "test_app.py"]
    done = subprocess.run(command, cwd=tmp_path, env=clean_environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("kind", ["commit", "comment", "tag", "pull_request_commit"])
def test_the_two_methods_recognize_events(kind: str) -> None:
    found = [eval(line, {"payload": event(kind, "dataset", "username/my-dataset")}) for line in METHODS.splitlines()]
    assert found == [kind == "commit", kind == "comment"]
