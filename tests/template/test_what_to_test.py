"""`.github/what-to-test.sh`: quick tests where only what users edit has changed, else everything; with real Git."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from support.git_server import git, new_repository
from support.processes import ROOT, clean_environment

pytestmark = pytest.mark.once

SCRIPT = ROOT / ".github" / "what-to-test.sh"
README = '---\ntitle: Hooks\nsdk_version: 6.31.0\npython_version: "{}"\n---\n{}\n'
QUICK = {"tests": "quick", "marks": "not long", "pythons": ["3.12"]}
EVERYTHING = {"tests": "everything", "marks": "", "pythons": ["3.10", "3.11", "3.12", "3.13"]}


@pytest.fixture
def here(tmp_path: Path) -> Path:
    folder = new_repository(tmp_path / "here")
    files = ("app.py", ".env.example", "requirements.txt", "webhooks/server.py", "tests/test_app.py", "tests/x.py")
    for name in files:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("as it was")
    (folder / "README.md").write_text(README.format("3.12", "As it was"))
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "Start")
    return folder


def commit(folder: Path, *names: str, message: str = "Edit", text: str = "edited") -> str:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(README.format("3.12", text) if name == "README.md" else text)
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", message)
    return git(folder, "rev-parse", "HEAD")


def decide(folder: Path, base: str, **environment: str) -> dict[str, object]:
    done = subprocess.run(
        [SCRIPT, base], cwd=folder, env=clean_environment(**environment), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith(("The quick tests are enough", "Everything is tested: "))
    outputs = dict(line.split("=", 1) for line in done.stdout.splitlines())
    return {**outputs, "pythons": json.loads(outputs["pythons"])}


@pytest.mark.parametrize(
    ("names", "decision"),
    [
        (["app.py"], QUICK),
        (["tests/test_app.py"], QUICK),
        (["tests/test_mine.py"], QUICK),
        ([".env.example"], QUICK),
        (["README.md"], QUICK),
        (["app.py", "tests/test_app.py", ".env.example", "README.md"], QUICK),
        (["webhooks/server.py"], EVERYTHING),
        (["app.py", "webhooks/server.py"], EVERYTHING),
        (["requirements.txt"], EVERYTHING),
        (["tests/requirements.txt"], EVERYTHING),
        (["tests/server/test_app.py"], EVERYTHING),
        (["tests/server/app.py"], EVERYTHING),
        (["webhooks/README.md"], EVERYTHING),
        ([".github/workflows/ci.yml"], EVERYTHING),
        (["pyproject.toml"], EVERYTHING),
        (["app.pyc"], EVERYTHING),
        (["my-app.py"], EVERYTHING),
        (["xapp.py"], EVERYTHING),
        (["env.example"], EVERYTHING),
        (["with space/app.py"], EVERYTHING),
        (["älter/app.py"], EVERYTHING),
    ],
)
def test_what_has_changed_decides(here: Path, names: list[str], decision: object) -> None:
    base = git(here, "rev-parse", "HEAD")
    commit(here, *names)
    assert decide(here, base) == decision


def test_all_commits_since_the_one_that_has_passed_decide(here: Path) -> None:
    """The last push touches app.py alone; the one before has failed, or its run was replaced."""
    passed = git(here, "rev-parse", "HEAD")
    pushed_before = commit(here, "webhooks/server.py")
    commit(here, "app.py")
    assert decide(here, passed) == EVERYTHING
    assert decide(here, pushed_before) == QUICK


def test_where_nothing_has_changed_the_quick_tests_are_enough(here: Path) -> None:
    assert decide(here, git(here, "rev-parse", "HEAD")) == QUICK


@pytest.mark.parametrize(("old", "new"), [("webhooks/server.py", "app.py"), ("app.py", "webhooks/app.py")])
def test_a_file_that_was_moved_counts_where_it_was_and_where_it_is(here: Path, old: str, new: str) -> None:
    base = git(here, "rev-parse", "HEAD")
    git(here, "mv", "--force", old, new)
    git(here, "commit", "--quiet", "--message", "Move")
    assert decide(here, base) == EVERYTHING


def test_a_file_that_was_deleted_counts(here: Path) -> None:
    base = git(here, "rev-parse", "HEAD")
    git(here, "rm", "--quiet", "tests/test_app.py")
    git(here, "commit", "--quiet", "--message", "Delete")
    assert decide(here, base) == QUICK
    git(here, "rm", "--quiet", "webhooks/server.py")
    git(here, "commit", "--quiet", "--message", "Delete")
    assert decide(here, base) == EVERYTHING


@pytest.mark.parametrize(
    "readme",
    [
        README.format("3.13", "As it was"),
        README.format("3.12", "As it was").replace("6.31.0", "6.32.0"),
        README.format("3.12", "As it was").replace("title", "app_file: other.py\ntitle"),
    ],
)
def test_another_python_gradio_or_app_in_the_front_matter_is_tested_with_everything(here: Path, readme: str) -> None:
    base = git(here, "rev-parse", "HEAD")
    (here / "README.md").write_text(readme)
    git(here, "commit", "--quiet", "--all", "--message", "Edit")
    assert decide(here, base) == EVERYTHING


def test_a_first_push_is_tested_with_everything(here: Path) -> None:
    assert decide(here, "") == EVERYTHING
    assert decide(here, "0" * 40) == EVERYTHING


def test_a_force_push_is_tested_with_everything(here: Path) -> None:
    replaced = commit(here, "app.py")
    git(here, "reset", "--quiet", "--hard", "HEAD~1")
    commit(here, "app.py", text="edited otherwise")
    assert decide(here, replaced) == EVERYTHING


def test_a_merge_is_judged_by_what_it_brings(here: Path) -> None:
    base = git(here, "rev-parse", "HEAD")
    git(here, "checkout", "--quiet", "-b", "topic")
    commit(here, "app.py")
    git(here, "checkout", "--quiet", "main")
    git(here, "merge", "--quiet", "--no-ff", "--message", "Merge pull request #7 from me/topic", "topic")
    assert decide(here, base) == QUICK


def test_a_merge_of_bring_back_is_tested_with_everything(here: Path) -> None:
    base = git(here, "rev-parse", "HEAD")
    git(here, "checkout", "--quiet", "-b", "space-edits")
    commit(here, "app.py", message="Update app.py")
    assert decide(here, base, GITHUB_HEAD_REF="space-edits") == EVERYTHING
    git(here, "checkout", "--quiet", "main")
    git(here, "merge", "--quiet", "--no-ff", "--message", "Merge pull request #8 from me/space-edits", "space-edits")
    assert decide(here, base) == EVERYTHING


def test_a_squashed_bring_back_is_tested_with_everything(here: Path) -> None:
    base = git(here, "rev-parse", "HEAD")
    commit(here, "app.py", message="Bring back 2 commits from the Space (#9)")
    assert decide(here, base) == EVERYTHING


def test_the_spaces_python_is_the_one_of_the_front_matter(here: Path) -> None:
    base = git(here, "rev-parse", "HEAD")
    commit(here, "app.py")
    for line, python in (
        ("python_version: 3.13", "3.13"),
        ("python_version: '3.11'", "3.11"),
        ("license: mit", "3.10"),
    ):
        (here / "README.md").write_text(f"---\n{line}\n---\npython_version: 2.7\n")  # the Hub's default is 3.10
        assert decide(here, base)["pythons"] == [python]
