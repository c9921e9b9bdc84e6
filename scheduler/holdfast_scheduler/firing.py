"""Firing schedules: due instants become runs, in one commit with the move to the next instant.

No instant fires twice. The schedule's row is locked while it fires and says which instant is next; and the id of a run
follows from schedule and instant, so that even a clock that was set back meets the run that is there already.

An instant that waits for the end of the previous run is kept at the schedule, and that run is marked as awaited. It
fires in the commit that ends the run: until then the run is open, so there is always somebody who will do it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from holdfast.v1.payload_pb2 import Payload
from holdfast.v1.run_pb2 import TriggerOptions
from holdfast_scheduler import cron, ids, schedule_store
from holdfast_scheduler import model as m
from holdfast_scheduler import run_machine as rules
from holdfast_scheduler import schedule_rules as policies
from holdfast_scheduler.model import ItemFault, NewRun, Schedule
from holdfast_scheduler.triggering import Trigger
from holdfast_scheduler.unit_of_work import UnitOfWork

log = logging.getLogger("holdfast.scheduler")

UPCOMING: Final = 10
"""Further instants that a payload tells of."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def fire(unit: UnitOfWork, trigger: Trigger, schedule_ids: Sequence[bytes]) -> None:
    """Fire what is due of these schedules. What another replica fires at this moment is left to it."""
    rows = schedule_store.claim_due(unit.tx, unit.namespace, schedule_ids, unit.now)
    # As a rule these are here: they were looked up before the schedules were locked.
    unit.load(row.last_run for row in rows if row.last_run is not None and row.overlap != m.OVERLAP_ALLOW)
    chosen = [(row, _choose(unit, row)) for row in rows]
    asked = {(row.id, instant): _new_run(row, instant) for row, instants in chosen for instant in instants}
    trigger.prepare([(new, None) for new in asked.values()], [new.id for new in asked.values()])
    for row, instants in chosen:
        for instant in instants:
            _take(unit, trigger, row, instant, asked[row.id, instant])
    if rows:
        schedule_store.update(unit.tx, unit.namespace, rows)


def release(unit: UnitOfWork, ended: Sequence[bytes]) -> None:
    """Fire the instants that wait for the end of these runs, one of each schedule."""
    rows = schedule_store.lock_waiting(unit.tx, unit.namespace, ended)
    trigger = Trigger(unit)
    for row in rows:
        instants = [int(text) for text in row.waiting.split()]
        is_fired = False
        while instants and not is_fired:
            instant = instants.pop(0)
            row.waiting = " ".join(map(str, instants))
            new = _new_run(row, instant)
            trigger.prepare([(new, None)], [new.id])
            is_fired = _trigger(unit, trigger, row, instant, new)
    if rows:
        schedule_store.update(unit.tx, unit.namespace, rows)


def _choose(unit: UnitOfWork, row: Schedule) -> list[int]:
    """The due instants that go on to the rule for overlaps; and move the schedule to its next instant."""
    settings = unit.world.settings
    most, grace_us = settings.limits.misfire_cap, round(settings.misfire_grace * 1e6)
    first = row.next_at
    assert first is not None
    try:
        instants, older = cron.due(row.cron, row.timezone, first, unit.now, most + 1)
        row.next_at = next(iter(cron.following(row.cron, row.timezone, instants[-1], 1)), None)
    except ValueError as error:  # the time zone has gone from this machine
        log.error("schedule deactivated schedule=%s task=%s error=%s", _text(row), row.task, error)
        _note_skip(row, first, 1, str(error))
        row.active, row.next_at, row.waiting = False, None, ""
        return []
    if row.next_at is not None:
        unit.timed_schedules.append((row.next_at, row.id))
    chosen = policies.not_missed(row.misfire, instants, unit.now, grace_us)[-most:]
    left_out = [instant for instant in instants if instant not in chosen]
    if left_out:
        reason = f"missed: it was late by more than misfire_grace ({settings.misfire_grace:g} s)"
        if len(chosen) == most:
            reason = f"missed: more instants than the limit misfire_cap of {most} were due at once"
        _skip(row, left_out[-1], len(left_out) + older, reason)
    return chosen


