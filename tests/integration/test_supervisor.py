"""A real supervisor process and stub executors against a scripted WorkerService over real gRPC."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import psutil
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from harness.ports import free_port
from harness.processes import ServerProcess
from harness.waiting import eventually
from holdfast.v1 import worker_service_pb2_grpc
from holdfast.v1.worker_service_pb2 import (
    Cancel,
    Committed,
    ConnectRequest,
    ConnectResponse,
    Delivery,
    Drop,
    GoAway,
    HeldAnswer,
    Hello,
    Renewed,
    Report,
    Resume,
    Start,
    Welcome,
)

STUB = Path(__file__).with_name("stub_executor.py")
LAUNCH = """
import json, sys
from holdfast_worker.main import run_worker
sys.exit(run_worker(**json.loads(sys.argv[1])))
"""
TASKS = ("done", "park", "hang", "crash", "stuck")
RUN = b"r" * 16
OTHER = b"o" * 16

Context = grpc.aio.ServicerContext[ConnectRequest, ConnectResponse]


class Connection:
    """One accepted stream."""

    def __init__(self, hello: Hello, context: Context, metadata: dict[str, str]) -> None:
        self.hello = hello
        self.metadata = metadata
        self.frames: list[ConnectRequest] = []
        self.over = False
        self._context = context

    @property
    def reports(self) -> list[Report]:
        return [report for frame in self.frames for report in frame.reports.reports]

    async def send(self, response: ConnectResponse) -> None:
        await self._context.write(response)

    async def deliver(self, **parts: Any) -> None:
        await self.send(ConnectResponse(delivery=Delivery(**parts)))

    async def commit(self) -> None:
        last = max(frame.reports.frame_no for frame in self.frames)
        await self.deliver(committed=Committed(up_to=last))

    async def heard(self, condition: Callable[[Connection], object], what: str) -> None:
        async def found() -> object:
            return condition(self)

        await eventually(found, what)

    async def heard_reports(self, count: int) -> list[Report]:
        await self.heard(lambda c: len(c.reports) >= count, f"{count} reports")
        return self.reports

    async def heard_credit(self, slots: int) -> None:
        def told(connection: Connection) -> bool:
            credits = [f.reports.credit if f.HasField("reports") else f.credit for f in connection.frames]
            return any(credit.free_slots == slots for credit in credits)

        await self.heard(told, f"credit of {slots} slots")


class Scheduler(worker_service_pb2_grpc.WorkerServiceServicer):
    """Welcomes every worker, answers renewals while `renews`, and leaves the rest to the test."""

    def __init__(self) -> None:
        self.port = free_port()
        self.connections: list[Connection] = []
        self.resumes = True
        self.renews = True
        self.refusal: tuple[grpc.StatusCode, str, str] | None = None
        self.lease_ms = 10_000
        self.grace_ms = 30_000
        self._server = grpc.aio.server()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        self._server = grpc.aio.server()
        worker_service_pb2_grpc.add_WorkerServiceServicer_to_server(self, self._server)
        self._server.add_insecure_port(self.address)
        await self._server.start()

    async def stop(self) -> None:
        await self._server.stop(0)

    async def Connect(self, requests: AsyncIterator[ConnectRequest], context: Context) -> None:
        hello = (await anext(requests)).hello
        if self.refusal is not None:
            code, reason, message = self.refusal
            info = AnyMessage()
            info.Pack(ErrorInfo(reason=reason, domain="holdfast.dev"))
            status = Status(code=code.value[0], message=message, details=[info])
            await context.abort_with_status(rpc_status.to_status(status))
        metadata = {str(k): str(v) for k, v in context.invocation_metadata() or ()}
        connection = Connection(hello, context, metadata)
        resumed = self.resumes and bool(hello.session_id)
        await context.write(ConnectResponse(welcome=self._welcome(resumed)))
        self.connections.append(connection)
        async for frame in requests:
            connection.frames.append(frame)
            if frame.HasField("renew") and self.renews:
                await context.write(ConnectResponse(renewed=Renewed(nonce=frame.renew.nonce)))
            if frame.HasField("held") and frame.held.last:
                await context.write(ConnectResponse(held_answer=HeldAnswer()))
        connection.over = True

    def _welcome(self, resumed: bool) -> Welcome:
        return Welcome(
            session_id=b"s" * 16,
            session_secret=b"secret",
            connection_no=len(self.connections) + 1,
            resumed=resumed,
            lease=_milliseconds(self.lease_ms),
            renew_interval=_milliseconds(self.lease_ms / 4),
            hold=Duration(seconds=300),
            cancel_grace=_milliseconds(self.grace_ms),
        )

    async def connection(self, number: int = 1) -> Connection:
        async def found() -> Connection | None:
            return self.connections[number - 1] if len(self.connections) >= number else None

        connection = await eventually(found, f"connection {number}")
        assert connection is not None
        return connection


def _milliseconds(value: float) -> Duration:
    duration = Duration()
    duration.FromMilliseconds(int(value))
    return duration


@asynccontextmanager
async def scheduler(**settings: Any) -> AsyncIterator[Scheduler]:
    fake = Scheduler()
    for name, value in settings.items():
        setattr(fake, name, value)
    await fake.start()
    try:
        yield fake
    finally:
        await fake.stop()


StartWorker = Callable[..., ServerProcess]


@pytest.fixture
def start_worker(tmp_path: Path) -> Any:
    started: list[ServerProcess] = []

    def start(
        *addresses: str, targets: tuple[str, ...] = ("done", "park", "hang", "crash", "stuck"), **extra: Any
    ) -> Any:
        environment = {**os.environ, **extra.pop("environment", {})}
        settings = {
            "targets": targets,
            "addresses": addresses,
            "slots": 10,
            "executor_command": [sys.executable, str(STUB)],
            **extra,
        }
        command = [sys.executable, "-c", LAUNCH, json.dumps(settings)]
        worker = ServerProcess("worker", command, environment, tmp_path / f"worker{len(started)}.log")
        started.append(worker)
        return worker

    yield start
    for worker in started:
        worker.kill()


def start(run: bytes, task: str, seq: int = 1, fence: int = 1) -> Start:
    return Start(start_seq=seq, run_id=run, fence=fence, task_id=task)


async def exited(worker: ServerProcess) -> int:
    async def code() -> tuple[int] | None:
        return None if worker.exit_code is None else (worker.exit_code,)

    found = await eventually(code, "the worker ends")
    assert found is not None
    return found[0]


async def test_a_run_is_started_and_its_report_comes_back(start_worker: StartWorker) -> None:
    async with scheduler() as fake:
        start_worker(fake.address, environment={"HOLDFAST_API_KEY": "key-1"}, name="w1", namespace="shop")
        connection = await fake.connection()
        assert connection.metadata["authorization"] == "Bearer key-1"
        hello = connection.hello
        assert (hello.worker_name, hello.namespace, hello.slots, len(hello.version)) == ("w1", "shop", 10, 12)
        assert {task.id for task in hello.tasks} == {"done", "park", "hang", "crash", "stuck"}
        await connection.heard_credit(10)
        await connection.deliver(starts=[start(RUN, "done"), start(OTHER, "park", seq=2)])
        ended, parked = await connection.heard_reports(2)
        assert ended.HasField("completed")
        assert parked.HasField("park")
        await connection.commit()
        await connection.deliver(resumes=[Resume(start_seq=3, run_id=OTHER, fence=2)])
        resumed = (await connection.heard_reports(3))[2]
        assert (resumed.run_id, resumed.fence, resumed.HasField("completed")) == (OTHER, 2, True)


async def test_a_scheduler_that_restarts_finds_the_worker_with_its_runs(start_worker: StartWorker) -> None:
    async with scheduler() as fake:
        start_worker(fake.address)
        connection = await fake.connection()
        await connection.heard_credit(10)
        await connection.deliver(starts=[start(RUN, "done"), start(OTHER, "hang", seq=2)])
        await connection.heard_reports(2)
        await fake.stop()
        await fake.start()
        again = await fake.connection(2)
        assert (again.hello.session_id, again.hello.session_secret) == (b"s" * 16, b"secret")
        reports = await again.heard_reports(2)  # not committed: sent again
        assert [report.run_id for report in reports] == [RUN, OTHER]
        assert {run.run_id for frame in again.frames for run in frame.held.runs} == {RUN, OTHER}
        await again.heard_credit(9)


async def test_the_next_address_is_tried_when_one_does_not_answer(start_worker: StartWorker) -> None:
    async with scheduler() as fake:
        start_worker(f"127.0.0.1:{free_port()}", fake.address)
        await fake.connection()


async def test_a_scheduler_that_goes_away_is_left_for_another_without_a_gap(start_worker: StartWorker) -> None:
    async with scheduler() as first, scheduler() as second:
        start_worker(first.address, second.address)
        connection = await first.connection()
        await connection.send(ConnectResponse(go_away=GoAway(within=Duration(seconds=30))))
        other = await second.connection()
        assert other.hello.session_id == b"s" * 16
        await other.heard_credit(10)


async def test_a_lease_that_ends_without_contact_gives_up_the_stream_and_keeps_the_work(
    start_worker: StartWorker,
) -> None:
    async with scheduler(lease_ms=400, renews=False) as fake:
        worker = start_worker(fake.address)
        connection = await fake.connection()
        await connection.deliver(starts=[start(RUN, "hang")])
        await fake.connection(2)
        fake.renews = True
        await fake.connection(len(fake.connections))
        assert "event=hold_begins" in worker.log_text()
        await fake.connections[-1].heard(
            lambda c: any(run.run_id == RUN for f in c.frames for run in f.held.runs), "the run is still held"
        )


async def test_an_executor_that_dies_costs_its_runs_only_and_is_replaced(start_worker: StartWorker) -> None:
    async with scheduler() as fake:
        start_worker(fake.address, processes=2)
        connection = await fake.connection()
        await connection.heard(lambda c: any(f.credit.free_places == 100 for f in c.frames), "both executors")
        await connection.deliver(starts=[start(RUN, "hang"), start(OTHER, "crash", seq=2)])
        _, lost = await connection.heard_reports(2)
        assert lost.run_id == OTHER
        assert "exited with code 3" in lost.lost.evidence
        await connection.commit()
        await connection.heard(lambda c: c.frames[-1].credit.free_places == 99, "the executor is replaced")


async def test_a_stuck_executor_is_killed_after_the_cancel_grace(start_worker: StartWorker) -> None:
    async with scheduler(grace_ms=1) as fake:
        start_worker(fake.address)
        connection = await fake.connection()
        await connection.heard_credit(10)
        await connection.deliver(starts=[start(RUN, "stuck")])
        await connection.deliver(cancels=[Cancel(run_id=RUN, fence=1)])
        _, lost = await connection.heard_reports(2)
        assert "killed by its worker" in lost.lost.evidence


async def test_sigterm_drains(start_worker: StartWorker) -> None:
    async with scheduler() as fake:
        worker = start_worker(fake.address)
        connection = await fake.connection()
        await connection.heard_credit(10)
        await connection.deliver(starts=[start(RUN, "hang"), start(OTHER, "park", seq=2)])
        await connection.heard_reports(2)
        await connection.commit()
        os.kill(worker.pid, signal.SIGTERM)
        await connection.heard_credit(0)
        await connection.deliver(cancels=[Cancel(run_id=RUN, fence=1)])  # the work comes to its end
        await connection.heard_reports(3)
        await connection.commit()
        await connection.heard(lambda c: c.frames[-1].HasField("goodbye"), "goodbye")
        assert await exited(worker) == 0


async def test_what_does_not_end_within_the_drain_timeout_is_handed_back(start_worker: StartWorker) -> None:
    async with scheduler() as fake:
        worker = start_worker(fake.address, drain_timeout_s=0.2)
        connection = await fake.connection()
        await connection.heard_credit(10)
        await connection.deliver(starts=[start(RUN, "stuck")])
        await connection.heard_reports(1)
        await connection.commit()
        os.kill(worker.pid, signal.SIGTERM)
        _, report = await connection.heard_reports(2)
        assert report.HasField("released")
        await connection.commit()
        assert await exited(worker) == 0


async def test_a_second_signal_ends_now(start_worker: StartWorker) -> None:
    async with scheduler() as fake:
        worker = start_worker(fake.address)
        connection = await fake.connection()
        await connection.heard_credit(10)
        await connection.deliver(starts=[start(RUN, "hang")])
        await connection.heard_reports(1)
        os.kill(worker.pid, signal.SIGTERM)
        await connection.heard_credit(0)
        os.kill(worker.pid, signal.SIGINT)
        assert await exited(worker) == 1
        assert connection.frames[-1].HasField("goodbye")


async def test_killing_the_supervisor_kills_the_executors(start_worker: StartWorker) -> None:
    async with scheduler() as fake:
        worker = start_worker(fake.address, processes=2)
        connection = await fake.connection()
        await connection.heard(lambda c: any(f.credit.free_places == 100 for f in c.frames), "both executors")
        await connection.deliver(starts=[start(RUN, "stuck")])
        await connection.heard_reports(1)
        executors = psutil.Process(worker.pid).children()
        assert len(executors) == 2
        worker.kill_leader()
        _, alive = psutil.wait_procs(executors, timeout=10)
        assert not alive


async def test_a_session_that_is_not_known_any_more_drops_the_work(start_worker: StartWorker) -> None:
    async with scheduler() as fake:
        start_worker(fake.address)
        connection = await fake.connection()
        await connection.heard_credit(10)
        await connection.deliver(starts=[start(RUN, "hang")])
        fake.resumes = False
        await fake.stop()
        await fake.start()
        await (await fake.connection(2)).heard_credit(10)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (grpc.StatusCode.FAILED_PRECONDITION, "PROTOCOL_MISMATCH"),
        (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED"),
    ],
)
async def test_a_worker_that_is_refused_says_so_and_ends(
    start_worker: StartWorker, code: grpc.StatusCode, reason: str
) -> None:
    async with scheduler(refusal=(code, reason, "the way out")) as fake:
        worker = start_worker(fake.address)
        assert await exited(worker) == 3
        (line,) = [line for line in worker.log_text().splitlines() if " ERROR " in line]
        assert reason in line
        assert "the way out" in line


async def test_a_target_that_cannot_be_loaded_ends_the_worker(start_worker: StartWorker) -> None:
    worker = start_worker("127.0.0.1:1", targets=("missing",))
    assert await exited(worker) == 2
    assert "target missing: no such module" in worker.log_text()


async def test_a_drop_frees_the_slot(start_worker: StartWorker) -> None:
    async with scheduler() as fake:
        start_worker(fake.address)
        connection = await fake.connection()
        await connection.heard_credit(10)
        await connection.deliver(starts=[start(RUN, "hang")])
        await connection.heard_reports(1)
        await connection.deliver(drops=[Drop(run_id=RUN, fence=1, reason="test")])
        await connection.heard(lambda c: c.frames[-1].credit.after_start_seq == 1, "credit after the drop")
        assert connection.frames[-1].credit.free_slots == 10
