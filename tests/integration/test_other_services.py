"""TaskService, TokenService, QueueService and ScheduleService over a real socket."""

from __future__ import annotations

from typing import Any

import grpc
import sqlalchemy as sa

from harness.edge import (
    INVALID,
    NOT_FOUND,
    NOW,
    Edge,
    refused,
)
from holdfast.v1 import queue_service_pb2 as queue_pb
from holdfast.v1 import schedule_service_pb2 as schedule_pb
from holdfast.v1 import task_pb2 as task_pb
from holdfast.v1 import token_service_pb2 as token_pb
from holdfast.v1.payload_pb2 import Payload
from holdfast_scheduler import ids, model, schema


async def test_tasks(lite: Edge) -> None:
    task = (await lite.tasks.GetTask(task_pb.GetTaskRequest(task_id="export"))).task
    assert (task.definition.id, task.version, task.workers) == ("export", "v1", 1)
    async with refused(NOT_FOUND, "TASK_NOT_FOUND", "did you mean 'export'"):
        await lite.tasks.GetTask(task_pb.GetTaskRequest(task_id="exprt"))
    first = await lite.tasks.ListTasks(task_pb.ListTasksRequest(page_size=1))
    second = await lite.tasks.ListTasks(task_pb.ListTasksRequest(page_size=1, page_token=first.next_page_token))
    assert [task.definition.id for task in (*first.tasks, *second.tasks)] == ["export", "import"]
    assert not second.next_page_token


async def test_tokens(edge: Edge) -> None:
    def answer(command: Any) -> Any:
        if isinstance(command, model.CreateToken):
            row = {"id": command.token_id, "status": 1, "tags": '["t\\u00e4"]', "created_at": NOW}
            edge.engine.write(sa.insert(schema.tokens).values(namespace="default", **row))
            return command.token_id, False
        return True

    edge.engine.answer = answer
    request = token_pb.CreateTokenRequest(tags=["tä"], no_timeout=True)
    token = (await edge.tokens.CreateToken(request)).token
    assert (token.status, list(token.tags)) == (1, ["tä"])
    done = await edge.tokens.CompleteToken(token_pb.CompleteTokenRequest(token_id=token.id, data=Payload(data=b"1")))
    assert done.won
    for filter_, count in (("tag = tä", 1), ("tag = t", 0), ("status = PENDING", 1), ("status = FAILED", 0), ("", 1)):
        listed = await edge.tokens.ListTokens(token_pb.ListTokensRequest(filter=filter_))
        assert len(listed.tokens) == count, filter_
    async with refused(INVALID, "INVALID_ARGUMENT", "either a timeout or no_timeout"):
        await edge.tokens.CreateToken(token_pb.CreateTokenRequest())
    async with refused(NOT_FOUND, "TOKEN_NOT_FOUND"):
        await edge.tokens.GetToken(token_pb.GetTokenRequest(token_id=ids.to_text(ids.TOKEN, ids.new_id())))


async def test_queues(edge: Edge) -> None:
    edge.engine.insert(status=model.QUEUED)
    edge.engine.insert(status=model.QUEUED, queue="mail")
    edge.engine.write(sa.insert(schema.queues).values(namespace="default", name="mail", concurrency_limit=2))
    listed = await edge.queues.ListQueues(queue_pb.ListQueuesRequest())
    assert [(queue.definition.name, queue.queued) for queue in listed.queues] == [
        ("mail", 1),
        ("task/export", 1),
        ("task/import", 0),
    ]
    queue = (await edge.queues.GetQueue(queue_pb.GetQueueRequest(name="mail"))).queue
    assert queue.definition.concurrency_limit == 2
    async with refused(NOT_FOUND, "QUEUE_NOT_FOUND", "did you mean 'mail'"):
        await edge.queues.GetQueue(queue_pb.GetQueueRequest(name="mial"))
    async with refused(grpc.StatusCode.UNIMPLEMENTED, "NOT_IMPLEMENTED", "PauseQueue"):
        await edge.queues.PauseQueue(queue_pb.PauseQueueRequest(name="mail"))
    async with refused(grpc.StatusCode.UNIMPLEMENTED, "NOT_IMPLEMENTED", "ListSchedules"):
        await edge.schedules.ListSchedules(schedule_pb.ListSchedulesRequest())
