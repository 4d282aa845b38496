"""Handlers that FastAPI fills: each is the one route of a small application, which is called in this process.

What a parameter, a dependency or a return annotation means is FastAPI's business. Here it is told what it cannot know:
what a `Delivery` is, and that a `def` handler has a thread already.
"""

from __future__ import annotations

import contextvars
import dataclasses
import functools
import inspect
import types
import typing
from typing import Annotated, Any

from fastapi import Depends, FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.params import Depends as Dependency
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.websockets import WebSocket

from . import answers
from .delivery import Delivery
from .own_loop import aside
from .payload import WebhookPayload
from .settings import SetupError
from .signatures import Handler, filters, is_def, plain_function, signature_of, streams

_UNIONS = (typing.Union, types.UnionType)
_scope: contextvars.ContextVar[Any] = contextvars.ContextVar("scope")
_DELIVERY, _RETURNED = "webhooks.delivery", "webhooks.returned"  # what a scope has beside the request


class Filled:
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

    def _application(self, function: Handler, signature: inspect.Signature, path: str) -> FastAPI:
        self._made_of: list[tuple[types.FunctionType, types.CodeType]] = []
        self._dependencies: dict[int, Handler] = {}
        # They are raised again, for whoever calls this: FastAPI would make answers of them.
        raised: dict[Any, Any] = dict.fromkeys((HTTPException, RequestValidationError, Exception), _raise)
        app = FastAPI(openapi_url=None, exception_handlers=raised)
        endpoint = _endpoint(function, self.is_async, signature, self._parameters(function, signature))
        app.add_api_route(path, endpoint, methods=["POST"])
        return app

    @property
    def is_current(self) -> bool:
        """Whether the handler and its dependencies have the code, and so the parameters, that FastAPI has read."""
        return all(function.__code__ is code for function, code in self._made_of)

    async def answer(self, delivery: Delivery, tell: answers.Tell) -> Response:
        """Call the handler and return its answer, which `tell` gets before background tasks run."""
        answer, _ = await self._called(delivery, tell)
        return answer

    async def returned(self, delivery: Delivery) -> Any:
        """Call the handler and return what it returns, before that is filtered."""
        answer, scope = await self._called(delivery, lambda _: None)
        return scope.get(_RETURNED, answer)

    async def _called(self, delivery: Delivery, tell: answers.Tell) -> tuple[Response, Any]:
        request = delivery.request()
        scope = request.scope
        scope[_DELIVERY] = delivery
        scope["path"] = scope["path"].rstrip("/")  # the door is open with a slash at the end, too
        _scope.set(scope)
        return await answers.collected(self._app, tell, scope, request.receive), scope

    # How FastAPI is told what to fill

    def _parameters(self, call: Handler, signature: inspect.Signature) -> list[inspect.Parameter]:
        if function := plain_function(call.__init__ if inspect.isclass(call) else call):
            self._made_of.append((function, function.__code__))
        return [self._parameter(call, parameter) for parameter in signature.parameters.values()]

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
            dependency = old.dependency or kind
            called = self._dependency(dependency)
            if called is dependency:
                return parameter
            new = dataclasses.replace(old, dependency=called)
            if old is parameter.default:
                return parameter.replace(default=new)
            arguments = (kind, *(new if mark is old else mark for mark in marks))
            return parameter.replace(annotation=Annotated[arguments])
        if kind is Delivery or (typing.get_origin(kind) in _UNIONS and Delivery in typing.get_args(kind)):
            return parameter.replace(annotation=Annotated[Delivery, Depends(_delivery)], default=parameter.empty)
        if kind is WebhookPayload and self.takes_payload and parameter.default is parameter.empty:
            return parameter.replace(annotation=Annotated[WebhookPayload, Depends(_payload)])
        return parameter

    def _dependency(self, call: Handler) -> Handler:
        """Return what FastAPI is to call: one object for all that depend on it, since it is called once for them."""
        if id(call) not in self._dependencies:
            signature = signature_of(call)
            parameters = self._parameters(call, signature)
            is_as_it_was = all(new is old for new, old in zip(parameters, signature.parameters.values(), strict=True))
            if not self.is_async and is_def(call):  # the thread that the handler has will do for it, too
                called: Any = functools.partial(aside, call)
            elif is_as_it_was:
                called = call
            else:
                called = functools.partial(call)
            self._dependencies[id(call)] = called if called is call else _shown(called, signature, parameters)
        return self._dependencies[id(call)]


def _endpoint(
    function: Handler, is_async: bool, signature: inspect.Signature, parameters: list[inspect.Parameter]
) -> Handler:
    """Return what FastAPI calls in the place of the handler."""
    if streams(function):
        return _shown(functools.partial(function), signature, parameters)

    async def endpoint(**values: Any) -> Any:
        returned = await (function(**values) if is_async else aside(function, **values))
        scope = _scope.get()
        scope[_RETURNED] = returned
        return returned if filters(signature) else answers.content(scope[_DELIVERY], returned)

    return _shown(endpoint, signature, parameters)


def _shown(call: Any, signature: inspect.Signature, parameters: list[inspect.Parameter]) -> Handler:
    """Have FastAPI see this signature. It fills by name; without positions no default is in another one's way."""
    by_name = [parameter.replace(kind=parameter.KEYWORD_ONLY) for parameter in parameters]
    call.__signature__ = signature.replace(parameters=by_name)
    return typing.cast(Handler, call)


def _name(call: Handler) -> str:
    return getattr(call, "__name__", type(call).__name__)


async def _delivery(request: Request) -> Any:
    return request.scope[_DELIVERY]


async def _payload(request: Request) -> Any:
    return request.scope[_DELIVERY].payload


async def _raise(_: Request, error: Exception) -> Response:
    raise error
