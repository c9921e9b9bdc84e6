"""The services over a real socket, on a real database, with an engine that only writes what each test needs."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import grpc
import pytest
import sqlalchemy as sa
from google.rpc.error_details_pb2 import ErrorInfo
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from holdfast.v1 import queue_service_pb2 as queue_pb
from holdfast.v1 import run_service_pb2 as pb
from holdfast.v1 import schedule_service_pb2 as schedule_pb
from holdfast.v1 import task_pb2 as task_pb
from holdfast.v1 import token_service_pb2 as token_pb
from holdfast.v1.payload_pb2 import Payload, TaskError
from holdfast.v1.queue_service_pb2_grpc import QueueServiceStub
from holdfast.v1.run_pb2 import IdempotencyKey, KeyPart, TriggerItem, TriggerOptions
from holdfast.v1.run_service_pb2_grpc import RunServiceStub
from holdfast.v1.schedule_service_pb2_grpc import ScheduleServiceStub
from holdfast.v1.task_pb2_grpc import TaskServiceStub
from holdfast.v1.token_service_pb2_grpc import TokenServiceStub
from holdfast_scheduler import ids, model, schema
from holdfast_scheduler.errors import ListenError, StorageUnavailableError, near_names, not_found_fault
from holdfast_scheduler.migrations import migrate
from holdfast_scheduler.model import Handle, ItemFault, TaskRow
from holdfast_scheduler.services.server import Server
from holdfast_scheduler.settings import Settings
from holdfast_scheduler.watching import Watchers

NOW = 1_800_000_000_000_000
DEADLINE = 10.0  # seconds that anything here may take


class FakeEngine:
    """Writes runs as rows, by hand; knows the task "export"."""

    def __init__(self, url: str, settings: Settings) -> None:
        self.settings = settings
        self.watchers = Watchers()
        self.replica_id = "replica"
        self.commands: list[Any] = []
        self.answer: Callable[[Any], Any] | None = None
        self.reads = 0
        url = url.replace("postgresql://", "postgresql+psycopg://")
        self._engine = sa.create_engine(url)

    def close(self) -> None:
        self._engine.dispose()

    async def do(self, command: Any) -> Any:
        self.commands.append(command)
        if self.answer is not None:
            return self.answer(command)
        if isinstance(command, model.TriggerRuns):
            return [self._trigger(run) for run in command.items]
        raise AssertionError(f"no answer to {command}")

    def _trigger(self, run: model.NewRun) -> Handle | ItemFault:
        if run.task not in self.task_ids("default"):
            return not_found_fault("task", run.task, near_names(run.task, self.task_ids("default")))
        self.insert(run.id, payload=run.payload, options=run.options, is_replay=run.is_replay)
        return Handle(run.id)

    async def read(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self.reads += 1

        def run() -> Any:
            with self._engine.connect() as connection:
                return function(connection, *args, **kwargs)

        return await asyncio.to_thread(run)

    async def task(self, namespace: str, task_id: str) -> TaskRow | None:
        if task_id not in self.task_ids(namespace):
            return None
        definition = task_pb.TaskDefinition(id=task_id).SerializeToString()
        return TaskRow(task_id, "v1", definition, NOW, 3, 2.0, 1, 1, True, f"task/{task_id}", 10, None, None, None)

    def task_ids(self, namespace: str) -> list[str]:
        return ["export", "import"]

    def workers(self, namespace: str, task_id: str) -> int:
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
            self._result(run_id, output)
        return run_id

    def _result(self, run_id: bytes, output: bytes | None, error: bytes | None = None) -> None:
        row = {"namespace": "default", "run_id": run_id, "output": output, "error": error, "ended_at": NOW + 5}
        self.write(sa.insert(schema.run_results).values(**row))

    def end(self, run_id: bytes, data: bytes = b"1", *, tell: bool = True) -> None:
        output = Payload(data=data).SerializeToString()
        ended = sa.update(schema.runs).where(schema.runs.c.id == run_id).values(status=model.COMPLETED, session=None)
        self.write(ended)
        self._result(run_id, output)
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


@pytest.fixture
async def edge(database_url: str) -> AsyncIterator[Edge]:
    async with serving(database_url) as made:
        yield made


@pytest.fixture
async def lite(sqlite_url: str) -> AsyncIterator[Edge]:
    """For what does not touch the database's dialect."""
    async with serving(sqlite_url) as made:
        yield made


