"""A migrated database per test, on SQLite and on PostgreSQL, and replicas that are driven by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from harness.postgres import PostgresServer
from harness.store_driver import Clock, Driver, broken_invariants, migrated_sqlite
from holdfast_scheduler import schema
from holdfast_scheduler.migrations import migrate

DriverMaker = Callable[..., Driver]


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Path of a migrated SQLite file, made when it is first copied."""
    return tmp_path_factory.mktemp("template") / "template.sqlite3"


@pytest.fixture(scope="session")
def shared_postgres_url(postgres_server: PostgresServer) -> str:
    """URL of a migrated database that tests use one after the other. It does not wait for the disk: what survives a
    power cut is tested elsewhere, with production's settings."""
    url = postgres_server.create_database("store_tests")
    migrate(url)
    postgres_server.execute("ALTER DATABASE store_tests SET synchronous_commit = off")
    return url


@pytest.fixture
def migrated_sqlite_url(tmp_path: Path, sqlite_template: Path) -> str:
    """URL of a migrated SQLite file."""
    return migrated_sqlite(tmp_path, sqlite_template)


@pytest.fixture
def migrated_postgres_url(shared_postgres_url: str) -> Iterator[str]:
    """URL of a migrated database on PostgreSQL, emptied afterwards."""
    yield shared_postgres_url
    with psycopg.connect(shared_postgres_url) as connection:
        for table in schema.metadata.sorted_tables:
            connection.execute(f"DELETE FROM {table.name}".encode())


@pytest.fixture
def clock() -> Clock:
    """The clock of all replicas of a test."""
    return Clock()


@pytest.fixture
def replica(clock: Clock) -> Iterator[DriverMaker]:
    """Makes replicas; at the end no database may hold what the invariants forbid."""
    made: list[Driver] = []

    def make(url: str, **options: Any) -> Driver:
        made.append(Driver(url, **{"clock": clock, **options}))
        return made[-1]

    yield make
    wrong = [text for one in made[:1] for text in broken_invariants(one.dump())]
    for one in made:
        one.close()
    assert not wrong, "\n".join(wrong)


@pytest.fixture(params=["sqlite", "postgres"])
def migrated_url(request: pytest.FixtureRequest) -> str:
    """URL of a migrated database, once on SQLite and once on PostgreSQL."""
    url: str = request.getfixturevalue(f"migrated_{request.param}_url")
    return url


@pytest.fixture
def db(migrated_url: str, replica: DriverMaker) -> Driver:
    """One replica on an empty database."""
    return replica(migrated_url)
