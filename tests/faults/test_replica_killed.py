"""Two schedulers on one PostgreSQL, and one of them, or the notes between them, is gone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.gates import GATES_VARIABLE, Gates
from harness.ledger import LEDGER_VARIABLE, Ledger, repeated_fences
from harness.processes import Deployment, ServerProcess
from harness.runs import Runs
from harness.stage import TASKS
from harness.waiting import wait_until
from holdfast import ids
from holdfast.v1.payload_pb2 import Payload
from holdfast.v1.run_pb2 import TriggerItem
from holdfast.v1.run_service_pb2 import TriggerRequest

RUNS = 30
STEPS = 6


class Pair:
    """Two replicas, each with a worker that comes to it first and knows the other one."""

    def __init__(self, folder: Path, deploy: Callable[..., Deployment], url: str, **settings: str) -> None:
        self.gates = Gates(folder / "gates")
        self.gates.folder.mkdir()
        self.ledger = Ledger(folder / "ledger.jsonl")
        environment = {
            LEDGER_VARIABLE: str(self.ledger.path),
            GATES_VARIABLE: str(self.gates.folder),
            **settings,
        }
        self.sides = [deploy(url, environment) for _ in range(2)]
        self.schedulers: list[ServerProcess] = []
        self.workers: list[ServerProcess] = []
        for at, side in enumerate(self.sides):
            self.schedulers.append(side.start_scheduler(name=f"scheduler-{at}"))
        for at, side in enumerate(self.sides):
            addresses = [one.address for one in (side, self.sides[1 - at])]
            environment = {"HOLDFAST_ADDRESS": ",".join(addresses)}
            self.workers.append(side.start_worker(TASKS, name=f"worker-{at}", environment=environment))
        for side in self.sides:
            side.wait_for_workers("many")
        self.runs = [Runs(side) for side in self.sides]

    def trigger(self, count: int, steps: int) -> list[str]:
        """So many runs of `many`, half of them through each replica."""
        found = []
        for at, runs in enumerate(self.runs):
            payload = Payload(data=str(steps).encode())
            items = [TriggerItem(task_id="many", run_id=ids.new_run_id(), payload=payload) for _ in range(at, count, 2)]
            runs.stub.Trigger(TriggerRequest(items=items), timeout=60)
            found += [item.run_id for item in items]
        return found

    def assert_each_once(self, run_ids: list[str], runs: Runs, steps: int) -> None:
        """All runs completed, and nothing happened twice. A body may have been entered again, where it found no slot of
        its worker for the whole of its patience: the machine may be busy."""
        children = [number for number in range(steps) if number % 3 == 2]
        wanted = {*(f"step {number}" for number in range(steps)), *(f"child {number}" for number in children)}
        total = sum(range(steps)) + sum(number + 1 for number in children)
        for run_id in run_ids:
            run = runs.completed(run_id)
            assert (run.output, run.attempt, run.recoveries) == (total, 1, 0), run
            assert run.metadata == {"steps": steps}
        effects = self.ledger.read()
        assert not repeated_fences(effects)
        counts: dict[str, Counter[str]] = {}
        for effect in effects:
            counts.setdefault(effect.note, Counter())[effect.identity] += 1
        for run_id in run_ids:
            assert counts[run_id].pop("enter") >= 1
            assert counts[run_id] == dict.fromkeys(wanted, 1), run_id


def test_one_of_two_replicas_is_killed(postgres_url: str, deploy: Callable[..., Deployment], tmp_path: Path) -> None:
    """Its workers go on with the other one: no run is recovered, no effect happens twice."""
    pair = Pair(tmp_path, deploy, postgres_url)
    run_ids = pair.trigger(RUNS, STEPS)
    wait_until(lambda: len(pair.ledger.read()) > RUNS * STEPS / 2, "half of it is done")
    pair.schedulers[0].kill()
    pair.assert_each_once(run_ids, pair.runs[1], STEPS)


def test_notes_between_replicas_are_lost(
    postgres_url: str, deploy: Callable[..., Deployment], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The look of each second finds what they would have told."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        "from holdfast_scheduler import postgres\n"
        "def lose(self, notes):\n"
        f"    with open({str(tmp_path / 'lost')!r}, 'a') as file:\n"
        "        file.write('.')\n"
        "postgres.PostgresDatabase.send_notes = lose\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(site), prepend=":")
    pair = Pair(tmp_path, deploy, postgres_url)
    run_ids = pair.trigger(RUNS // 4, STEPS)
    pair.assert_each_once(run_ids, pair.runs[1], STEPS)
    assert (tmp_path / "lost").stat().st_size > 0
