"""A run's metadata as one execution sees it: changed locally at once, reported in the background.

Operations are numbered in their branch. What is numbered at or below the mark that Start brought is in the committed
document already and is ignored: a re-entered body does not count twice. See DESIGN section 4.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Mapping
from typing import Any, Final

from holdfast.v1.worker_service_pb2 import (
    METADATA_TARGET_SELF,
    METADATA_TARGET_UNSPECIFIED,
    METADATA_VERB_APPEND,
    METADATA_VERB_DELETE,
    METADATA_VERB_INCREMENT,
    METADATA_VERB_REMOVE,
    METADATA_VERB_SET,
    MetadataMark,
    MetadataOperation,
)

FLUSH_SECONDS: Final = 0.5
"""Longest time for which an operation waits for company before it is shown live."""


class MetadataError(ValueError):
    """An operation does not fit the value that is there: a number is added to a text, say."""


class Metadata:
    """The document and the operations that are not reported, or not committed, yet. Safe in threads."""

    def __init__(self, document: bytes, marks: Iterable[MetadataMark]) -> None:
        self._lock = threading.Lock()
        self.document: dict[str, Any] = json.loads(document) if document else {}
        self._marks: Mapping[str, int] = {mark.branch: mark.number for mark in marks}
        self._unsent: list[MetadataOperation] = []
        self._provisional: list[MetadataOperation] = []
        """The run's own, reported under this fence, that no checkpoint has committed yet."""

    @property
    def has_unsent(self) -> bool:
        """Whether something waits to be reported."""
        return bool(self._unsent)

    def apply(self, operation: MetadataOperation) -> bool:
        """Take an operation that has its branch and number. Returns False when it is ignored.

        Raises: MetadataError; the document is unchanged then.
        """
        if operation.number <= self._marks.get(operation.branch, 0):
            return False
        with self._lock:
            if _is_own(operation):
                self.document = changed(self.document, operation)
            self._unsent.append(operation)
        return True

    def take(self, *, is_committing: bool) -> list[MetadataOperation]:
        """The operations for a report. `is_committing` says that it carries a checkpoint or ends the attempt."""
        if not self._unsent and not (is_committing and self._provisional):
            return []
        with self._lock:
            operations, self._unsent = self._unsent, []
            if is_committing:
                # Those reported before go along once more: the scheduler commits what a report that commits carries.
                operations, self._provisional = self._provisional + operations, []
            else:
                # A parent's or root's count when they arrive: they must not go twice.
                self._provisional += filter(_is_own, operations)
            for operation in operations:
                operation.provisional = not is_committing
        return operations

    def take_back(self, operations: Iterable[MetadataOperation]) -> None:
        """The report that took these along was refused."""
        with self._lock:
            self._unsent[:0] = operations

    def new_fence(self) -> None:
        """A new fence forgets what was provisional under the old one: report it again."""
        with self._lock:
            self._unsent = self._provisional + self._unsent
            self._provisional = []


def _is_own(operation: MetadataOperation) -> bool:
    return operation.target in (METADATA_TARGET_UNSPECIFIED, METADATA_TARGET_SELF)


def changed(document: Mapping[str, Any], operation: MetadataOperation) -> dict[str, Any]:
    """`document` after `operation`; the old one is left as it is, so that who holds it may go on reading.

    Raises: MetadataError.
    """
    new = dict(document)
    key, verb = operation.key, operation.verb
    operand: Any = json.loads(operation.value) if operation.value else None
    if verb == METADATA_VERB_SET:
        new[key] = operand
    elif verb == METADATA_VERB_DELETE:
        new.pop(key, None)
    elif verb == METADATA_VERB_INCREMENT:
        number = new.get(key, 0)
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            raise MetadataError(f"metadata.increment({key!r}): the value is {number!r}, not a number; set it first.")
        new[key] = number + operand
    elif verb == METADATA_VERB_REMOVE and key not in new:
        pass
    elif verb in (METADATA_VERB_APPEND, METADATA_VERB_REMOVE):
        items = new.get(key, [])
        if not isinstance(items, list):
            word = "append" if verb == METADATA_VERB_APPEND else "remove"
            raise MetadataError(f"metadata.{word}({key!r}): the value is {items!r}, not a list; set it first.")
        items = list(items)
        if verb == METADATA_VERB_APPEND:
            items.append(operand)
        elif operand in items:
            items.remove(operand)
        new[key] = items
    else:
        raise MetadataError(f"metadata operation {verb} is not known")
    return new
