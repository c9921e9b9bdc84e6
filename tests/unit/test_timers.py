"""When the scheduler's timers ring, by the database's clock."""

from __future__ import annotations

import asyncio
import time

from holdfast_scheduler.timers import READINGS, DatabaseClock, Timers


def test_the_reading_that_came_soonest_counts() -> None:
    clock = DatabaseClock()
    clock.learn(5_000, 1_000)
    assert clock.offset == 4_000
    clock.learn(7_000, 53_000)  # a slow commit: it was known long after the database had said so
    assert clock.offset == 4_000
    clock.learn(60_000, 55_900)
    assert clock.offset == 4_100


def test_a_clock_that_was_set_back_is_believed_in_time() -> None:
    clock = DatabaseClock()
    clock.learn(5_000_000, 0)
    for at in range(READINGS):
        clock.learn(1_000_000 + at, at)
    assert clock.offset == 1_000_000


async def test_timers_ring_at_their_instant_and_not_before() -> None:
    rung: asyncio.Queue[tuple[float, dict[str, list[bytes]]]] = asyncio.Queue()
    clock = DatabaseClock()
    timers = Timers(lambda due: rung.put_nowait((time.monotonic(), due)), clock)
    read_at = time.monotonic_ns() // 1000
    clock.learn(10_000_000, read_at)
    timers.add("n", [(10_050_000, b"late"), (10_020_000, b"soon"), (10_020_000, b"too")])
    timers.add("n", [(10_030_000, b"late")])  # replaces
    async with asyncio.timeout(10):
        at, due = await rung.get()
        assert sorted(due["n"]) == [b"soon", b"too"]
        assert at >= (read_at + 20_000) / 1e6
        at, due = await rung.get()
        assert due == {"n": [b"late"]}
        assert at >= (read_at + 30_000) / 1e6
    timers.stop()
