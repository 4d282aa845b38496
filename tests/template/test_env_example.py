"""`.env.example` lists every setting of the server and of app.py, with its default and an explanation."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any

from dotenv import dotenv_values
from support.processes import ROOT, clean_environment

from webhooks.settings import Settings, load_settings

TEXT = (ROOT / ".env.example").read_text(encoding="utf-8")
VALUES = {name: value or "" for name, value in dotenv_values(ROOT / ".env.example").items()}
SET_BY_THE_PLATFORM = {"SYSTEM", "SPACE_ID", "SPACE_HOST", "SPACE_AUTHOR_NAME", "OPENID_PROVIDER_URL"}
SET_BY_THE_PLATFORM |= {"OAUTH_CLIENT_ID", "OAUTH_CLIENT_SECRET", "OAUTH_SCOPES"}


def read_app_settings(**environment: str) -> dict[str, Any]:
    """Import app.py in a process of its own, without the file `.env`."""
    script = "import json, app; print('SETTINGS' + json.dumps(app.settings.model_dump()))"
    given = clean_environment(PYTHON_DOTENV_DISABLED="1", **environment)
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=given, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.partition("SETTINGS")[2])


def test_it_lists_every_setting_with_its_default() -> None:
    server = {name: field.default for name, field in Settings.model_fields.items()}
    defaults = {name.upper(): value for name, value in {**server, **read_app_settings()}.items()}
    assert VALUES.keys() == defaults.keys() - SET_BY_THE_PLATFORM
    for name, value in VALUES.items():
        default = "" if defaults[name] is None else str(defaults[name]).removesuffix(".0")
        assert value.lower() == default.lower(), name


def test_it_explains_each_setting_in_the_line_above() -> None:
    above = {name: line for line, name in re.findall(r"(.*)\n([A-Z_]+)=", TEXT)}
    assert above.keys() == VALUES.keys()
    assert [name for name, line in above.items() if not re.fullmatch(r"# \S+( \S+){2,}\.", line)] == []


def test_a_copy_to_env_changes_nothing() -> None:
    assert read_app_settings(**VALUES) == read_app_settings()
    assert load_settings(Settings, VALUES) == load_settings(Settings, {})
