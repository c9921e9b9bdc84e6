"""Which runs may leave their version, and for which one.

A run that has started on a version stays with it while a worker of that version has its task and is connected to any
scheduler, and for `version_patience` after the last one has gone, so that a restart of the same version finds it again.
Then it moves to the newest version that is connected, unless it is pinned. Sessions and versions are rows, so all
schedulers judge alike; they are read only when runs wait whose version nobody has who is connected here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final, Protocol, TypeVar

from holdfast_scheduler import store
from holdfast_scheduler.backlog import Backlog
from holdfast_scheduler.model import Kind, Run
from holdfast_scheduler.unit_of_work import UnitOfWork

LOOK_AGAIN_US: Final = 1_000_000
"""How long a look at the sessions counts that found a worker of the version connected to another scheduler."""

Moves = dict[Kind, str]
"""The version that runs of a kind move to."""


class Capable(Protocol):
    """A connected worker, as far as it matters here."""

    tasks: frozenset[str]
    version: str
    slots: int
    places: int


C = TypeVar("C", bound=Capable)


def strays(unit: UnitOfWork, offers: Sequence[Capable], backlog: Backlog, fresh: Iterable[Run]) -> list[Kind]:
    """Kinds of waiting runs whose version nobody has who is connected here, though somebody here could take them if
    they moved; without those that are known to stay."""
    bound = set(backlog.lanes.bound) if backlog.lanes.bound else set()
    for run in fresh:
        if run.version and not run.pinned:
            bound.add(run.kind)
    if backlog.stays:
        ended = bool(unit.ended_sessions)
        backlog.stays = {} if ended else {kind: until for kind, until in backlog.stays.items() if kind in bound}
    return [kind for kind in bound if backlog.stays.get(kind, 0) <= unit.now and _is_stray(kind, offers)]


def _is_stray(kind: Kind, offers: Sequence[Capable]) -> bool:
    task, version, _ = kind
    mine = [one for one in offers if task in one.tasks]
    if any(one.version == version for one in mine):
        return False
    return any(_has_room(one, task) for one in mine)


def _has_room(one: Capable, task: str) -> bool:
    return one.slots > 0 and one.places > 0 and task in one.tasks


def find_moves(unit: UnitOfWork, kinds: list[Kind], offers: Sequence[Capable], backlog: Backlog) -> Moves:
    """To which version these strays move, if they may."""
    if not kinds:
        return {}
    there = [(version, _tasks(tasks)) for version, tasks in store.connected(unit.tx, unit.namespace)]
    wanted = {version for version, _ in there}.union(version for _, version, _ in kinds)
    known = store.load_versions(unit.tx, unit.namespace, sorted(wanted))
    moves: Moves = {}
    for kind in kinds:
        task, version, _ = kind
        having = [name for name, tasks in there if task in tasks]
        stays_until = _stays_until(unit, version, version in having, known)
        newest = max(having, key=lambda name: known[name][0] if name in known else 0, default=None)
        if stays_until is None and any(_has_room(one, task) and one.version == newest for one in offers):
            assert newest is not None
            moves[kind] = newest
            backlog.stays.pop(kind, None)
        else:
            backlog.stays[kind] = stays_until or unit.now + LOOK_AGAIN_US
    return moves


def _stays_until(
    unit: UnitOfWork, version: str, is_connected: bool, known: dict[str, tuple[int, int | None]]
) -> int | None:
    if is_connected:
        return unit.now + LOOK_AGAIN_US
    left_at = known[version][1] if version in known else None
    until = 0 if left_at is None else left_at + unit.world.version_patience_us
    return until if until > unit.now else None


def newest_first(unit: UnitOfWork, offers: list[C]) -> list[C]:
    """Connected workers, those of the newest version first."""
    if all(one.version == offers[0].version for one in offers):
        return offers
    ages = unit.world.versions
    return sorted(offers, key=lambda one: ages.get((unit.namespace, one.version), 0), reverse=True)


@lru_cache
def _tasks(text: str) -> frozenset[str]:
    return frozenset(json.loads(text))
