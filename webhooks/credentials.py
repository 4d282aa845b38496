"""Credentials in a request's headers: needed to judge it, and by nobody after that."""

from __future__ import annotations

import base64
import contextlib
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache

from .hiding import MIN_SECRET

Headers = tuple[tuple[bytes, bytes], ...]

OURS = b"***"  # stands where the server's own secret was

_SECRET_HEADER = b"x-webhook-secret"
_CREDENTIAL = re.compile(rb"secret|token|auth|cookie|api-?key", re.IGNORECASE)  # Spaces add X-IP-Token


@lru_cache(maxsize=256)
def is_credential(name: bytes) -> bool:
    return _CREDENTIAL.search(name) is not None


def split_credentials(headers: Iterable[tuple[bytes, bytes]], *, is_ours: bool) -> tuple[Headers, tuple[bytes, ...]]:
    """Return the headers that the log may keep, and the names of those that it must not.

    Args:
        is_ours: the secret in them has been found to be the server's own. Then it needs no keeping: the server
            has it. One that nobody has looked at is withheld, or a replay would make a right one of it.
    """
    kept = []
    withheld = []
    for name, value in headers:
        if not is_credential(name):
            kept.append((name, value))
        elif is_ours and name.lower() == _SECRET_HEADER:
            kept.append((name, OURS))
        else:
            withheld.append(name)
    return tuple(kept), tuple(withheld)


def secrets_in(headers: Iterable[tuple[bytes, bytes]]) -> set[str]:
    """Return what in these headers is secret.

    Short words are left out: to take every "1" out of a text would hide the text and no secret.
    """
    sent = [(name, value.decode("latin-1")) for name, value in headers if is_credential(name)]
    return {part for name, value in sent for part in _parts(name, value) if len(part) >= MIN_SECRET}


def _parts(name: bytes, value: str) -> Iterator[str]:
    """Yield what may be the secret: all but the name of a scheme, each word, and a password."""
    scheme, _, rest = value.partition(" ") if b"auth" in name.lower() else ("", "", value)
    yield rest
    yield from re.split(r'[\s;,="]+', value)
    if scheme.lower() == "basic":
        with contextlib.suppress(ValueError):
            yield base64.b64decode(rest).decode("latin-1").partition(":")[2]
