"""A delivery that is not over, as this process knows it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from starlette.responses import Response

from .. import answers
from .log import Unfinished


class NotTaken(Exception):
    """A delivery was neither recorded nor run; the text says why."""


@dataclass(eq=False)
class Life:
    """Where a delivery stands, and who waits for it.

    Attributes:
        path: of its endpoint.
        status: what the log says, or `arriving`.
        subject: what it is about, while a newer one about the same may take its place.
        due_at: when its next attempt begins, in seconds since 1970; `None` while it runs.
        failures: attempts that have failed.
        left: what the last process left of it, until that is written down as going on.
        answer: what its sender is told, as soon as that is known.
        is_late: its sender has waited long enough, and is told as soon as it is recorded.
        alarm: what it sleeps until.
    """

    id: str
    path: str
    status: str
    subject: str | None = None
    due_at: float | None = None
    failures: int = 0
    left: Unfinished | None = None
    answer: asyncio.Future[Response] | None = None
    is_late: bool = False
    task: asyncio.Task[None] | None = None
    alarm: asyncio.Future[None] | None = None

    def tell(self, answer: Response) -> None:
        if self.answer and not self.answer.done():
            self.answer.set_result(answer)

    def accept(self) -> None:
        if self.answer and not self.answer.done():  # else there is nobody to build an answer for
            self.answer.set_result(answers.accepted(self.id, self.status))

    def refuse(self, reason: str) -> None:
        if self.answer and not self.answer.done():
            self.answer.set_exception(NotTaken(reason))

    def wake_up(self) -> None:
        if self.alarm and not self.alarm.done():
            self.alarm.set_result(None)
