"""An event loop whose clock is turned by hand, and processes on it that can be stopped between any two steps.

When nothing is ready the clock jumps to the next timer, so hours pass in milliseconds. What a process does belongs to
its `Gate`: closed for good it is `kill -9`, closed for a while it is SIGSTOP.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from holdfast_worker.gate import Gate, GatedEventLoop

START_S = 1_000.0
"""What the monotonic clock shows at first."""
WIND_UP_ROUNDS = 20
"""A task may swallow so many cancellations."""
MAX_TURNS = 3_000_000
"""Turns of the loop in one play; more means that somebody spins."""


class StandstillError(Exception):
    """Nothing is left that could ever happen, or the loop spins."""


class _Selector:
    """Jumps to the next timer instead of waiting for it."""

    def __init__(self, real: Any, loop: VirtualLoop) -> None:
        self._real = real
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[Any]:
        """Let the time pass that the loop has nothing to do."""
        if timeout is None:
            raise StandstillError("nothing is left that could ever happen")
        if timeout > 0:
            self._loop.passed_s += timeout
        elif self._loop.turn > MAX_TURNS:
            raise StandstillError(f"the loop spins at {self._loop.time():.3f}")
        return []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


class VirtualLoop(GatedEventLoop):
    """`latency` gives the seconds that something takes. `kills_around_thread` is called before and after what a thread
    of a scheduler would do, that is, around its commits; it may kill the scheduler there, and tells whether it did."""

    def __init__(self, latency: Callable[[], float]) -> None:
        self.passed_s = START_S
        self.gates: list[Gate] = []
        """Of all processes that were started."""
        self._hooks: list[Callable[[], None]] = []
        super().__init__()
        self._selector: Any = _Selector(self._selector, self)
        self._latency = latency
        self.kills_around_thread: Callable[[], bool] = lambda: False

    def time(self) -> float:
        return self.passed_s

    def _write_to_self(self) -> None:
        pass  # there is no other thread that would have to wake this one

    def add_signal_handler(self, sig: int, callback: Any, *args: Any) -> None:  # type: ignore[override]
        raise RuntimeError("signals are for real processes")

    # Several executors share the loop: each wants to be called after a turn.

    @property
    def after_turn(self) -> Callable[[], None] | None:
        """Calls all hooks."""
        return self._call_hooks if self._hooks else None

    @after_turn.setter
    def after_turn(self, hook: Callable[[], None] | None) -> None:
        if hook is not None:
            self._hooks.append(hook)

    def remove_hook(self, hook: Callable[[], None]) -> None:
        """The executor is dead."""
        self._hooks = [one for one in self._hooks if one != hook]

    def _call_hooks(self) -> None:
        for hook in list(self._hooks):
            hook()

    # What a thread would do is done at one instant; its result is known a little later. Both are steps of the process.

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self.create_future()

        def tell(error: BaseException | None, result: Any) -> None:
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)

        def perform() -> None:
            if self.kills_around_thread():
                return
            error, result = None, None
            try:
                result = func(*args)
            except Exception as raised:
                error = raised
            self.call_later(self._latency(), tell, error, result)
            self.kills_around_thread()

        self.call_later(self._latency(), perform)
        return future

    def at(self, when: float, context: contextvars.Context, callback: Callable[..., object], *args: Any) -> None:
        """Call something as a step of the process whose `context` it is."""
        self.call_at(when, callback, *args, context=context)

    def wind_up(self, gates: Iterable[Gate]) -> None:
        """End every task that is left, on both sides of the play's end, so that nothing of it is left behind."""
        self.set_exception_handler(lambda *_: None)
        self.kills_around_thread = lambda: True
        self._hooks.clear()
        for gate in (*self.gates, *gates):
            gate.open()
        for _ in range(WIND_UP_ROUNDS):
            left = asyncio.all_tasks(self)
            if not left:
                break
            for task in left:
                task.cancel()
            self.run_until_complete(asyncio.wait(left, timeout=10.0))
        for task in asyncio.all_tasks(self):
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        self.close()


class Process:
    """Everything that is started here stops at one instant when it is killed, and never runs again."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.loop = loop
        self.gate = Gate(loop, self._rest, lambda: None)
        self.context = contextvars.Context()
        self.gate.own(self.context)
        loop.gates.append(self.gate)
        self.is_alive = True

    def start(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run a coroutine as a task of the process."""
        return self.gate.start(coroutine, self.context)

    def kill(self) -> None:
        """`kill -9`."""
        self.is_alive = False
        self.gate.close()

    def pause(self) -> None:
        """SIGSTOP."""
        self.gate.close()

    def resume(self) -> None:
        """SIGCONT."""
        if self.is_alive:
            self.gate.open()

    def _rest(self) -> None:
        self.gate.prune()
