"""Who starts what: matches runs that are QUEUED with the credit of connected workers, in the commit at hand.

A new run starts on the newest version that has room for it; one that has started before stays with its version, see
`moving`.

A run that becomes QUEUED while a worker has credit and nothing older waits is started in the same commit. Otherwise it
stays in its queue, and `backlog` tells the next commit to look there first. Woken runs go back to the worker that
holds their parked body, ahead of new starts; in limited queues they are admitted in turn with those.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from holdfast.v1.run_pb2 import TriggerOptions
from holdfast_scheduler import model as m
from holdfast_scheduler import run_machine as rules
from holdfast_scheduler import store
from holdfast_scheduler.backlog import Backlog
from holdfast_scheduler.claiming import Claims, Credit, order_in_lane
from holdfast_scheduler.model import Checkpoint, Inputs, Order, Run, TaskRow
from holdfast_scheduler.moving import Moves, find_moves, newest_first, strays
from holdfast_scheduler.propagation import batch_results
from holdfast_scheduler.unit_of_work import UnitOfWork

NO_OPTIONS: Final = TriggerOptions()

GATED_BODIES: Final = 1_000
"""Woken bodies in limited queues that one commit looks at."""


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

    def copy(self) -> Offer:
        """One more, to be used up by one more try."""
        return Offer(
            self.session, self.namespace, self.connection_no, self.tasks, self.version, self.slots, self.places
        )


def dispatch(unit: UnitOfWork, offers: list[Offer], backlog: Backlog) -> None:
    """Start and resume what can be; `unit.left` says what could not. `offers` has all connected sessions, also those
    without room."""
    gates = unit.gates()
    for queue in (*unit.opened, *unit.changed_queues):
        backlog.open(queue)
    for queue, lane in unit.vacated if gates else ():
        if queue in gates:
            backlog.open(queue, lane)
            unit.left.opened.add(queue)
    unit.left.opened.update(unit.changed_queues)
    if not _may_begin(unit, offers, backlog):
        return
    offers = newest_first(unit, _still_here(unit, offers))
    sessions = {offer.session: offer for offer in offers}
    woken = _woken(unit, sessions, backlog, gates)
    resumed = [run for run in woken if run.queue not in gates and _resume(unit, run, sessions)]
    gated = [run for run in woken if run.queue in gates] if gates else []
    bodies = [
        run for run in gated if _has_slot(run, sessions) and not backlog.is_closed(run.queue, run.lane, is_body=True)
    ]
    claims = Claims(unit, backlog, gates)
    fresh = [run for run in unit.queued.values() if run.session is None]
    starts: list[Run] = []
    has_room = any(one.slots > 0 and one.places > 0 for one in offers)
    if has_room:
        claims.scan()
    moves = find_moves(unit, strays(unit, offers, backlog, fresh), offers, backlog)

    def begin(run: Run) -> bool:
        if run.session is not None:
            if not _resume(unit, run, sessions):
                return False
            resumed.append(run)
            return True
        if not _start(unit, run, offers, moves):
            return False
        starts.append(run)
        return True

    credit = Credit(offers, moves)
    if bodies or (credit.room and claims.may_claim(credit, fresh)):
        claims.take(lambda: Credit(offers, moves), fresh, bodies, begin)
    elif credit.room:
        # Nothing waits: what was queued here starts without a look at the database.
        ungated = [run for run in fresh if run.queue not in gates] if gates else fresh
        for run in claims.order(ungated) if len(ungated) > credit.room else sorted(ungated, key=order_in_lane):
            begin(run)
    _order_resumes(unit, resumed)
    _order_starts(unit, starts)
    _note_left(unit, backlog, woken, sessions)


def _note_left(unit: UnitOfWork, backlog: Backlog, woken: list[Run], sessions: dict[bytes, Offer]) -> None:
    left = unit.left
    for run in unit.queued.values():
        if run.session is None:
            left.places.add((run.queue, run.lane, run.kind))
        elif run.session not in sessions:
            left.bodies = backlog.has_bodies = True
    for place in left.places:
        backlog.lanes.add(*place)
    for run in woken:
        if run.status == m.QUEUED:
            if run.queue in backlog.closed and backlog.is_closed(run.queue, run.lane, is_body=True):
                backlog.has_gated_bodies = True
            else:
                backlog.has_bodies = True


def _may_begin(unit: UnitOfWork, offers: list[Offer], backlog: Backlog) -> bool:
    """Whether there is anything to look at."""
    if unit.queued or backlog.is_stale or backlog.has_bodies:
        return True
    if not backlog.lanes.count:
        return False
    if next(backlog.lanes.turns(Credit(offers, {}), backlog.closed), None) is not None:
        return True
    return bool(strays(unit, offers, backlog, ()))


def _still_here(unit: UnitOfWork, offers: list[Offer]) -> list[Offer]:
    """The offers of workers that have not connected to another replica meanwhile.

    The rows of their sessions stay locked: a worker that connects elsewhere now is reconciled there after this commit,
    and what it is given here, and will never hear of, is found then.
    """
    if not offers:
        return offers
    numbers = unit.connections({offer.session: offer.connection_no for offer in offers})
    return [offer for offer in offers if numbers.get(offer.session) == offer.connection_no]


def _start(unit: UnitOfWork, run: Run, offers: list[Offer], moves: Moves) -> bool:
    """Give a run to the worker that has its task in its version, and the most room. `offers` begin with the newest
    version."""
    version = moves.get(run.kind, run.version) if moves else run.version
    best: Offer | None = None
    for one in offers:
        if best is not None and one.version != best.version:
            break
        if (
            one.slots > 0
            and one.places > 0
            and run.task in one.tasks
            and (not version or one.version == version)
            and (best is None or one.slots > best.slots)
        ):
            best = one
    if best is None:
        return False
    best.slots -= 1
    best.places -= 1
    if run.version != best.version:
        run.version = best.version
        if unit.world.waits(unit.namespace, run):
            run.pinned = True
        unit.rebound.add(run.id)
    unit.transition(run, rules.START, session=best.session)
    return True


def _has_slot(run: Run, sessions: dict[bytes, Offer]) -> bool:
    return run.session in sessions and sessions[run.session].slots > 0


def _resume(unit: UnitOfWork, run: Run, sessions: dict[bytes, Offer]) -> bool:
    """Continue a woken body in place."""
    if not _has_slot(run, sessions):
        return False
    assert run.session is not None
    sessions[run.session].slots -= 1
    unit.transition(run, rules.RESUME, session=run.session)
    return True


def _woken(unit: UnitOfWork, sessions: dict[bytes, Offer], backlog: Backlog, gates: frozenset[str]) -> list[Run]:
    """Runs whose parked bodies these sessions hold and that are to go on, in their order."""
    found = {run.id: run for run in unit.queued.values() if run.session in sessions}
    if not backlog.has_bodies:
        return sorted(found.values(), key=order_in_lane)
    backlog.has_bodies = backlog.has_gated_bodies = False
    with_slots = [offer.session for offer in sessions.values() if offer.slots > 0]
    full = [offer.session for offer in sessions.values() if offer.slots <= 0]
    if with_slots:
        unit.flush()
        room = sum(sessions[session].slots for session in with_slots)
        rows = store.claim_parked(unit.tx, unit.namespace, with_slots, room, gated=False if gates else None)
        backlog.has_bodies = len(rows) >= room
        if gates:
            limited = store.claim_parked(unit.tx, unit.namespace, with_slots, GATED_BODIES, gated=True)
            backlog.has_bodies = backlog.has_bodies or len(limited) >= GATED_BODIES
            rows += limited
        found.update((run.id, run) for run in unit.adopt(rows) if run.status == m.QUEUED and run.session in sessions)
    if full and not backlog.has_bodies:
        backlog.has_bodies = store.has_woken(unit.tx, unit.namespace, full)
    return sorted(found.values(), key=order_in_lane)


def _order_resumes(unit: UnitOfWork, resumed: list[Run]) -> None:
    """Put together what the workers need to continue these bodies."""
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
        # All that was settled while it was parked, also what an earlier attempt asked for: it waits for the answer.
        fresh = unit.fresh.get(run.id) or settled.get(run.id, [])
        unit.delivery(run.session).resumes.append(Order(run, None, fresh))


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
        task = unit.world.definition(unit.namespace, run.task, run.version)
        if task is not None and run.id in unit.rebound:
            _take_limits(unit, run, task, inputs.get(run.id))
        max_duration_us = task.max_duration_us if task is not None else None
        if new is not None:
            order = Order(run, unit.inputs_of(run.id, new), [], new.metadata, max_duration_us=max_duration_us)
        else:
            given = inputs[run.id]
            document, marks = metadata.get(run.id, (b"", b""))
            order = Order(
                run=run,
                inputs=given,
                checkpoints=applicable(run, checkpoints.get(run.id, ())),
                metadata=document,
                marks=marks,
                max_duration_us=max_duration_us,
                executed_us=rules.executed_us(run, given.created_at) if run.fence > 1 else 0,
                is_reentry=run.fence > 1,
            )
        unit.delivery(run.session).starts.append(order)


def _take_limits(unit: UnitOfWork, run: Run, task: TaskRow, inputs: Inputs | None) -> None:
    """A run that has just got its version has the limits that this version declares, not those of the one that was the
    newest when it was triggered; what its trigger asked for stays."""
    new = unit.created.get(run.id)
    if new is not None and task is unit.world.tasks.get((unit.namespace, run.task)):
        return  # it was made with these
    given = new.options if new is not None else inputs.options if inputs is not None else None
    options = TriggerOptions.FromString(given) if given else NO_OPTIONS
    attempts = options.max_attempts or task.max_attempts
    deadline = run.deadline_at
    if not options.HasField("timeout") and not options.HasField("debounce"):
        begun = unit.now if inputs is None else inputs.created_at
        deadline = begun + task.timeout_us if task.timeout_us is not None else None
    if (attempts, deadline) != (run.max_attempts, run.deadline_at):
        run.max_attempts, run.deadline_at = attempts, deadline
        rules.set_due(run)
        unit.changed(run)


def inputs_of_row(row: tuple[object, ...]) -> Inputs:
    """Inputs from a row of `store.load_inputs`."""
    run_id, _task, created_at, parent, root, batch, depth, payload, _fingerprint, tags, key, options, trace, replay = (
        row[:14]
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
    this attempt, whichever asked, or permanent ones. A new attempt asks again for the others (promise 3)."""
    return [
        one
        for one in checkpoints
        if one.status in (m.SUCCEEDED, m.PENDING)
        or (one.failed_in or one.attempt) == run.attempt
        or (one.status == m.FAILED_CHECKPOINT and one.permanent)
    ]


def fill_batches(unit: UnitOfWork, checkpoints: list[Checkpoint]) -> None:
    """Put the items of batches into the checkpoints that were settled with them. One that failed (the wait met its own
    time limit) was settled without: items that have ended since must not look otherwise to a body that is entered
    again."""
    wanted = [
        one
        for one in checkpoints
        if one.kind in (m.BATCH, m.BATCH_TRIGGER) and one.status == m.SUCCEEDED and one.subject is not None
    ]
    if wanted:
        unit.flush()
        entries, _ = batch_results(unit, list({one.subject for one in wanted if one.subject is not None}))
        for one in wanted:
            assert one.subject is not None
            one.entries = entries[one.subject]
