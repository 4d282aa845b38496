"""A handler as it was registered: where it is reached, and what it asks for."""

from __future__ import annotations

import functools
import inspect
import logging
import re
import threading
from collections.abc import Mapping
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any

from starlette.routing import compile_path

from .delivery import Delivery
from .filling import Filled
from .settings import SetupError, at_least
from .signatures import BY_NAME, Handler, filters, handler_signature, is_async, plain_function, streams
from .watched import read_watched

if TYPE_CHECKING:
    from .watched import ToWatch

logger = logging.getLogger("webhooks")

PREFIX = "/webhooks/"

_PART = r"([\w.~-]|{[A-Za-z_]\w*(:(str|path|int|float|uuid))?})+"
_NO_ANNOTATION = "%s(): its parameter %r has no annotation, so it is looked for in the query. Is it the payload?"
_VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class Direct:
    """A handler that asks for nothing but payload, delivery and request: it is simply called.

    Args:
        sources: what fills each parameter.
    """

    is_current = True

    def __init__(self, function: Handler, sources: Mapping[inspect.Parameter, str], is_async: bool) -> None:
        self.is_async = is_async
        self.takes_payload = "payload" in sources.values()
        self._takes_request = "request" in sources.values()
        self._function = function
        self._sources = sources

    def call(self, delivery: Delivery) -> Any:
        """Call the handler; an async one returns its coroutine."""
        values: dict[str, Any] = {"payload": delivery.payload, "delivery": delivery}
        if self._takes_request:
            values["request"] = delivery.request()
        positional, named = [], {}
        for parameter, source in self._sources.items():
            if parameter.kind is parameter.POSITIONAL_ONLY:
                positional.append(values[source])
            else:
                named[parameter.name] = values[source]
        return self._function(*positional, **named)


Way = Direct | Filled


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
        self.max_attempts = int(at_least(1, "max_attempts", max_attempts, whole=True))
        self.timeout = None if timeout is None else at_least(0.001, "timeout", timeout)
        self.debounce = at_least(0, "debounce", debounce)
        self.template = compile_path(self.path)[0] if "{" in self.path else None
        self.watched = read_watched(watched)
        self.plain = plain_function(function)
        self.registered_by = threading.current_thread()
        self._way = self._found_way(function)
        self._read_from = self._code
        if self.plain:
            self._made_of = (self.plain.__code__, self.plain.__defaults__, self.plain.__kwdefaults__)

    @property
    def description(self) -> str:
        return (inspect.getdoc(self.function) or "").partition("\n\n")[0].replace("\n", " ")

    @property
    def shape(self) -> str:
        """The path without the names of its parameters: no two endpoints may have the same."""
        return re.sub(r"{\w+", "{", self.path)

    @property
    def definition(self) -> tuple[str, str] | None:
        """The module and the name of the function that somebody wrote."""
        return (self.plain.__module__, self.plain.__qualname__) if self.plain else None

    def is_like(self, other: Endpoint) -> bool:
        """Tell whether this one does the same as the other."""
        return self._likeness() == other._likeness()

    def _likeness(self) -> tuple[object, ...]:
        code = self._code and self._code.replace(co_firstlineno=1)
        return (
            code,
            str(inspect.signature(self.function)),
            self.description,
            self.max_attempts,
            self.timeout,
            self.debounce,
            self.watched,
        )

    @property
    def _code(self) -> CodeType | None:
        return self.plain.__code__ if self.plain else None

    @property
    def way(self) -> Way:
        """How the handler is called. Its code or a dependency's may have been patched since the last time."""
        code = self._code
        if code is not self._read_from or not self._way.is_current:
            try:
                self._way = self._found_way(self.function)
            except SetupError as error:
                self._way = Direct(functools.partial(_refuse, error), {}, is_async=False)
            self._read_from = code  # last: until then every other thread looks for itself
        return self._way

    def _found_way(self, function: Handler) -> Way:
        signature = handler_signature(function)
        sources = None if self.template or streams(function) else _sources(signature)
        if sources is None:
            filled = Filled(function, signature, self.path, is_async(function))
            in_path = self.template.groupindex if self.template else {}
            for name, parameter in signature.parameters.items():
                if parameter.annotation is parameter.default is parameter.empty and name not in in_path:
                    logger.warning(_NO_ANNOTATION, self.name, name)
            return filled
        return Direct(function, sources, is_async(function))

    def check(self, new: FunctionType) -> None:
        """See whether this can become the handler; if not, undo what a reload may have made of it already.

        Raises:
            SetupError: a parameter cannot be filled.
        """
        if self.plain is self.function:
            try:
                self._found_way(new)
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
        source = next((name for name, kind in BY_NAME.items() if parameter.annotation is kind), None)
        is_simple = parameter.default is parameter.empty and parameter.kind not in _VARIABLE
        if source is None or not is_simple or (source == "payload" and source in sources.values()):
            return None
        sources[parameter] = source
    return None if filters(signature) else sources


def _refuse(error: SetupError) -> None:
    raise error
