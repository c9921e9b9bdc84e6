"""Trying a call again inside an attempt, and deciding about attempts.

    page = await retry.on_throw(fetch_page, Retry(max_attempts=5))
    response = await retry.fetch(lambda: client.get(url))

Do not stack them: `on_throw` of 5 tries, in a step of 5, in a task of 5 attempts, is 125 calls of a service that is
down. Let one layer try again, the outermost that suffices: mostly the task's own `retry`, which waits without a slot.
"""

from __future__ import annotations

import asyncio
import email.utils
import inspect
import json
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar, overload

from holdfast import _calls, _scope, _step, durations, failures, wait
from holdfast._scope import DurableCall, RunScope
from holdfast.durations import Duration
from holdfast.errors import InvalidRetryError
from holdfast.retry_policy import Decision, Retry
from holdfast.v1.run_pb2 import CHECKPOINT_KIND_STEP, Checkpoint
from holdfast.v1.worker_service_pb2 import CheckpointRecord, StepRecord

__all__ = ["DURABLE_FROM", "MAX_RETRY_AFTER", "Decision", "Retry", "after", "at", "fetch", "on_throw", "skip"]

T = TypeVar("T")

DURABLE_FROM: Final = timedelta(seconds=5)
"""A pause between tries that is this long is a durable wait: the run gives up its slot and survives a crash."""
MAX_RETRY_AFTER: Final = timedelta(hours=1)
"""A server that asks for more is not tried again: the answer is returned as it is."""

_FAILED_TRY: Final = "failed try"


@overload
def on_throw(function: Callable[..., Awaitable[T]], retry: Retry | None = None) -> Coroutine[Any, Any, T]: ...
@overload
def on_throw(function: Callable[..., T], retry: Retry | None = None) -> Coroutine[Any, Any, T]: ...
def on_throw(function: Callable[..., Any], retry: Retry | None = None) -> Coroutine[Any, Any, Any]:
    """Call `function()` until it does not raise, at most `retry.max_attempts` times (3 by default); its last error is
    raised. A `def` function runs in a thread. One with a parameter `attempt` is told the number of the try, from 1.

    It may make durable calls. Its result is not recorded: at re-entry it is called again, but tries that a durable
    wait followed are not repeated. To call it once and record what it returned, use `step(..., retry=...)`.
    """
    return _repeat(_Throwing(function, retry or Retry()))


def fetch(
    call: Callable[..., Any],
    by_status: Mapping[str, Retry] | None = None,
    *,
    connection_error: Retry | None = None,
) -> Coroutine[Any, Any, Any]:
    """Call an HTTP client until it answers with a status that is not worth another try; returns its response.

    `call()`, `async def` or `def`, returns any object with `status` or `status_code`, and `headers`. `by_status` says
    which statuses are tried again and how, {"408,429,500-599": Retry()} by default; the last response is returned as
    it is. An exception of the call is tried again by `connection_error`, Retry() by default. A `Retry-After` header,
    in seconds or as a date, is waited for if that is longer, up to MAX_RETRY_AFTER.

    A request that is not idempotent may take effect more than once: send an idempotency key of the service.

    Raises: InvalidRetryError for statuses that cannot be read; what the last call raised.
    """
    statuses = {"408,429,500-599": Retry()} if by_status is None else by_status
    return _repeat(_Fetching(call, _ranges(statuses), connection_error or Retry()))


def skip() -> Decision:
    """For `catch_error`: no further attempt."""
    return Decision(again=False)


def at(when: datetime) -> Decision:
    """For `catch_error`: the next attempt, if any is left, at this instant. Raises: InvalidRetryError."""
    if not isinstance(when, datetime) or when.tzinfo is None:
        raise InvalidRetryError(f"retry.at: {when!r} is not a datetime with a time zone.")
    return Decision(again=True, at=when)


def after(delay: Duration) -> Decision:
    """For `catch_error`: the next attempt, if any is left, after this long. Raises: InvalidDurationError."""
    return Decision(again=True, delay=durations.parse(delay, "retry.after"))


