"""The one place where errors of the scheduler become exceptions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import grpc
from google.rpc import error_details_pb2, status_pb2

from holdfast import errors
from holdfast.errors import HoldfastError, RequestError, SchedulerUnavailableError
from holdfast.v1.run_pb2 import ItemError

DETAILS_KEY = "grpc-status-details-bin"
UNAVAILABLE = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        # By the other end: a call that arrives at the very end of a scheduler that stops. One that is canceled at this
        # end is an asyncio.CancelledError.
        grpc.StatusCode.CANCELLED,
    }
)

_BY_REASON: dict[str, type[RequestError]] = {
    "TASK_NOT_FOUND": errors.TaskNotFoundError,
    "WOULD_DEADLOCK": errors.WouldDeadlockError,
    "ID_REUSED": errors.TriggerError,
    "RUN_NOT_FOUND": errors.NotFoundError,
    "TOKEN_NOT_FOUND": errors.NotFoundError,
    "QUEUE_NOT_FOUND": errors.NotFoundError,
    "SCHEDULE_NOT_FOUND": errors.NotFoundError,
    "BATCH_NOT_FOUND": errors.NotFoundError,
    "WRONG_STATUS": errors.WrongStatusError,
    "UNAUTHENTICATED": errors.UnauthenticatedError,
    "NOT_IMPLEMENTED": errors.NotServedError,
}
_BY_CODE: dict[grpc.StatusCode, type[RequestError]] = {
    grpc.StatusCode.UNAUTHENTICATED: errors.UnauthenticatedError,
    grpc.StatusCode.UNIMPLEMENTED: errors.NotServedError,
    grpc.StatusCode.NOT_FOUND: errors.NotFoundError,
}


def of_call(error: grpc.aio.AioRpcError, addresses: str) -> HoldfastError:
    """The exception for a failed call; `addresses` is who was asked."""
    message = error.details() or error.code().name
    if error.code() in UNAVAILABLE:
        return unavailable(addresses, message)
    reason, metadata = _error_info(error)
    if reason:
        return of_reason(reason, message, metadata)
    kind = _BY_CODE.get(error.code(), RequestError)
    return kind(f"{message} ({error.code().name} from {addresses})", reason="")


def of_reason(
    reason: str, message: str, metadata: Mapping[str, str], kind: type[RequestError] = RequestError
) -> HoldfastError:
    """The exception for a published reason; `kind` is that for reasons without one of their own."""
    if reason == "TOO_LARGE":
        return errors.TooLargeError(message, limit=metadata.get("limit", ""))
    if reason == "INVALID_KEY":
        return errors.InvalidKeyError(message)
    return _BY_REASON.get(reason, kind)(message, reason=reason, metadata=metadata)


def of_item(error: ItemError) -> HoldfastError:
    """The exception for an item that could not become a run."""
    return of_reason(error.reason, error.message, error.metadata, errors.TriggerError)


def of_checkpoint(error: errors.ErrorInfo) -> HoldfastError:
    """The exception for a trigger inside a run that the scheduler recorded as failed. Its type is the reason."""
    return of_reason(error.type, error.message, {}, errors.TriggerError)


def unavailable(addresses: str, detail: str) -> SchedulerUnavailableError:
    """Nobody answered."""
    return SchedulerUnavailableError(
        f"No scheduler answered at {addresses} ({detail}). Is it running (for development: `holdfast dev TARGET`)? "
        "Its address comes from HOLDFAST_ADDRESS, --address of the command line, or holdfast.configure(address=...)."
    )


def may_repeat(error: grpc.aio.AioRpcError) -> bool:
    """Whether the same request, with the same ids, should be sent again: nobody answered, or the answer says so."""
    return error.code() in UNAVAILABLE or any(
        detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR) for detail in _details(error)
    )


def _error_info(error: grpc.aio.AioRpcError) -> tuple[str, dict[str, str]]:
    info = error_details_pb2.ErrorInfo()
    for detail in _details(error):
        if detail.Unpack(info):
            return info.reason, dict(info.metadata)
    return "", {}


def _details(error: grpc.aio.AioRpcError) -> Sequence[Any]:
    # The stubs type this metadata as one pair; it is a mapping.
    metadata: Mapping[str, bytes] = cast(Any, error.trailing_metadata()) or {}
    data = metadata.get(DETAILS_KEY)
    return status_pb2.Status.FromString(data).details if data else ()
