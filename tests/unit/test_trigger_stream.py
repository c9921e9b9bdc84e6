"""Triggers over a stream: what it does not answer is asked again by a call, with the same ids."""

from __future__ import annotations

import asyncio
import threading
import time

import grpc
import pytest

from harness.scripted_scheduler import ScriptedScheduler
from holdfast import Client, coalescing, task, tasks, trigger_stream
from holdfast.errors import HoldfastError, SchedulerUnavailableError
from holdfast.trigger_stream import TriggerStream
from holdfast.v1.run_pb2 import RunHandle, TriggerItem, TriggerOutcome


@task(id="test-trigger-stream")
async def noop(payload: int) -> None:
    """Does nothing."""


@pytest.fixture
async def start():
    """Starts schedulers, and stops them when the test has ended, however it did."""
    started = []

    async def one(scheduler: ScriptedScheduler) -> ScriptedScheduler:
        started.append(scheduler)
        await scheduler.start()
        return scheduler

    yield one
    for scheduler in started:
        scheduler.gate.set()
        await scheduler.stop()


@pytest.fixture
async def scheduler(start):
    return await start(ScriptedScheduler())


@pytest.fixture
async def client(scheduler):
    async with Client(scheduler.address, deadline=10) as made:
        with made.use():
            yield made


@pytest.fixture
async def pair(scheduler, start):
    """A client of two schedulers that has spoken to one of them, that one, and the other."""
    other = await start(ScriptedScheduler())
    async with Client(f"{scheduler.address},{other.address}", deadline=7200) as client:
        with client.use():
            await noop.trigger(80)
            yield (client, scheduler, other) if scheduler.requests else (client, other, scheduler)
            scheduler.gate.set()
            other.gate.set()


@pytest.fixture
def patient(monkeypatch):
    """Silence is borne for an hour, so that whatever goes on does so for another reason."""
    monkeypatch.setattr(trigger_stream, "TRY_TIMEOUT", 3600.0)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    monkeypatch.setattr(trigger_stream, "CALLS_FIRST", 0)


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


def asked_ids(scheduler: ScriptedScheduler) -> list[str]:
    return [item.run_id for request in scheduler.requests for item in request.items]


def name_after_payload(item: TriggerItem) -> TriggerOutcome:
    return TriggerOutcome(handle=RunHandle(run_id=f"of-{item.payload.data.decode()}"))


async def test_one_stream_carries_all_triggers(scheduler, client):
    handles = [await noop.trigger(n) for n in range(5)]
    assert (scheduler.trigger_streams, scheduler.streamed) == (1, 5)
    assert asked_ids(scheduler) == [handle.id for handle in handles]


async def test_answers_are_not_mixed_up(scheduler, client):
    scheduler.outcome = name_after_payload
    waiting = await in_flight(scheduler, coalescing.MAX_IN_FLIGHT)
    scheduler.gate.set()
    assert [handle.id for handle in await asyncio.gather(*waiting)] == ["of-0", "of-1", "of-2", "of-3"]


@pytest.mark.usefixtures("patient")
async def test_what_a_broken_stream_left_unanswered_is_asked_again_by_calls(scheduler):
    async with Client(scheduler.address, deadline=7200) as client:
        with client.use():
            answered = await noop.trigger(80)
            waiting = await in_flight(scheduler, 3)
            # The next request breaks the stream; one of the calls fails too.
            scheduler.failures = [grpc.StatusCode.UNAVAILABLE]
            breaking = asyncio.create_task(noop.trigger(81))
            scheduler.gate.set()
            async with asyncio.timeout(10):
                handles = await asyncio.gather(*waiting, breaking)
            asked = asked_ids(scheduler)
            assert {handle.id for handle in handles} <= set(asked)
            assert asked.count(answered.id) == 1
            assert asked.count(handles[0].id) == 1  # answered over the stream before it broke
            assert all(asked.count(handle.id) > 1 for handle in handles[1:3])
            again = await noop.trigger(82)
            assert scheduler.trigger_streams == 2
            assert asked_ids(scheduler)[-1] == again.id


