"""The `task` decorator."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol, TypeVar, Unpack, overload

from holdfast import registry
from holdfast._hooks import HookOptions
from holdfast._task import Task, VersionPolicy
from holdfast.context import AbortSignal, Context
from holdfast.durations import Duration
from holdfast.queues import Queue
from holdfast.retry_policy import Retry

P = TypeVar("P")
R = TypeVar("R")
PayloadT = TypeVar("PayloadT", contravariant=True)
OutputT = TypeVar("OutputT", covariant=True)


# The shapes that a task's function may have. `ctx` and `signal` are recognised by name, in any order.


class PayloadCtx(Protocol[PayloadT, OutputT]):
    """A payload, and `ctx`."""

    def __call__(self, payload: PayloadT, /, *, ctx: Context) -> OutputT: ...


class PayloadSignal(Protocol[PayloadT, OutputT]):
    """A payload, and `signal`."""

    def __call__(self, payload: PayloadT, /, *, signal: AbortSignal) -> OutputT: ...


class PayloadBoth(Protocol[PayloadT, OutputT]):
    """A payload, `ctx` and `signal`."""

    def __call__(self, payload: PayloadT, /, *, ctx: Context, signal: AbortSignal) -> OutputT: ...


class OnlyCtx(Protocol[OutputT]):
    """`ctx` only."""

    def __call__(self, *, ctx: Context) -> OutputT: ...


class OnlySignal(Protocol[OutputT]):
    """`signal` only."""

    def __call__(self, *, signal: AbortSignal) -> OutputT: ...


class OnlyBoth(Protocol[OutputT]):
    """`ctx` and `signal`."""

    def __call__(self, *, ctx: Context, signal: AbortSignal) -> OutputT: ...


class TaskDecorator:
    """What `@task(...)` with options applies to the function."""

    def __init__(self, options: Mapping[str, Any], local_names: Mapping[str, Any]) -> None:
        self._options = options
        self._local_names = local_names

    @overload
    def __call__(self, function: Callable[[], Awaitable[R]]) -> Task[None, R]: ...
    @overload
    def __call__(self, function: OnlyCtx[Awaitable[R]]) -> Task[None, R]: ...
    @overload
    def __call__(self, function: OnlySignal[Awaitable[R]]) -> Task[None, R]: ...
    @overload
    def __call__(self, function: OnlyBoth[Awaitable[R]]) -> Task[None, R]: ...
    @overload
    def __call__(self, function: Callable[[P], Awaitable[R]]) -> Task[P, R]: ...
    @overload
    def __call__(self, function: PayloadCtx[P, Awaitable[R]]) -> Task[P, R]: ...
    @overload
    def __call__(self, function: PayloadSignal[P, Awaitable[R]]) -> Task[P, R]: ...
    @overload
    def __call__(self, function: PayloadBoth[P, Awaitable[R]]) -> Task[P, R]: ...
    @overload
    def __call__(self, function: Callable[[], R]) -> Task[None, R]: ...
    @overload
    def __call__(self, function: OnlyCtx[R]) -> Task[None, R]: ...
    @overload
    def __call__(self, function: OnlySignal[R]) -> Task[None, R]: ...
    @overload
    def __call__(self, function: OnlyBoth[R]) -> Task[None, R]: ...
    @overload
    def __call__(self, function: Callable[[P], R]) -> Task[P, R]: ...
    @overload
    def __call__(self, function: PayloadCtx[P, R]) -> Task[P, R]: ...
    @overload
    def __call__(self, function: PayloadSignal[P, R]) -> Task[P, R]: ...
    @overload
    def __call__(self, function: PayloadBoth[P, R]) -> Task[P, R]: ...
    def __call__(self, function: Callable[..., Any]) -> Task[Any, Any]:
        made: Task[Any, Any] = Task(function, **self._options, local_names=self._local_names)
        registry.add(made)
        return made


@overload
def task(function: Callable[[], Awaitable[R]], /) -> Task[None, R]: ...
@overload
def task(function: OnlyCtx[Awaitable[R]], /) -> Task[None, R]: ...
@overload
def task(function: OnlySignal[Awaitable[R]], /) -> Task[None, R]: ...
@overload
def task(function: OnlyBoth[Awaitable[R]], /) -> Task[None, R]: ...
@overload
def task(function: Callable[[P], Awaitable[R]], /) -> Task[P, R]: ...
@overload
def task(function: PayloadCtx[P, Awaitable[R]], /) -> Task[P, R]: ...
@overload
def task(function: PayloadSignal[P, Awaitable[R]], /) -> Task[P, R]: ...
@overload
def task(function: PayloadBoth[P, Awaitable[R]], /) -> Task[P, R]: ...
@overload
def task(function: Callable[[], R], /) -> Task[None, R]: ...
@overload
def task(function: OnlyCtx[R], /) -> Task[None, R]: ...
@overload
def task(function: OnlySignal[R], /) -> Task[None, R]: ...
@overload
def task(function: OnlyBoth[R], /) -> Task[None, R]: ...
@overload
def task(function: Callable[[P], R], /) -> Task[P, R]: ...
@overload
def task(function: PayloadCtx[P, R], /) -> Task[P, R]: ...
@overload
def task(function: PayloadSignal[P, R], /) -> Task[P, R]: ...
@overload
def task(function: PayloadBoth[P, R], /) -> Task[P, R]: ...
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
    version_policy: VersionPolicy = "latest",
    **hooks: Unpack[HookOptions],
) -> TaskDecorator: ...
def task(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Register a function as a task: `@task`, or `@task(id="export-invoices", retry=Retry(max_attempts=5))`.

    The function, `async def` or `def`, takes the payload (or nothing) and, when its signature asks for them by name,
    `ctx` (`Context`) and `signal` (`AbortSignal`). The payload's and the output's types come from its annotations.

    `id` is unique in the namespace; by default the function's name. `retry` says how failed attempts are retried (3
    attempts by default), `queue` where runs wait (by default in a queue of the task's own), `max_duration` the longest
    executing time of one attempt, `timeout` the longest wall-clock time of the run, `ttl` how long a run may wait for
    its first start, `max_recoveries` how often it is dispatched again when workers are lost (10 by default).
    `version_policy` says what becomes of a run that has started when no worker of its version is connected any more: it
    moves to the newest version ("latest", the default), or waits for a worker of its own ("wait"). The hooks,
    `on_failure=...` and the like, are those of `HookOptions`; for all tasks there is `tasks.on_failure` and the like.

    Raises: TaskDefinitionError, DuplicateTaskError, InvalidDurationError.
    """
    decorator = TaskDecorator(options, local_names_of_caller(2))
    return decorator if function is None else decorator(function)


def local_names_of_caller(depth: int) -> Mapping[str, Any]:
    """The local names at the definition, which annotations may use; nothing at the top of a module."""
    frame = sys._getframe(depth)
    return {} if frame.f_locals is frame.f_globals else dict(frame.f_locals)
