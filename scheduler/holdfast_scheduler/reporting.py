"""What workers report about their runs, applied under the fence.

A report is atomic: it changes its run as a whole or not at all. It is refused when its fence is not the run's, or the
run is being canceled and it would make new checkpoints. A report that was applied before (its number is not higher
than the last) is acknowledged without effect, also after the run has ended, because the acknowledgement may have been
lost.
"""

from __future__ import annotations

from typing import Final

from holdfast_scheduler import model as m
from holdfast_scheduler import propagation, store, tokens
from holdfast_scheduler import run_machine as rules
from holdfast_scheduler.model import Checkpoint, Handle, ItemFault, NewRun, Record, Refusal, Report, Run
from holdfast_scheduler.triggering import Trigger
from holdfast_scheduler.unit_of_work import Lineage, UnitOfWork, error_bytes

_WAITPOINTS: Final = (m.WAIT, m.CHILD, m.BATCH, m.TOKEN_WAIT)
_ENDING: Final = (rules.COMPLETE, rules.FAIL, rules.END_CANCELED, rules.RELEASE, rules.LOSE)


def asked(unit: UnitOfWork, session: bytes, reports: list[Report]) -> list[tuple[NewRun, Run | None]]:
    """The items that valid reports ask for, so that their keys can be looked up together."""
    found: list[tuple[NewRun, Run | None]] = []
    for report in reports:
        if report.records and (run := unit.runs.get(report.run_id)) is not None:
            found += [(new, run) for record in report.records for new in record.items]
    return found


def apply_report(unit: UnitOfWork, trigger: Trigger, session: bytes, report: Report, arrived_at: int) -> None:
    """Apply one report of a session, which came at an instant of the database's clock."""
    run = unit.runs.get(report.run_id)
    refusal = _why_refused(run, session, report)
    if refusal is not None:
        if refusal.reason:
            unit.delivery(session).refused.append(refusal)
        elif run is not None and run.session == session:
            unit.tell_missing(run)  # its acknowledgement was lost, and with it perhaps what it was told with it
        return
    assert run is not None
    if report.event == rules.PARK and run.pushed > report.seen:
        unit.tell_missing(run)  # it must hear of what its Park crossed before the acknowledgement of that Park
    message = report.invalid or _why_invalid(unit, run, report)
    if message:
        # The refusal may be lost, and the report come again after others: it must not look like one that was applied.
        if run.last_report >= 0:
            run.last_report = -report.number
            unit.changed(run)
        unit.delivery(session).refused.append(Refusal(run.id, report.fence, report.number, m.REFUSED_INVALID, message))
        return
    run.last_report = report.number
    unit.changed(run)
    if report.records:
        line = unit.lineages([run.id]).get(run.id) if any(record.items for record in report.records) else None
        for record in report.records:
            _record(unit, trigger, run, line, record, arrived_at - record.age_us)
    if report.abandoned:
        unit.abandon(run, report.abandoned)
    if report.metadata:
        unit.metadata(run, report.metadata)
    for place, record_bytes in enumerate(report.logs):
        unit.log_rows.append((unit.namespace, run.id, report.fence, report.number, place, record_bytes))
    if report.add_tags:
        unit.add_tags(run, report.add_tags)
    if report.event:
        _transition(unit, run, report)


def _why_invalid(unit: UnitOfWork, run: Run, report: Report) -> str:
    """What is wrong with a report; empty when nothing is. Found out before anything is changed."""
    if report.event and (run.status, report.event) not in rules.TABLE:
        return f"{report.event} does not fit a run that is {m.STATUS_NAMES[run.status]}"
    limit = unit.world.settings.limits.checkpoints
    if report.records and run.last_seq + len(report.records) > limit:
        return (
            f"the run has {run.last_seq} checkpoints; the limit checkpoints is {limit}: split the work into child runs"
        )
    most = unit.world.settings.limits.tags
    if report.add_tags and (count := len(unit.tags_with(run, report.add_tags))) > most:
        return f"the run would have {count} tags; the limit tags is {most}"
    last = run.last_seq
    for record in report.records:
        if record.seq <= last:
            return f"the checkpoint numbers must rise: {record.seq} comes after {last}"
        last = record.seq
    if report.event == rules.PARK and run.status == m.EXECUTING and _waits_for_nothing(unit, run, report):
        return f"the run would wait for nothing: it has {run.pending} pending checkpoints"
    if run.last_report < 0 and report.event not in _ENDING:
        return f"report {-run.last_report} of this execution was refused; it can only end"
    return ""


def _waits_for_nothing(unit: UnitOfWork, run: Run, report: Report) -> bool:
    """Whether nothing would ever wake the run. A waitpoint that the report makes either is pending or crosses the
    Park with its answer."""
    if run.pushed > report.seen:
        return False
    waitpoints = {record.seq for record in report.records if record.kind in _WAITPOINTS}
    if run.pending and report.abandoned:
        unit.flush_checkpoints()
        waitpoints.update(one.seq for one in store.load_pending(unit.tx, unit.namespace, [run.id]))
    elif run.pending:
        return False
    return waitpoints.issubset(report.abandoned)


