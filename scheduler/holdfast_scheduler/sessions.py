"""Sessions of workers: opening, resuming, leases, and what becomes of the runs when one ends."""

from __future__ import annotations

import json

from holdfast_scheduler import model as m
from holdfast_scheduler import queues, schedules, store
from holdfast_scheduler import run_machine as rules
from holdfast_scheduler.database import Row
from holdfast_scheduler.definitions import task_row
from holdfast_scheduler.dispatch import fill_batches
from holdfast_scheduler.model import CatchUp, EndSession, OpenSession, Order, ReconcileHeld, ResumeSession, Run
from holdfast_scheduler.unit_of_work import UnitOfWork, error_bytes


def lease_us(unit: UnitOfWork) -> int:
    """Length of a lease in microseconds."""
    return round(unit.world.settings.lease * 1e6)


def open_session(unit: UnitOfWork, command: OpenSession, replica: bytes) -> int:
    """Begin a session and learn its tasks. Returns the connection number."""
    lease_until = unit.now + lease_us(unit)
    who = (command.worker, command.version, _tasks(command.definitions))
    store.upsert_session(unit.tx, (unit.namespace, command.session, command.secret, 1, replica, lease_until, *who))
    _register(unit, command.version, command.definitions)
    return 1


def resume_session(unit: UnitOfWork, command: ResumeSession, replica: bytes) -> int | None:
    """Go on with a session over a new connection. Returns its number; None when the session is gone or the secret is
    wrong."""
    row = store.load_session(unit.tx, unit.namespace, command.session)
    if row is None or bytes(row[1]) != command.secret:
        return None
    number = int(row[2]) + 1
    lease_until = unit.now + lease_us(unit)
    version = row[6]
    tasks = _tasks(command.definitions) if command.definitions else row[7]
    session = (command.session, row[1], number, replica, lease_until, row[5], version, tasks)
    store.upsert_session(unit.tx, (unit.namespace, *session))
    _register(unit, version, command.definitions)
    return number


def _tasks(definitions: list[m.TaskRow]) -> str:
    return json.dumps(sorted(row.id for row in definitions))


def _register(unit: UnitOfWork, version: str, definitions: list[m.TaskRow]) -> None:
    """Write definitions that are new or differ, and the limits of queues and the schedules that they declare. A version
    is as old as its first announcement to any replica, so that an old worker that reconnects does not become the
    newest."""
    namespace, world = unit.namespace, unit.world
    first_at = world.versions.get((namespace, version))
    if first_at is None:
        first_at = store.register_version(unit.tx, namespace, version, unit.now)
    unknown = [row for row in definitions if world.version_of(namespace, row.id, row.version) is None]
    stored: dict[str, Row] = {}
    if unknown:
        stored = store.load_version(unit.tx, namespace, version, [row.id for row in unknown])
    new: list[Row] = []
    changed: list[Row] = []
    affected: dict[str, bool] = {}  # queue → whether any of these tasks declares limits for it
    for row in definitions:
        known = world.version_of(namespace, row.id, row.version)
        if known is None and row.id in stored:
            known = task_row(stored[row.id][2], row.version, stored[row.id][1])
        row.registered_at = first_at
        if known is None:
            new.append((namespace, row.id, row.version, row.registered_at, row.definition, row.queue))
        elif known.definition != row.definition:
            changed.append((namespace, row.id, row.version, row.definition, row.queue))
            affected.setdefault(known.queue, False)
        else:
            continue
        affected[row.queue] = affected.get(row.queue, False) or row.queue_limits != m.NO_LIMITS
    if new or changed:
        queues.begin_change(unit)  # other schedulers are to know them
    if new:
        store.insert_tasks(unit.tx, new)
    if changed:
        store.update_tasks(unit.tx, changed)
    limited = [name for name, declares in affected.items() if declares or unit.queue(name) is not None]
    if limited:
        queues.declare(unit, limited)
    if new or changed:
        schedules.declare(unit, [row[1] for row in (*new, *changed)])


