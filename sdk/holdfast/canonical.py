"""Arguments as bytes that are the same in every process: what a step's fingerprint is made of."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any
from uuid import UUID

from pydantic import BaseModel

_FINGERPRINT_BYTES = 16
MAX_DEPTH = 100


def fingerprint(*arguments: Any) -> bytes:
    """A short digest of arguments."""
    return hashlib.blake2b(_text(plain(arguments)).encode(), digest_size=_FINGERPRINT_BYTES).digest()


def plain(value: Any, depth: int = 0) -> Any:
    """`value` in terms of JSON.

    Values keep what tells them apart; objects that are tools rather than data (a session, a client, a function) count
    by their type or name only, since their state and address differ from process to process.
    """
    if value is None or isinstance(value, bool | int | str):
        return str.__str__(value) if isinstance(value, str) else value
    if isinstance(value, float):
        return {"float": repr(value)} if value != value or value in (float("inf"), float("-inf")) else value
    if depth > MAX_DEPTH:
        return {"deep": type(value).__qualname__}
    below = depth + 1
    if isinstance(value, bytes | bytearray | memoryview):
        return {"bytes": bytes(value).hex()}
    if isinstance(value, list | tuple):
        return [plain(each, below) for each in value]
    if isinstance(value, set | frozenset):
        return {"set": sorted(_text(plain(each, below)) for each in value)}
    if isinstance(value, Mapping):
        if all(isinstance(key, str) for key in value):
            return {"map": {key: plain(each, below) for key, each in value.items()}}
        pairs = [[_text(plain(key, below)), plain(each, below)] for key, each in value.items()]
        return {"pairs": sorted(pairs, key=lambda pair: str(pair[0]))}
    if isinstance(value, Enum):
        return {"enum": value.name}
    if isinstance(value, datetime | date | time):
        return {"at": value.isoformat()}
    if isinstance(value, timedelta | Decimal | UUID | PurePath):
        return {"value": str(value)}
    if isinstance(value, BaseModel):
        return {type(value).__qualname__: plain(value.__dict__, below)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}
        return {type(value).__qualname__: plain(fields, below)}
    named = getattr(value, "__qualname__", None)
    return {"object": named if isinstance(named, str) else type(value).__qualname__}


_text = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode  # dumps() would make one at each call