@pytest.mark.usefixtures("patient")
async def test_the_scheduler_goes_in_the_middle_of_requests(pair):
    _client, first, second = pair
    waiting = await in_flight(first, 2)
    await first.stop()
    async with asyncio.timeout(10):
        handles = await asyncio.gather(*waiting)
    lost = asked_ids(first)[1:]
    assert [handle.id for handle in handles] == lost
    assert sorted(asked_ids(second)) == sorted(lost)
    await noop.trigger(84)
    assert second.trigger_streams == 1


@pytest.mark.usefixtures("patient")
async def test_a_scheduler_that_goes_while_nothing_is_asked_is_left_for_the_next_address(pair):
    client, first, second = pair
    await first.stop()
    await eventually(lambda: client.connection.endpoint().address == second.address)
    await noop.trigger(84)
    assert (second.trigger_streams, second.streamed) == (1, 1)


async def test_an_old_scheduler_is_asked_for_the_stream_once(start):
    old = await start(ScriptedScheduler(streams_triggers=False))
    async with Client(old.address, deadline=10) as client:
        with client.use():
            for n in range(3):
                await noop.trigger(n)
    assert (old.trigger_streams, old.streamed, len(old.requests)) == (1, 0, 3)


async def test_a_silent_stream_is_given_up_for_a_call(scheduler, client, monkeypatch):
    await noop.trigger(80)
    monkeypatch.setattr(trigger_stream, "TRY_TIMEOUT", 1.0)
    waiting = await in_flight(scheduler, 2)
    await eventually(lambda: len(scheduler.requests) == 5)  # each of them again, by a call
    scheduler.gate.set()
    handles = await asyncio.gather(*waiting)
    assert set(asked_ids(scheduler)[3:]) == {one.id for one in handles}


async def test_a_silent_scheduler_is_left_for_the_next_address(pair, monkeypatch):
    _client, first, second = pair
    with monkeypatch.context() as patch:
        patch.setattr(trigger_stream, "TRY_TIMEOUT", 0.5)
        (waiting,) = await in_flight(first, 1)
        handle = await waiting
    assert asked_ids(second) == [handle.id]
    assert len(first.requests) == 2  # it was asked over the stream only
    await noop.trigger(86)
    assert second.trigger_streams == 1


class Unreading(ScriptedScheduler):
    """One whose streams of triggers stand still: nothing is read from them, and nothing is answered."""

    async def StreamTriggers(self, requests, context):
        self.trigger_streams += 1
        await asyncio.Event().wait()
        yield


async def test_a_request_that_cannot_be_written_is_given_up_too(start, monkeypatch):
    """Large requests fill the connection. When those before it are given up, one that is being written must not look
    canceled to its caller."""
    monkeypatch.setattr(trigger_stream, "TRY_TIMEOUT", 1.0)
    monkeypatch.setattr(coalescing, "MAX_IN_FLIGHT", 8)
    scheduler = await start(Unreading())
    async with Client(scheduler.address, deadline=10) as client:
        with client.use():
            asking = []
            for _ in range(8):
                asking.append(asyncio.create_task(tasks.trigger("test-trigger-stream", "x" * 900_000)))
                await asyncio.sleep(0.05)  # so that they are not given up at the same instant
            handles = await asyncio.gather(*asking, return_exceptions=True)
    assert [type(handle).__name__ for handle in handles] == ["RunHandle"] * 8
    assert sorted(asked_ids(scheduler)) == sorted(handle.id for handle in handles)


class Hurried(ScriptedScheduler):
    """One that notes how much time each call has left."""

    def __init__(self) -> None:
        super().__init__()
        self.left: list[float] = []

    async def Trigger(self, request, context):
        self.left.append(context.time_remaining())
        return await super().Trigger(request, context)


