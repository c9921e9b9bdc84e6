"""Versions of the user's code: who starts what, when a run leaves its version, and whose rules count."""

from __future__ import annotations

from typing import Any

import pytest

from harness.store_driver import NAMESPACE, SECOND, Driver, Worker, batch, child, new, wait
from holdfast.v1.run_pb2 import TriggerOptions
from holdfast.v1.task_pb2 import QueueDefinition
from holdfast_scheduler import model as m
from holdfast_scheduler import run_machine as rules
from holdfast_scheduler import store

PATIENCE = 5.0
"""The default of the setting version_patience, in seconds."""


def versions(db: Driver, *run_ids: bytes) -> list[str]:
    return [db.run(run_id).version for run_id in run_ids]


def holder(run_id: bytes, *workers: Worker) -> Worker | None:
    """Which of the workers has the run."""
    return next((one for one in workers if run_id in one.bodies), None)


def second(db: Driver) -> None:
    """One second and its look."""
    db.turn(1)
    db.tick(expire=False)  # nobody renews a lease here
    db.do(m.Look(NAMESPACE))


# --- which version a new run starts on --------------------------------------------------------------------------------


def test_a_new_run_starts_on_the_newest_version_that_has_room(db: Driver) -> None:
    old = db.worker(version="1", slots=5)
    new_worker = db.worker(version="2", slots=2)
    runs = [db.trigger().run_id for _ in range(4)]
    assert versions(db, *runs) == ["2", "2", "1", "1"]
    assert len(old.bodies) == len(new_worker.bodies) == 2


def test_a_new_run_starts_on_an_old_version_when_only_that_is_connected(db: Driver) -> None:
    db.worker(version="1")
    newest = db.worker(version="2")
    db.end_session(newest)
    run_id = db.trigger().run_id
    assert (db.status(run_id), *versions(db, run_id)) == ("EXECUTING", "1")


def test_an_old_worker_that_connects_again_does_not_become_the_newest(db: Driver) -> None:
    db.worker(version="1", slots=0)
    db.clock.turn(1)  # type: ignore[union-attr]
    db.worker(version="2")
    db.clock.turn(1)  # type: ignore[union-attr]
    db.worker(version="1", slots=100)
    assert versions(db, db.trigger().run_id) == ["2"]
    assert db.world.tasks[NAMESPACE, "t"].version == "2"


def test_a_version_is_as_old_as_its_first_announcement_of_any_task(db: Driver) -> None:
    db.worker("a", version="1", slots=0)
    db.clock.turn(1)  # type: ignore[union-attr]
    db.worker("t", version="2", queue=QueueDefinition(name="q", concurrency_limit=2))
    db.clock.turn(1)  # type: ignore[union-attr]
    db.worker("t", version="1", slots=100, queue=QueueDefinition(name="q", concurrency_limit=1))  # first heard of now
    runs = [db.trigger().run_id for _ in range(3)]
    assert [db.status(run_id) for run_id in runs] == ["EXECUTING", "EXECUTING", "QUEUED"]
    assert db.world.tasks[NAMESPACE, "t"].version == "2"


def test_no_two_versions_are_of_the_same_age(db: Driver) -> None:
    for name in "cab":
        db.worker(version=name)  # all at one instant of the clock
    with db.transaction() as tx:
        ages = {name: found[0] for name, found in store.load_versions(tx, NAMESPACE, ["a", "b", "c"]).items()}
    assert ages["c"] < ages["a"] < ages["b"]
    assert versions(db, db.trigger().run_id) == ["b"]


# --- a run that has started -------------------------------------------------------------------------------------------


def again(db: Driver, worker: Worker, run_id: bytes, how: str) -> None:
    """Have a run started anew that the worker executes."""
    if how == "retry":
        worker.fail(run_id, retryable=True)
        db.turn(60)
    elif how == "release":
        worker.report(run_id, rules.RELEASE)
    elif how == "lost executor":
        worker.report(run_id, rules.LOSE)
    else:
        worker.park(run_id, wait(1, 5))
        worker.slots = 0  # so that it finds no slot within its patience
        db.turn(5)
        db.turn(5)
        worker.slots = 10
        db.do(m.Look(NAMESPACE))


