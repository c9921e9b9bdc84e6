"""What the signature of a task's function says."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from holdfast.errors import TaskDefinitionError

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
CTX = "ctx"
SIGNAL = "signal"
NO_PAYLOAD = inspect.Parameter.empty


@dataclass(frozen=True, slots=True)
class Signature:
    """Which parameters a task's function has."""

    payload: str | None
    """Name of the payload's parameter; None when it takes no payload."""
    default: Any
    """The payload's default; `NO_PAYLOAD` when it has none."""
    wants_ctx: bool
    wants_signal: bool


def read(function: Callable[..., Any], task_id: str) -> Signature:
    """Raises: TaskDefinitionError when the parameters are more than one payload, `ctx` and `signal`."""
    payload: inspect.Parameter | None = None
    names: set[str] = set()
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name in (CTX, SIGNAL) and parameter.kind is not inspect.Parameter.POSITIONAL_ONLY:
            names.add(parameter.name)
        elif parameter.kind in _VARIADIC or (parameter.default is not NO_PAYLOAD and payload is not None):
            continue
        elif payload is not None or parameter.kind not in _POSITIONAL:
            raise TaskDefinitionError(
                f"Task {task_id!r}: its function cannot have the parameter {parameter.name!r}. A task's function takes "
                "one payload and, by name, `ctx` and `signal`; put several values into one pydantic model."
            )
        else:
            payload = parameter
    if payload is None:
        return Signature(None, None, CTX in names, SIGNAL in names)
    return Signature(payload.name, payload.default, CTX in names, SIGNAL in names)


def resolve(function: Callable[..., Any], local_names: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The function's annotations as types, `local_names` being what its definition could see besides globals.

    None when one of them names something that does not exist yet.
    """
    try:
        return typing.get_type_hints(function, localns=dict(local_names or {}), include_extras=True)
    except NameError:
        return None
    except (TypeError, AttributeError):  # a builtin, a lambda, a partial: has no annotations to read
        return {}
