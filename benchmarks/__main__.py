"""`python -m benchmarks`: measures, prints a table and writes a JSON file. See docs/performance.md."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

# PostgreSQL is started as another user when we are root, which forks; gRPC's handlers would run in that child.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")

from rich.console import Console

from benchmarks import ROOT, full_database, memory, promptness, recovery, replicas, report, throughput, variants
from benchmarks.bench import Bench, Options
from benchmarks.databases import Database, Postgres, Sqlite
from harness.postgres import PostgresUnavailableError

SCENARIOS: dict[str, Callable[[Bench], None]] = {
    "batches": throughput.batches,
    "singles": throughput.singles,
    "steps": throughput.steps,
    "latency": promptness.latency,
    "waits": promptness.waits,
    "children": promptness.children,
    "recovery": recovery.recovery,
    "memory": memory.memory,
    "full": full_database.full,
    "replicas": replicas.replicas,
    "variants": variants.variants,
}
DATABASES: dict[str, Callable[[], Database]] = {"postgresql": Postgres, "sqlite": Sqlite}

FAILED = 1
WRONG_USE = 2
TERMINATED = 143
WIDTH = 120
"""Of the table at least, also where the output is no terminal."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0 when everything was measured, 1 when a scenario failed, 2 for wrong use."""
    given = _parse(arguments)
    # Leaves through every `with` block, which ends the processes that were started.
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(TERMINATED))
    options = Options(
        runs=given.runs,
        slots=given.slots,
        processes=given.processes,
        is_quick=given.quick,
        profile=given.profile,
    )
    circumstances = report.circumstances(options)
    progress, console = Console(stderr=True), Console(width=max(WIDTH, Console().width))
    benches: list[Bench] = []
    failed = False
    for name in given.database:
        try:
            database = DATABASES[name]()
        except PostgresUnavailableError as error:
            progress.print(f"{name} skipped: {error}", markup=False)
            failed = True
            continue
        try:
            for scenario in given.only:
                bench = Bench(scenario, database, options, lambda text: progress.print(text, highlight=False))
                benches.append(bench)
                try:
                    SCENARIOS[scenario](bench)
                except Exception as error:  # the other measurements are still worth having
                    traceback.print_exc()
                    bench.note(f"{scenario} FAILED: {type(error).__name__}: {error}")
                    failed = True
        finally:
            database.close()
    report.show(console, benches, circumstances)
    report.write(given.json, benches, circumstances)
    console.print(f"written to {given.json}", highlight=False)
    return FAILED if failed else 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks", description="Measure Holdfast on this machine.")
    parser.add_argument(
        "--only", type=_names(SCENARIOS), default=[*SCENARIOS], metavar="A,B", help=f"some of {', '.join(SCENARIOS)}"
    )
    parser.add_argument(
        "--database", type=_names(DATABASES), default=[*DATABASES], metavar="A,B", help="postgresql, sqlite or both"
    )
    parser.add_argument("--runs", type=_positive, default=3, help="runs of each measurement (3)")
    parser.add_argument("--slots", type=_positive, default=1000, help="slots of the worker (1000)")
    parser.add_argument("--processes", type=_positive, default=1, help="executors of the worker (1)")
    parser.add_argument("--quick", action="store_true", help="a tenth of the size, to see that everything works")
    parser.add_argument("--no-profile", dest="profile", action="store_false", help="leave py-spy away")
    parser.add_argument(
        "--json", type=Path, default=ROOT / ".bench" / "results.json", help="where to write the JSON file"
    )
    given = parser.parse_args(arguments)
    if given.only == ["replicas"] and "postgresql" not in given.database:
        parser.error("replicas share a PostgreSQL: SQLite has one scheduler. Leave --database sqlite away")
    return given


def _names(known: Mapping[str, object]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        names = [name.strip() for name in text.split(",")]
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
        return names

    return parse


def _positive(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of 1 or more")
    return number


if __name__ == "__main__":
    sys.exit(main())
