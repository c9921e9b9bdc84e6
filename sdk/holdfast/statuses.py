"""Where a run stands."""

from __future__ import annotations

from enum import StrEnum

from holdfast.v1 import run_pb2


class RunStatus(StrEnum):
    """Where a run stands. The same names as in the contract, the database and the scheduler's rules."""

    DELAYED = "DELAYED"
    QUEUED = "QUEUED"
    EXECUTING = "EXECUTING"
    WAITING = "WAITING"
    CANCELING = "CANCELING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CRASHED = "CRASHED"
    TIMED_OUT = "TIMED_OUT"
    EXPIRED = "EXPIRED"
    CANCELED = "CANCELED"

    @property
    def is_final(self) -> bool:
        """Whether the run has ended."""
        return self in _FINAL

    @classmethod
    def of(cls, number: int) -> RunStatus:
        """The status of a protobuf value. Raises: ValueError for UNSPECIFIED and unknown values."""
        return _BY_NUMBER[number] if number in _BY_NUMBER else cls(str(number))


_FINAL = frozenset(
    {
        RunStatus.COMPLETED,
        RunStatus.FAILED,
        RunStatus.CRASHED,
        RunStatus.TIMED_OUT,
        RunStatus.EXPIRED,
        RunStatus.CANCELED,
    }
)
_BY_NUMBER = {int(run_pb2.RunStatus.Value(f"RUN_STATUS_{status}")): status for status in RunStatus}
