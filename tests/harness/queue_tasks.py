"""Tasks on limited queues. Each stretch of execution goes to the ledger with the instants of one clock: that of the
machine, which all its processes share."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import BaseModel

from harness.ledger import Ledger
from holdfast import Context, queue, task, wait

WORKER_VARIABLE = "QUEUE_TEST_WORKER"
LANE_LIMIT, TOTAL_LIMIT = 2, 5
RATE, PERIOD_S = 4, 1.0

exports = queue("exports", LANE_LIMIT, total_concurrency_limit=TOTAL_LIMIT)
single = queue("single", 1)
mails = queue("mails", rate_limit=RATE, rate_period=PERIOD_S)


@contextmanager
def executing(ctx: Context) -> Iterator[None]:
    """A stretch of execution."""

    def note(what: str) -> None:
        lane = ctx.queue.concurrency_key or ""
        instant = f"{time.monotonic_ns()} {os.environ[WORKER_VARIABLE]} {lane}"
        Ledger().append(ctx.run.id, what, os.getpid(), instant)

    note("begin")
    try:
        yield
    finally:
        note("end")


class Work(BaseModel):
    """Durations in seconds; `rest` is a durable wait in the middle, during which the run holds no slot."""

    seconds: float = 0.02
    rest: float = 0.0
    child: bool = False


@task(id="export", queue=exports)
async def export(payload: Work, ctx: Context) -> None:
    with executing(ctx):
        await asyncio.sleep(payload.seconds)
    if payload.rest:
        await wait.for_(seconds=payload.rest)
        with executing(ctx):
            await asyncio.sleep(payload.seconds)
    if payload.child:
        await export.trigger_and_wait(Work(), concurrency_key=ctx.queue.concurrency_key or "")


@task(id="parent", queue=single)
async def parent(payload: int, ctx: Context) -> int:
    with executing(ctx):
        pass
    result = await child.trigger_and_wait(payload)
    return result.unwrap() + 1


@task(id="child", queue=single)
async def child(payload: int, ctx: Context) -> int:
    with executing(ctx):
        return payload * 2


@task(id="mail", queue=mails)
async def mail(payload: int) -> int:
    return payload


@task(id="quick")
async def quick(payload: str, ctx: Context) -> None:
    with executing(ctx):
        await asyncio.sleep(0.002)
