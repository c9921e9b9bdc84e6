"""Queues with limits: what code declares, what an operator overrides, pauses, and how many runs may be queued.

A queue has a row as soon as it has limits, an override or a pause; all others cost nothing. Every change raises
`queue_changes`, which tells the other schedulers to read the rows again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from holdfast_scheduler import admission, store
from holdfast_scheduler.definitions import task_row
from holdfast_scheduler.errors import RESOURCE_EXHAUSTED
from holdfast_scheduler.model import NO_LIMITS, ItemFault, QueueLimits, QueueRow
from holdfast_scheduler.unit_of_work import UnitOfWork

DEPTH_STEPS: Final = 100
"""The server's limit on a queue's depth is held to one part of so many."""
DEPTH_PAUSE_US: Final = 1_000_000
"""A queue that had no room is not counted again before so long."""
DEPTHS_KEPT: Final = 10_000
"""Queues of which a count is remembered."""


def declare(unit: UnitOfWork, names: Iterable[str]) -> None:
    """Take over what the tasks of these queues declare in their newest versions. An override stays."""
    begin_change(unit)
    declared = _declared(unit, names)
    rows = store.lock_queues(unit.tx, unit.namespace, declared)
    changed = []
    for name, limits in declared.items():
        row = rows.get(name)
        if row is None and limits == NO_LIMITS:
            continue
        row = row or QueueRow(name, NO_LIMITS)
        if not row.overridden and row.limits != limits:
            row.limits = limits
            changed.append(row)
    if changed:
        unit.write_queues(changed)


def update(unit: UnitOfWork, name: str, limits: QueueLimits | None) -> None:
    """Override the limits of a queue; None takes the override away."""
    row = _lock(unit, name)
    row.overridden = limits is not None
    row.limits = limits if limits is not None else _declared(unit, [name])[name]
    unit.write_queues([row])


def pause(unit: UnitOfWork, name: str, paused: bool) -> None:
    """Pause a queue or end its pause."""
    row = _lock(unit, name)
    if paused != (row.paused_at is not None):
        row.paused_at = unit.now if paused else None
        unit.write_queues([row])


def _declared(unit: UnitOfWork, names: Iterable[str]) -> dict[str, QueueLimits]:
    found: dict[str, list[tuple[str, int, QueueLimits]]] = {name: [] for name in names}
    for queue, version, registered_at, definition in store.load_declarations(unit.tx, unit.namespace, found):
        limits = task_row(definition, version, registered_at).queue_limits
        found[queue].append((version, registered_at, limits))
    return {name: admission.declared_limits(declarations) for name, declarations in found.items()}


def _lock(unit: UnitOfWork, name: str) -> QueueRow:
    begin_change(unit)
    return store.lock_queues(unit.tx, unit.namespace, [name]).get(name) or QueueRow(name, NO_LIMITS)


def begin_change(unit: UnitOfWork) -> None:
    """Have all schedulers read queues and definitions again after this commit."""
    unit.learn_queues()  # before the change: what this commit may take back must not be kept
    # Changes of a namespace's queues come one after the other, so that each sees what the one before has declared.
    store.announce_queue_change(unit.tx, unit.namespace)
    unit.changes_queues = True


# --- depth ------------------------------------------------------------------------------------------------------------


class Depths:
    """How many runs one commit may still queue."""

    def __init__(self, unit: UnitOfWork) -> None:
        self._unit = unit
        self._limits: dict[str, int] = {}
        self._left: dict[str, int] = {}

    def prepare(self, names: Iterable[str]) -> None:
        """Lock queues that bound their depth, and then count what is queued in them."""
        unit = self._unit
        rows = store.lock_queues(unit.tx, unit.namespace, names)
        for name, row in rows.items():
            if row.limits.depth:
                self._limits[name] = row.limits.depth
                queued = store.count_queued(unit.tx, unit.namespace, name, row.limits.depth)
                self._left[name] = row.limits.depth - queued

    def take(self, queue: str) -> ItemFault | None:
        """One more run is queued. Returns why it must not be."""
        left = self._left.get(queue)
        if left is None:
            return self._take_of_server(queue)
        if left <= 0:
            return _too_deep(queue, "depth_limit", self._limits[queue])
        self._left[queue] = left - 1
        return None

    def _take_of_server(self, queue: str) -> ItemFault | None:
        """The server's limit is far away as a rule, and holds to a hundredth: the depth is counted once for that many
        triggers, not for each."""
        unit, limit = self._unit, self._unit.world.settings.limits.queue_depth
        step = max(1, limit // DEPTH_STEPS)
        depths = unit.world.depths
        found = depths.get((unit.namespace, queue))
        if found is None:
            if len(depths) >= DEPTHS_KEPT:
                depths.clear()
            found = depths[unit.namespace, queue] = [step, 0]
        taken = unit.depth_taken.get(queue, 0)
        if found[0] <= taken and unit.now >= found[1]:
            left = limit - store.count_queued(unit.tx, unit.namespace, queue, limit)
            found[:] = [max(left, step) if left > 0 else 0, unit.now + DEPTH_PAUSE_US]
        if found[0] <= taken:
            return _too_deep(queue, "queue_depth", limit)
        unit.depth_taken[queue] = taken + 1
        return None


def _too_deep(queue: str, limit: str, most: int) -> ItemFault:
    return ItemFault(
        RESOURCE_EXHAUSTED,
        "LIMIT_EXCEEDED",
        f"queue {queue!r} has as many queued runs as the limit {limit} of {most:,} allows; trigger again when some have"
        " started, or raise the limit",
        {"limit": limit, "queue": queue, "most": str(most)},
    )
