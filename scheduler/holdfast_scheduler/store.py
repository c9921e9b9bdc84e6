"""Every statement that the engine sends, by what it is for. Each is set-based: one per batch, never one per run.

Lock order (PostgreSQL; SQLite has one writer): keys, then tokens and batches, then runs by id with parents and waiters
included, then schedules by id, then queues by name, then claims with SKIP LOCKED. Whatever a decision depends on is
read in a statement issued after its lock was granted, or believed and compared under its lock (`expect_runs`,
`expect_connections`), without which nothing is committed. Where the order cannot be kept (a waiter that is only found
later) the database reports a deadlock and the commit loop tries the whole batch again; nothing was answered yet.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Final

import sqlalchemy as sa

from holdfast_scheduler import model as m
from holdfast_scheduler import schema
from holdfast_scheduler.admission import Taken, taken_from, taken_text
from holdfast_scheduler.database import Row, Transaction
from holdfast_scheduler.model import Checkpoint, QueueLimits, QueueRow, Run

_RUN_KEY: Final = ("namespace", "id")
_RUN_CHANGING: Final = (
    "version",
    "order_at",
    "status",
    "reason",
    "attempt",
    "max_attempts",
    "recoveries",
    "fence",
    "last_report",
    "settled",
    "pushed",
    "seen",
    "last_seq",
    "session",
    "pending",
    "wake_at",
    "timer_at",
    "deadline_at",
    "due_at",
    "started_at",
    "awaited",
    "since",
    "queued_us",
    "waiting_us",
    "delayed_us",
    "backing_off_us",
    "pinned",
    "attempt_base",
)
RUN_COLUMNS: Final = tuple(Run.__dataclass_fields__)
_RUN_SELECT: Final = ", ".join(RUN_COLUMNS)
_RUN_INSERT: Final = ("namespace", *RUN_COLUMNS)

INPUT_COLUMNS: Final = (
    "namespace",
    "run_id",
    "task",
    "created_at",
    "parent",
    "root",
    "batch",
    "depth",
    "payload",
    "fingerprint",
    "tags",
    "key",
    "options",
    "trace",
    "is_replay",
    "queue",
    "off_clock",
    "schedule",
)
CHECKPOINT_COLUMNS: Final = (
    "namespace",
    "run_id",
    "seq",
    "identity",
    "kind",
    "name",
    "status",
    "fingerprint",
    "settled_order",
    "attempt",
    "permanent",
    "value",
    "error",
    "subject",
    "is_cached",
    "payload_differs",
    "due_at",
    "location",
    "failed_in",
)
# Without `|| ''` PostgreSQL may read all runs of the namespace beside those of the sessions: of a table without
# statistics it believes that they are few.
_SESSION_IN: Final = "namespace || '' = ? AND session {in}"
_CHECKPOINT_SELECT: Final = ", ".join(f"c.{name}" for name in CHECKPOINT_COLUMNS[1:])


# --- runs -----------------------------------------------------------------------------------------------------------


def load_runs(tx: Transaction, namespace: str, ids: Sequence[bytes]) -> list[Run]:
    """Lock and load runs by id."""
    sql = f"SELECT {_RUN_SELECT} FROM runs WHERE namespace = ? AND id {{in}}"
    return [Run(*row) for row in tx.fetch_in(sql, sorted(ids), (namespace,), lock="id")]


row_of: Final = attrgetter(*RUN_COLUMNS)
"""A run as the row that it is loaded from."""


def expect_runs(tx: Transaction, namespace: str, runs: Sequence[Run]) -> None:
    """Lock runs, which are in the order of their ids, and have the commit fail unless they are as these."""
    tx.expect(schema.runs, _RUN_KEY, RUN_COLUMNS[1:], [(namespace, *row_of(run)) for run in runs])


def load_session_runs(tx: Transaction, namespace: str, session: bytes) -> list[Run]:
    """Lock and load the open runs that a session executes or holds parked."""
    sql = f"SELECT {_RUN_SELECT} FROM runs WHERE {_SESSION_IN}"
    return [Run(*row) for row in tx.fetch_in(sql, [session], (namespace,), lock="id")]


def load_open_children(tx: Transaction, namespace: str, parents: Sequence[bytes], most: int) -> list[Run]:
    """Lock and load open children that end with their parents and are not being canceled, at most so many or a few
    more."""
    sql = (
        f"SELECT {_RUN_SELECT} FROM runs WHERE namespace = ? AND status < 10 AND status <> {m.CANCELING}"
        " AND on_parent_end = 1 AND parent {in}"
    )
    return [Run(*row) for row in tx.fetch_in(sql, sorted(parents), (namespace,), lock="id", most=most)]


_PLACE: Final = (
    ("queue", sa.Text),
    ("lane", sa.Text),
    ("task", sa.Text),
    ("version", sa.Text),
    ("pinned", sa.Boolean),
)
_CLAIM: Final = (
    f"SELECT {_RUN_SELECT} FROM runs WHERE namespace = ? AND queue = {{queue}} AND lane = {{lane}} AND task = {{task}}"
    " AND version = {version} AND pinned = {pinned} AND status = 2 AND session IS NULL"
    " ORDER BY order_at, id LIMIT {most}"
)
_NEXT_PLACE: Final = (
    "SELECT queue, lane, task, version, pinned FROM runs WHERE namespace = ? AND status = 2 AND session IS NULL"
    " AND (queue, lane, task, version, pinned) > ({queue}, {lane}, {task}, {version}, {pinned})"
    " ORDER BY queue, lane, task, version, pinned LIMIT 1"
)


def claim(tx: Transaction, namespace: str, places: Sequence[Row]) -> list[Run]:
    """Lock and load queued runs that wait for a start: for each place (queue, lane, task, version, pinned, most) the
    first ones of their order, passing over runs that another replica has locked."""
    return [Run(*row) for row in tx.claim_each(_CLAIM, (*_PLACE, ("most", sa.Integer)), places, (namespace,))]


def claimable_places(tx: Transaction, namespace: str, after: Row, limit: int) -> list[Row]:
    """(queue, lane, task, version, pinned) of which runs wait for a start, in this order, after a place."""
    return tx.leap(_NEXT_PLACE, _PLACE, after, (namespace,), limit)


_GATED: Final = (
    "EXISTS (SELECT 1 FROM queues q WHERE q.namespace = runs.namespace AND q.name = runs.queue"
    " AND (q.paused_at IS NOT NULL OR q.concurrency_limit > 0 OR q.total_limit > 0 OR q.rate_limit > 0))"
)


def claim_parked(
    tx: Transaction, namespace: str, sessions: Sequence[bytes], limit: int, *, gated: bool | None = None
) -> list[Run]:
    """Load woken runs whose parked bodies these sessions hold, oldest order first; only those in queues that need
    admission (`gated` True), only the others (False), or all (None)."""
    which = "" if gated is None else f" AND {_GATED}" if gated else f" AND NOT {_GATED}"
    sql = f"SELECT {_RUN_SELECT} FROM runs WHERE {_SESSION_IN} AND status = 2{which} ORDER BY order_at, id"
    return [Run(*row) for row in tx.claim_in(sql, sessions, (namespace,), limit)]


def has_woken(tx: Transaction, namespace: str, sessions: Sequence[bytes]) -> bool:
    """Whether any of these sessions holds a parked body that is to go on."""
    sql = f"SELECT 1 FROM runs WHERE {_SESSION_IN} AND status = 2 LIMIT 1"
    return bool(tx.fetch_in(sql, sessions, (namespace,)))


def overdue(tx: Transaction, before: int, limit: int) -> list[Row]:
    """(namespace, id, due_at) of runs whose timer lies before an instant."""
    return tx.fetch(
        "SELECT namespace, id, due_at FROM runs WHERE due_at IS NOT NULL AND due_at < ? ORDER BY due_at LIMIT ?",
        (before, limit),
    )


def insert_runs(tx: Transaction, namespace: str, runs: Iterable[Run]) -> None:
    """Insert hot rows."""
    tx.insert(schema.runs, _RUN_INSERT, [(namespace, *row_of(run)) for run in runs])


def update_runs(tx: Transaction, namespace: str, runs: Iterable[Run]) -> None:
    """Write back what may have changed in hot rows."""
    tx.update(
        schema.runs,
        _RUN_KEY,
        _RUN_CHANGING,
        [
            (
                namespace,
                r.id,
                r.version,
                r.order_at,
                r.status,
                r.reason,
                r.attempt,
                r.max_attempts,
                r.recoveries,
                r.fence,
                r.last_report,
                r.settled,
                r.pushed,
                r.seen,
                r.last_seq,
                r.session,
                r.pending,
                r.wake_at,
                r.timer_at,
                r.deadline_at,
                r.due_at,
                r.started_at,
                r.awaited,
                r.since,
                r.queued_us,
                r.waiting_us,
                r.delayed_us,
                r.backing_off_us,
                r.pinned,
                r.attempt_base,
            )
            for r in runs
        ],
    )


# --- inputs, results, attempts ---------------------------------------------------------------------------------------


def insert_inputs(tx: Transaction, rows: Sequence[Row]) -> None:
    """Insert the insert-once part of runs; rows in the order of INPUT_COLUMNS."""
    tx.insert(schema.run_inputs, INPUT_COLUMNS, rows)


def load_inputs(tx: Transaction, namespace: str, ids: Sequence[bytes]) -> dict[bytes, Row]:
    """INPUT_COLUMNS without the namespace, by run id."""
    sql = f"SELECT {', '.join(INPUT_COLUMNS[1:])} FROM run_inputs WHERE namespace = ? AND run_id {{in}}"
    return {row[0]: row for row in tx.fetch_in(sql, ids, (namespace,))}


def load_created_at(tx: Transaction, namespace: str, ids: Sequence[bytes]) -> dict[bytes, int]:
    """Instants at which runs were triggered, by run id."""
    sql = "SELECT run_id, created_at FROM run_inputs WHERE namespace = ? AND run_id {in}"
    return {row[0]: row[1] for row in tx.fetch_in(sql, ids, (namespace,))}


def replace_inputs(tx: Transaction, rows: Sequence[Row]) -> None:
    """Write (namespace, run_id, payload, tags, key, options, trace) of runs that have not started. Their fingerprint
    stays that of the first trigger, so that its repeat is recognized."""
    tx.update(schema.run_inputs, ("namespace", "run_id"), ("payload", "tags", "key", "options", "trace"), rows)


def delete_tags(tx: Transaction, namespace: str, ids: Sequence[bytes]) -> None:
    """Delete all tags of runs."""
    tx.fetch_in("DELETE FROM run_tags WHERE namespace = ? AND run_id {in} RETURNING run_id", ids, (namespace,))


def load_lineage(tx: Transaction, namespace: str, ids: Sequence[bytes]) -> dict[bytes, Row]:
    """(run_id, task, parent, root, depth) by run id."""
    sql = "SELECT run_id, task, parent, root, depth FROM run_inputs WHERE namespace = ? AND run_id {in}"
    return {row[0]: row for row in tx.fetch_in(sql, ids, (namespace,))}


def load_fingerprints(tx: Transaction, namespace: str, ids: Sequence[bytes]) -> dict[bytes, bytes]:
    """Fingerprints of the runs' payloads by run id."""
    sql = "SELECT run_id, fingerprint FROM run_inputs WHERE namespace = ? AND run_id {in}"
    return {row[0]: row[1] for row in tx.fetch_in(sql, ids, (namespace,))}


