"""What surrounds every call: the API key, and turning exceptions into google.rpc.Status."""

from __future__ import annotations

import contextlib
import hmac
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn

import grpc
from grpc import aio
from grpc_status import rpc_status

from holdfast_scheduler.errors import UNAUTHENTICATED, RefusedError
from holdfast_scheduler.model import ItemFault
from holdfast_scheduler.services.status import status_of

_Interceptor: Any = aio.ServerInterceptor
_HEALTH = "/grpc.health.v1.Health/"  # probes of an orchestrator have no key

Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[Any]]


async def abort(context: Any, error: BaseException) -> NoReturn:
    """End the call with the status of `error`."""
    await context.abort_with_status(rpc_status.to_status(status_of(error)))
    raise AssertionError("abort_with_status returned")


class FaultInterceptor(_Interceptor):  # type: ignore[misc]
    """Ends a call whose handler raised with a clear status. Wraps each handler once, not at every call."""

    def __init__(self) -> None:
        self._wrapped: dict[int, tuple[Any, Any]] = {}

    async def intercept_service(self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """The handler of the call, wrapped."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        known = self._wrapped.get(id(handler))
        if known is None:
            # Keeping the handler keeps its id from being given to another one.
            known = self._wrapped[id(handler)] = (handler, _wrap(handler))
        return known[1]


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


class KeyInterceptor(_Interceptor):  # type: ignore[misc]
    """Refuses every call but health that does not carry `authorization: Bearer <key>`."""

    def __init__(self, key: str) -> None:
        self._expected = f"Bearer {key}".encode()

    async def intercept_service(self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """The handler of the call, or one that refuses it."""
        if handler_call_details.method.startswith(_HEALTH):
            return await continuation(handler_call_details)
        sent = b""
        for name, value in handler_call_details.invocation_metadata or ():
            if name == "authorization":
                sent = value.encode() if isinstance(value, str) else value
        # compare_digest takes the same time wherever the two differ.
        if hmac.compare_digest(sent, self._expected):
            return await continuation(handler_call_details)
        return _refusing(await continuation(handler_call_details), bool(sent))


def _refusing(handler: Any, has_sent: bool) -> Any:
    what = "is not this scheduler's" if has_sent else "is missing"
    message = f"the API key {what}; set HOLDFAST_API_KEY to the key that the scheduler was started with"
    error = RefusedError(ItemFault(UNAUTHENTICATED, "UNAUTHENTICATED", message))

    async def refuse(_request: Any, context: Any) -> Any:
        await abort(context, error)

    if handler is None:  # an unknown method: a stranger must not learn that
        return grpc.unary_unary_rpc_method_handler(refuse)
    return _maker(handler)(refuse, handler.request_deserializer, handler.response_serializer)
