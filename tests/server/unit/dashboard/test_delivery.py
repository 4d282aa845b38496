"""The page of a delivery, its replays, test events, and text of strangers."""

from __future__ import annotations

import json
import re
import shlex
import threading
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from typing import Any
from urllib.parse import parse_qsl

import pytest
from support.asgi import Exchange
from support.dashboard import Client, PagesHarness, arrived, text, textarea
from support.engines import wait_until

from webhooks import WebhookPayload
from webhooks.deliveries.log import find, reading
from webhooks.delivery import StartedJob
from webhooks.endpoints import Endpoint
from webhooks.payload import parse_payload

ERROR = "    | Traceback (most recent call last):\n    |   File ...\n    | KeyError: 'split'"
BAD_IDS = ("x", "f" * 16, "' OR 1=1", "%00", "..%2f..", "a" * 5000, "%E2%80%AE", "18ea/x")


def box(page: Exchange, label: str) -> str:
    """Return the text of a box of the page."""
    found = re.search(rf'aria-label="{label}">(.*?)</pre>', page.body.decode(), re.DOTALL)
    assert found, label
    return unescape(found[1])


def replays_of(pages: PagesHarness, id: str) -> list[str]:
    with reading(pages.log.path) as database:
        query = "SELECT id FROM deliveries WHERE replay_of = ? ORDER BY number"
        return [row["id"] for row in database.execute(query, (int(id, 16),))]


def record_of(pages: PagesHarness, id: str) -> Any:
    with reading(pages.log.path) as database:
        return find(database, id)


def id_in(answer: Exchange) -> str:
    assert answer.status == 303
    return answer.headers["location"].removeprefix("/deliveries/")


# The page


def test_delivery_is_shown_with_all_facts(pages: PagesHarness, owner: Client) -> None:
    job = StartedJob("66f1c0ffee", "me", "https://huggingface.co/jobs/me/66f1c0ffee", "a10g-small", "RUNNING")
    before = pages.put(arrived(), answer=b"{}")
    delivery = arrived(headers=((b"content-type", b"application/json"), (b"user-agent", b"node-fetch/1.0")))
    id = pages.put(delivery, answer=b'{"id":"66f1c0ffee"}', jobs=[job])
    after = pages.put(arrived(), answer=b"{}")
    answer = owner.get(f"/{id}")
    page = text(answer)
    assert "Job 66f1c0ffee running, a10g-small" in page
    for fact in (
        "Handler/webhooks/train",
        "Eventcontent changed, refs/heads/main",
        "Repositorydataset me/data",
        "Answered the Hub200",
        "Attempt 1 succeeded after",
    ):
        assert fact in page, fact
    assert box(answer, "Payload") == json.dumps(json.loads(delivery.body), indent=2)
    assert box(answer, "Headers") == "content-type: application/json\nuser-agent: node-fetch/1.0\n"
    assert box(answer, "Result") == '{\n  "id": "66f1c0ffee"\n}'
    assert f'rel="prev" href="/deliveries/{after}"' in answer.body.decode()
    assert f'rel="next" href="/deliveries/{before}"' in answer.body.decode()
    assert [looked_at.id for looked_at in pages.looked_at] == ["66f1c0ffee"]


def test_failed_delivery_says_its_error_once(pages: PagesHarness, owner: Client) -> None:
    answer = b'{"error":"The handler failed."}'
    id = pages.put(arrived(), "failed", answer, error=ERROR, answer_status=500)
    page = owner.get(f"/{id}")
    assert text(page).count("KeyError: 'split'") == 1
    assert box(page, "Error of attempt 1") == "Traceback (most recent call last):\n  File ..."
    assert re.search(r"Attempt 1 failed after \d+ ms", text(page))
    assert "Answered the Hub500" in text(page)
    assert "The handler" not in text(page)


def test_retried_delivery_was_answered_202(pages: PagesHarness, owner: Client) -> None:
    delivery = arrived()

    def step() -> None:
        pages.log.add(delivery, "running")
        pages.log.fail_attempt(delivery.id, ERROR)
        pages.log.schedule(delivery.id, 0)
        pages.log.start_attempt(delivery.id)
        pages.log.finish(delivery.id, "succeeded", 200, b"{}")

    pages.write(step)
    page = owner.get(f"/{delivery.id}")
    assert "Answered the Hub202" in text(page)
    assert box(page, "Error of attempt 1").endswith("KeyError: 'split'")