def insert_tags(tx: Transaction, rows: Sequence[Row]) -> None:
    """Insert (namespace, tag, run_id)."""
    tx.insert(schema.run_tags, ("namespace", "tag", "run_id"), rows, skip=True)


def load_tags(tx: Transaction, namespace: str, ids: Sequence[bytes]) -> dict[bytes, list[str]]:
    """Tags by run id."""
    sql = "SELECT run_id, tags FROM run_inputs WHERE namespace = ? AND run_id {in}"
    return {row[0]: json.loads(row[1]) if row[1] else [] for row in tx.fetch_in(sql, ids, (namespace,))}


def update_tags(tx: Transaction, rows: Sequence[Row]) -> None:
    """Write (namespace, run_id, tags)."""
    tx.update(schema.run_inputs, ("namespace", "run_id"), ("tags",), rows)


def insert_results(tx: Transaction, rows: Sequence[Row]) -> None:
    """Insert (namespace, run_id, output, error, ended_at, worker, status)."""
    tx.insert(schema.run_results, ("namespace", "run_id", "output", "error", "ended_at", "worker", "status"), rows)


def load_results(tx: Transaction, namespace: str, ids: Sequence[bytes]) -> dict[bytes, Row]:
    """(run_id, status, output, error) of final runs by run id."""
    sql = (
        "SELECT r.id, r.status, x.output, x.error FROM runs r JOIN run_results x"
        " ON x.namespace = r.namespace AND x.run_id = r.id WHERE r.namespace = ? AND r.status >= 10 AND r.id {in}"
    )
    return {row[0]: row for row in tx.fetch_in(sql, ids, (namespace,))}


