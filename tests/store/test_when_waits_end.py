"""From when waits and time limits count, and what becomes of a timer that rings too early."""

from __future__ import annotations

import time
from typing import Any

import pytest

from harness.store_driver import SECOND, Driver, Worker, child, new, wait
from holdfast.v1.task_pb2 import QueueDefinition
from holdfast_scheduler import model as m
from holdfast_scheduler import run_machine as rules
from holdfast_scheduler import store


def test_a_wait_counts_from_the_call(db: Driver) -> None:
    """Not from the commit, nor from the arrival of the report."""
    worker = db.worker()
    run_id = db.trigger().run_id
    report = worker.report_of(run_id, rules.PARK, wait(1, 10.0, age_us=3 * SECOND))
    worker.send(report)
    assert db.run(run_id).due_at == db.now + 7 * SECOND


def test_a_time_limit_counts_from_the_call(db: Driver) -> None:
    worker = db.worker()
    run_id = db.trigger().run_id
    worker.send(worker.report_of(run_id, rules.PARK, child(1, new(), timeout_us=10 * SECOND, age_us=3 * SECOND)))
    assert db.run(run_id).due_at == db.now + 7 * SECOND


def test_a_report_that_had_to_wait_is_as_old_as_it_is(db: Driver) -> None:
    """It lies in the queue while the database is away."""
    worker = db.worker()
    run_id = db.trigger().run_id
    frame = worker.frame(worker.report_of(run_id, rules.PARK, wait(1, 3600.0, age_us=SECOND)))
    frame.arrived_at = time.monotonic() - 600
    db.do(frame)
    due_at = db.run(run_id).due_at
    assert due_at is not None
    assert db.now + 2900 * SECOND < due_at <= db.now + 2999 * SECOND


def test_a_wait_that_was_over_before_its_report_came_ends_at_once(db: Driver) -> None:
    worker = db.worker()
    run_id = db.trigger().run_id
    worker.send(worker.report_of(run_id, rules.PARK, wait(1, 2.0, age_us=3 * SECOND)))
    assert db.status(run_id) == "EXECUTING"
    (settled,) = [one for _, _, one in worker.last().updates]
    assert settled.status == m.SUCCEEDED


def test_a_timer_that_rings_too_early_rings_again(db: Driver) -> None:
    worker = db.worker()
    run_id = db.trigger().run_id
    worker.park(run_id, wait(1, 5.0))
    due_at = db.run(run_id).due_at
    db.clock.now += 4 * SECOND
    db.do(m.RunsDue(db.namespace, [run_id]))
    assert db.status(run_id) == "WAITING"
    assert db.committed[-1].timed == [(due_at, run_id)]
    db.clock.now += SECOND
    db.do(m.RunsDue(db.namespace, [run_id]))
    assert db.status(run_id) == "EXECUTING"


