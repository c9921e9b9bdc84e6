"""One stream to one scheduler. It reads and writes; what the frames mean is not its business."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import grpc
import grpc.aio
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from holdfast.v1.worker_service_pb2 import ConnectRequest, ConnectResponse, Hello
from holdfast.v1.worker_service_pb2_grpc import WorkerServiceStub
from holdfast_worker.report_buffer import HARD_FRAME_BYTES

_EOF: Any = cast(Any, grpc.aio).EOF  # the type stubs leave it out

log = logging.getLogger(__name__)

KEEPALIVE_INTERVAL_MS = 10_000
"""How often an otherwise silent connection is probed."""
KEEPALIVE_TIMEOUT_MS = 5_000
"""How long a probe may stay unanswered before the connection counts as dead."""

CHANNEL_OPTIONS: list[tuple[str, int]] = [
    ("grpc.max_send_message_length", HARD_FRAME_BYTES),
    ("grpc.max_receive_message_length", HARD_FRAME_BYTES),
    ("grpc.keepalive_time_ms", KEEPALIVE_INTERVAL_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    ("grpc.http2.max_pings_without_data", 0),
    # The rest of the worker decides when to try again and where: gRPC must not hold a connection attempt back.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
    # A proxy meant for the web would swallow the traffic to a scheduler on the same machine or network.
    ("grpc.enable_http_proxy", 0),
]

_STATUS_DETAILS_KEY = "grpc-status-details-bin"
_FATAL_CODES = frozenset(
    {
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)
_FATAL_REASONS = frozenset({"PROTOCOL_MISMATCH", "UNAUTHENTICATED", "NOT_IMPLEMENTED"})
_FORGET_REASONS = frozenset({"SESSION_UNKNOWN", "PROTOCOL_VIOLATION"})


@dataclass(frozen=True, slots=True)
class StreamEnd:
    """How a stream ended."""

    code: str
    """Name of the gRPC status code."""
    reason: str
    """The `reason` of the ErrorInfo; empty without one."""
    message: str

    @property
    def is_fatal(self) -> bool:
        """Whether no other try can succeed: key, version or definitions are refused."""
        if self.reason in _FORGET_REASONS:
            return False
        return self.reason in _FATAL_REASONS or self.code in {code.name for code in _FATAL_CODES}

    @property
    def forgets_session(self) -> bool:
        """Whether the session cannot be resumed."""
        return self.reason in _FORGET_REASONS


class SchedulerStream:
    """One stream. `on_frame` and `on_end` are called on the event loop; `on_end` once, and never after `close`."""

    def __init__(
        self,
        address: str,
        api_key: str | None,
        on_frame: Callable[[SchedulerStream, ConnectResponse], None],
        on_end: Callable[[SchedulerStream, StreamEnd], None],
    ) -> None:
        self.address = address
        self._on_frame = on_frame
        self._on_end = on_end
        self._channel = grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
        metadata = () if api_key is None else (("authorization", f"Bearer {api_key}"),)
        self._call = WorkerServiceStub(self._channel).Connect(metadata=metadata)
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def open(self, hello: Hello) -> None:
        """Send the first frame and read."""
        self._tasks.append(asyncio.create_task(self._read(hello)))

    def begin_writing(self, next_frame: Callable[[], ConnectRequest | None]) -> None:
        """Write whatever `next_frame` yields; after None wait for `wake`. Reports gather while a write is in flight."""
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
        self._call.cancel()
        await self._channel.close(None)

    async def _read(self, hello: Hello) -> None:
        try:
            # An error of the call shows in its status below, whichever way it shows here.
            with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                await self._call.write(ConnectRequest(hello=hello))
                while (response := await self._call.read()) is not _EOF:
                    self._on_frame(self, response)
            end = await self._status()
        except Exception as error:
            log.exception("event=stream_broken address=%s", self.address)
            end = StreamEnd("INTERNAL", "", f"{type(error).__name__}: {error}")
        self._on_end(self, end)

    async def _status(self) -> StreamEnd:
        code = await self._call.code()
        message = await self._call.details() or ""
        reason = ""
        for key, value in await self._call.trailing_metadata() or ():
            if key == _STATUS_DETAILS_KEY:
                info = ErrorInfo()
                for detail in Status.FromString(value).details:
                    if detail.Unpack(info):
                        reason = info.reason
        return StreamEnd(code.name, reason, message)

    async def _write(self, next_frame: Callable[[], ConnectRequest | None]) -> None:
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            while True:
                self._wake.clear()
                frame = next_frame()
                if frame is None:
                    await self._wake.wait()
                    continue
                await self._call.write(frame)
                if frame.HasField("goodbye"):
                    await self._call.done_writing()
                    return
