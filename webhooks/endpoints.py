"""A handler as it was registered: where it is reached, and what it asks for."""

from __future__ import annotations

import contextlib
import functools
import inspect
import re
import threading
import types
import typing
from collections.abc import Callable
from types import CodeType, FunctionType
from typing import Any

from starlette.requests import Request

from .delivery import Delivery
from .payload import WebhookPayload
from .reloading import plain_function
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
        self.plain = plain_function(function)
        self.registered_by = threading.current_thread()
        self._sources = _sources(function, self.name)
        self._is_async = _is_async(function)
        self._read_from = self._code
        if self.plain:
            self._made_of = (self.plain.__code__, self.plain.__defaults__, self.plain.__kwdefaults__)

    @property
    def description(self) -> str:
        return (inspect.getdoc(self.function) or "").partition("\n\n")[0].replace("\n", " ")

    @property
    def takes_payload(self) -> bool:
        return "payload" in self._parameters().values()

    @property
    def is_async(self) -> bool:
        self._parameters()
        return self._is_async

    def call(self, delivery: Delivery) -> Any:
        """Call the handler with what it asks for; an async one returns its coroutine."""
        parameters = self._parameters()
        values: dict[str, Any] = {"payload": delivery.payload, "delivery": delivery}
        if "request" in parameters.values():
            values["request"] = delivery.request()
        positional, named = [], {}
        for parameter, source in parameters.items():
            if parameter.kind is parameter.POSITIONAL_ONLY:
                positional.append(values[source])
            else:
                named[parameter.name] = values[source]
        return self.function(*positional, **named)

    @property
    def definition(self) -> tuple[str, str] | None:
        """The module and the name of the function that somebody wrote."""
        return (self.plain.__module__, self.plain.__qualname__) if self.plain else None

    def is_like(self, other: Endpoint) -> bool:
        """Tell whether this one does the same as the other."""
        return self._likeness() == other._likeness()

    def _likeness(self) -> tuple[object, ...]:
        code = self._code and self._code.replace(co_firstlineno=1)
        parameters = [str(parameter) for parameter in self._parameters()]
        return code, parameters, self.description, self.max_attempts, self.timeout, self.debounce

    @property
    def _code(self) -> CodeType | None:
        return self.plain.__code__ if self.plain else None

    def _parameters(self) -> dict[inspect.Parameter, str]:
        """Return what fills each parameter. The handler's code may have been patched since the last time."""
        code = self._code
        if code is not self._read_from:
            self._is_async = _is_async(self.function)
            with contextlib.suppress(SetupError):  # its call will fail, and say what is missing
                self._sources = _sources(self.function, self.name)
            self._read_from = code  # last: until then every other thread looks for itself
        return self._sources

    def check(self, new: FunctionType) -> None:
        """See whether this can become the handler; if not, undo what a reload may have made of it already.

        Raises:
            SetupError: a parameter cannot be filled.
        """
        if self.plain is self.function:
            try:
                _sources(new, self.name)
            except SetupError:
                self.plain.__code__, self.plain.__defaults__, self.plain.__kwdefaults__ = self._made_of
                raise

    def become(self, new: FunctionType) -> bool:
        """Take over what a reload has made of the handler; return whether that is new here.

        jurigged itself gives a function its new code and defaults, but neither annotations nor docstring, and misses
        one that was defined anew before.
        """
        plain = self.plain
        if plain is None or plain.__annotations__ is new.__annotations__:
            return False
        # The code comes last: whoever sees that it is new finds all else that belongs to it.
        plain.__annotations__, plain.__doc__ = new.__annotations__, new.__doc__
        if plain.__code__.co_freevars == new.__code__.co_freevars:
            plain.__defaults__, plain.__kwdefaults__ = new.__defaults__, new.__kwdefaults__
            plain.__code__ = new.__code__
        self._made_of = (plain.__code__, plain.__defaults__, plain.__kwdefaults__)
        self._read_from = None
        return True


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
    try:
        return typing.get_type_hints(plain_function(function))
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
