from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TaskErrorKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TASK_ERROR_KIND_UNSPECIFIED: _ClassVar[TaskErrorKind]
    TASK_ERROR_KIND_USER: _ClassVar[TaskErrorKind]
    TASK_ERROR_KIND_ABORTED: _ClassVar[TaskErrorKind]
    TASK_ERROR_KIND_INVALID_PAYLOAD: _ClassVar[TaskErrorKind]
    TASK_ERROR_KIND_INVALID_OUTPUT: _ClassVar[TaskErrorKind]
    TASK_ERROR_KIND_NON_DETERMINISM: _ClassVar[TaskErrorKind]
    TASK_ERROR_KIND_TIMED_OUT: _ClassVar[TaskErrorKind]
    TASK_ERROR_KIND_CRASHED: _ClassVar[TaskErrorKind]
    TASK_ERROR_KIND_LIMIT_EXCEEDED: _ClassVar[TaskErrorKind]
    TASK_ERROR_KIND_CANCELED: _ClassVar[TaskErrorKind]
    TASK_ERROR_KIND_EXPIRED: _ClassVar[TaskErrorKind]
    TASK_ERROR_KIND_NOT_TRIGGERED: _ClassVar[TaskErrorKind]
TASK_ERROR_KIND_UNSPECIFIED: TaskErrorKind
TASK_ERROR_KIND_USER: TaskErrorKind
TASK_ERROR_KIND_ABORTED: TaskErrorKind
TASK_ERROR_KIND_INVALID_PAYLOAD: TaskErrorKind
TASK_ERROR_KIND_INVALID_OUTPUT: TaskErrorKind
TASK_ERROR_KIND_NON_DETERMINISM: TaskErrorKind
TASK_ERROR_KIND_TIMED_OUT: TaskErrorKind
TASK_ERROR_KIND_CRASHED: TaskErrorKind
TASK_ERROR_KIND_LIMIT_EXCEEDED: TaskErrorKind
TASK_ERROR_KIND_CANCELED: TaskErrorKind
TASK_ERROR_KIND_EXPIRED: TaskErrorKind
TASK_ERROR_KIND_NOT_TRIGGERED: TaskErrorKind

class Payload(_message.Message):
    __slots__ = ("data", "content_type", "codec", "meta")
    class MetaEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    DATA_FIELD_NUMBER: _ClassVar[int]
    CONTENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    META_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    content_type: str
    codec: str
    meta: _containers.ScalarMap[str, str]
    def __init__(self, data: _Optional[bytes] = ..., content_type: _Optional[str] = ..., codec: _Optional[str] = ..., meta: _Optional[_Mapping[str, str]] = ...) -> None: ...

class TaskError(_message.Message):
    __slots__ = ("kind", "type", "message", "stack", "retryable", "details")
    KIND_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    STACK_FIELD_NUMBER: _ClassVar[int]
    RETRYABLE_FIELD_NUMBER: _ClassVar[int]
    DETAILS_FIELD_NUMBER: _ClassVar[int]
    kind: TaskErrorKind
    type: str
    message: str
    stack: str
    retryable: bool
    details: Payload
    def __init__(self, kind: _Optional[_Union[TaskErrorKind, str]] = ..., type: _Optional[str] = ..., message: _Optional[str] = ..., stack: _Optional[str] = ..., retryable: _Optional[bool] = ..., details: _Optional[_Union[Payload, _Mapping]] = ...) -> None: ...
