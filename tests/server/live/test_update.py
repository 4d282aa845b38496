"""`webhooks/update.sh` with real Git, in a repository whose app is its owner's."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from support.git_server import git, new_repository
from support.processes import ROOT, clean_environment

Done = subprocess.CompletedProcess[str]
Files = dict[str, str]
FOLDERS = ("webhooks/", "tests/server/")

NOTES = "# The server\n\n## Changes\n\n### 0.1.0\n\nThe first version.\n\n## Licence\n"
FIRST = {
    "app.py": "the template's",
    "README.md": "---\nsdk_version: 6.0.0\n---\nThe template's\n",
    "requirements.txt": "gradio==6.0.0\n",
    "webhooks/__init__.py": '__version__ = "0.1.0"\n',
    "webhooks/README.md": NOTES,
    "webhooks/catch_up.py": "first",
    "webhooks/dashboard/routes.py": "first",
    "webhooks/jobs.py": "first",
    "webhooks/old.py": "goes",
    "tests/test_app.py": "the template's",
    "tests/server/test_old.py": "goes",
}
SECOND = {
    "app.py": "the template's, newer",
    "README.md": "---\nsdk_version: 6.1.0\n---\nThe template's\n",
    "requirements.txt": "gradio==6.1.0\nuvloop==1.0\n",
    "webhooks/__init__.py": '__version__ = "0.2.0"\n',
    "webhooks/README.md": NOTES.replace("### 0.1.0", "### 0.2.0\n\nReplays.\n\n### 0.1.0"),
    "webhooks/catch_up.py": "second",
    "webhooks/dashboard/new.py": "comes",
    "webhooks/jobs.py": "second",
    "tests/server/test_new.py": "comes",
}


def commit(folder: Path, files: Files) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "Edit")


@pytest.fixture
def template(tmp_path: Path) -> Path:
    """The template in its first version."""
    folder = new_repository(tmp_path / "template")
    (folder / "webhooks").mkdir()
    shutil.copy(ROOT / "webhooks" / "update.sh", folder / "webhooks")
    commit(folder, FIRST)
    return folder


@pytest.fixture
def mine(template: Path, tmp_path: Path) -> Path:
    """A duplicate of the first version, without its history and with an app of the owner's."""
    folder = tmp_path / "mine"
    shutil.copytree(template, folder, ignore=shutil.ignore_patterns(".git"))
    git(folder, "init", "--quiet")
    commit(folder, {})
    (folder / "tests/test_app.py").unlink()
    commit(folder, {"app.py": "mine", "prompts.txt": "mine", "tests/test_mine.py": "mine"})
    return folder


def release(template: Path) -> None:
    """Make the second version: files are added, changed and deleted."""
    git(template, "rm", "--quiet", "webhooks/old.py", "tests/server/test_old.py")
    commit(template, SECOND)


def update(folder: Path, *arguments: object, **environment: str) -> Done:
    command = ["bash", "webhooks/update.sh", *map(str, arguments)]
    given = clean_environment(**environment)
    return subprocess.run(command, cwd=folder, env=given, capture_output=True, text=True, timeout=60)


def read(folder: Path) -> Files:
    paths = [path for path in folder.rglob("*") if path.is_file() and ".git" not in path.parts]
    return {str(path.relative_to(folder)): path.read_text(encoding="utf-8") for path in paths}


def assert_updated(done: Done, folder: Path, template: Path, before: Files) -> None:
    assert (done.returncode, done.stderr) == (0, "")
    kept = {name: text for name, text in before.items() if not name.startswith(FOLDERS)}
    assert read(folder) == kept | {name: text for name, text in read(template).items() if name.startswith(FOLDERS)}


def test_only_the_server_and_its_tests_are_updated(mine: Path, template: Path) -> None:
    release(template)
    before, head = read(mine), git(mine, "rev-parse", "HEAD")
    done = update(mine, template)
    assert_updated(done, mine, template, before)
    assert git(mine, "rev-parse", "HEAD") == head  # the owner runs the tests first
    assert "  requirements.txt: uvloop==1.0\n  README.md: sdk_version: 6.1.0\n" in done.stdout
    assert "was version 0.1.0. Now it is version 0.2.0." in done.stdout
    assert ("Replays." in done.stdout, "The first version." in done.stdout) == (True, False)
    commit(mine, {})
    assert update(mine, template).stdout == "webhooks/ has the template's newest version already, 0.2.0.\n"


@pytest.mark.parametrize("source", ["upstream", "duplicated_from"])
def test_the_template_is_found(mine: Path, template: Path, tmp_path: Path, source: str) -> None:
    if source == "upstream":
        git(mine, "remote", "add", "upstream", str(template))
    else:
        commit(mine, {"README.md": "---\nduplicated_from: them/hooks\n---\nduplicated_from: no/body\n"})
    release(template)
    shutil.copytree(template, tmp_path / "hub" / "spaces" / "them" / "hooks")
    before = read(mine)
    assert_updated(update(mine, HF_ENDPOINT=f"file://{tmp_path}/hub"), mine, template, before)


def test_a_deleted_part_stays_deleted(mine: Path, template: Path) -> None:
    release(template)
    git(mine, "rm", "--quiet", "-r", "webhooks/dashboard", "webhooks/jobs.py")
    commit(mine, {})
    assert update(mine, template).returncode == 0
    found = {name for name in read(mine) if name.startswith("webhooks/")}
    assert found == {f"webhooks/{name}" for name in ("README.md", "__init__.py", "catch_up.py", "update.sh")}


@pytest.mark.parametrize("name", ["webhooks/old.py", "webhooks/extra.py", "tests/server/test_old.py"])
def test_an_edited_server_is_left_as_it_is(mine: Path, template: Path, name: str) -> None:
    release(template)
    (mine / name).write_text("mine")
    for is_committed in (False, True):
        if is_committed:
            commit(mine, {})
        before = read(mine)
        done = update(mine, template)
        assert (done.returncode, done.stdout, read(mine)) == (1, "", before)
        assert name in done.stderr


REFUSALS = {
    "no network": (["http://127.0.0.1:9/spaces/them/hooks"], "cannot be fetched"),
    "another repository": (["../other"], "is not a template"),
    "no address": ([], "webhooks/update.sh https://huggingface.co/spaces/OWNER/NAME"),
}


@pytest.mark.parametrize(("arguments", "reason"), REFUSALS.values(), ids=REFUSALS)
def test_without_a_template_nothing_changes(mine: Path, tmp_path: Path, arguments: list[str], reason: str) -> None:
    commit(new_repository(tmp_path / "other"), {"app.py": "other"})
    git(mine, "remote", "add", "origin", str(tmp_path / "other"))  # where git fetch goes without an address
    before = read(mine)
    done = update(mine, *arguments)
    assert (done.returncode, done.stdout, read(mine)) == (1, "", before)
    assert reason in done.stderr
