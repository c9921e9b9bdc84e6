"""10,000 concurrent triggers with 100 keys, from several processes, of a task that does not fail, make 100 runs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from harness import scenario_tasks
from harness.processes import Deployment
from harness.trigger_storm import TASK
from holdfast.v1.run_service_pb2 import ListRunsRequest
from holdfast.v1.run_service_pb2_grpc import RunServiceStub

TRIGGERS, KEYS, CLIENTS = 10_000, 100, 4
DEADLINE_S = 120.0


def storm(sites: list[Deployment]) -> None:
    """Half of the clients ask the first scheduler, half the last; a worker executes what comes meanwhile."""
    first, last = sites[0], sites[-1]
    first.start_worker(str(Path(scenario_tasks.__file__)))
    first.wait_for_workers(TASK)
    clients = []
    for number in range(CLIENTS):
        arguments = [str(TRIGGERS // CLIENTS), str(KEYS), str(number)]
        clients.append(
            subprocess.Popen(
                [sys.executable, "-m", "harness.trigger_storm", *arguments],
                env={**first.environment, "HOLDFAST_ADDRESS": (first if number % 2 else last).address},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
    try:
        for client in clients:
            assert client.stdout is not None
            assert client.stdout.readline() == "ready\n"
        answers = [client.communicate("go\n", timeout=DEADLINE_S)[0] for client in _told(clients)]
    finally:
        for client in clients:
            client.kill()
    times, as_new = Counter[str](), Counter[str]()
    runs_of: dict[str, set[str]] = {}
    for answer in answers:
        for key, runs in json.loads(answer).items():
            runs_of.setdefault(key, set()).update(runs)
            for run_id, (named, new) in runs.items():
                times[run_id] += named
                as_new[run_id] += new
    assert len(runs_of) == KEYS
    assert {key: len(runs) for key, runs in runs_of.items() if len(runs) != 1} == {}
    assert sum(times.values()) == TRIGGERS
    assert set(as_new.values()) == {1}, "exactly one caller of each key made its run"
    stub = RunServiceStub(first.channel)
    listed = stub.ListRuns(ListRunsRequest(filter=f'task = "{TASK}"', page_size=1000))
    assert {run.id for run in listed.runs} == set(times)
    assert not listed.next_page_token


def _told(clients: list[subprocess.Popen[str]]) -> list[subprocess.Popen[str]]:
    """All begin together; each is then waited for."""
    for client in clients:
        assert client.stdin is not None
        client.stdin.write("go\n")
        client.stdin.flush()
    return clients


def test_promise_6_ten_thousand_triggers_with_a_hundred_keys_make_a_hundred_runs_on_two_replicas(
    deploy: Callable[..., Deployment], postgres_url: str
) -> None:
    sites = [deploy(postgres_url) for _ in range(2)]
    for site in sites:
        site.start_scheduler()
    storm(sites)


def test_promise_6_ten_thousand_triggers_with_a_hundred_keys_make_a_hundred_runs_on_sqlite(
    deploy: Callable[..., Deployment], sqlite_url: str
) -> None:
    site = deploy(sqlite_url)
    site.start_scheduler()
    storm([site])
