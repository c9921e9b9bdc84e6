"""A `RunScope` without a worker: it remembers what the body asked for, and answers at once or when told."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime
from typing import Any, TypeVar

from holdfast import _scope
from holdfast._scope import DurableCall, RunScope
from holdfast.context import (
    AbortSignal,
    AttemptContext,
    Context,
    QueueContext,
    RunContext,
    TaskContext,
)
from holdfast.v1 import run_pb2
from holdfast.v1.run_pb2 import Checkpoint
from holdfast.v1.run_service_pb2 import LogRecord
from holdfast.v1.worker_service_pb2 import Limits, MetadataOperation

T = TypeVar("T")

RUN_ID = "run_" + "0" * 26


class FakeScope(RunScope):
    """Settles calls by what `answers` holds for their name, else with success."""

    def __init__(self, task_id: str = "a-task") -> None:
        self.ctx = Context(
            task=TaskContext(task_id),
            run=RunContext(RUN_ID, datetime(2026, 1, 1, tzinfo=UTC), root_id=RUN_ID),
            attempt=AttemptContext(1),
            queue=QueueContext(f"task/{task_id}"),
        )
        self.signal = AbortSignal()
        self.limits = Limits()
        self.calls: list[DurableCall] = []
        self.answers: dict[str, Checkpoint] = {}
        self.operations: list[MetadataOperation] = []
        self.document: dict[str, object] = {}
        self.tags: list[str] = []
        self.shields = 0
        self.locals: dict[Any, Any] = {}
        self.logs: list[LogRecord] = []
        self.loop: asyncio.AbstractEventLoop | None = None

    def call(self, call: DurableCall) -> Awaitable[Checkpoint]:
        self.calls.append(call)
        return self._settle(call)

    async def _settle(self, call: DurableCall) -> Checkpoint:
        answer = self.answers.get(call.record.name)
        if answer is not None:
            return answer
        checkpoint = Checkpoint(status=run_pb2.CHECKPOINT_STATUS_SUCCEEDED)
        if call.perform is not None:
            outcome = await call.perform()
            if outcome.HasField("error"):
                checkpoint.status = run_pb2.CHECKPOINT_STATUS_FAILED
                checkpoint.error.CopyFrom(outcome.error)
                checkpoint.permanent = outcome.permanent
            else:
                checkpoint.value.CopyFrom(outcome.value)
        return checkpoint

    def block_on(self, make: Callable[[], Awaitable[T]]) -> T:
        assert self.loop is not None
        outcome: Future[T] = Future()

        async def run() -> None:
            try:
                outcome.set_result(await make())
            except BaseException as error:
                outcome.set_exception(error)

        context = contextvars.copy_context()
        loop = self.loop
        loop.call_soon_threadsafe(lambda: loop.create_task(run(), context=context))
        return outcome.result()

    async def in_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.to_thread(call)

    def fork(self, name: str, *, shielded: bool = False) -> AbstractContextManager[None]:
        return nullcontext()

    def is_recorded(self, kind: int, name: str) -> bool:
        return False

    def log(self, record: LogRecord) -> bool:
        self.logs.append(record)
        return True

    def metadata_document(self) -> dict[str, object]:
        return self.document

    def metadata_operation(self, operation: MetadataOperation) -> None:
        self.operations.append(operation)

    def add_tags(self, tags: Sequence[str]) -> None:
        self.tags.extend(tags)

    def shield(self, entering: bool) -> None:
        self.shields += 1 if entering else -1


@contextmanager
def running(scope: FakeScope) -> Iterator[FakeScope]:
    """What runs here runs inside the run of `scope`."""
    token = _scope.bind(scope)
    try:
        yield scope
    finally:
        _scope.unbind(token)


async def in_thread(scope: FakeScope, body: Callable[[], T]) -> T:
    """Run a `def` body as an executor does: in a thread of its own, with the loop free to serve it."""
    scope.loop = asyncio.get_running_loop()
    outcome: asyncio.Future[T] = scope.loop.create_future()
    loop = scope.loop

    def run() -> None:
        with running(scope):
            try:
                value = body()
            except BaseException as error:
                failure = error
                loop.call_soon_threadsafe(lambda: outcome.set_exception(failure))
            else:
                loop.call_soon_threadsafe(outcome.set_result, value)

    threading.Thread(target=run, daemon=True).start()
    return await outcome
