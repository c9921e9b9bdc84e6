"""One execution of a run: a body from Start to its last report.

States: RUNNING, PARKING (a Park is reported, not committed), PARKED, RESUMING (a Resume has come ahead of its instant),
ENDED (the last report is made), ABANDONED. While parking, parked, resuming or abandoned the gate is closed and nothing
of the body is stepped.

What a body has made while it ran to rest goes in one report. At rest, in this order: the end of the body; one answer;
else a report, with Park when every task is blocked on waitpoints.

An execution has two acts, a main line each: the body with what surrounds it, and, when its task has hooks for that,
what comes after. The outcome is known then, and only a cancellation changes it.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import enum
import functools
import logging
import os
import sys
import threading
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Sequence
from contextlib import AbstractContextManager
from types import FrameType
from typing import Any, Final, Protocol, TypeVar, cast

from holdfast import ids
from holdfast._lifecycle import Lifecycle
from holdfast._scope import DurableCall, RunScope
from holdfast.context import AbortSignal, Context
from holdfast.errors import HoldfastError, InRunError, NonDeterminismError, RunCanceledError
from holdfast.statuses import RunStatus
from holdfast.v1.payload_pb2 import (
    TASK_ERROR_KIND_LIMIT_EXCEEDED,
    TASK_ERROR_KIND_TIMED_OUT,
    Payload,
    TaskError,
)
from holdfast.v1.run_pb2 import CHECKPOINT_KIND_TOKEN_WAIT, Checkpoint
from holdfast.v1.run_service_pb2 import LogRecord
from holdfast.v1.task_pb2 import TaskDefinition
from holdfast.v1.worker_service_pb2 import (
    REFUSAL_REASON_CANCELING,
    REFUSAL_REASON_INVALID,
    Canceled,
    Completed,
    Failed,
    Limits,
    MetadataOperation,
    Park,
    Refusal,
    Report,
    Start,
    Wake,
)
from holdfast_worker import blocked
from holdfast_worker.calls import Calls, Outgoing, current_step
from holdfast_worker.clocks import ExecutingTime, Timers
from holdfast_worker.gate import Gate, GatedEventLoop
from holdfast_worker.lease import seconds
from holdfast_worker.metadata import FLUSH_SECONDS, Metadata
from holdfast_worker.outbox import Outbox
from holdfast_worker.replay import Branch, Entry, Replay

T = TypeVar("T")

REPORT_BYTES: Final = 1024 * 1024
"""Records of one report: what a body asks for at once may be more than a frame carries."""
REPLAY_PATIENCE_S: Final = 5.0
"""How long a record that is settled waits, at re-entry, for an earlier one that the body may still ask for."""
AFTER_S: Final = 300.0
"""Executing time of the hooks after the outcome; then they are cut off."""

log = logging.getLogger(__name__)

_call_site: contextvars.ContextVar[str] = contextvars.ContextVar("holdfast_call_site", default="")
"""Where a thread made the durable call that runs on the loop for it."""
_thread: contextvars.ContextVar[asyncio.Future[Any] | None] = contextvars.ContextVar("holdfast_thread", default=None)
"""The thread of a body that this code runs in."""


class TaskLike(Protocol):
    """What a body needs of `holdfast.Task`."""

    id: str
    is_async: bool

    def definition(self) -> TaskDefinition:
        """What a worker announces of it."""

    def execute(self, payload: Payload, scope: RunScope) -> Coroutine[Any, Any, Payload]:
        """Run the body; a `def` one in a thread of the scope."""

    def lifecycle(self, payload: Payload, scope: RunScope) -> Lifecycle | None:
        """The hooks around this execution, which then run the body; None when there are none."""

    def describe_error(self, error: BaseException) -> TaskError:
        """A failure as data."""


class Host(Protocol):
    """What a body needs of the executor."""

    loop: GatedEventLoop
    limits: Limits
    cancel_grace_s: float

    def post(self, body: Body, report: Report, sent: Sent) -> None:
        """Send a report; `Body.committed` or `Body.refused` gets `sent` back."""

    def has_left(self, body: Body) -> None:
        """The body has ended, or was abandoned."""


class State(enum.Enum):
    """See the module."""

    RUNNING = 1
    PARKING = 2
    PARKED = 3
    RESUMING = 4
    ENDED = 5
    ABANDONED = 6


class Sent:
    """A report on its way."""

    __slots__ = ("fence", "is_final", "is_park", "number", "outgoing", "report", "seen_settled")

    def __init__(self, report: Report, outgoing: Outgoing) -> None:
        self.fence = report.fence
        self.number = report.number
        self.report = report
        self.outgoing = outgoing
        self.is_park = False
        self.is_final = False
        self.seen_settled = 0


class Body(RunScope):
    """See the module. Everything but what RunScope says is for the executor, on its loop."""

    def __init__(self, host: Host, task: TaskLike, start: Start, checkpoints: Iterable[Checkpoint]) -> None:
        self._host = host
        self._loop = host.loop
        self._task = task
        self.run_id = start.run_id
        self.fence = start.fence
        self.limits = host.limits
        self._start = start
        self.signal = AbortSignal()
        self.state = State.RUNNING
        self.gate = Gate(host.loop, self._at_rest, self._on_knock)
        self._replay = Replay(checkpoints, start.attempt)
        self.gate.wants_returned = self._replay.has_uncalled
        self._calls = Calls(
            host.loop, self._replay, self._interruption, last_seq=start.last_seq, settled_order=start.settled_order
        )
        self._outbox = Outbox(Metadata(start.metadata, start.metadata_marks), start.tags)
        self.locals: dict[Any, Any] = {}
        self._lock = threading.Lock()
        self._number = 0
        self._context = contextvars.copy_context()
        self._life: Lifecycle | None = None
        self._main: asyncio.Task[None] | None = None
        self._is_over = False
        """The main line of this act has ended."""
        self._is_after = False
        """The second act has begun: `_verdict` is known."""
        self._verdict: Failed | None = None
        self._output: Payload | None = None
        self._error: BaseException | None = None
        self._doom: tuple[Failed, Callable[[], BaseException]] | None = None
        self._is_canceling = False
        self._is_cancel_due = False
        self._is_out_of_time = False
        self._on_cancel: asyncio.Task[None] | None = None
        """The hook that runs beside the body while it is being canceled."""
        self._pause: asyncio.Task[None] | None = None
        """A hook that runs before the body is parked, or before it goes on."""
        self._has_paused = False
        self._has_woken = False
        self._threads: dict[asyncio.Future[Any], int] = {}
        """The threads of the body, and how many durable calls each waits for."""
        self._timers = Timers(self._loop)
        limit = seconds(start.max_duration) if start.HasField("max_duration") else None
        self._clock = ExecutingTime(self._loop, self._timers, "time", limit, self._run_out_of_time)

    # -- the executor's side

    def begin(self) -> None:
        """Run the body's first lines."""
        self.gate.own(self._context)
        self._clock.run()
        self._life = self._task.lifecycle(self._start.payload, self)
        self._main = self._begin(self._run())

    def _begin(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return self.gate.start(coroutine, self._context.copy())

    def update(self, checkpoint: Checkpoint) -> None:
        """The scheduler settled a checkpoint. `arrange` follows, when the frame is read to its end."""
        self._calls.update(checkpoint)

    def arrange(self) -> None:
        """All updates and acknowledgements of a frame are here."""
        self._calls.arrange()
        if self.state is State.RUNNING:
            self._loop.look_at(self.gate)

    def committed(self, sent: Sent) -> None:
        """A report is committed. `arrange` follows."""
        self._calls.committed(sent.outgoing)
        if sent.is_final:
            self._let_go()
        if sent.is_park and sent.fence == self.fence and self.state is State.PARKING:
            if self._calls.seen_settled > sent.seen_settled:
                self._continue()  # what was settled meanwhile is here: the scheduler did not park it either
            else:
                self.state = State.PARKED
                if self.gate.has_held or self._is_over:
                    self._on_knock()

    def refused(self, sent: Sent, refusal: Refusal) -> None:
        """A report changed nothing."""
        if self.state is State.ABANDONED or sent.fence != self.fence:
            return
        if refusal.reason == REFUSAL_REASON_CANCELING:
            self.cancel()
            self._calls.refused(sent.outgoing, self._canceled_error(), is_canceling=True)
            self._outbox.take_back(sent.report.metadata, sent.report.add_tags, sent.report.logs)
        elif refusal.reason == REFUSAL_REASON_INVALID:
            error = TaskError(kind=TASK_ERROR_KIND_LIMIT_EXCEEDED, type="LimitExceeded", message=refusal.message)
            if sent.is_final:
                self._post(failed=Failed(error=error))
                return
            self._fail(Failed(error=error), lambda: HoldfastError(refusal.message))
            self._calls.refused(sent.outgoing, HoldfastError(refusal.message))
        elif self.state is not State.ENDED:  # stale, or ended: the run is somebody else's, or nobody's
            self.abandon()

    def resume(self, fence: int, settled: Collection[Checkpoint], after: float = 0.0) -> bool:
        """Continue a parked body in place, at the latest in `after` seconds: the scheduler does not know how long the
        wait was on its way to it. Returns False when there is no body to continue."""
        if self.state not in (State.PARKING, State.PARKED) or fence <= self.fence:
            return False
        self.fence = fence
        self._number = 0
        self._outbox.metadata.new_fence()
        for checkpoint in settled:
            self._calls.update(checkpoint)
        self._calls.arrange()
        if after > 0:
            after = min(after, self._calls.over_at(settled) - self._loop.time())
        if after > 0:
            self.state = State.RESUMING
            self._timers.set("resume", after, self._resume)
        else:
            self._resume()
        return True

    def _resume(self) -> None:
        self._continue()
        if self._outbox.has_unsent:
            self._want_flush()
        if self._is_cancel_due:
            self.cancel()

    def cancel(self) -> None:
        """The run's cancellation was accepted."""
        if self._is_canceling or self.state in (State.ENDED, State.ABANDONED):
            return
        if self.state is State.RESUMING:
            self._is_cancel_due = True  # a shielded wait must not end ahead of its instant either
            return
        self._is_canceling = True
        self._interrupt("The run is being canceled.")
        if self._life is not None and self._life.has_on_cancel:
            self._on_cancel = self._begin(self._life.canceled())

    def abandon(self) -> None:
        """Never step the body again, and say nothing."""
        if self.state is State.ABANDONED:
            return
        has_left = self.state is State.ENDED
        self.state = State.ABANDONED
        self._timers.stop_all()
        self.gate.close()
        _graveyard.append(self)
        if not has_left:
            self._host.has_left(self)

    # -- RunScope

    @functools.cached_property
    def ctx(self) -> Context:  # type: ignore[override]
        """Made when first asked for: most bodies do not ask."""
        return Context.of_start(self._start)

    def call(self, call: DurableCall) -> Awaitable[Checkpoint]:
        step = current_step.get()
        if step is not None:
            raise InRunError(
                f"A durable call ({call.record.name or 'a wait'}) inside the step {step.name.rpartition(':')[2]!r}: a "
                "step is not entered again, so it cannot contain another checkpoint. Make the call beside the step."
            )
        branch = self.gate.current_branch()
        record = call.record
        try:
            entry = self._replay.take(
                branch,
                call.kind,
                record.name,
                record.fingerprint,
                _caller_location() or _call_site.get(),
                key=call.key,
                token_id=record.token_wait.token_id if call.kind == CHECKPOINT_KIND_TOKEN_WAIT else "",
            )
        except NonDeterminismError as error:
            self._fail_by(error)
            return _raise(error)
        return self._calls.settle(call, entry, branch)

    def block_on(self, make: Callable[[], Awaitable[T]]) -> T:
        if threading.get_ident() == self._loop.thread_id:
            raise InRunError(
                "holdfast.sync blocks its thread, and this is the thread of the event loop, in an async body. "
                "Await the function of the same name in holdfast instead."
            )
        outcome: concurrent.futures.Future[T] = concurrent.futures.Future()
        context = contextvars.copy_context()
        context.run(_call_site.set, _caller_location())
        self._loop.call_neutral(self._enter_block, make, outcome, context)
        return outcome.result()

    async def in_thread(self, call: Callable[[], T]) -> T:
        future: asyncio.Future[tuple[T | None, BaseException | None]] = self._loop.create_future()
        self._threads[future] = 0
        context = contextvars.copy_context()
        context.run(_thread.set, future)
        self.gate.belong(context)

        def run() -> None:
            value, failure = None, None
            try:
                value = call()
            except BaseException as raised:
                failure = raised
            try:
                self._loop.call_neutral(self._thread_over, future, value, failure)
            except RuntimeError:
                pass  # the loop is closed: the process is on its way out

        threading.Thread(target=context.run, args=(run,), name=f"holdfast-{self._task.id}", daemon=True).start()
        # A thread cannot be cancelled: whoever cancels us waits for its end.
        cancelled: asyncio.CancelledError | None = None
        while not future.done():
            try:
                await asyncio.wait([future])
            except asyncio.CancelledError as raised:
                cancelled = raised
        del self._threads[future]
        if cancelled is not None:
            raise cancelled
        value, error = future.result()
        if error is not None:
            raise error
        return cast(T, value)

    def fork(self, name: str, *, shielded: bool = False) -> AbstractContextManager[None]:
        branch = self.gate.current_branch().named(name)
        branch.shields += shielded
        return self.gate.inside(branch)

    def is_recorded(self, kind: int, name: str) -> bool:
        return self._replay.is_recorded(self.gate.current_branch(), kind, name)

    def metadata_document(self) -> dict[str, object]:
        return self._outbox.metadata.document

    def metadata_operation(self, operation: MetadataOperation) -> None:
        branch = current_step.get() or self.gate.current_branch()
        with self._lock:
            branch.metadata_number += 1
            operation.branch = branch.name
            operation.number = branch.metadata_number
        if self._outbox.metadata.apply(operation):
            self._want_flush()

    def add_tags(self, tags: Sequence[str]) -> None:
        self._outbox.add_tags(tags)
        if self._outbox.has_unsent:
            self._want_flush()

    def log(self, record: LogRecord) -> bool:
        # A step that has its result is not run again: what one says is new.
        if current_step.get() is None and self._replay.repeats(self.gate.current_branch()):
            return False
        record.attempt = self._start.attempt
        self._outbox.add_log(record)
        self._want_flush()
        return True

    def shield(self, entering: bool) -> None:
        self.gate.current_branch().shields += 1 if entering else -1

    # -- running

    async def _run(self) -> None:
        # Every exception ends here, SystemExit too: raised in a task it would end the loop with all its bodies.
        try:
            if self._life is None:
                self._output = await self._task.execute(self._start.payload, self)
            else:
                self._output = await self._life.attempt()
        except BaseException as error:
            self._error = error
        self._is_over = True

    def _thread_over(self, future: asyncio.Future[Any], value: Any, error: BaseException | None) -> None:
        if self.state is not State.ABANDONED:
            future.set_result((value, error))

    def _enter_block(
        self,
        make: Callable[[], Awaitable[T]],
        outcome: concurrent.futures.Future[T],
        context: contextvars.Context,
    ) -> None:
        if self.state is State.ABANDONED:
            return  # the thread waits for ever
        thread = context.get(_thread)
        if thread in self._threads:
            self._threads[thread] += 1
        self.gate.start(self._block(make, outcome, thread), context)

    async def _block(
        self,
        make: Callable[[], Awaitable[T]],
        outcome: concurrent.futures.Future[T],
        thread: asyncio.Future[Any] | None,
    ) -> None:
        result, failure = None, None
        try:
            result = await make()
        except BaseException as error:
            failure = error
        if thread in self._threads:
            self._threads[thread] -= 1
        if failure is not None:
            outcome.set_exception(failure)
        else:
            outcome.set_result(cast(T, result))

    # -- at rest

    def _at_rest(self) -> None:
        if self.state is not State.RUNNING:
            return
        self.gate.prune()
        if self._is_over and self._close():
            return
        calls = self._calls
        if self._pause is not None:
            if not self._pause.done():
                if calls.outgoing:
                    self._post()
                return
            self._pause = None
        if self._has_paused and calls.order.has_next:
            self._go_on()
        elif calls.answer_next(self._cannot_ask_for):
            self._timers.stop("patience")
        elif calls.order.has_next:
            self._timers.set("patience", REPLAY_PATIENCE_S, self._lose_patience)
        elif calls.waiting and self._may_park():
            if self._has_paused or self._life is None or not self._life.has_on_wait:
                self._park()
                return
            self._has_paused = True
            self._pause = self._begin(self._life.waits())
        if calls.outgoing:
            self._post()

    def _is_blocked(self) -> bool:
        """Whether nothing of the body moves before a durable call is answered."""
        if self.gate.ready:
            return False
        durable: Collection[asyncio.Future[Any]] = self._calls.waiting
        if self._threads:
            durable = {*durable, *(thread for thread, calls in self._threads.items() if calls)}
        return blocked.is_blocked(self.gate.tasks, durable)

    def _cannot_ask_for(self, entry: Entry) -> bool:
        """Whether the body does not ask for this record before another one answers."""
        return not (entry.is_abandoned and self.gate.timers) and self._is_blocked()

    def _may_park(self) -> bool:
        if self._is_canceling or self._is_over or "grace" in self._timers:
            return False
        if self._calls.is_at_waitpoint():
            return self._is_blocked()
        stuck = next(iter(self._calls.abandoned()), None)
        if stuck is not None and not self.gate.timers and self._is_blocked():
            self._fail_by(
                NonDeterminismError(
                    f"The body waits for {stuck}, which it cancelled at an earlier entry, and nothing is left that "
                    "would cancel it again: what it raced with went another way. Use timeout= of the durable call, "
                    "or race durable calls only with durable calls."
                )
            )
        return False

    def _park(self) -> None:
        self.gate.close()
        self.state = State.PARKING
        self._has_woken = False
        self._clock.stop()
        self._post(park=Park(seen_settled=self._calls.seen_settled))

    def _on_knock(self) -> None:
        if self.state is State.PARKED and not self._has_woken:
            self._has_woken = True
            self._post(wake=Wake())

    def _continue(self) -> None:
        self.state = State.RUNNING
        self._clock.run()
        if self._has_paused:
            self._go_on()
        self.gate.open()

    def _go_on(self) -> None:
        """A body that has heard of its wait hears of its end before it gets its answer."""
        self._has_paused = False
        if self._life is not None:
            self._pause = self._begin(self._life.goes_on())

    def _lose_patience(self) -> None:
        self._calls.order.give_up()
        self._loop.look_at(self.gate)

    # -- ending

    def _close(self) -> bool:
        """The main line is over. As in `asyncio.run`, tasks that it left behind are cancelled, and end first."""
        left = [task for task in self.gate.tasks if not task.done() and task is not self._on_cancel]
        if left:
            if not self._calls.is_closing:
                self._calls.is_closing = True
                for task in left:
                    task.cancel()
                self._timers.set("grace", self._host.cancel_grace_s, self._cut_off)
            return False
        if self._on_cancel is not None and not self._on_cancel.done():
            return False
        if not self._is_after and self._life is not None and self._life.has_after:
            self._begin_after(self._life)
            return False
        self._end()
        return True

    def _begin_after(self, life: Lifecycle) -> None:
        is_interrupted = self._is_canceling or self._is_out_of_time or self._doom is not None
        self._verdict, error = self._judge()
        self._is_after = True
        self._is_over = False
        self._calls.is_closing = False
        if not is_interrupted:
            self._timers.stop("grace")
        self._clock.stop()
        self._clock = ExecutingTime(self._loop, self._timers, "after", AFTER_S, self._cut_off)
        self._clock.run()
        self._main = self._begin(self._run_after(life, error, is_interrupted))

    async def _run_after(self, life: Lifecycle, error: BaseException | None, is_interrupted: bool) -> None:
        try:
            if self._is_canceling:
                await life.ended(RunStatus.CANCELED, None, self._canceled_error())
                return
            failed = self._verdict
            if failed is None:
                await life.ended(RunStatus.COMPLETED, None, None)
                return
            if not is_interrupted and error is not None:
                described, delay = await life.judge(error, failed.error)
                failed = Failed(error=described)
                if delay is not None:
                    failed.retry_delay.FromTimedelta(delay)
                self._verdict = failed
            if not failed.error.retryable or self._start.attempt >= self._start.max_attempts:
                status = RunStatus.TIMED_OUT if failed.error.kind == TASK_ERROR_KIND_TIMED_OUT else RunStatus.FAILED
                await life.ended(status, failed.error, error)
        except BaseException as raised:  # what hooks raise does not come here
            log.error("event=after_failed run=%s error=%r", self.run_text, raised)
        finally:
            self._is_over = True

    def _interruption(self, branch: Branch) -> BaseException | None:
        if self._is_canceling:
            return None if branch.shields else self._canceled_error()
        if self._is_after:
            return None
        if self._doom is not None:
            return self._doom[1]()
        if self._is_out_of_time:
            return self._canceled_error()
        return None

    def _canceled_error(self) -> RunCanceledError:
        return RunCanceledError(self.signal.reason or "The run is being canceled.")

    def _interrupt(self, reason: str) -> None:
        """Tell the body to come to its end, and cut it off when it does not."""
        if self.state in (State.PARKING, State.PARKED):
            self._continue()
        self._timers.set("grace", self._host.cancel_grace_s, self._cut_off)
        self._timers.stop("patience")
        self.signal.fire(reason)
        self._calls.interrupt()

    def _fail_by(self, error: NonDeterminismError) -> None:
        self._fail(Failed(error=self._task.describe_error(error)), lambda: NonDeterminismError(str(error)))

    def _fail(self, failed: Failed, make_error: Callable[[], BaseException]) -> None:
        """The attempt fails, whatever the body does about the exception that its durable calls raise from now on."""
        if self._doom is None:
            self._doom = failed, make_error
            self._timers.set("grace", self._host.cancel_grace_s, self._cut_off)
            self._calls.interrupt()

    def _run_out_of_time(self) -> None:
        if self._is_canceling or self._is_out_of_time or self._is_after:
            return
        self._is_out_of_time = True
        self._calls.is_closing = True
        self._interrupt("The attempt met its max_duration.")
        if self._main is not None and not self._main.done():
            self._main.cancel()

    def _cut_off(self) -> None:
        """The grace is over."""
        if self.state in (State.ENDED, State.ABANDONED):
            return
        self._end()
        self.abandon()

    def _end(self) -> None:
        self._timers.stop_all()
        if self._is_canceling:
            self._post(canceled=Canceled())
        else:
            failed = self._verdict if self._is_after else self._judge()[0]
            if failed is not None:
                self._post(failed=failed)
            else:
                self._post(completed=Completed(output=self._output))
        self.state = State.ENDED
        self._host.has_left(self)

    def _let_go(self) -> None:
        """The last report is committed. Cut what leads back here from what the body is made of: then it goes at once,
        and not when the garbage collector finds it. Measured, that was half of what a short run cost."""
        self.gate.on_rest = self.gate.on_knock = _nothing
        self.gate.tasks.clear()
        self._main = self._on_cancel = self._pause = None
        self._life = self._error = None
        self._calls.interruption = _no_interruption
        self._clock.forget()

    def _judge(self) -> tuple[Failed | None, BaseException | None]:
        """How the attempt failed, as data and as an exception; (None, None) when it did not."""
        if self._doom is not None:
            return self._doom[0], self._doom[1]()
        if self._is_out_of_time:
            message = "The attempt executed longer than its max_duration allows."
            timed_out = TaskError(kind=TASK_ERROR_KIND_TIMED_OUT, type="TimedOut", message=message)
            return Failed(error=timed_out), TimeoutError(message)
        error = self._error
        if error is None and self._replay.has_uncalled:
            try:
                self._replay.check_returned({**self.gate.returned, self.gate.root.name: True})
            except NonDeterminismError as raised:
                error = raised
        if error is None:
            return None, None
        return Failed(error=self._task.describe_error(error)), error

    # -- reports

    def _post(self, **transition: Any) -> None:
        """Make a report of all that waits to be reported, with or without a transition; more than one where a frame
        could not carry it."""
        outgoing = self._calls.take_outgoing()
        has_records = bool(outgoing.records)
        if has_records:
            *before, outgoing = outgoing.cut(REPORT_BYTES)
            for part in before:
                self._number += 1
                report = Report(run_id=self.run_id, fence=self.fence, number=self._number)
                report.records.extend(record for _, record in part.records)
                self._host.post(self, report, Sent(report, part))
            if before and not outgoing and not transition and not self._outbox.has_unsent:
                return
        is_final = bool(transition) and not ("park" in transition or "wake" in transition)
        self._number += 1
        report = Report(run_id=self.run_id, fence=self.fence, number=self._number, **transition)
        sent = Sent(report, outgoing)
        sent.is_final = is_final
        if "park" in transition:
            sent.is_park = True
            sent.seen_settled = self._calls.seen_settled
        if outgoing.records:
            report.records.extend(record for _, record in outgoing.records)
        if outgoing.abandoned:
            report.abandoned_seqs.extend(outgoing.abandoned)
        self._outbox.fill(report, is_committing=is_final or has_records)
        self._host.post(self, report, sent)

    def _want_flush(self) -> None:
        if threading.get_ident() == self._loop.thread_id:
            self._arm_flush()
        else:
            self._loop.call_neutral(self._arm_flush)

    def _arm_flush(self) -> None:
        if self.state not in (State.ENDED, State.ABANDONED):
            self._timers.set("flush", FLUSH_SECONDS, self._flush)

    def _flush(self) -> None:
        # A parked body's operations wait for the Resume: its fence is about to end.
        if self.state is State.RUNNING and self._outbox.has_unsent:
            self._post()

    @property
    def run_text(self) -> str:
        """Id of the run as people see it."""
        return ids.to_text(ids.RUN, self.run_id)


_graveyard: list[Body] = []
"""Abandoned bodies. They stay referenced as long as the process lives: nothing must throw GeneratorExit into them."""


def abandoned_bodies() -> int:
    """How many bodies this process keeps without ever running them again."""
    return len(_graveyard)


def _nothing() -> None:
    """What an ended body does when its loop calls."""


def _no_interruption(branch: Branch) -> BaseException | None:
    return None


async def _raise(error: BaseException) -> Checkpoint:
    raise error


def _caller_location() -> str:
    """The line of user code that made the durable call, as "tasks.py:41"; empty when it is not on the stack."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        whose = _whose(frame.f_globals.get("__name__", ""))
        if whose == "asyncio":
            return ""
        if whose == "the user":
            return f"{_file_name(frame.f_code.co_filename)}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


@functools.lru_cache(1024)
def _whose(module: str) -> str:
    root = module.partition(".")[0]
    return "us" if root in ("holdfast", "holdfast_worker") else root if root == "asyncio" else "the user"


_file_name = functools.lru_cache(1024)(os.path.basename)
