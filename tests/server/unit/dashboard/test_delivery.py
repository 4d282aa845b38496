"""One delivery: what is said of it, once more, edited, and what strangers write in it."""

from __future__ import annotations

import json
import re
import shlex
import threading
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from urllib.parse import parse_qsl

import pytest
from dashboard.conftest import arrived
from support.asgi import Exchange
from support.dashboard import Client, Office, text
from support.dispatching import wait_until

from webhooks.deliveries.log import find, reading
from webhooks.delivery import StartedJob
from webhooks.endpoints import Endpoint
from webhooks.payload import parse_payload

BAD_IDS = ("x", "0", "f" * 16, "7" + "f" * 15, "' OR 1=1", "%00", "%ff", "..%2f..", "a" * 5000, "%E2%80%AE", "18ea/x")


def shown(page: bytes, label: str) -> str:
    """The text of a box of the page."""
    found = re.search(rf'aria-label="{label}">(.*?)</pre>', page.decode(), re.DOTALL)
    assert found, label
    return unescape(found[1])


def test_a_delivery_is_shown_with_all_that_is_known_of_it(office: Office, owner: Client) -> None:
    error = "    | Traceback (most recent call last):\n    |   File ...\n    | KeyError: 'split'"
    job = StartedJob("66f1c0ffee", "me", "https://huggingface.co/jobs/me/66f1c0ffee", "a10g-small", "RUNNING")
    before = office.put(arrived(), answer=b"{}")
    headers = ((b"content-type", b"application/json"), (b"user-agent", b"node-fetch/1.0"))
    delivery = arrived(headers=headers)
    id = office.put(delivery, answer=b'{"id":"66f1c0ffee"}', error=error, jobs=[job])
    after = office.put(arrived(), answer=b"{}")
    answer = owner.get(f"/{id}")
    page = text(answer)
    assert "Job 66f1c0ffee running, a10g-small" in page
    event = "Eventcontent changed, refs/heads/main"
    for fact in ("Handler/webhooks/train", event, "Repositorydataset me/data", "Result200"):
        assert fact in page, fact
    assert shown(answer.body, "Payload") == json.dumps(json.loads(delivery.body), indent=2)
    assert shown(answer.body, "Headers") == "content-type: application/json\nuser-agent: node-fetch/1.0\n"
    traceback = "Traceback (most recent call last):\n  File ...\nKeyError: 'split'"
    assert shown(answer.body, "Error of attempt 1") == traceback
    assert shown(answer.body, "Result") == '{\n  "id": "66f1c0ffee"\n}'
    assert f'rel="prev" href="/deliveries/{after}"' in answer.body.decode()
    assert f'rel="next" href="/deliveries/{before}"' in answer.body.decode()
    assert [looked_at.id for looked_at in office.looked_at] == ["66f1c0ffee"]


def test_the_command_sends_the_same_and_shows_no_secret() -> None:
    office = Office(Endpoint(lambda: None, "/train"), WEBHOOK_SECRET="hunter2")
    body = '{"title": "it\'s \u202e \\u0000 $HOME `id`", "a": [1.0, null]}'
    id = office.put(arrived(body=body.encode(), query=b"a=b&c=%20"), answer=b"{}")
    page = office.owner().get(f"/{id}").body
    command = shown(page, "The same as a command")
    assert "hunter2" not in page.decode()
    words = shlex.split(command, comments=True)
    assert words[:4] == ["curl", "-X", "POST", "http://localhost:7860/webhooks/train?a=b&c=%20"]
    assert words[-2] == "--data-raw"
    assert json.loads(words[-1]) == json.loads(body)
    assert "$WEBHOOK_SECRET" in command
    for body in (b"\xff\x00", b"", b"[" * 5000, json.dumps("x" * 200_000).encode()):
        id = office.put(arrived(body=body), answer=b"{}")
        assert b"As curl" not in office.owner().get(f"/{id}").body


@pytest.mark.parametrize("id", BAD_IDS)
def test_an_unknown_delivery_is_said_to_be_none(office: Office, owner: Client, id: str) -> None:
    office.put(arrived(), answer=b"{}")
    office.open()
    for answer in (owner.get(f"/{id}"), owner.post(f"/{id}/replay"), owner.get("/test", {"of": id})):
        assert answer.status == 404
        assert re.search("There is no such (delivery|page)", text(answer))


