"""Call a handler with the arguments that its signature asks for: directly, or through FastAPI."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import logging
import types
import typing
from collections.abc import Callable, Mapping
from types import FunctionType, MappingProxyType
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from fastapi.middleware.asyncexitstack import AsyncExitStackMiddleware
from fastapi.params import Depends as Dependency
from fastapi.security.base import SecurityBase
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import compile_path
from starlette.websockets import WebSocket

from .delivery import Delivery
from .payload import WebhookPayload
from .responses import OnResponse, collect, succeeded
from .settings import SetupError

logger = logging.getLogger("webhooks")

Handler = Callable[..., Any]

BY_NAME = {"payload": WebhookPayload, "delivery": Delivery, "request": Request}

_DELIVERY = "webhooks.delivery"  # the key of the delivery in the scope of a FastAPI call


class PlainInvoker:
    """Call a handler that takes only payload, delivery and request.

    Args:
        sources: a name of `BY_NAME` for each parameter.
    """

    def __init__(self, function: Handler, sources: Mapping[inspect.Parameter, str]) -> None:
        self.is_async = is_async(function)
        self.takes_payload = "payload" in sources.values()
        self.credential_names: frozenset[bytes] = frozenset()
        self._function = function
        self._sources = sources

    def call(self, delivery: Delivery, _: OnResponse) -> Any:
        """Call the handler; an async one returns its coroutine."""
        positional, named = [], {}
        for parameter, source in self._sources.items():
            values = {"payload": delivery.payload, "delivery": delivery}
            value = delivery.request() if source == "request" else values[source]
            if parameter.kind is parameter.POSITIONAL_ONLY:
                positional.append(value)
            else:
                named[parameter.name] = value
        return self._function(*positional, **named)


class FastAPIInvoker:
    """Call a handler as the only route of a FastAPI router, so that parameters and results mean what they mean there.

    Raises:
        SetupError: FastAPI refuses the handler, or nothing can fill one of its parameters.
    """

    def __init__(self, function: Handler, signature: inspect.Signature, path: str) -> None:
        self.is_async = is_async(function)
        self.takes_payload = False
        self.credential_names: set[bytes] = set()  # headers and query parameters, in small letters
        try:
            router = self._router(function, signature, path)
            body = getattr(router.routes[-1], "body_field", None)  # of the handler and all its dependencies
            if body and body.field_info.annotation is WebhookPayload and body.field_info.is_required():
                self.takes_payload = True  # the receiver has validated it: inject it
                router = self._router(function, signature, path)
        except SetupError:
            raise
        except Exception as error:
            reason = str(error).partition("\n")[0]
            raise SetupError(f"FastAPI cannot fill the webhook handler {name_of(function)}(): {reason}") from error
        self._app = AsyncExitStackMiddleware(router)  # FastAPI's own application adds it, too

    async def call(self, delivery: Delivery, on_response: OnResponse) -> Response:
        """Call the handler, and return the complete response. `on_response` gets it before background tasks run."""
        request = delivery.request()
        scope = {**request.scope, _DELIVERY: delivery}
        scope["path"] = scope["path"].rstrip("/")  # the receiver accepts a slash at the end
        return await collect(
            self._app, lambda response: on_response(succeeded(delivery, response)), scope, request.receive
        )

    def _router(self, function: Handler, signature: inspect.Signature, path: str) -> APIRouter:
        self._dependencies: dict[int, Handler] = {}
        router = APIRouter()
        router.add_api_route(path, self._with_signature(function, signature), methods=["POST"])
        return router

    def _with_signature(self, call: Handler, signature: inspect.Signature) -> Handler:
        """Return the call with a signature that FastAPI can fill. Keyword-only parameters may come in any order."""
        parameters = [self._parameter(call, parameter) for parameter in signature.parameters.values()]
        wrapper: Any = functools.partial(call)
        wrapper.__signature__ = signature.replace(
            parameters=[parameter.replace(kind=parameter.KEYWORD_ONLY) for parameter in parameters]
        )
        return typing.cast(Handler, wrapper)

    def _parameter(self, call: Handler, parameter: inspect.Parameter) -> inspect.Parameter:
        annotation = getattr(parameter.annotation, "__value__", parameter.annotation)  # of `type Name = ...`
        kind, *marks = typing.get_args(annotation) if typing.get_origin(annotation) is Annotated else [annotation]
        _check_can_be_filled(call, parameter, kind)
        if depends := [mark for mark in (*marks, parameter.default) if isinstance(mark, Dependency)]:
            old = depends[-1]
            new = dataclasses.replace(old, dependency=self._dependency(old.dependency or kind))
            if old is parameter.default:
                return parameter.replace(default=new)
            arguments = (kind, *(new if mark is old else mark for mark in marks))
            return parameter.replace(annotation=Annotated[arguments])
        is_union = typing.get_origin(kind) in (typing.Union, types.UnionType)
        if kind is Delivery or (is_union and Delivery in typing.get_args(kind)):
            return parameter.replace(annotation=Annotated[Delivery, Depends(_delivery)], default=parameter.empty)
        if kind is WebhookPayload and self.takes_payload and parameter.default is parameter.empty:
            return parameter.replace(annotation=Annotated[WebhookPayload, Depends(_payload)])
        return parameter

    def _dependency(self, call: Handler) -> Handler:
        """Return the same wrapper for the same dependency: FastAPI calls it once for all that depend on it."""
        if isinstance(call, SecurityBase) and (name := getattr(call.model, "name", None)):
            self.credential_names.add(name.lower().encode())
        if id(call) not in self._dependencies:
            self._dependencies[id(call)] = self._with_signature(call, signature_of(call))
        return self._dependencies[id(call)]


Invoker = PlainInvoker | FastAPIInvoker


def make_invoker(function: Handler, path: str) -> Invoker:
    """Return a plain invoker where that is enough, else one that uses FastAPI.

    Raises:
        SetupError: nothing can fill a parameter.
    """
    signature = signature_of(function, BY_NAME)
    template = compile_path(path)[0].groupindex
    plain = plain_function(function)
    streams = inspect.isgeneratorfunction(plain) or inspect.isasyncgenfunction(plain)
    sources = None if template or streams else _plain_sources(signature)
    if sources is not None:
        return PlainInvoker(function, sources)
    invoker = FastAPIInvoker(function, signature, path)
    for name, parameter in signature.parameters.items():
        if parameter.annotation is parameter.default is parameter.empty and name not in template:
            logger.warning(
                "%s(): its parameter %r has no annotation, so FastAPI looks for it in the query. Is it the payload?",
                name_of(function),
                name,
            )
    return invoker


def _plain_sources(signature: inspect.Signature) -> dict[inspect.Parameter, str] | None:
    """Return the source of each parameter, or `None` where parameters or the result are FastAPI's business."""
    sources: dict[inspect.Parameter, str] = {}
    for parameter in signature.parameters.values():
        source = next((name for name, kind in BY_NAME.items() if parameter.annotation is kind), None)
        is_variable = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        is_second_payload = source == "payload" and source in sources.values()
        if source is None or parameter.default is not parameter.empty or is_variable or is_second_payload:
            return None
        sources[parameter] = source
    returned = signature.return_annotation
    is_response = inspect.isclass(returned) and issubclass(returned, Response)
    is_filtered = not is_response and not any(returned is kind for kind in (signature.empty, None, Any))
    return None if is_filtered else sources


