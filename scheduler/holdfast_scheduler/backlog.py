"""What one replica believes of the runs that wait for a start in one namespace: in which lanes they are, which lane was
served when, and which queues were found full.

It is a hint and never the truth. A lane that is listed and has nothing costs one look; a lane that has runs and is not
listed is found by a scan, which is due after a start, when a worker connects, and each second where other replicas
commit, too. What a lane is owed is decided here, what it gets by the rows that the claim locks.

Lanes are served in turn, the least recently served first. So one tenant's ten thousand runs delay another's single run
by no more than one turn.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Final

from holdfast_scheduler.model import Kind

HEAD_START: Final = 1_000
"""A lane of which no turn is remembered counts as served so many turns ago: it comes before all that are busy, and yet
a stream of new lanes cannot keep an old one from its turn."""
LANES_KNOWN: Final = 5_000
"""Lanes that are listed at once; a scan each second takes turns at the others."""

Place = tuple[str, str, Kind]
"""Queue, lane (concurrency key) and kind: where runs wait."""

FIRST_PLACE: Final[Place] = ("", "", ("", "", False))
"""Before all others."""

Closed = Mapping[str, frozenset[str] | None]
"""Limited queues that had no room: those of their lanes, or None for the queue as a whole."""


_NONE: Final[frozenset[str]] = frozenset()
_NO_KINDS: Final[frozenset[Kind]] = frozenset()


@dataclass(slots=True)
class Turn:
    """A lane whose turn it is, with those of the wanted kinds that may have runs in it."""

    key: int
    queue: str
    lane: str
    kinds: set[Kind]


class _Queue:
    """The lanes of one queue. `new` and `served` are in the order of their keys."""

    __slots__ = ("kinds", "new", "served", "waiting")

    def __init__(self) -> None:
        self.waiting: dict[str, set[Kind]] = {}  # lane → kinds
        self.kinds: dict[Kind, int] = {}  # kind → lanes
        self.new: dict[str, int] = {}  # waiting lanes of which no service is remembered
        self.served: dict[str, int] = {}  # lanes that were served lately, waiting or not

    def turns(self, name: str, wanted: Container[Kind], closed: Collection[str]) -> Iterator[tuple[int, Turn]]:
        new = ((key, lane) for lane, key in self.new.items())
        served = ((key, lane) for lane, key in self.served.items() if lane in self.waiting)
        for key, lane in heapq.merge(new, served):
            if lane not in closed:
                mine = {kind for kind in self.waiting[lane] if kind in wanted}
                if mine:
                    yield key, Turn(key, name, lane, mine)


class Lanes:
    """Lanes in which runs wait, the least recently served first."""

    def __init__(self) -> None:
        self._queues: dict[str, _Queue] = {}
        self._served: dict[tuple[str, str], int] = {}  # of all queues, in the order of the services
        self._services = 0
        self.count = 0
        self.are_all_known = True
        self.bound: dict[Kind, int] = {}
        """Kinds of runs that stay with a version as long as they can, and in how many lanes they wait."""

    def add(self, queue: str, lane: str, kind: Kind) -> None:
        """Runs of the kind wait in the lane."""
        found = self._queues.get(queue)
        if found is None:
            found = self._queues[queue] = _Queue()
        kinds = found.waiting.get(lane)
        if kinds is None:
            if self.count >= LANES_KNOWN:
                self.are_all_known = False
                return
            self.count += 1
            kinds = found.waiting[lane] = set()
            if lane not in found.served:
                found.new[lane] = self._services - HEAD_START
        if kind not in kinds:
            kinds.add(kind)
            found.kinds[kind] = found.kinds.get(kind, 0) + 1
            if is_bound(kind):
                self.bound[kind] = self.bound.get(kind, 0) + 1

    def remove(self, queue: str, lane: str, kind: Kind) -> None:
        """No run of the kind waits in the lane."""
        found = self._queues.get(queue)
        kinds = found.waiting.get(lane) if found is not None else None
        if found is None or kinds is None or kind not in kinds:
            return
        kinds.remove(kind)
        _count_down(found.kinds, kind)
        if is_bound(kind):
            _count_down(self.bound, kind)
        if not kinds:
            del found.waiting[lane]
            found.new.pop(lane, None)
            self.count -= 1
            self._forget_empty(queue, found)

    def serve(self, queue: str, lane: str) -> None:
        """Runs of the lane were started in its turn: now it is the other lanes'."""
        found = self._queues.get(queue)
        if found is None:
            found = self._queues[queue] = _Queue()
        self._services += 1
        self._served.pop((queue, lane), None)
        self._served[queue, lane] = self._services
        found.new.pop(lane, None)
        found.served.pop(lane, None)
        found.served[lane] = self._services
        self._forget_old()

    def _forget_old(self) -> None:
        """Services that give no lane a later turn than a new one has need not be remembered."""
        while self._served:
            place, key = next(iter(self._served.items()))
            if key > self._services - HEAD_START:
                return
            del self._served[place]
            queue, lane = place
            found = self._queues[queue]
            del found.served[lane]
            if lane in found.waiting:
                found.new[lane] = key
            self._forget_empty(queue, found)

    def _forget_empty(self, queue: str, found: _Queue) -> None:
        if not found.waiting and not found.served:
            del self._queues[queue]

    def key(self, queue: str, lane: str) -> int:
        """When the lane was served last, as a number that orders lanes by their turn."""
        found = self._queues.get(queue)
        if found is None:
            return self._services - HEAD_START
        return found.served.get(lane, found.new.get(lane, self._services - HEAD_START))

    def turns(self, wanted: Container[Kind], closed: Closed) -> Iterator[Turn]:
        """Lanes in which runs of these kinds may wait, the least recently served first, without the closed ones."""
        queues = []
        for name, found in self._queues.items():
            shut = closed.get(name, _NONE)
            if shut is not None and any(kind in wanted for kind in found.kinds):
                queues.append(found.turns(name, wanted, shut))
        if len(queues) == 1:
            return (turn for _, turn in queues[0])
        return (turn for _, turn in heapq.merge(*queues, key=itemgetter(0)))

    def in_queue(self, queue: str) -> Collection[str]:
        """The lanes of a queue in which runs wait."""
        found = self._queues.get(queue)
        return found.waiting.keys() if found is not None else ()

    def kinds(self, closed: Closed) -> frozenset[Kind]:
        """Kinds of which runs wait, without those in queues that are closed as a whole."""
        if not self.count:
            return _NO_KINDS
        open_queues = (found for name, found in self._queues.items() if closed.get(name, _NONE) is not None)
        return frozenset(kind for found in open_queues for kind in found.kinds)

    def replace(self, places: Iterable[Place], *, are_all: bool) -> None:
        """List these lanes and no others. What is remembered of services and arrivals stays."""
        arrivals = {name: found.new for name, found in self._queues.items()}
        for found in self._queues.values():
            found.waiting, found.kinds, found.new = {}, {}, {}
        self.count = 0
        self.bound = {}
        for place in places:
            self.add(*place)
        self.are_all_known = are_all
        for name, found in list(self._queues.items()):
            before = arrivals.get(name, {})
            keys = {lane: before.get(lane, key) for lane, key in found.new.items()}
            found.new = dict(sorted(keys.items(), key=itemgetter(1)))
            self._forget_empty(name, found)