def insert_attempts(tx: Transaction, rows: Sequence[Row]) -> None:
    """Insert (namespace, run_id, fence, number, state, started_at, ended_at, worker, error)."""
    columns = ("namespace", "run_id", "fence", "number", "state", "started_at", "ended_at", "worker", "error")
    tx.insert(schema.attempts, columns, rows, skip=True)


def insert_logs(tx: Transaction, rows: Sequence[Row]) -> None:
    """Insert (namespace, run_id, fence, report, place, record)."""
    tx.insert(schema.run_logs, ("namespace", "run_id", "fence", "report", "place", "record"), rows, skip=True)


def upsert_logs(tx: Transaction, rows: Sequence[Row]) -> None:
    """Write (namespace, run_id, fence, report, place, record), in place of what is there."""
    tx.upsert(schema.run_logs, ("namespace", "run_id", "fence", "report", "place"), ("record",), rows)


def count_logs(
    tx: Transaction, namespace: str, ids: Sequence[bytes], note_fence: int
) -> dict[bytes, tuple[int, bytes | None]]:
    """(records, the record under `note_fence`, which does not count) by run id."""
    sql = "SELECT run_id, count(*) FROM run_logs WHERE namespace = ? AND fence < ? AND run_id {in} GROUP BY run_id"
    counts: dict[bytes, int] = dict(tx.fetch_in(sql, ids, (namespace, note_fence)))
    sql = "SELECT run_id, record FROM run_logs WHERE namespace = ? AND fence = ? AND run_id {in}"
    notes: dict[bytes, bytes] = dict(tx.fetch_in(sql, ids, (namespace, note_fence)))
    return {run_id: (count, notes.get(run_id)) for run_id, count in counts.items()}


# --- checkpoints ---------------------------------------------------------------------------------------------------


def insert_checkpoints(tx: Transaction, namespace: str, made: Iterable[Checkpoint]) -> None:
    """Insert checkpoints. A child's output is not copied: it is read from the child."""
    tx.insert(
        schema.checkpoints,
        CHECKPOINT_COLUMNS,
        [
            (
                namespace,
                c.run_id,
                c.seq,
                c.identity,
                c.kind,
                c.name,
                c.status,
                c.fingerprint,
                c.settled_order,
                c.attempt,
                c.permanent,
                None if c.kind == m.CHILD else c.value,
                c.error,
                c.subject,
                c.is_cached,
                c.payload_differs,
                c.due_at,
                c.location,
                c.failed_in,
            )
            for c in made
        ],
    )


def settle_checkpoints(tx: Transaction, rows: Sequence[Row]) -> None:
    """Settle pending checkpoints: (namespace, run_id, seq, status, settled_order, failed_in, permanent, value,
    error)."""
    columns = ("status", "settled_order", "failed_in", "permanent", "value", "error")
    tx.update(schema.checkpoints, ("namespace", "run_id", "seq"), columns, rows)


def load_checkpoints(tx: Transaction, namespace: str, ids: Sequence[bytes], *, above: int = -1) -> list[Checkpoint]:
    """The checkpoints of runs whose `settled_order` is above a number, by default all, in order of creation; those of
    ended children with their status, output and error."""
    sql = (
        f"SELECT {_CHECKPOINT_SELECT}, r.status, x.output, x.error FROM checkpoints c"
        " LEFT JOIN runs r ON c.kind = 3 AND r.namespace = c.namespace AND r.id = c.subject"
        " LEFT JOIN run_results x ON c.kind = 3 AND x.namespace = c.namespace AND x.run_id = c.subject"
        " WHERE c.namespace = ? AND c.settled_order > ? AND c.run_id {in}"
    )
    rows = tx.fetch_in(sql, ids, (namespace, above))
    found = []
    for row in sorted(rows, key=lambda row: (row[0], row[1])):
        one = Checkpoint(*row[:-3])
        if row[-3] is not None and one.status != m.PENDING:
            one.child_status = row[-3]
            one.value = row[-2]
            one.error = one.error or row[-1]
        found.append(one)
    return found


