"""The filter expressions and page sizes of lists."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, TypedDict, cast

from holdfast import idempotency_keys, options, texts
from holdfast.errors import InvalidArgumentError
from holdfast.handles import RunHandle
from holdfast.idempotency_keys import IdempotencyKey
from holdfast.statuses import RunStatus

MAX_PAGE_SIZE = 1000
_PATH_BREAKS: Final = frozenset(' \t\n\r"=<>!()')


class Conditions(TypedDict, total=False):
    """Which runs: those that meet all that are given."""

    status: RunStatus | str | Sequence[RunStatus | str]
    """One, or several of which one must hold."""
    task: str
    queue: str
    tag: str
    batch: str
    """Id of a batch."""
    schedule: str
    """Id of the schedule that triggered them."""
    parent: RunHandle[Any] | str
    version: str
    key: IdempotencyKey | str
    """The run that holds this key of `task`; with `parent` a key of scope "run" that was used in that run."""
    metadata: Mapping[str, Any]
    """Values by path, such as {"progress.page": 3}: paths go down through objects."""
    created_after: datetime
    created_before: datetime
    ended_after: datetime
    ended_before: datetime


def of_runs(conditions: Conditions) -> str:
    """The filter expression. Raises: InvalidArgumentError, InvalidKeyError."""
    given = {name: value for name, value in cast("Mapping[str, Any]", conditions).items() if value is not None}
    unknown = sorted(given.keys() - Conditions.__annotations__.keys())
    if unknown:
        known = ", ".join(Conditions.__annotations__)
        raise InvalidArgumentError(f"{unknown[0]}: is no condition of a list of runs; there are {known}.")
    found: dict[str, Any] = {}
    for name, value in given.items():
        if name == "metadata":
            found |= {f"metadata.{_path(path)}": _Json(each) for path, each in value.items()}
        elif name == "key":
            if "task" not in given:
                raise InvalidArgumentError("key: belongs to a task; name the task too.")
            found["key_parts"] = json.dumps(idempotency_keys.of(value).parts)
        elif name == "parent":
            found[name] = value.id if isinstance(value, RunHandle) else texts.check(value, "parent")
        elif name == "status":
            several = value if isinstance(value, list | tuple | set | frozenset) else [value]
            if not several or not all(isinstance(one, str) for one in several):
                raise InvalidArgumentError(f"status: {value!r} is neither a status nor a list of them.")
            found["status" if len(several) == 1 else "statuses"] = ",".join(str(one) for one in several)
        else:
            found[name] = value
    return build(**found)


def build(**conditions: Any) -> str:
    """Conditions joined by AND; those that are None are left out. Raises: InvalidArgumentError."""
    return " AND ".join(f"{name} = {_written(name, value)}" for name, value in conditions.items() if value is not None)


def page_size(limit: int) -> int:
    """Raises: InvalidArgumentError unless between 1 and 1,000."""
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MAX_PAGE_SIZE:
        raise InvalidArgumentError(f"limit: {limit!r} is not between 1 and {MAX_PAGE_SIZE:,}; ask for further pages.")
    return limit


class _Json:
    """A JSON value to compare with."""

    def __init__(self, value: Any) -> None:
        self.value = value


def _path(path: str) -> str:
    if not isinstance(path, str) or not all(path.split(".")) or _PATH_BREAKS & set(path):
        raise InvalidArgumentError(f"metadata: {path!r} is not a path such as progress.page, without spaces or quotes.")
    return path


def _written(name: str, value: Any) -> str:
    if isinstance(value, _Json):
        if value.value is None or isinstance(value.value, bool | int | float):
            return json.dumps(value.value)
        if not isinstance(value.value, str):
            raise InvalidArgumentError(f"{name}: {value.value!r} is not a text, a number, a boolean or None.")
        text = value.value
    elif isinstance(value, datetime):
        text = options.instant(value, name).ToJsonString()
    elif isinstance(value, str):
        text = value
    else:
        raise InvalidArgumentError(f"{name}: {value!r} is not text.")
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
