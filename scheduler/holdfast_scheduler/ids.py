"""Ids: 16-byte UUIDv7 inside, a prefix and 26 base32hex digits outside.

The digits are the 16 bytes as one big-endian number, zero-padded, so that texts sort as bytes do, which is by time.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from typing import Final

RUN: Final = "run_"
BATCH: Final = "batch_"
TOKEN: Final = "token_"
SCHEDULE: Final = "sched_"
BULK: Final = "bulk_"

SLACK_US: Final = 5_000_000
"""How far the instant of a run's id may lie from that of its trigger."""

KEPT: Final = 8_192
"""Ids whose other form is remembered: a run's id crosses the edge four times within moments."""

_DIGITS = "0123456789abcdefghijklmnopqrstuv"
_PAIRS = [high + low for high in _DIGITS for low in _DIGITS]  # ten bits at a time
# The first digit holds the top 3 of 128 bits. `int(text, 32)` alone would also take signs, spaces and underscores.
_IS_TAIL = re.compile(r"[0-7][0-9a-v]{25}", re.ASCII).fullmatch


def new_id() -> bytes:
    """A new UUIDv7: milliseconds, then 12 bits of the rest of the millisecond, then 62 random bits."""
    millis, rest = divmod(time.time_ns(), 1_000_000)
    random = int.from_bytes(os.urandom(8), "big") & 0x3FFF_FFFF_FFFF_FFFF
    number = (millis & 0xFFFF_FFFF_FFFF) << 80 | 0x7 << 76 | (rest * 4096 // 1_000_000) << 64 | 0x2 << 62 | random
    return number.to_bytes(16, "big")


def is_off_clock(raw: bytes, micros: int) -> bool:
    """Whether an id was made at another instant than this, by a clock that goes wrong or long before. Lists find the
    others by their ids."""
    return abs(int.from_bytes(raw[:6], "big") * 1000 - micros) > SLACK_US


def first_id(micros: int) -> bytes:
    """The lowest id of an instant."""
    return (max(0, micros // 1000) << 80).to_bytes(16, "big")


def derived_id(*of: bytes) -> bytes:
    """A UUIDv7 that is always the same for the same ids; its milliseconds are those of the first."""
    digest = hashlib.sha256(b"".join(of)).digest()
    return of[0][:6] + bytes((0x70 | digest[0] & 0x0F, digest[1], 0x80 | digest[2] & 0x3F)) + digest[3:10]


def to_text(prefix: str, raw: bytes) -> str:
    """The text form of an id."""
    text = _texts.get(raw)
    if text is not None and text.startswith(prefix):
        return text
    n = int.from_bytes(raw, "big")
    pairs = _PAIRS
    text = (
        f"{prefix}{pairs[n >> 120]}{pairs[n >> 110 & 1023]}{pairs[n >> 100 & 1023]}{pairs[n >> 90 & 1023]}"
        f"{pairs[n >> 80 & 1023]}{pairs[n >> 70 & 1023]}{pairs[n >> 60 & 1023]}{pairs[n >> 50 & 1023]}"
        f"{pairs[n >> 40 & 1023]}{pairs[n >> 30 & 1023]}{pairs[n >> 20 & 1023]}{pairs[n >> 10 & 1023]}{pairs[n & 1023]}"
    )
    _remember(raw, text)
    return text


def from_text(prefix: str, text: str) -> bytes:
    """The 16 bytes of an id in text form.

    Raises: ValueError when the prefix is another one or the rest is not 26 lowercase base32hex digits.
    """
    raw = _raws.get(text)
    if raw is not None and text.startswith(prefix):
        return raw
    tail = text[len(prefix) :]
    if not text.startswith(prefix) or _IS_TAIL(tail) is None:
        raise ValueError(f"{text[:80]!r} is not an id of the form {prefix}… (26 characters 0-9 a-v)")
    raw = int(tail, 32).to_bytes(16, "big")
    _remember(raw, text)
    return raw


_texts: dict[bytes, str] = {}
_raws: dict[str, bytes] = {}


def _remember(raw: bytes, text: str) -> None:
    """Keep both forms, from whatever thread. Two at a time may keep one more. What is no id has no second form."""
    if len(raw) != 16:
        return
    if len(_texts) >= KEPT:
        _texts.clear()
        _raws.clear()
    _texts[raw] = text
    _raws[text] = raw


def run_text(raw: bytes) -> str:
    """The text form of a run's id."""
    return to_text(RUN, raw)
