"""What `.env.example` says about the settings, of the server and of app.py, is true."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from typing import Any

import pytest
from dotenv import dotenv_values
from pydantic import BaseModel
from support.processes import ROOT, clean_environment

from webhooks import SetupError, read_settings
from webhooks.settings import Settings

pytestmark = pytest.mark.once

SET_BY_THE_PLATFORM = {
    "SYSTEM",
    "SPACE_ID",
    "SPACE_HOST",
    "SPACE_AUTHOR_NAME",
    "OAUTH_CLIENT_ID",
    "OAUTH_CLIENT_SECRET",
    "OAUTH_SCOPES",
    "OPENID_PROVIDER_URL",
}


@pytest.fixture
def app_settings(monkeypatch: pytest.MonkeyPatch) -> type[BaseModel]:
    """The settings of app.py, imported as a fresh checkout would import it: no variables, no .env."""
    for name in os.environ.keys() - clean_environment().keys():
        monkeypatch.delenv(name)
    monkeypatch.setenv("PYTHON_DOTENV_DISABLED", "1")
    spec = importlib.util.spec_from_file_location("app_as_checked_out", ROOT / "app.py")
    assert spec is not None
    assert spec.loader is not None
    app = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, app)
    spec.loader.exec_module(app)
    return type(app.settings)


def documented() -> list[tuple[str, str, str]]:
    """Read .env.example: each setting with its default and the line above it."""
    lines = (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()
    found = []
    for above, line in zip(["", *lines], lines, strict=False):
        if setting := re.fullmatch(r"(?:# ?)?([A-Z][A-Z0-9_]*)=(.*)", line):
            found.append((setting[1], setting[2].strip(), above))
    return found


def defaults(*models: type[BaseModel]) -> dict[str, str]:
    def written(value: Any) -> str:
        return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)

    fields = [item for model in models for item in model.model_fields.items()]
    return {name.upper(): written(field.default) for name, field in fields}


def test_env_example_names_every_setting_once_and_no_other(app_settings: type[BaseModel]) -> None:
    names = [name for name, _, _ in documented()]
    assert sorted(names) == sorted(defaults(Settings, app_settings).keys() - SET_BY_THE_PLATFORM)


def test_env_example_gives_the_default_of_every_setting(app_settings: type[BaseModel]) -> None:
    expected = defaults(Settings, app_settings)
    given = {name: value.strip("\"'") for name, value, _ in documented()}
    assert given
    for name, value in given.items():
        assert (value.lower() if expected[name] in ("true", "false") else value) == expected[name], name


def test_env_example_explains_every_setting_in_the_line_above() -> None:
    settings = documented()
    assert settings
    unexplained = [name for name, _, above in settings if not re.fullmatch(r"# \S+( \S+){2,}\.", above)]
    assert unexplained == []


def test_env_example_copied_to_env_changes_nothing(app_settings: type[BaseModel]) -> None:
    copied = {name: value or "" for name, value in dotenv_values(ROOT / ".env.example").items()}
    for model in (Settings, app_settings):
        assert read_settings(model, copied) == read_settings(model, {})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TRAINING_DATASET", "my-dataset"),
        ("TRAINING_DATASET", "me/data --push"),
        ("BASE_MODEL", "https://huggingface.co/Qwen/Qwen3-0.6B"),
        ("TRAINED_MODEL", "me/model,revision=main"),
        ("TRAINING_TIMEOUT", "2 hours"),
        ("TRAINING_TIMEOUT", "7200"),
        ("EVALUATION_TIMEOUT", "h"),
    ],
)
def test_a_setting_of_the_app_that_no_job_could_use_is_refused(
    app_settings: type[BaseModel], name: str, value: str
) -> None:
    with pytest.raises(SetupError, match=f"^{name} is wrong: "):
        read_settings(app_settings, {name: value})
