"""Two replicas on one PostgreSQL, each in a thread of its own: races have one winner and nothing is lost."""

from __future__ import annotations

import threading
import time
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from harness.races import race, repeated
from harness.store_driver import Driver, batch, broken_invariants, child, key, new, token_wait, wait
from holdfast_scheduler import ids, store
from holdfast_scheduler import model as m
from holdfast_scheduler import run_machine as rules
from holdfast_scheduler.database import ConflictError
from holdfast_scheduler.postgres import PostgresDatabase


@pytest.fixture
def two(migrated_postgres_url: str, replica: Any) -> tuple[Driver, Driver]:
    """Two replicas of one database."""
    return replica(migrated_postgres_url, clock=None), replica(migrated_postgres_url, clock=None)


def test_promise_6_the_same_key_from_both_replicas_makes_one_run(two: tuple[Driver, Driver]) -> None:
    for db in two:
        db.worker(slots=0)

    def once() -> None:
        name = ids.new_id().hex()
        handles: list[Any] = []
        asks = [lambda db=db: handles.extend(db.trigger(key=key(name)) for _ in range(2)) for db in two]
        race(*asks)
        assert len({handle.run_id for handle in handles}) == 1
        assert sorted(handle.is_cached for handle in handles) == [False, True, True, True]

    times = repeated(once)
    assert two[0].count("runs") == times


def test_the_same_ids_from_both_replicas_make_one_run(two: tuple[Driver, Driver]) -> None:
    for db in two:
        db.worker(slots=0)

    def once() -> None:
        run_ids = [ids.new_id() for _ in range(5)]
        outcomes: list[Any] = []

        def ask(db: Driver, order: list[bytes]) -> None:
            (made,) = db.do(m.TriggerRuns(db.namespace, [new(id=one) for one in order]))
            outcomes.append({handle.run_id for handle in made})

        race(lambda: ask(two[0], run_ids), lambda: ask(two[1], run_ids[::-1]))
        assert outcomes == [set(run_ids)] * 2

    repeated(once, 2)


def test_promise_2_no_run_is_claimed_twice(two: tuple[Driver, Driver]) -> None:
    workers = [db.worker(slots=0) for db in two]

    def once() -> None:
        runs = {db.trigger().run_id for db in two for _ in range(6)}
        for worker in workers:
            worker.slots = 4

        def look(db: Driver) -> None:
            db.loop.expect_backlog(db.namespace)
            db.do(m.Look(db.namespace))

        claimed: set[bytes] = set()
        while claimed != runs:
            race(*(lambda db=db: look(db) for db in two))
            assert not set(workers[0].bodies) & set(workers[1].bodies)
            for worker in workers:
                claimed |= set(worker.bodies)
                for run_id, body in list(worker.bodies.items()):
                    assert body.fence == 1
                    worker.complete(run_id)
        for worker in workers:
            worker.slots = 0

    repeated(once)


def test_promise_7_a_childs_end_on_another_replica_always_wakes_its_parent(two: tuple[Driver, Driver]) -> None:
    """The parent parks, joins by key or times out on one replica while the child ends on the other."""
    home = two[0].worker("parent", slots=5_000, places=5_000)  # those answered in time execute on, two a round
    away = two[1].worker("t", slots=50)
    open_parents: list[bytes] = []

    def once() -> None:
        shared = two[1].trigger(key=key(ids.new_id().hex())).run_id
        parents = [two[0].trigger(task="parent").run_id for _ in range(2)]
        child_item = new()
        home.report(parents[0], "", child(1, child_item))
        two[1].loop.expect_backlog(two[1].namespace)
        two[1].look()
        assert child_item.id in away.bodies
        joined = m.Record(1, "j", m.BATCH, "b", items=[new(), child_item_again()], subject=ids.new_id())

        def park() -> None:
            home.send(
                home.report_of(parents[0], rules.PARK),
                home.report_of(parents[1], rules.PARK, joined),
            )

        def end() -> None:
            away.send(*(away.report_of(one, rules.COMPLETE, output=b"x") for one in (shared, child_item.id)))

        race(park, end)
        two[1].loop.expect_backlog(two[1].namespace)
        two[1].look()
        for item in joined.items:
            if item.id in away.bodies:
                away.complete(item.id)
        open_parents.extend(parents)

    def child_item_again() -> Any:
        return new(key=key("global", scope=m.SCOPE_GLOBAL, ttl=0.000001))

    repeated(once)
    for parent in open_parents:
        assert two[0].run(parent).pending == 0, parent.hex()
        assert two[0].status(parent) in ("EXECUTING", "QUEUED")


