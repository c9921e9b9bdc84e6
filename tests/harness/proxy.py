"""A proxy on the stream between workers and the scheduler, which stops, hides or cuts what a test wants.

It speaks `WorkerService.Connect` on both sides and passes frames on one by one, so that a fault can be placed exactly:
"the Start is sent and has not arrived", "the completion is committed and nobody was told".
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any, Literal

import grpc
from grpc import aio

from harness.loop_thread import LoopThread
from harness.waiting import DEADLINE_S
from holdfast.v1 import worker_service_pb2_grpc
from holdfast.v1.worker_service_pb2 import ConnectRequest, ConnectResponse

Direction = Literal["to_scheduler", "to_worker"]
Frame = ConnectRequest | ConnectResponse
Matches = Callable[[Any], object]

_OPTIONS = [("grpc.max_receive_message_length", 8 << 20), ("grpc.max_send_message_length", 8 << 20)]


class Catch:
    """The first frame that matches is stopped, and whatever comes behind it on the same stream waits."""

    def __init__(self, proxy: Proxy, direction: Direction, matches: Matches) -> None:
        self.direction = direction
        self.matches = matches
        self.frame: Frame | None = None
        self._proxy = proxy
        self._caught = threading.Event()
        self.released = asyncio.Event()

    def wait(self) -> Any:
        """Wait until it is caught; returns the frame. Raises: TimeoutError."""
        if not self._caught.wait(DEADLINE_S):
            raise TimeoutError(f"no frame {self.direction} was caught")
        return self.frame

    def release(self) -> None:
        """Let it go on, or never stop it."""
        self._proxy.call(self._release())

    def take(self, frame: Frame) -> None:
        """For the proxy."""
        self.frame = frame
        self._caught.set()

    @property
    def is_open(self) -> bool:
        """Whether it has caught nothing and was not released."""
        return self.frame is None and not self.released.is_set()

    async def _release(self) -> None:
        self.released.set()


class Proxy(worker_service_pb2_grpc.WorkerServiceServicer):
    """Serves on a free port in a thread of its own until `close`."""

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self._catches: list[Catch] = []
        self._streams: set[_Stream] = set()
        self._thread = LoopThread("proxy")
        self.call = self._thread.call
        self.address = self.call(self._start())

    def catch(self, direction: Direction, matches: Matches) -> Catch:
        """Stop the first frame in this direction for which `matches(frame)` is true."""

        async def add() -> Catch:
            made = Catch(self, direction, matches)
            self._catches.append(made)
            return made

        return self.call(add())

    def silence(self) -> None:
        """Let nothing more through on the streams that are open now; both ends believe that they live. A stream that a
        worker gives up stays open towards the scheduler: half-open, as after a lost network."""

        async def hush() -> None:
            for stream in self._streams:
                stream.is_silent = True

        self.call(hush())

    def cut(self) -> None:
        """Break all streams."""

        async def cut() -> None:
            for stream in list(self._streams):
                stream.broken.set()

        self.call(cut())

    @property
    def streams(self) -> int:
        """Open streams."""
        return len(self._streams)

    def close(self) -> None:
        """Break everything, also what catches hold that nobody has released, and stop."""

        async def stop() -> None:
            await self._server.stop(None)

        self._thread.close(stop())

    async def _start(self) -> str:
        self._server = aio.server(options=_OPTIONS)
        worker_service_pb2_grpc.add_WorkerServiceServicer_to_server(self, self._server)
        port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        return f"127.0.0.1:{port}"

    async def pass_on(self, direction: Direction, frame: Frame) -> None:
        """Return when the frame may go on."""
        for one in self._catches:
            if one.direction == direction and one.is_open and one.matches(frame):
                one.take(frame)
                await one.released.wait()
                return

    async def Connect(self, requests: AsyncIterator[ConnectRequest], context: Any) -> AsyncIterator[ConnectResponse]:
        """One stream of a worker."""
        stream = _Stream(self, self._upstream, requests)
        self._streams.add(stream)
        try:
            async for frame in stream.responses():
                yield frame
            await stream.end(context)
        finally:
            self._streams.discard(stream)
            stream.close()


class _Stream:
    """One stream on its way through the proxy."""

    def __init__(self, proxy: Proxy, upstream: str, requests: AsyncIterator[ConnectRequest]) -> None:
        self.is_silent = False
        self.broken = asyncio.Event()
        self._proxy = proxy
        self._channel = aio.insecure_channel(upstream, options=[*_OPTIONS, ("grpc.use_local_subchannel_pool", 1)])
        self._call = worker_service_pb2_grpc.WorkerServiceStub(self._channel).Connect()
        self._responses: asyncio.Queue[ConnectResponse | None] = asyncio.Queue()
        self._tasks = [
            asyncio.ensure_future(self._send(requests)),
            asyncio.ensure_future(self._receive()),
            asyncio.ensure_future(self._break()),
        ]

    async def responses(self) -> AsyncIterator[ConnectResponse]:
        """What comes from the scheduler and may go on, until the stream ends."""
        while (frame := await self._responses.get()) is not None:
            if self.is_silent:
                continue
            passing = asyncio.ensure_future(self._proxy.pass_on("to_worker", frame))
            # A frame that is held does not outlive the scheduler that sent it.
            await asyncio.wait([passing, self._tasks[1]], return_when=asyncio.FIRST_COMPLETED)
            if not passing.done():
                await asyncio.sleep(0)
                if not passing.done():
                    passing.cancel()
                    return
            yield frame

    async def end(self, context: Any) -> None:
        """End the worker's call as the scheduler ended its own."""
        if self.broken.is_set():
            await context.abort(grpc.StatusCode.UNAVAILABLE, "cut by the proxy")
        code = await self._call.code()
        if code is not grpc.StatusCode.OK:
            trailing = tuple(await self._call.trailing_metadata() or ())
            await context.abort(code, await self._call.details() or "", trailing)

    def close(self) -> None:
        """The worker's call has ended."""
        for task in self._tasks:
            task.cancel()
        if not self.is_silent:
            self._call.cancel()
            self._tasks.append(asyncio.ensure_future(self._channel.close()))

    async def _send(self, requests: AsyncIterator[ConnectRequest]) -> None:
        try:
            async for frame in requests:
                if not self.is_silent:
                    await self._proxy.pass_on("to_scheduler", frame)
                    await self._call.write(frame)
            if not self.is_silent:
                await self._call.done_writing()
        except (aio.AioRpcError, asyncio.InvalidStateError):
            pass  # the scheduler's end tells in `end`

    async def _receive(self) -> None:
        try:
            while (frame := await self._call.read()) is not aio.EOF:
                self._responses.put_nowait(frame)
        except (aio.AioRpcError, asyncio.InvalidStateError):
            pass
        if not self.is_silent:
            self._responses.put_nowait(None)

    async def _break(self) -> None:
        await self.broken.wait()
        self._responses.put_nowait(None)
