"""A client process: `python -m benchmarks.client LOAD ARGUMENTS`, the arguments as JSON.

It connects, warms up, writes "ready", waits for a line on standard input, carries the load, and writes what it found
as one line of JSON. Whoever started it reads the servers' books in between: neither imports nor connecting are
measured.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

from benchmarks import loads

WARM_UP_RUNS = 200


async def _main(load: str, arguments: dict[str, Any]) -> None:
    await loads.batches(WARM_UP_RUNS, size=WARM_UP_RUNS // 2, window=2)
    print("ready", flush=True)
    sys.stdin.readline()
    cpu = time.process_time()
    started = time.monotonic()
    found = await loads.LOADS[load](**arguments)
    ended = time.monotonic()
    found |= {"started": started, "ended": ended, "cpu_s": time.process_time() - cpu}
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], json.loads(sys.argv[2])))
