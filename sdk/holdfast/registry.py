"""The tasks that the imported code declares, by id."""

from __future__ import annotations

from types import FunctionType
from typing import TYPE_CHECKING, Any

from holdfast.errors import DuplicateTaskError

if TYPE_CHECKING:
    from holdfast._task import Task

_tasks: dict[str, Task[Any, Any]] = {}


def add(task: Task[Any, Any]) -> None:
    """Register `task`. The same function imported again (as `__main__` and as a module, say) takes its own place.

    Raises: DuplicateTaskError, which names both places.
    """
    other = _tasks.get(task.id)
    if other is not None and not is_same(other.function, task.function):
        raise DuplicateTaskError(
            f"Task id {task.id!r} is claimed twice: by {place(other.function)} and by {place(task.function)}. "
            "Give one of them another id."
        )
    _tasks[task.id] = task


def get(task_id: str) -> Task[Any, Any] | None:
    """The task with this id; None when the imported code declares none."""
    return _tasks.get(task_id)


def all_tasks() -> list[Task[Any, Any]]:
    """Every declared task, in order of ids."""
    return [_tasks[task_id] for task_id in sorted(_tasks)]


def place(function: Any) -> str:
    """Where a function is defined, for people."""
    if isinstance(function, FunctionType):
        code = function.__code__
        return f"{function.__qualname__} ({code.co_filename}:{code.co_firstlineno})"
    return repr(function)


def is_same(one: Any, other: Any) -> bool:
    """Whether two functions are the same one, imported twice."""
    if one is other:
        return True
    if not (isinstance(one, FunctionType) and isinstance(other, FunctionType)):
        return False
    if one.__qualname__ != other.__qualname__:
        return False
    here, there = one.__code__, other.__code__
    if here.co_filename.startswith("<") or "ipykernel" in here.co_filename:  # a notebook cell that was run again
        return True
    return (here.co_filename, here.co_firstlineno) == (there.co_filename, there.co_firstlineno)
