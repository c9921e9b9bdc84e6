"""Runs in the hands of workers, on both databases: reports, parking, waits, children, tokens, ends, losses."""

from __future__ import annotations

from typing import Any

import pytest

from harness.store_driver import SECOND, Driver, Worker, batch, child, error, key, new, step, token, token_wait, wait
from holdfast.v1.payload_pb2 import TaskError
from holdfast.v1.run_service_pb2 import LogRecord
from holdfast_scheduler import ids, store
from holdfast_scheduler import model as m
from holdfast_scheduler import run_machine as rules
from holdfast_scheduler.settings import Limits, Settings


def begun(db: Driver, worker: Worker, **options: Any) -> bytes:
    """A run that the worker executes."""
    run_id: bytes = db.trigger(**options).run_id
    assert run_id in worker.bodies
    return run_id


def kinds(refused: list[m.Refusal]) -> list[int]:
    return [one.reason for one in refused]


# --- reports under fences ---


def test_promise_2_a_stale_fence_changes_nothing(db: Driver) -> None:
    worker = db.worker()
    run_id = begun(db, worker)
    old = worker.bodies[run_id]
    worker.report(run_id, rules.LOSE, error=error("CRASHED"))  # its executor died; it starts again at once
    assert worker.bodies[run_id].fence == old.fence + 1
    before = db.dump()
    late = m.Report(run_id, old.fence, 7, event=rules.COMPLETE, output=b"zombie", records=[step(9)])
    assert kinds(worker.send(late)) == [m.REFUSED_STALE]
    assert db.dump() == before


def test_promise_2_another_sessions_report_changes_nothing(db: Driver) -> None:
    owner, stranger = db.worker(), db.worker("u")
    run_id = begun(db, owner)
    forged = m.Report(run_id, owner.bodies[run_id].fence, 1, event=rules.COMPLETE, output=b"forged")
    assert kinds(stranger.send(forged)) == [m.REFUSED_STALE]
    assert db.status(run_id) == "EXECUTING"


def test_a_repeat_is_acknowledged_without_effect_also_after_the_end(db: Driver) -> None:
    worker = db.worker()
    run_id = begun(db, worker)
    first = worker.report_of(run_id, "", step(1))
    worker.send(first)
    assert worker.send(first) == []
    assert len(db.checkpoints(run_id)) == 1
    last = worker.report_of(run_id, rules.COMPLETE, output=b"1")
    worker.send(last)
    assert worker.send(last) == []
    assert worker.acknowledged == worker.frame_no
    later = m.Report(run_id, last.fence, last.number + 1, event=rules.COMPLETE, output=b"2")
    assert kinds(worker.send(later)) == [m.REFUSED_ENDED]
    assert db.result(run_id) == (b"1", None)


def test_a_run_that_does_not_exist_has_ended(db: Driver) -> None:
    worker = db.worker()
    assert kinds(worker.send(m.Report(ids.new_id(), 1, 1, event=rules.COMPLETE))) == [m.REFUSED_ENDED]


def test_a_gap_in_the_numbers_is_no_obstacle(db: Driver) -> None:
    """A report that was refused uses up its number; reports of one fence come in order over one stream."""
    worker = db.worker()
    run_id = begun(db, worker)
    worker.report(run_id, "", step(1), number=5)
    assert db.run(run_id).last_report == 5
    assert worker.report(run_id, "", step(2), number=3) == []  # counts as a repeat
    assert len(db.checkpoints(run_id)) == 1


def test_a_report_is_applied_whole_or_not_at_all(db: Driver) -> None:
    worker = db.worker()
    run_id = begun(db, worker)
    refused = worker.report(run_id, rules.WAKE, step(1), metadata=[m.MetadataOp(1, 1, "k", b"1", "", 1, False)])
    assert kinds(refused) == [m.REFUSED_INVALID]
    assert db.checkpoints(run_id) == []
    assert db.count("run_metadata") == 0


def test_a_refused_report_that_comes_again_is_refused_again(db: Driver) -> None:
    """Its refusal may be lost with a connection, after later reports were applied."""
    worker = db.worker()
    run_id = begun(db, worker)
    first = worker.report_of(run_id, "", step(1))
    bad = worker.report_of(run_id, "", step(3), step(2))
    later = worker.report_of(run_id, "", metadata=[m.MetadataOp(1, 1, "k", b"1", "", 1, True)])
    end = worker.report_of(run_id, rules.FAIL, error=error(), retryable=False)
    assert [one.number for one in worker.send(first, bad, later)] == [2, 3]
    assert [one.number for one in worker.send(first, bad, later)] == [2, 3]
    assert [one.seq for one in db.checkpoints(run_id)] == [1]
    assert worker.send(end) == []
    assert db.status(run_id) == "FAILED"


def test_a_park_that_nothing_would_end_changes_nothing(db: Driver) -> None:
    worker = db.worker()
    run_id = begun(db, worker)
    worker.report(run_id, "", wait(1, 60))
    refused = worker.report(run_id, rules.PARK, step(2), abandoned=[1])
    assert kinds(refused) == [m.REFUSED_INVALID]
    assert [(one.seq, one.status) for one in db.checkpoints(run_id)] == [(1, m.PENDING)]
    assert db.status(run_id) == "EXECUTING"


def test_a_park_with_a_call_that_it_leaves_and_one_that_it_makes(db: Driver) -> None:
    worker = db.worker()
    run_id = begun(db, worker)
    worker.report(run_id, "", wait(1, 60))
    assert worker.report(run_id, rules.PARK, wait(2, 60), abandoned=[1]) == []
    assert db.status(run_id) == "WAITING"


def test_promise_6_a_repeat_is_told_again_what_was_found(db: Driver) -> None:
    """The connection over which it came ended with the answer in it."""
    worker = db.worker()
    shared = db.trigger(key=key()).run_id
    worker.complete(shared, b"result")
    run_id = begun(db, worker)
    report = worker.report_of(run_id, rules.PARK, child(1, new(key=key(scope=m.SCOPE_GLOBAL))), seen=0)
    for _ in range(2):
        assert worker.send(report) == []
        (told,) = [one for _, _, one in worker.last().updates]
        worker.told.clear()
        assert (told.subject, told.is_cached, told.value) == (shared, True, b"result")
    assert db.status(run_id) == "EXECUTING"


