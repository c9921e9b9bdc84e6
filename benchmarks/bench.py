"""What a measurement is given, and where it writes what it found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from benchmarks.databases import Database
from benchmarks.readings import Aim, Row
from benchmarks.stage import Outcome, Stage

QUICK_PART = 10
"""`--quick` measures with a tenth of the runs, to see that everything works."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line chose."""

    runs: int = 3
    slots: int = 1000
    processes: int = 1
    is_quick: bool = False
    profile: bool = True


@dataclass(slots=True)
class Bench:
    """One scenario on one database."""

    scenario: str
    database: Database
    options: Options
    say: Callable[[str], None]
    rows: dict[str, Row] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def repeat(self) -> Iterator[int]:
        """The numbers of the runs, from 1."""
        for number in range(1, self.options.runs + 1):
            self.say(f"{self.scenario} on {self.database.name}: run {number} of {self.options.runs}")
            yield number

    def size(self, full: int, least: int = 1) -> int:
        """How many runs: `full`, or less with --quick."""
        return max(least, full // QUICK_PART) if self.options.is_quick else full

    def record(self, name: str, unit: str, value: float, aim: Aim | None = None) -> None:
        """One run's value. With --quick nothing is aimed at."""
        if self.options.is_quick:
            aim = None
        self.rows.setdefault(name, Row(self.scenario, self.database.name, name, unit, aim)).values.append(value)

    def record_cost(self, of: str, outcome: Outcome) -> None:
        """CPU per run by role, and what the commit loop did."""
        for role, seconds in outcome.cpu_s.items():
            if role == "database" and not seconds:
                continue
            self.record(f"{of}: CPU of {role}", "µs/run", seconds / outcome.runs * 1e6)
        counts = outcome.counts
        self.record(f"{of}: commits", "per 500 runs", counts.commits / outcome.runs * 500)
        self.record(f"{of}: statements", "per 500 runs", counts.statements / outcome.runs * 500)
        self.record(f"{of}: in the database thread", "ms per 500 runs", counts.commit_seconds / outcome.runs * 5e5)
        self.record(f"{of}: statements per commit", "", counts.statements / max(1, counts.commits))

    def note(self, text: str) -> None:
        """Something to print below the table, once."""
        if text not in self.notes:
            self.notes.append(text)

    @contextmanager
    def empty_database(self) -> Iterator[str]:
        """The URL of a database that the migrations have just made; it goes afterwards."""
        url = self.database.create()
        try:
            yield url
        finally:
            self.database.drop(url)

    def stage(self, *, url: str | None = None, workers: int = 1, processes: int | None = None) -> Stage:
        """A scheduler and workers that are ready."""
        stage = Stage(self.database, url)
        try:
            stage.start_scheduler()
            for _ in range(workers):
                stage.start_worker(slots=self.options.slots, processes=processes or self.options.processes)
            stage.wait_for_workers(workers)
        except BaseException as error:
            stage.__exit__(type(error), error, None)
            raise
        return stage
