"""Deploys of a new version while runs are under way, with real workers of both."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from harness import version_tasks
from harness.ledger import LEDGER_VARIABLE, Ledger
from harness.processes import Deployment, ServerProcess
from harness.runs import Runs
from harness.waiting import wait_until
from holdfast.v1 import run_service_pb2 as api
from holdfast.v1 import token_service_pb2 as token_api
from holdfast.v1.payload_pb2 import Payload
from holdfast.v1.run_pb2 import TriggerOptions
from holdfast.v1.token_service_pb2_grpc import TokenServiceStub

TARGET = str(Path(version_tasks.__file__))
PATIENCE_S = "0.5"


class Site:
    """Schedulers that share a database, and workers of several versions."""

    def __init__(self, deploy: Callable[..., Deployment], url: str, folder: Path, schedulers: int = 1) -> None:
        self.ledger = Ledger(folder / "ledger.jsonl")
        environment = {LEDGER_VARIABLE: str(self.ledger.path), "HOLDFAST_VERSION_PATIENCE": PATIENCE_S}
        self.deployments = [deploy(url, environment) for _ in range(schedulers)]
        for one in self.deployments:
            one.start_scheduler()
        self.runs = Runs(self.deployments[0])

    def start_worker(self, version: str, *, at: int = 0, slots: int = 20) -> ServerProcess:
        """A worker of a version, connected to the scheduler with this number."""
        deployment = self.deployments[at]
        worker = deployment.start_worker(
            TARGET,
            name=f"worker-{version}-{len(deployment.processes)}",
            slots=slots,
            arguments=["--code-version", version],
            environment={version_tasks.CODE_VARIABLE: version, "HOLDFAST_DRAIN_TIMEOUT": "1"},
        )
        wait_until(lambda: "event=connected" in worker.log_text(), f"{version} is connected")
        return worker

    def new_token(self) -> str:
        """A token that nobody has completed."""
        stub = TokenServiceStub(self.deployments[0].channel)
        return str(stub.CreateToken(token_api.CreateTokenRequest(no_timeout=True), timeout=10).token.id)

    def complete(self, token: str) -> None:
        """Open the gate."""
        stub = TokenServiceStub(self.deployments[0].channel)
        stub.CompleteToken(token_api.CompleteTokenRequest(token_id=token, data=Payload(data=b"1")), timeout=10)

    def park(self, task: str, token: str) -> str:
        """A run that waits for the token."""
        run_id = self.runs.trigger(task, {"token": token})
        self.runs.until(run_id, "WAITING")
        return run_id

    def explain(self, run_id: str) -> str:
        """Why the run does not progress."""
        return str(self.runs.stub.ExplainRun(api.ExplainRunRequest(run_id=run_id), timeout=10).sentence)

    def entered(self, run_id: str) -> list[str]:
        """Versions in which the body was entered, in order."""
        return [one.note for one in self.ledger.read() if one.run == run_id and one.identity == "enter"]


def test_a_rolling_deploy(deploy: Callable[..., Deployment], database_url: str, tmp_path: Path) -> None:
    site = Site(deploy, database_url, tmp_path)
    old = site.start_worker("1")
    gates = [site.new_token() for _ in range(4)]
    here, moving = site.park("free", gates[0]), site.park("free", gates[1])
    staying = site.park("loyal", gates[2])
    site.start_worker("2")

    # A new run starts on the new version; one that waited goes on in place, on its own.
    site.complete(gates[3])
    assert site.runs.completed(site.runs.trigger("free", {"token": gates[3]})).output == [
        "first by 2", "last by 2", "2"
    ]  # fmt: skip
    site.complete(gates[0])
    assert site.runs.completed(here).output == ["first by 1", "last by 1", "1"]
    assert site.entered(here) == ["1"]

    # The last worker of the old version is gone: one run moves, with its records, and one waits.
    old.kill()
    site.complete(gates[1])
    site.complete(gates[2])
    moved = site.runs.completed(moving)
    assert moved.output == ["first by 1", "last by 2", "2"]
    assert (moved.version, moved.recoveries) == ("2", 0)
    assert site.entered(moving) == ["1", "2"]
    waiting = site.runs.get(staying)
    assert (waiting.status, waiting.version) == ("QUEUED", "1")
    assert "version '1'" in site.explain(staying)

    site.start_worker("1")
    assert site.runs.completed(staying).output == ["first by 1", "last by 1", "1"]
    assert site.entered(staying) == ["1", "1"]


def test_what_a_worker_hands_back_goes_to_another_of_its_version_at_any_scheduler(
    deploy: Callable[..., Deployment], postgres_url: str, tmp_path: Path
) -> None:
    site = Site(deploy, postgres_url, tmp_path, schedulers=2)
    first = site.start_worker("1")
    gate = site.new_token()
    run_id = site.park("free", gate)
    site.start_worker("2")
    second = site.start_worker("1", at=1)
    assert first.stop() == 0
    site.complete(gate)
    assert site.runs.completed(run_id).output == ["first by 1", "last by 1", "1"]
    assert site.entered(run_id) == ["1", "1"]
    assert second.exit_code is None


def test_a_trigger_for_a_version_waits_for_it(
    deploy: Callable[..., Deployment], sqlite_url: str, tmp_path: Path
) -> None:
    site = Site(deploy, sqlite_url, tmp_path)
    site.start_worker("2", slots=1)
    gate = site.new_token()
    site.complete(gate)
    pinned = site.runs.trigger("free", {"token": gate}, options=TriggerOptions(version="1"))
    others = [site.runs.trigger("free", {"token": gate}) for _ in range(5)]
    assert {site.runs.completed(one).version for one in others} == {"2"}
    assert site.runs.get(pinned).status == "QUEUED"
    assert "version '1'" in site.explain(pinned)
    site.start_worker("1")
    assert site.runs.completed(pinned).output == ["first by 1", "last by 1", "1"]


MATCHED = {
    "unchanged": ["a by 1", "b by 1"],
    "added-behind": ["a by 1", "b by 2"],
    "reordered": ["a by 1"],
    "keyed-moved": ["c by 2", "b by 1", "a by 1"],
}
MISMATCHED = {
    "added-before": "'new'",
    "removed": "'a'",
    "last-removed": "'b'",
    "renamed": "'z'",
    "other-arguments": "other arguments",
    "other-payload": "other arguments",
}


def test_changed_code_finds_the_right_records_or_says_that_it_cannot(
    deploy: Callable[..., Deployment], sqlite_url: str, tmp_path: Path
) -> None:
    site = Site(deploy, sqlite_url, tmp_path)
    old = site.start_worker("1")
    gate = site.new_token()
    runs = {task: site.park(task, gate) for task in (*MATCHED, *MISMATCHED)}
    old.kill()
    site.start_worker("2")
    site.complete(gate)
    for task, output in MATCHED.items():
        assert (task, site.runs.completed(runs[task]).output) == (task, output)
    for task, named in MISMATCHED.items():
        run = site.runs.end(runs[task])
        assert (task, run.status, run.attempt) == (task, "FAILED", 1)
        assert run.error is not None
        assert run.error.type == "NonDeterminismError", f"{task}: {run.error}"
        assert named in run.error.message, f"{task}: {run.error.message}"
    # Nothing that was recorded was done again.
    done = [(one.run, one.identity) for one in site.ledger.read()]
    assert len(done) == len(set(done))


@pytest.mark.parametrize("version", ["1", "2"])
def test_a_child_that_is_waited_for_has_its_parents_version(
    version: str, deploy: Callable[..., Deployment], sqlite_url: str, tmp_path: Path
) -> None:
    site = Site(deploy, sqlite_url, tmp_path)
    for one in "12":
        site.start_worker(one)
    gate = site.new_token()
    site.complete(gate)
    run_id = site.runs.trigger("other-payload", {"token": gate}, options=TriggerOptions(version=version))
    assert site.runs.completed(run_id).output == [f"{version} by {version}"]
