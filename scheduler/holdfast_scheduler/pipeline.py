"""Statements sent to PostgreSQL one after the other without waiting for their results, over libpq.

psycopg's own cursors can do that too; they are made for statements of any kind, from any thread. Measured, they and the
lists that they turn into arrays in Python were a fifth of the scheduler's time. Here are only the types that our tables
have, in binary, over the same connection (`psycopg.pq` is psycopg's wrapper of libpq); errors are psycopg's.

Results come in the order of the statements. Whoever wants one waits for those before it, too, and meets their errors.
"""

from __future__ import annotations

import contextlib
import select
import struct
from collections import deque
from collections.abc import Callable, Sequence
from itertools import chain, repeat
from typing import Any, Final

from psycopg import Connection, errors, pq
from psycopg.adapt import Transformer

from holdfast_scheduler.database import Row

PREPARED: Final = 500
"""Statements that one connection keeps prepared."""

SCALARS: Final = {"bool": 16, "bytea": 17, "int8": 20, "int2": 21, "int4": 23, "text": 25, "float8": 701}
"""Types by name: the numbers that PostgreSQL has for them."""
ARRAYS: Final = {"bool": 1000, "bytea": 1001, "int2": 1005, "int4": 1007, "text": 1009, "int8": 1016, "float8": 1022}
"""The same for arrays of them."""

_FORMATS: Final = {"bool": ("?", 1), "int8": ("q", 8), "int2": ("h", 2), "int4": ("i", 4), "float8": ("d", 8)}
_ENCODE: Final[dict[str, Callable[[Any], bytes]]] = {
    kind: struct.Struct(f"!{letter}").pack for kind, (letter, _) in _FORMATS.items()
}
_ENCODE["text"] = str.encode
_ENCODE["bytea"] = lambda value: value
_LENGTH: Final = struct.Struct("!i").pack
_HEAD: Final = struct.Struct("!iiIii").pack
_NULL: Final = _LENGTH(-1)
_KINDS: Final[dict[type, str]] = {str: "text", int: "int8", bytes: "bytea", bool: "bool", float: "float8"}

PATIENT_ANSWER: Final = 30.0
"""Seconds of silence after which a server counts as gone: as long as it itself bears with a scheduler that stands still
within a transaction. It answers a group of statements at its end, so a group may take no longer."""

_PREPARES: Final = 0
_ENDS: Final = -1

_Prepared = tuple[str, tuple[int, ...]]  # a statement, and the types of its parameters

Parameter = tuple[int, bytes | None]
"""The number of a type, and a value of it in PostgreSQL's binary form."""


def kind_of(value: Any) -> str:
    """The type that a value is sent as when nothing else says so."""
    return _KINDS[type(value)]


def scalar(kind: str, value: Any) -> Parameter:
    """A value of a type. Raises: struct.error, UnicodeEncodeError when it is none."""
    if value is None:
        return SCALARS[kind], None
    return SCALARS[kind], _ENCODE[kind](value)


def encoder(kind: str) -> tuple[int, Callable[[Any], bytes]]:
    """The number of a type, and what makes its binary form of a value other than None."""
    return SCALARS[kind], _ENCODE[kind]


def plain(value: Any) -> Parameter:
    """A value of the type that fits it."""
    return (0, None) if value is None else scalar(kind_of(value), value)


def array(kind: str, values: Sequence[Any]) -> Parameter:
    """An array with one dimension. Raises: struct.error, UnicodeEncodeError for a value that does not fit."""
    count = len(values)
    has_null = None in values
    if kind in _FORMATS and not has_null:
        letter, size = _FORMATS[kind]
        sized = zip(repeat(size, count), values, strict=True)
        body = struct.pack("!" + f"i{letter}" * count, *chain.from_iterable(sized))
    else:
        body = b"".join([_NULL if one is None else _item(kind, one) for one in values])
    return ARRAYS[kind], _HEAD(1, has_null, SCALARS[kind], count, 1) + body


def _item(kind: str, value: Any) -> bytes:
    data = _ENCODE[kind](value)
    return _LENGTH(len(data)) + data


