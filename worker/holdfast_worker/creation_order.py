"""Branches are named by the order in which tasks are made, so that order must be the body's, not chance.

asyncio keeps it everywhere but in `as_completed`, which puts its arguments into a set first: coroutines become tasks in
the order of their addresses in memory, another one at every entry. `install` puts a version in its place that makes the
tasks in the order of the arguments, inside bodies; outside, and in everything else, it is asyncio's own.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Iterable
from typing import Any

from holdfast_worker.gate import is_inside_body

_original = asyncio.as_completed


@functools.wraps(_original)
def _as_completed(fs: Iterable[Any], *, timeout: float | None = None) -> Any:
    if is_inside_body() and not asyncio.isfuture(fs) and not asyncio.iscoroutine(fs):
        fs = [asyncio.ensure_future(one) for one in dict.fromkeys(fs)]
    return _original(fs, timeout=timeout)


def install() -> None:
    """For this whole process. To be called before user code is imported, which may take the name."""
    asyncio.as_completed = _as_completed
    asyncio.tasks.as_completed = _as_completed
