"""How a run has spent its life: exact over delays, queues, waits, retries, recoveries and re-entries."""

from __future__ import annotations

from typing import Any

import pytest

from harness.store_driver import SECOND, Clock, Driver, broken_invariants, child, error, new, wait
from holdfast_scheduler import model as m
from holdfast_scheduler import reads
from holdfast_scheduler import run_machine as rules
from holdfast_scheduler.services.explain import Breakdown, breakdown


def spent(db: Driver, run_id: bytes) -> dict[str, float]:
    """The seconds of a run's life so far by the clock of the test; parts that are 0 are left out."""
    with db.database.reader() as connection:
        row = reads.run_row(connection, db.namespace, run_id)
    assert row is not None
    found: Breakdown = breakdown(row, db.now)
    parts = {name: getattr(found, name) / SECOND for name in Breakdown.__dataclass_fields__}
    until = row.ended_at if row.ended_at is not None else db.now
    assert sum(parts.values()) * SECOND == pytest.approx(until - row.created_at)
    return {name: seconds for name, seconds in parts.items() if seconds}


def test_a_run_that_starts_at_once_only_executes(db: Driver, clock: Clock) -> None:
    worker = db.worker()
    run_id = db.trigger().run_id
    assert spent(db, run_id) == {}
    clock.turn(3)
    assert spent(db, run_id) == {"executing": 3}
    worker.complete(run_id)
    clock.turn(100)
    assert spent(db, run_id) == {"executing": 3}  # a run that has ended does not age


def test_delay_queue_wait_retry_and_recovery_are_told_apart(db: Driver, clock: Clock) -> None:
    db.end_session(db.worker())
    run_id = db.trigger(delay_us=10 * SECOND).run_id
    clock.turn(4)
    assert spent(db, run_id) == {"delayed": 4}
    clock.turn(6)
    db.due()
    clock.turn(5)  # nobody has the task
    expected = {"delayed": 10.0, "queued": 5.0}
    assert spent(db, run_id) == expected
    worker = db.worker(slots=1, max_attempts=3, min_us=20 * SECOND, max_us=20 * SECOND)
    clock.turn(2)
    expected["executing"] = 2
    assert spent(db, run_id) == expected
    worker.park(run_id, wait(1, 30))
    clock.turn(12)
    expected["waiting"] = 12
    assert spent(db, run_id) == expected
    db.turn(18)  # the wait is over and the body resumes in place
    expected["waiting"] = 30
    assert spent(db, run_id) == expected
    clock.turn(1)
    worker.fail(run_id, retryable=True)
    expected["executing"] = 3
    db.turn(7)
    expected["backing_off"] = 7
    assert spent(db, run_id) == expected
    db.turn(13)
    expected["backing_off"] = 20
    clock.turn(1)
    expected["executing"] = 4
    assert (spent(db, run_id), db.run(run_id).attempt) == (expected, 2)
    # Its worker is lost: the first recovery is at once, and it is re-entered elsewhere.
    clock.turn(1)
    db.end_session(worker)
    expected["executing"] = 5
    clock.turn(8)
    expected["queued"] = 13
    assert spent(db, run_id) == expected
    worker = db.worker(slots=1)
    clock.turn(1)
    worker.report(run_id, rules.RELEASE)  # handed back, and taken again at once
    clock.turn(1)
    expected["executing"] = 7
    worker.complete(run_id)
    clock.turn(50)
    assert spent(db, run_id) == expected
    assert db.status(run_id) == "COMPLETED"


