"""Streams of a bare worker to real schedulers: who hears of what, over which connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from grpc import aio

from harness.edge import refused
from holdfast import ids
from holdfast.v1.payload_pb2 import Payload
from holdfast.v1.run_pb2 import RUN_STATUS_CANCELED, RUN_STATUS_QUEUED, TriggerItem
from holdfast.v1.run_service_pb2 import (
    AwaitRunsRequest,
    CancelRunRequest,
    ListRunsRequest,
    TriggerRequest,
    WaitRunRequest,
)
from holdfast.v1.run_service_pb2_grpc import RunServiceStub
from holdfast.v1.task_pb2 import TaskDefinition
from holdfast.v1.worker_service_pb2 import (
    CheckpointRecord,
    ChildRecord,
    Completed,
    ConnectRequest,
    ConnectResponse,
    Credit,
    Delivery,
    Held,
    HeldRun,
    Hello,
    Park,
    Report,
    Reports,
    Start,
    WaitRecord,
    Welcome,
)
from holdfast.v1.worker_service_pb2_grpc import WorkerServiceStub
from holdfast_scheduler.database import Database
from holdfast_scheduler.engine import Engine
from holdfast_scheduler.migrations import migrate
from holdfast_scheduler.services.server import Server
from holdfast_scheduler.services.worker_service import WorkerService
from holdfast_scheduler.settings import Settings

DEADLINE_S = 30.0


class Scheduler:
    """One replica in this process."""

    def __init__(self, engine: Engine, service: WorkerService, channel: aio.Channel) -> None:
        self.engine, self.service, self.channel = engine, service, channel
        self.runs = RunServiceStub(channel)

    async def trigger(self) -> None:
        await self.runs.Trigger(TriggerRequest(items=[TriggerItem(task_id="t", payload=Payload(data=b"{}"))]))


@asynccontextmanager
async def scheduler(url: str, **changes: Any) -> AsyncIterator[Scheduler]:
    migrate(url)
    database = Database.open(url)
    settings = Settings(database_url=url, listen="127.0.0.1:0", stop_grace=0.1, **changes)
    engine = Engine(database, settings)
    service = WorkerService(engine)
    server = Server(engine, service)
    await engine.start()
    try:
        async with aio.insecure_channel(await server.start()) as channel, asyncio.timeout(DEADLINE_S):
            yield Scheduler(engine, service, channel)
    finally:
        await server.stop()
        await engine.stop()
        database.close()


class Stream:
    """One stream of a worker that has the task t."""

    def __init__(self, to: Scheduler, of: Welcome | None = None) -> None:
        self.call: Any = WorkerServiceStub(to.channel).Connect()
        self._of = of

    async def open(self, *held: HeldRun) -> Welcome:
        hello = Hello(protocol_major=1, worker_name="bare", version="1", slots=10, tasks=[TaskDefinition(id="t")])
        if self._of is not None:
            hello.session_id, hello.session_secret = self._of.session_id, self._of.session_secret
        await self.call.write(ConnectRequest(hello=hello))
        welcome: Welcome = (await self.call.read()).welcome
        if welcome.resumed:
            await self.call.write(ConnectRequest(held=Held(runs=held, last=True)))
            await self.until(lambda frame: frame.HasField("held_answer"))
        return welcome

    async def take(self, slots: int = 10) -> Start:
        """Have one run started."""
        await self.call.write(ConnectRequest(credit=Credit(free_slots=slots, free_places=slots)))
        return (await self.delivery(lambda delivery: bool(delivery.starts))).starts[0]

    async def report(self, start: Start, frame_no: int, **parts: Any) -> Delivery:
        """Report, and wait for the acknowledgement."""
        report = Report(run_id=start.run_id, fence=start.fence, number=frame_no, **parts)
        await self.call.write(ConnectRequest(reports=Reports(frame_no=frame_no, reports=[report])))
        return await self.delivery(lambda delivery: delivery.committed.up_to == frame_no)

    async def delivery(self, wanted: Callable[[Delivery], bool]) -> Delivery:
        return (await self.until(lambda frame: frame.HasField("delivery") and wanted(frame.delivery))).delivery

    async def until(self, wanted: Callable[[ConnectResponse], bool]) -> ConnectResponse:
        while True:
            frame = await self.call.read()
            assert frame is not aio.EOF, await self.call.details()
            if wanted(frame):
                return frame

    async def end(self) -> None:
        """Read to the end. Raises: AioRpcError."""
        while await self.call.read() is not aio.EOF:
            pass
        code = await self.call.code()
        if code is not grpc.StatusCode.OK:
            initial, trailing = aio.Metadata(), await self.call.trailing_metadata()
            raise aio.AioRpcError(code, initial, trailing, await self.call.details())


def parks(seconds: float = 3_600) -> dict[str, Any]:
    """What a body reports that waits."""
    delay = Duration()
    delay.FromTimedelta(timedelta(seconds=seconds))
    wait = CheckpointRecord(seq=1, identity="wait", name="wait", wait=WaitRecord(delay=delay))
    return {"records": [wait], "park": Park(seen_settled=0)}


async def test_the_older_of_two_connections_ends_as_superseded(database_url: str) -> None:
    async with scheduler(database_url) as one:
        first = Stream(one)
        welcome = await first.open()
        second = Stream(one, welcome)
        assert (await second.open()).resumed
        async with refused(grpc.StatusCode.UNAVAILABLE, "CONNECTION_SUPERSEDED"):
            await first.end()
        await one.trigger()
        assert (await second.take()).task_id == "t"


async def test_the_older_of_two_connections_ends_as_superseded_on_another_replica(postgres_url: str) -> None:
    async with scheduler(postgres_url) as one, scheduler(postgres_url) as other:
        first = Stream(one)
        welcome = await first.open()
        second = Stream(other, welcome)
        assert (await second.open()).resumed
        async with refused(grpc.StatusCode.UNAVAILABLE, "CONNECTION_SUPERSEDED"):
            await first.end()


def broken(*_: Any) -> None:
    raise ZeroDivisionError("of the test")


async def test_what_cannot_be_sent_to_a_worker_ends_its_stream_only(database_url: str) -> None:
    async with scheduler(database_url) as one:
        other = Stream(one)
        await other.open()
        await one.trigger()
        held = await other.take(1)
        first = Stream(one)
        welcome = await first.open()
        one.engine._connections[welcome.session_id].deliver = broken  # type: ignore[method-assign]
        await first.call.write(ConnectRequest(credit=Credit(free_slots=1, free_places=1)))
        await one.trigger()
        with pytest.raises(aio.AioRpcError):
            await first.end()
        await asyncio.sleep(3 * one.engine.settings.reconnect_grace)  # its worker is not taken for lost
        second = Stream(one, welcome)
        assert (await second.open()).resumed
        assert (await second.take()).task_id == "t"
        await other.report(held, 1, completed=Completed(output=Payload(data=b"1")))


async def test_what_a_defect_kept_a_commit_from_telling_is_looked_for(database_url: str) -> None:
    """And no worker is taken for lost, although all streams end."""
    async with scheduler(database_url) as one:
        worker = Stream(one)
        welcome = await worker.open()
        await one.trigger()
        start = await worker.take(1)
        awaited = one.runs.AwaitRuns()
        await awaited.write(AwaitRunsRequest(add=[ids.to_text(ids.RUN, start.run_id)]))
        told, one.engine._replicas.left = one.engine._replicas.left, broken  # type: ignore[method-assign]
        await one.trigger()
        with pytest.raises(aio.AioRpcError):
            await worker.end()
        one.engine._replicas.left = told  # type: ignore[method-assign]
        await asyncio.sleep(3 * one.engine.settings.reconnect_grace)
        worker = Stream(one, welcome)
        assert (await worker.open(HeldRun(run_id=start.run_id, fence=start.fence))).resumed
        one.engine._replicas.left = broken  # type: ignore[method-assign]
        end = Report(run_id=start.run_id, fence=start.fence, number=1, completed=Completed(output=Payload(data=b"1")))
        await worker.call.write(ConnectRequest(reports=Reports(frame_no=1, reports=[end])))
        response = await awaited.read()  # of which a look tells: the commit that brought it could not
        assert [result.output.data for result in response.results] == [b"1"]


async def test_a_parked_body_whose_run_is_canceled_through_another_replica_is_dropped(postgres_url: str) -> None:
    async with scheduler(postgres_url) as one, scheduler(postgres_url) as other:
        worker = Stream(one)
        welcome = await worker.open()
        for is_reconnected in (False, True):
            await one.trigger()
            start = await worker.take()
            await worker.report(start, 1, **parks())
            if is_reconnected:
                worker.call.cancel()
                worker = Stream(one, welcome)
                assert (await worker.open(HeldRun(run_id=start.run_id, fence=1))).resumed
            run_id = next(iter(await _shown(other)))
            await other.runs.CancelRun(CancelRunRequest(run_id=run_id))
            drop = (await worker.delivery(lambda delivery: bool(delivery.drops))).drops[0]
            assert (drop.run_id, drop.fence) == (start.run_id, 1)
        worker.call.cancel()


async def _shown(to: Scheduler) -> list[str]:
    return [run.id for run in (await to.runs.ListRuns(ListRunsRequest(filter='status = "WAITING"'))).runs]


async def test_nothing_is_remembered_of_runs_that_have_ended(database_url: str) -> None:
    async with scheduler(database_url) as one:
        worker = Stream(one)
        await worker.open()
        (stream,) = one.service._streams
        for _ in range(3):
            await one.trigger()
            start = await worker.take()
            assert set(stream.told) == {start.run_id}
            await worker.report(start, 1, completed=Completed(output=Payload(data=b"1")))
        assert stream.told == {}
        with suppress(asyncio.CancelledError):
            worker.call.cancel()


async def test_promise_7_a_lease_as_short_as_the_pause_between_looks_ends(database_url: str) -> None:
    async with scheduler(database_url, lease=1.0, renew_interval=0.3) as one:
        worker = Stream(one)
        await worker.open()
        await one.trigger()
        await worker.take()
        async with refused(grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN"):
            await worker.end()  # it never renews its lease
        (run,) = (await one.runs.ListRuns(ListRunsRequest())).runs
        assert (run.status, run.recoveries) == (RUN_STATUS_QUEUED, 1)


async def test_postponed_effects_are_taken_up_at_once(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by the look of each second: there is none here."""
    monkeypatch.setattr("holdfast_scheduler.propagation.FAN_OUT_LIMIT", 2)
    monkeypatch.setattr("holdfast_scheduler.commit_loop.LOOK_ROWS", 1)
    async with scheduler(database_url, look_interval=3_600.0, lease=36_000.0) as one:
        worker = Stream(one)
        await worker.open()
        await one.trigger()
        root = await worker.take(1)
        items = [TriggerItem(run_id=ids.new_run_id(), task_id="t", payload=Payload(data=b"{}")) for _ in range(7)]
        calls = [
            CheckpointRecord(seq=at, identity=str(at), name="t", child=ChildRecord(item=item, wait=True))
            for at, item in enumerate(items, 1)
        ]
        await worker.report(root, 1, records=calls, park=Park(seen_settled=0))
        await one.runs.CancelRun(CancelRunRequest(run_id=ids.to_text(ids.RUN, root.run_id)))
        for item in items:
            answer = await one.runs.WaitRun(WaitRunRequest(run_id=item.run_id, timeout=Duration(seconds=20)))
            assert answer.run.status == RUN_STATUS_CANCELED