@pytest.mark.parametrize("seqs", [(1, 1), (2, 1), (0,)])
def test_checkpoint_numbers_must_rise(db: Driver, seqs: tuple[int, ...]) -> None:
    worker = db.worker()
    run_id = begun(db, worker)
    other = begun(db, worker)
    bad = worker.report_of(run_id, "", *(step(seq) for seq in seqs))
    good = worker.report_of(other, "", step(1))
    assert [(one.run_id, one.reason) for one in worker.send(bad, good)] == [(run_id, m.REFUSED_INVALID)]
    assert (len(db.checkpoints(run_id)), len(db.checkpoints(other))) == (0, 1)


def test_promise_8_the_limit_of_checkpoints(migrated_url: str, replica: Any) -> None:
    db = replica(migrated_url, settings=Settings(limits=Limits(checkpoints=3)))
    worker = db.worker()
    run_id = begun(db, worker)
    assert worker.report(run_id, "", step(1), step(2)) == []
    (refusal,) = worker.report(run_id, "", step(3), step(4))
    assert refusal.reason == m.REFUSED_INVALID
    assert "limit checkpoints is 3" in refusal.message
    assert len(db.checkpoints(run_id)) == 2


def test_promise_8_the_limit_of_log_records(migrated_url: str, replica: Any) -> None:
    db = replica(migrated_url, settings=Settings(limits=Limits(log_records=5)))
    worker = db.worker()
    run_id = begun(db, worker)

    def says(count: int) -> list[bytes]:
        return [LogRecord(message=f"line {at}", attempt=1).SerializeToString() for at in range(count)]

    def log() -> list[str]:
        with db.transaction() as tx:
            rows = tx.fetch("SELECT record FROM run_logs ORDER BY fence, report, place")
        return [LogRecord.FromString(row[0]).message for row in rows]

    worker.report(run_id, "", logs=says(4))
    worker.report(run_id, "", logs=says(3))
    kept = [f"line {at}" for at in (0, 1, 2, 3, 0)]
    assert log() == [*kept, "2 more records were dropped: the limit log_records is 5 for one run"]
    db.crash()  # nothing of it is only in memory
    worker.report(run_id, "", logs=says(10))
    worker.report(run_id, rules.LOSE, error=error("CRASHED"))
    worker.report(run_id, "", logs=says(1))
    assert log() == [*kept, "13 more records were dropped: the limit log_records is 5 for one run"]


def test_promise_8_the_limit_of_depth(migrated_url: str, replica: Any) -> None:
    db = replica(migrated_url, settings=Settings(limits=Limits(depth=2)))
    worker = db.worker()
    run_id = begun(db, worker)
    for _ in range(2):
        worker.report(run_id, "", child(1, new(), wait=False))
        run_id = db.checkpoints(run_id)[0].subject
    worker.report(run_id, "", child(1, new(), wait=False))
    (refused,) = db.checkpoints(run_id)
    assert refused.status == m.FAILED_CHECKPOINT
    assert "limit depth is 2" in TaskError.FromString(refused.error).message


# --- parking ---


def test_a_wait_parks_and_resumes_in_place(db: Driver) -> None:
    worker = db.worker(slots=1)
    run_id = begun(db, worker)
    waiting = db.trigger().run_id
    assert worker.park(run_id, wait(1, 60)) == []
    assert db.status(run_id) == "WAITING"
    assert db.status(waiting) == "EXECUTING"  # the slot was free in the same commit
    worker.complete(waiting)
    db.turn(59.999999)
    assert db.status(run_id) == "WAITING"
    db.turn(0.000001)
    (order,) = worker.last().resumes
    assert [(one.seq, one.status) for one in order.checkpoints] == [(1, m.SUCCEEDED)]
    assert (db.status(run_id), worker.bodies[run_id].fence, order.run.attempt) == ("EXECUTING", 2, 1)


def test_an_instant_in_the_past_falls_straight_through(db: Driver) -> None:
    worker = db.worker()
    run_id = begun(db, worker)
    worker.park(run_id, m.Record(1, "w", m.WAIT, "w", until=db.now - 1))
    assert db.status(run_id) == "EXECUTING"
    assert [one.status for one in worker.updates(run_id)] == [m.SUCCEEDED]


def test_park_after_the_settlement_goes_on(db: Driver) -> None:
    worker = db.worker()
    run_id = begun(db, worker)
    worker.report(run_id, "", wait(1, 5), wait(2, 60))
    park = worker.report_of(run_id, rules.PARK)  # made before the worker hears of what the next line does
    db.turn(5)
    worker.send(park)
    assert db.status(run_id) == "EXECUTING"
    assert [one.seq for one in worker.updates(run_id)] == [1]
    worker.park(run_id)
    assert db.status(run_id) == "WAITING"


def test_settlement_after_the_park_resumes(db: Driver) -> None:
    worker = db.worker()
    run_id = begun(db, worker)
    worker.park(run_id, wait(1, 5), wait(2, 60))
    db.turn(5)
    assert db.status(run_id) == "EXECUTING"
    assert [one.seq for one in worker.last().resumes[0].checkpoints] == [1]


@pytest.mark.parametrize("first", ["park", "settlement"])
def test_park_and_settlement_in_one_commit(db: Driver, first: str) -> None:
    worker = db.worker(slots=2)
    parent = begun(db, worker)
    item = new()
    worker.report(parent, "", child(1, item))
    park = worker.frame(worker.report_of(parent, rules.PARK))
    done = worker.frame(worker.report_of(item.id, rules.COMPLETE, output=b"x"))
    del worker.bodies[item.id]
    worker.bodies[parent].parked = True
    db.do(*((park, done) if first == "park" else (done, park)))
    assert db.status(parent) == "EXECUTING"
    resumed = [one.value for order in worker.last().resumes for one in order.checkpoints]
    assert (resumed or [one.value for one in worker.updates(parent)]) == [b"x"]


def test_a_body_that_was_woken_without_a_slot_gets_every_answer_when_it_resumes(db: Driver) -> None:
    """The second answer comes in the commit that resumes it; the first must not be lost."""
    worker = db.worker(slots=1)
    run_id = begun(db, worker)
    worker.park(run_id, wait(1, 1), wait(2, 2))
    busy = begun(db, worker)
    db.turn(1)
    assert (db.status(run_id), db.run(run_id).reason) == ("QUEUED", m.RESUMING)
    assert db.clock is not None
    db.clock.turn(1)
    done = worker.frame(worker.report_of(busy, rules.COMPLETE, output=b""))
    del worker.bodies[busy]
    db.do(m.RunsDue(db.namespace, [run_id]), done)
    if db.status(run_id) == "QUEUED":  # the timer of a queued run rings once it executes
        db.look()
    answered = [one.seq for order in worker.last().resumes for one in order.checkpoints]
    db.due()
    assert sorted({*answered, *(one.seq for one in worker.updates(run_id))}) == [1, 2]


