"""How failed attempts, and failed steps, are tried again."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from holdfast import durations
from holdfast.durations import Duration
from holdfast.errors import InvalidRetryError
from holdfast.v1.task_pb2 import RetryPolicy

MAX_ATTEMPTS = 10_000

ExceptionClasses = type[BaseException] | tuple[type[BaseException], ...]


@dataclass(frozen=True, slots=True)
class Retry:
    """Declares how often and when a failure is tried again.

    Before attempt n+1 the base delay is `b = min(max_timeout, min_timeout * factor ** (n - 1))`. Without `randomize`
    the delay is b; with it, uniform between `max(min_timeout, hi / 2)` and `hi = min(max_timeout, 2 * b)`.

    Raises: InvalidRetryError, InvalidDurationError.
    """

    max_attempts: int = 3
    """Attempts in all, the first included; 1 to 10,000."""
    factor: float = 2.0
    """Growth of the delay from attempt to attempt; 1.0 or more."""
    min_timeout: Duration = timedelta(seconds=1)
    """The floor of every delay."""
    max_timeout: Duration = timedelta(seconds=60)
    """The ceiling of every delay."""
    randomize: bool = True
    """Whether delays are spread at random."""
    on: ExceptionClasses = ()
    """If given, only these exception classes are tried again. Causes and exception groups are looked into."""
    abort_on: ExceptionClasses = ()
    """These exception classes are never tried again. Causes and exception groups are looked into."""

    def __post_init__(self) -> None:
        if isinstance(self.max_attempts, bool) or not isinstance(self.max_attempts, int):
            raise InvalidRetryError(f"Retry.max_attempts: {self.max_attempts!r} is not a whole number.")
        if not 1 <= self.max_attempts <= MAX_ATTEMPTS:
            raise InvalidRetryError(
                f"Retry.max_attempts: {self.max_attempts} is not between 1 (no retry) and {MAX_ATTEMPTS}."
            )
        if not (isinstance(self.factor, int | float) and math.isfinite(self.factor) and self.factor >= 1):
            raise InvalidRetryError(f"Retry.factor: {self.factor!r} is not a finite number of 1.0 or more.")
        low = durations.parse(self.min_timeout, "Retry.min_timeout")
        high = durations.parse(self.max_timeout, "Retry.max_timeout")
        if low > high:
            raise InvalidRetryError(f"Retry.min_timeout: {low} is more than max_timeout, {high}.")
        object.__setattr__(self, "min_timeout", low)
        object.__setattr__(self, "max_timeout", high)
        object.__setattr__(self, "on", _classes("on", self.on))
        object.__setattr__(self, "abort_on", _classes("abort_on", self.abort_on))

    def to_message(self) -> RetryPolicy:
        """The policy as workers announce it. `on` and `abort_on` stay in the worker."""
        return RetryPolicy(
            max_attempts=self.max_attempts,
            factor=self.factor,
            min_timeout=durations.to_message(self.min_timeout),
            max_timeout=durations.to_message(self.max_timeout),
            randomize=self.randomize,
        )

    def delay_after(self, attempt: int, spread: float | None = None) -> float:
        """Seconds to wait after attempt number `attempt` failed; `spread` in 0..1 stands in for chance."""
        low = durations.parse(self.min_timeout).total_seconds()
        high = durations.parse(self.max_timeout).total_seconds()
        try:
            base = min(high, low * self.factor ** (attempt - 1))
        except OverflowError:
            base = high if low else 0.0
        if not self.randomize:
            return base
        ceiling = min(high, 2 * base)
        floor = max(low, ceiling / 2)
        return floor + (ceiling - floor) * (random.random() if spread is None else spread)

    def aborts(self, error: BaseException) -> bool:
        """Whether `error` is declared hopeless by `abort_on`."""
        return bool(self.abort_on) and any(isinstance(e, self.abort_on) for e in reasons(error))

    def retries(self, error: BaseException) -> bool:
        """Whether `error` may be tried again."""
        if self.aborts(error):
            return False
        return not self.on or any(isinstance(e, self.on) for e in reasons(error))


@dataclass(frozen=True, slots=True)
class Decision:
    """What `catch_error` decided about a failed attempt; make one with `retry.skip`, `retry.at` or `retry.after`."""

    again: bool
    delay: Duration | None = None
    at: datetime | None = None


def reasons(error: BaseException) -> Iterator[BaseException]:
    """`error`, its causes, and the members of exception groups among them, each once."""
    seen: set[int] = set()
    todo = [error]
    while todo:
        current = todo.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        if current.__cause__ is not None:
            todo.append(current.__cause__)
        if isinstance(current, BaseExceptionGroup):
            todo.extend(current.exceptions)


def _classes(name: str, value: object) -> tuple[type[BaseException], ...]:
    given = tuple(value) if isinstance(value, Iterable) else (value,)
    for item in given:
        if not (isinstance(item, type) and issubclass(item, BaseException)):
            raise InvalidRetryError(f"Retry.{name}: {item!r} is not an exception class.")
    return given
