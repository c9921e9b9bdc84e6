import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from holdfast.v1 import payload_pb2 as _payload_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RunStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RUN_STATUS_UNSPECIFIED: _ClassVar[RunStatus]
    RUN_STATUS_DELAYED: _ClassVar[RunStatus]
    RUN_STATUS_QUEUED: _ClassVar[RunStatus]
    RUN_STATUS_EXECUTING: _ClassVar[RunStatus]
    RUN_STATUS_WAITING: _ClassVar[RunStatus]
    RUN_STATUS_CANCELING: _ClassVar[RunStatus]
    RUN_STATUS_COMPLETED: _ClassVar[RunStatus]
    RUN_STATUS_FAILED: _ClassVar[RunStatus]
    RUN_STATUS_CRASHED: _ClassVar[RunStatus]
    RUN_STATUS_TIMED_OUT: _ClassVar[RunStatus]
    RUN_STATUS_EXPIRED: _ClassVar[RunStatus]
    RUN_STATUS_CANCELED: _ClassVar[RunStatus]

class RunStatusReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RUN_STATUS_REASON_UNSPECIFIED: _ClassVar[RunStatusReason]
    RUN_STATUS_REASON_SCHEDULED: _ClassVar[RunStatusReason]
    RUN_STATUS_REASON_BACKING_OFF: _ClassVar[RunStatusReason]
    RUN_STATUS_REASON_DEBOUNCED: _ClassVar[RunStatusReason]
    RUN_STATUS_REASON_NO_WORKER: _ClassVar[RunStatusReason]
    RUN_STATUS_REASON_NO_SLOT: _ClassVar[RunStatusReason]
    RUN_STATUS_REASON_QUEUE_LIMIT: _ClassVar[RunStatusReason]
    RUN_STATUS_REASON_RATE_LIMIT: _ClassVar[RunStatusReason]
    RUN_STATUS_REASON_PAUSED: _ClassVar[RunStatusReason]
    RUN_STATUS_REASON_RESUMING: _ClassVar[RunStatusReason]
    RUN_STATUS_REASON_RECOVERING: _ClassVar[RunStatusReason]
    RUN_STATUS_REASON_RELEASED: _ClassVar[RunStatusReason]

