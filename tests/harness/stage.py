"""A scheduler, workers behind a proxy, a ledger and doors: what the fault tests play on.

One stage serves many tests: `ready` brings back what the test before has killed.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil

from harness.gates import GATES_VARIABLE, Gates
from harness.ledger import LEDGER_VARIABLE, Effect, Ledger, repeated_fences
from harness.processes import Deployment, ServerProcess
from harness.proxy import Proxy
from harness.runs import Runs
from harness.waiting import wait_until
from holdfast import ids
from holdfast.run import Run
from holdfast.v1.payload_pb2 import Payload
from holdfast.v1.run_pb2 import TriggerItem
from holdfast.v1.run_service_pb2 import TriggerRequest

TASKS = str(Path(__file__).with_name("stage_tasks.py"))
A_TASK = "journey"
"""One of the tasks there."""


class Stage:
    """`environment` is for all processes; workers reach the scheduler through `proxy`."""

    def __init__(self, folder: Path, deploy: Callable[..., Deployment], database_url: str, **settings: str) -> None:
        self.gates = Gates(folder / "gates")
        self.gates.folder.mkdir()
        self.ledger = Ledger(folder / "ledger.jsonl")
        environment = {
            LEDGER_VARIABLE: str(self.ledger.path),
            GATES_VARIABLE: str(self.gates.folder),
            **{f"HOLDFAST_{name.upper()}": value for name, value in settings.items()},
        }
        self.deployment = deploy(database_url, environment)
        self.proxy = Proxy(self.deployment.address)
        self.runs = Runs(self.deployment)
        self.scheduler: ServerProcess | None = None
        self.workers: list[ServerProcess] = []
        self._started = 0

    def ready(self, workers: int = 1) -> None:
        """A scheduler and exactly so many workers run."""
        if self.scheduler is None or self.scheduler.exit_code is not None:
            self.start_scheduler()
        self.workers = [worker for worker in self.workers if worker.exit_code is None]
        for worker in self.workers[workers:]:
            worker.kill()
        del self.workers[workers:]
        while len(self.workers) < workers:
            self.start_worker(wait=False)
        self.wait_for_workers(workers)

    def start_scheduler(self, ready: bool = True) -> ServerProcess:
        self._started += 1
        self.scheduler = self.deployment.start_scheduler(name=f"scheduler-{self._started}", ready=ready)
        return self.scheduler

    def restart_scheduler(self) -> None:
        """SIGKILL it, and start another one."""
        self.kill_scheduler()
        self.start_scheduler()

    def kill_scheduler(self) -> None:
        """SIGKILL it."""
        assert self.scheduler is not None
        self.scheduler.kill()

    def start_worker(
        self,
        wait: bool = True,
        *,
        slots: int | None = None,
        processes: int | None = None,
        environment: Mapping[str, str] | None = None,
        targets: str = TASKS,
    ) -> ServerProcess:
        """One more worker."""
        self._started += 1
        name = f"worker-{self._started}"
        environment = {"HOLDFAST_ADDRESS": self.proxy.address, **(environment or {})}
        worker = self.deployment.start_worker(
            targets, name=name, slots=slots, processes=processes, environment=environment
        )
        self.workers.append(worker)
        if wait:
            self.wait_for_workers(len([one for one in self.workers if one.exit_code is None]))
        return worker

    def wait_for_workers(self, count: int) -> None:
        """Wait until so many are connected."""
        self.deployment.wait_for_workers(A_TASK, count)

    def close(self) -> None:
        """Let the proxy go; the deployment belongs to the test."""
        self.proxy.close()

    # what a test does

    def new_run(self, *closed: str) -> str:
        """An id for a run, with these doors closed."""
        run_id = ids.new_run_id()
        for place in closed:
            self.gates.close(run_id, place)
        return run_id

    def trigger_request(self, task: str) -> TriggerRequest:
        """A request to trigger a new run of a task without payload."""
        item = TriggerItem(task_id=task, run_id=ids.new_run_id(), payload=Payload(data=b"null"))
        return TriggerRequest(items=[item])

    def executors(self, worker: ServerProcess) -> list[psutil.Process]:
        """The executor processes of a worker."""
        return psutil.Process(worker.pid).children(recursive=True)

    def kill_executors(self, worker: ServerProcess) -> None:
        """SIGKILL the executors alone."""
        for process in self.executors(worker):
            os.kill(process.pid, signal.SIGKILL)

    # what a test judges by

    def effects(self, run_id: str) -> list[Effect]:
        """What the run and its children did in the outside world, by the ledger."""
        return [effect for effect in self.ledger.read() if effect.note == run_id]

    def counts(self, run_id: str) -> Counter[str]:
        """How often each effect of the run and its children happened. Raises AssertionError when one execution did
        one of them twice."""
        effects = self.effects(run_id)
        assert not repeated_fences(effects)
        return Counter(effect.identity for effect in effects)

    def worker_of(self, run_id: str) -> ServerProcess:
        """The worker that has the run."""

        def found() -> str:
            return self.runs.get(run_id).worker

        name = wait_until(found, f"{run_id} has a worker")
        return next(worker for worker in self.workers if worker.name == name)


def assert_undisturbed(run: Run) -> None:
    """No attempt and no recovery was used."""
    assert (run.attempt, run.recoveries) == (1, 0), run
