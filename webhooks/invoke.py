"""Runner that FastAPI fills: each is the one route of a small application, which is called in this process.

What a parameter, a dependency or a return annotation means is FastAPI's business. Here it is told what it cannot know:
what a `Delivery` is, and that the door has read the payload already.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from types import FunctionType, MappingProxyType
from typing import Annotated, Any

from fastapi import Depends, FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.params import Depends as Dependency
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.websockets import WebSocket

from .delivery import Delivery
from .payload import WebhookPayload
from .responses import Tell, collected, no_one, succeeded
from .settings import SetupError

Handler = Callable[..., Any]

OURS = {"payload": WebhookPayload, "delivery": Delivery, "request": Request}
_DELIVERY = "webhooks.delivery"  # what a scope has beside the request


class FastAPIInvoker:
    """A handler that FastAPI fills.

    Raises:
        SetupError: FastAPI refuses it, or a parameter is one that nothing can fill.
    """

    def __init__(self, function: Handler, signature: inspect.Signature, path: str, is_async: bool) -> None:
        self.is_async = is_async
        self.takes_payload = False
        try:
            self._app = self._application(function, signature, path)
            body = getattr(self._app.routes[-1], "body_field", None)  # of the handler and all its dependencies
            if body and body.field_info.annotation is WebhookPayload and body.field_info.is_required():
                self.takes_payload = True  # the door has read it already
                self._app = self._application(function, signature, path)
        except SetupError:
            raise
        except Exception as error:
            reason = str(error).partition("\n")[0]
            raise SetupError(f"FastAPI cannot fill the webhook handler {_name(function)}(): {reason}") from error

    async def call(self, delivery: Delivery, tell: Tell = no_one) -> Response:
        """Call the handler and return its answer, which `tell` gets before background tasks run."""
        request = delivery.request()
        scope = {**request.scope, _DELIVERY: delivery}
        scope["path"] = scope["path"].rstrip("/")  # the door is open with a slash at the end, too
        return await collected(self._app, lambda answer: tell(succeeded(delivery, answer)), scope, request.receive)

    def _application(self, function: Handler, signature: inspect.Signature, path: str) -> FastAPI:
        self._dependencies: dict[int, Handler] = {}
        # They are raised again, for whoever calls this: FastAPI would make answers of them.
        raised: dict[Any, Any] = dict.fromkeys((HTTPException, RequestValidationError, Exception), _raise)
        app = FastAPI(openapi_url=None, exception_handlers=raised)
        app.add_api_route(path, self._shown(function, signature), methods=["POST"])
        return app

    def _shown(self, call: Handler, signature: inspect.Signature) -> Handler:
        """Return the call with a signature of which FastAPI fills all by name."""
        parameters = [self._parameter(call, parameter) for parameter in signature.parameters.values()]
        shown: Any = functools.partial(call)
        by_name = [parameter.replace(kind=parameter.KEYWORD_ONLY) for parameter in parameters]
        shown.__signature__ = signature.replace(parameters=by_name)
        return typing.cast(Handler, shown)

    def _parameter(self, call: Handler, parameter: inspect.Parameter) -> inspect.Parameter:
        annotation = getattr(parameter.annotation, "__value__", parameter.annotation)  # of `type Name = ...`
        kind, *marks = typing.get_args(annotation) if typing.get_origin(annotation) is Annotated else [annotation]
        by_name = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        if not by_name or isinstance(kind, str) or (inspect.isclass(kind) and issubclass(kind, WebSocket)):
            shown = str(parameter).replace("'", "")
            raise SetupError(
                f"{_name(call)}(), for a webhook, has a parameter that nothing can fill: '{shown}'. It needs a name "
                "of its own, and a type that is there when the program runs."
            )
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
        """Return what FastAPI is to call: one object for all that depend on it, since it is called once for them."""
        if id(call) not in self._dependencies:
            self._dependencies[id(call)] = self._shown(call, signature_of(call))
        return self._dependencies[id(call)]


def plain_function(handler: Handler) -> FunctionType | None:
    """Return the function that somebody wrote, without what is wrapped around it."""
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
    """Return a signature in which types are no strings, as far as they exist; where there is none, names decide."""
    try:
        signature = inspect.signature(call, eval_str=True)
    except Exception:  # such as a name that is there for a type checker only
        signature = inspect.signature(call)
    names = {kind.__name__: kind for kind in OURS.values()} | getattr(plain_function(call), "__globals__", {})

    def evaluated(annotation: Any) -> Any:
        with contextlib.suppress(Exception):
            for _ in range(2):  # with quotes, where annotations are strings anyway, it is a string of a string
                if isinstance(annotation, str):
                    annotation = eval(annotation, names)  # noqa: S307 - the user's own code
        return annotation

    parameters = [
        p.replace(annotation=by_name.get(p.name, p.empty) if p.annotation is p.empty else evaluated(p.annotation))
        for p in signature.parameters.values()
    ]
    return signature.replace(parameters=parameters, return_annotation=evaluated(signature.return_annotation))


def _name(call: Handler) -> str:
    return getattr(call, "__name__", type(call).__name__)


async def _delivery(request: Request) -> Any:
    return request.scope[_DELIVERY]


async def _payload(request: Request) -> Any:
    return request.scope[_DELIVERY].payload


async def _raise(_: Request, error: Exception) -> Response:
    raise error
