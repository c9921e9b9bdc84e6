"""Reports on their way: gathered into frames, kept until the scheduler has committed them. Pure, no I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from holdfast.v1.payload_pb2 import TASK_ERROR_KIND_LIMIT_EXCEEDED, TaskError
from holdfast.v1.worker_service_pb2 import ConnectRequest, Failed, Report, Reports

TARGET_FRAME_BYTES = 1024 * 1024
"""A frame takes no further reports once it is this long."""
HARD_FRAME_BYTES = 4 * 1024 * 1024
"""No frame is longer than this."""
FRAME_OVERHEAD_BYTES = 1024
"""Room kept in each frame for its number and the credit."""
MAX_BUFFERED_BYTES = 64 * 1024 * 1024
"""Reports kept for the scheduler; above it executors are made to wait."""

Mark = tuple[bytes, int, int]
"""(run, fence, number) of a report whose commit changes where its body stands."""


@dataclass(slots=True)
class Chunk:
    """Reports that came together."""

    reports: list[Report]
    size: int
    """Their bytes, more or less."""
    marks: list[Mark] = field(default_factory=list)
    origin: tuple[int, int] | None = None
    """(executor, its frame number) when this ends a frame of an executor."""


@dataclass(slots=True)
class Frame:
    """A Reports frame that was sent or is about to be."""

    number: int
    message: ConnectRequest
    size: int
    marks: list[Mark]
    origins: dict[int, int]
    """Executor -> its highest frame number in here."""


class ReportBuffer:
    """Reports in the order in which they were made; the same frames with the same numbers on every connection."""

    def __init__(self) -> None:
        self._waiting: deque[Chunk] = deque()
        self._frames: deque[Frame] = deque()
        self._sent = 0  # So many of _frames are sent on this connection.
        self._next_number = 1
        self.buffered_bytes = 0

    def __bool__(self) -> bool:
        """Whether anything is not committed yet."""
        return bool(self._frames or self._waiting)

    @property
    def has_unsent(self) -> bool:
        """Whether `next_frame` has one."""
        return self._sent < len(self._frames) or bool(self._waiting)

    @property
    def is_full(self) -> bool:
        """Whether executors should wait."""
        return self.buffered_bytes > MAX_BUFFERED_BYTES

    def add(self, chunk: Chunk, hard_limit: int = HARD_FRAME_BYTES) -> None:
        """Take reports. No single one may be above `largest_report(hard_limit)`."""
        for piece in _split(chunk, largest_report(hard_limit)):
            self._waiting.append(piece)
            self.buffered_bytes += piece.size

    def next_frame(self, hard_limit: int = HARD_FRAME_BYTES) -> ConnectRequest | None:
        """The next frame to send: those of the last connection again, then everything that waits, up to a frame full.

        Its `credit` is unset.
        """
        if self._sent == len(self._frames):
            if not self._waiting:
                return None
            self._frames.append(self._gather(largest_report(hard_limit)))
        frame = self._frames[self._sent]
        self._sent += 1
        frame.message.reports.ClearField("credit")
        return frame.message

    def rewind(self) -> None:
        """A new connection of the same session: everything that is not committed is sent again."""
        self._sent = 0

    def committed(self, up_to: int) -> list[Frame]:
        """Forget the frames up to this number and return them."""
        done: list[Frame] = []
        while self._frames and self._frames[0].number <= up_to:
            frame = self._frames.popleft()
            self._sent = max(0, self._sent - 1)
            self.buffered_bytes -= frame.size
            done.append(frame)
        return done

    def clear(self) -> None:
        """A new session: nothing of the old one is wanted, numbers begin again."""
        self._waiting.clear()
        self._frames.clear()
        self._sent = 0
        self._next_number = 1
        self.buffered_bytes = 0

    def _gather(self, limit: int) -> Frame:
        reports: list[Report] = []
        marks: list[Mark] = []
        origins: dict[int, int] = {}
        size = 0
        while self._waiting and size < TARGET_FRAME_BYTES and size + self._waiting[0].size <= limit:
            chunk = self._waiting.popleft()
            reports += chunk.reports
            marks += chunk.marks
            size += chunk.size
            if chunk.origin is not None:
                origins[chunk.origin[0]] = chunk.origin[1]
        number = self._next_number
        self._next_number += 1
        message = ConnectRequest(reports=Reports(frame_no=number, reports=reports))
        return Frame(number, message, size, marks, origins)


def largest_report(hard_limit: int) -> int:
    """Bytes of the largest report that fits a frame of `hard_limit` bytes."""
    return hard_limit - FRAME_OVERHEAD_BYTES


def failure_of_too_large(report: Report, size: int, limit: int) -> Report:
    """In place of a report that no frame can carry: the failure of its attempt."""
    message = f"a report of {size} bytes is over the limit of {limit} bytes of a frame; make what it records smaller"
    error = TaskError(kind=TASK_ERROR_KIND_LIMIT_EXCEEDED, type="ReportTooLargeError", message=message)
    return Report(run_id=report.run_id, fence=report.fence, number=report.number, failed=Failed(error=error))


def _split(chunk: Chunk, limit: int) -> Iterator[Chunk]:
    """The chunk, cut where it would not fit one frame."""
    if chunk.size <= limit:
        yield chunk
        return
    piece = Chunk([], 0)
    for report in chunk.reports:
        size = report.ByteSize() + 8  # its tag and length
        if piece.reports and piece.size + size > limit:
            yield piece
            piece = Chunk([], 0)
        piece.reports.append(report)
        piece.size += size
    # Marks and origin go with the last piece: they count when all of it is committed.
    piece.marks = chunk.marks
    piece.origin = chunk.origin
    yield piece