def _check_can_be_filled(call: Handler, parameter: inspect.Parameter, kind: Any) -> None:
    is_variable = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    is_named = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    if is_named and not isinstance(kind, str) and not (inspect.isclass(kind) and issubclass(kind, WebSocket)):
        return
    shown = str(parameter).replace("'", "")
    hint = "a name of its own, and a type that exists when the program runs"
    raise SetupError(
        f"{name_of(call)}(), for a webhook, has a parameter that nothing can fill: '{shown}'. It needs {hint}."
        + (" If a decorator made this function, put @functools.wraps(...) above it there." if is_variable else "")
    )


def plain_function(handler: Handler) -> FunctionType | None:
    """Return the function below all wrappers, if there is one."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    inner: Any = inspect.unwrap(handler)
    if not (inspect.isfunction(inner) or inspect.ismethod(inner)):
        inner = type(inner).__call__
    inner = getattr(inner, "__func__", inner)
    return inner if isinstance(inner, FunctionType) else None


def is_async(function: Handler) -> bool:
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - an object whose __call__ is async
    )


def signature_of(call: Handler, by_name: Mapping[str, type] = MappingProxyType({})) -> inspect.Signature:
    """Return a signature whose annotations are types, where those exist; `by_name` has the missing annotations."""
    try:
        signature = inspect.signature(call, eval_str=True)
    except Exception:  # an annotation that exists for type checkers only
        signature = inspect.signature(call)
    names = {kind.__name__: kind for kind in BY_NAME.values()} | getattr(plain_function(call), "__globals__", {})

    def evaluated(annotation: Any) -> Any:
        with contextlib.suppress(Exception):
            for _ in range(2):  # quoted, and under `from __future__ import annotations`: a string in a string
                if isinstance(annotation, str):
                    annotation = eval(annotation, names)  # noqa: S307 - the user's own code
        return annotation

    parameters = [
        p.replace(annotation=by_name.get(p.name, p.empty) if p.annotation is p.empty else evaluated(p.annotation))
        for p in signature.parameters.values()
    ]
    return signature.replace(parameters=parameters, return_annotation=evaluated(signature.return_annotation))


def name_of(call: Handler) -> str:
    """Return the name of a function, or of an object's type."""
    return getattr(call, "__name__", type(call).__name__)


async def _delivery(request: Request) -> Any:
    return request.scope[_DELIVERY]


async def _payload(request: Request) -> Any:
    return request.scope[_DELIVERY].payload
