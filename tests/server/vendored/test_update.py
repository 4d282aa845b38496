"""`webhooks/update.sh`: a newer version of the server for a repository whose app is its owner's, with real Git."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from support.git_server import git, new_repository
from support.processes import ROOT, clean_environment

import webhooks

pytestmark = [pytest.mark.long, pytest.mark.once]

Done = subprocess.CompletedProcess[str]
THEIRS = ("webhooks/", "tests/server/")

VERSION = '__version__ = "{}"\n'
README = "# The server\n\n## Changes\n\n{}## Licence\n\nNone.\n"
THIRD, SECOND, FIRST = "### 0.3.0\n\nRetries.\n\n", "### 0.2.0\n\nReplays.\n\n", "### 0.1.0\n\nThe first version.\n\n"


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


def commit(folder: Path, message: str) -> str:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", message)
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture
def template(tmp_path: Path) -> Path:
    """A template in its first version."""
    folder = new_repository(tmp_path / "template")
    write(
        folder,
        {
            "app.py": "theirs",
            "README.md": "---\nsdk_version: 6.0.0\n---\nTheirs\n",
            "requirements.txt": "gradio==6.0.0\n",
            "webhooks/__init__.py": VERSION.format("0.1.0"),
            "webhooks/README.md": README.format(FIRST),
            "webhooks/old.py": "goes",
            "tests/test_app.py": "theirs",
            "tests/server/test_old.py": "goes",
        },
    )
    shutil.copy(ROOT / "webhooks" / "update.sh", folder / "webhooks")
    commit(folder, "The first version")
    return folder


def release(template: Path) -> None:
    """Two more versions: files come, change and go, in the server and beside it."""
    version, changes = VERSION.format("0.2.0"), README.format(SECOND + FIRST)
    write(template, {"webhooks/__init__.py": version, "webhooks/README.md": changes})
    commit(template, "The second version")
    git(template, "tag", "between")
    (template / "webhooks/old.py").unlink()
    (template / "tests/server/test_old.py").unlink()
    write(
        template,
        {
            "app.py": "theirs, newer",
            "README.md": "---\nsdk_version: 6.1.0\n---\nTheirs\n",
            "requirements.txt": "gradio==6.1.0\nuvloop==1.0\n",
            "webhooks/__init__.py": VERSION.format("0.3.0"),
            "webhooks/README.md": README.format(THIRD + SECOND + FIRST),
            "webhooks/room/new.py": "comes",
            "tests/test_app.py": "theirs, newer",
            "tests/server/test_new.py": "comes",
        },
    )
    commit(template, "The third version")


@pytest.fixture
def mine(template: Path, tmp_path: Path) -> Path:
    """A duplicate: the template's files without its history, and an app of one's own."""
    folder = tmp_path / "mine"
    shutil.copytree(template, folder, ignore=shutil.ignore_patterns(".git"))
    git(folder, "init", "--quiet")
    commit(folder, "Duplicate")
    write(folder, {"app.py": "mine", "prompts.txt": "mine", "tests/test_mine.py": "mine"})
    write(folder, {"README.md": "---\nsdk_version: 6.0.0\n---\nMine\n"})
    (folder / "tests/test_app.py").unlink()
    commit(folder, "Make it mine")
    return folder


def update(folder: Path, *arguments: object, **environment: str) -> Done:
    command = ["bash", "webhooks/update.sh", *map(str, arguments)]
    given = clean_environment(**environment)
    return subprocess.run(command, cwd=folder, env=given, capture_output=True, text=True, timeout=60)


def files(folder: Path) -> dict[str, str]:
    paths = [path for path in folder.rglob("*") if path.is_file() and ".git" not in path.parts]
    return {str(path.relative_to(folder)): path.read_text(encoding="utf-8") for path in paths}


def theirs(folder: Path) -> dict[str, str]:
    return {name: text for name, text in files(folder).items() if name.startswith(THEIRS)}


def assert_updated(done: Done, folder: Path, template: Path, before: dict[str, str]) -> None:
    assert (done.returncode, done.stderr) == (0, "")
    kept = {name: text for name, text in before.items() if not name.startswith(THEIRS)}
    assert files(folder) == kept | theirs(template)


def test_a_duplicate_with_an_app_of_its_own_gets_the_server_and_its_tests_alone(mine: Path, template: Path) -> None:
    release(template)
    before, head = files(mine), git(mine, "rev-parse", "HEAD")
    done = update(mine, template)
    assert_updated(done, mine, template, before)
    assert git(mine, "rev-parse", "HEAD") == head  # to be tested first
    commit(mine, "Update")
    assert git(mine, "status", "--porcelain") == ""


def test_it_says_what_has_changed_and_what_is_left_to_do(mine: Path, template: Path) -> None:
    release(template)
    said = update(mine, template).stdout
    assert "webhooks/ was version 0.1.0 and is 0.3.0 now. What has changed:" in said
    assert "Retries." in said
    assert "Replays." in said
    assert "The first version." not in said
    assert "Licence" not in said
    for line in ("requirements.txt: gradio==6.1.0", "requirements.txt: uvloop==1.0", "README.md: sdk_version: 6.1.0"):
        assert f"  {line}\n" in said
    assert "git commit" in said


def test_a_fork_is_updated_over_its_upstream(template: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "--quiet", "--origin", "upstream", str(template), "fork")
    fork = tmp_path / "fork"
    write(fork, {"app.py": "mine"})
    commit(fork, "Make it mine")
    release(template)
    before = files(fork)
    assert_updated(update(fork), fork, template, before)


def test_an_older_duplicate_knows_where_it_comes_from(mine: Path, template: Path, tmp_path: Path) -> None:
    write(mine, {"README.md": "---\nsdk: gradio\nduplicated_from: them/hooks\n---\nduplicated_from: no/body\n"})
    commit(mine, "Edit the README")
    release(template)
    shutil.copytree(template, tmp_path / "hub" / "spaces" / "them" / "hooks")
    before = files(mine)
    assert_updated(update(mine, HF_ENDPOINT=f"file://{tmp_path}/hub"), mine, template, before)


def test_the_second_time_there_is_nothing_to_do(mine: Path, template: Path) -> None:
    release(template)
    update(mine, template)
    commit(mine, "Update")
    done = update(mine, template)
    assert (done.returncode, done.stdout) == (0, "webhooks/ is the template's newest version already, 0.3.0.\n")


def test_from_any_version_in_between(mine: Path, template: Path) -> None:
    release(template)
    git(mine, "fetch", "--quiet", str(template), "between")
    git(mine, "checkout", "FETCH_HEAD", "--", "webhooks", "tests/server")
    commit(mine, "Update to the second version")
    before = files(mine)
    done = update(mine, template)
    assert_updated(done, mine, template, before)
    assert "Replays." not in done.stdout


def assert_nothing_changed(done: Done, folder: Path, before: dict[str, str]) -> None:
    assert (done.returncode, done.stdout) == (1, "")
    assert files(folder) == before


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("webhooks/old.py", "mine"),
        ("webhooks/extra.py", "mine"),
        ("webhooks/old.py", None),
        ("tests/server/test_old.py", "mine"),
    ],
)
def test_a_changed_server_is_left_as_it_is_and_the_files_are_named(
    mine: Path, template: Path, name: str, text: str | None
) -> None:
    release(template)
    if text is None:
        (mine / name).unlink()
    else:
        write(mine, {name: text})
    commit(mine, "Change the server")
    before = files(mine)
    done = update(mine, template)
    assert_nothing_changed(done, mine, before)
    assert f"\n{name}\n" in done.stderr
    assert "test_new.py" not in done.stderr  # compared with the version that it comes from, not with the newest
    by_hand = re.search(r"git checkout \w+ -- webhooks tests/server", done.stderr)
    assert by_hand
    subprocess.run(by_hand[0].split(), cwd=mine, check=True)
    assert theirs(template).items() <= files(mine).items()


def test_what_is_not_committed_is_left_as_it_is(mine: Path, template: Path) -> None:
    release(template)
    write(mine, {"webhooks/extra.py": "mine", "webhooks/__pycache__/extra.pyc": "compiled"})
    before = files(mine)
    done = update(mine, template)
    assert_nothing_changed(done, mine, before)
    assert "webhooks/extra.py" in done.stderr
    assert "__pycache__" not in done.stderr


def test_compiled_files_are_not_in_the_way(mine: Path, template: Path) -> None:
    release(template)
    write(mine, {"webhooks/__pycache__/old.pyc": "compiled"})
    assert update(mine, template).returncode == 0


def test_without_a_network_nothing_changes(mine: Path) -> None:
    before = files(mine)
    done = update(mine, "http://127.0.0.1:9/spaces/them/hooks")
    assert_nothing_changed(done, mine, before)
    assert "http://127.0.0.1:9/spaces/them/hooks cannot be fetched:" in done.stderr
    assert "Nothing was changed." in done.stderr


def test_another_repository_is_no_template(mine: Path, tmp_path: Path) -> None:
    other = new_repository(tmp_path / "other")
    write(other, {"app.py": "other"})
    commit(other, "Another app")
    before = files(mine)
    done = update(mine, other)
    assert_nothing_changed(done, mine, before)
    assert "is no template" in done.stderr


def test_who_does_not_know_where_the_template_is_is_asked(mine: Path) -> None:
    done = update(mine)
    assert done.returncode == 1
    assert "webhooks/update.sh https://huggingface.co/spaces/OWNER/NAME" in done.stderr


def test_a_folder_of_tests_that_was_deleted_stays_deleted(mine: Path, template: Path) -> None:
    git(mine, "rm", "--quiet", "-r", "tests/server")
    commit(mine, "Trust the server")
    release(template)
    assert update(mine, template).returncode == 0
    assert not (mine / "tests" / "server").exists()
    assert (mine / "webhooks" / "room" / "new.py").exists()


# --- what the folder says of itself


def test_the_readme_of_the_folder_names_its_version_and_what_changed_in_it() -> None:
    text = (ROOT / "webhooks" / "README.md").read_text(encoding="utf-8")
    assert text.startswith(f"# The webhook server, version {webhooks.__version__}\n")
    assert f"\n### {webhooks.__version__}\n" in text.partition("\n## Changes\n")[2]


def test_the_tour_leads_past_every_file() -> None:
    text = (ROOT / "webhooks" / "README.md").read_text(encoding="utf-8")
    tour = text.partition("\n## A tour")[2].partition("\n## Changes")[0]
    folder = ROOT / "webhooks"
    files = [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    there = {path.relative_to(folder).as_posix() for path in files if path.name not in ("README.md", "__init__.py")}
    named, room = [], ""
    for line in tour.splitlines():
        if line.startswith("**"):  # a heading, with the folder that the files below it are in, or with a file
            names = re.findall(r"`(.*?)`", line)
            room = next((name for name in names if name.endswith("/")), "")
            named += [name for name in names if name.endswith(".py")]
        elif line.startswith("| "):
            named += [room + name for name in re.findall(r"`(.*?)`", line.split("|")[1])]
    assert sorted(named) == sorted(there)  # each of them once
