"""Every query of the edge. Each function runs in a reader's thread, on a connection that only reads.

Sizes are bounded here: what may be large (outputs, values) is measured by the database first and loaded within a
budget, so that no request makes the scheduler hold more than a few megabytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import Connection, and_, func, select

from holdfast_scheduler.database import clock_of, commit_horizon
from holdfast_scheduler.filter import RunFilter, TokenFilter
from holdfast_scheduler.listing import Bounds, page_of_ids
from holdfast_scheduler.model import BATCH, BATCH_TRIGGER, EXECUTING, PENDING, QUEUED, RunEnd
from holdfast_scheduler.queue_reads import CLAIMABLE, QueueFacts, busy_with, queue_facts
from holdfast_scheduler.schema import (
    attempts,
    batch_items,
    batches,
    checkpoints,
    idempotency_keys,
    run_inputs,
    run_logs,
    run_metadata,
    run_results,
    run_tags,
    runs,
    sessions,
    tokens,
    versions,
)

CHILDREN: Final = 1_000  # of a run, in the FULL view
ATTEMPT_ERRORS: Final = 512 * 1024  # bytes of the attempts' errors in the FULL view, the newest first
COUNTED_QUEUED: Final = 100_000  # runs of a queue that `explain` counts
_CHUNK: Final = 1_000  # ids in one statement, far below either database's limit of parameters

Row = Any  # a SQLAlchemy row whose columns are known by name only


def _chunks(run_ids: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    for at in range(0, len(run_ids), _CHUNK):
        yield run_ids[at : at + _CHUNK]


# --- runs -------------------------------------------------------------------------------------------------------------
_INPUT = and_(run_inputs.c.namespace == runs.c.namespace, run_inputs.c.run_id == runs.c.id)
_RESULT_BYTES = func.coalesce(func.length(run_results.c.output), 0) + func.coalesce(func.length(run_results.c.error), 0)
_RESULT = and_(run_results.c.namespace == runs.c.namespace, run_results.c.run_id == runs.c.id)
_METADATA = and_(run_metadata.c.namespace == runs.c.namespace, run_metadata.c.run_id == runs.c.id)
_SESSION = and_(sessions.c.namespace == runs.c.namespace, sessions.c.id == runs.c.session)

_RUN_COLUMNS = (
    *(column for column in runs.c if column.name != "parent"),
    run_inputs.c.created_at,
    run_inputs.c.parent,
    run_inputs.c.root,
    run_inputs.c.batch,
    run_inputs.c.depth,
    run_inputs.c.tags,
    run_inputs.c.key,
    run_inputs.c.options,
    run_inputs.c.is_replay,
    run_inputs.c.schedule,
    run_results.c.output,
    run_results.c.error,
    run_results.c.ended_at,
    run_results.c.worker.label("last_worker"),
    run_metadata.c.live.label("metadata"),
    sessions.c.worker.label("session_worker"),
)
_JOINED = (
    runs.join(run_inputs, _INPUT)
    .outerjoin(run_results, _RESULT)
    .outerjoin(run_metadata, _METADATA)
    .outerjoin(sessions, _SESSION)
)


def run_row(connection: Connection, namespace: str, run_id: bytes) -> Row | None:
    """One run, for `messages.run_message`."""
    query = select(*_RUN_COLUMNS).select_from(_JOINED).where(runs.c.namespace == namespace, runs.c.id == run_id)
    return connection.execute(query).first()


def run_rows(connection: Connection, namespace: str, run_ids: Sequence[bytes]) -> dict[bytes, Row]:
    """Those of the runs that exist, for `messages.run_message`. The caller has bounded their sizes."""
    found = {}
    for chunk in _chunks(run_ids):
        query = select(*_RUN_COLUMNS).select_from(_JOINED).where(runs.c.namespace == namespace, runs.c.id.in_(chunk))
        found.update({row.id: row for row in connection.execute(query)})
    return found


@dataclass(slots=True)
class RunDetail:
    """What the FULL view adds to a run's row."""

    row: Row
    payload: bytes
    attempts: list[Row]
    checkpoints: list[Row]
    children: list[bytes]
    child_statuses: dict[bytes, int] = field(default_factory=dict)
    batches: dict[bytes, list[Row]] = field(default_factory=dict)  # batch → rows (run_id, is_cached, error, status)


