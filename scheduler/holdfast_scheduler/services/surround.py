"""What surrounds every call: the API key, and turning exceptions into google.rpc.Status."""

from __future__ import annotations

import contextlib
import hmac
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import Any, NoReturn

import grpc
from grpc import aio
from grpc_status import rpc_status

from holdfast_scheduler.errors import UNAUTHENTICATED, RefusedError
from holdfast_scheduler.model import ItemFault
from holdfast_scheduler.services.status import status_of

_HEALTH = "/grpc.health.v1.Health/"  # probes of an orchestrator have no key


async def abort(context: Any, error: BaseException) -> NoReturn:
    """End the call with the status of `error`."""
    await context.abort_with_status(rpc_status.to_status(status_of(error)))
    raise AssertionError("abort_with_status returned")


class Surround(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # the class takes none at run time
    """Stands between the server and the services: services are registered here instead of at the server.

    Ends a call whose handler raised with a clear status, and refuses every call but health that does not carry
    `authorization: Bearer <key>`, if there is a key. gRPC's interceptors could do both, but they cost a fifth of a
    short call's time: each is a coroutine more, and a search for the handler, at every call.
    """

    def __init__(self, key: str = "") -> None:
        self._expected = f"Bearer {key}".encode() if key else b""
        self._services: list[Any] = []
        self._wrapped: dict[str, Any] = {}

    def add_generic_rpc_handlers(self, handlers: Iterable[Any]) -> None:
        """Register a service, as generated code does."""
        self._services += handlers

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Generated code registers every method a second time; one is enough."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """The handler of a call, wrapped; None for an unknown method."""
        handler = self._handler(handler_call_details)
        if self._expected and not handler_call_details.method.startswith(_HEALTH):
            sent = b""
            for name, value in handler_call_details.invocation_metadata or ():
                if name == "authorization":
                    sent = value.encode() if isinstance(value, str) else value
            # compare_digest takes the same time wherever the two differ.
            if not hmac.compare_digest(sent, self._expected):
                return _refusing(handler, bool(sent))
        return handler

    def _handler(self, details: grpc.HandlerCallDetails) -> Any:
        known = self._wrapped.get(details.method)
        if known is None:
            for one in self._services:
                found = one.service(details)
                if found is not None:
                    known = self._wrapped[details.method] = _wrap(found)
                    break
        return known


def _wrap(handler: Any) -> Any:
    inner = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    return _maker(handler)(
        _streaming(inner) if inspect.isasyncgenfunction(inner) else _answering(inner),
        handler.request_deserializer,
        handler.response_serializer,
    )


def _maker(handler: Any) -> Callable[..., Any]:
    """What makes a handler of the same arity."""
    if handler.response_streaming:
        return (
            grpc.stream_stream_rpc_method_handler if handler.request_streaming else grpc.unary_stream_rpc_method_handler
        )
    return grpc.stream_unary_rpc_method_handler if handler.request_streaming else grpc.unary_unary_rpc_method_handler


def _answering(behaviour: Callable[[Any, Any], Awaitable[Any]]) -> Callable[[Any, Any], Awaitable[Any]]:
    async def call(request: Any, context: Any) -> Any:
        try:
            return await behaviour(request, context)
        except aio.AbortError:
            raise
        except Exception as error:
            await abort(context, error)

    return call


def _streaming(behaviour: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    async def call(request: Any, context: Any) -> AsyncIterator[Any]:
        try:
            async with contextlib.aclosing(behaviour(request, context)) as responses:
                async for response in responses:
                    yield response
        except aio.AbortError:
            raise
        except Exception as error:
            await abort(context, error)

    return call


def _refusing(handler: Any, has_sent: bool) -> Any:
    what = "is not this scheduler's" if has_sent else "is missing"
    message = f"the API key {what}; set HOLDFAST_API_KEY to the key that the scheduler was started with"
    error = RefusedError(ItemFault(UNAUTHENTICATED, "UNAUTHENTICATED", message))

    async def refuse(_request: Any, context: Any) -> Any:
        await abort(context, error)

    if handler is None:  # an unknown method: a stranger must not learn that
        return grpc.unary_unary_rpc_method_handler(refuse)
    return _maker(handler)(refuse, handler.request_deserializer, handler.response_serializer)
