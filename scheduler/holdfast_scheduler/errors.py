"""What can go wrong, as exceptions; `services/status.py` turns them into google.rpc.Status.

SchedulerError
├── StartError                the scheduler cannot start; the message is one line for whoever started it
│   ├── DatabaseUrlError      the database URL cannot be used
│   ├── DatabaseInUseError    another scheduler has the SQLite file
│   ├── SettingError          a setting in the environment makes no sense
│   ├── MissingExtraError     a package of an extra is not installed
│   └── ListenError           the address cannot be listened on
└── RequestError              a request cannot be served; `fault` says why
    ├── RefusedError          because of what it asks for
    ├── StorageUnavailableError
    ├── OverloadedError
    └── ShuttingDownError
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Final

from holdfast_scheduler.model import ItemFault

# Numbers of google.rpc.Code.
INVALID_ARGUMENT: Final = 3
NOT_FOUND: Final = 5
ALREADY_EXISTS: Final = 6
RESOURCE_EXHAUSTED: Final = 8
FAILED_PRECONDITION: Final = 9
OUT_OF_RANGE: Final = 11
UNIMPLEMENTED: Final = 12
INTERNAL: Final = 13
UNAVAILABLE: Final = 14
UNAUTHENTICATED: Final = 16

_NEAR_NAMES = 3  # suggestions in an error
_SHOWN = 120  # characters of a user's value that an error repeats
_NEAR_COMPARED = 2_000  # names that a suggestion looks at


class SchedulerError(Exception):
    """The root of the scheduler's own exceptions."""


class StartError(SchedulerError):
    """The scheduler cannot start; the message is one line for whoever started it."""


class DatabaseUrlError(StartError):
    """The database URL cannot be used."""


class DatabaseInUseError(StartError):
    """Another scheduler has the SQLite file."""


class SettingError(StartError):
    """A setting in the environment makes no sense."""


class MissingExtraError(StartError):
    """A package of an extra is not installed."""


class ListenError(StartError):
    """The address cannot be listened on."""


class RequestError(SchedulerError):
    """A request cannot be served. `fault` says why; `retry_after` is in seconds, None when a retry does not help."""

    retry_after: float | None = None

    def __init__(self, fault: ItemFault) -> None:
        super().__init__(fault.message)
        self.fault = fault


class RefusedError(RequestError):
    """The request is refused because of what it asks for."""


class StorageUnavailableError(RequestError):
    """The database is away, or the outcome of a commit is unknown: the caller asks again with the same ids."""

    retry_after = 0.5

    def __init__(self, message: str = "the database is not available; ask again with the same ids") -> None:
        super().__init__(ItemFault(UNAVAILABLE, "STORAGE_UNAVAILABLE", message))


class OverloadedError(RequestError):
    """The command queue is full."""

    retry_after = 0.2

    def __init__(self, message: str = "the scheduler has more commands waiting than it takes; ask again") -> None:
        super().__init__(ItemFault(RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED", message, {"limit": "commands"}))


class ShuttingDownError(RequestError):
    """The scheduler is stopping."""

    retry_after = 0.5

    def __init__(self, message: str = "this scheduler is stopping; ask another replica, or again") -> None:
        super().__init__(ItemFault(UNAVAILABLE, "SHUTTING_DOWN", message))


def shown(value: object) -> str:
    """A user's value as an error repeats it: quoted, escaped and cut."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def near_names(name: str, known: Iterable[str]) -> list[str]:
    """Up to three known names that look like `name`, best first."""
    candidates = []
    for candidate in known:
        candidates.append(candidate)
        if len(candidates) == _NEAR_COMPARED:
            break
    return difflib.get_close_matches(name[:_SHOWN], candidates, _NEAR_NAMES, 0.6)


def invalid(field: str, message: str, **facts: str) -> RefusedError:
    """A malformed field. `message` names the thing, the value and the way out."""
    return RefusedError(
        ItemFault(INVALID_ARGUMENT, "INVALID_ARGUMENT", f"{field}: {message}", {"field": field, **facts})
    )


def internal(error: Exception) -> RequestError:
    """Something that should not happen; the log has the whole story."""
    message = f"the scheduler failed on this request ({type(error).__name__}); its log says why"
    return RequestError(ItemFault(INTERNAL, "UNSPECIFIED", message))


def too_large(field: str, limit: str, size: int, most: int, unit: str = "bytes") -> RefusedError:
    """A value above a named limit of `settings.Limits`."""
    message = f"{field}: {size:,} {unit} is more than the limit {limit} of {most:,}"
    facts = {"field": field, "limit": limit, "size": str(size), "most": str(most)}
    return RefusedError(ItemFault(INVALID_ARGUMENT, "TOO_LARGE", message, facts))


def not_found(kind: str, name: str, near: Iterable[str] = ()) -> RefusedError:
    """No such thing. `kind` is run, task, token, queue, schedule or batch."""
    return RefusedError(not_found_fault(kind, name, near))


def not_found_fault(kind: str, name: str, near: Iterable[str] = ()) -> ItemFault:
    """The fault of `not_found`, for one item of several."""
    suggestions = list(near)
    if kind == "task":
        message = f"no worker has registered a task {shown(name)}"
    else:
        message = f"there is no {kind} {shown(name)}"
    if suggestions:
        message += f"; did you mean {' or '.join(repr(suggestion) for suggestion in suggestions)}?"
    elif kind == "task":
        message += "; start one whose module declares it"
    facts = {f"{kind}_id": name[:_SHOWN]}
    if suggestions:
        facts["near"] = ", ".join(suggestions)
    return ItemFault(NOT_FOUND, f"{kind.upper()}_NOT_FOUND", message, facts)


def not_implemented(what: str) -> RefusedError:
    """A part of the contract that this scheduler does not serve yet."""
    message = f"{what} is part of the contract, but this version of the scheduler does not serve it yet"
    return RefusedError(ItemFault(UNIMPLEMENTED, "NOT_IMPLEMENTED", message, {"method": what}))
