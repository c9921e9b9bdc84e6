"""The connection between a program and its schedulers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from google.protobuf.message import Message

from holdfast import rpc_errors, settings
from holdfast.awaiting import ResultStream
from holdfast.coalescing import TriggerQueue
from holdfast.connection import Connection, Endpoint
from holdfast.durations import Duration
from holdfast.settings import Settings
from holdfast.v1.run_pb2 import RunHandle, TriggerItem
from holdfast.v1.run_service_pb2 import RunResult


class _Link:
    """What belongs to one process and one event loop."""

    def __init__(self, of: Settings) -> None:
        self.connection = Connection(of)
        self.triggers = TriggerQueue(self.connection)
        self.results = ResultStream(self.connection)

    async def close(self) -> None:
        await self.triggers.close()
        await self.results.close()
        await self.connection.close()


class Client:
    """Talks to the schedulers at `address` (HOST:PORT, several separated by commas; the first that answers is used).

    What is left out comes from HOLDFAST_ADDRESS, HOLDFAST_API_KEY and HOLDFAST_NAMESPACE. `deadline` (30 s) is how
    long a request is repeated while no scheduler answers. Connections are made when first needed, for each process
    (servers fork) and each event loop. Most programs need no client of their own: `configure` sets the default one.

    Raises: InvalidArgumentError.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        api_key: str | None = None,
        namespace: str | None = None,
        deadline: Duration | None = None,
    ) -> None:
        self.settings = settings.resolve(address, api_key, namespace, deadline)
        self._pid = os.getpid()
        self._links: dict[asyncio.AbstractEventLoop, _Link] = {}

    @contextmanager
    def use(self) -> Iterator[Client]:
        """Make this the client of everything called in the `with` block."""
        token = _bound.set(self)
        try:
            yield self
        finally:
            _bound.reset(token)

    async def trigger(self, item: TriggerItem) -> RunHandle:
        """Make a run; concurrent calls share a request. `item.run_id` makes repetition safe.

        Raises: TriggerError, SchedulerUnavailableError.
        """
        outcome = await self._link().triggers.add(item)
        if outcome.HasField("handle"):
            return outcome.handle
        raise rpc_errors.of_item(outcome.error)

    async def result(self, run_id: str) -> RunResult:
        """How a run ended, when it has. Raises: SchedulerUnavailableError."""
        results = self._link().results
        future = results.add(run_id)
        try:
            return await future
        finally:
            if future.cancelled():
                results.discard(run_id, future)

    async def call(self, rpc: Callable[[Endpoint], Any], request: Message) -> Any:
        """The answer to a unary request: `await client.call(lambda e: e.runs.GetRun, GetRunRequest(...))`.

        Raises: RequestError, SchedulerUnavailableError.
        """
        return await self._link().connection.call(rpc, request)

    @property
    def connection(self) -> Connection:
        """The connection of this process and event loop, for streams."""
        return self._link().connection

    async def close(self) -> None:
        """Close the connections of this event loop."""
        link = self._links.pop(asyncio.get_running_loop(), None)
        if link is not None:
            await link.close()

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.close()

    def _link(self) -> _Link:
        loop = asyncio.get_running_loop()
        if self._pid != os.getpid():
            # gRPC does not survive a fork. The parent's channels must be neither used nor closed here.
            _left_to_parents.append(self._links)
            self._links, self._pid = {}, os.getpid()
        link = self._links.get(loop)
        if link is None:
            for closed in [other for other in self._links if other.is_closed()]:
                del self._links[closed]
            link = self._links[loop] = _Link(self.settings)
        return link


_left_to_parents: list[object] = []
_bound: ContextVar[Client | None] = ContextVar("holdfast_client", default=None)
_default: Client | None = None


def configure(
    *,
    address: str | None = None,
    api_key: str | None = None,
    namespace: str | None = None,
    deadline: Duration | None = None,
) -> None:
    """Set where the schedulers are, for the whole process; arguments as of `Client`. Call it before triggering.

    Raises: InvalidArgumentError.
    """
    global _default
    _default = Client(address, api_key=api_key, namespace=namespace, deadline=deadline)


def current() -> Client:
    """The client in use: that of a surrounding `client.use()`, else the process's default one."""
    global _default
    client = _bound.get() or _default
    if client is None:
        client = _default = Client()
    return client


def check_result(result: RunResult) -> None:
    """Raises: NotFoundError when the scheduler knows no such run."""
    if not result.status:
        raise rpc_errors.of_reason("RUN_NOT_FOUND", f"There is no run {result.run_id}.", {"run_id": result.run_id})