# --- again


def test_a_replay_runs_the_handler_again_and_opens(office: Office, owner: Client) -> None:
    id = office.put(arrived(), "failed", error="ValueError")
    office.open()
    answer = owner.post(f"/{id}/replay")
    assert answer.status == 303
    new = answer.headers["location"].removeprefix("/deliveries/")
    wait_until(lambda: status(office, new) == "succeeded")
    assert f"Replay of{id}" in text(owner.get(f"/{new}"))
    assert new in owner.get(f"/{id}").body.decode()


def status(office: Office, id: str) -> str:
    with reading(office.log.path) as database:
        return find(database, id).status


def test_a_replay_that_is_not_taken_says_why() -> None:
    gate = threading.Event()
    office = Office(Endpoint(lambda: gate.wait(30) and None, "/train"), max_pending=1)
    id = office.put(arrived(), "failed", error="ValueError")
    owner = office.open().owner()
    assert owner.post(f"/{id}/replay").status == 303
    answer = owner.post(f"/{id}/replay")
    gate.set()
    office.close()
    assert (answer.status, "Too many deliveries are waiting." in text(answer)) == (400, True)


def replays_of(office: Office, id: str) -> list[str]:
    with reading(office.log.path) as database:
        query = "SELECT id FROM deliveries WHERE replay_of = ? ORDER BY number"
        return [row["id"] for row in database.execute(query, (int(id, 16),))]


def confirm(owner: Client, query: dict[str, str]) -> tuple[str, dict[str, str]]:
    """Open the page that asks, and return what it says and what its button sends."""
    page = owner.get("/replay", query)
    found = re.search(r'action="/deliveries/replay\?([^"]*)"', page.body.decode())
    return text(page), dict(parse_qsl(unescape(found[1]))) if found else {}


def replay(owner: Client, query: dict[str, str]) -> Exchange:
    return owner.ask("POST", "/replay", query, origin=f"http://{owner.office.host}")


def test_all_that_failed_and_that_the_filter_shows_is_replayed_once_after_one_question(
    office: Office, owner: Client
) -> None:
    failed = [office.put(arrived(), "failed", error="KeyError: 'split'") for _ in range(3)]
    other = office.put(arrived("/webhooks/report"), "failed", error="KeyError")
    fine = office.put(arrived(), answer=b'"done"')
    office.open()
    said, form = confirm(owner, {"endpoint": "/webhooks/train"})
    assert "Replay 3 deliveries?" in said
    assert form == {"endpoint": "/webhooks/train", "until": failed[-1]}
    assert [replays_of(office, id) for id in failed] == [[], [], []], "nothing before it is confirmed"
    assert replay(owner, form).headers["location"] == "/deliveries"
    wait_until(lambda: all(replays_of(office, id) for id in failed))
    assert replay(owner, form).status == 303  # pressed twice
    wait_until(lambda: all(status(office, replays_of(office, id)[0]) == "succeeded" for id in failed))
    assert [len(replays_of(office, id)) for id in (*failed, other, fine)] == [1, 1, 1, 0, 0]
    assert text(owner.get()).count("replayed since") == len(failed)
    assert "Nothing to replay" in confirm(owner, {"endpoint": "/webhooks/train"})[0]
    assert "Replay 1 delivery?" in confirm(owner, {})[0]


def test_of_a_delivery_and_its_replays_only_the_last_is_replayed(office: Office, owner: Client) -> None:
    def failed(replay_of: str | None = None, **what: object) -> str:
        return office.put(arrived(replay_of=replay_of), "failed", error="ValueError", **what)

    first = failed()
    second = failed(first)
    third = failed(second)
    mended = failed()
    office.put(arrived(replay_of=failed(mended)), answer=b"{}")
    under_way = failed()
    office.put(arrived(replay_of=under_way), "queued")
    assert "Replay 1 delivery?" in confirm(owner, {})[0]
    assert confirm(owner, {})[1]["until"] == third


