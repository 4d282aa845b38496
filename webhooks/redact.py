"""Secrets: which headers are one, and that none of them is in what is shown or kept."""

from __future__ import annotations

import json
import re
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator
from contextlib import suppress
from urllib.parse import quote

Headers = tuple[tuple[bytes, bytes], ...]

MIN_SECRET = 6  # characters; a shorter one is a part of other words, too

_CREDENTIAL = re.compile(rb"secret|token|auth|cookie|api-?key", re.IGNORECASE)  # Spaces add X-IP-Token


class Redactor:
    """Takes secrets out of a text: `redact(text)`.

    Each goes as it is, as it stands in JSON and in a `repr`, percent-encoded, and in base64, alone or after a user's
    name (`Authorization: Basic`). The longest form goes first, so that nothing is left of a secret with another one in
    it. One with fewer than 6 characters goes as it is only.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._forms = sorted({form for secret in secrets if secret for form in _forms(secret)}, key=len, reverse=True)

    def __or__(self, other: Redactor) -> Redactor:
        """Return what hides the secrets of both."""
        if not other._forms:
            return self
        both = Redactor()
        both._forms = sorted({*self._forms, *other._forms}, key=len, reverse=True)
        return both

    def __call__(self, text: str) -> str:
        for form in self._forms:
            text = text.replace(form, "***")
        return text


def _forms(secret: str) -> Iterator[str]:
    yield secret
    if len(secret) < MIN_SECRET:
        return
    once = {secret, *_in_code(secret)}
    twice = {form for text in once for form in _in_code(text)}  # the JSON of an answer with a `repr` in it
    for form in {*once, *twice, *_in_address(secret)}:
        yield form
        yield form.encode().decode("latin-1")  # how an answer's bytes are read, which may be anything
    # Three bytes become four characters, so it matters how many are before the secret. The last one of a user's name
    # is `:`; the one before that is not known, nor are its characters.
    for before, unknown in ((b"", 0), (b":", 0), (b"_:", 2)):
        yield b64encode(before + secret.encode()).decode().rstrip("=")[unknown:]


def _in_code(secret: str) -> Iterator[str]:
    """Write a text as JSON, and as Python's `repr` of it and of its bytes."""
    yield json.dumps(secret)[1:-1]
    yield json.dumps(secret, ensure_ascii=False)[1:-1]
    for before in ("", '"'):  # in a `repr` with one, an apostrophe gets a backslash
        text, skipped = before + secret, len(before) + 1
        yield from (repr(text)[skipped:-1], ascii(text)[skipped:-1], repr(text.encode())[skipped + 1 : -1])


def _in_address(secret: str) -> Iterator[str]:
    for left_alone in ("", "/", "!*'()", "!*'();/?:@&=+$,#"):  # in Python, for a path, and in JavaScript
        form = quote(secret, left_alone)
        yield from (form, form.replace("%20", "+"), re.sub("%..", lambda encoded: encoded[0].lower(), form))


def is_credential(name: bytes) -> bool:
    return _CREDENTIAL.search(name) is not None


def split_credentials(headers: Iterable[tuple[bytes, bytes]], *, is_ours: bool) -> tuple[Headers, tuple[bytes, ...]]:
    """Return the headers that the log may keep, and the names of those that it must not.

    Args:
        is_ours: the secret in them has been found to be the server's own. Then it needs no keeping: the server
            has it. One that nobody has looked at is withheld, or a replay would make a right one of it.
    """
    kept: list[tuple[bytes, bytes]] = []
    withheld: list[bytes] = []
    for name, value in headers:
        if not is_credential(name):
            kept.append((name, value))
        elif is_ours and name.lower() == b"x-webhook-secret":
            kept.append((name, b"***"))
        else:
            withheld.append(name)
    return tuple(kept), tuple(withheld)


def secrets_in(headers: Iterable[tuple[bytes, bytes]]) -> set[str]:
    """Return what in these headers is secret: each value, each word of it, and a password.

    Short words are left out: to take every "1" out of a text would redact the text and no secret.
    """
    found: set[str] = set()
    for value in (value.decode("latin-1") for name, value in headers if is_credential(name)):
        words = re.split(r'[\s;,="]+', value)
        found |= {value, value.partition(" ")[2], *(word for word in words if word not in ("Bearer", "Digest"))}
        if words[0].lower() == "basic":
            with suppress(ValueError):
                found.add(b64decode(value.partition(" ")[2]).decode("latin-1").partition(":")[2])
    return {part for part in found if len(part) >= MIN_SECRET}
