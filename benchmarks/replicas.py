"""Measurement 9: one, two and three schedulers on one PostgreSQL."""

from __future__ import annotations

from benchmarks.bench import Bench
from benchmarks.readings import at_least
from benchmarks.stage import Stage
from holdfast.v1.run_pb2 import RUN_STATUS_COMPLETED

MOST = 3
"""Workers and clients are as many in each case, shared out among the schedulers."""
LOAD_RUNS = 6_000


def replicas(bench: Bench) -> None:
    """The load of measurement 1 from three clients with three workers; every run must have been executed once."""
    if bench.database.name != "postgresql":
        bench.note("replicas: SQLite has one scheduler")
        return
    total = bench.size(LOAD_RUNS)
    for _ in bench.repeat():
        alone = 0.0
        for count in range(1, MOST + 1):
            with Stage(bench.database) as stage:
                for _ in range(count):
                    stage.start_scheduler()
                for at in range(MOST):
                    address = stage.addresses[at % count]
                    stage.start_worker(slots=bench.options.slots // MOST, address=address)
                stage.wait_for_workers(-(-MOST // count))
                outcome = stage.carry("batches", clients=MOST, total=total)
                _check(bench, stage)
            alone = alone or outcome.runs_per_second
            bench.record(f"{count} scheduler{'s' if count > 1 else ''}", "runs/s", outcome.runs_per_second)
            if count > 1:
                bench.record(f"{count} schedulers against 1", "", outcome.runs_per_second / alone, at_least(1))


def _check(bench: Bench, stage: Stage) -> None:
    """Everything completed in its first attempt, nothing was recovered, and each run has one result."""
    wrong = bench.database.query(
        stage.url,
        "SELECT count(*) FROM runs r LEFT JOIN run_results x ON x.namespace = r.namespace AND x.run_id = r.id"
        f" WHERE r.status <> {RUN_STATUS_COMPLETED} OR r.attempt <> 1 OR r.recoveries <> 0 OR x.output IS NULL",
    )[0][0]
    if wrong:
        raise RuntimeError(f"{wrong} runs did not complete in their first execution")
