"""What the template promises of its files, and what has to go together in them."""

from __future__ import annotations

import subprocess

import pytest
from support.processes import ROOT

pytestmark = pytest.mark.once


def test_the_only_file_most_users_edit_is_about_a_hundred_lines() -> None:
    assert len((ROOT / "app.py").read_text(encoding="utf-8").splitlines()) <= 110


def test_the_users_test_file_is_about_a_hundred_lines() -> None:
    assert len((ROOT / "tests" / "test_app.py").read_text(encoding="utf-8").splitlines()) <= 100


def test_the_repository_holds_text_only() -> None:
    """The Hub refuses binary files in a plain git push."""
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, files.split("\0")):
        (ROOT / name).read_text(encoding="utf-8")


def test_the_front_matter_and_the_requirements_name_the_same_gradio() -> None:
    """The builder installs the front matter's version beside requirements.txt: two different ones do not build."""
    front_matter = (ROOT / "README.md").read_text(encoding="utf-8").split("---")[1]
    version = next(line.split(": ")[1] for line in front_matter.splitlines() if line.startswith("sdk_version: "))
    requirements = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert f"gradio[oauth]=={version}" in requirements