def test_delivery_without_http_answered_nobody(pages: PagesHarness, owner: Client) -> None:
    page = text(owner.get(f"/{pages.put(arrived(source='catch_up'), answer=b'{}')}"))
    assert "found by looking" in page
    assert "Answered the Hub" not in page


def test_superseded_deliveries_are_linked(pages: PagesHarness, owner: Client) -> None:
    deliveries = [arrived("/webhooks/report") for _ in range(3)]
    for delivery in deliveries:
        pages.write(lambda delivery=delivery: pages.log.add_debounced(delivery, "key", 60))
    first, second, last = (delivery.id for delivery in deliveries)
    assert f"Supersedes{second} {first} Id" in text(owner.get(f"/{last}"))
    assert f"Superseded by{second} Id" in text(owner.get(f"/{first}"))
    assert f"Superseded by{last} Supersedes{first} Id" in text(owner.get(f"/{second}"))


def test_command_sends_the_same_without_the_secret() -> None:
    pages = PagesHarness(Endpoint(lambda name: None, "/hook/{name}"), WEBHOOK_SECRET="hunter2")
    body = '{"title": "it\'s \u202e \\u0000 $HOME `id`", "a": [1.0, null]}'
    id = pages.put(arrived("/webhooks/hook/a b?[1-3]", body=body.encode(), query=b"a=b&c=%20"), answer=b"{}")
    page = pages.owner().get(f"/{id}")
    command = box(page, "The same as a command")
    assert b"hunter2" not in page.body
    words = shlex.split(command, comments=True)
    assert words[:4] == ["curl", "-X", "POST", "http://localhost:7860/webhooks/hook/a%20b%3F%5B1-3%5D?a=b&c=%20"]
    assert words[-3:-1] == ["-g", "--data-raw"]
    assert json.loads(words[-1]) == json.loads(body)
    assert "$WEBHOOK_SECRET" in command
    for content in (b"\xff\x00", b"", b"[" * 5000, json.dumps("x" * 200_000).encode()):
        id = pages.put(arrived(body=content), answer=b"{}")
        assert b"As curl" not in pages.owner().get(f"/{id}").body


@pytest.mark.parametrize("id", BAD_IDS)
def test_unknown_delivery_is_not_found(pages: PagesHarness, owner: Client, id: str) -> None:
    pages.run()
    for answer in (owner.get(f"/{id}"), owner.post(f"/{id}/replay"), owner.get("/test", {"of": id})):
        assert answer.status == 404
        assert re.search("There is no such (delivery|page)", text(answer))


# Replays


def test_replay_runs_again_and_opens() -> None:
    pages = PagesHarness(Endpoint(lambda name: name, "/hook/{name}"))
    owner = pages.owner()
    id = pages.put(arrived("/webhooks/hook/bob"), "failed", error="ValueError")
    pages.run()
    assert b">Replay</button>" in owner.get(f"/{id}").body
    new = id_in(owner.post(f"/{id}/replay"))
    wait_until(lambda: record_of(pages, new).status == "succeeded")
    assert f"Replay of{id}" in text(owner.get(f"/{new}"))
    assert f"Replayed as{new}" in text(owner.get(f"/{id}"))
    assert text(owner.get()).count("fixed by a replay") == 1
    pages.close()


def test_replay_that_is_not_taken_says_why() -> None:
    released = threading.Event()
    pages = PagesHarness(Endpoint(lambda: released.wait(30) and None, "/train"), max_pending=1)
    id = pages.put(arrived(), "failed", error="ValueError")
    owner = pages.run().owner()
    assert owner.post(f"/{id}/replay").status == 303
    answer = owner.post(f"/{id}/replay")
    released.set()
    pages.close()
    assert (answer.status, "Too many deliveries are waiting." in text(answer)) == (400, True)


def ask(owner: Client, query: dict[str, str]) -> tuple[str, dict[str, str]]:
    """Open the page that asks, and return what it says and what its button sends."""
    page = owner.get("/replay", query)
    found = re.search(r'action="/deliveries/replay\?([^"]*)"', page.body.decode())
    return text(page), dict(parse_qsl(unescape(found[1]))) if found else {}


