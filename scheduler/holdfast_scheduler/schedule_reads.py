"""The edge's queries about schedules. Like those of `reads`, each runs in a reader's thread."""

from __future__ import annotations

from sqlalchemy import Connection, select

from holdfast_scheduler.model import Schedule
from holdfast_scheduler.schedule_store import COLUMNS
from holdfast_scheduler.schema import schedules

_QUERY = select(*(schedules.c[name] for name in COLUMNS))


def schedule(connection: Connection, namespace: str, schedule_id: bytes) -> Schedule | None:
    """One schedule."""
    row = connection.execute(
        _QUERY.where(schedules.c.namespace == namespace, schedules.c.id == schedule_id)
    ).one_or_none()
    return Schedule(*row) if row is not None else None


def list_schedules(connection: Connection, namespace: str, after: bytes | None, count: int) -> list[Schedule]:
    """Up to `count` schedules, oldest first, after `after`."""
    query = _QUERY.where(schedules.c.namespace == namespace)
    if after is not None:
        query = query.where(schedules.c.id > after)
    return [Schedule(*row) for row in connection.execute(query.order_by(schedules.c.id).limit(count))]
