"""Durations as users write them: a `timedelta`, seconds as a number, or text such as "1m30s" or "24h"."""

from __future__ import annotations

import math
import re
from datetime import timedelta

from google.protobuf.duration_pb2 import Duration as DurationMessage

from holdfast.errors import InvalidDurationError

Duration = timedelta | int | float | str
"""What is accepted wherever a duration is asked for. Numbers are seconds."""

MAX_DURATION = timedelta(days=36_500)

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_PART = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)", re.ASCII)
_ACCEPTED = 'use a timedelta, seconds as a number, or text such as "30s", "1m30s", "24h" or "3d"'


def parse(value: Duration, name: str = "duration") -> timedelta:
    """The duration that `value` means; `name` is what errors call it.

    Raises: InvalidDurationError when it is malformed, negative, not a number, or longer than 100 years.
    """
    if isinstance(value, timedelta):
        duration = value
    elif isinstance(value, str):
        duration = timedelta(seconds=_seconds_of_text(value, name))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise InvalidDurationError(f"{name}: {value!r} is not a length of time; {_ACCEPTED}.")
        if abs(value) > MAX_DURATION.total_seconds():
            raise InvalidDurationError(f"{name}: {value!r} s is longer than the limit of 100 years.")
        duration = timedelta(seconds=value)
    else:
        raise InvalidDurationError(f"{name}: {value!r} is not a duration; {_ACCEPTED}.")
    if duration < timedelta(0):
        raise InvalidDurationError(f"{name}: {value!r} is negative; a duration is 0 or more.")
    if duration > MAX_DURATION:
        raise InvalidDurationError(f"{name}: {value!r} is longer than the limit of 100 years.")
    return duration


def to_message(value: Duration, name: str = "duration") -> DurationMessage:
    """The same as a protobuf message. Raises: InvalidDurationError."""
    duration = parse(value, name)
    return DurationMessage(seconds=duration.days * 86400 + duration.seconds, nanos=duration.microseconds * 1000)


def from_message(message: DurationMessage) -> timedelta:
    """A protobuf duration as a `timedelta` (microseconds; finer parts are dropped)."""
    return timedelta(seconds=message.seconds, microseconds=message.nanos // 1000)


def _seconds_of_text(text: str, name: str) -> float:
    """Each unit may stand once: "1m1m" is more likely a mistake than two minutes."""
    position, total, seen = 0, 0.0, set[str]()
    stripped = text.rstrip()
    while position < len(stripped):
        part = _PART.match(stripped, position)
        if part is None or part[2] in seen:
            raise InvalidDurationError(f"{name}: {text!r} is not a duration; {_ACCEPTED}.")
        seen.add(part[2])
        total += float(part[1]) * _UNITS[part[2]]
        position = part.end()
    if not seen:
        raise InvalidDurationError(f"{name}: {text!r} is not a duration; {_ACCEPTED}.")
    if total > MAX_DURATION.total_seconds():
        raise InvalidDurationError(f"{name}: {text!r} is longer than the limit of 100 years.")
    return total
