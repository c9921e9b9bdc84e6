"""The scenarios, on both databases, through the Python SDK and through bare generated stubs."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from grpc import aio

from harness import scenario_tasks
from harness.drivers import Driver, SdkDriver, StubDriver
from harness.processes import Deployment
from harness.scenarios import SCENARIOS, Scenario
from harness.stages import DEPLOYMENTS
from holdfast import Client

TASKS = str(Path(scenario_tasks.__file__))


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A scheduler and a worker for all scenarios, once on each database."""
    url = request.getfixturevalue(f"module_{request.param}_url")
    with Deployment(tmp_path_factory.mktemp("scenarios"), url) as deployment:
        deployment.start_scheduler()
        deployment.start_worker(TASKS)
        deployment.wait_for_workers("has-all")
        yield deployment


@pytest.fixture(params=["sdk", "stubs"])
async def driver(site: Deployment, request: pytest.FixtureRequest) -> AsyncIterator[Driver]:
    request.node.stash[DEPLOYMENTS] = [site]
    async with aio.insecure_channel(site.address) as channel, Client(site.address) as client:
        with client.use():
            yield SdkDriver() if request.param == "sdk" else StubDriver(channel)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
async def test_scenario(driver: Driver, scenario: Scenario) -> None:
    await scenario(driver, uuid.uuid4().hex[:12])
