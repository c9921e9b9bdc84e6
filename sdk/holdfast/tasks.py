"""Triggering by id, for callers that do not have the task's code, and the hooks of all tasks.

handle = await tasks.trigger("export-invoices", {"organization_id": "acme"})

@tasks.on_failure
async def tell(error, ctx): ...

A hook is `async def`, or `def` and then run in a thread. It asks for what it wants by the names of its parameters:
`payload`, `ctx`, `signal`, and what its event brings. See docs/hooks.md.
"""

from __future__ import annotations

from collections.abc import Coroutine, Iterable
from typing import Any, Unpack

from holdfast import _hooks, batch, triggering
from holdfast._hooks import F
from holdfast.batch import Item
from holdfast.handles import BatchHandle, BatchResult, RunHandle, RunResult
from holdfast.options import BatchOptions, BatchWaitOptions, TriggerOptions, WaitOptions
from holdfast.texts import check
from holdfast.triggering import Remote


def trigger(
    task_id: str, payload: Any = None, **options: Unpack[TriggerOptions]
) -> Coroutine[Any, Any, RunHandle[Any]]:
    """Make a run of the task with this id; `payload` is anything that JSON can say, a pydantic model included.

    Raises: TaskNotFoundError, TriggerError, PayloadError, InvalidKeyError, SchedulerUnavailableError.
    """
    return triggering.trigger(_remote(task_id), payload, options)


def trigger_and_wait(
    task_id: str, payload: Any = None, **options: Unpack[WaitOptions]
) -> Coroutine[Any, Any, RunResult[Any]]:
    """Make a child of the task with this id and wait for its end. Only inside a run.

    Raises: as `trigger`; NotInRunError.
    """
    return triggering.trigger_and_wait(_remote(task_id), payload, options)


def item(task_id: str, payload: Any = None, **options: Unpack[TriggerOptions]) -> Item[Any]:
    """One item for `batch.trigger`."""
    return Item(_remote(task_id), payload, options)


def batch_trigger(
    task_id: str, items: Iterable[Any], **options: Unpack[BatchOptions]
) -> Coroutine[Any, Any, BatchHandle[Any]]:
    """Make up to 1,000 runs of the task with this id in one commit. An item is a payload, or `tasks.item("id", payload,
    ...)` with options.

    Raises: as `batch.trigger`.
    """
    return batch.trigger_items(_items(task_id, items), options, "tasks.batch_trigger()")


def batch_trigger_and_wait(
    task_id: str, items: Iterable[Any], **options: Unpack[BatchWaitOptions]
) -> Coroutine[Any, Any, BatchResult[Any]]:
    """Make up to 1,000 children of the task with this id in one commit and wait until all have ended.

    Raises: as `batch.trigger_and_wait`.
    """
    return batch.trigger_items_and_wait(_items(task_id, items), options, "tasks.batch_trigger_and_wait()")


def _remote(task_id: str) -> Remote:
    return Remote(check(task_id, "task id"))


def _items(task_id: str, given: Iterable[Any]) -> list[Item[Any]]:
    return [each if isinstance(each, Item) else Item(_remote(task_id), each, {}) for each in given]


def on_start_attempt(hook: F, /) -> F:
    """Call a function before the body of every task, at every entry. An error fails the attempt.

    Raises: TaskDefinitionError.
    """
    _hooks.everywhere.add("on_start_attempt", hook, "tasks.on_start_attempt")
    return hook


def on_wait(hook: F, /) -> F:
    """Call a function before a body is parked, because all of it waits.

    Raises: TaskDefinitionError.
    """
    _hooks.everywhere.add("on_wait", hook, "tasks.on_wait")
    return hook


def on_resume(hook: F, /) -> F:
    """Call a function before a parked body goes on.

    Raises: TaskDefinitionError.
    """
    _hooks.everywhere.add("on_resume", hook, "tasks.on_resume")
    return hook


def on_success(hook: F, /) -> F:
    """Call a function after a body has returned.

    It may ask for `output`. Raises: TaskDefinitionError.
    """
    _hooks.everywhere.add("on_success", hook, "tasks.on_success")
    return hook


def on_failure(hook: F, /) -> F:
    """Call a function after the last attempt of a run has failed, or one that is not tried again.

    It may ask for `error`. Raises: TaskDefinitionError.
    """
    _hooks.everywhere.add("on_failure", hook, "tasks.on_failure")
    return hook


def on_complete(hook: F, /) -> F:
    """Call a function at the very end of a run, with its result.

    It may ask for `result`. Raises: TaskDefinitionError.
    """
    _hooks.everywhere.add("on_complete", hook, "tasks.on_complete")
    return hook


def on_cancel(hook: F, /) -> F:
    """Call a function when a run is canceled while it executes; its durable calls are shielded.

    Raises: TaskDefinitionError.
    """
    _hooks.everywhere.add("on_cancel", hook, "tasks.on_cancel")
    return hook


def catch_error(hook: F, /) -> F:
    """Call a function after an attempt has failed: it may decide whether and when there is another.

    It may ask for `error`. Raises: TaskDefinitionError.
    """
    _hooks.everywhere.add("catch_error", hook, "tasks.catch_error")
    return hook


def middleware(hook: F, /) -> F:
    """Put an asynchronous context manager around every attempt, as an async generator that yields once.

    It may ask for `result`. Raises: TaskDefinitionError.
    """
    _hooks.everywhere.add("middleware", hook, "tasks.middleware")
    return hook