def test_two_children_end_while_their_parent_has_no_slot(db: Driver) -> None:
    home = db.worker("parent", slots=1)
    away = db.worker("t", slots=5)
    parent = begun(db, home, task="parent")
    items = [new(), new()]
    home.park(parent, child(1, items[0]), child(2, items[1]))
    busy = begun(db, home, task="parent")
    away.complete(items[0].id, b"one")
    assert (db.status(parent), db.run(parent).session) == ("QUEUED", home.session)
    last = away.frame(away.report_of(items[1].id, rules.COMPLETE, output=b"two"))
    done = home.frame(home.report_of(busy, rules.COMPLETE, output=b""))
    del away.bodies[items[1].id], home.bodies[busy]
    db.do(last, done)
    (order,) = home.last().resumes
    assert [(one.seq, one.value) for one in order.checkpoints] == [(1, b"one"), (2, b"two")]


def test_a_woken_body_whose_worker_stays_full_goes_elsewhere(db: Driver) -> None:
    home = db.worker(slots=1)
    run_id = begun(db, home)
    home.park(run_id, wait(1, 1))
    busy = begun(db, home)
    other = db.worker("u", slots=1)
    db.turn(1)
    assert db.status(run_id) == "QUEUED"
    db.trigger(task="u")  # a commit in which another worker has room
    other.complete(next(iter(other.bodies)))
    db.turn(4)
    assert db.run(run_id).session == home.session
    db.turn(1)  # the patience is over
    assert db.run(run_id).session is None
    assert [drop[0] for drop in home.last().drops] == [run_id]
    third = db.worker(slots=1)
    db.look()
    (order,) = third.last().starts
    assert (order.run.id, order.is_reentry, order.run.attempt) == (run_id, True, 1)
    assert [one.status for one in order.checkpoints] == [m.SUCCEEDED]
    home.complete(busy)


def test_a_woken_body_resumes_when_its_own_worker_has_room_although_others_had_before(db: Driver) -> None:
    home, other = db.worker(slots=1), db.worker("u", slots=5)
    run_id = begun(db, home)
    home.park(run_id, wait(1, 1))
    busy = begun(db, home)
    db.turn(1)
    begun(db, other, task="u")
    db.do(m.Look(db.namespace))
    home.complete(busy)
    db.look()
    assert db.status(run_id) == "EXECUTING"
    assert home.bodies[run_id].fence == 2


def test_a_parked_body_asks_for_its_slot(db: Driver) -> None:
    worker = db.worker()
    run_id = begun(db, worker)
    worker.park(run_id, wait(1, 60))
    worker.report(run_id, rules.WAKE)
    assert db.status(run_id) == "EXECUTING"
    assert worker.last().resumes[0].checkpoints == []
    worker.park(run_id)
    assert db.status(run_id) == "WAITING"


def test_an_abandoned_call_wakes_nobody(db: Driver) -> None:
    worker = db.worker()
    run_id = begun(db, worker)
    worker.report(run_id, "", wait(1, 5), wait(2, 60))
    worker.report(run_id, rules.PARK, abandoned=[1])
    run = db.run(run_id)
    assert (run.pending, run.timer_at) == (1, db.now + 60 * SECOND)
    db.turn(5)
    assert db.status(run_id) == "WAITING"
    assert [one.status for one in db.checkpoints(run_id)] == [m.ABANDONED, m.PENDING]


# --- children ---


def test_a_parent_and_its_child_share_one_slot(db: Driver) -> None:
    worker = db.worker(slots=1)
    parent = begun(db, worker)
    item = new()
    worker.park(parent, child(1, item))
    assert (db.status(parent), db.status(item.id)) == ("WAITING", "EXECUTING")
    worker.complete(item.id, b"answer")
    (order,) = worker.last().resumes
    (checkpoint,) = order.checkpoints
    assert (checkpoint.value, checkpoint.child_status, checkpoint.status) == (b"answer", m.COMPLETED, m.SUCCEEDED)


@pytest.mark.parametrize(("kind", "permanent"), [("USER", False), ("ABORTED", True)])
def test_promise_3_failed_children_in_a_new_attempt(db: Driver, kind: str, permanent: bool) -> None:
    worker = db.worker(slots=3)
    parent = begun(db, worker)
    item = new()
    worker.report(parent, "", step(1), step(2, None, error=error(), permanent=True), step(3, None, error=error()))
    worker.park(parent, child(4, item), wait(5, 900))
    worker.fail(item.id, kind=kind)
    assert [one.permanent for one in worker.last().resumes[0].checkpoints] == [permanent]
    worker.report(parent, rules.LOSE, error=error("CRASHED"))
    order = worker.bodies[parent].order  # a recovery sees what the body saw
    assert [one.seq for one in order.checkpoints] == [1, 2, 3, 4, 5]
    instant = db.checkpoints(parent)[4].due_at
    worker.fail(parent, retryable=True)
    db.turn(2)
    order = worker.bodies[parent].order
    assert order.run.attempt == 2
    assert [one.seq for one in order.checkpoints] == [1, 2, 4, 5] if permanent else [1, 2, 5]
    assert order.checkpoints[0].value == b"done"
    assert order.checkpoints[-1].due_at == instant  # pending ones keep their instant


def second_attempt(db: Driver, home: Worker, item: m.NewRun) -> bytes:
    """A run whose first attempt asked for a child and failed, and whose second one is parked on it."""
    parent = begun(db, home, task="parent")
    home.report(parent, "", child(1, item))
    home.fail(parent, retryable=True)
    db.turn(2)
    assert home.bodies[parent].order.run.attempt == 2
    home.park(parent)
    assert db.status(parent) == "WAITING"
    return parent


