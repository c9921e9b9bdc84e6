"""Debounce: triggers of a task with one key are merged into one run until it starts.

The run is DELAYED. Each further trigger puts its start off, to `delay` after itself and at the latest `max_delay` after
the first trigger. In trailing mode the run takes what the last trigger brought: payload, tags, metadata and options;
its id, its queue and its lane stay those of the first. In leading mode it keeps what the first one brought.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from holdfast_scheduler import model as m
from holdfast_scheduler import run_machine as rules
from holdfast_scheduler import store
from holdfast_scheduler.model import KeyUse, NewRun, Run
from holdfast_scheduler.unit_of_work import UnitOfWork, key_hash

KIND: Final = "debounce"


class Debounces:
    """The merges of one commit."""

    def __init__(self, unit: UnitOfWork) -> None:
        self._unit = unit
        self._held: dict[bytes, bytes | None] = {}  # key → its run, None when that has started
        self._begun: dict[bytes, int] = {}  # run → instant of the first trigger

    def prepare(self, items: Iterable[NewRun]) -> None:
        """Look up the keys of these items and the runs that they point at."""
        unit = self._unit
        keys = {_digest(new) for new in items if new.debounce is not None and new.error is None}
        if not keys:
            return
        rows = store.load_keys(unit.tx, unit.namespace, KIND, list(keys))
        unit.load(row[2] for row in rows.values())
        for digest, row in rows.items():
            run = unit.runs.get(row[2])
            self._held[digest] = run.id if run is not None and _merges(run) else None
        waiting = [run_id for run_id in self._held.values() if run_id is not None]
        self._begun.update(store.load_created_at(unit.tx, unit.namespace, waiting) if waiting else {})

    def merge(self, new: NewRun) -> Run | None:
        """Merge a trigger into the run that its key points at; None when there is none that has not started."""
        unit = self._unit
        held = self._held.get(_digest(new))
        run = unit.runs.get(held) if held is not None else None
        if run is None or not _merges(run):
            return None
        assert new.debounce is not None
        assert run.wake_at is not None
        starts_at = self._starts_at(new, self._begun[run.id])
        if new.debounce.leading:
            run.order_at += starts_at - run.wake_at
        else:
            self._take_over(run, new, starts_at)
        run.wake_at = starts_at
        rules.set_due(run)
        unit.changed(run)
        unit.touched.add(run.id)
        self._point(new, run)
        return run

    def begin(self, new: NewRun, run: Run) -> None:
        """Further triggers are merged into this new run. It is delayed accordingly."""
        self._begun[run.id] = self._unit.now
        starts_at = self._starts_at(new, self._unit.now)
        run.status, run.reason = m.DELAYED, m.DEBOUNCED
        run.wake_at = starts_at
        run.order_at = starts_at - new.priority_us
        rules.set_due(run)
        self._point(new, run)

    def _starts_at(self, new: NewRun, begun: int) -> int:
        debounce = new.debounce
        assert debounce is not None
        starts_at = self._unit.now + debounce.delay_us
        return starts_at if debounce.max_us is None else min(starts_at, begun + debounce.max_us)

    def _take_over(self, run: Run, new: NewRun, starts_at: int) -> None:
        unit = self._unit
        task = unit.world.definition(unit.namespace, run.task, new.version) or unit.task(run.task)
        assert task is not None
        timeout = new.timeout_us if new.timeout_us is not None else task.timeout_us
        run.order_at = starts_at - new.priority_us
        run.version = new.version
        run.pinned = bool(new.version)
        run.max_attempts = new.max_attempts or task.max_attempts
        run.deadline_at = unit.now + timeout if timeout is not None else None
        unit.replace_inputs(run, new)

    def _point(self, new: NewRun, run: Run) -> None:
        """Have the key point at the run until that starts."""
        unit = self._unit
        digest = _digest(new)
        assert run.wake_at is not None
        row = (unit.namespace, KIND, new.task, digest, run.id, run.wake_at)
        if digest in self._held and (KIND, digest) not in unit.key_inserts:
            unit.key_updates[KIND, digest] = row
        else:
            unit.key_inserts[KIND, digest] = row
        self._held[digest] = run.id


def _merges(run: Run) -> bool:
    return run.status == m.DELAYED and run.reason == m.DEBOUNCED


def _digest(new: NewRun) -> bytes:
    assert new.debounce is not None
    return key_hash(KIND, new.task, KeyUse(new.debounce.key.encode(), 0, 0, b""), m.SCOPE_GLOBAL, b"", 0)
