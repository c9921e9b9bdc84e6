"""Triggers over a stream: what it does not answer is asked again by a call, with the same ids."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from harness.scripted_scheduler import ScriptedScheduler
from holdfast import Client, coalescing, task, trigger_stream
from holdfast.errors import HoldfastError, SchedulerUnavailableError
from holdfast.v1.run_pb2 import RunHandle, TriggerOutcome


@task(id="test-trigger-stream")
async def noop(payload: int) -> None:
    """Does nothing."""


@pytest.fixture
async def scheduler():
    scripted = ScriptedScheduler()
    await scripted.start()
    yield scripted
    scripted.gate.set()
    await scripted.stop()


@pytest.fixture
async def client(scheduler):
    async with Client(scheduler.address, deadline=10) as made:
        with made.use():
            yield made


async def eventually(condition) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


async def in_flight(scheduler: ScriptedScheduler, count: int) -> list[asyncio.Task]:
    """So many requests that wait for their answers."""
    scheduler.gate.clear()
    before = len(scheduler.requests)
    found = []
    for n in range(count):
        found.append(asyncio.create_task(noop.trigger(n)))
        await eventually(lambda expected=before + n + 1: len(scheduler.requests) == expected)
    return found


async def test_one_stream_carries_all_triggers(scheduler, client):
    handles = [await noop.trigger(n) for n in range(5)]
    assert (scheduler.trigger_streams, scheduler.streamed) == (1, 5)
    assert [request.items[0].run_id for request in scheduler.requests] == [handle.id for handle in handles]


async def test_answers_are_not_mixed_up(scheduler, client):
    scheduler.outcome = lambda item: TriggerOutcome(handle=RunHandle(run_id=f"of-{item.payload.data.decode()}"))
    waiting = await in_flight(scheduler, coalescing.MAX_IN_FLIGHT)
    scheduler.gate.set()
    assert [handle.id for handle in await asyncio.gather(*waiting)] == ["of-0", "of-1", "of-2", "of-3"]


async def test_what_a_broken_stream_left_unanswered_is_asked_again_by_calls(scheduler, client):
    answered = await noop.trigger(80)
    waiting = await in_flight(scheduler, 3)
    scheduler.failures = [grpc.StatusCode.UNAVAILABLE]  # the next request breaks the stream; its own call fails once
    breaking = asyncio.create_task(noop.trigger(81))
    scheduler.gate.set()
    handles = await asyncio.gather(*waiting, breaking)
    asked = [item.run_id for request in scheduler.requests for item in request.items]
    assert {handle.id for handle in handles} <= set(asked)
    assert asked.count(answered.id) == 1
    again = await noop.trigger(82)
    assert scheduler.trigger_streams == 2
    assert scheduler.requests[-1].items[0].run_id == again.id


async def test_the_scheduler_goes_in_the_middle_of_requests(scheduler):
    other = ScriptedScheduler()
    await other.start()
    async with Client(f"{scheduler.address},{other.address}", deadline=10) as client:
        with client.use():
            await noop.trigger(83)
            first, second = (scheduler, other) if scheduler.requests else (other, scheduler)
            waiting = await in_flight(first, 2)
            await first.stop()
            handles = await asyncio.gather(*waiting)
            lost = [request.items[0].run_id for request in first.requests[1:]]
            assert [handle.id for handle in handles] == lost
            assert sorted(item.run_id for request in second.requests for item in request.items) == sorted(lost)
            await noop.trigger(84)
            assert second.trigger_streams == 1
    await other.stop()


async def test_an_old_scheduler_is_asked_for_the_stream_once():
    old = ScriptedScheduler(streams_triggers=False)
    await old.start()
    async with Client(old.address, deadline=10) as client:
        with client.use():
            for n in range(3):
                await noop.trigger(n)
    assert (old.trigger_streams, old.streamed, len(old.requests)) == (1, 0, 3)
    await old.stop()


async def test_a_silent_stream_is_given_up_for_a_call(scheduler, client, monkeypatch):
    monkeypatch.setattr(trigger_stream, "TRY_TIMEOUT", 0.2)
    await noop.trigger(80)
    waiting = await in_flight(scheduler, 2)
    await eventually(lambda: len(scheduler.requests) == 5)  # each of them again, by a call
    scheduler.gate.set()
    handles = await asyncio.gather(*waiting)
    assert {item.run_id for request in scheduler.requests[3:] for item in request.items} == {one.id for one in handles}


async def test_silence_counts_for_the_deadline(scheduler):
    scheduler.gate.clear()
    async with Client(scheduler.address, deadline=0.4) as client:
        with client.use():
            with pytest.raises(SchedulerUnavailableError):
                await noop.trigger(1)
    assert scheduler.streamed == 1
    scheduler.gate.set()


async def test_a_caller_that_gives_up_is_in_nobodys_way(scheduler, client):
    scheduler.outcome = lambda item: TriggerOutcome(handle=RunHandle(run_id=f"of-{item.payload.data.decode()}"))
    waiting = await in_flight(scheduler, 3)
    waiting[1].cancel()
    await asyncio.wait([waiting[1]])
    scheduler.gate.set()
    assert [(await one).id for one in (waiting[0], waiting[2])] == ["of-0", "of-2"]
    assert (await noop.trigger(7)).id == "of-7"
    assert scheduler.trigger_streams == 1


async def test_closing_waits_for_what_is_in_flight(scheduler):
    client = Client(scheduler.address, deadline=10)
    with client.use():
        waiting = await in_flight(scheduler, 2)
        closing = asyncio.create_task(client.close())
        await asyncio.sleep(0)
        scheduler.gate.set()
        await closing
        assert all(one.done() for one in waiting)
        await asyncio.gather(*waiting)


async def test_a_wrong_number_of_outcomes_is_an_error(scheduler, client):
    scheduler.answers_of_each = 2
    with pytest.raises(HoldfastError, match="answered 2 of 1"):
        await noop.trigger(1)
