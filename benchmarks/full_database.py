"""Measurement 8: throughput with a full database against an empty one, and what 100,000 runs leave behind."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.bench import Bench
from benchmarks.limit import NAMESPACE
from benchmarks.readings import at_least
from benchmarks.stage import in_turn
from holdfast.v1.run_pb2 import CHECKPOINT_KIND_WAIT, CHECKPOINT_STATUS_PENDING

FINISHED = 1_000_000
WAITING = 100_000
LOAD_RUNS = 5_000
TURNS = 6
MANY_RUNS = 100_000
MONTH_US = 30 * 86_400 * 1_000_000

_RUN: dict[str, Any] = {"namespace": NAMESPACE, "task": "bench-noop", "version": "v1", "queue": "bench-noop"}


def full(bench: Bench) -> None:
    """The load of measurement 1, in turn on an empty database and on one with a million finished runs."""
    total = bench.size(LOAD_RUNS)
    url = bench.database.create()
    try:
        bench.say(f"{bench.scenario} on {bench.database.name}: filling the database")
        _fill(bench, url)
        for _ in bench.repeat():
            with bench.stage() as one, bench.stage(url=url) as other:
                empty, filled = in_turn((one, other), "batches", turns=TURNS, total=total)
            bench.record("empty database", "runs/s", empty)
            bench.record("10⁶ finished and 10⁵ waiting runs", "runs/s", filled)
            bench.record("full against empty", "", filled / empty, at_least(0.9))
    finally:
        bench.database.drop(url)
    if bench.database.name == "postgresql":
        _traces(bench)


def _fill(bench: Bench, url: str) -> None:
    now_ms = time.time_ns() // 1_000_000
    finished, waiting = bench.size(FINISHED), bench.size(WAITING)
    first_ms = now_ms - finished - waiting - 86_400_000
    ended = _RUN | {"order_at": 1, "status": 10, "attempt": 1, "fence": 1, "last_report": 1, "started_at": 1}
    asleep = _RUN | {
        "order_at": 1, "status": 4, "attempt": 1, "fence": 1, "last_report": 1, "last_seq": 1, "pending": 1,
        "timer_at": now_ms * 1000 + MONTH_US, "due_at": now_ms * 1000 + MONTH_US, "started_at": 1,
    }  # fmt: skip
    inputs = {
        "namespace": NAMESPACE, "task": "bench-noop", "created_at": 1, "payload": b'"x"', "fingerprint": b"f" * 16,
    }  # fmt: skip
    result = {"namespace": NAMESPACE, "output": b'\x0a\x03"x"', "ended_at": 2, "worker": "w", "status": 10}
    wait = {
        "namespace": NAMESPACE, "seq": 1, "identity": "main/wait/1", "kind": CHECKPOINT_KIND_WAIT, "name": "for",
        "status": CHECKPOINT_STATUS_PENDING, "fingerprint": b"", "attempt": 1, "due_at": now_ms * 1000 + MONTH_US,
    }  # fmt: skip
    for table, key, constants, first, count in (
        ("runs", "id", ended, 0, finished),
        ("run_inputs", "run_id", inputs, 0, finished + waiting),
        ("run_results", "run_id", result, 0, finished),
        ("runs", "id", asleep, finished, waiting),
        ("checkpoints", "run_id", wait, finished, waiting),
    ):
        bench.database.fill(url, table, (*constants, key), _rows(constants, first_ms + first, count))
    bench.database.settle(url)


def _rows(constants: Mapping[str, Any], first_ms: int, count: int) -> Iterator[tuple[Any, ...]]:
    """One row of each millisecond's run."""
    values = tuple(constants.values())
    for at in range(count):
        yield (*values, _id(first_ms + at))


def _id(millis: int) -> bytes:
    """The UUIDv7 of a millisecond."""
    return ((millis << 80) | (0x7 << 76) | (0x2 << 62)).to_bytes(16, "big")


def _traces(bench: Bench) -> None:
    """Hot updates and dead tuples after 100,000 runs on an empty database; autovacuum works as it does by default."""
    with bench.stage() as stage:
        bench.say(f"{bench.scenario} on {bench.database.name}: {bench.size(MANY_RUNS):,} runs for the dead tuples")
        outcome = stage.carry("batches", total=bench.size(MANY_RUNS))
        # A backend reports what it did when it has been idle for a moment, at the latest when it ends.
        stage.deployment.close()
        rows = bench.database.query(
            stage.url,
            "SELECT relname, n_tup_upd, n_tup_hot_upd, n_dead_tup, autovacuum_count FROM pg_stat_user_tables"
            " WHERE relname = 'runs'",
        )
    _name, updates, hot, dead, vacuums = rows[0]
    bench.record("100,000 runs at a stretch", "runs/s", outcome.runs_per_second)
    bench.record("hot updates of runs", "%", 100 * hot / max(1, updates))
    bench.record("updates of runs, per run", "", updates / outcome.runs)
    bench.record("dead tuples of runs", "", dead)
    bench.record("autovacuums of runs meanwhile", "", vacuums)
