"""Measurements 3 to 5: latency at rest, waits that end together, children of one parent."""

from __future__ import annotations

from benchmarks import bare_way
from benchmarks.bench import Bench
from benchmarks.readings import at_most, percentile

LATENCIES = 300
WAITS = 1000
WAIT_S = 2.0
CHILDREN = 500


def latency(bench: Bench) -> None:
    """Trigger to result, 300 in a row, nothing else running."""
    for _ in bench.repeat():
        with bench.stage() as stage:
            found = stage.carry("latency", count=bench.size(LATENCIES, 100)).found[0]["latencies_s"]
        for percent, aim in ((50, at_most(3)), (95, None), (99, at_most(8))):
            bench.record(f"trigger to result, p{percent}", "ms", percentile(found, percent) * 1e3, aim)
        with bench.empty_database() as url:
            bare = bare_way.latencies(url, bench.size(LATENCIES, 100))
        for percent in (50, 99):
            bench.record(f"the limit: the way alone, p{percent}", "ms", percentile(bare, percent) * 1e3)
        bench.record("p50 against the limit", "times", percentile(found, 50) / percentile(bare, 50))


def waits(bench: Bench) -> None:
    """1,000 runs that wait 2 s, triggered together."""
    for _ in bench.repeat():
        with bench.stage() as stage:
            outcome = stage.carry("waits", count=bench.size(WAITS), seconds=WAIT_S)
        late = outcome.found[0]["lateness_s"]
        bench.record("1,000 waits of 2 s, all done", "s", outcome.seconds, at_most(2.2))
        bench.record("lateness of a wait, p50", "ms", percentile(late, 50) * 1e3)
        bench.record("lateness of a wait, p99", "ms", percentile(late, 99) * 1e3, at_most(50))


def children(bench: Bench) -> None:
    """One parent with 500 children in a batch, trigger of the parent to its result."""
    for _ in bench.repeat():
        with bench.stage() as stage:
            outcome = stage.carry("children", count=bench.size(CHILDREN))
        bench.record("a parent with 500 children", "s", outcome.seconds, at_most(0.2))
