"""`runs.subscribe` with real processes: no end is lost by a break, a killed scheduler or a change of replica."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness import runs_tasks as tasks
from harness.processes import Deployment
from harness.waiting import eventually
from holdfast import Client, Run, runs, sync, wait
from holdfast.handles import BatchHandle
from holdfast.tokens import Token

TARGET = str(Path(tasks.__file__))
COUNT = 12


class Watcher:
    """Takes what a subscription brings, in the background."""

    def __init__(self, **target: Any) -> None:
        self.changes = runs.subscribe(**target)
        self.seen: list[Run] = []
        self.task = asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        async for run in self.changes:
            self.seen.append(run)

    @property
    def ended(self) -> dict[str, str]:
        """The final status of each run that was seen to end."""
        return {run.id: run.status for run in self.seen if run.is_final}

    async def until(self, wanted: set[str]) -> None:
        """Wait until all of these were seen to end."""

        async def all_seen() -> bool:
            assert not self.task.done() or not self.task.exception(), self.task.exception()
            return wanted <= self.ended.keys()

        await eventually(all_seen, f"the ends of {len(wanted)} runs are seen")

    async def stop(self) -> str:
        """Break it off; returns the cursor."""
        self.task.cancel()
        await asyncio.wait([self.task])
        return self.changes.cursor


async def waiting_runs() -> tuple[BatchHandle[str], list[Token]]:
    """Runs that each end when their token is completed."""
    tokens = [await wait.create_token(timeout="10m") for _ in range(COUNT)]
    batch = await tasks.until_token.batch_trigger([tasks.until_token.item(one.id, tags=["t"]) for one in tokens])
    return batch, tokens


async def complete(tokens: list[Token]) -> None:
    for token in tokens:
        await wait.complete_token(token, "done")


async def test_no_end_is_lost_by_a_break_or_a_killed_scheduler(
    database_url: str, deploy: Callable[..., Deployment]
) -> None:
    site = deploy(database_url, {})
    scheduler = site.start_scheduler()
    site.start_worker(TARGET, slots=50)
    site.wait_for_workers("until-token")
    async with Client(site.address) as client:
        with client.use():
            batch, tokens = await waiting_runs()
            ids = [run.id for run in batch.runs]
            by_tag, by_batch, by_run = Watcher(tag="t"), Watcher(batch=batch.id), Watcher(run=ids[-1])
            await complete(tokens[:3])
            await by_tag.until(set(ids[:3]))
            await by_batch.until(set(ids[:3]))

            # Broken off; what ends meanwhile is told when it goes on.
            cursor = await by_tag.stop()
            await complete(tokens[3:6])
            for run_id in ids[3:6]:
                await runs_end(run_id)
            again = Watcher(tag="t", cursor=cursor)
            await again.until(set(ids[3:6]))
            cursor_before_the_kill = again.changes.cursor

            # The subscriptions that are open find the next scheduler by themselves.
            scheduler.kill()
            site.start_scheduler(name="scheduler-2")
            site.wait_for_workers("until-token")
            await complete(tokens[6:])
            await again.until(set(ids[6:]))
            await by_batch.until(set(ids))
            await by_run.until({ids[-1]})
            async with asyncio.timeout(30):
                await asyncio.wait([by_batch.task, by_run.task])  # they end with their runs; that of a tag does not
            assert not again.task.done()
            await again.stop()

            late = Watcher(tag="t", cursor=cursor_before_the_kill)
            await late.until(set(ids[6:]))
            await late.stop()

            def blocking() -> list[str]:
                return [run.status for run in sync.runs.subscribe(batch=batch.id)]

            assert await asyncio.to_thread(blocking) == ["COMPLETED"] * COUNT


async def runs_end(run_id: str) -> None:
    async def ended() -> bool:
        return (await runs.retrieve(run_id)).is_final

    await eventually(ended, f"{run_id} ends")


async def test_a_cursor_goes_on_at_another_replica(postgres_url: str, deploy: Callable[..., Deployment]) -> None:
    one, two = deploy(postgres_url, {}), deploy(postgres_url, {})
    first = one.start_scheduler()
    two.start_scheduler()
    two.start_worker(TARGET, slots=50)
    two.wait_for_workers("until-token")
    async with Client(one.address) as client:
        with client.use():
            batch, tokens = await waiting_runs()
            ids = [run.id for run in batch.runs]
            watcher = Watcher(tag="t")
            await complete(tokens[:4])
            await watcher.until(set(ids[:4]))  # their worker is at the other scheduler
            cursor = await watcher.stop()
    first.kill()
    async with Client(two.address) as client:
        with client.use():
            await complete(tokens[4:8])
            resumed = Watcher(tag="t", cursor=cursor)
            await resumed.until(set(ids[4:8]))
            await complete(tokens[8:])
            await resumed.until(set(ids[8:]))
            await resumed.stop()
