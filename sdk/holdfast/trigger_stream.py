"""One stream that carries trigger requests to a scheduler: a message of it costs half of what a call does."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any

import grpc
from grpc.aio import EOF  # type: ignore[attr-defined]  # missing from the stubs

from holdfast.connection import TRY_TIMEOUT, Connection, Endpoint
from holdfast.v1.run_pb2 import TriggerItem, TriggerOutcome
from holdfast.v1.run_service_pb2 import StreamTriggersRequest, StreamTriggersResponse

CALLS_FIRST = 1
"""Requests that go as calls before the stream is opened: an event loop that makes one trigger and ends has nothing of a
stream, and gRPC complains of those that a closed loop has left open."""
LAST_TURNS = 5
"""Turns of the event loop in which an answer may still be found that has come while the loop was blocked."""

_Answer = Sequence[TriggerOutcome] | None


class TriggerStream:
    """The stream of one event loop, opened when it is first needed and again after a break.

    It answers or it does not: repetition, back-off and errors are left to a call, which the caller makes with what
    was not answered here. The run ids make that safe.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._without: set[str] = set()  # addresses of schedulers that are too old to have it
        self._calls_left = CALLS_FIRST
        self._call: Any = None
        self._endpoint: Endpoint | None = None
        self._reader: asyncio.Task[None] | None = None
        self._asked: deque[asyncio.Future[_Answer]] = deque()
        self._writing = asyncio.Lock()

    async def ask(self, items: Sequence[TriggerItem]) -> _Answer:
        """The outcomes of the items, or None when the stream broke, or is silent for `TRY_TIMEOUT` seconds or half of
        the deadline."""
        if self._calls_left:
            self._calls_left -= 1
            return None
        request = StreamTriggersRequest(namespace=self._connection.settings.namespace, items=items)
        answer: asyncio.Future[_Answer] = self._loop.create_future()
        try:
            # The write too: it waits for a scheduler that has stopped reading, and for those before it.
            async with asyncio.timeout(min(TRY_TIMEOUT, self._connection.settings.deadline / 2)):
                return await asyncio.shield(answer) if await self._write(request, answer) else None
        except TimeoutError:
            for _ in range(LAST_TURNS):
                await asyncio.sleep(0)
            if answer.done():
                return answer.result()
            self._give_up()
            return None

    async def close(self) -> None:
        """End the stream; what is not answered never will be."""
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.wait([self._reader])

    async def _write(self, request: StreamTriggersRequest, answer: asyncio.Future[_Answer]) -> bool:
        """Whether there will be an answer, be it None."""
        async with self._writing:  # gRPC takes one message at a time, and answers come in the order of the requests
            endpoint = self._connection.endpoint()
            if endpoint.address in self._without:
                return False
            call = self._call if self._call is not None else self._open(endpoint)
            self._asked.append(answer)
            try:
                await call.write(request)
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                pass  # the reader meets the same break, and answers
            except asyncio.CancelledError:
                if _is_canceled():
                    call.cancel()  # the request may not have gone out: answers would come to others
                    raise
                # Only the call was, by another request that has given it up; the reader hears of it too.
            return True

    def _open(self, endpoint: Endpoint) -> Any:
        call = self._call = endpoint.runs.StreamTriggers(metadata=self._connection.metadata)
        self._endpoint = endpoint
        self._reader = self._loop.create_task(self._read(call, endpoint))
        return call

    def _give_up(self) -> None:
        """End a stream that is silent; what waits for it, and what comes, asks the next address."""
        if self._call is not None and self._endpoint is not None:
            self._call.cancel()
            self._connection.fail_over(self._endpoint)

    async def _read(self, call: Any, endpoint: Endpoint) -> None:
        try:
            while (response := await call.read()) is not EOF:
                self._answer(response)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                self._without.add(endpoint.address)
            elif error.code() is grpc.StatusCode.UNAVAILABLE:
                self._connection.fail_over(endpoint)
        finally:
            self._call = None
            asked, self._asked = self._asked, deque()
            call.cancel()
            for answer in asked:
                if not answer.done():
                    answer.set_result(None)

    def _answer(self, response: StreamTriggersResponse) -> None:
        answer = self._asked.popleft()
        if not answer.done():
            answer.set_result(response.outcomes)


def _is_canceled() -> bool:
    """Whether somebody cancels the running task."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
