"""Where the export goes: a SQLite file outside of Holdfast, with a log of who wrote what and when.

The log is the demonstration's witness: it is written by the tasks and knows nothing of Holdfast.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCHEMA = """
CREATE TABLE IF NOT EXISTS rows (
    organization TEXT, page INTEGER, position INTEGER, row TEXT NOT NULL,
    PRIMARY KEY (organization, page, position)
);
CREATE TABLE IF NOT EXISTS writes (
    id INTEGER PRIMARY KEY, organization TEXT, page INTEGER, run TEXT, worker TEXT,
    began_at REAL NOT NULL, written INTEGER NOT NULL DEFAULT 0, ended_at REAL
);
"""


@dataclass(frozen=True, slots=True)
class Write:
    """One time that a page was written, or begun to be written."""

    page: int
    run: str
    worker: str
    began_at: float
    """Seconds since the Unix epoch."""
    written: int
    """Rows written so far."""
    ended_at: float | None
    """None when it was cut off."""


class Destination:
    """The export file. Safe to use from several processes."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def create(self) -> None:
        """Make the file and its tables."""
        with self._open() as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript(SCHEMA)

    def begin_page(self, organization: str, page: int, run: str, worker: str) -> int:
        """Note that a page is about to be written, and return the number of the note."""
        with self._open() as connection:
            cursor = connection.execute(
                "INSERT INTO writes (organization, page, run, worker, began_at) VALUES (?, ?, ?, ?, ?)",
                (organization, page, run, worker, time.time()),
            )
            assert cursor.lastrowid is not None
            return cursor.lastrowid

    def write_rows(self, write: int, organization: str, page: int, first: int, rows: Sequence[Sequence[Any]]) -> None:
        """Write rows of a page, of which `first` is the first one's position. Written again they replace themselves."""
        with self._open() as connection:
            connection.executemany(
                "INSERT OR REPLACE INTO rows VALUES (?, ?, ?, ?)",
                [(organization, page, first + offset, json.dumps(row)) for offset, row in enumerate(rows)],
            )
            connection.execute("UPDATE writes SET written = written + ? WHERE id = ?", (len(rows), write))

    def end_page(self, write: int) -> None:
        """Note that a page is written."""
        with self._open() as connection:
            connection.execute("UPDATE writes SET ended_at = ? WHERE id = ?", (time.time(), write))

    def writes(self, organization: str) -> list[Write]:
        """All notes, in order."""
        with self._open() as connection:
            rows = connection.execute(
                "SELECT page, run, worker, began_at, written, ended_at FROM writes WHERE organization = ? ORDER BY id",
                (organization,),
            )
            return [Write(*row) for row in rows]

    def page(self, organization: str, page: int) -> list[list[Any]]:
        """The rows of a page."""
        with self._open() as connection:
            rows = connection.execute(
                "SELECT row FROM rows WHERE organization = ? AND page = ? ORDER BY position", (organization, page)
            )
            return [json.loads(row[0]) for row in rows]

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self.path, timeout=30)) as connection, connection:
            yield connection
