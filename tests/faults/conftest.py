"""One stage per database serves the tests of a module; a test that failed leaves a new one to the next."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping

import pytest

from harness.postgres import PostgresServer
from harness.processes import Deployment
from harness.stage import Stage

LOGS = pytest.StashKey[list[Deployment]]()
FAILED = pytest.StashKey[bool]()

SETTINGS = {"lease": "3"}
"""A short lease, so that its end need not be awaited for long; all else as it is by default."""


class Stages:
    """Makes stages and keeps the last of each database."""

    def __init__(self, folders: pytest.TempPathFactory) -> None:
        self._folders = folders
        self._stages: dict[str, Stage] = {}

    def get(self, database_url: str) -> Stage:
        if database_url not in self._stages:
            folder = self._folders.mktemp("stage")

            def deploy(url: str, environment: Mapping[str, str]) -> Deployment:
                (folder / "deployment").mkdir()
                return Deployment(folder / "deployment", url, environment)

            self._stages[database_url] = Stage(folder, deploy, database_url, **SETTINGS)
        return self._stages[database_url]

    def forget(self, stage: Stage) -> None:
        for url, kept in list(self._stages.items()):
            if kept is stage:
                del self._stages[url]
        stage.deployment.close()
        stage.close()

    def close(self) -> None:
        for stage in list(self._stages.values()):
            self.forget(stage)


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stages]:
    made = Stages(tmp_path_factory)
    yield made
    made.close()


@pytest.fixture(scope="module")
def module_sqlite_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('database') / 'holdfast.sqlite3'}"


@pytest.fixture(scope="module")
def module_postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    url = postgres_server.create_database()
    yield url
    postgres_server.drop_database(url)


@pytest.fixture(params=["sqlite", "postgres"])
def stage(request: pytest.FixtureRequest, stages: Stages) -> Iterator[Stage]:
    """A stage on each database; a test calls `ready` first."""
    made = stages.get(request.getfixturevalue(f"module_{request.param}_url"))
    request.node.stash[LOGS] = [made.deployment]
    yield made
    if request.node.stash.get(FAILED, False):
        stages.forget(made)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Attach the logs of the stage to the report of a failed test."""
    report = yield
    if report.failed:
        item.stash[FAILED] = True
        for deployment in item.stash.get(LOGS, []):
            report.sections.extend((f"log of {name}", text[-20_000:]) for name, text in deployment.logs())
    return report
