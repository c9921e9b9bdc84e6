"""A run as the scheduler shows it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from google.protobuf.message import Message

from holdfast import failures, payloads
from holdfast.errors import ErrorInfo, PayloadError
from holdfast.idempotency_keys import KeyPart
from holdfast.statuses import RunStatus
from holdfast.v1 import run_pb2
from holdfast.v1.payload_pb2 import Payload


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try at the body, or the part of one that a lost worker executed."""

    number: int
    state: str
    """OPEN, SUCCEEDED, FAILED, LOST, CANCELED or TIMED_OUT."""
    started_at: datetime | None
    ended_at: datetime | None
    worker: str
    error: ErrorInfo | None


@dataclass(frozen=True, slots=True)
class CheckpointView:
    """A durable record inside a run."""

    seq: int
    kind: str
    """STEP, WAIT, CHILD, TRIGGER, BATCH, BATCH_TRIGGER, TOKEN or TOKEN_WAIT."""
    name: str
    status: str
    """PENDING, SUCCEEDED, FAILED or ABANDONED."""
    attempt: int
    value: Any
    error: ErrorInfo | None
    subject_id: str
    due_at: datetime | None
    location: str


@dataclass(frozen=True, slots=True)
class Run:
    """One durable execution of a task with one payload, as it stands."""

    id: str
    task_id: str
    status: RunStatus
    status_reason: str
    """More about the status, for example BACKING_OFF or QUEUE_LIMIT; empty for nothing more to say."""
    attempt: int
    """Number of the current or last attempt; 0 before the first."""
    max_attempts: int
    recoveries: int
    """Times it was dispatched again because a worker was lost."""
    queue: str
    concurrency_key: str
    version: str
    parent_run_id: str
    root_run_id: str
    batch_id: str
    depth: int
    tags: tuple[str, ...]
    idempotency_key: tuple[KeyPart, ...]
    created_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    due_at: datetime | None
    """The next instant at which time alone changes it."""
    payload: Any
    """Only when retrieved in full."""
    output: Any
    error: ErrorInfo | None
    metadata: dict[str, Any]
    worker: str
    is_replay: bool
    priority: float
    attempts: tuple[Attempt, ...]
    """Oldest first; only when retrieved in full."""
    checkpoints: tuple[CheckpointView, ...]
    """In order of creation; only when retrieved in full."""
    child_run_ids: tuple[str, ...]
    """Only when retrieved in full."""
    schedule_id: str = ""
    """The schedule that triggered it; empty for none."""

    @property
    def is_final(self) -> bool:
        """Whether it has ended."""
        return self.status.is_final


def of_message(message: run_pb2.Run) -> Run:
    """A run from its message."""
    return Run(
        id=message.id,
        task_id=message.task_id,
        status=RunStatus.of(message.status),
        status_reason=_name(run_pb2.RunStatusReason, message.status_reason, "RUN_STATUS_REASON_"),
        attempt=message.attempt,
        max_attempts=message.max_attempts,
        recoveries=message.recoveries,
        queue=message.queue,
        concurrency_key=message.concurrency_key,
        version=message.version,
        parent_run_id=message.parent_run_id,
        root_run_id=message.root_run_id,
        batch_id=message.batch_id,
        depth=message.depth,
        tags=tuple(message.tags),
        idempotency_key=tuple(_part(part) for part in message.idempotency_key.parts),
        created_at=instant_of(message, "created_at"),
        started_at=instant_of(message, "started_at"),
        ended_at=instant_of(message, "ended_at"),
        due_at=instant_of(message, "due_at"),
        payload=_value(message.payload) if message.HasField("payload") else None,
        output=_value(message.output) if message.HasField("output") else None,
        error=failures.to_info(message.error) if message.HasField("error") else None,
        metadata=payloads.as_object(message.metadata),
        worker=message.worker,
        is_replay=message.is_replay,
        priority=message.priority,
        attempts=tuple(_attempt(attempt) for attempt in message.attempts),
        checkpoints=tuple(_checkpoint(checkpoint) for checkpoint in message.checkpoints),
        child_run_ids=tuple(message.child_run_ids),
        schedule_id=message.schedule_id,
    )


def instant_of(message: Message, field: str) -> datetime | None:
    """A timestamp field; None when it is not set."""
    return getattr(message, field).ToDatetime(tzinfo=UTC) if message.HasField(field) else None


def _attempt(message: run_pb2.Attempt) -> Attempt:
    return Attempt(
        number=message.number,
        state=_name(run_pb2.AttemptState, message.state, "ATTEMPT_STATE_"),
        started_at=instant_of(message, "started_at"),
        ended_at=instant_of(message, "ended_at"),
        worker=message.worker,
        error=failures.to_info(message.error) if message.HasField("error") else None,
    )


def _checkpoint(message: run_pb2.Checkpoint) -> CheckpointView:
    return CheckpointView(
        seq=message.seq,
        kind=_name(run_pb2.CheckpointKind, message.kind, "CHECKPOINT_KIND_"),
        name=message.name,
        status=_name(run_pb2.CheckpointStatus, message.status, "CHECKPOINT_STATUS_"),
        attempt=message.attempt,
        value=_value(message.value) if message.HasField("value") else None,
        error=failures.to_info(message.error) if message.HasField("error") else None,
        subject_id=message.subject_id,
        due_at=instant_of(message, "due_at"),
        location=message.location,
    )


def _value(payload: Payload) -> Any:
    try:
        return payloads.anything.decode_payload(payload)
    except PayloadError:  # written with a codec of its own: shown as it is
        return payload.data


def _part(part: run_pb2.KeyPart) -> KeyPart:
    value: KeyPart = getattr(part, part.WhichOneof("part") or "text")
    return value


def _name(enum: Any, number: int, prefix: str) -> str:
    """The name of an open enum's value; its number when it is newer than this code, empty for UNSPECIFIED."""
    try:
        name = str(enum.Name(number)).removeprefix(prefix)
    except ValueError:
        return str(number)
    return "" if name == "UNSPECIFIED" else name
