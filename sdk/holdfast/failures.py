"""Exceptions of user code as data, and back."""

from __future__ import annotations

import traceback
from types import TracebackType

from holdfast import payloads, texts
from holdfast.errors import (
    AbortTaskRunError,
    ErrorInfo,
    InvalidOutputError,
    InvalidPayloadError,
    NonDeterminismError,
    PayloadError,
    StepFailedError,
    TooLargeError,
)
from holdfast.retry_policy import Retry, reasons
from holdfast.v1 import payload_pb2
from holdfast.v1.payload_pb2 import TaskError

MAX_MESSAGE_CHARS = 4096
MAX_STACK_CHARS = 32 * 1024
MAX_DETAILS_BYTES = 32 * 1024

USER = payload_pb2.TASK_ERROR_KIND_USER
ABORTED = payload_pb2.TASK_ERROR_KIND_ABORTED
TIMED_OUT = payload_pb2.TASK_ERROR_KIND_TIMED_OUT
INVALID_OUTPUT = payload_pb2.TASK_ERROR_KIND_INVALID_OUTPUT
_PREFIX = "TASK_ERROR_KIND_"


def describe(error: BaseException, retry: Retry | None = None) -> TaskError:
    """`error` as data. `retry` says, by its exception classes, whether another attempt may help."""
    kind, retryable = _judge(error, retry or Retry())
    message = texts.clean(_text(error), MAX_MESSAGE_CHARS)
    described = TaskError(
        kind=kind,
        type=texts.clean(type(error).__qualname__, texts.MAX_NAME_CHARS),
        message=message,
        stack=texts.clean(_stack(error), MAX_STACK_CHARS),
        retryable=retryable,
    )
    details = _details(error)
    if details:
        described.details.data = details
    return described


def to_info(error: TaskError) -> ErrorInfo:
    """A `TaskError` for users."""
    try:
        details = payloads.anything.decode_payload(error.details) if error.HasField("details") else None
    except PayloadError:
        details = None  # written by another language with a codec of its own: the error itself matters more
    try:
        kind = payload_pb2.TaskErrorKind.Name(error.kind).removeprefix(_PREFIX)
    except ValueError:
        kind = str(error.kind)
    return ErrorInfo(kind, error.type, error.message, error.stack, error.retryable, details)


def _judge(error: BaseException, retry: Retry) -> tuple[payload_pb2.TaskErrorKind, bool]:
    found = list(reasons(error))
    if isinstance(error, InvalidPayloadError):
        return payload_pb2.TASK_ERROR_KIND_INVALID_PAYLOAD, False
    if isinstance(error, InvalidOutputError):
        return INVALID_OUTPUT, False
    if isinstance(error, TooLargeError):
        return payload_pb2.TASK_ERROR_KIND_LIMIT_EXCEEDED, False
    if any(isinstance(e, NonDeterminismError) for e in found):
        return payload_pb2.TASK_ERROR_KIND_NON_DETERMINISM, False
    if any(isinstance(e, AbortTaskRunError) for e in found) or retry.aborts(error):
        return ABORTED, False
    steps = [e for e in found if isinstance(e, StepFailedError)]
    if steps:  # whether the step's own exception may be tried again was judged when it was recorded
        return USER, any(e.retryable for e in steps)
    return USER, retry.retries(error)


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as second:
        return f"(its message cannot be shown: {type(second).__name__} in __str__)"


def _stack(error: BaseException) -> str:
    if isinstance(error, InvalidPayloadError):
        return ""  # the body was not entered: there is nothing of the user's in it
    try:
        lines = traceback.format_exception(type(error), error, _of_user(error.__traceback__))
    except Exception:
        return ""
    stack = "".join(lines)
    return stack if len(stack) <= MAX_STACK_CHARS else "…" + stack[1 - MAX_STACK_CHARS :]


def _of_user(stack: TracebackType | None) -> TracebackType | None:
    """The part of a traceback that begins in the user's code."""
    while stack is not None and stack.tb_frame.f_globals.get("__name__", "").split(".")[0].startswith("holdfast"):
        if stack.tb_next is None:
            return stack
        stack = stack.tb_next
    return stack


def _details(error: BaseException) -> bytes:
    """Many exceptions have an attribute `details`; what is not small JSON is left out."""
    details = getattr(error, "details", None)
    if details is None or callable(details):
        return b""
    try:
        return payloads.encode_any(details, "details", "error details", MAX_DETAILS_BYTES)
    except PayloadError:
        return b""
