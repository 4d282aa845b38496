"""Take secrets out of everything that is shown or stored."""

from __future__ import annotations

import functools
import json
import re
from base64 import b64decode, b64encode
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from urllib.parse import quote, unquote_plus

Headers = tuple[tuple[bytes, bytes], ...]

REDACTED = "***"
MIN_SECRET_LENGTH = 6  # characters; a shorter text is a part of ordinary words, too

_CREDENTIAL_NAME = re.compile(r"secret|token|auth|cookie|passw|api-?_?key", re.IGNORECASE)


class Redactor:
    """Replace secrets in a text: `redact(text)`.

    A secret is found as it is, in JSON, in a `repr`, percent-encoded, and in base64, alone or after a user name
    (`Authorization: Basic`). Longer forms are replaced first, because one secret may contain another. A secret with
    fewer than 6 characters is found only as it is.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets = frozenset(filter(None, secrets))
        self._forms = sorted({form for secret in self._secrets for form in _forms(secret)}, key=len, reverse=True)

    def __or__(self, other: Redactor) -> Redactor:
        """Return a redactor for the secrets of both."""
        return Redactor(self._secrets | other._secrets) if other._secrets else self

    def __call__(self, text: str) -> str:
        for form in self._forms:
            text = text.replace(form, REDACTED)
        return text

    def redact_bytes(self, data: bytes) -> bytes:
        """Redact bytes in any encoding that contains ASCII."""
        return self(data.decode("latin-1")).encode("latin-1")


def _forms(secret: str) -> Iterator[str]:
    yield secret
    if len(secret) < MIN_SECRET_LENGTH:
        return
    once = {secret, *_in_code(secret)}
    twice = {form for text in once for form in _in_code(text)}  # the JSON of a response with a `repr` in it
    for form in {*once, *twice, *_in_address(secret)}:
        yield form
        yield form.encode().decode("latin-1")  # as `redact_bytes` reads it
    # Base64 depends on alignment. After `user:` the first two characters mix in unknown bytes: drop them.
    for before, unknown in ((b"", 0), (b":", 0), (b"_:", 2)):
        yield b64encode(before + secret.encode()).decode().rstrip("=")[unknown:]


def _in_code(secret: str) -> Iterator[str]:
    """Yield a text as JSON, and as Python's `repr` of it and of its bytes."""
    yield json.dumps(secret)[1:-1]
    yield json.dumps(secret, ensure_ascii=False)[1:-1]
    for before in ("", '"'):  # a `repr` that contains a quotation mark escapes the apostrophes
        text, skipped = before + secret, len(before) + 1
        yield from (repr(text)[skipped:-1], ascii(text)[skipped:-1], repr(text.encode())[skipped + 1 : -1])


def _in_address(secret: str) -> Iterator[str]:
    for safe in ("", "/", "!*'()", "!*'();/?:@&=+$,#"):  # Python, a path, JavaScript's two functions
        form = quote(secret, safe)
        yield from (form, form.replace("%20", "+"), re.sub("%..", lambda encoded: encoded[0].lower(), form))


@functools.lru_cache(maxsize=256)
def is_credential(name: bytes) -> bool:
    """Return whether the name of a header or query parameter says that its value is a credential.

    Spaces add `X-IP-Token` to each request.
    """
    return _CREDENTIAL_NAME.search(name.decode("latin-1")) is not None


def withhold_headers(
    headers: Iterable[tuple[bytes, bytes]], declared: Collection[bytes], redact: Redactor, is_verified: bool
) -> tuple[Headers, tuple[bytes, ...]]:
    """Return the headers that the log may keep, and the names of those that it must not keep.

    Args:
        declared: the names, in small letters, that FastAPI's security classes declare as credentials.
        redact: takes the server's own secrets out of the other values.
        is_verified: the server's own secret has been compared. The log keeps a mark for it, and a retry or a replay
            sends it again. An unverified one is withheld: a replay would put the real one in its place.
    """
    kept: list[tuple[bytes, bytes]] = []
    withheld: list[bytes] = []
    for name, value in headers:
        if is_verified and name.lower() == b"x-webhook-secret":
            kept.append((name, REDACTED.encode()))
        elif is_credential(name) or name.lower() in declared:
            withheld.append(name)
        else:
            kept.append((name, value))
    values = b"\n".join(value for _, value in kept)
    if redact.redact_bytes(values) != values:
        kept = [(name, redact.redact_bytes(value)) for name, value in kept]
    return tuple(kept), tuple(withheld)


def redact_query(query: bytes, declared: Collection[bytes], redact: Redactor) -> bytes:
    """Return a query in which the values of credentials are `***`."""
    parts = query.decode("latin-1").split("&")
    names = [unquote_plus(part.partition("=")[0]).encode() for part in parts]
    is_secret = [is_credential(name) or name.lower() in declared for name in names]
    kept = [
        f"{part.partition('=')[0]}={REDACTED}" if hide else part for part, hide in zip(parts, is_secret, strict=True)
    ]
    return redact("&".join(kept)).encode("latin-1")


def secret_parts(credentials: Iterable[str]) -> set[str]:
    """Return what is secret in these values of credentials: each value, each word of it, a password.

    Short words are left out: `***` in place of each "1" would hide the text and no secret.
    """
    found: set[str] = set()
    for value in credentials:
        words = re.split(r'[\s;,="]+', value)
        found |= {value, value.partition(" ")[2], *(word for word in words if word not in ("Bearer", "Digest"))}
        if words[0].lower() == "basic":
            with suppress(ValueError):
                found.add(b64decode(value.partition(" ")[2]).decode("latin-1").partition(":")[2])
    return {part for part in found if len(part) >= MIN_SECRET_LENGTH}
