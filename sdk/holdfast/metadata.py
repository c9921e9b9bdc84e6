"""Metadata of the run: small facts that watchers see live, such as progress.

Changes are local at once and travel in the background. On re-entry after a crash what was counted is not counted twice.
Outside a run it is refused.
"""

from __future__ import annotations

import copy
from typing import Any

from holdfast import _scope, payloads, texts
from holdfast._scope import RunScope
from holdfast.errors import InvalidArgumentError, NotInRunError
from holdfast.v1 import worker_service_pb2 as worker
from holdfast.v1.worker_service_pb2 import MetadataOperation


def current() -> dict[str, Any]:
    """A copy of the run's metadata as this execution sees it now. Raises: NotInRunError."""
    return copy.deepcopy(_scope_of("metadata.current()").metadata_document())


def get(key: str, default: Any = None) -> Any:
    """A copy of the value at `key`; `default` when there is none. Raises: NotInRunError."""
    return copy.deepcopy(_scope_of("metadata.get()").metadata_document().get(key, default))


def set(key: str, value: Any) -> None:
    """Set `key` to a JSON-encodable value. Raises: NotInRunError, PayloadError, TooLargeError."""
    _own.set(key, value)


def delete(key: str) -> None:
    """Delete `key`, if it exists. Raises: NotInRunError."""
    _own.delete(key)


def increment(key: str, amount: float = 1) -> None:
    """Add `amount` to the number at `key`; a missing key counts as 0. Raises: NotInRunError, InvalidArgumentError."""
    _own.increment(key, amount)


def append(key: str, value: Any) -> None:
    """Append a value to the list at `key`; a missing key counts as an empty list. Raises: as `set`."""
    _own.append(key, value)


def remove(key: str, value: Any) -> None:
    """Remove the first equal value from the list at `key`. Raises: as `set`."""
    _own.remove(key, value)


class Target:
    """Changes the metadata of this run, of its parent, or of its root."""

    def __init__(self, target: worker.MetadataTarget, name: str) -> None:
        self._target = target
        self._name = name

    def set(self, key: str, value: Any) -> None:
        """Set `key` to a JSON-encodable value. Raises: NotInRunError, PayloadError, TooLargeError."""
        self._change("set", worker.METADATA_VERB_SET, key, value)

    def delete(self, key: str) -> None:
        """Delete `key`, if it exists. Raises: NotInRunError."""
        self._apply("delete", MetadataOperation(verb=worker.METADATA_VERB_DELETE, key=_checked(key)))

    def increment(self, key: str, amount: float = 1) -> None:
        """Add `amount` to the number at `key`; a missing key counts as 0. Raises: InvalidArgumentError, as `set`."""
        if isinstance(amount, bool) or not isinstance(amount, int | float):
            raise InvalidArgumentError(f"{self._name}.increment: {amount!r} is not a number.")
        self._change("increment", worker.METADATA_VERB_INCREMENT, key, amount)

    def append(self, key: str, value: Any) -> None:
        """Append a value to the list at `key`; a missing key counts as an empty list. Raises: as `set`."""
        self._change("append", worker.METADATA_VERB_APPEND, key, value)

    def remove(self, key: str, value: Any) -> None:
        """Remove the first equal value from the list at `key`. Raises: as `set`."""
        self._change("remove", worker.METADATA_VERB_REMOVE, key, value)

    def _change(self, name: str, verb: worker.MetadataVerb, key: str, value: Any) -> None:
        data = payloads.encode_any(value, f"{self._name} {key!r}", "metadata", payloads.MAX_METADATA_BYTES)
        self._apply(name, MetadataOperation(verb=verb, key=_checked(key), value=data))

    def _apply(self, name: str, operation: MetadataOperation) -> None:
        operation.target = self._target
        _scope_of(f"{self._name}.{name}()").metadata_operation(operation)


_own = Target(worker.METADATA_TARGET_SELF, "metadata")
parent = Target(worker.METADATA_TARGET_PARENT, "metadata.parent")
"""Changes the metadata of the run that triggered this one; without one it changes nothing."""
root = Target(worker.METADATA_TARGET_ROOT, "metadata.root")
"""Changes the metadata of the topmost ancestor; of this run itself when it has no parent."""


def _checked(key: str) -> str:
    return texts.check(key, "metadata key", texts.MAX_KEY_CHARS)


def _scope_of(call: str) -> RunScope:
    scope = _scope.current()
    if scope is None:
        raise NotInRunError(f"{call} is only possible inside a run.")
    return scope
