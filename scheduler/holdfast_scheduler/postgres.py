"""PostgreSQL: transactions over a pipeline, and bulk statements that unnest arrays."""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import re
import struct
import threading
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from functools import lru_cache
from typing import Any, Final, TypeVar

import psycopg
import sqlalchemy as sa
from psycopg import errors

from holdfast_scheduler.database import (
    CLOCK_NOW,
    FORESEEN_CLOCK_US,
    LISTENER,
    READERS,
    WRITER,
    ConflictError,
    Database,
    DataError,
    Given,
    LostError,
    Row,
    Transaction,
    Translation,
    upsert,
)
from holdfast_scheduler.pipeline import (
    PATIENT_ANSWER,
    Parameter,
    Pipeline,
    SilentError,
    array,
    encoder,
    kind_of,
    plain,
    scalar,
)

log = logging.getLogger("holdfast.scheduler")

T = TypeVar("T")

_KINDS: Final = {
    sa.LargeBinary: "bytea",
    sa.Text: "text",
    sa.BigInteger: "int8",
    sa.SmallInteger: "int2",
    sa.Integer: "int4",
    sa.Boolean: "bool",
    sa.Float: "float8",
}


def _kind(column: sa.Column[Any]) -> str:
    return _KINDS[type(column.type)]


_QUEUE_CHANGES: Final = "(SELECT coalesce(sum(number), 0)::int8 FROM queue_changes)"
_CLOCK: Final = f"{CLOCK_NOW}, {_QUEUE_CHANGES}"
_CLOCK_GUARD: Final = (
    f"SELECT 1 / (ago BETWEEN 0 AND {FORESEEN_CLOCK_US} AND {_QUEUE_CHANGES} = $2)::int4"
    f" FROM (SELECT ({CLOCK_NOW}) - $1::int8 AS ago) AS clock"
)
"""Fails with a division by zero, which no other statement can, when what was foreseen is wrong."""


