"""What is built installs in a clean environment, with each extra alone, and works there."""

from __future__ import annotations

import signal
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from harness.ports import free_port
from harness.pythons import Environment, python_of
from harness.waiting import wait_until
from holdfast.v1.run_service_pb2 import GetServerInfoRequest
from holdfast.v1.run_service_pb2_grpc import RunServiceStub

pytestmark = pytest.mark.timeout(600)  # each makes an environment and fills it from the package index

VERSIONS = ["3.11", "3.12", "3.13", "3.14"]
PACKAGES = ["holdfast", "holdfast_scheduler", "holdfast_worker"]
STOP_DEADLINE_S = 30.0
BUILD = "0123abc"

TASKS = """
from holdfast import step, task

@task(id="double")
async def double(number: int) -> int:
    return await step("double", lambda: number * 2)
"""

TYPED = """
from holdfast import RunHandle, task

@task(id="length")
async def length(text: str) -> int:
    return len(text)

async def main() -> int:
    handle: RunHandle[int] = await length.trigger("four")
    return await handle.result()

reveal_type(main)
"""


@dataclass(frozen=True)
class Built:
    """The files of a release."""

    wheel: Path
    sdist: Path


@pytest.fixture(scope="session")
def built(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Wheel and sdist, built by the project's own back end."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-t", "sdist", "-d", str(folder)]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    (sdist,) = folder.glob("*.tar.gz")
    return Built(wheel, sdist)


def test_the_wheel_holds_the_packages_and_nothing_else(built: Built) -> None:
    names = zipfile.ZipFile(built.wheel).namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)
    for package in PACKAGES:
        assert f"{package}/py.typed" in names
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    assert not [name for name in names if "/tests/" in name or name.endswith((".pyc", ".proto"))]


def test_the_sdist_holds_what_a_build_needs_and_the_contract(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "protos/holdfast/v1/run.proto"} <= names
    assert not [name for name in names if name.startswith(("tests/", "docs/", ".")) and name != ".gitignore"]


def test_the_wheel_alone_is_sdk_and_worker(built: Built, tmp_path: Path) -> None:
    environment = _installed(tmp_path, str(built.wheel))
    version = environment.holdfast("--version")
    assert version.stdout.startswith("holdfast "), version.stderr
    done = environment.run("-c", "import holdfast, holdfast_worker.main; from holdfast import task, step, wait, sync")
    assert done.returncode == 0, done.stderr
    for package in ("sqlalchemy", "psycopg", "alembic", "grpc_health"):
        assert environment.run("-c", f"import {package}").returncode != 0
    refused = environment.holdfast("scheduler")
    assert (refused.returncode, refused.stderr.count("\n")) == (6, 1)
    assert "pip install 'holdfast[scheduler]'" in refused.stderr


def test_the_scheduler_extra_alone_serves_on_sqlite(built: Built, tmp_path: Path) -> None:
    environment = _installed(tmp_path, f"{built.wheel}[scheduler]")
    _check_that_it_works(environment)
    refused = environment.holdfast("migrate", "--database", "postgresql://nobody@127.0.0.1:1/x")
    assert (refused.returncode, refused.stderr.count("\n")) == (6, 1)
    assert "pip install 'holdfast[postgres]'" in refused.stderr


@pytest.mark.parametrize("version", VERSIONS)
def test_the_postgres_extra_alone_on_each_python(version: str, built: Built, tmp_path: Path, postgres_url: str) -> None:
    environment = _installed(tmp_path, f"{built.wheel}[postgres]", python_of(version))
    _check_that_it_works(environment)
    done = environment.holdfast("migrate", "--database", postgres_url)
    assert done.returncode == 0, done.stderr


def test_the_sdist_installs_and_works(built: Built, tmp_path: Path) -> None:
    _check_that_it_works(_installed(tmp_path, f"{built.sdist}[scheduler]"))


def test_type_checkers_see_the_types(built: Built, tmp_path: Path) -> None:
    environment = _installed(tmp_path, str(built.wheel))
    (environment.folder / "typed.py").write_text(TYPED)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--python-executable", environment.python, "typed.py"],
        cwd=environment.folder,
        env=environment.variables,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'Revealed type is "def () -> typing.Coroutine[Any, Any, int]"' in done.stdout.replace("builtins.", "")


def _installed(folder: Path, requirement: str, python: str = sys.executable) -> Environment:
    environment = Environment(folder / "environment", python)
    environment.install(requirement)
    return environment


def _check_that_it_works(environment: Environment) -> None:
    """A scheduler and a worker, started as a user starts them; a run completes; version and build are reported."""
    (environment.folder / "app.py").write_text(TASKS)
    address = f"127.0.0.1:{free_port()}"
    variables = {"HOLDFAST_LISTEN": address, "HOLDFAST_ADDRESS": address, "HOLDFAST_BUILD": BUILD}
    with (environment.folder / "dev.log").open("wb") as log:
        dev = subprocess.Popen(
            [str(environment.folder / "bin" / "holdfast"), "dev", "app.py"],
            cwd=environment.folder,
            env={**environment.variables, **variables},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_until(lambda: environment.holdfast("health", **variables).returncode == 0, "the scheduler serves")

        def doubled() -> str:
            done = environment.holdfast("trigger", "double", "21", "--key", "once", "--wait", **variables)
            return done.stdout.strip() if done.returncode == 0 else ""

        assert wait_until(doubled, "the worker is connected and the run completes") == "42"
        with grpc.insecure_channel(address) as channel:
            info = RunServiceStub(channel).GetServerInfo(GetServerInfoRequest(), timeout=10)
        assert info.build == BUILD
        assert environment.holdfast("--version", **variables).stdout == f"holdfast {info.version} (build {BUILD})\n"
        dev.send_signal(signal.SIGTERM)
        assert dev.wait(STOP_DEADLINE_S) == 0, (environment.folder / "dev.log").read_text()
    finally:
        dev.kill()
        dev.wait()
