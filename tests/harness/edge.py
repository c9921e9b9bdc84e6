"""The scheduler's server over a real socket and database, with an engine that only writes what a test needs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import grpc
import pytest
import sqlalchemy as sa
from google.rpc.error_details_pb2 import ErrorInfo
from grpc import aio
from grpc_status import rpc_status

from holdfast.v1 import task_pb2 as task_pb
from holdfast.v1.payload_pb2 import Payload
from holdfast.v1.queue_service_pb2_grpc import QueueServiceStub
from holdfast.v1.run_pb2 import TriggerItem
from holdfast.v1.run_service_pb2_grpc import RunServiceStub
from holdfast.v1.schedule_service_pb2_grpc import ScheduleServiceStub
from holdfast.v1.task_pb2_grpc import TaskServiceStub
from holdfast.v1.token_service_pb2_grpc import TokenServiceStub
from holdfast_scheduler import ids, model, schema
from holdfast_scheduler.errors import near_names, not_found_fault
from holdfast_scheduler.migrations import migrate
from holdfast_scheduler.model import Handle, ItemFault, TaskRow
from holdfast_scheduler.services.server import Server
from holdfast_scheduler.settings import Settings
from holdfast_scheduler.watching import Watchers

NOW = 1_800_000_000_000_000
DEADLINE = 10.0  # seconds that anything here may take


TASKS = ["export", "import"]


class FakeEngine:
    """Writes runs as rows, by hand; knows the task "export"."""

    def __init__(self, url: str, settings: Settings) -> None:
        self.settings = settings
        self.watchers = Watchers()
        self.replica_id = "replica"
        self.replica = b"replica"
        self.commands: list[Any] = []
        self.answer: Callable[[Any], Any] | None = None
        self.reads = 0
        self.made: set[bytes] = set()
        url = url.replace("postgresql://", "postgresql+psycopg://")
        self._engine = sa.create_engine(url)

    def close(self) -> None:
        self._engine.dispose()

    def submit(self, command: Any) -> asyncio.Future[Any]:
        return asyncio.ensure_future(self.do(command))

    async def do(self, command: Any) -> Any:
        self.commands.append(command)
        if self.answer is not None:
            return self.answer(command)
        if isinstance(command, model.TriggerRuns):
            return [self._trigger(run) for run in command.items]
        raise AssertionError(f"no answer to {command}")

    def _trigger(self, run: model.NewRun) -> Handle | ItemFault:
        if run.task not in TASKS:
            return not_found_fault("task", run.task, near_names(run.task, TASKS))
        if run.id in self.made:
            return Handle(run.id)
        self.made.add(run.id)
        self.insert(run.id, payload=run.payload, options=run.options, is_replay=run.is_replay)
        return Handle(run.id)

    async def read(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self.reads += 1

        def run() -> Any:
            with self._engine.connect() as connection:
                return function(connection, *args, **kwargs)

        return await asyncio.to_thread(run)

    async def task(self, namespace: str, task_id: str) -> TaskRow | None:
        if task_id not in await self.task_ids(namespace):
            return None
        definition = task_pb.TaskDefinition(id=task_id).SerializeToString()
        return TaskRow(task_id, "v1", definition, NOW, 3, 2.0, 1, 1, True, f"task/{task_id}", 10, None, None, None)

    async def task_ids(self, namespace: str) -> list[str]:
        return TASKS

    def workers(self, namespace: str, task_id: str, version: str = "") -> int:
        return 1 if task_id == "export" else 0

    # --- rows ---------------------------------------------------------------------------------------------------------
    def write(self, *statements: Any) -> None:
        with self._engine.begin() as connection:
            for statement in statements:
                connection.execute(statement)

    def insert(
        self,
        run_id: bytes | None = None,
        *,
        status: int = model.WAITING,
        tags: tuple[str, ...] = (),
        payload: bytes = b"",
        options: bytes = b"",
        parent: bytes | None = None,
        batch: bytes | None = None,
        is_replay: bool = False,
        output: bytes | None = None,
        **columns: Any,
    ) -> bytes:
        run_id = run_id or ids.new_id()
        run = {"task": "export", "queue": "task/export", "order_at": NOW, "status": status, **columns}
        made = {
            "task": run["task"],
            "queue": "" if run["queue"] == f"task/{run['task']}" else run["queue"],
            "created_at": NOW,
            "payload": payload,
            "fingerprint": b"f",
            "tags": "[" + ",".join(f'"{tag}"' for tag in tags) + "]" if tags else "",
            "options": options,
            "parent": parent,
            "batch": batch,
            "is_replay": is_replay,
        }
        name = {"namespace": "default"}
        self.write(
            sa.insert(schema.runs).values(**name, id=run_id, parent=parent, **run),
            sa.insert(schema.run_inputs).values(**name, run_id=run_id, **made),
            *(sa.insert(schema.run_tags).values(**name, tag=tag, run_id=run_id) for tag in tags),
        )
        if status >= model.COMPLETED:
            self.write(self._result(run_id, output, status=status))
        return run_id

    def _result(
        self, run_id: bytes, output: bytes | None, error: bytes | None = None, status: int = model.COMPLETED
    ) -> Any:
        row = {
            "namespace": "default",
            "run_id": run_id,
            "output": output,
            "error": error,
            "ended_at": NOW + 5,
            "status": status,
        }
        return sa.insert(schema.run_results).values(**row)

    def end(self, run_id: bytes, data: bytes = b"1", *, tell: bool = True) -> None:
        output = Payload(data=data).SerializeToString()
        ended = sa.update(schema.runs).where(schema.runs.c.id == run_id).values(status=model.COMPLETED, session=None)
        self.write(ended, self._result(run_id, output))
        if tell:
            self.watchers.ended("default", [(run_id, model.COMPLETED, output, None)])
            self.watchers.changed("default", [run_id])


class Edge:
    """A server, its engine, and stubs."""

    def __init__(self, engine: FakeEngine, server: Server, channel: aio.Channel) -> None:
        self.engine, self.server, self.channel = engine, server, channel
        self.runs = RunServiceStub(channel)
        self.tasks = TaskServiceStub(channel)
        self.tokens = TokenServiceStub(channel)
        self.queues = QueueServiceStub(channel)
        self.schedules = ScheduleServiceStub(channel)


@asynccontextmanager
async def serving(url: str, **changes: Any) -> AsyncIterator[Edge]:
    migrate(url)
    settings = replace(Settings(database_url=url, listen="127.0.0.1:0", look_interval=0.05, stop_grace=1.0), **changes)
    engine = FakeEngine(url, settings)
    server = Server(engine)
    address = await server.start()
    options = [("grpc.max_receive_message_length", 20 << 20), ("grpc.max_send_message_length", 30 << 20)]
    try:
        async with aio.insecure_channel(address, options=options) as channel:
            async with asyncio.timeout(DEADLINE):
                yield Edge(engine, server, channel)
    finally:
        await server.stop()
        engine.close()


@asynccontextmanager
async def refused(code: grpc.StatusCode, reason: str, says: str | None = None) -> AsyncIterator[ErrorInfo]:
    info = ErrorInfo()
    with pytest.raises(aio.AioRpcError, match=says) as caught:
        yield info
    assert caught.value.code() == code
    status = rpc_status.from_call(caught.value)
    assert status is not None
    assert status.details[0].Unpack(info)
    assert (info.reason, info.domain) == (reason, "holdfast.dev")


INVALID = grpc.StatusCode.INVALID_ARGUMENT
NOT_FOUND = grpc.StatusCode.NOT_FOUND


def item(task: str = "export", **fields: Any) -> TriggerItem:
    return TriggerItem(task_id=task, payload=Payload(data=b"{}"), **fields)


text = ids.run_text


async def rest(stream: Any) -> list[Any]:
    """What still comes; grpc.aio does not let one call be both read and iterated."""
    found = []
    while (response := await stream.read()) is not aio.EOF:
        found.append(response)
    return found


async def watched(edge: Edge, run_id: bytes) -> None:
    """Until the server watches the run."""
    while run_id not in edge.engine.watchers.watched().get("default", []):
        await asyncio.sleep(0.005)
