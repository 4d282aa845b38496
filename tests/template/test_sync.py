"""From GitHub to the Space and back: real scripts, real Git over HTTP, a token that must not be seen anywhere."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.git_server import GitServer, commit, git, new_repository
from support.processes import ROOT

pytestmark = pytest.mark.once

TOKEN = "hf_" + "synctoken" * 4
GH_TOKEN = "ghs_" + "githubtoken" * 3
SPACE = "me/hooks"
SYNC, BRING_BACK = ROOT / ".github" / "sync-space.sh", ROOT / ".github" / "bring-back.sh"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[GitServer]:
    new_repository(tmp_path / "hub" / "spaces" / SPACE, "--bare")
    with GitServer(tmp_path / "hub", TOKEN) as server:
        yield server


@pytest.fixture
def space(hub: GitServer) -> Path:
    """The Space's repository, as the Hub has it."""
    return hub.root / "spaces" / SPACE


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """The clone of the fork that Actions checked out."""
    folder = new_repository(tmp_path / "here")
    commit(folder, "app.py")
    return folder


def environment(hub: GitServer, **more: str) -> dict[str, str]:
    home = hub.root.parent / "home"
    home.mkdir(exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG", "TMPDIR")}
    return {**kept, "HOME": str(home), "HF_ENDPOINT": hub.url, "SPACE_ID": SPACE, "HF_TOKEN": TOKEN, **more}


def sync(here: Path, hub: GitServer, **more: str) -> subprocess.CompletedProcess[str]:
    return run(SYNC, here, environment(hub, **more))


def run(script: Path, here: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a script to its end, and see that it left the token nowhere."""
    done = subprocess.run([script], cwd=here, env=environment, capture_output=True, text=True, timeout=60)
    written = [
        path.read_bytes() for path in [*here.rglob("*"), *Path(environment["HOME"]).rglob("*")] if path.is_file()
    ]
    for token in (TOKEN, GH_TOKEN):
        assert token not in done.stdout + done.stderr
        assert not any(token.encode() in content for content in written)
    assert git(here, "remote") == ""
    return done


def edit_in_browser(space: Path, tmp_path: Path, name: str = "edit.py", message: str | None = None) -> str:
    """Make a commit on the Space, as its browser editor does."""
    clone = tmp_path / f"browser-{name}"
    git(tmp_path, "clone", "--quiet", str(space), str(clone))
    edit = commit(clone, name, message)
    git(clone, "push", "--quiet", "origin", "HEAD:main")
    return edit


def main_of(repository: Path) -> str:
    return git(repository, "rev-parse", "refs/heads/main")


# --- to the Space


def test_the_first_push_to_an_empty_space(here: Path, hub: GitServer, space: Path) -> None:
    done = sync(here, hub)
    assert (done.returncode, main_of(space)) == (0, git(here, "rev-parse", "HEAD"))
    assert f"The Space {SPACE} has" in done.stderr


def test_new_commits_are_pushed(here: Path, hub: GitServer, space: Path) -> None:
    sync(here, hub)
    new = commit(here, "more.py")
    assert sync(here, hub).returncode == 0
    assert main_of(space) == new


def test_nothing_new_is_said_and_fine(here: Path, hub: GitServer) -> None:
    sync(here, hub)
    done = sync(here, hub)
    assert (done.returncode, "has this commit already" in done.stderr) == (0, True)


@pytest.mark.parametrize("ours", [False, True])
def test_a_browser_edit_is_never_overwritten(
    here: Path, hub: GitServer, space: Path, tmp_path: Path, ours: bool
) -> None:
    sync(here, hub)
    edit = edit_in_browser(space, tmp_path, message="Tune the learning rate")
    if ours:
        commit(here, "more.py")
    done = sync(here, hub)
    assert (done.returncode, main_of(space)) == (1, edit)
    assert f"{edit[:7]} Jo: Tune the learning rate" in done.stderr
    assert f"git fetch {hub.url}/spaces/{SPACE} main" in done.stderr


def test_the_advice_for_a_browser_edit_is_what_makes_the_next_sync_work(
    here: Path, hub: GitServer, space: Path, tmp_path: Path
) -> None:
    sync(here, hub)
    edit = edit_in_browser(space, tmp_path)
    commit(here, "more.py")
    assert sync(here, hub).returncode == 1
    git(here, "fetch", str(space), "main")
    git(here, "merge", "--quiet", "--no-edit", "FETCH_HEAD")
    assert sync(here, hub).returncode == 0
    assert edit in git(space, "rev-list", "main").split()


def test_force_replaces_what_the_space_has_and_says_what(
    here: Path, hub: GitServer, space: Path, tmp_path: Path
) -> None:
    sync(here, hub)
    edit = edit_in_browser(space, tmp_path)
    ours = commit(here, "more.py")
    done = sync(here, hub, SYNC_FORCE="true")
    assert (done.returncode, main_of(space)) == (0, ours)
    assert edit in done.stderr


def test_force_does_not_replace_an_edit_that_it_has_not_seen(
    here: Path, hub: GitServer, space: Path, tmp_path: Path
) -> None:
    sync(here, hub)
    edit_in_browser(space, tmp_path)
    commit(here, "more.py")
    unseen: list[str] = []

    def edit_before_the_push(path: str) -> None:
        if path.endswith("git-receive-pack") and not unseen:
            unseen.append("")
            unseen[0] = edit_in_browser(space, tmp_path, "late.py")

    hub.on_request = edit_before_the_push
    assert sync(here, hub, SYNC_FORCE="true").returncode == 1
    assert main_of(space) == unseen[0]


def test_a_freshly_created_space_is_explained_and_replaced_by_force(
    here: Path, hub: GitServer, space: Path, tmp_path: Path
) -> None:
    hubs_own = new_repository(tmp_path / "fresh")
    commit(hubs_own, "README.md", "initial commit")
    git(hubs_own, "push", "--quiet", str(space), "HEAD:main")
    done = sync(here, hub)
    assert (done.returncode, main_of(space)) == (1, git(hubs_own, "rev-parse", "HEAD"))
    assert "nothing in common" in done.stderr
    assert "SYNC_FORCE=true" in done.stderr
    assert sync(here, hub, SYNC_FORCE="true").returncode == 0
    assert main_of(space) == git(here, "rev-parse", "HEAD")


def test_a_wrong_token_is_named_and_changes_nothing(here: Path, hub: GitServer, space: Path) -> None:
    done = sync(here, hub, HF_TOKEN="hf_wrong")
    assert (done.returncode, "does not take this HF_TOKEN" in done.stderr) == (1, True)
    assert git(space, "branch", "--list") == ""


def test_a_missing_space_says_how_to_make_one(here: Path, hub: GitServer) -> None:
    done = sync(here, hub, SPACE_ID="me/other")
    assert (done.returncode, "new-space" in done.stderr, "Duplicate" in done.stderr) == (1, True, True)


def test_a_hub_that_is_down_is_named(here: Path, hub: GitServer) -> None:
    hub.stop()
    done = sync(here, hub)
    assert (done.returncode, "cannot be reached" in done.stderr) == (1, True)


@pytest.mark.parametrize(
    "id", ["", "hooks", "me/hooks/more", "me/../hooks", "-me/hooks", "me/ho oks", "me/hooks?x", "--x/y"]
)
def test_a_space_id_that_is_none_is_refused_before_anything_is_asked(here: Path, hub: GitServer, id: str) -> None:
    asked: list[str] = []
    hub.on_request = asked.append
    done = sync(here, hub, SPACE_ID=id)
    assert (done.returncode, asked) == (1, [])
    assert "SPACE_ID must be the name of a Space" in done.stderr


def test_no_token_and_no_history_are_named(here: Path, hub: GitServer, tmp_path: Path) -> None:
    assert "HF_TOKEN must be" in sync(here, hub, HF_TOKEN="").stderr
    commit(here, "more.py")
    git(tmp_path, "clone", "--quiet", "--depth", "1", f"file://{here}", "shallow")
    git(tmp_path / "shallow", "remote", "remove", "origin")
    assert "fetch-depth: 0" in sync(tmp_path / "shallow", hub).stderr


def test_while_it_runs_the_token_is_in_no_process_list(here: Path, hub: GitServer) -> None:
    lists: list[bytes] = []

    def look(_: str) -> None:
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                lists.append(path.read_bytes())
            except OSError:
                continue

    hub.on_request = look
    assert sync(here, hub).returncode == 0
    assert any(b"receive-pack" in line or b"remote-http" in line for line in lists)
    assert not any(TOKEN.encode() in line for line in lists)


# --- and back


@pytest.fixture
def github(tmp_path: Path, here: Path) -> Iterator[GitServer]:
    new_repository(tmp_path / "github" / "me" / "fork", "--bare")
    with GitServer(tmp_path / "github", GH_TOKEN) as server:
        git(here, "push", "--quiet", str(tmp_path / "github" / "me" / "fork"), "HEAD:main")
        yield server


GH = """#!/usr/bin/env python3
import json, os, pathlib, sys
state = pathlib.Path(os.environ["GH_STATE"])
calls = json.loads(state.read_text()) if state.exists() else []
arguments = sys.argv[1:]
body = pathlib.Path(arguments[arguments.index("--body-file") + 1]).read_text() if "--body-file" in arguments else ""
calls.append({"arguments": arguments, "body": body, "token": os.environ.get("GH_TOKEN")})
state.write_text(json.dumps(calls))
if arguments[:2] == ["pr", "list"] and any(call["arguments"][:2] == ["pr", "create"] for call in calls):
    print(7)
"""


def bring_back(here: Path, hub: GitServer, github: GitServer) -> tuple[subprocess.CompletedProcess[str], list[Any]]:
    """Run the script with a stand-in for `gh`, and return what that was asked."""
    folder = hub.root.parent / "bin"
    folder.mkdir(exist_ok=True)
    (folder / "gh").write_text(GH)
    (folder / "gh").chmod(stat.S_IRWXU)
    state = folder / "calls.json"
    before = len(json.loads(state.read_text())) if state.exists() else 0
    done = run(
        BRING_BACK,
        here,
        environment(
            hub,
            PATH=f"{folder}:{os.environ['PATH']}",
            GH_TOKEN=GH_TOKEN,
            GH_STATE=str(state),
            GITHUB_SERVER_URL=github.url,
            GITHUB_REPOSITORY="me/fork",
        ),
    )
    return done, json.loads(state.read_text())[before:] if state.exists() else []


def test_a_browser_edit_becomes_one_pull_request(
    here: Path, hub: GitServer, space: Path, github: GitServer, tmp_path: Path
) -> None:
    sync(here, hub)
    edit = edit_in_browser(space, tmp_path, message="Tune it @everyone <b>")
    done, calls = bring_back(here, hub, github)
    assert done.returncode == 0, done.stderr
    assert [call["arguments"][:2] for call in calls] == [["pr", "list"], ["pr", "create"]]
    assert "Bring back 1 commit from the Space" in calls[1]["arguments"]
    assert f"    {edit[:7]} Jo: Tune it @everyone <b>\n" in calls[1]["body"]
    assert git(github.root / "me" / "fork", "rev-parse", "space-edits") == edit


def test_another_edit_updates_the_pull_request(
    here: Path, hub: GitServer, space: Path, github: GitServer, tmp_path: Path
) -> None:
    sync(here, hub)
    edit_in_browser(space, tmp_path)
    bring_back(here, hub, github)
    later = edit_in_browser(space, tmp_path, "later.py")
    _, calls = bring_back(here, hub, github)
    assert [call["arguments"][:3] for call in calls][1:] == [["pr", "edit", "7"]]
    assert "Bring back 2 commits from the Space" in calls[1]["arguments"]
    assert git(github.root / "me" / "fork", "rev-parse", "space-edits") == later


def test_a_merged_pull_request_lets_the_sync_go_on(
    here: Path, hub: GitServer, space: Path, github: GitServer, tmp_path: Path
) -> None:
    sync(here, hub)
    edit_in_browser(space, tmp_path)
    commit(here, "more.py")
    bring_back(here, hub, github)
    git(here, "fetch", "--quiet", str(github.root / "me" / "fork"), "space-edits")
    git(here, "merge", "--quiet", "--no-edit", "FETCH_HEAD")
    assert sync(here, hub).returncode == 0
    assert bring_back(here, hub, github)[1] == []


def test_nothing_to_bring_back_asks_github_nothing(here: Path, hub: GitServer, github: GitServer) -> None:
    sync(here, hub)
    commit(here, "more.py")
    done, calls = bring_back(here, hub, github)
    assert (done.returncode, calls) == (0, [])


def test_a_space_that_was_never_synced_has_nothing_to_bring_back(
    here: Path, hub: GitServer, space: Path, github: GitServer, tmp_path: Path
) -> None:
    fresh = new_repository(tmp_path / "fresh")
    commit(fresh, "README.md", "initial commit")
    git(fresh, "push", "--quiet", str(space), "HEAD:main")
    done, calls = bring_back(here, hub, github)
    assert (done.returncode, calls) == (0, [])
    assert "a history of its own" in done.stderr
