"""Deleting what has ended: nothing that is needed goes, and everything else does, whole."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from harness.store_driver import (
    DAY,
    NAMESPACE,
    SECOND,
    Driver,
    Worker,
    batch,
    child,
    key,
    new,
    step,
    token,
    token_wait,
    wait,
)
from holdfast_scheduler import ids, retention, schema, store
from holdfast_scheduler import model as m
from holdfast_scheduler import run_machine as rules
from holdfast_scheduler.model import MetadataOp
from holdfast_scheduler.settings import Settings

WEEK_S = 7 * 86_400
KEY_DAYS = 10
RUN_TABLES = {
    "runs": "id",
    **dict.fromkeys(
        ("run_inputs", "run_results", "run_tags", "run_metadata", "run_logs", "attempts", "checkpoints", "batch_items"),
        "run_id",
    ),
}


@pytest.fixture
def db(migrated_url: str, replica: Any) -> Driver:
    """A replica that keeps what has ended for a week."""
    return replica(migrated_url, settings=Settings(database_url=migrated_url, retention=float(WEEK_S)))


def forget(db: Driver, *kinds: str) -> int:
    """One sweep. Returns how much was deleted."""
    deleted = 0
    for what in kinds or retention.KINDS:
        after: m.Place | None = retention.BEGIN
        while after is not None:
            done = db.one(m.Forget(NAMESPACE, what, after))
            deleted += done.deleted
            after = done.after
    return deleted


def days(db: Driver, count: float) -> None:
    db.turn(count * 86_400)


def exists(db: Driver, run_id: bytes) -> bool:
    with db.transaction() as tx:
        found = {
            table: bool(tx.fetch(f"SELECT 1 FROM {table} WHERE {column} = ?", (run_id,)))
            for table, column in RUN_TABLES.items()
        }
    assert found["runs"] or not any(found.values()), f"of a run that is gone these are left: {found}"
    return found["runs"]


def done(db: Driver, worker: Worker, **options: Any) -> bytes:
    """A run that has completed."""
    run_id: bytes = db.trigger(**options).run_id
    worker.complete(run_id)
    return run_id


# --- what goes --------------------------------------------------------------------------------------------------------


def test_a_run_goes_with_all_that_belongs_to_it_and_not_before_its_time(db: Driver) -> None:
    worker = db.worker(max_attempts=2)
    run_id = db.trigger(tags=["a", "b"], metadata=b'{"x": 1}').run_id
    worker.report(run_id, "", step(1), wait(2, 1), logs=[b"one", b"two"], add_tags=["c"])
    worker.fail(run_id, retryable=True)
    db.turn(60)
    worker.complete(run_id)
    days(db, 6.9)
    assert forget(db) == 0
    assert exists(db, run_id)
    days(db, 0.2)
    assert forget(db) == 1
    assert not exists(db, run_id)
    left = {table.name: db.count(table.name) for table in schema.metadata.sorted_tables}
    assert {name for name, count in left.items() if count} <= {"tasks", "versions", "sessions", "queue_changes"}


@pytest.mark.parametrize("how", ["FAILED", "CRASHED", "TIMED_OUT", "EXPIRED", "CANCELED"])
def test_runs_go_however_they_ended(db: Driver, how: str) -> None:
    worker = db.worker(slots=0 if how == "EXPIRED" else 1, max_recoveries=1)
    run_id = db.trigger(
        ttl_us=SECOND if how == "EXPIRED" else None, timeout_us=10 * SECOND if how == "TIMED_OUT" else None
    ).run_id
    if how == "FAILED":
        worker.fail(run_id)
    elif how == "CRASHED":
        worker.report(run_id, rules.LOSE)
        worker.report(run_id, rules.LOSE)
    elif how == "CANCELED":
        worker.park(run_id, wait(1, 100))
        db.cancel(run_id)
    else:
        db.turn(10)
    assert db.status(run_id) == how
    days(db, 8)
    forget(db)
    assert not exists(db, run_id)


def test_open_runs_never_go(db: Driver) -> None:
    worker = db.worker(slots=2)
    executing, waiting = db.trigger().run_id, db.trigger().run_id
    worker.park(waiting, wait(1, 100 * 86_400))
    delayed = db.trigger(delay_us=100 * DAY).run_id
    queued = db.trigger(task="t", version="other").run_id
    days(db, 99)
    assert forget(db) == 0
    assert all(exists(db, run_id) for run_id in (executing, waiting, delayed, queued))


def test_more_than_a_batch_of_them_goes(db: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "LOOKED_AT", 7)
    monkeypatch.setattr(retention, "ROWS_DELETED", 5)
    worker = db.worker()
    runs = []
    for number in range(30):
        run_id = db.trigger().run_id
        worker.report(run_id, "", *[step(seq) for seq in range(1, number % 9 + 1)], logs=[b"line"] * (number % 13))
        worker.complete(run_id)
        runs.append(run_id)
    days(db, 8)
    fresh = done(db, worker)
    forget(db)
    assert not any(exists(db, run_id) for run_id in runs)
    assert exists(db, fresh)
    assert db.count("run_logs") == db.count("checkpoints") == 0


def test_one_batch_deletes_a_bounded_number_of_rows(db: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "ROWS_DELETED", 10)
    worker = db.worker()
    for _ in range(6):
        run_id = db.trigger().run_id
        worker.report(run_id, "", *[step(seq) for seq in range(1, 6)], logs=[b"line"] * 30)
        worker.complete(run_id)
    days(db, 8)
    after: m.Place | None = retention.BEGIN
    while after is not None:
        before = db.count("checkpoints"), db.count("run_logs")
        after = db.one(m.Forget(NAMESPACE, "runs", after)).after
        assert before[0] - db.count("checkpoints") <= 10
        assert before[1] - db.count("run_logs") <= 10
    assert db.count("runs") == 0


def test_a_tree_goes_whole_whoever_ended_first(db: Driver) -> None:
    worker = db.worker(slots=100)
    root = db.trigger().run_id
    tree, at = [root], root
    for _ in range(4):
        worker.report(at, "", child(1, new(), wait=False))
        (below,) = db.children(at)
        worker.complete(at)  # the parent ends first
        db.turn(1)
        at = below.id
        tree.append(at)
    days(db, 8)
    forget(db)
    assert all(exists(db, run_id) for run_id in tree)  # the last one is open
    worker.complete(at)
    days(db, 8)
    assert forget(db, "runs") == len(tree)


# --- what a key needs -------------------------------------------------------------------------------------------------


def test_a_key_holds_its_run_until_it_expires(db: Driver) -> None:
    worker = db.worker()
    run_id = done(db, worker, key=key(ttl=KEY_DAYS * 86_400))
    days(db, KEY_DAYS - 0.1)
    forget(db)
    again = db.trigger(key=key(ttl=KEY_DAYS * 86_400))
    assert (again.run_id, again.is_cached) == (run_id, True)
    days(db, 0.2)
    forget(db)
    assert not exists(db, run_id)
    assert db.count("idempotency_keys") == 0
    fresh = db.trigger(key=key())
    assert not fresh.is_cached


def test_a_key_that_was_freed_and_taken_anew_does_not_hold_the_old_run(db: Driver) -> None:
    worker = db.worker()
    failed = db.trigger(key=key()).run_id
    worker.fail(failed)
    days(db, 1)
    second = done(db, worker, key=key())
    days(db, 8)
    forget(db)
    assert [exists(db, one) for one in (failed, second)] == [False, True]


def test_the_key_of_a_batch_holds_all_its_runs(db: Driver) -> None:
    worker = db.worker()
    command = m.TriggerBatch(NAMESPACE, ids.new_id(), [new(), new()], key(ttl=KEY_DAYS * 86_400), True)
    first = db.one(command)
    for handle in first.outcomes:
        worker.complete(handle.run_id)
    days(db, KEY_DAYS - 1)
    forget(db)
    again = db.one(replace(command, batch_id=ids.new_id(), items=[new(), new()]))
    assert (again.batch_id, again.is_cached) == (first.batch_id, True)
    assert [one.run_id for one in again.outcomes] == [one.run_id for one in first.outcomes]
    days(db, 2)
    forget(db)
    assert db.count("runs") == db.count("batches") == db.count("batch_items") == 0


# --- what a run that is open needs ------------------------------------------------------------------------------------


def test_a_parent_that_goes_on_after_weeks_finds_its_childrens_results(db: Driver) -> None:
    worker = db.worker(slots=100)
    parent = db.trigger().run_id
    worker.report(parent, "", child(1, new()), child(2, new(), wait=False), batch(3, [new(), new()]))
    children = [one.id for one in db.children(parent)]
    for one in children:
        worker.complete(one, b"output of " + one)
    worker.park(parent, wait(4, 30 * 86_400))
    before = db.checkpoints(parent)
    days(db, 20)
    assert forget(db) == 0
    worker.places = 0
    db.end_session(worker, lost=False)
    days(db, 11)
    other = db.worker(slots=100)
    order = other.bodies[parent].order
    assert [(one.seq, one.status, one.value) for one in order.checkpoints][:3] == [
        (one.seq, one.status, one.value) for one in before
    ][:3]
    (entries,) = [one.entries for one in order.checkpoints if one.kind == m.BATCH]
    assert entries is not None
    assert all(one.output == b"output of " + (one.run_id or b"") for one in entries)
    other.complete(parent)
    days(db, 8)
    forget(db)
    assert db.count("runs") == db.count("batches") == 0


def test_a_run_that_somebody_joined_by_its_key_stays_while_that_is_open(db: Driver) -> None:
    worker = db.worker(slots=100)
    shared = done(db, worker, key=key(scope=m.SCOPE_GLOBAL, ttl=86_400))
    joiner = db.trigger().run_id
    worker.report(joiner, "", child(1, new(key=key(scope=m.SCOPE_GLOBAL))))
    (record,) = db.checkpoints(joiner)
    assert (record.subject, record.is_cached) == (shared, True)
    days(db, 30)
    forget(db)
    assert exists(db, shared)
    assert db.checkpoints(joiner)[0].value == b"output"
    worker.complete(joiner)
    days(db, 8)
    forget(db)
    assert not exists(db, shared)


def test_a_parent_stays_while_a_run_that_it_triggered_exists(db: Driver) -> None:
    """The open child may still write to the metadata of its parent and its root."""
    worker = db.worker(slots=100)
    parent = db.trigger().run_id
    worker.report(parent, "", child(1, new(), wait=False))
    (open_child,) = db.children(parent)
    worker.complete(parent)
    days(db, 30)
    forget(db)
    operation = MetadataOp(2, 1, "from the child", b"1", "", 1, False)
    worker.report(open_child.id, "", metadata=[operation])
    assert b"from the child" in db.metadata(parent)[0]


def test_tokens_stay_while_they_are_pending_or_somebody_waits(db: Driver) -> None:
    worker = db.worker(slots=100)
    run_id = db.trigger().run_id
    created, awaited, idle, pending, keyed = (ids.new_id() for _ in range(5))
    for one in (awaited, idle, pending):
        db.one(m.CreateToken(NAMESPACE, one, None, [], None))
    db.one(m.CreateToken(NAMESPACE, keyed, None, [], key(ttl=KEY_DAYS * 86_400)))
    worker.report(run_id, "", token(1, created), token_wait(2, awaited))
    for one in (created, awaited, idle, keyed):
        db.one(m.SettleToken(NAMESPACE, one, b"1", b""))

    def left() -> set[bytes]:
        with db.transaction() as tx:
            return {row[0] for row in tx.fetch("SELECT id FROM tokens")}

    days(db, 8)
    forget(db)
    assert left() == {created, awaited, pending, keyed}
    days(db, KEY_DAYS)
    forget(db)
    assert left() == {created, awaited, pending}
    worker.complete(run_id)
    days(db, 8)
    forget(db)
    assert left() == {pending}


# --- two replicas -----------------------------------------------------------------------------------------------------


def test_two_replicas_delete_the_same_without_harm(migrated_postgres_url: str, replica: Any) -> None:
    settings = Settings(database_url=migrated_postgres_url, retention=float(WEEK_S))
    here, there = (replica(migrated_postgres_url, settings=settings) for _ in range(2))
    worker = here.worker(slots=100)
    runs = [done(here, worker) for _ in range(20)]
    days(here, 8)
    with here.transaction() as tx:  # it has locked half of them
        store.lock_ended(tx, NAMESPACE, runs[:10])
        assert there.one(m.Forget(NAMESPACE, "runs", retention.BEGIN)).deleted == 10
    assert forget(here) == 10
    assert there.count("runs") == 0


def test_a_run_that_is_being_joined_is_passed_over(migrated_postgres_url: str, replica: Any) -> None:
    settings = Settings(database_url=migrated_postgres_url, retention=float(WEEK_S))
    here, there = (replica(migrated_postgres_url, settings=settings) for _ in range(2))
    worker = here.worker()
    run_id = done(here, worker)
    days(here, 8)
    with here.transaction() as tx:
        store.load_runs(tx, NAMESPACE, [run_id])
        assert forget(there) == 0
    assert forget(there) == 1


# --- property ---------------------------------------------------------------------------------------------------------


def reentry(db: Driver, run_id: bytes) -> list[Any]:
    """What a re-entry of a run would be given."""
    with db.transaction() as tx:
        found = store.load_checkpoints(tx, NAMESPACE, [run_id])
        batches = [one.subject for one in found if one.kind in (m.BATCH, m.BATCH_TRIGGER) and one.subject]
        entries = store.load_batch_entries(tx, NAMESPACE, batches, 1 << 40)[0] if batches else []
    return [
        [(one.seq, one.status, one.value, one.error, one.subject, one.child_status) for one in found],
        [tuple(row) for row in entries],
    ]


@pytest.mark.parametrize("seed", range(3))
def test_every_open_run_is_re_entered_as_if_nothing_had_been_deleted(db: Driver, seed: int) -> None:
    chance = random.Random(seed)
    worker = db.worker(slots=10_000, max_attempts=3)
    pinned = ids.new_id()
    db.one(m.CreateToken(NAMESPACE, pinned, None, [], None))
    gone = 0
    for _ in range(25):
        for _ in range(chance.randrange(4)):
            name = key(f"k{chance.randrange(5)}", scope=m.SCOPE_GLOBAL, ttl=chance.choice([1, 10, 20]) * 86_400)
            db.trigger(key=chance.choice([None, name]))
        for run_id, body in list(worker.bodies.items()):
            if body.parked or run_id not in worker.bodies:
                continue
            what, seq = chance.random(), body.last_seq + 1
            shared = key(f"k{chance.randrange(5)}", scope=m.SCOPE_GLOBAL, ttl=5 * 86_400)
            if body.last_seq > 12 or what < 0.35:
                worker.complete(run_id, b"output of " + run_id)
            elif what < 0.45:
                worker.fail(run_id, retryable=chance.random() < 0.5)
            elif what < 0.6:
                worker.report(
                    run_id, "", child(seq, new(key=chance.choice([None, shared])), wait=chance.random() < 0.7)
                )
            elif what < 0.75:
                worker.report(run_id, "", batch(seq, [new(key=chance.choice([None, shared])) for _ in range(2)]))
            elif what < 0.9:
                worker.park(run_id, wait(seq, chance.choice([1, 20, 40]) * 86_400))
            else:
                worker.report(run_id, "", token_wait(seq, pinned))
        days(db, chance.choice([0.5, 1, 3]))
        with db.transaction() as tx:
            live = [row[0] for row in tx.fetch("SELECT id FROM runs WHERE status < 10")]
            keys = tx.fetch("SELECT subject FROM idempotency_keys WHERE kind = 'run' AND expires_at > ?", (db.now,))
        before = {run_id: reentry(db, run_id) for run_id in live}
        gone += forget(db)
        assert {run_id: reentry(db, run_id) for run_id in live} == before
        assert all(exists(db, row[0]) for row in keys)
    assert gone > 20, "hardly anything was ever deleted"
