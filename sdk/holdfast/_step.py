"""Steps: plain functions whose result becomes a checkpoint."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from types import CodeType, FunctionType, MethodType
from typing import Any, Literal, TypeVar, overload

from pydantic import TypeAdapter

from holdfast import _calls, canonical, durations, failures, idempotency_keys, payloads, registry, signature, texts
from holdfast._scope import DurableCall, RunScope
from holdfast.durations import Duration
from holdfast.errors import InvalidArgumentError, PayloadError, StepAbortedError, StepFailedError
from holdfast.idempotency_keys import IdempotencyKey
from holdfast.payloads import Codec
from holdfast.retry_policy import Retry
from holdfast.v1.payload_pb2 import TaskError
from holdfast.v1.run_pb2 import CHECKPOINT_KIND_STEP, CHECKPOINT_STATUS_SUCCEEDED, Checkpoint
from holdfast.v1.worker_service_pb2 import CheckpointRecord, StepRecord

T = TypeVar("T")

OnFailure = Literal["retry", "remember"]

MAX_THREADS = 64
"""Steps of `def` functions that one process runs at once."""


@overload
def step(
    name: str,
    function: Callable[..., Awaitable[T]],
    *args: Any,
    key: str | IdempotencyKey | None = None,
    retry: Retry | None = None,
    timeout: Duration | None = None,
    on_failure: OnFailure = "retry",
    **kwargs: Any,
) -> Coroutine[Any, Any, T]: ...
@overload
def step(
    name: str,
    function: Callable[..., T],
    *args: Any,
    key: str | IdempotencyKey | None = None,
    retry: Retry | None = None,
    timeout: Duration | None = None,
    on_failure: OnFailure = "retry",
    **kwargs: Any,
) -> Coroutine[Any, Any, T]: ...
def step(
    name: str,
    function: Callable[..., Any],
    *args: Any,
    key: str | IdempotencyKey | None = None,
    retry: Retry | None = None,
    timeout: Duration | None = None,
    on_failure: OnFailure = "retry",
    **kwargs: Any,
) -> Coroutine[Any, Any, Any]:
    """Run `function(*args, **kwargs)`, `async def` or `def` (in a thread), and record its result: it is never run
    again once that is committed. The result passes through JSON by the function's return annotation, the first time
    too; at most 256 KiB.

    A step is known by its name and how often that name came before in its branch; other arguments at the same place
    are a `NonDeterminismError`. With `key` it is known by name and key alone, whatever the order and the arguments.
    `retry` tries again within the attempt (by default one try), `timeout` is the limit of each try; a `def` function
    that meets it goes on in its thread, its result dropped. A failure raises `StepFailedError`; the next attempt of
    the run tries the step again, unless `on_failure="remember"`, or the function raised `AbortTaskRunError` or a class
    in `abort_on` of this `retry` or the task's: then `StepAbortedError` is raised, which uncaught fails the run.

    To hand on an argument named `key`, `retry`, `timeout` or `on_failure`, use a lambda or `functools.partial`.

    Raises: NotInRunError, InRunError, InvalidArgumentError, PayloadError when the return type cannot be recorded.
    """
    texts.check(name, "step name")
    scope = _calls.require_scope(f"step({name!r})", "Outside simply call the function.")
    if on_failure not in ("retry", "remember"):
        raise InvalidArgumentError(f'step {name!r}: on_failure={on_failure!r} is neither "retry" nor "remember".')
    created = None if key is None else idempotency_keys.of(key)
    plan = _Step(
        name=name,
        call=functools.partial(function, *args, **kwargs),
        is_async=is_async(function),
        codec=_codec(name, function),
        maximum=scope.limits.step_result_bytes or payloads.MAX_STEP_RESULT_BYTES,
        retry=retry or _ONE_TRY,
        scope=scope,
        timeout=None if timeout is None else durations.parse(timeout, f"step {name!r}: timeout"),
        remember=on_failure == "remember",
    )
    call = DurableCall(
        kind=CHECKPOINT_KIND_STEP,
        record=CheckpointRecord(
            name=name, fingerprint=b"" if created else canonical.fingerprint(args, kwargs), step=StepRecord()
        ),
        key=None if created is None else idempotency_keys.encode_call("step", name, created, scope),
        perform=plan.perform,
    )
    return _calls.ask(scope, call, plan.result)


_ONE_TRY = Retry(max_attempts=1)


@dataclass(slots=True)
class _Step:
    name: str
    call: Callable[[], Any]
    is_async: bool
    codec: Codec[Any]
    maximum: int
    retry: Retry
    scope: RunScope
    timeout: timedelta | None
    remember: bool

    async def perform(self) -> StepRecord:
        """Run the function, with its retries; the outcome to record."""
        number = 1
        while True:
            try:
                value = await self._run()
            except Exception as error:
                described = self._describe(error)
                again = described.retryable and number < self.retry.max_attempts and self.retry.retries(error)
                if not again:
                    permanent = self.remember or described.kind == failures.ABORTED
                    return StepRecord(error=described, permanent=permanent)
            else:
                return self._record(value)
            await asyncio.sleep(self.retry.delay_after(number))
            number += 1

    def result(self, checkpoint: Checkpoint) -> Any:
        """What the recorded outcome means to the body."""
        if checkpoint.status == CHECKPOINT_STATUS_SUCCEEDED:
            return self.codec.decode_payload(checkpoint.value)
        kind = StepAbortedError if checkpoint.error.kind == failures.ABORTED else StepFailedError
        raise kind(self.name, failures.to_info(checkpoint.error))

    async def _run(self) -> Any:
        with _calls.inside_step(self.name):
            if self.timeout is None:
                return await (self.call() if self.is_async else in_thread(self.call))
            seconds = self.timeout.total_seconds()
            try:
                async with asyncio.timeout(seconds) as limit:
                    return await (self.call() if self.is_async else in_thread(self.call))
            except TimeoutError as error:
                if limit.expired():
                    raise _StepTimeoutError(f"it took longer than its timeout of {seconds:g} s") from error
                raise

    def _describe(self, error: Exception) -> TaskError:
        """The error as recorded: the body will not see the exception itself, so the task's classes count now."""
        described = failures.describe(error, _task_retry(self.scope))
        if isinstance(error, _StepTimeoutError):
            described.kind, described.type = failures.TIMED_OUT, "TimeoutError"
        elif self.retry.aborts(error):
            described.kind, described.retryable = failures.ABORTED, False
        return described

    def _record(self, value: Any) -> StepRecord:
        try:
            data = self.codec.encode(value, "step result", self.maximum)
        except PayloadError as error:
            # The function has had its effect: doing it again would not make its result fit.
            described = failures.describe(error)
            described.kind, described.retryable = failures.INVALID_OUTPUT, False
            return StepRecord(error=described, permanent=True)
        return StepRecord(value=payloads.to_payload(data))


