"""Lists of runs: which index leads to them, and how far one request goes.

A list follows one index, the narrowest that its conditions allow, newest run first, and checks all other conditions on
what it meets there. It looks at a bounded number of runs: a condition that nothing meets costs a page as much as one
that everything meets, and the page token goes on from where the look ended.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection, Select, and_, func, select

from holdfast_scheduler import ids
from holdfast_scheduler.filter import RunFilter
from holdfast_scheduler.model import CANCELING, COMPLETED, EXECUTING
from holdfast_scheduler.schema import batch_items, run_inputs, run_metadata, run_results, run_tags, runs

_PLACE: Final = struct.Struct(">q16s")  # instant (0 in a list by id) and run
_GROWTH: Final = 4  # each look that did not fill the page is followed by one at so many times as many runs
_METADATA_AT_ONCE: Final = 1 << 20  # bytes
_DOCUMENTS_AT_ONCE: Final = 500
# Each of these repeats the condition of a partial index, so that SQLite recognizes it.
_OPEN: Final = and_(
    sa.literal_column("+runs.status") < sa.literal_column(str(CANCELING)),
    runs.c.status != sa.literal_column(str(EXECUTING)),
)
_OCCUPYING: Final = runs.c.status.in_([sa.literal_column(str(number)) for number in (EXECUTING, CANCELING)])
_FAILED: Final = run_results.c.status > sa.literal_column(str(COMPLETED))
_FOREIGN_QUEUE: Final = run_inputs.c.queue != sa.literal_column("''")
_OFF_CLOCK: Final[ColumnElement[bool]] = sa.literal_column("run_inputs.off_clock")  # as Boolean it is written "= 1"
_OWN_QUEUE: Final = "task/"


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much one page may look at and hold."""

    runs: int
    scanned: int
    bytes: int
    metadata_bytes: int


@dataclass(slots=True)
class IdPage:
    """Ids of a page, newest first, and the place after which the next one goes on (None on the last page)."""

    ids: list[bytes]
    next_place: bytes | None


@dataclass(frozen=True, slots=True)
class Found:
    """A run that the walk has come to and that meets the conditions which the database can check."""

    id: bytes
    instant: int
    size: int  # bytes of output, error and metadata
    metadata_size: int


@dataclass(frozen=True, slots=True)
class _Index:
    """Runs in the order of one index, or of several that are merged."""

    parts: tuple[
        tuple[ColumnElement[Any], tuple[ColumnElement[bool], ...]], ...
    ]  # (column of the run's id, conditions)
    covers: frozenset[str]  # conditions that need no further check
    instant: ColumnElement[Any] | None = None  # what comes before the id in its order
    repeats: bool = False  # whether it may lead to a run twice

    def runs_before(self, place: tuple[int, bytes] | None, count: int) -> Select[Any]:
        """(id, instant) of the next runs."""
        selects = [self._part(run_id, conditions, place, count) for run_id, conditions in self.parts]
        if len(selects) == 1:
            return selects[0]
        merged = sa.union(*[select(part.subquery()) for part in selects]).subquery()
        return select(merged.c.id, merged.c.instant).order_by(merged.c.id.desc()).limit(count)

    def _part(
        self,
        run_id: ColumnElement[Any],
        conditions: tuple[ColumnElement[bool], ...],
        place: tuple[int, bytes] | None,
        count: int,
    ) -> Select[Any]:
        instant = self.instant
        if instant is None:
            query = select(run_id.label("id"), sa.literal_column("0").label("instant")).where(*conditions)
            if place is not None:
                query = query.where(run_id < place[1])
            return (query.distinct() if self.repeats else query).order_by(run_id.desc()).limit(count)
        query = select(run_id.label("id"), instant.label("instant")).where(*conditions)
        if place is not None:
            query = query.where(sa.tuple_(instant, run_id) < sa.tuple_(sa.literal(place[0]), sa.literal(place[1])))
        return query.order_by(instant.desc(), run_id.desc()).limit(count)


