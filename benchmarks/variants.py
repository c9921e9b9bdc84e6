"""Ways of doing one thing, side by side in one process: what was chosen, and what was not.

Each comparison takes turns, and tells CPU microseconds per run (of this process alone) and the ratio of the other way
to ours. They are parts of the hot path cut out, so that a ratio says what a change could give at most.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import psycopg
import sqlalchemy as sa
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message

from benchmarks import limit
from benchmarks.bench import Bench
from holdfast.v1.payload_pb2 import Payload
from holdfast.v1.worker_service_pb2 import (
    Completed,
    ConnectRequest,
    ConnectResponse,
    Delivery,
    Hello,
    Report,
    Reports,
    Start,
    Welcome,
)
from holdfast_scheduler import ids, schema
from holdfast_scheduler.database import Database
from holdfast_worker.session_state import SessionState

RUNS: Final = 500
TURNS: Final = 20
LANES: Final = 2
LANE_BATCHES: Final = 20


def variants(bench: Bench) -> None:
    """Parts of the hot path, done in other ways."""
    for _ in bench.repeat():
        if bench.database.name == "postgresql":  # these have no database
            _frames(bench)
            _supervisor(bench)
            _lanes(bench)
        _statements(bench)


def _compare(bench: Bench, what: str, ours: Callable[[], None], others: dict[str, Callable[[], None]]) -> None:
    ways = {"ours": ours, **others}
    spent = dict.fromkeys(ways, 0.0)
    for way in ways.values():
        way()
    for _ in range(bench.size(TURNS)):
        for name, way in ways.items():
            started = time.process_time()
            way()
            spent[name] += time.process_time() - started
    runs = bench.size(TURNS) * RUNS
    bench.record(f"{what}: ours", "µs/run", spent["ours"] / runs * 1e6)
    for name in others:
        bench.record(f"{what}: {name}", "µs/run", spent[name] / runs * 1e6)
        bench.record(f"{what}: {name} against ours", "", spent[name] / spent["ours"])


# --- arrays against nested messages ----------------------------------------------------------------------------------

_BYTES: Final = descriptor_pb2.FieldDescriptorProto.TYPE_BYTES
_TEXT: Final = descriptor_pb2.FieldDescriptorProto.TYPE_STRING
_NUMBER: Final = descriptor_pb2.FieldDescriptorProto.TYPE_UINT64


def _columns(name: str, fields: dict[str, Any]) -> Any:
    """A message class with one repeated field for each column."""
    file = descriptor_pb2.FileDescriptorProto(name=f"{name}.proto", package="variants", syntax="proto3")
    message = file.message_type.add(name=name)
    for number, (field, kind) in enumerate(fields.items(), 1):
        label = descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED
        message.field.add(name=field, number=number, type=kind, label=label)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"variants.{name}"))


_START: Final[dict[str, Any]] = {
    "start_seq": 1, "run_id": b"r" * 16, "fence": 1, "attempt": 1, "task_id": "bench-noop", "root_run_id": b"r" * 16,
    "queue": "bench-noop", "max_attempts": 3, "created_at_us": 1_700_000_000_000_000, "version": "v1",
}  # fmt: skip
_KINDS: Final[dict[type, Any]] = {bytes: _BYTES, str: _TEXT, int: _NUMBER}
_DATA: Final = Payload(data=b'"x"')


def _frames(bench: Bench) -> None:
    """A delivery of 500 starts and a frame of 500 results: made, serialized, parsed, and read field by field."""
    starts = _columns("Starts", {name: _KINDS[type(value)] for name, value in _START.items()} | {"payload": _BYTES})
    ends = _columns("Ends", {"run_id": _BYTES, "fence": _NUMBER, "number": _NUMBER, "output": _BYTES})

    def nested() -> None:
        delivery = Delivery()
        for _ in range(RUNS):
            delivery.starts.append(Start(**_START, payload=_DATA))
        for start in _again(ConnectResponse(delivery=delivery)).delivery.starts:
            _ = tuple(getattr(start, name) for name in _START), start.payload.data
        reports = Reports(frame_no=1)
        for number in range(RUNS):
            completed = Completed(output=_DATA)
            reports.reports.append(Report(run_id=b"r" * 16, fence=1, number=number, completed=completed))
        for report in _again(ConnectRequest(reports=reports)).reports.reports:
            _ = report.run_id, report.fence, report.number, report.completed.output.SerializeToString()

    def arrays() -> None:
        rows = [(*_START.values(), _DATA.SerializeToString()) for _ in range(RUNS)]
        names = (*_START, "payload")
        message = starts(**dict(zip(names, zip(*rows, strict=True), strict=True)))
        back = _again(message)
        for row in zip(*(getattr(back, name) for name in names), strict=True):
            _ = row[:-1], Payload.FromString(row[-1]).data
        data = _DATA.SerializeToString()
        ended = [(b"r" * 16, 1, number, data) for number in range(RUNS)]
        columns = zip(("run_id", "fence", "number", "output"), zip(*ended, strict=True), strict=True)
        back = _again(ends(**dict(columns)))
        for row in zip(back.run_id, back.fence, back.number, back.output, strict=True):
            _ = row

    _compare(bench, "frames of 500 starts and 500 results", nested, {"arrays": arrays})


def _again(message: Message) -> Any:
    return type(message).FromString(message.SerializeToString())


# --- raw bytes through the supervisor --------------------------------------------------------------------------------


def _supervisor(bench: Bench) -> None:
    """500 results from an executor to the stream: parsed and put together anew, as now, against passed on as bytes."""
    raw = _columns("Raw", {"run_id": _BYTES, "fence": _NUMBER, "number": _NUMBER, "kind": _NUMBER, "body": _BYTES})
    run_ids = [ids.new_id() for _ in range(RUNS)]
    output = Completed(output=_DATA)
    reports = [Report(run_id=run_id, fence=1, number=1, completed=output) for run_id in run_ids]
    parsed_frame = ConnectRequest(reports=Reports(frame_no=1, reports=reports)).SerializeToString()
    ones, bodies = [1] * RUNS, [output.SerializeToString()] * RUNS
    raw_frame = raw(run_id=run_ids, fence=ones, number=ones, kind=ones, body=bodies).SerializeToString()

    welcome = Welcome(session_id=b"s" * 16)
    welcome.lease.seconds = welcome.renew_interval.seconds = 3600

    def state() -> SessionState:
        made = SessionState(Hello(slots=RUNS))
        made.executor_ready(1, RUNS)
        made.welcomed(welcome, 0.0, 0.0)
        starts = [Start(start_seq=at, run_id=run_id, fence=1) for at, run_id in enumerate(run_ids, 1)]
        made.received(ConnectResponse(delivery=Delivery(starts=starts)), 0.0)
        return made

    # One for each time that `parsed` is called: what has reported its end is not there any more.
    states = [state() for _ in range(bench.size(TURNS) + 1)]

    def parsed() -> None:
        one = states.pop()
        one.executor_sent(1, ConnectRequest.FromString(parsed_frame), len(parsed_frame))
        frame = one.next_frame(0.0)
        assert frame is not None
        assert len(frame.SerializeToString()) > RUNS

    def as_bytes() -> None:
        found = raw.FromString(raw_frame)
        kept = []
        held = dict.fromkeys(run_ids, 1)
        for run_id, fence, number, kind, body in zip(
            found.run_id, found.fence, found.number, found.kind, found.body, strict=True
        ):
            if held.get(run_id) == fence:  # the least that a supervisor has to know
                kept.append((run_id, fence, number, kind, body))
        columns = zip(("run_id", "fence", "number", "kind", "body"), zip(*kept, strict=True), strict=True)
        assert len(raw(**dict(columns)).SerializeToString()) > RUNS

    _compare(bench, "500 results through the supervisor", parsed, {"raw bytes": as_bytes})


# --- hot statements by other means -----------------------------------------------------------------------------------


def _statements(bench: Bench) -> None:
    """Insert 500 executing runs, update them and insert their results, in one transaction that is rolled back."""
    url = bench.database.create()
    database = Database.open(url)
    try:
        inserted, ended, results = limit.rows_of_a_batch([ids.new_id() for _ in range(RUNS)])

        def ours() -> None:
            tx = database.begin()
            tx.insert(schema.runs, *inserted)
            tx.update(schema.runs, limit.RUN_KEY, *ended)
            tx.insert(schema.run_results, *results)
            tx.fetch("SELECT 1")
            tx.rollback()

        def by_sqlalchemy() -> None:
            with database.engine.connect() as connection:
                connection.execute(sa.insert(schema.runs), _dicts(*inserted))
                columns, rows = ended
                runs = schema.runs.c
                key = runs.namespace == sa.bindparam("key_namespace"), runs.id == sa.bindparam("key_id")
                update = sa.update(schema.runs).where(*key).values({name: sa.bindparam(name) for name in columns})
                connection.execute(update, _dicts(("key_namespace", "key_id", *columns), rows))
                connection.execute(sa.insert(schema.run_results), _dicts(*results))
                connection.rollback()

        others: dict[str, Callable[[], None]] = {"SQLAlchemy": by_sqlalchemy}
        cursor: Any = None
        if url.startswith("postgresql"):
            cursor = psycopg.connect(url, prepare_threshold=1).cursor(binary=True)
            others["the driver's cursor, all columns as arrays"] = lambda: limit.roll_back_a_batch(
                cursor, inserted, ended, results
            )
        _compare(bench, "statements of 500 no-op runs", ours, others)
        if cursor is not None:
            cursor.connection.close()
    finally:
        database.close()
        bench.database.drop(url)


def _dicts(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(columns, row, strict=True)) for row in rows]


# --- commit lanes ----------------------------------------------------------------------------------------------------


def _lanes(bench: Bench) -> None:
    """Batches of 500 committed by two threads with a connection each, against one after the other."""
    url = bench.database.create()
    try:
        for _ in range(2):  # the first time warms up
            total = bench.size(LANE_BATCHES, 2) * RUNS
            alone = limit.runs_per_second(url, total * LANES)
            threads = [threading.Thread(target=limit.runs_per_second, args=(url, total)) for _ in range(LANES)]
            started = time.perf_counter()
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            together = total * LANES / (time.perf_counter() - started)
        bench.record("one commit lane, bare driver", "runs/s", alone)
        bench.record("two commit lanes, a thread each", "runs/s", together)
        bench.record("two commit lanes against one", "", together / alone)
    finally:
        bench.database.drop(url)
