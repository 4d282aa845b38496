"""A handler as it was registered: where it is reached, and what it asks for."""

from __future__ import annotations

import functools
import inspect
import re
import types
import typing
from collections.abc import Callable
from typing import Any

from starlette.requests import Request

from .delivery import Arrival, Delivery
from .payload import WebhookPayload
from .settings import SetupError, at_least

PREFIX = "/webhooks/"

Handler = Callable[..., Any]

_BY_TYPE = {WebhookPayload: "payload", Delivery: "delivery", Request: "request"}
_BY_TYPE_NAME = {kind.__name__: source for kind, source in _BY_TYPE.items()}
_SOURCES = frozenset(_BY_TYPE.values())


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
    ) -> None:
        if not callable(function):
            raise SetupError(f"A webhook handler must be a function, not {function!r}.")
        self.function = function
        self.name = getattr(function, "__name__", type(function).__name__)
        self.path = _full_path(self.name if path is None else path)
        self.max_attempts = int(at_least(1, "max_attempts", max_attempts, whole=True))
        self.timeout = None if timeout is None else at_least(0.001, "timeout", timeout)
        self.debounce = at_least(0, "debounce", debounce)
        self.description = (inspect.getdoc(function) or "").partition("\n\n")[0].replace("\n", " ")
        self.is_async = _is_async(function)
        self._sources = _sources(function, self.name)
        self.takes_payload = "payload" in self._sources.values()

    def call(self, delivery: Delivery, arrival: Arrival) -> Any:
        """Call the handler with what it asks for; an async one returns its coroutine."""
        values: dict[str, Any] = {"payload": delivery.payload, "delivery": delivery}
        if "request" in self._sources.values():
            values["request"] = arrival.request()
        positional, named = [], {}
        for parameter, source in self._sources.items():
            if parameter.kind is parameter.POSITIONAL_ONLY:
                positional.append(values[source])
            else:
                named[parameter.name] = values[source]
        return self.function(*positional, **named)


def _full_path(path: str) -> str:
    name = path.strip("/")
    if not re.fullmatch(r"[\w.~-]+(/[\w.~-]+)*", name, re.ASCII):
        raise SetupError(
            f"{path!r} cannot be the path of a webhook: use letters, digits and - _ . ~ between slashes, "
            'as in @webhook_endpoint("/my-webhook").'
        )
    return PREFIX + name


def _is_async(function: Handler) -> bool:
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - an object whose __call__ is async
    )


def _sources(function: Handler, name: str) -> dict[inspect.Parameter, str]:
    """Find what fills each parameter: by its annotation, else by its name, else its own default."""
    hints = _hints(function)
    sources = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        source = _source(hints.get(parameter.name, parameter.annotation)) or parameter.name
        if source in _SOURCES:
            sources[parameter] = source
        elif parameter.default is parameter.empty:
            raise SetupError(
                f"The webhook handler {name}() has a parameter {parameter.name!r} that nothing can fill: "
                "annotate it as WebhookPayload, Delivery or fastapi.Request, name it payload, delivery or "
                "request, or give it a default."
            )
    return sources


def _hints(function: Handler) -> dict[str, Any]:
    target = function.func if isinstance(function, functools.partial) else function
    if not (inspect.isfunction(target) or inspect.ismethod(target)):
        target = type(target).__call__
    try:
        return typing.get_type_hints(target)
    except Exception:  # a name that exists only for a type checker; the parameter's name decides then
        return {}


def _source(annotation: Any) -> str | None:
    if isinstance(annotation, str):
        return _BY_TYPE_NAME.get(annotation.rpartition(".")[2])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return next(filter(None, map(_source, typing.get_args(annotation))), None)
    if inspect.isclass(annotation):
        return next((source for kind, source in _BY_TYPE.items() if issubclass(annotation, kind)), None)
    return None
