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
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Final

HEAD_START: Final = 1_000
"""A lane of which no turn is remembered counts as served so many turns ago: it comes before all that are busy, and yet
a stream of new lanes cannot keep an old one from its turn."""
LANES_KNOWN: Final = 5_000
"""Lanes that are listed at once; a scan each second takes turns at the others."""

Place = tuple[str, str, str]
"""Queue, lane (concurrency key) and task: where runs wait."""

Closed = Mapping[str, frozenset[str] | None]
"""Limited queues that had no room: those of their lanes, or None for the queue as a whole."""


_NONE: Final[frozenset[str]] = frozenset()


@dataclass(slots=True)
class Turn:
    """A lane whose turn it is, with those of the wanted tasks that may have runs in it."""

    key: int
    queue: str
    lane: str
    tasks: set[str]


class _Queue:
    """The lanes of one queue. `new` and `served` are in the order of their keys."""

    __slots__ = ("new", "served", "tasks", "waiting")

    def __init__(self) -> None:
        self.waiting: dict[str, set[str]] = {}  # lane → tasks
        self.tasks: dict[str, int] = {}  # task → lanes
        self.new: dict[str, int] = {}  # waiting lanes of which no service is remembered
        self.served: dict[str, int] = {}  # lanes that were served lately, waiting or not

    def turns(self, name: str, tasks: Collection[str], closed: Collection[str]) -> Iterator[tuple[int, Turn]]:
        new = ((key, lane) for lane, key in self.new.items())
        served = ((key, lane) for lane, key in self.served.items() if lane in self.waiting)
        for key, lane in heapq.merge(new, served):
            if lane not in closed:
                mine = self.waiting[lane].intersection(tasks)
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

    def add(self, queue: str, lane: str, task: str) -> None:
        """Runs of the task wait in the lane."""
        found = self._queues.get(queue)
        if found is None:
            found = self._queues[queue] = _Queue()
        tasks = found.waiting.get(lane)
        if tasks is None:
            if self.count >= LANES_KNOWN:
                self.are_all_known = False
                return
            self.count += 1
            tasks = found.waiting[lane] = set()
            if lane not in found.served:
                found.new[lane] = self._services - HEAD_START
        if task not in tasks:
            tasks.add(task)
            found.tasks[task] = found.tasks.get(task, 0) + 1

    def remove(self, queue: str, lane: str, task: str) -> None:
        """No run of the task waits in the lane."""
        found = self._queues.get(queue)
        tasks = found.waiting.get(lane) if found is not None else None
        if found is None or tasks is None or task not in tasks:
            return
        tasks.remove(task)
        found.tasks[task] -= 1
        if not found.tasks[task]:
            del found.tasks[task]
        if not tasks:
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

    def turns(self, tasks: Collection[str], closed: Closed) -> Iterator[Turn]:
        """Lanes in which runs of these tasks may wait, the least recently served first, without the closed ones."""
        queues = []
        for name, found in self._queues.items():
            shut = closed.get(name, _NONE)
            if shut is not None and not found.tasks.keys().isdisjoint(tasks):
                queues.append(found.turns(name, tasks, shut))
        if len(queues) == 1:
            return (turn for _, turn in queues[0])
        return (turn for _, turn in heapq.merge(*queues, key=itemgetter(0)))

    def in_queue(self, queue: str) -> Collection[str]:
        """The lanes of a queue in which runs wait."""
        found = self._queues.get(queue)
        return found.waiting.keys() if found is not None else ()

    def tasks(self, closed: Closed) -> frozenset[str]:
        """Tasks of which runs wait, without those in queues that are closed as a whole."""
        if not self.count:
            return frozenset()
        open_queues = (found for name, found in self._queues.items() if closed.get(name, _NONE) is not None)
        return frozenset(task for found in open_queues for task in found.tasks)

    def replace(self, places: Iterable[Place], *, are_all: bool) -> None:
        """List these lanes and no others. What is remembered of services and arrivals stays."""
        arrivals = {name: found.new for name, found in self._queues.items()}
        for found in self._queues.values():
            found.waiting, found.tasks, found.new = {}, {}, {}
        self.count = 0
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
        self.scanned_to: Place = ("", "", "")
        self.tasks: frozenset[str] = frozenset()
        """Tasks of which runs may wait, as of the last commit; may be read from any thread."""

    def expect(self) -> None:
        """Anything may wait anywhere."""
        self.is_stale = True
        self.has_bodies = True
        self.closed = {}
        self.resumable = set()

    def hear(self, places: Iterable[Place], opened: Iterable[str], *, bodies: bool) -> None:
        """Another replica tells what its commit has left."""
        for place in places:
            self.lanes.add(*place)
        for queue in opened:
            self.open(queue)
        self.has_bodies = self.has_bodies or bodies

    def learn(self, places: list[Place], *, is_cut: bool) -> None:
        """A scan found that runs wait there, and nowhere else unless it was cut."""
        self.lanes.replace(places, are_all=not is_cut and self.scanned_to == ("", "", ""))
        self.scanned_to = places[-1] if is_cut else ("", "", "")
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
        self.tasks = self.lanes.tasks(self.closed)

    def may_wait(self, tasks: Collection[str] | None) -> bool:
        """Whether runs may wait that workers with these tasks could take; None means any worker."""
        if self.is_stale or self.has_bodies:
            return True
        return bool(self.tasks) if tasks is None else not self.tasks.isdisjoint(tasks)
