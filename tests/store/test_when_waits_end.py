"""From when waits and time limits count, and what becomes of a timer that rings too early."""

from __future__ import annotations

import time
from typing import Any

import pytest

from harness.store_driver import SECOND, Driver, child, new, wait
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
