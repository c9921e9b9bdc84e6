"""When finished runs are deleted: now and then, in small batches, with most of the time left to others."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from holdfast_scheduler import retention
from holdfast_scheduler.database import PUT_OFF
from holdfast_scheduler.model import Command, Forget, Forgotten, Place
from holdfast_scheduler.settings import Settings

log = logging.getLogger("holdfast.scheduler")

REST: Final = 4.0
"""After a batch of deletions nothing is deleted for so many times as long as it took."""
SHORTEST_REST: Final = 0.01
"""Seconds."""
SWEEPS: Final = 24
"""What was still needed at the first look is looked at again so often within a retention."""


class RetentionLoop:
    """One per scheduler process."""

    def __init__(
        self,
        settings: Settings,
        do: Callable[[Command], Awaitable[Any]],
        namespaces: Callable[[], Awaitable[list[str]]],
    ) -> None:
        self._settings = settings
        self._do = do
        self._namespaces = namespaces
        self._seen: dict[str, Place] = {}  # namespace → up to where runs were looked at
        self._next_sweep = 0.0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    def stop(self) -> None:
        """End."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._settings.retention_interval)
            try:
                await self._look()
            except asyncio.CancelledError:
                raise
            except PUT_OFF as error:
                log.debug("retention put off error=%s", error)  # the next look goes on with it
            except Exception:
                log.exception("retention failed")

    async def _look(self) -> None:
        """Runs that have got old since the last look, or at a sweep, whatever is old."""
        is_sweep = time.monotonic() >= self._next_sweep
        deleted = 0
        for namespace in await self._namespaces():
            begin = retention.BEGIN if is_sweep else self._seen.get(namespace, retention.BEGIN)
            for what in retention.KINDS if is_sweep else ("runs", "keys"):
                deleted += await self._forget(namespace, what, begin if what == "runs" else retention.BEGIN)
        if is_sweep:
            self._next_sweep = time.monotonic() + self._settings.retention / SWEEPS
        if deleted:
            log.info("deleted what had ended rows=%d retention_s=%g", deleted, self._settings.retention)

    async def _forget(self, namespace: str, what: str, begin: Place) -> int:
        deleted, after, up_to = 0, begin, None
        while True:
            started = time.monotonic()
            done: Forgotten = await self._do(Forget(namespace, what, after))
            deleted += done.deleted
            up_to = up_to or done.up_to
            if done.after is None:
                break
            after = done.after
            await asyncio.sleep(max(SHORTEST_REST, REST * (time.monotonic() - started)))
        if what == "runs":
            self._seen[namespace] = up_to
        return deleted
