"""Runs, as a test triggers and looks at them: blocking, and patient with a scheduler that is away for a while."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any, TypeVar

import grpc

from harness.processes import Deployment
from harness.waiting import DEADLINE_S, wait_until
from holdfast import ids
from holdfast.run import Run, of_message
from holdfast.v1 import run_service_pb2 as api
from holdfast.v1.payload_pb2 import Payload
from holdfast.v1.run_pb2 import TriggerItem
from holdfast.v1.run_service_pb2_grpc import RunServiceStub

T = TypeVar("T")

CALL_TIMEOUT_S = 3.0
_AWAY = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


class Runs:
    """The runs of a deployment."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment

    @property
    def stub(self) -> Any:
        """The service itself."""
        return RunServiceStub(self._deployment.channel)

    def trigger(self, task: str, payload: Any = None, run_id: str | None = None, **fields: Any) -> str:
        """Trigger a run; returns its id once that is acknowledged."""
        run_id = run_id or ids.new_run_id()
        item = TriggerItem(task_id=task, run_id=run_id, payload=Payload(data=json.dumps(payload).encode()), **fields)
        outcome = self._patiently(self.stub.Trigger, api.TriggerRequest(items=[item])).outcomes[0]
        assert outcome.WhichOneof("outcome") == "handle", outcome
        return str(outcome.handle.run_id)

    def get(self, run_id: str) -> Run:
        """The run in full."""
        request = api.GetRunRequest(run_id=run_id, view=api.RUN_VIEW_FULL)
        return of_message(self._patiently(self.stub.GetRun, request).run)

    def cancel(self, run_id: str) -> Run:
        """Cancel a run."""
        return of_message(self._patiently(self.stub.CancelRun, api.CancelRunRequest(run_id=run_id)).run)

    def until(self, run_id: str, *statuses: str) -> Run:
        """Wait until the run has one of these statuses. Raises: TimeoutError, AssertionError when it ends otherwise."""

        def reached() -> Run | None:
            run = self.get(run_id)
            if run.status in statuses:
                return run
            assert not run.is_final, f"{run_id} is {run.status}, not {statuses}: {run.error}"
            return None

        return wait_until(reached, f"{run_id} is {' or '.join(statuses)}")

    def end(self, run_id: str) -> Run:
        """The run, when it has ended."""

        def ended() -> Run | None:
            run = self.get(run_id)
            return run if run.is_final else None

        return wait_until(ended, f"{run_id} has ended")

    def completed(self, run_id: str) -> Run:
        """The run, when it has ended. Raises: AssertionError when it did not complete."""
        run = self.end(run_id)
        assert run.status == "COMPLETED", f"{run.status}: {run.error}"
        return run

    def _patiently(self, call: Callable[..., T], request: Any) -> T:
        """The same request again while nobody answers: its ids make that safe."""
        deadline = time.monotonic() + DEADLINE_S
        while True:
            try:
                return call(request, timeout=CALL_TIMEOUT_S)
            except grpc.RpcError as error:
                if error.code() not in _AWAY or time.monotonic() > deadline:
                    raise
            time.sleep(0.02)