@pytest.mark.parametrize("how", ["retry", "release", "lost executor", "woken"])
def test_a_run_stays_with_its_version_while_a_worker_of_it_is_connected(db: Driver, how: str) -> None:
    old = db.worker(version="1", max_attempts=3)
    run_id = db.trigger().run_id
    newest = db.worker(version="2", slots=100)
    again(db, old, run_id, how)
    assert holder(run_id, old, newest) is old
    assert versions(db, run_id) == ["1"]


def test_a_run_waits_for_a_worker_of_its_version_that_is_full(db: Driver) -> None:
    old = db.worker(version="1", slots=1)
    run_id = db.trigger().run_id
    newest = db.worker(version="2")
    old.park(run_id, wait(1, 1))
    other = db.trigger(version="1").run_id
    db.turn(1)
    db.turn(5)  # its body was let go of
    for _ in range(10):
        second(db)
    assert (db.status(run_id), holder(run_id, old, newest)) == ("QUEUED", None)
    old.complete(other)
    assert holder(run_id, old, newest) is old


def test_it_moves_to_the_newest_version_when_the_patience_with_its_own_is_over(db: Driver) -> None:
    old = db.worker(version="1")
    run_id = db.trigger().run_id
    db.clock.turn(1)  # type: ignore[union-attr]
    middle, newest = db.worker(version="2", slots=50), db.worker(version="3")
    db.end_session(old)
    for _ in range(int(PATIENCE) - 1):
        second(db)
        assert db.status(run_id) == "QUEUED"
    for _ in range(2):
        second(db)
    assert holder(run_id, middle, newest) is newest
    assert versions(db, run_id) == ["3"]
    assert newest.bodies[run_id].order.is_reentry


def test_a_restart_of_the_same_version_finds_its_runs_again(db: Driver) -> None:
    old = db.worker(version="1")
    run_id = db.trigger().run_id
    newest = db.worker(version="2")
    db.end_session(old)
    second(db)
    second(db)
    restarted = db.worker(version="1")
    assert holder(run_id, restarted, newest) is restarted


def test_it_moves_at_once_when_its_version_has_been_gone_for_long(db: Driver) -> None:
    old = db.worker(version="1")
    run_id = db.trigger().run_id
    old.report(run_id, rules.PARK, wait(1, 60))
    db.end_session(old, lost=False)
    newest = db.worker(version="2")
    db.turn(60)
    assert holder(run_id, newest) is newest


def test_a_worker_of_the_version_without_the_task_does_not_count(db: Driver) -> None:
    old = db.worker("t", version="1")
    db.worker("other", version="1")
    run_id = db.trigger().run_id
    newest = db.worker("t", version="2")
    db.end_session(old)
    for _ in range(int(PATIENCE) + 2):
        second(db)
    assert holder(run_id, newest) is newest


def test_a_run_that_has_moved_stays_where_it_is(db: Driver) -> None:
    old = db.worker(version="1")
    run_id = db.trigger().run_id
    newest = db.worker(version="2")
    db.end_session(old)
    for _ in range(int(PATIENCE) + 2):
        second(db)
    back = db.worker(version="1", slots=100)
    newest.report(run_id, rules.RELEASE)
    assert holder(run_id, back, newest) is newest


def test_by_the_policy_wait_it_waits_for_its_own_version(db: Driver) -> None:
    old = db.worker(version="1", waits=True)
    run_id = db.trigger().run_id
    newest = db.worker(version="2")
    db.end_session(old)
    for _ in range(60):
        second(db)
    assert db.status(run_id) == "QUEUED"
    assert db.trigger().run_id in newest.bodies  # it is in nobody's way
    back = db.worker(version="1", waits=True)
    assert holder(run_id, back, newest) is back


def test_the_policy_is_that_of_the_version_it_started_on(db: Driver) -> None:
    old = db.worker(version="1")
    run_id = db.trigger().run_id
    newest = db.worker(version="2", waits=True)
    db.end_session(old)
    for _ in range(int(PATIENCE) + 2):
        second(db)
    assert holder(run_id, newest) is newest  # version 1 said "latest"
    db.end_session(newest)
    db.worker(version="3")
    for _ in range(60):
        second(db)
    assert (db.status(run_id), *versions(db, run_id)) == ("QUEUED", "2")  # it stays with 2 by the policy of that
    db.cancel(run_id)


