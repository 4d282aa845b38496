"""A handler as it was registered: where it is reached, and what it asks for."""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from starlette.responses import Response
from starlette.routing import compile_path

from .delivery import Delivery
from .invoke import OURS, FastAPIInvoker, Handler, is_async, plain_function, signature_of
from .responses import Tell, no_one
from .settings import SetupError, at_least
from .watched import read_watched

if TYPE_CHECKING:
    from .watched import ToWatch

logger = logging.getLogger("webhooks")

PREFIX = "/webhooks/"

_PART = r"([\w.~-]|{[A-Za-z_]\w*(:(str|path|int|float|uuid))?})+"
_NO_ANNOTATION = "%s(): its parameter %r has no annotation, so it is looked for in the query. Is it the payload?"


class PlainInvoker:
    """A handler that asks for nothing but payload, delivery and request: it is simply called.

    Args:
        sources: what fills each parameter.
    """

    def __init__(self, function: Handler, sources: Mapping[inspect.Parameter, str]) -> None:
        self.is_async = is_async(function)
        self.takes_payload = "payload" in sources.values()
        self._function, self._sources = function, sources

    def call(self, delivery: Delivery, _: Tell = no_one) -> Any:
        """Call the handler; an async one returns its coroutine."""
        positional, named = [], {}
        for parameter, source in self._sources.items():
            value = delivery.request() if source == "request" else getattr(delivery, source, delivery)
            if parameter.kind is parameter.POSITIONAL_ONLY:
                positional.append(value)
            else:
                named[parameter.name] = value
        return self._function(*positional, **named)


Invoker = PlainInvoker | FastAPIInvoker


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
        self.name = getattr(function, "__name__", type(function).__name__)
        self.path = _full_path(self.name if path is None else path)
        self.shape = re.sub(r"{\w+", "{", self.path)  # without the names of its parameters: no two may have the same
        self.max_attempts = int(at_least(1, "max_attempts", max_attempts, whole=True))
        self.timeout = None if timeout is None else at_least(0.001, "timeout", timeout)
        self.debounce = at_least(0, "debounce", debounce)
        self.template = compile_path(self.path)[0] if "{" in self.path else None
        self.watched = read_watched(watched)
        self._plain = plain_function(function)
        self._code = self._plain.__code__ if self._plain else None
        self._way = self._found_way()

    @property
    def description(self) -> str:
        return (inspect.getdoc(self.function) or "").partition("\n\n")[0].replace("\n", " ")

    @property
    def definition(self) -> tuple[str, str] | None:
        """The module and the name of the function that somebody wrote."""
        return (self._plain.__module__, self._plain.__qualname__) if self._plain else None

    @property
    def invoker(self) -> Invoker:
        """How the handler is called. A hot reload gives a function new code, and so other parameters, in place."""
        if self._plain and self._plain.__code__ is not self._code:
            self._way, self._code = self._found_way(), self._plain.__code__
        return self._way

    def _found_way(self) -> Invoker:
        signature = signature_of(self.function, OURS)
        sources = None if self.template or _streams(self.function) else _sources(signature)
        if sources is not None:
            return PlainInvoker(self.function, sources)
        filled = FastAPIInvoker(self.function, signature, self.path, is_async(self.function))
        for name, parameter in signature.parameters.items():
            in_path = self.template is not None and name in self.template.groupindex
            if parameter.annotation is parameter.default is parameter.empty and not in_path:
                logger.warning(_NO_ANNOTATION, self.name, name)
        return filled


def find(endpoints: Mapping[str, Endpoint], path: str) -> Endpoint | None:
    """Return the endpoint that a path leads to: its own, or else the first with parameters that fits."""
    return endpoints.get(path) or next(
        (one for one in endpoints.values() if one.template and one.template.match(path)), None
    )


def _full_path(path: str) -> str:
    name = path.strip("/")
    if not re.fullmatch(f"{_PART}(/{_PART})*", name, re.ASCII):
        raise SetupError(
            f"{path!r} cannot be the path of a webhook: use letters, digits and - _ . ~ between slashes, "
            'as in @webhook_endpoint("/my-webhook"), or the name of a parameter in braces, as in "/hook/{name}".'
        )
    return PREFIX + name


def _sources(signature: inspect.Signature) -> dict[inspect.Parameter, str] | None:
    """Find what fills each parameter; `None` if it takes FastAPI to say that, or what becomes of the answer."""
    sources: dict[inspect.Parameter, str] = {}
    for parameter in signature.parameters.values():
        source = next((name for name, kind in OURS.items() if parameter.annotation is kind), None)
        is_simple = parameter.default is parameter.empty and parameter.kind not in (
            parameter.VAR_POSITIONAL,
            parameter.VAR_KEYWORD,
        )
        if source is None or not is_simple or (source == "payload" and source in sources.values()):
            return None
        sources[parameter] = source
    returned = signature.return_annotation
    is_response = inspect.isclass(returned) and issubclass(returned, Response)
    filters = not is_response and not any(returned is nothing for nothing in (signature.empty, None, Any))
    return None if filters else sources


def _streams(function: Handler) -> bool:
    plain = plain_function(function)
    return inspect.isgeneratorfunction(plain) or inspect.isasyncgenfunction(plain)
