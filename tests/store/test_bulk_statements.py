"""Bulk statements, on both databases: however many rows there are, and whatever their columns have in common."""

from __future__ import annotations

from typing import Any

import pytest

from harness.store_driver import Driver
from holdfast_scheduler import schema
from holdfast_scheduler.database import ConflictError

_COLUMNS = ("namespace", "batch", "place", "run_id", "is_cached", "payload_differs", "error")
_KEY = ("namespace", "batch", "place")


def _rows(count: int) -> list[tuple[Any, ...]]:
    """Rows with a column that is NULL throughout, one that is NULL here and there, and truth values of both kinds."""
    return [("n", b"b" * 16, at, None if at % 3 else b"%16d" % at, bool(at % 2), True, None) for at in range(count)]


def _found(db: Driver) -> list[tuple[Any, ...]]:
    with db.transaction() as tx:
        rows = tx.fetch(f"SELECT {', '.join(_COLUMNS)} FROM batch_items ORDER BY place")
    return [(*row[:4], bool(row[4]), bool(row[5]), row[6]) for row in rows]


@pytest.mark.parametrize("count", [0, 1, 31, 32, 33, 64, 95, 1_000])
def test_any_number_of_rows(db: Driver, count: int) -> None:
    rows = _rows(count)
    with db.transaction() as tx:
        tx.insert(schema.batch_items, _COLUMNS, rows)
        tx.commit()
    assert _found(db) == rows
    changed = [(*row[:3], b"r" * 16, not row[4], True, b"e") for row in rows]
    with db.transaction() as tx:
        tx.update(schema.batch_items, _KEY, _COLUMNS[3:], changed)
        tx.commit()
    assert _found(db) == changed
    with db.transaction() as tx:
        tx.delete(schema.batch_items, _KEY, [row[:3] for row in rows[1:]])
        tx.commit()
    assert _found(db) == changed[:1]


@pytest.mark.parametrize("at", [0, 5, 31, 32, 39])
def test_rows_that_exist_are_passed_over_or_refused(db: Driver, at: int) -> None:
    rows = _rows(40)
    there = (*rows[at][:3], b"before" * 2, True, False, b"e")
    with db.transaction() as tx:
        tx.insert(schema.batch_items, _COLUMNS, [there])
        tx.commit()
    with pytest.raises(ConflictError), db.transaction() as tx:
        tx.insert(schema.batch_items, _COLUMNS, rows)
        tx.commit()
    assert _found(db) == [there]
    with db.transaction() as tx:
        tx.insert(schema.batch_items, _COLUMNS, rows, skip=True)
        tx.commit()
    assert _found(db) == [*rows[:at], there, *rows[at + 1 :]]
