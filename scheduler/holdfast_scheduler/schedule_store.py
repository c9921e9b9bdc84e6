"""Every statement about schedules that the engine sends. Lock order: see `store`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from holdfast_scheduler import model as m
from holdfast_scheduler import schema
from holdfast_scheduler.database import Row, Transaction
from holdfast_scheduler.model import Schedule

COLUMNS: Final = tuple(Schedule.__dataclass_fields__)
_SELECT: Final = f"SELECT {', '.join(COLUMNS)} FROM schedules WHERE namespace = ?"
_FIXED: Final = ("id", "created_at", "key", "declared")
_CHANGING: Final = tuple(name for name in COLUMNS if name not in _FIXED)
_FLAGS: Final = ("declared", "withdrawn", "active")


def _schedule(row: Row) -> Schedule:
    found = Schedule(*row)
    for name in _FLAGS:
        setattr(found, name, bool(getattr(found, name)))
    return found


def lock(tx: Transaction, namespace: str, ids: Sequence[bytes]) -> dict[bytes, Schedule]:
    """Lock and load schedules by id."""
    rows = tx.fetch_in(f"{_SELECT} AND id {{in}}", sorted(ids), (namespace,), lock="id")
    return {one.id: one for one in map(_schedule, rows)}


def lock_keyed(tx: Transaction, namespace: str, key: str) -> Schedule | None:
    """Lock and load the schedule with a deduplication key."""
    rows = tx.fetch_in(f"{_SELECT} AND key {{in}}", [key], (namespace,), lock="id")
    return _schedule(rows[0]) if rows else None


def lock_declared(tx: Transaction, namespace: str, tasks: Iterable[str]) -> dict[str, Schedule]:
    """Lock and load the schedules that tasks declare, or did, by task."""
    rows = tx.fetch_in(f"{_SELECT} AND declared AND task {{in}}", sorted(tasks), (namespace,), lock="id")
    return {one.task: one for one in map(_schedule, rows)}


def lock_waiting(tx: Transaction, namespace: str, runs: Sequence[bytes]) -> list[Schedule]:
    """Lock and load the schedules of which instants wait for the end of one of these runs."""
    rows = tx.fetch_in(f"{_SELECT} AND waiting <> '' AND last_run {{in}}", sorted(runs), (namespace,), lock="id")
    return [_schedule(row) for row in rows]


def claim_due(tx: Transaction, namespace: str, ids: Sequence[bytes], now: int) -> list[Schedule]:
    """Lock and load those of the schedules that have a due instant, passing over what another replica has locked: it
    fires them."""
    rows = tx.claim_in(f"{_SELECT} AND next_at <= ? AND id {{in}}", sorted(ids), (namespace, now), len(ids))
    return sorted(map(_schedule, rows), key=lambda one: one.id)


def previous_runs(tx: Transaction, namespace: str, ids: Sequence[bytes]) -> list[bytes]:
    """The runs of the last instants of those schedules whose overlap policy asks for them, without a lock."""
    sql = (
        f"SELECT last_run FROM schedules WHERE namespace = ? AND overlap <> {m.OVERLAP_ALLOW}"
        " AND last_run IS NOT NULL AND id {in}"
    )
    return [row[0] for row in tx.fetch_in(sql, ids, (namespace,))]


def due_before(tx: Transaction, before: int, limit: int) -> list[Row]:
    """(namespace, id, next_at) of schedules whose next instant lies before an instant, earliest first."""
    sql = (
        "SELECT namespace, id, next_at FROM schedules WHERE next_at IS NOT NULL AND next_at < ?"
        " ORDER BY next_at LIMIT ?"
    )
    return tx.fetch(sql, (before, limit))


def count(tx: Transaction, namespace: str) -> int:
    """Schedules of a namespace."""
    return int(tx.fetch("SELECT count(*) FROM schedules WHERE namespace = ?", (namespace,))[0][0])


def insert(tx: Transaction, namespace: str, schedules: Iterable[Schedule]) -> None:
    """Insert schedules. Raises ConflictError when one with the same id, key or declaring task came first: the batch is
    tried again and then sees it."""
    rows = [(namespace, *(getattr(one, name) for name in COLUMNS)) for one in schedules]
    tx.insert(schema.schedules, ("namespace", *COLUMNS), rows)


def update(tx: Transaction, namespace: str, schedules: Iterable[Schedule]) -> None:
    """Write schedules back."""
    ordered = sorted(schedules, key=lambda one: one.id)
    rows = [(namespace, one.id, *(getattr(one, name) for name in _CHANGING)) for one in ordered]
    tx.update(schema.schedules, ("namespace", "id"), _CHANGING, rows)


def delete(tx: Transaction, namespace: str, schedule_id: bytes) -> None:
    """Delete a schedule."""
    tx.execute("DELETE FROM schedules WHERE namespace = ? AND id = ?", (namespace, schedule_id))


def newest_definitions(tx: Transaction, namespace: str, tasks: Iterable[str]) -> dict[str, bytes]:
    """What the newest version of each of these tasks announced, by task."""
    sql = (
        "SELECT t.id, t.version, t.definition FROM tasks t WHERE t.namespace = ? AND t.registered_at ="
        " (SELECT max(x.registered_at) FROM tasks x WHERE x.namespace = t.namespace AND x.id = t.id) AND t.id {in}"
    )
    rows = tx.fetch_in(sql, sorted(tasks), (namespace,))
    return {row[0]: row[2] for row in sorted(rows, key=lambda row: (row[0], row[1]))}