@asynccontextmanager
async def refused(code: grpc.StatusCode, reason: str, says: str = "") -> AsyncIterator[ErrorInfo]:
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


# --- triggering -------------------------------------------------------------------------------------------------------
async def test_a_bad_item_fails_alone(lite: Edge) -> None:
    items = [
        item(),
        item("exprt"),
        item(options=TriggerOptions(tags=["a\0"])),
        TriggerItem(task_id="export", payload=Payload(data=b"x" * (5 << 20))),
        item(),
    ]
    response = await lite.runs.Trigger(pb.TriggerRequest(items=items))
    outcomes = [one.WhichOneof("outcome") for one in response.outcomes]
    assert outcomes == ["handle", "error", "error", "error", "handle"]
    unknown, tag, large = (one.error for one in response.outcomes[1:4])
    assert (unknown.code, unknown.reason, unknown.metadata["near"]) == (5, "TASK_NOT_FOUND", "export")
    assert (tag.code, tag.reason) == (3, "INVALID_ARGUMENT")
    assert (large.reason, large.metadata["limit"]) == ("TOO_LARGE", "payload_bytes")
    shown = await lite.runs.GetRun(pb.GetRunRequest(run_id=response.outcomes[4].handle.run_id))
    assert shown.run.task_id == "export"


async def test_request_level_faults_refuse_the_whole(lite: Edge) -> None:
    async with refused(INVALID, "INVALID_ARGUMENT", "items: is empty"):
        await lite.runs.Trigger(pb.TriggerRequest())
    async with refused(INVALID, "TOO_LARGE", "1,001 items is more than the limit batch_items of 1,000"):
        await lite.runs.Trigger(pb.TriggerRequest(items=[item()] * 1001))
    async with refused(INVALID, "TOO_LARGE", "batch_bytes"):
        payload = Payload(data=b"x" * (1 << 20))
        await lite.runs.Trigger(pb.TriggerRequest(items=[TriggerItem(task_id="export", payload=payload)] * 17))
    async with refused(INVALID, "INVALID_ARGUMENT", "namespace"):
        await lite.runs.Trigger(pb.TriggerRequest(namespace="\0", items=[item()]))
    assert lite.engine.commands == []


async def test_a_batch_keeps_the_places_of_bad_items(lite: Edge) -> None:
    batch_id = ids.new_id()

    def answer(command: model.TriggerBatch) -> model.BatchOutcome:
        assert command.batch_id == batch_id
        assert command.id_chosen
        assert command.key is not None
        outcomes = [run.error or Handle(run.id, is_cached=True) for run in command.items]
        return model.BatchOutcome(batch_id, False, outcomes)

    lite.engine.answer = answer
    request = pb.BatchTriggerRequest(
        batch_id=ids.to_text(ids.BATCH, batch_id),
        items=[item(), item(task=""), item()],
        idempotency_key=IdempotencyKey(parts=[KeyPart(text="k")]),
    )
    response = await lite.runs.BatchTrigger(request)
    assert response.batch_id == request.batch_id
    assert [one.WhichOneof("outcome") for one in response.outcomes] == ["handle", "error", "handle"]
    assert response.outcomes[0].handle.is_cached


async def test_engine_errors_become_statuses(lite: Edge) -> None:
    def away(_command: Any) -> Any:
        raise StorageUnavailableError()

    lite.engine.answer = away
    async with refused(grpc.StatusCode.UNAVAILABLE, "STORAGE_UNAVAILABLE", "ask again with the same ids"):
        await lite.runs.Trigger(pb.TriggerRequest(items=[item()]))


