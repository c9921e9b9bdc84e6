"""Durable waits: for a length of time, until an instant, for a token. A waiting run holds no slot."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar, overload

from holdfast import _calls, durations, options, tokens
from holdfast._scope import DurableCall
from holdfast.durations import Duration
from holdfast.errors import InvalidArgumentError, InvalidDurationError
from holdfast.idempotency_keys import IdempotencyKey
from holdfast.tokens import Token, TokenPage, TokenResult
from holdfast.v1.run_pb2 import (
    CHECKPOINT_KIND_STEP,
    CHECKPOINT_KIND_TOKEN_WAIT,
    CHECKPOINT_KIND_WAIT,
    Checkpoint,
)
from holdfast.v1.worker_service_pb2 import CheckpointRecord, StepRecord, TokenWaitRecord, WaitRecord

T = TypeVar("T")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PAST_CHECK = "wait.until: is it in the past?"


def for_(
    duration: Duration | None = None,
    *,
    seconds: float = 0,
    minutes: float = 0,
    hours: float = 0,
    days: float = 0,
    weeks: float = 0,
) -> Coroutine[Any, Any, None]:
    """Wait for a length of time: `wait.for_(hours=2)`, `wait.for_(timedelta(days=1))` or `wait.for_("1m30s")`.

    It counts from the first time it is asked; later arguments are ignored on re-entry.

    Raises: InvalidDurationError, NotInRunError.
    """
    parts = {"seconds": seconds, "minutes": minutes, "hours": hours, "days": days, "weeks": weeks}
    length = _length(duration, parts)
    scope = _calls.require_scope("wait.for_()", "Outside use asyncio.sleep().")
    record = CheckpointRecord(name=f"for {length}", wait=WaitRecord(delay=durations.to_message(length)))
    return _calls.ask(scope, DurableCall(CHECKPOINT_KIND_WAIT, record), _nothing)


def until(when: datetime, *, throw_if_in_the_past: bool = False) -> Coroutine[Any, Any, None]:
    """Wait until an instant, a datetime with a time zone. One in the past falls straight through.

    The instant is that of the first time it is asked; later arguments are ignored on re-entry. With
    `throw_if_in_the_past` an instant that was past already then is an InvalidArgumentError, when awaited.

    Raises: InvalidArgumentError for a datetime without a time zone; NotInRunError.
    """
    if not isinstance(when, datetime):
        raise InvalidArgumentError(f"wait.until: {when!r} is not a datetime.")
    options.instant(when, "wait.until")
    scope = _calls.require_scope("wait.until()")
    microseconds = (when - _EPOCH) // timedelta(microseconds=1)
    record = CheckpointRecord(name=f"until {when.isoformat()}", wait=WaitRecord(until_us=microseconds))
    if not throw_if_in_the_past:
        return _calls.ask(scope, DurableCall(CHECKPOINT_KIND_WAIT, record), _nothing)

    # Whether it was past is a fact of the first time: on re-entry every instant that was waited for is past.
    async def look() -> StepRecord:
        step = StepRecord()
        step.value.data = b"true" if when < datetime.now(UTC) else b"false"
        return step

    check = DurableCall(CHECKPOINT_KIND_STEP, CheckpointRecord(name=_PAST_CHECK, step=StepRecord()), perform=look)
    checked = _calls.ask(scope, check, lambda checkpoint: checkpoint.value.data == b"true")
    waited = _calls.ask(scope, DurableCall(CHECKPOINT_KIND_WAIT, record), _nothing)
    return _until_not_past(when, checked, waited)


@overload
def for_token(token: Token | str, *, timeout: Duration | None = None) -> Coroutine[Any, Any, TokenResult[Any]]: ...
@overload
def for_token(
    token: Token | str, output_type: type[T], *, timeout: Duration | None = None
) -> Coroutine[Any, Any, TokenResult[T]]: ...
def for_token(
    token: Token | str, output_type: Any = Any, *, timeout: Duration | None = None
) -> Coroutine[Any, Any, TokenResult[Any]]:
    """Wait until a token is completed, failed, or times out; see `ok`, `output`, `error` and `unwrap()`.

    The data is decoded as `output_type` (any JSON by default). `timeout` limits this wait, besides the token's own.

    Raises: NotInRunError, InvalidDurationError, NotFoundError when there is no such token.
    """
    token_id = token.id if isinstance(token, Token) else token
    scope = _calls.require_scope("wait.for_token()")
    record = CheckpointRecord(
        name=token_id,
        token_wait=TokenWaitRecord(token_id=token_id),
        timeout=_calls.timeout_of(timeout, "wait.for_token: timeout"),
    )
    codec = tokens.codec_of(output_type, token_id)
    call = DurableCall(CHECKPOINT_KIND_TOKEN_WAIT, record)
    return _calls.ask(scope, call, lambda checkpoint: tokens.result_of(token_id, checkpoint, codec))


def create_token(
    *,
    timeout: Duration | None,
    tags: str | Sequence[str] = (),
    idempotency_key: str | IdempotencyKey | None = None,
    idempotency_key_ttl: Duration | None = None,
) -> Coroutine[Any, Any, Token]:
    """Create a token, by which an outsider completes a wait. Durable inside a run: re-entry returns the same token.

    `timeout` is how long it may stay pending; it must be given, if only as None (forever).

    Raises: InvalidDurationError, InvalidKeyError, InvalidArgumentError, SchedulerUnavailableError.
    """
    given = {"idempotency_key": idempotency_key, "idempotency_key_ttl": idempotency_key_ttl}
    return tokens.create(timeout, tags, given)


async def complete_token(token: Token | str, data: Any = None) -> bool:
    """Complete a token with JSON-encodable data; whether this call was the first to complete or fail it.

    Raises: NotFoundError, PayloadError, TooLargeError, SchedulerUnavailableError.
    """
    return await tokens.complete(token, data)


async def fail_token(token: Token | str, message: str, *, type: str = "TokenFailed", details: Any = None) -> bool:
    """Complete a token with an error; whether this call was the first to complete or fail it.

    Raises: as `complete_token`.
    """
    return await tokens.fail(token, message, type, details)


async def retrieve_token(token: Token | str) -> Token:
    """A token as it stands now. Raises: NotFoundError, SchedulerUnavailableError."""
    return await tokens.retrieve(token)


async def list_tokens(
    *, status: str | None = None, tag: str | None = None, limit: int = 50, page_token: str = ""
) -> TokenPage:
    """A page of tokens, newest first. Raises: InvalidArgumentError, SchedulerUnavailableError."""
    return await tokens.list_page(status, tag, limit, page_token)


def _length(duration: Duration | None, parts: dict[str, float]) -> timedelta:
    given = {name: value for name, value in parts.items() if value}
    if duration is not None:
        if given:
            raise InvalidDurationError(f"wait.for_: give either a duration or {', '.join(given)}, not both.")
        return durations.parse(duration, "wait.for_")
    total = timedelta()
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InvalidDurationError(f"wait.for_: {name}={value!r} is not a number.")
        unit = timedelta(**{name: 1}).total_seconds()
        total += durations.parse(value * unit, f"wait.for_: {name}={value!r}")
    return durations.parse(total, "wait.for_")


async def _until_not_past(
    when: datetime, checked: Coroutine[Any, Any, bool], waited: Coroutine[Any, Any, None]
) -> None:
    was_past = await checked
    await waited  # which falls straight through if it was
    if was_past:
        raise InvalidArgumentError(f"wait.until: {when.isoformat()} was in the past.")


def _nothing(_checkpoint: Checkpoint) -> None:
    return None
