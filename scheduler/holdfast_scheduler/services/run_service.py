"""RunService: triggers runs and shows them."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator
from typing import Any, Final

from holdfast.v1 import run_service_pb2 as pb
from holdfast.v1 import run_service_pb2_grpc
from holdfast.v1.run_pb2 import Run
from holdfast_scheduler import convert, ids, messages, reads
from holdfast_scheduler.errors import RefusedError, invalid, not_found, too_large
from holdfast_scheduler.filter import parse_run_filter
from holdfast_scheduler.listing import Bounds
from holdfast_scheduler.model import (
    BATCH,
    BATCH_TRIGGER,
    CHILD,
    NO_REASON,
    QUEUED,
    SCOPE_ATTEMPT,
    SCOPE_RUN,
    BatchOutcome,
    CancelRun,
    Handle,
    ItemFault,
    NewRun,
    RescheduleRun,
    ResetKey,
    TriggerBatch,
    TriggerRuns,
)
from holdfast_scheduler.queue_reads import queue_facts
from holdfast_scheduler.services.awaiting import AwaitedRuns
from holdfast_scheduler.services.bulk import BulkOperation
from holdfast_scheduler.services.explain import breakdown, explain, now_us
from holdfast_scheduler.services.keys import key_holder
from holdfast_scheduler.services.paging import page_token, place_from
from holdfast_scheduler.services.replaying import replay_of
from holdfast_scheduler.services.seam import Engine
from holdfast_scheduler.services.streamed_triggers import Asked, StreamedTriggers
from holdfast_scheduler.services.watch_runs import RunWatch, wait_run
from holdfast_scheduler.settings import MICROSECONDS, PROTOCOL_MAJOR, PROTOCOL_MINOR
from holdfast_scheduler.version import BUILD, VERSION

_RUNS_PER_PAGE: Final = 50
_LOGS_PER_PAGE: Final = 100
_WAIT_US: Final = 30 * MICROSECONDS
_LOG_PLACE: Final = struct.Struct(">QQQ")

Context = Any  # grpc.aio.ServicerContext; no handler here needs it


class RunService(run_service_pb2_grpc.RunServiceServicer):
    """Each method is documented in the contract; errors are exceptions that `surround` turns into statuses."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._limits = engine.settings.limits

    # --- triggering --------------------------------------------------------------------------------------------------
    async def Trigger(self, request: pb.TriggerRequest, context: Context) -> pb.TriggerResponse:
        """Make runs; a bad item fails alone."""
        runs, future = self._ask(request)
        answers = await future if future is not None else ()
        response = pb.TriggerResponse()
        convert.add_outcomes(response, convert.answers_of(runs, answers))
        return response

    async def StreamTriggers(
        self, request_iterator: AsyncIterator[pb.StreamTriggersRequest], context: Context
    ) -> AsyncIterator[pb.StreamTriggersResponse]:
        """Trigger, over one stream."""
        async for response in StreamedTriggers(self._engine, self._ask).responses(request_iterator):
            yield response

    def _ask(self, request: pb.TriggerRequest | pb.StreamTriggersRequest) -> Asked:
        namespace = convert.namespace_from(request.namespace, self._limits)
        runs = self._new_runs(request.items, request.ByteSize())
        good = [run for run in runs if run.error is None]
        return runs, self._engine.submit(TriggerRuns(namespace, good)) if good else None

    async def BatchTrigger(self, request: pb.BatchTriggerRequest, context: Context) -> pb.BatchTriggerResponse:
        """Make one batch in one commit; a bad item stands in its place as a failed item."""
        limits = self._limits
        namespace = convert.namespace_from(request.namespace, limits)
        text = request.batch_id
        batch_id = convert.id_from("batch_id", ids.BATCH, text) if text else ids.new_id()
        key = None
        if request.HasField("idempotency_key"):
            key = convert.key_use(request.idempotency_key, limits=limits)
        runs = self._new_runs(request.items, request.ByteSize())
        answer = await self._engine.do(TriggerBatch(namespace, batch_id, runs, key, text != ""))
        if isinstance(answer, ItemFault):
            raise RefusedError(answer)
        outcome: BatchOutcome = answer
        response = pb.BatchTriggerResponse(
            batch_id=ids.to_text(ids.BATCH, outcome.batch_id),
            is_cached=outcome.is_cached,
            payload_differs=outcome.payload_differs,
        )
        convert.add_outcomes(response, outcome.outcomes)
        return response

    def _new_runs(self, items: Any, size: int) -> list[NewRun]:
        limits = self._limits
        if not items:
            raise invalid("items", f"is empty; send 1 to {limits.batch_items:,} items")
        if len(items) > limits.batch_items:
            raise too_large("items", "batch_items", len(items), limits.batch_items, "items")
        if size > limits.batch_bytes:
            raise too_large("items", "batch_bytes", size, limits.batch_bytes)
        return [convert.new_run(item, limits=limits) for item in items]

    async def ReplayRun(self, request: pb.ReplayRunRequest, context: Context) -> pb.ReplayRunResponse:
        """Make a new run with the payload and options of an old one."""
        namespace, run_id = self._run(request)
        source = await self._engine.read(reads.replay_source, namespace, run_id)
        if source is None:
            raise not_found("run", ids.run_text(run_id))
        payload = request.payload if request.HasField("payload") else None
        run = replay_of(source, request.new_run_id, self._limits, payload)
        if run.error is not None:
            raise RefusedError(run.error)
        (outcome,) = await self._engine.do(TriggerRuns(namespace, [run]))
        if isinstance(outcome, ItemFault):
            raise RefusedError(outcome)
        handle: Handle = outcome
        return pb.ReplayRunResponse(handle=convert.run_handle(handle))

    # --- showing -----------------------------------------------------------------------------------------------------
    async def GetRun(self, request: pb.GetRunRequest, context: Context) -> pb.GetRunResponse:
        """One run."""
        namespace, run_id = self._run(request)
        if request.view != pb.RUN_VIEW_FULL:
            return pb.GetRunResponse(run=await self._basic(namespace, run_id))
        detail = await self._engine.read(reads.run_detail, namespace, run_id, self._limits.frame_bytes // 4)
        if detail is None:
            raise not_found("run", ids.run_text(run_id))
        run = _full(namespace, detail)
        await self._say_why(namespace, detail.row, run)
        return pb.GetRunResponse(run=run)

    async def _basic(self, namespace: str, run_id: bytes) -> Run:
        row = await self._engine.read(reads.run_row, namespace, run_id)
        if row is None:
            raise not_found("run", ids.run_text(run_id))
        run = messages.run_message(namespace, row)
        await self._say_why(namespace, row, run)
        return run

    async def _say_why(self, namespace: str, row: Any, run: Run) -> None:
        """Why a queued run has not started changes without a change of its row: it is found out when somebody asks."""
        if row.status != QUEUED or row.reason != NO_REASON:
            return
        engine = self._engine
        version = row.version if row.pinned else ""
        facts = await engine.read(queue_facts, namespace, row.queue, row.lane, row.task, version, engine.replica)
        workers = engine.workers(namespace, row.task, version)
        run.status_reason = facts.why(row.lane, now_us(), workers)  # type: ignore[assignment]

    async def ListRuns(self, request: pb.ListRunsRequest, context: Context) -> pb.ListRunsResponse:
        """A page of runs, newest first."""
        limits = self._limits
        namespace = convert.namespace_from(request.namespace, limits)
        count = convert.page_size_from(request.page_size, _RUNS_PER_PAGE, limits)
        wanted = parse_run_filter(request.filter, limits.filter_length)
        place = place_from(request.page_token, "runs", namespace, request.filter)
        bounds = Bounds(count, limits.scanned_runs, limits.page_bytes, limits.scanned_metadata_bytes)
        only = await key_holder(self._engine, namespace, wanted)
        if wanted.key is not None and only is None:
            return pb.ListRunsResponse()
        rows, place = await self._engine.read(reads.list_runs, namespace, wanted, place, bounds, only)
        return pb.ListRunsResponse(
            runs=[messages.run_message(namespace, row) for row in rows],
            next_page_token=page_token(place, "runs", namespace, request.filter),
        )

    async def ListRunLogs(self, request: pb.ListRunLogsRequest, context: Context) -> pb.ListRunLogsResponse:
        """A page of log records, oldest first."""
        namespace, run_id = self._run(request)
        count = convert.page_size_from(request.page_size, _LOGS_PER_PAGE, self._limits)
        place = place_from(request.page_token, "logs", namespace, request.run_id)
        after = _LOG_PLACE.unpack(place) if place is not None and len(place) == _LOG_PLACE.size else None
        rows = await self._engine.read(reads.log_rows, namespace, run_id, after, count + 1)
        if not rows and not await self._engine.read(reads.run_exists, namespace, run_id):
            raise not_found("run", request.run_id)
        response = pb.ListRunLogsResponse()
        budget = self._limits.page_bytes
        shown = 0
        for row in rows[:count]:
            budget -= len(row.record)
            if shown and budget < 0:
                break
            response.records.append(pb.LogRecord.FromString(row.record))
            shown += 1
        if shown < len(rows):
            last = rows[shown - 1]
            next_place = _LOG_PLACE.pack(last.fence, last.report, last.place)
            response.next_page_token = page_token(next_place, "logs", namespace, request.run_id)
        return response

    async def ExplainRun(self, request: pb.ExplainRunRequest, context: Context) -> pb.ExplainRunResponse:
        """Why the run does not progress, and how it has spent its life so far."""
        namespace, run_id = self._run(request)
        situation = await self._engine.read(reads.situation, namespace, run_id, self._engine.replica)
        if situation is None:
            raise not_found("run", request.run_id)
        row = situation.row
        workers = self._engine.workers(namespace, row.task, row.version if row.pinned else "")
        response = pb.ExplainRunResponse(sentence=explain(situation, workers))
        spent = breakdown(situation.row, situation.now)
        response.queued.FromMicroseconds(spent.queued)
        response.executing.FromMicroseconds(spent.executing)
        response.waiting.FromMicroseconds(spent.waiting)
        response.delayed.FromMicroseconds(spent.delayed)
        response.backing_off.FromMicroseconds(spent.backing_off)
        return response

    async def WaitRun(self, request: pb.WaitRunRequest, context: Context) -> pb.WaitRunResponse:
        """The run once it has ended, or as it is when the timeout has passed."""
        namespace, run_id = self._run(request)
        wait_us = _WAIT_US
        if request.HasField("timeout"):
            wait_us = min(convert.duration_us("timeout", request.timeout, self._limits), self._limits.wait_us)
        return pb.WaitRunResponse(run=await wait_run(self._engine, namespace, run_id, wait_us / MICROSECONDS))

    async def WatchRuns(self, request: pb.WatchRunsRequest, context: Context) -> AsyncIterator[pb.WatchRunsResponse]:
        """The state of runs as it changes."""
        async for response in RunWatch(self._engine, request).responses():
            yield response

    async def AwaitRuns(
        self, request_iterator: AsyncIterator[pb.AwaitRunsRequest], context: Context
    ) -> AsyncIterator[pb.AwaitRunsResponse]:
        """The results of many runs over one stream."""
        async for response in AwaitedRuns(self._engine).responses(request_iterator):
            yield response

    # --- changing ----------------------------------------------------------------------------------------------------
    async def CancelRun(self, request: pb.CancelRunRequest, context: Context) -> pb.CancelRunResponse:
        """Cancel a run."""
        namespace, run_id = self._run(request)
        outcome = await self._engine.do(CancelRun(namespace, run_id))
        if isinstance(outcome, ItemFault):
            raise RefusedError(outcome)
        return pb.CancelRunResponse(run=await self._basic(namespace, run_id), accepted=outcome)

    async def RescheduleRun(self, request: pb.RescheduleRunRequest, context: Context) -> pb.RescheduleRunResponse:
        """Move the instant of a DELAYED run."""
        namespace, run_id = self._run(request)
        when = request.WhichOneof("when")
        delay_us = start_at = None
        if when == "delay":
            delay_us = convert.duration_us("delay", request.delay, self._limits)
        elif when == "until":
            start_at = convert.instant_us("until", request.until)
        else:
            raise invalid("when", "is not set; give a delay or an instant")
        outcome = await self._engine.do(RescheduleRun(namespace, run_id, delay_us, start_at))
        if isinstance(outcome, ItemFault):
            raise RefusedError(outcome)
        return pb.RescheduleRunResponse(run=await self._basic(namespace, run_id))

    async def ResetIdempotencyKey(
        self, request: pb.ResetIdempotencyKeyRequest, context: Context
    ) -> pb.ResetIdempotencyKeyResponse:
        """Free a key."""
        limits = self._limits
        namespace = convert.namespace_from(request.namespace, limits)
        if not request.task_id:
            raise invalid("task_id", "is empty; a key is unique within its task")
        task = convert.check_text("task_id", request.task_id, limits)
        within = convert.id_from("run_id", ids.RUN, request.run_id) if request.run_id else b""
        key = convert.key_use(request.idempotency_key, limits=limits, in_run=within != b"")
        if within and key.scope not in (SCOPE_RUN, SCOPE_ATTEMPT):
            key.scope = key.scope or SCOPE_RUN
        if key.scope == SCOPE_ATTEMPT and not request.attempt:
            raise invalid("attempt", "is 0; a key of scope ATTEMPT belongs to an attempt, counted from 1")
        outcome = await self._engine.do(ResetKey(namespace, task, key, within, request.attempt))
        if isinstance(outcome, ItemFault):
            raise RefusedError(outcome)
        return pb.ResetIdempotencyKeyResponse(existed=outcome)

    async def BulkRuns(self, request: pb.BulkRunsRequest, context: Context) -> AsyncIterator[pb.BulkRunsResponse]:
        """Cancel or replay all runs that match, newest first; runs that are made meanwhile are left alone."""
        async for response in BulkOperation(self._engine, request).responses():
            yield response

    async def GetServerInfo(self, request: pb.GetServerInfoRequest, context: Context) -> pb.GetServerInfoResponse:
        """What this scheduler is."""
        return pb.GetServerInfoResponse(
            version=VERSION,
            build=BUILD,
            replica_id=self._engine.replica_id,
            protocol_major=PROTOCOL_MAJOR,
            protocol_minor=PROTOCOL_MINOR,
        )

    def _run(self, request: Any) -> tuple[str, bytes]:
        namespace = convert.namespace_from(request.namespace, self._limits)
        return namespace, convert.id_from("run_id", ids.RUN, request.run_id)


def _full(namespace: str, detail: reads.RunDetail) -> Run:
    run = messages.run_message(namespace, detail.row)
    run.payload.MergeFromString(detail.payload)
    run.payload.SetInParent()
    run.attempts.extend(messages.attempt_message(row) for row in detail.attempts)
    last = messages.last_attempt(run)
    # The execution that ended the run may have a row of its own, when its worker was lost.
    if last is not None and not (detail.attempts and detail.attempts[-1].fence == detail.row.fence):
        run.attempts.append(last)
    for record in detail.checkpoints:
        status = detail.child_statuses.get(record.subject, 0) if record.kind == CHILD else 0
        items = detail.batches.get(record.subject, []) if record.kind in (BATCH, BATCH_TRIGGER) else []
        entries = [
            messages.batch_entry(item.run_id, item.is_cached, item.status or 0, None, item.error, item.payload_differs)
            for item in items
        ]
        run.checkpoints.append(messages.checkpoint_message(record, child_status=status, entries=entries))
    run.child_run_ids.extend(ids.run_text(child) for child in detail.children)
    return run