async def test_replay_takes_the_old_inputs(edge: Edge) -> None:
    options = TriggerOptions(tags=["t"], queue="q")
    options.delay.FromSeconds(60)
    payload = Payload(data=b'{"a":1}')
    old = edge.engine.insert(payload=payload.SerializeToString(), options=options.SerializeToString())
    new = ids.new_id()
    response = await edge.runs.ReplayRun(pb.ReplayRunRequest(run_id=text(old), new_run_id=text(new)))
    assert response.handle.run_id == text(new)
    (run,) = edge.engine.commands[-1].items
    assert (run.is_replay, run.tags, run.queue, run.delay_us, run.fingerprint) == (True, ["t"], "q", 0, b"f")
    assert Payload.FromString(run.payload) == payload
    other = Payload(data=b"2")
    await edge.runs.ReplayRun(pb.ReplayRunRequest(run_id=text(old), payload=other))
    (run,) = edge.engine.commands[-1].items
    assert Payload.FromString(run.payload) == other
    assert run.fingerprint != b"f"
    async with refused(NOT_FOUND, "RUN_NOT_FOUND"):
        await edge.runs.ReplayRun(pb.ReplayRunRequest(run_id=text(ids.new_id())))


# --- showing ----------------------------------------------------------------------------------------------------------
async def test_get_full(edge: Edge) -> None:
    engine = edge.engine
    child = ids.new_id()
    session = ids.new_id()
    batch = ids.new_id()
    run_id = engine.insert(
        status=model.WAITING, session=session, attempt=2, started_at=NOW, fence=3, tags=("a",), payload=b"\n\x021 "
    )
    engine.insert(child, status=model.COMPLETED, parent=run_id)
    name = {"namespace": "default"}
    record = {
        **name,
        "run_id": run_id,
        "identity": "i",
        "name": "n",
        "fingerprint": b"",
        "attempt": 1,
        "value": None,
        "subject": None,
        "location": "tasks.py:41",
    }
    value = Payload(data=b"1").SerializeToString()
    error = TaskError(type="ValueError", message="no").SerializeToString()
    records = [
        {**record, "seq": 1, "kind": model.STEP, "status": model.SUCCEEDED, "settled_order": 1, "value": value},
        {**record, "seq": 2, "kind": model.CHILD, "status": model.SUCCEEDED, "settled_order": 2, "subject": child},
        {**record, "seq": 3, "kind": model.BATCH, "status": model.PENDING, "settled_order": 0, "subject": batch},
    ]
    engine.write(
        sa.insert(schema.checkpoints).values(records),
        sa.insert(schema.sessions).values(
            **name, id=session, secret=b"", connection_no=1, replica=b"", lease_until=0, worker="w1", version=""
        ),
        sa.insert(schema.attempts).values(
            **name, run_id=run_id, fence=1, number=1, state=3, started_at=NOW - 9, ended_at=NOW - 5, error=error
        ),
        sa.insert(schema.run_metadata).values(
            **name, run_id=run_id, committed=b"{}", live=b'{"page":7}', marks=b"{}", live_marks=b"{}"
        ),
        sa.insert(schema.batches).values(**name, id=batch, remaining=1, fingerprint=b"", created_at=NOW),
        sa.insert(schema.batch_items).values(**name, batch=batch, place=0, run_id=child),
        sa.insert(schema.batch_items).values(**name, batch=batch, place=1, error=error),
    )
    run = (await edge.runs.GetRun(pb.GetRunRequest(run_id=text(run_id), view=pb.RUN_VIEW_FULL))).run
    assert (run.id, run.status, run.worker, run.metadata, run.fence) == (text(run_id), 4, "w1", b'{"page":7}', 3)
    assert (run.root_run_id, list(run.tags), run.payload.data) == (text(run_id), ["a"], b"1 ")
    assert list(run.child_run_ids) == [text(child)]
    assert [(a.number, a.state, a.error.message) for a in run.attempts] == [(1, 3, "no"), (2, 1, "")]
    step, called, waited = run.checkpoints
    assert (step.value.data, called.subject_id, called.child_status) == (b"1", text(child), model.COMPLETED)
    assert waited.subject_id == ids.to_text(ids.BATCH, batch)
    assert [(e.run_id, e.status) for e in waited.batch_entries] == [(text(child), 10), ("", 11)]
    basic = (await edge.runs.GetRun(pb.GetRunRequest(run_id=text(run_id)))).run
    assert not basic.checkpoints
    assert not basic.HasField("payload")