class KeyScope(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    KEY_SCOPE_UNSPECIFIED: _ClassVar[KeyScope]
    KEY_SCOPE_RUN: _ClassVar[KeyScope]
    KEY_SCOPE_GLOBAL: _ClassVar[KeyScope]
    KEY_SCOPE_ATTEMPT: _ClassVar[KeyScope]

class ParentEnd(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PARENT_END_UNSPECIFIED: _ClassVar[ParentEnd]
    PARENT_END_CANCEL: _ClassVar[ParentEnd]
    PARENT_END_DETACH: _ClassVar[ParentEnd]

class AttemptState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ATTEMPT_STATE_UNSPECIFIED: _ClassVar[AttemptState]
    ATTEMPT_STATE_OPEN: _ClassVar[AttemptState]
    ATTEMPT_STATE_SUCCEEDED: _ClassVar[AttemptState]
    ATTEMPT_STATE_FAILED: _ClassVar[AttemptState]
    ATTEMPT_STATE_LOST: _ClassVar[AttemptState]
    ATTEMPT_STATE_CANCELED: _ClassVar[AttemptState]
    ATTEMPT_STATE_TIMED_OUT: _ClassVar[AttemptState]

class CheckpointKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CHECKPOINT_KIND_UNSPECIFIED: _ClassVar[CheckpointKind]
    CHECKPOINT_KIND_STEP: _ClassVar[CheckpointKind]
    CHECKPOINT_KIND_WAIT: _ClassVar[CheckpointKind]
    CHECKPOINT_KIND_CHILD: _ClassVar[CheckpointKind]
    CHECKPOINT_KIND_TRIGGER: _ClassVar[CheckpointKind]
    CHECKPOINT_KIND_BATCH: _ClassVar[CheckpointKind]
    CHECKPOINT_KIND_BATCH_TRIGGER: _ClassVar[CheckpointKind]
    CHECKPOINT_KIND_TOKEN: _ClassVar[CheckpointKind]
    CHECKPOINT_KIND_TOKEN_WAIT: _ClassVar[CheckpointKind]

class CheckpointStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CHECKPOINT_STATUS_UNSPECIFIED: _ClassVar[CheckpointStatus]
    CHECKPOINT_STATUS_PENDING: _ClassVar[CheckpointStatus]
    CHECKPOINT_STATUS_SUCCEEDED: _ClassVar[CheckpointStatus]
    CHECKPOINT_STATUS_FAILED: _ClassVar[CheckpointStatus]
    CHECKPOINT_STATUS_ABANDONED: _ClassVar[CheckpointStatus]
RUN_STATUS_UNSPECIFIED: RunStatus
RUN_STATUS_DELAYED: RunStatus
RUN_STATUS_QUEUED: RunStatus
RUN_STATUS_EXECUTING: RunStatus
RUN_STATUS_WAITING: RunStatus
RUN_STATUS_CANCELING: RunStatus
RUN_STATUS_COMPLETED: RunStatus
RUN_STATUS_FAILED: RunStatus
RUN_STATUS_CRASHED: RunStatus
RUN_STATUS_TIMED_OUT: RunStatus
RUN_STATUS_EXPIRED: RunStatus
RUN_STATUS_CANCELED: RunStatus
RUN_STATUS_REASON_UNSPECIFIED: RunStatusReason
RUN_STATUS_REASON_SCHEDULED: RunStatusReason
RUN_STATUS_REASON_BACKING_OFF: RunStatusReason
RUN_STATUS_REASON_DEBOUNCED: RunStatusReason
RUN_STATUS_REASON_NO_WORKER: RunStatusReason
RUN_STATUS_REASON_NO_SLOT: RunStatusReason
RUN_STATUS_REASON_QUEUE_LIMIT: RunStatusReason
RUN_STATUS_REASON_RATE_LIMIT: RunStatusReason
RUN_STATUS_REASON_PAUSED: RunStatusReason
RUN_STATUS_REASON_RESUMING: RunStatusReason
RUN_STATUS_REASON_RECOVERING: RunStatusReason
RUN_STATUS_REASON_RELEASED: RunStatusReason
KEY_SCOPE_UNSPECIFIED: KeyScope
KEY_SCOPE_RUN: KeyScope
KEY_SCOPE_GLOBAL: KeyScope
KEY_SCOPE_ATTEMPT: KeyScope
PARENT_END_UNSPECIFIED: ParentEnd
PARENT_END_CANCEL: ParentEnd
PARENT_END_DETACH: ParentEnd
ATTEMPT_STATE_UNSPECIFIED: AttemptState
ATTEMPT_STATE_OPEN: AttemptState
ATTEMPT_STATE_SUCCEEDED: AttemptState
ATTEMPT_STATE_FAILED: AttemptState
ATTEMPT_STATE_LOST: AttemptState
ATTEMPT_STATE_CANCELED: AttemptState
ATTEMPT_STATE_TIMED_OUT: AttemptState
CHECKPOINT_KIND_UNSPECIFIED: CheckpointKind
CHECKPOINT_KIND_STEP: CheckpointKind
CHECKPOINT_KIND_WAIT: CheckpointKind
CHECKPOINT_KIND_CHILD: CheckpointKind
CHECKPOINT_KIND_TRIGGER: CheckpointKind
CHECKPOINT_KIND_BATCH: CheckpointKind
CHECKPOINT_KIND_BATCH_TRIGGER: CheckpointKind
CHECKPOINT_KIND_TOKEN: CheckpointKind
CHECKPOINT_KIND_TOKEN_WAIT: CheckpointKind
CHECKPOINT_STATUS_UNSPECIFIED: CheckpointStatus
CHECKPOINT_STATUS_PENDING: CheckpointStatus
CHECKPOINT_STATUS_SUCCEEDED: CheckpointStatus
CHECKPOINT_STATUS_FAILED: CheckpointStatus
CHECKPOINT_STATUS_ABANDONED: CheckpointStatus

class KeyPart(_message.Message):
    __slots__ = ("text", "number", "flag")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    FLAG_FIELD_NUMBER: _ClassVar[int]
    text: str
    number: int
    flag: bool
    def __init__(self, text: _Optional[str] = ..., number: _Optional[int] = ..., flag: _Optional[bool] = ...) -> None: ...

class IdempotencyKey(_message.Message):
    __slots__ = ("parts", "scope", "ttl")
    PARTS_FIELD_NUMBER: _ClassVar[int]
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    TTL_FIELD_NUMBER: _ClassVar[int]
    parts: _containers.RepeatedCompositeFieldContainer[KeyPart]
    scope: KeyScope
    ttl: _duration_pb2.Duration
    def __init__(self, parts: _Optional[_Iterable[_Union[KeyPart, _Mapping]]] = ..., scope: _Optional[_Union[KeyScope, str]] = ..., ttl: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class Debounce(_message.Message):
    __slots__ = ("key", "delay", "mode", "max_delay")
    KEY_FIELD_NUMBER: _ClassVar[int]
    DELAY_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    MAX_DELAY_FIELD_NUMBER: _ClassVar[int]
    key: str
    delay: _duration_pb2.Duration
    mode: str
    max_delay: _duration_pb2.Duration
    def __init__(self, key: _Optional[str] = ..., delay: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., mode: _Optional[str] = ..., max_delay: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class TriggerOptions(_message.Message):
    __slots__ = ("delay", "ttl", "priority", "queue", "concurrency_key", "tags", "metadata", "max_attempts", "max_duration", "timeout", "version", "on_parent_end", "debounce", "delay_until")
    DELAY_FIELD_NUMBER: _ClassVar[int]
    TTL_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    CONCURRENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    MAX_ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    MAX_DURATION_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ON_PARENT_END_FIELD_NUMBER: _ClassVar[int]
    DEBOUNCE_FIELD_NUMBER: _ClassVar[int]
    DELAY_UNTIL_FIELD_NUMBER: _ClassVar[int]
    delay: _duration_pb2.Duration
    ttl: _duration_pb2.Duration
    priority: float
    queue: str
    concurrency_key: str
    tags: _containers.RepeatedScalarFieldContainer[str]
    metadata: bytes
    max_attempts: int
    max_duration: _duration_pb2.Duration
    timeout: _duration_pb2.Duration
    version: str
    on_parent_end: ParentEnd
    debounce: Debounce
    delay_until: _timestamp_pb2.Timestamp
    def __init__(self, delay: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., ttl: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., priority: _Optional[float] = ..., queue: _Optional[str] = ..., concurrency_key: _Optional[str] = ..., tags: _Optional[_Iterable[str]] = ..., metadata: _Optional[bytes] = ..., max_attempts: _Optional[int] = ..., max_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., version: _Optional[str] = ..., on_parent_end: _Optional[_Union[ParentEnd, str]] = ..., debounce: _Optional[_Union[Debounce, _Mapping]] = ..., delay_until: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class TriggerItem(_message.Message):
    __slots__ = ("run_id", "task_id", "payload", "fingerprint", "idempotency_key", "options", "trace_context")
    class TraceContextEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    TRACE_CONTEXT_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    task_id: str
    payload: _payload_pb2.Payload
    fingerprint: bytes
    idempotency_key: IdempotencyKey
    options: TriggerOptions
    trace_context: _containers.ScalarMap[str, str]
    def __init__(self, run_id: _Optional[str] = ..., task_id: _Optional[str] = ..., payload: _Optional[_Union[_payload_pb2.Payload, _Mapping]] = ..., fingerprint: _Optional[bytes] = ..., idempotency_key: _Optional[_Union[IdempotencyKey, _Mapping]] = ..., options: _Optional[_Union[TriggerOptions, _Mapping]] = ..., trace_context: _Optional[_Mapping[str, str]] = ...) -> None: ...

class RunHandle(_message.Message):
    __slots__ = ("run_id", "is_cached", "payload_differs")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    IS_CACHED_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_DIFFERS_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    is_cached: bool
    payload_differs: bool
    def __init__(self, run_id: _Optional[str] = ..., is_cached: _Optional[bool] = ..., payload_differs: _Optional[bool] = ...) -> None: ...

class ItemError(_message.Message):
    __slots__ = ("code", "message", "reason", "metadata")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    code: int
    message: str
    reason: str
    metadata: _containers.ScalarMap[str, str]
    def __init__(self, code: _Optional[int] = ..., message: _Optional[str] = ..., reason: _Optional[str] = ..., metadata: _Optional[_Mapping[str, str]] = ...) -> None: ...

class TriggerOutcome(_message.Message):
    __slots__ = ("handle", "error")
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    handle: RunHandle
    error: ItemError
    def __init__(self, handle: _Optional[_Union[RunHandle, _Mapping]] = ..., error: _Optional[_Union[ItemError, _Mapping]] = ...) -> None: ...

class Attempt(_message.Message):
    __slots__ = ("number", "state", "started_at", "ended_at", "worker", "error")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_FIELD_NUMBER: _ClassVar[int]
    ENDED_AT_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    number: int
    state: AttemptState
    started_at: _timestamp_pb2.Timestamp
    ended_at: _timestamp_pb2.Timestamp
    worker: str
    error: _payload_pb2.TaskError
    def __init__(self, number: _Optional[int] = ..., state: _Optional[_Union[AttemptState, str]] = ..., started_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., ended_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., worker: _Optional[str] = ..., error: _Optional[_Union[_payload_pb2.TaskError, _Mapping]] = ...) -> None: ...

class Checkpoint(_message.Message):
    __slots__ = ("seq", "identity", "kind", "name", "status", "fingerprint", "settled_order", "attempt", "permanent", "value", "error", "subject_id", "is_cached", "payload_differs", "due_at", "child_status", "batch_entries", "location", "continuation", "more_batch_entries")
    SEQ_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    SETTLED_ORDER_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    PERMANENT_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_ID_FIELD_NUMBER: _ClassVar[int]
    IS_CACHED_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_DIFFERS_FIELD_NUMBER: _ClassVar[int]
    DUE_AT_FIELD_NUMBER: _ClassVar[int]
    CHILD_STATUS_FIELD_NUMBER: _ClassVar[int]
    BATCH_ENTRIES_FIELD_NUMBER: _ClassVar[int]
    LOCATION_FIELD_NUMBER: _ClassVar[int]
    CONTINUATION_FIELD_NUMBER: _ClassVar[int]
    MORE_BATCH_ENTRIES_FIELD_NUMBER: _ClassVar[int]
    seq: int
    identity: str
    kind: CheckpointKind
    name: str
    status: CheckpointStatus
    fingerprint: bytes
    settled_order: int
    attempt: int
    permanent: bool
    value: _payload_pb2.Payload
    error: _payload_pb2.TaskError
    subject_id: str
    is_cached: bool
    payload_differs: bool
    due_at: _timestamp_pb2.Timestamp
    child_status: RunStatus
    batch_entries: _containers.RepeatedCompositeFieldContainer[BatchEntry]
    location: str
    continuation: bytes
    more_batch_entries: bool
    def __init__(self, seq: _Optional[int] = ..., identity: _Optional[str] = ..., kind: _Optional[_Union[CheckpointKind, str]] = ..., name: _Optional[str] = ..., status: _Optional[_Union[CheckpointStatus, str]] = ..., fingerprint: _Optional[bytes] = ..., settled_order: _Optional[int] = ..., attempt: _Optional[int] = ..., permanent: _Optional[bool] = ..., value: _Optional[_Union[_payload_pb2.Payload, _Mapping]] = ..., error: _Optional[_Union[_payload_pb2.TaskError, _Mapping]] = ..., subject_id: _Optional[str] = ..., is_cached: _Optional[bool] = ..., payload_differs: _Optional[bool] = ..., due_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., child_status: _Optional[_Union[RunStatus, str]] = ..., batch_entries: _Optional[_Iterable[_Union[BatchEntry, _Mapping]]] = ..., location: _Optional[str] = ..., continuation: _Optional[bytes] = ..., more_batch_entries: _Optional[bool] = ...) -> None: ...

class BatchEntry(_message.Message):
    __slots__ = ("run_id", "is_cached", "status", "output", "error", "payload_differs")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    IS_CACHED_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_DIFFERS_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    is_cached: bool
    status: RunStatus
    output: _payload_pb2.Payload
    error: _payload_pb2.TaskError
    payload_differs: bool
    def __init__(self, run_id: _Optional[str] = ..., is_cached: _Optional[bool] = ..., status: _Optional[_Union[RunStatus, str]] = ..., output: _Optional[_Union[_payload_pb2.Payload, _Mapping]] = ..., error: _Optional[_Union[_payload_pb2.TaskError, _Mapping]] = ..., payload_differs: _Optional[bool] = ...) -> None: ...

class Run(_message.Message):
    __slots__ = ("id", "namespace", "task_id", "version", "queue", "concurrency_key", "status", "status_reason", "attempt", "max_attempts", "recoveries", "parent_run_id", "root_run_id", "batch_id", "depth", "tags", "idempotency_key", "created_at", "started_at", "ended_at", "due_at", "payload", "output", "error", "metadata", "attempts", "checkpoints", "child_run_ids", "worker", "is_replay", "priority", "fence", "schedule_id")
    ID_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    CONCURRENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    STATUS_REASON_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    MAX_ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    RECOVERIES_FIELD_NUMBER: _ClassVar[int]
    PARENT_RUN_ID_FIELD_NUMBER: _ClassVar[int]
    ROOT_RUN_ID_FIELD_NUMBER: _ClassVar[int]
    BATCH_ID_FIELD_NUMBER: _ClassVar[int]
    DEPTH_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_FIELD_NUMBER: _ClassVar[int]
    ENDED_AT_FIELD_NUMBER: _ClassVar[int]
    DUE_AT_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINTS_FIELD_NUMBER: _ClassVar[int]
    CHILD_RUN_IDS_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    IS_REPLAY_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    SCHEDULE_ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    namespace: str
    task_id: str
    version: str
    queue: str
    concurrency_key: str
    status: RunStatus
    status_reason: RunStatusReason
    attempt: int
    max_attempts: int
    recoveries: int
    parent_run_id: str
    root_run_id: str
    batch_id: str
    depth: int
    tags: _containers.RepeatedScalarFieldContainer[str]
    idempotency_key: IdempotencyKey
    created_at: _timestamp_pb2.Timestamp
    started_at: _timestamp_pb2.Timestamp
    ended_at: _timestamp_pb2.Timestamp
    due_at: _timestamp_pb2.Timestamp
    payload: _payload_pb2.Payload
    output: _payload_pb2.Payload
    error: _payload_pb2.TaskError
    metadata: bytes
    attempts: _containers.RepeatedCompositeFieldContainer[Attempt]
    checkpoints: _containers.RepeatedCompositeFieldContainer[Checkpoint]
    child_run_ids: _containers.RepeatedScalarFieldContainer[str]
    worker: str
    is_replay: bool
    priority: float
    fence: int
    schedule_id: str
    def __init__(self, id: _Optional[str] = ..., namespace: _Optional[str] = ..., task_id: _Optional[str] = ..., version: _Optional[str] = ..., queue: _Optional[str] = ..., concurrency_key: _Optional[str] = ..., status: _Optional[_Union[RunStatus, str]] = ..., status_reason: _Optional[_Union[RunStatusReason, str]] = ..., attempt: _Optional[int] = ..., max_attempts: _Optional[int] = ..., recoveries: _Optional[int] = ..., parent_run_id: _Optional[str] = ..., root_run_id: _Optional[str] = ..., batch_id: _Optional[str] = ..., depth: _Optional[int] = ..., tags: _Optional[_Iterable[str]] = ..., idempotency_key: _Optional[_Union[IdempotencyKey, _Mapping]] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., started_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., ended_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., due_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., payload: _Optional[_Union[_payload_pb2.Payload, _Mapping]] = ..., output: _Optional[_Union[_payload_pb2.Payload, _Mapping]] = ..., error: _Optional[_Union[_payload_pb2.TaskError, _Mapping]] = ..., metadata: _Optional[bytes] = ..., attempts: _Optional[_Iterable[_Union[Attempt, _Mapping]]] = ..., checkpoints: _Optional[_Iterable[_Union[Checkpoint, _Mapping]]] = ..., child_run_ids: _Optional[_Iterable[str]] = ..., worker: _Optional[str] = ..., is_replay: _Optional[bool] = ..., priority: _Optional[float] = ..., fence: _Optional[int] = ..., schedule_id: _Optional[str] = ...) -> None: ...
