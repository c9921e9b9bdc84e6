"""Connections, transactions and bulk statements, and every difference between SQLite and PostgreSQL.

SQLAlchemy makes the connections and describes the tables; the hot statements are generated once from those tables and
run on the driver's own cursor. A statement is written with `?` for a value. Where the two dialects differ, this file
says why; no other file knows which one it talks to.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Final, cast

import sqlalchemy as sa
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from holdfast_scheduler.errors import DatabaseInUseError, DatabaseUrlError

Row = tuple[Any, ...]
Given = tuple[tuple[str, type[sa.types.TypeEngine[Any]]], ...]
"""Names and types of the values that a query is given for each of several rows."""

WRITER: Final = "holdfast-scheduler"
"""Name, in PostgreSQL, of the connection on which a scheduler writes."""

HORIZON_MARGIN_US: Final = 2_000_000
"""A transaction that has begun may be listed so much later."""

LISTENER: Final = "holdfast-listener"
"""Name, in PostgreSQL, of the connection on which a scheduler hears the others."""

SLOWED: Final = 2
"""How many times slower SQLite's time goes while the wall clock is behind it."""
READERS: Final = 4
"""Connections for reading, per scheduler."""


class ConflictError(Exception):
    """Another transaction stood in the way (deadlock, serialization, unique key): the whole batch is tried again."""


class DataError(Exception):
    """The database refuses a value: one of the batch's commands is at fault."""


class LostError(Exception):
    """The connection is gone. If it broke during a commit (`in_doubt`), the outcome is unknown."""

    in_doubt = False


class Transaction:
    """One read-write transaction; begins when made, ends with `commit` or `rollback`. For one thread."""

    now: int
    """The database's clock when the transaction began, in microseconds since the Unix epoch, UTC."""
    now_read_at: int
    """What the monotonic clock said, in microseconds, when `now` had been read."""
    queue_changes: int = 0
    """Differs from that of the last transaction when another scheduler has changed queues meanwhile."""
    statements: int = 0
    """Statements sent so far, for the benchmark's table."""

    def fetch(self, sql: str, params: Sequence[Any] = ()) -> list[Row]:
        """Run a query with `?` for each parameter and return all rows."""
        raise NotImplementedError

    def fetch_in(
        self, sql: str, values: Sequence[Any], params: Sequence[Any] = (), *, lock: str = "", most: int = 0
    ) -> list[Row]:
        """Run a query that holds `{in}` where a column is compared with `values`, after the parameters `params`.

        `lock` names the column whose order the rows are locked in; SQLite has one writer and needs no lock. Given
        `most`, it may stop once it has so many rows.
        """
        raise NotImplementedError

    def claim_in(self, sql: str, values: Sequence[Any], params: Sequence[Any], limit: int) -> list[Row]:
        """Like `fetch_in` with at most `limit` rows, locked; rows that another one has locked are passed over."""
        raise NotImplementedError

    def claim_each(self, sql: str, given: Given, groups: Sequence[Row], params: Sequence[Any] = ()) -> list[Row]:
        """The rows of a query for each group, locked; rows that another transaction has locked are passed over.

        The query holds `{name}` for each value of a group, after the parameters `params`; `given` names them.
        """
        raise NotImplementedError

    def leap(self, sql: str, given: Given, first: Row, params: Sequence[Any], limit: int) -> list[Row]:
        """Begin with `first`, which is not returned, and repeat a query for the next row after `{name}`..., at most
        `limit` times. So the different values in an index are read without reading all its entries.
        """
        raise NotImplementedError

    def execute(self, sql: str, params: Sequence[Any] = ()) -> int:
        """Run a statement and return how many rows it changed."""
        raise NotImplementedError

    def insert(self, table: sa.Table, columns: tuple[str, ...], rows: Sequence[Row], *, skip: bool = False) -> None:
        """Insert rows in one statement. With `skip`, rows whose key exists are passed over."""
        raise NotImplementedError

    def update(self, table: sa.Table, key: tuple[str, ...], columns: tuple[str, ...], rows: Sequence[Row]) -> None:
        """Update rows by key in one statement; each row holds the key's values, then the columns' values."""
        raise NotImplementedError

    def upsert(self, table: sa.Table, key: tuple[str, ...], columns: tuple[str, ...], rows: Sequence[Row]) -> None:
        """Insert rows, or update those whose key exists; each row holds the key's values, then the columns'."""
        raise NotImplementedError

    def delete(self, table: sa.Table, key: tuple[str, ...], rows: Sequence[Row]) -> None:
        """Delete the rows of which these columns, not necessarily all of the key, have one of these values."""
        raise NotImplementedError

    def commit(self) -> None:
        """Make everything durable."""
        raise NotImplementedError

    def rollback(self) -> None:
        """Forget everything."""
        raise NotImplementedError


