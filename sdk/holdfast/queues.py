"""Queues declared in code."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast import durations, texts
from holdfast.durations import Duration
from holdfast.errors import InvalidArgumentError
from holdfast.v1.task_pb2 import QueueDefinition

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


def _limit(name: str, value: int | None) -> int:
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_LIMIT:
        raise InvalidArgumentError(f"queue: {name}: {value!r} is not a whole number from 1 to {MAX_LIMIT:,}.")
    return value
