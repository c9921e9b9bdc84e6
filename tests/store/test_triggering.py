"""Triggering on both databases: keys, ids, batches, delays."""

from __future__ import annotations

import pytest
from google.protobuf.duration_pb2 import Duration

from harness.store_driver import DAY, SECOND, Driver, batch, child, error, key, new
from holdfast.v1.run_pb2 import TriggerOptions
from holdfast_scheduler import ids
from holdfast_scheduler import model as m
from holdfast_scheduler import run_machine as rules
from holdfast_scheduler.database import LostError, Transaction
from holdfast_scheduler.model import Handle, ItemFault


@pytest.fixture
def task(db: Driver) -> Driver:
    """A replica that knows the task "t" and the task "u"; their worker takes nothing."""
    db.worker("t", "u", slots=0)
    return db


def test_promise_1_what_was_acknowledged_survives_a_crash(db: Driver) -> None:
    worker = db.worker(slots=1)
    first, second = db.trigger(), db.trigger()
    worker.report(first.run_id, "", m.Record(1, "s", m.STEP, "s", value=b"kept"))
    db.crash()
    assert db.status(first.run_id) == "EXECUTING"
    assert db.status(second.run_id) == "QUEUED"
    assert [one.value for one in db.checkpoints(first.run_id)] == [b"kept"]
    worker.complete(first.run_id)
    assert db.result(first.run_id) == (b"output", None)
    assert db.status(second.run_id) == "EXECUTING"  # the crash did not make the scheduler forget the queue