def run_detail(connection: Connection, namespace: str, run_id: bytes, value_budget: int) -> RunDetail | None:
    """One run in the FULL view. Values of checkpoints are loaded, oldest first, up to `value_budget` bytes."""
    row = run_row(connection, namespace, run_id)
    if row is None:
        return None
    mine = (checkpoints.c.namespace == namespace, checkpoints.c.run_id == run_id)
    last = 0
    size = func.coalesce(func.length(checkpoints.c.value), 0) + func.coalesce(func.length(checkpoints.c.error), 0)
    for seq, bytes_ in connection.execute(select(checkpoints.c.seq, size).where(*mine).order_by(checkpoints.c.seq)):
        value_budget -= bytes_
        if value_budget < 0:
            break
        last = seq
    is_loaded = checkpoints.c.seq <= last
    shown = [column for column in checkpoints.c if column.name not in ("value", "error")]
    loaded = (
        sa.case((is_loaded, checkpoints.c.value)).label("value"),
        sa.case((is_loaded, checkpoints.c.error)).label("error"),
    )
    records = connection.execute(select(*shown, *loaded).where(*mine).order_by(checkpoints.c.seq)).all()
    payload = select(run_inputs.c.payload).where(run_inputs.c.namespace == namespace, run_inputs.c.run_id == run_id)
    tried = (attempts.c.namespace == namespace, attempts.c.run_id == run_id)
    errors_from = 0
    room = ATTEMPT_ERRORS
    sizes = select(attempts.c.fence, func.coalesce(func.length(attempts.c.error), 0)).where(*tried)
    for fence, bytes_ in connection.execute(sizes.order_by(attempts.c.fence.desc())):
        room -= bytes_
        if room < 0:
            errors_from = fence + 1
            break
    columns = [column for column in attempts.c if column.name != "error"]
    ended = select(*columns, sa.case((attempts.c.fence >= errors_from, attempts.c.error)).label("error")).where(*tried)
    children = (
        select(run_inputs.c.run_id)
        .where(run_inputs.c.namespace == namespace, run_inputs.c.parent == run_id)
        .order_by(run_inputs.c.run_id)
        .limit(CHILDREN)
    )
    batch_ids = [record.subject for record in records if record.kind in (BATCH, BATCH_TRIGGER) and record.subject]
    subjects = [record.subject for record in records if record.subject]
    return RunDetail(
        row,
        connection.execute(payload).scalar_one(),
        list(connection.execute(ended.order_by(attempts.c.fence))),
        list(records),
        list(connection.execute(children).scalars()),
        {ended_id: status for ended_id, status, _ in ended_runs(connection, namespace, subjects)},
        {batch_id: batch_rows(connection, namespace, batch_id) for batch_id in batch_ids},
    )


def batch_rows(connection: Connection, namespace: str, batch_id: bytes) -> list[Row]:
    """The items of a batch in input order: run_id, is_cached, payload_differs, error, and the run's status."""
    query = (
        select(*(batch_items.c[name] for name in ("run_id", "is_cached", "payload_differs", "error")), runs.c.status)
        .select_from(
            batch_items.outerjoin(
                runs, and_(runs.c.namespace == batch_items.c.namespace, runs.c.id == batch_items.c.run_id)
            )
        )
        .where(batch_items.c.namespace == namespace, batch_items.c.batch == batch_id)
        .order_by(batch_items.c.place)
    )
    return list(connection.execute(query))


def list_runs(
    connection: Connection,
    namespace: str,
    wanted: RunFilter,
    place: bytes | None,
    bounds: Bounds,
    only: bytes | None = None,
) -> tuple[list[Row], bytes | None]:
    """A page of runs, newest first, and the place after which the next one goes on (None on the last page)."""
    page = page_of_ids(connection, namespace, wanted, place, bounds, only)
    rows = run_rows(connection, namespace, page.ids)
    return [rows[run_id] for run_id in page.ids if run_id in rows], page.next_place


def key_holder(connection: Connection, namespace: str, digest: bytes) -> bytes | None:
    """The run that a key points at."""
    query = select(idempotency_keys.c.subject).where(
        idempotency_keys.c.namespace == namespace, idempotency_keys.c.kind == "run", idempotency_keys.c.hash == digest
    )
    return connection.execute(query).scalar()


# --- ends and changes -------------------------------------------------------------------------------------------------
def ended_runs(connection: Connection, namespace: str, run_ids: Sequence[bytes]) -> list[tuple[bytes, int, int]]:
    """(run id, final status, bytes of output and error) of those runs that have ended."""
    found: list[tuple[bytes, int, int]] = []
    for chunk in _chunks(run_ids):
        of_chunk = run_results.c.namespace == namespace, run_results.c.run_id.in_(chunk)
        query = select(run_results.c.run_id, run_results.c.status, _RESULT_BYTES).where(*of_chunk)
        found += [(run_id, status, bytes_) for run_id, status, bytes_ in connection.execute(query)]
    return found