async def test_silence_counts_for_the_deadline(start):
    scheduler = await start(Hurried())
    scheduler.gate.clear()
    async with Client(scheduler.address, deadline=2) as client:
        with client.use():
            with pytest.raises(SchedulerUnavailableError):
                await noop.trigger(1)
    assert scheduler.streamed == 1
    assert 0 < scheduler.left[0] <= 1  # the silence has taken the other half


async def test_a_caller_that_gives_up_is_in_nobodys_way(scheduler, client):
    scheduler.outcome = name_after_payload
    waiting = await in_flight(scheduler, 3)
    waiting[1].cancel()
    await asyncio.wait([waiting[1]])
    scheduler.gate.set()
    assert [(await one).id for one in (waiting[0], waiting[2])] == ["of-0", "of-2"]
    assert (await noop.trigger(7)).id == "of-7"
    assert scheduler.trigger_streams == 1


async def test_a_request_that_is_canceled_does_not_shift_the_answers(scheduler, client):
    scheduler.gate.clear()
    stream = TriggerStream(client.connection)
    waiting = []
    for n in range(3):
        waiting.append(asyncio.create_task(stream.ask([TriggerItem(run_id=f"run-{n}")])))
        await eventually(lambda expected=n + 1: scheduler.streamed == expected)
    waiting[1].cancel()
    await asyncio.wait([waiting[1]])
    scheduler.gate.set()
    answers = [await waiting[0], await waiting[2], await stream.ask([TriggerItem(run_id="run-3")])]
    assert [[outcome.handle.run_id for outcome in answer] for answer in answers] == [["run-0"], ["run-2"], ["run-3"]]
    assert scheduler.trigger_streams == 1
    await stream.close()


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


async def test_closing_sends_what_the_same_turn_has_added(scheduler):
    client = Client(scheduler.address, deadline=10)
    with client.use():
        waiting = asyncio.create_task(noop.trigger(1))
        await asyncio.sleep(0)  # it is queued for the next turn
        await client.close()
        assert len(scheduler.requests) == 1
        await waiting
    assert [one for one in asyncio.all_tasks() if "TriggerStream" in repr(one)] == []


async def test_two_loops_have_a_stream_each(scheduler, client):
    def program() -> list[str]:
        async def ask() -> list[str]:
            with client.use():
                found = [(await noop.trigger(n)).id for n in range(5)]
            await client.close()
            return found

        return asyncio.run(ask())

    there = asyncio.create_task(asyncio.to_thread(program))
    here = [(await noop.trigger(n)).id for n in range(5)]
    both = [*here, *await there]
    assert sorted(asked_ids(scheduler)) == sorted(both)
    assert (scheduler.trigger_streams, scheduler.streamed) == (2, 10)


async def test_a_wrong_number_of_outcomes_is_an_error(scheduler, client):
    scheduler.answers_of_each = 2
    with pytest.raises(HoldfastError, match="answered 2 of 1"):
        await noop.trigger(1)


async def test_a_loop_that_triggers_once_opens_no_stream(scheduler, monkeypatch):
    monkeypatch.setattr(trigger_stream, "CALLS_FIRST", 1)
    async with Client(scheduler.address, deadline=10) as client:
        with client.use():
            await noop.trigger(1)
            assert (scheduler.trigger_streams, len(scheduler.requests)) == (0, 1)
            await noop.trigger(2)
            assert (scheduler.trigger_streams, scheduler.streamed) == (1, 1)


async def test_an_answer_that_came_while_the_loop_was_blocked_counts(scheduler):
    """The scheduler runs in another thread: here both would be blocked."""
    other = ScriptedScheduler()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        address = await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(other.start(), loop))
        async with Client(address, deadline=1) as client:
            with client.use():
                await noop.trigger(1)
                waiting = asyncio.create_task(noop.trigger(2))
                for _ in range(20):
                    await asyncio.sleep(0)
                time.sleep(1.2)
                handle = await waiting
        assert [item.run_id for request in other.requests for item in request.items].count(handle.id) == 1
    finally:
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(other.stop(), loop))
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