def test_a_child_of_an_earlier_attempt_that_fails_answers_the_attempt_that_waits(db: Driver) -> None:
    """Also when the body finds no slot at first. It waited for ever."""
    home, away = db.worker("parent", slots=1), db.worker("t", slots=5)
    item = new()
    parent = second_attempt(db, home, item)
    busy = begun(db, home, task="parent")
    away.fail(item.id)
    assert db.status(parent) == "QUEUED"
    home.complete(busy)
    db.look()
    (order,) = home.last().resumes
    assert [(one.seq, one.status) for one in order.checkpoints] == [(1, m.FAILED_CHECKPOINT)]


@pytest.mark.parametrize("end", ["fails", "abandoned"])
def test_what_an_attempt_has_heard_of_an_earlier_ones_call_it_hears_again(db: Driver, end: str) -> None:
    """At a re-entry; only the attempt after that asks anew."""
    home, away = db.worker("parent", slots=1), db.worker("t", slots=5)
    item = new()
    parent = second_attempt(db, home, item)
    status = m.FAILED_CHECKPOINT
    if end == "fails":
        away.fail(item.id)
    else:
        status = m.ABANDONED
        home.report(parent, rules.WAKE)
        home.report(parent, "", abandoned=[1])
    assert db.status(parent) == "EXECUTING"
    home.report(parent, rules.LOSE, error=error("CRASHED"))
    order = home.bodies[parent].order
    assert (order.run.attempt, order.run.fence) == (2, 4)
    assert [(one.seq, one.status, one.attempt, one.failed_in) for one in order.checkpoints] == [(1, status, 1, 2)]
    home.fail(parent, retryable=True)
    db.turn(5)
    assert home.bodies[parent].order.run.attempt == 3
    assert home.bodies[parent].order.checkpoints == []


def test_promise_3_a_successful_checkpoint_never_changes(db: Driver) -> None:
    worker = db.worker(slots=3)
    parent = begun(db, worker)
    item = new()
    worker.park(parent, child(1, item, timeout_us=5 * SECOND))
    worker.complete(item.id, b"answer")
    before = db.checkpoints(parent)
    db.turn(5)
    worker.report(parent, "", step(2), abandoned=[1])
    assert db.checkpoints(parent)[:1][0].status == before[0].status == m.SUCCEEDED
    assert db.run(parent).pending == 0


def test_a_child_that_ends_after_its_timeout_changes_nothing(db: Driver) -> None:
    worker = db.worker(slots=3)
    parent = begun(db, worker)
    item = new()
    worker.park(parent, child(1, item, timeout_us=5 * SECOND))
    db.turn(5)
    (checkpoint,) = worker.last().resumes[0].checkpoints
    assert checkpoint.status == m.FAILED_CHECKPOINT
    assert TaskError.FromString(checkpoint.error).type == "CallTimedOut"
    worker.complete(item.id)
    assert db.checkpoints(parent)[0].status == m.FAILED_CHECKPOINT
    assert db.run(parent).settled == 1


def test_a_key_joins_a_run_that_has_not_ended(db: Driver) -> None:
    worker = db.worker(slots=5)
    shared = begun(db, worker, key=key())
    parent = begun(db, worker)
    worker.park(parent, child(1, new(key=key(scope=m.SCOPE_GLOBAL))))
    assert db.status(parent) == "WAITING"
    (told,) = worker.updates(parent)
    assert (told.subject, told.is_cached, told.status) == (shared, True, m.PENDING)
    db.cancel(parent)
    assert (db.status(parent), db.status(shared)) == ("CANCELED", "EXECUTING")  # a joiner does not cancel it
    other = begun(db, worker)
    worker.report(other, "", child(1, new(key=key(scope=m.SCOPE_GLOBAL))))
    worker.park(other)
    worker.complete(shared, b"shared")
    assert [one.value for one in worker.last().resumes[0].checkpoints] == [b"shared"]


def test_a_key_joins_a_run_that_has_ended(db: Driver) -> None:
    worker = db.worker(slots=5)
    shared = begun(db, worker, key=key())
    worker.complete(shared, b"shared")
    parent = begun(db, worker)
    worker.park(parent, child(1, new(payload=b"1", key=key(scope=m.SCOPE_GLOBAL))))
    assert db.status(parent) == "EXECUTING"
    (told,) = worker.updates(parent)
    assert (told.value, told.child_status, told.is_cached, told.payload_differs) == (b"shared", 10, True, True)
    worker.report(parent, rules.LOSE, error=error("CRASHED"))
    (again,) = worker.bodies[parent].order.checkpoints
    assert (again.value, again.child_status, again.is_cached, again.payload_differs) == (b"shared", 10, True, True)


def test_waiting_for_oneself_or_an_ancestor_is_refused(db: Driver) -> None:
    worker = db.worker("t", "grandparent", slots=5)
    grandparent = begun(db, worker, task="grandparent", key=key("g"))
    item = new(key=key("p"))
    worker.park(grandparent, child(1, item))
    same = new(task="grandparent", key=key("g", scope=m.SCOPE_GLOBAL))
    worker.report(item.id, "", child(1, same), child(2, new(task="grandparent"), wait=False))
    refused, allowed = db.checkpoints(item.id)
    fault = TaskError.FromString(refused.error)
    assert (refused.status, fault.type) == (m.FAILED_CHECKPOINT, "WOULD_DEADLOCK")
    assert "t ← grandparent" in fault.message
    assert allowed.status == m.SUCCEEDED
    worker.report(item.id, "", child(3, new(task="grandparent", key=key("g", scope=m.SCOPE_GLOBAL)), wait=False))
    assert db.checkpoints(item.id)[2].subject == grandparent  # a handle alone waits for nothing


def test_a_child_of_an_unknown_task_fails_in_its_place(db: Driver) -> None:
    worker = db.worker()
    parent = begun(db, worker)
    worker.park(parent, child(1, new(task="nobody")))
    assert db.status(parent) == "EXECUTING"
    (told,) = worker.updates(parent)
    failure = TaskError.FromString(told.error)
    assert (told.status, failure.kind, failure.type) == (m.FAILED_CHECKPOINT, 11, "TASK_NOT_FOUND")


# --- batches ---


