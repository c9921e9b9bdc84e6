"""The network between the two ends: frames in order within a connection, late, stalled, and cut between any two."""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

from holdfast.v1.worker_service_pb2 import ConnectRequest, ConnectResponse, Hello
from holdfast_worker.stream import StreamEnd
from simulation.virtual_loop import VirtualLoop

_APART_S = 1e-6
"""Two frames of a connection never arrive at one instant."""


class Weather(Protocol):
    """What the network does to frames."""

    def latency(self) -> float:
        """Seconds a frame takes."""

    def is_cut_at_frame(self) -> bool:
        """Whether the connection breaks at this frame."""

    def coin(self) -> bool:
        """Before or after it, and the like."""

    def notice(self) -> float:
        """Seconds until an end notices that its connection is broken."""


class Pipe:
    """One direction of a connection."""

    def __init__(self, loop: VirtualLoop, weather: Weather, on_cut: Callable[[], None]) -> None:
        self._loop = loop
        self._weather = weather
        self._on_cut = on_cut
        self._under_way: deque[tuple[float, bytes]] = deque()
        self._arrived: asyncio.Queue[bytes | StreamEnd] = asyncio.Queue()
        self._last_at = 0.0
        self.stalled_until = 0.0
        self.is_cut = False

    def send(self, data: bytes) -> None:
        """Put a frame on its way; into a broken connection it vanishes."""
        if self.is_cut:
            return
        self._last_at = max(self._last_at + _APART_S, self._loop.time() + self._weather.latency())
        self._under_way.append((self._last_at, data))
        self._loop.call_later_neutral(self._last_at - self._loop.time(), self._pump)

    def _pump(self) -> None:
        now = self._loop.time()
        if now < self.stalled_until:
            self._loop.call_later_neutral(self.stalled_until - now + _APART_S, self._pump)
            return
        while self._under_way and self._under_way[0][0] <= now + _APART_S / 2:
            breaks = self._weather.is_cut_at_frame()
            before = breaks and self._weather.coin()
            if before:
                self._on_cut()
                return
            self._arrived.put_nowait(self._under_way.popleft()[1])
            if breaks:
                self._on_cut()
                return

    def cut(self) -> None:
        """What is under way never arrives."""
        self.is_cut = True
        self._under_way.clear()

    def end(self, how: StreamEnd) -> None:
        """The reader sees the end of the stream after what has arrived."""
        self._arrived.put_nowait(how)

    def end_in_order(self, how: StreamEnd) -> None:
        """The reader sees the end after everything that is under way."""
        if not self.is_cut:
            delay = max(self._last_at, self._loop.time()) + self._weather.latency() - self._loop.time()
            self._loop.call_later_neutral(max(delay, self.stalled_until - self._loop.time()), self.end, how)

    async def get(self) -> bytes | StreamEnd:
        """The next frame, or how the stream ended."""
        return await self._arrived.get()


BROKEN = StreamEnd("UNAVAILABLE", "", "the connection broke")


class Connection:
    """Both directions."""

    def __init__(self, loop: VirtualLoop, weather: Weather) -> None:
        self._loop = loop
        self._weather = weather
        self.up = Pipe(loop, weather, self.cut)
        self.down = Pipe(loop, weather, self.cut)
        self.serving: asyncio.Task[Any] | None = None
        self.serving_context: contextvars.Context | None = None
        self.is_cut = False

    def stall(self, until: float) -> None:
        """Nothing arrives before; nothing is lost."""
        self.up.stalled_until = self.down.stalled_until = until

    def cut(self) -> None:
        """Break it. Each end notices in its own time."""
        self._break(self._weather.notice(), self._weather.notice())

    def hang_up(self) -> None:
        """The kernel closes the connection of a process that is gone: the other end is told at once."""
        self._break(self._weather.latency(), self._weather.latency())

    def _break(self, down_after: float, up_after: float) -> None:
        if self.is_cut:
            return
        self.is_cut = True
        self.up.cut()
        self.down.cut()
        self._loop.call_later_neutral(down_after, self.down.end, BROKEN)
        self.end_serving(up_after)

    def close_by_worker(self) -> None:
        """The worker gives the call up."""
        if not self.is_cut:
            self.is_cut = True
            self.down.cut()
            self.up.cut()
            self.end_serving(max(self._weather.latency(), self.up.stalled_until - self._loop.time()))

    def end_serving(self, delay: float) -> None:
        """gRPC cancels the handler of a call whose client is gone."""
        if self.serving is not None and self.serving_context is not None:
            self._loop.at(self._loop.time() + delay, self.serving_context, self.serving.cancel)

    async def requests(self) -> AsyncIterator[ConnectRequest]:
        """The worker's frames, for the scheduler."""
        while isinstance(data := await self.up.get(), bytes):
            yield ConnectRequest.FromString(data)


class SimStream:
    """Stands for `holdfast_worker.stream.SchedulerStream`."""

    def __init__(
        self,
        connect: Callable[[], Connection | None],
        weather: Weather,
        address: str,
        on_frame: Callable[[Any, ConnectResponse], None],
        on_end: Callable[[Any, StreamEnd], None],
    ) -> None:
        self.address = address
        self._connect = connect
        self._weather = weather
        self._on_frame = on_frame
        self._on_end = on_end
        self._connection: Connection | None = None
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def open(self, hello: Hello) -> None:
        """Send the first frame and read."""
        self._tasks.append(asyncio.create_task(self._read(hello)))

    def begin_writing(self, next_frame: Callable[[], ConnectRequest | None]) -> None:
        """Write whatever there is to say."""
        self._tasks.append(asyncio.create_task(self._write(next_frame)))

    def wake(self) -> None:
        """There may be something to write."""
        self._wake.set()

    async def ended(self) -> None:
        """Wait until both directions are at their end."""
        await asyncio.wait(self._tasks)

    async def close(self) -> None:
        """Give the stream up."""
        for task in self._tasks:
            task.cancel()
        if self._connection is not None:
            self._connection.close_by_worker()

    async def _read(self, hello: Hello) -> None:
        await asyncio.sleep(self._weather.latency())
        connection = self._connection = self._connect()
        if connection is None:
            self._on_end(self, StreamEnd("UNAVAILABLE", "", "nobody listens"))
            return
        connection.up.send(ConnectRequest(hello=hello).SerializeToString())
        while isinstance(got := await connection.down.get(), bytes):
            self._on_frame(self, ConnectResponse.FromString(got))
        self._on_end(self, got)

    async def _write(self, next_frame: Callable[[], ConnectRequest | None]) -> None:
        while True:
            self._wake.clear()
            frame = next_frame()
            if frame is None:
                await self._wake.wait()
                continue
            assert self._connection is not None
            self._connection.up.send(frame.SerializeToString())
            await asyncio.sleep(self._weather.latency() / 2)
            if frame.HasField("goodbye"):
                return
