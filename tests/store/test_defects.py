"""Defects of the scheduler's own: whoever waits is told, and nothing goes on as if all was well."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from harness.store_driver import Driver, new
from holdfast_scheduler import model as m
from holdfast_scheduler.errors import ShuttingDownError, StorageUnavailableError
from holdfast_scheduler.settings import Settings


def broken(*_: Any) -> Any:
    raise ZeroDivisionError("of the test")


def test_when_commits_end_nobody_waits_any_longer(db: Driver) -> None:
    async def ends() -> None:
        asked = [db.loop.submit(m.TriggerRuns(db.namespace, [new()])) for _ in range(2)]
        with pytest.raises(ZeroDivisionError):
            await db.loop.run()
        asked.append(db.loop.submit(m.TriggerRuns(db.namespace, [new()])))
        kinds = [type(one.exception()) for one in asked]
        assert kinds == [StorageUnavailableError, StorageUnavailableError, ShuttingDownError]

    db.loop._offers = broken
    asyncio.run(ends())


def test_commits_go_on_when_what_one_brought_cannot_be_told(db: Driver) -> None:
    doubts: list[int] = []
    settings: Settings = db.world.settings

    async def both() -> list[Any]:
        running = asyncio.create_task(db.loop.run())
        await asyncio.sleep(0)
        first = await asyncio.wait_for(db.loop.submit(m.TriggerRuns(db.namespace, [new()])), 10)
        assert not db.loop.tells_of_worker(db.loop.steady_since - settings.lease)  # type: ignore[operator]
        db.loop._after = lambda _: None
        second = await asyncio.wait_for(db.loop.submit(m.TriggerRuns(db.namespace, [new()])), 10)
        await db.loop.stop()
        await running
        return [*first, *second]

    db.worker("t")
    db.loop._after, db.loop._in_doubt = broken, lambda: doubts.append(1)
    assert [type(one) for one in asyncio.run(both())] == [m.Handle, m.Handle]
    assert doubts == [1]  # workers ask for what they have not heard
