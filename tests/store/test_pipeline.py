"""Statements in a pipeline: what goes in comes back, and a failure leaves a connection that can be used."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from harness.waiting import wait_until
from holdfast_scheduler import pipeline as p
from holdfast_scheduler.database import Database
from holdfast_scheduler.pipeline import Pipeline, array, plain, scalar

VALUES: dict[str, list[Any]] = {
    "bool": [True, False],
    "bytea": [b"", b"\0\xff", b"x" * 3_000_000],
    "int2": [-(2**15), 0, 2**15 - 1],
    "int4": [-(2**31), 0, 2**31 - 1],
    "int8": [-(2**63), 0, 2**63 - 1],
    "text": ["", "a", "é€😀", "x" * 3_000_000],
    "float8": [-1.5, 0.0, 1e300],
}


@pytest.fixture
def connection(shared_postgres_url: str) -> Iterator[psycopg.Connection[Any]]:
    with contextlib.closing(psycopg.connect(shared_postgres_url)) as made:
        yield made


@pytest.fixture
def pipeline(connection: psycopg.Connection[Any]) -> Pipeline:
    return Pipeline(connection)


@pytest.mark.parametrize("kind", VALUES)
def test_values_come_back_as_they_went(pipeline: Pipeline, kind: str) -> None:
    for value in [*VALUES[kind], None]:
        number = pipeline.send(f"SELECT $1::{kind}", [scalar(kind, value)])
        assert pipeline.rows(number) == [(value,)]
    for values in (VALUES[kind], [None, *VALUES[kind], None], [None], []):
        number = pipeline.send(f"SELECT unnest($1::{kind}[])", [array(kind, values)])
        assert pipeline.rows(number) == [(value,) for value in values]


def test_plain_values_have_the_type_that_fits(pipeline: Pipeline) -> None:
    given = ["a", 7, 2**40, b"b", True, 1.5, None]
    number = pipeline.send("SELECT $1, $2, $3, $4, $5, $6, $7::text", [plain(one) for one in given])
    assert pipeline.rows(number) == [tuple(given)]


@pytest.mark.parametrize(("kind", "value"), [("int2", 2**15), ("int4", 2**31), ("int8", 2**63), ("int8", "7")])
def test_what_does_not_fit_is_refused_before_it_is_sent(kind: str, value: Any) -> None:
    with pytest.raises(p.struct.error):
        scalar(kind, value)
    with pytest.raises(p.struct.error):
        array(kind, [value])


def test_results_may_be_asked_for_in_any_order(pipeline: Pipeline) -> None:
    numbers = [pipeline.send("SELECT $1::int8", [plain(at)]) for at in range(5)]
    for at in (3, 0, 4, 1, 2):
        assert pipeline.rows(numbers[at]) == [(at,)]


def test_both_directions_may_be_full_at_once(pipeline: Pipeline) -> None:
    """Neither end reads while it writes: whoever waits for the other to do so waits for ever."""
    long = b"x" * 4_000_000
    numbers = [pipeline.send("SELECT $1::bytea", [plain(long)]) for _ in range(8)]
    assert all(pipeline.rows(number) == [(long,)] for number in numbers)


def test_a_failure_is_met_by_whoever_waits_and_rolls_back(pipeline: Pipeline) -> None:
    pipeline.send("BEGIN")
    pipeline.send("CREATE TABLE never (a int4)")
    wrong = pipeline.send("SELECT 1 / $1::int4", [scalar("int4", 0)])
    after = pipeline.send("SELECT $1::text AS prepared_after_the_failure", [plain("x")])
    with pytest.raises(psycopg.errors.DivisionByZero):
        pipeline.rows(after)
    pipeline.roll_back()
    assert pipeline.rows(pipeline.send("SELECT to_regclass('never') IS NULL")) == [(True,)]
    # The statement that was to be prepared behind the failure never was: it must not be taken for prepared.
    again = pipeline.send("SELECT $1::text AS prepared_after_the_failure", [plain("x")])
    assert pipeline.rows(again) == [("x",)]
    assert wrong < after < again


def test_a_commit_that_cannot_be_is_an_error(pipeline: Pipeline) -> None:
    pipeline.send("BEGIN")
    pipeline.send("SELECT 1 / $1::int4", [scalar("int4", 0)])
    with pytest.raises(psycopg.errors.DivisionByZero):
        pipeline.end("COMMIT")
    pipeline.roll_back()
    pipeline.send("BEGIN")
    assert pipeline.end("COMMIT") == "COMMIT"


def test_prepared_statements_are_bounded(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(p, "PREPARED", 5)
    pipeline.send("BEGIN")
    for at in range(23):
        assert pipeline.rows(pipeline.send(f"SELECT {at} + $1::int8", [plain(1)])) == [(at + 1,)]
    kept = pipeline.rows(pipeline.send("SELECT count(*) FROM pg_prepared_statements", keeps_plan=False))
    assert 0 < kept[0][0] <= 5
    pipeline.send("SELECT 1 / $1::int4", [scalar("int4", 0)])
    with pytest.raises(psycopg.errors.DivisionByZero):
        pipeline.end("COMMIT")
    pipeline.roll_back()
    for at in range(23):
        assert pipeline.rows(pipeline.send(f"SELECT {at} + $1::int8", [plain(1)])) == [(at + 1,)]


def test_who_stands_still_in_a_transaction_is_idle_to_the_server(
    pipeline: Pipeline, connection: psycopg.Connection[Any], shared_postgres_url: str
) -> None:
    """Else the server's limit on idle transactions would not free the locks of a scheduler that is frozen."""
    pipeline.send("SET idle_in_transaction_session_timeout = '100ms'")
    pipeline.end("SELECT 1")
    pid = connection.info.backend_pid
    pipeline.send("BEGIN")
    assert pipeline.rows(pipeline.send("SELECT 1")) == [(1,)]
    with psycopg.connect(shared_postgres_url, autocommit=True) as other:
        wait_until(
            lambda: not other.execute("SELECT 1 FROM pg_stat_activity WHERE pid = %s", (pid,)).fetchall(),
            "the server ends the transaction",
        )
    with pytest.raises(psycopg.Error):
        pipeline.end("COMMIT")


