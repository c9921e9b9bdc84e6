"""Sorts what a scheduler's frame brings by executor, so that each executor gets one write."""

from __future__ import annotations

from dataclasses import dataclass, field

from holdfast.v1.worker_service_pb2 import (
    Cancel,
    CheckpointUpdate,
    Committed,
    ConnectResponse,
    Delivery,
    Drop,
    Refusal,
    Resume,
    Start,
)

Posts = list[tuple[int, list[ConnectResponse]]]
"""(executor, frames for it) in the order in which they are to be sent."""


@dataclass(slots=True)
class _Parcel:
    up_to: int = 0
    updates: list[CheckpointUpdate] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    cancels: list[Cancel] = field(default_factory=list)
    drops: list[Drop] = field(default_factory=list)
    resumes: list[Resume] = field(default_factory=list)
    starts: list[Start] = field(default_factory=list)
    others: list[ConnectResponse] = field(default_factory=list)

    def frames(self) -> list[ConnectResponse]:
        delivery = Delivery(
            updates=self.updates, cancels=self.cancels, drops=self.drops, resumes=self.resumes, starts=self.starts
        )
        if self.up_to or self.refused:
            delivery.committed.CopyFrom(Committed(up_to=self.up_to, refused=self.refused))
        if delivery.ByteSize():
            return [ConnectResponse(delivery=delivery), *self.others]
        return self.others


class Parcels:
    """One parcel per executor that is addressed."""

    __slots__ = ("_parcels",)

    def __init__(self) -> None:
        self._parcels: dict[int, _Parcel] = {}

    def to(self, executor: int) -> _Parcel:
        """The parcel of an executor."""
        parcel = self._parcels.get(executor)
        if parcel is None:
            parcel = self._parcels[executor] = _Parcel()
        return parcel

    def posts(self) -> Posts:
        """All parcels, packed."""
        return [(executor, parcel.frames()) for executor, parcel in self._parcels.items()]
