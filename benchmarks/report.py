"""The table and the JSON file."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks import ROOT
from benchmarks.bench import Bench, Options


def circumstances(options: Options) -> dict[str, Any]:
    """What the numbers depend on."""
    return {
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load_before": round(os.getloadavg()[0], 2),
        "runs": options.runs,
        "slots": options.slots,
        "executors": options.processes,
        "is_quick": options.is_quick,
    }


def _commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


def show(console: Console, benches: Sequence[Bench], given: dict[str, Any]) -> None:
    """One table per database."""
    by_database: dict[str, list[Bench]] = {}
    for bench in benches:
        by_database.setdefault(bench.database.name, []).append(bench)
    for group in by_database.values():
        table = Table(title=group[0].database.settings, title_justify="left", title_style="bold")
        for column in ("measurement", "unit"):
            table.add_column(column)
        for column in ("median", "min", "max", "aim"):
            table.add_column(column, justify="right")
        table.add_column("")
        for bench in group:
            table.add_section()
            for row in bench.rows.values():
                verdict = ""
                if row.aim is not None:
                    verdict = "[green]met[/]" if row.aim.is_met(row.median) else "[red]missed[/]"
                values = (_number(value) for value in (row.median, min(row.values), max(row.values)))
                table.add_row(row.name, row.unit, *values, str(row.aim or ""), verdict)
        console.print(table)
        for bench in group:
            for note in bench.notes:
                console.print(note, markup=False, highlight=False)
    console.print(", ".join(f"{name} {value}" for name, value in given.items()), highlight=False)
    if given["is_quick"]:
        console.print("[yellow]--quick: these numbers show that the benchmark works, nothing else[/]")


def write(path: Path, benches: Sequence[Bench], given: dict[str, Any]) -> None:
    """Everything that was measured, every run's value included."""
    document = {
        **given,
        "databases": {bench.database.name: bench.database.settings for bench in benches},
        "rows": [row.document() for bench in benches for row in bench.rows.values()],
        "notes": {f"{bench.scenario}, {bench.database.name}": bench.notes for bench in benches if bench.notes},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
