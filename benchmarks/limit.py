"""The limit: what the database and its driver alone do with the rows of a no-op run.

Per batch of 500, on the tables and indexes that the migrations build: insert executing rows and their inputs, commit;
update the rows and insert results, commit. Every column that the scheduler writes is sent for every row, as arrays to
PostgreSQL (psycopg, binary) and by `executemany` to SQLite. No rules, no answers, no gRPC, one connection, one thread.
Rows are made before the clock starts.
"""

from __future__ import annotations

import os
import sqlite3
import time
from typing import Any

import psycopg
import sqlalchemy as sa

from holdfast_scheduler import ids, schema

BATCH = 500
NAMESPACE = "default"
SESSION = b"s" * 16

_UPDATED = (
    "status", "reason", "attempt", "recoveries", "fence", "last_report", "settled", "session", "due_at", "started_at",
    "since",
)  # fmt: skip
_RUN: dict[str, Any] = {
    "namespace": NAMESPACE, "task": "bench-noop", "version": "v1", "queue": "bench-noop", "lane": "",
    "order_at": 1, "status": 3, "reason": 0, "attempt": 1, "max_attempts": 1, "recoveries": 0, "fence": 1,
    "last_report": 0, "settled": 0, "pushed": 0, "seen": 0, "last_seq": 0, "session": SESSION, "pending": 0,
    "wake_at": None, "timer_at": None, "deadline_at": None, "due_at": None, "started_at": 1, "parent": None,
    "on_parent_end": 0, "awaited": False, "since": 1, "queued_us": None, "waiting_us": None, "delayed_us": None,
    "backing_off_us": None, "pinned": False, "attempt_base": None,
}  # fmt: skip
_INPUT: dict[str, Any] = {
    "namespace": NAMESPACE, "task": "bench-noop", "created_at": 1, "parent": None, "root": None, "batch": None,
    "depth": 0, "payload": b'"x"', "fingerprint": b"f" * 16, "tags": "", "key": None, "options": None, "trace": None,
    "is_replay": False, "queue": "", "off_clock": False, "schedule": None,
}  # fmt: skip
_RESULT: dict[str, Any] = {
    "namespace": NAMESPACE, "output": b'\x0a\x03"x"', "error": None, "ended_at": 2, "worker": "w", "status": 10,
}  # fmt: skip
_ENDED: dict[str, Any] = {
    "namespace": NAMESPACE, "status": 10, "reason": 0, "attempt": 1, "recoveries": 0, "fence": 1, "last_report": 1,
    "settled": 0, "session": None, "due_at": None, "started_at": 1, "since": 2,
}  # fmt: skip
_TYPES = {
    sa.LargeBinary: "bytea", sa.Text: "text", sa.BigInteger: "int8", sa.SmallInteger: "int2", sa.Integer: "int4",
    sa.Boolean: "bool", sa.Float: "float8",
}  # fmt: skip


class _Statement:
    """One bulk statement on a table, in both dialects, and one for a single row of PostgreSQL."""

    def __init__(self, table: sa.Table, key: str, constants: dict[str, Any], updated: tuple[str, ...] = ()) -> None:
        self._constants = constants
        self.names = ("namespace", key, *(name for name in constants if name != "namespace"))
        arrays = ", ".join(f"%b::{_TYPES[type(table.c[name].type)]}[]" for name in self.names)
        listed = ", ".join(self.names)
        if updated:
            assigned = ", ".join(f"{name} = d.{name}" for name in updated)
            self.postgres = (
                f"UPDATE {table.name} t SET {assigned} FROM unnest({arrays}) d({listed})"
                f" WHERE t.namespace = d.namespace AND t.{key} = d.{key}"
            )
            assigned = ", ".join(f"{name} = ?{self.names.index(name) + 1}" for name in updated)
            self.sqlite = f"UPDATE {table.name} SET {assigned} WHERE namespace = ?1 AND {key} = ?2"
            self.one = self.sqlite.replace("?", "$")
        else:
            self.postgres = f"INSERT INTO {table.name} ({listed}) SELECT * FROM unnest({arrays})"
            self.sqlite = f"INSERT INTO {table.name} ({listed}) VALUES ({', '.join('?' * len(self.names))})"
            places = ", ".join(f"${place}" for place, _ in enumerate(self.names, 1))
            self.one = f"INSERT INTO {table.name} ({listed}) VALUES ({places})"

    def rows(self, run_ids: list[bytes]) -> list[tuple[Any, ...]]:
        rest = tuple(self._constants[name] for name in self.names[2:])
        return [(NAMESPACE, run_id, *rest) for run_id in run_ids]