def test_a_batch_answers_when_its_last_item_has_ended(db: Driver) -> None:
    worker = db.worker(slots=10)
    parent = begun(db, worker)
    done = begun(db, worker, key=key("done"))
    worker.complete(done, b"early")
    shared = [new(key=key("s")), new(key=key("s"))]
    items = [new(), new(task="nobody"), new(key=key("done", scope=m.SCOPE_GLOBAL)), *shared, new()]
    worker.report(parent, "", batch(1, items))
    worker.park(parent)
    assert db.status(parent) == "WAITING"
    worker.complete(items[0].id, b"0")
    worker.fail(items[5].id)
    assert db.status(parent) == "WAITING"
    worker.complete(shared[0].id, b"3")
    (checkpoint,) = worker.last().resumes[0].checkpoints
    entries = checkpoint.entries or []
    assert [(one.status, one.output) for one in entries] == [
        (m.COMPLETED, b"0"),
        (m.FAILED, None),
        (m.COMPLETED, b"early"),
        (m.COMPLETED, b"3"),
        (m.COMPLETED, b"3"),
        (m.FAILED, None),
    ]
    assert TaskError.FromString(entries[1].error or b"").type == "TASK_NOT_FOUND"
    worker.report(parent, rules.LOSE, error=error("CRASHED"))
    (again,) = worker.bodies[parent].order.checkpoints
    assert [one.status for one in again.entries or []] == [one.status for one in entries]


def test_a_batch_of_which_every_item_has_ended_already(db: Driver) -> None:
    worker = db.worker(slots=10)
    parent = begun(db, worker)
    worker.park(parent, batch(1, [new(task="nobody"), new(task="nobody")]))
    assert db.status(parent) == "EXECUTING"
    (told,) = worker.updates(parent)
    assert [one.status for one in told.entries or []] == [m.FAILED, m.FAILED]


def test_promise_8_the_limit_of_what_a_batch_returns(migrated_url: str, replica: Any) -> None:
    db = replica(migrated_url, settings=Settings(limits=Limits(batch_result_bytes=100)))
    worker = db.worker(slots=10)
    parents = [begun(db, worker) for _ in range(2)]
    items = [[new(), new()] for _ in parents]
    for parent, mine in zip(parents, items, strict=True):
        worker.park(parent, batch(1, mine, key=key(parent.hex(), scope=m.SCOPE_GLOBAL)))
    for item, size in zip(items[0] + items[1], (50, 50, 50, 51), strict=True):
        worker.complete(item.id, b"x" * size)
    (fits,), (fails,) = [worker.bodies[parent].order.checkpoints for parent in parents]
    assert [len(one.output or b"") for one in fits.entries or []] == [50, 50]
    assert (fails.status, fails.permanent, fails.entries) == (m.FAILED_CHECKPOINT, True, None)
    assert "101 bytes; the limit batch_result_bytes is 100" in TaskError.FromString(fails.error or b"").message
    joiner = begun(db, worker)
    worker.park(joiner, batch(1, [], key=key(parents[1].hex(), scope=m.SCOPE_GLOBAL)))
    worker.report(parents[1], rules.LOSE, error=error("CRASHED"))
    again = worker.bodies[parents[1]].order.checkpoints + worker.updates(joiner)
    assert [(one.status, one.entries, one.error) for one in again] == [(m.FAILED_CHECKPOINT, None, fails.error)] * 2


def test_promise_3_a_wait_for_a_batch_that_timed_out_looks_the_same_at_re_entry(db: Driver) -> None:
    worker = db.worker(slots=10)
    parent = begun(db, worker)
    item = new(on_parent_end=m.ON_PARENT_END_DETACH)
    worker.park(parent, batch(1, [item], timeout_us=SECOND))
    db.turn(1)
    (first,) = worker.bodies[parent].order.checkpoints
    worker.complete(item.id)
    worker.report(parent, rules.LOSE, error=error("CRASHED"))
    (again,) = worker.bodies[parent].order.checkpoints
    assert (first.status, first.entries) == (again.status, again.entries) == (m.FAILED_CHECKPOINT, None)


def test_a_batch_that_was_only_triggered_is_awaited_by_its_key(db: Driver) -> None:
    worker = db.worker(slots=10)
    parent = begun(db, worker)
    items = [new(), new()]
    worker.report(parent, "", batch(1, items, wait=False, key=key("b")))
    worker.complete(items[0].id)
    worker.report(parent, "", batch(2, [new(), new()], key=key("b")))
    assert [one.is_cached for one in db.checkpoints(parent)] == [False, True]
    worker.park(parent)
    assert db.status(parent) == "WAITING"
    worker.complete(items[1].id)
    assert db.status(parent) == "EXECUTING"


def test_a_batch_is_told_with_its_items_after_a_reconnect(db: Driver) -> None:
    worker = db.worker(slots=10)
    parent = begun(db, worker)
    item = new()
    worker.report(parent, "", batch(1, [item]))
    worker.connected = False
    other = db.worker("u")
    done = m.Report(item.id, worker.bodies.pop(item.id).fence, 1, event=rules.COMPLETE, output=b"x")
    sessions, db.workers = db.workers, {other.session: other}
    db.do(worker.frame(done))
    db.workers = sessions
    answer = worker.reconnect()
    ((_, _, told),) = answer.updates
    assert [one.output for one in told.entries or []] == [b"x"]


# --- tokens ---


@pytest.mark.parametrize("ok", [True, False])
def test_a_token_is_completed_once(db: Driver, ok: bool) -> None:
    worker = db.worker()
    run_id = begun(db, worker)
    token_id = ids.new_id()
    worker.report(run_id, "", token(1, token_id))
    worker.park(run_id, token_wait(2, token_id))
    data, failure = (b"data", b"") if ok else (b"", error())
    assert db.one(m.SettleToken(db.namespace, token_id, data, failure)) is True
    assert db.one(m.SettleToken(db.namespace, token_id, b"late", b"")) is False
    ((checkpoint,),) = [order.checkpoints for one in worker.deliveries for order in one.resumes]
    assert checkpoint.status == (m.SUCCEEDED if ok else m.FAILED_CHECKPOINT)
    assert (checkpoint.value or b"", checkpoint.error or b"") == (data, failure)
    worker.park(run_id, token_wait(3, token_id))
    assert db.status(run_id) == "EXECUTING"  # it is completed already


def test_two_completions_in_one_commit_have_one_winner(db: Driver) -> None:
    token_id, made = ids.new_id(), db.now
    db.one(m.CreateToken(db.namespace, token_id, None, [], None))
    assert db.do(*(m.SettleToken(db.namespace, token_id, data, b"") for data in (b"a", b"b"))) == [True, False]
    assert made == db.now


