"""The README's recipes, pasted into app.py as it says there, in a server that meets a Hub and a chat."""

from __future__ import annotations

import json
import queue
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import Any

import httpx
import pytest
from support.hub import Hub
from support.payloads import load
from support.processes import ROOT, Process
from support.repos import Discussion, Repo, object_id

pytestmark = pytest.mark.once

SECTION = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n## Recipes\n")[2].partition("\n## ")[0]
RECIPES = {
    re.findall(r"^def (\w+)", block, re.M)[0]: block
    for block in re.findall(r"^```python\n(.*?)^```", SECTION, re.M | re.S)
}
BOT = "helper"
CHAT_SECRET = "T024/B48/x9Lq0aXk"
TITLE = "Complete the metadata of the model card"
CARD = "---\nlanguage: en\ntags:\n- tiny\n---\n# A model\n\nIt does little.\n"
LICENSED = CARD.replace("language", "license: mit\nlanguage")


class Chat:
    """A chat with an incoming webhook. It refuses as many messages as `refuse` says."""

    def __init__(self) -> None:
        self.arrived: queue.Queue[tuple[str, Any]] = queue.Queue()
        self.refuse = 0
        chat = self

        class Incoming(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                chat.arrived.put((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
                chat.refuse, refused = max(0, chat.refuse - 1), chat.refuse > 0
                self.send_response(500 if refused else 200)
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Incoming)
        self.url = f"http://127.0.0.1:{self._server.server_port}/services/{CHAT_SECRET}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with Hub() as hub:
        hub.add_user(BOT)
        hub.add_token("hf_helper", BOT, scopes={"discussions"})
        yield hub
        assert hub.unknown == []


@pytest.fixture(scope="module")
def chat() -> Iterator[Chat]:
    chat = Chat()
    yield chat
    chat.close()


@pytest.fixture(scope="module")
def app(hub: Hub, chat: Chat, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """app.py with every recipe above its last two lines, and an environment with nothing but what the README names."""
    above, main, below = (ROOT / "app.py").read_text(encoding="utf-8").partition('if __name__ == "__main__":')
    recipes = "\n\n".join(RECIPES.values()).replace("debounce=60", "debounce=0.1")
    script = tmp_path_factory.mktemp("recipes") / "app.py"
    script.write_text(f"{above}{recipes}\n\n{main}{below}", encoding="utf-8")
    cache = str(script.parent / "cache")
    needs = {"HF_ENDPOINT": hub.url, "HF_HOME": cache, "HF_TOKEN": "hf_helper", "CHAT_WEBHOOK_URL": chat.url}
    process = Process(script, needs)
    yield process.wait_until_ready()
    process.stop()


@pytest.fixture
def repo(hub: Hub) -> Repo:
    """A model that no other test has touched, without a license."""
    return hub.add_repo("model", f"username/model-{next(_numbers)}", {"README.md": CARD})


_numbers = count(1)


def event(repo: Repo, fixture: str, **comment: Any) -> dict[str, Any]:
    """A fixture as an event of this repository; further arguments change its comment."""
    payload = load(fixture)
    payload["repo"] |= {"type": repo.kind, "name": repo.name}
    if comment:
        payload["comment"] |= comment
        payload["discussion"]["num"] = 1
    return payload


def wait_for_success(app: Process, answer: httpx.Response, attempt: int) -> None:
    line = ""
    while "succeeded" not in line:
        line = app.wait_for(f"delivery {answer.headers['X-Delivery-Id']}:", timeout=20)
    assert f"attempt {attempt}:" in line


def test_each_recipe_is_at_most_fifteen_lines_of_code() -> None:
    lines = {name: [line for line in recipe.splitlines() if line.strip()] for name, recipe in RECIPES.items()}
    assert list(lines) == ["answer_mention", "review_model_card", "notify_chat"]
    assert all(len(code) <= 15 for code in lines.values())


@pytest.mark.parametrize("name", RECIPES)
def test_each_recipe_imports_all_that_app_py_does_not_have(name: str) -> None:
    known = 'builtins = ["server", "WebhookPayload"]'
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select=F", "--config", known, "-"]
    done = subprocess.run(command, input=RECIPES[name], text=True, capture_output=True)
    assert done.returncode == 0, done.stdout


def test_an_app_py_with_all_of_them_passes_the_lint_that_decides_about_the_sync() -> None:
    command = [sys.executable, "-m", "ruff", "check", "--stdin-filename", "app.py", "-"]
    beginning = "from webhooks import WebhookPayload, WebhooksServer\n\nserver = WebhooksServer()\n\n\n"
    app = beginning + "\n\n".join(RECIPES.values())
    done = subprocess.run(command, input=app, text=True, capture_output=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout


# --- the bot that answers when it is mentioned


@pytest.fixture
def thread(repo: Repo) -> Discussion:
    return repo.open("somebody", "Which prompt format?")


def texts(thread: Discussion) -> list[str]:
    """What the bot has written."""
    comments = [event for event in thread.events if event["type"] == "comment"]
    return [comment["data"]["latest"]["raw"] for comment in comments if comment["author"]["name"] == BOT]


NEW_COMMENT = "discussion.comment-create"


@pytest.mark.parametrize("fixture", [NEW_COMMENT, "discussion-create"])
@pytest.mark.parametrize("kind", ["model", "dataset", "space"])
def test_a_comment_that_mentions_the_bot_is_answered_once(
    hub: Hub, app: Process, fixture: str, kind: str, repo: Repo
) -> None:
    thread = hub.add_repo(kind, repo.name).open("somebody", "Which prompt format?")
    payload = event(hub.repos[kind, repo.name], fixture, content=f"Hello @{BOT}, which one?")
    for _ in range(2):
        assert app.post("answer_mention", payload).status_code == 200
    (text,) = texts(thread)
    assert payload["comment"]["url"]["web"] in text


def test_each_comment_in_a_discussion_is_answered_also_in_a_closed_one(
    app: Process, repo: Repo, thread: Discussion
) -> None:
    thread.close(BOT)  # an event of another kind, among those the bot looks through
    for number in range(2):
        url = {"web": f"https://huggingface.co/{repo.name}/discussions/1#{number:024x}"}
        comment = event(repo, NEW_COMMENT, id=f"{number:024x}", url=url, content=f"(@{BOT})")
        assert app.post("answer_mention", comment).status_code == 200
    assert len(texts(thread)) == 2


@pytest.mark.parametrize(
    ("fixture", "comment"),
    [
        (NEW_COMMENT, {"content": "Nobody in particular"}),
        (NEW_COMMENT, {"content": f"@{BOT}-2, which one?"}),
        (NEW_COMMENT, {"content": f"My {BOT} is @somebody"}),
        (NEW_COMMENT, {"content": None, "hidden": True}),
        (NEW_COMMENT, {"content": f"Hello @{BOT}", "author": {"id": object_id(BOT)}}),
        ("discussion.comment-update-hidden", {}),
        ("discussion.comment-update-hidden", {"content": f"Edited: hello @{BOT}", "hidden": False}),
        ("discussion-update-pinned", {}),
        ("repo.content-update", {}),
    ],
)
def test_what_is_no_new_comment_to_the_bot_is_skipped(
    hub: Hub, app: Process, repo: Repo, thread: Discussion, fixture: str, comment: dict[str, Any]
) -> None:
    answer = app.post("answer_mention", event(repo, fixture, **comment))
    assert (answer.status_code, list(answer.json())) == (200, ["skipped"])
    assert not any(repo.name in request.path for request in hub.requests)


def test_what_the_bot_writes_calls_no_bot(app: Process, repo: Repo, thread: Discussion) -> None:
    app.post("answer_mention", event(repo, NEW_COMMENT, content=f"Hello @{BOT}"))
    (text,) = texts(thread)
    for author in (BOT, "another-bot"):
        own = event(repo, NEW_COMMENT, id="1" * 24, content=text, author={"id": object_id(author)})
        assert list(app.post("answer_mention", own).json()) == ["skipped"]
    assert "@" not in text


def test_nobody_else_can_pass_for_the_bot_having_answered(app: Process, repo: Repo, thread: Discussion) -> None:
    comment = event(repo, NEW_COMMENT, content=f"Hello @{BOT}")
    thread.comment("somebody", comment["comment"]["url"]["web"])
    app.post("answer_mention", comment)
    assert len(texts(thread)) == 1


@pytest.mark.parametrize("trouble", ["fail", "lose_answer"])
def test_a_comment_is_answered_once_whatever_the_hub_makes_of_the_first_attempt(
    hub: Hub, app: Process, repo: Repo, thread: Discussion, trouble: str
) -> None:
    status = {"status": 503} if trouble == "fail" else {}
    getattr(hub, trouble)("POST", f"/api/models/{repo.name}/discussions/1/comment", **status)
    answer = app.post("answer_mention", event(repo, NEW_COMMENT, content=f"Hello @{BOT}"))
    assert answer.status_code == 202
    wait_for_success(app, answer, attempt=2)
    assert len(texts(thread)) == 1


def test_two_deliveries_of_a_comment_at_the_same_moment_are_answered_once(
    hub: Hub, app: Process, repo: Repo, thread: Discussion
) -> None:
    looks = [hub.hold("GET", f"/api/models/{repo.name}/discussions/1") for _ in range(2)]
    arguments = ("answer_mention", event(repo, NEW_COMMENT, content=f"Hello @{BOT}"))
    deliveries = [threading.Thread(target=app.post, args=arguments) for _ in looks]
    for delivery in deliveries:
        delivery.start()
    assert looks[0].arrived.wait(10)
    looks[1].arrived.wait(0.3)  # what it must not do before the first one has written
    for look in looks:
        look.released.set()
    for delivery in deliveries:
        delivery.join(10)
    assert len(texts(thread)) == 1


# --- the review of model cards


MODEL_COMMIT = "repo.content-update-model"


def commit(app: Process, repo: Repo, fixture: str = MODEL_COMMIT, attempt: int = 1) -> None:
    """Tell the server about a commit and wait until it has been reviewed."""
    answer = app.post("review_model_card", event(repo, fixture))
    assert answer.status_code == 202
    wait_for_success(app, answer, attempt)


def merge(repo: Repo, pull: Discussion) -> None:
    assert pull.files is not None
    repo.files, pull.status = pull.files, "merged"


def test_a_card_without_a_license_is_completed_by_a_pull_request(app: Process, repo: Repo) -> None:
    commit(app, repo)
    (pull,) = repo.pull_requests
    assert (pull.title, pull.author, pull.status) == (TITLE, BOT, "open")
    assert pull.files == {"README.md": CARD.replace("\n---\n", "\nlicense: apache-2.0\n---\n")}
    assert repo.files == {"README.md": CARD}


def test_a_model_without_a_card_gets_one_proposed(app: Process, repo: Repo) -> None:
    repo.files = {"config.json": "{}"}
    commit(app, repo)
    (pull,) = repo.pull_requests
    assert "license: apache-2.0\n" in (pull.files or {})["README.md"]


def test_a_card_that_has_a_license_is_left_alone(app: Process, repo: Repo) -> None:
    repo.files["README.md"] = LICENSED
    commit(app, repo)
    assert repo.pull_requests == []


def test_no_second_pull_request_is_opened_while_one_is_open(app: Process, repo: Repo) -> None:
    for status in ("open", "open", "draft"):
        commit(app, repo)
        repo.pull_requests[0].status = status
    assert len(repo.pull_requests) == 1


def test_a_pull_request_closed_without_merging_is_not_opened_again(app: Process, repo: Repo) -> None:
    commit(app, repo)
    repo.pull_requests[0].status = "closed"
    commit(app, repo)
    assert len(repo.pull_requests) == 1


def test_a_merged_pull_request_ends_it_until_the_license_is_gone_again(app: Process, repo: Repo) -> None:
    commit(app, repo)
    merge(repo, repo.pull_requests[0])
    commit(app, repo)
    assert len(repo.pull_requests) == 1
    repo.files = {"README.md": CARD}
    commit(app, repo)
    assert len(repo.pull_requests) == 2


def test_pull_requests_of_others_do_not_keep_it_from_opening_its_own(app: Process, repo: Repo) -> None:
    repo.open("somebody", TITLE, {"README.md": "spam"})
    repo.open(BOT, "Another pull request of the same account", {"README.md": LICENSED})
    repo.open(BOT, TITLE)  # a discussion
    commit(app, repo)
    assert len(repo.pull_requests) == 3


@pytest.mark.parametrize(
    "fixture",
    [
        "repo.content-update-pull-request",
        "repo.content-update-tag",
        "discussion-create-pull-request",
        "discussion-update-merged",
        "repo.config-update-private",
        "repo-create",
    ],
)
def test_its_own_pull_request_and_whatever_else_is_no_commit_to_main_is_skipped(
    hub: Hub, app: Process, repo: Repo, fixture: str
) -> None:
    commit(app, repo, fixture)
    assert not any(repo.name in request.path for request in hub.requests)


def test_a_commit_to_a_dataset_is_skipped(hub: Hub, app: Process, repo: Repo) -> None:
    repo.kind = "dataset"
    commit(app, repo)
    assert not any(repo.name in request.path for request in hub.requests)


@pytest.mark.parametrize("trouble", ["fail", "lose_answer"])
def test_one_pull_request_is_opened_whatever_the_hub_makes_of_the_first_attempt(
    hub: Hub, app: Process, repo: Repo, trouble: str
) -> None:
    status = {"status": 503} if trouble == "fail" else {}
    getattr(hub, trouble)("POST", f"/api/models/{repo.name}/commit/main", **status)
    commit(app, repo, attempt=2)
    assert len(repo.pull_requests) == 1


# --- the notification in a chat


@pytest.fixture(autouse=True)
def nothing_else_is_told(chat: Chat) -> Iterator[None]:
    yield
    assert chat.arrived.empty()


@pytest.mark.parametrize(
    ("fixture", "text"),
    [
        (
            NEW_COMMENT,
            "New in the model username/my-model: "
            "https://huggingface.co/username/my-model/discussions/5#65f0c1d2a4b3c2d1e0f9a865",
        ),
        (
            "discussion-create-pull-request",
            "New in the dataset username/my-dataset: "
            "https://huggingface.co/datasets/username/my-dataset/discussions/3#65f0c1d2a4b3c2d1e0f9a863",
        ),
    ],
)
def test_a_new_comment_or_discussion_is_told_to_the_chat(app: Process, chat: Chat, fixture: str, text: str) -> None:
    assert app.post("notify_chat", load(fixture)).status_code == 200
    assert chat.arrived.get(timeout=10) == (f"/services/{CHAT_SECRET}", {"text": text})


def test_what_strangers_write_never_reaches_the_chat(app: Process, chat: Chat, repo: Repo) -> None:
    trap = "<!channel> @everyone <https://evil.example|your invoice> [here](https://evil.example)"
    payload = event(repo, "discussion-create", content=trap)
    payload["discussion"]["title"] = trap
    app.post("notify_chat", payload)
    text = chat.arrived.get(timeout=10)[1]["text"]
    assert re.fullmatch(r"[\w /:.#-]+", text)
    assert "evil" not in text


@pytest.mark.parametrize(
    "fixture", ["discussion.comment-update-hidden", "discussion-update-merged", "repo-create", "repo.content-update"]
)
def test_what_is_nothing_new_in_the_discussions_is_not_told(app: Process, fixture: str) -> None:
    assert list(app.post("notify_chat", load(fixture)).json()) == ["skipped"]


def test_a_chat_in_trouble_is_told_again_and_its_address_stays_a_secret(app: Process, chat: Chat) -> None:
    chat.refuse = 1
    answer = app.post("notify_chat", load(NEW_COMMENT))
    assert answer.status_code == 202
    wait_for_success(app, answer, attempt=2)
    assert chat.arrived.get_nowait() == chat.arrived.get_nowait()
    assert "RuntimeError: The chat answered 500." in app.output
    assert CHAT_SECRET not in app.output
    log = [path.read_bytes() for path in (app.folder / ".webhooks").iterdir()]
    assert any(b"The chat answered 500." in content for content in log)
    assert not any(CHAT_SECRET.encode() in content for content in log)