def test_what_is_slow_in_a_commit_takes_nothing_off_a_wait(
    migrated_url: str, replica: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an outage every session gets a fresh lease first, in the commit that applies what was kept. The clock was
    read before that."""
    db = replica(migrated_url, clock=None)
    worker = db.worker()
    run_id = db.trigger().run_id
    frame = worker.frame(worker.report_of(run_id, rules.PARK, wait(1, 3600.0)))
    extend = store.extend_leases

    def slowly(*args: Any) -> None:
        extend(*args)
        time.sleep(0.4)

    monkeypatch.setattr(store, "extend_leases", slowly)
    db.loop._fresh_leases_due = True
    frame.arrived_at = time.monotonic()
    with db.transaction() as tx:
        before = tx.now
    db.do(frame)
    due_at = db.run(run_id).due_at
    assert due_at is not None
    assert due_at >= before + 3600 * SECOND - 50_000


def test_a_token_whose_timer_rings_too_early_is_timed_again(db: Driver) -> None:
    token_id, _ = db.one(m.CreateToken(db.namespace, b"t" * 16, 5 * SECOND, [], None))
    assert db.clock is not None
    db.clock.now += 4 * SECOND
    db.do(m.TokensDue(db.namespace, [token_id]))
    assert db.committed[-1].timed_tokens == [(db.now + SECOND, token_id)]


def test_one_run_that_fails_does_not_keep_others_asleep(db: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Instants that come together are one command."""
    worker = db.worker()
    run_ids = [db.trigger().run_id for _ in range(3)]
    for run_id in run_ids:
        worker.park(run_id, wait(1, 5.0))
    assert db.clock is not None
    db.clock.now += 6 * SECOND
    load = store.load_runs

    def poisoned(tx: Any, namespace: str, ids: Any) -> Any:
        if run_ids[1] in ids:
            raise RuntimeError("poison")
        return load(tx, namespace, ids)

    monkeypatch.setattr(store, "load_runs", poisoned)
    db.do(m.RunsDue(db.namespace, run_ids))
    monkeypatch.undo()
    # The half that comes second only queues: the first one may have used the credit.
    assert [db.status(run_id) for run_id in run_ids] == ["EXECUTING", "WAITING", "QUEUED"]


AHEAD = 100_000
"""Microseconds by which a wait of two seconds or more may be ended ahead."""


def heeding(db: Driver, **options: Any) -> Worker:
    """A worker that holds bodies which are woken ahead of their instants."""
    worker = db.worker(**options)
    db.world.heeds_after = db.workers.__contains__
    return worker


def test_a_parked_body_is_woken_ahead_of_its_instant(db: Driver) -> None:
    worker = heeding(db)
    run_id = db.trigger().run_id
    worker.park(run_id, wait(1, 10.0))
    began, end = db.now, db.now + 10 * SECOND
    assert db.committed[-1].timed == [(end - AHEAD, run_id)]
    assert db.clock is not None
    db.clock.now = end - AHEAD - 1
    db.do(m.RunsDue(db.namespace, [run_id]))
    assert db.status(run_id) == "WAITING"
    assert db.committed[-1].timed == [(end - AHEAD, run_id)]
    db.clock.now += 1
    db.do(m.RunsDue(db.namespace, [run_id]))
    run = db.run(run_id)
    assert db.status(run_id) == "EXECUTING"
    assert (run.since, run.waiting_us, run.queued_us or 0) == (end, end - began, 0)  # its life counts by the instant
    (order,) = worker.last().resumes
    assert [(one.status, one.due_at) for one in order.checkpoints] == [(m.SUCCEEDED, end)]
    db.clock.now = end + SECOND
    worker.park(run_id, wait(2, 10.0))
    assert db.run(run_id).waiting_us == end - began
    assert db.run(run_id).since == db.now


def test_without_a_worker_that_holds_it_nothing_is_woken_ahead(db: Driver) -> None:
    worker = db.worker()
    run_id = db.trigger().run_id
    worker.park(run_id, wait(1, 10.0))
    end = db.now + 10 * SECOND
    assert db.committed[-1].timed == [(end, run_id)]
    assert db.clock is not None
    db.clock.now = end - 1
    db.do(m.RunsDue(db.namespace, [run_id]))
    assert db.status(run_id) == "WAITING"


def test_a_time_limit_is_never_met_ahead(db: Driver) -> None:
    worker = heeding(db)
    run_id = db.trigger().run_id
    worker.park(run_id, child(1, new(), timeout_us=10 * SECOND))
    end = db.now + 10 * SECOND
    assert db.clock is not None
    db.clock.now = end - AHEAD
    db.do(m.RunsDue(db.namespace, [run_id]))
    assert db.status(run_id) == "WAITING"
    assert db.committed[-1].timed == [(end, run_id)]
    db.clock.now = end
    db.do(m.RunsDue(db.namespace, [run_id]))
    (order,) = worker.last().resumes
    assert [one.status for one in order.checkpoints] == [m.FAILED_CHECKPOINT]


@pytest.mark.parametrize("other", [wait(2, 10.02), child(2, new())])
def test_a_body_that_waits_for_something_else_too_is_not_woken_ahead(db: Driver, other: m.Record) -> None:
    """What comes before the end of the wait must win the race."""
    worker = heeding(db)
    run_id = db.trigger().run_id
    worker.park(run_id, wait(1, 10.0), other)
    assert (db.now + 10 * SECOND, run_id) in db.committed[-1].timed


def test_a_deadline_before_the_end_of_the_wait_comes_first(db: Driver) -> None:
    worker = heeding(db)
    run_id = db.trigger(timeout_us=9_950_000).run_id
    worker.park(run_id, wait(1, 10.0))
    assert db.clock is not None
    assert db.committed[-1].timed == [(db.now + 9_950_000, run_id)]
    db.clock.now += 9_950_000
    db.do(m.RunsDue(db.namespace, [run_id]))
    assert db.status(run_id) == "TIMED_OUT"


def test_only_bodies_that_find_a_slot_are_woken_ahead(db: Driver) -> None:
    worker = heeding(db, slots=7)
    waiting = [db.trigger().run_id for _ in range(8)]
    for run_id in waiting:
        worker.park(run_id, wait(1, 10.0))
    db.trigger()
    end = db.now + 10 * SECOND
    assert db.clock is not None
    db.clock.now = end - AHEAD
    db.do(m.RunsDue(db.namespace, waiting))
    assert [db.status(run_id) for run_id in waiting] == ["EXECUTING"] * 6 + ["WAITING"] * 2
    assert set(db.committed[-1].timed) >= {(end, run_id) for run_id in waiting[6:]}


def test_while_runs_wait_for_slots_nothing_is_woken_ahead(db: Driver) -> None:
    worker = heeding(db, slots=2)
    waiting = db.trigger().run_id
    worker.park(waiting, wait(1, 10.0))
    queued = [db.trigger().run_id for _ in range(4)][2:]
    end = db.now + 10 * SECOND
    assert db.clock is not None
    db.clock.now = end - AHEAD
    worker.slots = 3  # one has become free, and nobody has looked yet
    db.do(m.RunsDue(db.namespace, [waiting]))
    assert [db.status(run_id) for run_id in (waiting, *queued)] == ["WAITING", "EXECUTING", "QUEUED"]
    assert (end, waiting) in db.committed[-1].timed


def test_in_a_queue_with_limits_nothing_is_woken_ahead(db: Driver) -> None:
    """A body that is held would hold up others."""
    worker = heeding(db, queue=QueueDefinition(name="narrow", concurrency_limit=1))
    run_id = db.trigger().run_id
    worker.park(run_id, wait(1, 10.0))
    assert db.committed[-1].timed == [(db.now + 10 * SECOND, run_id)]


@pytest.mark.parametrize("lost", [True, False])
def test_a_held_body_whose_worker_goes_is_entered_again_when_its_wait_is_over(db: Driver, lost: bool) -> None:
    worker = heeding(db)
    run_id = db.trigger().run_id
    worker.park(run_id, wait(1, 10.0))
    end = db.now + 10 * SECOND
    assert db.clock is not None
    db.clock.now = end - AHEAD
    db.do(m.RunsDue(db.namespace, [run_id]))
    assert db.status(run_id) == "EXECUTING"
    worker.connected = False
    other = db.worker()
    db.do(m.EndSession(db.namespace, worker.session, lost, "gone", 1))
    assert db.status(run_id) == "DELAYED"
    assert db.committed[-1].timed == [(end, run_id)]
    db.clock.now = end
    db.due()
    run = db.run(run_id)
    assert (db.status(run_id), run.session, run.recoveries, run.attempt) == ("EXECUTING", other.session, 0, 1)
    (order,) = other.last().starts
    assert [one.status for one in order.checkpoints] == [m.SUCCEEDED]