def test_a_token_times_out(db: Driver) -> None:
    worker = db.worker()
    run_id = begun(db, worker)
    token_id, is_cached = db.one(m.CreateToken(db.namespace, ids.new_id(), 5 * SECOND, ["tag"], key()))
    assert not is_cached
    assert db.one(m.CreateToken(db.namespace, ids.new_id(), 5 * SECOND, [], key())) == (token_id, True)
    worker.park(run_id, token_wait(1, token_id))
    db.turn(5)
    assert db.status(run_id) == "EXECUTING"
    assert db.checkpoints(run_id)[0].status == m.FAILED_CHECKPOINT
    assert db.one(m.SettleToken(db.namespace, token_id, b"late", b"")) is False


def test_the_wait_for_a_token_has_its_own_timeout(db: Driver) -> None:
    worker = db.worker()
    run_id = begun(db, worker)
    token_id, _ = db.one(m.CreateToken(db.namespace, ids.new_id(), None, [], None))
    worker.park(run_id, token_wait(1, token_id, timeout_us=SECOND))
    db.turn(1)
    assert db.checkpoints(run_id)[0].status == m.FAILED_CHECKPOINT
    assert db.one(m.SettleToken(db.namespace, token_id, b"x", b"")) is True
    assert db.checkpoints(run_id)[0].status == m.FAILED_CHECKPOINT


def test_tokens_that_nobody_made(db: Driver) -> None:
    worker = db.worker()
    run_id = begun(db, worker)
    worker.park(run_id, token_wait(1, ids.new_id()))
    assert [one.status for one in worker.updates(run_id)] == [m.FAILED_CHECKPOINT]
    outcome = db.one(m.SettleToken(db.namespace, ids.new_id(), b"", b""))
    assert outcome.reason == "TOKEN_NOT_FOUND"


# --- cancellation and time limits ---


def family(db: Driver, worker: Worker) -> dict[str, bytes]:
    """A parent with children of every sort."""
    parent = begun(db, worker)
    items = {name: new() for name in ("waited", "triggered", "attached", "parked", "inner")}
    items["attached"].on_parent_end = m.ON_PARENT_END_CANCEL
    worker.report(
        parent,
        "",
        child(1, items["waited"]),
        child(2, items["triggered"], wait=False),
        child(3, items["attached"], wait=False),
        child(4, items["parked"]),
    )
    worker.park(items["parked"].id, child(1, items["inner"]))
    worker.park(parent)
    return {"parent": parent, **{name: item.id for name, item in items.items()}}


def test_a_cancellation_goes_down_the_tree_in_one_commit(db: Driver) -> None:
    worker = db.worker(slots=10)
    runs = family(db, worker)
    assert db.cancel(runs["parent"]) is True
    assert {name: db.status(run_id) for name, run_id in runs.items()} == {
        "parent": "CANCELED",
        "waited": "CANCELING",
        "triggered": "EXECUTING",
        "attached": "CANCELING",
        "parked": "CANCELED",
        "inner": "CANCELING",
    }
    delivery = worker.last()
    assert {one[0] for one in delivery.cancels} == {runs["waited"], runs["attached"], runs["inner"]}
    assert {one[0] for one in delivery.drops} == {runs["parent"], runs["parked"]}
    assert db.cancel(runs["parent"]) is False
    db.turn(30)
    assert {db.status(runs[name]) for name in ("waited", "attached", "inner")} == {"CANCELED"}


def test_children_end_with_a_parent_that_fails_and_go_on_when_it_completes(db: Driver) -> None:
    worker = db.worker(slots=10)
    for ending, expected in ((rules.FAIL, "CANCELING"), (rules.COMPLETE, "EXECUTING")):
        parent = begun(db, worker)
        item = new()
        worker.report(parent, "", child(1, item))
        worker.report(parent, ending, error=error() if ending == rules.FAIL else None, output=b"")
        assert db.status(item.id) == expected


def test_a_canceled_run_takes_no_checkpoint_and_ends_canceled_whatever_it_reports(db: Driver) -> None:
    worker = db.worker()
    run_id = begun(db, worker)
    assert db.cancel(run_id) is True
    assert worker.last().cancels == [(run_id, 1)]
    assert kinds(worker.report(run_id, "", step(1))) == [m.REFUSED_CANCELING]
    assert worker.report(run_id, "", metadata=[m.MetadataOp(1, 1, "k", b"1", "", 1, False)]) == []
    worker.complete(run_id, b"too late")
    output, failure = db.result(run_id)
    assert db.status(run_id) == "CANCELED"
    assert output is None
    assert failure is not None
    assert failure.type == "Canceled"


def test_a_wall_clock_limit(db: Driver) -> None:
    worker = db.worker(slots=10)
    parent = begun(db, worker, timeout_us=10 * SECOND)
    item = new()
    worker.park(parent, child(1, item), wait(2, 3))
    db.turn(3)
    db.turn(7)
    assert (db.status(parent), db.status(item.id)) == ("TIMED_OUT", "CANCELING")
    assert [one[0] for one in worker.last().drops] == [parent]
    assert worker.complete(item.id) == []


def test_a_canceled_run_past_its_limit_is_quiet_until_its_grace_is_over(db: Driver) -> None:
    worker = db.worker()
    run_id = begun(db, worker, timeout_us=10 * SECOND)
    db.cancel(run_id)
    db.turn(10)
    due = db.run(run_id).due_at
    assert due is not None
    assert due > db.now
    db.turn(20)
    assert db.status(run_id) == "CANCELED"


# --- retries, recoveries, sessions ---


def test_attempts_and_recoveries_are_recorded(db: Driver) -> None:
    worker = db.worker(max_recoveries=2, max_attempts=2, min_us=SECOND)
    run_id = begun(db, worker)
    worker.fail(run_id, retryable=True)
    assert (db.status(run_id), db.run(run_id).reason) == ("DELAYED", m.BACKING_OFF)
    db.turn(1)
    for _ in range(2):
        worker.report(run_id, rules.LOSE, error=error("CRASHED", "signal 9"))
        db.turn(2)
    assert (db.run(run_id).attempt, db.run(run_id).recoveries) == (2, 2)
    worker.report(run_id, rules.LOSE, error=error("CRASHED", "signal 9"))
    assert db.status(run_id) == "CRASHED"
    _, failure = db.result(run_id)
    assert failure is not None
    assert failure.message == "signal 9"
    with db.transaction() as tx:
        rows = tx.fetch("SELECT fence, number, state FROM attempts ORDER BY fence")
    assert [tuple(row) for row in rows] == [
        (1, 1, m.ATTEMPT_FAILED),
        (2, 2, m.ATTEMPT_LOST),
        (3, 2, m.ATTEMPT_LOST),
    ]


