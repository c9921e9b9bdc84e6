import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RetryPolicy(_message.Message):
    __slots__ = ("max_attempts", "factor", "min_timeout", "max_timeout", "randomize")
    MAX_ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    FACTOR_FIELD_NUMBER: _ClassVar[int]
    MIN_TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    MAX_TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    RANDOMIZE_FIELD_NUMBER: _ClassVar[int]
    max_attempts: int
    factor: float
    min_timeout: _duration_pb2.Duration
    max_timeout: _duration_pb2.Duration
    randomize: bool
    def __init__(self, max_attempts: _Optional[int] = ..., factor: _Optional[float] = ..., min_timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., max_timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., randomize: _Optional[bool] = ...) -> None: ...

class QueueDefinition(_message.Message):
    __slots__ = ("name", "concurrency_limit", "total_concurrency_limit", "rate_limit", "rate_period", "depth_limit")
    NAME_FIELD_NUMBER: _ClassVar[int]
    CONCURRENCY_LIMIT_FIELD_NUMBER: _ClassVar[int]
    TOTAL_CONCURRENCY_LIMIT_FIELD_NUMBER: _ClassVar[int]
    RATE_LIMIT_FIELD_NUMBER: _ClassVar[int]
    RATE_PERIOD_FIELD_NUMBER: _ClassVar[int]
    DEPTH_LIMIT_FIELD_NUMBER: _ClassVar[int]
    name: str
    concurrency_limit: int
    total_concurrency_limit: int
    rate_limit: int
    rate_period: _duration_pb2.Duration
    depth_limit: int
    def __init__(self, name: _Optional[str] = ..., concurrency_limit: _Optional[int] = ..., total_concurrency_limit: _Optional[int] = ..., rate_limit: _Optional[int] = ..., rate_period: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., depth_limit: _Optional[int] = ...) -> None: ...

class TaskDefinition(_message.Message):
    __slots__ = ("id", "retry", "queue", "max_duration", "timeout", "ttl", "max_recoveries", "payload_schema", "output_schema", "description", "resume", "schedule", "version_policy")
    ID_FIELD_NUMBER: _ClassVar[int]
    RETRY_FIELD_NUMBER: _ClassVar[int]
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    MAX_DURATION_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    TTL_FIELD_NUMBER: _ClassVar[int]
    MAX_RECOVERIES_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_SCHEMA_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_SCHEMA_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    RESUME_FIELD_NUMBER: _ClassVar[int]
    SCHEDULE_FIELD_NUMBER: _ClassVar[int]
    VERSION_POLICY_FIELD_NUMBER: _ClassVar[int]
    id: str
    retry: RetryPolicy
    queue: QueueDefinition
    max_duration: _duration_pb2.Duration
    timeout: _duration_pb2.Duration
    ttl: _duration_pb2.Duration
    max_recoveries: int
    payload_schema: bytes
    output_schema: bytes
    description: str
    resume: str
    schedule: DeclaredSchedule
    version_policy: str
    def __init__(self, id: _Optional[str] = ..., retry: _Optional[_Union[RetryPolicy, _Mapping]] = ..., queue: _Optional[_Union[QueueDefinition, _Mapping]] = ..., max_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., ttl: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., max_recoveries: _Optional[int] = ..., payload_schema: _Optional[bytes] = ..., output_schema: _Optional[bytes] = ..., description: _Optional[str] = ..., resume: _Optional[str] = ..., schedule: _Optional[_Union[DeclaredSchedule, _Mapping]] = ..., version_policy: _Optional[str] = ...) -> None: ...

class DeclaredSchedule(_message.Message):
    __slots__ = ("cron", "timezone", "misfire", "overlap")
    CRON_FIELD_NUMBER: _ClassVar[int]
    TIMEZONE_FIELD_NUMBER: _ClassVar[int]
    MISFIRE_FIELD_NUMBER: _ClassVar[int]
    OVERLAP_FIELD_NUMBER: _ClassVar[int]
    cron: str
    timezone: str
    misfire: str
    overlap: str
    def __init__(self, cron: _Optional[str] = ..., timezone: _Optional[str] = ..., misfire: _Optional[str] = ..., overlap: _Optional[str] = ...) -> None: ...

class Task(_message.Message):
    __slots__ = ("definition", "version", "workers")
    DEFINITION_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    definition: TaskDefinition
    version: str
    workers: int
    def __init__(self, definition: _Optional[_Union[TaskDefinition, _Mapping]] = ..., version: _Optional[str] = ..., workers: _Optional[int] = ...) -> None: ...

class GetTaskRequest(_message.Message):
    __slots__ = ("namespace", "task_id")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    task_id: str
    def __init__(self, namespace: _Optional[str] = ..., task_id: _Optional[str] = ...) -> None: ...

class GetTaskResponse(_message.Message):
    __slots__ = ("task",)
    TASK_FIELD_NUMBER: _ClassVar[int]
    task: Task
    def __init__(self, task: _Optional[_Union[Task, _Mapping]] = ...) -> None: ...

class ListTasksRequest(_message.Message):
    __slots__ = ("namespace", "page_size", "page_token")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    page_size: int
    page_token: str
    def __init__(self, namespace: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListTasksResponse(_message.Message):
    __slots__ = ("tasks", "next_page_token")
    TASKS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    tasks: _containers.RepeatedCompositeFieldContainer[Task]
    next_page_token: str
    def __init__(self, tasks: _Optional[_Iterable[_Union[Task, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...