def test_failed_deliveries_are_replayed_once_after_a_question(pages: PagesHarness, owner: Client) -> None:
    pages.endpoints["/webhooks/by/{team}"] = Endpoint(lambda team: team, "/by/{team}")
    failed = [pages.put(arrived(path), "failed", error="KeyError") for path in ["/webhooks/train"] * 2]
    failed.append(pages.put(arrived("/webhooks/by/us"), "failed", error="KeyError"))
    other = pages.put(arrived("/webhooks/report", "model/me/x"), "failed", error="KeyError")
    fine = pages.put(arrived(), answer=b'"done"')
    assert "Replay 4 failed…" in text(owner.get())
    assert "Replay 3 failed…" in text(owner.get(query={"repo": "dataset/me/data"}))
    pages.run()
    question, form = ask(owner, {"repo": "dataset/me/data"})
    assert "Replay 3 failed deliveries?" in question
    assert re.search("(2 . train, 1 . by/us|1 . by/us, 2 . train). Jobs that they start are billed.", question)
    assert [replays_of(pages, id) for id in failed] == [[], [], []], "nothing runs before the answer"
    answer = owner.post("/replay", query=form)
    assert answer.headers["location"] == "/deliveries?repo=dataset%2Fme%2Fdata&replayed=3"
    assert "3 deliveries run again." in text(owner.get(query=answer.headers["location"].partition("?")[2]))
    wait_until(lambda: [record_of(pages, replays_of(pages, id)[0]).status for id in failed] == ["succeeded"] * 3)
    assert owner.post("/replay", query=form).status == 303  # pressed twice
    assert [len(replays_of(pages, id)) for id in (*failed, other, fine)] == [1, 1, 1, 0, 0]
    assert "Nothing to replay" in ask(owner, {"repo": "dataset/me/data"})[0]


def test_last_replay_stands_for_what_it_repeats(pages: PagesHarness, owner: Client) -> None:
    def failed(replay_of: str | None = None) -> str:
        return pages.put(arrived(replay_of=replay_of), "failed", error="ValueError")

    failed(failed(failed()))
    pages.put(arrived(replay_of=failed(failed())), answer=b"{}")
    pages.put(arrived(replay_of=failed()), "queued")
    assert "Replay 1 failed delivery?" in ask(owner, {})[0]


def test_replay_leaves_out_removed_handlers_and_later_failures(pages: PagesHarness, owner: Client) -> None:
    lost = pages.put(arrived("/webhooks/of_last_year"), "failed", error="KeyError")
    assert b">Replay</button>" not in owner.get(f"/{lost}").body
    assert "except 1 whose handler was removed" in ask(owner, {})[0]
    seen = pages.put(arrived(), "failed", error="KeyError")
    question, form = ask(owner, {})
    assert "Replay 1 failed delivery?" in question
    later = pages.put(arrived(), "failed", error="ValueError")
    pages.run()
    assert owner.post("/replay", query={}).status == 404, "nothing was asked"
    owner.post("/replay", query=form)
    wait_until(lambda: replays_of(pages, seen))
    assert [replays_of(pages, id) for id in (lost, later)] == [[], []]


