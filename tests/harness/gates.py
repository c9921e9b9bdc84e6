"""Doors in bodies under test: a body that comes to a closed one waits, without durable calls, until a test opens it."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from harness.waiting import wait_until

GATES_VARIABLE = "HOLDFAST_TEST_GATES"
"""Environment variable that tells tasks in worker processes in which folder the doors are."""

_LOOK_S = 0.01


class Gates:
    """Doors as files, named by the root run and the place. All are open until closed."""

    def __init__(self, folder: Path | str | None = None) -> None:
        self.folder = Path(folder if folder is not None else os.environ[GATES_VARIABLE])

    # the test's side

    def close(self, run_id: str, place: str) -> None:
        """Whoever comes there waits."""
        self._closed(run_id, place).touch()

    def open(self, run_id: str, place: str) -> None:
        """Whoever waits there goes on."""
        self._closed(run_id, place).unlink(missing_ok=True)

    def reached(self, run_id: str, place: str, times: int = 1) -> None:
        """Wait until bodies have come to the closed door so many times."""

        def seen() -> bool:
            path = self._reached(run_id, place)
            return path.exists() and path.stat().st_size >= times

        wait_until(seen, f"{run_id} is at {place!r} ({times})")

    # the body's side

    async def go_through(self, run_id: str, place: str) -> None:
        """Wait while the door is closed."""
        if self._knock(run_id, place):
            while self._closed(run_id, place).exists():
                await asyncio.sleep(_LOOK_S)

    def go_through_blocking(self, run_id: str, place: str) -> None:
        """The same, blocking the thread."""
        if self._knock(run_id, place):
            while self._closed(run_id, place).exists():
                time.sleep(_LOOK_S)

    def _knock(self, run_id: str, place: str) -> bool:
        if not self._closed(run_id, place).exists():
            return False
        with self._reached(run_id, place).open("ab") as file:
            file.write(b".")
        return True

    def _closed(self, run_id: str, place: str) -> Path:
        return self.folder / f"{run_id}.{place}.closed"

    def _reached(self, run_id: str, place: str) -> Path:
        return self.folder / f"{run_id}.{place}.reached"
