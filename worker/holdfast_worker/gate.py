"""An event loop that knows which body each callback belongs to, can hold a body still, and tells when it is at rest.

Many bodies share one loop. A callback belongs to the body whose `Gate` its context carries. That covers everything a
body can do by itself: steps of its tasks, done callbacks, timers, what its threads send over. Not covered, on purpose,
is readiness of sockets: a connection made by one body may serve others (a pool), so the transport's callbacks run
whenever data is there; only what they wake belongs to a body.

A closed gate holds callbacks in order until it opens. A dead gate holds them for ever: nothing of the body runs again,
not even `GeneratorExit` in its `finally` blocks, because everything stays referenced (DESIGN section 4).

*At rest* means that no callback of the body is ready. It is looked at once per turn of the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import heapq
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Final, TypeVar

from holdfast_worker.replay import Branch

T = TypeVar("T")

SPIN_TURNS: Final = 1000
"""Turns of the loop for which a body may be busy without a pause; then it is treated as at rest, so that a body that
polls with `sleep(0)` still gets its answers and sends its reports."""

_gate: contextvars.ContextVar[Gate | None] = contextvars.ContextVar("holdfast_gate", default=None)
_branch: contextvars.ContextVar[Branch | None] = contextvars.ContextVar("holdfast_branch", default=None)
"""The branch of code that runs in a thread of the body, where no task tells."""


class Gate:
    """What the loop knows of one body."""

    __slots__ = (
        "busy_since",
        "held",
        "is_listed",
        "is_open",
        "loop",
        "on_knock",
        "on_rest",
        "ready",
        "returned",
        "root",
        "starting",
        "tasks",
        "timers",
        "wants_returned",
    )

    def __init__(self, loop: GatedEventLoop, on_rest: Callable[[], None], on_knock: Callable[[], None]) -> None:
        self.loop = loop
        self.on_rest = on_rest
        """Called at the end of a turn in which the body came to rest; never while the gate is closed."""
        self.on_knock = on_knock
        """Called when a callback comes to the closed gate."""
        self.is_open = True
        self.is_listed = False
        """It is on the loop's list of gates to look at."""
        self.ready = 0
        """Callbacks that are ready or held."""
        self.timers = 0
        """Timers that are set."""
        self.busy_since = 0
        """Turn in which the body became busy."""
        self.held: list[asyncio.Handle] = []
        self.root = Branch()
        self.starting: Branch | None = None
        self.tasks: dict[asyncio.Future[Any], Branch] = {}
        """Unfinished tasks of the body (and finished ones until the next `prune`)."""
        self.wants_returned = False
        """Whether `returned` is kept."""
        self.returned: dict[str, bool] = {}
        """Of each branch made, whether it ended by returning."""

    def close(self) -> None:
        """Hold what comes from now on."""
        self.is_open = False

    def open(self) -> None:
        """Let go what was held, in order."""
        self.is_open = True
        held, self.held = self.held, []
        self.busy_since = self.loop.turn
        for handle in held:
            if not handle.cancelled():
                self.loop.let_go(handle)
        self.loop.look_at(self)

    def hold(self, handle: asyncio.Handle) -> None:
        """A callback has come to the closed gate."""
        self.held.append(handle)
        self.on_knock()

    @property
    def has_held(self) -> bool:
        """Whether the body has something to do."""
        return any(not handle.cancelled() for handle in self.held)

    def leave(self) -> None:
        """A callback that was ready has ended, or was cancelled."""
        self.ready -= 1
        if not self.ready or self.loop.turn - self.busy_since > SPIN_TURNS:
            self.loop.look_at(self)

    def current_branch(self) -> Branch:
        """The branch of the code that runs now. In a thread it is that of the code which started the thread, as far as
        its context tells; else, and in callbacks, the root."""
        task = self._current_task()
        if task is None:
            return _branch.get() or self.root
        branch = self.tasks.get(task)
        if branch is None:
            # A task that runs eagerly runs before `create_task` has it.
            branch = self.tasks[task] = self.starting or self.root
        return branch

    def _current_task(self) -> asyncio.Task[Any] | None:
        try:
            task = asyncio.current_task()
        except RuntimeError:  # another thread
            return None
        return task if task is not None and task.get_loop() is self.loop else None

    @contextlib.contextmanager
    def inside(self, branch: Branch) -> Iterator[None]:
        """What the current task, or thread, does in the `with` block belongs to `branch`."""
        task = self._current_task()
        outer = None if task is None else self.tasks.get(task)
        if task is not None and outer is not None:
            self.tasks[task] = branch
        token = _branch.set(branch)
        try:
            yield
        finally:
            _branch.reset(token)
            if task is not None and outer is not None:
                self.tasks[task] = outer

    def belong(self, context: contextvars.Context) -> None:
        """Make what runs in `context`, in a thread, belong to the current branch."""
        context.run(_branch.set, self.current_branch())

    def own(self, context: contextvars.Context) -> None:
        """Make what runs in `context` belong to the body."""
        context.run(_gate.set, self)

    def start(self, coroutine: Coroutine[Any, Any, Any], context: contextvars.Context) -> asyncio.Task[Any]:
        """Run `coroutine` in `context`, which the body owns, as its main line or a part of it: in the root branch, or
        that of the thread which the context is of."""
        task = asyncio.SelectorEventLoop.create_task(self.loop, coroutine, context=context)
        branch: Branch | None = context.get(_branch)
        self.tasks[task] = branch or self.root
        return task

    def prune(self) -> None:
        """Forget the tasks that have ended."""
        for task in [task for task in self.tasks if task.done()]:
            branch = self.tasks.pop(task)
            if self.wants_returned and branch is not self.root:
                self.returned[branch.name] = not task.cancelled() and task.exception() is None


