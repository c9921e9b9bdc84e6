"""QueueService: shows queues. Steering them is not served yet."""

from __future__ import annotations

from typing import Any, Final, NoReturn

from holdfast.v1 import queue_service_pb2 as pb
from holdfast.v1 import queue_service_pb2_grpc
from holdfast.v1.task_pb2 import QueueDefinition
from holdfast_scheduler import convert, reads
from holdfast_scheduler.errors import near_names, not_found, not_implemented
from holdfast_scheduler.model import CANCELING, EXECUTING, QUEUED
from holdfast_scheduler.services.paging import page_token, place_from
from holdfast_scheduler.services.seam import Engine

_QUEUES_PER_PAGE: Final = 100

Context = Any


class QueueService(queue_service_pb2_grpc.QueueServiceServicer):
    """Each method is documented in the contract."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._limits = engine.settings.limits

    async def GetQueue(self, request: pb.GetQueueRequest, context: Context) -> pb.GetQueueResponse:
        """One queue."""
        namespace = convert.namespace_from(request.namespace, self._limits)
        rows = await self._known(namespace)
        if request.name not in rows:
            raise not_found("queue", request.name, near_names(request.name, rows))
        (queue,) = await self._messages(namespace, rows, [request.name])
        return pb.GetQueueResponse(queue=queue)

    async def ListQueues(self, request: pb.ListQueuesRequest, context: Context) -> pb.ListQueuesResponse:
        """A page of queues in order of their names."""
        namespace = convert.namespace_from(request.namespace, self._limits)
        count = convert.page_size_from(request.page_size, _QUEUES_PER_PAGE, self._limits)
        place = place_from(request.page_token, "queues", namespace)
        after = place.decode(errors="replace") if place is not None else ""
        rows = await self._known(namespace)
        rest = sorted(name for name in rows if name > after)
        page = rest[:count]
        return pb.ListQueuesResponse(
            queues=await self._messages(namespace, rows, page),
            next_page_token=page_token(page[-1].encode() if len(rest) > count else None, "queues", namespace),
        )

    async def _known(self, namespace: str) -> dict[str, Any]:
        """Queues by name: those with limits have a row, the others are known from the tasks that use them."""
        rows: dict[str, Any] = {}
        for task_id in self._engine.task_ids(namespace):
            task = await self._engine.task(namespace, task_id)
            if task is not None:
                rows[task.queue] = None
        rows.update(await self._engine.read(reads.queue_rows, namespace))
        return rows

    async def _messages(self, namespace: str, rows: dict[str, Any], names: list[str]) -> list[pb.Queue]:
        counts = await self._engine.read(reads.queue_counts, namespace, names)
        queues = []
        for name in names:
            queue = pb.Queue(
                definition=QueueDefinition(name=name),
                queued=counts.get((name, QUEUED), 0),
                executing=counts.get((name, EXECUTING), 0) + counts.get((name, CANCELING), 0),
            )
            row = rows[name]
            if row is not None:
                queue.overridden, queue.paused = row.overridden, row.paused
                definition = queue.definition
                definition.concurrency_limit = row.concurrency_limit
                definition.total_concurrency_limit = row.total_limit
                definition.rate_limit = row.rate_limit
                definition.depth_limit = row.depth_limit
                if row.rate_period:
                    definition.rate_period.FromMicroseconds(row.rate_period)
            queues.append(queue)
        return queues

    async def PauseQueue(self, request: pb.PauseQueueRequest, context: Context) -> NoReturn:
        """Not served yet."""
        raise not_implemented("QueueService.PauseQueue")

    async def ResumeQueue(self, request: pb.ResumeQueueRequest, context: Context) -> NoReturn:
        """Not served yet."""
        raise not_implemented("QueueService.ResumeQueue")

    async def UpdateQueue(self, request: pb.UpdateQueueRequest, context: Context) -> NoReturn:
        """Not served yet."""
        raise not_implemented("QueueService.UpdateQueue")
