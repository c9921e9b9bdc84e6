"""What each command does to the unit of work, and the order in which one commit takes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from holdfast_scheduler import (
    firing,
    propagation,
    queues,
    reporting,
    retention,
    schedule_store,
    schedules,
    sessions,
    store,
    tokens,
)
from holdfast_scheduler import model as m
from holdfast_scheduler import run_machine as rules
from holdfast_scheduler.backlog import Backlog
from holdfast_scheduler.database import ConflictError
from holdfast_scheduler.dispatch import Offer, dispatch
from holdfast_scheduler.errors import not_found_fault
from holdfast_scheduler.ids import run_text
from holdfast_scheduler.model import Command, ItemFault, NewRun, Run
from holdfast_scheduler.triggering import FAILED_PRECONDITION, Trigger, begin_time_to_live
from holdfast_scheduler.unit_of_work import FORESEEN_AT_ONCE, UnitOfWork, World, error_bytes, key_hash

_CALL_TIMED_OUT: Final = error_bytes(
    "TIMED_OUT", "CallTimedOut", "the durable call was not answered within its timeout"
)


def apply_commands(
    unit: UnitOfWork, commands: list[Command], offers: list[Offer], backlog: Backlog, replica: bytes
) -> list[Any]:
    """Apply the commands of one namespace in order, carry their effects to a fixpoint, start what can be started, and
    write everything. Returns the outcomes."""
    trigger = Trigger(unit)
    if not backlog.may_wait(None, ""):
        unit.ahead_room = {one.session: one.slots for one in offers}
    _look_up(unit, trigger, commands, offers)
    outcomes = [_HANDLERS[type(command)](unit, trigger, command, replica) for command in commands]
    propagation.propagate(unit)
    if unit.untold:
        sessions.tell_untold(unit)
    if unit.ended_sessions:
        offers = [one for one in offers if one.session not in unit.ended_sessions]
    dispatch(unit, offers, backlog)
    unit.flush()
    return outcomes


def _look_up(unit: UnitOfWork, trigger: Trigger, commands: list[Command], offers: list[Offer]) -> None:
    """Load and lock in one statement each whatever the commands name."""
    named: set[bytes] = set()
    for command in commands:
        kind = type(command)
        if kind is m.ApplyReports:
            named.update([report.run_id for report in command.reports])
        elif kind in (m.CancelRun, m.RescheduleRun):
            named.add(command.run_id)
        elif kind is m.RunsDue:
            named.update(command.run_ids)
        elif kind is m.SchedulesDue:
            named.update(schedule_store.previous_runs(unit.tx, unit.namespace, command.schedule_ids))
    asked: list[tuple[NewRun, Run | None]] = []
    probe: list[bytes] = []
    for command in commands:
        if type(command) in (m.TriggerRuns, m.TriggerBatch):
            for new in command.items:
                asked.append((new, None))
                if new.id_chosen:
                    probe.append(new.id)
    if unit.tx.is_foreseen:
        probe.clear()  # an id that exists makes the insertion fail
    elif offers and _only_triggers(commands):
        # Their runs are about to be started: sessions and ids in one round trip. Nothing else that is to be locked
        # before the sessions is locked here, and no command changes what is read of them.
        unit.lock_connections([offer.session for offer in offers])
    unit.load([*named, *probe])
    tagging = {
        report.run_id
        for command in commands
        if type(command) is m.ApplyReports
        for report in command.reports
        if report.add_tags
    }
    if tagging:
        unit.load_tags(tagging)
    for command in commands:
        if type(command) is m.ApplyReports:
            asked += reporting.asked(unit, command.session, command.reports)
    trigger.prepare(asked, ())


def _only_triggers(commands: list[Command]) -> bool:
    """Whether all that is asked for is new runs, without keys."""
    for command in commands:
        if type(command) is m.TriggerBatch and command.key is not None:
            return False
        if type(command) not in (m.TriggerRuns, m.TriggerBatch):
            return False
        if any(new.key is not None or new.debounce is not None for new in command.items):
            return False
    return True


def can_be_foreseen(commands: list[Command], world: World) -> bool:
    """Whether all that the commands look up first is likely to be known: they trigger few runs, or report few steps or
    ends of runs that the last commits wrote. Nothing that is measured from the present instant is among them: that is
    foreseen, too, and may be a moment behind."""
    count = 0
    for command in commands:
        if type(command) is m.ApplyReports:
            count += len(command.reports)
            known = [(command.namespace, report.run_id) in world.foreseen for report in command.reports]
            if not all(known) or not all(_is_plain_report(report) for report in command.reports):
                return False
        elif type(command) is m.TriggerRuns:
            count += len(command.items)
            if not _only_triggers([command]) or any(new.delay_us for new in command.items):
                return False
        else:
            return False
        if count > FORESEEN_AT_ONCE:
            return False
    return True


def _is_plain_report(report: m.Report) -> bool:
    return report.event in ("", rules.COMPLETE) and all(record.kind == m.STEP for record in report.records)


def _trigger(unit: UnitOfWork, trigger: Trigger, command: m.TriggerRuns, _replica: bytes) -> Any:
    outcomes = [trigger.one(new) for new in command.items]
    if unit.tx.is_foreseen and any(isinstance(one, ItemFault) for one in outcomes):
        # Nothing is inserted, so nothing would tell that the run exists already, and nobody has looked.
        raise ConflictError("an item is refused whose id was not looked up")
    return outcomes


def _trigger_batch(unit: UnitOfWork, trigger: Trigger, command: m.TriggerBatch, _replica: bytes) -> Any:
    return trigger.batch(command.batch_id, command.items, command.key, None, wait=False, chosen=command.id_chosen)


def _reports(unit: UnitOfWork, trigger: Trigger, command: m.ApplyReports, _replica: bytes) -> None:
    arrived_at = unit.now - command.waited_us
    for report in command.reports:
        reporting.apply_report(unit, trigger, command.session, report, arrived_at)


def _cancel(unit: UnitOfWork, trigger: Trigger, command: m.CancelRun, _replica: bytes) -> bool | ItemFault:
    run = unit.runs.get(command.run_id)
    if run is None:
        return not_found_fault("run", run_text(command.run_id))
    return not unit.transition(run, rules.CANCEL) & rules.REFUSED


def _reschedule(unit: UnitOfWork, trigger: Trigger, command: m.RescheduleRun, _replica: bytes) -> ItemFault | None:
    run = unit.runs.get(command.run_id)
    if run is None:
        return not_found_fault("run", run_text(command.run_id))
    if run.status != m.DELAYED or run.reason not in (m.SCHEDULED, m.DEBOUNCED):
        return ItemFault(
            FAILED_PRECONDITION,
            "WRONG_STATUS",
            f"run_id: {run_text(run.id)} is {m.STATUS_NAMES[run.status]}; only a run that waits for the instant it was"
            " triggered for, or for the end of its debounce, can be rescheduled",
            {"status": m.STATUS_NAMES[run.status]},
        )
    start = command.start_at if command.start_at is not None else unit.now + (command.delay_us or 0)
    assert run.wake_at is not None
    run.order_at += start - run.wake_at
    run.wake_at = start
    rules.set_due(run)
    unit.changed(run)
    unit.touched.add(run.id)
    return None


def _reset_key(unit: UnitOfWork, trigger: Trigger, command: m.ResetKey, _replica: bytes) -> bool:
    scope = command.key.scope or m.SCOPE_GLOBAL
    digest = key_hash("run", command.task, command.key, scope, command.within, command.attempt)
    return store.delete_key(unit.tx, unit.namespace, "run", command.task, digest)


def _create_token(unit: UnitOfWork, trigger: Trigger, command: m.CreateToken, _replica: bytes) -> Any:
    return tokens.create(unit, command.token_id, command.timeout_us, command.tags, command.key, None)


def _settle_token(unit: UnitOfWork, trigger: Trigger, command: m.SettleToken, _replica: bytes) -> bool | ItemFault:
    return tokens.complete(unit, command.token_id, command.data, command.error)


def _runs_due(unit: UnitOfWork, trigger: Trigger, command: m.RunsDue, _replica: bytes) -> None:
    due: list[Run] = []
    ahead: dict[bytes, int] = {}  # runs whose wait ends within moments → when
    for run in [unit.runs[run_id] for run_id in command.run_ids if run_id in unit.runs]:
        if run.due_at is None:
            continue
        ahead_us = unit.ahead_us(run)
        if run.due_at <= unit.now:
            due.append(run)
        elif run.due_at > unit.now + ahead_us:
            unit.timed.append((run.due_at - ahead_us, run.id))  # its timer has rung too early
        elif unit.may_wake_ahead(run):
            ahead[run.id] = run.due_at
        else:
            unit.timed.append((run.due_at, run.id))
    timed = [
        run.id for run in due if run.timer_at is not None and run.timer_at <= unit.now and run.status in rules.TIMED
    ]
    if timed or ahead:
        unit.flush_checkpoints()
        pending = store.load_pending(unit.tx, unit.namespace, [*timed, *ahead])
        # Runs that share a commit are answered in the order of their instants, as they would be one by one.
        for checkpoint in sorted(pending, key=lambda one: (one.due_at or 0, one.seq)):
            over = ahead.get(checkpoint.run_id, unit.now) if checkpoint.kind == m.WAIT else unit.now
            if checkpoint.due_at is None or checkpoint.due_at > over:
                continue
            if checkpoint.kind == m.WAIT:
                unit.settle(checkpoint, m.SUCCEEDED)
            else:
                unit.settle(checkpoint, m.FAILED_CHECKPOINT, error=_CALL_TIMED_OUT)
    for run_id, instant in ahead.items():
        if unit.runs[run_id].status == m.WAITING:
            unit.timed.append((instant, run_id))  # a time limit, and those are never met ahead
    waiting = [run for run in due if run.status == m.DELAYED and run.reason in (m.SCHEDULED, m.DEBOUNCED)]
    for run in due:
        unit.transition(run, rules.DUE)
    begin_time_to_live(unit, [run for run in waiting if run.status == m.QUEUED])


def _tokens_due(unit: UnitOfWork, trigger: Trigger, command: m.TokensDue, _replica: bytes) -> None:
    tokens.time_out(unit, command.token_ids)


def _schedules_due(unit: UnitOfWork, trigger: Trigger, command: m.SchedulesDue, _replica: bytes) -> None:
    firing.fire(unit, trigger, command.schedule_ids)


def _create_schedule(unit: UnitOfWork, trigger: Trigger, command: m.CreateSchedule, _replica: bytes) -> Any:
    return schedules.create(unit, command.schedule)


def _update_schedule(unit: UnitOfWork, trigger: Trigger, command: m.UpdateSchedule, _replica: bytes) -> Any:
    return schedules.update(unit, command)


def _activate_schedule(unit: UnitOfWork, trigger: Trigger, command: m.ActivateSchedule, _replica: bytes) -> Any:
    return schedules.activate(unit, command)


def _delete_schedule(unit: UnitOfWork, trigger: Trigger, command: m.DeleteSchedule, _replica: bytes) -> Any:
    return schedules.delete(unit, command)


def _open(unit: UnitOfWork, trigger: Trigger, command: m.OpenSession, replica: bytes) -> int:
    return sessions.open_session(unit, command, replica)


def _resume(unit: UnitOfWork, trigger: Trigger, command: m.ResumeSession, replica: bytes) -> int | None:
    return sessions.resume_session(unit, command, replica)


def _reconcile(unit: UnitOfWork, trigger: Trigger, command: m.ReconcileHeld, _replica: bytes) -> None:
    sessions.reconcile(unit, command)


def _renew(unit: UnitOfWork, trigger: Trigger, command: m.RenewSession, _replica: bytes) -> bool:
    return store.renew_session(unit.tx, unit.namespace, command.session, unit.now + sessions.lease_us(unit))


def _catch_up(unit: UnitOfWork, trigger: Trigger, command: m.CatchUp, _replica: bytes) -> bool:
    return sessions.catch_up(unit, command)


def _end(unit: UnitOfWork, trigger: Trigger, command: m.EndSession, _replica: bytes) -> bool:
    return sessions.end_session(unit, command)


def _event(unit: UnitOfWork, trigger: Trigger, command: PostponedEvent, _replica: bytes) -> None:
    propagation.replay_event(unit, command.kind, command.run_id)


def _look(unit: UnitOfWork, trigger: Trigger, command: m.Look, _replica: bytes) -> None:
    unit.opened.update(command.queues)


def _pause_queue(unit: UnitOfWork, trigger: Trigger, command: m.PauseQueue, _replica: bytes) -> None:
    queues.pause(unit, command.name, command.paused)


def _update_queue(unit: UnitOfWork, trigger: Trigger, command: m.UpdateQueue, _replica: bytes) -> None:
    queues.update(unit, command.name, command.limits)


def _forget(unit: UnitOfWork, trigger: Trigger, command: m.Forget, _replica: bytes) -> m.Forgotten:
    return retention.forget(unit, command)


class PostponedEvent:
    """An event that an earlier commit postponed."""

    __slots__ = ("kind", "namespace", "run_id")

    def __init__(self, namespace: str, kind: int, run_id: bytes) -> None:
        self.namespace = namespace
        self.kind = kind
        self.run_id = run_id


_HANDLERS: Final[dict[type, Callable[[UnitOfWork, Trigger, Any, bytes], Any]]] = {
    m.TriggerRuns: _trigger,
    m.TriggerBatch: _trigger_batch,
    m.ApplyReports: _reports,
    m.CancelRun: _cancel,
    m.RescheduleRun: _reschedule,
    m.ResetKey: _reset_key,
    m.CreateToken: _create_token,
    m.SettleToken: _settle_token,
    m.RunsDue: _runs_due,
    m.TokensDue: _tokens_due,
    m.SchedulesDue: _schedules_due,
    m.CreateSchedule: _create_schedule,
    m.UpdateSchedule: _update_schedule,
    m.ActivateSchedule: _activate_schedule,
    m.DeleteSchedule: _delete_schedule,
    m.OpenSession: _open,
    m.ResumeSession: _resume,
    m.ReconcileHeld: _reconcile,
    m.RenewSession: _renew,
    m.EndSession: _end,
    m.CatchUp: _catch_up,
    m.Look: _look,
    m.PauseQueue: _pause_queue,
    m.UpdateQueue: _update_queue,
    m.Forget: _forget,
    PostponedEvent: _event,
}