def page_of_ids(
    connection: Connection,
    namespace: str,
    wanted: RunFilter,
    place: bytes | None,
    bounds: Bounds,
    only: bytes | None = None,
) -> IdPage:
    """A page of the runs that meet all conditions, after `place`. `only` is the run that holds the key, if one was
    asked for."""
    page: list[bytes] = []
    room, metadata_room = bounds.bytes, bounds.metadata_bytes
    last: Found | None = None
    walk = _Walk(connection, namespace, wanted, _place_from(place), bounds, only)
    at_once = _DOCUMENTS_AT_ONCE if wanted.metadata else bounds.runs + 1
    for group in _groups(walk.found(), at_once):
        documents = _documents(connection, namespace, group) if wanted.metadata else {}
        for found in group:
            matches = not wanted.metadata or _meets(documents.get(found.id), wanted.metadata)
            room -= found.size if matches else 0
            metadata_room -= found.metadata_size if wanted.metadata else 0
            if (matches and (len(page) == bounds.runs or (page and room < 0))) or (last and metadata_room < 0):
                assert last is not None
                return IdPage(page, _PLACE.pack(last.instant, last.id))
            last = found
            if matches:
                page.append(found.id)
    return IdPage(page, walk.next_place())


class _Walk:
    """The runs that an index leads to, look by look, up to the limit of one page."""

    def __init__(
        self,
        connection: Connection,
        namespace: str,
        wanted: RunFilter,
        place: tuple[int, bytes] | None,
        bounds: Bounds,
        only: bytes | None,
    ) -> None:
        self._connection = connection
        self._namespace = namespace
        self._index = _index(namespace, wanted, only)
        self._checks = _checks(wanted, self._index.covers)
        self._checks_metadata = bool(wanted.metadata)
        self._place = place
        self._bounds = bounds
        self._is_over = False

    def next_place(self) -> bytes | None:
        """Where the next page goes on when this one has used up all that was found."""
        return None if self._is_over or self._place is None else _PLACE.pack(*self._place)

    def found(self) -> Iterator[Found]:
        """What is found, newest first."""
        left = self._bounds.scanned
        count = self._bounds.runs + 1
        while not self._is_over and left > 0:
            count = min(count, left)
            left -= count
            candidates = self._index.runs_before(self._place, count).cte("candidates")
            looked_at, place = self._end_of(candidates)
            if looked_at:
                yield from self._matching(candidates)
                self._place = place
            self._is_over = looked_at < count
            if not self._checks and not self._checks_metadata:
                return  # each of them was one: the page is full
            count *= _GROWTH

    def _end_of(self, candidates: sa.CTE) -> tuple[int, tuple[int, bytes] | None]:
        """(how many there are, the last of them)."""
        order = [candidates.c.instant, candidates.c.id] if self._index.instant is not None else [candidates.c.id]
        last = select(candidates.c.instant, candidates.c.id).order_by(*order).limit(1).subquery()
        counted = select(func.count()).select_from(candidates).scalar_subquery()
        row = self._connection.execute(select(counted, last.c.instant, last.c.id)).first()
        return (row[0], (row[1], bytes(row[2]))) if row is not None else (0, None)

    def _matching(self, candidates: sa.CTE) -> Iterator[Found]:
        namespace = self._namespace
        tables = (
            candidates.join(runs, and_(runs.c.namespace == namespace, runs.c.id == candidates.c.id))
            .join(run_inputs, and_(run_inputs.c.namespace == namespace, run_inputs.c.run_id == candidates.c.id))
            .outerjoin(run_results, and_(run_results.c.namespace == namespace, run_results.c.run_id == candidates.c.id))
            .outerjoin(
                run_metadata, and_(run_metadata.c.namespace == namespace, run_metadata.c.run_id == candidates.c.id)
            )
        )
        of_metadata = func.coalesce(func.length(run_metadata.c.live), 0)
        size = (
            func.coalesce(func.length(run_results.c.output), 0)
            + func.coalesce(func.length(run_results.c.error), 0)
            + of_metadata
        )
        query = select(candidates.c.id, candidates.c.instant, size, of_metadata).select_from(tables)
        query = query.where(*self._checks).order_by(candidates.c.instant.desc(), candidates.c.id.desc())
        if not self._checks_metadata:
            query = query.limit(self._bounds.runs + 1)
        for run_id, instant, bytes_, metadata_bytes in self._connection.execute(query):
            yield Found(run_id, instant, bytes_, metadata_bytes)


