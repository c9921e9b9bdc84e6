"""Drives the commit loop's transactions on a real database, one commit at a time, under a hand-turned clock.

Nothing is faked below the gRPC edge: a `Driver` is a replica without its event loop, a `Worker` is the scheduler's
view of one, which takes every start and reports what the test says.
"""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from holdfast.v1.payload_pb2 import TaskError
from holdfast.v1.task_pb2 import QueueDefinition, TaskDefinition
from holdfast_scheduler import ids, schedule_store, schema, store
from holdfast_scheduler import model as m
from holdfast_scheduler import run_machine as rules
from holdfast_scheduler.commit_loop import CommitLoop, Committed
from holdfast_scheduler.database import FORESEEN_CLOCK_US, ConflictError, Database, SqliteDatabase, Transaction
from holdfast_scheduler.definitions import task_row
from holdfast_scheduler.dispatch import Offer
from holdfast_scheduler.migrations import migrate
from holdfast_scheduler.model import Checkpoint, Delivery, KeyUse, NewRun, Record, Report, Run
from holdfast_scheduler.settings import Settings
from holdfast_scheduler.unit_of_work import World

NAMESPACE = "default"
SECOND = 1_000_000
START = 1_800_000_000 * SECOND
DAY = 86_400 * SECOND


ENDING = (rules.COMPLETE, rules.FAIL, rules.END_CANCELED, rules.RELEASE, rules.LOSE)


class Clock:
    """An instant in microseconds that tests turn by hand."""

    def __init__(self) -> None:
        self.now = START

    def turn(self, seconds: float) -> None:
        """Let time pass."""
        self.now += round(seconds * SECOND)


def error(kind: str = "USER", message: str = "boom") -> bytes:
    """A serialized TaskError."""
    return TaskError(kind=f"TASK_ERROR_KIND_{kind}", type="ValueError", message=message).SerializeToString()


def new(task: str = "t", payload: bytes = b"{}", **options: Any) -> NewRun:
    """A run to trigger, with an id of its own unless `id` is given."""
    return NewRun(
        options.pop("id", None) or ids.new_id(), task, payload, options.pop("fingerprint", payload), **options
    )


def key(text: str = "k", *, scope: int = 0, ttl: float = 30 * 86_400) -> KeyUse:
    """A use of an idempotency key; `ttl` in seconds."""
    return KeyUse(text.encode(), scope, round(ttl * SECOND), text.encode())


def step(seq: int, value: bytes | None = b"done", **options: Any) -> Record:
    """A step that ran."""
    return Record(seq, f"step:{seq}", m.STEP, "step", value=value, **options)


def wait(seq: int, seconds: float, **options: Any) -> Record:
    """A wait for an instant."""
    return Record(seq, f"wait:{seq}", m.WAIT, "wait", delay_us=round(seconds * SECOND), **options)


def child(seq: int, item: NewRun, *, wait: bool = True, **options: Any) -> Record:
    """A child, waited for or only triggered."""
    return Record(seq, f"child:{seq}", m.CHILD if wait else m.TRIGGER, item.task, items=[item], **options)


def batch(seq: int, items: list[NewRun], *, wait: bool = True, **options: Any) -> Record:
    """A batch of children."""
    kind = m.BATCH if wait else m.BATCH_TRIGGER
    subject = options.pop("subject", None) or ids.new_id()
    return Record(seq, f"batch:{seq}", kind, "batch", items=items, subject=subject, **options)


def token(seq: int, token_id: bytes, **options: Any) -> Record:
    """A token that is created."""
    return Record(seq, f"token:{seq}", m.TOKEN, "token", subject=token_id, **options)


def token_wait(seq: int, token_id: bytes, **options: Any) -> Record:
    """A wait for a token."""
    return Record(seq, f"token_wait:{seq}", m.TOKEN_WAIT, "token", subject=token_id, **options)


@dataclass(eq=False)
class Body:
    """What a worker holds of one run."""

    run_id: bytes
    fence: int
    order: m.Order
    number: int = 0
    seen: int = 0
    parked: bool = False
    last_seq: int = 0


