"""Which of the waiting runs are next: lanes in turn, admission to limited queues, and the claim of rows.

Runs of an unlimited queue that were queued in the commit at hand start without a look at the database when nothing
waits. Else everything goes through the claim: the lanes that are next are known from `Backlog`, their runs are locked
in the order within the lane, and what a limited queue admits is read after its row was locked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from holdfast_scheduler import model as m
from holdfast_scheduler import store
from holdfast_scheduler.admission import Room, Share, in_turns, share_out
from holdfast_scheduler.backlog import LANES_KNOWN, Backlog, Place, Turn
from holdfast_scheduler.model import NO_LIMITS, Kind, QueueRow, Run
from holdfast_scheduler.moving import Capable, Moves
from holdfast_scheduler.unit_of_work import UnitOfWork

ROUNDS: Final = 8
"""Claims of one commit. More than one is needed only where lanes had less than their share; what is left then is for
the next commit."""

LANES_LOOKED_AT: Final = 100
"""Lanes of which the limited queues are looked at, when there is credit for fewer."""

Begin = Callable[[Run], bool]
"""Starts or resumes a run if its worker has room; whether it did."""


class Credit:
    """What workers can take at the moment: runs in all, and of each kind that is asked for."""

    __slots__ = ("_by_kind", "_moves", "_open", "room")

    def __init__(self, offers: Iterable[Capable], moves: Moves) -> None:
        self._open = [one for one in offers if one.slots > 0 and one.places > 0]
        self._moves = moves
        self._by_kind: dict[Kind, int] = {}
        self.room = sum([min(one.slots, one.places) for one in self._open])

    def of(self, kind: Kind) -> int:
        """How many runs of a kind can be taken."""
        found = self._by_kind.get(kind)
        if found is None:
            task, version, _ = kind
            version = self._moves.get(kind, version)
            mine = [one for one in self._open if task in one.tasks and (not version or one.version == version)]
            found = self._by_kind[kind] = sum([min(one.slots, one.places) for one in mine])
        return found

    def __contains__(self, kind: object) -> bool:
        return self.of(kind) > 0  # type: ignore[arg-type]


@dataclass(slots=True, eq=False)
class Claims:
    """The claims of one commit."""

    unit: UnitOfWork
    backlog: Backlog
    gates: frozenset[str]
    rooms: dict[str, Room] = field(default_factory=dict)
    full_lanes: dict[str, set[str]] = field(default_factory=dict)
    passed_over: bool = False  # a limited queue was next whose row is not locked

    def scan(self) -> None:
        """Find out where runs wait, if that is not known."""
        backlog = self.backlog
        if backlog.is_stale:
            queue, lane, kind = backlog.scanned_to
            found = store.claimable_places(self.unit.tx, self.unit.namespace, (queue, lane, *kind), LANES_KNOWN)
            places = [(queue, lane, (task, version, pinned)) for queue, lane, task, version, pinned in found]
            backlog.learn(places, is_cut=len(found) >= LANES_KNOWN)

    def may_claim(self, credit: Credit, fresh: list[Run]) -> bool:
        """Whether anything but the fresh runs of unlimited queues may be next."""
        backlog = self.backlog
        if any(run.queue in self.gates and not backlog.is_closed(run.queue, run.lane) for run in fresh):
            return True
        return next(backlog.lanes.turns(credit, backlog.closed), None) is not None

    def order(self, runs: Iterable[Run]) -> list[Run]:
        """The runs in their turns."""
        lanes: dict[tuple[str, str], list[Run]] = {}
        for run in runs:
            lanes.setdefault((run.queue, run.lane), []).append(run)
        for lane in lanes.values():
            lane.sort(key=order_in_lane)
        if len(lanes) == 1:
            return lane
        key = self.backlog.lanes.key
        # Of lanes that nobody knows yet the one with the oldest run comes first.
        ranked = sorted(lanes.items(), key=lambda item: (key(*item[0]), order_in_lane(item[1][0])))
        return in_turns([lane for _, lane in ranked])

    def take(self, credit: Callable[[], Credit], fresh: list[Run], bodies: list[Run], begin: Begin) -> None:
        """Claim and begin what is next, as long as there is credit. `bodies` are woken runs of limited queues, which
        need a slot of their queue as new ones do."""
        unit, backlog = self.unit, self.backlog
        lanes = backlog.lanes
        for run in fresh:
            lanes.add(run.queue, run.lane, run.kind)
        now = credit()
        turns = islice(lanes.turns(now, backlog.closed), max(now.room, LANES_LOOKED_AT))
        self._open_gates({turn.queue for turn in turns}.union(run.queue for run in bodies))
        for number in range(ROUNDS):
            asked = self._ask(credit())
            unit.flush()  # so that the claim sees what was queued, started or canceled here
            wanted = [(queue, lane, *kind, most) for (queue, lane, kind), most in asked.items()]
            claimed = unit.adopt(store.claim(unit.tx, unit.namespace, wanted))
            places = [(run.queue, run.lane, run.kind) for run in claimed]  # a start may change its version
            begun = self._begin(claimed, bodies, begin)
            bodies = []
            drained = self._drained(asked, zip(places, claimed, strict=True))
            for place in drained:
                lanes.remove(*place)
            if not begun and not drained:
                changed = number > 0 or bool(self.rooms)
                unit.left.again = self.passed_over and changed and credit().room > 0
                break
        else:
            unit.left.again = True
        self._close_gates()
        if not lanes.are_all_known and lanes.count < LANES_KNOWN // 2:
            backlog.is_stale = True

    def _open_gates(self, queues: set[str]) -> None:
        """Lock the limited ones of these queues, and then read what executes in them."""
        unit = self.unit
        names = queues & self.gates
        if not names:
            return
        unit.flush()
        rows = store.lock_queues(unit.tx, unit.namespace, names)
        executing = store.count_occupying(unit.tx, unit.namespace, names)
        for name in names:
            self.rooms[name] = Room(rows.get(name) or QueueRow(name, NO_LIMITS), executing[name], unit.now)

    def _ask(self, credit: Credit) -> dict[Place, int]:
        """How many runs to claim in which place."""
        chosen: list[tuple[Turn, Share]] = []
        for turn in self.backlog.lanes.turns(credit, self.backlog.closed) if credit.room else ():
            room = self.rooms.get(turn.queue)
            most = sum(credit.of(kind) for kind in turn.kinds)
            if room is None and turn.queue not in self.gates:
                chosen.append((turn, Share(most)))
            elif room is not None and room.lane_left(turn.lane):
                chosen.append((turn, Share(min(most, room.lane_left(turn.lane)), turn.queue, room.left())))
            elif room is not None:
                self.full_lanes.setdefault(turn.queue, set()).add(turn.lane)
            else:
                self.passed_over = True
            if len(chosen) == credit.room:
                break
        share_out([share for _, share in chosen], credit.room)
        return {
            (turn.queue, turn.lane, kind): min(share.got, credit.of(kind))
            for turn, share in chosen
            for kind in turn.kinds
            if share.got
        }

    def _begin(self, claimed: list[Run], bodies: list[Run], begin: Begin) -> int:
        """Begin what can be, in turn. Returns how many."""
        begun = 0
        served: dict[tuple[str, str], None] = {}  # in the order of the last service
        for run in self.order([run for run in (*bodies, *claimed) if run.status == m.QUEUED]):
            room = self.rooms.get(run.queue) if self.rooms else None
            if room is not None and not self._admits(room, run):
                continue
            is_body = run.session is not None
            if not begin(run):
                continue
            begun += 1
            lane = (run.queue, run.lane)
            if len(served) > 1:
                served.pop(lane, None)
            served[lane] = None
            if room is not None:
                (room.take_slot if is_body else room.take_start)(run.lane)
        for queue, name in served:
            self.backlog.lanes.serve(queue, name)
        return begun

    def _admits(self, room: Room, run: Run) -> bool:
        fits = room.lane_left(run.lane) > 0 if run.session is None else room.has_slot(run.lane)
        if not fits:
            self.full_lanes.setdefault(run.queue, set()).add(run.lane)
        return fits

    def _drained(self, asked: dict[Place, int], claimed: Iterable[tuple[Place, Run]]) -> list[Place]:
        """Places of which all runs were found, and begun."""
        found: dict[Place, int] = {}
        for place, run in claimed:
            found[place] = found.get(place, 0) + (1 if run.status != m.QUEUED else UNBEGUN)
        return [place for place, most in asked.items() if found.get(place, 0) < most]

    def _close_gates(self) -> None:
        """Remember which queues have no room, and write the starts that count against rate limits."""
        unit, backlog = self.unit, self.backlog
        for name, room in self.rooms.items():
            full = self.full_lanes.get(name, set())
            backlog.close(name, None if not room.left() else full, has_slots=not room.is_closed())
            opens_at = room.opens_at()
            if opens_at is not None:
                unit.timed_queues.append((opens_at, name))
        taken = {name: room.taken for name, room in self.rooms.items() if room.has_started}
        if taken:
            store.write_taken(unit.tx, unit.namespace, taken)


UNBEGUN: Final = 1 << 30
"""Counts for a run that was claimed and not begun: its place is not drained, however many were asked for."""


def order_in_lane(run: Run) -> tuple[int, bytes]:
    """What orders the runs of a lane."""
    return (run.order_at, run.id)
