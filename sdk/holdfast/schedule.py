"""A schedule as the scheduler shows it, and what it hands to the runs that it triggers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, TypedDict

from pydantic import AwareDatetime, BaseModel

from holdfast import durations, payloads
from holdfast import run as runs
from holdfast.durations import Duration
from holdfast.queues import Queue
from holdfast.v1 import run_pb2, schedule_service_pb2
from holdfast.v1.schedule_service_pb2 import MisfirePolicy, OverlapPolicy

Misfire = Literal["skip", "latest", "all"]
"""What happens to instants that were missed, because no scheduler was up: none fires, the latest, or all of them (of
more than 100 the latest 100)."""
Overlap = Literal["allow", "skip", "queue", "cancel_previous"]
"""What happens when the run of the previous instant has not ended: the new one starts as well, the instant is skipped,
it waits until the previous run has ended (up to 100 do), or the previous run is canceled."""

_MISFIRE = "MISFIRE_POLICY_"
_OVERLAP = "OVERLAP_POLICY_"


class SchedulePayload(BaseModel):
    """What a run that a schedule triggers is for. Instants are in UTC: `payload.timestamp.astimezone(ZoneInfo(
    payload.timezone))` is what the clock on the wall shows."""

    timestamp: AwareDatetime
    """The instant that the run is for; it may start later."""
    last_timestamp: AwareDatetime | None = None
    """The last instant that fired before; None for the first one."""
    timezone: str = "UTC"
    """The schedule's time zone."""
    schedule_id: str = ""
    """The schedule; empty when the run was triggered by hand."""
    external_id: str | None = None
    """Your own id for the schedule."""
    upcoming: tuple[AwareDatetime, ...] = ()
    """The next 10 instants."""


class ScheduleOptions(TypedDict, total=False):
    """The options of the runs that a schedule triggers. What is left out takes the task's definition."""

    ttl: Duration
    priority: float
    queue: str | Queue
    concurrency_key: str
    tags: Any
    metadata: Mapping[str, Any]
    max_attempts: int
    max_duration: Duration
    timeout: Duration
    version: str


@dataclass(frozen=True, slots=True)
class Schedule:
    """Something that triggers a task by the clock, as it stands."""

    id: str
    task_id: str
    cron: str
    timezone: str
    external_id: str
    deduplication_key: str
    active: bool
    """Whether it fires."""
    declared: bool
    """Whether it is written beside its task in code; then it is changed there."""
    misfire: Misfire
    overlap: Overlap
    next_at: datetime | None
    """The next instant; None while it is not active."""
    last_at: datetime | None
    """The last instant that fired."""
    last_run_id: str
    """The run of that instant."""
    waiting: tuple[datetime, ...]
    """Instants that wait for the end of the previous run."""
    skipped: int
    """Instants that did not fire, by a policy, a limit or an error."""
    last_skipped_at: datetime | None
    last_skip_reason: str
    """Why that one did not fire, for people."""
    created_at: datetime | None
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the runs it triggers, by the names of `ScheduleOptions`."""


def of_message(message: schedule_service_pb2.Schedule) -> Schedule:
    """A schedule from the contract's message."""
    return Schedule(
        id=message.id,
        task_id=message.task_id,
        cron=message.cron,
        timezone=message.timezone,
        external_id=message.external_id,
        deduplication_key=message.deduplication_key,
        active=message.active,
        declared=message.declared,
        misfire=_name(MisfirePolicy.Name(message.misfire), _MISFIRE),
        overlap=_name(OverlapPolicy.Name(message.overlap), _OVERLAP),
        next_at=runs.instant_of(message, "next_at"),
        last_at=runs.instant_of(message, "last_at"),
        last_run_id=message.last_run_id,
        waiting=tuple(one.ToDatetime(tzinfo=UTC) for one in message.waiting),
        skipped=message.skipped,
        last_skipped_at=runs.instant_of(message, "last_skipped_at"),
        last_skip_reason=message.last_skip_reason,
        created_at=runs.instant_of(message, "created_at"),
        options=_options_of(message.options),
    )


def _name(text: str, prefix: str) -> Any:
    return text.removeprefix(prefix).lower()


def _options_of(message: run_pb2.TriggerOptions) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for descriptor, value in message.ListFields():
        if descriptor.name in ("ttl", "max_duration", "timeout"):
            found[descriptor.name] = durations.from_message(value)
        elif descriptor.name == "tags":
            found["tags"] = tuple(value)
        elif descriptor.name == "metadata":
            found["metadata"] = payloads.as_object(value)
        else:
            found[descriptor.name] = value
    return found
