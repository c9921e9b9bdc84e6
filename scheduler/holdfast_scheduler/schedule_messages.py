"""Schedules between the contract and the model: every text that a client or worker sends is checked here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, cast

from holdfast.v1.run_pb2 import TriggerItem
from holdfast.v1.schedule_service_pb2 import Schedule as ScheduleMessage
from holdfast.v1.task_pb2 import DeclaredSchedule
from holdfast_scheduler import convert, cron, ids
from holdfast_scheduler import model as m
from holdfast_scheduler.errors import RefusedError, invalid, shown
from holdfast_scheduler.messages import instant
from holdfast_scheduler.model import Schedule
from holdfast_scheduler.schedules import MISFIRES, OVERLAPS
from holdfast_scheduler.settings import Limits

_MISFIRES: Final = (m.MISFIRE_SKIP, m.MISFIRE_LATEST, m.MISFIRE_ALL)
_OVERLAPS: Final = (m.OVERLAP_ALLOW, m.OVERLAP_SKIP, m.OVERLAP_QUEUE, m.OVERLAP_CANCEL_PREVIOUS)
_NOT_FOR_SCHEDULES: Final = {
    "delay": "the schedule says when a run starts",
    "delay_until": "the schedule says when a run starts",
    "debounce": "each instant has a run of its own; use the overlap policy",
    "on_parent_end": "such a run has no parent",
}


# --- in ---------------------------------------------------------------------------------------------------------------
def new_schedule(message: ScheduleMessage, limits: Limits) -> Schedule:
    """The schedule that a client asks for. Raises: RefusedError."""
    schedule_id = convert.id_from("schedule.id", ids.SCHEDULE, message.id) if message.id else ids.new_id()
    values = changes(message, (), limits)
    key = convert.check_text("schedule.deduplication_key", message.deduplication_key, limits)
    return Schedule(id=schedule_id, created_at=0, key=key or None, **values)


def changes(message: ScheduleMessage, paths: Iterable[str], limits: Limits) -> dict[str, Any]:
    """Columns and values of the fields that `paths` names; all that can be set when it names none.

    Raises: RefusedError, which names every field that is wrong in its message.
    """
    wanted = list(paths) or list(_FIELDS)
    for path in wanted:
        if path not in _FIELDS:
            raise invalid("update_mask", f"{shown(path)} cannot be updated; name some of {', '.join(_FIELDS)}")
    found: dict[str, Any] = {}
    refused: list[RefusedError] = []
    for path in wanted:
        column, read = _FIELDS[path]
        try:
            found[column] = read(message, limits)
        except RefusedError as error:
            refused.append(error)
    if refused:
        first = refused[0].fault
        first.message = "; ".join(error.fault.message for error in refused)
        raise RefusedError(first)
    return found


def check_declared(task: str, message: DeclaredSchedule) -> None:
    """Refuse what a task cannot declare. Raises: RefusedError."""
    place = f"of task {shown(task)}"
    _checked("tasks.schedule.cron", place, cron.checked_cron, message.cron)
    _checked("tasks.schedule.timezone", place, cron.checked_zone, message.timezone)
    for name, value, known in (("misfire", message.misfire, MISFIRES), ("overlap", message.overlap, OVERLAPS)):
        if value not in known:
            options = ", ".join(repr(one) for one in known if one)
            raise invalid(f"tasks.schedule.{name}", f"{place}: {shown(value)} is none of {options}")


def _checked(field: str, place: str, check: Callable[[str], str], value: str) -> str:
    try:
        return check(value)
    except ValueError as error:
        raise invalid(field, f"{place}: {error}" if place else str(error)) from None


def _task(message: ScheduleMessage, limits: Limits) -> str:
    if not message.task_id:
        raise invalid("schedule.task_id", "is empty; name the task to trigger")
    return convert.check_text("schedule.task_id", message.task_id, limits)


def _cron(message: ScheduleMessage, limits: Limits) -> str:
    text = convert.check_text("schedule.cron", message.cron, limits)
    return _checked("schedule.cron", "", cron.checked_cron, text)


def _timezone(message: ScheduleMessage, limits: Limits) -> str:
    text = convert.check_text("schedule.timezone", message.timezone, limits)
    return _checked("schedule.timezone", "", cron.checked_zone, text)


def _misfire(message: ScheduleMessage, limits: Limits) -> int:
    policy = message.misfire or m.MISFIRE_LATEST
    if policy not in _MISFIRES:
        raise invalid("schedule.misfire", f"{policy} is not a MisfirePolicy")
    return policy


def _overlap(message: ScheduleMessage, limits: Limits) -> int:
    policy = message.overlap or m.OVERLAP_ALLOW
    if policy not in _OVERLAPS:
        raise invalid("schedule.overlap", f"{policy} is not an OverlapPolicy")
    return policy


def _external_id(message: ScheduleMessage, limits: Limits) -> str:
    return convert.check_text("schedule.external_id", message.external_id, limits)


def _options(message: ScheduleMessage, limits: Limits) -> bytes:
    options = message.options
    for field, _ in options.ListFields():
        if why := _NOT_FOR_SCHEDULES.get(field.name):
            raise invalid(f"schedule.options.{field.name}", f"is not for schedules: {why}")
    # The checks of a trigger, on an item that differs in nothing else.
    error = convert.new_run(TriggerItem(task_id="task", options=options), limits=limits).error
    if error is not None:
        error.message = f"schedule.{error.message}"
        if "field" in error.metadata:
            error.metadata["field"] = f"schedule.{error.metadata['field']}"
        raise RefusedError(error)
    return options.SerializeToString()


_FIELDS: Final[dict[str, tuple[str, Callable[[ScheduleMessage, Limits], Any]]]] = {
    "task_id": ("task", _task),
    "cron": ("cron", _cron),
    "timezone": ("timezone", _timezone),
    "external_id": ("external_id", _external_id),
    "misfire": ("misfire", _misfire),
    "overlap": ("overlap", _overlap),
    "options": ("options", _options),
}


# --- out --------------------------------------------------------------------------------------------------------------
def schedule_message(row: Schedule) -> ScheduleMessage:
    """A schedule, from its row."""
    message = ScheduleMessage(
        id=ids.to_text(ids.SCHEDULE, row.id),
        task_id=row.task,
        cron=row.cron,
        timezone=row.timezone,
        external_id=row.external_id,
        deduplication_key=row.key or "",
        active=row.active and not row.withdrawn,
        misfire=cast(Any, row.misfire),
        overlap=cast(Any, row.overlap),
        declared=row.declared,
        last_run_id=ids.run_text(row.last_run) if row.last_run else "",
        waiting=[instant(int(text)) for text in row.waiting.split()],
        skipped=row.skipped,
        last_skip_reason=row.last_skip_reason,
        created_at=instant(row.created_at),
    )
    if row.options:
        message.options.MergeFromString(row.options)
    for field, at in (("next_at", row.next_at), ("last_at", row.last_at), ("last_skipped_at", row.last_skipped_at)):
        if at is not None:
            getattr(message, field).CopyFrom(instant(at))
    return message
