"""What this worker holds: which executor has the body of which run, and how much room is left. Pure, no I/O."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Phase(enum.Enum):
    """Where a body stands, as far as its slot is concerned."""

    EXECUTING = "executing"
    """It takes a slot."""
    PARKING = "parking"
    """Its Park is not committed yet. It still takes a slot."""
    PARKED = "parked"
    """It waits in its executor without a slot."""
    ENDING = "ending"
    """Its last report is not committed yet. No slot; still held, lest the scheduler hand the run to somebody else."""


@dataclass(slots=True)
class Body:
    """One held run."""

    run_id: bytes
    fence: int
    executor: int | None
    """The executor that has the body; None when the body is gone and only its last report is left."""
    phase: Phase = Phase.EXECUTING
    number: int = 0
    """The highest report number seen under this fence."""
    settled: int = 0
    """The highest `settled_order` that was passed on to the body."""
    mark: int = 0
    """The number of the Park or last report that is not committed yet."""
    park_seen: int = 0
    """`seen_settled` of that Park."""
    handed_back: bool = False
    """Whether the last report was made by the supervisor (Lost, Released), not by the body."""


@dataclass(slots=True)
class Seat:
    """One living executor. A restarted executor is a new one with a new number."""

    number: int
    places: int
    """Free places for new bodies, by its own last count."""
    counted_starts: int = 0
    """Starts that it had received when it counted."""
    sent_starts: int = 0
    """Starts that were sent to it."""
    executing: int = 0
    """Bodies in it that take a slot."""
    is_leaving: bool = False
    """Whether it takes no more bodies and ends soon."""

    @property
    def free_places(self) -> int:
        """Free places, those Starts subtracted that it has not counted yet."""
        return max(0, self.places - (self.sent_starts - self.counted_starts))


_TAKES_SLOT = frozenset({Phase.EXECUTING, Phase.PARKING})


class RunTable:
    """All bodies and executors of the worker."""

    __slots__ = ("bodies", "executing", "seats")

    def __init__(self) -> None:
        self.bodies: dict[bytes, Body] = {}
        self.seats: dict[int, Seat] = {}
        self.executing = 0
        """Bodies that take a slot, over all executors."""

    @property
    def free_places(self) -> int:
        """Free places for new bodies, over all executors."""
        return sum(seat.free_places for seat in self.seats.values())

    def choose_seat(self) -> Seat | None:
        """Where the next new body goes: the executor that executes least, of these the one with most room."""
        best: Seat | None = None
        for seat in self.seats.values():
            if seat.free_places and (
                best is None or (seat.executing, -seat.free_places) < (best.executing, -best.free_places)
            ):
                best = seat
        return best

    def add(self, body: Body) -> None:
        """Hold a body. One that was held of the same run is forgotten."""
        self.remove(body.run_id)
        self.bodies[body.run_id] = body
        if body.phase in _TAKES_SLOT:
            self._count(body, 1)

    def remove(self, run_id: bytes) -> None:
        """Hold the run no longer, if it was held."""
        body = self.bodies.pop(run_id, None)
        if body is not None and body.phase in _TAKES_SLOT:
            self._count(body, -1)

    def move(self, body: Body, phase: Phase) -> None:
        """Change where a held body stands."""
        change = (phase in _TAKES_SLOT) - (body.phase in _TAKES_SLOT)
        body.phase = phase
        if change:
            self._count(body, change)

    def leave_seat(self, body: Body) -> None:
        """The body is gone; its last report is still to be committed."""
        self.move(body, Phase.ENDING)
        body.executor = None

    def close_seat(self, number: int) -> list[Body]:
        """The executor is dead. Returns the bodies that were in it."""
        bodies = [body for body in self.bodies.values() if body.executor == number]
        for body in bodies:
            if body.phase is Phase.ENDING:
                body.executor = None
        self.seats.pop(number, None)
        return bodies

    def _count(self, body: Body, change: int) -> None:
        self.executing += change
        seat = self.seats.get(body.executor) if body.executor is not None else None
        if seat is not None:
            seat.executing += change