def ended_watched(
    connection: Connection, namespace: str, watched: Sequence[bytes], short: int
) -> list[tuple[bytes, int, RunEnd | None]]:
    """(run id, bytes of the result, the result if it has at most `short`) of those watched runs that have ended: what
    `Watchers.noticed` is to be told. The caller has bounded how many it asks for, and with that the bytes."""
    is_short = short >= _RESULT_BYTES
    output, error = sa.case((is_short, run_results.c.output)), sa.case((is_short, run_results.c.error))
    query = select(run_results.c.run_id, run_results.c.status, _RESULT_BYTES, output, error).where(
        run_results.c.namespace == namespace, run_results.c.run_id.in_(watched)
    )
    return [
        (run_id, size, RunEnd(run_id, status, *result) if size <= short else None)
        for run_id, status, size, *result in connection.execute(query)
    ]


@dataclass(slots=True)
class Standing:
    """What AwaitRuns asks of the runs that it is to add."""

    ended: list[tuple[bytes, int, int]]
    unknown: list[bytes]


def standing(connection: Connection, namespace: str, run_ids: Sequence[bytes]) -> Standing:
    """Which of the runs have ended, and which do not exist."""
    known: set[bytes] = set()
    for chunk in _chunks(run_ids):
        query = select(runs.c.id).where(runs.c.namespace == namespace, runs.c.id.in_(chunk))
        known.update(connection.execute(query).scalars())
    unknown = [run_id for run_id in run_ids if run_id not in known]
    return Standing(ended_runs(connection, namespace, list(known)), unknown)


def results(
    connection: Connection, namespace: str, run_ids: Sequence[bytes]
) -> list[tuple[bytes, int, bytes | None, bytes | None]]:
    """(run id, final status, output, error) of runs that have ended. The caller has bounded their sizes."""
    found: list[tuple[bytes, int, bytes | None, bytes | None]] = []
    for chunk in _chunks(run_ids):
        of_chunk = run_results.c.namespace == namespace, run_results.c.run_id.in_(chunk)
        result = run_results.c.run_id, run_results.c.status, run_results.c.output, run_results.c.error
        query = select(*result).where(*of_chunk)
        found += [(run_id, status, output, error) for run_id, status, output, error in connection.execute(query)]
    return found


@dataclass(slots=True)
class Stamps:
    """What WatchRuns compares: it differs whenever a shown state does, for each report raises `last_report`."""

    until: int  # every end before this instant is visible in `by_run`, or was before
    by_run: dict[bytes, tuple[Any, ...]]


def stamps(connection: Connection, namespace: str, run_ids: Sequence[bytes]) -> Stamps:
    """The stamps of runs, and the instant up to which they tell of all ends."""
    until = settled_until(connection, namespace)
    found = {}
    for chunk in _chunks(run_ids):
        query = select(
            runs.c.id, runs.c.status, runs.c.reason, runs.c.fence, runs.c.last_report, runs.c.due_at, runs.c.attempt
        ).where(runs.c.namespace == namespace, runs.c.id.in_(chunk))
        found.update({row.id: tuple(row) for row in connection.execute(query)})
    return Stamps(until, found)


def settled_until(connection: Connection, namespace: str) -> int:
    """No run will be found to have ended before this instant that is not found now."""
    horizon = commit_horizon(connection)
    if horizon is not None:
        return horizon
    newest = select(func.max(run_results.c.ended_at)).where(run_results.c.namespace == namespace)
    return connection.execute(newest).scalar() or 0


def tagged_ends(
    connection: Connection, namespace: str, tag: str, after: tuple[int, bytes], count: int
) -> list[tuple[int, bytes]]:
    """(instant, run) of the first runs with a tag that ended at or after an instant, in the order of their ends."""
    tagged = and_(run_tags.c.namespace == run_results.c.namespace, run_tags.c.run_id == run_results.c.run_id)
    place = sa.tuple_(run_results.c.ended_at, run_results.c.run_id)
    query = (
        select(run_results.c.ended_at, run_results.c.run_id)
        .select_from(run_results.join(run_tags, tagged))
        .where(run_results.c.namespace == namespace, run_tags.c.namespace == namespace, run_tags.c.tag == tag)
        .where(place > sa.tuple_(sa.literal(after[0]), sa.literal(after[1])))
        .order_by(run_results.c.ended_at, run_results.c.run_id)
        .limit(count)
    )
    return [(instant, run_id) for instant, run_id in connection.execute(query)]


