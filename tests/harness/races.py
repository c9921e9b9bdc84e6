"""Races between threads, in tests of a store that several replicas share."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

SECONDS = 2.5
"""How long each race is repeated."""


def race(*works: Callable[[], object]) -> None:
    """Run all at once, each in a thread; raises what the first of them raises."""
    barrier = threading.Barrier(len(works))
    failures: list[BaseException] = []

    def run(work: Callable[[], object]) -> None:
        try:
            barrier.wait()
            work()
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def repeated(once: Callable[[], None], seconds: float = SECONDS) -> int:
    """Repeat for so many seconds, at least five times. Returns how often."""
    deadline = time.monotonic() + seconds
    times = 0
    while times < 5 or time.monotonic() < deadline:
        once()
        times += 1
    print(f"{times} races")
    return times
