"""The scheduler's end of an executor, in memory: commits reports, settles waitpoints, starts, resumes and kills.

It is on the executor's own event loop and has no clock: a waitpoint is settled when a test says so, or (`autopilot`)
whenever the run is parked, in an order that depends on nothing but the checkpoints' identities.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from typing import Any

from google.protobuf.message import Message

from holdfast import _scope
from holdfast._scope import DurableCall, RunScope
from holdfast._task import Task
from holdfast.errors import AbortTaskRunError, StepFailedError
from holdfast.failures import describe, to_info
from holdfast.v1 import payload_pb2 as payload
from holdfast.v1 import run_pb2 as run
from holdfast.v1 import worker_service_pb2 as wire
from holdfast.v1.task_pb2 import TaskDefinition
from holdfast_worker import creation_order
from holdfast_worker.executor import Executor
from holdfast_worker.gate import GatedEventLoop
from holdfast_worker.metadata import changed

creation_order.install()

RUN_ID = bytes(range(16))
DEADLINE_S = 20.0

ACK_KINDS = frozenset(
    {
        run.CHECKPOINT_KIND_STEP,
        run.CHECKPOINT_KIND_TRIGGER,
        run.CHECKPOINT_KIND_BATCH_TRIGGER,
        run.CHECKPOINT_KIND_TOKEN,
    }
)


class PlainTask:
    """A task as the executor needs it, around a function of no arguments that returns what JSON can hold."""

    def __init__(self, function: Callable[[], Any], task_id: str = "task") -> None:
        self.function = function
        self.id = task_id
        self.is_async = asyncio.iscoroutinefunction(function)

    def definition(self) -> TaskDefinition:
        return TaskDefinition(id=self.id)

    async def execute(self, _: payload.Payload, scope: RunScope) -> payload.Payload:
        _scope.bind(scope)
        value = await (self.function() if self.is_async else scope.in_thread(self.function))
        return payload.Payload(data=json.dumps(value).encode())

    def lifecycle(self, _: payload.Payload, scope: RunScope) -> None:
        return None

    def describe_error(self, error: BaseException) -> payload.TaskError:
        return describe(error)


# -- durable calls, as thin as they get


def scope() -> RunScope:
    found = _scope.current()
    assert found is not None
    return found


def step(name: str, function: Callable[..., Any], *args: Any) -> Coroutine[Any, Any, Any]:
    """Takes its identity when called. `function` may be sync or async."""

    async def perform() -> wire.StepRecord:
        try:
            result = function(*args)
            if isinstance(result, Awaitable):
                result = await result
        except Exception as error:
            permanent = isinstance(error, AbortTaskRunError)
            return wire.StepRecord(error=describe(error), permanent=permanent)
        return wire.StepRecord(value=payload.Payload(data=json.dumps(result).encode()))

    record = wire.CheckpointRecord(name=name, fingerprint=json.dumps(args).encode(), step=wire.StepRecord())
    return _outcome(scope().call(DurableCall(run.CHECKPOINT_KIND_STEP, record, perform=perform)))


def wait(name: str = "", *, seconds: float | None = None) -> Coroutine[Any, Any, Any]:
    """Without a length it ends when the scheduler says so."""
    record = wire.CheckpointRecord(name=name, wait=wire.WaitRecord(until_us=1))
    if seconds is not None:
        record.wait.delay.FromMicroseconds(round(seconds * 1e6))
    return _outcome(scope().call(DurableCall(run.CHECKPOINT_KIND_WAIT, record)))


def child(task: str, argument: Any = None, *, key: str | None = None) -> Any:
    item = run.TriggerItem(task_id=task, run_id=f"run_{task}")
    fingerprint = b"" if key else json.dumps(argument).encode()
    record = wire.CheckpointRecord(name=task, fingerprint=fingerprint, child=wire.ChildRecord(item=item, wait=True))
    bytes_ = None if key is None else f"{task}/{key}".encode()
    return _outcome(scope().call(DurableCall(run.CHECKPOINT_KIND_CHILD, record, key=bytes_)))


def trigger(task: str) -> Any:
    item = run.TriggerItem(task_id=task, run_id=f"run_{task}")
    record = wire.CheckpointRecord(name=task, fingerprint=b"-", child=wire.ChildRecord(item=item))
    return _subject(scope().call(DurableCall(run.CHECKPOINT_KIND_TRIGGER, record)))


async def _subject(answer: Awaitable[run.Checkpoint]) -> str:
    return (await answer).subject_id


async def _outcome(answer: Awaitable[run.Checkpoint]) -> Any:
    checkpoint = await answer
    if checkpoint.status == run.CHECKPOINT_STATUS_FAILED:
        raise StepFailedError(checkpoint.name, to_info(checkpoint.error))
    return json.loads(checkpoint.value.data) if checkpoint.value.data else None


# -- the scheduler's end


class Scheduler:
    """One run, executed by one executor after the other."""

    def __init__(
        self, loop: GatedEventLoop, task: Callable[[], Any] | Task[Any, Any], *, autopilot: bool = True, seed: int = 0
    ) -> None:
        self.loop = loop
        self.task = task
        self.autopilot = autopilot
        self.seed = seed
        self.fence = 0
        self.attempt = 1
        self.checkpoints: dict[int, run.Checkpoint] = {}
        self.settled = 0
        self.pushed = 0
        self.metadata: dict[tuple[str, int], wire.MetadataOperation] = {}
        self.live_metadata: list[wire.MetadataOperation] = []
        self.reports: list[wire.Report] = []
        self.parks = 0
        self.is_parked = False
        self.end: wire.Report | None = None
        self.kill_after: int | None = None
        """Kill the executor at the so manieth report, before (`kill_before_commit`) or after its commit."""
        self.kill_before_commit = False
        self.settle_at_kill = False
        """Settle one waitpoint while nobody executes the run."""
        self.commits = 0
        self.holds_commits = False
        """Commit nothing until it is false again and `pump` is called."""
        self.executor: Executor | None = None
        self._inbox: list[wire.ConnectRequest] = []
        self._changed = asyncio.Event()

    # the executor's outlet

    def send(self, *messages: Message) -> None:
        for message in messages:
            assert isinstance(message, wire.ConnectRequest)
            self._inbox.append(wire.ConnectRequest.FromString(message.SerializeToString()))
        self.loop.call_neutral(self.pump)

    def pump(self) -> None:
        while self._inbox and not self.holds_commits:
            message = self._inbox.pop(0)
            if message.WhichOneof("frame") == "reports":
                self._take_reports(message.reports)
        self._changed.set()

    # driving

    def start(self, **fields: Any) -> None:
        """Start or re-enter the body in a new executor; what an older one still has is never stepped again."""
        for body in list(self.executor.bodies.values()) if self.executor else ():
            body.abandon()
        self._inbox.clear()
        self.executor = Executor(
            self.loop, {"task": self.task if isinstance(self.task, Task) else PlainTask(self.task)}, self, 10**6
        )
        self.fence += 1
        self.is_parked = False
        welcome = wire.Welcome(limits=wire.Limits(payload_bytes=1 << 20))
        welcome.cancel_grace.FromMilliseconds(200)
        start = wire.Start(
            start_seq=1,
            run_id=RUN_ID,
            fence=self.fence,
            attempt=self.attempt,
            task_id="task",
            checkpoints=self.applicable(),
            last_seq=max(self.checkpoints, default=0),
            settled_order=self.settled,
            is_reentry=self.fence > 1,
            metadata=self.document(),
            metadata_marks=[wire.MetadataMark(branch=b, number=n) for b, n in self._marks().items()],
            **fields,
        )
        self.tell(wire.ConnectResponse(welcome=welcome))
        self.deliver(starts=[start])

    def applicable(self) -> Iterator[run.Checkpoint]:
        """The checkpoints that a Start brings."""
        for seq in sorted(self.checkpoints):
            checkpoint = self.checkpoints[seq]
            transient = checkpoint.status in (run.CHECKPOINT_STATUS_FAILED, run.CHECKPOINT_STATUS_ABANDONED)
            if not transient or checkpoint.permanent or checkpoint.attempt == self.attempt:
                yield checkpoint

    def tell(self, message: wire.ConnectResponse) -> None:
        assert self.executor is not None
        self.executor.take([message.SerializeToString()])

    def deliver(self, **parts: Any) -> None:
        self.tell(wire.ConnectResponse(delivery=wire.Delivery(**parts)))

    def pending(self) -> list[run.Checkpoint]:
        return [c for c in self.checkpoints.values() if c.status == run.CHECKPOINT_STATUS_PENDING]

    def settle(self, name: str | None = None, value: Any = None, *, silently: bool = False) -> run.Checkpoint:
        """Settle a pending waitpoint (by its name) and tell whoever executes or parks the run."""
        checkpoint = min(
            (c for c in self.pending() if name is None or c.name == name), key=lambda c: self.priority(c.identity)
        )
        self.settled += 1
        self.pushed = self.settled
        checkpoint.status = run.CHECKPOINT_STATUS_SUCCEEDED
        checkpoint.settled_order = self.settled
        checkpoint.value.data = json.dumps(value if value is not None else f"answer to {checkpoint.name}").encode()
        if silently:
            return checkpoint
        if self.is_parked:
            self.resume(checkpoint)
        else:
            self.deliver(updates=[wire.CheckpointUpdate(run_id=RUN_ID, fence=self.fence, checkpoint=checkpoint)])
        return checkpoint

    def resume(self, *settled: run.Checkpoint, after_s: float = 0.0) -> None:
        self.is_parked = False
        self.fence += 1
        resume = wire.Resume(run_id=RUN_ID, fence=self.fence, settled=settled)
        if after_s:
            resume.after.FromMicroseconds(round(after_s * 1e6))
        self.deliver(resumes=[resume])

    def priority(self, identity: str) -> bytes:
        return hashlib.sha256(f"{self.seed}/{identity}".encode()).digest()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition()` holds; looked at after every frame."""
        async with asyncio.timeout(DEADLINE_S):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def to_end(self) -> wire.Report:
        await self.until(lambda: self.end is not None)
        assert self.end is not None
        return self.end

    # commits

    def _take_reports(self, frame: wire.Reports) -> None:
        updates: list[wire.CheckpointUpdate] = []
        for report in frame.reports:
            if report.fence != self.fence or self.end is not None:
                continue
            self.commits += 1
            dies = self.kill_after is not None and self.commits >= self.kill_after
            if not (dies and self.kill_before_commit):
                self._commit(report)
            if dies:
                self.kill_after = None
                if self.settle_at_kill and self.pending() and self.end is None:
                    self.settle(silently=True)
                if self.end is None:
                    self.start()
                return
        committed = wire.Committed(up_to=frame.frame_no)
        self.deliver(updates=updates, committed=committed)
        if self.is_parked and self.autopilot and self.pending():
            self.loop.call_neutral(self._fly)

    def _fly(self) -> None:
        if self.is_parked and self.pending() and not self.holds_commits:
            self.settle()

    def _commit(self, report: wire.Report) -> None:
        self.reports.append(report)
        for record in report.records:
            assert record.seq > max(self.checkpoints, default=0)
            self.checkpoints[record.seq] = self._checkpoint(record)
        for seq in sorted(report.abandoned_seqs):
            if self.checkpoints[seq].status == run.CHECKPOINT_STATUS_PENDING:
                self.settled += 1
                self.checkpoints[seq].settled_order = self.settled
                self.checkpoints[seq].status = run.CHECKPOINT_STATUS_ABANDONED
        for operation in report.metadata:
            self.live_metadata.append(operation)
        transition = report.WhichOneof("transition")
        ends = transition in ("completed", "failed", "canceled", "released", "lost")
        if report.records or ends:
            for earlier in [r for r in self.reports if r.fence == report.fence]:
                for operation in earlier.metadata:
                    self.metadata[operation.branch, operation.number] = operation
        if transition == "park":
            self.is_parked = report.park.seen_settled >= self.pushed
            self.parks += self.is_parked
        elif transition == "wake" and self.is_parked:
            self.loop.call_neutral(self._answer_wake)
        elif ends:
            self.end = report

    def _answer_wake(self) -> None:
        if self.is_parked:
            self.resume()

    def _checkpoint(self, record: wire.CheckpointRecord) -> run.Checkpoint:
        checkpoint = run.Checkpoint(
            seq=record.seq,
            identity=record.identity,
            kind=self._kind(record),
            name=record.name,
            status=run.CHECKPOINT_STATUS_PENDING,
            fingerprint=record.fingerprint,
            attempt=self.attempt,
            location=record.location,
        )
        if record.HasField("child"):
            checkpoint.subject_id = record.child.item.run_id
        if checkpoint.kind in ACK_KINDS:
            self.settled += 1
            checkpoint.settled_order = self.settled
            checkpoint.status = run.CHECKPOINT_STATUS_SUCCEEDED
            if record.step.HasField("error"):
                checkpoint.status = run.CHECKPOINT_STATUS_FAILED
                checkpoint.error.CopyFrom(record.step.error)
                checkpoint.permanent = record.step.permanent
            elif record.HasField("step"):
                checkpoint.value.CopyFrom(record.step.value)
        return checkpoint

    @staticmethod
    def _kind(record: wire.CheckpointRecord) -> run.CheckpointKind:
        if record.HasField("step"):
            return run.CHECKPOINT_KIND_STEP
        if record.HasField("wait"):
            return run.CHECKPOINT_KIND_WAIT
        assert record.HasField("child")
        return run.CHECKPOINT_KIND_CHILD if record.child.wait else run.CHECKPOINT_KIND_TRIGGER

    def _marks(self) -> Mapping[str, int]:
        marks: dict[str, int] = {}
        for branch, number in self.metadata:
            marks[branch] = max(number, marks.get(branch, 0))
        return marks

    def document(self) -> bytes:
        """The committed metadata; operations of one key commute in the tests that look at it."""
        document: dict[str, Any] = {}
        for operation in self.metadata.values():
            document = changed(document, operation)
        return json.dumps(document).encode()


def kind_of(report: wire.Report) -> str:
    """ "completed", "canceled", or the kind of the error."""
    if report.HasField("failed"):
        return payload.TaskErrorKind.Name(report.failed.error.kind).removeprefix("TASK_ERROR_KIND_")
    return str(report.WhichOneof("transition"))


def output(report: wire.Report) -> Any:
    assert report.HasField("completed"), report
    return json.loads(report.completed.output.data)
