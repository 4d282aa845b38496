"""Secrets are taken out of what is shown or kept, in every form in which a text may have them."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Iterable, Iterator
from urllib.parse import quote

MIN_SECRET = 6  # characters; a shorter one is a part of other words, too

_PLAIN = re.compile(r"[\w.~-]+", re.ASCII)  # what neither JSON nor `repr` nor an address writes in another way

# What percent-encoding leaves as it is: in Python, in Python for a path, and in JavaScript for a part of an address
# and for all of one.
_LEFT_ALONE = ("", "/", "!*'()", "!*'();/?:@&=+$,#")


class Hide:
    """Takes secrets out of a text: `hide(text)`.

    Each goes as it is, as it stands in JSON and in a `repr` (and in one of these inside another), percent-encoded, and
    in base64, alone or after a user's name (`Authorization: Basic`). The longest form goes first, so that nothing is
    left of a secret with another one in it.

    One with fewer than 6 characters goes as it is only: its base64 has so few letters that other words have them, too.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._forms = _longest_first({form for secret in secrets if secret for form in _forms(secret)})

    def __or__(self, other: Hide) -> Hide:
        """Return what hides the secrets of both."""
        both = Hide()
        both._forms = _longest_first({*self._forms, *other._forms})
        return both

    def __call__(self, text: str) -> str:
        for form in self._forms:  # one regular expression for all takes longer
            text = text.replace(form, "***")
        return text

    def beginning(self, text: str, length: int) -> str:
        """Return the first characters of a text without secrets, and look at no more than `reach` of it."""
        if len(text) < self.reach(length):
            return self(text)[:length]
        # A secret that this cuts in two is not hidden, and stands in the part that is left out.
        shown = self(text[: self.reach(length)])
        return shown[: max(0, len(shown) - self._longest)][:length]

    def end(self, text: str, length: int) -> str:
        """Return the last ones in the same way."""
        if len(text) < self.reach(length):
            return self(text)[-length:]
        return self(text[-self.reach(length) :])[self._longest :][-length:]

    def reach(self, length: int) -> int:
        """How many characters of a text it takes to know that many of it without secrets."""
        return length + 2 * self._longest

    @property
    def _longest(self) -> int:
        return len(self._forms[0]) if self._forms else 0


def _longest_first(forms: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(forms, key=len, reverse=True))


def _forms(secret: str) -> Iterator[str]:
    yield secret
    if len(secret) < MIN_SECRET:
        return
    if not _PLAIN.fullmatch(secret):
        once = {secret, *_in_code(secret)}
        twice = {form for text in once for form in _in_code(text)}  # the JSON of an answer with a `repr` in it
        for form in {*once, *twice, *_in_address(secret)}:
            yield form
            yield form.encode().decode("latin-1")  # how an answer's bytes are read, which may be anything
    yield from _in_base64(secret.encode())


def _in_code(secret: str) -> Iterator[str]:
    """Write a text as JSON, and as Python's `repr` of it and of its bytes."""
    for is_ascii in (True, False):
        yield json.dumps(secret, ensure_ascii=is_ascii)[1:-1]
    for before in ("", '"'):  # in a `repr` with one, an apostrophe gets a backslash
        text, skipped = before + secret, len(before)
        yield repr(text)[skipped + 1 : -1]
        yield ascii(text)[skipped + 1 : -1]
        yield repr(text.encode())[skipped + 2 : -1]


def _in_address(secret: str) -> Iterator[str]:
    for left_alone in _LEFT_ALONE:
        form = quote(secret, left_alone)
        yield form
        yield form.replace("%20", "+")
        yield re.sub("%..", lambda encoded: encoded[0].lower(), form)


def _in_base64(secret: bytes) -> Iterator[str]:
    """Three bytes become four characters, so it matters how many bytes are before the secret: 3n, 3n + 1 or 3n + 2.

    The last one is known where it is the `:` after a user's name. The one before that is not, nor its characters.
    """
    for before, unknown in ((b"", 0), (b":", 0), (b"_:", 2)):
        yield b64encode(before + secret).decode().rstrip("=")[unknown:]
