"""The results that many handles await travel over one stream."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Any

import grpc
from grpc.aio import EOF  # type: ignore[attr-defined]  # missing from the stubs

from holdfast import rpc_errors
from holdfast.connection import Connection
from holdfast.errors import HoldfastError
from holdfast.v1.run_service_pb2 import AwaitRunsRequest, AwaitRunsResponse, RunResult

MAX_IDS_PER_MESSAGE = 1000
MAX_IDS_ON_STREAM = 10_000
"""More are awaited in turn: a scheduler accepts this many on one stream."""
HEALTHY_SECONDS = 1.0
"""A stream that lived this long counts as contact with a scheduler."""

_FINAL_CODES = frozenset(
    {
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.INVALID_ARGUMENT,
    }
)


class ResultStream:
    """Awaits runs of one event loop. After a break the stream is made again with the ids that are still pending."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[str, list[asyncio.Future[RunResult]]] = {}
        self._queued: deque[str] = deque()  # ids that this stream has not named yet
        self._on_stream: set[str] = set()
        self._to_remove: list[str] = []
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def add(self, run_id: str) -> asyncio.Future[RunResult]:
        """A future of the run's result. It raises SchedulerUnavailableError when contact is lost for the deadline."""
        future: asyncio.Future[RunResult] = self._loop.create_future()
        others = self._waiting.get(run_id)
        if others is not None:
            others.append(future)
            return future
        self._waiting[run_id] = [future]
        self._queued.append(run_id)
        self._changed.set()
        if self._task is None or self._task.done():
            self._task = self._loop.create_task(self._run())
        return future

    def discard(self, run_id: str, future: asyncio.Future[RunResult]) -> None:
        """Its caller does not want the result any longer."""
        futures = self._waiting.get(run_id)
        if futures is None or future not in futures:
            return
        futures.remove(future)
        if not futures:
            del self._waiting[run_id]
            if run_id in self._on_stream:
                self._on_stream.remove(run_id)
                self._to_remove.append(run_id)
                self._changed.set()

    async def close(self) -> None:
        """End the stream; whoever still waits is canceled."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        for futures in self._waiting.values():
            for future in futures:
                future.cancel()
        self._waiting.clear()

    async def _run(self) -> None:
        back_off = self._connection.back_off()
        healthy_at = self._loop.time()
        while self._waiting:
            opened_at = self._loop.time()
            failure = await self._stream()
            now = self._loop.time()
            if self._delivered or now - opened_at >= HEALTHY_SECONDS:
                back_off, healthy_at = self._connection.back_off(), now
            if failure is not None and failure.code() in _FINAL_CODES:
                self._fail_all(failure)
                return
            pause = back_off.next()
            if failure is not None and now + pause - healthy_at >= self._connection.settings.deadline:
                self._fail_all(failure)
                return
            await asyncio.sleep(pause)

    async def _stream(self) -> grpc.aio.AioRpcError | None:
        """One stream until it breaks; why it broke, or None when the scheduler ended it in order."""
        endpoint = self._connection.endpoint()
        self._delivered = False
        self._queued = deque(self._waiting)
        self._on_stream.clear()
        self._to_remove.clear()
        self._changed.set()
        call = endpoint.runs.AwaitRuns(metadata=self._connection.metadata)
        writer = self._loop.create_task(self._write(call))
        try:
            while True:
                response = await call.read()
                if response is EOF:
                    self._connection.fail_over(endpoint)
                    return None
                self._deliver(response)
        except grpc.aio.AioRpcError as error:
            self._connection.fail_over(endpoint)
            return error
        finally:
            writer.cancel()
            call.cancel()

    async def _write(self, call: Any) -> None:
        namespace = self._connection.settings.namespace
        try:
            while True:
                await self._changed.wait()
                self._changed.clear()
                remove, self._to_remove = self._to_remove, []
                for ids in _chunks(remove):
                    await call.write(AwaitRunsRequest(namespace=namespace, remove=ids))
                for ids in _chunks(self._take()):
                    await call.write(AwaitRunsRequest(namespace=namespace, add=ids))
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return  # the reader meets the same break and tells why

    def _take(self) -> list[str]:
        """The ids to name next; an id may have been given up, or awaited anew, while it was queued."""
        taken: list[str] = []
        while self._queued and len(self._on_stream) < MAX_IDS_ON_STREAM:
            run_id = self._queued.popleft()
            if run_id in self._waiting and run_id not in self._on_stream:
                self._on_stream.add(run_id)
                taken.append(run_id)
        return taken

    def _deliver(self, response: AwaitRunsResponse) -> None:
        self._delivered = True
        for result in response.results:
            self._on_stream.discard(result.run_id)
            for future in self._waiting.pop(result.run_id, ()):
                if not future.done():
                    future.set_result(result)
        if self._queued:
            self._changed.set()

    def _fail_all(self, failure: grpc.aio.AioRpcError) -> None:
        waiting, self._waiting = self._waiting, {}
        for futures in waiting.values():
            for future in futures:
                if not future.done():
                    future.set_exception(self._translated(failure))

    def _translated(self, failure: grpc.aio.AioRpcError) -> HoldfastError:
        addresses = self._connection.settings.shown_addresses
        if failure.code() in _FINAL_CODES:
            return rpc_errors.of_call(failure, addresses)
        return rpc_errors.unavailable(addresses, failure.details() or failure.code().name)


def _chunks(ids: list[str]) -> Iterable[list[str]]:
    for start in range(0, len(ids), MAX_IDS_PER_MESSAGE):
        yield ids[start : start + MAX_IDS_PER_MESSAGE]