class Backlog:
    """The hints of one namespace, for the thread that commits. A commit that fails may have changed them for nothing:
    after it they are not trusted (`expect`)."""

    def __init__(self) -> None:
        self.lanes = Lanes()
        self.closed: dict[str, frozenset[str] | None] = {}
        """What had no room at the last look."""
        self.resumable: set[str] = set()
        """Closed queues that have slots: only their rate is used up, woken runs may go on."""
        self.is_stale = True
        self.has_bodies = True
        """Whether woken bodies may wait for a slot of the worker that holds them."""
        self.has_gated_bodies = False
        """Whether some of them wait for room in a limited queue."""
        self.scanned_to = FIRST_PLACE
        self.kinds: frozenset[Kind] = _NO_KINDS
        """Kinds of which runs may wait, as of the last commit; may be read from any thread."""
        self.stays: dict[Kind, int] = {}
        """Kinds whose version nobody has who is connected here, and which yet stay with it, at least until an instant.
        """

    def expect(self) -> None:
        """Anything may wait anywhere."""
        self.is_stale = True
        self.has_bodies = True
        self.closed = {}
        self.resumable = set()
        self.stays = {}

    def hear(self, places: Iterable[Place], opened: Iterable[str], *, bodies: bool) -> None:
        """Another replica tells what its commit has left."""
        for place in places:
            self.lanes.add(*place)
        for queue in opened:
            self.open(queue)
        self.has_bodies = self.has_bodies or bodies

    def learn(self, places: list[Place], *, is_cut: bool) -> None:
        """A scan found that runs wait there, and nowhere else unless it was cut."""
        self.lanes.replace(places, are_all=not is_cut and self.scanned_to == FIRST_PLACE)
        self.scanned_to = places[-1] if is_cut else FIRST_PLACE
        self.is_stale = False

    def close(self, queue: str, lanes: Collection[str] | None, *, has_slots: bool) -> None:
        """A limited queue has no room in these lanes, or nowhere (None)."""
        self.closed.pop(queue, None)
        self.resumable.discard(queue)
        if lanes is None:
            self.closed[queue] = None
            if has_slots:
                self.resumable.add(queue)
        elif lanes:
            self.closed[queue] = frozenset(lanes)

    def open(self, queue: str, lane: str | None = None) -> None:
        """A limited queue may have room again, in a lane or as a whole."""
        self.has_bodies = self.has_bodies or self.has_gated_bodies
        lanes = self.closed.pop(queue, None)
        self.resumable.discard(queue)
        if lanes is not None and lane is not None and lanes - {lane}:
            self.closed[queue] = lanes - {lane}

    def is_closed(self, queue: str, lane: str, *, is_body: bool = False) -> bool:
        """Whether a limited queue had no room for a run of the lane; `is_body`: for one that goes on."""
        if is_body and queue in self.resumable:
            return False
        lanes = self.closed.get(queue, _NONE)
        return lanes is None or lane in lanes

    def end_commit(self) -> None:
        """Note what other threads may ask."""
        self.kinds = self.lanes.kinds(self.closed)

    def may_wait(self, tasks: Collection[str] | None, version: str) -> bool:
        """Whether runs may wait that a worker with these tasks and this version could take; None means any worker."""
        if self.is_stale or self.has_bodies:
            return True
        if tasks is None:
            return bool(self.kinds)
        for task, wanted, pinned in self.kinds:
            if task in tasks:
                if not wanted or wanted == version:
                    return True
                if not pinned and (task, wanted, pinned) not in self.stays:
                    return True  # nobody has found out yet whether it moves
        return False


def is_bound(kind: Kind) -> bool:
    """Whether runs of this kind stay with their version as long as a worker of that is connected, and no longer."""
    return bool(kind[1]) and not kind[2]


def _count_down(counts: dict[Kind, int], kind: Kind) -> None:
    counts[kind] -= 1
    if not counts[kind]:
        del counts[kind]
