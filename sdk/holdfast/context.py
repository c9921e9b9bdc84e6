"""What a body learns about its run (`ctx`), and how it learns of a cancellation (`signal`, `shielded`)."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from holdfast import _scope, ids
from holdfast.errors import NotInRunError, RunCanceledError
from holdfast.v1.worker_service_pb2 import Start

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class TaskContext:
    """The task of this run."""

    id: str


@dataclass(frozen=True, slots=True)
class RunContext:
    """This run."""

    id: str
    created_at: datetime
    """When it was triggered."""
    tags: tuple[str, ...] = ()
    """Tags it had when this execution started."""
    parent_id: str | None = None
    """The run that triggered it."""
    root_id: str = ""
    """The topmost ancestor; its own id for a run without a parent."""
    depth: int = 0
    """Ancestors above it."""
    max_attempts: int = 1
    is_replay: bool = False
    """Whether it replays another run."""
    idempotency_key: tuple[str | int | bool, ...] = ()
    """The parts of the key it was triggered with; empty when it has none."""


@dataclass(frozen=True, slots=True)
class AttemptContext:
    """This attempt."""

    number: int
    """From 1; +1 at each retry, not when a worker is lost."""
    recoveries: int = 0
    """Times the run was dispatched again because a worker was lost."""


@dataclass(frozen=True, slots=True)
class QueueContext:
    """The queue of this run."""

    name: str
    concurrency_key: str | None = None


@dataclass(frozen=True, slots=True)
class BatchContext:
    """The batch that this run belongs to."""

    id: str


@dataclass(frozen=True, slots=True)
class Context:
    """What a body learns about its run when its signature has a parameter named `ctx`."""

    task: TaskContext
    run: RunContext
    attempt: AttemptContext
    queue: QueueContext
    batch: BatchContext | None = None
    version: str = ""
    """Version of the code that executes."""
    is_reentry: bool = False
    """Whether the body was entered before: recorded durable calls answer at once."""
    trace_context: dict[str, str] = field(default_factory=dict)
    """W3C trace context of the trigger."""

    @classmethod
    def of_start(cls, start: Start) -> Context:
        """The context that a `Start` frame describes."""
        run_id = ids.to_text(ids.RUN, start.run_id)
        return cls(
            task=TaskContext(start.task_id),
            run=RunContext(
                id=run_id,
                created_at=_EPOCH + timedelta(microseconds=start.created_at_us),
                tags=tuple(start.tags),
                parent_id=ids.to_text(ids.RUN, start.parent_run_id) or None,
                root_id=ids.to_text(ids.RUN, start.root_run_id) or run_id,
                depth=start.depth,
                max_attempts=start.max_attempts,
                is_replay=start.is_replay,
                idempotency_key=tuple(
                    getattr(part, part.WhichOneof("part") or "text") for part in start.idempotency_key.parts
                ),
            ),
            attempt=AttemptContext(start.attempt, start.recoveries),
            queue=QueueContext(start.queue, start.concurrency_key or None),
            batch=BatchContext(start.batch_id) if start.batch_id else None,
            version=start.version,
            is_reentry=start.is_reentry,
            trace_context=dict(start.trace_context),
        )


class AbortSignal:
    """Tells a body that its run is being canceled: await it, check it, or hand it on. Safe in threads."""

    def __init__(self) -> None:
        self._has_fired = False
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[], object]] = []
        self.reason = ""
        """Why; empty until it fires."""

    @property
    def aborted(self) -> bool:
        """Whether it has fired."""
        return self._has_fired

    def raise_if_aborted(self) -> None:
        """Raises: RunCanceledError when it has fired."""
        if self.aborted:
            raise RunCanceledError(self.reason)

    def add_callback(self, callback: Callable[[], object]) -> Callable[[], None]:
        """Call `callback()` when it fires, in the thread that fires it; at once if it has. Returns its removal."""
        with self._lock:
            if not self.aborted:
                self._callbacks.append(callback)
                return lambda: self._remove(callback)
        callback()
        return lambda: None

    def wait(self, timeout: float | None = None) -> bool:
        """Block this thread until it fires or `timeout` seconds have passed; whether it fired. For `def` bodies."""
        fired = threading.Event()  # made here: most bodies never wait, and it costs more than the rest of the signal
        remove = self.add_callback(fired.set)
        try:
            return fired.wait(timeout)
        finally:
            remove()

    def __await__(self) -> Generator[object, None, None]:
        loop = asyncio.get_running_loop()
        fired: asyncio.Future[None] = loop.create_future()
        remove = self.add_callback(lambda: loop.call_soon_threadsafe(_resolve, fired))
        try:
            yield from fired
        finally:
            remove()

    def fire(self, reason: str = "The run is being canceled.") -> None:
        """Fire it, once. For whoever executes the body."""
        with self._lock:
            if self.aborted:
                return
            self.reason = reason
            self._has_fired = True
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    def _remove(self, callback: Callable[[], object]) -> None:
        with self._lock:
            if callback in self._callbacks:
                self._callbacks.remove(callback)


@asynccontextmanager
async def shielded() -> AsyncIterator[None]:
    """Durable calls inside `async with shielded():` work during a cancellation. For clean-up that must be durable.

    Raises: NotInRunError.
    """
    shield(True)
    try:
        yield
    finally:
        shield(False)


def shield(entering: bool) -> None:
    """Enter or leave a shielded block of the current branch. Raises: NotInRunError."""
    scope = _scope.current()
    if scope is None:
        raise NotInRunError("shielded() is only possible inside a run.")
    scope.shield(entering)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
