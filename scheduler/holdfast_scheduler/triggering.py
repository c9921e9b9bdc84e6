"""Making runs: unknown tasks, idempotency keys, ids that were used before, batches.

The same path serves the API and durable calls inside a run; only the origin differs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from holdfast.v1.payload_pb2 import TaskError
from holdfast.v1.run_pb2 import TriggerOptions
from holdfast_scheduler import model as m
from holdfast_scheduler import run_machine as rules
from holdfast_scheduler import store
from holdfast_scheduler.debouncing import Debounces
from holdfast_scheduler.errors import near_names, not_found_fault
from holdfast_scheduler.model import Handle, ItemFault, NewRun, Run
from holdfast_scheduler.queues import Depths
from holdfast_scheduler.unit_of_work import Lineage, UnitOfWork, error_bytes, key_hash

INVALID_ARGUMENT: Final = 3
FAILED_PRECONDITION: Final = 9
ALREADY_EXISTS: Final = 6
RESOURCE_EXHAUSTED: Final = 8

FREED_BY: Final = (m.FAILED, m.CRASHED, m.TIMED_OUT, m.EXPIRED)
"""A key that points at a run which ended so is free again; completed and canceled runs hold it."""


@dataclass(slots=True, eq=False)
class _Held:
    """What a key points at."""

    subject: bytes
    fingerprint: bytes


@dataclass(slots=True, eq=False)
class _Free:
    """A key that points at nothing; `row_exists` when an expired or freed row has to be replaced."""

    row_exists: bool


def begin_time_to_live(unit: UnitOfWork, runs: list[Run]) -> None:
    """The delay of these runs is over: from now on they wait for a worker, for as long as they may."""
    inputs = store.load_inputs(unit.tx, unit.namespace, [run.id for run in runs]) if runs else {}
    for run in runs:
        options = TriggerOptions.FromString(inputs[run.id][11] or b"")
        task = unit.task(run.task)
        ttl_us = task.ttl_us if task is not None else None
        if options.HasField("ttl"):
            ttl_us = options.ttl.seconds * 1_000_000 + options.ttl.nanos // 1000
        if ttl_us is not None:
            run.wake_at = unit.now + ttl_us
            rules.set_due(run)
            unit.changed(run)


class Trigger:
    """Makes the runs that the commands of one batch ask for. Keys and ids are looked up once for all of them."""

    def __init__(self, unit: UnitOfWork) -> None:
        self._unit = unit
        self._keys: dict[bytes, _Held | _Free] = {}
        self._hashes: dict[int, bytes] = {}
        self._batch_keys: dict[bytes, bytes] = {}
        self._debounces = Debounces(unit)
        self._depths = Depths(unit)

    # --- looking up --------------------------------------------------------------------------------------------------

    def prepare(self, asked: Iterable[tuple[NewRun, Run | None]], probe: Iterable[bytes]) -> None:
        """Look up the keys that these items use, and the ids that clients chose."""
        unit = self._unit
        asked = list(asked)
        hashes: dict[bytes, None] = {}
        for new, asker in asked:
            if new.key is None or new.error is not None:
                continue
            scope = new.key.scope or (m.SCOPE_RUN if asker is not None else m.SCOPE_GLOBAL)
            if asker is None and scope != m.SCOPE_GLOBAL:
                new.error = ItemFault(
                    INVALID_ARGUMENT,
                    "INVALID_KEY",
                    "idempotency_key: scopes run and attempt exist only inside a run; use scope global",
                    {"field": "idempotency_key.scope"},
                )
                continue
            within, attempt = (asker.id, asker.attempt) if asker is not None else (b"", 0)
            digest = key_hash("run", new.task, new.key, scope, within, attempt)
            self._hashes[id(new)] = digest
            if digest not in self._keys:
                hashes[digest] = None
        if hashes:
            self._look_up(list(hashes))
        self._debounces.prepare(new for new, _ in asked)
        unit.load(probe)
        if deep := unit.deep_queues():
            self._depths.prepare({self._queue(new) for new, _ in asked} & deep)

    def _queue(self, new: NewRun) -> str:
        if new.queue:
            return new.queue
        task = self._unit.task(new.task) if new.task else None
        return task.queue if task is not None else ""

    def _look_up(self, hashes: list[bytes]) -> None:
        unit = self._unit
        rows = store.load_keys(unit.tx, unit.namespace, "run", hashes)
        alive = {digest: row for digest, row in rows.items() if row[3] > unit.now}
        unit.load(row[2] for row in alive.values())
        fingerprints = (
            store.load_fingerprints(unit.tx, unit.namespace, [row[2] for row in alive.values()]) if alive else {}
        )
        for digest in hashes:
            row = alive.get(digest)
            run = unit.runs.get(row[2]) if row is not None else None
            if run is None or run.status in FREED_BY:
                self._keys[digest] = _Free(row_exists=digest in rows)
            else:
                self._keys[digest] = _Held(run.id, fingerprints.get(run.id, b""))

    # --- making ------------------------------------------------------------------------------------------------------

    def one(self, new: NewRun) -> Handle | ItemFault:
        """Make one run, or find the one that its key or id names."""
        unit = self._unit
        if new.error is not None:
            return new.error
        task = unit.task(new.task)
        if task is None:
            known = [name for namespace, name in list(unit.world.tasks) if namespace == unit.namespace]
            return not_found_fault("task", new.task, near_names(new.task, known))
        before = unit.runs.get(new.id)
        if before is not None:
            return self._same_id(new, before)
        digest = self._hashes.get(id(new))
        if digest is not None:
            held = self._keys[digest]
            if isinstance(held, _Held) and not self._freed(held):
                return Handle(held.subject, True, held.fingerprint != new.fingerprint)
        if new.depth > unit.world.settings.limits.depth:
            return ItemFault(
                RESOURCE_EXHAUSTED,
                "LIMIT_EXCEEDED",
                f"the run of {new.task} would have {new.depth} ancestors; the limit depth is"
                f" {unit.world.settings.limits.depth}",
                {"limit": "depth"},
            )
        merged = self._debounces.merge(new) if new.debounce is not None else None
        if merged is not None:
            if digest is not None:
                self._take(digest, new, merged.id)
            return Handle(merged.id, True)
        run = self._new_run(new, self._definition(new, task))
        if run.status == m.QUEUED and (fault := self._depths.take(run.queue)) is not None:
            return fault
        if digest is not None:
            self._take(digest, new, new.id)
        unit.create(run, new)
        return Handle(new.id)

    def _definition(self, new: NewRun, newest: m.TaskRow) -> m.TaskRow:
        """The definition that counts for a new run: that of the version that it is to start on."""
        version = new.version or new.parent_version
        return self._unit.world.definition(self._unit.namespace, new.task, version) or newest if version else newest

    def _freed(self, held: _Held) -> bool:
        run = self._unit.runs.get(held.subject)
        return run is not None and run.status in FREED_BY

    def _same_id(self, new: NewRun, before: Run) -> Handle | ItemFault:
        """The client sends a run again because it does not know whether the first time arrived."""
        unit = self._unit
        made_here = unit.created.get(new.id)
        if made_here is not None:
            fingerprint = made_here.fingerprint
        else:
            fingerprint = store.load_fingerprints(unit.tx, unit.namespace, [new.id]).get(new.id, b"")
        if fingerprint == new.fingerprint and before.task == new.task:
            return Handle(new.id)
        return ItemFault(
            ALREADY_EXISTS,
            "ID_REUSED",
            f"run_id was used before for task {before.task} with another payload; choose a new id",
            {"field": "run_id"},
        )

    def _take(self, digest: bytes, new: NewRun, subject: bytes) -> None:
        """Have a key point at a run."""
        unit = self._unit
        assert new.key is not None
        held = self._keys[digest]
        row = (unit.namespace, "run", new.task, digest, subject, unit.now + new.key.ttl_us)
        exists = isinstance(held, _Held) or held.row_exists
        if exists and ("run", digest) not in unit.key_inserts:
            unit.key_updates["run", digest] = row
        else:
            unit.key_inserts["run", digest] = row
        self._keys[digest] = _Held(subject, new.fingerprint)

    def _new_run(self, new: NewRun, task: m.TaskRow) -> Run:
        now = self._unit.now
        start_at = now + new.delay_us if new.delay_us else now
        if new.start_at is not None:
            start_at = max(now, new.start_at)
        delayed = start_at > now
        ttl = new.ttl_us if new.ttl_us is not None else task.ttl_us
        timeout = new.timeout_us if new.timeout_us is not None else task.timeout_us
        run = Run(
            id=new.id,
            task=new.task,
            version=new.version or new.parent_version,
            queue=new.queue or task.queue,
            lane=new.lane,
            order_at=start_at - new.priority_us,
            status=m.DELAYED if delayed else m.QUEUED,
            reason=m.SCHEDULED if delayed else m.NO_REASON,
            attempt=0,
            max_attempts=new.max_attempts or task.max_attempts,
            recoveries=0,
            fence=0,
            last_report=0,
            settled=0,
            pushed=0,
            seen=0,
            last_seq=0,
            session=None,
            pending=0,
            wake_at=start_at if delayed else now + ttl if ttl is not None else None,
            timer_at=None,
            deadline_at=now + timeout if timeout is not None else None,
            due_at=None,
            started_at=None,
            parent=new.parent,
            on_parent_end=new.on_parent_end,
            awaited=new.waited,
            since=now,
            pinned=bool(new.version),
        )
        rules.set_due(run)
        if new.debounce is not None:
            self._debounces.begin(new, run)
        return run

    # --- from inside a run -------------------------------------------------------------------------------------------

    def as_child(self, asker: Run, line: Lineage | None, new: NewRun, *, wait: bool) -> None:
        """Give an item its place below the run that asks for it."""
        new.parent = asker.id
        new.root = line.root if line is not None else asker.id
        new.depth = (line.depth if line is not None else 0) + 1
        new.waited = wait
        if wait and asker.version and self._unit.world.version_of(self._unit.namespace, new.task, asker.version):
            new.parent_version = asker.version
        if not new.on_parent_end:
            new.on_parent_end = m.ON_PARENT_END_CANCEL if wait else m.ON_PARENT_END_DETACH

    def would_deadlock(self, asker: Run, subject: bytes) -> ItemFault | None:
        """Waiting for oneself or an ancestor would never end."""
        unit = self._unit
        chain: list[str] = []
        at: bytes | None = asker.id
        while at is not None:
            line = unit.lineages([at]).get(at)
            if line is None:
                return None
            chain.append(line.task)
            if at == subject:
                return ItemFault(
                    FAILED_PRECONDITION,
                    "WOULD_DEADLOCK",
                    "idempotency_key: its run waits, directly or through others, for this very call: "
                    f"{' ← '.join(chain)}; wait for another run, or use another key",
                    {"field": "idempotency_key"},
                )
            at = line.parent
        return None

    # --- batches -----------------------------------------------------------------------------------------------------

    def batch(
        self, batch_id: bytes, items: list[NewRun], key: m.KeyUse | None, asker: Run | None, *, wait: bool, chosen: bool
    ) -> m.BatchOutcome | ItemFault:
        """Make a batch, or find the one that its key or id names."""
        unit = self._unit
        fingerprint = hashlib.sha256(b"".join(new.fingerprint for new in items)).digest()
        digest = b""
        if key is not None:
            scope = key.scope or (m.SCOPE_RUN if asker is not None else m.SCOPE_GLOBAL)
            if asker is None and scope != m.SCOPE_GLOBAL:
                message = "idempotency_key: scopes run and attempt exist only inside a run; use scope global"
                return ItemFault(INVALID_ARGUMENT, "INVALID_KEY", message, {"field": "idempotency_key.scope"})
            within, attempt = (asker.id, asker.attempt) if asker is not None else (b"", 0)
            digest = key_hash("batch", "", key, scope, within, attempt)
            found = self._batch_keys.get(digest)
            if found is None:
                row = store.load_keys(unit.tx, unit.namespace, "batch", [digest]).get(digest)
                found = row[2] if row is not None and row[3] > unit.now else None
                if found is None:
                    fresh = (unit.namespace, "batch", "", digest, batch_id, unit.now + key.ttl_us)
                    (unit.key_inserts if row is None else unit.key_updates)["batch", digest] = fresh
                    self._batch_keys[digest] = batch_id
            if found is not None:
                return self._same_key(found, fingerprint)
        if chosen and asker is None:
            before = store.load_batches(unit.tx, unit.namespace, [batch_id]).get(batch_id)
            if before is not None and before[2] == fingerprint:
                return m.BatchOutcome(batch_id, False, self._outcomes_of(batch_id))
            if before is not None:
                message = "batch_id was used before for other items; choose a new id"
                return ItemFault(ALREADY_EXISTS, "ID_REUSED", message, {"field": "batch_id"})
        outcomes: list[Handle | ItemFault] = []
        rows: list[tuple[object, ...]] = []
        open_runs: set[bytes] = set()
        for place, new in enumerate(items):
            new.batch = batch_id
            outcome = self.one(new)
            if isinstance(outcome, Handle):
                run = unit.runs[outcome.run_id]
                if wait and outcome.is_cached and not m.is_final(run.status):
                    assert asker is not None
                    fault = self.would_deadlock(asker, outcome.run_id)
                    outcome = fault or outcome
                if wait and isinstance(outcome, Handle) and not m.is_final(run.status):
                    if not run.awaited:
                        run.awaited = True
                        unit.changed(run)
                    open_runs.add(run.id)
            outcomes.append(outcome)
            if isinstance(outcome, Handle):
                rows.append(
                    (unit.namespace, batch_id, place, outcome.run_id, outcome.is_cached, outcome.payload_differs, None)
                )
            else:
                error = error_bytes("NOT_TRIGGERED", outcome.reason, outcome.message)
                rows.append((unit.namespace, batch_id, place, None, False, False, error))
        store.insert_batches(
            unit.tx,
            [(unit.namespace, batch_id, len(open_runs), fingerprint, unit.now, key.display if key else None)],
        )
        store.insert_batch_items(unit.tx, rows)
        return m.BatchOutcome(batch_id, False, outcomes)

    def _same_key(self, batch_id: bytes, fingerprint: bytes) -> m.BatchOutcome:
        unit = self._unit
        outcomes = self._outcomes_of(batch_id)
        for outcome in outcomes:
            if isinstance(outcome, Handle):
                outcome.is_cached = True
        before = store.load_batches(unit.tx, unit.namespace, [batch_id])[batch_id]
        return m.BatchOutcome(batch_id, True, outcomes, before[2] != fingerprint)

    def _outcomes_of(self, batch_id: bytes) -> list[Handle | ItemFault]:
        """What was answered when the batch was made."""
        unit = self._unit
        unit.flush()
        outcomes: list[Handle | ItemFault] = []
        rows, _ = store.load_batch_entries(unit.tx, unit.namespace, [batch_id], 0)
        for _, run_id, is_cached, differs, fault, *_ in rows:
            if run_id is not None:
                outcomes.append(Handle(run_id, is_cached, differs))
            else:
                error = TaskError.FromString(fault or b"")
                outcomes.append(ItemFault(INVALID_ARGUMENT, error.type, error.message))
        return outcomes
