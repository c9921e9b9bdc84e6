"""Connections, transactions and bulk statements: what both databases offer, and SQLite.

SQLAlchemy makes the connections and describes the tables; the hot statements are generated once from those tables and
run on the driver itself. A statement is written with `?` for a value. Where the two dialects differ, this file and
`postgres` say why; no other file knows which one it talks to.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import itertools
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Final

import sqlalchemy as sa
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from holdfast_scheduler.errors import DatabaseInUseError, DatabaseUrlError, RequestError

Row = tuple[Any, ...]
Given = tuple[tuple[str, type[sa.types.TypeEngine[Any]]], ...]
"""Names and types of the values that a query is given for each of several rows."""

WRITER: Final = "holdfast-scheduler"
"""Name, in PostgreSQL, of the connection on which a scheduler writes."""

HORIZON_MARGIN_US: Final = 2_000_000
"""A transaction that has begun may be listed so much later."""
FORESEEN_CLOCK_US: Final = 50_000
"""A transaction whose instant is foreseen has one that is not ahead of the clock, and at most so much behind it."""

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


READ_FAILED: Final = (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.TimeoutError)
"""What readers meet while the database is away, or slow: TimeoutError when no connection becomes free."""
PUT_OFF: Final = (RequestError, *READ_FAILED)
"""What the scheduler's own looks meet then; the next one goes on."""


class Translation:
    """Translates a driver's errors: `with` it around what the driver does. Not a generator, which would cost more than
    much of what it surrounds."""

    def __init__(self, translated: Callable[[BaseException], Exception | None]) -> None:
        self._translated = translated

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, _traceback: object) -> None:
        if error is not None and (translated := self._translated(error)) is not None:
            raise translated from error


class Transaction:
    """One read-write transaction; begins when made, ends with `commit` or `rollback`. For one thread."""

    now: int
    """The database's clock when the transaction began, in microseconds since the Unix epoch, UTC."""
    now_read_at: int = 0
    """What the monotonic clock said, in microseconds, when `now` had been read."""
    queue_changes: int = 0
    """Differs from that of the last transaction when another scheduler has changed queues meanwhile."""
    statements: int = 0
    """Statements sent so far, for the benchmark's table."""
    is_foreseen: bool = False
    """Whether `now` and `queue_changes` are not read but foreseen; see `Database.begin`."""
    is_only_writer: ClassVar[bool] = False
    """Whether what this scheduler wrote last is what is there."""

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

    def fetch_ahead(
        self, sql: str, values: Sequence[Any], params: Sequence[Any] = (), *, lock: str = ""
    ) -> Callable[[], list[Row]]:
        """Send what `fetch_in` would, and wait for the rows only when they are called for: no round trip of its own."""
        return functools.partial(self.fetch_in, sql, values, params, lock=lock)

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

    def expect(self, table: sa.Table, key: tuple[str, ...], columns: tuple[str, ...], rows: Sequence[Row]) -> None:
        """Lock rows by key, in the order given, and have the transaction fail with ConflictError unless each exists and
        has these values. Nothing is waited for: it fails at the next fetch, or when it is committed."""
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
            try:
                from holdfast_scheduler.postgres import PostgresDatabase
            except ImportError:
                raise DatabaseUrlError("PostgreSQL needs the driver: pip install 'holdfast[postgres]'") from None
            return PostgresDatabase(parsed)
        raise DatabaseUrlError(f"{kind!r} is not a database that Holdfast uses; use sqlite:/// or postgresql://")

    def begin(self, *, is_hurried: bool = False, foreseen: tuple[int, int] | None = None) -> Transaction:
        """Begin a transaction on the writing connection; one that is hurried soon gives up waiting for a lock of
        another scheduler, with ConflictError. Raises: LostError.

        Where `is_shared`, `now` and `queue_changes` may be foreseen, which saves a round trip: the transaction fails
        with ConflictError if they are wrong.
        """
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


CLOCK_NOW: Final = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::int8"
"""PostgreSQL's clock."""
_HORIZON: Final = (
    "SELECT least((extract(epoch FROM clock_timestamp()) * 1000000)::int8 - :margin,"
    f" (SELECT (extract(epoch FROM min(xact_start)) * 1000000)::int8 - {FORESEEN_CLOCK_US} FROM pg_stat_activity"
    " WHERE datname = current_database() AND application_name = :name AND xact_start IS NOT NULL))"
)


def _comma(count: int, one: str = "?") -> str:
    return ", ".join([one] * count)


