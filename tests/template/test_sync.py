"""The two sync scripts with real Git over HTTP: to the Space, and back to GitHub."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.git_server import GitServer, commit, git, new_repository
from support.processes import ROOT

TOKENS = HF_TOKEN, GH_TOKEN = "hf_" + "synctoken" * 4, "ghs_" + "githubtoken" * 3
Done = subprocess.CompletedProcess[str]


class Forge:
    """A clone and two servers: the Hub with a Space, and GitHub with a fork."""

    def __init__(self, folder: Path, hub: GitServer, github: GitServer) -> None:
        self.folder, self.hub, self.github = folder, hub, github
        self.space, self.fork = hub.root / "spaces/me/hooks", github.root / "me/fork"
        for bare in (self.space, self.fork):
            new_repository(bare, "--bare")
        self.clone = new_repository(folder / "clone")
        commit(self.clone, "app.py")

    def run(self, script: str, **environment: str) -> Done:
        """Run a script in the clone. Check that it leaves no token in its output or in a file."""
        given = {
            "PATH": f"{self.folder}:{os.environ['PATH']}",
            "HOME": str(self.folder / "home"),
            "SPACE_ID": "me/hooks",
            "HF_ENDPOINT": self.hub.url,
            "HF_TOKEN": HF_TOKEN,
            "GH_TOKEN": GH_TOKEN,
            "GITHUB_SERVER_URL": self.github.url,
            "GITHUB_REPOSITORY": "me/fork",
            **environment,
        }
        command = [ROOT / ".github" / script]
        done = subprocess.run(command, cwd=self.clone, env=given, capture_output=True, text=True, timeout=60)
        files = [path.read_text(errors="replace") for path in self.folder.rglob("*") if path.is_file()]
        assert not [token for token in TOKENS for text in (done.stdout, done.stderr, *files) if token in text]
        return done

    def sync(self, **environment: str) -> Done:
        return self.run("sync-space.sh", **environment)

    def bring_back(self) -> Done:
        return self.run("bring-back.sh")

    def edit(self, name: str, message: str | None = None, author: str = "Jo <jo@example.org>") -> str:
        """Make a commit on the Space, as its browser editor does."""
        browser = self.folder / f"browser-{name}"
        git(self.folder, "clone", "--quiet", str(self.space), str(browser))
        commit(browser, name, message)
        git(browser, "commit", "--quiet", "--amend", "--no-edit", "--cleanup=verbatim", f"--author={author}")
        git(browser, "push", "--quiet", "origin", "HEAD:main")
        return git(browser, "rev-parse", "HEAD")


@pytest.fixture
def forge(tmp_path: Path) -> Iterator[Forge]:
    with GitServer(tmp_path / "hub", HF_TOKEN) as hub, GitServer(tmp_path / "github", GH_TOKEN) as github:
        yield Forge(tmp_path, hub, github)


def head(repository: Path, ref: str = "refs/heads/main") -> str:
    return git(repository, "rev-parse", ref)


# --- sync-space.sh


def test_new_commits_are_pushed(forge: Forge) -> None:
    assert "The Space me/hooks has" in forge.sync().stderr
    new = commit(forge.clone, "more.py")
    assert (forge.sync().returncode, head(forge.space)) == (0, new)
    again = forge.sync()
    assert (again.returncode, "has this commit already" in again.stderr) == (0, True)


def test_a_browser_edit_is_kept_until_it_is_merged(forge: Forge) -> None:
    forge.sync()
    edit = forge.edit("edit.py", "Tune the learning rate")
    commit(forge.clone, "more.py")
    done = forge.sync()
    assert (done.returncode, head(forge.space)) == (1, edit)
    assert f"    {edit[:7]} Jo: Tune the learning rate\n" in done.stderr
    assert f"git fetch {forge.hub.url}/spaces/me/hooks main" in done.stderr
    git(forge.clone, "fetch", "--quiet", str(forge.space), "main")
    git(forge.clone, "merge", "--quiet", "--no-edit", "FETCH_HEAD")
    assert forge.sync().returncode == 0
    assert edit in git(forge.space, "rev-list", "main").split()


def test_force_replaces_only_the_edits_that_it_names(forge: Forge) -> None:
    forge.sync()
    forge.edit("edit.py")
    new = commit(forge.clone, "more.py")
    late: list[str] = []

    def edit_before_the_push(path: str) -> None:
        if path.endswith("git-receive-pack") and not late:
            late.append(forge.edit("late.py"))

    forge.hub.on_request = edit_before_the_push
    assert forge.sync(SYNC_FORCE="true").returncode == 1
    assert head(forge.space) == late[0]
    done = forge.sync(SYNC_FORCE="true")
    assert (done.returncode, head(forge.space), late[0] in done.stderr) == (0, new, True)


def test_a_new_space_is_replaced_only_by_force(forge: Forge) -> None:
    new = new_repository(forge.folder / "new")
    first = commit(new, "README.md")
    git(new, "push", "--quiet", str(forge.space), "HEAD:main")
    done = forge.sync()
    assert (done.returncode, "shares no commit" in done.stderr, head(forge.space)) == (1, True, first)
    assert forge.bring_back().returncode == 0
    assert git(forge.fork, "branch", "--list") == ""
    assert (forge.sync(SYNC_FORCE="true").returncode, head(forge.space)) == (0, head(forge.clone, "HEAD"))


REFUSALS = {
    "no token": ({"HF_TOKEN": ""}, "HF_TOKEN must be a token"),
    "wrong token": ({"HF_TOKEN": "hf_wrong"}, "The Hub refuses this HF_TOKEN"),
    "no such Space": ({"SPACE_ID": "me/other"}, "/new-space"),
    "no network, and a name like a status": ({"HF_ENDPOINT": "http://127.0.0.1:9", "SPACE_ID": "me/403"}, "reached"),
    "a path for a Space": ({"SPACE_ID": "me/../hooks"}, "SPACE_ID must be"),
    "an option for a Space": ({"SPACE_ID": "--x/y"}, "SPACE_ID must be"),
}


@pytest.mark.parametrize(("environment", "reason"), REFUSALS.values(), ids=REFUSALS)
def test_a_refusal_names_its_reason(forge: Forge, environment: dict[str, str], reason: str) -> None:
    done = forge.sync(**environment)
    assert (done.returncode, reason in done.stderr) == (1, True)
    assert git(forge.space, "branch", "--list") == ""


def test_a_push_that_fails_here_does_not_blame_the_hub(forge: Forge) -> None:
    hook = forge.clone / ".git/hooks/pre-push"
    hook.write_text("#!/bin/sh\necho 'Unable to find source for object' >&2\nexit 1\n")
    hook.chmod(0o755)
    done = forge.sync()
    assert (done.returncode, "Hub" in done.stderr) == (1, False)
    assert "Unable to find source for object" in done.stderr


def test_the_token_is_in_no_process_list(forge: Forge) -> None:
    commands: list[bytes] = []

    def read_process_list(_: str) -> None:
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                commands.append(path.read_bytes())
            except OSError:
                continue

    forge.hub.on_request = read_process_list
    assert forge.sync().returncode == 0
    assert any(b"remote-http" in command for command in commands)
    assert not any(HF_TOKEN.encode() in command for command in commands)


# --- bring-back.sh

GH = """#!/usr/bin/env python3
import json, pathlib, sys
calls, arguments = pathlib.Path(__file__).with_name("calls"), sys.argv[2:]
before = calls.read_text() if calls.exists() else ""
if arguments[0] == "list":
    print("7" if before else "")