def load_pending(tx: Transaction, namespace: str, ids: Sequence[bytes]) -> list[Checkpoint]:
    """Pending checkpoints of runs."""
    sql = f"SELECT {_CHECKPOINT_SELECT} FROM checkpoints c WHERE c.namespace = ? AND c.status = 1 AND c.run_id {{in}}"
    return [Checkpoint(*row) for row in tx.fetch_in(sql, ids, (namespace,))]


def load_waiters(tx: Transaction, namespace: str, subjects: Sequence[bytes]) -> list[Checkpoint]:
    """Pending checkpoints that wait for these runs, batches or tokens."""
    sql = f"SELECT {_CHECKPOINT_SELECT} FROM checkpoints c WHERE c.namespace = ? AND c.status = 1 AND c.subject {{in}}"
    return [Checkpoint(*row) for row in tx.fetch_in(sql, subjects, (namespace,))]


# --- keys ----------------------------------------------------------------------------------------------------------


def load_keys(tx: Transaction, namespace: str, kind: str, hashes: Sequence[bytes]) -> dict[bytes, Row]:
    """Lock and load (hash, task, subject, expires_at) by hash."""
    sql = "SELECT hash, task, subject, expires_at FROM idempotency_keys WHERE namespace = ? AND kind = ? AND hash {in}"
    return {row[0]: row for row in tx.fetch_in(sql, sorted(hashes), (namespace, kind), lock="hash")}


def insert_keys(tx: Transaction, rows: Sequence[Row]) -> None:
    """Insert (namespace, kind, task, hash, subject, expires_at). Raises ConflictError when another replica was faster:
    the batch is tried again and then sees the winner."""
    tx.insert(schema.idempotency_keys, ("namespace", "kind", "task", "hash", "subject", "expires_at"), rows)


def replace_keys(tx: Transaction, rows: Sequence[Row]) -> None:
    """Point keys at other subjects; rows as for insert_keys."""
    tx.update(schema.idempotency_keys, ("namespace", "kind", "task", "hash"), ("subject", "expires_at"), sorted(rows))


def delete_key(tx: Transaction, namespace: str, kind: str, task: str, digest: bytes) -> bool:
    """Delete one key; whether it existed."""
    sql = "DELETE FROM idempotency_keys WHERE namespace = ? AND kind = ? AND task = ? AND hash = ?"
    return tx.execute(sql, (namespace, kind, task, digest)) > 0


# --- batches -------------------------------------------------------------------------------------------------------


def insert_batches(tx: Transaction, rows: Sequence[Row]) -> None:
    """Insert (namespace, id, remaining, fingerprint, created_at, key)."""
    tx.insert(schema.batches, ("namespace", "id", "remaining", "fingerprint", "created_at", "key"), rows)


def insert_batch_items(tx: Transaction, rows: Sequence[Row]) -> None:
    """Insert (namespace, batch, place, run_id, is_cached, payload_differs, error)."""
    columns = ("namespace", "batch", "place", "run_id", "is_cached", "payload_differs", "error")
    tx.insert(schema.batch_items, columns, rows)


def load_batches(tx: Transaction, namespace: str, ids: Sequence[bytes]) -> dict[bytes, Row]:
    """Lock and load (id, remaining, fingerprint) by id."""
    sql = "SELECT id, remaining, fingerprint FROM batches WHERE namespace = ? AND id {in}"
    return {row[0]: row for row in tx.fetch_in(sql, sorted(ids), (namespace,), lock="id")}


def load_memberships(tx: Transaction, namespace: str, runs: Sequence[bytes]) -> list[Row]:
    """(run_id, batch) of every batch item that these runs fill."""
    return tx.fetch_in("SELECT run_id, batch FROM batch_items WHERE namespace = ? AND run_id {in}", runs, (namespace,))


def update_batches(tx: Transaction, rows: Sequence[Row]) -> None:
    """Write (namespace, id, remaining)."""
    tx.update(schema.batches, ("namespace", "id"), ("remaining",), rows)


def load_batch_entries(
    tx: Transaction, namespace: str, batches: Sequence[bytes], most_bytes: int
) -> tuple[list[Row], dict[bytes, int]]:
    """(batch, run_id, is_cached, payload_differs, item error, status, output, error) of items in input order, and the
    sizes of the batches whose outputs and errors have more than `most_bytes` together: those are left out."""
    size = "sum(coalesce(length(x.output), 0) + coalesce(length(x.error), 0)) OVER (PARTITION BY i.batch)"
    sql = (
        f"SELECT i.batch, i.run_id, i.is_cached, i.payload_differs, i.error, r.status,"
        f" CASE WHEN {size} <= {int(most_bytes)} THEN x.output END,"
        f" CASE WHEN {size} <= {int(most_bytes)} THEN x.error END, {size}"
        " FROM batch_items i"
        " LEFT JOIN runs r ON r.namespace = i.namespace AND r.id = i.run_id"
        " LEFT JOIN run_results x ON x.namespace = i.namespace AND x.run_id = i.run_id"
        " WHERE i.namespace = ? AND i.batch {in} ORDER BY i.batch, i.place"
    )
    rows = tx.fetch_in(sql, batches, (namespace,))
    return [row[:-1] for row in rows], {row[0]: int(row[-1]) for row in rows if row[-1] > most_bytes}


# --- tokens --------------------------------------------------------------------------------------------------------


