"""Two replicas on one PostgreSQL: no instant fires twice, none is lost, and what waits for a run always goes on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from harness.races import race, repeated
from harness.store_driver import NAMESPACE, Clock, Driver
from holdfast.v1.task_pb2 import DeclaredSchedule, TaskDefinition
from holdfast_scheduler import ids, schedule_store
from holdfast_scheduler import model as m
from holdfast_scheduler.definitions import task_row
from holdfast_scheduler.model import Schedule

MINUTE = 60_000_000


@pytest.fixture
def two(migrated_postgres_url: str, replica: Any) -> tuple[Driver, Driver]:
    """Two replicas of one database, under one clock."""
    return replica(migrated_postgres_url), replica(migrated_postgres_url)


def schedule(overlap: int = m.OVERLAP_ALLOW, **fields: Any) -> Schedule:
    made = {"task": "t", "cron": "* * * * *", "timezone": "UTC", "misfire": m.MISFIRE_ALL, **fields}
    return Schedule(id=ids.new_id(), overlap=overlap, created_at=0, **made)


def create(db: Driver, count: int, **fields: Any) -> list[bytes]:
    return [db.one(m.CreateSchedule(NAMESPACE, schedule(**fields))) for _ in range(count)]


def rows(db: Driver, schedule_ids: list[bytes]) -> list[Schedule]:
    with db.transaction() as tx:
        return list(schedule_store.lock(tx, NAMESPACE, schedule_ids).values())


def made_runs(db: Driver, schedule_id: bytes) -> list[bytes]:
    with db.transaction() as tx:
        found = tx.fetch("SELECT run_id FROM run_inputs WHERE schedule = ? ORDER BY run_id", (schedule_id,))
    return [one[0] for one in found]


def fire(db: Driver, schedule_ids: list[bytes]) -> None:
    db.do(m.SchedulesDue(NAMESPACE, schedule_ids))


def test_two_schedulers_never_fire_one_instant_twice(two: tuple[Driver, Driver], clock: Clock) -> None:
    for db in two:
        db.worker(slots=0)
    made = create(two[0], 8)
    fired = 0

    def once() -> None:
        nonlocal fired
        clock.turn(60)
        race(lambda: fire(two[0], made), lambda: fire(two[1], made[::-1]))
        for db in two:
            fire(db, made)  # what one passed over because the other had it locked
        fired += 1
        assert two[0].count("runs") == fired * len(made)

    repeated(once)
    for one in made:
        instants = {int.from_bytes(run_id[:6], "big") for run_id in made_runs(two[0], one)}
        assert len(instants) == fired


def test_a_replica_that_does_not_know_what_was_fired_meets_the_runs(two: tuple[Driver, Driver], clock: Clock) -> None:
    """Even with the row set back, the run's id stands in the way: two replicas that both take it make one run."""
    for db in two:
        db.worker(slots=0)
    (made,) = create(two[0], 1)

    def once() -> None:
        clock.turn(60)
        (before,) = rows(two[0], [made])
        fire(two[0], [made])
        tx = two[1].database.begin()
        schedule_store.update(tx, NAMESPACE, [replace(before)])
        tx.commit()
        race(lambda: fire(two[0], [made]), lambda: fire(two[1], [made]))
        for db in two:
            fire(db, [made])

    times = repeated(once)
    assert len(made_runs(two[0], made)) == times


def test_the_end_of_a_run_races_with_the_next_instant(two: tuple[Driver, Driver], clock: Clock) -> None:
    """With the policy `queue` each instant gets its run, one after the other, whichever commit comes first."""
    worker = two[0].worker(slots=1_000, places=100_000)
    (made,) = create(two[0], 1, overlap=m.OVERLAP_QUEUE)
    clock.turn(60)
    fire(two[0], [made])
    instants = 1

    def once() -> None:
        nonlocal instants
        clock.turn(60)
        two[0].look()
        (open_run,) = [run_id for run_id in made_runs(two[0], made) if two[0].status(run_id) == "EXECUTING"]
        race(lambda: worker.complete(open_run), lambda: fire(two[1], [made]))
        fire(two[0], [made])
        instants += 1
        assert len(made_runs(two[0], made)) == instants
        assert rows(two[0], [made])[0].waiting == ""
        two[0].loop.expect_backlog(NAMESPACE)

    repeated(once)
    assert rows(two[0], [made])[0].skipped == 0


def test_one_key_from_both_replicas_makes_one_schedule(two: tuple[Driver, Driver]) -> None:
    for db in two:
        db.worker(slots=0)

    def once() -> None:
        key = ids.new_id().hex()
        found: list[bytes] = []

        def ask(db: Driver) -> None:
            found.append(db.one(m.CreateSchedule(NAMESPACE, schedule(key=key))))

        race(lambda: ask(two[0]), lambda: ask(two[1]))
        assert len(set(found)) == 1

    assert repeated(once) == two[0].count("schedules")


def test_one_declaration_to_both_replicas_makes_one_schedule(two: tuple[Driver, Driver]) -> None:
    def once() -> None:
        definition = TaskDefinition(id=ids.new_id().hex(), schedule=DeclaredSchedule(cron="0 3 * * *"))

        def connect(db: Driver) -> None:
            row = task_row(definition.SerializeToString(), "1", 0)
            db.do(m.OpenSession(NAMESPACE, ids.new_id(), b"s", "w", "1", [row]))

        race(lambda: connect(two[0]), lambda: connect(two[1]))

    assert repeated(once) == two[0].count("schedules")


def test_turning_off_races_with_firing(two: tuple[Driver, Driver], clock: Clock) -> None:
    """What is acknowledged holds: nothing fires after it."""
    for db in two:
        db.worker(slots=0)
    (made,) = create(two[0], 1)

    def once() -> None:
        clock.turn(60)
        race(lambda: two[0].one(m.ActivateSchedule(NAMESPACE, made, False)), lambda: fire(two[1], [made]))
        before = len(made_runs(two[0], made))
        clock.turn(60)
        for db in two:
            fire(db, [made])
        assert len(made_runs(two[0], made)) == before
        two[1].one(m.ActivateSchedule(NAMESPACE, made, True))

    repeated(once)
