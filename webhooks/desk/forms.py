"""What the owner's pages are sent: filters and forms, and the sentence for what makes no sense."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

from starlette.requests import Request

from .queries import OUTCOMES, STATUSES, Filter

MAX_VALUE = 300  # characters of a filter
MAX_FORM = 4 * 1024 * 1024  # bytes; a payload may be 1 MiB, and a form writes some characters as three


class Sorry(Exception):
    """What was asked for cannot be done; the text is a sentence for the owner."""

    def __init__(self, sentence: str, status_code: int = 400) -> None:
        super().__init__(sentence)
        self.status_code = status_code


def filter_of(asked: Mapping[str, str]) -> Filter:
    """Read a filter out of an address or a form; what is empty is any."""
    given = {field.name: asked.get(field.name, "").strip()[:MAX_VALUE] or None for field in fields(Filter)}
    for name, known in (("outcome", OUTCOMES), ("status", STATUSES)):
        if given[name] is not None and given[name] not in known:
            raise Sorry(f"There is no {name} {given[name]!r}. It is one of: {', '.join(known)}.")
    return Filter(**given)


async def form_of(request: Request) -> dict[str, str]:
    """Read a form. Of fields with one name it has the last."""
    length = request.headers.get("content-length", "")
    if not length.isdecimal() or int(length) > MAX_FORM:
        raise Sorry(f"A form has at most {MAX_FORM} bytes, and says how many.", 413)
    form = await request.form(max_part_size=MAX_FORM)
    return {name: value for name, value in form.items() if isinstance(value, str)}