def _run(handle: asyncio.Handle, gate: Gate) -> None:
    try:
        asyncio.Handle._run(handle)
    except (SystemExit, KeyboardInterrupt):
        # A task keeps the exception and raises it here as well, which would end the loop: everybody else's runs.
        pass
    finally:
        gate.leave()


class _GatedHandle(asyncio.Handle):
    """A callback of a body, ready to run."""

    __slots__ = ("_gate", "_is_counted")

    def __init__(self, gate: Gate, callback: Any, args: Any, context: contextvars.Context | None) -> None:
        super().__init__(callback, args, gate.loop, context)
        self._gate = gate
        self._is_counted = False

    def count(self) -> None:
        """It is ready from now on."""
        gate = self._gate
        if not gate.ready:
            gate.busy_since = gate.loop.turn
        gate.ready += 1
        self._is_counted = True

    def _run(self) -> None:
        gate = self._gate
        if not gate.is_open:
            gate.hold(self)
            return
        self._is_counted = False
        _run(self, gate)

    def cancel(self) -> None:
        if self._is_counted:
            self._is_counted = False
            self._gate.leave()
        super().cancel()


class _GatedTimer(asyncio.TimerHandle):
    """A timer of a body. Once due it is like a ready callback."""

    __slots__ = ("_gate", "_is_counted", "_is_set")

    def __init__(self, when: float, gate: Gate, callback: Any, args: Any, context: contextvars.Context | None) -> None:
        super().__init__(when, callback, args, gate.loop, context)
        self._gate = gate
        self._is_counted = False
        self._is_set = True
        gate.timers += 1

    def _run(self) -> None:
        gate = self._gate
        if not self._is_counted:
            if not gate.ready:
                gate.busy_since = gate.loop.turn
            gate.ready += 1
        if not gate.is_open:
            self._is_counted = True
            gate.hold(self)
            return
        self._is_counted = False
        self._unset()
        _run(self, gate)

    def _unset(self) -> None:
        if self._is_set:
            self._is_set = False
            self._gate.timers -= 1

    def cancel(self) -> None:
        self._unset()
        if self._is_counted:
            self._is_counted = False
            self._gate.leave()
        super().cancel()


