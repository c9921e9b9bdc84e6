"""StreamTriggers over a real socket."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from grpc import aio

from harness.edge import DEADLINE, INVALID, Edge, item, refused, rest, serving
from holdfast.v1 import run_service_pb2 as pb
from holdfast.v1.run_service_pb2_grpc import RunServiceStub
from holdfast.v1.task_pb2 import TaskDefinition
from holdfast_scheduler import ids, model
from holdfast_scheduler.database import Database
from holdfast_scheduler.definitions import task_row
from holdfast_scheduler.engine import Engine
from holdfast_scheduler.errors import OverloadedError
from holdfast_scheduler.migrations import migrate
from holdfast_scheduler.services.server import Server
from holdfast_scheduler.services.streamed_triggers import UNANSWERED
from holdfast_scheduler.settings import Settings


def asking(*tasks: str) -> pb.StreamTriggersRequest:
    return pb.StreamTriggersRequest(items=[item(task, run_id=ids.run_text(ids.new_id())) for task in tasks])


def slow(edge: Edge) -> list[asyncio.Future[Any]]:
    """Has the engine answer when the test does; returns what it was asked so far."""
    asked: list[asyncio.Future[Any]] = []

    def submit(command: Any) -> asyncio.Future[Any]:
        edge.engine.commands.append(command)
        asked.append(asyncio.get_running_loop().create_future())
        return asked[-1]

    edge.engine.submit = submit  # type: ignore[method-assign]
    return asked


def handles(edge: Edge, place: int) -> list[model.Handle]:
    return [model.Handle(new.id) for new in edge.engine.commands[place].items]


async def until(condition: Any) -> None:
    while not condition():
        await asyncio.sleep(0.005)


async def test_requests_are_answered_in_order_as_calls_are(edge: Edge) -> None:
    stream = edge.runs.StreamTriggers()
    requests = [asking("export"), asking("export", "nonsense", "export"), asking("exprot")]
    for request in requests:
        await stream.write(request)
    await stream.done_writing()
    answers = await rest(stream)
    assert [len(answer.outcomes) for answer in answers] == [1, 3, 1]
    for request, answer in zip(requests, answers, strict=True):
        for one, outcome in zip(request.items, answer.outcomes, strict=True):
            if one.task_id == "export":
                assert outcome.handle.run_id == one.run_id
            else:
                assert outcome.error.reason == "TASK_NOT_FOUND"
        again = await edge.runs.Trigger(pb.TriggerRequest(items=request.items))
        assert list(again.outcomes) == list(answer.outcomes)


async def test_a_malformed_item_fails_alone_in_its_place(lite: Edge) -> None:
    good = asking("export", "export")
    request = pb.StreamTriggersRequest(items=[good.items[0], item("export", run_id="not an id"), good.items[1]])
    stream = lite.runs.StreamTriggers()
    await stream.write(request)
    await stream.done_writing()
    (answer,) = await rest(stream)
    assert answer.outcomes[1].error.reason == "INVALID_ARGUMENT"
    assert [answer.outcomes[place].handle.run_id for place in (0, 2)] == [one.run_id for one in good.items]
    assert list((await lite.runs.Trigger(pb.TriggerRequest(items=request.items))).outcomes) == list(answer.outcomes)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (pb.StreamTriggersRequest(), "INVALID_ARGUMENT"),
        (pb.StreamTriggersRequest(namespace="n" * 1000, items=[item("export")]), "TOO_LARGE"),
    ],
)
async def test_a_request_that_is_refused_as_a_whole_ends_the_stream_after_the_earlier_answers(
    lite: Edge, bad: pb.StreamTriggersRequest, reason: str
) -> None:
    asked = slow(lite)
    stream = lite.runs.StreamTriggers()
    await stream.write(asking("export"))
    await stream.write(bad)
    await until(lambda: len(asked) == 1)
    asked[0].set_result(handles(lite, 0))
    assert len((await stream.read()).outcomes) == 1
    async with refused(INVALID, reason) as streamed:
        await stream.read()
    async with refused(INVALID, reason) as called:
        await lite.runs.Trigger(pb.TriggerRequest(namespace=bad.namespace, items=bad.items))
    assert streamed == called
    assert lite.engine.watchers._present == {}


async def test_a_commit_that_fails_ends_the_stream(lite: Edge) -> None:
    asked = slow(lite)
    stream = lite.runs.StreamTriggers()
    for _ in range(3):
        await stream.write(asking("export"))
    await until(lambda: len(asked) == 3)
    asked[1].set_exception(OverloadedError())
    asked[0].set_result(handles(lite, 0))
    assert len((await stream.read()).outcomes) == 1
    async with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED"):
        await stream.read()
    await until(lambda: asked[2].cancelled())


async def test_answers_wait_for_those_before_them(lite: Edge) -> None:
    asked = slow(lite)
    stream = lite.runs.StreamTriggers()
    requests = [asking("export") for _ in range(3)]
    for request in requests:
        await stream.write(request)
    await until(lambda: len(asked) == 3)
    for place in (2, 1, 0):
        asked[place].set_result(handles(lite, place))
    await stream.done_writing()
    found = [answer.outcomes[0].handle.run_id for answer in await rest(stream)]
    assert found == [request.items[0].run_id for request in requests]


async def test_unanswered_requests_are_bounded_and_none_is_lost(lite: Edge) -> None:
    asked = slow(lite)
    stream = lite.runs.StreamTriggers()
    requests = [asking("export") for _ in range(3 * UNANSWERED)]

    async def write() -> None:
        for request in requests:
            await stream.write(request)
        await stream.done_writing()

    writing = asyncio.create_task(write())
    await until(lambda: len(asked) == UNANSWERED)
    await asyncio.sleep(0.1)
    assert len(asked) == UNANSWERED
    reading = asyncio.create_task(rest(stream))
    for place in range(len(requests)):
        await until(lambda place=place: len(asked) > place)
        asked[place].set_result(handles(lite, place))
    await writing
    found = [answer.outcomes[0].handle.run_id for answer in await reading]
    assert found == [request.items[0].run_id for request in requests]


async def test_a_client_that_goes_leaves_nothing_behind(lite: Edge) -> None:
    asked = slow(lite)
    stream = lite.runs.StreamTriggers()
    await stream.write(asking("export"))
    await until(lambda: len(asked) == 1)
    assert len(lite.engine.watchers._present) == 1
    stream.cancel()
    await until(lambda: not lite.engine.watchers._present)
    assert asked[0].cancelled()  # nobody waits for the answer; the command is carried out all the same


async def test_the_runs_of_a_client_that_has_gone_are_made(database_url: str) -> None:
    """The engine begins to commit when the client is no longer there."""
    migrate(database_url)
    database = Database.open(database_url)
    settings = Settings(database_url=database_url, listen="127.0.0.1:0", stop_grace=0.1)
    engine = Engine(database, settings)
    server = Server(engine)
    definition = task_row(TaskDefinition(id="export").SerializeToString(), "1", 0)
    opened = engine.submit(model.OpenSession("default", ids.new_id(), b"s", "w", "1", [definition]))
    try:
        async with aio.insecure_channel(await server.start()) as channel, asyncio.timeout(DEADLINE):
            runs = RunServiceStub(channel)
            stream = runs.StreamTriggers()
            requests = [asking("export", "export") for _ in range(3)]
            for request in requests:
                await stream.write(request)
            await until(lambda: len(engine._commits._queue) == 4)
            stream.cancel()
            await until(lambda: not engine.watchers._present)
            await engine.start()
            await opened
            wanted = sorted(one.run_id for request in requests for one in request.items)
            listed: list[str] = []
            while listed != wanted:
                listed = sorted(run.id for run in (await runs.ListRuns(pb.ListRunsRequest())).runs)
    finally:
        await server.stop()
        await engine.stop()
        database.close()


async def test_the_stop_answers_what_was_read_and_waits_for_nobody(sqlite_url: str) -> None:
    async with serving(sqlite_url, stop_grace=3600.0) as edge:
        asked = slow(edge)
        busy, idle = edge.runs.StreamTriggers(), edge.runs.StreamTriggers()
        await busy.write(asking("export"))
        await idle.write(pb.StreamTriggersRequest(items=[item("export", run_id="not an id")]))
        assert (await idle.read()).outcomes[0].error.reason == "INVALID_ARGUMENT"
        await until(lambda: len(asked) == 1)
        stopping = asyncio.create_task(edge.server.stop())
        async with refused(grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN"):
            await idle.read()
        asked[0].set_result(handles(edge, 0))
        assert len((await busy.read()).outcomes) == 1
        async with refused(grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN"):
            await busy.read()
        await stopping


async def test_a_client_that_goes_on_asking_does_not_put_off_the_stop(sqlite_url: str) -> None:
    async with serving(sqlite_url, stop_grace=3600.0) as edge:
        asked = slow(edge)
        stream = edge.runs.StreamTriggers()
        await stream.write(asking("export"))
        await until(lambda: len(asked) == 1)
        stopping = asyncio.create_task(edge.server.stop())
        await until(lambda: edge.engine.watchers.is_stopped)
        await stream.write(asking("export"))
        await asyncio.sleep(0.1)
        asked[0].set_result(handles(edge, 0))
        assert len((await stream.read()).outcomes) == 1
        async with refused(grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN"):
            await stream.read()
        assert len(asked) == 1  # what was not read is for another replica
        await stopping


async def test_the_api_key_is_required(sqlite_url: str) -> None:
    async with serving(sqlite_url, api_key="secret") as edge:
        async with refused(grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED"):
            await edge.runs.StreamTriggers().read()
        async with aio.insecure_channel(edge.server.address) as channel:
            stream = RunServiceStub(channel).StreamTriggers(metadata=(("authorization", "Bearer secret"),))
            await stream.write(asking("export"))
            assert len((await stream.read()).outcomes) == 1
            stream.cancel()