async def test_values_beyond_the_budget_are_left_out(lite: Edge) -> None:
    run_id = lite.engine.insert()
    value = Payload(data=b"x" * 256 * 1024).SerializeToString()
    rows = [
        {
            "namespace": "default",
            "run_id": run_id,
            "seq": seq,
            "identity": "i",
            "kind": model.STEP,
            "name": "n",
            "status": model.SUCCEEDED,
            "fingerprint": b"",
            "settled_order": seq,
            "attempt": 1,
            "value": value,
        }
        for seq in range(1, 11)
    ]
    lite.engine.write(sa.insert(schema.checkpoints).values(rows))
    run = (await lite.runs.GetRun(pb.GetRunRequest(run_id=text(run_id), view=pb.RUN_VIEW_FULL))).run
    assert len(run.checkpoints) == 10
    assert [one.HasField("value") for one in run.checkpoints] == [True] * 3 + [False] * 7


async def test_unknown_and_malformed_ids(lite: Edge) -> None:
    async with refused(NOT_FOUND, "RUN_NOT_FOUND") as info:
        missing = text(ids.new_id())
        await lite.runs.GetRun(pb.GetRunRequest(run_id=missing))
    assert info.metadata["run_id"] == missing
    async with refused(INVALID, "INVALID_ARGUMENT", "run_id: 'x' is not an id"):
        await lite.runs.GetRun(pb.GetRunRequest(run_id="x"))


async def test_pages_are_stable_and_newest_first(edge: Edge) -> None:
    made = sorted(edge.engine.insert(tags=("t",)) for _ in range(7))
    seen: list[str] = []
    request = pb.ListRunsRequest(page_size=3, filter="tag = t")
    while True:
        response = await edge.runs.ListRuns(request)
        seen += [run.id for run in response.runs]
        edge.engine.insert(tags=("t",))  # newer runs do not shift the pages
        request.page_token = response.next_page_token
        if not request.page_token:
            break
    assert seen == [text(run_id) for run_id in reversed(made)]
    async with refused(INVALID, "INVALID_FILTER", "page_token"):
        first = await edge.runs.ListRuns(pb.ListRunsRequest(page_size=1))
        await edge.runs.ListRuns(pb.ListRunsRequest(page_token=first.next_page_token, filter="tag = t"))


async def test_every_filter(edge: Edge) -> None:
    engine = edge.engine
    batch, parent = ids.new_id(), ids.new_id()
    wanted = engine.insert(status=model.FAILED, tags=("t",), parent=parent, version="v", queue="q")
    engine.insert(task="import")
    engine.write(
        sa.insert(schema.batch_items).values(namespace="default", batch=batch, place=0, run_id=wanted),
    )
    batch_text = ids.to_text(ids.BATCH, batch)
    for condition in (
        "status = FAILED",
        "task = export",
        "queue = q",
        "tag = t",
        f"batch = {batch_text}",
        f"parent = {text(parent)}",
        "version = v",
        "status = FAILED AND task = export AND created_after = 2000-01-01T00:00:00Z",
    ):
        response = await edge.runs.ListRuns(pb.ListRunsRequest(filter=condition))
        assert [run.id for run in response.runs] == [text(wanted)], condition
    response = await edge.runs.ListRuns(pb.ListRunsRequest(filter="created_before = 2000-01-01T00:00:00Z"))
    assert not response.runs
    async with refused(INVALID, "INVALID_FILTER", "did you mean|unknown field"):
        await edge.runs.ListRuns(pb.ListRunsRequest(filter="stat = FAILED"))