def tagged_ids(connection: Connection, namespace: str, tag: str, count: int) -> list[bytes]:
    """The newest runs with a tag."""
    query = select(run_tags.c.run_id).where(run_tags.c.namespace == namespace, run_tags.c.tag == tag)
    return list(connection.execute(query.order_by(run_tags.c.run_id.desc()).limit(count)).scalars())


def batch_members(connection: Connection, namespace: str, batch_id: bytes) -> list[bytes] | None:
    """The runs of a batch in input order; None when there is no such batch."""
    there_is = select(batches.c.id).where(batches.c.namespace == namespace, batches.c.id == batch_id)
    if connection.execute(there_is).first() is None:
        return None
    query = (
        select(batch_items.c.run_id)
        .where(batch_items.c.namespace == namespace, batch_items.c.batch == batch_id, batch_items.c.run_id.is_not(None))
        .order_by(batch_items.c.place)
    )
    return list(dict.fromkeys(connection.execute(query).scalars()))


# --- replay, explain, logs --------------------------------------------------------------------------------------------
_PAYLOAD_SIZE: Final = func.length(run_inputs.c.payload)


def replay_source(connection: Connection, namespace: str, run_id: bytes) -> Row | None:
    """The inputs of a run: task, payload, fingerprint, options."""
    query = select(run_inputs.c.task, run_inputs.c.payload, run_inputs.c.fingerprint, run_inputs.c.options).where(
        run_inputs.c.namespace == namespace, run_inputs.c.run_id == run_id
    )
    return connection.execute(query).first()


def replay_sources(connection: Connection, namespace: str, run_ids: Sequence[bytes], budget: int) -> list[Row]:
    """The inputs of the first of these runs, in their order: with payloads of `budget` bytes, at least one."""
    mine = (run_inputs.c.namespace == namespace, run_inputs.c.run_id.in_(run_ids))
    sizes = {row[0]: row[1] for row in connection.execute(select(run_inputs.c.run_id, _PAYLOAD_SIZE).where(*mine))}
    chosen: list[bytes] = []
    for run_id in run_ids:
        if run_id in sizes:
            budget -= sizes[run_id]
            if chosen and budget < 0:
                break
            chosen.append(run_id)
    query = select(
        run_inputs.c.run_id, run_inputs.c.task, run_inputs.c.payload, run_inputs.c.fingerprint, run_inputs.c.options
    ).where(run_inputs.c.namespace == namespace, run_inputs.c.run_id.in_(chosen))
    rows = {row.run_id: row for row in connection.execute(query)}
    return [rows[run_id] for run_id in chosen if run_id in rows]


@dataclass(slots=True)
class Situation:
    """What `explain` looks at."""

    row: Row
    now: int  # by the database's clock
    pending: list[Row]  # checkpoints, with what is known of the child, the batch or the token
    last_error: bytes | None  # of the last attempt that ended
    last_checkpoint: Row | None = None  # of a run that executes
    ahead: int = 0  # runs that wait for a start before it in its queue
    ahead_in_lane: int = 0
    is_more_ahead: bool = False  # only `COUNTED_QUEUED` runs of the queue were looked at
    busy: int = 0  # runs that the sessions which have its task execute
    queue: QueueFacts = field(default_factory=lambda: QueueFacts(None))


