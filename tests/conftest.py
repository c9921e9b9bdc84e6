"""Fixtures shared by all folders of tests."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path

import pytest

# A PostgreSQL started as another user is forked, not vforked; gRPC's handlers would run, and crash, in that child.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")

from harness.postgres import PostgresServer, PostgresUnavailableError
from harness.processes import Deployment
from harness.requirements import missing
from harness.stage import Stage
from harness.stages import DEPLOYMENTS, FAILED, Stages

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the repository."""
    return REPOSITORY


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A real PostgreSQL, started once per test process. Whoever stops or kills it uses `own_postgres_server`."""
    try:
        server = PostgresServer()
    except PostgresUnavailableError as error:
        missing("postgres", str(error))
    yield server
    server.close()


@pytest.fixture
def own_postgres_server() -> Iterator[PostgresServer]:
    """A PostgreSQL that belongs to this test alone, to be stopped, killed or paused."""
    try:
        server = PostgresServer()
    except PostgresUnavailableError as error:
        missing("postgres", str(error))
    yield server
    server.close()


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """URL of an empty database on the shared PostgreSQL, dropped afterwards."""
    url = postgres_server.create_database()
    yield url
    postgres_server.drop_database(url)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """URL of a SQLite file that does not exist yet."""
    return f"sqlite:///{tmp_path / 'holdfast.sqlite3'}"


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest) -> str:
    """URL of an empty database, once on SQLite and once on PostgreSQL."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
def deploy(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Callable[..., Deployment]]:
    """Makes deployments whose processes are killed, and whose logs are shown when the test failed."""
    made: list[Deployment] = []

    def make(database_url: str, environment: Mapping[str, str] | None = None) -> Deployment:
        folder = tmp_path / f"deployment-{len(made)}"
        folder.mkdir()
        made.append(Deployment(folder, database_url, environment))
        return made[-1]

    request.node.stash[DEPLOYMENTS] = made
    yield make
    for deployment in made:
        deployment.close()


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stages]:
    """The stages of a module."""
    made = Stages(tmp_path_factory)
    yield made
    made.close()


@pytest.fixture(scope="module")
def module_sqlite_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """URL of a SQLite file for a module."""
    return f"sqlite:///{tmp_path_factory.mktemp('database') / 'holdfast.sqlite3'}"


@pytest.fixture(scope="module")
def module_postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """URL of a PostgreSQL database for a module."""
    url = postgres_server.create_database()
    yield url
    postgres_server.drop_database(url)


@pytest.fixture(params=["sqlite", "postgres"])
def stage(request: pytest.FixtureRequest, stages: Stages) -> Iterator[Stage]:
    """A stage, once on each database; a test calls `ready` first."""
    yield from stages.lend(request.getfixturevalue(f"module_{request.param}_url"), request.node)


@pytest.fixture
def lite_stage(module_sqlite_url: str, request: pytest.FixtureRequest, stages: Stages) -> Iterator[Stage]:
    """A stage for what does not depend on the database."""
    yield from stages.lend(module_sqlite_url, request.node)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Attach the logs of all processes to the report of a failed test."""
    report = yield
    if report.failed:
        item.stash[FAILED] = True
        for deployment in item.stash.get(DEPLOYMENTS, []):
            report.sections.extend((f"log of {name}", text) for name, text in deployment.logs())
    return report
