"""The embedded database takes its time from the wall clock, which people set."""

from __future__ import annotations

import pytest

from holdfast_scheduler import database
from holdfast_scheduler.database import Database

SECOND = 1_000_000


class Clocks:
    """In place of the module `time`."""

    def __init__(self) -> None:
        self.wall, self.moment = 1_800_000_000 * SECOND, 5 * SECOND

    def time_ns(self) -> int:
        return self.wall * 1000

    def monotonic_ns(self) -> int:
        return self.moment * 1000

    def turn(self, seconds: int) -> None:
        self.wall += seconds * SECOND
        self.moment += seconds * SECOND


def test_time_goes_on_when_the_clock_is_set_back(migrated_sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clocks = Clocks()
    monkeypatch.setattr(database, "time", clocks)
    opened = Database.open(migrated_sqlite_url)

    def now() -> int:
        tx = opened.begin()
        tx.rollback()
        return tx.now

    began = now()
    assert began == clocks.wall
    clocks.turn(10)
    assert now() == clocks.wall
    clocks.wall -= 100 * SECOND
    assert now() == began + 10 * SECOND
    seen = []
    for _ in range(25):
        clocks.turn(10)
        seen.append(now())
    assert seen == sorted(set(seen))  # it never stands still
    assert seen[0] == began + 15 * SECOND
    assert seen[-1] == clocks.wall  # and it catches up
    opened.close()
