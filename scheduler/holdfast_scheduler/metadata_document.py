"""What metadata operations do to a document. Pure.

A run's row holds two documents. `committed` is what a new fence starts from; `live` is what people see: it also holds
operations that were reported in the background and would be made again by a re-entered body. Operations are numbered
in their branch; one at or below the branch's mark has been applied and is passed over, so that `increment` does not
count twice.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from holdfast_scheduler.model import MetadataOp

SET: Final = 1
DELETE: Final = 2
INCREMENT: Final = 3
APPEND: Final = 4
REMOVE: Final = 5


@dataclass(slots=True)
class MetadataRow:
    """The row of one run, decoded."""

    committed: dict[str, Any] = field(default_factory=dict)
    live: dict[str, Any] = field(default_factory=dict)
    marks: dict[str, int] = field(default_factory=dict)
    fence: int = 0
    live_marks: dict[str, int] = field(default_factory=dict)

    @classmethod
    def decode(cls, committed: bytes, live: bytes, marks: bytes, fence: int, live_marks: bytes) -> MetadataRow:
        """From the stored columns."""
        return cls(json.loads(committed), json.loads(live), json.loads(marks), fence, json.loads(live_marks))

    def encode(self) -> tuple[bytes, bytes, bytes, int, bytes]:
        """To the stored columns."""
        return (dump(self.committed), dump(self.live), dump(self.marks), self.fence, dump(self.live_marks))

    def report(self, fence: int, operations: Iterable[MetadataOp], *, commits: bool) -> None:
        """Apply a run's own operations, reported under `fence`; with `commits`, all that is live becomes committed."""
        if self.fence != fence:
            self.live = json.loads(dump(self.committed))
            self.live_marks = dict(self.marks)
            self.fence = fence
        for operation in operations:
            if operation.number > self.live_marks.get(operation.branch, 0):
                apply(self.live, operation)
                self.live_marks[operation.branch] = operation.number
        if commits:
            self.committed = json.loads(dump(self.live))
            self.marks = dict(self.live_marks)

    def from_outside(self, operation: MetadataOp) -> None:
        """Apply an operation of a descendant: it is nobody's to make again here."""
        apply(self.committed, operation)
        apply(self.live, operation)


def dump(value: object) -> bytes:
    """Compact JSON."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def apply(document: dict[str, Any], operation: MetadataOp) -> None:
    """Apply one operation in place. An operation that does not fit the value it meets replaces it: progress is for
    people, and a type error here must not fail the run that reports it."""
    key, verb = operation.key, operation.verb
    if verb == DELETE:
        document.pop(key, None)
        return
    value = json.loads(operation.value)
    if verb == SET:
        document[key] = value
    elif verb == INCREMENT:
        before = document.get(key, 0)
        number = isinstance(before, (int, float)) and not isinstance(before, bool)
        document[key] = before + value if number else value
    elif verb == APPEND:
        before = document.get(key)
        document[key] = [*before, value] if isinstance(before, list) else [value]
    elif verb == REMOVE:
        before = document.get(key)
        if isinstance(before, list) and value in before:
            before.remove(value)
