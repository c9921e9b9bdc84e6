"""The two databases under measurement, with durability as in production."""

from __future__ import annotations

import itertools
import shutil
import sqlite3
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import psycopg
from psycopg import sql

from benchmarks.machine import cpu_seconds
from harness.postgres import PostgresServer
from holdfast_scheduler.migrations import migrate

Row = tuple[Any, ...]


class Database(Protocol):
    """A database server, or what stands for one."""

    name: str
    settings: str
    """For the head of the report."""

    def create(self) -> str:
        """A new, empty database; returns its URL."""

    def drop(self, url: str) -> None:
        """Remove a database."""

    def query(self, url: str, text: str) -> list[Row]:
        """The rows of a query, beside the scheduler."""

    def fill(self, url: str, table: str, columns: Sequence[str], rows: Iterable[Row]) -> None:
        """Load many rows; no measurement runs meanwhile."""

    def settle(self, url: str) -> None:
        """After `fill`: what the database would have done by itself in time."""

    def cpu_seconds(self) -> float:
        """CPU time of the database's own processes; 0 where it lives inside the scheduler."""

    def close(self) -> None:
        """Stop it and remove its files."""


class Sqlite:
    """Files in a folder. The scheduler opens them with WAL and synchronous=FULL."""

    name = "sqlite"
    settings = f"SQLite {sqlite3.sqlite_version}, WAL, synchronous=FULL"

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="holdfast-bench-"))
        self._numbers = itertools.count(1)

    def create(self) -> str:
        url = f"sqlite:///{self._folder / f'{next(self._numbers)}.sqlite3'}"
        migrate(url)
        return url

    def drop(self, url: str) -> None:
        for path in self._folder.glob(f"{_path(url).name}*"):
            path.unlink()

    def query(self, url: str, text: str) -> list[Row]:
        connection = sqlite3.connect(_path(url), timeout=30)
        try:
            return connection.execute(text).fetchall()
        finally:
            connection.close()

    def fill(self, url: str, table: str, columns: Sequence[str], rows: Iterable[Row]) -> None:
        connection = sqlite3.connect(_path(url))
        try:
            places = ", ".join("?" * len(columns))
            connection.executemany(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({places})", rows)
            connection.commit()
        finally:
            connection.close()

    def settle(self, url: str) -> None:
        self.query(url, "PRAGMA wal_checkpoint(TRUNCATE)")
        self.query(url, "ANALYZE")

    def cpu_seconds(self) -> float:
        return 0.0

    def close(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


class Postgres:
    """A server of our own with fsync and synchronous_commit on."""

    name = "postgresql"

    def __init__(self) -> None:
        # The tests' server with what a small production machine would give it; durability stays as it is.
        self._server = PostgresServer({"shared_buffers": "256MB", "max_wal_size": "2GB", "wal_compression": "on"})
        (version,), *_ = self.query(self._server.url(), "SHOW server_version")
        self.settings = f"PostgreSQL {version}, fsync=on, synchronous_commit=on, shared_buffers=256MB"

    def create(self) -> str:
        url = self._server.create_database()
        migrate(url)
        return url

    def drop(self, url: str) -> None:
        self._server.drop_database(url)

    def query(self, url: str, text: str) -> list[Row]:
        with psycopg.connect(url, autocommit=True) as connection:
            cursor = connection.execute(text.encode())
            return cursor.fetchall() if cursor.description else []

    def fill(self, url: str, table: str, columns: Sequence[str], rows: Iterable[Row]) -> None:
        names = sql.SQL(", ").join(map(sql.Identifier, columns))
        with psycopg.connect(url) as connection, connection.cursor() as cursor:
            with cursor.copy(sql.SQL("COPY {} ({}) FROM STDIN").format(sql.Identifier(table), names)) as copy:
                for row in rows:
                    copy.write_row(row)

    def settle(self, url: str) -> None:
        self.query(url, "VACUUM ANALYZE")
        self.query(url, "CHECKPOINT")

    def cpu_seconds(self) -> float:
        return cpu_seconds(self._server.family(), with_reaped=True)

    def close(self) -> None:
        self._server.close()


def _path(url: str) -> Path:
    return Path(url.removeprefix("sqlite:///"))
