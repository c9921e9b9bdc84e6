"""Values that code of one execution keeps for other code of it: what a middleware opens, a hook closes and a body uses.

    db = locals.create("db", Connection)

    @tasks.middleware
    async def with_db():
        async with connect() as connection:
            locals.set(db, connection)
            yield

They live in the memory of the worker. A body that is re-entered elsewhere begins without them, so set them where every
entry comes by: in a middleware or in `on_start_attempt`. For what must last, use a step or `metadata`.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar, overload

from holdfast import _scope, texts
from holdfast._scope import RunScope
from holdfast.errors import InvalidArgumentError, NotInRunError

T = TypeVar("T")
D = TypeVar("D")


class Local(Generic[T]):
    """Names a value; make one with `create`, at the top of a module. Two of one name are two."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"<Local {self.name!r}>"


@overload
def create(name: str) -> Local[Any]: ...
@overload
def create(name: str, type: type[T]) -> Local[T]: ...
def create(name: str, type: Any = None) -> Local[Any]:
    """A name for a value; `type` is for type checkers. Raises: InvalidArgumentError."""
    return Local(texts.check(name, "locals: name"))


def set(local: Local[T], value: T) -> T:
    """Set the value for this execution; returns it. Raises: NotInRunError."""
    _scope_of("locals.set()").locals[local] = value
    return value


@overload
def get(local: Local[T]) -> T | None: ...
@overload
def get(local: Local[T], default: D) -> T | D: ...
def get(local: Local[Any], default: Any = None) -> Any:
    """The value; `default` when this execution has not set it. Raises: NotInRunError."""
    return _scope_of("locals.get()").locals.get(local, default)


def get_or_throw(local: Local[T]) -> T:
    """The value. Raises: InvalidArgumentError when this execution has not set it; NotInRunError."""
    found: T = _scope_of("locals.get_or_throw()").locals.get(local, _MISSING)
    if found is _MISSING:
        raise InvalidArgumentError(
            f"locals: {local.name!r} is not set in this execution. Set it in a middleware or in on_start_attempt: they "
            "run at every entry."
        )
    return found


_MISSING: Any = object()


def _scope_of(call: str) -> RunScope:
    scope = _scope.current()
    if scope is None:
        raise NotInRunError(f"{call} is only possible inside a run.")
    return scope
