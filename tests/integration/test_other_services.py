"""TaskService, TokenService, QueueService and ScheduleService over a real socket."""

from __future__ import annotations

from typing import Any

import grpc
import sqlalchemy as sa
from google.protobuf.field_mask_pb2 import FieldMask

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
from holdfast.v1.run_pb2 import TriggerOptions
from holdfast_scheduler import ids, model, schedule_messages, schedule_store, schema


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


def cron(**fields: Any) -> schedule_pb.Schedule:
    return schedule_pb.Schedule(**{"task_id": "export", "cron": "0 3 * * *", **fields})


async def test_schedules(edge: Edge) -> None:
    def answer(command: Any) -> Any:
        if isinstance(command, model.CreateSchedule):
            row = {name: getattr(command.schedule, name) for name in schedule_store.COLUMNS}
            edge.engine.write(sa.insert(schema.schedules).values(namespace="default", **{**row, "next_at": NOW}))
            return command.schedule.id
        if isinstance(command, model.DeleteSchedule):
            edge.engine.write(sa.delete(schema.schedules).where(schema.schedules.c.id == command.schedule_id))
        return None

    edge.engine.answer = answer
    options = TriggerOptions(tags=["ä"], priority=3)
    asked = cron(timezone="Europe/Zurich", misfire=schedule_pb.MISFIRE_POLICY_ALL, external_id="x", options=options)
    made = (await edge.schedules.CreateSchedule(schedule_pb.CreateScheduleRequest(schedule=asked))).schedule
    assert (made.cron, made.timezone, made.external_id, made.options) == ("0 3 * * *", "Europe/Zurich", "x", options)
    assert (made.misfire, made.overlap) == (schedule_pb.MISFIRE_POLICY_ALL, schedule_pb.OVERLAP_POLICY_ALLOW)
    assert (made.active, made.declared, made.next_at.ToMicroseconds()) == (True, False, NOW)
    own = ids.to_text(ids.SCHEDULE, ids.new_id())
    again = await edge.schedules.CreateSchedule(schedule_pb.CreateScheduleRequest(schedule=cron(id=own)))
    assert (again.schedule.id, again.schedule.timezone) == (own, "UTC")
    first = await edge.schedules.ListSchedules(schedule_pb.ListSchedulesRequest(page_size=1))
    second = await edge.schedules.ListSchedules(
        schedule_pb.ListSchedulesRequest(page_size=1, page_token=first.next_page_token)
    )
    assert [one.id for one in (*first.schedules, *second.schedules)] == [made.id, own]
    assert not second.next_page_token
    found = await edge.schedules.GetSchedule(schedule_pb.GetScheduleRequest(schedule_id=made.id))
    assert found.schedule == made
    await edge.schedules.DeleteSchedule(schedule_pb.DeleteScheduleRequest(schedule_id=made.id))
    async with refused(NOT_FOUND, "SCHEDULE_NOT_FOUND", "there is no schedule"):
        await edge.schedules.GetSchedule(schedule_pb.GetScheduleRequest(schedule_id=made.id))


async def test_a_schedule_that_is_malformed_is_refused_by_field(lite: Edge) -> None:
    for wrong, field, says in (
        (cron(cron="0 0 3 * * *"), "schedule.cron", "six fields; write five"),
        (cron(cron="99 3 * * *"), "schedule.cron", "bad minute"),
        (cron(cron="*" * 300), "schedule.cron", "name_length"),
        (cron(timezone="Nowhere"), "schedule.timezone", "is not an IANA time zone"),
        (cron(task_id=""), "schedule.task_id", "is empty"),
        (cron(external_id="a\0"), "schedule.external_id", "U\\+0000"),
        (cron(id="run_1"), "schedule.id", "sched_"),
        (cron(misfire=9), "schedule.misfire", "9 is not a MisfirePolicy"),
        (cron(overlap=9), "schedule.overlap", "9 is not an OverlapPolicy"),
        (cron(options=TriggerOptions(tags=["t"] * 2, priority=float("nan"))), "schedule.options.priority", "nan"),
        (cron(options=TriggerOptions(delay={"seconds": 5})), "schedule.options.delay", "not for schedules"),
        (cron(options=TriggerOptions(on_parent_end=1)), "schedule.options.on_parent_end", "no parent"),
    ):
        async with refused(INVALID, "TOO_LARGE" if "length" in says else "INVALID_ARGUMENT", says) as info:
            await lite.schedules.CreateSchedule(schedule_pb.CreateScheduleRequest(schedule=wrong))
        assert info.metadata["field"] == field
    async with refused(INVALID, "INVALID_ARGUMENT", "six fields.*; schedule.timezone: 'Nowhere' is not"):
        wrong = cron(cron="0 0 3 * * *", timezone="Nowhere")
        await lite.schedules.CreateSchedule(schedule_pb.CreateScheduleRequest(schedule=wrong))
    known = ids.to_text(ids.SCHEDULE, ids.new_id())
    async with refused(INVALID, "INVALID_ARGUMENT", "'active' cannot be updated; name some of task_id, cron"):
        update = schedule_pb.UpdateScheduleRequest(schedule=cron(id=known), update_mask=FieldMask(paths=["active"]))
        await lite.schedules.UpdateSchedule(update)
    async with refused(INVALID, "INVALID_ARGUMENT", "schedule_id: is empty"):
        await lite.schedules.ActivateSchedule(schedule_pb.ActivateScheduleRequest())
    async with refused(INVALID, "INVALID_FILTER", "page_token"):
        await lite.schedules.ListSchedules(schedule_pb.ListSchedulesRequest(page_token="x"))


async def test_an_update_changes_what_the_mask_names(lite: Edge) -> None:
    lite.engine.answer = lambda _command: model.ItemFault(9, "WRONG_STATUS", "declared in code", {"schedule_id": "x"})
    known = ids.to_text(ids.SCHEDULE, ids.new_id())
    for paths, columns in ((["cron"], {"cron"}), ([], {name for name, _ in schedule_messages._FIELDS.values()})):
        update = schedule_pb.UpdateScheduleRequest(schedule=cron(id=known), update_mask=FieldMask(paths=paths))
        async with refused(grpc.StatusCode.FAILED_PRECONDITION, "WRONG_STATUS", "declared in code"):
            await lite.schedules.UpdateSchedule(update)
        assert lite.engine.commands[-1].changes.keys() == columns
