"""Worker stream frames ↔ the engine's nouns."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from typing import Final

from google.protobuf.duration_pb2 import Duration

from holdfast.v1 import run_pb2
from holdfast.v1 import worker_service_pb2 as w
from holdfast.v1.payload_pb2 import TASK_ERROR_KIND_TIMED_OUT, TaskError
from holdfast_scheduler import ids
from holdfast_scheduler import model as m
from holdfast_scheduler import run_machine as rules
from holdfast_scheduler.convert import (
    check_payload,
    check_text,
    checked_tags,
    duration_us,
    id_from,
    key_use,
    new_run,
    refuse_constant,
    task_error_bytes,
    trace_map,
)
from holdfast_scheduler.errors import RefusedError, invalid
from holdfast_scheduler.messages import batch_entry, checkpoint_message
from holdfast_scheduler.settings import Limits

FRAME_AIM: Final = 1024 * 1024
"""Bytes at which a delivery is split into another frame."""
AFTER_MOST_US: Final = 999_999
"""A body is never held longer than this, whatever the clocks say."""
FEATURES: Final = frozenset(["after"])
"""Optional features that this scheduler speaks."""


def duration(seconds: float) -> Duration:
    """A Duration of so many seconds."""
    micros = round(seconds * 1e6)
    return Duration(seconds=micros // 1_000_000, nanos=micros % 1_000_000 * 1000)


# --- in --------------------------------------------------------------------------------------------------------------


def report(message: w.Report, limits: Limits, sent_at_us: int = 0) -> m.Report:
    """A report, checked. One with a malformed part comes back with `invalid` saying why: it fails alone. `sent_at_us`
    is the frame's."""
    found = m.Report(message.run_id, message.fence, message.number)
    try:
        _transition(message, found, limits)
        if message.records:
            found.records = [_record(one, limits, sent_at_us) for one in message.records]
        if message.abandoned_seqs:
            found.abandoned = list(message.abandoned_seqs)
        if message.metadata:
            found.metadata = [_operation(one, limits) for one in message.metadata]
        if message.logs:
            found.logs = [one.SerializeToString() for one in message.logs]
        if message.add_tags:
            found.add_tags = checked_tags("add_tags", message.add_tags, limits)
    except (RefusedError, ValueError) as error:
        found.invalid = str(error)
    return found


def _transition(message: w.Report, found: m.Report, limits: Limits) -> None:
    kind = message.WhichOneof("transition")
    if kind is None:
        return
    if kind == "completed":
        output = message.completed.output
        check_payload("output", output, limits.payload_bytes, "payload_bytes")
        found.event = rules.COMPLETE
        found.output = output.SerializeToString()
    elif kind == "park":
        found.event = rules.PARK
        found.seen = message.park.seen_settled
    elif kind == "failed":
        failed = message.failed
        found.event = rules.FAIL
        found.error = task_error_bytes("error", failed.error, limits)
        found.retryable = failed.error.retryable
        found.timed_out = failed.error.kind == TASK_ERROR_KIND_TIMED_OUT
        if failed.HasField("retry_delay"):
            found.retry_delay_us = duration_us("retry_delay", failed.retry_delay, limits)
    elif kind == "lost":
        found.event = rules.LOSE
        error = TaskError(kind="TASK_ERROR_KIND_CRASHED", type="WorkerLost", message=message.lost.evidence)
        found.error = error.SerializeToString()
    else:
        found.event = _PLAIN[kind]


_PLAIN: Final = {"wake": rules.WAKE, "canceled": rules.END_CANCELED, "released": rules.RELEASE}


def _record(message: w.CheckpointRecord, limits: Limits, sent_at_us: int) -> m.Record:
    kind = message.WhichOneof("kind")
    record = m.Record(
        seq=message.seq,
        identity=_plain("identity", message.identity),
        kind=0,
        name=_plain("name", message.name),
        fingerprint=message.fingerprint,
        location=_plain("location", message.location),
        shielded=message.shielded,
    )
    if message.asked_at_us:
        record.age_us = min(max(0, sent_at_us - message.asked_at_us), limits.duration_us)
    if message.HasField("timeout"):
        record.timeout_us = duration_us("timeout", message.timeout, limits)
    if kind == "step":
        _step(message.step, record, limits)
    elif kind == "wait":
        record.kind = m.WAIT
        if message.wait.WhichOneof("when") == "until_us":
            record.until = message.wait.until_us
        else:
            record.delay_us = duration_us("delay", message.wait.delay, limits)
    elif kind == "child":
        record.kind = m.CHILD if message.child.wait else m.TRIGGER
        record.items = [new_run(message.child.item, limits=limits, in_run=True)]
    elif kind == "batch":
        batch = message.batch
        record.kind = m.BATCH if batch.wait else m.BATCH_TRIGGER
        record.items = [new_run(item, limits=limits, in_run=True) for item in batch.items]
        record.subject = id_from("batch_id", ids.BATCH, batch.batch_id)
        if batch.HasField("idempotency_key"):
            record.key = key_use(batch.idempotency_key, limits=limits, in_run=True)
    elif kind == "token":
        record.kind = m.TOKEN
        record.subject = id_from("token_id", ids.TOKEN, message.token.token_id)
        record.tags = checked_tags("tags", message.token.tags, limits)
        if message.token.HasField("timeout"):
            record.timeout_us = duration_us("timeout", message.token.timeout, limits)
        if message.token.HasField("idempotency_key"):
            record.key = key_use(message.token.idempotency_key, limits=limits, in_run=True)
    elif kind == "token_wait":
        record.kind = m.TOKEN_WAIT
        record.subject = id_from("token_id", ids.TOKEN, message.token_wait.token_id)
    else:
        raise invalid("records", "a checkpoint record needs a kind")
    return record


