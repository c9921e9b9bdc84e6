"""ScheduleService: part of the contract, not served yet."""

from __future__ import annotations

from typing import Any, NoReturn

from holdfast.v1 import schedule_service_pb2_grpc
from holdfast_scheduler.errors import not_implemented


class ScheduleService(schedule_service_pb2_grpc.ScheduleServiceServicer):
    """Refuses every call with NOT_IMPLEMENTED."""

    async def CreateSchedule(self, request: Any, context: Any) -> NoReturn:
        """Not served yet."""
        raise not_implemented("ScheduleService.CreateSchedule")

    async def GetSchedule(self, request: Any, context: Any) -> NoReturn:
        """Not served yet."""
        raise not_implemented("ScheduleService.GetSchedule")

    async def ListSchedules(self, request: Any, context: Any) -> NoReturn:
        """Not served yet."""
        raise not_implemented("ScheduleService.ListSchedules")

    async def UpdateSchedule(self, request: Any, context: Any) -> NoReturn:
        """Not served yet."""
        raise not_implemented("ScheduleService.UpdateSchedule")

    async def ActivateSchedule(self, request: Any, context: Any) -> NoReturn:
        """Not served yet."""
        raise not_implemented("ScheduleService.ActivateSchedule")

    async def DeactivateSchedule(self, request: Any, context: Any) -> NoReturn:
        """Not served yet."""
        raise not_implemented("ScheduleService.DeactivateSchedule")

    async def DeleteSchedule(self, request: Any, context: Any) -> NoReturn:
        """Not served yet."""
        raise not_implemented("ScheduleService.DeleteSchedule")
