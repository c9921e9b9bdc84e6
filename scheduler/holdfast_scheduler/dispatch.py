"""Who starts what: matches runs that are QUEUED with the credit of connected workers, in the commit at hand.

A run that becomes QUEUED while a worker has credit and nothing older waits is started in the same commit. Otherwise it
stays in its queue, and `backlog` tells the next commit to look there first. Woken runs go back to the worker that
holds their parked body, ahead of new starts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from holdfast_scheduler import model as m
from holdfast_scheduler import run_machine as rules
from holdfast_scheduler import store
from holdfast_scheduler.model import Checkpoint, Inputs, Order, Run
from holdfast_scheduler.propagation import batch_entries
from holdfast_scheduler.unit_of_work import UnitOfWork


@dataclass(slots=True, eq=False)
class Offer:
    """What a connected session can take at the moment: slots for runs, places for new bodies."""

    session: bytes
    namespace: str
    connection_no: int
    tasks: frozenset[str]
    version: str
    slots: int
    places: int


def dispatch(unit: UnitOfWork, offers: list[Offer], backlog: bool) -> bool:
    """Start and resume what can be. Returns whether queued runs may be left that these offers' workers could take, now
    or when they have room again. `offers` has all connected sessions, also those without room."""
    if backlog or unit.queued:
        offers = _still_here(unit, offers)
    left = _resume_parked(unit, {offer.session: offer for offer in offers}, backlog)
    backlog = backlog or left
    starts: list[Run] = []
    while True:
        by_task = _with_room(offers)
        room = sum(min(one.slots, one.places) for one in offers if one.slots > 0 and one.places > 0)
        if not room:
            left = left or backlog or any(run.session is None for run in unit.queued.values())
            break
        # Nobody looks for tasks of which all workers are full: whether runs of theirs wait is not known.
        full = [one for one in offers if one.slots <= 0 or one.places <= 0]
        unseen = {task for one in full for task in one.tasks if task not in by_task}
        claimed: list[Run] = []
        if backlog:
            unit.flush()  # so that the claim sees what was queued, started or canceled here
            claimed = unit.adopt(store.claim(unit.tx, unit.namespace, list(by_task), room))
            left = left or bool(unseen)
        candidates = {run.id: run for run in (*claimed, *unit.queued.values())}
        begun = len(starts)
        for run in sorted(candidates.values(), key=_order):
            if run.status != m.QUEUED or run.session is not None:
                continue
            choices = by_task.get(run.task, ())
            offer = max((o for o in choices if o.slots > 0 and o.places > 0), key=_free, default=None)
            if offer is None:
                left = left or bool(choices) or run.task in unseen
                continue
            offer.slots -= 1
            offer.places -= 1
            starts.append(run)
            _begin(unit, run, offer)
        if len(claimed) < room:
            break
        if len(starts) == begun:
            left = True
            break
        # The oldest were all of tasks whose workers are full by now; others may wait for those that are not.
    _order_starts(unit, starts)
    return left or any(run.session is not None for run in unit.queued.values())


def _still_here(unit: UnitOfWork, offers: list[Offer]) -> list[Offer]:
    """The offers of workers that have not connected to another replica meanwhile.

    The rows of their sessions stay locked: a worker that connects elsewhere now is reconciled there after this commit,
    and what it is given here, and will never hear of, is found then.
    """
    if not offers:
        return offers
    numbers = store.lock_connections(unit.tx, unit.namespace, [offer.session for offer in offers])
    return [offer for offer in offers if numbers.get(offer.session) == offer.connection_no]


def _with_room(offers: list[Offer]) -> dict[str, list[Offer]]:
    """Offers that can take a start, by task."""
    by_task: dict[str, list[Offer]] = {}
    for one in offers:
        if one.slots > 0 and one.places > 0:
            for task in one.tasks:
                by_task.setdefault(task, []).append(one)
    return by_task


def _order(run: Run) -> tuple[int, bytes]:
    return (run.order_at, run.id)


def _free(offer: Offer) -> int:
    return offer.slots


def _begin(unit: UnitOfWork, run: Run, offer: Offer) -> None:
    unit.queued.pop(run.id, None)
    if not run.version or run.started_at is None:
        run.version = offer.version
    unit.transition(run, rules.START, session=offer.session)


def _resume_parked(unit: UnitOfWork, offers: dict[bytes, Offer], backlog: bool) -> bool:
    """Continue woken bodies in place. Returns whether some of these sessions' woken runs are left."""
    candidates = {run.id: run for run in unit.queued.values() if run.session in offers}
    room = sum(offer.slots for offer in offers.values() if offer.slots > 0)
    full = [offer.session for offer in offers.values() if offer.slots <= 0] if backlog else []
    left = bool(full) and store.has_woken(unit.tx, unit.namespace, full)
    if backlog and room:
        sessions = [offer.session for offer in offers.values() if offer.slots > 0]
        if candidates:
            unit.flush()
        claimed = unit.adopt(store.claim_parked(unit.tx, unit.namespace, sessions, room))
        left = left or len(claimed) == room
        for run in claimed:
            if run.status == m.QUEUED and run.session in offers:
                candidates[run.id] = run
    resumed: list[Run] = []
    for run in sorted(candidates.values(), key=_order):
        assert run.session is not None
        offer = offers[run.session]
        if offer.slots <= 0:
            left = True
            continue
        offer.slots -= 1
        unit.queued.pop(run.id, None)
        unit.transition(run, rules.RESUME, session=run.session)
        resumed.append(run)
    unknown = [run.id for run in resumed if run.id not in unit.fresh and run.last_seq]
    settled: dict[bytes, list[Checkpoint]] = {}
    if unknown:
        unit.flush()  # outputs of children that ended here are read from the rows, too
        for checkpoint in store.load_checkpoints(unit.tx, unit.namespace, unknown):
            if checkpoint.settled_order > unit.runs[checkpoint.run_id].seen:
                settled.setdefault(checkpoint.run_id, []).append(checkpoint)
        fill_batches(unit, [one for group in settled.values() for one in group])
    for run in resumed:
        assert run.session is not None
        fresh = unit.fresh.get(run.id) or applicable(run, settled.get(run.id, ()))
        unit.delivery(run.session).resumes.append(Order(run, None, fresh))
    return left