def test_many_replays_leave_room_for_the_hub(
    pages: PagesHarness, owner: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = [pages.put(arrived(), "failed", error="ValueError") for _ in range(3)]
    pages.run()
    room = iter([True, False])
    monkeypatch.setattr(pages.engine, "has_room", lambda: next(room, True))
    answer = owner.post("/replay", query=ask(owner, {"endpoint": "/webhooks/train"})[1])
    assert answer.headers["location"] == "/deliveries/replay?endpoint=%2Fwebhooks%2Ftrain&replayed=1"
    question, form = ask(owner, {"endpoint": "/webhooks/train", "replayed": "1"})
    assert "1 delivery runs again. There was no room for the rest" in question
    assert "Replay 2 failed deliveries?" in question
    owner.post("/replay", query=form)
    wait_until(lambda: [len(replays_of(pages, id)) for id in failed] == [1, 1, 1])


# Test events


def test_event_is_filled_in_for_handler_and_kind(pages: PagesHarness, owner: Client) -> None:
    pages.put(arrived(repo="model/me/tuned"), answer=b"{}")
    page = owner.get("/test", {"kind": "comment", "endpoint": "/webhooks/report"})
    payload = json.loads(textarea(page))
    assert (payload["event"]["scope"], payload["repo"]["name"]) == ("discussion.comment", "me/tuned")
    assert "Payload for /webhooks/report" in text(page)
    form = {"endpoint": "/webhooks/train", "kind": "tag", "body": textarea(page), "fill": "yes"}
    filled = owner.post("/test", form)
    assert json.loads(textarea(filled))["updatedRefs"][0]["ref"] == "refs/tags/v1.0"
    assert "Payload for /webhooks/train" in text(filled)


def test_event_is_about_the_last_commit_of_what_is_watched() -> None:
    pages = PagesHarness(
        Endpoint(lambda: None, "/train", watched="dataset:me/data"),
        Endpoint(lambda: None, "/evaluate", watched=["user:me", "model:me/tuned"]),
        Endpoint(lambda: None, "/report"),
    )
    commit = "8d2c41f07be35a96e1f4c0d97b6a28e35f1c9d04"  # in the fixture
    owner = pages.owner()

    def filled_in(**query: str) -> tuple[str, str, bool]:
        repo = json.loads(textarea(owner.get("/test", query)))["repo"]
        return repo["type"], repo["name"], repo["headSha"] == commit

    assert filled_in(endpoint="/webhooks/report") == ("dataset", "username/my-dataset", False)
    for repo in ("model/me/tuned", "space/me/app", "kernel/me/fast"):
        pages.put(arrived(repo=repo))
    pages.put(arrived(repo="model/me/tuned", fixture="discussion-create"))  # names no commit
    assert filled_in() == ("dataset", "me/data", False)
    assert filled_in(endpoint="/webhooks/evaluate") == ("model", "me/tuned", True)
    assert filled_in(endpoint="/webhooks/report") == ("space", "me/app", True)  # the last one of a known type


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({}, "Jobs are dry runs, since HF_TOKEN is not set."),
        ({"HF_TOKEN": "hf_x", "DRY_RUN": "true"}, "Jobs are dry runs, since DRY_RUN is set."),
        ({"HF_TOKEN": "hf_x", "SPACE_HOST": "x.hf.space"}, "Jobs are dry runs, since WEBHOOK_SECRET is not set."),
        ({"HF_TOKEN": "hf_x"}, "Jobs that it starts are billed."),
    ],
)
def test_event_page_says_whether_jobs_are_real(environ: dict[str, str], words: str) -> None:
    pages = PagesHarness(Endpoint(lambda: None, "/train"), **environ)
    assert words in text(pages.owner().get("/test"))


def test_event_runs_its_handler_and_opens(pages: PagesHarness, owner: Client) -> None:
    pages.run()
    for form, endpoint in (
        ({"endpoint": "/webhooks/train"}, "/webhooks/train"),
        ({"endpoint": "/webhooks/train", "path": "/webhooks/report"}, "/webhooks/train"),
    ):
        id = id_in(owner.post("/test", {**form, "kind": "commit", "body": '{"é": "\\ud83d"}'}))
        wait_until(lambda id=id: record_of(pages, id).status == "succeeded")
        assert record_of(pages, id).delivery.endpoint == endpoint
        assert "sent from here" in text(owner.get(f"/{id}"))


def test_event_fills_in_the_parameters_of_a_path() -> None:
    pages = PagesHarness(Endpoint(lambda name, n: [name, n], "/hook/{name}/{n:int}"))
    owner = pages.run().owner()
    page = owner.get("/test")
    assert 'name="path" value="/webhooks/hook/name/1"' in page.body.decode()
    template = {"endpoint": "/webhooks/hook/{name}/{n:int}", "body": "{}"}
    for path in ("/webhooks/hook/bob/7", "/webhooks/hook/a%b c?/8"):
        id = id_in(owner.post("/test", {**template, "path": path}))
        wait_until(lambda id=id: record_of(pages, id).status in ("succeeded", "failed"))
        assert record_of(pages, id).delivery.endpoint == path
        edited = owner.get("/test", {"of": id})
        assert f'value="{path}"' in edited.body.decode()
        assert "as recorded" in text(edited)
    pages.close()


def test_recorded_delivery_is_edited_as_it_was(pages: PagesHarness, owner: Client) -> None:
    id = pages.put(arrived("/webhooks/report", body='{"title": "\u202e \U0001f642\x7f é"}'.encode()), answer=b"{}")
    page = owner.get("/test", {"of": id})
    assert textarea(page) == '{\n  "title": "\\u202e 🙂\\u007f é"\n}'
    assert '<option value="/webhooks/report" selected>' in page.body.decode()
    other = owner.post("/test", {"endpoint": "/webhooks/train", "kind": "", "body": "{1}", "fill": "yes"})
    assert (textarea(other), "Payload for /webhooks/train" in text(other)) == ("{1}", True)


def handle(payload: WebhookPayload) -> None:
    pass


