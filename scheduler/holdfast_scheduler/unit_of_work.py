"""The working set of one commit in one namespace: rows that were locked, what changed, and what sessions must be told.

Commands read and change rows here, through the rules of `run_machine`; `flush` writes what changed with a constant
number of set-based statements. Nothing here leaves the process before the commit.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from holdfast.v1.payload_pb2 import TaskError
from holdfast_scheduler import model as m
from holdfast_scheduler import run_machine as rules
from holdfast_scheduler import store
from holdfast_scheduler.database import Transaction
from holdfast_scheduler.definitions import default_queue, task_row
from holdfast_scheduler.ids import is_off_clock
from holdfast_scheduler.logs import LogCounts
from holdfast_scheduler.metadata_document import MetadataRow
from holdfast_scheduler.model import Checkpoint, Delivery, Inputs, MetadataOp, NewRun, QueueRow, Run, TaskRow
from holdfast_scheduler.settings import Settings

LINEAGE_KEPT: Final = 10_000
"""Runs whose place in the family tree, which never changes, is kept in memory."""


FORESEEN_AT_ONCE: Final = 4
"""A commit of few runs is likely to be followed by commits of few; in those of many a round trip more is nothing."""
FORESEEN_RUNS: Final = 10_000
"""Runs that are kept for the commits that follow: some 5 MB."""


@dataclass(slots=True, eq=False)
class Lineage:
    """A run's place in the family tree."""

    parent: bytes | None
    root: bytes
    depth: int
    task: str


class World:
    """What a commit needs to know beyond the database: settings, task definitions, and things that never change."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.rule_limits = rules.Limits(
            resume_patience_us=round(settings.resume_patience * 1e6),
            cancel_grace_us=round(settings.cancel_grace * 1e6),
            wake_ahead_us=round(settings.wake_ahead * 1e6),
        )
        self.version_patience_us = round(settings.version_patience * 1e6)
        self.tasks: dict[tuple[str, str], TaskRow] = {}
        self.versions: dict[tuple[str, str], int] = {}
        """Instants of the first announcements of versions, by namespace and version."""
        self._versions: dict[tuple[str, str, str], TaskRow] = {}
        self._policies: dict[tuple[str, str, str], rules.Policy] = {}
        self.lineage: OrderedDict[bytes, Lineage] = OrderedDict()
        self.worker_names: dict[bytes, str] = {}
        self.queues: dict[str, dict[str, QueueRow]] = {}
        """Queues that have a row, by namespace and name."""
        self.gates: dict[str, frozenset[str]] = {}
        """Those of them whose starts need admission, by namespace."""
        self.deep_queues: dict[str, frozenset[str]] = {}
        """Those of them that bound their depth themselves, by namespace."""
        self.queue_changes: int | None = None
        """Of the transaction that read `queues`; None when they must be read again in any case."""
        self.told: Callable[[bytes, bytes], int] = lambda session, run_id: 0
        """The highest settled_order that the worker of a session was told of a run, over its present connection."""
        self.heeds_after: Callable[[bytes], bool] = lambda session: False
        """Whether the worker of a session, connected here, holds a body that is woken ahead of its instant."""
        self.log_counts = LogCounts()
        self.foreseen: OrderedDict[tuple[str, bytes], Run] = OrderedDict()
        """Executing runs as the last commits wrote them, by namespace and id. The commit that takes one has it for
        itself: what the commit before told workers of it is written into frames by then."""
        self.depths: dict[tuple[str, str], list[int]] = {}
        """By namespace and queue: how many runs may be triggered before the depth is counted against the server's limit
        again, and the instant before which it is not counted again anyway."""

    def learn(self, namespace: str, row: TaskRow) -> None:
        """Take a definition in; the newest version is the task's."""
        known = self.tasks.get((namespace, row.id))
        if known is None or known.version == row.version or known.registered_at <= row.registered_at:
            self.tasks[namespace, row.id] = row
        self.versions[namespace, row.version] = row.registered_at
        self._versions[namespace, row.id, row.version] = row
        self._policies[namespace, row.id, row.version] = rules.Policy(
            factor=row.factor,
            min_us=row.min_us,
            max_us=row.max_us,
            randomize=row.randomize,
            max_recoveries=row.max_recoveries or self.settings.max_recoveries,
        )

    def version_of(self, namespace: str, task: str, version: str) -> TaskRow | None:
        """The definition that one version of a task announced."""
        return self._versions.get((namespace, task, version))

    def definition(self, namespace: str, task: str, version: str) -> TaskRow | None:
        """The definition that a version announced, else the newest."""
        return self._versions.get((namespace, task, version)) or self.tasks.get((namespace, task))

    def waits(self, namespace: str, run: Run) -> bool:
        """Whether the version that the run has starts no run of the task that may move to another."""
        found = self._versions.get((namespace, run.task, run.version))
        return found is not None and found.waits

    def policy(self, namespace: str, run: Run) -> rules.Policy:
        """The policy of the version that the run is on, else of the newest."""
        found = self._policies.get((namespace, run.task, run.version))
        if found is None and (row := self.tasks.get((namespace, run.task))) is not None:
            found = self._policies.get((namespace, run.task, row.version))
        return found or rules.DEFAULT_POLICY