def _plain(field: str, text: str) -> str:
    if "\0" in text:
        raise invalid(field, "must not contain the character U+0000")
    return text


def _step(step: w.StepRecord, record: m.Record, limits: Limits) -> None:
    record.kind = m.STEP
    record.permanent = step.permanent
    if step.WhichOneof("outcome") == "error":
        record.error = task_error_bytes("error", step.error, limits)
    else:
        check_payload("value", step.value, limits.step_result_bytes, "step_result_bytes")
        record.value = step.value.SerializeToString()


def _operation(message: w.MetadataOperation, limits: Limits) -> m.MetadataOp:
    if message.verb != w.METADATA_VERB_DELETE:
        json.loads(message.value, parse_constant=refuse_constant)
    return m.MetadataOp(
        target=message.target,
        verb=message.verb,
        key=check_text("key", message.key, limits),
        value=message.value,
        branch=message.branch,
        number=message.number,
        provisional=message.provisional,
    )


# --- out -------------------------------------------------------------------------------------------------------------


def checkpoint(one: m.Checkpoint) -> run_pb2.Checkpoint:
    """A checkpoint as a message."""
    entries = [
        batch_entry(e.run_id, e.is_cached, e.status, e.output, e.error, e.payload_differs) for e in one.entries or ()
    ]
    return checkpoint_message(one, child_status=one.child_status, entries=entries)


def checkpoint_parts(one: m.Checkpoint) -> Iterator[run_pb2.Checkpoint]:
    """A checkpoint as messages that fit frames: the results of a batch may need several."""
    made = checkpoint(one)
    if made.ByteSize() <= FRAME_AIM or len(made.batch_entries) < 2:
        yield made
        return
    entries = list(made.batch_entries)
    del made.batch_entries[:]
    size = 0
    for entry in entries:
        bytes_ = entry.ByteSize()
        if made.batch_entries and size + bytes_ > FRAME_AIM:
            made.more_batch_entries = True
            yield made
            made, size = run_pb2.Checkpoint(seq=made.seq, settled_order=made.settled_order), 0
        made.batch_entries.append(entry)
        size += bytes_
    yield made


def _add_start(delivery: w.Delivery, order: m.Order, start_seq: int) -> w.Start:
    """Add a start without its checkpoints."""
    run, inputs = order.run, order.inputs
    assert inputs is not None
    message = delivery.starts.add(
        start_seq=start_seq,
        run_id=run.id,
        fence=run.fence,
        attempt=run.attempt,
        task_id=run.task,
        recoveries=run.recoveries,
        last_seq=run.last_seq,
        root_run_id=inputs.root,
        queue=run.queue,
        max_attempts=run.max_attempts,
        created_at_us=inputs.created_at,
        settled_order=run.settled,
        depth=inputs.depth,
        is_reentry=order.is_reentry,
        version=run.version,
    )
    message.payload.MergeFromString(inputs.payload)
    if inputs.parent is not None:
        message.parent_run_id = inputs.parent
    if inputs.batch is not None:
        message.batch_id = ids.to_text(ids.BATCH, inputs.batch)
    if inputs.tags:
        message.tags.extend(inputs.tags)
    if run.lane:
        message.concurrency_key = run.lane
    if inputs.is_replay:
        message.is_replay = True
    if inputs.trace:
        message.trace_context.update(trace_map(inputs.trace))
    if inputs.key is not None:
        message.idempotency_key.MergeFromString(inputs.key)
    if order.metadata:
        message.metadata = order.metadata
    if order.marks:
        for branch, number in json.loads(order.marks).items():
            message.metadata_marks.add(branch=branch, number=number)
    options = run_pb2.TriggerOptions.FromString(inputs.options) if inputs.options else None
    limit_us = order.max_duration_us
    if options is not None and options.HasField("max_duration"):
        limit_us = options.max_duration.ToMicroseconds()
    if limit_us is not None:
        # Nothing left is not no limit: the body is entered, and ended at once, with its hooks.
        message.max_duration.CopyFrom(duration(max(1_000, limit_us - order.executed_us) / 1e6))
    return message


def _left_us(checkpoints: list[m.Checkpoint], now: int) -> int:
    """How long the last of these waits goes on which were ended ahead of their instants."""
    last = max([one.due_at or 0 for one in checkpoints if one.kind == m.WAIT and one.status == m.SUCCEEDED], default=0)
    return max(0, min(last - now, AFTER_MOST_US))