# --- pinned by its trigger --------------------------------------------------------------------------------------------


def test_a_trigger_for_a_version_starts_on_that_only(db: Driver) -> None:
    newest = db.worker(version="2")
    run_id = db.trigger(version="1").run_id
    delayed = db.trigger(version="1", delay_us=SECOND).run_id
    for _ in range(20):
        second(db)
    assert [db.status(one) for one in (run_id, delayed)] == ["QUEUED", "QUEUED"]
    old = db.worker(version="1")
    assert [holder(one, newest, old) for one in (run_id, delayed)] == [old, old]
    db.end_session(old)
    for _ in range(20):
        second(db)
    assert versions(db, run_id) == ["1"]
    assert db.status(run_id) == "QUEUED"


def test_runs_that_nobody_may_take_block_nobody(db: Driver) -> None:
    worker = db.worker(version="2", slots=3)
    stuck = [db.trigger(version="1").run_id for _ in range(50)]
    for _ in range(3):
        runs = [db.trigger().run_id for _ in range(5)]
        while left := [run_id for run_id in runs if db.status(run_id) != "COMPLETED"]:
            mine = [run_id for run_id in left if run_id in worker.bodies]
            assert mine, "somebody is in their way"
            for run_id in mine:
                worker.complete(run_id)
    assert {db.status(run_id) for run_id in stuck} == {"QUEUED"}
    # And a worker that has room does not make the scheduler look for them.
    assert not db.loop.has_backlog(NAMESPACE, worker.tasks, worker.version)
    assert db.loop.has_backlog(NAMESPACE, worker.tasks, "1")


def test_versions_share_the_limit_of_a_queue(db: Driver) -> None:
    one = db.worker(version="1", queue=QueueDefinition(name="q", total_concurrency_limit=2))
    two = db.worker(version="2", queue=QueueDefinition(name="q", total_concurrency_limit=2))
    runs = [db.trigger(version=version).run_id for version in "111222"]
    most = 0
    while any(db.status(run_id) != "COMPLETED" for run_id in runs):
        busy = [(worker, run_id) for worker in (one, two) for run_id in worker.bodies]
        most = max(most, len(busy))
        worker, run_id = busy[0]
        worker.complete(run_id)
    assert most == 2


# --- rules of the version ---------------------------------------------------------------------------------------------


def test_the_retry_policy_is_that_of_the_version_that_the_run_is_on(db: Driver) -> None:
    old = db.worker(version="1", min_us=10 * SECOND, factor=1.0, max_recoveries=1)
    run_id, crashing = db.trigger().run_id, db.trigger().run_id
    db.worker(version="2", min_us=SECOND, max_attempts=1, max_recoveries=9)
    old.fail(run_id, retryable=True)
    assert db.run(run_id).due_at == db.now + 10 * SECOND
    old.report(crashing, rules.LOSE)
    old.report(crashing, rules.LOSE)
    assert db.status(crashing) == "CRASHED"


def test_limits_are_those_of_the_version_that_it_starts_on(db: Driver) -> None:
    db.worker(version="1", slots=0, max_attempts=3, timeout_us=100 * SECOND)
    begun = db.now
    options = TriggerOptions(max_attempts=7).SerializeToString()
    plain, given = db.trigger().run_id, db.trigger(max_attempts=7, options=options).run_id
    db.turn(10)
    db.worker(version="2", max_attempts=5, timeout_us=50 * SECOND, max_duration_us=SECOND)
    assert [db.run(one).max_attempts for one in (plain, given)] == [5, 7]
    assert db.run(plain).deadline_at == begun + 50 * SECOND
    db.turn(40)
    assert db.status(plain) == "TIMED_OUT"


def test_a_start_names_the_version_and_its_longest_duration(db: Driver) -> None:
    old = db.worker(version="1", max_duration_us=SECOND)
    newest = db.worker(version="2", slots=1, max_duration_us=2 * SECOND)
    runs = [db.trigger().run_id for _ in range(2)]
    orders = [newest.bodies[runs[0]].order, old.bodies[runs[1]].order]
    assert [(order.run.version, order.max_duration_us) for order in orders] == [("2", 2 * SECOND), ("1", SECOND)]


# --- children ---------------------------------------------------------------------------------------------------------


