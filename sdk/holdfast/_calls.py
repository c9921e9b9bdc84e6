"""How the SDK asks the surrounding run for a durable call."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractContextManager
from contextvars import ContextVar, Token
from typing import Any, Final, TypeVar

from google.protobuf.duration_pb2 import Duration as DurationMessage

from holdfast import _scope, durations, failures, rpc_errors
from holdfast._scope import DurableCall, RunScope
from holdfast.durations import Duration
from holdfast.errors import InRunError, NotInRunError
from holdfast.v1 import payload_pb2
from holdfast.v1.run_pb2 import CHECKPOINT_STATUS_SUCCEEDED, Checkpoint

T = TypeVar("T")

_plain: ContextVar[tuple[str, str] | None] = ContextVar("holdfast_plain", default=None)
"""The place that durable calls are refused in, and why; None where they are not."""

_WHY_NOT_IN_A_STEP: Final = (
    "a step that has its result is not run again, so what it calls would be lost. Call it in the task's body, before "
    "or after the step."
)


def scope_of(call: str) -> RunScope | None:
    """The scope of the run that `call` is made in; None outside a run.

    Raises: InRunError inside a step, in some hooks, and in a thread, where nothing can be awaited.
    """
    scope = _scope.current()
    if scope is None:
        return None
    plain = _plain.get()
    if plain is not None:
        raise InRunError(f"{call} inside {plain[0]}: {plain[1]}")
    if asyncio._get_running_loop() is None:
        raise InRunError(
            f"{call} in a thread of a run cannot be awaited. In a `def` task use holdfast.sync, where the same names "
            "block (for a task: my_task.sync.trigger(...))."
        )
    return scope


def require_scope(call: str, outside: str = "") -> RunScope:
    """The scope of the run that `call` is made in. `outside` says what to use outside one.

    Raises: NotInRunError outside a run; InRunError as `scope_of`.
    """
    scope = scope_of(call)
    if scope is None:
        raise NotInRunError(f"{call} is only possible inside a run.{' ' if outside else ''}{outside}")
    return scope


def ask(scope: RunScope, call: DurableCall, convert: Callable[[Checkpoint], T]) -> Coroutine[Any, Any, T]:
    """Make a durable call. It takes its identity now; the coroutine yields what `convert` makes of the checkpoint."""
    return _settle(scope.call(call), convert)


async def _settle(settled: Awaitable[Checkpoint], convert: Callable[[Checkpoint], T]) -> T:
    return convert(await settled)


def check_triggered(checkpoint: Checkpoint) -> None:
    """Raises: TriggerError or the like when the scheduler recorded that there is no run."""
    if (
        checkpoint.status != CHECKPOINT_STATUS_SUCCEEDED
        and checkpoint.error.kind == payload_pb2.TASK_ERROR_KIND_NOT_TRIGGERED
    ):
        raise rpc_errors.of_checkpoint(failures.to_info(checkpoint.error))


def timeout_of(value: Duration | None, name: str) -> DurationMessage | None:
    """The time limit of a durable call. Raises: InvalidDurationError."""
    return None if value is None else durations.to_message(value, name)


def inside_step(name: str) -> AbstractContextManager[None]:
    """Marks what runs here as the inside of a step."""
    return inside_plain(f"the step {name!r}", _WHY_NOT_IN_A_STEP)


class inside_plain:
    """Durable calls that are made here are refused. Every step enters one, and a generator made into a context manager
    would cost three times as much."""

    __slots__ = ("_place", "_token")

    def __init__(self, place: str, why: str) -> None:
        self._place = place, why
        self._token: Token[tuple[str, str] | None] | None = None

    def __enter__(self) -> None:
        self._token = _plain.set(self._place)

    def __exit__(self, *_error: object) -> None:
        assert self._token is not None
        _plain.reset(self._token)


def is_plain() -> bool:
    """Whether durable calls are refused here."""
    return _plain.get() is not None
