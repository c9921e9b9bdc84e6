"""What was measured: values of several runs, their median, and whether an aim is met."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Aim:
    """At least or at most a value."""

    value: float
    at_least: bool = True

    def is_met(self, value: float) -> bool:
        return value >= self.value if self.at_least else value <= self.value

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.value:,g}"


def at_least(value: float) -> Aim:
    return Aim(value)


def at_most(value: float) -> Aim:
    return Aim(value, at_least=False)


@dataclass(slots=True)
class Row:
    """One line of the table: a value of each run."""

    scenario: str
    database: str
    name: str
    unit: str
    aim: Aim | None = None
    values: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def document(self) -> dict[str, Any]:
        """For the JSON file."""
        return {
            "scenario": self.scenario,
            "database": self.database,
            "name": self.name,
            "unit": self.unit,
            "median": self.median,
            "min": min(self.values),
            "max": max(self.values),
            "values": self.values,
            "aim": str(self.aim) if self.aim else None,
            "is_met": self.aim.is_met(self.median) if self.aim else None,
        }


def percentile(values: Sequence[float], percent: float) -> float:
    """The value below which `percent` of 100 lie (nearest rank). Raises: ValueError when there is none."""
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]