def insert_tokens(tx: Transaction, rows: Sequence[Row]) -> None:
    """Insert (namespace, id, status, tags, created_at, timeout_at, key)."""
    tx.insert(schema.tokens, ("namespace", "id", "status", "tags", "created_at", "timeout_at", "key"), rows)


def load_tokens(tx: Transaction, namespace: str, ids: Sequence[bytes]) -> dict[bytes, Row]:
    """Lock and load (id, status, data, error, timeout_at) by id."""
    sql = "SELECT id, status, data, error, timeout_at FROM tokens WHERE namespace = ? AND id {in}"
    return {row[0]: row for row in tx.fetch_in(sql, sorted(ids), (namespace,), lock="id")}


def update_tokens(tx: Transaction, rows: Sequence[Row]) -> None:
    """Write (namespace, id, status, completed_at, data, error)."""
    tx.update(schema.tokens, ("namespace", "id"), ("status", "completed_at", "data", "error"), rows)


def due_tokens(tx: Transaction, before: int, limit: int) -> list[Row]:
    """(namespace, id, timeout_at) of pending tokens whose timeout lies before an instant."""
    sql = (
        "SELECT namespace, id, timeout_at FROM tokens WHERE status = 1 AND timeout_at IS NOT NULL AND timeout_at < ?"
        " ORDER BY timeout_at LIMIT ?"
    )
    return tx.fetch(sql, (before, limit))


# --- metadata ------------------------------------------------------------------------------------------------------

_METADATA: Final = ("committed", "live", "marks", "fence", "live_marks")


def load_metadata(tx: Transaction, namespace: str, ids: Sequence[bytes]) -> dict[bytes, Row]:
    """(run_id, committed, live, marks, fence, live_marks) by run id."""
    sql = f"SELECT run_id, {', '.join(_METADATA)} FROM run_metadata WHERE namespace = ? AND run_id {{in}}"
    return {row[0]: row for row in tx.fetch_in(sql, sorted(ids), (namespace,), lock="run_id")}


def upsert_metadata(tx: Transaction, rows: Sequence[Row]) -> None:
    """Write (namespace, run_id, committed, live, marks, fence, live_marks)."""
    tx.upsert(schema.run_metadata, ("namespace", "run_id"), _METADATA, rows)


# --- tasks, sessions, pending events ---------------------------------------------------------------------------------


def load_tasks(tx: Transaction) -> list[Row]:
    """(namespace, id, version, registered_at, definition) of all definitions, oldest first."""
    return tx.fetch("SELECT namespace, id, version, registered_at, definition FROM tasks ORDER BY registered_at")


def known_tasks(tx: Transaction) -> list[Row]:
    """(namespace, id, version) of all definitions."""
    return tx.fetch("SELECT namespace, id, version FROM tasks")


def load_version(tx: Transaction, namespace: str, version: str, tasks: Sequence[str]) -> dict[str, Row]:
    """(id, registered_at, definition) of what one version announced, by task id."""
    sql = "SELECT id, registered_at, definition FROM tasks WHERE namespace = ? AND version = ? AND id {in}"
    return {row[0]: row for row in tx.fetch_in(sql, sorted(tasks), (namespace, version))}


def insert_tasks(tx: Transaction, rows: Sequence[Row]) -> None:
    """Insert (namespace, id, version, registered_at, definition, queue). What exists stays as it is: a version is as
    old as its first announcement."""
    tx.insert(
        schema.tasks, ("namespace", "id", "version", "registered_at", "definition", "queue"), sorted(rows), skip=True
    )


def update_tasks(tx: Transaction, rows: Sequence[Row]) -> None:
    """Write (namespace, id, version, definition, queue)."""
    tx.update(schema.tasks, ("namespace", "id", "version"), ("definition", "queue"), sorted(rows))


def register_version(tx: Transaction, namespace: str, version: str, now: int) -> int:
    """The instant of a version's first announcement, which is now if this is it. No two versions have the same."""
    tx.execute(
        "INSERT INTO versions (namespace, version, registered_at) SELECT ?, ?, max(at) FROM (SELECT ? AS at UNION ALL"
        " SELECT max(registered_at) + 1 FROM versions WHERE namespace = ?) AS instants"
        " WHERE true ON CONFLICT DO NOTHING",
        (namespace, version, now, namespace),
    )
    return int(load_versions(tx, namespace, [version])[version][0])


def load_versions(tx: Transaction, namespace: str, versions: Sequence[str]) -> dict[str, tuple[int, int | None]]:
    """(first announcement, end of the last session) of versions."""
    sql = "SELECT version, registered_at, left_at FROM versions WHERE namespace = ? AND version {in}"
    return {row[0]: (row[1], row[2]) for row in tx.fetch_in(sql, versions, (namespace,))}


def leave_version(tx: Transaction, namespace: str, version: str, now: int) -> None:
    """Note that a session of a version has ended."""
    tx.execute("UPDATE versions SET left_at = ? WHERE namespace = ? AND version = ?", (now, namespace, version))


def connected(tx: Transaction, namespace: str) -> list[Row]:
    """(version, JSON list of its tasks) of the sessions of a namespace, without repeats."""
    return tx.fetch("SELECT DISTINCT version, tasks FROM sessions WHERE namespace = ?", (namespace,))


_SESSION: Final = ("secret", "connection_no", "replica", "lease_until", "worker", "version", "tasks")


def load_session(tx: Transaction, namespace: str, session: bytes) -> Row | None:
    """Lock and load (id, secret, connection_no, replica, lease_until, worker, version, tasks)."""
    sql = f"SELECT id, {', '.join(_SESSION)} FROM sessions WHERE namespace = ? AND id {{in}}"
    rows = tx.fetch_in(sql, [session], (namespace,), lock="id")
    return rows[0] if rows else None