class _StepTimeoutError(TimeoutError):
    """The step's own limit, as told from a TimeoutError that its function raises."""


_adapters: dict[Any, TypeAdapter[Any]] = {}  # by return annotation: making one costs more than most steps
_annotations: dict[CodeType, Any] = {}  # what a return annotation that is written as a name means
_threads: ThreadPoolExecutor | None = None


async def in_thread(call: Callable[[], Any]) -> Any:
    global _threads
    if _threads is None:
        _threads = ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="holdfast-step")
    context = contextvars.copy_context()
    return await asyncio.get_running_loop().run_in_executor(_threads, context.run, call)


def is_async(function: Callable[..., Any]) -> bool:
    while isinstance(function, functools.partial):
        function = function.func
    if isinstance(function, FunctionType | MethodType):
        return inspect.iscoroutinefunction(function)
    return inspect.iscoroutinefunction(type(function).__call__) or inspect.iscoroutinefunction(function)


def _codec(name: str, function: Callable[..., Any]) -> Codec[Any]:
    while isinstance(function, functools.partial):
        function = function.func
    annotation = _return_annotation(function)
    if isinstance(annotation, TypeVar):
        annotation = Any
    try:
        adapter = _adapters.get(annotation)
    except TypeError:  # an annotation that cannot be hashed
        return _checked_codec(name, annotation)
    if adapter is None:
        adapter = _adapters[annotation] = _checked_codec(name, annotation).adapter
    return Codec(annotation, f"result of step {name!r}", adapter)


def _return_annotation(function: Callable[..., Any]) -> Any:
    """What the function says it returns. Resolving a name costs more than most steps, so that is done once per piece of
    code: a name means the same each time that a function is made of it."""
    code = getattr(function, "__code__", None)
    written = getattr(function, "__annotations__", {}).get("return", Any)
    if isinstance(written, type):
        return written
    if code is None or not isinstance(written, str):
        return (signature.resolve(function, None) or {}).get("return", Any)
    found = _annotations.get(code)
    if found is None:
        found = _annotations[code] = (signature.resolve(function, None) or {}).get("return", Any)
    return found


def _checked_codec(name: str, annotation: Any) -> Codec[Any]:
    """A type that cannot be recorded is told before the effect, not after."""
    codec: Codec[Any] = Codec(annotation, f"result of step {name!r}")
    _ = codec.adapter
    return codec


def _task_retry(scope: RunScope) -> Retry:
    task = registry.get(scope.ctx.task.id)
    return task.retry if task is not None else Retry()
