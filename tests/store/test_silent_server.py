"""A PostgreSQL that is connected and does not answer: nobody waits for ever, and what was given up stays given up."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator

import psycopg
import pytest
import sqlalchemy as sa

from harness.postgres import PostgresServer
from harness.relay import Relay
from harness.waiting import wait_until
from holdfast_scheduler import postgres, schema
from holdfast_scheduler.database import LISTENER, WRITER, ConflictError, LostError
from holdfast_scheduler.migrations import migrate
from holdfast_scheduler.postgres import PostgresDatabase

COUNT = "SELECT count(*) FROM queue_changes"
WRITERS = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s AND datname = current_database()"


@pytest.fixture
def relay(migrated_postgres_url: str) -> Iterator[Relay]:
    made = Relay(sa.make_url(migrated_postgres_url).port or 0)
    yield made
    made.close()


@pytest.fixture
def database(migrated_postgres_url: str, relay: Relay, monkeypatch: pytest.MonkeyPatch) -> Iterator[PostgresDatabase]:
    monkeypatch.setattr(postgres, "PATIENT_ANSWER", 1.0)
    monkeypatch.setattr(postgres, "HURRIED_ANSWER", 0.5)
    monkeypatch.setattr(postgres, "LISTENER_CHECK", 0.5)
    made = PostgresDatabase(sa.make_url(migrated_postgres_url).set(port=relay.port))
    yield made
    made.close()


@pytest.fixture
def app(migrated_postgres_url: str) -> Iterator[str]:
    """A role that logs in and acts as another one, as short-lived credentials do."""
    with psycopg.connect(migrated_postgres_url, autocommit=True) as connection:
        connection.execute("CREATE ROLE owner_of_all")
        connection.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO owner_of_all")
        connection.execute("CREATE ROLE app LOGIN IN ROLE owner_of_all")
        connection.execute("ALTER ROLE app SET role = 'owner_of_all'")
        yield "app"
        connection.execute("DROP ROLE app")
        connection.execute("DROP OWNED BY owner_of_all")
        connection.execute("DROP ROLE owner_of_all")


def test_a_commit_that_was_given_up_is_not_made_later(
    database: PostgresDatabase, relay: Relay, migrated_postgres_url: str
) -> None:
    _give_up(database, relay, migrated_postgres_url)


def test_nor_where_the_role_that_logs_in_acts_as_another(
    app: str, relay: Relay, migrated_postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "HURRIED_ANSWER", 0.5)
    database = PostgresDatabase(sa.make_url(migrated_postgres_url).set(port=relay.port, username=app))
    try:
        _give_up(database, relay, migrated_postgres_url)
    finally:
        database.close()


def _give_up(database: PostgresDatabase, relay: Relay, migrated_postgres_url: str) -> None:
    database.begin(is_hurried=True).rollback()
    tx = database.begin(is_hurried=True)
    assert tx.fetch(COUNT) == [(0,)]  # the server has heard of the transaction
    tx.insert(schema.queue_changes, ("namespace", "number"), [("late", 7)])
    assert relay.silence(WRITER) == 1
    with pytest.raises(LostError, match="not answered for"):
        tx.commit()
    tx = database.begin(is_hurried=True)  # on a new connection
    assert tx.fetch(COUNT) == [(0,)]
    tx.rollback()
    relay.release()
    with psycopg.connect(migrated_postgres_url) as connection:
        wait_until(lambda: connection.execute(WRITERS, (WRITER,)).fetchone() == (1,), "the old connection is gone")
        assert connection.execute(COUNT.encode()).fetchone() == (0,)


def test_a_rollback_that_was_given_up_leaves_no_results_for_others(database: PostgresDatabase, relay: Relay) -> None:
    database.begin(is_hurried=True).rollback()
    tx = database.begin(is_hurried=True)
    with pytest.raises(ConflictError):
        tx.fetch("SELECT 1 / ?", (0,))
    assert relay.silence(WRITER) == 1
    late = threading.Timer(1.5 * postgres.HURRIED_ANSWER, relay.release)
    late.start()
    tx.rollback()
    late.join()
    for expected in (1, 2, 3):
        tx = database.begin(is_hurried=True)
        assert tx.fetch("SELECT ?", (expected,)) == [(expected,)]
        tx.rollback()


@contextlib.contextmanager
def no_standby(server: PostgresServer) -> Iterator[None]:
    """Commits wait for a standby that does not come."""
    server.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
    server.execute("SELECT pg_reload_conf()")
    yield
    server.execute("ALTER SYSTEM RESET synchronous_standby_names")
    server.execute("SELECT pg_reload_conf()")


def test_a_former_connection_that_waits_for_a_standby_is_not_ended(
    own_postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has committed, and would be seen although no standby has it."""
    monkeypatch.setattr(postgres, "HURRIED_ANSWER", 0.5)
    url = own_postgres_server.create_database()
    migrate(url)
    database = PostgresDatabase(sa.make_url(url))
    database.begin(is_hurried=True).rollback()
    with no_standby(own_postgres_server):
        tx = database.begin(is_hurried=True)
        tx.insert(schema.queue_changes, ("namespace", "number"), [("kept", 7)])

        def gives_up() -> bool:
            nonlocal tx
            try:
                tx.commit()
            except LostError:
                return True
            tx = database.begin(is_hurried=True)  # the server had not heard of the standby yet
            tx.upsert(schema.queue_changes, ("namespace",), ("number",), [("kept", 7)])
            return False

        wait_until(gives_up, "a commit waits for a standby")
        with pytest.raises(LostError, match="still under way"):
            database.begin()

    def is_back() -> bool:
        try:
            tx = database.begin()
            return tx.fetch(COUNT) == [(1,)]
        except LostError:
            return False

    wait_until(is_back, "the former connection has ended by itself")
    database.close()


