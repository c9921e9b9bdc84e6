"""A client process that triggers one task many times with few keys, all at once:
`python -m harness.trigger_storm TRIGGERS KEYS SEED`. Prints `ready`, begins at a line of standard input, and prints
as JSON, for each key, how often each run was named and how often as new."""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections import defaultdict

from holdfast import tasks

TASK = "echo"


async def storm(triggers: int, keys: int, seed: int) -> dict[int, dict[str, list[int]]]:
    """For each key: run → [times, times as new]."""
    wanted = [number % keys for number in range(triggers)]
    random.Random(seed).shuffle(wanted)
    handles = await asyncio.gather(*(tasks.trigger(TASK, key, idempotency_key=f"storm {key}") for key in wanted))
    found: dict[int, dict[str, list[int]]] = defaultdict(lambda: defaultdict(lambda: [0, 0]))
    for key, handle in zip(wanted, handles, strict=True):
        found[key][handle.id][0] += 1
        found[key][handle.id][1] += not handle.is_cached
    return found


if __name__ == "__main__":
    print("ready", flush=True)
    sys.stdin.readline()
    print(json.dumps(asyncio.run(storm(*map(int, sys.argv[1:])))), flush=True)
