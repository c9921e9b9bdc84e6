from __future__ import annotations

import subprocess
import sys

import pytest

import holdfast
from holdfast import errors, sync
from holdfast.statuses import RunStatus
from holdfast.v1 import run_pb2

NAMES = [
    "AbortSignal", "AbortTaskRunError", "BatchHandle", "BatchResult", "Client", "Context", "Debounce", "HoldfastError",
    "IdempotencyKey", "Item", "NonDeterminismError", "Queue", "Retry", "Run", "RunCanceledError", "RunFailedError",
    "RunHandle", "RunResult", "RunStatus", "SchedulerUnavailableError", "StepFailedError", "SubtaskRunError", "Task",
    "Token", "batch", "bulk", "configure", "errors", "idempotency_keys", "locals", "logger", "metadata", "queue",
    "queues", "retry", "runs", "schedules", "shielded", "step", "sync", "tags", "task", "tasks", "wait",
]  # fmt: skip

SYNC_NAMES = [
    "AbortSignal", "AbortTaskRunError", "BatchHandle", "BulkOperation", "Client", "Context", "Retry", "RunHandle",
    "Subscription", "SyncTask", "batch", "bulk", "configure", "idempotency_keys", "locals", "logger", "metadata",
    "queue", "queues", "retry", "runs", "schedules", "shielded", "step", "tags", "task", "tasks", "wait",
]  # fmt: skip


def test_the_public_names():
    assert holdfast.__all__ == NAMES
    assert sync.__all__ == SYNC_NAMES
    assert set(NAMES) < set(dir(holdfast))


@pytest.mark.parametrize("name", NAMES)
def test_each_name_can_be_had(name):
    assert getattr(holdfast, name) is not None


def test_a_wrong_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'trigger'"):
        holdfast.trigger  # noqa: B018


def test_no_submodule_hides_a_public_name():
    code = (
        "import holdfast, pkgutil, importlib\n"
        "for name in ['_decorator', '_task', '_step', 'sync', 'queues', 'run', 'runs', 'batch']:\n"
        "    importlib.import_module('holdfast.' + name)\n"
        "from types import ModuleType\n"
        "assert not isinstance(holdfast.task, ModuleType) and callable(holdfast.task)\n"
        "assert callable(holdfast.step) and callable(holdfast.queue)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_contract_does_not_load_the_sdk():
    code = (
        "import sys, holdfast.v1.run_service_pb2\n"
        "loaded = [m for m in sys.modules if m.startswith('holdfast.') and not m.startswith('holdfast.v1')]\n"
        "assert not loaded, loaded\n"
        "assert 'pydantic' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_error_is_in_the_tree_and_drawn_in_it():
    drawing = errors.__doc__ or ""
    for name in errors.__all__:
        kind = getattr(errors, name)
        if name == "ErrorInfo":
            continue
        assert name in drawing, f"{name} is not drawn in the docstring"
        assert issubclass(kind, errors.HoldfastError) or kind is errors.RunCanceledError
    assert not issubclass(errors.RunCanceledError, Exception)


def test_statuses_are_those_of_the_contract():
    contract = {n.removeprefix("RUN_STATUS_") for n in run_pb2.RunStatus.keys()} - {"UNSPECIFIED"}  # noqa: SIM118
    assert {str(status) for status in RunStatus} == contract
    for status in RunStatus:
        number = run_pb2.RunStatus.Value(f"RUN_STATUS_{status}")
        assert RunStatus.of(number) is status
        assert status.is_final == (number >= run_pb2.RUN_STATUS_COMPLETED)
