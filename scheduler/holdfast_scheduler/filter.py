"""The filter of lists: conditions joined by AND, such as `status = "FAILED" AND task = "export"`.

The language is the part of AIP-160 that the documented fields need: `field = value`, where the value is a word or a
text in double quotes with `\\"` and `\\\\` as its escapes.

`metadata.page = 3` compares a value inside the metadata of a run; the path goes down through objects. A word is read as
JSON (a number, true, false, null) and, where it is none, as text; what stands in quotes is text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, NoReturn

from holdfast_scheduler import ids
from holdfast_scheduler.errors import INVALID_ARGUMENT, RefusedError, near_names, shown
from holdfast_scheduler.model import STATUS_NAMES, ItemFault

_TOKEN: Final = re.compile(
    r'\s*(?:(?P<text>"(?:[^"\\]|\\.)*")|(?P<sign>!=|<=|>=|[=<>()])|(?P<word>[^\s"=<>!()]+))', re.DOTALL
)
_STATUSES: Final = {name: number for number, name in STATUS_NAMES.items()}
_TOKEN_STATUSES: Final = {"PENDING": 1, "COMPLETED": 2, "FAILED": 3, "TIMED_OUT": 4}


@dataclass(slots=True)
class RunFilter:
    """Which runs; None means any. Instants are microseconds since the Unix epoch."""

    status: int | None = None
    statuses: tuple[int, ...] | None = None  # several, of which one must hold
    task: str | None = None
    queue: str | None = None
    tag: str | None = None
    batch: bytes | None = None
    schedule: bytes | None = None
    parent: bytes | None = None
    version: str | None = None
    created_after: int | None = None
    created_before: int | None = None
    ended_after: int | None = None
    ended_before: int | None = None
    key: tuple[str | int | bool, ...] | None = None  # parts of an idempotency key; goes with `task`
    metadata: dict[tuple[str, ...], Any] = field(default_factory=dict)  # path → JSON value
    made_until: int | None = None  # set by bulk operations, which leave later runs alone


@dataclass(slots=True)
class TokenFilter:
    """Which tokens; None means any."""

    status: int | None = None
    tag: str | None = None


def parse_run_filter(text: str, most: int) -> RunFilter:
    """The conditions of `text`; `most` is its longest length.

    Raises: RefusedError (INVALID_FILTER) that names the place and the way out.
    """
    found = RunFilter()
    for name, value in _conditions(text, most, _RUN_FIELDS).items():
        if name.startswith(_METADATA):
            found.metadata[tuple(name.split(".")[1:])] = value
        else:
            setattr(found, "key" if name == "key_parts" else name, value)
    if found.statuses is not None and found.status is not None:
        _refuse("filter: status is given twice, by statuses too; write all that may hold in statuses")
    if found.key is not None and found.task is None:
        _refuse("filter: key belongs to a task; write key = ... AND task = ...")
    return found


def parse_token_filter(text: str, most: int) -> TokenFilter:
    """The conditions of `text`; `most` is its longest length.

    Raises: RefusedError (INVALID_FILTER).
    """
    return TokenFilter(**_conditions(text, most, _TOKEN_FIELDS))


def _conditions(text: str, most: int, fields: Mapping[str, Callable[[str], Any]]) -> dict[str, Any]:
    if len(text) > most:
        _refuse(f"filter: {len(text):,} characters are more than the limit filter_length of {most:,}")
    words = _words(text)
    found: dict[str, Any] = {}
    at = 0
    while at < len(words):
        if at:
            _, joint, place = words[at]
            if joint != "AND":
                _refuse(f"filter: expected AND at character {place + 1}, found {shown(joint)}")
            at += 1
        condition = words[at : at + 3]
        if not condition:
            _refuse("filter: ends with AND; a condition is missing")
        if len(condition) < 3:
            _refuse(f'filter: {shown(text)} ends early; a condition is written field = "value"')
        (name_kind, name, place), (_, sign, sign_place), (value_kind, value, value_place) = condition
        is_path = fields is _RUN_FIELDS and name.startswith(_METADATA) and all(name.split("."))
        if name_kind != "word" or (name not in fields and not is_path):
            near = near_names(name, fields) or list(fields)
            _refuse(f"filter: unknown field {shown(name)} at character {place + 1}; write {' or '.join(near)}")
        if sign != "=":
            _refuse(f"filter: expected = after {name} at character {sign_place + 1}, found {shown(sign)}")
        if value_kind == "sign":
            _refuse(f"filter: expected a value for {name} at character {value_place + 1}, found {shown(value)}")
        if name in found:
            _refuse(f"filter: {name} is given twice; conditions are joined by AND, so one can hold at the most")
        try:
            found[name] = _json_value(value_kind, value) if is_path else fields[name](value)
        except ValueError as error:
            _refuse(f"filter: {name} at character {value_place + 1}: {error}")
        at += 3
    return found


def _words(text: str) -> list[tuple[str, str, int]]:
    """(kind, value, place) of each word, sign and text."""
    words = []
    at = 0
    end = len(text.rstrip())
    while at < end:
        match = _TOKEN.match(text, at)
        if match is None:
            place = at + len(text[at:]) - len(text[at:].lstrip())
            _refuse(
                f"filter: cannot read {shown(text[place : place + 20])} at character {place + 1}; is a quote missing?"
            )
        kind = match.lastgroup or ""
        value = match[kind]
        if kind == "text":
            value = re.sub(r"\\(.)", r"\1", value[1:-1], flags=re.DOTALL)
        words.append((kind, value, match.start(kind)))
        at = match.end()
    return words


def _refuse(message: str) -> NoReturn:
    raise RefusedError(ItemFault(INVALID_ARGUMENT, "INVALID_FILTER", message, {"field": "filter"}))


# --- values -----------------------------------------------------------------------------------------------------------
def _text(value: str) -> str:
    if "\0" in value:
        raise ValueError("contains the character U+0000, which nothing stored has")
    return value


def _json_value(kind: str, text: str) -> Any:
    if kind == "word":
        try:
            return json.loads(text)
        except ValueError:
            pass
    return _text(text)


def _key(text: str) -> tuple[str | int | bool, ...]:
    return (_text(text),)


def _key_parts(text: str) -> tuple[str | int | bool, ...]:
    try:
        parts = json.loads(text)
    except ValueError:
        parts = None
    if not isinstance(parts, list) or not parts or not all(map(_is_part, parts)):
        raise ValueError(f'{shown(text)} is not a list of texts, integers and booleans; write "[\\"org\\", 7]"')
    return tuple(parts)


def _is_part(part: object) -> bool:
    return isinstance(part, str) or (isinstance(part, int) and -(1 << 63) <= part < 1 << 63)


def _one_of(names: Mapping[str, int]) -> Callable[[str], int]:
    def number(value: str) -> int:
        try:
            return names[value.upper()]
        except KeyError:
            near = near_names(value.upper(), names) or list(names)
            raise ValueError(f"{shown(value)} is not a status; write {' or '.join(near)}") from None

    return number


def _some_of(names: Mapping[str, int]) -> Callable[[str], tuple[int, ...]]:
    one = _one_of(names)
    return lambda value: tuple(sorted({one(name.strip()) for name in value.split(",")}))


def _id(prefix: str) -> Callable[[str], bytes]:
    return lambda value: ids.from_text(prefix, value)


def _instant(value: str) -> int:
    try:
        instant = datetime.fromisoformat(value)
    except ValueError:
        raise ValueError(f"{shown(value)} is not an instant; write 2026-01-31T12:00:00Z") from None
    if instant.tzinfo is None:
        raise ValueError(f"{shown(value)} has no time zone; write 2026-01-31T12:00:00Z")
    try:
        return round(instant.timestamp() * 1_000_000)
    except (OverflowError, ValueError):
        raise ValueError(f"{shown(value)} is out of range") from None


_RUN_FIELDS: Final[dict[str, Callable[[str], Any]]] = {
    "status": _one_of(_STATUSES),
    "task": _text,
    "queue": _text,
    "tag": _text,
    "batch": _id(ids.BATCH),
    "schedule": _id(ids.SCHEDULE),
    "parent": _id(ids.RUN),
    "version": _text,
    "created_after": _instant,
    "created_before": _instant,
    "ended_after": _instant,
    "ended_before": _instant,
    "key": _key,
    "key_parts": _key_parts,
    "statuses": _some_of(_STATUSES),
}
_METADATA: Final = "metadata."
_TOKEN_FIELDS: Final[dict[str, Callable[[str], Any]]] = {"status": _one_of(_TOKEN_STATUSES), "tag": _text}