class PostgresTransaction(Transaction):
    """A bulk statement sends one array per column and unnests them: one statement whatever the number of rows.

    Statements are sent without waiting for their results, which only `fetch` and its like do. So BEGIN, the clock and
    the first load are one round trip, and all writes and COMMIT are another; an error of a write appears there.
    """

    def __init__(self, database: PostgresDatabase, pipeline: Pipeline, foreseen: tuple[int, int] | None = None) -> None:
        self._database = database
        self._pipeline = pipeline
        self._now, self._queue_changes = foreseen or (0, 0)
        with database.errors:
            pipeline.send("BEGIN")
            if foreseen is not None:
                self.is_foreseen = True
                self._send(_CLOCK_GUARD, [plain(one) for one in foreseen])
                return
            # `clock_timestamp` because a transaction that waited for a lock must not see an instant before what it
            # waited for.
            self._clock = self._send(_CLOCK)

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
            with self._database.errors:
                ((self._now, self._queue_changes),) = self._pipeline.rows(self._clock)
            self.now_read_at = time.monotonic_ns() // 1000

    def _send(self, sql: str, params: Sequence[Parameter] = (), *, keeps_plan: bool = True) -> int:
        self.statements += 1
        return self._pipeline.send(sql, params, keeps_plan=keeps_plan)

    def _rows(self, number: int) -> list[Row]:
        with self._database.errors:
            self._read_clock()
            return self._pipeline.rows(number)

    def fetch(self, sql: str, params: Sequence[Any] = ()) -> list[Row]:
        with self._database.errors:
            number = self._send(_dollars(sql), [plain(one) for one in params])
        return self._rows(number)

    def fetch_ahead(
        self, sql: str, values: Sequence[Any], params: Sequence[Any] = (), *, lock: str = ""
    ) -> Callable[[], list[Row]]:
        return functools.partial(self._rows, self._send_in(sql, values, params, lock, 0))

    def fetch_in(
        self, sql: str, values: Sequence[Any], params: Sequence[Any] = (), *, lock: str = "", most: int = 0
    ) -> list[Row]:
        return self._rows(self._send_in(sql, values, params, lock, most)) if values else []

    def _send_in(self, sql: str, values: Sequence[Any], params: Sequence[Any], lock: str, most: int) -> int:
        text = _dollars(sql.replace("{in}", "= ANY(?)"))
        if lock:
            text += f" ORDER BY {lock}{f' LIMIT {int(most)}' if most else ''} FOR UPDATE"
        with self._database.errors:
            return self._send(text, [*[plain(one) for one in params], array(kind_of(values[0]), values)])

    def claim_in(self, sql: str, values: Sequence[Any], params: Sequence[Any], limit: int) -> list[Row]:
        return self.fetch_in(f"{sql} LIMIT {int(limit)} FOR UPDATE SKIP LOCKED", values, params)

    def claim_each(self, sql: str, given: Given, groups: Sequence[Row], params: Sequence[Any] = ()) -> list[Row]:
        if not groups:
            return []
        with self._database.errors:
            columns = zip(given, zip(*groups, strict=True), strict=True)
            arrays = [array(_KINDS[kind], values) for (_, kind), values in columns]
            number = self._send(_pg_each(sql, given), [*arrays, *[plain(one) for one in params]])
        return self._rows(number)

    def leap(self, sql: str, given: Given, first: Row, params: Sequence[Any], limit: int) -> list[Row]:
        return self.fetch(_pg_leap(sql, given), (*first, *params, limit + 1))[1:]

    def execute(self, sql: str, params: Sequence[Any] = ()) -> int:
        with self._database.errors:
            return self._pipeline.changed(self._send(_dollars(sql), [plain(one) for one in params]))

    def expect(self, table: sa.Table, key: tuple[str, ...], columns: tuple[str, ...], rows: Sequence[Row]) -> None:
        self._bulk(_pg_expect, table, key + columns, rows, (key, len(rows)))

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
        if len(rows) == 1:
            types, encoders, throughout = _encoders(table, columns)
            with self._database.errors:
                values = [
                    None if value is None else encode(value) for encode, value in zip(encoders, rows[0], strict=True)
                ]
                self.statements += 1
                self._pipeline.send_values(make(table, throughout, columns, more), types, values)
            return
        found = list(zip(*rows, strict=True))
        single = [column.count(column[0]) == len(column) for column in found]
        if make in _JOINS:
            # A key is found as a whole. Of a table without statistics PostgreSQL believes that few of its rows are in
            # the namespace that all keys share: told it as one value, it would read all of them in every commit.
            keys = len(columns) if more is None else len(more)
            single[:keys] = [False] * keys
        elif all(single):  # one array has to say how many rows there are
            single[0] = False
        with self._database.errors:
            params = [
                scalar(kind, column[0]) if is_single else array(kind, column)
                for kind, column, is_single in zip(_kinds(table, columns), found, single, strict=True)
            ]
            # A plan of a join that is kept was made when the table was small, and may then read all of it in every
            # commit. One that is made anew knows how large the table is and how many rows the arrays have.
            self._send(make(table, tuple(single), columns, more), params, keeps_plan=make not in _JOINS)

    def commit(self) -> None:
        self._read_clock()  # for whoever asks after the commit
        with self._database.errors:
            done = self._pipeline.end("COMMIT")
            if done != "COMMIT":
                raise errors.InternalError(f"COMMIT was answered with {done}")

    def rollback(self) -> None:
        self._database.roll_back(self._pipeline)


@lru_cache
def _dollars(sql: str) -> str:
    numbers = itertools.count(1)
    return re.sub(r"\?", lambda _: f"${next(numbers)}", sql)