def test_a_child_that_is_waited_for_stays_with_its_parents_version(db: Driver) -> None:
    old = db.worker(version="1")
    parent = db.trigger().run_id
    newest = db.worker(version="2", slots=100)
    old.report(parent, "", child(1, new()), batch(2, [new(), new()]), child(3, new(), wait=False))
    children = db.children(parent)
    assert sorted(one.version for one in children) == ["1", "1", "1", "2"]
    (loose,) = [one for one in children if not one.awaited]
    assert holder(loose.id, old, newest) is newest


def test_a_child_of_a_task_that_the_version_does_not_have_starts_anywhere(db: Driver) -> None:
    old = db.worker("t", version="1")
    newest = db.worker("u", version="2")
    parent = db.trigger().run_id
    old.park(parent, child(1, new("u")))
    (one,) = db.children(parent)
    assert holder(one.id, newest) is newest


def test_a_waiting_child_moves_when_its_parents_version_is_gone(db: Driver) -> None:
    old = db.worker(version="1", slots=1)
    parent = db.trigger().run_id
    newest = db.worker(version="2", slots=2)
    old.report(parent, "", child(1, new()))
    (one,) = db.children(parent)
    assert (one.version, db.status(one.id)) == ("1", "QUEUED")
    db.end_session(old)
    for _ in range(int(PATIENCE) + 2):
        second(db)
    assert holder(one.id, newest) is holder(parent, newest) is newest


# --- two replicas -----------------------------------------------------------------------------------------------------


def hear(here: Driver, there: Driver) -> None:
    """What `there` has left is told to `here`."""
    here.loop.hear(NAMESPACE, there.committed[-1].left)
    here.do(m.Look(NAMESPACE))


@pytest.fixture
def two(migrated_postgres_url: str, replica: Any) -> tuple[Driver, Driver]:
    return replica(migrated_postgres_url), replica(migrated_postgres_url)


def test_a_worker_of_the_version_at_another_replica_counts(two: tuple[Driver, Driver]) -> None:
    here, there = two
    newest = here.worker(version="2")
    old = there.worker(version="1", slots=1)
    run_id = there.trigger(version="").run_id
    assert run_id in old.bodies
    other = there.trigger(version="1").run_id  # takes the slot next
    old.report(run_id, rules.RELEASE)
    hear(here, there)
    for _ in range(10):
        second(here)
    assert holder(run_id, newest) is None
    there.do(m.Look(NAMESPACE))
    assert holder(run_id, old) is old
    assert there.status(other) == "QUEUED"
    there.end_session(old)
    hear(here, there)
    for _ in range(int(PATIENCE) + 2):
        second(here)
    assert holder(run_id, newest) is newest
    here.cancel(other)


def test_it_moves_to_the_newest_version_even_if_that_is_at_another_replica(two: tuple[Driver, Driver]) -> None:
    here, there = two
    old, middle = here.worker(version="1"), here.worker(version="2", slots=0)
    here.clock.turn(1)  # type: ignore[union-attr]
    newest = there.worker(version="3")
    run_id = here.trigger(version="").run_id
    middle.slots = 10
    here.end_session(old)
    for _ in range(int(PATIENCE) + 3):
        second(here)
    assert holder(run_id, middle) is None
    for _ in range(3):
        there.loop.expect_backlog(NAMESPACE)
        second(there)
    assert holder(run_id, newest) is newest


def test_a_definition_that_one_replica_learned_counts_at_the_other(two: tuple[Driver, Driver]) -> None:
    here, there = two
    here.worker(version="1", queue=QueueDefinition(name="old"))
    here.clock.turn(1)  # type: ignore[union-attr]
    there.worker(version="2", queue=QueueDefinition(name="new"), slots=0, waits=True)
    assert here.run(here.trigger().run_id).queue == "new"
    assert here.world.definition(NAMESPACE, "t", "2").waits  # type: ignore[union-attr]


def test_two_replicas_agree_which_version_is_the_newest(two: tuple[Driver, Driver]) -> None:
    here, there = two
    here.worker(version="1")
    there.worker(version="2")
    there.worker(version="1")
    here.worker(version="2")
    for db in two:
        db.trigger()
        assert db.world.tasks[NAMESPACE, "t"].version == "2"
        assert db.world.versions[NAMESPACE, "1"] < db.world.versions[NAMESPACE, "2"]