class SilentError(errors.OperationalError):
    """The server is connected and does not answer."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"the server has not answered for {seconds:g} s")


class Pipeline:
    """One connection in pipeline mode, for as long as it lives. For one thread at a time.

    Every method raises psycopg.Error: what the server says of a statement, or that the connection is gone. After one,
    `roll_back` is next.
    """

    def __init__(self, connection: Connection[Any]) -> None:
        self.patience = PATIENT_ANSWER
        self._libpq = connection.pgconn
        self._libpq.nonblocking = 1
        self._libpq.enter_pipeline_mode()
        self._prepared: dict[_Prepared, bytes] = {}
        self._sent = 0
        self._synced = 0  # the last statement that the server was asked to answer
        self._awaited: deque[tuple[int, _Prepared | None]] = deque()
        """What results are to come of: a statement by its number, one that is prepared, or the end of what is sent."""
        self._kept: dict[int, pq.abc.PGresult] = {}
        """Results that came before they were asked for."""
        self._is_behind = False  # whether libpq may have something that it could not send yet
        self._poll = select.poll()
        self._poll.register(self._libpq.socket, select.POLLIN)
        self._polled = select.POLLIN
        self._loader = Transformer.from_context(connection)

    def send(self, sql: str, params: Sequence[Parameter] = (), *, keeps_plan: bool = True) -> int:
        """Send a statement with `$1`... for its parameters. Returns a number that asks for its result.

        One that keeps its plan is prepared the first time; the other is planned each time for the values at hand.
        """
        return self.send_values(
            sql, tuple([one[0] for one in params]), [one[1] for one in params], keeps_plan=keeps_plan
        )

    def send_values(
        self, sql: str, types: tuple[int, ...], values: Sequence[bytes | None], *, keeps_plan: bool = True
    ) -> int:
        """The same, with the types of the parameters apart from their values."""
        formats = [pq.Format.BINARY] * len(types)
        if keeps_plan:
            name = self._prepared.get((sql, types)) or self._prepare(sql, types)
            self._libpq.send_query_prepared(name, values, formats, pq.Format.BINARY)
        else:
            self._libpq.send_query_params(sql.encode(), values, types, formats, pq.Format.BINARY)
        self._sent += 1
        self._awaited.append((self._sent, None))
        return self._sent

    def _prepare(self, sql: str, types: tuple[int, ...]) -> bytes:
        if len(self._prepared) >= PREPARED:
            self._prepared.clear()
            self.send("DEALLOCATE ALL", keeps_plan=False)
        name = self._prepared[sql, types] = f"holdfast_{self._sent}".encode()
        self._libpq.send_prepare(name, sql.encode(), types)
        self._awaited.append((_PREPARES, (sql, types)))
        return name

    def rows(self, number: int) -> list[Row]:
        """The rows of a statement."""
        result = self._result(number)
        self._loader.set_pgresult(result)
        return self._loader.load_rows(0, result.ntuples, tuple)

    def changed(self, number: int) -> int:
        """How many rows a statement has changed."""
        return self._result(number).command_tuples or 0

    def end(self, last: str) -> str:
        """Send a last statement, and wait until everything that was sent is done. Returns what the server did last."""
        number = self.send(last)
        self._sync()
        done = ""
        while self._awaited:
            self._take()
            if number in self._kept:
                done = (self._kept.pop(number).command_status or b"").decode()
        self._kept.clear()
        return done

    def roll_back(self) -> None:
        """Wait for everything that was sent, whatever has become of it, and roll back."""
        self._sync()
        while self._awaited:
            with contextlib.suppress(errors.Error):
                self._take()
            if self._libpq.status != pq.ConnStatus.OK:
                raise errors.OperationalError("the connection is gone")
        self.end("ROLLBACK")

    def _result(self, number: int) -> pq.abc.PGresult:
        if number > self._synced:
            self._sync()
        while number not in self._kept:
            self._take()
        return self._kept.pop(number)

    def _sync(self) -> None:
        # Not a mere request to flush, after which the server would count as active while it waits for us: its limit on
        # transactions that stand idle would never free the locks of a scheduler that is frozen.
        self._libpq.pipeline_sync()
        self._synced = self._sent
        self._is_behind = True
        self._awaited.append((_ENDS, None))

    def _take(self) -> None:
        number, prepared = self._awaited.popleft()
        result = self._next()
        if number == _ENDS:
            return
        assert result is not None
        self._libpq.get_result()  # None, after each result but that of an end
        if result.status in (pq.ExecStatus.FATAL_ERROR, pq.ExecStatus.PIPELINE_ABORTED):
            if prepared is not None:
                self._prepared.pop(prepared, None)
            raise errors.error_from_result(result, encoding="utf-8")
        if prepared is None:
            self._kept[number] = result

    def _next(self) -> pq.abc.PGresult | None:
        libpq = self._libpq
        while True:
            if self._is_behind:
                self._is_behind = bool(libpq.flush())
            if not libpq.is_busy():
                return libpq.get_result()
            wanted = select.POLLIN | select.POLLOUT if self._is_behind else select.POLLIN
            if wanted != self._polled:
                self._polled = wanted
                self._poll.modify(libpq.socket, wanted)
            if not self._poll.poll(self.patience * 1000):
                libpq.finish()  # what is still to come would be taken for the results of other statements
                raise SilentError(self.patience)
            libpq.consume_input()