def commit_horizon(connection: sa.Connection) -> int | None:
    """An instant such that whatever becomes visible to this reader from now on has a later one; None where commits
    become visible in the order of their instants, as with one writer.

    A transaction's instant is that of its begin, or a moment before that if it was foreseen, and another one may begin
    later and commit first. All schedulers of a database use one role: PostgreSQL shows the transactions of others to
    nobody else.
    """
    if connection.dialect.name == "sqlite":
        return None
    given = {"name": WRITER, "margin": HORIZON_MARGIN_US}
    return int(connection.execute(sa.text(_HORIZON), given).scalar_one())


def clock_of(connection: sa.Connection) -> int:
    """The database's clock now, as a reader sees it."""
    if connection.dialect.name == "sqlite":
        return time.time_ns() // 1000  # the library has no clock of its own
    return int(connection.execute(sa.text(CLOCK_NOW)).scalar_one())


# --- SQLite ----------------------------------------------------------------------------------------------------------


class SqliteTransaction(Transaction):
    """`executemany` is the bulk statement here: the library is in-process, a round trip costs nothing."""

    is_only_writer = True

    def __init__(self, connection: sqlite3.Connection, now: int) -> None:
        self.now = now
        self.now_read_at = time.monotonic_ns() // 1000
        self._connection = connection
        self._cursor = connection.cursor()
        with _SQLITE_ERRORS:
            self._cursor.execute("BEGIN IMMEDIATE")

    def fetch(self, sql: str, params: Sequence[Any] = ()) -> list[Row]:
        self.statements += 1
        with _SQLITE_ERRORS:
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
            chunk = [_plain(one) for one in values[at : at + 4096]]
            size = 1 << (len(chunk) - 1).bit_length()
            chunk += [chunk[-1]] * (size - len(chunk))
            self.statements += 1
            with _SQLITE_ERRORS:
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
        with _SQLITE_ERRORS:
            return self._cursor.execute(sql, params).rowcount

    def insert(self, table: sa.Table, columns: tuple[str, ...], rows: Sequence[Row], *, skip: bool = False) -> None:
        if not rows:
            return
        literals, bound = _bound(table, columns, rows)
        self.statements += 1
        flat = list(itertools.chain.from_iterable(zip(*bound, strict=True)))
        at, width = 0, len(bound)
        with _SQLITE_ERRORS:
            for together in _TOGETHER:
                if len(flat) - at >= (size := together * width):
                    text = _sqlite_insert(table.name, columns, literals, skip, together)
                    groups = range(at, len(flat) - size + 1, size)
                    self._cursor.executemany(text, [flat[group : group + size] for group in groups])
                    at += len(groups) * size

    def update(self, table: sa.Table, key: tuple[str, ...], columns: tuple[str, ...], rows: Sequence[Row]) -> None:
        self._bulk(_sqlite_update, table, key, columns, rows)

    def upsert(self, table: sa.Table, key: tuple[str, ...], columns: tuple[str, ...], rows: Sequence[Row]) -> None:
        self._bulk(_sqlite_upsert, table, key, columns, rows)

    def delete(self, table: sa.Table, key: tuple[str, ...], rows: Sequence[Row]) -> None:
        self._bulk(_sqlite_delete, table, key, (), rows)

    def _bulk(
        self,
        make: Callable[..., str],
        table: sa.Table,
        key: tuple[str, ...],
        columns: tuple[str, ...],
        rows: Sequence[Row],
    ) -> None:
        """Run a statement for each row."""
        if not rows:
            return
        literals, bound = _bound(table, key + columns, rows)
        self.statements += 1
        with _SQLITE_ERRORS:
            self._cursor.executemany(make(table.name, key, columns, literals), zip(*bound, strict=True))

    def commit(self) -> None:
        with _SQLITE_ERRORS:
            self._connection.commit()

    def rollback(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            self._connection.rollback()


@lru_cache
def _numbered(sql: str, given: Given, before: int) -> str:
    for at, (name, _) in enumerate(given, before + 1):
        sql = sql.replace(f"{{{name}}}", f"?{at}")
    return sql


_LITERALS: Final[dict[Any, str]] = {None: "NULL", 0: "0", 1: "1", "": "''"}
"""What is written into statements; False and True are 0 and 1."""
_MANY: Final = 16
"""So many rows are worth a statement of their own."""
_CONVERT: Final[dict[Any, Callable[[Any], Any]]] = {sa.LargeBinary: bytearray, sa.Boolean: int}


def _bound(
    table: sa.Table, columns: tuple[str, ...], rows: Sequence[Row]
) -> tuple[tuple[str, ...], list[Sequence[Any]]]:
    """What each column is written as in the statement, and the columns that are bound.

    To bind a value costs the more the less the driver knows of its type: it looks for an adapter of each that is not
    exactly a number, a text or a bytearray; measured, an eighth of the scheduler's time. So bytes are bound as
    bytearrays, and columns that have one plain value throughout are written into the statement. Of few rows only NULL
    and truth values are, of a single one only NULL: else each would have a statement of its own, and to prepare one
    costs more than to bind.
    """
    if len(rows) == 1:
        (row,) = rows
        return tuple(["NULL" if one is None else "" for one in row]), [(_plain(one),) for one in row if one is not None]
    literals: list[str] = []
    bound: list[Sequence[Any]] = []
    for kind, column in zip(_kinds(table, columns), zip(*rows, strict=True), strict=True):
        first = column[0]
        plain = len(rows) >= _MANY or first is None or kind is sa.Boolean
        literal = _LITERALS.get(first, "") if plain and column.count(first) == len(column) else ""
        literals.append(literal)
        if not literal:
            convert = _CONVERT.get(kind)
            bound.append(column if convert is None else [None if one is None else convert(one) for one in column])
    return tuple(literals), bound


def _plain(value: Any) -> Any:
    kind = type(value)
    return bytearray(value) if kind is bytes else int(value) if kind is bool else value


@lru_cache
def _kinds(table: sa.Table, columns: tuple[str, ...]) -> tuple[Any, ...]:
    return tuple([type(table.c[name].type) for name in columns])


def _values(literals: tuple[str, ...]) -> list[str]:
    numbers = itertools.count(1)
    return [literal or f"?{next(numbers)}" for literal in literals]


_TOGETHER: Final = (32, 1)
"""Rows that one INSERT has: SQLite opens the table and its indexes once for all of them."""


@lru_cache(1024)
def _sqlite_insert(table: str, columns: tuple[str, ...], literals: tuple[str, ...], skip: bool, rows: int) -> str:
    verb = "INSERT OR IGNORE" if skip else "INSERT"
    values = _comma(rows, f"({', '.join(literal or '?' for literal in literals)})")
    return f"{verb} INTO {table} ({', '.join(columns)}) VALUES {values}"


@lru_cache(1024)
def _sqlite_update(table: str, key: tuple[str, ...], columns: tuple[str, ...], literals: tuple[str, ...]) -> str:
    values = dict(zip(key + columns, _values(literals), strict=True))
    assigned = ", ".join(f"{name} = {values[name]}" for name in columns)
    return f"UPDATE {table} SET {assigned} WHERE {' AND '.join(f'{name} = {values[name]}' for name in key)}"


@lru_cache(1024)
def _sqlite_upsert(table: str, key: tuple[str, ...], columns: tuple[str, ...], literals: tuple[str, ...]) -> str:
    return upsert(table, key, columns, f"VALUES ({', '.join(_values(literals))})")


@lru_cache(1024)
def _sqlite_delete(table: str, key: tuple[str, ...], _columns: tuple[str, ...], literals: tuple[str, ...]) -> str:
    values = zip(key, _values(literals), strict=True)
    return f"DELETE FROM {table} WHERE {' AND '.join(f'{name} = {value}' for name, value in values)}"


@lru_cache
def upsert(table: str, key: tuple[str, ...], columns: tuple[str, ...], source: str) -> str:
    """A statement that inserts the rows of `source`, or updates those whose key exists."""
    assigned = ", ".join(f"{name} = excluded.{name}" for name in columns)
    what = f"UPDATE SET {assigned}" if columns else "NOTHING"
    return f"INSERT INTO {table} ({', '.join(key + columns)}) {source} ON CONFLICT ({', '.join(key)}) DO {what}"


def _of_sqlite(error: BaseException) -> Exception | None:
    if isinstance(error, sqlite3.IntegrityError):
        return (ConflictError if "UNIQUE" in str(error) else DataError)(str(error))
    if isinstance(error, (sqlite3.DataError, sqlite3.InterfaceError, OverflowError, UnicodeEncodeError)):
        return DataError(str(error))
    if isinstance(error, sqlite3.Error):  # disk full, I/O error, locked by a stranger
        return LostError(str(error))
    return None


_SQLITE_ERRORS: Final = Translation(_of_sqlite)


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

    def begin(self, *, is_hurried: bool = False, foreseen: tuple[int, int] | None = None) -> Transaction:
        with _SQLITE_ERRORS:
            if self._writer is None:
                self._writer = sqlite3.connect(
                    self.path, check_same_thread=False, isolation_level=None, timeout=5, cached_statements=1024
                )
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
