"""The last release and this checkout work together: old SDK and worker with the new scheduler, and the reverse.

The last release is the newest tag vX.Y.Z. `HOLDFAST_COMPAT_REF` names another commit to take its place.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from harness.ports import free_port
from harness.processes import ServerProcess
from harness.pythons import Environment
from harness.waiting import wait_until

REF_VARIABLE = "HOLDFAST_COMPAT_REF"

TASKS = """
from holdfast import Retry, idempotency_keys, metadata, step, task, wait

@task(id="double")
async def double(number: int) -> int:
    return number * 2

@task(id="journey", retry=Retry(max_attempts=1))
async def journey(number: int) -> list[int]:
    first = await step("first", lambda: number + 1)
    await wait.for_(seconds=0.1)
    metadata.set("seen", first)
    child = await double.trigger_and_wait(first)
    batch = await double.batch_trigger_and_wait([1, 2])
    handle = await double.trigger(3, idempotency_key=idempotency_keys.create("three"))
    assert handle.id
    return [first, child.unwrap(), *[one.unwrap() for one in batch]]

@task(id="parked")
async def parked(seconds: float) -> str:
    found = await step("once", lambda: "recorded")
    await wait.for_(seconds=seconds)
    return found
"""


class Release:
    """One release as its users have it: `command` runs its `holdfast`."""

    def __init__(self, name: str, command: Sequence[str], variables: Mapping[str, str]) -> None:
        self.name = name
        self._command = list(command)
        self._variables = dict(variables)

    def start(self, folder: Path, *arguments: str, **variables: str) -> ServerProcess:
        """Start `holdfast ARGUMENTS` in the background."""
        log = folder / f"{self.name}-{arguments[0]}-{len(list(folder.iterdir()))}.log"
        return ServerProcess(log.stem, [*self._command, *arguments], {**self._variables, **variables}, log)

    def run(self, folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run `holdfast ARGUMENTS` to its end."""
        environment = {**self._variables, **variables}
        command = [*self._command, *arguments]
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def _git(repository: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(repository), *arguments], capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else ""


@pytest.fixture(scope="session")
def old(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Release:
    """The last release, built from its commit and installed in a clean environment."""
    ref = os.environ.get(REF_VARIABLE, "")
    if not ref:
        tags = _git(repository, "tag", "--list", "v[0-9]*.[0-9]*.[0-9]*", "--sort=-version:refname").splitlines()
        if not tags:
            pytest.skip(f"no tag yet: there is no release to be compatible with ({REF_VARIABLE} may name a commit)")
        ref = tags[0]
    commit = _git(repository, "rev-parse", "--verify", f"{ref}^{{commit}}")
    assert commit, f"{ref!r} is no commit of this repository"
    folder = tmp_path_factory.mktemp("old")
    source = folder / "source"
    source.mkdir()
    archive = subprocess.run(["git", "-C", str(repository), "archive", commit], capture_output=True, check=True)
    subprocess.run(["tar", "-x", "-C", str(source)], input=archive.stdout, check=True)
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    # What is imported while it is built must be nothing of this checkout.
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=source, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    environment = Environment(folder / "environment", sys.executable)
    environment.install(f"{wheel}[scheduler]")
    shown = environment.run("-c", "import holdfast; print(holdfast.__file__)")
    assert str(environment.folder) in shown.stdout, f"the old release is not what is imported: {shown.stdout}"
    return Release("old", [str(environment.folder / "bin" / "holdfast")], environment.variables)


@pytest.fixture(scope="session")
def new() -> Release:
    """This checkout."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HOLDFAST_")}
    return Release("new", [sys.executable, "-m", "holdfast"], {**kept, "PYTHONUNBUFFERED": "1"})


@pytest.fixture
def starting() -> Iterator[Callable[[ServerProcess], ServerProcess]]:
    """Ends the processes that it is given, and shows what they wrote."""
    started: list[ServerProcess] = []

    def keep(process: ServerProcess) -> ServerProcess:
        started.append(process)
        return process

    yield keep
    for process in reversed(started):
        process.kill()
        print(f"--- {process.name}\n{process.log_text()}")


@pytest.mark.timeout(600)  # an environment is made first
@pytest.mark.parametrize(("scheduler_name", "worker_name"), [("new", "old"), ("old", "new")])
def test_sdk_and_worker_of_one_release_with_the_scheduler_of_the_other(
    scheduler_name: str,
    worker_name: str,
    request: pytest.FixtureRequest,
    starting: Callable[[ServerProcess], ServerProcess],
    tmp_path: Path,
) -> None:
    scheduler, worker = request.getfixturevalue(scheduler_name), request.getfixturevalue(worker_name)
    (tmp_path / "app.py").write_text(TASKS)
    address = f"127.0.0.1:{free_port()}"
    url = f"sqlite:///{tmp_path / 'holdfast.db'}"
    variables = {"HOLDFAST_ADDRESS": address}
    starting(scheduler.start(tmp_path, "scheduler", "--database", url, "--listen", address))
    wait_until(lambda: worker.run(tmp_path, "health", **variables).returncode == 0, "the scheduler serves")
    first = starting(worker.start(tmp_path, "worker", "app.py", "--code-version", "1", **variables))

    def journeyed() -> str:
        done = worker.run(tmp_path, "trigger", "journey", "2", "--key", "once", "--wait", **variables)
        return done.stdout.strip() if done.returncode == 0 else ""

    found = wait_until(journeyed, "a run completes")
    assert "".join(found.split()) == "[3,6,2,4]"

    # A body that is parked is entered again by another worker.
    done = worker.run(tmp_path, "trigger", "parked", "2", **variables)
    assert done.returncode == 0, done.stderr
    run_id = done.stdout.split()[0]
    wait_until(lambda: "WAITING" in worker.run(tmp_path, "runs", "show", run_id, **variables).stdout, "it is parked")
    first.kill()
    starting(worker.start(tmp_path, "worker", "app.py", "--code-version", "1", **variables))
    wait_until(lambda: "COMPLETED" in worker.run(tmp_path, "runs", "show", run_id, **variables).stdout, "it ends")
    shown = worker.run(tmp_path, "runs", "show", run_id, **variables).stdout
    assert "recorded" in shown
    listed = worker.run(tmp_path, "runs", "list", "--json", **variables)
    assert listed.returncode == 0, listed.stderr
    assert run_id in listed.stdout
