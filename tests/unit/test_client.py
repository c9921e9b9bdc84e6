from __future__ import annotations

import asyncio
import contextlib
import os
import threading

import grpc
import pytest

from harness.scripted_scheduler import ScriptedScheduler
from holdfast import (
    Client,
    RunFailedError,
    RunStatus,
    SchedulerUnavailableError,
    batch,
    coalescing,
    connection,
    ids,
    runs,
    settings,
    sync,
    task,
)
from holdfast import tasks as remote
from holdfast.errors import InvalidArgumentError, NotFoundError, RequestError, TaskNotFoundError, UnauthenticatedError
from holdfast.v1 import payload_pb2, run_pb2
from holdfast.v1.payload_pb2 import Payload, TaskError
from holdfast.v1.run_pb2 import ItemError, RunHandle, TriggerItem, TriggerOutcome
from holdfast.v1.run_service_pb2 import RunResult

DEAD = "127.0.0.1:1"


@task(id="test-client-double")
async def double(payload: int) -> int:
    return payload * 2


@pytest.fixture(params=[True, False], ids=["stream", "calls"])
async def scheduler(request):
    scripted = ScriptedScheduler(streams_triggers=request.param)
    await scripted.start()
    yield scripted
    scripted.gate.set()
    await scripted.stop()


@pytest.fixture
async def client(scheduler):
    async with Client(scheduler.address, api_key="secret", deadline=10) as made:
        with made.use():
            yield made


async def eventually(condition) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


def completed(run_id: str, value: bytes = b"4") -> RunResult:
    return RunResult(run_id=run_id, status=run_pb2.RUN_STATUS_COMPLETED, output=Payload(data=value))


async def test_triggers_of_one_turn_travel_together(scheduler, client):
    handles = await asyncio.gather(*[double.trigger(n) for n in range(50)])
    assert len(scheduler.requests) == 1
    items = scheduler.requests[0].items
    assert [handle.id for handle in handles] == [item.run_id for item in items]
    assert [item.payload.data for item in items] == [b"%d" % n for n in range(50)]
    assert scheduler.requests[0].namespace == "default"
    assert scheduler.metadata[0]["authorization"] == "Bearer secret"


async def test_triggers_gather_while_calls_are_in_flight(scheduler, client):
    scheduler.gate.clear()
    pending = []
    for n in range(coalescing.MAX_IN_FLIGHT):
        pending.append(asyncio.create_task(double.trigger(n)))
        await eventually(lambda expected=n + 1: len(scheduler.requests) == expected)
    pending += [asyncio.create_task(double.trigger(n)) for n in range(100)]
    await asyncio.sleep(0)
    assert len(scheduler.requests) == coalescing.MAX_IN_FLIGHT
    scheduler.gate.set()
    await asyncio.gather(*pending)
    assert len(scheduler.requests) == coalescing.MAX_IN_FLIGHT + 1
    assert len(scheduler.requests[-1].items) == 100


async def test_a_call_has_bounded_items_and_bytes(scheduler, client):
    await asyncio.gather(*[double.trigger(n) for n in range(2500)])
    assert sorted(len(request.items) for request in scheduler.requests) == [500, 1000, 1000]
    scheduler.requests.clear()
    await asyncio.gather(*[remote.trigger("x", "x" * 400_000) for _ in range(5)])
    assert sorted(len(request.items) for request in scheduler.requests) == [1, 2, 2]


async def test_each_caller_gets_its_own_outcome(scheduler, client):
    def outcome(item: TriggerItem) -> TriggerOutcome:
        if item.payload.data == b"1":
            error = ItemError(code=5, message="no task; did you mean 'triple'?", reason="TASK_NOT_FOUND")
            error.metadata["near"] = "triple"
            return TriggerOutcome(error=error)
        return TriggerOutcome(handle=RunHandle(run_id="cached", is_cached=True, payload_differs=True))

    scheduler.outcome = outcome
    good, bad = await asyncio.gather(double.trigger(0), double.trigger(1), return_exceptions=True)
    assert not isinstance(good, BaseException)
    assert (good.id, good.is_cached, good.payload_differs) == ("cached", True, True)
    assert isinstance(bad, TaskNotFoundError)
    assert bad.metadata == {"near": "triple"}


async def test_a_call_is_repeated_with_the_same_ids(scheduler, client):
    scheduler.failures = [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE]
    handle = await double.trigger(1)
    assert len(scheduler.requests) == 4
    assert {request.items[0].run_id for request in scheduler.requests} == {handle.id}