def test_promise_4_after_a_lost_worker_the_body_is_reentered_elsewhere_with_its_records(db: Driver) -> None:
    worker = db.worker(slots=5)
    parked, executing = begun(db, worker), begun(db, worker)
    worker.park(parked, step(1), wait(2, 60))
    worker.report(executing, "", step(1, b"kept"))
    other = db.worker(slots=5)
    assert db.end_session(worker) is True
    assert (db.status(parked), db.run(parked).session, db.run(parked).recoveries) == ("WAITING", None, 0)
    (order,) = other.last().starts
    assert (order.run.id, order.run.recoveries, order.run.attempt, order.is_reentry) == (executing, 1, 1, True)
    assert [one.value for one in order.checkpoints] == [b"kept"]
    db.turn(60)
    (order,) = other.last().starts
    assert (order.run.id, order.run.recoveries) == (parked, 0)
    assert [one.status for one in order.checkpoints] == [m.SUCCEEDED, m.SUCCEEDED]
    late = m.Report(executing, 1, 2, event=rules.COMPLETE, output=b"zombie")
    assert kinds(other.send(late)) == [m.REFUSED_STALE]


def test_a_goodbye_costs_no_recovery(db: Driver) -> None:
    worker = db.worker()
    run_id = begun(db, worker)
    db.end_session(worker, lost=False)
    assert (db.status(run_id), db.run(run_id).reason, db.run(run_id).recoveries) == ("QUEUED", m.RELEASED, 0)


def test_a_session_that_connected_again_is_not_ended_by_its_old_connection(db: Driver) -> None:
    worker = db.worker()
    run_id = begun(db, worker)
    worker.reconnect()
    assert db.one(m.EndSession(db.namespace, worker.session, True, "", 1)) is False
    assert db.status(run_id) == "EXECUTING"


def test_a_session_whose_secret_is_wrong_or_that_is_gone(db: Driver) -> None:
    worker = db.worker()
    assert db.one(m.ResumeSession(db.namespace, worker.session, b"guess", [])) is None
    db.end_session(worker)
    assert db.one(m.ResumeSession(db.namespace, worker.session, b"secret", [])) is None
    assert db.one(m.RenewSession(db.namespace, worker.session)) is False


def test_promise_7_a_session_that_falls_silent_loses_its_runs_also_to_itself(db: Driver) -> None:
    """It is still connected and has credit: it must not be given what it has just lost."""
    worker = db.worker()
    run_id = begun(db, worker)
    assert db.clock is not None
    for second in range(1, 20):
        db.clock.turn(1)
        db.tick()
        if second == 9:
            assert db.one(m.RenewSession(db.namespace, worker.session)) is True
    assert db.status(run_id) == "EXECUTING"
    db.clock.turn(1)
    db.tick()
    assert db.run(run_id).session is None
    assert db.status(run_id) == "QUEUED"


def test_promise_7_no_run_is_given_to_a_session_that_ended_elsewhere(db: Driver) -> None:
    worker = db.worker()
    db.one(m.EndSession(db.namespace, worker.session, True, "", worker.connection_no))  # nobody told the worker's end
    run_id = db.trigger().run_id
    assert (db.status(run_id), db.run(run_id).session, worker.bodies) == ("QUEUED", None, {})


def test_promise_7_a_lease_of_a_clock_that_was_set_back_ends_as_any_other(db: Driver) -> None:
    db.worker()
    db.clock.turn(-3_600)  # type: ignore[union-attr]
    db.crash()
    db.tick()
    with db.transaction() as tx:
        assert tx.fetch("SELECT lease_until FROM sessions") == [(db.now + 10 * SECOND,)]


def test_promise_7_what_a_dead_replica_timed_is_found(db: Driver) -> None:
    worker = db.worker()
    run_id = begun(db, worker)
    worker.park(run_id, wait(1, 5))
    token_id, _ = db.one(m.CreateToken(db.namespace, ids.new_id(), 5 * SECOND, [], None))
    assert db.clock is not None
    db.clock.turn(6.5)
    db.tick(expire=False)
    assert db.status(run_id) == "EXECUTING"
    assert db.one(m.SettleToken(db.namespace, token_id, b"", b"")) is False


# --- reconnecting ---


def test_a_lost_start_is_released_at_once(db: Driver) -> None:
    worker = db.worker()
    run_id = begun(db, worker)
    worker.slots = 0
    worker.reconnect({})
    assert (db.status(run_id), db.run(run_id).recoveries, db.run(run_id).attempt) == ("QUEUED", 0, 1)


def test_a_lost_resume_is_sent_again(db: Driver) -> None:
    worker = db.worker()
    run_id = begun(db, worker)
    worker.park(run_id, step(1), wait(2, 5))
    db.turn(5)
    answer = worker.reconnect({run_id: 1})
    (order,) = answer.resumes
    assert (order.run.id, order.run.fence) == (run_id, 2)
    assert [one.seq for one in order.checkpoints if one.kind == m.WAIT] == [2]
    assert db.status(run_id) == "EXECUTING"


def test_what_others_have_is_dropped_and_what_is_kept_is_told(db: Driver) -> None:
    worker = db.worker(slots=10)
    kept, gone, canceled, ended = (begun(db, worker) for _ in range(4))
    worker.report(kept, "", wait(1, 1))
    worker.report(gone, rules.LOSE, error=error("CRASHED"))
    db.cancel(canceled)
    worker.complete(ended)
    db.turn(1)
    answer = worker.reconnect({kept: 1, gone: 1 - 1, canceled: 1, ended: 1, ids.new_id(): 3})
    assert [(run_id, fence) for run_id, fence in answer.cancels] == [(canceled, 1)]
    assert [(run_id, one.seq) for run_id, _, one in answer.updates] == [(kept, 1)]
    assert {run_id for run_id, *_ in answer.drops} >= {gone, ended}
    assert kept not in {run_id for run_id, *_ in answer.drops}