@dataclass(eq=False)
class Worker:
    """One session as its worker sees it: it takes what it is given and counts its slots."""

    driver: Driver
    session: bytes
    tasks: frozenset[str]
    version: str
    slots: int
    places: int
    secret: bytes = b"secret"
    connection_no: int = 1
    connected: bool = True
    frame_no: int = 0
    bodies: dict[bytes, Body] = field(default_factory=dict)
    deliveries: list[Delivery] = field(default_factory=list)
    acknowledged: int = 0
    leaving: dict[tuple[bytes, int], Body] = field(default_factory=dict)
    told: dict[bytes, int] = field(default_factory=dict)

    # --- what it can take -------------------------------------------------------------------------------------------

    def offer(self) -> Offer | None:
        """What the scheduler may give it; None while it is not connected."""
        free = self.slots - sum(not body.parked for body in self.bodies.values())
        if not self.connected:
            return None
        places = self.places - len(self.bodies)
        return Offer(self.session, self.driver.namespace, self.connection_no, self.tasks, self.version, free, places)

    def take(self, delivery: Delivery) -> None:
        """Take what a commit brought."""
        self.deliveries.append(delivery)
        for order in (*delivery.resumes, *delivery.starts):
            order.run = replace(order.run)  # the next commit may change it: a frame is written before that
        for run_id, fence, checkpoint in delivery.updates:
            self.told[run_id] = max(self.told.get(run_id, 0), checkpoint.settled_order)
            body = self.bodies.get(run_id)
            if body is not None and body.fence == fence:
                body.seen = max(body.seen, checkpoint.settled_order)
        for run_id, fence, _reason in delivery.drops:
            body = self.bodies.get(run_id)
            if body is not None and body.fence <= fence:
                del self.bodies[run_id]
        for order in (*delivery.resumes, *delivery.starts):
            self.told[order.run.id] = order.run.settled
        for order in delivery.resumes:
            body = self.bodies[order.run.id]
            body.fence, body.number, body.parked, body.order = order.run.fence, 0, False, order
            body.seen = max([body.seen, *(one.settled_order for one in order.checkpoints)])
        for order in delivery.starts:
            seen = max([order.run.settled, *(one.settled_order for one in order.checkpoints)])
            self.bodies[order.run.id] = Body(order.run.id, order.run.fence, order, 0, seen, False, order.run.last_seq)

    # --- what it says -----------------------------------------------------------------------------------------------

    def report_of(self, run_id: bytes, event: str = "", *records: Record, **parts: Any) -> Report:
        """The next report of a body that it holds."""
        body = self.bodies[run_id]
        body.number += 1
        for record in records:
            body.last_seq = max(body.last_seq, record.seq)
        if event == rules.PARK:
            parts.setdefault("seen", body.seen)
        return Report(
            run_id,
            parts.pop("fence", body.fence),
            parts.pop("number", body.number),
            event=event,
            records=list(records),
            **parts,
        )

    def frame(self, *reports: Report) -> m.ApplyReports:
        """The reports as the next frame."""
        self.frame_no += 1
        return m.ApplyReports(self.driver.namespace, self.session, self.frame_no, list(reports))

    def send(self, *reports: Report) -> list[m.Refusal]:
        """Send reports and take what comes back. Returns the refusals."""
        before = len(self.deliveries)
        self.let_go(reports)
        self.driver.do(self.frame(*reports))
        self.take_up(reports)
        return [one for delivery in self.deliveries[before:] for one in delivery.refused]

    def let_go(self, reports: Iterable[Report]) -> None:
        """Count free what these reports free: credit travels with them, and may be used in the same commit."""
        for report in reports:
            body = self.bodies.get(report.run_id)
            if body is None or report.fence != body.fence or report.number < body.number:
                continue  # stale, or a repeat
            if report.event == rules.PARK:
                body.parked = True
            elif report.event in ENDING:
                self.leaving[report.run_id, report.number] = self.bodies.pop(report.run_id)

    def take_up(self, reports: Iterable[Report]) -> None:
        """Go on with the bodies whose park an answer has crossed, or whose last report was refused as malformed."""
        refused = {(one.run_id, one.number) for one in self.last().refused if one.reason == m.REFUSED_INVALID}
        for report in reports:
            left = self.leaving.pop((report.run_id, report.number), None)
            if left is not None and (report.run_id, report.number) in refused:
                self.bodies[report.run_id] = left
            body = self.bodies.get(report.run_id)
            if report.event == rules.PARK and body is not None and body.parked and body.seen > report.seen:
                body.parked = False

    def report(self, run_id: bytes, event: str = "", *records: Record, **parts: Any) -> list[m.Refusal]:
        """Send one report. Returns the refusals."""
        return self.send(self.report_of(run_id, event, *records, **parts))

    def complete(self, run_id: bytes, output: bytes = b"output") -> list[m.Refusal]:
        """End a run with an output."""
        return self.report(run_id, rules.COMPLETE, output=output)

    def fail(self, run_id: bytes, *, retryable: bool = False, kind: str = "USER", **parts: Any) -> list[m.Refusal]:
        """End an attempt with an error."""
        return self.report(run_id, rules.FAIL, error=error(kind), retryable=retryable, **parts)

    def park(self, run_id: bytes, *records: Record) -> list[m.Refusal]:
        """Make checkpoints and wait."""
        return self.report(run_id, rules.PARK, *records)

    def last(self) -> Delivery:
        """The newest delivery."""
        return self.deliveries[-1] if self.deliveries else Delivery()

    def updates(self, run_id: bytes) -> list[Checkpoint]:
        """Checkpoints of a run of which it was told, oldest first."""
        return [one for delivery in self.deliveries for run, _, one in delivery.updates if run == run_id]

    def reconnect(self, held: dict[bytes, int] | None = None) -> Delivery:
        """Resume the session over a new connection and exchange what is held. Returns the answer."""
        number = self.driver.one(m.ResumeSession(self.driver.namespace, self.session, self.secret, []))
        assert number is not None, "the session is gone"
        self.connected, self.connection_no = True, number
        self.told.clear()
        held = {run_id: body.fence for run_id, body in self.bodies.items()} if held is None else held
        before = len(self.deliveries)
        self.driver.do(m.ReconcileHeld(self.driver.namespace, self.session, held))
        return next(one for one in self.deliveries[before:] if one.answers_held)


