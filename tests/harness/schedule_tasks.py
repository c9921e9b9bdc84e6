"""Tasks that schedules trigger. Their own expressions name a distant instant: tests say when they fire."""

from __future__ import annotations

import asyncio
import os

from holdfast import schedules, sync, task
from holdfast.schedules import SchedulePayload

GATE_VARIABLE = "SCHEDULE_TEST_GATE"
NEW_YEAR = "0 0 1 1 *"


@schedules.task(id="report", cron=NEW_YEAR, timezone="Europe/Zurich", misfire="all", overlap="skip", ttl="1h")
async def report(payload: SchedulePayload) -> str:
    return payload.timestamp.isoformat()


@sync.schedules.task(id="sweep", cron=NEW_YEAR)
def sweep() -> str:
    return "swept"


@task(id="tick")
async def tick(payload: SchedulePayload) -> str:
    return payload.external_id or ""


@task(id="hold")
async def hold() -> None:
    """Runs until the gate is opened."""
    while not os.path.exists(os.environ[GATE_VARIABLE]):
        await asyncio.sleep(0.02)
