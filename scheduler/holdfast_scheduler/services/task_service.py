"""TaskService: which tasks exist."""

from __future__ import annotations

from typing import Any, Final

from holdfast.v1 import task_pb2 as pb
from holdfast.v1 import task_pb2_grpc
from holdfast_scheduler import convert
from holdfast_scheduler.errors import near_names, not_found
from holdfast_scheduler.model import TaskRow
from holdfast_scheduler.services.paging import page_token, place_from
from holdfast_scheduler.services.seam import Engine

_TASKS_PER_PAGE: Final = 100

Context = Any


class TaskService(task_pb2_grpc.TaskServiceServicer):
    """Each method is documented in the contract."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._limits = engine.settings.limits

    async def GetTask(self, request: pb.GetTaskRequest, context: Context) -> pb.GetTaskResponse:
        """One task."""
        namespace = convert.namespace_from(request.namespace, self._limits)
        known = await self._engine.task_ids(namespace)
        row = await self._engine.task(namespace, request.task_id)
        if row is None:
            raise not_found("task", request.task_id, near_names(request.task_id, known))
        return pb.GetTaskResponse(task=self._message(namespace, row))

    async def ListTasks(self, request: pb.ListTasksRequest, context: Context) -> pb.ListTasksResponse:
        """A page of tasks in order of their ids."""
        namespace = convert.namespace_from(request.namespace, self._limits)
        count = convert.page_size_from(request.page_size, _TASKS_PER_PAGE, self._limits)
        place = place_from(request.page_token, "tasks", namespace)
        after = place.decode(errors="replace") if place is not None else ""
        rest = sorted(task_id for task_id in await self._engine.task_ids(namespace) if task_id > after)
        response = pb.ListTasksResponse()
        budget = self._limits.page_bytes
        last = None
        for task_id in rest[:count]:
            row = await self._engine.task(namespace, task_id)
            if row is not None:
                budget -= len(row.definition)
                if last is not None and budget < 0:
                    break
                response.tasks.append(self._message(namespace, row))
            last = task_id
        if last is not None and last != rest[-1]:
            response.next_page_token = page_token(last.encode(), "tasks", namespace)
        return response

    def _message(self, namespace: str, row: TaskRow) -> pb.Task:
        definition = pb.TaskDefinition.FromString(row.definition)
        return pb.Task(definition=definition, version=row.version, workers=self._engine.workers(namespace, row.id))
