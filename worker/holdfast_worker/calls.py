"""The durable calls of one execution: from the call to its answer.

A call on new ground makes a record; the body reports it; the commit, or an update from the scheduler, settles it. What
is settled answers one at a time (`replay.AnswerOrder`): `answer_next` is for whoever knows when the body is at rest.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextvars import ContextVar

from holdfast._scope import DurableCall
from holdfast.v1.payload_pb2 import TASK_ERROR_KIND_CANCELED, TaskError
from holdfast.v1.run_pb2 import (
    CHECKPOINT_KIND_WAIT,
    CHECKPOINT_STATUS_FAILED,
    CHECKPOINT_STATUS_PENDING,
    CHECKPOINT_STATUS_SUCCEEDED,
    Checkpoint,
)
from holdfast.v1.worker_service_pb2 import CheckpointRecord, StepRecord
from holdfast_worker.lease import seconds
from holdfast_worker.replay import AnswerOrder, Branch, Entry, Replay

current_step: ContextVar[Branch | None] = ContextVar("holdfast_step", default=None)
"""The branch of the step that runs now. A step is not run again, so what it does to metadata must not shift the
numbers of the code around it."""

Interruption = Callable[[Branch], "BaseException | None"]
"""What a durable call of this branch raises instead of going on; None when it may go on."""


class Outgoing:
    """What a report takes along."""

    __slots__ = ("abandoned", "records")

    def __init__(self) -> None:
        self.records: list[tuple[Entry, CheckpointRecord]] = []
        self.abandoned: list[int] = []

    def __bool__(self) -> bool:
        return bool(self.records or self.abandoned)

    def cut(self, most: int) -> Iterator[Outgoing]:
        """Parts whose records have about `most` bytes each, in order. What the body gave up is in the last one: that
        may be a call whose record is in a part before."""
        part, size = Outgoing(), 0
        for one in self.records:
            size += one[1].ByteSize()
            part.records.append(one)
            if size > most:
                yield part
                part, size = Outgoing(), 0
        part.abandoned = self.abandoned
        yield part


class Calls:
    """See the module. `last_seq` and `settled_order` are Start's."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        replay: Replay,
        interruption: Interruption,
        *,
        last_seq: int = 0,
        settled_order: int = 0,
    ) -> None:
        self._loop = loop
        self.interruption = interruption
        self.order = AnswerOrder(replay.recorded)
        self._by_seq: dict[int, Entry] = {entry.seq: entry for entry in replay.recorded}
        self._last_seq = last_seq
        self._highest_order = settled_order
        self.seen_settled = settled_order
        """The highest `settled_order` that came from the scheduler."""
        self.waiting: dict[asyncio.Future[Checkpoint], tuple[Entry, Branch]] = {}
        """The futures on which durable calls wait."""
        self._askers: dict[Entry, list[asyncio.Future[Checkpoint]]] = {}
        self.outgoing = Outgoing()
        self._unacknowledged = 0
        """Records that their commit settles, and abandonments, that are not committed."""
        self._acknowledged: list[Entry] = []
        self._leaving: set[asyncio.Future[Checkpoint]] = set()
        """The futures on which cancelled calls wait for their turn."""
        self._updates: list[Checkpoint] = []
        self.is_closing = False
        """The body has ended, or is being ended: what it cancels is not recorded."""

    # -- in the body

    async def settle(self, call: DurableCall, entry: Entry, branch: Branch) -> Checkpoint:
        """The settled checkpoint of `call`, whose identity is `entry`."""
        self._raise_interruption(branch)
        if entry.is_answered:
            assert entry.checkpoint is not None
            return entry.checkpoint
        if not entry.is_made:
            entry.is_made = True
            if call.perform is not None:
                call.record.step.CopyFrom(await self._perform(call, call.perform, entry, branch))
            self._make(entry, call.record, branch)
            self._raise_interruption(branch)
        return await self._answer(entry, branch)

    def _raise_interruption(self, branch: Branch) -> None:
        error = self.interruption(branch)
        if error is not None:
            raise error

    async def _perform(
        self, call: DurableCall, perform: Callable[[], Awaitable[StepRecord]], entry: Entry, branch: Branch
    ) -> StepRecord:
        token = current_step.set(Branch(f"{branch.name}/{entry.identity}"))
        try:
            return await perform()
        except BaseException as error:
            entry.is_left = True
            is_given_up = isinstance(error, asyncio.CancelledError)
            if is_given_up and not self.is_closing and self.interruption(branch) is None:
                # The body gave up the step (a timeout of its own). A re-entry must see it given up as well.
                outcome = TaskError(
                    kind=TASK_ERROR_KIND_CANCELED,
                    type="CancelledError",
                    message="The body cancelled the step while it ran.",
                )
                call.record.step.CopyFrom(StepRecord(error=outcome))
                self._make(entry, call.record, branch)
                entry.is_asked = True
                await self._leave(entry, branch)
            # Whoever joined the call by its key would wait for a record that never comes.
            for future in self._askers.get(entry, ()):
                future.cancel()
            raise
        finally:
            current_step.reset(token)

    def _make(self, entry: Entry, record: CheckpointRecord, branch: Branch) -> None:
        if branch.shields:
            record.shielded = True
        self._report(entry, record)

    def _report(self, entry: Entry, record: CheckpointRecord) -> None:
        self._last_seq += 1
        entry.seq = record.seq = self._last_seq
        record.identity = entry.identity
        record.location = entry.location
        self._by_seq[entry.seq] = entry
        if not entry.is_waitpoint:
            self._unacknowledged += 1
        elif not record.asked_at_us:
            now = self._loop.time()
            record.asked_at_us = round(now * 1e6)
            if record.wait.HasField("delay"):
                entry.over_at = now + seconds(record.wait.delay)
        self.outgoing.records.append((entry, record))

    async def _answer(self, entry: Entry, branch: Branch) -> Checkpoint:
        future: asyncio.Future[Checkpoint] = self._loop.create_future()
        self.waiting[future] = entry, branch
        self._askers.setdefault(entry, []).append(future)
        if not entry.is_asked and not entry.is_abandoned:
            entry.is_asked = True
            if entry.order:
                self.order.ask(entry)
        try:
            return await future
        except asyncio.CancelledError:
            await self._leave(entry, branch)
            raise
        finally:
            del self.waiting[future]
            self._forget(entry, future)

    async def _leave(self, entry: Entry, branch: Branch) -> None:
        """The body cancelled its wait for `entry`. That is recorded before the body goes on.

        It goes on when the end of the call has its turn among the answers: the commit of the abandonment or, when that
        came too late, of the answer. At re-entry the cancellation of an abandoned call waits for the same turn, so that
        branches which race with the cancelled one find it as it was.
        """
        if entry.is_answered or any(not future.done() for future in self._askers.get(entry, ())):
            return
        entry.is_left = True
        if self.is_closing or self.interruption(branch) is not None:
            return
        if entry.is_abandoned:
            if not entry.order or entry.is_asked:
                return
            entry.is_asked = True
            self.order.ask(entry)
        elif entry.is_waitpoint and not entry.order:
            self._unacknowledged += 1
            self.outgoing.abandoned.append(entry.seq)
        # Further cancellations meanwhile are swallowed: the caller raises the one it has.
        while True:
            future: asyncio.Future[Checkpoint] = self._loop.create_future()
            self._askers.setdefault(entry, []).append(future)
            self._leaving.add(future)
            try:
                await future
                return
            except asyncio.CancelledError:
                pass
            finally:
                self._leaving.discard(future)
                self._forget(entry, future)

    def _forget(self, entry: Entry, future: asyncio.Future[Checkpoint]) -> None:
        askers = self._askers[entry]
        askers.remove(future)
        if not askers:
            del self._askers[entry]

    # -- around the body

    def interrupt(self) -> None:
        """Raise the interruption, where there is one, in the calls that wait now."""
        for future, (_, branch) in list(self.waiting.items()):
            error = self.interruption(branch)
            if error is not None and not future.done():
                future.set_exception(error)
        self._release_leaving()

    def _release_leaving(self) -> None:
        for future in self._leaving:
            if not future.done():
                future.set_result(Checkpoint())

    def take_outgoing(self) -> Outgoing:
        """What the next report takes along."""
        outgoing, self.outgoing = self.outgoing, Outgoing()
        return outgoing

    def committed(self, outgoing: Outgoing) -> None:
        """A report is committed. `arrange` follows."""
        for entry, record in outgoing.records:
            if entry.is_waitpoint:
                continue
            self._unacknowledged -= 1
            if not self._is_settled(entry):
                entry.checkpoint = _checkpoint(record, entry.kind)
                self._acknowledged.append(entry)
        for seq in sorted(outgoing.abandoned):
            self._unacknowledged -= 1
            entry = self._by_seq[seq]
            if not self._is_settled(entry):
                entry.is_abandoned = entry.is_asked = True
                self._acknowledged.append(entry)

    def _is_settled(self, entry: Entry) -> bool:
        """Whether the scheduler has told how the call ended."""
        return bool(entry.order) or any(update.seq == entry.seq for update in self._updates)

    def refused(self, outgoing: Outgoing, error: BaseException, *, is_canceling: bool = False) -> None:
        """A report changed nothing: the calls whose records it carried raise `error`. Shielded ones that were refused
        for the sake of others beside them are reported again."""
        entries = {entry for entry, record in outgoing.records if not record.shielded}
        if is_canceling and entries:
            again = [(entry, record) for entry, record in outgoing.records if record.shielded]
        else:
            entries, again = {entry for entry, _ in outgoing.records}, []
        self._unacknowledged -= sum(not entry.is_waitpoint for entry in entries) + len(outgoing.abandoned)
        for entry, record in again:
            self._unacknowledged -= not entry.is_waitpoint
            del self._by_seq[entry.seq]
            self._report(entry, record)
        for future, (entry, _) in list(self.waiting.items()):
            if entry in entries and not future.done():
                future.set_exception(error)
        self._release_leaving()

    def update(self, checkpoint: Checkpoint) -> None:
        """The scheduler settled a checkpoint. `arrange` follows."""
        self.seen_settled = max(self.seen_settled, checkpoint.settled_order)
        entry = self._by_seq.get(checkpoint.seq)
        if entry is None or entry.order or checkpoint.status == CHECKPOINT_STATUS_PENDING:
            return
        self._updates.append(checkpoint)

    def over_at(self, settled: Iterable[Checkpoint]) -> float:
        """When the last of these waits is over, by the loop's clock; infinite where that is not known."""
        entries = [self._by_seq.get(one.seq) for one in settled if one.kind == CHECKPOINT_KIND_WAIT]
        return max([math.inf if entry is None else entry.over_at for entry in entries], default=math.inf)

    def arrange(self) -> None:
        """Put what has just been settled in the order of its commits, as a re-entry would see it.

        Updates bring their `settled_order`. Records that their commit settles do not, but the numbers of a run have no
        gaps: the acknowledged ones take the free numbers. An update above a gap waits for the acknowledgement of the
        record that fills it.
        """
        if not self._updates and not self._acknowledged:
            return
        updates = {update.settled_order: update for update in self._updates}
        settled: dict[int, Entry] = {}
        number = self._highest_order
        for entry in self._acknowledged:
            number += 1
            while number in updates:
                number += 1
            settled[number] = entry
        self._acknowledged = []
        self._updates = []
        for order in sorted({*updates, *settled}):
            if order in settled:
                entry = settled[order]
            elif order > self._highest_order + 1 and self._unacknowledged:
                self._updates.append(updates[order])
                continue
            else:
                entry = self._by_seq[updates[order].seq]
                entry.checkpoint = updates[order]
            self._highest_order = max(self._highest_order, order)
            entry.order = max(order, 1)
            self.order.settle(entry)

    def answer_next(self, is_blocked: Callable[[Entry], bool]) -> bool:
        """Answer one call, if one may be answered now. Only when the body is at rest."""
        while True:
            entry = self.order.next(is_blocked)
            if entry is None:
                return False
            entry.is_answered = True
            waiting = [future for future in self._askers.get(entry, ()) if not future.done()]
            for future in waiting:
                future.set_result(entry.checkpoint or Checkpoint())
            if waiting:
                return True

    def is_at_waitpoint(self) -> bool:
        """Whether a durable call waits for a waitpoint, and none for anything that is about to come."""
        found = False
        for entry, _ in self.waiting.values():
            if entry.is_abandoned:
                continue
            if entry.order or not entry.is_waitpoint:
                return False
            found = True
        return found

    def abandoned(self) -> Iterable[Entry]:
        """The calls that wait for an answer that never comes; empty when another call waits as well."""
        entries = [entry for entry, _ in self.waiting.values()]
        return entries if all(entry.is_abandoned for entry in entries) else []


def _checkpoint(record: CheckpointRecord, kind: int) -> Checkpoint:
    """The checkpoint that the commit of `record` has made, when the scheduler sends none that differs."""
    checkpoint = Checkpoint(
        seq=record.seq,
        identity=record.identity,
        name=record.name,
        status=CHECKPOINT_STATUS_SUCCEEDED,
        fingerprint=record.fingerprint,
        location=record.location,
    )
    checkpoint.kind = kind  # type: ignore[assignment]
    which = record.WhichOneof("kind")
    if which == "step":
        if record.step.HasField("error"):
            checkpoint.status = CHECKPOINT_STATUS_FAILED
            checkpoint.error.CopyFrom(record.step.error)
            checkpoint.permanent = record.step.permanent
        else:
            checkpoint.value.CopyFrom(record.step.value)
    elif which == "child":
        checkpoint.subject_id = record.child.item.run_id
    elif which == "batch":
        checkpoint.subject_id = record.batch.batch_id
        for item in record.batch.items:
            checkpoint.batch_entries.add(run_id=item.run_id)
    elif which == "token":
        checkpoint.subject_id = record.token.token_id
    return checkpoint
