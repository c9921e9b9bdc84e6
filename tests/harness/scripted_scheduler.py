"""An in-process `RunService` whose answers a test writes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from holdfast.v1 import run_pb2, run_service_pb2_grpc
from holdfast.v1.run_pb2 import RunHandle, TriggerItem, TriggerOutcome
from holdfast.v1.run_service_pb2 import (
    AwaitRunsRequest,
    AwaitRunsResponse,
    BatchTriggerRequest,
    BatchTriggerResponse,
    GetRunRequest,
    GetRunResponse,
    RunResult,
    StreamTriggersRequest,
    StreamTriggersResponse,
    TriggerRequest,
    TriggerResponse,
)


def accept(item: TriggerItem) -> TriggerOutcome:
    """Every item becomes a run."""
    return TriggerOutcome(handle=RunHandle(run_id=item.run_id))


class ScriptedScheduler(run_service_pb2_grpc.RunServiceServicer):
    """Serves on a free port between `start` and `stop`. One that does not stream triggers is like an old one."""

    def __init__(self, *, streams_triggers: bool = True) -> None:
        self.streams_triggers = streams_triggers
        self.trigger_streams = 0
        """Streams of triggers that were asked for."""
        self.streamed = 0
        """Requests that came over them."""
        self.requests: list[TriggerRequest | StreamTriggersRequest] = []
        """All that were taken, by stream or call."""
        self.batches: list[BatchTriggerRequest] = []
        self.metadata: list[dict[str, Any]] = []
        self.failures: list[grpc.StatusCode] = []
        """Each fails one Trigger call; taken from the front. A stream of triggers fails while there are any."""
        self.outcome: Callable[[TriggerItem], TriggerOutcome] = accept
        self.answers_of_each = 1
        """Outcomes for each item that comes over a stream."""
        self.gate = asyncio.Event()
        """Trigger answers while it is set."""
        self.gate.set()
        self.streams: list[list[str]] = []
        """The ids that each AwaitRuns stream was asked for."""
        self.removed: list[str] = []
        self.results: dict[str, RunResult] = {}
        self.changed = asyncio.Condition()
        self.broken = 0
        self.run: run_pb2.Run | None = None
        self.address = ""
        self._server: grpc.aio.Server | None = None

    async def start(self, address: str = "127.0.0.1:0") -> str:
        self._server = grpc.aio.server()
        run_service_pb2_grpc.add_RunServiceServicer_to_server(self, self._server)
        port = self._server.add_insecure_port(address)
        await self._server.start()
        self.address = f"127.0.0.1:{port}"
        return self.address

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(None)

    async def finish(self, *results: RunResult) -> None:
        """Runs have ended."""
        async with self.changed:
            self.results.update({result.run_id: result for result in results})
            self.changed.notify_all()

    async def break_streams(self) -> None:
        """Every open AwaitRuns stream breaks."""
        async with self.changed:
            self.broken += 1
            self.changed.notify_all()

    async def Trigger(self, request: TriggerRequest, context: Any) -> TriggerResponse:
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        await self.gate.wait()
        if self.failures:
            await context.abort(self.failures.pop(0), "scripted")
        return TriggerResponse(outcomes=[self.outcome(item) for item in request.items])

    async def StreamTriggers(
        self, requests: AsyncIterator[StreamTriggersRequest], context: Any
    ) -> AsyncIterator[StreamTriggersResponse]:
        self.trigger_streams += 1
        if not self.streams_triggers:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "not known here")
        taken: asyncio.Queue[StreamTriggersRequest | None] = asyncio.Queue()

        async def read() -> None:
            async for request in requests:
                if not self.failures:
                    self.streamed += 1
                    self.requests.append(request)
                    self.metadata.append(dict(context.invocation_metadata()))
                taken.put_nowait(request)
            taken.put_nowait(None)

        reader = asyncio.create_task(read())
        try:
            while (request := await taken.get()) is not None:
                if self.failures:
                    await context.abort(self.failures[0], "scripted")
                await self.gate.wait()
                outcomes = [self.outcome(item) for item in request.items] * self.answers_of_each
                yield StreamTriggersResponse(outcomes=outcomes)
        finally:
            reader.cancel()

    async def BatchTrigger(self, request: BatchTriggerRequest, context: Any) -> BatchTriggerResponse:
        self.batches.append(request)
        return BatchTriggerResponse(batch_id=request.batch_id, outcomes=[self.outcome(item) for item in request.items])

    async def GetRun(self, request: GetRunRequest, context: Any) -> GetRunResponse:
        if self.run is None:
            info = error_details_pb2.ErrorInfo(reason="RUN_NOT_FOUND", domain="holdfast.dev", metadata={"run_id": "x"})
            packed = any_pb2.Any()
            packed.Pack(info)
            status = status_pb2.Status(code=5, message="there is no run x", details=[packed])
            trailing = (("grpc-status-details-bin", status.SerializeToString()),)
            await context.abort(grpc.StatusCode.NOT_FOUND, status.message, trailing)
        return GetRunResponse(run=self.run)

    async def AwaitRuns(
        self, requests: AsyncIterator[AwaitRunsRequest], context: Any
    ) -> AsyncIterator[AwaitRunsResponse]:
        wanted: list[str] = []
        self.streams.append(wanted)
        broken = self.broken

        answered: set[str] = set()

        async def read() -> None:
            async for request in requests:
                async with self.changed:
                    wanted.extend(request.add)
                    answered.difference_update(request.add)
                    self.removed.extend(request.remove)
                    self.changed.notify_all()

        reader = asyncio.create_task(read())
        try:
            while True:
                async with self.changed:
                    await self.changed.wait_for(
                        lambda: self.broken > broken or any(i in self.results and i not in answered for i in wanted)
                    )
                    if self.broken > broken:
                        await context.abort(grpc.StatusCode.UNAVAILABLE, "scripted break")
                    ready = [self.results[i] for i in wanted if i in self.results and i not in answered]
                answered.update(result.run_id for result in ready)
                yield AwaitRunsResponse(results=ready)
        finally:
            reader.cancel()
