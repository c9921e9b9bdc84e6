import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from holdfast.v1 import payload_pb2 as _payload_pb2
from holdfast.v1 import run_pb2 as _run_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TokenStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TOKEN_STATUS_UNSPECIFIED: _ClassVar[TokenStatus]
    TOKEN_STATUS_PENDING: _ClassVar[TokenStatus]
    TOKEN_STATUS_COMPLETED: _ClassVar[TokenStatus]
    TOKEN_STATUS_FAILED: _ClassVar[TokenStatus]
    TOKEN_STATUS_TIMED_OUT: _ClassVar[TokenStatus]
TOKEN_STATUS_UNSPECIFIED: TokenStatus
TOKEN_STATUS_PENDING: TokenStatus
TOKEN_STATUS_COMPLETED: TokenStatus
TOKEN_STATUS_FAILED: TokenStatus
TOKEN_STATUS_TIMED_OUT: TokenStatus

class Token(_message.Message):
    __slots__ = ("id", "status", "tags", "created_at", "timeout_at", "completed_at", "data", "error", "idempotency_key")
    ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_AT_FIELD_NUMBER: _ClassVar[int]
    COMPLETED_AT_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    id: str
    status: TokenStatus
    tags: _containers.RepeatedScalarFieldContainer[str]
    created_at: _timestamp_pb2.Timestamp
    timeout_at: _timestamp_pb2.Timestamp
    completed_at: _timestamp_pb2.Timestamp
    data: _payload_pb2.Payload
    error: _payload_pb2.TaskError
    idempotency_key: _run_pb2.IdempotencyKey
    def __init__(self, id: _Optional[str] = ..., status: _Optional[_Union[TokenStatus, str]] = ..., tags: _Optional[_Iterable[str]] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., timeout_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., completed_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., data: _Optional[_Union[_payload_pb2.Payload, _Mapping]] = ..., error: _Optional[_Union[_payload_pb2.TaskError, _Mapping]] = ..., idempotency_key: _Optional[_Union[_run_pb2.IdempotencyKey, _Mapping]] = ...) -> None: ...

class CreateTokenRequest(_message.Message):
    __slots__ = ("namespace", "token_id", "timeout", "no_timeout", "tags", "idempotency_key")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    NO_TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    token_id: str
    timeout: _duration_pb2.Duration
    no_timeout: bool
    tags: _containers.RepeatedScalarFieldContainer[str]
    idempotency_key: _run_pb2.IdempotencyKey
    def __init__(self, namespace: _Optional[str] = ..., token_id: _Optional[str] = ..., timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., no_timeout: _Optional[bool] = ..., tags: _Optional[_Iterable[str]] = ..., idempotency_key: _Optional[_Union[_run_pb2.IdempotencyKey, _Mapping]] = ...) -> None: ...

class CreateTokenResponse(_message.Message):
    __slots__ = ("token", "is_cached", "secret")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    IS_CACHED_FIELD_NUMBER: _ClassVar[int]
    SECRET_FIELD_NUMBER: _ClassVar[int]
    token: Token
    is_cached: bool
    secret: str
    def __init__(self, token: _Optional[_Union[Token, _Mapping]] = ..., is_cached: _Optional[bool] = ..., secret: _Optional[str] = ...) -> None: ...

class GetTokenRequest(_message.Message):
    __slots__ = ("namespace", "token_id")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    token_id: str
    def __init__(self, namespace: _Optional[str] = ..., token_id: _Optional[str] = ...) -> None: ...

class GetTokenResponse(_message.Message):
    __slots__ = ("token",)
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    token: Token
    def __init__(self, token: _Optional[_Union[Token, _Mapping]] = ...) -> None: ...

class ListTokensRequest(_message.Message):
    __slots__ = ("namespace", "page_size", "page_token", "filter")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    page_size: int
    page_token: str
    filter: str
    def __init__(self, namespace: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., filter: _Optional[str] = ...) -> None: ...

class ListTokensResponse(_message.Message):
    __slots__ = ("tokens", "next_page_token")
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    tokens: _containers.RepeatedCompositeFieldContainer[Token]
    next_page_token: str
    def __init__(self, tokens: _Optional[_Iterable[_Union[Token, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class CompleteTokenRequest(_message.Message):
    __slots__ = ("namespace", "token_id", "data")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    token_id: str
    data: _payload_pb2.Payload
    def __init__(self, namespace: _Optional[str] = ..., token_id: _Optional[str] = ..., data: _Optional[_Union[_payload_pb2.Payload, _Mapping]] = ...) -> None: ...

class CompleteTokenResponse(_message.Message):
    __slots__ = ("token", "won")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    WON_FIELD_NUMBER: _ClassVar[int]
    token: Token
    won: bool
    def __init__(self, token: _Optional[_Union[Token, _Mapping]] = ..., won: _Optional[bool] = ...) -> None: ...

class FailTokenRequest(_message.Message):
    __slots__ = ("namespace", "token_id", "error")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    token_id: str
    error: _payload_pb2.TaskError
    def __init__(self, namespace: _Optional[str] = ..., token_id: _Optional[str] = ..., error: _Optional[_Union[_payload_pb2.TaskError, _Mapping]] = ...) -> None: ...

class FailTokenResponse(_message.Message):
    __slots__ = ("token", "won")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    WON_FIELD_NUMBER: _ClassVar[int]
    token: Token
    won: bool
    def __init__(self, token: _Optional[_Union[Token, _Mapping]] = ..., won: _Optional[bool] = ...) -> None: ...