def test_a_connection_that_succeeds_another_waits_for_the_standby(
    own_postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the other one had committed just before may not be there yet."""
    monkeypatch.setattr(postgres, "PATIENT_ANSWER", 1.0)
    database = PostgresDatabase(sa.make_url(own_postgres_server.create_database()))
    with no_standby(own_postgres_server):

        def waits() -> bool:
            try:
                database.begin()
            except LostError as error:
                return "not answered" in str(error)
            database.drop_writer()
            return False

        wait_until(waits, "a new connection waits for a standby")
    database.close()


@pytest.mark.parametrize("style", ["SQL, DMY", "German", "ISO, YMD"])
def test_a_scheduler_connects_whatever_the_style_of_dates(migrated_postgres_url: str, style: str) -> None:
    with psycopg.connect(migrated_postgres_url, autocommit=True) as connection:
        name = connection.info.dbname
        connection.execute(f"ALTER DATABASE {name} SET datestyle = '{style}'".encode())
        database = PostgresDatabase(sa.make_url(migrated_postgres_url))
        try:
            for _ in range(2):
                database.begin().rollback()
                database.drop_writer()
        finally:
            database.close()
            connection.execute(f"ALTER DATABASE {name} RESET datestyle".encode())


def test_a_reader_gives_up_and_the_next_one_has_a_connection_of_its_own(
    database: PostgresDatabase, relay: Relay
) -> None:
    with pytest.raises(sa.exc.OperationalError, match="has not answered"), database.reader() as connection:
        connection.execute(sa.text("SELECT 1"))
        assert relay.silence() == 1
        connection.execute(sa.text("SELECT 1"))
    with database.reader() as connection:
        assert connection.execute(sa.text("SELECT 1")).scalar_one() == 1


def test_a_listener_hears_again(database: PostgresDatabase, relay: Relay) -> None:
    heard: queue.SimpleQueue[str] = queue.SimpleQueue()
    database.listen(heard.put)
    wait_until(lambda: database.listeners() == 1, "it listens")
    assert relay.silence(LISTENER) == 1

    def hears() -> bool:
        database.send_notes(["a note"])
        return not heard.empty()

    wait_until(hears, "it hears a note")
