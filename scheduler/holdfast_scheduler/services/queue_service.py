"""QueueService: shows and steers queues."""

from __future__ import annotations

from typing import Any, Final

from holdfast.v1 import queue_service_pb2 as pb
from holdfast.v1 import queue_service_pb2_grpc
from holdfast.v1.task_pb2 import QueueDefinition
from holdfast_scheduler import convert, queue_reads
from holdfast_scheduler.errors import invalid, near_names, not_found
from holdfast_scheduler.model import PauseQueue, QueueRow, UpdateQueue
from holdfast_scheduler.services.paging import page_token, place_from
from holdfast_scheduler.services.seam import Engine

_QUEUES_PER_PAGE: Final = 100
_QUEUES_IN_USE: Final = 10_000
"""Queues that nobody declared, of which runs wait or execute, that are listed."""

Context = Any


class QueueService(queue_service_pb2_grpc.QueueServiceServicer):
    """Each method is documented in the contract."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._limits = engine.settings.limits

    async def GetQueue(self, request: pb.GetQueueRequest, context: Context) -> pb.GetQueueResponse:
        """One queue."""
        namespace = convert.namespace_from(request.namespace, self._limits)
        await self._check_exists(namespace, request.name)
        return pb.GetQueueResponse(queue=await self._message(namespace, request.name))

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

    async def PauseQueue(self, request: pb.PauseQueueRequest, context: Context) -> pb.PauseQueueResponse:
        """Nothing starts and no woken run goes on until ResumeQueue; what executes goes on."""
        namespace = convert.namespace_from(request.namespace, self._limits)
        await self._check_exists(namespace, request.name)
        await self._engine.do(PauseQueue(namespace, request.name, True))
        return pb.PauseQueueResponse(queue=await self._message(namespace, request.name))

    async def ResumeQueue(self, request: pb.ResumeQueueRequest, context: Context) -> pb.ResumeQueueResponse:
        """End a pause."""
        namespace = convert.namespace_from(request.namespace, self._limits)
        await self._check_exists(namespace, request.name)
        await self._engine.do(PauseQueue(namespace, request.name, False))
        return pb.ResumeQueueResponse(queue=await self._message(namespace, request.name))

    async def UpdateQueue(self, request: pb.UpdateQueueRequest, context: Context) -> pb.UpdateQueueResponse:
        """Override the limits of a queue, also of one that is used only later; or take the override away."""
        namespace = convert.namespace_from(request.namespace, self._limits)
        name = request.definition.name
        if not name:
            raise invalid("definition.name", "is empty; name the queue")
        if request.clear_override:
            if request.definition != QueueDefinition(name=name):
                raise invalid("clear_override", "takes limits away and excludes new ones; send the name alone")
            await self._check_exists(namespace, name)
            await self._engine.do(UpdateQueue(namespace, name, None))
        else:
            convert.check_text("definition.name", name, self._limits)
            limits = convert.queue_limits("definition", request.definition, self._limits)
            await self._engine.do(UpdateQueue(namespace, name, limits))
        return pb.UpdateQueueResponse(queue=await self._message(namespace, name))

    # --- reading -----------------------------------------------------------------------------------------------------
    async def _known(self, namespace: str) -> dict[str, QueueRow | None]:
        """Queues by name: those with limits have a row, others are known from the tasks or the runs that use them."""
        in_use = await self._engine.read(queue_reads.queues_in_use, namespace, _QUEUES_IN_USE)
        rows: dict[str, QueueRow | None] = dict.fromkeys(in_use)
        for task_id in await self._engine.task_ids(namespace):
            task = await self._engine.task(namespace, task_id)
            if task is not None:
                rows[task.queue] = None
        rows.update(await self._engine.read(queue_reads.queue_rows, namespace))
        return rows

    async def _check_exists(self, namespace: str, name: str) -> None:
        rows = await self._known(namespace)
        if name not in rows:
            raise not_found("queue", name, near_names(name, rows))

    async def _message(self, namespace: str, name: str) -> pb.Queue:
        rows = await self._engine.read(queue_reads.queue_rows, namespace)
        (queue,) = await self._messages(namespace, {name: rows.get(name)}, [name])
        return queue

    async def _messages(self, namespace: str, rows: dict[str, QueueRow | None], names: list[str]) -> list[pb.Queue]:
        counts = await self._engine.read(queue_reads.queue_counts, namespace, names)
        queues = []
        for name in names:
            queued, executing = counts[name]
            queue = pb.Queue(definition=QueueDefinition(name=name), queued=queued, executing=executing)
            row = rows[name]
            if row is not None:
                queue.overridden, queue.paused = row.overridden, row.paused_at is not None
                definition, limits = queue.definition, row.limits
                definition.concurrency_limit = limits.lane
                definition.total_concurrency_limit = limits.total
                definition.rate_limit = limits.rate
                definition.depth_limit = limits.depth
                if limits.rate:
                    definition.rate_period.FromMicroseconds(limits.period_us)
            queues.append(queue)
        return queues