@lru_cache
def _kinds(table: sa.Table, columns: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(_kind(table.c[name]) for name in columns)


@lru_cache
def _encoders(
    table: sa.Table, columns: tuple[str, ...]
) -> tuple[tuple[int, ...], list[Callable[[Any], bytes]], tuple[bool, ...]]:
    """For a single row: types, encoders, and that every column has one value."""
    found = [encoder(kind) for kind in _kinds(table, columns)]
    return tuple([one[0] for one in found]), [one[1] for one in found], (True,) * len(columns)


def _of_given(sql: str, given: Given) -> str:
    for name, _ in given:
        sql = sql.replace(f"{{{name}}}", f"given.{name}")
    return sql


@lru_cache
def _pg_each(sql: str, given: Given) -> str:
    arrays = ", ".join(f"?::{_KINDS[kind]}[]" for _, kind in given)
    names = ", ".join(name for name, _ in given)
    lateral = f"CROSS JOIN LATERAL ({_of_given(sql, given)} FOR UPDATE SKIP LOCKED) AS found"
    return _dollars(f"SELECT found.* FROM unnest({arrays}) AS given({names}) {lateral}")


@lru_cache
def _pg_leap(sql: str, given: Given) -> str:
    names = ", ".join(name for name, _ in given)
    first = ", ".join(f"?::{_KINDS[kind]}" for _, kind in given)
    step = f"SELECT found.* FROM given CROSS JOIN LATERAL ({_of_given(sql, given)}) AS found"
    return f"WITH RECURSIVE given({names}) AS (SELECT {first} UNION ALL {step}) SELECT * FROM given LIMIT ?"


def _pg_source(table: sa.Table, single: tuple[bool, ...], columns: tuple[str, ...]) -> tuple[dict[str, str], str]:
    """(an expression per column, a FROM clause) for rows in which some columns have a single value throughout."""
    values, many, arrays = {}, [], []
    for place, (name, is_single) in enumerate(zip(columns, single, strict=True), 1):
        kind = _kind(table.c[name])
        values[name] = f"${place}::{kind}" if is_single else f"d.{name}"
        if not is_single:
            many.append(name)
            arrays.append(f"${place}::{kind}[]")
    return values, f" FROM unnest({', '.join(arrays)}) AS d({', '.join(many)})" if many else ""


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


@lru_cache
def _pg_expect(
    table: sa.Table, single: tuple[bool, ...], columns: tuple[str, ...], more: tuple[tuple[str, ...], int]
) -> str:
    key, count = more
    values, source = _pg_source(table, single, columns)
    # IS NOT DISTINCT FROM finds no index.
    same = [f"t.{name} {'=' if name in key else 'IS NOT DISTINCT FROM'} {value}" for name, value in values.items()]
    # LATERAL is looked up row by row, whatever the plan that is kept was made for.
    found = f"(SELECT 1 FROM {table.name} AS t WHERE {' AND '.join(same)} FOR UPDATE) AS found"
    rows = f"{source.removeprefix(' FROM ')} CROSS JOIN LATERAL {found}" if source else found
    return f"SELECT 1 / (count(*) = {count})::int4 FROM {rows}"


_JOINS: Final = (_pg_update, _pg_delete)


@lru_cache
def _pg_upsert(table: sa.Table, single: tuple[bool, ...], columns: tuple[str, ...], key: tuple[str, ...]) -> str:
    values, source = _pg_source(table, single, columns)
    # "WHERE true" keeps the parser from taking ON for a join condition.
    select = f"SELECT {', '.join(values.values())}{source} WHERE true"
    return upsert(table.name, key, tuple(name for name in columns if name not in key), select)


_CONFLICTS: Final = (
    errors.UniqueViolation,
    errors.DeadlockDetected,
    errors.SerializationFailure,
    errors.LockNotAvailable,
    errors.DivisionByZero,  # what was foreseen is wrong
)
PATIENT_LOCK: Final = "10s"
HURRIED_LOCK: Final = "250ms"
"""How long a statement waits for a lock, and how long while the process answers nobody meanwhile."""
HURRIED_ANSWER: Final = 5.0
"""Seconds of silence after which the server counts as gone while the process answers nobody meanwhile."""
READ_LIMIT: Final = "25s"
"""How long a statement of a reader may take; the server ends it before its reader gives up and leaves it behind."""
LISTENER_CHECK: Final = 10.0
"""Seconds without a note after which a listener asks whether its connection still answers."""
TERMINATION_MS: Final = 3_000
"""How long a new connection waits for the end of the one before it, which it terminates."""

RANDOM_PAGE_COST: Final = 1.1
"""What PostgreSQL's planner counts for a page that is read out of turn, in units of one that is read in turn. Its
default of 4 is meant for turning disks."""


_NOTICES: Final[dict[str, Any]] = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
"""By what libpq notices, in seconds, that a server has vanished without a word."""


_STARTED: Final = "extract(epoch FROM backend_start)::text"
_OWN_PROCESS: Final = f"SELECT pid, {_STARTED} FROM pg_stat_activity WHERE pid = pg_backend_pid()"
_TERMINATE: Final = (
    # One that waits for a standby has committed: ended, it would be seen before the standby has it.
    "SELECT CASE WHEN wait_event = 'SyncRep' THEN false ELSE pg_terminate_backend(pid, %s) END"
    f" FROM pg_stat_activity WHERE (pid, {_STARTED}) = (%s, %s) AND pid <> pg_backend_pid()"
)


class _Connection(psycopg.Connection[Any]):
    """Does not wait for ever for a server that is connected and does not answer, be it frozen or without its disk: the
    kernel of such a server still answers what keepalives ask."""

    def wait(self, gen: Generator[Any, Any, T], *args: Any, **kwargs: Any) -> T:
        try:
            return super().wait(_impatient(gen), *args, **kwargs)
        except SilentError:
            self.pgconn.finish()
            raise


def _impatient(waiting: Generator[Any, Any, T]) -> Generator[Any, Any, T]:
    """What psycopg waits with: it yields what is to be waited for and is told, at least each tenth of a second, what is
    ready, if anything is (by psycopg's C implementation since 3.2.11)."""
    try:
        wanted = next(waiting)
        last = time.monotonic()
        while True:
            ready = yield wanted
            if ready:
                last = time.monotonic()
            elif time.monotonic() - last > PATIENT_ANSWER:
                raise SilentError(PATIENT_ANSWER)
            wanted = waiting.send(ready)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]


