"""Measurement 9: one, two and three schedulers on one PostgreSQL."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from benchmarks.bench import Bench
from benchmarks.readings import at_least
from benchmarks.stage import Stage, in_turn
from holdfast.v1.run_pb2 import RUN_STATUS_COMPLETED

MOST = 3
"""Workers and clients are as many in each case, shared out among the schedulers."""
LOAD_RUNS = 2_000
TURNS = 4


def replicas(bench: Bench) -> None:
    """The load of measurement 1 from three clients with three workers; every run must have been executed once."""
    if bench.database.name != "postgresql":
        bench.note("replicas: SQLite has one scheduler")
        return
    total = bench.size(LOAD_RUNS, 500)
    for _ in bench.repeat():
        with contextlib.ExitStack() as stack:
            stages = [stack.enter_context(_stage(bench, count)) for count in range(1, MOST + 1)]
            rates = in_turn(stages, "batches", turns=TURNS, clients=MOST, total=total)
            for stage in stages:
                _check(bench, stage)
        for count, rate in enumerate(rates, 1):
            bench.record(f"{count} scheduler{'s' if count > 1 else ''}", "runs/s", rate)
            if count > 1:
                bench.record(f"{count} schedulers against 1", "", rate / rates[0], at_least(1))


@contextlib.contextmanager
def _stage(bench: Bench, schedulers: int) -> Iterator[Stage]:
    with Stage(bench.database) as stage:
        for _ in range(schedulers):
            stage.start_scheduler()
        for at in range(MOST):
            stage.start_worker(slots=bench.options.slots, address=stage.addresses[at % schedulers])
        stage.wait_for_workers(-(-MOST // schedulers))
        yield stage


def _check(bench: Bench, stage: Stage) -> None:
    """Everything completed in its first attempt, nothing was recovered, and each run has one result."""
    wrong = bench.database.query(
        stage.url,
        "SELECT count(*) FROM runs r LEFT JOIN run_results x ON x.namespace = r.namespace AND x.run_id = r.id"
        f" WHERE r.status <> {RUN_STATUS_COMPLETED} OR r.attempt <> 1 OR r.recoveries <> 0 OR x.output IS NULL",
    )[0][0]
    if wrong:
        raise RuntimeError(f"{wrong} runs did not complete in their first execution")
