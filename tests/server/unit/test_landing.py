"""The landing page in words: the steps of the set-up, and the command of each endpoint."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.dashboard import PagesHarness, arrived

import webhooks.settings
from webhooks import landing
from webhooks.settings import Settings, load_settings
from webhooks.watched import read_watched

pytestmark = pytest.mark.long  # importing Gradio takes seconds

SPACE = {"space_id": "me/hooks"}
OWN = "dataset:me/data"


@dataclass
class Step:
    is_done: bool
    title: str
    text: str


def settings(**environ: str) -> Settings:
    return load_settings(Settings, {name.upper(): value for name, value in environ.items()})


def top(given: Settings, watched: Any = OWN, is_reachable: bool = True, needs_no_webhook: bool = False) -> str:
    return str(landing.html_parts().top(given, read_watched(watched), True, is_reachable, needs_no_webhook))


def steps(given: Settings, **options: Any) -> list[Step]:
    page = top(given, **options)
    pattern = r'<li class="(\w+)".*?><div class="mark"></div><div><b>(.*?)</b><span>(.*?)</span></div></li>'
    found = [Step(state == "done", title, text) for state, title, text in re.findall(pattern, page, re.S)]
    assert f"<b>{sum(step.is_done for step in found)} of 5 done</b>" in page
    assert len(found) == 5
    return found


@pytest.mark.parametrize(
    ("environ", "options", "done"),
    [
        ({}, {}, [2]),
        ({}, {"is_reachable": False, "needs_no_webhook": True}, [1, 2, 4]),
        ({"webhook_secret": "s"}, {}, [1, 2]),
        ({"webhook_secret": "s"}, {"watched": ["model:me/x", "dataset:username/my-dataset"]}, [1]),
        ({"hf_token": "t"}, {}, [2, 5]),
        (SPACE, {}, [2]),
        ({**SPACE, "webhook_secret": "s", "hf_token": "t"}, {}, [1, 2]),
    ],
)
def test_step_is_done_once_its_setting_is_there(
    environ: dict[str, str], options: dict[str, Any], done: list[int]
) -> None:
    assert [place for place, step in enumerate(steps(settings(**environ), **options), 1) if step.is_done] == done


def test_space_without_a_bucket_is_told_to_attach_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    space = settings(**SPACE, hf_token="t")
    monkeypatch.setattr(webhooks.settings, "BUCKET", tmp_path / "data")
    missing = steps(space)[4]
    assert not missing.is_done
    assert "a restart loses what waits or runs" in missing.text
    assert "hf spaces volumes set me/hooks -v hf://buckets/&lt;you&gt;/hooks:/data" in missing.text
    (tmp_path / "data").mkdir()
    assert steps(space)[4].is_done


def test_public_address_without_a_secret_is_warned_of() -> None:
    assert "503" in steps(settings(**SPACE))[0].text
    assert "Not receiving yet" in top(settings(**SPACE))
    for environ in ({}, {**SPACE, "webhooks_allow_unauthenticated": "true"}):
        warning = steps(settings(**environ))[0]
        assert "others reach this server" in warning.title
        assert "Anyone who knows the address can run the handlers. Jobs stay dry runs" in warning.text
        assert "Open to everyone" in top(settings(**environ))
    assert "Open to everyone" not in top(settings(), is_reachable=False)


@pytest.mark.parametrize(("source", "from_hub"), [(None, True), ("code", False), ("catch_up", False)])
def test_only_a_request_completes_the_webhooks(source: str | None, from_hub: bool) -> None:
    pages = PagesHarness()
    pages.put(arrived(source=source))
    answer: Any = landing.arrivals(pages.engine).endpoint(None)
    assert json.loads(answer.body)["from_hub"] is from_hub
    pages.close()