class Database:
    """A database: one connection that writes, a few that read."""

    dialect: ClassVar[str]
    is_shared: ClassVar[bool] = False
    """Whether several schedulers may use it at once."""

    def __init__(self, engine: sa.Engine, shown_url: str) -> None:
        self.engine = engine
        self.url = shown_url

    @staticmethod
    def open(url: str) -> Database:
        """Open the database that `url` names: `sqlite:///path` or `postgresql://user:password@host:port/name`.

        Raises: DatabaseUrlError (malformed, other database), DatabaseInUseError (another scheduler has this file).
        """
        try:
            parsed = make_url(url)
        except ArgumentError:
            raise DatabaseUrlError(
                f"{url!r} is not a database URL; write sqlite:///path/to/file.sqlite3 or postgresql://user@host:5432/name"
            ) from None
        kind = parsed.get_backend_name()
        if kind == "sqlite":
            return SqliteDatabase(parsed)
        if kind in ("postgresql", "postgres"):
            return PostgresDatabase(parsed)
        raise DatabaseUrlError(f"{kind!r} is not a database that Holdfast uses; use sqlite:/// or postgresql://")

    def begin(self, *, is_hurried: bool = False) -> Transaction:
        """Begin a transaction on the writing connection; one that is hurried soon gives up waiting for a lock of
        another scheduler, with ConflictError. Raises: LostError."""
        raise NotImplementedError

    @contextlib.contextmanager
    def reader(self) -> Iterator[sa.Connection]:
        """A connection for reading; usable from any thread."""
        with self.engine.connect() as connection:
            yield connection

    def send_notes(self, notes: Iterable[str]) -> None:
        """Send texts to the other schedulers; some may be lost."""

    def listen(self, heard: Callable[[str], None]) -> None:
        """Call `heard`, from another thread, with each text that a scheduler sends, until `close`."""

    def listeners(self) -> int:
        """Schedulers that listen, this one included."""
        return 1

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


def _comma(count: int, one: str = "?") -> str:
    return ", ".join([one] * count)


def commit_horizon(connection: sa.Connection) -> int | None:
    """An instant such that whatever becomes visible to this reader from now on has a later one; None where commits
    become visible in the order of their instants, as with one writer.

    A transaction's instant is that of its begin, and another one may begin later and commit first. All schedulers of a
    database use one role: PostgreSQL shows the transactions of others to nobody else.
    """
    if connection.dialect.name == "sqlite":
        return None
    given = {"name": WRITER, "margin": HORIZON_MARGIN_US}
    return int(connection.execute(sa.text(_HORIZON), given).scalar_one())


def clock_of(connection: sa.Connection) -> int:
    """The database's clock now, as a reader sees it."""
    if connection.dialect.name == "sqlite":
        return time.time_ns() // 1000  # the library has no clock of its own
    return int(connection.execute(sa.text(_CLOCK_NOW)).scalar_one())


# --- SQLite ----------------------------------------------------------------------------------------------------------