def test_what_failed_for_a_handler_that_is_gone_is_left_out_and_counted(office: Office, owner: Client) -> None:
    lost = [office.put(arrived("/webhooks/of_last_year"), "failed", error="KeyError") for _ in range(2)]
    assert "but for 2 whose handler is not there any more" in confirm(owner, {})[0]
    failed = office.put(arrived(), "failed", error="KeyError")
    office.open()
    said, form = confirm(owner, {})
    assert "Replay 1 delivery?" in said
    assert "and 2 whose handler is not there any more." in said
    assert "any more" not in confirm(owner, {"endpoint": "/webhooks/train"})[0]
    replay(owner, form)
    wait_until(lambda: replays_of(office, failed))
    assert [replays_of(office, id) for id in lost] == [[], []]


def test_what_has_failed_since_the_question_was_asked_is_not_replayed(office: Office, owner: Client) -> None:
    seen = office.put(arrived(), "failed", error="ValueError")
    _, form = confirm(owner, {})
    later = office.put(arrived(), "failed", error="ValueError")
    office.open()
    replay(owner, form)
    wait_until(lambda: replays_of(office, seen))
    assert replays_of(office, later) == []


def test_many_replays_leave_room_for_the_hub_and_go_on_when_the_button_is_pressed_again(
    office: Office, owner: Client
) -> None:
    failed = [office.put(arrived(), "failed", error="ValueError") for _ in range(3)]
    office.open()
    room = iter([True, False])
    office.room = lambda: next(room, True)
    _, form = confirm(owner, {"endpoint": "/webhooks/train"})
    answer = replay(owner, form)
    assert answer.headers["location"] == "/deliveries/replay?endpoint=%2Fwebhooks%2Ftrain"
    wait_until(lambda: len(replays_of(office, failed[0])) == 1)
    said, form = confirm(owner, {"endpoint": "/webhooks/train"})
    assert "Replay 2 deliveries?" in said
    assert replay(owner, form).headers["location"] == "/deliveries"
    wait_until(lambda: [len(replays_of(office, id)) for id in failed] == [1, 1, 1])


@pytest.mark.parametrize("until", ["", "x", "-1", "f" * 16, "'"])
def test_a_form_that_does_not_say_up_to_where_replays_nothing(office: Office, owner: Client, until: str) -> None:
    office.put(arrived(), "failed", error="ValueError")
    assert replay(owner, {"until": until}).status == 404


# --- what strangers write

HOSTILE = "<img src=x onerror=alert(1)>\"'\u202e\u200b\x00\x1b[31m{{7*7}}</textarea></script>&lt;"


