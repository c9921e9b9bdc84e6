"""Effects on other runs, in the same commit, to a fixpoint: an end wakes whoever waits for it and ends the children
that end with it.

There is no later step at which "the parent never resumes" could happen. A fan-out beyond `FAN_OUT_LIMIT` rows is
written to `pending_events` in the same commit, and the next commits drain it before anything else.
"""

from __future__ import annotations

from typing import Final

from holdfast.v1.payload_pb2 import TASK_ERROR_KIND_ABORTED, TaskError
from holdfast_scheduler import firing, ids, store
from holdfast_scheduler import model as m
from holdfast_scheduler import run_machine as rules
from holdfast_scheduler.model import BatchEntry, Checkpoint
from holdfast_scheduler.unit_of_work import UnitOfWork, error_bytes

FAN_OUT_LIMIT: Final = 10_000
"""Runs that one commit changes beyond those it was asked to."""

EVENT_ENDED: Final = 1
EVENT_CANCEL_CHILDREN: Final = 2


def propagate(unit: UnitOfWork) -> None:
    """Carry out what ends and cancellations mean for other runs until nothing follows any more."""
    while unit.ended or unit.cancel_children:
        ended, unit.ended = unit.ended, []
        parents, unit.cancel_children = unit.cancel_children, []
        if len(unit.runs) > FAN_OUT_LIMIT:
            _postpone(unit, [run.id for run in ended], parents)
            return
        parents += [run.id for run in ended if run.status != m.COMPLETED and run.last_seq]
        if parents:
            cancel_children(unit, parents)
        awaited = [run.id for run in ended if run.awaited]
        if awaited:
            answer_waiters(unit, awaited)
            # A run that a schedule triggers has no parent; nearly all of these have one, and cost nothing here.
            scheduled = [run.id for run in ended if run.awaited and run.parent is None]
            if scheduled:
                firing.release(unit, scheduled)


def _postpone(unit: UnitOfWork, ended: list[bytes], parents: list[bytes]) -> None:
    rows = [(unit.namespace, ids.new_id(), EVENT_ENDED, run_id) for run_id in ended]
    rows += [(unit.namespace, ids.new_id(), EVENT_CANCEL_CHILDREN, run_id) for run_id in parents]
    store.insert_pending_events(unit.tx, rows)
    unit.left.events = True


def replay_event(unit: UnitOfWork, kind: int, run_id: bytes) -> None:
    """Take up an event that was postponed."""
    if kind == EVENT_CANCEL_CHILDREN:
        unit.cancel_children.append(run_id)
        return
    unit.load([run_id])
    run = unit.runs.get(run_id)
    if run is not None:
        unit.ended.append(run)


def cancel_children(unit: UnitOfWork, parents: list[bytes]) -> None:
    """Cancel the open children that end with these parents."""
    unit.flush()
    found = store.load_open_children(unit.tx, unit.namespace, parents, FAN_OUT_LIMIT)
    for child in unit.adopt(found):
        if not m.is_final(child.status):
            unit.transition(child, rules.CANCEL)
    if len(found) >= FAN_OUT_LIMIT:
        _postpone(unit, [], parents)


def answer_waiters(unit: UnitOfWork, ended: list[bytes]) -> None:
    """Settle the checkpoints and batches that wait for runs which have ended."""
    unit.flush_checkpoints()
    waiters = unit.load_waiters(ended)
    missing = [run_id for run_id in ended if run_id not in unit.results]
    stored = store.load_results(unit.tx, unit.namespace, missing) if missing else {}
    for checkpoint in waiters:
        child = checkpoint.subject
        assert child is not None
        if child in unit.results:
            output, error = unit.results[child]
            status = unit.runs[child].status
        else:
            _, status, output, error = stored[child]
        settle_child(unit, checkpoint, status, output, error)
    _count_batches(unit, ended)


def settle_child(
    unit: UnitOfWork, checkpoint: Checkpoint, status: int, output: bytes | None, error: bytes | None
) -> None:
    """Answer a wait for a child with how it ended."""
    unit.settle(
        checkpoint,
        m.SUCCEEDED if status == m.COMPLETED else m.FAILED_CHECKPOINT,
        value=output,
        error=error,
        permanent=is_permanent(status, error),
        child_status=status,
    )


def is_permanent(status: int, error: bytes | None) -> bool:
    """Whether a failed child stays failed in later attempts of its parent: it aborted, asking again is futile."""
    return status == m.FAILED and error is not None and TaskError.FromString(error).kind == TASK_ERROR_KIND_ABORTED


def _count_batches(unit: UnitOfWork, ended: list[bytes]) -> None:
    counts: dict[bytes, int] = {}
    for _run, batch in set(store.load_memberships(unit.tx, unit.namespace, ended)):
        counts[batch] = counts.get(batch, 0) + 1
    if not counts:
        return
    batches = store.load_batches(unit.tx, unit.namespace, list(counts))
    rows = [(unit.namespace, key, max(0, row[1] - counts[key])) for key, row in batches.items() if row[1] > 0]
    store.update_batches(unit.tx, rows)
    done = [row[1] for row in rows if row[2] == 0]
    if done:
        settle_batches(unit, done)


def settle_batches(unit: UnitOfWork, batches: list[bytes]) -> None:
    """Answer the waits for batches of which every item has ended."""
    unit.flush()
    waiters = unit.load_waiters(batches)
    entries, faults = batch_results(unit, batches)
    # An end that was postponed is counted for batches that were made after it, too: count again, do not answer early.
    early = {key: {one.run_id for one in entries[key] if not one.status} for key in batches}
    rows = [(unit.namespace, key, len(left)) for key, left in early.items() if left]
    if rows:
        store.update_batches(unit.tx, rows)
    for checkpoint in waiters:
        if checkpoint.subject is not None and early[checkpoint.subject]:
            continue
        assert checkpoint.subject is not None
        fault = faults.get(checkpoint.subject)
        if fault is None:
            unit.settle(checkpoint, m.SUCCEEDED, entries=entries[checkpoint.subject])
        else:
            unit.settle(checkpoint, m.FAILED_CHECKPOINT, error=fault, permanent=True)


def batch_results(unit: UnitOfWork, batches: list[bytes]) -> tuple[dict[bytes, list[BatchEntry]], dict[bytes, bytes]]:
    """The items of batches with the results of those that have ended, in input order; and why the results are not there
    of batches that have more than anybody should hold at once (a serialized TaskError)."""
    limit = unit.world.settings.limits.batch_result_bytes
    found: dict[bytes, list[BatchEntry]] = {batch: [] for batch in batches}
    rows, too_large = store.load_batch_entries(unit.tx, unit.namespace, batches, limit)
    for batch, run_id, is_cached, differs, fault, status, output, error in rows:
        if run_id is None:
            found[batch].append(BatchEntry(None, False, m.FAILED, None, fault))
        else:
            ended = status if m.is_final(status) else 0
            found[batch].append(BatchEntry(run_id, is_cached, ended, output, error, differs))
    faults = {
        batch: error_bytes(
            "LIMIT_EXCEEDED",
            "TOO_LARGE",
            f"the results of the batch have {size:,} bytes; the limit batch_result_bytes is {limit:,}: wait for smaller"
            " batches, or have the items store what is large and return where it is",
        )
        for batch, size in too_large.items()
    }
    return found, faults
