"""The link between supervisor and executor: length-prefixed frames over a socketpair, asyncio at both ends.

A frame is a 4-byte big-endian length followed by one serialized protobuf message, `ConnectRequest` from the executor
and `ConnectResponse` to it. The numbers in them are those of the link, not those of the stream:

From the executor: `hello` first (tasks, sdk, and in `slots` its free places) and then
  `reports`  `frame_no` is the executor's own: 1 for its first, +1 for each. With `credit`.
  `credit`   when it changed without a report. `free_places` is how many new bodies it can take;
             `after_start_seq` is how many Starts it had received on this link when it counted.
  `renew`    answers a ping: the nonce of the `renewed` that asked.

To the executor: `welcome` first (limits, cancel_grace) and then
  `delivery`         what of the scheduler's Delivery concerns its runs; `committed.up_to` is a `frame_no` of its own.
  `checkpoint_page`  as it came.
  `renewed`          a ping, to tell a stuck event loop from a busy one. To be answered at once.

The end of the link is the end of both: an executor whose link ends leaves with `os._exit` (see `lifeline`).
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Iterable

from google.protobuf.message import Message

HEADER_BYTES = 4
MAX_FRAME_BYTES = 8 * 1024 * 1024
"""Longest frame. Above the stream's hard limit of 4 MiB, so that whatever came by the stream fits."""
HIGH_WATER_BYTES = 1024 * 1024
"""Bytes waiting in this process above which `Link.is_full` is true and `Link.drain` waits."""


class LinkError(Exception):
    """The bytes on the link are not frames: a length above the limit, or an end inside a frame."""


def encode(frames: Iterable[bytes], max_frame_bytes: int = MAX_FRAME_BYTES) -> bytes:
    """The bytes of `frames`, ready for one write.

    Raises: LinkError for a frame longer than `max_frame_bytes`.
    """
    parts: list[bytes] = []
    for frame in frames:
        size = len(frame)
        if size > max_frame_bytes:
            raise LinkError(f"a frame of {size} bytes is over the link's limit of {max_frame_bytes} bytes")
        parts.append(size.to_bytes(HEADER_BYTES, "big"))
        parts.append(frame)
    return b"".join(parts)


class FrameDecoder:
    """Turns bytes, in whatever pieces they come, into frames."""

    __slots__ = ("_buffer", "_max_frame_bytes")

    def __init__(self, max_frame_bytes: int = MAX_FRAME_BYTES) -> None:
        self._buffer = bytearray()
        self._max_frame_bytes = max_frame_bytes

    @property
    def pending_bytes(self) -> int:
        """Bytes of a frame that is not complete yet."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[bytes]:
        """The frames that `data` completes, in order.

        Raises: LinkError for a length above the limit.
        """
        buffer = self._buffer
        buffer += data
        frames: list[bytes] = []
        start = 0
        end = len(buffer)
        with memoryview(buffer) as view:
            while end - start >= HEADER_BYTES:
                size = int.from_bytes(view[start : start + HEADER_BYTES], "big")
                if size > self._max_frame_bytes:
                    raise LinkError(f"the peer announced a frame of {size} bytes; the limit is {self._max_frame_bytes}")
                body = start + HEADER_BYTES
                if end - body < size:
                    break
                start = body + size
                frames.append(bytes(view[body:start]))
        if start:
            del buffer[:start]
        return frames


class Link(asyncio.Protocol):
    """One end of a link. Make it with `open_link`.

    `on_frames` gets every frame that one read completed, together and in order; `on_closed` is called once, with None
    after an orderly end and with the error otherwise. Both are called on the event loop and must not block.
    """

    def __init__(self, on_frames: Callable[[list[bytes]], None], on_closed: Callable[[Exception | None], None]) -> None:
        self._decoder = FrameDecoder()
        self._on_frames = on_frames
        self._on_closed = on_closed
        self._transport: asyncio.Transport | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._error: Exception | None = None
        self.is_closed = False

    def send(self, *messages: Message) -> None:
        """Send messages in one write. After the end of the link it does nothing: `on_closed` has told.

        Never blocks; what the peer does not take is kept here, so that a sender with much to say looks at `is_full`.
        Raises: LinkError for a message above `MAX_FRAME_BYTES`; nothing of the call is sent then.
        """
        self.send_frames(message.SerializeToString() for message in messages)

    def send_frames(self, frames: Iterable[bytes]) -> None:
        """As `send`, for messages that are serialized already."""
        data = encode(frames)
        if self._transport is not None and not self.is_closed:
            self._transport.write(data)

    @property
    def backlog_bytes(self) -> int:
        """Bytes sent that the peer has not taken yet (those in the kernel's buffer not counted)."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    @property
    def is_full(self) -> bool:
        """Whether the peer lags behind by more than `HIGH_WATER_BYTES`."""
        return not self._writable.is_set()

    async def drain(self) -> None:
        """Wait until the link is no longer full, or closed."""
        await self._writable.wait()

    def pause_reading(self) -> None:
        """Take no more frames for now: the peer feels it as a full link."""
        if self._transport is not None and not self.is_closed and self._transport.is_reading():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Take frames again."""
        if self._transport is not None and not self.is_closed and not self._transport.is_reading():
            self._transport.resume_reading()

    def close(self) -> None:
        """Send what waits, then end the link."""
        if self._transport is not None:
            self._transport.close()

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.set_write_buffer_limits(high=HIGH_WATER_BYTES)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            frames = self._decoder.feed(data)
        except LinkError as error:
            self._error = error
            assert self._transport is not None
            self._transport.abort()
            return
        if frames:
            self._on_frames(frames)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_closed = True
        self._writable.set()
        error = self._error or exc
        if error is None and self._decoder.pending_bytes:
            error = LinkError(f"the link ended inside a frame, after {self._decoder.pending_bytes} bytes of it")
        self._on_closed(error)


def make_pair() -> tuple[socket.socket, socket.socket]:
    """The two ends of a new link: the first stays here, the second goes to the executor by `pass_fds`."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)


def inherited_socket(fd: int) -> socket.socket:
    """The executor's end, from the number of its descriptor.

    It is closed in whatever the executor itself executes: a child of the user's code must not keep the link open.
    Raises: OSError when the descriptor is not a socket.
    """
    os.set_inheritable(fd, False)
    return socket.socket(fileno=fd)


async def open_link(
    sock: socket.socket,
    on_frames: Callable[[list[bytes]], None],
    on_closed: Callable[[Exception | None], None],
) -> Link:
    """Run one end of a link on the current event loop. The link owns the socket from now on."""
    sock.setblocking(False)
    # connect_accepted_socket is the loop's way to adopt a connected stream socket of any family.
    _, link = await asyncio.get_running_loop().connect_accepted_socket(lambda: Link(on_frames, on_closed), sock)
    return link