class _Throwing:
    """Tries that fail by an exception."""

    def __init__(self, function: Callable[..., Any], retry: Retry) -> None:
        self._function = function
        self._retry = retry
        self._wants_number = "attempt" in inspect.signature(function).parameters

    async def __call__(self, number: int) -> Any:
        given = {"attempt": number} if self._wants_number else {}
        if _step.is_async(self._function):
            return await self._function(**given)
        value = await _step.in_thread(lambda: self._function(**given))
        return await value if inspect.isawaitable(value) else value

    def pause_after(self, value: Any, error: Exception | None, number: int) -> float | None:
        """Seconds until the next try; None when there is none."""
        return None if error is None else _pause(self._retry, error, number)


class _Fetching(_Throwing):
    """Tries that fail by a status, too."""

    def __init__(self, call: Callable[..., Any], statuses: list[tuple[range, Retry]], retry: Retry) -> None:
        super().__init__(call, retry)
        self._statuses = statuses

    def pause_after(self, value: Any, error: Exception | None, number: int) -> float | None:
        if error is not None:
            return super().pause_after(value, error, number)
        status = getattr(value, "status_code", None)
        status = getattr(value, "status", None) if status is None else status
        policy = next((retry for statuses, retry in self._statuses if status in statuses), None)
        if policy is None or number >= policy.max_attempts:
            return None
        asked = _retry_after(getattr(value, "headers", None) or {})
        if asked > MAX_RETRY_AFTER.total_seconds():
            return None
        return max(policy.delay_after(number), asked)


def _pause(retry: Retry, error: Exception, number: int) -> float | None:
    if number >= retry.max_attempts or not failures.describe(error, retry).retryable:
        return None
    return retry.delay_after(number)


async def _repeat(tries: _Throwing) -> Any:
    scope = None if _calls.is_plain() else _scope.current()
    with _branch(scope, "retry"):
        number = 1
        while True:
            if scope is not None and scope.is_recorded(CHECKPOINT_KIND_STEP, _FAILED_TRY):
                # Not to be repeated: what follows it is recorded, too, and the try might succeed this time.
                number, pause = await _failed_try(scope, 0, 0.0)
            else:
                value, error = None, None
                try:
                    with _branch(scope, f"try {number}"):
                        value = await tries(number)
                except Exception as raised:
                    error = raised
                found = tries.pause_after(value, error, number)
                if found is None:
                    if error is not None:
                        raise error
                    return value
                pause = found
                if scope is None or pause < DURABLE_FROM.total_seconds():
                    await asyncio.sleep(pause)
                    number += 1
                    continue
                number, pause = await _failed_try(scope, number, pause)
            await wait.for_(seconds=pause)
            number += 1


def _branch(scope: RunScope | None, name: str) -> AbstractContextManager[None]:
    return nullcontext() if scope is None else scope.fork(name)


async def _failed_try(scope: RunScope, number: int, pause: float) -> tuple[int, float]:
    """Record that a try failed, before a durable wait; returns what is recorded."""

    async def perform() -> StepRecord:
        record = StepRecord()
        record.value.data = json.dumps([number, pause]).encode()
        return record

    def recorded(checkpoint: Checkpoint) -> tuple[int, float]:
        number, pause = json.loads(checkpoint.value.data)
        return number, pause

    call = DurableCall(CHECKPOINT_KIND_STEP, CheckpointRecord(name=_FAILED_TRY, step=StepRecord()), perform=perform)
    return await _calls.ask(scope, call, recorded)


def _ranges(by_status: Mapping[str, Retry]) -> list[tuple[range, Retry]]:
    """Statuses such as "408,429,500-599". Raises: InvalidRetryError."""
    found = []
    for statuses, retry in by_status.items():
        for part in str(statuses).split(","):
            first, dash, last = part.strip().partition("-")
            try:
                found.append((range(int(first), int(last if dash else first) + 1), retry))
            except ValueError:
                raise InvalidRetryError(
                    f'retry.fetch: {part!r} in {statuses!r} is no status; write for example "408,429,500-599".'
                ) from None
    return found


def _retry_after(headers: Mapping[str, Any]) -> float:
    """Seconds that the `Retry-After` header asks for; 0 when there is none that can be read."""
    text = next((str(value) for name, value in headers.items() if str(name).lower() == "retry-after"), "").strip()
    if not text:
        return 0.0
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        when = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())
