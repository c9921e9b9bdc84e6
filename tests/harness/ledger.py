"""An outside, append-only ledger of effects.

Tasks under test append to it when they do something in the outside world; the test reads it when all is over. It
knows nothing of Holdfast, so it can judge it. One line is one `write` to a file opened with O_APPEND: lines of several
processes do not mix and survive a kill of the writer.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

LEDGER_VARIABLE = "HOLDFAST_TEST_LEDGER"
"""Environment variable that tells tasks in worker processes where the ledger is."""


@dataclass(frozen=True, slots=True)
class Effect:
    """One effect: `identity` is the checkpoint it belongs to, `fence` the execution that did it."""

    run: str
    identity: str
    fence: int = 0
    note: str = ""


class Ledger:
    """The ledger in one file; by default the file that HOLDFAST_TEST_LEDGER names."""

    def __init__(self, path: Path | str | None = None) -> None:
        self.path = Path(path if path is not None else os.environ[LEDGER_VARIABLE])

    def append(self, run: str, identity: str, fence: int = 0, note: str = "") -> None:
        """Write one effect down. It is in the file, though not on the disk, when this returns."""
        line = json.dumps(asdict(Effect(run, identity, fence, note))).encode() + b"\n"
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(descriptor, line)
        finally:
            os.close(descriptor)

    def read(self) -> list[Effect]:
        """All effects in the order in which they were written."""
        if not self.path.exists():
            return []
        return [Effect(**json.loads(line)) for line in self.path.read_text().splitlines()]

    def counts(self) -> Counter[str]:
        """How often each identity occurs."""
        return Counter(effect.identity for effect in self.read())


def repeated_fences(effects: Iterable[Effect]) -> list[Effect]:
    """Effects that one execution (one fence) did more than once: never allowed, whatever was killed."""
    seen: set[tuple[str, str, int]] = set()
    repeated = []
    for effect in effects:
        place = (effect.run, effect.identity, effect.fence)
        if place in seen:
            repeated.append(effect)
        seen.add(place)
    return repeated
