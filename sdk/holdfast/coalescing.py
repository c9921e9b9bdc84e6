"""Triggers that are waiting travel together.

Those of one loop turn, and those that gather while requests are in flight, share a request; each caller gets the
outcome of its own item.
"""

from __future__ import annotations

import asyncio
from collections import deque

from holdfast.connection import Connection
from holdfast.errors import HoldfastError
from holdfast.trigger_stream import TriggerStream
from holdfast.v1.run_pb2 import TriggerItem, TriggerOutcome
from holdfast.v1.run_service_pb2 import TriggerRequest, TriggerResponse

MAX_ITEMS = 1000
MAX_BYTES = 1024 * 1024
MAX_IN_FLIGHT = 4

_Waiting = tuple[TriggerItem, "asyncio.Future[TriggerOutcome]"]


class TriggerQueue:
    """Gathers triggers of one event loop."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stream = TriggerStream(connection)
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Waiting] = deque()
        self._sending: set[asyncio.Task[None]] = set()
        self._flush_due = False

    def add(self, item: TriggerItem) -> asyncio.Future[TriggerOutcome]:
        """Send `item` with the next request. The future raises what the whole request raised."""
        future: asyncio.Future[TriggerOutcome] = self._loop.create_future()
        self._waiting.append((item, future))
        if not self._flush_due and len(self._sending) < MAX_IN_FLIGHT:
            self._flush_due = True
            self._loop.call_soon(self._flush)
        return future

    async def close(self) -> None:
        """Wait for the requests in flight, and for what this turn has added."""
        self._flush()
        while self._sending:
            await asyncio.wait(self._sending)
        await self._stream.close()

    def _flush(self) -> None:
        self._flush_due = False
        while self._waiting and len(self._sending) < MAX_IN_FLIGHT:
            taken = self._take()
            if taken:
                task = self._loop.create_task(self._send(taken))
                self._sending.add(task)
                task.add_done_callback(self._sent)

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._sending.discard(task)
        self._flush()

    def _take(self) -> list[_Waiting]:
        taken: list[_Waiting] = []
        size = 0
        while self._waiting and len(taken) < MAX_ITEMS:
            item, future = self._waiting[0]
            if not future.cancelled():  # a caller that gave up before its item was sent wants no run
                size += item.ByteSize()
                if taken and size > MAX_BYTES:
                    break
                taken.append((item, future))
            self._waiting.popleft()
        return taken

    async def _send(self, taken: list[_Waiting]) -> None:
        items = [item for item, _future in taken]
        began = self._loop.time()
        try:
            outcomes = await self._stream.ask(items)
            if outcomes is None:
                request = TriggerRequest(namespace=self._connection.settings.namespace, items=items)
                response: TriggerResponse = await self._connection.call(
                    lambda endpoint: endpoint.runs.Trigger, request, since=began
                )
                outcomes = response.outcomes
            if len(outcomes) != len(taken):
                raise HoldfastError(f"The scheduler answered {len(outcomes)} of {len(taken)} items.")
        except BaseException as error:
            for _item, future in taken:
                if not future.done():
                    _fail(future, error)
            if not isinstance(error, Exception):
                raise
        else:
            for (_item, future), outcome in zip(taken, outcomes, strict=True):
                if not future.done():
                    future.set_result(outcome)


def _fail(future: asyncio.Future[TriggerOutcome], error: BaseException) -> None:
    if isinstance(error, asyncio.CancelledError):
        future.cancel()
        return
    own = type(error).__new__(type(error))  # one exception object per caller: tracebacks would pile up on a shared one
    own.args = error.args
    own.__dict__.update(error.__dict__)
    future.set_exception(own)
