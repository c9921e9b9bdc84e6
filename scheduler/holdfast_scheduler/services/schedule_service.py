"""ScheduleService: keeps the schedules that trigger tasks by the clock."""

from __future__ import annotations

from typing import Any, Final

from holdfast.v1 import schedule_service_pb2 as pb
from holdfast.v1 import schedule_service_pb2_grpc
from holdfast_scheduler import convert, ids, schedule_reads
from holdfast_scheduler.errors import RefusedError, invalid, not_found
from holdfast_scheduler.model import (
    ActivateSchedule,
    Command,
    CreateSchedule,
    DeleteSchedule,
    ItemFault,
    UpdateSchedule,
)
from holdfast_scheduler.schedule_messages import changes, new_schedule, schedule_message
from holdfast_scheduler.services.paging import page_token, place_from
from holdfast_scheduler.services.seam import Engine

_SCHEDULES_PER_PAGE: Final = 100

Context = Any


class ScheduleService(schedule_service_pb2_grpc.ScheduleServiceServicer):
    """Each method is documented in the contract."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._limits = engine.settings.limits

    async def CreateSchedule(self, request: pb.CreateScheduleRequest, context: Context) -> pb.CreateScheduleResponse:
        """A schedule is made, or the one with the same deduplication key is updated."""
        namespace = convert.namespace_from(request.namespace, self._limits)
        schedule_id = await self._do(CreateSchedule(namespace, new_schedule(request.schedule, self._limits)))
        return pb.CreateScheduleResponse(schedule=await self._read(namespace, schedule_id))

    async def GetSchedule(self, request: pb.GetScheduleRequest, context: Context) -> pb.GetScheduleResponse:
        """One schedule."""
        namespace = convert.namespace_from(request.namespace, self._limits)
        return pb.GetScheduleResponse(schedule=await self._read(namespace, _id(request.schedule_id)))

    async def ListSchedules(self, request: pb.ListSchedulesRequest, context: Context) -> pb.ListSchedulesResponse:
        """A page of schedules, oldest first."""
        namespace = convert.namespace_from(request.namespace, self._limits)
        count = convert.page_size_from(request.page_size, _SCHEDULES_PER_PAGE, self._limits)
        place = place_from(request.page_token, "schedules", namespace)
        rows = await self._engine.read(schedule_reads.list_schedules, namespace, place, count + 1)
        response = pb.ListSchedulesResponse()
        budget = self._limits.page_bytes
        for row in rows[:count]:
            message = schedule_message(row)
            budget -= message.ByteSize()
            if response.schedules and budget < 0:
                break
            response.schedules.append(message)
        shown = len(response.schedules)
        if shown < len(rows):
            response.next_page_token = page_token(rows[shown - 1].id, "schedules", namespace)
        return response

    async def UpdateSchedule(self, request: pb.UpdateScheduleRequest, context: Context) -> pb.UpdateScheduleResponse:
        """A schedule is replaced, or those of its fields that the mask names."""
        namespace = convert.namespace_from(request.namespace, self._limits)
        schedule_id = _id(request.schedule.id, "schedule.id")
        values = changes(request.schedule, request.update_mask.paths, self._limits)
        key = request.schedule.deduplication_key
        await self._do(UpdateSchedule(namespace, schedule_id, values, key))
        return pb.UpdateScheduleResponse(schedule=await self._read(namespace, schedule_id))

    async def ActivateSchedule(
        self, request: pb.ActivateScheduleRequest, context: Context
    ) -> pb.ActivateScheduleResponse:
        """A schedule fires from its next instant on."""
        namespace = convert.namespace_from(request.namespace, self._limits)
        schedule_id = _id(request.schedule_id)
        await self._do(ActivateSchedule(namespace, schedule_id, True))
        return pb.ActivateScheduleResponse(schedule=await self._read(namespace, schedule_id))

    async def DeactivateSchedule(
        self, request: pb.DeactivateScheduleRequest, context: Context
    ) -> pb.DeactivateScheduleResponse:
        """A schedule fires no more until it is activated."""
        namespace = convert.namespace_from(request.namespace, self._limits)
        schedule_id = _id(request.schedule_id)
        await self._do(ActivateSchedule(namespace, schedule_id, False))
        return pb.DeactivateScheduleResponse(schedule=await self._read(namespace, schedule_id))

    async def DeleteSchedule(self, request: pb.DeleteScheduleRequest, context: Context) -> pb.DeleteScheduleResponse:
        """A schedule is deleted; its runs stay."""
        namespace = convert.namespace_from(request.namespace, self._limits)
        await self._do(DeleteSchedule(namespace, _id(request.schedule_id)))
        return pb.DeleteScheduleResponse()

    async def _do(self, command: Command) -> Any:
        outcome = await self._engine.do(command)
        if isinstance(outcome, ItemFault):
            raise RefusedError(outcome)
        return outcome

    async def _read(self, namespace: str, schedule_id: bytes) -> pb.Schedule:
        row = await self._engine.read(schedule_reads.schedule, namespace, schedule_id)
        if row is None:
            raise not_found("schedule", ids.to_text(ids.SCHEDULE, schedule_id))
        return schedule_message(row)


def _id(text: str, field: str = "schedule_id") -> bytes:
    if not text:
        raise invalid(field, "is empty; name the schedule")
    return convert.id_from(field, ids.SCHEDULE, text)