def _cut_start(message: w.Start, checkpoints: list[m.Checkpoint]) -> Iterator[w.ConnectResponse]:
    """Put the first page of checkpoints into a start, and yield the further pages."""
    pages: list[list[run_pb2.Checkpoint]] = [[]]
    size = 0
    for made in (part for one in checkpoints for part in checkpoint_parts(one)):
        size += made.ByteSize()
        if size > FRAME_AIM and pages[-1]:
            pages.append([])
            size = made.ByteSize()
        pages[-1].append(made)
    message.checkpoints.extend(pages[0])
    message.more_checkpoints = len(pages) > 1
    for place, page in enumerate(pages[1:], 2):
        further = w.CheckpointPage(run_id=message.run_id, fence=message.fence, last=place == len(pages))
        further.checkpoints.extend(page)
        yield w.ConnectResponse(checkpoint_page=further)


def frames(delivery: m.Delivery, acknowledged: int, first_seq: int, now: int) -> Iterator[w.ConnectResponse]:
    """A delivery as frames, each near FRAME_AIM. Their order keeps that of the contract: updates, acknowledgement,
    cancels, drops, resumes, starts. Starts and resumes are numbered from `first_seq`; `now` is the database's clock."""
    message = w.Delivery()
    size = 0
    seq = first_seq

    def full(more: int) -> bool:
        nonlocal size
        size += more
        return size > FRAME_AIM

    for run_id, fence, one in delivery.updates:
        for part in checkpoint_parts(one):
            update = message.updates.add(run_id=run_id, fence=fence, checkpoint=part)
            if full(update.ByteSize()):
                yield w.ConnectResponse(delivery=message)
                message, size = w.Delivery(), 0
    if acknowledged or delivery.refused:
        message.committed.up_to = acknowledged
        # The refusal of what a body said before its Resume must not overtake that Resume: the worker would give the
        # body up.
        resumed = {order.run.id: order.run.fence for order in delivery.resumes} if delivery.refused else {}
        for refusal in delivery.refused:
            if refusal.reason == m.REFUSED_STALE and refusal.fence < resumed.get(refusal.run_id, 0):
                continue
            message.committed.refused.add(
                run_id=refusal.run_id,
                fence=refusal.fence,
                number=refusal.number,
                reason=refusal.reason,
                message=refusal.message,
            )
    for run_id, fence in delivery.cancels:
        message.cancels.add(run_id=run_id, fence=fence)
    for run_id, fence, reason in delivery.drops:
        message.drops.add(run_id=run_id, fence=fence, reason=reason)
    for order in delivery.resumes:
        resume = message.resumes.add(start_seq=seq, run_id=order.run.id, fence=order.run.fence)
        if order.checkpoints and (left_us := _left_us(order.checkpoints, now)):
            resume.after.nanos = left_us * 1000
        seq += 1
        is_here = True
        for part in (part for one in order.checkpoints for part in checkpoint_parts(one)):
            if full(part.ByteSize()):
                # The body goes on with what is here; the rest reaches it as if it had been settled just now.
                yield w.ConnectResponse(delivery=message)
                message, size, is_here = w.Delivery(), part.ByteSize(), False
            if is_here:
                resume.settled.append(part)
            else:
                message.updates.add(run_id=order.run.id, fence=order.run.fence, checkpoint=part)
        if full(64):
            yield w.ConnectResponse(delivery=message)
            message, size = w.Delivery(), 0
    for order in delivery.starts:
        begun = _add_start(message, order, seq)
        seq += 1
        pages = list(_cut_start(begun, order.checkpoints)) if order.checkpoints else []
        if full(len(order.inputs.payload) + 128 if not order.checkpoints else begun.ByteSize()) or pages:  # type: ignore[union-attr]
            yield w.ConnectResponse(delivery=message)
            yield from pages
            message, size = w.Delivery(), 0
    if size or message.ByteSize():
        yield w.ConnectResponse(delivery=message)


def held_answer(delivery: m.Delivery) -> w.ConnectResponse:
    """The answer to Held frames; it takes its parts out of the delivery."""
    answer = w.HeldAnswer()
    for run_id, fence, reason in delivery.drops:
        answer.drops.add(run_id=run_id, fence=fence, reason=reason)
    for run_id, fence in delivery.cancels:
        answer.cancels.add(run_id=run_id, fence=fence)
    updates, size = deque(delivery.updates), 0
    while updates and size < FRAME_AIM:
        run_id, fence, one = updates[0]
        parts = list(checkpoint_parts(one))
        if len(parts) > 1:
            break
        answer.updates.add(run_id=run_id, fence=fence, checkpoint=parts[0])
        size += parts[0].ByteSize()
        updates.popleft()
    # What does not fit is left for the frames that follow: to a worker it was settled a moment later.
    delivery.drops, delivery.cancels, delivery.updates = [], [], list(updates)
    return w.ConnectResponse(held_answer=answer)