def lock_connections(tx: Transaction, namespace: str, sessions: Sequence[bytes]) -> Callable[[], list[Row]]:
    """Lock sessions; (id, number of the newest connection) of each that exists can be had later."""
    sql = "SELECT id, connection_no FROM sessions WHERE namespace = ? AND id {in}"
    return tx.fetch_ahead(sql, sessions, (namespace,), lock="id")


def expect_connections(tx: Transaction, namespace: str, numbers: Mapping[bytes, int]) -> None:
    """Lock sessions and have the commit fail unless these are the numbers of their newest connections."""
    rows = [(namespace, session, number) for session, number in sorted(numbers.items())]
    tx.expect(schema.sessions, ("namespace", "id"), ("connection_no",), rows)


def upsert_session(tx: Transaction, row: Row) -> None:
    """Write (namespace, id, secret, connection_no, replica, lease_until, worker, version, tasks)."""
    tx.upsert(schema.sessions, ("namespace", "id"), _SESSION, [row])


def renew_session(tx: Transaction, namespace: str, session: bytes, lease_until: int) -> bool:
    """Write the end of a lease; whether the session exists."""
    sql = "UPDATE sessions SET lease_until = ? WHERE namespace = ? AND id = ?"
    return tx.execute(sql, (lease_until, namespace, session)) > 0


def delete_session(tx: Transaction, namespace: str, session: bytes) -> None:
    """Forget a session that has ended."""
    tx.execute("DELETE FROM sessions WHERE namespace = ? AND id = ?", (namespace, session))


def extend_leases(tx: Transaction, until: int, length: int) -> None:
    """Give every session a fresh lease, after a start or an outage, also one whose lease of `length` microseconds lies
    far ahead: the clock was set back meanwhile, and its worker may be gone. And let woken runs wait as long for the
    worker that has their parked body, which could not take them meanwhile."""
    far = until + length
    tx.execute("UPDATE sessions SET lease_until = ? WHERE lease_until < ? OR lease_until > ?", (until, until, far))
    tx.execute(
        "UPDATE runs SET wake_at = ?, due_at = CASE WHEN deadline_at < ? THEN deadline_at ELSE ? END"
        f" WHERE status = {m.QUEUED} AND session IS NOT NULL AND wake_at < ?",
        (until, until, until, until),
    )


def expired_sessions(tx: Transaction, now: int) -> list[Row]:
    """(namespace, id, worker) of sessions whose lease is over."""
    return tx.fetch("SELECT namespace, id, worker FROM sessions WHERE lease_until < ? LIMIT 100", (now,))


def orphaned_sessions(tx: Transaction) -> list[Row]:
    """(namespace, session) of runs whose session has ended: it was given them while it ended elsewhere."""
    return tx.fetch(
        "SELECT DISTINCT r.namespace, r.session FROM runs r WHERE r.session IS NOT NULL AND NOT EXISTS"
        " (SELECT 1 FROM sessions s WHERE s.namespace = r.namespace AND s.id = r.session) LIMIT 100"
    )


def insert_pending_events(tx: Transaction, rows: Sequence[Row]) -> None:
    """Insert (namespace, id, kind, run_id)."""
    tx.insert(schema.pending_events, ("namespace", "id", "kind", "run_id"), rows)


def take_pending_events(tx: Transaction, limit: int) -> list[Row]:
    """Take (namespace, id, kind, run_id) off the table; they come back if the transaction is rolled back."""
    rows = tx.fetch("SELECT namespace, id, kind, run_id FROM pending_events ORDER BY id LIMIT ?", (limit,))
    taken: set[tuple[str, bytes]] = set()
    for namespace in {row[0] for row in rows}:
        ids = [row[1] for row in rows if row[0] == namespace]
        sql = "DELETE FROM pending_events WHERE namespace = ? AND id {in} RETURNING id"
        taken.update((namespace, bytes(row[0])) for row in tx.fetch_in(sql, ids, (namespace,)))
    return [row for row in rows if (row[0], row[1]) in taken]  # another replica may have taken the others meanwhile


def peek_session_runs(tx: Transaction, namespace: str, session: bytes) -> list[Row]:
    """(id, fence, status, pushed) of a session's runs, without a lock: what a replica compares with what it told."""
    sql = f"SELECT id, fence, status, pushed FROM runs WHERE {_SESSION_IN}"
    return tx.fetch_in(sql, [session], (namespace,))


def peek_runs(tx: Transaction, namespace: str, ids: Sequence[bytes]) -> list[Row]:
    """(id, fence, status) of runs, without a lock."""
    return tx.fetch_in("SELECT id, fence, status FROM runs WHERE namespace = ? AND id {in}", ids, (namespace,))


def peek_connection(tx: Transaction, namespace: str, session: bytes) -> int | None:
    """The number of a session's newest connection, without a lock; None when the session has ended."""
    rows = tx.fetch("SELECT connection_no FROM sessions WHERE namespace = ? AND id = ?", (namespace, session))
    return rows[0][0] if rows else None


def load_task(tx: Transaction, namespace: str, task: str) -> list[Row]:
    """(namespace, id, version, registered_at, definition) of one task, oldest version first."""
    sql = (
        "SELECT namespace, id, version, registered_at, definition FROM tasks WHERE namespace = ? AND id = ?"
        " ORDER BY registered_at"
    )
    return tx.fetch(sql, (namespace, task))


# --- queues -----------------------------------------------------------------------------------------------------------

_QUEUE: Final = (
    "concurrency_limit",
    "total_limit",
    "rate_limit",
    "rate_period",
    "depth_limit",
    "overridden",
    "paused_at",
    "taken",
)
_QUEUE_SELECT: Final = f"name, {', '.join(_QUEUE)}"


