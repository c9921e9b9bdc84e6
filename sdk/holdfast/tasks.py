"""Triggering by id, for callers that do not have the task's code.

handle = await tasks.trigger("export-invoices", {"organization_id": "acme"})
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Unpack

from holdfast import payloads, triggering
from holdfast.batch import Item
from holdfast.handles import RunHandle, RunResult
from holdfast.options import TriggerOptions, WaitOptions
from holdfast.payloads import Codec
from holdfast.texts import check


class _Remote:
    """A task whose code is elsewhere: any JSON goes in and comes out, the worker checks it."""

    __slots__ = ("id",)

    def __init__(self, task_id: str) -> None:
        self.id = check(task_id, "task id")

    @property
    def payload_codec(self) -> Codec[Any]:
        return payloads.anything

    @property
    def output_codec(self) -> Codec[Any]:
        return payloads.anything

    def payload_or_default(self, payload: Any) -> Any:
        return payload


def trigger(
    task_id: str, payload: Any = None, **options: Unpack[TriggerOptions]
) -> Coroutine[Any, Any, RunHandle[Any]]:
    """Make a run of the task with this id; `payload` is anything that JSON can say, a pydantic model included.

    Raises: TaskNotFoundError, TriggerError, PayloadError, InvalidKeyError, SchedulerUnavailableError.
    """
    return triggering.trigger(_Remote(task_id), payload, options)


def trigger_and_wait(
    task_id: str, payload: Any = None, **options: Unpack[WaitOptions]
) -> Coroutine[Any, Any, RunResult[Any]]:
    """Make a child of the task with this id and wait for its end. Only inside a run.

    Raises: as `trigger`; NotInRunError.
    """
    return triggering.trigger_and_wait(_Remote(task_id), payload, options)


def item(task_id: str, payload: Any = None, **options: Unpack[TriggerOptions]) -> Item[Any]:
    """One item for `batch.trigger`."""
    return Item(_Remote(task_id), payload, options)
