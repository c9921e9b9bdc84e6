"""What a frame on the stream is about, for the proxy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from holdfast import ids

Matches = Callable[[Any], bool]


def starts(run_id: str) -> Matches:
    """Whether a frame to a worker starts the run."""
    raw = ids.to_bytes(ids.RUN, run_id)
    return lambda frame: any(start.run_id == raw for start in frame.delivery.starts)


def resumes(run_id: str) -> Matches:
    """Whether a frame to a worker continues the run's parked body."""
    raw = ids.to_bytes(ids.RUN, run_id)
    return lambda frame: any(resume.run_id == raw for resume in frame.delivery.resumes)


def completes(run_id: str) -> Matches:
    """Whether a frame of a worker reports that the run's body has come to its end."""
    raw = ids.to_bytes(ids.RUN, run_id)
    return lambda frame: any(one.run_id == raw and one.HasField("completed") for one in frame.reports.reports)


def records(run_id: str, name: str) -> Matches:
    """Whether a frame of a worker records the durable call of this name."""
    raw = ids.to_bytes(ids.RUN, run_id)
    return lambda frame: any(
        one.run_id == raw and any(record.name == name for record in one.records) for one in frame.reports.reports
    )


def acknowledges(frame: Any) -> bool:
    """Whether a frame to a worker says that reports are committed."""
    return bool(frame.delivery.HasField("committed"))
