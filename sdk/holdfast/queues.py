"""Queues: declared in code with `queue`, looked at and steered here.

await queues.pause("exports")
await queues.override("exports", total_concurrency_limit=20)  # a deploy does not undo it
"""

from __future__ import annotations

import builtins
from dataclasses import dataclass
from datetime import timedelta

from holdfast import client, durations, texts
from holdfast.durations import Duration
from holdfast.errors import InvalidArgumentError
from holdfast.v1 import queue_service_pb2
from holdfast.v1.queue_service_pb2 import (
    GetQueueRequest,
    ListQueuesRequest,
    PauseQueueRequest,
    ResumeQueueRequest,
    UpdateQueueRequest,
)
from holdfast.v1.task_pb2 import QueueDefinition

__all__ = ["Queue", "QueueState", "list", "override", "pause", "queue", "reset_override", "resume", "retrieve"]

MAX_LIMIT = 1_000_000


@dataclass(frozen=True, slots=True)
class Queue:
    """A named lane of work with limits; make it with `queue`."""

    name: str = ""
    concurrency_limit: int = 0
    total_concurrency_limit: int = 0
    rate_limit: int = 0
    rate_period: Duration = 0
    depth_limit: int = 0

    def to_message(self) -> QueueDefinition:
        """The queue as workers announce it."""
        message = QueueDefinition(
            name=self.name,
            concurrency_limit=self.concurrency_limit,
            total_concurrency_limit=self.total_concurrency_limit,
            rate_limit=self.rate_limit,
            depth_limit=self.depth_limit,
        )
        if self.rate_limit:
            message.rate_period.CopyFrom(durations.to_message(self.rate_period, "rate_period"))
        return message


def queue(
    name: str = "",
    concurrency_limit: int | None = None,
    *,
    total_concurrency_limit: int | None = None,
    rate_limit: int | None = None,
    rate_period: Duration | None = None,
    depth_limit: int | None = None,
) -> Queue:
    """Declare a queue, to be shared by tasks: `exports = queue("exports", concurrency_limit=5)`.

    Without a name it is the task's own queue. `concurrency_limit` is the number of runs of one concurrency key that
    may execute at once, `total_concurrency_limit` that of all keys together, `rate_limit` the starts allowed in each
    `rate_period`, `depth_limit` the number that may be queued. None means no limit.

    Raises: InvalidArgumentError, InvalidDurationError.
    """
    if name:
        texts.check(name, "queue name")
    if (rate_limit is None) != (rate_period is None):
        raise InvalidArgumentError("queue: rate_limit and rate_period belong together; give both or neither.")
    return Queue(
        name,
        _limit("concurrency_limit", concurrency_limit),
        _limit("total_concurrency_limit", total_concurrency_limit),
        _limit("rate_limit", rate_limit),
        0 if rate_period is None else durations.parse(rate_period, "rate_period"),
        _limit("depth_limit", depth_limit),
    )


@dataclass(frozen=True, slots=True)
class QueueState:
    """A queue as it stands. A limit that is None is none."""

    name: str
    concurrency_limit: int | None
    """Runs of one concurrency key that may execute at once."""
    total_concurrency_limit: int | None
    """Runs of all keys that may execute at once."""
    rate_limit: int | None
    """Starts in each `rate_period`."""
    rate_period: timedelta | None
    depth_limit: int | None
    """Runs that may be queued."""
    overridden: bool
    """Whether the limits were set by `override` and do not follow the code."""
    paused: bool
    queued: int
    """Runs that wait for a slot."""
    executing: int


async def list() -> builtins.list[QueueState]:
    """All queues that are declared, used by a task, or in use, in the order of their names.

    Raises: SchedulerUnavailableError.
    """
    asked = client.current()
    found: builtins.list[QueueState] = []
    request = ListQueuesRequest(namespace=asked.settings.namespace, page_size=1_000)
    while True:
        response = await asked.call(lambda endpoint: endpoint.queues.ListQueues, request)
        found += [_of_message(message) for message in response.queues]
        request.page_token = response.next_page_token
        if not request.page_token:
            return found


async def retrieve(name: str) -> QueueState:
    """One queue. Raises: NotFoundError, SchedulerUnavailableError."""
    asked = client.current()
    request = GetQueueRequest(namespace=asked.settings.namespace, name=texts.check(name, "queue name"))
    return _of_message((await asked.call(lambda endpoint: endpoint.queues.GetQueue, request)).queue)


async def pause(name: str) -> QueueState:
    """Start nothing of a queue, and let no woken run go on, until `resume`; what executes goes on.

    Raises: NotFoundError, SchedulerUnavailableError.
    """
    asked = client.current()
    request = PauseQueueRequest(namespace=asked.settings.namespace, name=texts.check(name, "queue name"))
    return _of_message((await asked.call(lambda endpoint: endpoint.queues.PauseQueue, request)).queue)


async def resume(name: str) -> QueueState:
    """End a pause. Raises: NotFoundError, SchedulerUnavailableError."""
    asked = client.current()
    request = ResumeQueueRequest(namespace=asked.settings.namespace, name=texts.check(name, "queue name"))
    return _of_message((await asked.call(lambda endpoint: endpoint.queues.ResumeQueue, request)).queue)


async def override(
    name: str,
    *,
    concurrency_limit: int | None = None,
    total_concurrency_limit: int | None = None,
    rate_limit: int | None = None,
    rate_period: Duration | None = None,
    depth_limit: int | None = None,
) -> QueueState:
    """Set the limits of a queue, at once and for all workers; no deploy undoes it before `reset_override`. What is left
    out has no limit. The arguments are those of `queue`.

    Raises: InvalidArgumentError, InvalidDurationError, SchedulerUnavailableError.
    """
    asked = client.current()
    wanted = queue(
        texts.check(name, "queue name"),
        concurrency_limit,
        total_concurrency_limit=total_concurrency_limit,
        rate_limit=rate_limit,
        rate_period=rate_period,
        depth_limit=depth_limit,
    )
    request = UpdateQueueRequest(namespace=asked.settings.namespace, definition=wanted.to_message())
    return _of_message((await asked.call(lambda endpoint: endpoint.queues.UpdateQueue, request)).queue)


async def reset_override(name: str) -> QueueState:
    """Have the limits of a queue follow the code again. Raises: NotFoundError, SchedulerUnavailableError."""
    asked = client.current()
    request = UpdateQueueRequest(
        namespace=asked.settings.namespace,
        definition=QueueDefinition(name=texts.check(name, "queue name")),
        clear_override=True,
    )
    return _of_message((await asked.call(lambda endpoint: endpoint.queues.UpdateQueue, request)).queue)


def _of_message(message: queue_service_pb2.Queue) -> QueueState:
    limits = message.definition
    return QueueState(
        name=limits.name,
        concurrency_limit=limits.concurrency_limit or None,
        total_concurrency_limit=limits.total_concurrency_limit or None,
        rate_limit=limits.rate_limit or None,
        rate_period=limits.rate_period.ToTimedelta() if limits.rate_limit else None,
        depth_limit=limits.depth_limit or None,
        overridden=message.overridden,
        paused=message.paused,
        queued=message.queued,
        executing=message.executing,
    )


def _limit(name: str, value: int | None) -> int:
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_LIMIT:
        raise InvalidArgumentError(f"queue: {name}: {value!r} is not a whole number from 1 to {MAX_LIMIT:,}.")
    return value