def _take(unit: UnitOfWork, trigger: Trigger, row: Schedule, instant: int, new: NewRun) -> None:
    """Do with a due instant what the rule for overlaps says."""
    previous = unit.runs.get(row.last_run) if row.last_run is not None else None
    is_open = previous is not None and not m.is_final(previous.status)
    waiting, most = row.waiting.split(), unit.world.settings.limits.schedule_waiting
    action = policies.on_overlap(row.overlap, is_open, len(waiting), most)
    if action == policies.SKIP and row.overlap == m.OVERLAP_QUEUE:
        _skip(row, instant, 1, f"as many instants waited as the limit schedule_waiting of {most} allows")
    elif action == policies.SKIP:
        _skip(row, instant, 1, "the run of the instant before had not ended")
    elif action == policies.HOLD:
        row.waiting = " ".join([*waiting, str(instant)])
        _await(unit, row)
    else:
        if action == policies.REPLACE and previous is not None:
            unit.transition(previous, rules.CANCEL)
        _trigger(unit, trigger, row, instant, new)


def _await(unit: UnitOfWork, row: Schedule) -> None:
    """Have the end of the previous run looked at."""
    assert row.last_run is not None
    previous = unit.runs[row.last_run]
    if not previous.awaited:
        previous.awaited = True
        unit.changed(previous)


def _trigger(unit: UnitOfWork, trigger: Trigger, row: Schedule, instant: int, new: NewRun) -> bool:
    """Trigger the run of an instant. Returns whether there is one."""
    new.payload = _payload(row, instant)
    outcome = trigger.one(new)
    if isinstance(outcome, ItemFault):
        _skip(row, instant, 1, outcome.message)
        return False
    row.last_at, row.last_run = instant, outcome.run_id
    if row.waiting:
        _await(unit, row)
    return True


def _new_run(row: Schedule, instant: int) -> NewRun:
    """The run of an instant, still without its payload."""
    # Its milliseconds are those of the instant, so that the runs of a schedule are listed in this order.
    run_id = ids.derived_id((instant // 1000).to_bytes(6, "big"), instant.to_bytes(8, "big"), row.id)
    new = NewRun(run_id, row.task, b"", run_id, options=row.options, schedule=row.id)
    if row.options:
        options = TriggerOptions.FromString(row.options)
        new.tags = list(options.tags)
        new.metadata = options.metadata
        new.queue, new.lane, new.version = options.queue, options.concurrency_key, options.version
        new.max_attempts = options.max_attempts
        new.priority_us = round(options.priority * 1e6)
        if options.HasField("ttl"):
            new.ttl_us = options.ttl.ToMicroseconds()
        if options.HasField("timeout"):
            new.timeout_us = options.timeout.ToMicroseconds()
    return new


def _payload(row: Schedule, instant: int) -> bytes:
    document = {
        "schedule_id": _text(row),
        "timestamp": _shown(instant),
        "last_timestamp": _shown(row.last_at) if row.last_at is not None else None,
        "timezone": row.timezone,
        "external_id": row.external_id or None,
        "upcoming": [_shown(one) for one in cron.following(row.cron, row.timezone, instant, UPCOMING)],
    }
    return Payload(data=json.dumps(document, separators=(",", ":")).encode(), meta=SCHEDULED).SerializeToString()


SCHEDULED: Final = {"made-by": "schedule"}
"""Meta of such a payload: a task that takes no payload need not look at it."""


def _skip(row: Schedule, instant: int, count: int, reason: str) -> None:
    log.warning(
        "schedule skipped instants schedule=%s task=%s count=%d last=%s reason=%s",
        _text(row),
        row.task,
        count,
        _shown(instant),
        reason,
    )
    _note_skip(row, instant, count, reason)


def _note_skip(row: Schedule, instant: int, count: int, reason: str) -> None:
    row.skipped += count
    row.last_skipped_at = instant
    row.last_skip_reason = reason


def _shown(instant: int) -> str:
    return (_EPOCH + timedelta(microseconds=instant)).isoformat().replace("+00:00", "Z")


def _text(row: Schedule) -> str:
    return ids.to_text(ids.SCHEDULE, row.id)