async def test_a_page_ends_early_rather_than_grow(lite: Edge) -> None:
    output = Payload(data=b"x" * (1 << 20)).SerializeToString()
    for _ in range(5):
        lite.engine.insert(status=model.COMPLETED, output=output)
    first = await lite.runs.ListRuns(pb.ListRunsRequest())
    assert len(first.runs) == 2
    second = await lite.runs.ListRuns(pb.ListRunsRequest(page_token=first.next_page_token))
    third = await lite.runs.ListRuns(pb.ListRunsRequest(page_token=second.next_page_token))
    assert (len(second.runs), len(third.runs), third.next_page_token) == (2, 1, "")


async def test_logs_in_pages(edge: Edge) -> None:
    run_id = edge.engine.insert()
    places = [(1, 1, 0), (1, 1, 1), (1, 2, 0), (2, 1, 0)]
    for fence, report, place in places:
        record = pb.LogRecord(message=f"{fence}.{report}.{place}").SerializeToString()
        row = {"run_id": run_id, "fence": fence, "report": report, "place": place, "record": record}
        edge.engine.write(sa.insert(schema.run_logs).values(namespace="default", **row))
    request = pb.ListRunLogsRequest(run_id=text(run_id), page_size=3)
    first = await edge.runs.ListRunLogs(request)
    request.page_token = first.next_page_token
    second = await edge.runs.ListRunLogs(request)
    found = [record.message for record in (*first.records, *second.records)]
    assert found == ["1.1.0", "1.1.1", "1.2.0", "2.1.0"]
    assert not second.next_page_token
    async with refused(NOT_FOUND, "RUN_NOT_FOUND"):
        await edge.runs.ListRunLogs(pb.ListRunLogsRequest(run_id=text(ids.new_id())))


async def test_explain_is_one_exact_sentence(edge: Edge) -> None:
    engine = edge.engine
    error = TaskError(type="ValueError", message="no\nmore").SerializeToString()
    backing_off = engine.insert(
        status=model.DELAYED, reason=model.BACKING_OFF, due_at=NOW, attempt=1, max_attempts=3, wake_at=NOW
    )
    engine.write(
        sa.insert(schema.attempts).values(
            namespace="default", run_id=backing_off, fence=1, number=1, state=3, ended_at=NOW, error=error
        )
    )
    unservable = engine.insert(status=model.QUEUED, task="import", queue="task/import")
    engine.insert(status=model.QUEUED)
    second = engine.insert(status=model.QUEUED, order_at=NOW + 1)
    child = engine.insert(status=model.QUEUED, order_at=NOW + 2)
    waiting = engine.insert(status=model.WAITING)
    engine.write(
        sa.insert(schema.checkpoints).values(
            namespace="default",
            run_id=waiting,
            seq=1,
            identity="i",
            kind=model.CHILD,
            name="write_page",
            status=model.PENDING,
            fingerprint=b"",
            attempt=1,
            subject=child,
            location="tasks.py:7",
        )
    )

    async def sentence(run_id: bytes) -> str:
        return str((await edge.runs.ExplainRun(pb.ExplainRunRequest(run_id=text(run_id)))).sentence)

    assert await sentence(backing_off) == (
        "Attempt 1 of 3 failed (ValueError: no); the next one is queued at 2027-01-15T08:00:00.000Z."
    )
    assert await sentence(unservable) == (
        "It is queued in 'task/import', and no connected worker has the task 'import'."
    )
    assert await sentence(second) == (
        "It is queued in 'task/export'; 1 connected worker has its task, every slot is taken, and 1 run is before it."
    )
    assert await sentence(waiting) == (
        f"It waits for its child {text(child)} of 'write_page', which is QUEUED (asked at tasks.py:7)."
    )
    done = engine.insert(status=model.COMPLETED)
    assert await sentence(done) == "It ended COMPLETED at 2027-01-15T08:00:00.000Z."


# --- waiting and watching ---------------------------------------------------------------------------------------------
async def rest(stream: Any) -> list[Any]:
    """What still comes; grpc.aio does not let one call be both read and iterated."""
    found = []
    while (response := await stream.read()) is not aio.EOF:
        found.append(response)
    return found


async def watched(edge: Edge, run_id: bytes) -> None:
    """Until the server watches the run."""
    while run_id not in edge.engine.watchers.watched("default").get("default", []):
        await asyncio.sleep(0.005)


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


