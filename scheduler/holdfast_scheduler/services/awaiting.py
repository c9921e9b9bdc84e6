"""AwaitRuns: the results of many runs over one stream.

All ids that one message adds are looked up by one read, and all results that are waiting travel in one response. A
slow client costs little: beyond a budget of bytes only the ids are kept, and the results are read again when there is
room, for they never change.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

from holdfast.v1.run_service_pb2 import AwaitRunsRequest, AwaitRunsResponse
from holdfast_scheduler import ids, reads
from holdfast_scheduler.convert import id_from, namespace_from
from holdfast_scheduler.errors import ShuttingDownError, invalid, too_large
from holdfast_scheduler.messages import add_result
from holdfast_scheduler.model import RunEnd
from holdfast_scheduler.services.seam import Engine

_SMALL = 64  # bytes that a result takes beside its output or error


class AwaitedRuns:
    """One stream: a `watching.Sink` that turns ends into responses."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._limits = engine.settings.limits
        self._aim = self._limits.frame_bytes // 4
        self._namespace: str | None = None
        self._pending: set[bytes] = set()
        self._ready: deque[RunEnd] = deque()
        self._ready_bytes = 0
        self._owed: deque[tuple[bytes, int]] = deque()  # ended; the result is to be read
        self._news = asyncio.Event()
        self._is_closed = False  # the client adds nothing more
        self._error: Exception | None = None

    async def responses(self, requests: AsyncIterator[AwaitRunsRequest]) -> AsyncIterator[AwaitRunsResponse]:
        """The responses to a stream of requests.

        Ends when the client has ended its side and every run it asked for has ended. Raises: RequestError.
        """
        if self._engine.watchers.is_stopped:
            raise ShuttingDownError()
        self._engine.watchers.enter(self)
        reader = asyncio.create_task(self._read(requests))
        try:
            while True:
                await self._news.wait()
                self._news.clear()
                while self._ready or self._owed:
                    yield await self._next()
                if self._error is not None:
                    raise self._error
                if self._is_closed and not self._pending:
                    return
        finally:
            reader.cancel()
            self._engine.watchers.leave(self)
            for run_id in self._pending:
                self._engine.watchers.discard(self._namespace or "", run_id, self)

    async def _next(self) -> AwaitRunsResponse:
        response = AwaitRunsResponse()
        room = self._aim
        while self._ready and room > 0:
            end = self._ready.popleft()
            size = _size(end)
            self._ready_bytes -= size
            room -= size
            add_result(response, end.run_id, end.status, end.output, end.error)
        owed = []
        while self._owed and room > 0:
            run_id, size = self._owed.popleft()
            room -= size + _SMALL
            owed.append(run_id)
        if owed:
            for row in await self._engine.read(reads.results, self._namespace or "", owed):
                add_result(response, *row)
        return response

    # --- requests -----------------------------------------------------------------------------------------------------
    async def _read(self, requests: AsyncIterator[AwaitRunsRequest]) -> None:
        try:
            async for request in requests:
                await self._take(request)
        except Exception as error:
            self._error = error
        self._is_closed = True
        self._news.set()

    async def _take(self, request: AwaitRunsRequest) -> None:
        limits = self._limits
        if request.ByteSize() > limits.frame_bytes:
            raise too_large("request", "frame_bytes", request.ByteSize(), limits.frame_bytes)
        namespace = namespace_from(request.namespace, limits)
        if self._namespace is None:
            self._namespace = namespace
        elif namespace != self._namespace:
            raise invalid(
                "namespace", f"{namespace!r} differs from the stream's {self._namespace!r}; open another stream"
            )
        watchers = self._engine.watchers
        for text in request.remove:
            run_id = id_from("remove", ids.RUN, text)
            self._pending.discard(run_id)
            watchers.discard(namespace, run_id, self)
        # Each once, and without those that are awaited already.
        added = dict.fromkeys(id_from("add", ids.RUN, text) for text in request.add)
        fresh = [run_id for run_id in added if run_id not in self._pending]
        if len(self._pending) + len(fresh) > limits.awaited_runs:
            raise too_large("add", "awaited_runs", len(self._pending) + len(fresh), limits.awaited_runs, "runs")
        if not fresh:
            return
        if watchers.is_stopped:
            raise ShuttingDownError()
        self._pending.update(fresh)
        for run_id in fresh:
            watchers.add(namespace, run_id, self)
        fresh = [run_id for run_id in fresh if not self._is_remembered(namespace, run_id)]
        if not fresh:
            return
        found = await self._engine.read(reads.standing, namespace, fresh)
        for run_id, _, size in found.ended:
            if self._answer(run_id):
                watchers.discard(namespace, run_id, self)
                self._owed.append((run_id, size))
        for run_id in found.unknown:
            if self._answer(run_id):
                watchers.discard(namespace, run_id, self)
                self._keep(RunEnd(run_id, 0, None, None))

    def _is_remembered(self, namespace: str, run_id: bytes) -> bool:
        """Whether the engine knows without a look into the database how the run stands; if it ended, it is answered."""
        is_known, end = self._engine.watchers.standing(namespace, run_id)
        if end is not None:
            self._engine.watchers.discard(namespace, run_id, self)
            self.ended(end)
        return is_known

    def _answer(self, run_id: bytes) -> bool:
        """Whether the run is still to be answered; it is now."""
        if run_id not in self._pending:
            return False
        self._pending.discard(run_id)
        self._news.set()
        return True

    def _keep(self, end: RunEnd) -> None:
        self._ready.append(end)
        self._ready_bytes += _size(end)

    # --- the sink -----------------------------------------------------------------------------------------------------
    def ended(self, end: RunEnd) -> None:
        """Keep the result, or only the id when the client is far behind."""
        if self._answer(end.run_id):
            if self._ready_bytes > self._limits.frame_bytes:
                self._owed.append((end.run_id, _size(end)))
            else:
                self._keep(end)

    def noticed(self, run_id: bytes, size: int) -> None:
        """The result is to be read."""
        if self._answer(run_id):
            self._owed.append((run_id, size))

    def changed(self, run_id: bytes) -> None:
        """Only ends count here."""

    def stopped(self) -> None:
        """End the stream; the client asks another replica."""
        self._error = ShuttingDownError()
        self._news.set()


def _size(end: Any) -> int:
    return len(end.output or b"") + len(end.error or b"") + _SMALL
