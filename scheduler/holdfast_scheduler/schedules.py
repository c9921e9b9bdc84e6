"""Keeping schedules: by the API, and as tasks declare them in code."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from holdfast.v1.task_pb2 import DeclaredSchedule, TaskDefinition
from holdfast_scheduler import cron, ids, schedule_store
from holdfast_scheduler import model as m
from holdfast_scheduler.errors import (
    ALREADY_EXISTS,
    FAILED_PRECONDITION,
    INVALID_ARGUMENT,
    RESOURCE_EXHAUSTED,
    near_names,
    not_found_fault,
)
from holdfast_scheduler.model import ItemFault, Schedule
from holdfast_scheduler.unit_of_work import UnitOfWork

MISFIRES: Final = {"": m.MISFIRE_LATEST, "skip": m.MISFIRE_SKIP, "latest": m.MISFIRE_LATEST, "all": m.MISFIRE_ALL}
OVERLAPS: Final = {
    "": m.OVERLAP_ALLOW,
    "allow": m.OVERLAP_ALLOW,
    "skip": m.OVERLAP_SKIP,
    "queue": m.OVERLAP_QUEUE,
    "cancel_previous": m.OVERLAP_CANCEL_PREVIOUS,
}
_SETTABLE: Final = ("task", "cron", "timezone", "misfire", "overlap", "external_id", "options")


# --- by the API -------------------------------------------------------------------------------------------------------
def create(unit: UnitOfWork, given: Schedule) -> bytes | ItemFault:
    """Create a schedule, or update the one with its deduplication key. Returns its id."""
    tx, namespace = unit.tx, unit.namespace
    if fault := _unknown_task(unit, given.task):
        return fault
    wanted = {name: getattr(given, name) for name in _SETTABLE}
    known = schedule_store.lock_keyed(tx, namespace, given.key) if given.key is not None else None
    if known is not None:
        _change(unit, known, wanted)
        return known.id
    before = schedule_store.lock(tx, namespace, [given.id]).get(given.id)
    if before is not None:
        # A repeat finds what it made, whatever was changed since then by somebody else.
        if before.key == given.key and before.task == given.task and not before.declared:
            return before.id
        message = f"schedule.id: {_text(given.id)} was used before for another schedule; choose a new id"
        return ItemFault(ALREADY_EXISTS, "ID_REUSED", message, {"field": "schedule.id"})
    most = unit.world.settings.limits.schedules
    if schedule_store.count(tx, namespace) >= most:
        message = (
            f"namespace {namespace!r} has as many schedules as the limit schedules of {most:,} allows; delete some"
        )
        return ItemFault(RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED", message, {"limit": "schedules", "most": str(most)})
    given.created_at = unit.now
    _retime(unit, given)
    schedule_store.insert(tx, namespace, [given])
    return given.id


def update(unit: UnitOfWork, command: m.UpdateSchedule) -> ItemFault | None:
    """Replace parts of a schedule."""
    found = schedule_store.lock(unit.tx, unit.namespace, [command.schedule_id]).get(command.schedule_id)
    if found is None:
        return not_found_fault("schedule", _text(command.schedule_id))
    if found.declared:
        return _is_declared(found, "change it there")
    if command.key and command.key != found.key:
        has = f"has the key {found.key!r}" if found.key else "has no key"
        message = f"schedule.deduplication_key: cannot be changed; the schedule {has}. Create another one"
        return ItemFault(INVALID_ARGUMENT, "INVALID_ARGUMENT", message, {"field": "schedule.deduplication_key"})
    if "task" in command.changes and (fault := _unknown_task(unit, command.changes["task"])):
        return fault
    _change(unit, found, command.changes)
    return None


def activate(unit: UnitOfWork, command: m.ActivateSchedule) -> ItemFault | None:
    """Have a schedule fire from its next instant on, or no more."""
    found = schedule_store.lock(unit.tx, unit.namespace, [command.schedule_id]).get(command.schedule_id)
    if found is None:
        return not_found_fault("schedule", _text(command.schedule_id))
    if command.active and found.withdrawn:
        message = (
            f"schedule {_text(found.id)} was declared beside task {found.task!r}, whose newest version declares none;"
            " declare it again, or create another schedule"
        )
        return ItemFault(FAILED_PRECONDITION, "WRONG_STATUS", message, {"schedule_id": _text(found.id)})
    if found.active != command.active or (command.active and found.next_at is None):
        found.active = command.active
        _retime(unit, found)
        schedule_store.update(unit.tx, unit.namespace, [found])
    return None


def delete(unit: UnitOfWork, command: m.DeleteSchedule) -> ItemFault | None:
    """Delete a schedule."""
    found = schedule_store.lock(unit.tx, unit.namespace, [command.schedule_id]).get(command.schedule_id)
    if found is None:
        return not_found_fault("schedule", _text(command.schedule_id))
    if found.declared and not found.withdrawn:
        return _is_declared(found, "take it away there, or deactivate it")
    schedule_store.delete(unit.tx, unit.namespace, found.id)
    return None


# --- in code ----------------------------------------------------------------------------------------------------------
def declare(unit: UnitOfWork, tasks: Iterable[str]) -> None:
    """Take over what the newest versions of these tasks declare. Whether a user has deactivated it stays."""
    names = set(tasks)
    rows = schedule_store.lock_declared(unit.tx, unit.namespace, names)
    # Read after the locks were granted: of two versions that are announced at once, both see the newer one.
    definitions = schedule_store.newest_definitions(unit.tx, unit.namespace, names)
    made: list[Schedule] = []
    changed: list[Schedule] = []
    for name, definition in definitions.items():
        task = TaskDefinition.FromString(definition)
        row = rows.get(name)
        if not task.HasField("schedule"):
            if row is not None and not row.withdrawn:
                row.withdrawn = True
                _retime(unit, row)
                changed.append(row)
            continue
        wanted = _declared(unit, name, task.schedule)
        if row is None:
            _retime(unit, wanted)
            made.append(wanted)
            continue
        is_other_time = (row.cron, row.timezone, row.withdrawn) != (wanted.cron, wanted.timezone, False)
        if is_other_time or (row.misfire, row.overlap) != (wanted.misfire, wanted.overlap):
            row.cron, row.timezone, row.misfire, row.overlap = (
                wanted.cron,
                wanted.timezone,
                wanted.misfire,
                wanted.overlap,
            )
            row.withdrawn = False
            if is_other_time:
                _retime(unit, row)
            changed.append(row)
    if made:
        schedule_store.insert(unit.tx, unit.namespace, made)
    if changed:
        schedule_store.update(unit.tx, unit.namespace, changed)


def _declared(unit: UnitOfWork, task: str, message: DeclaredSchedule) -> Schedule:
    return Schedule(
        id=ids.new_id(),
        task=task,
        cron=cron.checked_cron(message.cron),
        timezone=cron.checked_zone(message.timezone),
        misfire=MISFIRES[message.misfire],
        overlap=OVERLAPS[message.overlap],
        created_at=unit.now,
        declared=True,
    )


# --- both -------------------------------------------------------------------------------------------------------------
def _change(unit: UnitOfWork, row: Schedule, changes: dict[str, object]) -> None:
    is_other_time = any(changes.get(name, getattr(row, name)) != getattr(row, name) for name in ("cron", "timezone"))
    for name, value in changes.items():
        setattr(row, name, value)
    if is_other_time:
        _retime(unit, row)
    schedule_store.update(unit.tx, unit.namespace, [row])


def _retime(unit: UnitOfWork, row: Schedule) -> None:
    """Find the next instant; never one that has fired, though the clock was set back. One that is off has none, and
    what waited for the end of a run does not fire any more."""
    row.next_at = None
    if not row.active or row.withdrawn:
        row.waiting = ""
        return
    for instant in cron.following(row.cron, row.timezone, max(unit.now, row.last_at or 0), 1):
        row.next_at = instant
        unit.timed_schedules.append((instant, row.id))


def _unknown_task(unit: UnitOfWork, task: str) -> ItemFault | None:
    if unit.task(task) is not None:
        return None
    known = [name for namespace, name in unit.world.tasks if namespace == unit.namespace]
    return not_found_fault("task", task, near_names(task, known))


def _is_declared(row: Schedule, way_out: str) -> ItemFault:
    message = f"schedule {_text(row.id)} is declared in code, beside task {row.task!r}; {way_out}"
    return ItemFault(FAILED_PRECONDITION, "WRONG_STATUS", message, {"schedule_id": _text(row.id)})


def _text(schedule_id: bytes) -> str:
    return ids.to_text(ids.SCHEDULE, schedule_id)