class Parsed(HTMLParser):
    """What a browser would make elements and attributes of."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


def test_what_strangers_write_is_text_on_every_page_and_in_every_attribute(office: Office, owner: Client) -> None:
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
        office.put(delivery, "failed", raw, error=f"    | {HOSTILE}", jobs=[job]),
        office.put(arrived(body=raw), answer=b'{"skipped":' + json.dumps(HOSTILE).encode() + b"}"),
        office.put(arrived(body=raw), answer=json.dumps({HOSTILE: HOSTILE}).encode()),
        office.put(arrived(body=raw), answer=raw, jobs=[job]),
        office.put(arrived(f"/webhooks/{HOSTILE}"), "scheduled", error=HOSTILE, due_at=1.0),
    ]
    names = ("q", "endpoint", "repo", "event", "status", "outcome", "before", "kind", "of")
    queries = [{name: HOSTILE} for name in names]
    pages = [owner.get(f"/{id}") for id in ids]
    pages += [owner.get("/test", {"of": id}) for id in ids]
    pages += [owner.get(path, query) for path in ("", "/test", "/hub", "/replay") for query in ({}, *queries)]
    pages += [owner.post("/test", {"endpoint": HOSTILE, "body": HOSTILE, "repo": HOSTILE, "kind": HOSTILE})]
    pages += [owner.post("/hub", {"type": HOSTILE, "name": HOSTILE, "endpoint": HOSTILE, "act": HOSTILE})]
    pages += [owner.get("/" + "%3Cimg%20src=x%3E")]
    for page in pages:
        sent = page.body.decode()
        assert page.status in (200, 400, 404)
        parsed = Parsed(sent)
        assert not {"img", "bdo"} & parsed.tags
        assert not [name for name in parsed.attributes if name.startswith("on") or name == "style"]
        assert sent.count("<script") == sent.count("</script>") == 1
        # What is sent back in a form is as it came; whatever is read is not.
        read = re.sub(r'(value|title)="[^"]*"|<textarea.*?</textarea>', "", sent, flags=re.DOTALL)
        assert not {"\u202e", "\u200b", "\x00", "\x1b"} & set(read)
    assert "\\u202e\\u200b\\x00\\x1b[31m{{7*7}}" in pages[0].body.decode()


# --- a test event


def test_a_test_event_is_filled_in_and_can_be_changed(office: Office, owner: Client) -> None:
    office.put(arrived(repo="model/me/tuned"), answer=b"{}")
    page = owner.get("/test", {"kind": "comment", "endpoint": "/webhooks/report"})
    payload = json.loads(textarea(page.body))
    assert (payload["event"]["scope"], payload["repo"]["name"]) == ("discussion.comment", "me/tuned")
    assert "Payload for /webhooks/report" in text(page)


def test_an_event_is_about_what_its_handler_declares_and_the_last_commit_there() -> None:
    office = Office(
        Endpoint(lambda: None, "/train", watched="dataset:me/data"),
        Endpoint(lambda: None, "/evaluate", watched=["user:me", "model:me/tuned"]),
        Endpoint(lambda: None, "/report"),
    )
    told = "8d2c41f07be35a96e1f4c0d97b6a28e35f1c9d04"  # in the fixture
    me = office.owner()

    def shown(**asked: str) -> tuple[str, str, bool]:
        repo = json.loads(textarea(me.get("/test", asked).body))["repo"]
        return repo["type"], repo["name"], repo["headSha"] == told

    assert shown(endpoint="/webhooks/report") == ("dataset", "username/my-dataset", False)
    for repo in ("model/me/tuned", "space/me/app", "kernel/me/fast"):
        office.put(arrived(repo=repo))
    office.put(arrived(repo="model/me/tuned", fixture="discussion-create"))  # tells no commit
    assert shown() == ("dataset", "me/data", False)
    assert shown(endpoint="/webhooks/evaluate") == ("model", "me/tuned", True)
    assert shown(endpoint="/webhooks/report") == ("space", "me/app", True)  # the last of a type that is known


def textarea(page: bytes) -> str:
    found = re.search(r"<textarea[^>]*>\n(.*?)</textarea>", page.decode(), re.DOTALL)
    assert found
    return unescape(found[1])


def test_a_recorded_delivery_is_edited_as_it_was(office: Office, owner: Client) -> None:
    id = office.put(arrived("/webhooks/report", body='{"title": "\u202e \U0001f642\x7f é"}'.encode()), answer=b"{}")
    page = owner.get("/test", {"of": id})
    assert textarea(page.body) == '{\n  "title": "\\u202e 🙂\\u007f é"\n}'
    assert "Payload for /webhooks/report" in text(page)


def test_an_event_that_does_not_exist_is_a_sentence(owner: Client) -> None:
    page = owner.get("/test", {"kind": "no such"})
    assert (page.status, "There is no kind of event 'no such'." in text(page)) == (400, True)


@pytest.mark.parametrize(
    ("form", "sentence"),
    [
        ({"body": "{"}, "This is no JSON: Expecting property name enclosed in double quotes: line 1 column 2"),
        ({"body": ""}, "This is no JSON"),
        ({"body": "[" * 100_000}, "This is no JSON"),
        ({"body": "{}", "endpoint": "/webhooks/none"}, "There is no such endpoint."),
        ({"body": "{}", "endpoint": "https://evil.example/"}, "There is no such endpoint."),
        ({"body": "{}"}, "This server could not reach itself (ConnectError)."),
    ],
)
def test_an_event_that_cannot_be_sent_stays_to_be_mended(owner: Client, form: dict[str, str], sentence: str) -> None:
    page = owner.post("/test", {"endpoint": "/webhooks/train", **form})
    assert page.status in (400, 502)
    assert sentence in text(page)
    assert textarea(page.body) == form["body"]


def test_a_form_that_is_none_is_a_sentence(owner: Client) -> None:
    for kind in ("multipart/form-data; boundary=x", "multipart/form-data", "application/json", "text/plain", "x"):
        answer = owner.post("/test", {"body": "x"}, content_type=kind)
        assert answer.status == 400, kind
        assert "</html>" in answer.body.decode(), kind