else:
    body = pathlib.Path(arguments[arguments.index("--body-file") + 1]).read_bytes().decode()
    calls.write_text(before + json.dumps([arguments, body]) + "\\n")
"""


@pytest.fixture
def pull_requests(forge: Forge) -> Callable[[], list[Any]]:
    """Put a stand-in for `gh` into PATH. Return a function that reads its calls: arguments and body."""
    (forge.folder / "gh").write_text(GH)
    (forge.folder / "gh").chmod(0o755)
    forge.sync()
    calls = forge.folder / "calls"
    return lambda: [json.loads(line) for line in calls.read_text().splitlines()] if calls.exists() else []


def test_browser_edits_become_one_pull_request(forge: Forge, pull_requests: Any) -> None:
    assert (forge.bring_back().returncode, pull_requests()) == (0, [])
    edits = []
    for name in ("edit.py", "later.py"):
        edits.append(forge.edit(name, f"Write {name} @everyone <b>"))
        assert forge.bring_back().returncode == 0
        assert head(forge.fork, "space-edits") == edits[-1]
    (created, body), (updated, _) = pull_requests()
    assert (created[0], created[-3]) == ("create", "Bring back 1 commit from the Space")
    assert (updated[:2], updated[-3]) == (["edit", "7"], "Bring back 2 commits from the Space")
    assert f"\n\n    {edits[0][:7]} Jo: Write edit.py @everyone <b>\n" in body
    git(forge.clone, "merge", "--quiet", "--no-edit", "FETCH_HEAD")
    assert "GitHub has every commit" in forge.bring_back().stderr


def test_control_characters_leave_neither_code_nor_log(forge: Forge, pull_requests: Any) -> None:
    forge.edit("edit.py", "Tune\r# Title\x1b[2J\x9b2J\x7f é", author="Jo\rx\x1b[31m <jo@example.org>")
    line = " Jox[31m: Tune# Title[2J2J é\n"
    assert line in forge.sync().stderr
    forge.bring_back()
    ((_, body),) = pull_requests()
    assert line in body
    assert "\r" not in body


def test_a_refusal_of_github_says_what_to_do(forge: Forge, pull_requests: Any) -> None:
    hook = forge.fork / "hooks/pre-receive"
    hook.write_text("#!/bin/sh\necho 'GH008: unknown Git LFS objects' >&2\nexit 1\n")
    hook.chmod(0o755)
    forge.edit("weights.bin")
    done = forge.bring_back()
    assert (done.returncode, pull_requests()) == (1, [])
    assert "GH008: unknown Git LFS objects" in done.stderr
    assert f"git lfs push --all {forge.github.url}/me/fork\n" in done.stderr
