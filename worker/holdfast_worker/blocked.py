"""Is every task of a body blocked, directly or through another of its tasks, on a durable call?

Only then is a run WAITING (DESIGN section 4). The answer is read off the tasks' structure. Whatever is not recognised
counts as work of the body's own, which keeps its slot: a sleep, a socket, a thread, a future of somebody else's.
Locks, events and queues of asyncio count as blocked: what they wait for is another task. Should that be one of another
body, the parked body wakes when it is released (`Wake`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from types import CodeType, FunctionType
from typing import Any, Final

Futures = Collection["asyncio.Future[Any]"]

_ASYNCIO: Final = asyncio.__file__.rpartition("__init__")[0]
_STRUCTURAL_FILES: Final = frozenset({f"{_ASYNCIO}locks.py", f"{_ASYNCIO}queues.py", f"{_ASYNCIO}taskgroups.py"})
_TASKS_FILE: Final = f"{_ASYNCIO}tasks.py"
_WAITED_FOR: Final = {"_wait": "fs", "wait_for": "fut", "_cancel_and_wait": "fut"}
"""asyncio's own coroutines that wait with a future of theirs, and their local that holds what they wait for."""
_MAX_DEPTH: Final = 500
"""Coroutines and futures followed from one task; deeper counts as not recognised."""


def is_blocked(tasks: Futures, durable: Futures) -> bool:
    """Whether every unfinished one of `tasks` is blocked on one of `durable`, or on another of `tasks`.

    `tasks` are all the tasks of one body, `durable` the futures on which its durable calls wait.
    """
    return all(task.done() or _is_task_blocked(task, tasks, durable) for task in tasks)


def _is_task_blocked(task: asyncio.Future[Any], tasks: Futures, durable: Futures) -> bool:
    waiter = getattr(task, "_fut_waiter", None)
    if waiter is None:
        return False
    if _is_known(waiter, tasks, durable, 0):
        return True
    assert isinstance(task, asyncio.Task)
    frame = _innermost_frame(task.get_coro())
    if frame is None:
        return False
    code: CodeType = frame.f_code
    if code.co_filename in _STRUCTURAL_FILES:
        return True
    local = _WAITED_FOR.get(code.co_name)
    if local is None or code.co_filename != _TASKS_FILE:
        return False
    waited = frame.f_locals.get(local)
    several = waited if isinstance(waited, (set, frozenset, list, tuple)) else [waited]
    return all(isinstance(one, asyncio.Future) and _is_known(one, tasks, durable, 0) for one in several)


def _is_known(future: asyncio.Future[Any], tasks: Futures, durable: Futures, depth: int) -> bool:
    if depth > _MAX_DEPTH:
        return False
    if future.done() or future in durable or future in tasks:
        return True
    children = getattr(future, "_children", None)  # of gather()
    if children is not None:
        return all(_is_known(child, tasks, durable, depth + 1) for child in children)
    inner = _shielded(future)
    return inner is not None and _is_known(inner, tasks, durable, depth + 1)


def _shielded(outer: asyncio.Future[Any]) -> asyncio.Future[Any] | None:
    """What `outer`, a future made by asyncio.shield(), shields."""
    for callback, _ in getattr(outer, "_callbacks", None) or ():
        if isinstance(callback, FunctionType) and callback.__qualname__ == "shield.<locals>._outer_done_callback":
            names = callback.__code__.co_freevars
            if "inner" in names and callback.__closure__:
                inner = callback.__closure__[names.index("inner")].cell_contents
                return inner if isinstance(inner, asyncio.Future) else None
    return None


def _innermost_frame(coroutine: Any) -> Any:
    """The frame in which a suspended coroutine waits; None when that cannot be looked into."""
    for _ in range(_MAX_DEPTH):
        if hasattr(coroutine, "cr_await"):
            inner, frame = coroutine.cr_await, coroutine.cr_frame
        elif hasattr(coroutine, "gi_yieldfrom"):
            inner, frame = coroutine.gi_yieldfrom, coroutine.gi_frame
        else:
            return None
        if inner is None or not (hasattr(inner, "cr_await") or hasattr(inner, "gi_yieldfrom")):
            return frame if _is_future_iterator(inner) else None
        coroutine = inner
    return None


def _is_future_iterator(awaited: Any) -> bool:
    """Whether a frame awaits a future as such, and not, for example, an asynchronous generator."""
    return type(awaited).__name__ in ("FutureIter", "generator", "_asyncio.FutureIter") or awaited is None
