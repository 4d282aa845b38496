"""Secrets are in no log, no record and no answer to a failure, in whatever form a text has them."""

from __future__ import annotations

import json
import logging
import re
import sqlite3
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import quote

import pytest
from fastapi import Header, HTTPException
from pydantic import AfterValidator
from support.processes import Start

from webhooks import WebhooksServer
from webhooks.testing import serving

SECRET = r"""it's a "new" one\with/all+that & 100%=so"""
SECRETS = {
    "WEBHOOK_SECRET": SECRET,
    "WEBHOOK_SECRET_PREVIOUS": SECRET[:20],  # the beginning of the other one
    "HF_TOKEN": "hf_" + "aB3" * 11,
    "WEBHOOKS_ADMIN_TOKEN": "ein Schlüssel für 5 € 🤗",
}

TABLE = r"""
import base64, json, re
from urllib.parse import quote, urlencode

def in_base64(text):
    return base64.b64encode(text.encode()).decode()

FORMS = {
    "as it is": lambda secret: f"<{secret}>",
    "in JSON": lambda secret: json.dumps({"token": f"<{secret}>"}),
    "in JSON that is not ASCII": lambda secret: json.dumps({"token": f"<{secret}>"}, ensure_ascii=False),
    "in a repr": lambda secret: repr({"token": f"<{secret}>"}),
    "in a repr with both quotes": lambda secret: repr(f"'<{secret}>\""),
    "in a repr of bytes": lambda secret: repr(f"<{secret}>".encode()),
    "in a repr in ASCII": lambda secret: ascii(f"<{secret}>"),
    "in a path": lambda secret: quote(f"/<{secret}>/"),
    "in a query": lambda secret: urlencode({"token": f"<{secret}>"}),
    "by encodeURIComponent": lambda secret: quote(f"<{secret}>", safe="!*'()"),
    "by encodeURI": lambda secret: quote(f"<{secret}>", safe="!*'();/?:@&=+$,#"),
    "in small letters": lambda secret: re.sub("%..", lambda code: code[0].lower(), quote(f"<{secret}>", "")),
    "in base64": lambda secret: f"<{in_base64(secret)}>",
    "after a name of two letters": lambda secret: f"<{in_base64('me:' + secret)}>",
    "after a name of three": lambda secret: f"<{in_base64('you:' + secret)}>",
    "after a name of four": lambda secret: f"<{in_base64('them:' + secret)}>",
}
"""
HIDDEN = re.compile(r"(<|%3C)\w{0,7}\*\*\*=*(>|%3E)", re.IGNORECASE)  # after a part of `name:` in base64, or nothing

SERVER = """
import os
from fastapi import HTTPException
from webhooks import WebhooksServer

server = WebhooksServer()

def told(secret, form):
    return f"{secret} {form}: {FORMS[form](os.environ[secret])}"

@server.add_webhook("/raises/{secret}/{form}")
async def raises(secret: str, form: str):
    raise RuntimeError(told(secret, form))

@server.add_webhook("/refuses/{secret}/{form}")
def refuses(secret: str, form: str):
    raise HTTPException(400, {"reasons": [told(secret, form)]})

@server.add_webhook("/checks/{secret}/{form}")
def checks(secret: str, form: str) -> int:
    return told(secret, form)

@server.add_webhook("/returns/{secret}/{form}")
def returns(secret: str, form: str):
    return told(secret, form)

@server.add_webhook("/ping/{what}")
def ping(what: int):
    ...

server.launch()
"""


def forms() -> dict[str, Callable[[str], str]]:
    names: dict[str, Any] = {}
    exec(TABLE, names)
    return names["FORMS"]


FORMS = forms()
EVERY = [(secret, form) for secret in SECRETS for form in FORMS]


@dataclass
class Told:
    """Where every secret has been told in every form: what the senders got, the console, and the log's columns."""

    answers: dict[str, list[str]]
    console: list[str]
    errors: list[str]
    kept: list[str]


@pytest.fixture(scope="module")
def told(start: Start) -> Told:
    server = start(TABLE + SERVER, **SECRETS)
    answers = {
        kind: [
            server.post(f"{kind}/{secret}/{quote(form)}", b"", headers={"X-Webhook-Secret": SECRET}).text
            for secret, form in EVERY
        ]
        for kind in ("raises", "refuses", "checks", "returns")
    }
    server.post(f"ping/{SECRETS['HF_TOKEN']}", b"", headers={"X-Webhook-Secret": SECRET})
    server.interrupt()
    assert server.wait_for_exit() == 0
    with closing(sqlite3.connect(server.folder / ".webhooks" / "deliveries.db")) as log:
        errors = [text for (text,) in log.execute("SELECT error FROM attempts")]
        kept = [text.decode() for (text,) in log.execute("SELECT answer FROM deliveries")]
    return Told(answers, server.output.splitlines(), errors, kept)


def found(texts: Iterable[str]) -> dict[tuple[str, str], list[str]]:
    """Return what is told of each secret in each form."""
    lines = [line for text in texts for line in text.splitlines()]
    return {
        (secret, form): [line.partition(f"{secret} {form}: ")[2] for line in lines if f"{secret} {form}: " in line]
        for secret, form in EVERY
    }


@pytest.mark.quick
@pytest.mark.once
@pytest.mark.parametrize("where", ["console", "errors", "kept", "refuses", "checks"])
def test_no_secret_is_told_in_any_form(told: Told, where: str) -> None:
    """The handler's own result is the one thing that is left as it is, for the sender."""
    texts = told.answers[where] if where in told.answers else getattr(told, where)
    times = {"console": 2, "errors": 2, "kept": 2, "refuses": 1, "checks": 0}[where]
    for (secret, form), lines in found(texts).items():
        assert len([line for line in lines if HIDDEN.search(line)]) == len(lines) == times, (secret, form, lines)


