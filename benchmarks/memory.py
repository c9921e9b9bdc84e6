"""Measurement 7: memory at rest, and with 10,000 waiting runs."""

from __future__ import annotations

from benchmarks.bench import Bench
from benchmarks.readings import at_most
from holdfast.v1.run_pb2 import RUN_STATUS_WAITING

WAITING = 10_000


def memory(bench: Bench) -> None:
    """PSS of scheduler, supervisor and executors together."""
    count = bench.size(WAITING, 1000)
    bench.note("memory: an executor that is full of parked bodies leaves them (they are re-entered) and begins anew")
    for _ in bench.repeat():
        with bench.stage() as stage:
            stage.carry("batches", total=2000)  # what a first use allocates is not what waiting costs
            idle = stage.memory()
            stage.carry("leave_waiting", total=count)
            stage.wait_for_status(RUN_STATUS_WAITING, count)
            waiting = stage.memory()
        for role, value in idle.items():
            bench.record(f"idle: {role}", "MiB", value)
        for role, value in waiting.items():
            bench.record(f"above idle with 10,000 waiting runs: {role}", "MiB", value - idle[role])
        above = sum(waiting.values()) - sum(idle.values())
        bench.record("above idle with 10,000 waiting runs", "MiB", above, at_most(60))
