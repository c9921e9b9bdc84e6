"""The tasks that the benchmark runs."""

from __future__ import annotations

import asyncio
import os
import time
from datetime import timedelta

from holdfast import Retry, step, task, wait

STEPS = 5
ONCE = Retry(max_attempts=1)


@task(id="bench-noop", retry=ONCE)
async def noop(payload: str) -> str:
    return payload


@task(id="bench-steps", retry=ONCE)
async def steps(payload: int) -> int:
    total = 0
    for number in range(STEPS):
        total += await step("add", _add, payload, number)
    return total


@task(id="bench-plain-steps", retry=ONCE)
async def plain_steps(payload: int) -> int:
    """The same with a plain function, which runs in a thread."""
    total = 0
    for number in range(STEPS):
        total += await step("add", _add_plainly, payload, number)
    return total


async def _add(a: int, b: int) -> int:
    return a + b


def _add_plainly(a: int, b: int) -> int:
    return a + b


@task(id="bench-wait", retry=ONCE)
async def waiting(payload: float) -> float:
    """Waits `payload` seconds and returns how many seconds late it was continued."""
    asked = time.monotonic()
    await wait.for_(timedelta(seconds=payload))
    return time.monotonic() - asked - payload


@task(id="bench-parent", retry=ONCE)
async def parent(payload: int) -> int:
    results = await noop.batch_trigger_and_wait(["x"] * payload)
    return len(results.unwrap())


@task(id="bench-survivor", retry=ONCE)
async def survivor(payload: str) -> None:
    """Writes one line "process, supervisor, nanoseconds" to the file `payload` at each entry, and stays."""
    line = f"{os.getpid()} {os.getppid()} {time.monotonic_ns()}\n"
    with open(payload, "a", encoding="ascii") as file:
        file.write(line)
    while not os.path.exists(f"{payload}.done"):
        await asyncio.sleep(0.05)
