"""The page of a delivery, its replays, test events, and text of strangers."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from typing import Any
from urllib.parse import parse_qsl

import pytest
from support.asgi import Exchange
from support.dashboard import Client, PagesHarness, arrived, text, textarea
from support.engines import rows, wait_until

from webhooks import WebhookPayload
from webhooks.deliveries.log import find, reading
from webhooks.delivery import StartedJob
from webhooks.endpoints import Endpoint
from webhooks.payload import parse_payload

ERROR = "    | Traceback (most recent call last):\n    |   File ...\n    | KeyError: 'split'"
BAD_IDS = ("f" * 16, "' OR 1=1", "..%2f..")


def box(page: Exchange, label: str) -> str:
    """Return the text of a box of the page."""
    found = re.search(rf'aria-label="{label}">(.*?)</pre>', page.body.decode(), re.DOTALL)
    assert found, label
    return unescape(found[1])


def replays_of(pages: PagesHarness, id: str) -> list[str]:
    found = rows(pages.log.path.parent, f"SELECT id FROM deliveries WHERE replay_of = {int(id, 16)} ORDER BY number")
    return [replay for (replay,) in found]


def record_of(pages: PagesHarness, id: str) -> Any:
    with reading(pages.log.path) as database:
        return find(database, id)


def id_in(answer: Exchange) -> str:
    assert answer.status == 303
    return answer.headers["location"].removeprefix("/deliveries/")


# The page


def test_delivery_is_shown_with_all_facts(pages: PagesHarness, owner: Client) -> None:
    job = StartedJob("66f1c0ffee", "me", "https://huggingface.co/jobs/me/66f1c0ffee", "a10g-small", "RUNNING")
    delivery = arrived(headers=((b"content-type", b"application/json"), (b"user-agent", b"node-fetch/1.0")))
    id = pages.put(delivery, answer=b'{"id":"66f1c0ffee"}', jobs=[job])
    answer = owner.get(f"/{id}")
    page = text(answer)
    assert "Job 66f1c0ffee running, a10g-small" in page
    for fact in (
        "Handler/webhooks/train",
        "Eventcontent changed, refs/heads/main",
        "Repositorydataset me/data",
        "Attempt 1 succeeded after",
    ):
        assert fact in page, fact
    assert box(answer, "Payload") == json.dumps(json.loads(delivery.body), indent=2)
    assert box(answer, "Headers") == "content-type: application/json\nuser-agent: node-fetch/1.0\n"
    assert box(answer, "Result") == '{\n  "id": "66f1c0ffee"\n}'
    assert [looked_at.id for looked_at in pages.looked_at] == ["66f1c0ffee"]


def test_failed_delivery_says_its_error_once(pages: PagesHarness, owner: Client) -> None:
    answer = b'{"error":"The handler failed."}'
    id = pages.put(arrived(), "failed", answer, error=ERROR, answer_status=500)
    page = owner.get(f"/{id}")
    assert text(page).count("KeyError: 'split'") == 1
    assert box(page, "Error of attempt 1") == "Traceback (most recent call last):\n  File ..."
    assert re.search(r"Attempt 1 failed after \d+ ms", text(page))
    assert "The handler" not in text(page)


def test_command_sends_the_same_without_the_secret() -> None:
    pages = PagesHarness(Endpoint(lambda name: None, "/hook/{name}"), WEBHOOK_SECRET="hunter2")
    body = '{"title": "it\'s \u202e \\u0000 $HOME `id`", "a": [1.0, null]}'
    id = pages.put(arrived("/webhooks/hook/a b?[1-3]", body=body.encode(), query=b"a=b&c=%20"), answer=b"{}")
    page = pages.owner().get(f"/{id}")
    command = box(page, "The same as a command")
    assert b"hunter2" not in page.body
    words = shlex.split(command, comments=True)
    assert words[:4] == ["curl", "-X", "POST", "http://localhost:7860/webhooks/hook/a%20b%3F%5B1-3%5D?a=b&c=%20"]
    assert json.loads(words[-1]) == json.loads(body)
    assert "$WEBHOOK_SECRET" in command


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


def ask(owner: Client, query: dict[str, str]) -> tuple[str, dict[str, str]]:
    """Open the page that asks, and return what it says and what its button sends."""
    page = owner.get("/replay", query)
    found = re.search(r'action="/deliveries/replay\?([^"]*)"', page.body.decode())
    return text(page), dict(parse_qsl(unescape(found[1]))) if found else {}


def test_failed_deliveries_are_replayed_once_if_asked(pages: PagesHarness, owner: Client) -> None:
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
    again = owner.post("/replay", query=form)  # pressed twice
    assert again.headers["location"] == "/deliveries?repo=dataset%2Fme%2Fdata&replayed=0"
    assert [len(replays_of(pages, id)) for id in (*failed, other, fine)] == [1, 1, 1, 0, 0]
    assert "Nothing to replay" in ask(owner, {"repo": "dataset/me/data"})[0]


def test_last_replay_stands_for_what_it_repeats(pages: PagesHarness, owner: Client) -> None:
    def failed(replay_of: str | None = None) -> str:
        return pages.put(arrived(replay_of=replay_of), "failed", error="ValueError")

    failed(failed(failed()))
    pages.put(arrived(replay_of=failed(failed())), answer=b"{}")
    pages.put(arrived(replay_of=failed()), "queued")
    assert "Replay 1 failed delivery?" in ask(owner, {})[0]


def test_replay_runs_only_what_the_question_named(pages: PagesHarness, owner: Client) -> None:
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


# Test events


def test_event_is_filled_in_for_handler_and_kind(pages: PagesHarness, owner: Client) -> None:
    pages.put(arrived(repo="model/me/tuned"), answer=b"{}")
    page = owner.get("/test", {"kind": "comment", "endpoint": "/webhooks/report"})
    payload = json.loads(textarea(page))
    assert (payload["event"]["scope"], payload["repo"]["name"]) == ("discussion.comment", "me/tuned")
    filled = owner.post("/test", {"endpoint": "/webhooks/train", "kind": "tag", "body": textarea(page), "fill": "yes"})
    assert json.loads(textarea(filled))["updatedRefs"][0]["ref"] == "refs/tags/v1.0"
    assert "Payload for /webhooks/train" in text(filled)


def test_event_is_about_the_last_watched_commit() -> None:
    pages = PagesHarness(
        Endpoint(lambda: None, "/train", watched="dataset:me/data"),
        Endpoint(lambda: None, "/evaluate", watched=["user:me", "model:me/tuned"]),
    )
    commit = "8d2c41f07be35a96e1f4c0d97b6a28e35f1c9d04"  # in the fixture
    event = arrived(repo="model/me/tuned")
    pages.put(replace(event, body=b"\xef\xbb\xbf" + event.body))  # a byte order mark, as PowerShell writes it
    pages.put(arrived(repo="model/me/tuned", fixture="discussion-create"))  # names no commit
    for endpoint, repo, is_known in (("train", "me/data", False), ("evaluate", "me/tuned", True)):
        filled_in = json.loads(textarea(pages.owner().get("/test", {"endpoint": f"/webhooks/{endpoint}"})))["repo"]
        assert (filled_in["name"], filled_in["headSha"] == commit) == (repo, is_known)


def test_event_fills_in_the_parameters_of_a_path() -> None:
    pages = PagesHarness(Endpoint(lambda name, n: [name, n], "/hook/{name}/{n:int}"))
    owner = pages.run().owner()
    assert b'name="path" value="/webhooks/hook/name/1"' in owner.get("/test").body
    template, path = {"endpoint": "/webhooks/hook/{name}/{n:int}", "body": "{}"}, "/webhooks/hook/a%b c?/8"
    assert owner.post("/test", {**template, "path": "/webhooks/hook/name/one"}).status == 400
    id = id_in(owner.post("/test", {**template, "path": path}))
    wait_until(lambda: record_of(pages, id).status == "succeeded")
    assert record_of(pages, id).delivery.endpoint == path
    assert "sent from here" in text(owner.get(f"/{id}"))
    assert f'value="{path}"' in owner.get("/test", {"of": id}).body.decode()
    pages.close()


def handle(payload: WebhookPayload) -> None:
    pass


def test_refused_event_stays_to_be_changed(pages: PagesHarness, owner: Client) -> None:
    pages.endpoints["/webhooks/strict"] = Endpoint(handle, "/strict")
    pages.run()
    for endpoint, body, sentence in (
        ("train", "[" * 100_000, "This is not JSON"),
        ("none", "{}", "There is no handler at /webhooks/none."),
        ("strict", "{}", "The body is not a webhook payload of the Hub."),
    ):
        page = owner.post("/test", {"endpoint": f"/webhooks/{endpoint}", "body": body})
        assert (page.status, sentence in text(page), textarea(page)) == (400, True, body)


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
        pages.put(arrived(body=raw), answer=json.dumps({"skipped": HOSTILE}).encode()),
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