async def test_await_runs_notices_what_another_replica_ended(edge: Edge) -> None:
    from holdfast_scheduler import reads

    run_id = edge.engine.insert()
    stream = edge.runs.AwaitRuns()
    await stream.write(pb.AwaitRunsRequest(add=[text(run_id)]))
    await watched(edge, run_id)
    edge.engine.end(run_id, b"5", tell=False)
    found = await edge.engine.read(reads.ended_watched, "default", [run_id])
    edge.engine.watchers.noticed("default", found)
    response = await stream.read()
    assert [(r.run_id, r.output.data) for r in response.results] == [(text(run_id), b"5")]
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


# --- changing ---------------------------------------------------------------------------------------------------------
async def test_cancel_and_reschedule(lite: Edge) -> None:
    run_id = lite.engine.insert()
    lite.engine.answer = lambda command: True
    response = await lite.runs.CancelRun(pb.CancelRunRequest(run_id=text(run_id)))
    assert (response.accepted, response.run.id) == (True, text(run_id))
    lite.engine.answer = lambda command: None
    request = pb.RescheduleRunRequest(run_id=text(run_id))
    request.delay.FromSeconds(5)
    await lite.runs.RescheduleRun(request)
    assert lite.engine.commands[-1].delay_us == 5_000_000
    async with refused(INVALID, "INVALID_ARGUMENT", "when"):
        await lite.runs.RescheduleRun(pb.RescheduleRunRequest(run_id=text(run_id)))
    lite.engine.answer = lambda command: ItemFault(9, "WRONG_STATUS", "it is WAITING", {"run_id": "r"})
    async with refused(grpc.StatusCode.FAILED_PRECONDITION, "WRONG_STATUS", "it is WAITING"):
        await lite.runs.RescheduleRun(request)


async def test_reset_a_key(lite: Edge) -> None:
    lite.engine.answer = lambda command: True
    key = IdempotencyKey(parts=[KeyPart(text="k")])
    request = pb.ResetIdempotencyKeyRequest(task_id="export", idempotency_key=key)
    assert (await lite.runs.ResetIdempotencyKey(request)).existed
    assert lite.engine.commands[-1].key.parts == b"t1:k"
    request.idempotency_key.scope = model.SCOPE_ATTEMPT  # type: ignore[assignment]
    async with refused(INVALID, "INVALID_KEY", "only inside a run"):
        await lite.runs.ResetIdempotencyKey(request)
    request.run_id = text(ids.new_id())
    async with refused(INVALID, "INVALID_ARGUMENT", "attempt"):
        await lite.runs.ResetIdempotencyKey(request)


async def test_bulk_cancel(lite: Edge) -> None:
    made = {lite.engine.insert(tags=("t",)) for _ in range(120)}
    lite.engine.insert()
    refuses = next(iter(made))
    lite.engine.answer = lambda command: command.run_id != refuses
    request = pb.BulkRunsRequest(action=pb.BULK_ACTION_CANCEL, filter="tag = t")
    progress = [response async for response in lite.runs.BulkRuns(request)]
    assert [response.done for response in progress] == [False, True]
    assert (progress[-1].acted, progress[-1].skipped) == (119, 1)
    assert {command.run_id for command in lite.engine.commands} == made
    async with refused(INVALID, "INVALID_FILTER", "by accident"):
        await lite.runs.BulkRuns(pb.BulkRunsRequest(action=pb.BULK_ACTION_CANCEL)).read()


# --- the other services -----------------------------------------------------------------------------------------------
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


# --- the server -------------------------------------------------------------------------------------------------------
async def test_server_info_health_and_reflection(lite: Edge) -> None:
    info = await lite.runs.GetServerInfo(pb.GetServerInfoRequest())
    assert (info.replica_id, info.protocol_major) == ("replica", 1)
    health = health_pb2_grpc.HealthStub(lite.channel)
    for service in ("", "holdfast.v1.RunService", "holdfast.v1.TokenService"):
        answer = await health.Check(health_pb2.HealthCheckRequest(service=service))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

    stub = reflection_pb2_grpc.ServerReflectionStub(lite.channel)
    stream = stub.ServerReflectionInfo()
    await stream.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    names = {service.name for service in (await stream.read()).list_services_response.service}
    assert {"holdfast.v1.RunService", "grpc.health.v1.Health"} <= names
    stream.cancel()


