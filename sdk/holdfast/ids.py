"""Ids: 16-byte UUIDv7, as text a prefix and 26 digits of base32hex, which sort like the bytes.

New ids rise within a process, also within one millisecond and when the clock steps back.
"""

from __future__ import annotations

import os
import threading
import time

from holdfast.errors import InvalidArgumentError

RUN = "run_"
BATCH = "batch_"
TOKEN = "token_"
SCHEDULE = "sched_"
BULK = "bulk_"

_ALPHABET = "0123456789abcdefghijklmnopqrstuv"
_PAIRS = [high + low for high in _ALPHABET for low in _ALPHABET]  # text of each 10-bit chunk
_DIGITS = 26
_RANDOM_BITS = 74
_LOW_MASK = (1 << 62) - 1

_lock = threading.Lock()
_last = 0  # milliseconds and the 74 free bits of the newest id, as one number


def _forget() -> None:
    """After a fork: a child must not count on from its parent's last id, as its siblings do."""
    global _last, _lock
    _last = 0
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_forget)


def new() -> int:
    """A new UUIDv7 as a number."""
    global _last
    now = time.time_ns() // 1_000_000
    with _lock:
        if now > _last >> _RANDOM_BITS:
            _last = now << _RANDOM_BITS | int.from_bytes(os.urandom(10), "big") >> 6
        else:
            _last += 1 + int.from_bytes(os.urandom(4), "big")
        last = _last
    free = last & (1 << _RANDOM_BITS) - 1
    return (last >> _RANDOM_BITS) << 80 | 7 << 76 | free >> 62 << 64 | 2 << 62 | free & _LOW_MASK


def text(prefix: str, number: int) -> str:
    """The text form of an id."""
    pairs = _PAIRS
    return prefix + "".join([pairs[number >> shift & 1023] for shift in range(120, -1, -10)])


def new_run_id() -> str:
    """A new run id in text form."""
    return text(RUN, new())


def new_batch_id() -> str:
    """A new batch id in text form."""
    return text(BATCH, new())


def new_token_id() -> str:
    """A new token id in text form."""
    return text(TOKEN, new())


def new_schedule_id() -> str:
    """A new schedule id in text form."""
    return text(SCHEDULE, new())


def to_text(prefix: str, raw: bytes) -> str:
    """The text form of a raw 16-byte id; empty for an empty one."""
    return text(prefix, int.from_bytes(raw, "big")) if raw else ""


def to_bytes(prefix: str, value: str) -> bytes:
    """The raw 16 bytes of an id in text form.

    Raises: InvalidArgumentError when `value` is not such an id.
    """
    digits = value.removeprefix(prefix)
    if value.startswith(prefix) and len(digits) == _DIGITS and digits[0] < "8" and set(digits) <= set(_ALPHABET):
        return int(digits, 32).to_bytes(16, "big")
    raise InvalidArgumentError(f'{value!r} is not an id of the form "{prefix}" and {_DIGITS} characters 0-9a-v.')
