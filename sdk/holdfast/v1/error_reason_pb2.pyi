from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from typing import ClassVar as _ClassVar

DESCRIPTOR: _descriptor.FileDescriptor

class ErrorReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ERROR_REASON_UNSPECIFIED: _ClassVar[ErrorReason]
    ERROR_REASON_INVALID_ARGUMENT: _ClassVar[ErrorReason]
    ERROR_REASON_TASK_NOT_FOUND: _ClassVar[ErrorReason]
    ERROR_REASON_RUN_NOT_FOUND: _ClassVar[ErrorReason]
    ERROR_REASON_TOKEN_NOT_FOUND: _ClassVar[ErrorReason]
    ERROR_REASON_QUEUE_NOT_FOUND: _ClassVar[ErrorReason]
    ERROR_REASON_SCHEDULE_NOT_FOUND: _ClassVar[ErrorReason]
    ERROR_REASON_BATCH_NOT_FOUND: _ClassVar[ErrorReason]
    ERROR_REASON_ID_REUSED: _ClassVar[ErrorReason]
    ERROR_REASON_TOO_LARGE: _ClassVar[ErrorReason]
    ERROR_REASON_LIMIT_EXCEEDED: _ClassVar[ErrorReason]
    ERROR_REASON_WOULD_DEADLOCK: _ClassVar[ErrorReason]
    ERROR_REASON_WRONG_STATUS: _ClassVar[ErrorReason]
    ERROR_REASON_PROTOCOL_MISMATCH: _ClassVar[ErrorReason]
    ERROR_REASON_SESSION_UNKNOWN: _ClassVar[ErrorReason]
    ERROR_REASON_CONNECTION_SUPERSEDED: _ClassVar[ErrorReason]
    ERROR_REASON_PROTOCOL_VIOLATION: _ClassVar[ErrorReason]
    ERROR_REASON_STORAGE_UNAVAILABLE: _ClassVar[ErrorReason]
    ERROR_REASON_SHUTTING_DOWN: _ClassVar[ErrorReason]
    ERROR_REASON_UNAUTHENTICATED: _ClassVar[ErrorReason]
    ERROR_REASON_NOT_IMPLEMENTED: _ClassVar[ErrorReason]
    ERROR_REASON_INVALID_KEY: _ClassVar[ErrorReason]
    ERROR_REASON_INVALID_FILTER: _ClassVar[ErrorReason]
ERROR_REASON_UNSPECIFIED: ErrorReason
ERROR_REASON_INVALID_ARGUMENT: ErrorReason
ERROR_REASON_TASK_NOT_FOUND: ErrorReason
ERROR_REASON_RUN_NOT_FOUND: ErrorReason
ERROR_REASON_TOKEN_NOT_FOUND: ErrorReason
ERROR_REASON_QUEUE_NOT_FOUND: ErrorReason
ERROR_REASON_SCHEDULE_NOT_FOUND: ErrorReason
ERROR_REASON_BATCH_NOT_FOUND: ErrorReason
ERROR_REASON_ID_REUSED: ErrorReason
ERROR_REASON_TOO_LARGE: ErrorReason
ERROR_REASON_LIMIT_EXCEEDED: ErrorReason
ERROR_REASON_WOULD_DEADLOCK: ErrorReason
ERROR_REASON_WRONG_STATUS: ErrorReason
ERROR_REASON_PROTOCOL_MISMATCH: ErrorReason
ERROR_REASON_SESSION_UNKNOWN: ErrorReason
ERROR_REASON_CONNECTION_SUPERSEDED: ErrorReason
ERROR_REASON_PROTOCOL_VIOLATION: ErrorReason
ERROR_REASON_STORAGE_UNAVAILABLE: ErrorReason
ERROR_REASON_SHUTTING_DOWN: ErrorReason
ERROR_REASON_UNAUTHENTICATED: ErrorReason
ERROR_REASON_NOT_IMPLEMENTED: ErrorReason
ERROR_REASON_INVALID_KEY: ErrorReason
ERROR_REASON_INVALID_FILTER: ErrorReason
