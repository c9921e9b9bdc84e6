"""Measurement 6: from SIGKILL to the next line of user code elsewhere."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.readings import at_most
from benchmarks.stage import Stage
from harness.waiting import wait_until

KILLS = 5


def recovery(bench: Bench) -> None:
    """An executor, and a whole worker, of two each."""
    for _ in bench.repeat():
        for _ in range(bench.size(KILLS)):
            seconds = _measure(bench, "executor", workers=1, processes=2)
            bench.record("an executor killed: next line of user code", "s", seconds, at_most(0.3))
        for _ in range(bench.size(KILLS)):
            seconds = _measure(bench, "worker", workers=2, processes=1)
            bench.record("a worker killed: next line of user code", "s", seconds, at_most(0.6))


def _measure(bench: Bench, victim: str, *, workers: int, processes: int) -> float:
    with tempfile.TemporaryDirectory(prefix="holdfast-bench-") as folder:
        path = Path(folder) / "entries"
        with bench.stage(workers=workers, processes=processes) as stage:
            # Both executors of a worker must be there, or the survivor would first have to start.
            wait_until(lambda: len(stage.executors()) == workers * processes, "all executors run")
            stage.carry("leave_survivor", path=str(path))
            wait_until(lambda: len(_entries(path)) == 1, "the run executes")
            executor, supervisor, _ = _entries(path)[0]
            kill = _killing(stage, victim, executor, supervisor)
            killed = time.monotonic_ns()
            kill()
            wait_until(lambda: len(_entries(path)) == 2, "the run executes again")
            again = _entries(path)[1]
            if again[0] == executor:
                raise RuntimeError(f"process {executor} was killed and entered the run again")
            return (again[2] - killed) / 1e9


def _killing(stage: Stage, victim: str, executor: int, supervisor: int) -> Callable[[], None]:
    if victim == "executor":
        return lambda: os.kill(executor, signal.SIGKILL)
    worker = next(worker for worker in stage.workers if worker.pid == supervisor)
    pids = [process.pid for process in worker.family()]

    def kill() -> None:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)

    return kill


def _entries(path: Path) -> list[tuple[int, int, int]]:
    if not path.exists():
        return []
    lines = path.read_text(encoding="ascii").splitlines()
    return [(int(a), int(b), int(c)) for a, b, c in (line.split() for line in lines)]