def test_promise_7_a_park_that_crosses_another_replicas_answer_is_told_of_it_before_its_acknowledgement(
    two: tuple[Driver, Driver],
) -> None:
    """Else its worker would believe the body parked, and nobody would ever go on with it."""
    home, away = two[0].worker("parent"), two[1].worker("t")
    parent, item = two[0].trigger(task="parent").run_id, new()
    home.report(parent, "", child(1, item))
    two[1].loop.expect_backlog(two[1].namespace)
    two[1].look()
    away.complete(item.id, b"result")
    assert home.park(parent) == []
    assert [(one.seq, one.value) for _, _, one in home.last().updates] == [(1, b"result")]
    assert two[0].status(parent) == "EXECUTING"
    home.complete(parent)


def test_a_body_whose_run_another_replica_ends_is_dropped(two: tuple[Driver, Driver]) -> None:
    home = two[0].worker("parent", slots=50)
    two[1].worker("parent", slots=0)
    canceled, executing, untouched, timed_out = (two[0].trigger(task="parent").run_id for _ in range(4))
    for run_id in (canceled, untouched):
        home.park(run_id, wait(1, 3_600))
    home.park(timed_out, wait(1, 3_600))
    for run_id in (canceled, executing):
        two[1].cancel(run_id)
    with two[1].transaction() as tx:
        tx.execute("UPDATE runs SET deadline_at = 1, due_at = 1 WHERE id = ?", (timed_out,))
        tx.commit()
    two[1].tick(expire=False)
    told = dict.fromkeys((canceled, executing, untouched, timed_out), 0)
    catch_up = m.CatchUp(two[0].namespace, home.session, home.connection_no, told)
    assert two[0].one(catch_up) is True
    assert {run_id for run_id, _, _ in home.last().drops} == {canceled, timed_out}
    assert home.last().cancels == [(executing, 1)]
    assert set(home.bodies) == {executing, untouched}


def test_a_connection_that_was_superseded_on_another_replica_learns_of_it(two: tuple[Driver, Driver]) -> None:
    home = two[0].worker("parent")
    two[1].one(m.ResumeSession(two[1].namespace, home.session, home.secret, []))
    assert two[0].one(m.CatchUp(two[0].namespace, home.session, 1, {})) is False
    assert two[0].one(m.CatchUp(two[0].namespace, home.session, 2, {})) is True


def test_promise_3_a_timeout_and_an_answer_settle_a_call_once(two: tuple[Driver, Driver]) -> None:
    home, away = two[0].worker("parent", slots=500), two[1].worker("t", slots=50)

    def once() -> None:
        parent = two[0].trigger(task="parent").run_id
        item, token_id = new(), ids.new_id()
        two[0].one(m.CreateToken(two[0].namespace, token_id, None, [], None))
        home.park(parent, child(1, item, timeout_us=1), token_wait(2, token_id, timeout_us=1))
        two[1].loop.expect_backlog(two[1].namespace)
        two[1].look()
        race(
            lambda: two[0].do(m.RunsDue(two[0].namespace, [parent])),
            lambda: two[1].do(
                away.frame(away.report_of(item.id, rules.COMPLETE, output=b"x")),
                m.SettleToken(two[1].namespace, token_id, b"x", b""),
            ),
        )
        del away.bodies[item.id]
        run = two[0].run(parent)
        assert (run.pending, run.settled) == (0, 2)
        home.bodies.pop(parent)
        two[0].cancel(parent)

    repeated(once)
    assert broken_invariants(two[0].dump()) == []


def test_joins_by_key_race_with_the_end(two: tuple[Driver, Driver]) -> None:
    home, away = two[0].worker("parent", slots=50), two[1].worker("t", slots=50)

    def once() -> None:
        name = ids.new_id().hex()
        shared = two[1].trigger(key=key(name)).run_id
        parents = [two[0].trigger(task="parent").run_id for _ in range(2)]
        one = child(1, new(key=key(name, scope=m.SCOPE_GLOBAL)))
        many = batch(1, [new(key=key(name, scope=m.SCOPE_GLOBAL)), new(task="nobody")])
        race(
            lambda: home.send(
                home.report_of(parents[0], rules.PARK, one), home.report_of(parents[1], rules.PARK, many)
            ),
            lambda: away.complete(shared),
        )
        for parent in parents:
            run = two[0].run(parent)
            assert (run.pending, run.status == m.WAITING) == (0, False)
            two[0].cancel(parent)
            home.bodies.pop(parent, None)

    repeated(once)
    two[0].workers.clear()


