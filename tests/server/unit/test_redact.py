"""Secrets are taken out of logs, records and errors, in each form that a text can have."""

from __future__ import annotations

import base64
import json
import logging
import re
from collections.abc import Callable
from urllib.parse import quote, urlencode

import pytest
from fastapi import HTTPException

from webhooks import WebhooksServer
from webhooks.settings import Settings, load_settings
from webhooks.testing import serving

SECRET = r"""it's a "new" one\with/all+that & 100%=so"""
SECRETS = {
    "WEBHOOK_SECRET": SECRET,
    "WEBHOOK_SECRET_PREVIOUS": SECRET[:20],  # the beginning of the other secret
    "HF_TOKEN": "hf_" + "aB3" * 11,
    "WEBHOOKS_ADMIN_TOKEN": "ein Schlüssel für 5 € 🤗",
}


def in_base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


FORMS: dict[str, Callable[[str], str]] = {
    "as it is": lambda secret: f"<{secret}>",
    "JSON": lambda secret: json.dumps({"token": f"<{secret}>"}),
    "JSON that is not ASCII": lambda secret: json.dumps({"token": f"<{secret}>"}, ensure_ascii=False),
    "repr": lambda secret: repr({"token": f"<{secret}>"}),
    "repr with both quotes": lambda secret: repr(f"'<{secret}>\""),
    "repr of bytes": lambda secret: repr(f"<{secret}>".encode()),
    "repr in ASCII": lambda secret: ascii(f"<{secret}>"),
    "path": lambda secret: quote(f"/<{secret}>/"),
    "query": lambda secret: urlencode({"token": f"<{secret}>"}),
    "encodeURIComponent": lambda secret: quote(f"<{secret}>", safe="!*'()"),
    "encodeURI": lambda secret: quote(f"<{secret}>", safe="!*'();/?:@&=+$,#"),
    "percent-encoded in small letters": lambda secret: re.sub(
        "%..", lambda code: code[0].lower(), quote(f"<{secret}>", "")
    ),
    "base64": lambda secret: f"<{in_base64(secret)}>",
    "base64 after a name of two letters": lambda secret: f"<{in_base64('me:' + secret)}>",
    "base64 after a name of three": lambda secret: f"<{in_base64('you:' + secret)}>",
    "base64 after a name of four": lambda secret: f"<{in_base64('them:' + secret)}>",
}
REDACTED = re.compile(r"(<|%3C)\w{0,7}\*\*\*=*(>|%3E)", re.IGNORECASE)  # base64 may begin with a part of `name:`


@pytest.mark.parametrize("form", FORMS)
def test_each_form_of_a_secret_is_redacted(form: str) -> None:
    redact = load_settings(Settings, SECRETS).redact
    for name, secret in SECRETS.items():
        assert REDACTED.search(redact(FORMS[form](secret))), name
    assert redact("nothing secret") == "nothing secret"


def test_the_programs_own_log_handlers_get_no_secret(caplog: pytest.LogCaptureFixture) -> None:
    server = WebhooksServer(webhook_secret="hunter-2-hunter")
    server.add_webhook("/ping/{what}")(lambda: None)
    with caplog.at_level("INFO", "webhooks"), serving(server) as client:
        assert client.deliver("ping/hunter-2-hunter").outcome.status == "succeeded"
        logging.getLogger("webhooks").info("%s and %s", "hunter-2-hunter", "hunter-3-hunter")
    assert "/webhooks/ping/***" in caplog.text
    assert "*** and hunter-3-hunter" in caplog.text
    assert "hunter-2-hunter" not in caplog.text


# --- the sender's own credentials

OWN = "own-and-nobody-elses"
THEIRS = r"""their "key", it's=all\theirs/100%"""


def failed(message: str, headers: dict[str, str]) -> tuple[str, str]:
    """Return the recorded error of a handler that fails with this message, and the error in its response."""

    def handler() -> None:
        raise HTTPException(400, message)

    server = WebhooksServer(webhook_secret=OWN)
    server.add_webhook("/f")(handler)
    with serving(server) as client:
        sent = client.deliver("f", headers={"X-Webhook-Secret": OWN, **headers})
        (error,) = sent.outcome.errors
        return error.splitlines()[-1], sent.answer.json()["error"]


def test_a_senders_credential_is_not_recorded() -> None:
    error, answer = failed(FORMS["repr"](THEIRS), {"X-Api-Key": THEIRS})
    assert REDACTED.search(error)
    assert answer == FORMS["repr"](THEIRS), "its sender may see it"


@pytest.mark.parametrize(
    ("header", "value", "secret"),
    [
        ("Authorization", "Bearer abcdef123456", "abcdef123456"),
        ("Authorization", 'Digest username="me", response="abcdef123456"', "abcdef123456"),
        ("Authorization", "Basic bWU6YWJjZGVmMTIzNDU2", "abcdef123456"),
        ("Cookie", "a=1; session=abcdef123456", "abcdef123456"),
        ("X-Token", f"{OWN}-and-more", f"{OWN}-and-more"),
    ],
)
def test_a_credential_is_found_in_its_header(header: str, value: str, secret: str) -> None:
    assert failed(f"<{secret}>", {header: value})[0].endswith("HTTPException: 400: <***>")