def situation(connection: Connection, namespace: str, run_id: bytes, replica: bytes) -> Situation | None:
    """The rows that say why a run does not progress. `replica` is the scheduler that asks."""
    row = run_row(connection, namespace, run_id)
    if row is None:
        return None
    child = runs.alias("child")
    pending = (
        select(
            checkpoints.c.kind,
            checkpoints.c.name,
            checkpoints.c.subject,
            checkpoints.c.due_at,
            checkpoints.c.location,
            child.c.status.label("child_status"),
            batches.c.remaining,
            select(func.count())
            .where(batch_items.c.namespace == checkpoints.c.namespace, batch_items.c.batch == checkpoints.c.subject)
            .scalar_subquery()
            .label("items"),
            tokens.c.timeout_at,
        )
        .select_from(
            checkpoints.outerjoin(
                child, and_(child.c.namespace == checkpoints.c.namespace, child.c.id == checkpoints.c.subject)
            )
            .outerjoin(
                batches, and_(batches.c.namespace == checkpoints.c.namespace, batches.c.id == checkpoints.c.subject)
            )
            .outerjoin(
                tokens, and_(tokens.c.namespace == checkpoints.c.namespace, tokens.c.id == checkpoints.c.subject)
            )
        )
        .where(checkpoints.c.namespace == namespace, checkpoints.c.run_id == run_id, checkpoints.c.status == PENDING)
        .order_by(checkpoints.c.seq)
        .limit(100)
    )
    last_error = (
        select(attempts.c.error)
        .where(attempts.c.namespace == namespace, attempts.c.run_id == run_id)
        .order_by(attempts.c.fence.desc())
        .limit(1)
    )
    now = clock_of(connection)
    found = Situation(row, now, list(connection.execute(pending)), connection.execute(last_error).scalar())
    if row.status == EXECUTING:
        newest = (
            select(checkpoints.c.kind, checkpoints.c.name, checkpoints.c.status, checkpoints.c.location)
            .where(checkpoints.c.namespace == namespace, checkpoints.c.run_id == run_id)
            .order_by(checkpoints.c.seq.desc())
            .limit(1)
        )
        found.last_checkpoint = connection.execute(newest).first()
    if row.status == QUEUED:
        version = row.version if row.pinned else ""
        found.queue = queue_facts(connection, namespace, row.queue, row.lane, row.task, version, replica)
        before = sa.or_(runs.c.order_at < row.order_at, and_(runs.c.order_at == row.order_at, runs.c.id < row.id))
        looked_at = (
            select(before.label("is_before"), (runs.c.lane == row.lane).label("is_in_lane"))
            .where(runs.c.namespace == namespace, runs.c.queue == row.queue, CLAIMABLE)
            .limit(COUNTED_QUEUED + 1)
            .subquery()
        )
        is_before, is_in_lane = looked_at.c.is_before, looked_at.c.is_in_lane
        counted = select(
            func.count(),
            func.count(sa.case((is_before, 1))),
            func.count(sa.case((and_(is_before, is_in_lane), 1))),
        ).select_from(looked_at)
        queued, found.ahead, found.ahead_in_lane = connection.execute(counted).one()
        found.is_more_ahead = queued > COUNTED_QUEUED
        found.busy = busy_with(connection, namespace, row.task)
    return found


def log_rows(
    connection: Connection, namespace: str, run_id: bytes, after: tuple[int, int, int] | None, count: int
) -> list[Row]:
    """Log records of a run, oldest first: fence, report, place, record."""
    place = sa.tuple_(run_logs.c.fence, run_logs.c.report, run_logs.c.place)
    query = select(run_logs.c.fence, run_logs.c.report, run_logs.c.place, run_logs.c.record).where(
        run_logs.c.namespace == namespace, run_logs.c.run_id == run_id
    )
    if after is not None:
        query = query.where(place > sa.tuple_(*(sa.literal(number) for number in after)))
    return list(connection.execute(query.order_by(run_logs.c.fence, run_logs.c.report, run_logs.c.place).limit(count)))


def run_exists(connection: Connection, namespace: str, run_id: bytes) -> bool:
    """Whether there is such a run."""
    query = select(runs.c.id).where(runs.c.namespace == namespace, runs.c.id == run_id)
    return connection.execute(query).first() is not None


# --- tokens -----------------------------------------------------------------------------------------------------------
def token_row(connection: Connection, namespace: str, token_id: bytes) -> Row | None:
    """One token, for `messages.token_message`."""
    return connection.execute(select(tokens).where(tokens.c.namespace == namespace, tokens.c.id == token_id)).first()


def list_tokens(
    connection: Connection, namespace: str, wanted: TokenFilter, before: bytes | None, count: int
) -> list[Row]:
    """Tokens, newest first, after `before`, without their data."""
    columns = [column for column in tokens.c if column.name not in ("data", "error")]
    query = select(*columns, sa.null().label("data"), sa.null().label("error")).where(tokens.c.namespace == namespace)
    if before is not None:
        query = query.where(tokens.c.id < before)
    if wanted.status is not None:
        query = query.where(tokens.c.status == wanted.status)
    if wanted.tag is not None:
        # Tags are a JSON list; a quoted tag cannot be a part of another one.
        spellings = {json.dumps(wanted.tag), json.dumps(wanted.tag, ensure_ascii=False)}
        query = query.where(sa.or_(*(tokens.c.tags.contains(spelling, autoescape=True) for spelling in spellings)))
    return list(connection.execute(query.order_by(tokens.c.id.desc()).limit(count)))


def namespaces(connection: Connection) -> list[str]:
    """Every namespace in which a worker has announced a version: no other has runs."""
    return list(connection.execute(select(versions.c.namespace).distinct()).scalars())