def test_postponed_events_are_taken_up_once(two: tuple[Driver, Driver], monkeypatch: pytest.MonkeyPatch) -> None:
    worker = two[0].worker(slots=100)
    parent = two[0].trigger().run_id
    items = [new() for _ in range(10)]
    worker.park(parent, batch(1, items))
    last = items.pop()
    with monkeypatch.context() as patch:
        patch.setattr("holdfast_scheduler.propagation.FAN_OUT_LIMIT", 0)
        for item in items:
            worker.complete(item.id)
    assert two[0].count("pending_events") == 9
    race(*(lambda db=db: db.tick(expire=False) for db in two))
    assert two[0].count("pending_events") == 0
    with two[0].transaction() as tx:
        assert tx.fetch("SELECT remaining FROM batches")[0][0] == 1
    worker.complete(last.id)
    assert two[0].status(parent) == "EXECUTING"


def test_a_session_that_renews_while_another_replica_expires_it_keeps_its_runs(two: tuple[Driver, Driver]) -> None:
    worker = two[0].worker()
    run_id = two[0].trigger().run_id
    for _ in range(2):
        two[1].do(m.Look(two[1].namespace))  # it has committed without a gap, so it may judge leases
    assert two[1].one(m.EndSession(two[1].namespace, worker.session, True, "silent")) is False
    assert two[0].status(run_id) == "EXECUTING"


def test_a_replica_that_stands_still_in_a_commit_does_not_silence_another(two: tuple[Driver, Driver]) -> None:
    """On the event loop's thread a commit does not wait for another's locks: the loop hands it to a thread."""
    worker = two[0].worker()
    run_id = two[0].trigger().run_id
    report = m.ApplyReports(two[0].namespace, worker.session, 1, [worker.report_of(run_id, rules.COMPLETE)])
    with two[1].transaction() as tx:
        store.load_runs(tx, two[1].namespace, [run_id])
        began = time.monotonic()
        with pytest.raises(ConflictError):
            two[0].loop._commit([report], {}, is_hurried=True)
        assert time.monotonic() - began < 5
        done: list[Any] = []
        patient = threading.Thread(target=lambda: done.append(two[0].loop._commit([report], {})))
        patient.start()
        patient.join(1)
        assert patient.is_alive()
    patient.join()
    assert two[0].status(run_id) == "COMPLETED"


def test_an_event_that_another_replica_is_taking_up_is_not_taken_again(two: tuple[Driver, Driver]) -> None:
    with two[0].transaction() as tx:
        store.insert_pending_events(tx, [(two[0].namespace, ids.new_id(), 1, ids.new_id()) for _ in range(3)])
        tx.commit()
    first = two[0].database.begin()
    assert len(store.take_pending_events(first, 10)) == 3
    second: list[Any] = []

    def take() -> None:
        with two[1].transaction() as tx:
            second.append(store.take_pending_events(tx, 10))

    thread = threading.Thread(target=take)
    thread.start()
    with two[0].database.reader() as reader:  # until the second one waits for the first one's rows
        query = sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted")
        deadline = time.monotonic() + 30
        while not reader.execute(query).scalar_one() and time.monotonic() < deadline:
            reader.rollback()
            time.sleep(0.01)
    first.commit()
    thread.join()
    assert second == [[]]


@pytest.mark.parametrize("name", ["DeadlockDetected", "SerializationFailure", "LockNotAvailable", "UniqueViolation"])
def test_what_another_replica_causes_is_tried_again(two: tuple[Driver, Driver], name: str) -> None:
    database = two[0].database
    assert isinstance(database, PostgresDatabase)
    with pytest.raises(ConflictError), database.errors:
        raise getattr(psycopg.errors, name)("in the way")


def test_promise_7_a_worker_that_moves_is_given_nothing_that_it_will_not_hear_of(two: tuple[Driver, Driver]) -> None:
    """One replica commits with the credit of a worker that has just connected to the other one."""
    left, joined = two

    def once() -> None:
        worker = left.worker(slots=1)
        credit = worker.offer()
        assert credit is not None
        joined.worker(slots=0)  # knows the task; the one that moves says nothing of credit yet
        made = new()

        def move() -> None:
            joined.one(m.ResumeSession(joined.namespace, worker.session, worker.secret, []))
            joined.do(m.ReconcileHeld(joined.namespace, worker.session, {}))

        race(lambda: left.do(m.TriggerRuns(left.namespace, [made]), offers=[credit]), move)
        assert left.status(made.id) == "QUEUED"
        left.workers.clear()
        left.do(m.EndSession(left.namespace, worker.session, False, "", None))
        left.cancel(made.id)

    repeated(once)
