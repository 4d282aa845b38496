"""Each recipe does what it says, and does not start itself. Its calls to the Hub meet stand-ins."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import Mock

import httpx
import pytest
from support.hub import Hub
from support.processes import ROOT, Run

from webhooks import Delivery, WebhookPayload
from webhooks.testing import event, serving

# What the file that a recipe is copied into has already.
HEADER = """\
from webhooks import Delivery, WebhookPayload, WebhooksServer

server = WebhooksServer()
"""
TEXT = (ROOT / "webhooks" / "RECIPES.md").read_text(encoding="utf-8")
BLOCKS = {
    re.findall(r"^(?:async )?def (\w+)", block, re.M)[0]: block
    for block in re.findall(r"^```python\n(.*?)^```", TEXT, re.M | re.S)
}
BOT = SimpleNamespace(id="b" * 24, name="helper")
SPACE = "me/hooks"
LINK = "https://huggingface.co/acme/model/discussions/5#" + "c" * 24
COMMENT: dict[str, Any] = {"id": "c" * 24, "content": f"Which format, @{BOT.name}?", "url": {"web": LINK}}
Recipe = Callable[[str], ModuleType]


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """Import a recipe as a module."""
    environment = {"SPACE_ID": SPACE, "SPACE_HOST": "me-hooks.hf.space, me.org", "WEBHOOK_SECRET": "s3cret"}
    for name, value in {**environment, "CHAT_WEBHOOK_URL": "https://chat.example/services/x9Lq0aXk"}.items():
        monkeypatch.setenv(name, value)

    def load(name: str) -> ModuleType:
        path = tmp_path / f"recipe_{name}.py"
        path.write_text(HEADER + BLOCKS[name], encoding="utf-8")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, path.stem, module)  # where FastAPI looks up annotations
        spec.loader.exec_module(module)
        if hasattr(module, "whoami"):
            monkeypatch.setattr(module, "whoami", lambda **_: vars(BOT))
        return module

    return load


def send(recipe: ModuleType, handler: str, *payloads: Any) -> list[Any]:
    """Deliver each event and return the results. Wait for each before the next one."""
    with serving(recipe.server) as client:
        return [client.deliver(handler, payload).outcome.result for payload in payloads]


def test_each_recipe_has_a_test() -> None:
    handlers = ["answer_mention", "review_model_card", "announce_discussion"]
    assert list(BLOCKS) == [*handlers, "report_to_chat", "report_in_discussion", "send"]


def test_a_mention_is_answered_once(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    module, thread = recipe("answer_mention"), Mock(events=[])

    def comment(repo: str, num: int, text: str, **_: Any) -> None:
        thread.events.append(SimpleNamespace(author=BOT.name, content=text))

    monkeypatch.setattr(module, "get_discussion_details", lambda *_, **__: thread)
    monkeypatch.setattr(module, "comment_discussion", comment)
    mention = event("comment", "model", "acme/model", comment=COMMENT)
    send(module, "answer_mention", mention, mention)
    (answer,) = thread.events
    assert LINK in answer.content
    assert "@" not in answer.content  # so that two bots do not answer each other


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        pytest.param("comment", COMMENT | {"author": {"id": BOT.id}}, id="its own comment"),
        pytest.param("comment", COMMENT | {"content": f"@{BOT.name}-2"}, id="another name"),
        pytest.param("comment_hidden", {}, id="a hidden comment"),
    ],
)
def test_other_comments_are_skipped(recipe: Recipe, kind: str, changes: dict[str, Any]) -> None:
    payload = event(kind, "model", "acme/model", comment=changes)  # a call of the Hub would fail
    assert "skipped" in send(recipe("answer_mention"), "answer_mention", payload)[0]


def test_an_incomplete_card_gets_one_pull_request(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    module = recipe("review_model_card")
    pulls: list[SimpleNamespace] = []

    def propose(model: str, missing: dict[str, str], *, create_pr: bool, commit_message: str) -> SimpleNamespace:
        assert (model, missing, create_pr) == ("acme/model", {"license": "apache-2.0"}, True)
        pulls.append(SimpleNamespace(title=commit_message, status="open", pr_url=LINK))
        return pulls[-1]

    monkeypatch.setattr(module, "model_info", lambda _: SimpleNamespace(card_data=None))
    monkeypatch.setattr(module, "get_repo_discussions", lambda *_, **__: pulls)
    monkeypatch.setattr(module, "metadata_update", propose)
    commit = event("commit", "model", "acme/model")
    assert send(module, "review_model_card", commit, commit)[0] == {"pull_request": LINK}
    pulls[0].status = "closed"  # the owner of the model does not want it
    send(module, "review_model_card", commit)
    assert len(pulls) == 1


@pytest.mark.parametrize("kind", ["pull_request", "pull_request_commit", "pull_request_merged", "tag"])
def test_its_own_pull_request_is_skipped(recipe: Recipe, kind: str) -> None:
    payload = event(kind, "model", "acme/model")
    assert "skipped" in send(recipe("review_model_card"), "review_model_card", payload)[0]


def test_a_chat_gets_a_link_and_no_text_of_strangers(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    module = recipe("announce_discussion")
    posts = Mock(side_effect=[SimpleNamespace(is_success=False, status_code=500), SimpleNamespace(is_success=True)])
    monkeypatch.setattr(module, "httpx", SimpleNamespace(post=posts))
    payload = event("comment", "model", "acme/model", comment=COMMENT | {"content": "<!channel> evil"})
    with serving(module.server) as client:
        outcome = client.deliver("announce_discussion", payload).outcome
    assert (outcome.status, outcome.attempts) == ("succeeded", 2)
    assert posts.call_args.kwargs["json"] == {"text": f"New in the model acme/model: {LINK}"}
    assert not [error for error in outcome.errors if "x9Lq0aXk" in error]  # the address is a secret


def fail(recipe: ModuleType) -> str | None:
    """Let a handler fail, and return the delivery's id once the failure is reported."""

    @recipe.server.add_webhook
    def train(payload: WebhookPayload) -> None:
        raise ValueError(payload.repo.name)

    with serving(recipe.server) as client:
        sent = client.deliver("train", event("commit", "dataset", "acme/private"))
        assert sent.outcome.status == "failed"
    return sent.id


