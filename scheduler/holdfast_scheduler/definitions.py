"""What the rules need of a task's definition."""

from __future__ import annotations

from google.protobuf.duration_pb2 import Duration

from holdfast.v1.task_pb2 import QueueDefinition, TaskDefinition
from holdfast_scheduler.model import QueueLimits, TaskRow

DEFAULT_MAX_ATTEMPTS = 3
DEFAULT_FACTOR = 2.0
DEFAULT_MIN_US = 1_000_000
DEFAULT_MAX_US = 60_000_000

LATEST = "latest"
WAIT = "wait"
VERSION_POLICIES = ("", LATEST, WAIT)
"""What becomes of runs whose version is gone; empty means LATEST."""


def task_row(definition: bytes, version: str, registered_at: int) -> TaskRow:
    """Decode a serialized TaskDefinition; what it leaves out takes the documented defaults."""
    message = TaskDefinition.FromString(definition)
    retry = message.retry
    has_retry = message.HasField("retry")
    return TaskRow(
        id=message.id,
        version=version,
        definition=definition,
        registered_at=registered_at,
        max_attempts=retry.max_attempts or DEFAULT_MAX_ATTEMPTS,
        factor=retry.factor or DEFAULT_FACTOR,
        min_us=_us(retry.min_timeout) if retry.HasField("min_timeout") else DEFAULT_MIN_US,
        max_us=_us(retry.max_timeout) if retry.HasField("max_timeout") else DEFAULT_MAX_US,
        randomize=retry.randomize if has_retry else True,
        queue=message.queue.name or default_queue(message.id),
        max_recoveries=message.max_recoveries,
        timeout_us=_us(message.timeout) if message.HasField("timeout") else None,
        ttl_us=_us(message.ttl) if message.HasField("ttl") else None,
        max_duration_us=_us(message.max_duration) if message.HasField("max_duration") else None,
        queue_limits=queue_limits(message.queue),
        waits=message.version_policy == WAIT,
    )


def default_queue(task_id: str) -> str:
    """Name of the queue that a task has to itself."""
    return f"task/{task_id}"


def queue_limits(message: QueueDefinition) -> QueueLimits:
    """The limits that a definition declares."""
    return QueueLimits(
        lane=message.concurrency_limit,
        total=message.total_concurrency_limit,
        rate=message.rate_limit,
        period_us=_us(message.rate_period) if message.rate_limit else 0,
        depth=message.depth_limit,
    )


def _us(duration: Duration) -> int:
    return duration.seconds * 1_000_000 + duration.nanos // 1000
