"""From rows to the contract's messages. Rows are read by their columns' names (see `schema` and `reads`)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final, cast

from google.protobuf.timestamp_pb2 import Timestamp

from holdfast.v1.payload_pb2 import Payload, TaskError
from holdfast.v1.run_pb2 import Attempt, BatchEntry, Checkpoint, IdempotencyKey, Run, TriggerOptions
from holdfast.v1.run_service_pb2 import AwaitRunsResponse
from holdfast.v1.token_service_pb2 import Token
from holdfast_scheduler import ids, model

ATTEMPT_OPEN: Final = 1
_ATTEMPT_STATES: Final = {
    model.COMPLETED: model.ATTEMPT_SUCCEEDED,
    model.FAILED: model.ATTEMPT_FAILED,
    model.CRASHED: model.ATTEMPT_LOST,
    model.TIMED_OUT: model.ATTEMPT_TIMED_OUT,
    model.EXPIRED: model.ATTEMPT_TIMED_OUT,
    model.CANCELED: model.ATTEMPT_CANCELED,
}
_SUBJECT_PREFIXES: Final = {
    model.CHILD: ids.RUN,
    model.TRIGGER: ids.RUN,
    model.BATCH: ids.BATCH,
    model.BATCH_TRIGGER: ids.BATCH,
    model.TOKEN: ids.TOKEN,
    model.TOKEN_WAIT: ids.TOKEN,
}

# Rows come from SQLAlchemy or are the engine's own; all that counts is that they have the columns as attributes.
Row = Any


def instant(micros: int) -> Timestamp:
    """Microseconds since the Unix epoch as a message."""
    return Timestamp(seconds=micros // 1_000_000, nanos=micros % 1_000_000 * 1000)


def run_message(namespace: str, row: Row) -> Run:
    """A run in the BASIC view, from a row of `reads.run_rows`."""
    run = Run(
        id=ids.run_text(row.id),
        namespace=namespace,
        task_id=row.task,
        version=row.version,
        queue=row.queue,
        concurrency_key=row.lane,
        status=row.status,
        status_reason=row.reason,
        attempt=row.attempt,
        max_attempts=row.max_attempts,
        recoveries=row.recoveries,
        parent_run_id=ids.run_text(row.parent) if row.parent else "",
        root_run_id=ids.run_text(row.root or row.id),
        batch_id=ids.to_text(ids.BATCH, row.batch) if row.batch else "",
        depth=row.depth,
        tags=tags_from(row.tags),
        created_at=instant(row.created_at),
        metadata=row.metadata or b"",
        worker=row.session_worker or row.last_worker or "",
        is_replay=row.is_replay,
        fence=row.fence,
        schedule_id=ids.to_text(ids.SCHEDULE, row.schedule) if row.schedule else "",
    )
    if row.started_at is not None:
        run.started_at.CopyFrom(instant(row.started_at))
    if row.ended_at is not None:
        run.ended_at.CopyFrom(instant(row.ended_at))
    if row.due_at is not None:
        run.due_at.CopyFrom(instant(row.due_at))
    if row.output is not None:
        run.output.MergeFromString(row.output)
    if row.error is not None:
        run.error.MergeFromString(row.error)
    if row.key:
        run.idempotency_key.MergeFromString(row.key)
    if row.options:
        run.priority = TriggerOptions.FromString(row.options).priority
    return run


def checkpoint_message(row: Row, *, child_status: int = 0, entries: Iterable[BatchEntry] = ()) -> Checkpoint:
    """A checkpoint, from a row with the columns of `schema.checkpoints`.

    `child_status` is the final status of the child that it waited for, `entries` are the items of its batch.
    """
    checkpoint = Checkpoint(
        seq=row.seq,
        identity=row.identity,
        kind=row.kind,
        name=row.name,
        status=row.status,
        fingerprint=row.fingerprint,
        settled_order=row.settled_order,
        attempt=row.attempt,
        permanent=row.permanent,
        is_cached=row.is_cached,
        payload_differs=row.payload_differs,
        child_status=cast(Any, child_status),
        location=row.location,
    )
    if row.subject:
        checkpoint.subject_id = ids.to_text(_SUBJECT_PREFIXES[row.kind], row.subject)
    if row.value is not None:
        checkpoint.value.MergeFromString(row.value)
        checkpoint.value.SetInParent()  # an empty payload is still a value
    if row.error is not None:
        checkpoint.error.MergeFromString(row.error)
        checkpoint.error.SetInParent()
    if row.due_at is not None:
        checkpoint.due_at.CopyFrom(instant(row.due_at))
    if entries:
        checkpoint.batch_entries.extend(entries)
    return checkpoint


def batch_entry(
    run_id: bytes | None,
    is_cached: bool,
    status: int = 0,
    output: bytes | None = None,
    error: bytes | None = None,
    payload_differs: bool = False,
) -> BatchEntry:
    """One item of a batch; `status` is 0 until its run has ended. An item without a run is FAILED with its error."""
    if run_id is None:
        return BatchEntry(status=cast(Any, model.FAILED), error=TaskError.FromString(error or b""))
    entry = BatchEntry(
        run_id=ids.run_text(run_id), is_cached=is_cached, payload_differs=payload_differs, status=cast(Any, status)
    )
    if output is not None:
        entry.output.CopyFrom(Payload.FromString(output))
    if error is not None:
        entry.error.CopyFrom(TaskError.FromString(error))
    return entry


def attempt_message(row: Row) -> Attempt:
    """An attempt or lost execution that did not end the run, from a row of `schema.attempts`."""
    attempt = Attempt(number=row.number, state=row.state, worker=row.worker or "", ended_at=instant(row.ended_at))
    if row.started_at is not None:
        attempt.started_at.CopyFrom(instant(row.started_at))
    if row.error is not None:
        attempt.error.MergeFromString(row.error)
    return attempt


def last_attempt(run: Run) -> Attempt | None:
    """The attempt that `runs` itself tells of: the one in progress, or the one that ended the run."""
    if not run.HasField("started_at"):
        return None
    attempt = Attempt(number=run.attempt, started_at=run.started_at, worker=run.worker)
    attempt.state = cast(Any, _ATTEMPT_STATES.get(run.status, ATTEMPT_OPEN))
    if run.HasField("ended_at"):
        attempt.ended_at.CopyFrom(run.ended_at)
    if run.HasField("error"):
        attempt.error.CopyFrom(run.error)
    return attempt


def add_result(
    response: AwaitRunsResponse, run_id: bytes, status: int, output: bytes | None, error: bytes | None
) -> None:
    """Add how a run ended; status 0 says that there is no such run."""
    result = response.results.add(run_id=ids.run_text(run_id), status=cast(Any, status))
    if output is not None:
        result.output.MergeFromString(output)
    if error is not None:
        result.error.MergeFromString(error)


def token_message(row: Row) -> Token:
    """A token, from a row of `schema.tokens`."""
    token = Token(
        id=ids.to_text(ids.TOKEN, row.id),
        status=row.status,
        tags=tags_from(row.tags),
        created_at=instant(row.created_at),
    )
    if row.timeout_at is not None:
        token.timeout_at.CopyFrom(instant(row.timeout_at))
    if row.completed_at is not None:
        token.completed_at.CopyFrom(instant(row.completed_at))
    if row.data is not None:
        token.data.CopyFrom(Payload.FromString(row.data))
    if row.error is not None:
        token.error.CopyFrom(TaskError.FromString(row.error))
    if row.key:
        token.idempotency_key.CopyFrom(IdempotencyKey.FromString(row.key))
    return token


def tags_from(text: str) -> list[str]:
    """Tags as stored: a JSON list, or nothing."""
    return json.loads(text) if text else []