class SqliteTransaction(Transaction):
    """`executemany` is the bulk statement here: the library is in-process, a round trip costs nothing."""

    def __init__(self, connection: sqlite3.Connection, now: int) -> None:
        self.now = now
        self.now_read_at = time.monotonic_ns() // 1000
        self._connection = connection
        self._cursor = connection.cursor()
        with _sqlite_errors():
            self._cursor.execute("BEGIN IMMEDIATE")

    def fetch(self, sql: str, params: Sequence[Any] = ()) -> list[Row]:
        self.statements += 1
        with _sqlite_errors():
            return self._cursor.execute(sql, params).fetchall()

    def fetch_in(
        self, sql: str, values: Sequence[Any], params: Sequence[Any] = (), *, lock: str = "", most: int = 0
    ) -> list[Row]:
        if most:
            sql += f" LIMIT {int(most)}"
        # SQLite has no array parameters: the list is written out, padded to a power of two so that few distinct
        # statements exist, in chunks below its limit of 32,766 parameters.
        rows: list[Row] = []
        for at in range(0, len(values), 4096):
            chunk = list(values[at : at + 4096])
            size = 1 << (len(chunk) - 1).bit_length()
            chunk += [chunk[-1]] * (size - len(chunk))
            self.statements += 1
            with _sqlite_errors():
                rows += self._cursor.execute(sql.replace("{in}", f"IN ({_comma(size)})"), (*params, *chunk)).fetchall()
        return rows

    def claim_in(self, sql: str, values: Sequence[Any], params: Sequence[Any], limit: int) -> list[Row]:
        return self.fetch_in(f"{sql} LIMIT {int(limit)}", values, params)

    # SQLite has no LATERAL, and needs none: a statement costs no round trip here.
    def claim_each(self, sql: str, given: Given, groups: Sequence[Row], params: Sequence[Any] = ()) -> list[Row]:
        text = _numbered(sql, given, len(params))
        rows: list[Row] = []
        for group in groups:
            rows += self.fetch(text, (*params, *group))
        return rows

    def leap(self, sql: str, given: Given, first: Row, params: Sequence[Any], limit: int) -> list[Row]:
        text = _numbered(sql, given, len(params))
        rows = [first]
        while len(rows) <= limit and (found := self.fetch(text, (*params, *rows[-1]))):
            rows += found
        return rows[1:]

    def execute(self, sql: str, params: Sequence[Any] = ()) -> int:
        self.statements += 1
        with _sqlite_errors():
            return self._cursor.execute(sql, params).rowcount

    def insert(self, table: sa.Table, columns: tuple[str, ...], rows: Sequence[Row], *, skip: bool = False) -> None:
        verb = "INSERT OR IGNORE" if skip else "INSERT"
        self._many(f"{verb} INTO {table.name} ({', '.join(columns)}) VALUES ({_comma(len(columns))})", rows)

    def update(self, table: sa.Table, key: tuple[str, ...], columns: tuple[str, ...], rows: Sequence[Row]) -> None:
        self._many(*_sqlite_update(table.name, key, columns), rows)

    def upsert(self, table: sa.Table, key: tuple[str, ...], columns: tuple[str, ...], rows: Sequence[Row]) -> None:
        self._many(_upsert(table.name, key, columns, f"VALUES ({_comma(len(key) + len(columns))})"), rows)

    def delete(self, table: sa.Table, key: tuple[str, ...], rows: Sequence[Row]) -> None:
        self._many(f"DELETE FROM {table.name} WHERE {' AND '.join(f'{name} = ?' for name in key)}", rows)

    def _many(self, sql: str, rows: Sequence[Row]) -> None:
        self.statements += 1
        with _sqlite_errors():
            self._cursor.executemany(sql, rows)

    def commit(self) -> None:
        with _sqlite_errors():
            self._connection.commit()

    def rollback(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            self._connection.rollback()


@lru_cache
def _numbered(sql: str, given: Given, before: int) -> str:
    for at, (name, _) in enumerate(given, before + 1):
        sql = sql.replace(f"{{{name}}}", f"?{at}")
    return sql


@lru_cache
def _sqlite_update(table: str, key: tuple[str, ...], columns: tuple[str, ...]) -> tuple[str]:
    # The numbered parameters let each row keep the order "key, columns" that PostgreSQL's arrays have.
    assigned = ", ".join(f"{name} = ?{len(key) + at}" for at, name in enumerate(columns, 1))
    found = " AND ".join(f"{name} = ?{at}" for at, name in enumerate(key, 1))
    return (f"UPDATE {table} SET {assigned} WHERE {found}",)


@lru_cache
def _upsert(table: str, key: tuple[str, ...], columns: tuple[str, ...], source: str) -> str:
    assigned = ", ".join(f"{name} = excluded.{name}" for name in columns)
    what = f"UPDATE SET {assigned}" if columns else "NOTHING"
    return f"INSERT INTO {table} ({', '.join(key + columns)}) {source} ON CONFLICT ({', '.join(key)}) DO {what}"


@contextlib.contextmanager
def _sqlite_errors() -> Iterator[None]:
    try:
        yield
    except sqlite3.IntegrityError as error:
        raise (ConflictError if "UNIQUE" in str(error) else DataError)(str(error)) from error
    except (sqlite3.DataError, sqlite3.InterfaceError, OverflowError, UnicodeEncodeError) as error:
        raise DataError(str(error)) from error
    except sqlite3.Error as error:  # disk full, I/O error, locked by a stranger
        raise LostError(str(error)) from error


class SqliteDatabase(Database):
    """The embedded database: WAL, `synchronous=FULL`, one writer, and a lock file for the scheduler's life."""

    dialect = "sqlite"

    def __init__(self, url: sa.URL) -> None:
        path = url.database or ""
        if path in ("", ":memory:"):
            raise DatabaseUrlError(
                "Holdfast needs a file that survives the process: write sqlite:///path/to/file.sqlite3"
            )
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise DatabaseUrlError(
                f"cannot open {path}: {error.strerror}; name a file in a folder you may write"
            ) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise DatabaseInUseError(
                f"another scheduler uses {path}; stop it, or give this one another file"
                " (several schedulers need PostgreSQL)"
            ) from None
        engine = sa.create_engine(url.set(drivername="sqlite"), pool_size=READERS, connect_args={"timeout": 5})

        @sa.event.listens_for(engine, "connect")
        def _configure(connection: sqlite3.Connection, _record: object) -> None:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA foreign_keys=ON")

        super().__init__(engine, str(url))
        self._writer: sqlite3.Connection | None = None
        self._last_now = 0
        self._last_moment = 0  # of the monotonic clock

    def begin(self, *, is_hurried: bool = False) -> Transaction:
        with _sqlite_errors():
            if self._writer is None:
                self._writer = sqlite3.connect(self.path, check_same_thread=False, isolation_level=None, timeout=5)
                self._writer.execute("PRAGMA journal_mode=WAL")
                self._writer.execute("PRAGMA synchronous=FULL")
                self._writer.execute("PRAGMA cache_size=-65536")
        return SqliteTransaction(self._writer, self._now())

    def _now(self) -> int:
        """The wall clock. It may be set back, and what is stored must neither run backwards nor stand still: then time
        goes on at half its speed until the clock has caught up."""
        moment = time.monotonic_ns() // 1000
        slewed = self._last_now + (moment - self._last_moment) // SLOWED
        self._last_now, self._last_moment = max(slewed, time.time_ns() // 1000), moment
        return self._last_now

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        super().close()
        os.close(self._lock)


# --- PostgreSQL -------------------------------------------------------------------------------------------------------

_ARRAYS: Final = {
    sa.LargeBinary: "bytea",
    sa.Text: "text",
    sa.BigInteger: "int8",
    sa.SmallInteger: "int2",
    sa.Integer: "int4",
    sa.Boolean: "bool",
    sa.Float: "float8",
}


def _array_type(column: sa.Column[Any]) -> str:
    return _ARRAYS[type(column.type)]


_CLOCK_NOW: Final = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::int8"
_HORIZON: Final = (
    "SELECT least((extract(epoch FROM clock_timestamp()) * 1000000)::int8 - :margin,"
    " (SELECT (extract(epoch FROM min(xact_start)) * 1000000)::int8 FROM pg_stat_activity"
    " WHERE datname = current_database() AND application_name = :name AND xact_start IS NOT NULL))"
)
_CLOCK: Final = f"{_CLOCK_NOW}, (SELECT coalesce(sum(number), 0)::int8 FROM queue_changes)"


class PostgresTransaction(Transaction):
    """A bulk statement sends one array per column and unnests them: one statement whatever the number of rows.

    The connection is in pipeline mode: statements are sent without waiting for their results, which only `fetch` and
    its like do. So BEGIN, the clock and the first load are one round trip, and all writes and COMMIT are another; an
    error of a write appears there.
    """

    def __init__(self, database: PostgresDatabase, connection: Any) -> None:
        self._database = database
        self._connection = connection
        self._now = 0
        self._queue_changes = 0
        with database.errors():
            self._leave = contextlib.ExitStack()
            self._pipeline = self._leave.enter_context(connection.pipeline())
            # `clock_timestamp` because a transaction that waited for a lock must not see an instant before what it
            # waited for.
            self._clock = self._send(_CLOCK, ())

    @property
    def now(self) -> int:  # type: ignore[override]
        """The database's clock when the transaction began; read together with the first result that is waited for."""
        self._read_clock()
        return self._now

    @property
    def queue_changes(self) -> int:  # type: ignore[override]
        """Differs from that of the last transaction when somebody has changed queues meanwhile."""
        self._read_clock()
        return self._queue_changes

    def _read_clock(self) -> None:
        if not self._now:
            with self._database.errors():
                self._now, self._queue_changes = self._clock.fetchone()
                self.now_read_at = time.monotonic_ns() // 1000

    def _send(self, sql: str, params: Sequence[Any] | Mapping[str, Any], *, keeps_plan: bool = True) -> Any:
        """Send a statement; its results wait in the cursor that is returned."""
        self.statements += 1
        return self._connection.cursor(binary=True).execute(sql, params, prepare=None if keeps_plan else False)

    def fetch(self, sql: str, params: Sequence[Any] = ()) -> list[Row]:
        with self._database.errors():
            return cast(list[Row], self._send(_percent(sql), params).fetchall())

    def fetch_in(
        self, sql: str, values: Sequence[Any], params: Sequence[Any] = (), *, lock: str = "", most: int = 0
    ) -> list[Row]:
        if not values:
            return []
        text = _percent(sql.replace("{in}", "= ANY(?)"))
        if lock:
            text += f" ORDER BY {lock}{f' LIMIT {int(most)}' if most else ''} FOR UPDATE"
        with self._database.errors():
            return cast(list[Row], self._send(text, (*params, list(values))).fetchall())

    def claim_in(self, sql: str, values: Sequence[Any], params: Sequence[Any], limit: int) -> list[Row]:
        return self.fetch_in(f"{sql} LIMIT {int(limit)} FOR UPDATE SKIP LOCKED", values, params)

    def claim_each(self, sql: str, given: Given, groups: Sequence[Row], params: Sequence[Any] = ()) -> list[Row]:
        if not groups:
            return []
        with self._database.errors():
            arrays = [list(column) for column in zip(*groups, strict=True)]
            return cast(list[Row], self._send(_pg_each(sql, given), (*arrays, *params)).fetchall())

    def leap(self, sql: str, given: Given, first: Row, params: Sequence[Any], limit: int) -> list[Row]:
        return self.fetch(_pg_leap(sql, given), (*first, *params, limit + 1))[1:]

    def execute(self, sql: str, params: Sequence[Any] = ()) -> int:
        with self._database.errors():
            cursor = self._send(_percent(sql), params)
            self._pipeline.sync()  # until then nobody knows how many
            return cast(int, cursor.rowcount)

    def insert(self, table: sa.Table, columns: tuple[str, ...], rows: Sequence[Row], *, skip: bool = False) -> None:
        self._bulk(_pg_insert, table, columns, rows, skip)

    def update(self, table: sa.Table, key: tuple[str, ...], columns: tuple[str, ...], rows: Sequence[Row]) -> None:
        self._bulk(_pg_update, table, key + columns, rows, key)

    def upsert(self, table: sa.Table, key: tuple[str, ...], columns: tuple[str, ...], rows: Sequence[Row]) -> None:
        self._bulk(_pg_upsert, table, key + columns, rows, key)

    def delete(self, table: sa.Table, key: tuple[str, ...], rows: Sequence[Row]) -> None:
        self._bulk(_pg_delete, table, key, rows, None)

    def _bulk(
        self, make: Callable[..., str], table: sa.Table, columns: tuple[str, ...], rows: Sequence[Row], more: Any
    ) -> None:
        """Send a bulk statement. A column that has one value throughout, as most have, is sent as that value: building
        arrays and taking them apart is what bulk statements spend their time on."""
        if not rows:
            return
        values: dict[str, Any] = {}
        single: list[bool] = []
        for name, column in zip(columns, zip(*rows, strict=True), strict=True):
            is_single = column.count(column[0]) == len(column)
            single.append(is_single)
            values[name] = column[0] if is_single else list(column)
        if len(rows) > 1 and all(single):  # one array has to say how many rows there are
            single[0] = False
            values[columns[0]] = [values[columns[0]]] * len(rows)
        with self._database.errors():
            # A plan of a join that is kept was made when the table was small, and may then read all of it in every
            # commit, until its statistics are gathered. One that is made anew knows how many rows the arrays have.
            keeps_plan = make not in _JOINS or len(rows) == 1
            self._send(make(table, tuple(single), columns, more), values, keeps_plan=keeps_plan)

    def commit(self) -> None:
        with self._database.errors():
            self._connection.commit()
            self._leave.close()

    def rollback(self) -> None:
        with contextlib.suppress(Exception):  # the statement that failed ended the pipeline with its own error
            self._leave.close()
        self._database.rollback()


@lru_cache
def _percent(sql: str) -> str:
    return re.sub(r"\?", "%b", sql.replace("%", "%%"))


def _of_given(sql: str, given: Given) -> str:
    for name, _ in given:
        sql = sql.replace(f"{{{name}}}", f"given.{name}")
    return sql


@lru_cache
def _pg_each(sql: str, given: Given) -> str:
    arrays = ", ".join(f"?::{_ARRAYS[kind]}[]" for _, kind in given)
    names = ", ".join(name for name, _ in given)
    lateral = f"CROSS JOIN LATERAL ({_of_given(sql, given)} FOR UPDATE SKIP LOCKED) AS found"
    return _percent(f"SELECT found.* FROM unnest({arrays}) AS given({names}) {lateral}")


@lru_cache
def _pg_leap(sql: str, given: Given) -> str:
    names = ", ".join(name for name, _ in given)
    first = ", ".join(f"?::{_ARRAYS[kind]}" for _, kind in given)
    step = f"SELECT found.* FROM given CROSS JOIN LATERAL ({_of_given(sql, given)}) AS found"
    return f"WITH RECURSIVE given({names}) AS (SELECT {first} UNION ALL {step}) SELECT * FROM given LIMIT ?"


def _pg_source(table: sa.Table, single: tuple[bool, ...], columns: tuple[str, ...]) -> tuple[dict[str, str], str]:
    """(an expression per column, a FROM clause) for rows in which some columns have a single value throughout."""
    kinds = {name: _array_type(table.c[name]) for name in columns}
    many = [name for name, one in zip(columns, single, strict=True) if not one]
    values = {name: f"d.{name}" if name in many else f"%({name})b::{kind}" for name, kind in kinds.items()}
    arrays = ", ".join(f"%({name})b::{kinds[name]}[]" for name in many)
    return values, f" FROM unnest({arrays}) AS d({', '.join(many)})" if many else ""


@lru_cache
def _pg_insert(table: sa.Table, single: tuple[bool, ...], columns: tuple[str, ...], skip: bool) -> str:
    values, source = _pg_source(table, single, columns)
    tail = " ON CONFLICT DO NOTHING" if skip else ""
    return f"INSERT INTO {table.name} ({', '.join(columns)}) SELECT {', '.join(values.values())}{source}{tail}"


@lru_cache
def _pg_update(table: sa.Table, single: tuple[bool, ...], columns: tuple[str, ...], key: tuple[str, ...]) -> str:
    values, source = _pg_source(table, single, columns)
    assigned = ", ".join(f"{name} = {values[name]}" for name in columns if name not in key)
    found = " AND ".join(f"t.{name} = {values[name]}" for name in key)
    return f"UPDATE {table.name} AS t SET {assigned}{source} WHERE {found}"


@lru_cache
def _pg_delete(table: sa.Table, single: tuple[bool, ...], columns: tuple[str, ...], _more: None) -> str:
    values, source = _pg_source(table, single, columns)
    found = " AND ".join(f"t.{name} = {value}" for name, value in values.items())
    return f"DELETE FROM {table.name} AS t{source.replace(' FROM', ' USING', 1)} WHERE {found}"


_JOINS: Final = (_pg_update, _pg_delete)


@lru_cache
def _pg_upsert(table: sa.Table, single: tuple[bool, ...], columns: tuple[str, ...], key: tuple[str, ...]) -> str:
    values, source = _pg_source(table, single, columns)
    # "WHERE true" keeps the parser from taking ON for a join condition.
    select = f"SELECT {', '.join(values.values())}{source} WHERE true"
    return _upsert(table.name, key, tuple(name for name in columns if name not in key), select)


PATIENT_LOCK: Final = "10s"
HURRIED_LOCK: Final = "250ms"
"""How long a statement waits for a lock, and how long while the process answers nobody meanwhile."""


class PostgresDatabase(Database):
    """The database for production and for several schedulers. READ COMMITTED; see the lock order in `store`."""

    dialect = "postgresql"
    is_shared = True

    def __init__(self, url: sa.URL) -> None:
        try:
            import psycopg
        except ImportError:
            raise DatabaseUrlError("PostgreSQL needs the driver: pip install 'holdfast[postgres]'") from None
        self._psycopg = psycopg
        self._url = url.set(drivername="postgresql+psycopg")
        self._dsn = url.set(drivername="postgresql").render_as_string(hide_password=False)
        super().__init__(sa.create_engine(self._url, pool_size=READERS, max_overflow=4, pool_pre_ping=True), str(url))
        self._writer: Any = None
        self._notifier: Any = None
        self._is_closed = threading.Event()
        self._listener: threading.Thread | None = None
        self._is_hurried = False

    def begin(self, *, is_hurried: bool = False) -> Transaction:
        with self.errors():
            if self._writer is None or self._writer.closed or self._writer.broken:
                self._writer = self.connect()
                self._is_hurried = False
            if self._is_hurried != is_hurried:
                self._writer.execute(f"SET lock_timeout = '{HURRIED_LOCK if is_hurried else PATIENT_LOCK}'")
                self._writer.commit()
                self._is_hurried = is_hurried
        return PostgresTransaction(self, self._writer)

    def connect(self, *, autocommit: bool = False, name: str = WRITER) -> Any:
        """A connection of the driver's own, with the settings that writing needs."""
        return self._psycopg.connect(
            self._dsn,
            autocommit=autocommit,
            connect_timeout=5,
            # A server that vanished without a word is noticed in seconds, not after the system's quarter of an hour.
            keepalives_idle=5,
            keepalives_interval=2,
            keepalives_count=3,
            tcp_user_timeout=10_000,
            application_name=name,
            options=f"-c jit=off -c lock_timeout={PATIENT_LOCK} -c idle_in_transaction_session_timeout=30s",
            prepare_threshold=1,
        )

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Translate the driver's errors into what the commit loop does about them."""
        errors = self._psycopg.errors
        try:
            yield
        except (
            errors.UniqueViolation,
            errors.DeadlockDetected,
            errors.SerializationFailure,
            errors.LockNotAvailable,
        ) as error:
            raise ConflictError(str(error)) from error
        except (errors.DataError, errors.IntegrityError, errors.ProgrammingError) as error:
            raise DataError(str(error)) from error
        except (errors.Error, OSError) as error:
            self.drop_writer()
            raise LostError(str(error)) from error

    def rollback(self) -> None:
        """Forget the writer's transaction; a connection that cannot do that is closed."""
        if self._writer is not None:
            try:
                self._writer.rollback()
            except self._psycopg.Error:
                self.drop_writer()

    def drop_writer(self) -> None:
        """Close the writing connection; the next transaction makes a new one."""
        writer, self._writer = self._writer, None
        if writer is not None:
            with contextlib.suppress(Exception):
                writer.close()

    def send_notes(self, notes: Iterable[str]) -> None:
        """NOTIFY, on another connection and after the commit: inside the transaction it would serialise the commits of
        all schedulers."""
        try:
            if self._notifier is None or self._notifier.closed:
                self._notifier = self.connect(autocommit=True)
            for note in notes:
                self._notifier.execute("SELECT pg_notify('holdfast', %s)", (note,))
        except self._psycopg.Error:
            self._notifier = None

    def listen(self, heard: Callable[[str], None]) -> None:
        self._listener = threading.Thread(target=self._listen, args=(heard,), name="holdfast-listen", daemon=True)
        self._listener.start()

    def _listen(self, heard: Callable[[str], None]) -> None:
        while not self._is_closed.is_set():
            try:
                with self.connect(autocommit=True, name=LISTENER) as connection:
                    connection.execute("LISTEN holdfast")
                    while not self._is_closed.is_set():
                        for note in connection.notifies(timeout=0.5):
                            heard(note.payload)
            except self._psycopg.Error:
                self._is_closed.wait(0.5)

    def listeners(self) -> int:
        query = sa.text(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = :name"
        )
        with self.reader() as connection:
            return int(connection.execute(query, {"name": LISTENER}).scalar_one())

    def close(self) -> None:
        self._is_closed.set()
        self.drop_writer()
        if self._notifier is not None:
            self._notifier.close()
        super().close()
