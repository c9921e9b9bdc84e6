"""Schedules: tasks that are triggered by the clock.

    @schedules.task(id="nightly-report", cron="0 3 * * *", timezone="Europe/Zurich")
    async def nightly_report(payload: SchedulePayload) -> None: ...

    await schedules.create("remind", cron="0 9 * * MON", external_id="c-7", deduplication_key="remind:c-7")

Inside a run `create` and the like are plain requests, not durable calls: give a `deduplication_key`, or wrap them in a
`step`. See docs/schedules.md.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Unpack

from google.protobuf.field_mask_pb2 import FieldMask

from holdfast import _decorator, client, filters, ids, options, texts
from holdfast._hooks import HookOptions
from holdfast._task import Task, VersionPolicy
from holdfast.durations import Duration
from holdfast.errors import InvalidArgumentError
from holdfast.queues import Queue
from holdfast.retry_policy import Retry
from holdfast.schedule import Misfire, Overlap, Schedule, ScheduleOptions, SchedulePayload, of_message
from holdfast.v1 import run_pb2, schedule_service_pb2
from holdfast.v1.schedule_service_pb2 import (
    ActivateScheduleRequest,
    CreateScheduleRequest,
    DeactivateScheduleRequest,
    DeleteScheduleRequest,
    GetScheduleRequest,
    ListSchedulesRequest,
    UpdateScheduleRequest,
)
from holdfast.v1.task_pb2 import DeclaredSchedule

if TYPE_CHECKING:
    from holdfast.sync import SyncTask

__all__ = [
    "Misfire",
    "Overlap",
    "Schedule",
    "ScheduleOptions",
    "SchedulePage",
    "SchedulePayload",
    "activate",
    "create",
    "deactivate",
    "delete",
    "iterate",
    "list",
    "retrieve",
    "task",
    "update",
]

_FIELDS = 5


class ScheduledTaskOptions(HookOptions, total=False):
    """The options of a task, as of `holdfast.task`."""

    id: str
    retry: Retry
    queue: Queue | str
    max_duration: Duration
    timeout: Duration
    ttl: Duration
    max_recoveries: int
    version_policy: VersionPolicy


@dataclass(frozen=True, slots=True)
class SchedulePage:
    """A page of schedules, oldest first."""

    schedules: tuple[Schedule, ...]
    next_page_token: str
    """Empty on the last page; otherwise the `page_token` of the next."""

    def __iter__(self) -> Iterator[Schedule]:
        return iter(self.schedules)

    def __len__(self) -> int:
        return len(self.schedules)


def task(
    *,
    cron: str,
    timezone: str = "UTC",
    misfire: Misfire = "latest",
    overlap: Overlap = "allow",
    **options: Unpack[ScheduledTaskOptions],
) -> _decorator.TaskDecorator:
    """Register a function as a task that is triggered by the clock. The other options are those of `holdfast.task`.

    The function takes a `SchedulePayload`, or nothing. `cron` has five fields: minute, hour, day of month, month, day
    of week; `timezone` is an IANA name. The newest version that a worker announces decides: the schedule changes and
    goes with the code. One that a user deactivates stays so over deploys.

    Raises: InvalidArgumentError; TaskDefinitionError, DuplicateTaskError, InvalidDurationError.
    """
    declared = declare(cron, timezone, misfire, overlap)
    return _decorator.TaskDecorator({**options, "schedule": declared}, _decorator.local_names_of_caller(2))


def declare(cron: str, timezone: str, misfire: str, overlap: str) -> DeclaredSchedule:
    """A schedule as a worker announces it. Raises: InvalidArgumentError."""
    _misfire(misfire)
    _overlap(overlap)
    return DeclaredSchedule(
        cron=_cron(cron), timezone=texts.check(timezone, "timezone"), misfire=misfire, overlap=overlap
    )


async def create(
    task: Task[Any, Any] | SyncTask[Any, Any] | str,
    *,
    cron: str,
    timezone: str = "UTC",
    deduplication_key: str | None = None,
    external_id: str | None = None,
    misfire: Misfire = "latest",
    overlap: Overlap = "allow",
    **options: Unpack[ScheduleOptions],
) -> Schedule:
    """Create a schedule for a task, or, with the `deduplication_key` of one that exists, update that one: it keeps its
    id, and stays deactivated if it is. `external_id` is your own id for it, handed to the task. The other options are
    those of the runs.

    Raises: InvalidArgumentError, TaskNotFoundError, RequestError, SchedulerUnavailableError.
    """
    message = _message(
        task_id=task,
        cron=cron,
        timezone=timezone,
        external_id=external_id or "",
        misfire=misfire,
        overlap=overlap,
        options=options,
    )
    message.id = ids.new_schedule_id()
    if deduplication_key is not None:
        message.deduplication_key = texts.check(deduplication_key, "deduplication_key")
    asked = client.current()
    request = CreateScheduleRequest(namespace=asked.settings.namespace, schedule=message)
    response = await asked.call(lambda endpoint: endpoint.schedules.CreateSchedule, request)
    return of_message(response.schedule)


async def update(
    schedule: Schedule | str,
    *,
    task: Task[Any, Any] | SyncTask[Any, Any] | str | None = None,
    cron: str | None = None,
    timezone: str | None = None,
    external_id: str | None = None,
    misfire: Misfire | None = None,
    overlap: Overlap | None = None,
    **options: Unpack[ScheduleOptions],
) -> Schedule:
    """Change what is given of a schedule; the rest stays, and whether it is active. Given any options of the runs, they
    replace all of them.

    Raises: InvalidArgumentError, NotFoundError, TaskNotFoundError, WrongStatusError (it is declared in code),
    SchedulerUnavailableError.
    """
    given: dict[str, Any] = {
        "task_id": task,
        "cron": cron,
        "timezone": timezone,
        "external_id": external_id,
        "misfire": misfire,
        "overlap": overlap,
        "options": options or None,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    if not changes:
        return await retrieve(schedule)
    message = _message(**changes)
    message.id = _id(schedule)
    asked = client.current()
    request = UpdateScheduleRequest(
        namespace=asked.settings.namespace, schedule=message, update_mask=FieldMask(paths=[*changes])
    )
    response = await asked.call(lambda endpoint: endpoint.schedules.UpdateSchedule, request)
    return of_message(response.schedule)


async def retrieve(schedule: Schedule | str) -> Schedule:
    """A schedule as it stands. Raises: NotFoundError, SchedulerUnavailableError."""
    asked = client.current()
    request = GetScheduleRequest(namespace=asked.settings.namespace, schedule_id=_id(schedule))
    response = await asked.call(lambda endpoint: endpoint.schedules.GetSchedule, request)
    return of_message(response.schedule)


async def activate(schedule: Schedule | str) -> Schedule:
    """Have a schedule fire, from its next instant on; what it missed meanwhile is not made up for.

    Raises: NotFoundError, WrongStatusError (code no longer declares it), SchedulerUnavailableError.
    """
    asked = client.current()
    request = ActivateScheduleRequest(namespace=asked.settings.namespace, schedule_id=_id(schedule))
    response = await asked.call(lambda endpoint: endpoint.schedules.ActivateSchedule, request)
    return of_message(response.schedule)


async def deactivate(schedule: Schedule | str) -> Schedule:
    """Stop a schedule from firing, whatever is deployed, until it is activated. Runs that exist go on.

    Raises: NotFoundError, SchedulerUnavailableError.
    """
    asked = client.current()
    request = DeactivateScheduleRequest(namespace=asked.settings.namespace, schedule_id=_id(schedule))
    response = await asked.call(lambda endpoint: endpoint.schedules.DeactivateSchedule, request)
    return of_message(response.schedule)


async def delete(schedule: Schedule | str) -> None:
    """Delete a schedule; its runs stay.

    Raises: NotFoundError, WrongStatusError (it is declared in code), SchedulerUnavailableError.
    """
    asked = client.current()
    request = DeleteScheduleRequest(namespace=asked.settings.namespace, schedule_id=_id(schedule))
    await asked.call(lambda endpoint: endpoint.schedules.DeleteSchedule, request)


async def list(*, limit: int = 100, page_token: str = "") -> SchedulePage:
    """A page of at most `limit` (1,000) schedules, oldest first. Raises: InvalidArgumentError, RequestError,
    SchedulerUnavailableError."""
    asked = client.current()
    request = ListSchedulesRequest(
        namespace=asked.settings.namespace, page_size=filters.page_size(limit), page_token=page_token
    )
    response = await asked.call(lambda endpoint: endpoint.schedules.ListSchedules, request)
    return SchedulePage(tuple(of_message(one) for one in response.schedules), response.next_page_token)


async def iterate(*, limit: int = 100) -> AsyncIterator[Schedule]:
    """All schedules, oldest first, asked for page by page of `limit`. Raises: as `list`."""
    token = ""
    while True:
        page = await list(limit=limit, page_token=token)
        for schedule in page:
            yield schedule
        token = page.next_page_token
        if not token:
            return


def _message(**given: Any) -> schedule_service_pb2.Schedule:
    return schedule_service_pb2.Schedule(**{name: _CHECKS[name](value) for name, value in given.items()})


def _task_id(value: Any) -> str:
    return texts.check(value if isinstance(value, str) else getattr(value, "id", value), "task")


def _cron(value: object) -> str:
    """The scheduler knows more of cron; what every field means is said there."""
    text = texts.check(value, "cron")
    count = len(text.split())
    if count != _FIELDS:
        raise InvalidArgumentError(
            f"cron: {text!r} has {count} fields; write five: minute, hour, day of month, month, day of week."
        )
    return text


def _timezone(value: object) -> str:
    return texts.check(value, "timezone")


def _external_id(value: object) -> str:
    return "" if value == "" else texts.check(value, "external_id")


def _misfire(value: str) -> Any:
    return _policy("misfire", value, _MISFIRES)


def _overlap(value: str) -> Any:
    return _policy("overlap", value, _OVERLAPS)


def _policy(name: str, value: str, known: Mapping[str, Any]) -> Any:
    if not isinstance(value, str) or value not in known:
        raise InvalidArgumentError(f"{name}: {value!r} is none of {', '.join(repr(one) for one in known)}.")
    return known[value]


def _run_options(given: Mapping[str, Any]) -> run_pb2.TriggerOptions:
    for name in given:
        if name not in ScheduleOptions.__annotations__:
            known = ", ".join(ScheduleOptions.__annotations__)
            raise TypeError(f"schedules: there is no option {name!r}; there are {known}.")
    return options.build_item("", b"", b"", given, None).options


def _id(schedule: Schedule | str) -> str:
    return schedule.id if isinstance(schedule, Schedule) else texts.check(schedule, "schedule id")


_MISFIRES = {
    "skip": schedule_service_pb2.MISFIRE_POLICY_SKIP,
    "latest": schedule_service_pb2.MISFIRE_POLICY_LATEST,
    "all": schedule_service_pb2.MISFIRE_POLICY_ALL,
}
_OVERLAPS = {
    "allow": schedule_service_pb2.OVERLAP_POLICY_ALLOW,
    "skip": schedule_service_pb2.OVERLAP_POLICY_SKIP,
    "queue": schedule_service_pb2.OVERLAP_POLICY_QUEUE,
    "cancel_previous": schedule_service_pb2.OVERLAP_POLICY_CANCEL_PREVIOUS,
}
_CHECKS: Mapping[str, Any] = {
    "task_id": _task_id,
    "cron": _cron,
    "timezone": _timezone,
    "external_id": _external_id,
    "misfire": _misfire,
    "overlap": _overlap,
    "options": _run_options,
}
