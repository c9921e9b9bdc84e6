"""Stages that serve the tests of a module, one per database; a test that failed leaves a new one to the next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest

from harness.processes import Deployment
from harness.stage import Stage

DEPLOYMENTS = pytest.StashKey[list[Deployment]]()
"""Whose logs are shown when the test failed."""
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

    def lend(self, database_url: str, node: pytest.Item) -> Iterator[Stage]:
        """A stage for one test."""
        made = self.get(database_url)
        node.stash[DEPLOYMENTS] = [made.deployment]
        yield made
        if node.stash.get(FAILED, False):
            self.forget(made)