def reconcile(unit: UnitOfWork, command: ReconcileHeld) -> None:
    """Compare what a reconnected session holds with what the rows say.

    What it holds under the current fence stays, and it is told what it may have missed. A resume that was committed
    but never arrived is sent again: the body it holds is exactly the one to go on with. What the rows give it and it
    does not have (a start that never arrived) is released at once, without attempt or recovery. Everything else it
    holds belongs to others by now: it drops that.
    """
    delivery = unit.delivery(command.session)
    delivery.answers_held = True
    rows = {run.id: run for run in unit.adopt(store.load_session_runs(unit.tx, unit.namespace, command.session))}
    kept: list[Run] = []
    again: list[Run] = []
    for run_id, fence in command.held.items():
        run = rows.pop(run_id, None)
        if run is None or run.session != command.session:
            delivery.drops.append((run_id, fence, "another execution has the run, or it has ended"))
        elif run.fence == fence:
            kept.append(run)
        elif run.status == m.EXECUTING and run.fence == fence + 1 and run.last_report == 0:
            again.append(run)
        else:
            delivery.drops.append((run_id, fence, "another execution has the run"))
            rows[run_id] = run
    for run in rows.values():
        unit.transition(run, rules.RELEASE)
    checkpoints: dict[bytes, list[m.Checkpoint]] = {}
    wanted = [run.id for run in (*kept, *again) if run.last_seq]
    unit.flush()
    found = store.load_checkpoints(unit.tx, unit.namespace, wanted) if wanted else []
    fill_batches(unit, found)
    for checkpoint in found:
        checkpoints.setdefault(checkpoint.run_id, []).append(checkpoint)
    for run in kept:
        if run.status == m.CANCELING:
            delivery.cancels.append((run.id, run.fence))
        # What a commit of its own settled, beyond the last that was pushed, it learns from the acknowledgement. As an
        # update it would make the worker believe that a Park which crosses it did not count.
        for checkpoint in checkpoints.get(run.id, ()):
            is_pushed = 0 < checkpoint.settled_order <= run.pushed and checkpoint.status != m.ABANDONED
            if is_pushed and run.status in (m.EXECUTING, m.CANCELING):
                delivery.updates.append((run.id, run.fence, checkpoint))
        if run.status == m.QUEUED:
            unit.queued[run.id] = run
    for run in again:
        settled = [one for one in checkpoints.get(run.id, ()) if one.settled_order > run.seen]
        delivery.resumes.append(Order(run, None, settled))


def catch_up(unit: UnitOfWork, command: CatchUp) -> bool:
    """Another replica may have settled checkpoints of runs that this session executes, have canceled them, or have
    taken away those whose bodies it keeps. Returns whether this is still the session's connection."""
    if store.peek_connection(unit.tx, unit.namespace, command.session) != command.connection_no:
        return False
    delivery = unit.delivery(command.session)
    rows = store.peek_session_runs(unit.tx, unit.namespace, command.session)
    behind: dict[bytes, tuple[int, int, int]] = {}
    gone = dict(command.told)
    for run_id, fence, status, pushed in rows:
        told = gone.pop(run_id, 0)
        if status == m.CANCELING:
            delivery.cancels.append((run_id, fence))
        if status in (m.EXECUTING, m.CANCELING) and pushed > told:
            behind[run_id] = (fence, told, pushed)
    for run_id, fence, status in store.peek_runs(unit.tx, unit.namespace, list(gone)) if gone else ():
        delivery.drops.append((run_id, fence, f"another scheduler took the run: it is {m.STATUS_NAMES[status]}"))
    unit.flush()
    found = store.load_checkpoints(unit.tx, unit.namespace, list(behind)) if behind else []
    fill_batches(unit, found)
    for checkpoint in found:
        fence, told, pushed = behind[checkpoint.run_id]
        if told < checkpoint.settled_order <= pushed and checkpoint.status != m.ABANDONED:
            delivery.updates.append((checkpoint.run_id, fence, checkpoint))
    return True


def tell_untold(unit: UnitOfWork) -> None:
    """Tell executions what was settled for them and not told. It goes out before the acknowledgement of what they
    report, so that one which believes itself parked learns that it is not."""
    untold, unit.untold = unit.untold, {}
    runs = {run_id: run for run_id in untold if (run := unit.runs[run_id]).status in (m.EXECUTING, m.CANCELING)}
    if not runs:
        return
    unit.flush()
    lowest = min(untold[run_id][0] for run_id in runs)
    found = store.load_checkpoints(unit.tx, unit.namespace, list(runs), above=lowest)
    fill_batches(unit, found)
    for checkpoint in found:
        run = runs[checkpoint.run_id]
        told, pushed = untold[run.id]
        assert run.session is not None
        if told < checkpoint.settled_order <= pushed and checkpoint.status != m.ABANDONED:
            delivery = unit.delivery(run.session)
            if not any(one.seq == checkpoint.seq for run_id, _, one in delivery.updates if run_id == run.id):
                delivery.updates.append((run.id, run.fence, checkpoint))


def end_session(unit: UnitOfWork, command: EndSession) -> bool:
    """End a session and give what it held to others. Returns whether it ended now."""
    row = store.load_session(unit.tx, unit.namespace, command.session)
    if command.connection_no is not None:
        if row is None or int(row[2]) != command.connection_no:
            return False
    elif row is not None and int(row[4]) >= unit.now:
        return False  # it renewed its lease meanwhile
    store.delete_session(unit.tx, unit.namespace, command.session)
    if row is not None:
        store.leave_version(unit.tx, unit.namespace, row[6], unit.now)
    error = error_bytes("CRASHED", "WorkerLost", command.evidence) if command.lost else None
    for run in unit.adopt(store.load_session_runs(unit.tx, unit.namespace, command.session)):
        if run.session != command.session:
            continue
        if command.lost:
            unit.transition(run, rules.LOSE, error=error, attempt_state=m.ATTEMPT_LOST)
        else:
            unit.transition(run, rules.RELEASE)
    unit.deliveries.pop(command.session, None)
    unit.ended_sessions.add(command.session)
    return True
