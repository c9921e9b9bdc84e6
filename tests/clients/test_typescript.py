"""The contract stands alone: a client and a worker in TypeScript, made from the protos by npm's tools."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness import node
from harness.ledger import LEDGER_VARIABLE, Ledger, repeated_fences
from harness.processes import Deployment, ServerProcess
from harness.runs import Runs
from harness.waiting import wait_until

pytestmark = pytest.mark.node

TASKS = str(Path(__file__).with_name("typescript_tasks.py"))
DEADLINE_S = 60.0
JOURNEY = "typescript-journey"
EFFECTS = {"first": 1, "after the wait": 1, "second": 1}


@pytest.fixture(scope="session")
def typescript() -> Path:
    """The folder of the compiled clients."""
    return node.built()


class Client:
    """The client in TypeScript, one process per command."""

    def __init__(self, folder: Path, deployment: Deployment) -> None:
        self._command = ["node", str(folder / "cli.js")]
        self._environment = deployment.environment

    def ask(self, *arguments: str) -> Any:
        """The document that a command prints."""
        done = subprocess.run(
            [*self._command, *arguments], env=self._environment, capture_output=True, text=True, timeout=DEADLINE_S
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def begin(self, *arguments: str) -> subprocess.Popen[str]:
        """A command that goes on."""
        return subprocess.Popen([*self._command, *arguments], env=self._environment, stdout=subprocess.PIPE, text=True)


class TestClient:
    """Triggers, waits for the result, watches, cancels and completes a token."""

    @pytest.fixture
    def site(self, sqlite_url: str, deploy: Callable[..., Deployment]) -> Deployment:
        """A scheduler and a worker in Python."""
        site = deploy(sqlite_url)
        site.start_scheduler()
        site.start_worker(TASKS)
        site.wait_for_workers("double")
        return site

    @pytest.fixture
    def client(self, typescript: Path, site: Deployment) -> Client:
        return Client(typescript, site)

    def test_triggers_and_waits_for_the_result(self, client: Client, site: Deployment) -> None:
        run_id = client.ask("trigger", "double", "21", "the key")
        assert client.ask("result", run_id) == {"status": "COMPLETED", "output": 42, "error": ""}
        assert client.ask("trigger", "double", "21", "the key") == run_id
        assert Runs(site).get(run_id).idempotency_key is not None

    def test_gets_an_error_that_teaches(self, client: Client) -> None:
        with pytest.raises(AssertionError, match=r"TASK_NOT_FOUND.*duoble"):
            client.ask("trigger", "duoble", "21")

    def test_watches(self, client: Client) -> None:
        run_id = client.ask("trigger", "count", "3")
        with client.begin("watch", run_id) as watching:
            assert watching.stdout is not None
            seen = [json.loads(line) for line in watching.stdout]
        assert seen[-1] == {"status": "COMPLETED", "metadata": {"number": 3}}
        numbers = [each["metadata"].get("number", 0) for each in seen]
        assert numbers == sorted(numbers)

    def test_cancels(self, client: Client, site: Deployment) -> None:
        run_id = client.ask("trigger", "count", "1000000")
        Runs(site).until(run_id, "WAITING")
        assert client.ask("cancel", run_id) is True
        assert client.ask("result", run_id)["status"] == "CANCELED"
        assert client.ask("cancel", run_id) is False

    def test_completes_a_token(self, client: Client, site: Deployment) -> None:
        run_id = client.ask("trigger", "approval")
        Runs(site).until(run_id, "WAITING")
        token_id = Runs(site).get(run_id).metadata["token"]
        assert client.ask("complete-token", token_id, '"yes"') is True
        assert client.ask("complete-token", token_id, '"no"') is False
        assert client.ask("result", run_id) == {"status": "COMPLETED", "output": "answer: yes", "error": ""}


class Stage:
    """A scheduler, and workers in TypeScript whose effects go to a ledger."""

    def __init__(self, folder: Path, deployment: Deployment, ledger: Ledger) -> None:
        self.deployment = deployment
        self.ledger = ledger
        self.runs = Runs(deployment)
        self._script = str(folder / "journey.js")
        self._started = 0

    def start_scheduler(self) -> ServerProcess:
        self._started += 1
        return self.deployment.start_scheduler(name=f"scheduler-{self._started}")

    def start_worker(self, workers: int = 1) -> ServerProcess:
        """One more; returns when `workers` are connected."""
        self._started += 1
        name = f"typescript-{self._started}"
        log = self.deployment.folder / f"{name}.log"
        worker = ServerProcess(name, ["node", self._script], self.deployment.environment, log)
        self.deployment.processes.append(worker)
        self.deployment.wait_for_workers(JOURNEY, workers)
        return worker

    def happened(self, identity: str) -> None:
        """Wait until an effect is in the ledger."""
        wait_until(lambda: self.ledger.counts()[identity], f"{identity!r} is in the ledger")

    def check(self, run_id: str, enters: int, **more: int) -> None:
        """What the run did in the outside world."""
        output = {"first": 42, "second": "done"}
        run = self.runs.completed(run_id)
        assert run.output == output
        assert self.ledger.counts() == {"enter": enters, **EFFECTS, **more}
        assert not repeated_fences(self.ledger.read())


class TestWorker:
    """A task with a step and a wait, on the bare stream."""

    @pytest.fixture
    def stage(self, typescript: Path, sqlite_url: str, deploy: Callable[..., Deployment], tmp_path: Path) -> Stage:
        ledger = tmp_path / "ledger.jsonl"
        environment = {LEDGER_VARIABLE: str(ledger), "HOLDFAST_DRAIN_TIMEOUT": "0"}
        return Stage(typescript, deploy(sqlite_url, environment), Ledger(ledger))

    def test_a_parked_body_goes_on_in_place(self, stage: Stage) -> None:
        stage.start_scheduler()
        stage.start_worker()
        run_id = stage.runs.trigger(JOURNEY, {"wait": 0.1})
        stage.check(run_id, enters=1)
        fences = {effect.identity: effect.fence for effect in stage.ledger.read()}
        assert fences == {"enter": 1, "first": 1, "after the wait": 2, "second": 2}

    def test_a_kill_between_the_step_and_the_end_of_the_wait(self, stage: Stage) -> None:
        stage.start_scheduler()
        worker = stage.start_worker()
        run_id = stage.runs.trigger(JOURNEY, {"wait": 3})
        stage.runs.until(run_id, "WAITING")
        worker.kill()
        stage.start_worker()
        stage.check(run_id, enters=2)
        run = stage.runs.get(run_id)
        assert (run.attempt, run.recoveries) == (1, 0)  # nothing was executing

    def test_a_kill_inside_the_step(self, stage: Stage, tmp_path: Path) -> None:
        stage.start_scheduler()
        worker = stage.start_worker()
        gate = tmp_path / "gate"
        gate.touch()
        run_id = stage.runs.trigger(JOURNEY, {"wait": 0.1, "gate": str(gate)})
        stage.happened("first")
        worker.kill()
        gate.unlink()
        stage.start_worker()
        stage.check(run_id, enters=2, first=2)  # its checkpoint was not committed
        run = stage.runs.get(run_id)
        assert (run.attempt, run.recoveries) == (1, 1)

    def test_the_scheduler_is_killed_and_comes_back(self, stage: Stage, tmp_path: Path) -> None:
        scheduler = stage.start_scheduler()
        stage.start_worker()
        gate = tmp_path / "gate"
        gate.touch()
        executing = stage.runs.trigger(JOURNEY, {"wait": 0.1, "gate": str(gate)})
        stage.happened("first")
        scheduler.kill()
        gate.unlink()  # the step ends while nobody is there to be told
        stage.start_scheduler()
        stage.check(executing, enters=1)

    def test_a_cancellation(self, stage: Stage, tmp_path: Path) -> None:
        stage.start_scheduler()
        stage.start_worker()
        gate = tmp_path / "gate"
        gate.touch()
        run_id = stage.runs.trigger(JOURNEY, {"wait": 0.1, "gate": str(gate)})
        stage.happened("first")
        stage.runs.cancel(run_id)
        assert stage.runs.end(run_id).status == "CANCELED"
        assert stage.ledger.counts() == {"enter": 1, "first": 1}

    def test_a_drain_hands_back_what_is_not_done(self, stage: Stage, tmp_path: Path) -> None:
        stage.start_scheduler()
        worker = stage.start_worker()
        gate = tmp_path / "gate"
        gate.touch()
        run_id = stage.runs.trigger(JOURNEY, {"wait": 0.1, "gate": str(gate)})
        stage.happened("first")
        assert worker.stop() == 0
        stage.deployment.processes.remove(worker)  # it has ended, and should have
        gate.unlink()
        stage.start_worker()
        stage.check(run_id, enters=2, first=2)
        run = stage.runs.get(run_id)
        assert (run.attempt, run.recoveries) == (1, 0)

    def test_a_stale_fence(self, stage: Stage, tmp_path: Path) -> None:
        stage.deployment.environment |= {"HOLDFAST_LEASE": "3"}
        stage.start_scheduler()
        worker = stage.start_worker()
        gate = tmp_path / "gate"
        gate.touch()
        run_id = stage.runs.trigger(JOURNEY, {"wait": 0.1, "gate": str(gate)})
        stage.happened("first")
        worker.pause()
        wait_until(lambda: stage.runs.get(run_id).recoveries, "the paused worker counts as lost")
        gate.unlink()
        stage.start_worker()
        stage.runs.completed(run_id)
        worker.unpause()
        wait_until(lambda: '"drop"' in worker.log_text() or '"resumed":false' in worker.log_text(), "it has let go")
        stage.check(run_id, enters=2, first=2)
