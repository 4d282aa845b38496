"""What a function asks for, and what it says that it returns."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable
from types import FunctionType
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from .delivery import Delivery
from .payload import WebhookPayload

Handler = Callable[..., Any]

_OURS = {kind.__name__: kind for kind in (WebhookPayload, Delivery, Request)}
BY_NAME = {"payload": WebhookPayload, "delivery": Delivery, "request": Request}


def plain_function(handler: Callable[..., Any]) -> FunctionType | None:
    """Return the function that somebody wrote, without what is wrapped around it."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    inner: Any = inspect.unwrap(handler)
    if not (inspect.isfunction(inner) or inspect.ismethod(inner)):
        inner = type(inner).__call__
    inner = getattr(inner, "__func__", inner)
    return inner if isinstance(inner, FunctionType) else None


def signature_of(call: Handler) -> inspect.Signature:
    """Return a signature in which types are no strings, as far as they exist."""
    try:
        signature = inspect.signature(call, eval_str=True)
    except Exception:  # such as a name that is there for a type checker only
        signature = inspect.signature(call)
    names = {**_OURS, **getattr(plain_function(call), "__globals__", {})}
    return signature.replace(
        parameters=[p.replace(annotation=_evaluated(p.annotation, names)) for p in signature.parameters.values()],
        return_annotation=_evaluated(signature.return_annotation, names),
    )


def handler_signature(function: Handler) -> inspect.Signature:
    """Return a handler's, in which names decide where there is no annotation."""
    signature = signature_of(function)
    parameters = [
        p.replace(annotation=BY_NAME[p.name]) if p.annotation is p.empty and p.name in BY_NAME else p
        for p in signature.parameters.values()
    ]
    return signature.replace(parameters=parameters)


def filters(signature: inspect.Signature) -> bool:
    """Tell whether the return annotation filters and checks what is returned."""
    returned = signature.return_annotation
    is_response = inspect.isclass(returned) and issubclass(returned, Response)
    return not is_response and not any(returned is nothing for nothing in (signature.empty, None, Any))


def streams(function: Handler) -> bool:
    """Tell whether FastAPI streams what the handler yields."""
    plain = plain_function(function)
    return inspect.isgeneratorfunction(plain) or inspect.isasyncgenfunction(plain)


def _evaluated(annotation: Any, names: dict[str, Any]) -> Any:
    with contextlib.suppress(Exception):
        for _ in range(2):  # with quotes, where annotations are strings anyway, it is a string of a string
            if isinstance(annotation, str):
                annotation = eval(annotation, names)  # noqa: S307 - the user's own code
    return annotation


def is_async(function: Handler) -> bool:
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - an object whose __call__ is async
    )


def is_def(call: Handler) -> bool:
    """Tell whether this is a plain `def`: neither async, nor a generator, nor a class."""
    others = (inspect.isclass, inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)
    return not any(is_other(one) for one in (call, plain_function(call)) for is_other in others)
