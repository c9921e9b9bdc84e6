"""StreamTriggers: requests for runs over one stream, answered in their order.

A stream costs half of what a call does. Requests that come while a commit is under way wait for the next one together.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from holdfast.v1.run_service_pb2 import StreamTriggersRequest, StreamTriggersResponse
from holdfast_scheduler.convert import add_outcomes, answers_of
from holdfast_scheduler.errors import ShuttingDownError
from holdfast_scheduler.model import NewRun
from holdfast_scheduler.services.seam import Engine

UNANSWERED: Final = 64
"""Requests of one stream that wait for their commit; no further one is read until one of them is answered."""

Asked = tuple[list[NewRun], "asyncio.Future[Any] | None"]
"""What a request asks for, and the outcomes of those items that are valid."""


class StreamedTriggers:
    """One stream; it hears of the scheduler's stop as a `watching.Stoppable`."""

    def __init__(self, engine: Engine, ask: Callable[[StreamTriggersRequest], Asked]) -> None:
        self._engine = engine
        self._ask = ask
        self._asked: deque[Asked] = deque()
        self._news = asyncio.Event()
        self._room = asyncio.Semaphore(UNANSWERED)
        self._reader: asyncio.Task[None] | None = None
        self._is_closed = False  # the client asks nothing more
        self._error: Exception | None = None

    async def responses(self, requests: AsyncIterator[StreamTriggersRequest]) -> AsyncIterator[StreamTriggersResponse]:
        """The responses to a stream of requests. Ends when the client has ended its side. Raises: RequestError."""
        if self._engine.watchers.is_stopped:
            raise ShuttingDownError()
        self._engine.watchers.enter(self)
        self._reader = asyncio.create_task(self._read(requests))
        try:
            while True:
                await self._news.wait()
                self._news.clear()
                while self._asked and self._is_answered(self._asked[0]):
                    runs, future = self._asked.popleft()
                    self._room.release()
                    answers = future.result() if future is not None else ()
                    response = StreamTriggersResponse()
                    add_outcomes(response, answers_of(runs, answers))
                    yield response
                if self._error is not None and not self._asked:
                    raise self._error
                if self._is_closed and not self._asked:
                    return
        finally:
            self._reader.cancel()
            self._engine.watchers.leave(self)
            for _, future in self._asked:
                if future is not None:
                    future.cancel()  # nobody hears of it; its runs are made all the same

    async def _read(self, requests: AsyncIterator[StreamTriggersRequest]) -> None:
        try:
            async for request in requests:
                await self._room.acquire()
                asked = self._ask(request)
                self._asked.append(asked)
                if asked[1] is None:
                    self._news.set()
                else:
                    # Not before: what the commit starts is on its way to the workers when this stream wakes.
                    asked[1].add_done_callback(lambda _: self._news.set())
        except Exception as error:
            self._error = self._error or error
        self._is_closed = True
        self._news.set()

    @staticmethod
    def _is_answered(asked: Asked) -> bool:
        return asked[1] is None or asked[1].done()

    def stopped(self) -> None:
        """End the stream when what was read is answered; the client asks another replica.

        A client that always has requests in flight would otherwise keep it for the whole `stop_grace`.
        """
        self._error = ShuttingDownError()
        if self._reader is not None:
            self._reader.cancel()
        self._news.set()
