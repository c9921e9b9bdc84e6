"""The seam between durable calls (SDK) and the body that executes them (worker).

The SDK builds a record and asks the current `RunScope` for its settled checkpoint; whoever runs bodies (the worker's
executor, a test harness) implements `RunScope` and binds it with `bind`. Outside a run there is no scope.
"""

from __future__ import annotations

import abc
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar, Token
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from holdfast.v1.run_pb2 import Checkpoint
from holdfast.v1.run_service_pb2 import LogRecord
from holdfast.v1.worker_service_pb2 import CheckpointRecord, Limits, MetadataOperation, StepRecord

if TYPE_CHECKING:
    from holdfast.context import AbortSignal, Context

T = TypeVar("T")


@dataclass(slots=True)
class DurableCall:
    """One durable call, as the SDK hands it to the scope.

    `record` has its `kind` oneof, `name`, `fingerprint` and `timeout` filled in; the scope adds `seq`, `identity` and
    `location`. `kind` is a `holdfast.v1.CheckpointKind`. `key` is the unambiguous encoding of (task, idempotency key)
    for a keyed child, batch or token, else None: then the call is identified by (branch, kind, name, occurrence).
    `perform` is set for steps only: it runs the user's function and returns the outcome to record; it never raises
    but for cancellation.
    """

    kind: int
    record: CheckpointRecord
    key: bytes | None = None
    perform: Callable[[], Awaitable[StepRecord]] | None = None


class RunScope(abc.ABC):
    """What a durable call needs of the body that it runs in."""

    ctx: Context
    signal: AbortSignal
    limits: Limits
    locals: dict[Any, Any]
    """What code of this execution keeps for other code of it. Gone when the worker is."""

    @abc.abstractmethod
    def call(self, call: DurableCall) -> Awaitable[Checkpoint]:
        """Take the call's identity now (not when awaited) and return an awaitable of its settled checkpoint.

        A checkpoint of kind TRIGGER, BATCH_TRIGGER or TOKEN is settled when its creation is committed; the others when
        their waitpoint is over. The checkpoint may be FAILED (the caller turns it into an exception).
        Raises: NonDeterminismError, RunCanceledError (when awaited).
        """

    @abc.abstractmethod
    def block_on(self, make: Callable[[], Awaitable[T]]) -> T:
        """Run `make()` on the executor's loop for a body that runs in a thread, and block that thread until it ends.

        It runs in a copy of the thread's context.
        """

    @abc.abstractmethod
    def in_thread(self, call: Callable[[], T]) -> Coroutine[Any, Any, T]:
        """Run `call()` in a thread of its own, in a copy of this context. Cancelling it waits for the thread's end."""

    @abc.abstractmethod
    def fork(self, name: str, *, shielded: bool = False) -> AbstractContextManager[None]:
        """A branch of its own, below the current one, for what this task or thread does in the `with` block.

        Its durable calls move none of the calls around it, and its records need not be asked for again: for hooks and
        tries. `shielded` makes them work during a cancellation.
        """

    @abc.abstractmethod
    def is_recorded(self, kind: int, name: str) -> bool:
        """Whether an earlier execution recorded the next call without a key of this kind and name in this branch."""

    @abc.abstractmethod
    def log(self, record: LogRecord) -> bool:
        """Add a line to the run's log; reported in the background. The scope fills in the attempt. Any thread may ask.

        Returns False when an earlier execution has written it: a re-entered body repeats what it says until it comes to
        new ground.
        """

    @abc.abstractmethod
    def metadata_document(self) -> dict[str, object]:
        """The run's metadata as this execution sees it now. The caller must not change it. Any thread may ask. Raises:
        InvalidArgumentError when the run would have more than it may."""

    @abc.abstractmethod
    def metadata_operation(self, operation: MetadataOperation) -> None:
        """Apply one operation locally at once and report it in the background. The scope fills in branch and number.

        Any thread may ask, that of a step included: what a step does counts once, as the step does.
        """

    @abc.abstractmethod
    def add_tags(self, tags: Sequence[str]) -> None:
        """Add tags to the run; reported in the background, like a metadata operation. Any thread may ask.

        Raises: InvalidArgumentError when it would have more than it may.
        """

    @abc.abstractmethod
    def shield(self, entering: bool) -> None:
        """Enter or leave a `shielded()` block of the current branch: durable calls in it work during a cancellation."""


_current: ContextVar[RunScope | None] = ContextVar("holdfast_run_scope", default=None)


def current() -> RunScope | None:
    """The scope of the run that this code belongs to; None outside a run."""
    return _current.get()


def bind(scope: RunScope | None) -> Token[RunScope | None]:
    """Make `scope` the current one in this context."""
    return _current.set(scope)


def unbind(token: Token[RunScope | None]) -> None:
    """Undo the `bind` that returned `token`, in the same context."""
    _current.reset(token)