# --- which index, and what it leaves to be checked --------------------------------------------------------------------
def _index(namespace: str, wanted: RunFilter, only: bytes | None) -> _Index:
    """The narrowest index."""
    if only is not None:
        return _Index(((runs.c.id, (runs.c.namespace == namespace, runs.c.id == only)),), frozenset())
    inputs = run_inputs.c.namespace == namespace
    if wanted.batch is not None:
        mine = (
            batch_items.c.namespace == namespace,
            batch_items.c.batch == wanted.batch,
            batch_items.c.run_id.is_not(None),
        )
        return _Index(((batch_items.c.run_id, mine),), frozenset({"batch"}), repeats=True)
    if wanted.parent is not None:
        mine_ = (inputs, run_inputs.c.parent == wanted.parent)
        return _Index(((run_inputs.c.run_id, mine_),), frozenset({"parent"}))
    if wanted.schedule is not None:
        fired = (inputs, run_inputs.c.schedule == wanted.schedule)
        return _Index(((run_inputs.c.run_id, fired),), frozenset({"schedule"}))
    if wanted.tag is not None:
        tagged = (run_tags.c.namespace == namespace, run_tags.c.tag == wanted.tag)
        return _Index(((run_tags.c.run_id, tagged),), frozenset({"tag"}))
    if wanted.status is not None and wanted.status != COMPLETED:
        return _Index((_status_part(namespace, wanted.status),), frozenset({"status"}))
    if wanted.statuses is not None and COMPLETED not in wanted.statuses:
        parts = tuple(_status_part(namespace, status) for status in wanted.statuses)
        return _Index(parts, frozenset({"statuses"}))
    if wanted.created_after is not None or wanted.created_before is not None:
        return _created_index(namespace, wanted)
    if wanted.ended_after is not None or wanted.ended_before is not None:
        within = [run_results.c.namespace == namespace]
        if wanted.ended_after is not None:
            within.append(run_results.c.ended_at > wanted.ended_after)
        if wanted.ended_before is not None:
            within.append(run_results.c.ended_at < wanted.ended_before)
        covers = frozenset({"ended_after", "ended_before"})
        return _Index(((run_results.c.run_id, tuple(within)),), covers, run_results.c.ended_at)
    if wanted.task is not None:
        return _Index(((run_inputs.c.run_id, (inputs, run_inputs.c.task == wanted.task)),), frozenset({"task"}))
    if wanted.queue is not None:
        foreign = (run_inputs.c.run_id, (inputs, _FOREIGN_QUEUE, run_inputs.c.queue == wanted.queue))
        of_queue = [foreign]
        if wanted.queue.startswith(_OWN_QUEUE):
            # The runs that use a task's own queue are those of the task, as a rule.
            of_task = run_inputs.c.task == wanted.queue.removeprefix(_OWN_QUEUE)
            of_queue.append((run_inputs.c.run_id, (inputs, of_task, run_inputs.c.queue == sa.literal_column("''"))))
        return _Index(tuple(of_queue), frozenset({"queue"}))
    return _Index(((runs.c.id, (runs.c.namespace == namespace,)),), frozenset())


def _status_part(namespace: str, status: int) -> tuple[ColumnElement[Any], tuple[ColumnElement[bool], ...]]:
    """The runs of any status but COMPLETED. The number is written out, so that SQLite recognizes the partial index."""
    number: ColumnElement[Any] = sa.literal_column(str(status))
    if status > COMPLETED:
        return run_results.c.run_id, (run_results.c.namespace == namespace, _FAILED, run_results.c.status == number)
    condition = _OCCUPYING if status in (EXECUTING, CANCELING) else _OPEN
    return runs.c.id, (runs.c.namespace == namespace, condition, runs.c.status == number)