def load_queues(tx: Transaction) -> list[tuple[str, QueueRow]]:
    """(namespace, queue) of all queues that have a row."""
    rows = tx.fetch(f"SELECT namespace, {_QUEUE_SELECT} FROM queues")
    return [(row[0], _queue_row(row[1:])) for row in rows]


def lock_queues(tx: Transaction, namespace: str, names: Iterable[str]) -> dict[str, QueueRow]:
    """Lock and load queues by name; those without a row are absent."""
    sql = f"SELECT {_QUEUE_SELECT} FROM queues WHERE namespace = ? AND name {{in}}"
    return {row[0]: _queue_row(row) for row in tx.fetch_in(sql, sorted(names), (namespace,), lock="name")}


def _queue_row(row: Row) -> QueueRow:
    name, lane, total, rate, period, depth, overridden, paused_at, taken = row
    limits = QueueLimits(lane=lane, total=total, rate=rate, period_us=period, depth=depth)
    return QueueRow(name, limits, bool(overridden), paused_at, taken_from(taken))


def write_queues(tx: Transaction, namespace: str, queues: Iterable[QueueRow]) -> None:
    """Write queues."""
    rows = []
    for one in sorted(queues, key=lambda queue: queue.name):
        limits = one.limits
        numbers = (limits.lane, limits.total, limits.rate, limits.period_us, limits.depth)
        rows.append((namespace, one.name, *numbers, one.overridden, one.paused_at, taken_text(one.taken)))
    tx.upsert(schema.queues, ("namespace", "name"), _QUEUE, rows)


def announce_queue_change(tx: Transaction, namespace: str) -> None:
    """Have every scheduler read queues and definitions again once this is committed. Whoever comes next waits until
    then."""
    tx.execute(
        "INSERT INTO queue_changes (namespace, number) VALUES (?, 1)"
        " ON CONFLICT (namespace) DO UPDATE SET number = queue_changes.number + 1",
        (namespace,),
    )


def write_taken(tx: Transaction, namespace: str, taken: Mapping[str, Taken]) -> None:
    """Write the starts that count against queues' rate limits."""
    rows = [(namespace, name, taken_text(starts)) for name, starts in sorted(taken.items())]
    tx.update(schema.queues, ("namespace", "name"), ("taken",), rows)


def count_occupying(tx: Transaction, namespace: str, queues: Iterable[str]) -> dict[str, dict[str, int]]:
    """How many runs of each lane hold a slot of their queue, by queue. Read it after the queues' locks were granted."""
    sql = (
        "SELECT queue, lane, count(*) FROM runs WHERE namespace = ? AND status IN (3, 5) AND queue {in}"
        " GROUP BY queue, lane"
    )
    found: dict[str, dict[str, int]] = {name: {} for name in queues}
    for queue, lane, count in tx.fetch_in(sql, sorted(found), (namespace,)):
        found[queue][lane] = count
    return found


def count_queued(tx: Transaction, namespace: str, queue: str, most: int) -> int:
    """How many runs of a queue wait for a start, counted up to `most`."""
    sql = (
        "SELECT count(*) FROM (SELECT 1 FROM runs WHERE namespace = ? AND queue = ? AND status = 2"
        " AND session IS NULL LIMIT ?) AS waiting"
    )
    return int(tx.fetch(sql, (namespace, queue, most))[0][0])


def load_declarations(tx: Transaction, namespace: str, queues: Iterable[str]) -> list[Row]:
    """(queue, version, registered_at, definition) of each task that uses one of these queues, in its newest version."""
    sql = (
        "SELECT t.queue, t.version, t.registered_at, t.definition FROM tasks t WHERE t.namespace = ?"
        " AND t.registered_at = (SELECT max(x.registered_at) FROM tasks x"
        " WHERE x.namespace = t.namespace AND x.id = t.id) AND t.queue {in}"
    )
    return tx.fetch_in(sql, sorted(queues), (namespace,))


# --- retention --------------------------------------------------------------------------------------------------------


def ended_runs(tx: Transaction, namespace: str, after: tuple[int, bytes], before: int, limit: int) -> list[Row]:
    """(ended_at, run_id) of runs that ended before an instant, in this order, after a place."""
    sql = (
        "SELECT ended_at, run_id FROM run_results WHERE namespace = ? AND (ended_at, run_id) > (?, ?)"
        " AND ended_at < ? ORDER BY ended_at, run_id LIMIT ?"
    )
    return tx.fetch(sql, (namespace, *after, before, limit))


def ended_of(tx: Transaction, namespace: str, ids: Sequence[bytes], before: int) -> list[bytes]:
    """Those of these runs that ended before an instant."""
    sql = "SELECT run_id FROM run_results WHERE namespace = ? AND ended_at < ? AND run_id {in}"
    return [row[0] for row in tx.fetch_in(sql, ids, (namespace, before))]


def lock_ended(tx: Transaction, namespace: str, ids: Sequence[bytes]) -> dict[bytes, int]:
    """Lock runs that have ended, without those that somebody else has locked; how many checkpoints each has."""
    sql = "SELECT id, last_seq FROM runs WHERE namespace = ? AND status >= 10 AND id {in} ORDER BY id"
    return dict(tx.claim_in(sql, ids, (namespace,), len(ids))) if ids else {}