def _why_refused(run: Run | None, session: bytes, report: Report) -> Refusal | None:
    """A refusal, one with reason 0 for a repeat (acknowledged without effect), or None when the report applies."""

    def refused(reason: int, message: str) -> Refusal:
        return Refusal(report.run_id, report.fence, report.number, reason, message)

    if run is None:
        return refused(m.REFUSED_ENDED, "there is no such run")
    # All before one that was refused as invalid were applied.
    last = run.last_report if run.last_report >= 0 else -run.last_report - 1
    if report.fence == run.fence and report.number <= last:
        return refused(0, "")
    if m.is_final(run.status):
        return refused(m.REFUSED_ENDED, f"the run is {m.STATUS_NAMES[run.status]}")
    if report.fence != run.fence or run.session != session:
        return refused(m.REFUSED_STALE, f"the run's fence is {run.fence}, the report's {report.fence}")
    if run.status != m.CANCELING or report.event in _ENDING or all(record.shielded for record in report.records):
        return None  # what is shielded, clean-up asks for
    return refused(m.REFUSED_CANCELING, "the run is being canceled")


def _transition(unit: UnitOfWork, run: Run, report: Report) -> None:
    event = report.event
    if event == rules.COMPLETE:
        effects = unit.transition(run, event, output=report.output)
    elif event == rules.FAIL:
        effects = unit.transition(
            run,
            event,
            error=report.error,
            retryable=report.retryable,
            timed_out=report.timed_out,
            retry_delay_us=report.retry_delay_us,
        )
    elif event == rules.PARK:
        effects = unit.transition(run, event, seen=report.seen)
    elif event == rules.LOSE:
        effects = unit.transition(run, event, error=report.error, attempt_state=m.ATTEMPT_LOST)
    else:
        effects = unit.transition(run, event)
    if effects & rules.REFUSED:
        assert run.session is not None
        message = (
            f"{event} does not fit a run that is {m.STATUS_NAMES[run.status]} with {run.pending} pending checkpoints"
        )
        unit.delivery(run.session).refused.append(
            Refusal(run.id, report.fence, report.number, m.REFUSED_INVALID, message)
        )


# --- durable calls ---------------------------------------------------------------------------------------------------


def _record(unit: UnitOfWork, trigger: Trigger, run: Run, line: Lineage | None, record: Record, asked_at: int) -> None:
    # Delays count from the call, not from this commit: a thousand bodies that begin to wait in one turn would all be
    # late by what their reports take.
    delay_us = record.timeout_us if record.kind != m.WAIT else record.delay_us or 0
    checkpoint = Checkpoint(
        run_id=run.id,
        seq=record.seq,
        identity=record.identity,
        kind=record.kind,
        name=record.name,
        status=m.PENDING,
        fingerprint=record.fingerprint,
        settled_order=0,
        attempt=run.attempt,
        permanent=record.permanent,
        location=record.location,
        due_at=asked_at + delay_us if delay_us is not None else None,
    )
    _RECORDERS[record.kind](unit, trigger, run, line, record, checkpoint)


def _step(
    unit: UnitOfWork, trigger: Trigger, run: Run, line: Lineage | None, record: Record, checkpoint: Checkpoint
) -> None:
    checkpoint.status = m.SUCCEEDED if record.error is None else m.FAILED_CHECKPOINT
    checkpoint.value = record.value
    checkpoint.error = record.error
    unit.record(run, checkpoint)


def _wait(
    unit: UnitOfWork, trigger: Trigger, run: Run, line: Lineage | None, record: Record, checkpoint: Checkpoint
) -> None:
    if record.until is not None:
        checkpoint.due_at = record.until
    if checkpoint.due_at is None or checkpoint.due_at <= unit.now:
        checkpoint.status = m.SUCCEEDED
        unit.record(run, checkpoint)
        unit.tell(run, checkpoint)
    else:
        unit.record(run, checkpoint)


def _child(
    unit: UnitOfWork, trigger: Trigger, run: Run, line: Lineage | None, record: Record, checkpoint: Checkpoint
) -> None:
    wait = record.kind == m.CHILD
    new = record.items[0]
    trigger.as_child(run, line, new, wait=wait)
    outcome = trigger.one(new)
    if isinstance(outcome, Handle) and outcome.is_cached and wait:
        found = unit.runs[outcome.run_id]
        if not m.is_final(found.status):
            outcome = trigger.would_deadlock(run, outcome.run_id) or outcome
    if isinstance(outcome, ItemFault):
        _not_triggered(unit, run, checkpoint, outcome)
        return
    checkpoint.subject = outcome.run_id
    checkpoint.is_cached = outcome.is_cached
    checkpoint.payload_differs = outcome.payload_differs
    child = unit.runs[outcome.run_id]
    if not wait:
        checkpoint.status = m.SUCCEEDED
    elif m.is_final(child.status):
        _take_result(unit, checkpoint, child)
    elif not child.awaited:
        child.awaited = True
        unit.changed(child)
    unit.record(run, checkpoint)
    if outcome.is_cached:
        unit.tell(run, checkpoint)