def test_how_many_rows_changed(pipeline: Pipeline) -> None:
    pipeline.send("BEGIN")
    pipeline.send("CREATE TEMPORARY TABLE counted ON COMMIT DROP AS SELECT generate_series(1, 10) AS a")
    assert pipeline.changed(pipeline.send("UPDATE counted SET a = 0 WHERE a > $1", [plain(7)])) == 3
    pipeline.end("COMMIT")


@pytest.mark.parametrize("when", ["before", "between"])
def test_a_connection_that_is_gone_says_so(
    pipeline: Pipeline, connection: psycopg.Connection[Any], shared_postgres_url: str, when: str
) -> None:
    pid = connection.info.backend_pid
    if when == "between":
        pipeline.send("BEGIN")
        assert pipeline.rows(pipeline.send("SELECT 1")) == [(1,)]
    with psycopg.connect(shared_postgres_url, autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
    with pytest.raises(psycopg.OperationalError):
        pipeline.send("SELECT 2")
        pipeline.end("COMMIT")
    with pytest.raises(psycopg.OperationalError):
        pipeline.roll_back()
    connection.close()


def test_readers_and_writer_notice_a_server_that_has_vanished(migrated_postgres_url: str) -> None:
    """Or a read that hangs would hold up the notes of other schedulers for a quarter of an hour."""
    database = Database.open(migrated_postgres_url)
    try:
        with database.reader() as connection:
            reader = connection.connection.driver_connection.info.get_parameters()  # type: ignore[union-attr]
        with database.connect() as connection:  # type: ignore[attr-defined]
            writer = connection.info.get_parameters()
        for parameters in (reader, writer):
            assert int(parameters["tcp_user_timeout"]) <= 10_000
            assert int(parameters["keepalives_idle"]) <= 5
    finally:
        database.close()
