"""Where invoices come from: any SQLite table with a column that says whose a row is."""

from __future__ import annotations

import math
import random
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel

SAMPLE_INVOICES = 10_000
SAMPLE_ORGANIZATIONS = ("acme", "borealis", "cumulus", "delta", "everest")
SAMPLE_SEED = 4653


class SourceError(Exception):
    """The file, the table or a column is not there; the message says what is."""


class Source(BaseModel):
    """A table of invoices, and how to cut it into pages. It is part of payloads, so it is plain data."""

    database: str
    table: str = "invoices"
    organization_column: str = "organization_id"
    page_size: int = 100

    def check(self) -> None:
        """Raises: SourceError when there is no such file, table or column."""
        with self._open() as connection:
            tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            if self.table not in tables:
                raise SourceError(f"{self.database} has no table {self.table!r}; it has {', '.join(sorted(tables))}")
            columns = self._columns(connection)
            if self.organization_column not in columns:
                raise SourceError(
                    f"table {self.table!r} has no column {self.organization_column!r}; it has {', '.join(columns)}"
                )
        if self.page_size < 1:
            raise SourceError(f"the page size is {self.page_size}; it must be 1 or more")

    def organizations(self) -> list[tuple[str, int]]:
        """Every organization with the number of its invoices, the largest first."""
        column = _quoted(self.organization_column)
        sql = f"SELECT {column}, count(*) FROM {_quoted(self.table)} WHERE {column} IS NOT NULL GROUP BY 1"
        with self._open() as connection:
            return sorted(((str(name), count) for name, count in connection.execute(sql)), key=lambda one: -one[1])

    def count(self, organization_id: str) -> int:
        """How many invoices an organization has."""
        with self._open() as connection:
            row = connection.execute(f"SELECT count(*) {self._from()}", (organization_id,)).fetchone()
        return int(row[0])

    def pages(self, organization_id: str) -> int:
        """How many pages an organization's invoices fill."""
        return math.ceil(self.count(organization_id) / self.page_size)

    def page(self, organization_id: str, page: int) -> list[list[Any]]:
        """The rows of a page, from 1, in the table's own order."""
        with self._open() as connection:
            order = ", ".join(_quoted(name) for name in self._primary_key(connection)) or "rowid"
            sql = f"SELECT * {self._from()} ORDER BY {order} LIMIT ? OFFSET ?"
            offset = (page - 1) * self.page_size
            rows = connection.execute(sql, (organization_id, self.page_size, offset)).fetchall()
        return [[_plain(value) for value in row] for row in rows]

    def amount_position(self) -> int | None:
        """Place of the column to sum up: one called total or amount, else the last that is declared a number."""
        with self._open() as connection:
            found = None
            for position, (name, declared) in enumerate(self._columns(connection).items()):
                if name.lower() in ("total", "amount"):
                    return position
                if any(word in declared.upper() for word in ("NUM", "DEC", "REAL", "FLOA", "DOUB", "MONEY")):
                    found = position
        return found

    def _from(self) -> str:
        return f"FROM {_quoted(self.table)} WHERE {_quoted(self.organization_column)} = ?"

    def _columns(self, connection: sqlite3.Connection) -> dict[str, str]:
        return {row[1]: row[2] for row in connection.execute(f"PRAGMA table_info({_quoted(self.table)})")}

    def _primary_key(self, connection: sqlite3.Connection) -> list[str]:
        rows = connection.execute(f"PRAGMA table_info({_quoted(self.table)})").fetchall()
        return [row[1] for row in sorted(rows, key=lambda row: row[5]) if row[5]]

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        path = Path(self.database)
        if not path.is_file():
            raise SourceError(f"there is no file {self.database}")
        try:
            with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=10)) as connection:
                yield connection
        except sqlite3.DatabaseError as error:
            raise SourceError(f"{self.database}: {error}") from error


def total(rows: Sequence[Sequence[Any]], position: int | None) -> float:
    """The exact sum of a column; the order of the rows does not matter. 0 without a column."""
    if position is None:
        return 0.0
    return math.fsum(row[position] for row in rows if isinstance(row[position], int | float))


def make_sample(path: Path) -> Source:
    """Write 10,000 invoices, the same ones every time, and return the source that reads them."""
    generator = random.Random(SAMPLE_SEED)
    rows = [
        (
            number,
            SAMPLE_ORGANIZATIONS[number % len(SAMPLE_ORGANIZATIONS)],
            f"2026-{generator.randint(1, 12):02}-{generator.randint(1, 28):02}",
            f"customer-{generator.randint(1, 400):03}",
            round(generator.uniform(5, 2_500), 2),
        )
        for number in range(1, SAMPLE_INVOICES + 1)
    ]
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            "CREATE TABLE invoices (id INTEGER PRIMARY KEY, organization_id TEXT NOT NULL, issued_on TEXT NOT NULL,"
            " customer TEXT NOT NULL, amount NUMERIC NOT NULL)"
        )
        connection.executemany("INSERT INTO invoices VALUES (?, ?, ?, ?, ?)", rows)
    return Source(database=str(path))


def _plain(value: Any) -> Any:
    return value.hex() if isinstance(value, bytes) else value


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
