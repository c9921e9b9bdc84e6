"""The same names, blocking: for Flask- and Django-shaped callers, and for `def` tasks.

    from holdfast import sync

    handle = sync.tasks.trigger("export-invoices", {...})       # or my_task.sync.trigger(...)
    output = handle.result(timeout="1m")

    @sync.task(id="send-mail")
    def send_mail(payload: Mail) -> str:
        sync.wait.for_(minutes=5)
        return sync.step("send", smtp_send, payload)

There is one implementation, the asynchronous one. Outside a run it runs on one background event loop of the process;
inside a `def` body on the executor's loop, while the body's thread waits.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Generic, ParamSpec, TypeVar, Unpack, overload

from holdfast import _decorator as decorator
from holdfast import _scope, context, idempotency_keys, locals, logger, metadata, tags
from holdfast import _step as async_step
from holdfast import batch as async_batch
from holdfast import bulk as async_bulk
from holdfast import handles as async_handles
from holdfast import queues as async_queues
from holdfast import retry as async_retry
from holdfast import runs as async_runs
from holdfast import schedules as async_schedules
from holdfast import tasks as async_tasks
from holdfast import wait as async_wait
from holdfast._hooks import HookOptions
from holdfast._task import Task
from holdfast.batch import Item
from holdfast.client import Client, configure
from holdfast.context import AbortSignal, Context
from holdfast.durations import Duration
from holdfast.errors import AbortTaskRunError, HoldfastError, InRunError
from holdfast.filters import Conditions
from holdfast.options import BatchOptions, BatchWaitOptions, TriggerOptions, WaitOptions
from holdfast.queues import Queue, queue
from holdfast.retry_policy import Retry
from holdfast.run import Run
from holdfast.tokens import Token, TokenResult

__all__ = [
    "AbortSignal",
    "AbortTaskRunError",
    "BatchHandle",
    "BulkOperation",
    "Client",
    "Context",
    "Retry",
    "RunHandle",
    "Subscription",
    "SyncTask",
    "batch",
    "bulk",
    "configure",
    "idempotency_keys",
    "locals",
    "logger",
    "metadata",
    "queue",
    "queues",
    "retry",
    "runs",
    "schedules",
    "shielded",
    "step",
    "tags",
    "task",
    "tasks",
    "wait",
]

A = ParamSpec("A")
P = TypeVar("P")
R = TypeVar("R")
T = TypeVar("T")


def block(make: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run what `make()` returns to its end and block until then.

    Raises: InRunError on the event loop of a run, which must not be blocked; otherwise what `make()` raises.
    """
    scope = _scope.current()
    if scope is None:
        return _background_loop().run(make)
    if asyncio._get_running_loop() is not None:
        raise InRunError(
            "holdfast.sync blocks, which an `async def` task must not: use the name without `sync` and await it."
        )

    return scope.block_on(make)


def blocking(function: Callable[A, Coroutine[Any, Any, T]]) -> Callable[A, T]:
    """The blocking twin of a function that returns a coroutine."""

    def blocked(*args: A.args, **kwargs: A.kwargs) -> T:
        return block(lambda: function(*args, **kwargs))

    blocked.__name__ = getattr(function, "__name__", "blocked")
    blocked.__doc__ = function.__doc__
    return blocked


class RunHandle(Generic[R]):
    """Names a run that a trigger made or found."""

    __slots__ = ("_handle", "id", "is_cached", "payload_differs", "task_id")

    def __init__(self, handle: async_handles.RunHandle[R]) -> None:
        self._handle = handle
        self.id = handle.id
        self.task_id = handle.task_id
        self.is_cached = handle.is_cached
        """Whether the run existed already under the idempotency key."""
        self.payload_differs = handle.payload_differs
        """Whether that run was triggered with another payload."""

    def __repr__(self) -> str:
        return repr(self._handle)

    def result(self, timeout: Duration | None = None) -> R:
        """The run's output, as soon as it has ended. None waits as long as it takes.

        Raises: RunFailedError (status, error, run_id); TimeoutError; SchedulerUnavailableError; InRunError.
        """
        return block(lambda: self._handle.result(timeout))

    def wait(self, timeout: Duration | None = None) -> async_handles.RunResult[R]:
        """How the run ended, as soon as it has; a failed run does not raise. Raises: as `result` otherwise."""
        return block(lambda: self._handle.wait(timeout))


