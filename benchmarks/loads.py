"""What a client process does while the clock runs. Each load returns numbers by name; times are seconds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks import tasks
from holdfast import RunHandle

Load = Callable[..., Awaitable[dict[str, Any]]]

PAYLOAD = "x"
LONG_WAIT_S = 6 * 3600.0


async def batches(total: int, size: int = 500, window: int = 4) -> dict[str, Any]:
    """`total` no-op runs in batches of `size`, trigger to result, `window` batches under way at once."""
    left = total // size

    async def lane() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            handle = await tasks.noop.batch_trigger([PAYLOAD] * size)
            (await handle.results()).unwrap()

    await asyncio.gather(*(lane() for _ in range(window)))
    return {"runs": total // size * size}


async def singles(total: int, coroutines: int = 100) -> dict[str, Any]:
    """`total` triggers, each awaited by its coroutine; then their results, which were recorded meanwhile."""
    handles: list[RunHandle[str]] = []

    async def one() -> None:
        for _ in range(total // coroutines):
            handles.append(await tasks.noop.trigger(PAYLOAD))

    started = time.monotonic()
    await asyncio.gather(*(one() for _ in range(coroutines)))
    acknowledged = time.monotonic()
    await asyncio.gather(*(handle.result() for handle in handles))
    return {"runs": len(handles), "acknowledged_s": acknowledged - started}


async def round_trips(total: int, coroutines: int = 100) -> dict[str, Any]:
    """`total` runs; each coroutine awaits the result before it triggers again."""

    async def one() -> None:
        for _ in range(total // coroutines):
            await (await tasks.noop.trigger(PAYLOAD)).result()

    await asyncio.gather(*(one() for _ in range(coroutines)))
    return {"runs": total // coroutines * coroutines}


async def steps(total: int, at_once: int = 100, plain: bool = False) -> dict[str, Any]:
    """`total` runs of five steps, `at_once` under way at a time. `plain` steps are `def` functions."""
    left = total
    task = tasks.plain_steps if plain else tasks.steps

    async def lane() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await (await task.trigger(1)).result()

    await asyncio.gather(*(lane() for _ in range(at_once)))
    return {"runs": total, "steps": total * tasks.STEPS}


async def latency(count: int) -> dict[str, Any]:
    """Trigger to result, one run after the other."""
    seconds = []
    for _ in range(count):
        started = time.perf_counter()
        await (await tasks.noop.trigger(PAYLOAD)).result()
        seconds.append(time.perf_counter() - started)
    return {"runs": count, "latencies_s": seconds}


async def waits(count: int, seconds: float) -> dict[str, Any]:
    """`count` runs that wait, triggered together; how late each was continued."""
    handle = await tasks.waiting.batch_trigger([seconds] * count)
    return {"runs": count, "lateness_s": (await handle.results()).unwrap()}


async def children(count: int) -> dict[str, Any]:
    """One parent that waits for a batch of children."""
    done = await (await tasks.parent.trigger(count)).result()
    return {"runs": done + 1}


async def leave_waiting(total: int, size: int = 500) -> dict[str, Any]:
    """Triggers runs that wait for hours; does not wait for them."""
    for _ in range(total // size):
        await tasks.waiting.batch_trigger([LONG_WAIT_S] * size)
    return {"runs": total // size * size}


async def leave_survivor(path: str) -> dict[str, Any]:
    """Triggers one run that stays; does not wait for it."""
    await tasks.survivor.trigger(path)
    return {"runs": 1}


LOADS: dict[str, Load] = {
    load.__name__: load
    for load in (batches, singles, round_trips, steps, latency, waits, children, leave_waiting, leave_survivor)
}