class Driver:
    """One replica, driven by hand. `clock` None leaves the database's clock."""

    def __init__(self, url: str, *, clock: Clock | None = None, settings: Settings | None = None) -> None:
        self.namespace = NAMESPACE
        self.clock = clock
        self.database = Database.open(url)
        self.world = World(settings or Settings(database_url=url))
        self.workers: dict[bytes, Worker] = {}
        self.world.told = self._told
        self.committed: list[Committed] = []
        self.made_again: list[bool] = []
        """Of each commit, whether it was tried and had to be made again: after that nothing in memory is trusted."""
        self.like: Driver | None = None
        """Another one whose commits were the same, and were made again where these are to be, too."""
        self.queues_due: dict[str, int] = {}  # queue → instant at which its rate limit admits a start again
        self.replica = ids.new_id()
        self.loop = CommitLoop(self.database, self.world, self.replica, dict, lambda _: None, lambda: None)
        self.loop._fresh_leases_due = False
        self._numbers = itertools.count(1)
        if clock is not None:
            self._turn_by_hand(clock)
        with self.transaction():
            pass
        if isinstance(self.database, SqliteDatabase) and self.database._writer is not None:
            self.database._writer.execute("PRAGMA synchronous=OFF")  # no test of durability: see tests/faults

    def _told(self, session: bytes, run_id: bytes) -> int:
        return self.workers[session].told.get(run_id, 0) if session in self.workers else 0

    def _turn_by_hand(self, clock: Clock) -> None:
        begin = self.database.begin
        at_clock: dict[type, type] = {}

        def begin_at_clock(*, is_hurried: bool = False, foreseen: tuple[int, int] | None = None) -> Transaction:
            if foreseen is not None:  # the server compares it with its own clock, which is that of this machine
                foreseen = (time.time_ns() // 1000 - FORESEEN_CLOCK_US // 5, foreseen[1])
            tx = begin(is_hurried=is_hurried, foreseen=foreseen)
            kind = type(tx)
            if kind not in at_clock:
                at_clock[kind] = type(kind.__name__, (kind,), {"now": property(lambda _tx: clock.now)})
            tx.__class__ = at_clock[kind]
            return tx

        self.database.begin = begin_at_clock  # type: ignore[method-assign]

    @property
    def now(self) -> int:
        """The clock's instant."""
        assert self.clock is not None
        return self.clock.now

    def close(self) -> None:
        """Close the database."""
        self.loop.close()
        self.database.close()

    def crash(self) -> None:
        """Forget everything that is only in memory, as `kill -9` does; the database stays."""
        self.world = World(self.world.settings)
        self.world.told = self._told
        self.loop = CommitLoop(self.database, self.world, self.replica, dict, lambda _: None, lambda: None)
        with self.transaction() as tx:
            for namespace, _id, version, registered_at, definition in store.load_tasks(tx):
                self.world.learn(namespace, task_row(definition, version, registered_at))

    # --- commits ----------------------------------------------------------------------------------------------------

    def do(self, *commands: m.Command, offers: list[Offer] | None = None) -> list[Any]:
        """One commit. Deliveries go to the workers, as they do after a commit. Returns the outcomes."""
        if offers is None:
            offers = [offer for worker in self.workers.values() if (offer := worker.offer()) is not None]
        if self.clock is not None:
            self.loop._last_now = self.clock.now  # however far the clock was turned, it was no outage
        self.loop._begin()
        if self.like is not None and self.like.made_again[len(self.made_again)]:
            self.loop._distrust()
        self.made_again.append(False)
        try:
            done = self.loop._commit(list(commands), {self.namespace: offers}, is_hurried=True)
        except ConflictError:
            self.made_again[-1] = True
            done = self.loop._commit(list(commands), {self.namespace: offers})
        self.loop._note(done)
        for committed in done.committed:
            self.committed.append(committed)
            self.queues_due.update({name: instant for instant, name in committed.timed_queues})
            for session, delivery in committed.deliveries.items():
                if session in self.workers:
                    self.workers[session].take(delivery)
            for session, frame_no in committed.acknowledged.items():
                if session in self.workers:
                    self.workers[session].acknowledged = max(self.workers[session].acknowledged, frame_no)
        self._check_foreseen()
        if any(committed.left.again for committed in done.committed):
            self.do(m.Look(self.namespace))
        return done.outcomes

    def _check_foreseen(self) -> None:
        """Where nobody else writes, what is kept of rows must be what is there: it will be believed."""
        kept = self.world.foreseen
        if kept and isinstance(self.database, SqliteDatabase):
            with self.transaction() as tx:
                found = {
                    run.id: store.row_of(run) for run in store.load_runs(tx, self.namespace, [id for _, id in kept])
                }
            kept_rows = {name: store.row_of(run) for name, run in kept.items()}
            assert kept_rows == {(self.namespace, run_id): row for run_id, row in found.items()}

    def one(self, command: m.Command) -> Any:
        """One commit of one command; its outcome."""
        return self.do(command)[0]

    def look(self) -> None:
        """A commit that only looks at what may be started."""
        if self.loop.has_backlog(self.namespace):
            self.do(m.Look(self.namespace))

    def due(self) -> None:
        """Let the timers of all runs, tokens, schedules and queues that are due ring."""
        with self.transaction() as tx:
            runs = [row[1] for row in store.overdue(tx, self.now + 1, 10_000)]
            tokens = [row[1] for row in store.due_tokens(tx, self.now + 1, 10_000)]
            schedules = [row[1] for row in schedule_store.due_before(tx, self.now + 1, 10_000)]
        commands: list[m.Command] = [m.RunsDue(self.namespace, runs)] if runs else []
        commands += [m.TokensDue(self.namespace, tokens)] if tokens else []
        commands += [m.SchedulesDue(self.namespace, schedules)] if schedules else []
        queues = [name for name, instant in self.queues_due.items() if instant <= self.now]
        for name in queues:
            del self.queues_due[name]
        commands += [m.Look(self.namespace, queues)] if queues else []
        if commands:
            self.do(*commands)

    def turn(self, seconds: float) -> None:
        """Let time pass and the timers ring."""
        assert self.clock is not None
        self.clock.turn(seconds)
        self.due()

    def tick(self, *, expire: bool = True) -> None:
        """The look of each second."""
        self.do(m.Tick(expire_sessions=expire))

    # --- commands ---------------------------------------------------------------------------------------------------

    def define(
        self, *tasks: str, version: str = "1", queue: QueueDefinition | None = None, **retry: Any
    ) -> list[m.TaskRow]:
        """Definitions of tasks; `queue` is that of each of them, `retry` are fields of TaskRow."""
        rows = []
        policy = "wait" if retry.get("waits") else ""
        for name in tasks:
            definition = TaskDefinition(id=name, queue=queue, version_policy=policy)
            row = task_row(definition.SerializeToString(), version, 0)
            for field_name, value in {"randomize": False, **retry}.items():
                setattr(row, field_name, value)
            rows.append(row)
        return rows

    def worker(
        self,
        *tasks: str,
        slots: int = 10,
        places: int = 1_000,
        session: bytes | None = None,
        version: str = "1",
        **retry: Any,
    ) -> Worker:
        """A worker that connects, knowing these tasks ("t" if none is given)."""
        names = tasks or ("t",)
        session = session or ids.new_id()
        rows = self.define(*names, version=version, **retry)
        self.do(m.OpenSession(self.namespace, session, b"secret", f"worker-{next(self._numbers)}", version, rows))
        for row in rows:
            self.world.learn(self.namespace, row)
        worker = Worker(self, session, frozenset(names), version, slots, places)
        self.world.worker_names[session] = "worker"
        self.workers[session] = worker
        self.loop.expect_backlog(self.namespace)
        self.look()
        return worker

    def trigger(self, item: NewRun | None = None, **options: Any) -> Any:
        """Trigger one run: Handle or ItemFault."""
        return self.one(m.TriggerRuns(self.namespace, [item or new(**options)]))[0]

    def cancel(self, run_id: bytes) -> Any:
        """Cancel a run."""
        return self.one(m.CancelRun(self.namespace, run_id))

    def end_session(self, worker: Worker, *, lost: bool = True) -> bool:
        """The worker is gone."""
        worker.connected = False
        done = self.one(m.EndSession(self.namespace, worker.session, lost, "killed", worker.connection_no))
        self.workers.pop(worker.session, None)
        return bool(done)

    # --- reading ----------------------------------------------------------------------------------------------------

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """A transaction that is rolled back."""
        tx = self.database.begin()
        try:
            yield tx
        finally:
            tx.rollback()

    def run(self, run_id: bytes) -> Run:
        """A run's row."""
        with self.transaction() as tx:
            (found,) = store.load_runs(tx, self.namespace, [run_id])
        return found

    def status(self, run_id: bytes) -> str:
        """A run's status by name."""
        return m.STATUS_NAMES[self.run(run_id).status]

    def result(self, run_id: bytes) -> tuple[bytes | None, TaskError | None]:
        """Output and error of a run that has ended."""
        with self.transaction() as tx:
            _, _, output, failure = store.load_results(tx, self.namespace, [run_id])[run_id]
        return output, TaskError.FromString(failure) if failure is not None else None

    def checkpoints(self, run_id: bytes) -> list[Checkpoint]:
        """A run's checkpoints in order of creation."""
        with self.transaction() as tx:
            return store.load_checkpoints(tx, self.namespace, [run_id])

    def metadata(self, run_id: bytes) -> tuple[bytes, bytes]:
        """A run's committed and live metadata."""
        with self.transaction() as tx:
            row = store.load_metadata(tx, self.namespace, [run_id])[run_id]
        return row[1], row[2]

    def children(self, run_id: bytes) -> list[Run]:
        """Runs that a run triggered, oldest first."""
        with self.transaction() as tx:
            rows = tx.fetch("SELECT id FROM runs WHERE parent = ? ORDER BY id", (run_id,))
            return store.load_runs(tx, self.namespace, [row[0] for row in rows])

    def count(self, table: str) -> int:
        """Rows of a table."""
        with self.transaction() as tx:
            return int(tx.fetch(f"SELECT count(*) FROM {table}")[0][0])

    def dump(self) -> dict[str, list[tuple[Any, ...]]]:
        """Every row of every table, in a form that does not depend on the database."""
        found = {}
        with self.transaction() as tx:
            for table in schema.metadata.sorted_tables:
                keys = [column.name for column in table.primary_key.columns]
                columns = [column.name for column in table.columns]
                rows = tx.fetch(f"SELECT {', '.join(columns)} FROM {table.name}")
                plain = [
                    tuple(_plain(column, value) for column, value in zip(table.columns, row, strict=True))
                    for row in rows
                ]
                places = [columns.index(name) for name in keys]
                found[table.name] = sorted(plain, key=lambda row, places=places: [row[at] for at in places])
        return found


def _plain(column: sa.Column[Any], value: Any) -> Any:
    if value is None:
        return None
    if isinstance(column.type, sa.LargeBinary):
        return bytes(value)
    return bool(value) if isinstance(column.type, sa.Boolean) else value


def broken_invariants(dump: dict[str, list[tuple[Any, ...]]]) -> list[str]:
    """What no commit may ever leave behind, whatever was asked of it. Empty when all is well."""
    wrong: list[str] = []
    columns = {table.name: [column.name for column in table.columns] for table in schema.metadata.sorted_tables}
    rows = {name: [dict(zip(columns[name], row, strict=True)) for row in found] for name, found in dump.items()}
    sessions = {row["id"] for row in rows["sessions"]}
    pending: dict[bytes, list[dict[str, Any]]] = {}
    for one in rows["checkpoints"]:
        if one["status"] == m.PENDING:
            pending.setdefault(one["run_id"], []).append(one)
    orders: dict[bytes, set[int]] = {}
    for one in rows["checkpoints"]:
        order = one["settled_order"]
        if order and order in orders.setdefault(one["run_id"], set()):
            wrong.append(f"{one['run_id'].hex()} has settled_order {order} twice")
        orders.setdefault(one["run_id"], set()).add(order)
    results = {row["run_id"] for row in rows["run_results"]}
    runs = {row["id"]: row for row in rows["runs"]}
    for run_id, row in runs.items():
        name = f"{run_id.hex()} {m.STATUS_NAMES[row['status']]}"
        mine = pending.get(run_id, [])
        final = m.is_final(row["status"])
        if row["pending"] != len(mine):
            wrong.append(f"{name}: pending is {row['pending']}, there are {len(mine)} pending checkpoints")
        instants = [one["due_at"] for one in mine if one["due_at"] is not None]
        if not final and row["timer_at"] != min(instants, default=None):
            wrong.append(
                f"{name}: timer_at is {row['timer_at']}, the earliest instant is {min(instants, default=None)}"
            )
        if final != (run_id in results):
            wrong.append(f"{name}: {'no' if final else 'a'} result")
        wrong += [f"{name}: {text}" for text in _unowned(row, sessions)]
        derived = Run(**{column: row[column] for column in store.RUN_COLUMNS})
        rules.set_due(derived)
        if row["due_at"] != derived.due_at:
            wrong.append(f"{name}: due_at is {row['due_at']}, the rules say {derived.due_at}")
        if row["pushed"] > row["settled"] or row["seen"] > row["settled"]:
            wrong.append(f"{name}: pushed {row['pushed']} or seen {row['seen']} above settled {row['settled']}")
        settled = sum(1 for order in orders.get(run_id, ()) if order)
        if row["settled"] != settled:
            wrong.append(f"{name}: settled is {row['settled']}, {settled} checkpoints have an order")
    postponed = {row["run_id"] for row in rows["pending_events"]}
    finished = {run_id for run_id, row in runs.items() if m.is_final(row["status"])}
    items: dict[bytes, list[bytes]] = {}
    for row in rows["batch_items"]:
        items.setdefault(row["batch"], []).append(row["run_id"])
    for run_id, mine in pending.items():
        if m.is_final(runs[run_id]["status"]):
            continue
        for one in mine:
            subject = one["subject"]
            if one["kind"] == m.CHILD and subject in finished - postponed:
                wrong.append(f"{run_id.hex()} still waits for {subject.hex()}, which has ended")
            if one["kind"] == m.BATCH:
                left = [i for i in items.get(subject, []) if i is not None and i not in finished - postponed]
                if not left:
                    wrong.append(f"{run_id.hex()} still waits for batch {subject.hex()}, of which all items have ended")
    for row in rows["runs"]:
        parent = runs.get(row["parent"]) if row["parent"] else None
        if parent is None or m.is_final(row["status"]) or row["on_parent_end"] != m.ON_PARENT_END_CANCEL:
            continue
        ended = m.is_final(parent["status"]) and parent["status"] != m.COMPLETED
        is_ending = ended or parent["status"] == m.CANCELING
        if is_ending and row["status"] != m.CANCELING and parent["id"] not in postponed:
            wrong.append(f"{row['id'].hex()} goes on though its parent is {m.STATUS_NAMES[parent['status']]}")
    return wrong


def _unowned(row: dict[str, Any], sessions: set[bytes]) -> Iterator[str]:
    """Promise 7: who will move the run on."""
    status = row["status"]
    if status == m.DELAYED and row["wake_at"] is None:
        yield "no instant"
    if status in (m.EXECUTING, m.CANCELING) and row["session"] not in sessions:
        yield "nobody has a lease on it"
    if status == m.WAITING and row["pending"] == 0:
        yield "it waits for nothing"
    if status in (m.WAITING, m.QUEUED) and row["session"] is not None and row["session"] not in sessions:
        yield "a session that has ended holds its body"
    if status == m.QUEUED and row["session"] is not None and row["wake_at"] is None:
        yield "no end of its patience"
    if status == m.CANCELING and row["wake_at"] is None:
        yield "no end of its grace"


def migrated_sqlite(folder: Path, template: Path) -> str:
    """URL of a copy of a migrated SQLite file, which is made at the first call."""
    if not template.exists():
        migrate(f"sqlite:///{template}")
    path = folder / "holdfast.sqlite3"
    shutil.copy(template, path)
    return f"sqlite:///{path}"
