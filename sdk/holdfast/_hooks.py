"""Which functions users want to be called at which points of an execution. `_lifecycle` calls them."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypedDict, TypeVar

from holdfast import registry
from holdfast._scope import RunScope
from holdfast.errors import TaskDefinitionError

Function = Callable[..., Any]
Functions = Function | Sequence[Function]
F = TypeVar("F", bound=Function)

_ALWAYS: Final = ("payload", "ctx", "signal")
EVENTS: Final[Mapping[str, tuple[str, ...]]] = {
    "on_start_attempt": _ALWAYS,
    "on_wait": _ALWAYS,
    "on_resume": _ALWAYS,
    "on_success": (*_ALWAYS, "output"),
    "on_failure": (*_ALWAYS, "error"),
    "on_complete": (*_ALWAYS, "result"),
    "on_cancel": _ALWAYS,
    "catch_error": (*_ALWAYS, "error"),
    "middleware": (*_ALWAYS, "result"),
}
"""The events, and the names of what a hook for each may ask for."""


class HookOptions(TypedDict, total=False):
    """Hooks of one task: a function each, or a list of functions. See docs/hooks.md."""

    on_start_attempt: Functions
    """Before the body, at every entry. An error fails the attempt."""
    on_wait: Functions
    """Before the body is parked, because all of it waits."""
    on_resume: Functions
    """Before a parked body that heard `on_wait` goes on."""
    on_success: Functions
    """After the body has returned."""
    on_failure: Functions
    """After the last attempt has failed, or one that is not tried again."""
    on_complete: Functions
    """At the very end, with the result."""
    on_cancel: Functions
    """When the run is canceled while it executes, within the grace. Its durable calls are shielded."""
    catch_error: Functions
    """After an attempt has failed: may decide whether and when there is another."""
    middleware: Functions
    """Asynchronous context managers around `on_start_attempt` and the body."""


@dataclass(frozen=True, slots=True)
class Hook:
    """One function for one event."""

    event: str
    function: Function
    wants: tuple[str, ...]

    @property
    def name(self) -> str:
        """Names it for people, and its branch."""
        return f"{self.event} {getattr(self.function, '__name__', 'hook')}"

    def call(self, known: Mapping[str, Any]) -> Any:
        """Call the function with what it asks for."""
        return self.function(**{name: known[name] for name in self.wants})

    async def run(self, known: Mapping[str, Any], scope: RunScope) -> Any:
        """Call the function to its end, a `def` one in a thread."""
        if inspect.iscoroutinefunction(self.function):
            return await self.call(known)
        return await scope.in_thread(functools.partial(self.call, known))


class Hooks:
    """Hooks by event, in order of registration."""

    def __init__(self) -> None:
        self.by_event: dict[str, list[Hook]] = {}

    def __bool__(self) -> bool:
        return bool(self.by_event)

    def of(self, event: str) -> list[Hook]:
        """The hooks for one event."""
        return self.by_event.get(event, [])

    def add(self, event: str, function: Function, where: str) -> None:
        """Add one. A function that is there already, because its module was imported again, takes its place.

        Raises: TaskDefinitionError.
        """
        hook = Hook(event, _checked(event, function, where), _wants(event, function, where))
        hooks = self.by_event.setdefault(event, [])
        for place, other in enumerate(hooks):
            if registry.is_same(other.function, hook.function):
                hooks[place] = hook
                return
        hooks.append(hook)


everywhere = Hooks()
"""The hooks of all tasks."""


def of_task(options: Mapping[str, Any], task_id: str) -> Hooks:
    """The hooks that a task's options declare. Raises: TaskDefinitionError."""
    hooks = Hooks()
    for event, given in options.items():
        if event not in EVENTS:
            raise TypeError(f"Task {task_id!r}: there is no option {event!r}.")
        for function in given if isinstance(given, Iterable) else () if given is None else (given,):
            hooks.add(event, function, f"Task {task_id!r}: {event}")
    return hooks


def _checked(event: str, function: Function, where: str) -> Function:
    if not callable(function):
        raise TaskDefinitionError(f"{where}: {function!r} is not a function.")
    if event == "middleware":
        if inspect.isasyncgenfunction(function):
            return contextlib.asynccontextmanager(function)
        if inspect.iscoroutinefunction(function):
            raise TaskDefinitionError(
                f"{where}: {function!r} never yields; a middleware yields once, where the body runs."
            )
    return function


def _wants(event: str, function: Function, where: str) -> tuple[str, ...]:
    wanted = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            return EVENTS[event]
        by_name = parameter.kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        if by_name and parameter.name in EVENTS[event]:
            wanted.append(parameter.name)
        elif parameter.default is parameter.empty and parameter.kind is not inspect.Parameter.VAR_POSITIONAL:
            raise TaskDefinitionError(
                f"{where}: its parameter {parameter.name!r} is nothing that {event} knows; it can ask for "
                f"{', '.join(EVENTS[event])}."
            )
    return tuple(wanted)