async def test_other_failures_are_not_repeated(scheduler, client):
    scheduler.failures = [grpc.StatusCode.UNAUTHENTICATED]
    outcomes = await asyncio.gather(double.trigger(1), double.trigger(2), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [UnauthenticatedError] * 2
    assert outcomes[0] is not outcomes[1]
    scheduler.failures = [grpc.StatusCode.INTERNAL]
    with pytest.raises(RequestError, match="scripted"):
        await double.trigger(1)
    assert len(scheduler.requests) == 2


async def test_the_next_address_is_tried(scheduler):
    for addresses in (f"{DEAD},{scheduler.address}", f"{scheduler.address},{DEAD}"):
        async with Client(addresses, deadline=10) as client:
            with client.use():
                await double.trigger(1)
                await double.trigger(2)
    assert len(scheduler.requests) == 4


async def test_fail_over_when_a_scheduler_goes(scheduler, client):
    other = ScriptedScheduler()
    await other.start()
    async with Client(f"{scheduler.address},{other.address}", deadline=10) as both:
        with both.use():
            await double.trigger(1)
            first, second = (scheduler, other) if scheduler.requests else (other, scheduler)
            await first.stop()
            await double.trigger(2)
            assert len(second.requests) == 1
    await other.stop()


async def test_nobody_there_is_said_with_the_address():
    async with Client(DEAD, deadline=0.3) as client:
        with client.use():
            with pytest.raises(SchedulerUnavailableError, match=rf"{DEAD}.*HOLDFAST_ADDRESS") as caught:
                await double.trigger(1)
            assert isinstance(caught.value, ConnectionError)
            handle = sync.RunHandle  # the same for results
            assert handle is not None
            with pytest.raises(SchedulerUnavailableError, match=DEAD):
                await client.result(ids.new_run_id())


async def test_results_of_many_handles_travel_on_one_stream(scheduler, client):
    handles = await asyncio.gather(*[double.trigger(n) for n in range(20)])
    waiting = [asyncio.create_task(handle.result()) for handle in handles]
    await eventually(lambda: scheduler.streams and len(scheduler.streams[0]) == 20)
    await scheduler.finish(*[completed(handle.id, b"%d" % place) for place, handle in enumerate(handles)])
    assert await asyncio.gather(*waiting) == list(range(20))
    assert len(scheduler.streams) == 1


async def test_a_broken_stream_is_made_again_with_the_pending_ids(scheduler, client):
    one, two = await asyncio.gather(double.trigger(1), double.trigger(2))
    waiting = [asyncio.create_task(one.result()), asyncio.create_task(two.result())]
    await eventually(lambda: scheduler.streams and len(scheduler.streams[0]) == 2)
    await scheduler.finish(completed(one.id, b"2"))
    assert await waiting[0] == 2
    await scheduler.break_streams()
    await eventually(lambda: len(scheduler.streams) == 2 and scheduler.streams[1] == [two.id])
    await scheduler.finish(completed(two.id, b"4"))
    assert await waiting[1] == 4


async def test_a_result_outlives_a_restart_of_the_scheduler(scheduler, client):
    handle = await double.trigger(1)
    waiting = asyncio.create_task(handle.result())
    await eventually(lambda: scheduler.streams == [[handle.id]])
    await scheduler.stop()
    await scheduler.start(scheduler.address)
    await eventually(lambda: scheduler.streams[-1] == [handle.id] and len(scheduler.streams) > 1)
    await scheduler.finish(completed(handle.id))
    assert await waiting == 4


async def test_a_failed_run_raises_with_status_error_and_id(scheduler, client):
    handle = await double.trigger(1)
    error = TaskError(
        kind=payload_pb2.TASK_ERROR_KIND_USER, type="ValueError", message="no", details=Payload(data=b"7")
    )
    await scheduler.finish(RunResult(run_id=handle.id, status=run_pb2.RUN_STATUS_FAILED, error=error))
    with pytest.raises(RunFailedError) as caught:
        await handle.result()
    assert (caught.value.status, caught.value.run_id) == (RunStatus.FAILED, handle.id)
    assert (caught.value.error.type, caught.value.error.message, caught.value.error.details) == ("ValueError", "no", 7)
    result = await handle.wait()
    assert not result.ok


async def test_a_timeout_gives_the_id_back(scheduler, client):
    handle = await double.trigger(1)
    with pytest.raises(TimeoutError):
        await handle.result(timeout=0.05)
    await eventually(lambda: scheduler.removed == [handle.id] or scheduler.streams in ([], [[]]))


async def test_two_callers_may_await_one_run_and_one_may_give_up(scheduler, client):
    handle = await double.trigger(1)
    one, two = asyncio.create_task(handle.result()), asyncio.create_task(handle.result())
    await eventually(lambda: scheduler.streams == [[handle.id]])
    one.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await one
    await scheduler.finish(completed(handle.id))
    assert await two == 4
    assert scheduler.removed == []


async def test_an_unknown_run_is_not_found(scheduler, client):
    await scheduler.finish(RunResult(run_id="run_x"))
    handle = await double.trigger(1)
    handle.id = "run_x"
    with pytest.raises(NotFoundError, match="run_x"):
        await handle.result()
    with pytest.raises(NotFoundError) as caught:
        await runs.retrieve("run_x")
    assert caught.value.metadata == {"run_id": "x"}


async def test_a_run_as_it_stands(scheduler, client):
    scheduler.run = run_pb2.Run(
        id="run_1", task_id="double", status=run_pb2.RUN_STATUS_DELAYED, status_reason=99, metadata=b'{"a": 1}'
    )
    scheduler.run.created_at.FromSeconds(5)
    scheduler.run.idempotency_key.parts.add(number=5)
    run = await runs.retrieve("run_1")
    assert (run.id, run.status, run.status_reason, run.metadata) == ("run_1", RunStatus.DELAYED, "99", {"a": 1})
    assert run.created_at is not None
    assert run.created_at.timestamp() == 5
    assert run.idempotency_key == (5,)
    assert not run.is_final


async def test_batches_outside_a_run(scheduler, client):
    handle = await batch.trigger([double.item(1, tags="a"), remote.item("other", {})], idempotency_key="night")
    (request,) = scheduler.batches
    assert request.batch_id == handle.id
    assert request.idempotency_key.parts[0].text == "night"
    await scheduler.finish(*[completed(run.id, b"4") for run in handle.runs])
    assert (await handle.results(timeout="10s")).unwrap() == [4, 4]


async def test_the_blocking_facade_outside_a_run(scheduler, client):
    def program() -> int:
        handle = double.sync.trigger(2)
        other = sync.tasks.trigger("test-client-double", 3)
        assert other.id != handle.id
        return handle.result(timeout="10s")

    waiting = asyncio.create_task(asyncio.to_thread(program))
    await eventually(lambda: scheduler.streams and scheduler.streams[0])
    await scheduler.finish(completed(scheduler.streams[0][0]))
    assert await waiting == 4


def test_each_loop_has_its_own_connection():
    async def scenario() -> None:
        scheduler = ScriptedScheduler()
        made = Client(await scheduler.start(), deadline=10)

        async def use() -> None:
            with made.use():
                await double.trigger(1)
            await made.close()

        thread = threading.Thread(target=lambda: asyncio.run(use()))
        thread.start()
        await use()
        await asyncio.to_thread(thread.join)
        assert len(scheduler.requests) == 2
        await scheduler.stop()

    asyncio.run(scenario())


def test_a_forked_process_makes_connections_of_its_own(monkeypatch):
    async def scenario() -> None:
        client = Client(DEAD)
        before = client.connection
        assert client.connection is before
        monkeypatch.setattr("holdfast.client.os.getpid", lambda: -1)
        assert client.connection is not before

    asyncio.run(scenario())
    monkeypatch.undo()
    assert os.getpid() > 0


@pytest.mark.parametrize(
    ("value", "addresses"),
    [
        ("a:1", ("a:1",)),
        ("a", ("a:4653",)),
        (" a:1 , b:2,", ("a:1", "b:2")),
        ("[::1]:7", ("[::1]:7",)),
        ("[::1]", ("[::1]:4653",)),
    ],
)
def test_addresses(value, addresses):
    assert settings.parse_addresses(value) == addresses


@pytest.mark.parametrize("value", ["", ",", "a:", ":1", "a:x", "a:0", "a:70000", "http://a:1"])
def test_bad_addresses(value):
    with pytest.raises(InvalidArgumentError, match="address"):
        settings.parse_addresses(value)


def test_settings_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("HOLDFAST_ADDRESS", "a:1,b:2")
    monkeypatch.setenv("HOLDFAST_API_KEY", "k")
    monkeypatch.setenv("HOLDFAST_NAMESPACE", "n")
    found = settings.resolve()
    assert (found.addresses, found.api_key, found.namespace, found.deadline) == (("a:1", "b:2"), "k", "n", 30.0)
    assert settings.resolve("c:3", "", "m", "5s").addresses == ("c:3",)


def test_back_off_tries_each_address_first_then_grows_to_its_ceiling():
    back_off = connection.BackOff(3)
    pauses = [back_off.next() for _ in range(60)]
    assert pauses[0] == pauses[1] == 0
    assert 0 < pauses[2] <= connection.FIRST_BACK_OFF
    assert all(pause <= connection.LONGEST_BACK_OFF for pause in pauses)
    assert pauses[-1] >= connection.LONGEST_BACK_OFF / 2