def _bound(kept: OrderedDict[Any, Any], most: int) -> None:
    """Forget what was put in first."""
    while len(kept) > most:
        kept.popitem(last=False)


def _gates(queues: dict[str, QueueRow]) -> frozenset[str]:
    return frozenset(name for name, row in queues.items() if row.gates_starts)


def _deep_queues(queues: dict[str, QueueRow]) -> frozenset[str]:
    return frozenset(name for name, row in queues.items() if row.limits.depth)


def error_bytes(kind: str, type_name: str, message: str) -> bytes:
    """A serialized TaskError of the scheduler's own making."""
    return TaskError(kind=f"TASK_ERROR_KIND_{kind}", type=type_name, message=message).SerializeToString()


_END_ERRORS: Final = {
    m.CANCELED: error_bytes("CANCELED", "Canceled", "the run was canceled"),
    m.TIMED_OUT: error_bytes("TIMED_OUT", "TimedOut", "the run met its time limit"),
    m.EXPIRED: error_bytes("EXPIRED", "Expired", "the run had not started within its time to live"),
}


@dataclass(slots=True)
class _MetadataChange:
    fence: int = 0
    own: list[MetadataOp] = field(default_factory=list)
    commits: bool = False
    outside: list[MetadataOp] = field(default_factory=list)
    initial: bytes = b""