class BatchHandle(Generic[R]):
    """Names a batch. An item that could not become a run stands in its place as its error."""

    def __init__(self, handle: async_handles.BatchHandle[R]) -> None:
        self._handle = handle
        self.id = handle.id
        self.is_cached = handle.is_cached
        self.payload_differs = handle.payload_differs
        self.outcomes = [
            RunHandle(each) if isinstance(each, async_handles.RunHandle) else each for each in handle.outcomes
        ]
        """One per item, in input order."""

    @property
    def runs(self) -> list[RunHandle[R]]:
        """The handles of the items that became runs."""
        return [each for each in self.outcomes if isinstance(each, RunHandle)]

    @property
    def errors(self) -> dict[int, HoldfastError]:
        """Why the other items did not, by their place in the input."""
        return self._handle.errors

    def results(self, timeout: Duration | None = None) -> async_handles.BatchResult[R]:
        """How all runs ended, as soon as they have. Raises: TimeoutError, SchedulerUnavailableError, InRunError."""
        return block(lambda: self._handle.results(timeout))


class SyncTask(Generic[P, R]):
    """A task whose methods block. `task` is the registered one."""

    def __init__(self, of: Task[P, R]) -> None:
        self.task = of
        self.id = of.id
        self.__doc__ = of.__doc__
        self.__name__ = of.__name__
        self.__module__ = of.__module__
        self.__wrapped__ = of.function

    def __repr__(self) -> str:
        return f"<SyncTask {self.id!r}>"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the plain function: no run is made."""
        return self.task.function(*args, **kwargs)

    @overload
    def trigger(self: SyncTask[None, R], **options: Unpack[TriggerOptions]) -> RunHandle[R]: ...
    @overload
    def trigger(self, payload: P, **options: Unpack[TriggerOptions]) -> RunHandle[R]: ...
    def trigger(self, *payload: Any, **options: Any) -> RunHandle[R]:
        """As `Task.trigger`, blocking."""
        return RunHandle(block(lambda: self.task.trigger(*payload, **options)))

    @overload
    def trigger_and_wait(self: SyncTask[None, R], **options: Unpack[WaitOptions]) -> async_handles.RunResult[R]: ...
    @overload
    def trigger_and_wait(self, payload: P, **options: Unpack[WaitOptions]) -> async_handles.RunResult[R]: ...
    def trigger_and_wait(self, *payload: Any, **options: Any) -> async_handles.RunResult[R]:
        """As `Task.trigger_and_wait`, blocking."""
        return block(lambda: self.task.trigger_and_wait(*payload, **options))

    def batch_trigger(self, items: Iterable[P | Item[R]], **options: Unpack[BatchOptions]) -> BatchHandle[R]:
        """As `Task.batch_trigger`, blocking."""
        return BatchHandle(block(lambda: self.task.batch_trigger(items, **options)))

    def batch_trigger_and_wait(
        self, items: Iterable[P | Item[R]], **options: Unpack[BatchWaitOptions]
    ) -> async_handles.BatchResult[R]:
        """As `Task.batch_trigger_and_wait`, blocking."""
        return block(lambda: self.task.batch_trigger_and_wait(items, **options))

    @overload
    def item(self: SyncTask[None, R], **options: Unpack[TriggerOptions]) -> Item[R]: ...
    @overload
    def item(self, payload: P, **options: Unpack[TriggerOptions]) -> Item[R]: ...
    def item(self, *payload: Any, **options: Any) -> Item[R]:
        """One item of a batch, with options of its own."""
        return self.task.item(*payload, **options)


class SyncTaskDecorator:
    """What `@sync.task(...)` with options applies to the function."""

    def __init__(self, options: dict[str, Any], local_names: Any) -> None:
        self._inner = decorator.TaskDecorator(options, local_names)

    @overload
    def __call__(self, function: Callable[[], R]) -> SyncTask[None, R]: ...
    @overload
    def __call__(self, function: decorator.OnlyCtx[R]) -> SyncTask[None, R]: ...
    @overload
    def __call__(self, function: decorator.OnlySignal[R]) -> SyncTask[None, R]: ...
    @overload
    def __call__(self, function: decorator.OnlyBoth[R]) -> SyncTask[None, R]: ...
    @overload
    def __call__(self, function: Callable[[P], R]) -> SyncTask[P, R]: ...
    @overload
    def __call__(self, function: decorator.PayloadCtx[P, R]) -> SyncTask[P, R]: ...
    @overload
    def __call__(self, function: decorator.PayloadSignal[P, R]) -> SyncTask[P, R]: ...
    @overload
    def __call__(self, function: decorator.PayloadBoth[P, R]) -> SyncTask[P, R]: ...
    def __call__(self, function: Callable[..., Any]) -> SyncTask[Any, Any]:
        return SyncTask(self._inner(function))


@overload
def task(function: Callable[[], R], /) -> SyncTask[None, R]: ...
@overload
def task(function: decorator.OnlyCtx[R], /) -> SyncTask[None, R]: ...
@overload
def task(function: decorator.OnlySignal[R], /) -> SyncTask[None, R]: ...
@overload
def task(function: decorator.OnlyBoth[R], /) -> SyncTask[None, R]: ...
@overload
def task(function: Callable[[P], R], /) -> SyncTask[P, R]: ...
@overload
def task(function: decorator.PayloadCtx[P, R], /) -> SyncTask[P, R]: ...
@overload
def task(function: decorator.PayloadSignal[P, R], /) -> SyncTask[P, R]: ...
@overload
def task(function: decorator.PayloadBoth[P, R], /) -> SyncTask[P, R]: ...
@overload
def task(
    *,
    id: str | None = None,
    retry: Retry | None = None,
    queue: Queue | str | None = None,
    max_duration: Duration | None = None,
    timeout: Duration | None = None,
    ttl: Duration | None = None,
    max_recoveries: int | None = None,
    **hooks: Unpack[HookOptions],
) -> SyncTaskDecorator: ...
def task(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Register a `def` function as a task whose trigger methods block; arguments as of `holdfast.task`.

    Raises: TaskDefinitionError, DuplicateTaskError, InvalidDurationError.
    """
    made = SyncTaskDecorator(options, decorator.local_names_of_caller(2))
    return made if function is None else made(function)


