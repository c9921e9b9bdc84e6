"""Retention with a real scheduler: what has ended goes by itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import grpc

from harness import version_tasks
from harness.ledger import LEDGER_VARIABLE
from harness.processes import Deployment
from harness.runs import Runs
from harness.waiting import wait_until
from holdfast.v1 import run_service_pb2 as api
from holdfast.v1.run_pb2 import IdempotencyKey, KeyPart

TARGET = str(Path(version_tasks.__file__))


def is_gone(runs: Runs, run_id: str) -> bool:
    try:
        runs.stub.GetRun(api.GetRunRequest(run_id=run_id), timeout=10)
    except grpc.RpcError as error:
        return error.code() is grpc.StatusCode.NOT_FOUND
    return False


def test_runs_go_when_they_have_been_kept_for_long_enough(
    deploy: Callable[..., Deployment], database_url: str, tmp_path: Path
) -> None:
    site = deploy(database_url, {LEDGER_VARIABLE: str(tmp_path / "ledger"), "HOLDFAST_RETENTION_INTERVAL": "0.1"})
    site.start_scheduler("--retention", "1s")
    runs = Runs(site)
    site.start_worker(TARGET, slots=100)
    site.wait_for_workers("version-child")
    keyed = runs.trigger("version-child", 0, idempotency_key=IdempotencyKey(parts=[KeyPart(text="k")]))
    plain = [runs.trigger("version-child", number) for number in range(40)]
    runs.completed(keyed)
    wait_until(lambda: all(is_gone(runs, run_id) for run_id in plain), "all have gone")
    assert runs.get(keyed).status == "COMPLETED"
