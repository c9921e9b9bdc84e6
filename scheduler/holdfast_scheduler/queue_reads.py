"""The edge's queries about queues. Like those of `reads`, each runs in a reader's thread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import Connection, and_, func, select

from holdfast_scheduler.admission import taken_from, why_queued
from holdfast_scheduler.model import QueueLimits, QueueRow
from holdfast_scheduler.schema import queues, runs, sessions, tasks

# Each of these is the condition of a partial index: runs that have ended are never read.
CLAIMABLE: Final = and_(runs.c.status == sa.literal_column("2"), runs.c.session.is_(None))
OCCUPYING: Final = runs.c.status.in_([sa.literal_column("3"), sa.literal_column("5")])

Row = Any  # a SQLAlchemy row whose columns are known by name only


def queue_rows(connection: Connection, namespace: str) -> dict[str, QueueRow]:
    """The queues that have a row, by name."""
    rows = connection.execute(select(queues).where(queues.c.namespace == namespace))
    return {row.name: _queue_row(row) for row in rows}


def _queue_row(row: Row) -> QueueRow:
    limits = QueueLimits(
        lane=row.concurrency_limit,
        total=row.total_limit,
        rate=row.rate_limit,
        period_us=row.rate_period,
        depth=row.depth_limit,
    )
    return QueueRow(row.name, limits, row.overridden, row.paused_at, taken_from(row.taken))


def queues_in_use(connection: Connection, namespace: str, most: int) -> set[str]:
    """Names of queues in which runs wait for a start or execute, up to `most` of each."""
    found: set[str] = set()
    for condition in (CLAIMABLE, OCCUPYING):
        mine = and_(runs.c.namespace == namespace, condition)
        names = select(select(func.min(runs.c.queue)).where(mine).scalar_subquery().label("name")).cte(recursive=True)
        after = select(func.min(runs.c.queue)).where(mine, runs.c.queue > names.c.name).scalar_subquery()
        names = names.union_all(select(after).where(names.c.name.is_not(None)))
        query = select(names.c.name).where(names.c.name.is_not(None)).limit(most)
        found.update(connection.execute(query).scalars())
    return found


def queue_counts(connection: Connection, namespace: str, names: Sequence[str]) -> dict[str, tuple[int, int]]:
    """(runs that wait for a start, runs that hold a slot) by queue."""
    counted: list[dict[str, int]] = []
    for condition in (CLAIMABLE, OCCUPYING):
        query = (
            select(runs.c.queue, func.count())
            .where(runs.c.namespace == namespace, runs.c.queue.in_(names), condition)
            .group_by(runs.c.queue)
        )
        counted.append({row[0]: row[1] for row in connection.execute(query)})
    return {name: (counted[0].get(name, 0), counted[1].get(name, 0)) for name in names}


def busy_with(connection: Connection, namespace: str, task: str) -> int:
    """How many runs are executed by sessions whose workers have a task."""
    announced = and_(tasks.c.namespace == sessions.c.namespace, tasks.c.version == sessions.c.version)
    theirs = and_(runs.c.session == sessions.c.id, runs.c.namespace == sessions.c.namespace, OCCUPYING)
    query = (
        select(func.count())
        .select_from(sessions.join(tasks, announced).join(runs, theirs))
        .where(sessions.c.namespace == namespace, tasks.c.id == task)
    )
    return int(connection.execute(query).scalar_one())


@dataclass(slots=True)
class QueueFacts:
    """What says whether a run of a lane may start."""

    queue: QueueRow | None
    lane_executing: int = 0
    executing: int = 0  # runs of all lanes
    workers_elsewhere: int = 0  # sessions of other schedulers that may have the task

    def why(self, lane: str, now: int, workers: int) -> int:
        """The status reason of a queued run; `workers` of this scheduler have its task."""
        others = self.executing - self.lane_executing
        # No other lane has this name: names hold no U+0000.
        executing = {lane: self.lane_executing, "\0": others}
        return why_queued(self.queue, executing, lane, now, workers + self.workers_elsewhere)


def queue_facts(
    connection: Connection, namespace: str, queue: str, lane: str, task: str, version: str, replica: bytes
) -> QueueFacts:
    """The facts about one lane, for a run of a task that needs a worker of this version; of any, when it is empty."""
    row = connection.execute(select(queues).where(queues.c.namespace == namespace, queues.c.name == queue)).first()
    facts = QueueFacts(_queue_row(row) if row is not None else None)
    if row is not None:
        mine = (runs.c.namespace == namespace, runs.c.queue == queue, OCCUPYING)
        facts.executing = connection.execute(select(func.count()).where(*mine)).scalar_one()
        facts.lane_executing = connection.execute(select(func.count()).where(*mine, runs.c.lane == lane)).scalar_one()
    announced = and_(tasks.c.namespace == sessions.c.namespace, tasks.c.version == sessions.c.version)
    elsewhere = (
        select(func.count())
        .select_from(sessions.join(tasks, announced))
        .where(sessions.c.namespace == namespace, sessions.c.replica != replica, tasks.c.id == task)
    )
    if version:
        elsewhere = elsewhere.where(sessions.c.version == version)
    facts.workers_elsewhere = connection.execute(elsewhere).scalar_one()
    return facts