def test_promise_1_nothing_reaches_a_worker_that_is_not_committed(db: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = db.worker()
    before = len(worker.deliveries)

    def cut(_tx: Transaction) -> None:
        raise LostError("the connection broke")

    with monkeypatch.context() as patch:
        with db.transaction() as tx:
            patch.setattr(type(tx), "commit", cut)
        with pytest.raises(LostError) as caught:
            db.trigger()
        with db.transaction():
            pass
    assert caught.value.in_doubt
    assert len(worker.deliveries) == before
    assert db.count("runs") == 0
    assert db.status(db.trigger().run_id) == "EXECUTING"


def test_a_run_starts_in_the_commit_that_triggers_it(db: Driver) -> None:
    worker = db.worker()
    handle = db.trigger(tags=["blue"], metadata=b'{"a":1}')
    run = db.run(handle.run_id)
    assert (run.status, run.fence, run.attempt, run.session) == (m.EXECUTING, 1, 1, worker.session)
    (order,) = worker.last().starts
    assert order.inputs is not None
    assert (order.inputs.tags, order.metadata, order.is_reentry) == (["blue"], b'{"a":1}', False)


def test_an_unknown_task_is_named_with_its_neighbours(task: Driver) -> None:
    outcome = task.trigger(task="tt")
    assert isinstance(outcome, ItemFault)
    assert outcome.reason == "TASK_NOT_FOUND"
    assert "tt" in outcome.message


# --- ids ---


def test_the_same_id_again_gives_the_same_answer(task: Driver) -> None:
    run_id = ids.new_id()
    first = task.trigger(id=run_id)
    again = task.trigger(id=run_id)
    assert (first.run_id, again.run_id, again.is_cached) == (run_id, run_id, False)
    assert task.count("runs") == 1


def test_the_same_id_twice_in_one_commit(task: Driver) -> None:
    run_id = ids.new_id()
    ask = m.TriggerRuns(task.namespace, [new(id=run_id), new(id=run_id)])
    other = m.TriggerRuns(task.namespace, [new(id=run_id)])
    (both, (third,)) = task.do(ask, other)
    assert [one.run_id for one in (*both, third)] == [run_id] * 3
    assert task.count("runs") == 1


def test_the_same_id_with_a_key_is_the_same_answer_not_a_cached_one(task: Driver) -> None:
    item = new(id=ids.new_id(), key=key())
    first = task.trigger(item)
    again = task.trigger(new(id=item.id, key=key()))
    assert (first.is_cached, again.is_cached) == (False, False)
    assert again.run_id == item.id


@pytest.mark.parametrize(("task_id", "payload"), [("t", b'{"x":1}'), ("u", b"{}")])
def test_the_same_id_for_something_else_is_refused(task: Driver, task_id: str, payload: bytes) -> None:
    run_id = ids.new_id()
    task.trigger(id=run_id)
    outcome = task.trigger(task=task_id, payload=payload, id=run_id)
    assert isinstance(outcome, ItemFault)
    assert outcome.reason == "ID_REUSED"
    assert task.count("runs") == 1


def test_an_id_is_known_after_its_run_has_ended(db: Driver) -> None:
    worker = db.worker()
    handle = db.trigger()
    worker.complete(handle.run_id)
    assert db.trigger(id=handle.run_id).run_id == handle.run_id
    assert db.status(handle.run_id) == "COMPLETED"


# --- keys ---


def test_promise_6_a_key_returns_the_same_run(task: Driver) -> None:
    first = task.trigger(key=key())
    again = task.trigger(key=key())
    assert not first.is_cached
    assert (again.run_id, again.is_cached, again.payload_differs) == (first.run_id, True, False)
    assert task.count("runs") == 1


def test_promise_6_within_its_time_to_live_only(task: Driver) -> None:
    assert task.clock is not None
    first = task.trigger(key=key(ttl=60))
    task.clock.turn(59.999999)
    assert task.trigger(key=key(ttl=60)).run_id == first.run_id
    task.clock.turn(0.000001)
    second = task.trigger(key=key(ttl=60))
    assert second.run_id != first.run_id
    assert not second.is_cached
    task.clock.turn(59)  # the time to live began anew with the new run, and a hit did not prolong it
    assert task.trigger(key=key(ttl=60)).run_id == second.run_id


def test_a_key_with_another_payload_returns_the_run_and_says_so(task: Driver) -> None:
    first = task.trigger(key=key())
    again = task.trigger(payload=b'{"x":1}', key=key())
    assert (again.run_id, again.is_cached, again.payload_differs) == (first.run_id, True, True)


def test_a_key_belongs_to_its_task(task: Driver) -> None:
    assert task.trigger(key=key()).run_id != task.trigger(task="u", key=key()).run_id


def test_duplicates_of_a_key_inside_one_commit_make_one_run(task: Driver) -> None:
    one = m.TriggerRuns(task.namespace, [new(key=key()), new(key=key()), new(payload=b"1", key=key())])
    two = m.TriggerRuns(task.namespace, [new(key=key())])
    (first, second, third), (fourth,) = task.do(one, two)
    assert {h.run_id for h in (first, second, third, fourth)} == {first.run_id}
    assert [h.is_cached for h in (first, second, third, fourth)] == [False, True, True, True]
    assert third.payload_differs
    assert task.count("runs") == 1


@pytest.mark.parametrize("status", ["FAILED", "CRASHED", "TIMED_OUT", "EXPIRED"])
def test_a_run_that_ended_badly_frees_its_key(db: Driver, status: str) -> None:
    worker = db.worker(slots=0 if status == "EXPIRED" else 1, max_recoveries=0 if status != "CRASHED" else 1)
    handle = db.trigger(key=key(), ttl_us=SECOND if status == "EXPIRED" else None)
    if status == "FAILED":
        worker.fail(handle.run_id)
    elif status == "TIMED_OUT":
        worker.fail(handle.run_id, timed_out=True, kind="TIMED_OUT")
    elif status == "EXPIRED":
        db.turn(1)
    else:
        for _ in range(2):
            worker.report(handle.run_id, rules.LOSE, error=error("CRASHED"))
    assert db.status(handle.run_id) == status
    again = db.trigger(key=key())
    assert again.run_id != handle.run_id
    assert not again.is_cached
    assert db.trigger(key=key()).run_id == again.run_id


@pytest.mark.parametrize("status", ["COMPLETED", "CANCELED"])
def test_a_run_that_completed_or_was_canceled_holds_its_key(db: Driver, status: str) -> None:
    worker = db.worker()
    handle = db.trigger(key=key())
    if status == "COMPLETED":
        worker.complete(handle.run_id)
    else:
        db.cancel(handle.run_id)
        worker.report(handle.run_id, rules.END_CANCELED)
    assert db.status(handle.run_id) == status
    assert db.trigger(key=key()).run_id == handle.run_id


def test_a_key_is_free_in_the_commit_in_which_its_run_fails(db: Driver) -> None:
    worker = db.worker()
    handle = db.trigger(key=key())
    failed = worker.report_of(handle.run_id, rules.FAIL, error=error())
    del worker.bodies[handle.run_id]
    _, (again, third) = db.do(worker.frame(failed), m.TriggerRuns(db.namespace, [new(key=key()), new(key=key())]))
    assert again.run_id != handle.run_id
    assert third.run_id == again.run_id
    assert db.trigger(key=key()).run_id == again.run_id


def test_scopes_of_keys_inside_runs(db: Driver) -> None:
    worker = db.worker(slots=10)
    one, two = db.trigger().run_id, db.trigger().run_id
    made = {}
    for run_id in (one, two):
        for scope in (m.SCOPE_RUN, m.SCOPE_GLOBAL, m.SCOPE_ATTEMPT):
            body = worker.bodies[run_id]
            worker.report(run_id, "", child(body.last_seq + 1, new(key=key(scope=scope)), wait=False))
            made[run_id, scope] = db.checkpoints(run_id)[-1].subject
    assert made[one, m.SCOPE_GLOBAL] == made[two, m.SCOPE_GLOBAL]
    assert len(set(made.values())) == 5
    # A new attempt asks again with the scope attempt, and only with it.
    worker.fail(one, retryable=True)
    db.turn(2)
    assert worker.bodies[one].order.run.attempt == 2
    for scope in (m.SCOPE_RUN, m.SCOPE_ATTEMPT):
        worker.report(one, "", child(worker.bodies[one].last_seq + 1, new(key=key(scope=scope)), wait=False))
    _, _, _, again, fresh = db.checkpoints(one)
    assert (again.subject, again.is_cached) == (made[one, m.SCOPE_RUN], True)
    assert (fresh.subject in made.values(), fresh.is_cached) == (False, False)


def test_outside_a_run_only_the_global_scope_means_something(task: Driver) -> None:
    outcome = task.trigger(key=key(scope=m.SCOPE_RUN))
    assert isinstance(outcome, ItemFault)
    assert outcome.reason == "INVALID_KEY"


def test_a_key_is_reset(task: Driver) -> None:
    first = task.trigger(key=key())
    assert task.one(m.ResetKey(task.namespace, "t", key(), b"", 0)) is True
    assert task.one(m.ResetKey(task.namespace, "t", key(), b"", 0)) is False
    assert task.trigger(key=key()).run_id != first.run_id


# --- batches ---


def test_a_batch_keeps_the_order_of_its_items_and_the_places_of_those_that_fail(task: Driver) -> None:
    before = task.trigger(key=key())
    items = [new(), new(task="nobody"), new(key=key()), new(key=key("x")), new(key=key("x")), new()]
    outcome = task.one(m.TriggerBatch(task.namespace, ids.new_id(), items, None, True))
    made = outcome.outcomes
    assert [type(one) for one in made] == [Handle, ItemFault, Handle, Handle, Handle, Handle]
    assert made[2].run_id == before.run_id
    assert made[3].run_id == made[4].run_id == items[3].id
    assert [one.is_cached for one in made if isinstance(one, Handle)] == [False, True, False, True, False]
    assert task.count("batch_items") == 6


def test_the_same_batch_id_gives_the_same_answer_and_another_is_refused(task: Driver) -> None:
    batch_id = ids.new_id()
    run_ids = [ids.new_id(), ids.new_id()]
    items = [new(id=one) for one in run_ids]
    first = task.one(m.TriggerBatch(task.namespace, batch_id, items, None, True))
    again = task.one(m.TriggerBatch(task.namespace, batch_id, [new(id=one) for one in run_ids], None, True))
    assert not again.is_cached
    assert [one.run_id for one in again.outcomes] == [one.run_id for one in first.outcomes] == run_ids
    other = task.one(m.TriggerBatch(task.namespace, batch_id, [new(payload=b"1")], None, True))
    assert isinstance(other, ItemFault)
    assert other.reason == "ID_REUSED"
    assert task.count("runs") == 2


def test_the_key_of_a_batch(task: Driver) -> None:
    first = task.one(m.TriggerBatch(task.namespace, ids.new_id(), [new(), new()], key(), True))
    again = task.one(m.TriggerBatch(task.namespace, ids.new_id(), [new(), new()], key(), True))
    assert (again.batch_id, again.is_cached) == (first.batch_id, True)
    assert [one.run_id for one in again.outcomes] == [one.run_id for one in first.outcomes]
    assert task.clock is not None
    task.clock.turn(31 * DAY / SECOND)
    third = task.one(m.TriggerBatch(task.namespace, ids.new_id(), [new()], key(), True))
    assert third.batch_id != first.batch_id


def test_the_key_of_a_batch_twice_in_one_commit(task: Driver) -> None:
    ask = [m.TriggerBatch(task.namespace, ids.new_id(), [new()], key(), True) for _ in range(2)]
    first, second = task.do(*ask)
    assert second.batch_id == first.batch_id
    assert second.is_cached
    assert task.count("runs") == 1


def test_the_key_of_a_batch_with_other_items_returns_the_batch_and_says_so(task: Driver) -> None:
    first = task.one(m.TriggerBatch(task.namespace, ids.new_id(), [new(payload=b"1"), new(payload=b"2")], key(), True))
    assert not first.payload_differs
    same = task.one(m.TriggerBatch(task.namespace, ids.new_id(), [new(payload=b"1"), new(payload=b"2")], key(), True))
    other = task.one(m.TriggerBatch(task.namespace, ids.new_id(), [new(payload=b"3")], key(), True))
    assert (same.is_cached, same.payload_differs) == (True, False)
    assert (other.batch_id, other.is_cached, other.payload_differs) == (first.batch_id, True, True)
    assert [one.run_id for one in other.outcomes] == [one.run_id for one in first.outcomes]
    assert all(one.is_cached for one in other.outcomes)


def test_a_repeated_batch_is_answered_as_the_first_time(task: Driver) -> None:
    task.trigger(payload=b"1", key=key())
    batch_id, made = ids.new_id(), new()

    def items() -> list[m.NewRun]:
        made.error = None
        return [made, new("unknown"), new(payload=b"2", key=key())]

    first, again = (task.one(m.TriggerBatch(task.namespace, batch_id, items(), None, True)) for _ in range(2))
    assert not again.is_cached
    for before, now in zip(first.outcomes, again.outcomes, strict=True):
        if isinstance(before, m.ItemFault):
            assert (now.reason, now.message) == (before.reason, before.message) == ("TASK_NOT_FOUND", before.message)
        else:
            found = (now.run_id, now.is_cached, now.payload_differs)
            assert found == (before.run_id, before.is_cached, before.payload_differs)
    assert [one.payload_differs for one in (first.outcomes[0], first.outcomes[2])] == [False, True]


# --- order ---


def test_the_oldest_starts_first_and_priority_is_seconds(db: Driver) -> None:
    assert db.clock is not None
    worker = db.worker(slots=1)
    running = db.trigger().run_id
    order = []
    for priority in (0, 0, 5 * SECOND, 0):
        order.append(db.trigger(priority_us=priority).run_id)
        db.clock.turn(1)
    expected = [order[2], order[0], order[1], order[3]]
    for run_id in expected:
        worker.complete(running)
        (running,) = worker.bodies
        assert running == run_id


def test_credit_is_never_exceeded(db: Driver) -> None:
    worker = db.worker(slots=3)
    handles = [db.trigger().run_id for _ in range(5)]
    assert set(worker.bodies) == set(handles[:3])
    assert [db.status(one) for one in handles[3:]] == ["QUEUED", "QUEUED"]
    worker.send(*(worker.report_of(one, rules.COMPLETE, output=b"") for one in handles[:3]))
    assert set(worker.bodies) == set(handles[3:])


def test_places_bound_the_bodies_that_a_worker_holds(db: Driver) -> None:
    worker = db.worker(slots=5, places=1)
    first, second = db.trigger().run_id, db.trigger().run_id
    assert set(worker.bodies) == {first}
    worker.complete(first)
    assert set(worker.bodies) == {second}


def test_one_tasks_backlog_blocks_nobody_else(db: Driver) -> None:
    """The oldest runs are all of one task, whose worker is full then; a younger one of another task starts at once."""
    busy = db.worker("t", slots=0)
    other = db.worker("u", slots=0)
    backlog = [db.trigger().run_id for _ in range(3)]
    young = db.trigger(task="u").run_id
    busy.slots = other.slots = 1
    db.do(m.Look(db.namespace))
    assert set(busy.bodies) == {backlog[0]}
    assert set(other.bodies) == {young}


def test_a_run_whose_worker_was_full_starts_when_it_has_room_again(db: Driver) -> None:
    """Another worker has room all the time, so the commit loop must not take the queues for empty."""
    full = db.worker("t", slots=1)
    db.worker("u", slots=5)
    first = db.trigger().run_id
    second = db.trigger().run_id
    db.trigger(task="u")
    db.do(m.Look(db.namespace))
    assert db.status(second) == "QUEUED"
    full.complete(first)
    db.look()
    assert db.status(second) == "EXECUTING"


def test_a_worker_that_connects_during_a_commit_finds_what_waits(db: Driver) -> None:
    handle = db.trigger(task="u") if db.worker("u", slots=0) else None
    assert handle is not None
    worker = db.worker("t")
    db.look()
    done = db.loop._commit([m.Look(db.namespace)], {db.namespace: [worker.offer()]})  # type: ignore[list-item]
    db.loop.expect_backlog(db.namespace)  # while the commit is in flight
    db.loop._note(done)
    assert db.loop.has_backlog(db.namespace)


def test_delay_and_reschedule(db: Driver) -> None:
    worker = db.worker()
    handle = db.trigger(delay_us=10 * SECOND)
    run_id = handle.run_id
    assert db.status(run_id) == "DELAYED"
    db.turn(9.999999)
    assert db.status(run_id) == "DELAYED"
    assert db.one(m.RescheduleRun(db.namespace, run_id, 5 * SECOND, None)) is None
    db.turn(0.000001)
    assert db.status(run_id) == "DELAYED"
    db.turn(5)
    assert db.status(run_id) == "EXECUTING"
    outcome = db.one(m.RescheduleRun(db.namespace, run_id, 5 * SECOND, None))
    assert isinstance(outcome, ItemFault)
    assert outcome.reason == "WRONG_STATUS"
    worker.complete(run_id)


def test_a_run_expires_when_nobody_started_it_in_time(db: Driver) -> None:
    db.worker(slots=0)
    run_id = db.trigger(ttl_us=3 * SECOND).run_id
    db.turn(2)
    assert db.status(run_id) == "QUEUED"
    db.turn(1)
    assert db.status(run_id) == "EXPIRED"
    _, failure = db.result(run_id)
    assert failure is not None
    assert failure.type == "Expired"


def test_the_time_to_live_of_a_delayed_run_begins_when_it_is_queued(db: Driver) -> None:
    db.worker(slots=0)
    options = TriggerOptions(ttl=Duration(seconds=3)).SerializeToString()
    run_id = db.trigger(delay_us=10 * SECOND, ttl_us=3 * SECOND, options=options).run_id
    db.turn(10)
    assert db.status(run_id) == "QUEUED"
    db.turn(3)
    assert db.status(run_id) == "EXPIRED"


# --- one commit, many callers ---


def test_a_refused_value_fails_alone(db: Driver) -> None:
    worker = db.worker(slots=20)
    running = db.trigger().run_id
    good = [m.TriggerRuns(db.namespace, [new()]) for _ in range(5)]
    bad = m.TriggerRuns(db.namespace, [new(), new(depth=1 << 70), new()])
    step = worker.report_of(running, "", m.Record(1, "s", m.STEP, "s", value=b"v"))
    outcomes = db.do(*good[:3], bad, *good[3:], worker.frame(step))
    assert all(isinstance(outcomes[at][0], Handle) for at in (0, 1, 2, 4, 5))
    first, culprit, last = outcomes[3]
    assert isinstance(first, Handle)
    assert isinstance(last, Handle)
    assert isinstance(culprit, ItemFault)
    assert db.count("runs") == 8
    assert worker.acknowledged == worker.frame_no
    for handle in (first, last, *(outcomes[at][0] for at in (0, 1, 2, 4, 5))):
        db.look()
        assert db.status(handle.run_id) == "EXECUTING"


def test_a_report_that_cannot_be_stored_is_refused_alone_and_answered(db: Driver) -> None:
    worker = db.worker(slots=5)
    runs = [db.trigger().run_id for _ in range(3)]
    reports = [worker.report_of(one, "", m.Record(1, "s", m.STEP, "s", value=b"v")) for one in runs]
    reports[1].metadata = [m.MetadataOp(1, 1, "k", b'"\\ud800"', "", 1, False)]
    refused = worker.send(*reports)
    assert [(one.run_id, one.reason) for one in refused] == [(runs[1], m.REFUSED_INVALID)]
    assert worker.acknowledged == worker.frame_no
    assert [len(db.checkpoints(one)) for one in runs] == [1, 0, 1]


def test_a_batch_of_children_that_uses_an_id_again_disturbs_nobody(db: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast_scheduler.commit_loop.CONFLICT_TRIES", 2)
    worker = db.worker(slots=5)
    one, two = db.trigger().run_id, db.trigger().run_id
    batch_id = ids.new_id()
    worker.report(one, "", batch(1, [new(task="t", delay_us=DAY)], subject=batch_id, wait=False))
    bad = worker.report_of(two, "", batch(1, [new(delay_us=DAY)], subject=batch_id, wait=False))
    good = worker.report_of(one, "", m.Record(2, "s", m.STEP, "s", value=b"v"))
    refused = worker.send(bad, good)
    assert [(r.run_id, r.reason) for r in refused] == [(two, m.REFUSED_INVALID)]
    assert len(db.checkpoints(one)) == 2
    assert worker.acknowledged == worker.frame_no
