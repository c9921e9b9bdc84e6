"""The clocks of one execution. None of them belongs to the body: they run on while its gate is closed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from holdfast_worker.gate import GatedEventLoop


class Timers:
    """Timers by name, at most one of each."""

    def __init__(self, loop: GatedEventLoop) -> None:
        self._loop = loop
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._timers

    def set(self, name: str, delay: float, callback: Callable[[], None]) -> None:
        """Call back in `delay` seconds, unless a timer of this name runs already."""
        if name not in self._timers:
            self._timers[name] = self._loop.call_later_neutral(delay, self._fire, name, callback)

    def stop(self, name: str) -> None:
        """Stop a timer, if it runs."""
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()

    def stop_all(self) -> None:
        """Stop whatever runs."""
        for name in list(self._timers):
            self.stop(name)

    def _fire(self, name: str, callback: Callable[[], None]) -> None:
        del self._timers[name]
        callback()


class ExecutingTime:
    """Counts down `limit` seconds (None: no limit) of executing time, which stands still while the body is parked."""

    def __init__(
        self, loop: GatedEventLoop, timers: Timers, name: str, limit: float | None, over: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._timers = timers
        self._name = name
        self._left = limit
        self._over = over
        self._since: float | None = None

    def run(self) -> None:
        """The body executes from now on."""
        if self._left is not None and self._since is None:
            self._since = self._loop.time()
            self._timers.set(self._name, max(self._left, 0.0), self._over)

    def stop(self) -> None:
        """The body does not execute from now on."""
        if self._left is not None and self._since is not None:
            self._left -= self._loop.time() - self._since
            self._since = None
            self._timers.stop(self._name)

    def forget(self) -> None:
        """It is not needed any more: let go of what it would call."""
        self._over = _nothing


def _nothing() -> None:
    pass