def test_a_chat_gets_the_address_of_a_failure(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    module, post = recipe("report_to_chat"), Mock()
    monkeypatch.setattr(module, "httpx", SimpleNamespace(post=post))
    address = f"https://me-hooks.hf.space/deliveries/{fail(module)}"
    assert post.call_args.kwargs["json"] == {"text": f"/webhooks/train has failed: {address}"}


def test_failures_go_to_one_discussion_without_payload(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    module, create, comment = recipe("report_in_discussion"), Mock(), Mock()
    opened: list[SimpleNamespace] = []
    monkeypatch.setattr(module, "create_discussion", create)
    monkeypatch.setattr(module, "comment_discussion", comment)
    monkeypatch.setattr(module, "get_repo_discussions", lambda *_, **__: opened)
    text = f"`/webhooks/train` has failed. The owner finds the reason under delivery `{fail(module)}`."
    create.assert_called_once_with(SPACE, module.FAILURES, description=text, repo_type="space")
    opened.append(SimpleNamespace(title=module.FAILURES, num=1))
    module.report_in_discussion(Delivery("/webhooks/train", None), "ValueError")
    about_itself = event("discussion", "space", SPACE)  # whose report could cause the next failure
    module.report_in_discussion(Delivery("/webhooks/train", about_itself), "ValueError")
    comment.assert_called_once()


def test_only_the_owner_on_the_own_page_sends_the_form(serve: Run) -> None:
    with Hub() as hub:
        app = serve(BLOCKS["send"], **hub.space(), WEBHOOK_SECRET="s3cret", HF_ENDPOINT=hub.url)

        def send(user: str, origin: str) -> str:
            hub.add_user(user)
            hub.signed_in = user
            begun = httpx.get(f"{app.url}/login/huggingface")
            back = httpx.URL(httpx.get(begun.headers["location"]).headers["location"]).raw_path.decode()
            signed_in = httpx.get(app.url + back, headers={"Cookie": begun.headers["set-cookie"].partition(";")[0]})
            headers = {"Cookie": signed_in.headers["set-cookie"].partition(";")[0], "Origin": origin}
            call = f"{app.url}/gradio_api/call/send"
            sent = httpx.post(call, json={"data": ["acme/model"]}, headers=headers).json()
            return httpx.get(f"{call}/{sent['event_id']}").text

        assert "(deliveries/" in send("me", "https://me-hooks.hf.space")
        assert "Only the owner" in send("stranger", "https://me-hooks.hf.space")
        assert "another site" in send("me", "https://evil.example")
        assert sum(httpx.get(f"{app.url}/health").json().values()) == 1
