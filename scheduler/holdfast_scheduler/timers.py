"""The clock of one replica: calls back when an instant of the database's clock has come.

A replica times what it committed itself. What another replica timed before it died is found by the look of each second
(`commit_loop`), so a lost timer is at most two seconds late.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections import deque
from collections.abc import Callable
from typing import Final

READINGS: Final = 8
"""Readings of the database's clock that are kept."""


class DatabaseClock:
    """The database's clock, told by the monotonic one."""

    def __init__(self) -> None:
        self._offsets: deque[int] = deque(maxlen=READINGS)
        self.offset = 0
        """Database clock minus monotonic clock, microseconds."""

    def learn(self, now: int, read_at: int) -> None:
        """The database's clock was known to say `now` at `read_at` of the monotonic clock, in microseconds. It had said
        so a moment before: of some readings the one that came soonest is right, and none rings a timer too early."""
        self._offsets.append(now - read_at)
        self.offset = max(self._offsets)

    def now(self) -> int:
        """What the database's clock says, or said a moment ago, in microseconds since the Unix epoch."""
        return time.monotonic_ns() // 1000 + self.offset


class Timers:
    """Instants by run or token. Used on the event loop's thread only."""

    def __init__(self, fire: Callable[[dict[str, list[bytes]]], None], clock: DatabaseClock) -> None:
        self._fire = fire
        self._clock = clock
        self._heap: list[tuple[int, str, bytes]] = []
        self._instants: dict[tuple[str, bytes], int] = {}
        self._handle: asyncio.TimerHandle | None = None
        self._handle_at = 0

    def add(self, namespace: str, timed: list[tuple[int, bytes]]) -> None:
        """Call back at these instants; a later instant for the same id replaces an earlier one."""
        for instant, subject in timed:
            key = (namespace, subject)
            if self._instants.get(key) != instant:
                self._instants[key] = instant
                heapq.heappush(self._heap, (instant, namespace, subject))
        self._arm()

    def _arm(self) -> None:
        if not self._heap:
            return
        first = self._heap[0][0]
        if self._handle is not None:
            if self._handle_at <= first:
                return
            self._handle.cancel()
        delay = max(0.0, (first - self._clock.offset) / 1e6 - time.monotonic())
        self._handle_at = first
        self._handle = asyncio.get_running_loop().call_later(delay, self._ring)

    def _ring(self) -> None:
        self._handle = None
        now = self._clock.now()
        due: dict[str, list[bytes]] = {}
        while self._heap and self._heap[0][0] <= now:
            instant, namespace, subject = heapq.heappop(self._heap)
            if self._instants.get((namespace, subject)) == instant:
                del self._instants[namespace, subject]
                due.setdefault(namespace, []).append(subject)
        self._arm()
        if due:
            self._fire(due)

    def forget(self, namespace: str, subject: bytes) -> None:
        """Drop the timer of a run that has ended."""
        self._instants.pop((namespace, subject), None)

    def stop(self) -> None:
        """Never call back again."""
        if self._handle is not None:
            self._handle.cancel()
        self._heap.clear()
        self._instants.clear()