def _order_starts(unit: UnitOfWork, starts: list[Run]) -> None:
    """Put together what the workers need to begin or re-enter these bodies."""
    old = [run for run in starts if run.id not in unit.created]
    inputs: dict[bytes, Inputs] = {}
    checkpoints: dict[bytes, list[Checkpoint]] = {}
    metadata: dict[bytes, tuple[bytes, bytes]] = {}
    if old:
        unit.flush()
        old_ids = [run.id for run in old]
        for run_id, row in store.load_inputs(unit.tx, unit.namespace, old_ids).items():
            inputs[run_id] = inputs_of_row(row)
        entered = [run.id for run in old if run.last_seq]
        if entered:
            found = store.load_checkpoints(unit.tx, unit.namespace, entered)
            fill_batches(unit, found)
            for checkpoint in found:
                checkpoints.setdefault(checkpoint.run_id, []).append(checkpoint)
        for run_id, row in store.load_metadata(unit.tx, unit.namespace, old_ids).items():
            metadata[run_id] = (row[1], row[3])
    for run in starts:
        assert run.session is not None
        new = unit.created.get(run.id)
        task = unit.world.tasks.get((unit.namespace, run.task))
        document, marks = metadata.get(run.id, (new.metadata if new is not None else b"", b""))
        unit.delivery(run.session).starts.append(
            Order(
                run=run,
                inputs=unit.inputs_of(run.id, new) if new is not None else inputs[run.id],
                checkpoints=applicable(run, checkpoints.get(run.id, ())),
                metadata=document,
                marks=marks,
                max_duration_us=task.max_duration_us if task is not None else None,
                is_reentry=run.fence > 1,
            )
        )


def inputs_of_row(row: tuple[object, ...]) -> Inputs:
    """Inputs from a row of `store.load_inputs`."""
    run_id, _task, created_at, parent, root, batch, depth, payload, _fingerprint, tags, key, options, trace, replay = (
        row
    )
    return Inputs(
        payload=payload,  # type: ignore[arg-type]
        tags=json.loads(tags) if tags else [],  # type: ignore[arg-type]
        key=key,  # type: ignore[arg-type]
        trace=trace,  # type: ignore[arg-type]
        parent=parent,  # type: ignore[arg-type]
        root=root or run_id,  # type: ignore[arg-type]
        batch=batch,  # type: ignore[arg-type]
        depth=depth,  # type: ignore[arg-type]
        created_at=created_at,  # type: ignore[arg-type]
        is_replay=bool(replay),
        options=options,  # type: ignore[arg-type]
    )


def applicable(run: Run, checkpoints: Iterable[Checkpoint]) -> list[Checkpoint]:
    """The checkpoints that count in the run's present attempt: what succeeded ever, what is pending, and failures of
    this attempt or permanent ones. A new attempt asks again for the others (promise 3)."""
    return [
        one
        for one in checkpoints
        if one.status in (m.SUCCEEDED, m.PENDING)
        or one.attempt == run.attempt
        or (one.status == m.FAILED_CHECKPOINT and one.permanent)
    ]


def fill_batches(unit: UnitOfWork, checkpoints: list[Checkpoint]) -> None:
    """Put the items of batches into the checkpoints that were settled with them."""
    wanted = [one for one in checkpoints if one.kind in (m.BATCH, m.BATCH_TRIGGER) and one.subject is not None]
    if wanted:
        unit.flush()
        entries = batch_entries(unit, list({one.subject for one in wanted if one.subject is not None}))
        for one in wanted:
            assert one.subject is not None
            one.entries = entries[one.subject]