async def test_reflection_can_be_turned_off(sqlite_url: str) -> None:
    from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

    async with serving(sqlite_url, reflection=False) as edge:
        stream = reflection_pb2_grpc.ServerReflectionStub(edge.channel).ServerReflectionInfo()
        with pytest.raises(aio.AioRpcError) as caught:
            await stream.write(reflection_pb2.ServerReflectionRequest(list_services=""))
            await stream.read()
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


async def test_the_api_key(sqlite_url: str) -> None:
    async with serving(sqlite_url, api_key="s3cret") as edge:
        run_id = text(edge.engine.insert())
        request = pb.GetRunRequest(run_id=run_id)
        for metadata in ((), (("authorization", "Bearer wrong"),), (("authorization", "s3cret"),)):
            async with refused(grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED", "HOLDFAST_API_KEY"):
                await edge.runs.GetRun(request, metadata=metadata)
        async with refused(grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED"):
            await edge.runs.WatchRuns(pb.WatchRunsRequest(run_id=run_id)).read()
        async with refused(grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED"):
            await edge.runs.AwaitRuns().read()
        await edge.runs.GetRun(request, metadata=(("authorization", "Bearer s3cret"),))
        await health_pb2_grpc.HealthStub(edge.channel).Check(health_pb2.HealthCheckRequest())


async def test_a_taken_port_is_one_clear_error(lite: Edge) -> None:
    second = Server(FakeEngine("sqlite://", replace(lite.engine.settings, listen=lite.server.address)))
    with pytest.raises(ListenError, match="another process has the port"):
        await second.start()


async def test_garbage_on_the_port_disturbs_nobody(lite: Edge) -> None:
    run_id = text(lite.engine.insert())
    host, port = lite.server.address.split(":")
    for garbage in (
        b"\x00" * 1000,
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 500,
        b"\x16\x03\x01\x02\x00\x01",
    ):
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            connection.sendall(garbage)
            await lite.runs.GetRun(pb.GetRunRequest(run_id=run_id))
    call = lite.channel.unary_unary("/holdfast.v1.RunService/GetRun")
    with pytest.raises(aio.AioRpcError):
        await call(b"\xff\xff\xff\xff not a message")
    with pytest.raises(aio.AioRpcError) as caught:
        await lite.channel.unary_unary("/some.other.Protocol/Call")(b"")
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
    await lite.runs.GetRun(pb.GetRunRequest(run_id=run_id))


async def test_a_message_above_the_hard_limit_is_refused(lite: Edge) -> None:
    huge = TriggerItem(task_id="export", payload=Payload(data=b"x" * (21 << 20)))
    with pytest.raises(aio.AioRpcError) as caught:
        await lite.runs.Trigger(pb.TriggerRequest(items=[huge]))
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    await lite.runs.GetServerInfo(pb.GetServerInfoRequest())


async def test_stop_ends_streams_and_says_so(sqlite_url: str) -> None:
    async with serving(sqlite_url) as edge:
        run_id = text(edge.engine.insert())
        awaiting = edge.runs.AwaitRuns()
        await awaiting.write(pb.AwaitRunsRequest(add=[run_id]))
        watching = edge.runs.WatchRuns(pb.WatchRunsRequest(run_id=run_id))
        await watching.read()
        waiting = asyncio.ensure_future(edge.runs.WaitRun(pb.WaitRunRequest(run_id=run_id)))
        while len(edge.engine.watchers._sinks.get("default", {}).get(ids.from_text(ids.RUN, run_id), [])) < 3:
            await asyncio.sleep(0.005)
        await edge.server.stop()
        for call in (awaiting.read(), watching.read(), waiting):
            async with refused(grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN"):
                await call
