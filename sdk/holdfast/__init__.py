"""Holdfast: durable background tasks that survive crashes.

Names are loaded when first used: importing `holdfast.v1`, the generated contract, does not load the SDK.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from holdfast import batch as batch
    from holdfast import bulk as bulk
    from holdfast import errors as errors
    from holdfast import idempotency_keys as idempotency_keys
    from holdfast import locals as locals
    from holdfast import logger as logger
    from holdfast import metadata as metadata
    from holdfast import queues as queues
    from holdfast import retry as retry
    from holdfast import runs as runs
    from holdfast import schedules as schedules
    from holdfast import sync as sync
    from holdfast import tags as tags
    from holdfast import tasks as tasks
    from holdfast import wait as wait
    from holdfast._decorator import task as task
    from holdfast._step import step as step
    from holdfast._task import Task as Task
    from holdfast.batch import Item as Item
    from holdfast.client import Client as Client
    from holdfast.client import configure as configure
    from holdfast.context import AbortSignal as AbortSignal
    from holdfast.context import Context as Context
    from holdfast.context import shielded as shielded
    from holdfast.errors import AbortTaskRunError as AbortTaskRunError
    from holdfast.errors import HoldfastError as HoldfastError
    from holdfast.errors import NonDeterminismError as NonDeterminismError
    from holdfast.errors import RunCanceledError as RunCanceledError
    from holdfast.errors import RunFailedError as RunFailedError
    from holdfast.errors import SchedulerUnavailableError as SchedulerUnavailableError
    from holdfast.errors import StepFailedError as StepFailedError
    from holdfast.errors import SubtaskRunError as SubtaskRunError
    from holdfast.handles import BatchHandle as BatchHandle
    from holdfast.handles import BatchResult as BatchResult
    from holdfast.handles import RunHandle as RunHandle
    from holdfast.handles import RunResult as RunResult
    from holdfast.idempotency_keys import IdempotencyKey as IdempotencyKey
    from holdfast.options import Debounce as Debounce
    from holdfast.queues import Queue as Queue
    from holdfast.queues import queue as queue
    from holdfast.retry_policy import Retry as Retry
    from holdfast.run import Run as Run
    from holdfast.statuses import RunStatus as RunStatus
    from holdfast.tokens import Token as Token

_MODULES = {
    "batch",
    "bulk",
    "errors",
    "idempotency_keys",
    "locals",
    "logger",
    "metadata",
    "queues",
    "retry",
    "runs",
    "schedules",
    "sync",
    "tags",
    "tasks",
    "wait",
}
_NAMES = {
    "AbortSignal": "context",
    "AbortTaskRunError": "errors",
    "BatchHandle": "handles",
    "BatchResult": "handles",
    "Client": "client",
    "Context": "context",
    "Debounce": "options",
    "HoldfastError": "errors",
    "IdempotencyKey": "idempotency_keys",
    "Item": "batch",
    "NonDeterminismError": "errors",
    "Queue": "queues",
    "Retry": "retry_policy",
    "Run": "run",
    "RunCanceledError": "errors",
    "RunFailedError": "errors",
    "RunHandle": "handles",
    "RunResult": "handles",
    "RunStatus": "statuses",
    "SchedulerUnavailableError": "errors",
    "StepFailedError": "errors",
    "SubtaskRunError": "errors",
    "Task": "_task",
    "Token": "tokens",
    "configure": "client",
    "queue": "queues",
    "shielded": "context",
    "step": "_step",
    "task": "_decorator",
}

__all__ = sorted(_MODULES | set(_NAMES))  # type checkers read the imports above


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"holdfast.{name}")
    if name in _NAMES:
        value = getattr(importlib.import_module(f"holdfast.{_NAMES[name]}"), name)
        globals()[name] = value
        return value
    if name == "__version__":
        from importlib.metadata import version

        return version("holdfast")
    raise AttributeError(f"module 'holdfast' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