@overload
def step(
    name: str,
    function: Callable[..., Awaitable[T]],
    *args: Any,
    key: str | idempotency_keys.IdempotencyKey | None = None,
    retry: Retry | None = None,
    timeout: Duration | None = None,
    on_failure: async_step.OnFailure = "retry",
    **kwargs: Any,
) -> T: ...
@overload
def step(
    name: str,
    function: Callable[..., T],
    *args: Any,
    key: str | idempotency_keys.IdempotencyKey | None = None,
    retry: Retry | None = None,
    timeout: Duration | None = None,
    on_failure: async_step.OnFailure = "retry",
    **kwargs: Any,
) -> T: ...
def step(name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """As `holdfast.step`, blocking."""
    return block(lambda: async_step.step(name, function, *args, **kwargs))


@contextmanager
def shielded() -> Iterator[None]:
    """As `holdfast.shielded`, for `def` bodies: `with sync.shielded():`. Raises: NotInRunError."""
    context.shield(True)
    try:
        yield
    finally:
        context.shield(False)


class wait:
    """As `holdfast.wait`, blocking."""

    for_ = staticmethod(blocking(async_wait.for_))
    until = staticmethod(blocking(async_wait.until))
    create_token = staticmethod(blocking(async_wait.create_token))
    complete_token = staticmethod(blocking(async_wait.complete_token))
    fail_token = staticmethod(blocking(async_wait.fail_token))
    retrieve_token = staticmethod(blocking(async_wait.retrieve_token))
    list_tokens = staticmethod(blocking(async_wait.list_tokens))

    @overload
    @staticmethod
    def for_token(token: Token | str, *, timeout: Duration | None = None) -> TokenResult[Any]: ...
    @overload
    @staticmethod
    def for_token(token: Token | str, output_type: type[T], *, timeout: Duration | None = None) -> TokenResult[T]: ...
    @staticmethod
    def for_token(token: Token | str, *output_type: Any, **options: Any) -> TokenResult[Any]:
        """As `holdfast.wait.for_token`, blocking."""
        return block(lambda: async_wait.for_token(token, *output_type, **options))


class retry:
    """As `holdfast.retry`, blocking."""

    on_throw = staticmethod(blocking(async_retry.on_throw))
    fetch = staticmethod(blocking(async_retry.fetch))


class runs:
    """As `holdfast.runs`, blocking."""

    @staticmethod
    def list(*, limit: int = 50, page_token: str = "", **conditions: Unpack[Conditions]) -> async_runs.RunPage:
        """As `holdfast.runs.list`, blocking."""
        return block(lambda: async_runs.list(limit=limit, page_token=page_token, **_conditions(conditions)))

    @staticmethod
    def retrieve(run: RunHandle[Any] | str, *, full: bool = False) -> Run:
        """As `holdfast.runs.retrieve`, blocking."""
        return block(lambda: async_runs.retrieve(_name(run), full=full))

    @staticmethod
    def cancel(run: RunHandle[Any] | str) -> Run:
        """As `holdfast.runs.cancel`, blocking."""
        return block(lambda: async_runs.cancel(_name(run)))

    @staticmethod
    def reschedule(run: RunHandle[Any] | str, when: Duration | datetime) -> Run:
        """As `holdfast.runs.reschedule`, blocking."""
        return block(lambda: async_runs.reschedule(_name(run), when))

    @staticmethod
    def explain(run: RunHandle[Any] | str) -> async_runs.Explanation:
        """As `holdfast.runs.explain`, blocking."""
        return block(lambda: async_runs.explain(_name(run)))

    @staticmethod
    def logs(run: RunHandle[Any] | str, **options: Any) -> async_runs.LogPage:
        """As `holdfast.runs.logs`, blocking."""
        return block(lambda: async_runs.logs(_name(run), **options))

    @staticmethod
    def replay(run: RunHandle[Any] | str, *payload: Any) -> RunHandle[Any]:
        """As `holdfast.runs.replay`, blocking."""
        return RunHandle(block(lambda: async_runs.replay(_name(run), *payload)))

    @staticmethod
    def iterate(*, limit: int = 200, **conditions: Unpack[Conditions]) -> Generator[Run, None, None]:
        """As `holdfast.runs.iterate`, blocking."""
        return _blocking_iterator(async_runs.iterate(limit=limit, **_conditions(conditions)))

    @staticmethod
    def subscribe(
        run: RunHandle[Any] | str | None = None, *, tag: str | None = None, batch: str | None = None, cursor: str = ""
    ) -> Subscription:
        """As `holdfast.runs.subscribe`, blocking."""
        return Subscription(
            async_runs.subscribe(None if run is None else _name(run), tag=tag, batch=batch, cursor=cursor)
        )


class Subscription:
    """The states of runs: `for run in sync.runs.subscribe(tag="x")`."""

    def __init__(self, changes: async_runs.Subscription) -> None:
        self._changes = changes
        self._items: Generator[Run, None, None] = _blocking_iterator(changes)

    @property
    def cursor(self) -> str:
        """Where to go on after the last state that was taken: give it to `subscribe`, later or elsewhere."""
        return self._changes.cursor

    def __iter__(self) -> Subscription:
        return self

    def __next__(self) -> Run:
        return next(self._items)

    def close(self) -> None:
        """End it."""
        self._items.close()


class BulkOperation:
    """An operation on many runs: `wait()` for its end, or iterate over its progress."""

    def __init__(self, operation: async_bulk.BulkOperation) -> None:
        self._operation = operation

    def __iter__(self) -> Generator[async_bulk.BulkProgress, None, None]:
        return _blocking_iterator(self._operation)

    def wait(self) -> async_bulk.BulkProgress:
        """Carry it out to its end."""

        async def to_its_end() -> async_bulk.BulkProgress:
            return await self._operation

        return block(to_its_end)


class bulk:
    """As `holdfast.bulk`, blocking."""

    @staticmethod
    def cancel(**conditions: Unpack[Conditions]) -> BulkOperation:
        """As `holdfast.bulk.cancel`: `sync.bulk.cancel(tag="x").wait()`."""
        return BulkOperation(async_bulk.cancel(**_conditions(conditions)))

    @staticmethod
    def replay(**conditions: Unpack[Conditions]) -> BulkOperation:
        """As `holdfast.bulk.replay`: `sync.bulk.replay(status="FAILED").wait()`."""
        return BulkOperation(async_bulk.replay(**_conditions(conditions)))


class queues:
    """As `holdfast.queues`, blocking."""

    list = staticmethod(blocking(async_queues.list))
    retrieve = staticmethod(blocking(async_queues.retrieve))
    pause = staticmethod(blocking(async_queues.pause))
    resume = staticmethod(blocking(async_queues.resume))
    override = staticmethod(blocking(async_queues.override))
    reset_override = staticmethod(blocking(async_queues.reset_override))


class schedules:
    """As `holdfast.schedules`, blocking."""

    SchedulePayload = async_schedules.SchedulePayload
    create = staticmethod(blocking(async_schedules.create))
    update = staticmethod(blocking(async_schedules.update))
    retrieve = staticmethod(blocking(async_schedules.retrieve))
    activate = staticmethod(blocking(async_schedules.activate))
    deactivate = staticmethod(blocking(async_schedules.deactivate))
    delete = staticmethod(blocking(async_schedules.delete))
    list = staticmethod(blocking(async_schedules.list))

    @staticmethod
    def iterate(*, limit: int = 100) -> Generator[async_schedules.Schedule, None, None]:
        """As `holdfast.schedules.iterate`, blocking."""
        return _blocking_iterator(async_schedules.iterate(limit=limit))

    @staticmethod
    def task(
        *,
        cron: str,
        timezone: str = "UTC",
        misfire: async_schedules.Misfire = "latest",
        overlap: async_schedules.Overlap = "allow",
        **options: Unpack[async_schedules.ScheduledTaskOptions],
    ) -> SyncTaskDecorator:
        """As `holdfast.schedules.task`, for `def` functions."""
        declared = async_schedules.declare(cron, timezone, misfire, overlap)
        return SyncTaskDecorator({**options, "schedule": declared}, decorator.local_names_of_caller(2))


class tasks:
    """As `holdfast.tasks`, blocking."""

    item = staticmethod(async_tasks.item)
    trigger_and_wait = staticmethod(blocking(async_tasks.trigger_and_wait))
    batch_trigger_and_wait = staticmethod(blocking(async_tasks.batch_trigger_and_wait))

    @staticmethod
    def trigger(task_id: str, payload: Any = None, **options: Unpack[TriggerOptions]) -> RunHandle[Any]:
        """As `holdfast.tasks.trigger`, blocking."""
        return RunHandle(block(lambda: async_tasks.trigger(task_id, payload, **options)))

    @staticmethod
    def batch_trigger(task_id: str, items: Iterable[Any], **options: Unpack[BatchOptions]) -> BatchHandle[Any]:
        """As `holdfast.tasks.batch_trigger`, blocking."""
        return BatchHandle(block(lambda: async_tasks.batch_trigger(task_id, items, **options)))


class batch:
    """As `holdfast.batch`, blocking."""

    @staticmethod
    def trigger(items: Iterable[Item[R]], **options: Unpack[BatchOptions]) -> BatchHandle[R]:
        """As `holdfast.batch.trigger`, blocking."""
        return BatchHandle(block(lambda: async_batch.trigger(items, **options)))

    @staticmethod
    def trigger_and_wait(items: Iterable[Item[R]], **options: Unpack[BatchWaitOptions]) -> async_handles.BatchResult[R]:
        """As `holdfast.batch.trigger_and_wait`, blocking."""
        return block(lambda: async_batch.trigger_and_wait(items, **options))


class _BackgroundLoop:
    """One event loop in a thread, for all blocking callers of this process."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self._run, name="holdfast-sync", daemon=True).start()

    def run(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run `make()` on the loop, in the caller's context; an interrupt of the caller (Ctrl-C) cancels it."""

        async def on_loop() -> T:
            return await make()

        future = asyncio.run_coroutine_threadsafe(on_loop(), self.loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()


_background: _BackgroundLoop | None = None
_background_lock = threading.Lock()


def _background_loop() -> _BackgroundLoop:
    """The loop of this process: a thread does not survive a fork."""
    global _background
    found = _background
    if found is None or found.pid != os.getpid():
        with _background_lock:
            if _background is None or _background.pid != os.getpid():
                _background = _BackgroundLoop()
            found = _background
    return found


def _forget_lock() -> None:
    """After a fork: another thread of the parent may have held the lock, and will never release it here."""
    global _background_lock
    _background_lock = threading.Lock()


os.register_at_fork(after_in_child=_forget_lock)


def _blocking_iterator(items: Any) -> Generator[Any, None, None]:
    async def following() -> Any:
        return await anext(items, None)

    async def end() -> None:
        await items.aclose()

    try:
        while (item := block(following)) is not None:
            yield item
    finally:
        block(end)


def _conditions(conditions: Conditions) -> Conditions:
    """A blocking handle names its run."""
    parent = conditions.get("parent")
    if isinstance(parent, RunHandle):
        conditions["parent"] = parent.id
    return conditions


def _name(run: RunHandle[Any] | str) -> str:
    return run.id if isinstance(run, RunHandle) else run
