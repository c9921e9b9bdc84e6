"""Errors on the wire: google.rpc.Status with one ErrorInfo and the fitting detail."""

from __future__ import annotations

import logging
from typing import Any, Final

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import (
    BadRequest,
    ErrorInfo,
    PreconditionFailure,
    QuotaFailure,
    ResourceInfo,
    RetryInfo,
)
from google.rpc.status_pb2 import Status

from holdfast_scheduler.database import READ_FAILED
from holdfast_scheduler.errors import INTERNAL, RequestError, StorageUnavailableError
from holdfast_scheduler.model import ItemFault

DOMAIN: Final = "holdfast.dev"
_KINDS = ("RUN", "TASK", "TOKEN", "QUEUE", "SCHEDULE", "BATCH")

_log = logging.getLogger(__name__)


def status_of(error: BaseException) -> Status:
    """The status that a caller gets for an exception. What is not the caller's business is logged, not told."""
    if isinstance(error, RequestError):
        return fault_status(error.fault, error.retry_after)
    if isinstance(error, READ_FAILED):
        _log.warning("a read failed: %s", error)
        return status_of(StorageUnavailableError())
    _log.error("a request failed by a fault of the scheduler", exc_info=error)
    return Status(code=INTERNAL, message="the scheduler failed to serve this; its log says why")


def fault_status(fault: ItemFault, retry_after: float | None = None) -> Status:
    """The status of a fault. `retry_after` is in seconds."""
    status = Status(code=fault.code, message=fault.message)
    details: list[Message] = [ErrorInfo(reason=fault.reason, domain=DOMAIN, metadata=fault.metadata)]
    detail = _fitting(fault)
    if detail is not None:
        details.append(detail)
    if retry_after is not None:
        info = RetryInfo()
        info.retry_delay.FromMicroseconds(round(retry_after * 1_000_000))
        details.append(info)
    for message in details:
        packed = AnyMessage()
        packed.Pack(message)
        status.details.append(packed)
    return status


def _fitting(fault: ItemFault) -> Any:
    facts = fault.metadata
    kind = fault.reason.removesuffix("_NOT_FOUND")
    if kind in _KINDS:
        name = facts.get(f"{kind.lower()}_id", "")
        return ResourceInfo(resource_type=f"{DOMAIN}/{kind.lower()}", resource_name=name, description=fault.message)
    if "field" in facts:
        violation = BadRequest.FieldViolation(field=facts["field"], description=fault.message)
        return BadRequest(field_violations=[violation])
    if fault.reason in ("WRONG_STATUS", "WOULD_DEADLOCK"):
        cause = PreconditionFailure.Violation(
            type=fault.reason, subject=facts.get("run_id", ""), description=fault.message
        )
        return PreconditionFailure(violations=[cause])
    if fault.reason == "LIMIT_EXCEEDED":
        quota = QuotaFailure.Violation(subject=facts.get("limit", ""), description=fault.message)
        return QuotaFailure(violations=[quota])
    return None
