"""Who may start: what the limits of a queue admit now, and whose turn it is.

Pure: the clock, the row of the queue and what executes in it are arguments. The limits are exact because of how the
engine uses them: it locks the queue's row, reads in a later statement which runs hold a slot, and commits the starts
before it lets go of the lock. There is no second counter that could drift.

EXECUTING and CANCELING hold a slot. WAITING does not, so that a parent and its child on a queue of limit 1 both finish;
a woken run needs a slot again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from holdfast_scheduler import model as m
from holdfast_scheduler.model import NO_LIMITS, QueueLimits, QueueRow

UNLIMITED: Final = 1 << 60
"""Room where there is no limit."""

RATE_GRAIN: Final = 64
"""Starts within one of so many parts of a period come back together, with the last of them."""

Taken = tuple[tuple[int, int], ...]
"""Starts that count against a rate limit: (instant of the last, how many), oldest first."""

T = TypeVar("T")


# --- limits -----------------------------------------------------------------------------------------------------------


class Room:
    """What one queue admits now. `executing` is how many runs of each lane hold a slot."""

    def __init__(self, queue: QueueRow, executing: Mapping[str, int], now: int) -> None:
        limits = queue.limits
        self._limits = limits
        self._now = now
        self._is_paused = queue.paused_at is not None
        self._executing = dict(executing)
        self._slots = limits.total - sum(executing.values()) if limits.total else UNLIMITED
        self.taken = still_taken(queue.taken, limits.period_us, now) if limits.rate else ()
        self._starts = limits.rate - sum(count for _, count in self.taken) if limits.rate else UNLIMITED
        self.has_started = False
        """Whether `taken` has changed."""

    def left(self) -> int:
        """How many starts all lanes together may still have."""
        return 0 if self._is_paused else max(0, min(self._slots, self._starts))

    def lane_left(self, lane: str) -> int:
        """How many starts a lane may still have."""
        limit = self._limits.lane
        of_lane = limit - self._executing.get(lane, 0) if limit else UNLIMITED
        return max(0, min(self.left(), of_lane))

    def has_slot(self, lane: str) -> bool:
        """Whether a run of the lane may hold a slot: what a woken run needs. It is no new start."""
        limit = self._limits.lane
        return not self._is_paused and self._slots > 0 and (not limit or self._executing.get(lane, 0) < limit)

    def take_slot(self, lane: str) -> None:
        """A run of the lane holds a slot from now on."""
        self._executing[lane] = self._executing.get(lane, 0) + 1
        self._slots -= 1

    def take_start(self, lane: str) -> None:
        """A run of the lane starts."""
        self.take_slot(lane)
        if self._limits.rate:
            self._starts -= 1
            self.taken = with_start(self.taken, self._limits.period_us, self._now)
            self.has_started = True

    def is_closed(self) -> bool:
        """Whether no lane may have anything, not even a slot for a woken run."""
        return self._is_paused or self._slots <= 0

    def opens_at(self) -> int | None:
        """The instant at which time alone admits another start."""
        if self._is_paused or self._slots <= 0 or self._starts > 0:
            return None
        return self.taken[0][0] + self._limits.period_us


def still_taken(taken: Taken, period_us: int, now: int) -> Taken:
    """The starts that still count: each comes back a period after it was taken, so that no period of that length, at
    whatever instant it begins, ever has more starts than the limit."""
    return tuple(one for one in taken if one[0] + period_us > now)


def with_start(taken: Taken, period_us: int, now: int) -> Taken:
    """One more start. Starts in the same part of a period are kept as one, with the instant of the last."""
    grain = max(1, period_us // RATE_GRAIN)
    if taken and taken[-1][0] // grain == now // grain:
        last, count = taken[-1]
        return (*taken[:-1], (max(last, now), count + 1))
    return tuple(sorted((*taken, (now, 1))))


def taken_text(taken: Taken) -> str:
    """As stored."""
    return ",".join(f"{instant}:{count}" for instant, count in taken)


def taken_from(text: str) -> Taken:
    """From what is stored."""
    pairs = (one.split(":") for one in text.split(",") if one)
    return tuple((int(instant), int(count)) for instant, count in pairs)


def declared_limits(declarations: Iterable[tuple[str, int, QueueLimits]]) -> QueueLimits:
    """The limits that code declares for a queue, from (version, first announced, limits) of every task that uses it,
    each in its newest version.

    A task that only names the queue declares nothing. Of several versions the newest counts, of several declarations
    in one version the strictest.
    """
    declaring = [one for one in declarations if one[2] != NO_LIMITS]
    if not declaring:
        return NO_LIMITS
    newest = max(declaring, key=lambda one: one[1])[0]
    mine = [limits for version, _, limits in declaring if version == newest]
    rates = [one for one in mine if one.rate]
    rate = min(rates, key=lambda one: one.rate / one.period_us, default=NO_LIMITS)
    return QueueLimits(
        lane=_strictest(one.lane for one in mine),
        total=_strictest(one.total for one in mine),
        rate=rate.rate,
        period_us=rate.period_us,
        depth=_strictest(one.depth for one in mine),
    )


def _strictest(limits: Iterable[int]) -> int:
    return min((limit for limit in limits if limit), default=0)


# --- turns ------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Share:
    """A lane that may be served: at most `most` runs, and `group_most` of all lanes with its `group` (its queue)."""

    most: int
    group: str = ""
    group_most: int = UNLIMITED
    got: int = 0


def share_out(lanes: Sequence[Share], room: int) -> None:
    """Give each lane its part of `room`, one run in turn after the other, in the order of the lanes."""
    groups: dict[str, int] = {}
    hungry = list(lanes)
    while hungry and room > 0:
        # Whole turns at once: no lane gets less than this.
        turns = max(1, min(room // len(hungry), min(lane.most - lane.got for lane in hungry)))
        if any(lane.group_most < UNLIMITED for lane in hungry):
            turns = 1
        left = []
        for lane in hungry:
            if room <= 0:
                return
            of_group = groups.get(lane.group, 0)
            given = min(turns, room, lane.most - lane.got, lane.group_most - of_group)
            if given <= 0:
                continue
            lane.got += given
            room -= given
            groups[lane.group] = of_group + given
            if lane.got < lane.most and groups[lane.group] < lane.group_most:
                left.append(lane)
        hungry = left


def in_turns(lanes: Sequence[Sequence[T]]) -> list[T]:
    """One of each lane, then the second of each, and so on. The lanes come in the order of their turns, and the runs of
    each in their order."""
    longest = max(map(len, lanes), default=0)
    return [lane[turn] for turn in range(longest) for lane in lanes if turn < len(lane)]


# --- reasons ----------------------------------------------------------------------------------------------------------


def why_queued(queue: QueueRow | None, executing: Mapping[str, int], lane: str, now: int, workers: int) -> int:
    """The status reason of a run that waits for its start. `workers` is how many are connected that have its task."""
    room = Room(queue, executing, now) if queue is not None else None
    if queue is not None and queue.paused_at is not None:
        return m.PAUSED
    if not workers:
        return m.NO_WORKER
    if room is not None and not room.has_slot(lane):
        return m.QUEUE_LIMIT
    if room is not None and not room.left():
        return m.RATE_LIMIT
    return m.NO_SLOT