class UnitOfWork:
    """See the module."""

    def __init__(self, tx: Transaction, namespace: str, world: World) -> None:
        self.tx = tx
        self.namespace = namespace
        self.world = world
        self.runs: dict[bytes, Run] = {}
        self.created: dict[bytes, NewRun] = {}
        self.queued: dict[bytes, Run] = {}  # became claimable here
        self.ended: list[Run] = []  # ended here and not propagated yet
        self.all_ended: list[Run] = []
        self.cancel_children: list[bytes] = []
        self.results: dict[bytes, tuple[bytes | None, bytes | None]] = {}
        self.deliveries: dict[bytes, Delivery] = {}
        self.fresh: dict[bytes, list[Checkpoint]] = {}  # settled here while the run was parked
        self.timed: list[tuple[int, bytes]] = []  # (instant, run), for the timers
        self.ahead_room: dict[bytes, int] = {}  # session → bodies that may be woken ahead
        self.timed_tokens: list[tuple[int, bytes]] = []
        self.timed_schedules: list[tuple[int, bytes]] = []
        self.ended_sessions: set[bytes] = set()
        self.let_go: list[tuple[bytes, bytes]] = []  # (session, run): the session has the run no longer
        self.untold: dict[bytes, tuple[int, int]] = {}  # run → (told, pushed): settled in between, not told here
        self.rebound: set[bytes] = set()  # runs that got a version here, their first or another
        self.vacated: set[tuple[str, str]] = set()  # (queue, lane) in which runs gave up their slots
        self.opened: set[str] = set()  # queues to look into though they were found closed
        self.timed_queues: list[tuple[int, str]] = []  # (instant, queue): when a rate limit admits a start again
        self.depth_taken: dict[str, int] = {}  # queue → how many of `World.depths` this commit uses up
        self.changes_queues = False
        self.changed_queues: dict[str, QueueRow] = {}
        self.left = m.Left()
        self.touched: set[bytes] = set()  # runs whose visible state changed
        self._connections: Callable[[], Any] | None = None
        self._inserted: dict[bytes, Run] = {}  # rows to insert
        self._changed: dict[bytes, Run] = {}  # rows to update
        self._new_checkpoints: dict[tuple[bytes, int], Checkpoint] = {}
        self._settled: dict[tuple[bytes, int], Checkpoint] = {}
        self._retime: set[bytes] = set()
        self._input_rows: list[tuple[Any, ...]] = []
        self._tag_rows: list[tuple[Any, ...]] = []
        self._tags: dict[bytes, list[str]] = {}
        self._added_tags: dict[bytes, list[str]] = {}
        self._replaced: dict[bytes, NewRun] = {}  # runs of which a later trigger replaces what they were triggered with
        self._result_rows: list[tuple[Any, ...]] = []
        self._attempt_rows: list[tuple[Any, ...]] = []
        self.log_rows: list[tuple[Any, ...]] = []
        self._metadata: dict[bytes, _MetadataChange] = {}
        self.key_inserts: dict[tuple[str, bytes], tuple[Any, ...]] = {}
        self.key_updates: dict[tuple[str, bytes], tuple[Any, ...]] = {}

    @property
    def now(self) -> int:
        """The database's clock when the transaction began; PostgreSQL tells it with the first result."""
        return self.tx.now

    # --- queues -------------------------------------------------------------------------------------------------------

    def learn_queues(self) -> None:
        """Have the world know all queues that have a row, and all definitions."""
        world = self.world
        if world.queue_changes == self.tx.queue_changes:
            return
        self._learn_tasks()
        world.queues = {}
        for namespace, row in store.load_queues(self.tx):
            world.queues.setdefault(namespace, {})[row.name] = row
        world.gates = {namespace: _gates(rows) for namespace, rows in world.queues.items()}
        world.deep_queues = {namespace: _deep_queues(rows) for namespace, rows in world.queues.items()}
        world.queue_changes = self.tx.queue_changes

    def _learn_tasks(self) -> None:
        """Read what workers have announced to other schedulers."""
        missing: dict[tuple[str, str], list[str]] = {}
        for namespace, task, version in store.known_tasks(self.tx):
            if self.world.version_of(namespace, task, version) is None:
                missing.setdefault((namespace, version), []).append(task)
        for (namespace, version), tasks in missing.items():
            for _id, registered_at, definition in store.load_version(self.tx, namespace, version, tasks).values():
                self.world.learn(namespace, task_row(definition, version, registered_at))

    def queue(self, name: str) -> QueueRow | None:
        """A queue, if it has a row; as of the begin of this commit, and with what the commit itself changed."""
        self.learn_queues()
        return self.changed_queues.get(name) or self.world.queues.get(self.namespace, {}).get(name)

    def gates(self) -> frozenset[str]:
        """Queues whose starts need admission."""
        self.learn_queues()
        if self.changed_queues:
            return _gates({**self.world.queues.get(self.namespace, {}), **self.changed_queues})
        return self.world.gates.get(self.namespace, frozenset())

    def deep_queues(self) -> frozenset[str]:
        """Queues that bound how many runs may be queued in them."""
        self.learn_queues()
        return self.world.deep_queues.get(self.namespace, frozenset())

    def write_queues(self, rows: list[QueueRow]) -> None:
        """Write queues whose rows are locked."""
        store.write_queues(self.tx, self.namespace, rows)
        self.changed_queues.update({row.name: row for row in rows})

    # --- loading ---------------------------------------------------------------------------------------------------

    def load(self, ids: Iterable[bytes]) -> None:
        """Lock and load runs that are not here yet; those that do not exist stay absent."""
        missing = {run_id for run_id in ids if run_id not in self.runs}
        if missing and (self.tx.is_foreseen or self.tx.is_only_writer):
            kept = self.world.foreseen
            believed = [run for run_id in sorted(missing) if (run := kept.pop((self.namespace, run_id), None))]
            if believed and not self.tx.is_only_writer:
                store.expect_runs(self.tx, self.namespace, believed)
            for run in believed:
                self.runs[run.id] = run
                missing.remove(run.id)
        if missing:
            self.adopt(store.load_runs(self.tx, self.namespace, list(missing)))

    def adopt(self, rows: Iterable[Run]) -> list[Run]:
        """Take loaded rows in, and return the copies that count: those that were here before, if any."""
        if self.world.foreseen:
            rows = list(rows)
            for run in rows:
                self.world.foreseen.pop((self.namespace, run.id), None)
        return [self.runs.setdefault(run.id, run) for run in rows]

    def load_waiters(self, subjects: list[bytes]) -> list[Checkpoint]:
        """Pending checkpoints that wait for these runs, batches or tokens, their runs locked."""
        waiters = store.load_waiters(self.tx, self.namespace, subjects)
        if all(checkpoint.run_id in self.runs for checkpoint in waiters):
            return waiters
        # What was read before the lock was granted may be old: a timeout may have answered the call meanwhile.
        self.load(checkpoint.run_id for checkpoint in waiters)
        return store.load_waiters(self.tx, self.namespace, subjects)

    def lock_connections(self, sessions: list[bytes]) -> None:
        """Lock the sessions that may be given work, ahead of `connections`, which then has no round trip to make."""
        self._connections = store.lock_connections(self.tx, self.namespace, sessions)

    def connections(self, believed: dict[bytes, int]) -> dict[bytes, int]:
        """Numbers of the newest connections of sessions that exist, which are locked. Called once a commit, with the
        numbers as this scheduler knows them."""
        if self.tx.is_foreseen:
            store.expect_connections(self.tx, self.namespace, believed)
            return believed
        ahead, self._connections = self._connections, None
        return dict((ahead or store.lock_connections(self.tx, self.namespace, list(believed)))())

    def remember(self) -> None:
        """After the commit, and not before: keep what the next ones are likely to begin with."""
        for queue, taken in self.depth_taken.items():
            if (depth := self.world.depths.get((self.namespace, queue))) is not None:
                depth[0] -= taken
        for run_id, new in self.created.items():
            self.world.lineage[run_id] = Lineage(new.parent, new.root or run_id, new.depth, new.task)
        _bound(self.world.lineage, LINEAGE_KEPT)
        if len(self.runs) > FORESEEN_AT_ONCE and not self.tx.is_only_writer:
            return
        kept = self.world.foreseen
        for run in self.runs.values():
            if run.status == m.EXECUTING:
                kept[self.namespace, run.id] = run
        _bound(kept, FORESEEN_RUNS)

    def lineages(self, ids: Iterable[bytes]) -> dict[bytes, Lineage]:
        """Where runs stand in the family tree."""
        kept = self.world.lineage
        wanted = set(ids)
        missing = [run_id for run_id in wanted if run_id not in kept]
        for row in store.load_lineage(self.tx, self.namespace, missing).values() if missing else ():
            kept[row[0]] = Lineage(parent=row[2], root=row[3] or row[0], depth=row[4], task=row[1])
        found = {run_id: kept[run_id] for run_id in wanted if run_id in kept}
        _bound(kept, LINEAGE_KEPT)
        return found

    def task(self, name: str) -> TaskRow | None:
        """The newest definition of a task; one that was announced to another replica is read from the database."""
        found = self.world.tasks.get((self.namespace, name))
        if found is None:
            for namespace, _id, version, registered_at, definition in store.load_task(self.tx, self.namespace, name):
                self.world.learn(namespace, task_row(definition, version, registered_at))
            found = self.world.tasks.get((self.namespace, name))
        return found

    # --- changing --------------------------------------------------------------------------------------------------

    def create(self, run: Run, new: NewRun) -> None:
        """Add a new run."""
        self.runs[run.id] = run
        self.created[run.id] = new
        self._inserted[run.id] = run
        self.touched.add(run.id)
        self._input_rows.append(
            (
                self.namespace,
                run.id,
                run.task,
                self.now,
                new.parent,
                new.root,
                new.batch,
                new.depth,
                new.payload,
                new.fingerprint,
                json.dumps(new.tags) if new.tags else "",
                new.key.display if new.key is not None else None,
                new.options or None,
                new.trace or None,
                new.is_replay,
                run.queue if run.queue != default_queue(run.task) else "",
                is_off_clock(run.id, self.now),
                new.schedule,
            )
        )
        for tag in new.tags:
            self._tag_rows.append((self.namespace, tag, run.id))
        if new.metadata:
            self._metadata.setdefault(run.id, _MetadataChange()).initial = new.metadata
        if run.status == m.QUEUED:
            self.queued[run.id] = run

    def changed(self, run: Run) -> None:
        """Have the hot row written back."""
        if run.id not in self._inserted:
            self._changed[run.id] = run

    def transition(
        self,
        run: Run,
        event: str,
        *,
        output: bytes | None = None,
        error: bytes | None = None,
        attempt_state: int = m.ATTEMPT_FAILED,
        at: int | None = None,
        **args: Any,
    ) -> int:
        """Apply an event by the rules and take in its effects. Returns them. `at` is its instant; None means now."""
        a = rules.Args(self.now if at is None else at, self.world.rule_limits, **args)
        if event in (rules.FAIL, rules.LOSE):
            a.policy = self.world.policy(self.namespace, run)
            a.chance = random.random()
        session, fence, started_at, attempt = run.session, run.fence, run.started_at, run.attempt
        status = run.status
        effects = rules.apply(run, event, a)
        if effects & rules.REFUSED:
            return effects
        if status == m.QUEUED and run.status != m.QUEUED:
            self.queued.pop(run.id, None)
        if status in rules.OCCUPYING and run.status not in rules.OCCUPYING:
            self.vacated.add((run.queue, run.lane))
        self.changed(run)
        self.touched.add(run.id)
        if session is not None and run.session is None:
            self.let_go.append((session, run.id))
        if effects == rules.NOTHING:
            return effects
        if effects & rules.CLAIMABLE:
            self.queued[run.id] = run
        if effects & rules.ATTEMPT_ENDED:
            worker = self.world.worker_names.get(session or b"", "")
            self._attempt_rows.append(
                (self.namespace, run.id, fence, attempt, attempt_state, started_at, self.now, worker, error)
            )
        if effects & rules.ENDED:
            self._end(run, output, error, session)
        if effects & rules.CANCEL_CHILDREN and run.last_seq:
            self.cancel_children.append(run.id)
        if effects & rules.TELL_CANCEL and run.session is not None:
            self.delivery(run.session).cancels.append((run.id, run.fence))
        if effects & rules.TELL_DROP and a.former_session is not None:
            self.delivery(a.former_session).drops.append(
                (run.id, run.fence, f"the run is {m.STATUS_NAMES[run.status]}")
            )
        return effects

    def _end(self, run: Run, output: bytes | None, error: bytes | None, session: bytes | None) -> None:
        if run.status != m.COMPLETED:
            output = None
            error = _END_ERRORS.get(run.status, error) if run.status != m.TIMED_OUT or error is None else error
        self.results[run.id] = (output, error)
        worker = self.world.worker_names.get(session) if session is not None else None
        self._result_rows.append((self.namespace, run.id, output, error, self.now, worker, run.status))
        self.ended.append(run)
        self.all_ended.append(run)

    def record(self, run: Run, checkpoint: Checkpoint) -> None:
        """Add a checkpoint that a report makes. A settled one takes the next place in the order of settlements."""
        self._new_checkpoints[run.id, checkpoint.seq] = checkpoint
        run.last_seq = max(run.last_seq, checkpoint.seq)
        if checkpoint.status == m.PENDING:
            run.pending += 1
            if checkpoint.due_at is not None and (run.timer_at is None or checkpoint.due_at < run.timer_at):
                run.timer_at = checkpoint.due_at
                rules.set_due(run)
        else:
            run.settled += 1
            checkpoint.settled_order = run.settled
        self.changed(run)

    def tell(self, run: Run, checkpoint: Checkpoint) -> None:
        """Tell the execution that a checkpoint it has just made is otherwise than it asked."""
        if checkpoint.settled_order:
            run.pushed = checkpoint.settled_order
        if run.session is not None:
            self.delivery(run.session).updates.append((run.id, run.fence, checkpoint))

    def tell_missing(self, run: Run) -> None:
        """Have an execution told what was settled for it, if this scheduler has not done so: another one settled it and
        its note is on the way, or the connection that had the news has ended."""
        if run.session is not None:
            told = self.world.told(run.session, run.id)
            if told < run.pushed:
                self.untold[run.id] = (told, run.pushed)

    def settle(
        self,
        checkpoint: Checkpoint,
        status: int,
        *,
        value: bytes | None = None,
        error: bytes | None = None,
        permanent: bool = False,
        child_status: int = 0,
        entries: list[m.BatchEntry] | None = None,
    ) -> None:
        """Answer a pending checkpoint from outside, and wake its run if it waits. The run must be loaded."""
        run = self.runs.get(checkpoint.run_id)
        if run is None or m.is_final(run.status) or (checkpoint.run_id, checkpoint.seq) in self._settled:
            return
        self._take_off(run, checkpoint, status)
        run.pushed = run.settled
        checkpoint.permanent = permanent
        checkpoint.value = value
        checkpoint.error = error
        checkpoint.child_status = child_status
        checkpoint.entries = entries
        self.changed(run)
        # A parked body that was woken by an earlier commit has more to learn than what is settled here: its answers
        # are then read from the rows when it is resumed.
        knows_all = run.status == m.WAITING or run.id in self.fresh
        # A body that is woken ahead of its instant waits until then.
        ahead = checkpoint.kind == m.WAIT and checkpoint.due_at is not None and checkpoint.due_at > self.now
        self.transition(run, rules.SETTLED, at=checkpoint.due_at if ahead else None)
        if run.status in (m.EXECUTING, m.CANCELING):
            assert run.session is not None
            self.delivery(run.session).updates.append((run.id, run.fence, checkpoint))
        elif run.session is not None and knows_all:
            self.fresh.setdefault(run.id, []).append(checkpoint)

    def abandon(self, run: Run, seqs: Iterable[int]) -> None:
        """The body canceled durable calls of its own."""
        self.flush_checkpoints()
        wanted = set(seqs)
        # In the order of their making: a re-entered body is answered in the order of settlement.
        for checkpoint in sorted(store.load_pending(self.tx, self.namespace, [run.id]), key=lambda one: one.seq):
            if checkpoint.seq in wanted and (run.id, checkpoint.seq) not in self._settled:
                self._take_off(run, checkpoint, m.ABANDONED)
        self.changed(run)

    def _take_off(self, run: Run, checkpoint: Checkpoint, status: int) -> None:
        """A checkpoint is pending no longer: it takes the next place in the order of settlements."""
        run.settled += 1
        run.pending -= 1
        checkpoint.status = status
        checkpoint.settled_order = run.settled
        if status != m.SUCCEEDED and run.attempt != checkpoint.attempt:
            checkpoint.failed_in = run.attempt
        self._settled[run.id, checkpoint.seq] = checkpoint
        if checkpoint.due_at is not None:
            self._retime.add(run.id)

    def metadata(self, run: Run, operations: list[MetadataOp]) -> None:
        """Take in the metadata operations of a report. One that is not provisional commits all before it."""
        own = [one for one in operations if one.target <= 1]
        if own:
            change = self._metadata.setdefault(run.id, _MetadataChange())
            change.fence = run.fence
            change.own += own
            change.commits = change.commits or any(not one.provisional for one in own)
        if len(own) < len(operations):
            line = self.lineages([run.id]).get(run.id)
            for one in operations:
                target = None if line is None else line.parent if one.target == 2 else line.root
                if one.target > 1 and target is not None and target != run.id:
                    self._metadata.setdefault(target, _MetadataChange()).outside.append(one)

    def add_tags(self, run: Run, tags: list[str]) -> None:
        """Add tags to a run whose tags were loaded."""
        before = self._tags[run.id]
        self._tags[run.id] = self.tags_with(run, tags)
        self._added_tags.setdefault(run.id, []).extend(tag for tag in self._tags[run.id] if tag not in before)
        self.touched.add(run.id)

    def load_tags(self, run_ids: Iterable[bytes]) -> None:
        """Have the tags of runs at hand, which reports add to. The runs must be loaded."""
        self._tags.update(store.load_tags(self.tx, self.namespace, [one for one in run_ids if one in self.runs]))

    def tags_with(self, run: Run, tags: list[str]) -> list[str]:
        """The tags that a run would have with these."""
        return list(dict.fromkeys((*self._tags.get(run.id, ()), *tags)))

    def replace_inputs(self, run: Run, new: NewRun) -> None:
        """Replace what a run that has not started was triggered with: payload, tags, options, key and metadata."""
        self._replaced[run.id] = new
        self._metadata[run.id] = _MetadataChange(initial=new.metadata or b"{}")
        self.touched.add(run.id)

    def delivery(self, session: bytes) -> Delivery:
        """What this commit brings to a session."""
        found = self.deliveries.get(session)
        if found is None:
            found = self.deliveries[session] = Delivery()
        return found

    def inputs_of(self, run_id: bytes, new: NewRun) -> Inputs:
        """The inputs of a run that was created here."""
        return Inputs(
            payload=new.payload,
            tags=new.tags,
            key=new.key.display if new.key is not None else None,
            trace=new.trace or None,
            parent=new.parent,
            root=new.root or run_id,
            batch=new.batch,
            depth=new.depth,
            created_at=self.now,
            is_replay=new.is_replay,
            options=new.options or None,
        )

    # --- writing ---------------------------------------------------------------------------------------------------

    def flush_checkpoints(self) -> None:
        """Write new and settled checkpoints."""
        tx = self.tx
        if self._new_checkpoints:
            store.insert_checkpoints(tx, self.namespace, self._new_checkpoints.values())
            for key in self._new_checkpoints:
                self._settled.pop(key, None)
            self._new_checkpoints = {}
        if self._settled:
            store.settle_checkpoints(
                tx,
                [
                    (
                        self.namespace,
                        c.run_id,
                        c.seq,
                        c.status,
                        c.settled_order,
                        c.failed_in,
                        c.permanent,
                        None if c.kind == m.CHILD else c.value,
                        c.error if c.kind != m.CHILD or not c.child_status else None,
                    )
                    for c in self._settled.values()
                ],
            )
            self._settled = {}

    def flush(self) -> None:
        """Write everything that changed since the last flush."""
        tx, namespace = self.tx, self.namespace
        self.flush_checkpoints()
        if self._retime:
            self._find_timers()
        if self._inserted:
            store.insert_runs(tx, namespace, self._inserted.values())
            store.insert_inputs(tx, self._input_rows)
        if self._changed:
            store.update_runs(tx, namespace, [self._changed[key] for key in sorted(self._changed)])
        for run in (*self._inserted.values(), *self._changed.values()):
            if run.due_at is not None:
                self.timed.append((run.due_at - self.ahead_us(run), run.id))
        self._inserted, self._changed, self._input_rows = {}, {}, []
        if self._replaced:
            self._flush_replaced()
        if self._added_tags:
            self._flush_added_tags()
        if self._tag_rows:
            store.insert_tags(tx, self._tag_rows)
            self._tag_rows = []
        if self._result_rows:
            store.insert_results(tx, self._result_rows)
            self._result_rows = []
        if self._attempt_rows:
            store.insert_attempts(tx, self._attempt_rows)
            self._attempt_rows = []
        if self.log_rows:
            self.world.log_counts.write(tx, namespace, self.log_rows, self.world.settings.limits.log_records)
            self.log_rows = []
        if self._metadata:
            self._flush_metadata()
        if self.key_inserts:
            store.insert_keys(tx, list(self.key_inserts.values()))
            self.key_inserts = {}
        if self.key_updates:
            store.replace_keys(tx, list(self.key_updates.values()))
            self.key_updates = {}

    def ahead_us(self, run: Run) -> int:
        """How long before its instant the run's timer rings. In a queue with limits what holds a body for nothing would
        hold up others."""
        ahead = rules.ahead_us(run, self.world.rule_limits)
        if not ahead or run.session is None or not self.world.heeds_after(run.session) or run.queue in self.gates():
            return 0
        return ahead

    def may_wake_ahead(self, run: Run) -> bool:
        """Whether the worker that has the body parked has a slot for which nobody waits; counted down."""
        assert run.session is not None
        room = self.ahead_room.get(run.session, 0)
        self.ahead_room[run.session] = room - 1
        return room > 0

    def _find_timers(self) -> None:
        """The earliest pending instant of runs of which a timed checkpoint was settled."""
        earliest: dict[bytes, int] = {}
        several = [run_id for run_id in self._retime if self.runs[run_id].pending]
        for checkpoint in store.load_pending(self.tx, self.namespace, several) if several else ():
            if checkpoint.due_at is not None:
                known = earliest.get(checkpoint.run_id)
                earliest[checkpoint.run_id] = checkpoint.due_at if known is None else min(known, checkpoint.due_at)
        for run_id in self._retime:
            run = self.runs[run_id]
            run.timer_at = earliest.get(run_id)
            rules.set_due(run)
            self.changed(run)
        self._retime = set()

    def _flush_replaced(self) -> None:
        replaced, self._replaced = self._replaced, {}
        self._tag_rows = [row for row in self._tag_rows if row[2] not in replaced]
        store.delete_tags(self.tx, self.namespace, list(replaced))
        rows = []
        for run_id, new in replaced.items():
            tags = json.dumps(new.tags) if new.tags else ""
            key = new.key.display if new.key is not None else None
            rows.append((self.namespace, run_id, new.payload, tags, key, new.options or None, new.trace or None))
            self._tag_rows += [(self.namespace, tag, run_id) for tag in new.tags]
        store.replace_inputs(self.tx, rows)

    def _flush_added_tags(self) -> None:
        added, self._added_tags = self._added_tags, {}
        for run_id, tags in added.items():
            self._tag_rows += [(self.namespace, tag, run_id) for tag in tags]
        store.update_tags(self.tx, [(self.namespace, run_id, json.dumps(self._tags[run_id])) for run_id in added])

    def _flush_metadata(self) -> None:
        changes, self._metadata = self._metadata, {}
        rows = store.load_metadata(self.tx, self.namespace, list(changes))
        written = []
        for run_id, change in changes.items():
            found = rows.get(run_id)
            if found is None and not (change.own or change.outside or change.initial):
                continue
            document = MetadataRow() if found is None else MetadataRow.decode(*found[1:])
            if change.initial:
                document.committed = json.loads(change.initial)
                document.live = json.loads(change.initial)
            if change.own or change.commits:
                document.report(change.fence, change.own, commits=change.commits)
            for operation in change.outside:
                document.from_outside(operation)
            written.append((self.namespace, run_id, *document.encode()))
            self.touched.add(run_id)
        if written:
            store.upsert_metadata(self.tx, written)


def key_hash(kind: str, task: str, key: m.KeyUse, scope: int, within: bytes, attempt: int) -> bytes:
    """The hash under which a key is unique; every part is delimited, so that no two uses can look alike."""
    place = b"" if scope == m.SCOPE_GLOBAL else within
    number = attempt if scope == m.SCOPE_ATTEMPT else 0
    head = f"{kind}\0{scope}\0{number}\0{len(task)}\0{task}\0{len(place)}\0".encode()
    return hashlib.sha256(head + place + key.parts).digest()
