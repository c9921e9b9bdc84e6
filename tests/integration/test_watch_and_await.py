"""WaitRun, AwaitRuns and WatchRuns over a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa
from grpc import aio

from harness.edge import (
    INVALID,
    NOT_FOUND,
    NOW,
    Edge,
    refused,
    rest,
    serving,
    text,
    watched,
)
from holdfast.v1 import run_service_pb2 as pb
from holdfast_scheduler import ids, model, schema
from holdfast_scheduler.settings import Limits


async def test_wait_run_returns_at_the_end(edge: Edge) -> None:
    run_id = edge.engine.insert()
    call = asyncio.ensure_future(edge.runs.WaitRun(pb.WaitRunRequest(run_id=text(run_id))))
    await watched(edge, run_id)
    edge.engine.end(run_id, b"7")
    assert (await call).run.output.data == b"7"
    assert edge.engine.watchers.watched() == {}


async def test_wait_run_returns_at_the_timeout(lite: Edge) -> None:
    run_id = lite.engine.insert()
    request = pb.WaitRunRequest(run_id=text(run_id))
    request.timeout.FromMilliseconds(20)
    assert (await lite.runs.WaitRun(request)).run.status == model.WAITING
    assert lite.engine.watchers.watched() == {}
    async with refused(NOT_FOUND, "RUN_NOT_FOUND"):
        await lite.runs.WaitRun(pb.WaitRunRequest(run_id=text(ids.new_id())))


async def test_await_runs_answers_each_once_in_few_messages(edge: Edge) -> None:
    engine = edge.engine
    over = [engine.insert() for _ in range(50)]
    for run_id in over:
        engine.end(run_id, tell=False)
    open_ones = [engine.insert() for _ in range(50)]
    unknown = ids.new_id()
    stream = edge.runs.AwaitRuns()
    engine.reads = 0
    asked = [*over, *open_ones, unknown]
    await stream.write(pb.AwaitRunsRequest(add=[text(run_id) for run_id in (*asked, *asked)]))
    results: dict[str, int] = {}
    responses = 0

    async def collect(count: int) -> None:
        nonlocal responses
        while len(results) < count:
            response = await stream.read()
            responses += 1
            for result in response.results:
                assert result.run_id not in results
                results[result.run_id] = result.status

    await collect(51)
    assert results[text(unknown)] == 0
    assert engine.reads == 2  # one look-up for all, one read of the results
    for run_id in open_ones:
        engine.end(run_id)
    await collect(101)
    assert responses < 10
    assert set(results.values()) == {0, model.COMPLETED}
    await stream.done_writing()
    assert await stream.read() is aio.EOF
    assert engine.watchers.watched() == {}


async def test_await_runs_loses_no_end_between_subscription_and_read(lite: Edge) -> None:
    """The end comes after the server has subscribed and before it has read: one of the two must see it, once."""
    run_id = lite.engine.insert()
    read = lite.engine.read

    async def slow(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        lite.engine.read = read  # type: ignore[method-assign]
        lite.engine.end(run_id)
        return await read(function, *args, **kwargs)

    lite.engine.read = slow  # type: ignore[method-assign]
    stream = lite.runs.AwaitRuns()
    await stream.write(pb.AwaitRunsRequest(add=[text(run_id)]))
    await stream.done_writing()
    results = [result.run_id for response in await rest(stream) for result in response.results]
    assert results == [text(run_id)]


@pytest.mark.parametrize("size", [1, 5_000])
async def test_await_runs_notices_what_another_replica_ended(edge: Edge, size: int) -> None:
    from holdfast_scheduler import reads

    output = b"5" * size
    run_id = edge.engine.insert()
    stream = edge.runs.AwaitRuns()
    await stream.write(pb.AwaitRunsRequest(add=[text(run_id)]))
    await watched(edge, run_id)
    edge.engine.end(run_id, output, tell=False)
    found = await edge.engine.read(reads.ended_watched, "default", [run_id], 2_048)
    assert [end is None for _, _, end in found] == [size > 2_048]  # a long result is read by whoever wants it
    edge.engine.watchers.noticed("default", found)
    response = await stream.read()
    assert [(r.run_id, r.output.data) for r in response.results] == [(text(run_id), output)]
    stream.cancel()


async def test_await_runs_remove_and_limits(lite: Edge) -> None:
    run_id = lite.engine.insert()
    stream = lite.runs.AwaitRuns()
    await stream.write(pb.AwaitRunsRequest(add=[text(run_id)]))
    await watched(lite, run_id)
    await stream.write(pb.AwaitRunsRequest(remove=[text(run_id)]))
    await stream.done_writing()
    assert await stream.read() is aio.EOF
    assert lite.engine.watchers.watched() == {}

    many = [text(ids.new_id()) for _ in range(10_001)]
    async with refused(INVALID, "TOO_LARGE", "awaited_runs"):
        stream = lite.runs.AwaitRuns()
        await stream.write(pb.AwaitRunsRequest(add=many))
        await stream.read()
    async with refused(INVALID, "INVALID_ARGUMENT", "namespace"):
        stream = lite.runs.AwaitRuns()
        await stream.write(pb.AwaitRunsRequest(namespace="a"))
        await stream.write(pb.AwaitRunsRequest(namespace="b"))
        await stream.read()


async def test_await_runs_keeps_little_for_a_slow_client(lite: Edge) -> None:
    made = [lite.engine.insert() for _ in range(30)]
    stream = lite.runs.AwaitRuns()
    await stream.write(pb.AwaitRunsRequest(add=[text(run_id) for run_id in made]))
    await watched(lite, made[-1])
    for run_id in made:
        lite.engine.end(run_id, b"x" * (1 << 20))
    seen = []
    while len(seen) < 30:
        response = await stream.read()
        assert response.ByteSize() < 4 << 20
        seen += [result.run_id for result in response.results]
        assert all(len(result.output.data) == 1 << 20 for result in response.results)
    assert sorted(seen) == sorted(text(run_id) for run_id in made)
    stream.cancel()


async def test_a_client_that_goes_leaves_nothing_behind(lite: Edge) -> None:
    run_id = lite.engine.insert()
    streams = [lite.runs.AwaitRuns(), lite.runs.WatchRuns(pb.WatchRunsRequest(run_id=text(run_id)))]
    await streams[0].write(pb.AwaitRunsRequest(add=[text(run_id)]))
    await streams[1].read()
    await watched(lite, run_id)
    for stream in streams:
        stream.cancel()
    while lite.engine.watchers.watched():
        await asyncio.sleep(0.005)


async def test_watch_one_run_until_its_end_and_resume(edge: Edge) -> None:
    run_id = edge.engine.insert()
    stream = edge.runs.WatchRuns(pb.WatchRunsRequest(run_id=text(run_id)))
    first = await stream.read()
    assert first.run.status == model.WAITING
    edge.engine.watchers.changed("default", [run_id])  # nothing that is shown has changed
    session = ids.new_id()
    edge.engine.write(
        sa.update(schema.runs).where(schema.runs.c.id == run_id).values(status=model.EXECUTING, session=session)
    )
    second = await stream.read()  # found by the look: nobody rang
    assert second.run.status == model.EXECUTING
    resumed = edge.runs.WatchRuns(pb.WatchRunsRequest(run_id=text(run_id), cursor=second.cursor))
    edge.engine.end(run_id)
    assert [response.run.status for response in await rest(resumed)][-1] == model.COMPLETED
    assert [response.run.status for response in await rest(stream)] == [model.COMPLETED]
    async with refused(INVALID, "INVALID_ARGUMENT", "cursor"):
        await edge.runs.WatchRuns(pb.WatchRunsRequest(run_id=text(run_id), cursor="x")).read()
    async with refused(NOT_FOUND, "RUN_NOT_FOUND"):
        await edge.runs.WatchRuns(pb.WatchRunsRequest(run_id=text(ids.new_id()))).read()
    async with refused(INVALID, "INVALID_ARGUMENT", "target"):
        await edge.runs.WatchRuns(pb.WatchRunsRequest()).read()


async def test_watch_a_tag_shows_new_members(edge: Edge) -> None:
    one = edge.engine.insert(tags=("t",))
    stream = edge.runs.WatchRuns(pb.WatchRunsRequest(tag="t"))
    assert (await stream.read()).run.id == text(one)
    other = edge.engine.insert(tags=("t",))
    assert (await stream.read()).run.id == text(other)
    edge.engine.end(one)
    ended = await stream.read()
    assert (ended.run.id, ended.run.status) == (text(one), model.COMPLETED)
    stream.cancel()


async def test_watch_a_batch_until_all_have_ended(edge: Edge) -> None:
    batch = ids.new_id()
    members = [edge.engine.insert(batch=batch) for _ in range(3)]
    edge.engine.write(
        sa.insert(schema.batches).values(namespace="default", id=batch, remaining=3, fingerprint=b"", created_at=NOW),
        *(
            sa.insert(schema.batch_items).values(namespace="default", batch=batch, place=place, run_id=run_id)
            for place, run_id in enumerate(members)
        ),
    )
    stream = edge.runs.WatchRuns(pb.WatchRunsRequest(batch_id=ids.to_text(ids.BATCH, batch)))
    assert {(await stream.read()).run.status for _ in members} == {model.WAITING}
    for run_id in members:
        edge.engine.end(run_id)
    assert [response.run.status for response in await rest(stream)] == [model.COMPLETED] * 3
    async with refused(NOT_FOUND, "BATCH_NOT_FOUND"):
        await edge.runs.WatchRuns(pb.WatchRunsRequest(batch_id=ids.to_text(ids.BATCH, ids.new_id()))).read()


async def test_of_a_tag_with_many_runs_no_end_is_lost(database_url: str) -> None:
    """The newest three are followed; of all others every end is shown, also after a break and a restart."""
    limits = replace(Limits(), watched_runs=3)
    async with serving(database_url, limits=limits) as edge:
        engine = edge.engine
        many = sorted(engine.insert(tags=("t",)) for _ in range(8))
        stream = edge.runs.WatchRuns(pb.WatchRunsRequest(tag="t"))
        seen = [await stream.read() for _ in range(3)]
        assert {one.run.id for one in seen} == {text(run_id) for run_id in many[-3:]}
        engine.end(many[0])
        ended = await stream.read()
        assert (ended.run.id, ended.run.status) == (text(many[0]), model.COMPLETED)
        stream.cancel()
        engine.end(many[1], tell=False)
        engine.end(many[7], tell=False)
    async with serving(database_url, limits=limits) as edge:
        resumed = edge.runs.WatchRuns(pb.WatchRunsRequest(tag="t", cursor=ended.cursor))
        ends: set[str] = set()
        while not {text(many[1]), text(many[7])} <= ends:
            response = await resumed.read()
            if response.run.status == model.COMPLETED:
                ends.add(response.run.id)
        edge.engine.end(many[2], tell=False)
        while text(many[2]) not in ends:
            ends.add((await resumed.read()).run.id)
        resumed.cancel()


async def test_a_break_in_the_first_pass_loses_nothing(edge: Edge) -> None:
    made = [edge.engine.insert(tags=("t",), status=model.COMPLETED) for _ in range(5)]
    stream = edge.runs.WatchRuns(pb.WatchRunsRequest(tag="t"))
    first = await stream.read()
    stream.cancel()
    resumed = edge.runs.WatchRuns(pb.WatchRunsRequest(tag="t", cursor=first.cursor))
    assert {(await resumed.read()).run.id for _ in made} == {text(run_id) for run_id in made}
    resumed.cancel()
