"""The filter expressions and page sizes of lists."""

from __future__ import annotations

from datetime import datetime

from holdfast import options
from holdfast.errors import InvalidArgumentError

MAX_PAGE_SIZE = 1000


def build(**conditions: str | datetime | None) -> str:
    """Conditions joined by AND; those that are None are left out. Raises: InvalidArgumentError."""
    return " AND ".join(f"{name} = {_quoted(name, value)}" for name, value in conditions.items() if value is not None)


def page_size(limit: int) -> int:
    """Raises: InvalidArgumentError unless between 1 and 1,000."""
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MAX_PAGE_SIZE:
        raise InvalidArgumentError(f"limit: {limit!r} is not between 1 and {MAX_PAGE_SIZE:,}; ask for further pages.")
    return limit


def _quoted(name: str, value: str | datetime) -> str:
    if isinstance(value, datetime):
        text = options.instant(value, name).ToJsonString()
    elif isinstance(value, str):
        text = value
    else:
        raise InvalidArgumentError(f"{name}: {value!r} is not text.")
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