def _take_result(unit: UnitOfWork, checkpoint: Checkpoint, child: Run) -> None:
    """The run that a key named has ended already."""
    if child.id in unit.results:
        output, error = unit.results[child.id]
    else:
        _, _, output, error = store.load_results(unit.tx, unit.namespace, [child.id])[child.id]
    checkpoint.status = m.SUCCEEDED if child.status == m.COMPLETED else m.FAILED_CHECKPOINT
    checkpoint.child_status = child.status
    checkpoint.value = output
    checkpoint.error = error
    checkpoint.permanent = propagation.is_permanent(child.status, error)


def _not_triggered(unit: UnitOfWork, run: Run, checkpoint: Checkpoint, fault: ItemFault) -> None:
    checkpoint.status = m.FAILED_CHECKPOINT
    checkpoint.error = error_bytes("NOT_TRIGGERED", fault.reason, fault.message)
    checkpoint.due_at = None
    unit.record(run, checkpoint)
    unit.tell(run, checkpoint)


def _batch(
    unit: UnitOfWork, trigger: Trigger, run: Run, line: Lineage | None, record: Record, checkpoint: Checkpoint
) -> None:
    wait = record.kind == m.BATCH
    for new in record.items:
        trigger.as_child(run, line, new, wait=wait)
    assert record.subject is not None
    outcome = trigger.batch(record.subject, record.items, record.key, run, wait=wait, chosen=False)
    if isinstance(outcome, ItemFault):
        _not_triggered(unit, run, checkpoint, outcome)
        return
    checkpoint.subject = outcome.batch_id
    checkpoint.is_cached = outcome.is_cached
    checkpoint.payload_differs = outcome.payload_differs
    deviates = outcome.is_cached or any(isinstance(one, ItemFault) or one.is_cached for one in outcome.outcomes)
    if not wait:
        checkpoint.status = m.SUCCEEDED
    if deviates or wait:
        unit.flush()
        found, faults = propagation.batch_results(unit, [outcome.batch_id])
        entries = checkpoint.entries = found[outcome.batch_id]
        if wait and outcome.is_cached:
            entries = checkpoint.entries = _await_batch_again(unit, outcome.batch_id, entries)
        if wait and all(entry.status for entry in entries):
            checkpoint.error = faults.get(outcome.batch_id)
            checkpoint.permanent = checkpoint.error is not None
            checkpoint.status = m.SUCCEEDED if checkpoint.error is None else m.FAILED_CHECKPOINT
            if checkpoint.error is not None:
                checkpoint.entries = None
    unit.record(run, checkpoint)
    if deviates or (wait and checkpoint.status != m.PENDING):
        unit.tell(run, checkpoint)


def _await_batch_again(unit: UnitOfWork, batch_id: bytes, entries: list[m.BatchEntry]) -> list[m.BatchEntry]:
    """A batch that a key named may have been triggered without anybody waiting: count what is still open. Returns its
    entries as they are now that the open runs are locked."""
    unit.load({entry.run_id for entry in entries if not entry.status and entry.run_id is not None})
    entries = propagation.batch_results(unit, [batch_id])[0][batch_id]
    open_runs = {entry.run_id for entry in entries if not entry.status and entry.run_id is not None}
    for run_id in open_runs:
        child = unit.runs[run_id]
        if not child.awaited:
            child.awaited = True
            unit.changed(child)
    store.update_batches(unit.tx, [(unit.namespace, batch_id, len(open_runs))])
    return entries


def _token(
    unit: UnitOfWork, trigger: Trigger, run: Run, line: Lineage | None, record: Record, checkpoint: Checkpoint
) -> None:
    assert record.subject is not None
    token_id, is_cached = tokens.create(unit, record.subject, record.timeout_us, record.tags, record.key, run)
    checkpoint.status = m.SUCCEEDED
    checkpoint.due_at = None
    checkpoint.subject = token_id
    checkpoint.is_cached = is_cached
    unit.record(run, checkpoint)
    if is_cached:
        unit.tell(run, checkpoint)


def _token_wait(
    unit: UnitOfWork, trigger: Trigger, run: Run, line: Lineage | None, record: Record, checkpoint: Checkpoint
) -> None:
    assert record.subject is not None
    checkpoint.subject = record.subject
    found = tokens.load(unit, record.subject)
    if found is None:
        message = "there is no token with this id; create it with wait.create_token"
        _not_triggered(unit, run, checkpoint, ItemFault(5, "TOKEN_NOT_FOUND", message))
        return
    status, data, error = found
    if status == tokens.PENDING:
        unit.record(run, checkpoint)
        return
    checkpoint.status = m.SUCCEEDED if status == tokens.COMPLETED else m.FAILED_CHECKPOINT
    checkpoint.value = data
    checkpoint.error = error
    unit.record(run, checkpoint)
    unit.tell(run, checkpoint)


_RECORDERS: Final = {
    m.STEP: _step,
    m.WAIT: _wait,
    m.CHILD: _child,
    m.TRIGGER: _child,
    m.BATCH: _batch,
    m.BATCH_TRIGGER: _batch,
    m.TOKEN: _token,
    m.TOKEN_WAIT: _token_wait,
}