def test_a_settlement_that_the_reconnect_meets_is_told_with_the_resume(db: Driver) -> None:
    worker = db.worker()
    run_id = begun(db, worker)
    token_id, _ = db.one(m.CreateToken(db.namespace, ids.new_id(), None, [], None))
    worker.park(run_id, wait(1, 1), token_wait(2, token_id))
    worker.connected = False
    sessions, db.workers = db.workers, {}
    db.turn(1)
    db.workers = sessions
    worker.connection_no = db.one(m.ResumeSession(db.namespace, worker.session, b"secret", []))
    worker.connected = True
    settle = m.SettleToken(db.namespace, token_id, b"x", b"")
    db.do(settle, m.ReconcileHeld(db.namespace, worker.session, {run_id: 1}))
    resumed = [one.seq for delivery in worker.deliveries for order in delivery.resumes for one in order.checkpoints]
    told = [one.seq for one in worker.updates(run_id)]
    assert sorted({*resumed, *told}) == [1, 2]


# --- fan-out ---


def test_a_fan_out_beyond_the_limit_is_postponed_and_nothing_is_lost(
    db: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast_scheduler.propagation.FAN_OUT_LIMIT", 3)
    monkeypatch.setattr("holdfast_scheduler.commit_loop.LOOK_ROWS", 2)  # what a look takes up fits into one commit
    worker = db.worker(slots=50)
    parent = begun(db, worker)
    items = [new() for _ in range(6)]
    worker.report(parent, "", batch(1, items))
    waiter = begun(db, worker)
    grandchild = new()
    worker.report(items[0].id, "", child(1, grandchild))
    worker.park(parent)
    worker.send(*(worker.report_of(item.id, rules.COMPLETE, output=b"") for item in items[1:]))
    assert db.count("pending_events") > 0
    late = begun(db, worker)
    worker.report(late, "", batch(1, [new(), new()]))
    for _ in range(5):
        db.tick()
    assert db.count("pending_events") == 0
    assert db.status(parent) == "WAITING"
    worker.fail(items[0].id)
    for _ in range(5):
        db.tick()
    assert db.status(parent) == "EXECUTING"
    assert db.status(grandchild.id) == "CANCELING"
    assert db.status(waiter) == "EXECUTING"


def test_a_large_family_is_canceled_over_several_commits(db: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast_scheduler.propagation.FAN_OUT_LIMIT", 3)
    monkeypatch.setattr("holdfast_scheduler.commit_loop.LOOK_ROWS", 2)  # what a look takes up fits into one commit
    worker = db.worker(slots=50)
    root = begun(db, worker)
    middle = [new() for _ in range(5)]
    worker.park(root, *(child(at, item) for at, item in enumerate(middle, 1)))
    leaves = []
    for item in middle:
        leaves.append(new())
        worker.park(item.id, child(1, leaves[-1]))
    db.cancel(root)
    for _ in range(6):
        db.tick()
    assert {db.status(item.id) for item in middle} == {"CANCELED"}
    assert {db.status(item.id) for item in leaves} == {"CANCELING"}


def test_a_postponed_end_does_not_count_for_a_batch_that_is_made_after_it(
    db: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = db.worker(slots=50)
    shared = begun(db, worker, key=key())
    first = begun(db, worker)
    worker.report(first, "", child(1, new(key=key(scope=m.SCOPE_GLOBAL))))
    with monkeypatch.context() as patch:
        patch.setattr("holdfast_scheduler.propagation.FAN_OUT_LIMIT", 0)
        worker.complete(shared)
    assert db.count("pending_events") == 1
    parent = begun(db, worker)
    item = new()
    worker.report(parent, "", batch(1, [new(key=key(scope=m.SCOPE_GLOBAL)), item]))
    worker.park(parent)
    db.tick()
    assert db.status(parent) == "WAITING"
    worker.complete(item.id)
    assert db.status(parent) == "EXECUTING"


# --- metadata ---


def test_metadata_is_committed_with_a_checkpoint_and_forgotten_with_its_fence(db: Driver) -> None:
    def bump(number: int, *, provisional: bool) -> list[m.MetadataOp]:
        return [m.MetadataOp(1, 3, "n", b"1", "", number, provisional)]

    worker = db.worker()
    run_id = begun(db, worker)
    worker.report(run_id, "", step(1), metadata=bump(1, provisional=False))
    worker.report(run_id, "", metadata=bump(2, provisional=True))
    assert db.metadata(run_id) == (b'{"n":1}', b'{"n":2}')
    worker.report(run_id, rules.LOSE, error=error("CRASHED"))
    order = worker.bodies[run_id].order
    assert (order.metadata, order.marks) == (b'{"n":1}', b'{"":1}')
    worker.report(run_id, "", metadata=bump(2, provisional=True))
    assert db.metadata(run_id) == (b'{"n":1}', b'{"n":2}')
    worker.report(run_id, "", step(2), metadata=bump(2, provisional=False))
    assert db.metadata(run_id) == (b'{"n":2}', b'{"n":2}')


def test_metadata_of_the_parent_and_the_root(db: Driver) -> None:
    worker = db.worker(slots=5)
    root = begun(db, worker)
    middle, leaf = new(), new()
    worker.report(root, "", child(1, middle))
    worker.report(middle.id, "", child(1, leaf))
    ops = [m.MetadataOp(target, 1, f"k{target}", b"1", "", target, False) for target in (1, 2, 3)]
    worker.report(leaf.id, "", metadata=ops)
    assert [db.metadata(one)[1] for one in (leaf.id, middle.id, root)] == [b'{"k1":1}', b'{"k2":1}', b'{"k3":1}']


# --- tags ---


def test_a_report_that_adds_too_many_tags_is_refused_whole(db: Driver) -> None:
    worker = db.worker()
    run_id = begun(db, worker, tags=["own"])
    assert not worker.report(run_id, "", add_tags=["a", "own", "b"])
    first = worker.report_of(run_id, "", add_tags=[f"tag-{n}" for n in range(4)])
    assert not worker.send(first, worker.report_of(run_id, "", add_tags=["tag-4", "tag-5", "tag-6"]))
    refused = worker.report(run_id, "", step(1), add_tags=[f"tag-{n}" for n in (1, 7)])
    assert [(one.reason, one.message) for one in refused] == [
        (m.REFUSED_INVALID, "the run would have 11 tags; the limit tags is 10")
    ]
    assert not db.checkpoints(run_id)
    with db.transaction() as tx:
        tags = [row[0] for row in tx.fetch("SELECT tag FROM run_tags ORDER BY tag")]
        assert tags == sorted(store.load_tags(tx, "default", [run_id])[run_id])
    assert tags == ["a", "b", "own", *(f"tag-{n}" for n in range(7))]
