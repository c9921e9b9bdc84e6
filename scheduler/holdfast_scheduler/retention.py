"""What is deleted some time after it has ended, and what of it is still needed.

A finished run is needed, however old, while

- an idempotency key names it, or a batch that it is in,
- a run that is still open has a checkpoint of it, or of a batch that it is in: a re-entry asks for its result,
- a run that it triggered exists.

Batches and tokens are needed likewise. Whatever is needed stays until a later look finds it free.

Candidates are locked first, and what says whether they are needed is read in later statements: whoever comes to refer
to a run by a key locks it. A batch is not locked for that; so keys count as valid for `KEY_GRACE_US` longer than
anybody else takes them for valid, and whoever found one alive has long committed what it made of it. Rows that another
scheduler has locked are passed over: two that delete at once take different ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from holdfast_scheduler import store
from holdfast_scheduler.model import Forget, Forgotten, Place
from holdfast_scheduler.unit_of_work import UnitOfWork

LOOKED_AT: Final = 200
"""Runs, batches or tokens of one batch of deletions."""
ROWS_DELETED: Final = 2_000
"""Checkpoints, log records or keys that one batch deletes, about; the checkpoints of a single run go together."""
KEY_GRACE_US: Final = 3_600_000_000
"""How much longer a key counts here than elsewhere: far more than any transaction takes."""
GENERATIONS: Final = 32
"""How deep runs trigger each other at most. Runs go after those that they triggered."""

BEGIN: Final[Place] = (0, b"")
"""Where a look begins."""


def forget(unit: UnitOfWork, command: Forget) -> Forgotten:
    """Delete a batch of what had ended a retention ago."""
    before = unit.now - round(unit.world.settings.retention * 1e6)
    deleted, after = _FORGETTERS[command.what](unit, command.after, before)
    return Forgotten(deleted, after, (before, b""))


def _forget_runs(unit: UnitOfWork, after: Place, before: int) -> tuple[int, Place | None]:
    tx, namespace = unit.tx, unit.namespace
    places = store.ended_runs(tx, namespace, after, before, LOOKED_AT)
    if not places:
        return 0, None
    rows = store.lock_ended(tx, namespace, [run_id for _, run_id in places])
    taken: list[bytes] = []
    reached, count = after, 0
    for place in places:
        if taken and count + rows.get(place[1], 0) > ROWS_DELETED:
            break
        reached = place
        if place[1] in rows:
            taken.append(place[1])
            count += rows[place[1]]
    free = _free_runs(unit, taken)
    logs = store.delete_logs(tx, namespace, sorted(free), ROWS_DELETED) if free else 0
    if logs >= ROWS_DELETED:
        return logs, after  # there may be more of them: the runs go when they have gone
    deleted = _delete_trees(unit, free, before)
    is_last = reached == places[-1] and len(places) < LOOKED_AT
    return deleted, None if is_last else reached


def _delete_trees(unit: UnitOfWork, free: set[bytes], before: int) -> int:
    """Delete those of the runs that triggered none which exists, then those that triggered them, and so on."""
    tx, namespace = unit.tx, unit.namespace
    deleted = 0
    for _ in range(GENERATIONS):
        leaves = sorted(free - store.having_children(tx, namespace, sorted(free))) if free else []
        if not leaves:
            break
        parents = store.parents_of(tx, namespace, leaves)
        store.delete_runs(tx, namespace, leaves)
        deleted += len(leaves)
        old = store.ended_of(tx, namespace, sorted(parents), before) if parents else []
        few = [run_id for run_id, rows in store.lock_ended(tx, namespace, old).items() if rows <= ROWS_DELETED]
        free = _free_runs(unit, few)
        if free and store.delete_logs(tx, namespace, sorted(free), ROWS_DELETED) >= ROWS_DELETED:
            break
    return deleted


def _free_runs(unit: UnitOfWork, runs: list[bytes]) -> set[bytes]:
    """Those of the runs that nobody needs."""
    if not runs:
        return set()
    tx, namespace = unit.tx, unit.namespace
    members = store.load_memberships(tx, namespace, runs)
    needed = _needed(unit, {*runs, *(batch for _, batch in members)})
    needed.update([run_id for run_id, batch in members if batch in needed])
    needed.update(store.postponed(tx, namespace, runs))
    return set(runs) - needed


def _needed(unit: UnitOfWork, subjects: Iterable[bytes]) -> set[bytes]:
    return store.needed(unit.tx, unit.namespace, sorted(subjects), unit.now - KEY_GRACE_US)


def _forget_batches(unit: UnitOfWork, after: Place, before: int) -> tuple[int, Place | None]:
    tx, namespace = unit.tx, unit.namespace
    found = store.old_batches(tx, namespace, after[1], _id_at(before), LOOKED_AT)
    old = {batch for batch, created_at in found if created_at < before}
    free = old - store.with_runs(tx, namespace, sorted(old)) - _needed(unit, old) if old else old
    store.delete_batches(tx, namespace, sorted(free))
    return len(free), (0, found[-1][0]) if len(found) >= LOOKED_AT else None


def _forget_tokens(unit: UnitOfWork, after: Place, before: int) -> tuple[int, Place | None]:
    tx, namespace = unit.tx, unit.namespace
    found = store.completed_tokens(tx, namespace, after[1], _id_at(before), LOOKED_AT)
    old = [token for token, completed_at in found if completed_at < before]
    # Whoever begins to wait for a token locks it before looking at it.
    free = set(store.lock_tokens(tx, namespace, old)) if old else set()
    free -= _needed(unit, free) if free else set()
    store.delete_tokens(tx, namespace, sorted(free))
    return len(free), (0, found[-1][0]) if len(found) >= LOOKED_AT else None


def _forget_keys(unit: UnitOfWork, after: Place, before: int) -> tuple[int, Place | None]:
    deleted = store.delete_expired_keys(unit.tx, unit.namespace, unit.now - KEY_GRACE_US, ROWS_DELETED)
    return deleted, after if deleted >= ROWS_DELETED else None


def _id_at(instant: int) -> bytes:
    """A bound of the ids that were made before an instant."""
    return (max(0, instant // 1000) << 80).to_bytes(16, "big")


_FORGETTERS: Final[dict[str, Callable[[UnitOfWork, Place, int], tuple[int, Place | None]]]] = {
    "runs": _forget_runs,
    "batches": _forget_batches,
    "tokens": _forget_tokens,
    "keys": _forget_keys,
}
KINDS: Final = tuple(_FORGETTERS)