_INSERT_RUNS = _Statement(schema.runs, "id", _RUN)
_INSERT_INPUTS = _Statement(schema.run_inputs, "run_id", _INPUT)
_UPDATE_RUNS = _Statement(schema.runs, "id", _ENDED, _UPDATED)
_INSERT_RESULTS = _Statement(schema.run_results, "run_id", _RESULT)
TRANSACTIONS = ((_INSERT_RUNS, _INSERT_INPUTS), (_UPDATE_RUNS, _INSERT_RESULTS))


RUN_KEY = ("namespace", "id")


def rows_of_a_batch(run_ids: list[bytes]) -> tuple[Any, Any, Any]:
    """(columns, rows) of executing runs to insert, of what their end updates after the key, and of their results."""
    ended = [(NAMESPACE, run_id, *(_ENDED[name] for name in _UPDATED)) for run_id in run_ids]
    return (
        (_INSERT_RUNS.names, _INSERT_RUNS.rows(run_ids)),
        (_UPDATED, ended),
        (_INSERT_RESULTS.names, _INSERT_RESULTS.rows(run_ids)),
    )


def roll_back_a_batch(cursor: psycopg.Cursor[Any], inserted: Any, ended: Any, results: Any) -> None:
    """Write the rows of a batch by psycopg's own cursor, and forget them."""
    run_ids = [row[1] for row in inserted[1]]
    for statement in (_INSERT_RUNS, _UPDATE_RUNS, _INSERT_RESULTS):
        columns = [list(column) for column in zip(*statement.rows(run_ids), strict=True)]
        cursor.execute(statement.postgres.encode(), columns)
    cursor.connection.rollback()


def runs_per_second(url: str, total: int) -> float:
    """The limit on the database that `url` names, which the migrations have made."""
    batches = [sorted(ids.new_id() for _ in range(BATCH)) for _ in range(max(2, total // BATCH))]
    seconds = _sqlite(url, batches) if url.startswith("sqlite") else _postgres(url, batches)
    return len(batches) * BATCH / seconds


def _postgres(url: str, batches: list[list[bytes]]) -> float:
    work = [
        [[(s.postgres.encode(), [list(column) for column in zip(*s.rows(one), strict=True)]) for s in statements]
         for statements in TRANSACTIONS]
        for one in batches
    ]  # fmt: skip
    with psycopg.connect(url, prepare_threshold=1, options="-c jit=off") as connection:
        cursor = connection.cursor(binary=True)
        started = time.perf_counter()
        for batch in work:
            for transaction in batch:
                for text, columns in transaction:
                    cursor.execute(text, columns)
                connection.commit()
        return time.perf_counter() - started


def _sqlite(url: str, batches: list[list[bytes]]) -> float:
    work = [[[(s.sqlite, s.rows(one)) for s in statements] for statements in TRANSACTIONS] for one in batches]
    connection = sqlite3.connect(os.fspath(url.removeprefix("sqlite:///")), isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA cache_size=-65536")
        started = time.perf_counter()
        for batch in work:
            for transaction in batch:
                connection.execute("BEGIN IMMEDIATE")
                for text, rows in transaction:
                    connection.executemany(text, rows)
                connection.commit()
        return time.perf_counter() - started
    finally:
        connection.close()