@pytest.mark.quick
@pytest.mark.once
def test_what_a_handler_returns_reaches_its_sender_as_it_is(told: Told) -> None:
    results = [json.loads(answer) for answer in told.answers["returns"]]
    assert results == [f"{secret} {form}: {FORMS[form](SECRETS[secret])}" for secret, form in EVERY]


@pytest.mark.quick
@pytest.mark.once
def test_no_line_on_the_console_has_a_secret_whoever_wrote_it(told: Told) -> None:
    assert [line for line in told.console if "/webhooks/ping/***, attempt 1: failed" in line]
    assert not [line for line in told.console if SECRETS["HF_TOKEN"] in line]


def test_the_handlers_of_a_programs_own_logging_get_no_secret_either(caplog: pytest.LogCaptureFixture) -> None:
    server = WebhooksServer(webhook_secret="hunter-2-hunter")
    server.add_webhook("/ping/{what}")(lambda: None)
    with caplog.at_level("INFO", "webhooks"), serving(server) as client:
        assert client.deliver("ping/hunter-2-hunter").outcome.status == "succeeded"
        logging.getLogger("webhooks").info("%s and %s", "hunter-2-hunter", "hunter-3-hunter")
    assert "/webhooks/ping/*** (dataset username/my-repo), attempt 1: succeeded" in caplog.text
    assert "*** and hunter-3-hunter" in caplog.text
    assert "hunter-2-hunter" not in caplog.text


# --- The sender's own credentials


OURS = "ours-and-nobody-elses"
THEIRS = r"""their "key", it's=all\theirs/100%"""


def failed(message: Callable[[], str], headers: dict[str, str]) -> tuple[str, str]:
    """Return what the log has of an attempt that failed with this message, and what its sender was answered."""

    def handler() -> None:
        raise HTTPException(400, message())

    server = WebhooksServer(webhook_secret=OURS)
    server.add_webhook("/f")(handler)
    with serving(server) as client:
        sent = client.deliver("f", headers={"X-Webhook-Secret": OURS, **headers})
        (error,) = sent.outcome.errors
        return error.splitlines()[-1].removeprefix("    | "), sent.answer.json()["error"]


@pytest.mark.parametrize("form", FORMS)
def test_the_senders_credential_is_not_recorded_in_any_form(form: str) -> None:
    error, answer = failed(lambda: FORMS[form](THEIRS), {"X-Api-Key": THEIRS})
    assert HIDDEN.search(error)
    assert answer == FORMS[form](THEIRS), "whoever sent it may see it"


@pytest.mark.parametrize(
    ("header", "value", "secret"),
    [
        ("Authorization", "Bearer abcdef123456", "abcdef123456"),
        ("Authorization", 'Digest username="me", response="abcdef123456"', "abcdef123456"),
        ("Authorization", "Basic bWU6YWJjZGVmMTIzNDU2", "abcdef123456"),
        ("Authorization", "Basic bWU6YWJjZGVmMTIzNDU2", "bWU6YWJjZGVmMTIzNDU2"),
        ("Authorization", "Basic no-base64-at-all", "no-base64-at-all"),
        ("Cookie", "a=1; session=abcdef123456", "abcdef123456"),
        ("X-Api-Key", "abcdef, abcdef, ab", "abcdef, abcdef, ab"),
        ("X-Token", f"{OURS}-and-more", f"{OURS}-and-more"),
        ("X-Token", OURS[:-6], OURS),
    ],
)
def test_a_credential_is_found_in_its_header_and_none_leaves_a_tail(header: str, value: str, secret: str) -> None:
    assert failed(lambda: f"<{secret}>", {header: value})[0] == "fastapi.exceptions.HTTPException: 400: <***>"


def test_short_words_of_a_sender_are_left_alone() -> None:
    assert failed(lambda: "1 of abcde", {"Cookie": "a=1; b=abcde"})[0].endswith("400: 1 of abcde")


def judge(token: str) -> str:
    raise ValueError(f"no token of ours: {token}")


def test_a_credential_that_fits_no_parameter_is_not_recorded() -> None:
    server = WebhooksServer(webhook_secret=OURS)

    @server.add_webhook("/f")
    def handler(x_token: Annotated[str, Header(), AfterValidator(judge)]) -> None: ...

    with serving(server) as client:
        (error,) = client.deliver("f", headers={"X-Webhook-Secret": OURS, "X-Token": "abcdef123456"}).outcome.errors
    assert error.splitlines()[-1] == "    | header.x-token: Value error, no token of ours: ***"


@pytest.mark.parametrize(
    ("before", "times", "after"),
    [(64 * 1024 - 10, 1, 99_999), (64 * 1024 + 1, 1, 99_999), (15_000, 1, 15_000), (30_000, 1, 1), (0, 7, 0)],
)
def test_the_longest_credential_is_not_cut_in_two(before: int, times: int, after: int) -> None:
    """A traceback is cut in its middle, and an answer at its end: both are hidden before."""
    longest = "".join(f"{number:05}" for number in range(8000))
    server = WebhooksServer(webhook_secret=OURS)
    text = "x" * before + longest * times + "y" * after

    @server.add_webhook
    def returns() -> str:
        return text

    @server.add_webhook
    def raises() -> None:
        raise RuntimeError(text)

    headers = {"X-Webhook-Secret": OURS, "X-Token": longest}
    with serving(server) as client:
        kept = str(client.deliver("returns", headers=headers).outcome.result)
        (error,) = client.deliver("raises", headers=headers).outcome.errors
    assert not re.search(r"\d{5}", kept)
    assert not re.search(r"\d{5}", re.sub(r"\.\.\. \d+ characters \.\.\.", "", error))
