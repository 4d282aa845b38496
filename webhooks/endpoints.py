"""A registered handler: its path, its options, and how an event reaches it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import ValidationError
from starlette.routing import compile_path

from .invoke import Handler, Invoker, make_invoker, name_of, plain_function
from .payload import WebhookPayload, parse_payload
from .redact import Redactor
from .responses import RefusedError
from .settings import SetupError, check_number
from .watched import read_watched

if TYPE_CHECKING:
    from .watched import ToWatch

PREFIX = "/webhooks/"

_SEGMENT = r"([\w.~-]|{[A-Za-z_]\w*(:(str|path|int|float|uuid))?})+"


class Endpoint:
    """One handler and its path. `WebhooksServer.add_webhook` explains the arguments and what is raised."""

    def __init__(
        self,
        function: Handler,
        path: str | None = None,
        *,
        max_attempts: int = 1,
        timeout: float | None = None,
        debounce: float = 0,
        watched: ToWatch = None,
    ) -> None:
        if not callable(function):
            raise SetupError(f"A webhook handler must be a function, not {function!r}.")
        self.function = function
        self.path = _full_path(name_of(function) if path is None else path)
        self.shape = re.sub(r"{\w+", "{", self.path)  # without parameter names: two of one shape match the same paths
        pattern, self._format, _ = compile_path(self.path)
        self.template = pattern if "{" in self.path else None
        self.max_attempts = int(check_number("max_attempts", max_attempts, 1, is_whole=True))
        self.timeout = None if timeout is None else check_number("timeout", timeout, 0.001)
        self.debounce = check_number("debounce", debounce, 0)
        self.watched = read_watched(watched)
        if self.watched and self.template:
            raise SetupError(
                f"{self.path} has a parameter, so the Hub cannot be told one address for it: leave out watched=."
            )
        self._plain = plain_function(function)
        self._code = self._plain.__code__ if self._plain else None
        self._invoker = make_invoker(function, self.path)

    @property
    def description(self) -> str:
        """The first paragraph of the handler's docstring."""
        return (inspect.getdoc(self.function) or "").partition("\n\n")[0].replace("\n", " ")

    @property
    def definition(self) -> tuple[str, str] | None:
        """The module and the name of the function below all wrappers."""
        return (self._plain.__module__, self._plain.__qualname__) if self._plain else None

    def invoker(self) -> Invoker:
        """Return how to call the handler, also after a hot reload of the Hub has replaced its code."""
        if self._plain and self._plain.__code__ is not self._code:
            self._invoker, self._code = make_invoker(self.function, self.path), self._plain.__code__
        return self._invoker

    def redact_path(self, path: str, redact: Redactor) -> str:
        """Return a path of this endpoint without secrets in its parameters. What the program wrote stays."""
        if self.template is None or (found := self.template.match(path)) is None:
            return self.path
        return self._format.format(**{name: redact(value) for name, value in found.groupdict().items()})

    def read_payload(self, body: bytes) -> WebhookPayload | None:
        """Return the payload in a body, or `None` if there is no payload and the handler takes none.

        Raises:
            RefusedError: 400 or 422: the handler takes a payload, and the body is not a payload. The text has each
                field and reason, and never the input.
        """
        try:
            return parse_payload(body)
        except ValidationError as error:
            problems = error.errors(include_url=False, include_context=False, include_input=False)
        if not self.invoker().takes_payload:
            return None
        if problems[0]["type"] == "json_invalid":
            raise RefusedError(400, "The body is not JSON.")
        fields = [
            {"field": ".".join(map(str, problem["loc"])) or "body", "reason": problem["msg"]} for problem in problems
        ]
        raise RefusedError(422, "The body is not a webhook payload of the Hub.", fields=fields)


def find(endpoints: Mapping[str, Endpoint], path: str) -> Endpoint | None:
    """Return the endpoint of this path, or the first one with parameters that matches it."""
    endpoint = endpoints.get(path)
    if endpoint and not endpoint.template:
        return endpoint
    return next((other for other in endpoints.values() if other.template and other.template.match(path)), None)


def named(endpoints: Mapping[str, Endpoint], name: str) -> tuple[str, Endpoint]:
    """Return the path that a name stands for, with or without `/webhooks/`, and its endpoint.

    Raises:
        LookupError: there is no such endpoint, and the text lists the handlers; or a parameter has no value.
    """
    path = PREFIX + name.removeprefix(PREFIX).strip("/")
    if path in endpoints and endpoints[path].template:
        raise LookupError(f"{path} has a parameter: name a path with its value.")
    if endpoint := find(endpoints, path):
        return path, endpoint
    raise LookupError(f"There is no handler at {path}. There are: {', '.join(endpoints)}.")


def _full_path(path: str) -> str:
    name = path.strip("/")
    if not re.fullmatch(f"{_SEGMENT}(/{_SEGMENT})*", name, re.ASCII):
        raise SetupError(
            f"{path!r} cannot be the path of a webhook: use letters, digits and - _ . ~ between slashes, "
            'as in @webhook_endpoint("/my-webhook"), or the name of a parameter in braces, as in "/hook/{name}".'
        )
    return PREFIX + name