def _created_index(namespace: str, wanted: RunFilter) -> _Index:
    """Ids tell the instant of the trigger nearly; the few that do not have an index of their own."""
    near = [runs.c.namespace == namespace]
    off = [run_inputs.c.namespace == namespace, _OFF_CLOCK]
    if wanted.created_after is not None:
        near.append(runs.c.id >= ids.first_id(wanted.created_after - ids.SLACK_US))
        off.append(run_inputs.c.created_at > wanted.created_after)
    if wanted.created_before is not None:
        near.append(runs.c.id < ids.first_id(wanted.created_before + ids.SLACK_US + 1000))
        off.append(run_inputs.c.created_at < wanted.created_before)
    return _Index(((runs.c.id, tuple(near)), (run_inputs.c.run_id, tuple(off))), frozenset())


def _checks(wanted: RunFilter, covered: frozenset[str]) -> list[ColumnElement[bool]]:
    """What is to be checked of each run that the index leads to."""
    there_is = sa.exists
    checks: dict[str, ColumnElement[bool] | None] = {
        "status": _equal(runs.c.status, wanted.status),
        "statuses": None if wanted.statuses is None else runs.c.status.in_(wanted.statuses),
        "task": _equal(runs.c.task, wanted.task),
        "queue": _equal(runs.c.queue, wanted.queue),
        "version": _equal(runs.c.version, wanted.version),
        "schedule": _equal(run_inputs.c.schedule, wanted.schedule),
        "parent": _equal(run_inputs.c.parent, wanted.parent),
        "tag": None
        if wanted.tag is None
        else there_is().where(
            run_tags.c.namespace == runs.c.namespace, run_tags.c.tag == wanted.tag, run_tags.c.run_id == runs.c.id
        ),
        "created_after": None if wanted.created_after is None else run_inputs.c.created_at > wanted.created_after,
        "created_before": None if wanted.created_before is None else run_inputs.c.created_at < wanted.created_before,
        "made_until": None if wanted.made_until is None else run_inputs.c.created_at <= wanted.made_until,
        "ended_after": None if wanted.ended_after is None else run_results.c.ended_at > wanted.ended_after,
        "ended_before": None if wanted.ended_before is None else run_results.c.ended_at < wanted.ended_before,
    }
    return [check for name, check in checks.items() if check is not None and name not in covered]


def _equal(column: sa.Column[Any], value: Any) -> ColumnElement[bool] | None:
    return None if value is None else column == value


def _place_from(place: bytes | None) -> tuple[int, bytes] | None:
    if place is None or len(place) != _PLACE.size:
        return None
    instant, run_id = _PLACE.unpack(place)
    return instant, run_id


# --- metadata: looked into here, for the two databases have no JSON in common ----------------------------------------
def _groups(found: Iterator[Found], count: int) -> Iterator[list[Found]]:
    """Runs that are looked at together, at most `count`."""
    group: list[Found] = []
    size = 0
    for one in found:
        group.append(one)
        size += one.metadata_size
        if size > _METADATA_AT_ONCE or len(group) == count:
            yield group
            group, size = [], 0
    if group:
        yield group


def _documents(connection: Connection, namespace: str, group: Sequence[Found]) -> dict[bytes, bytes]:
    query = select(run_metadata.c.run_id, run_metadata.c.live).where(
        run_metadata.c.namespace == namespace,
        run_metadata.c.run_id.in_([one.id for one in group if one.metadata_size]),
    )
    return {row[0]: row[1] for row in connection.execute(query)}


_NOWHERE: Final = object()


def _meets(document: bytes | None, wanted: dict[tuple[str, ...], Any]) -> bool:
    """Whether each path leads to its value. A number is no boolean, and a path that leads nowhere is not null."""
    root = json.loads(document) if document else {}
    for path, value in wanted.items():
        at: Any = root
        for name in path:
            at = at.get(name, _NOWHERE) if isinstance(at, dict) else _NOWHERE
        if at is _NOWHERE or at != value or isinstance(at, bool) != isinstance(value, bool):
            return False
    return True