@pytest.mark.parametrize(
    ("form", "sentence"),
    [
        ({"body": "{"}, "This is not JSON: Expecting property name enclosed in double quotes: line 1 column 2"),
        ({"body": ""}, "This is not JSON"),
        ({"body": "[" * 100_000}, "This is not JSON"),
        ({"body": "{}", "endpoint": "/webhooks/none"}, "There is no such endpoint."),
        ({"body": "{}", "endpoint": "https://evil.example/"}, "There is no such endpoint."),
        ({"body": "{}", "endpoint": "/webhooks/strict"}, "The body is not a webhook payload of the Hub."),
    ],
    ids=["cut", "empty", "deep", "unknown", "elsewhere", "no payload"],
)
def test_refused_event_stays_to_be_changed(
    pages: PagesHarness, owner: Client, form: dict[str, str], sentence: str
) -> None:
    pages.endpoints["/webhooks/strict"] = Endpoint(handle, "/strict")
    pages.run()
    page = owner.post("/test", {"endpoint": "/webhooks/train", **form})
    assert page.status == 400
    assert sentence in text(page)
    assert textarea(page) == form["body"]


# Text of strangers

HOSTILE = "<img src=x onerror=alert(1)>\"'\u202e\u200b\x00\x1b[31m{{7*7}}</textarea></script>&lt;"


class Parsed(HTMLParser):
    """The elements and attributes that a browser would find."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


def test_text_of_strangers_is_inert_on_every_page(pages: PagesHarness, owner: Client) -> None:
    payload = json.loads(arrived(fixture="discussion.comment-create").body)
    payload["repo"]["name"] = payload["repo"]["type"] = HOSTILE
    payload["discussion"]["title"] = payload["comment"]["content"] = HOSTILE
    payload["event"]["scope"] = payload["event"]["action"] = HOSTILE
    body = json.dumps(payload).encode()
    raw = HOSTILE.encode()
    delivery = arrived(body=body, headers=((b"x-title", HOSTILE.encode("latin-1", "replace")),))
    delivery = replace(delivery, payload=parse_payload(body))
    job = StartedJob(HOSTILE, HOSTILE, f"https://h/{HOSTILE}", HOSTILE, HOSTILE)
    ids = [
        pages.put(delivery, "failed", raw, error=f"    | {HOSTILE}", jobs=[job]),
        pages.put(arrived(body=raw), answer=b'{"skipped":' + json.dumps(HOSTILE).encode() + b"}"),
        pages.put(arrived(body=raw), answer=json.dumps({HOSTILE: HOSTILE}).encode()),
        pages.put(arrived(body=raw, source=HOSTILE), answer=raw, jobs=[job]),
        pages.put(arrived(f"/webhooks/{HOSTILE}"), "scheduled", error=HOSTILE, due_at=1.0),
    ]
    pages.write(lambda: pages.log.set_mark(HOSTILE, HOSTILE, HOSTILE, HOSTILE))
    names = ("q", "endpoint", "repo", "event", "outcome", "before", "kind", "of", "replayed")
    queries = [{name: HOSTILE} for name in names]
    answers = [owner.get(f"/{id}") for id in ids]
    answers += [owner.get("/test", {"of": id}) for id in ids]
    answers += [owner.get(path, query) for path in ("", "/test", "/hub", "/replay") for query in ({}, *queries)]
    form = {"endpoint": HOSTILE, "body": HOSTILE, "path": HOSTILE, "kind": HOSTILE}
    answers += [owner.post("/test", form), owner.post("/test", {**form, "fill": "yes"})]
    answers += [owner.post("/hub", query={"row": HOSTILE}), owner.get("/%3Cimg%20src=x%3E")]
    for answer in answers:
        page = answer.body.decode()
        assert answer.status in (200, 400, 404)
        parsed = Parsed(page)
        assert not {"img", "bdo"} & parsed.tags
        assert not [name for name in parsed.attributes if name.startswith("on") or name == "style"]
        assert page.count("<script") == page.count("</script>") == 1
        # A form sends back the very same text. All other text is shown with its invisible characters.
        read = re.sub(r'(value|title)="[^"]*"|<textarea.*?</textarea>', "", page, flags=re.DOTALL)
        assert not {"\u202e", "\u200b", "\x00", "\x1b"} & set(read)
    assert "\\u202e\\u200b\\x00\\x1b[31m{{7*7}}" in answers[0].body.decode()