class PostgresDatabase(Database):
    """The database for production and for several schedulers. READ COMMITTED; see the lock order in `store`."""

    dialect = "postgresql"
    is_shared = True

    def __init__(self, url: sa.URL) -> None:
        self._url = url.set(drivername="postgresql+psycopg")
        self._dsn = url.set(drivername="postgresql").render_as_string(hide_password=False)
        readers = sa.create_engine(
            self._url,
            pool_size=READERS,
            max_overflow=4,
            pool_pre_ping=True,
            creator=lambda: _Connection.connect(self._dsn, **_NOTICES, options=f"-c statement_timeout={READ_LIMIT}"),
        )
        super().__init__(readers, str(url))
        self.errors: Final = Translation(self._of_driver)
        self._writer: Any = None
        self._pipeline: Pipeline | None = None
        self._notifier: Any = None
        self._is_closed = threading.Event()
        self._listener: threading.Thread | None = None
        self._is_hurried = False
        self._former: tuple[int, str] | None = None
        """Process and start of the server's end of the last writing connection."""

    def begin(self, *, is_hurried: bool = False, foreseen: tuple[int, int] | None = None) -> Transaction:
        with self.errors:
            if self._pipeline is None:
                self._writer = self.connect()
                self._succeed(self._writer)
                self._pipeline = Pipeline(self._writer)
                self._is_hurried = False
            if self._is_hurried != is_hurried:
                self._pipeline.patience = HURRIED_ANSWER if is_hurried else PATIENT_ANSWER
                self._pipeline.end(f"SET lock_timeout = '{HURRIED_LOCK if is_hurried else PATIENT_LOCK}'")
                self._is_hurried = is_hurried
            return PostgresTransaction(self, self._pipeline, foreseen)

    def _succeed(self, writer: psycopg.Connection[Any]) -> None:
        """See to it that the last writing connection has ended on the server, too. Its last transaction may still be
        under way there, and would be committed after all workers were told what there is.

        Raises: psycopg.OperationalError while it goes on.
        """
        writer.execute("SET LOCAL ROLE NONE")  # only the role that logged in sees all of its connections
        if self._former:
            try:
                ended = writer.execute(_TERMINATE, (TERMINATION_MS, *self._former)).fetchone()
            except errors.InsufficientPrivilege as error:
                raise errors.OperationalError(f"a former connection cannot be ended: {error}") from error
            if ended == (False,):
                raise errors.OperationalError("a transaction whose outcome is not known is still under way")
            # Had it just committed when it was ended, a standby may not have it: a commit of our own waits for that.
            writer.execute("SELECT pg_logical_emit_message(true, 'holdfast', '')")
        self._former = writer.execute(_OWN_PROCESS).fetchone()
        if self._former is None or None in self._former:
            raise errors.OperationalError("the role does not see its own connection in pg_stat_activity")
        writer.commit()

    def connect(self, *, autocommit: bool = False, name: str = WRITER) -> Any:
        """A connection of the driver's own, with the settings that writing needs."""
        return _Connection.connect(
            self._dsn,
            autocommit=autocommit,
            **_NOTICES,
            application_name=name,
            # What it looks up by key was written moments ago and lies in memory: a page costs the same wherever it is.
            options=f"-c jit=off -c random_page_cost={RANDOM_PAGE_COST} -c lock_timeout={PATIENT_LOCK}"
            " -c idle_in_transaction_session_timeout=30s",
        )

    def _of_driver(self, error: BaseException) -> Exception | None:
        """What the commit loop does about an error of the driver."""
        if isinstance(error, _CONFLICTS):
            return ConflictError(str(error))
        if isinstance(error, (errors.InvalidSqlStatementName, errors.DuplicatePreparedStatement)):
            # What is prepared is not what we believe: only a new connection brings both ends together.
            self.drop_writer()
            return LostError(str(error))
        if isinstance(error, (errors.DataError, errors.IntegrityError, errors.ProgrammingError)):
            return DataError(str(error))
        if isinstance(error, (struct.error, UnicodeEncodeError)):  # a number or a text that no column can have
            return DataError(str(error))
        if isinstance(error, (errors.Error, OSError)):
            self.drop_writer()
            return LostError(str(error))
        return None

    def roll_back(self, pipeline: Pipeline) -> None:
        """Forget a transaction; a connection that cannot do that is closed."""
        if pipeline is self._pipeline:
            try:
                pipeline.roll_back()
            except psycopg.Error as error:
                log.warning("a transaction cannot be rolled back, its connection is dropped error=%s", error)
                self.drop_writer()
            except Exception:
                self.drop_writer()
                raise

    def drop_writer(self) -> None:
        """Close the writing connection; the next transaction makes a new one."""
        writer, self._writer, self._pipeline = self._writer, None, None
        if writer is not None:
            with contextlib.suppress(Exception):
                writer.close()

    def send_notes(self, notes: Iterable[str]) -> None:
        """NOTIFY, on another connection and after the commit: inside the transaction it would serialise the commits of
        all schedulers."""
        try:
            if self._notifier is None or self._notifier.closed:
                self._notifier = self.connect(autocommit=True)
            # All at once, so that those who hear them look once.
            sql = "SELECT pg_notify('holdfast', note) FROM unnest(%s::text[]) AS given(note)"
            self._notifier.execute(sql, (list(notes),))
        except psycopg.Error:
            self._notifier = None

    def listen(self, heard: Callable[[str], None]) -> None:
        self._listener = threading.Thread(target=self._listen, args=(heard,), name="holdfast-listen", daemon=True)
        self._listener.start()

    def _listen(self, heard: Callable[[str], None]) -> None:
        while not self._is_closed.is_set():
            try:
                with self.connect(autocommit=True, name=LISTENER) as connection:
                    connection.execute("LISTEN holdfast")
                    answered = time.monotonic()
                    while not self._is_closed.is_set():
                        for note in connection.notifies(timeout=0.5):
                            heard(note.payload)
                            answered = time.monotonic()
                        if time.monotonic() - answered > LISTENER_CHECK:
                            connection.execute("SELECT 1")
                            answered = time.monotonic()
            except psycopg.Error:
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