def needed(tx: Transaction, namespace: str, subjects: Sequence[bytes], expired: int) -> set[bytes]:
    """Those of these runs, batches and tokens that a key names which had not expired at an instant, or of which a run
    that is open has a checkpoint."""
    by_key = "SELECT DISTINCT subject FROM idempotency_keys WHERE namespace = ? AND expires_at > ? AND subject {in}"
    by_run = (
        "SELECT DISTINCT c.subject FROM checkpoints c JOIN runs r ON r.namespace = c.namespace AND r.id = c.run_id"
        " WHERE c.namespace = ? AND r.status < 10 AND c.subject {in}"
    )
    rows = tx.fetch_in(by_key, subjects, (namespace, expired)) + tx.fetch_in(by_run, subjects, (namespace,))
    return {row[0] for row in rows}


def postponed(tx: Transaction, namespace: str, ids: Sequence[bytes]) -> list[bytes]:
    """Runs of which an event is still to be taken up."""
    sql = "SELECT run_id FROM pending_events WHERE namespace = ? AND run_id {in}"
    return [row[0] for row in tx.fetch_in(sql, ids, (namespace,))]


def having_children(tx: Transaction, namespace: str, ids: Sequence[bytes]) -> set[bytes]:
    """Those of these runs that triggered runs which exist."""
    sql = (
        "SELECT r.id FROM runs r WHERE r.namespace = ? AND EXISTS"
        " (SELECT 1 FROM run_inputs i WHERE i.namespace = r.namespace AND i.parent = r.id) AND r.id {in}"
    )
    return {row[0] for row in tx.fetch_in(sql, ids, (namespace,))}


def parents_of(tx: Transaction, namespace: str, ids: Sequence[bytes]) -> set[bytes]:
    """The runs that triggered these."""
    sql = "SELECT DISTINCT parent FROM run_inputs WHERE namespace = ? AND parent IS NOT NULL AND run_id {in}"
    return {row[0] for row in tx.fetch_in(sql, ids, (namespace,))}


def delete_logs(tx: Transaction, namespace: str, ids: Sequence[bytes], limit: int) -> int:
    """Delete log records of runs, at most so many; how many."""
    key = ("namespace", "run_id", "fence", "report", "place")
    sql = f"SELECT {', '.join(key)} FROM run_logs WHERE namespace = ? AND run_id {{in}} LIMIT {limit:d}"
    rows = tx.fetch_in(sql, ids, (namespace,))
    tx.delete(schema.run_logs, key, rows)
    return len(rows)


_OF_RUN: Final = (
    schema.run_inputs,
    schema.run_results,
    schema.run_metadata,
    schema.attempts,
    schema.checkpoints,
    schema.batch_items,
)


def delete_runs(tx: Transaction, namespace: str, ids: Sequence[bytes]) -> None:
    """Delete runs with everything that belongs to them but their log records."""
    tags = [(namespace, tag, run_id) for run_id, mine in load_tags(tx, namespace, ids).items() for tag in mine]
    tx.delete(schema.run_tags, ("namespace", "tag", "run_id"), tags)
    rows = [(namespace, run_id) for run_id in ids]
    for table in _OF_RUN:
        tx.delete(table, ("namespace", "run_id"), rows)
    tx.delete(schema.runs, ("namespace", "id"), rows)


def old_batches(tx: Transaction, namespace: str, after: bytes, up_to: bytes, limit: int) -> list[Row]:
    """(id, created_at) of batches with ids between two."""
    sql = "SELECT id, created_at FROM batches WHERE namespace = ? AND id > ? AND id < ? ORDER BY id LIMIT ?"
    return tx.fetch(sql, (namespace, after, up_to, limit))


def with_runs(tx: Transaction, namespace: str, batches: Sequence[bytes]) -> set[bytes]:
    """Those of these batches that have items which are runs."""
    sql = "SELECT DISTINCT batch FROM batch_items WHERE namespace = ? AND run_id IS NOT NULL AND batch {in}"
    return {row[0] for row in tx.fetch_in(sql, batches, (namespace,))}


def delete_batches(tx: Transaction, namespace: str, ids: Sequence[bytes]) -> None:
    """Delete batches with their items."""
    rows = [(namespace, batch) for batch in ids]
    tx.delete(schema.batch_items, ("namespace", "batch"), rows)
    tx.delete(schema.batches, ("namespace", "id"), rows)


def completed_tokens(tx: Transaction, namespace: str, after: bytes, up_to: bytes, limit: int) -> list[Row]:
    """(id, completed_at) of tokens that are no longer pending, with ids between two."""
    sql = (
        "SELECT id, completed_at FROM tokens WHERE namespace = ? AND status <> 1 AND id > ? AND id < ?"
        " ORDER BY id LIMIT ?"
    )
    return tx.fetch(sql, (namespace, after, up_to, limit))


def lock_tokens(tx: Transaction, namespace: str, ids: Sequence[bytes]) -> list[bytes]:
    """Lock tokens, without those that somebody else has locked."""
    sql = "SELECT id FROM tokens WHERE namespace = ? AND id {in} ORDER BY id"
    return [row[0] for row in tx.claim_in(sql, ids, (namespace,), len(ids))]


def delete_tokens(tx: Transaction, namespace: str, ids: Sequence[bytes]) -> None:
    """Delete tokens."""
    tx.delete(schema.tokens, ("namespace", "id"), [(namespace, token) for token in ids])


def delete_expired_keys(tx: Transaction, namespace: str, before: int, limit: int) -> int:
    """Delete keys that expired before an instant, at most so many; how many."""
    key = ("namespace", "kind", "task", "hash")
    sql = f"SELECT {', '.join(key)} FROM idempotency_keys WHERE expires_at < ? AND namespace {{in}} ORDER BY expires_at"
    rows = tx.claim_in(sql, [namespace], (before,), limit)
    tx.delete(schema.idempotency_keys, key, rows)
    return len(rows)