class GatedEventLoop(asyncio.SelectorEventLoop):
    """An event loop for bodies.

    It leans on five names of asyncio that are not public but the same from Python 3.11 to 3.14: `_run_once`, `_ready`,
    `_scheduled`, `_thread_id` and `Handle._run`. `tests/unit/test_gate.py` would tell.
    """

    _ready: deque[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]
    _thread_id: int | None

    def __init__(self) -> None:
        super().__init__()
        self.turn = 0
        """Turns so far."""
        self.after_turn: Callable[[], None] | None = None
        """Called at the end of a turn in which `look_at` or `want_after_turn` was called."""
        self._is_wanted = False
        self._to_look_at: list[Gate] = []
        self._neutral = contextvars.Context()

    @property
    def thread_id(self) -> int | None:
        """The thread that runs the loop; None while none does."""
        return self._thread_id

    # -- rest

    def look_at(self, gate: Gate) -> None:
        """Look at the end of this turn whether `gate`'s body is at rest. Only from the loop's own thread."""
        if not gate.is_listed:
            gate.is_listed = True
            self._to_look_at.append(gate)

    def want_after_turn(self) -> None:
        """Have `after_turn` called at the end of this turn."""
        self._is_wanted = True

    def _run_once(self) -> None:
        super()._run_once()  # type: ignore[misc]
        self.turn += 1
        if self._to_look_at or self._is_wanted:
            self._end_turn()

    def _end_turn(self) -> None:
        gates, self._to_look_at = self._to_look_at, []
        for gate in gates:
            gate.is_listed = False
            if gate.is_open and (not gate.ready or self.turn - gate.busy_since > SPIN_TURNS):
                gate.busy_since = self.turn
                try:
                    gate.on_rest()
                except Exception as error:
                    self.call_exception_handler({"message": "a body could not be looked at", "exception": error})
        if self.after_turn is not None:
            self._is_wanted = False
            self.after_turn()

    def let_go(self, handle: asyncio.Handle) -> None:
        """Run a handle that was held."""
        self._ready.append(handle)

    def call_neutral(self, callback: Callable[..., object], *args: Any) -> None:
        """`call_soon_threadsafe` for code that belongs to no body."""
        super().call_soon_threadsafe(callback, *args, context=self._neutral)

    def call_later_neutral(self, delay: float, callback: Callable[..., object], *args: Any) -> asyncio.TimerHandle:
        """`call_later` for code that belongs to no body, whoever calls it."""
        return super().call_at(self.time() + delay, callback, *args, context=self._neutral)

    # -- asyncio

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        gate = _gate.get() if context is None else context.get(_gate)
        if gate is None:
            return super().call_soon(callback, *args, context=context)
        self._check_closed()  # type: ignore[attr-defined]
        handle = _GatedHandle(gate, callback, args, context)
        handle.count()
        self._ready.append(handle)
        return handle

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        gate = _gate.get() if context is None else context.get(_gate)
        if gate is None:
            return super().call_soon_threadsafe(callback, *args, context=context)
        # Counted on the loop's own thread: two threads must not count at once.
        handle = _GatedHandle(gate, callback, args, context)
        super().call_soon_threadsafe(self._arrive, handle, context=self._neutral)
        return handle

    def _arrive(self, handle: _GatedHandle) -> None:
        if not handle.cancelled():
            handle.count()
            self._ready.append(handle)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        gate = _gate.get() if context is None else context.get(_gate)
        if gate is None:
            return super().call_at(when, callback, *args, context=context)
        # The loop puts a due timer among the ready callbacks itself, so the timer has to ask the gate.
        self._check_closed()  # type: ignore[attr-defined]
        timer = _GatedTimer(when, gate, callback, args, context)
        heapq.heappush(self._scheduled, timer)
        timer._scheduled = True  # type: ignore[attr-defined]
        return timer

    def create_task(  # type: ignore[override]
        self, coro: Coroutine[Any, Any, T], *, context: contextvars.Context | None = None, **options: Any
    ) -> asyncio.Task[T]:
        gate = _gate.get() if context is None else context.get(_gate)
        if gate is None:
            return super().create_task(coro, context=context, **options)
        outer = gate.starting
        branch = gate.starting = gate.current_branch().fork()
        try:
            task = super().create_task(coro, context=context, **options)
        finally:
            gate.starting = outer
        gate.tasks.setdefault(task, branch)
        return task

    def _add_reader(self, fd: Any, callback: Callable[..., object], *args: Any) -> Any:
        return _outside_bodies(super()._add_reader, fd, callback, *args)  # type: ignore[misc]

    def _add_writer(self, fd: Any, callback: Callable[..., object], *args: Any) -> Any:
        return _outside_bodies(super()._add_writer, fd, callback, *args)  # type: ignore[misc]


def is_inside_body() -> bool:
    """Whether the code that runs now belongs to a body."""
    return _gate.get() is not None


def _outside_bodies(function: Callable[..., Any], *args: Any) -> Any:
    """Call `function` in a copy of the current context that carries no body."""
    if _gate.get() is None:
        return function(*args)
    context = contextvars.copy_context()
    context.run(_gate.set, None)
    return context.run(function, *args)