def test_an_attempt_is_told_what_it_has_executed_before(db: Driver, clock: Clock) -> None:
    worker = db.worker(max_attempts=3, min_us=20 * SECOND, max_us=20 * SECOND)
    run_id = db.trigger(delay_us=10 * SECOND).run_id
    db.turn(10)

    def executed() -> float:
        return worker.bodies[run_id].order.executed_us / SECOND

    def lose() -> None:
        worker.report(run_id, rules.LOSE, error=error("CRASHED"))

    assert executed() == 0
    clock.turn(2)
    worker.park(run_id, wait(1, 30))
    db.turn(30)  # it waits without executing
    clock.turn(1)
    lose()
    assert executed() == 3
    clock.turn(4)
    lose()
    db.turn(600)  # the second recovery backs off
    assert executed() == 7
    clock.turn(5)
    worker.fail(run_id, retryable=True)
    db.turn(20)
    assert (db.run(run_id).attempt, executed()) == (2, 0)
    clock.turn(6)
    worker.report(run_id, rules.RELEASE)
    assert executed() == 6
    clock.turn(1)
    lose()
    db.turn(600)
    assert (db.run(run_id).attempt, executed()) == (2, 7)


def test_a_later_recovery_backs_off(db: Driver, clock: Clock) -> None:
    worker = db.worker()
    run_id = db.trigger().run_id
    clock.turn(1)
    worker.report(run_id, rules.LOSE, error=error("CRASHED"), fence=1)
    worker.report(run_id, rules.LOSE, error=error("CRASHED"))
    assert (db.status(run_id), db.run(run_id).reason) == ("DELAYED", m.RECOVERING)
    due = db.run(run_id).due_at
    assert due is not None
    pause = (due - db.now) / SECOND
    db.turn(pause)
    clock.turn(2)
    found = spent(db, run_id)
    assert found.pop("backing_off") == pytest.approx(pause)
    assert found == {"executing": pytest.approx(3)}


def test_a_woken_body_that_finds_no_slot_is_queued(db: Driver, clock: Clock) -> None:
    worker = db.worker(slots=1)
    parent = db.trigger().run_id
    item = new()
    worker.park(parent, child(1, item))  # the child takes the slot
    clock.turn(3)
    other = db.trigger().run_id
    worker.complete(item.id)
    # The parent comes first; then the other one, which has waited for its start.
    assert (db.status(parent), db.status(other)) == ("EXECUTING", "QUEUED")
    clock.turn(2)
    worker.complete(parent)
    clock.turn(1)
    assert spent(db, parent) == {"waiting": 3, "executing": 2}
    assert spent(db, item.id) == {"executing": 3}
    assert spent(db, other) == {"queued": 2, "executing": 1}


def test_clean_up_after_a_cancellation_counts_as_executing(db: Driver, clock: Clock) -> None:
    worker = db.worker()
    run_id = db.trigger().run_id
    clock.turn(1)
    db.cancel(run_id)
    clock.turn(4)
    worker.report(run_id, rules.END_CANCELED)
    clock.turn(9)
    assert spent(db, run_id) == {"executing": 5}


def test_what_is_canceled_or_expires_before_its_start_has_only_waited_for_it(db: Driver, clock: Clock) -> None:
    db.end_session(db.worker())
    queued = db.trigger().run_id
    expiring = db.trigger(ttl_us=5 * SECOND).run_id
    delayed = db.trigger(delay_us=60 * SECOND).run_id
    db.turn(5)
    for run_id in (queued, delayed):
        db.cancel(run_id)
    clock.turn(9)
    assert spent(db, queued) == spent(db, expiring) == {"queued": 5}
    assert spent(db, delayed) == {"delayed": 5}


def test_a_clock_that_runs_behind_takes_nothing_away(db: Driver, clock: Clock) -> None:
    """A transaction that waited for a lock may have an earlier clock than the one that it waited for."""
    worker = db.worker()
    run_id = db.trigger().run_id
    clock.turn(2)
    worker.park(run_id, wait(1, 60))
    clock.turn(-1)
    db.cancel(run_id)
    clock.turn(5)
    row: Any = db.run(run_id)
    assert (row.waiting_us, row.since) == (None, db.now - 4 * SECOND)
    assert not broken_invariants(db.dump())
