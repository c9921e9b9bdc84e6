"""Schedules on both databases: firing, missed instants, overlapping runs, changes, and what tasks declare."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from harness.store_driver import NAMESPACE, SECOND, START, Clock, Driver, Worker, child, new, wait
from holdfast.v1.payload_pb2 import Payload
from holdfast.v1.run_pb2 import TriggerOptions
from holdfast.v1.task_pb2 import DeclaredSchedule, TaskDefinition
from holdfast_scheduler import firing, ids, schedule_store
from holdfast_scheduler import model as m
from holdfast_scheduler.definitions import task_row
from holdfast_scheduler.model import ItemFault, QueueLimits, Schedule
from holdfast_scheduler.settings import Limits, Settings

MINUTE = 60 * SECOND
FIRST = START  # 2027-01-15 08:00, a whole minute
assert START % MINUTE == 0

MISFIRES = {"skip": m.MISFIRE_SKIP, "latest": m.MISFIRE_LATEST, "all": m.MISFIRE_ALL}
OVERLAPS = {
    "allow": m.OVERLAP_ALLOW,
    "skip": m.OVERLAP_SKIP,
    "queue": m.OVERLAP_QUEUE,
    "cancel_previous": m.OVERLAP_CANCEL_PREVIOUS,
}


@pytest.fixture
def clock() -> Clock:
    """Half a minute before the first instant of `* * * * *`."""
    clock = Clock()
    clock.turn(-30)
    return clock


@pytest.fixture
def worker(db: Driver) -> Worker:
    return db.worker("t", "u")


def schedule(misfire: str = "latest", overlap: str = "allow", **fields: Any) -> Schedule:
    """A schedule for each minute."""
    made = {"task": "t", "cron": "* * * * *", "timezone": "UTC", **fields}
    return Schedule(id=ids.new_id(), misfire=MISFIRES[misfire], overlap=OVERLAPS[overlap], created_at=0, **made)


def create(db: Driver, misfire: str = "latest", overlap: str = "allow", **fields: Any) -> bytes:
    made = db.one(m.CreateSchedule(NAMESPACE, schedule(misfire, overlap, **fields)))
    assert isinstance(made, bytes), made.message
    return made


def row(db: Driver, schedule_id: bytes) -> Schedule:
    with db.transaction() as tx:
        return schedule_store.lock(tx, NAMESPACE, [schedule_id])[schedule_id]


def runs(db: Driver, schedule_id: bytes) -> list[bytes]:
    """Runs of a schedule in the order of their instants."""
    with db.transaction() as tx:
        found = tx.fetch("SELECT run_id FROM run_inputs WHERE schedule = ? ORDER BY run_id", (schedule_id,))
    return [one[0] for one in found]


def statuses(db: Driver, schedule_id: bytes) -> list[str]:
    return [db.status(run_id) for run_id in runs(db, schedule_id)]


def payload(db: Driver, run_id: bytes) -> dict[str, Any]:
    with db.transaction() as tx:
        ((data,),) = tx.fetch("SELECT payload FROM run_inputs WHERE run_id = ?", (run_id,))
    return dict(json.loads(Payload.FromString(data).data))


def instants(db: Driver, schedule_id: bytes) -> list[int]:
    """For which instants there are runs, in minutes after the first."""
    found = [payload(db, run_id)["timestamp"] for run_id in runs(db, schedule_id)]
    return [round((datetime.fromisoformat(one).timestamp() * SECOND - FIRST) / MINUTE) for one in found]


def at(minutes: float) -> str:
    moment = datetime.fromtimestamp((FIRST + minutes * MINUTE) / SECOND, UTC)
    return moment.isoformat().replace("+00:00", "Z")


# --- firing -----------------------------------------------------------------------------------------------------------
def test_a_schedule_fires_at_each_instant_and_tells_of_it(db: Driver, worker: Worker) -> None:
    made = create(db, external_id="customer-7", timezone="Europe/Zurich")
    assert row(db, made).next_at == FIRST
    db.turn(29)
    assert runs(db, made) == []
    db.turn(1)
    (run_id,) = runs(db, made)
    assert db.status(run_id) == "EXECUTING"  # in the same commit
    assert payload(db, run_id) == {
        "schedule_id": ids.to_text(ids.SCHEDULE, made),
        "timestamp": at(0),
        "last_timestamp": None,
        "timezone": "Europe/Zurich",
        "external_id": "customer-7",
        "upcoming": [at(minute) for minute in range(1, 11)],
    }
    found = row(db, made)
    assert (found.next_at, found.last_at, found.last_run) == (FIRST + MINUTE, FIRST, run_id)
    assert (FIRST + MINUTE, made) in db.committed[-1].timed_schedules  # this replica times the next one
    db.turn(60)
    assert instants(db, made) == [0, 1]
    assert payload(db, runs(db, made)[1])["last_timestamp"] == at(0)
    assert db.run(runs(db, made)[1]).parent is None


def test_the_runs_have_the_options_of_the_schedule(db: Driver, worker: Worker) -> None:
    worker.slots = 0
    options = TriggerOptions(queue="q", concurrency_key="k", tags=["a", "b"], priority=5, max_attempts=7, version="1")
    options.metadata = b'{"n":1}'
    options.timeout.seconds, options.ttl.seconds = 500, 100
    made = create(db, options=options.SerializeToString())
    db.turn(30)
    (run_id,) = runs(db, made)
    run = db.run(run_id)
    assert (run.queue, run.lane, run.version, run.max_attempts) == ("q", "k", "1", 7)
    assert (run.order_at, run.deadline_at, run.wake_at) == (
        db.now - 5 * SECOND,
        db.now + 500 * SECOND,
        db.now + 100 * SECOND,
    )
    assert db.metadata(run_id)[1] == b'{"n":1}'
    with db.transaction() as tx:
        assert sorted(tx.fetch("SELECT tag FROM run_tags")) == [("a",), ("b",)]


def test_many_schedules_fire_in_one_commit(db: Driver, worker: Worker) -> None:
    made = [create(db) for _ in range(30)]
    commits = len(db.committed)
    db.turn(30)
    assert len(db.committed) == commits + 1
    assert all(len(runs(db, one)) == 1 for one in made)


def test_an_instant_that_has_fired_never_fires_again(db: Driver, worker: Worker, clock: Clock) -> None:
    """Whatever happens to the clock and the schedule."""
    made = create(db)
    db.turn(30)
    assert instants(db, made) == [0]
    clock.turn(-3600)
    for active in (False, True):
        assert db.one(m.ActivateSchedule(NAMESPACE, made, active)) is None
    assert row(db, made).next_at == FIRST + MINUTE
    with db.transaction() as tx:
        before = schedule_store.lock(tx, NAMESPACE, [made])[made]
    tx = db.database.begin()
    schedule_store.update(tx, NAMESPACE, [replace(before, next_at=FIRST)])  # as if nothing had been
    tx.commit()
    clock.turn(3600)
    db.due()
    assert instants(db, made) == [0]
    assert row(db, made).next_at == FIRST + MINUTE


def test_a_replica_that_dies_leaves_its_timers_to_the_look_of_each_second(db: Driver, worker: Worker) -> None:
    made = create(db)
    db.crash()
    now, soon = db.one(m.Tick(expire_sessions=False))
    assert (now, soon) == (db.now, [])
    assert db.clock is not None
    db.clock.turn(29)
    assert db.one(m.Tick(expire_sessions=False))[1] == [(NAMESPACE, made, FIRST)]


def test_a_task_that_cannot_run_is_no_obstacle(db: Driver, worker: Worker) -> None:
    """Here its queue is full. The instant is skipped, visibly, and other schedules fire."""
    db.one(m.UpdateQueue(NAMESPACE, "task/t", QueueLimits(depth=1)))
    worker.slots = 0
    first, second = create(db), create(db)
    db.turn(30)
    assert sorted(len(runs(db, one)) for one in (first, second)) == [0, 1]
    skipped = next(found for one in (first, second) if (found := row(db, one)).skipped)
    assert (skipped.skipped, skipped.last_skipped_at, skipped.next_at) == (1, FIRST, FIRST + MINUTE)
    assert "depth_limit of 1" in skipped.last_skip_reason


def test_a_time_zone_that_has_gone_turns_the_schedule_off(
    db: Driver, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, other = create(db, timezone="Europe/Zurich"), create(db, cron="*/1 * * * *")
    due = firing.cron.due

    def without_zone(expression: str, zone: str, *others: int) -> Any:
        if zone == "Europe/Zurich":
            raise ValueError("this scheduler's machine does not know it")
        return due(expression, zone, *others)

    monkeypatch.setattr(firing.cron, "due", without_zone)
    db.turn(30)
    found = row(db, made)
    assert (found.active, found.next_at, found.skipped) == (False, None, 1)
    assert "does not know it" in found.last_skip_reason
    assert instants(db, other) == [0]


# --- missed instants --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("misfire", "seconds", "fired", "skipped"),
    [
        # Late by no more than the grace of 60 s: no misfire, whatever the policy.
        ("skip", 60, [0, 1], 0),
        ("latest", 60, [0, 1], 0),
        ("all", 60, [0, 1], 0),
        # A restart passes over one instant.
        ("skip", 2, [0], 0),
        # 0 and 1 were missed; 2 is on time.
        ("skip", 125, [2], 2),
        ("latest", 125, [2], 2),
        ("all", 125, [0, 1, 2], 0),
    ],
)
def test_instants_that_were_missed(
    db: Driver, worker: Worker, misfire: str, seconds: int, fired: list[int], skipped: int
) -> None:
    made = create(db, misfire)
    db.turn(30 + seconds)
    assert instants(db, made) == fired
    found = row(db, made)
    assert found.skipped == skipped
    assert found.next_at == FIRST + (seconds // 60 + 1) * MINUTE
    if skipped:
        assert found.last_skipped_at == FIRST + (skipped - 1) * MINUTE
        assert "misfire_grace (60 s)" in found.last_skip_reason


@pytest.mark.parametrize(
    ("misfire", "fired", "skipped"), [("skip", [], 3), ("latest", [120], 2), ("all", [0, 60, 120], 0)]
)
def test_instants_that_were_all_missed(
    db: Driver, worker: Worker, misfire: str, fired: list[int], skipped: int
) -> None:
    made = create(db, misfire, cron="0 * * * *")
    db.turn(30 + 2 * 3600 + 600)
    assert instants(db, made) == fired
    assert (row(db, made).skipped, row(db, made).next_at) == (skipped, FIRST + 180 * MINUTE)
    db.turn(50 * 60)
    assert instants(db, made) == [*fired, 180]


def test_all_has_a_cap_and_says_what_is_beyond_it(db: Driver, worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
    made = create(db, "all")
    cap = Limits().misfire_cap
    db.turn(30 + (cap + 9) * 60)
    assert instants(db, made) == list(range(10, cap + 10))
    found = row(db, made)
    assert (found.skipped, found.last_skipped_at) == (10, FIRST + 9 * MINUTE)
    assert found.last_skip_reason == f"missed: more instants than the limit misfire_cap of {cap} were due at once"
    assert f"schedule skipped instants schedule={ids.to_text(ids.SCHEDULE, made)} task=t count=10" in caplog.text
    last = payload(db, runs(db, made)[-1])
    assert last["last_timestamp"] == at(cap + 8)


def test_a_year_of_missed_minutes_takes_no_time(db: Driver, worker: Worker) -> None:
    made = create(db, "latest")
    db.turn(30 + 365 * 86_400 + 90)
    assert instants(db, made) == [365 * 1440 + 1]
    assert row(db, made).skipped >= 1_000


def test_the_grace_is_a_setting(migrated_url: str, replica: Callable[..., Driver]) -> None:
    db = replica(migrated_url, settings=Settings(database_url=migrated_url, misfire_grace=600))
    db.worker("t")
    made = create(db, "skip")
    db.turn(30 + 300)
    assert instants(db, made) == [0, 1, 2, 3, 4, 5]


# --- overlapping runs -------------------------------------------------------------------------------------------------
def test_allow_starts_a_run_beside_the_previous_one(db: Driver, worker: Worker) -> None:
    made = create(db, overlap="allow")
    db.turn(30)
    db.turn(60)
    assert statuses(db, made) == ["EXECUTING", "EXECUTING"]


@pytest.mark.parametrize("place", ["EXECUTING", "QUEUED", "WAITING", "DELAYED", "CANCELING"])
def test_skip_lets_an_instant_go_while_the_previous_run_is_open(db: Driver, worker: Worker, place: str) -> None:
    made = create(db, overlap="skip")
    if place == "QUEUED":
        worker.slots = 0
    db.turn(30)
    (run_id,) = runs(db, made)
    bring(db, worker, run_id, place)
    db.turn(60)
    assert len(runs(db, made)) == 1
    found = row(db, made)
    assert (found.skipped, found.last_skipped_at) == (1, FIRST + MINUTE)
    assert found.last_skip_reason == "the run of the instant before had not ended"
    assert (found.last_at, found.next_at) == (FIRST, FIRST + 2 * MINUTE)


def bring(db: Driver, worker: Worker, run_id: bytes, status: str) -> None:
    """Have an executing run reach a status."""
    if status == "WAITING":
        worker.park(run_id, wait(1, 10_000))
    elif status == "DELAYED":
        worker.fail(run_id, retryable=True, retry_delay_us=10_000 * SECOND)
    elif status == "CANCELING":
        db.world.rule_limits.cancel_grace_us = 10_000 * SECOND
        db.cancel(run_id)
    assert db.status(run_id) == status


@pytest.mark.parametrize("end", ["complete", "fail", "cancel"])
def test_skip_fires_once_the_previous_run_has_ended(db: Driver, worker: Worker, end: str) -> None:
    made = create(db, overlap="skip")
    db.turn(30)
    (run_id,) = runs(db, made)
    finish(db, worker, run_id, end)
    db.turn(60)
    assert instants(db, made) == [0, 1]


def finish(db: Driver, worker: Worker, run_id: bytes, end: str) -> None:
    if end == "complete":
        worker.complete(run_id)
    elif end == "fail":
        worker.fail(run_id)
    else:
        worker.slots = 0
        db.cancel(run_id)
        worker.report(run_id, "end_canceled")
        worker.slots = 10


@pytest.mark.parametrize("end", ["complete", "fail", "cancel"])
def test_queue_starts_the_next_run_in_the_commit_that_ends_the_previous_one(
    db: Driver, worker: Worker, end: str
) -> None:
    made = create(db, overlap="queue")
    for seconds in (30, 60, 60):
        db.turn(seconds)
    assert statuses(db, made) == ["EXECUTING"]
    found = row(db, made)
    assert found.waiting == f"{FIRST + MINUTE} {FIRST + 2 * MINUTE}"
    assert (found.skipped, found.last_at) == (0, FIRST)
    commits = len(db.committed)
    (first,) = runs(db, made)
    if end == "complete":
        worker.complete(first)
        assert len(db.committed) == commits + 1
    else:
        finish(db, worker, first, end)
    assert instants(db, made) == [0, 1]
    second = runs(db, made)[1]
    db.look()
    assert db.status(second) == "EXECUTING"
    assert row(db, made).waiting == str(FIRST + 2 * MINUTE)
    assert payload(db, second)["last_timestamp"] == at(0)
    worker.complete(second)
    assert instants(db, made) == [0, 1, 2]
    assert row(db, made).waiting == ""
    worker.complete(runs(db, made)[2])
    db.turn(60)
    assert instants(db, made) == [0, 1, 2, 3]


def test_queue_has_a_bound(migrated_url: str, replica: Callable[..., Driver]) -> None:
    limits = Limits(schedule_waiting=2)
    db = replica(migrated_url, settings=Settings(database_url=migrated_url, limits=limits))
    worker = db.worker("t")
    made = create(db, overlap="queue")
    db.turn(30)
    for _ in range(4):
        db.turn(60)
    found = row(db, made)
    assert len(found.waiting.split()) == 2
    assert (found.skipped, found.last_skipped_at) == (2, FIRST + 4 * MINUTE)
    assert "schedule_waiting of 2" in found.last_skip_reason
    for count in (1, 2, 3):
        assert len(runs(db, made)) == count
        worker.complete(runs(db, made)[-1])
    assert instants(db, made) == [0, 1, 2]


def test_queue_after_a_long_outage_runs_one_after_the_other(db: Driver, worker: Worker) -> None:
    made = create(db, "all", "queue", cron="0 * * * *")
    db.turn(30 + 3 * 3600)
    for count in (1, 2, 3, 4):
        assert len(runs(db, made)) == count
        assert statuses(db, made)[-1] == "EXECUTING"
        worker.complete(runs(db, made)[-1])
    assert instants(db, made) == [0, 60, 120, 180]


def test_what_waits_survives_another_policy(db: Driver, worker: Worker) -> None:
    made = create(db, overlap="queue")
    for seconds in (30, 60, 60):
        db.turn(seconds)
    assert db.one(m.UpdateSchedule(NAMESPACE, made, {"overlap": m.OVERLAP_ALLOW}, "")) is None
    db.turn(60)
    assert instants(db, made) == [0, 3]  # beside the first; the two others now wait for this one
    worker.complete(runs(db, made)[0])
    worker.complete(runs(db, made)[1])
    assert instants(db, made) == [0, 1, 3]
    assert row(db, made).waiting == str(FIRST + 2 * MINUTE)
    worker.complete(runs(db, made)[1])
    assert instants(db, made) == [0, 1, 2, 3]


def test_an_instant_that_waits_goes_when_the_schedule_is_turned_off(db: Driver, worker: Worker) -> None:
    made = create(db, overlap="queue")
    db.turn(30)
    db.turn(60)
    assert row(db, made).waiting
    assert db.one(m.ActivateSchedule(NAMESPACE, made, False)) is None
    worker.complete(runs(db, made)[0])
    assert instants(db, made) == [0]


def test_a_waiting_instant_that_cannot_fire_makes_way_for_the_next(db: Driver, worker: Worker) -> None:
    made = create(db, overlap="queue")
    for seconds in (30, 60, 60):
        db.turn(seconds)
    worker.slots = 0
    db.one(m.UpdateQueue(NAMESPACE, "task/t", QueueLimits(depth=1)))
    db.trigger()
    worker.complete(runs(db, made)[0])
    assert instants(db, made) == [0]
    assert (row(db, made).waiting, row(db, made).skipped) == ("", 2)


def test_cancel_previous_cancels_in_the_commit_that_fires(db: Driver, worker: Worker) -> None:
    made = create(db, overlap="cancel_previous")
    db.turn(30)
    db.turn(60)
    assert statuses(db, made) == ["CANCELING", "EXECUTING"]
    first, second = runs(db, made)
    worker.report(first, "end_canceled")
    worker.complete(second)
    db.turn(60)
    assert statuses(db, made) == ["CANCELED", "COMPLETED", "EXECUTING"]


def test_cancel_previous_leaves_the_last_of_several(db: Driver, worker: Worker) -> None:
    made = create(db, "all", "cancel_previous")
    db.turn(30 + 125)
    assert statuses(db, made) == ["CANCELED", "CANCELED", "EXECUTING"]


def test_a_run_that_is_no_schedules_is_no_previous_one(db: Driver, worker: Worker) -> None:
    made = create(db, overlap="skip")
    db.trigger()
    db.turn(30)
    assert instants(db, made) == [0]


def test_a_previous_run_that_is_gone_has_ended(db: Driver, worker: Worker) -> None:
    made = create(db, overlap="queue")
    db.turn(30)
    (gone,) = runs(db, made)
    worker.complete(gone)
    tx = db.database.begin()
    for table, column in (("run_results", "run_id"), ("run_inputs", "run_id"), ("runs", "id")):
        tx.execute(f"DELETE FROM {table} WHERE {column} = ?", (gone,))
    tx.commit()
    db.turn(60)
    assert instants(db, made) == [1]


# --- changes ----------------------------------------------------------------------------------------------------------
def test_a_deduplication_key_updates_the_schedule_that_has_it(db: Driver, worker: Worker) -> None:
    first = create(db, key="nightly")
    again = create(db, "all", "skip", key="nightly", cron="0 9 * * *", task="u", external_id="x")
    assert again == first
    found = row(db, first)
    assert (found.task, found.cron, found.misfire, found.overlap, found.external_id) == (
        "u", "0 9 * * *", m.MISFIRE_ALL, m.OVERLAP_SKIP, "x",
    )  # fmt: skip
    assert found.next_at == FIRST + 60 * MINUTE
    assert create(db, key="other") != first
    assert db.count("schedules") == 2


def test_a_key_leaves_a_schedule_off_that_a_user_has_turned_off(db: Driver, worker: Worker) -> None:
    made = create(db, key="nightly")
    assert db.one(m.ActivateSchedule(NAMESPACE, made, False)) is None
    assert create(db, key="nightly", cron="0 9 * * *") == made
    assert (row(db, made).active, row(db, made).next_at) == (False, None)


def test_a_repeated_create_makes_one_schedule(db: Driver, worker: Worker) -> None:
    asked = schedule()
    assert db.one(m.CreateSchedule(NAMESPACE, replace(asked))) == asked.id
    assert db.one(m.CreateSchedule(NAMESPACE, replace(asked))) == asked.id
    assert db.count("schedules") == 1
    other = db.one(m.CreateSchedule(NAMESPACE, replace(asked, task="u")))
    assert isinstance(other, ItemFault)
    assert other.reason == "ID_REUSED"


def test_an_update_moves_the_next_instant_only_with_the_time(db: Driver, worker: Worker) -> None:
    made = create(db)
    assert db.clock is not None
    db.clock.turn(31)  # due, and not fired yet
    assert db.one(m.UpdateSchedule(NAMESPACE, made, {"external_id": "x"}, "")) is None
    assert row(db, made).next_at == FIRST
    assert db.one(m.UpdateSchedule(NAMESPACE, made, {"cron": "*/5 * * * *"}, "")) is None
    assert row(db, made).next_at == FIRST + 5 * MINUTE


def test_deactivation_lasts_until_activation_and_nothing_is_made_up_for(db: Driver, worker: Worker) -> None:
    made = create(db, "all")
    db.turn(30)
    assert db.one(m.ActivateSchedule(NAMESPACE, made, False)) is None
    assert row(db, made).next_at is None
    db.turn(600)
    assert db.one(m.ActivateSchedule(NAMESPACE, made, True)) is None
    db.turn(60)
    assert instants(db, made) == [0, 11]
    assert row(db, made).skipped == 0


def test_a_deleted_schedule_fires_no_more_and_its_runs_stay(db: Driver, worker: Worker) -> None:
    made = create(db)
    db.turn(30)
    assert db.one(m.DeleteSchedule(NAMESPACE, made)) is None
    db.do(m.SchedulesDue(NAMESPACE, [made]))  # its timer still rings
    db.turn(60)
    assert instants(db, made) == [0]
    gone = db.one(m.DeleteSchedule(NAMESPACE, made))
    assert gone.reason == "SCHEDULE_NOT_FOUND"


def test_faults(db: Driver, worker: Worker) -> None:
    unknown = db.one(m.CreateSchedule(NAMESPACE, schedule(task="tt")))
    assert (unknown.reason, unknown.metadata["near"]) == ("TASK_NOT_FOUND", "t")
    made = create(db, key="k")
    other = db.one(m.UpdateSchedule(NAMESPACE, made, {}, "j"))
    assert other.reason == "INVALID_ARGUMENT"
    assert "has the key 'k'" in other.message
    assert db.one(m.UpdateSchedule(NAMESPACE, made, {"task": "tt"}, "k")).reason == "TASK_NOT_FOUND"
    stranger = ids.new_id()
    for command in (
        m.UpdateSchedule(NAMESPACE, stranger, {}, ""),
        m.ActivateSchedule(NAMESPACE, stranger, True),
        m.DeleteSchedule("other", made),
    ):
        assert db.one(command).reason == "SCHEDULE_NOT_FOUND"
    db.world.settings = replace(db.world.settings, limits=Limits(schedules=1))
    full = db.one(m.CreateSchedule(NAMESPACE, schedule()))
    assert (full.reason, full.metadata) == ("LIMIT_EXCEEDED", {"limit": "schedules", "most": "1"})
    assert create(db, key="k") == made  # an update is always possible


# --- in code ----------------------------------------------------------------------------------------------------------
def announce(db: Driver, version: str, declared: DeclaredSchedule | None, task: str = "d") -> None:
    """A worker of this version connects; its task declares this."""
    definition = TaskDefinition(id=task, schedule=declared)
    definitions = [task_row(definition.SerializeToString(), version, 0)]
    db.do(m.OpenSession(NAMESPACE, ids.new_id(), b"s", "w", version, definitions))
    for one in definitions:
        db.world.learn(NAMESPACE, one)


def declared(db: Driver, task: str = "d") -> Schedule | None:
    with db.transaction() as tx:
        return schedule_store.lock_declared(tx, NAMESPACE, [task]).get(task)


def each_minute(cron: str = "* * * * *", **fields: str) -> DeclaredSchedule:
    return DeclaredSchedule(cron=cron, **fields)


def test_a_task_declares_a_schedule(db: Driver) -> None:
    announce(db, "1", each_minute(timezone="Europe/Zurich", misfire="all", overlap="queue"))
    found = declared(db)
    assert found is not None
    assert (found.cron, found.timezone, found.misfire, found.overlap) == (
        "* * * * *", "Europe/Zurich", m.MISFIRE_ALL, m.OVERLAP_QUEUE,
    )  # fmt: skip
    assert (found.declared, found.active, found.next_at) == (True, True, FIRST)
    db.turn(30)
    assert instants(db, found.id) == [0]


def test_the_newest_version_decides_and_an_old_worker_flips_nothing_back(db: Driver) -> None:
    announce(db, "1", each_minute("0 9 * * *"))
    first = declared(db)
    assert first is not None
    db.turn(1)
    announce(db, "2", each_minute("0 10 * * *", overlap="skip"))
    announce(db, "1", each_minute("0 9 * * *"))
    db.crash()
    announce(db, "1", each_minute("0 9 * * *"))
    found = declared(db)
    assert found is not None
    assert (found.id, found.cron, found.overlap) == (first.id, "0 10 * * *", m.OVERLAP_SKIP)
    assert found.next_at == FIRST + 120 * MINUTE


def test_a_version_that_announces_something_else_meanwhile_counts_if_it_is_the_newest(db: Driver) -> None:
    announce(db, "dev", each_minute("0 9 * * *"))
    announce(db, "dev", each_minute("0 11 * * *"))
    found = declared(db)
    assert found is not None
    assert found.cron == "0 11 * * *"
    db.turn(1)
    announce(db, "new", each_minute("0 12 * * *"))
    announce(db, "dev", each_minute("0 13 * * *"))
    found = declared(db)
    assert found is not None
    assert found.cron == "0 12 * * *"


def test_a_schedule_that_is_no_longer_declared_fires_no_more(db: Driver) -> None:
    announce(db, "1", each_minute())
    db.turn(1)
    announce(db, "2", None)
    announce(db, "1", each_minute())
    found = declared(db)
    assert found is not None
    assert (found.withdrawn, found.next_at) == (True, None)
    refused = db.one(m.ActivateSchedule(NAMESPACE, found.id, True))
    assert (refused.reason, refused.code) == ("WRONG_STATUS", 9)
    db.turn(60)
    assert runs(db, found.id) == []
    announce(db, "3", each_minute())
    again = declared(db)
    assert again is not None
    assert (again.id, again.withdrawn) == (found.id, False)
    db.turn(60)
    assert len(runs(db, found.id)) == 1
    announce(db, "4", None)
    assert db.one(m.DeleteSchedule(NAMESPACE, found.id)) is None
    assert declared(db) is None


def test_what_a_user_has_turned_off_stays_off_over_deploys(db: Driver) -> None:
    announce(db, "1", each_minute())
    found = declared(db)
    assert found is not None
    assert db.one(m.ActivateSchedule(NAMESPACE, found.id, False)) is None
    for version, what in (("2", each_minute("*/2 * * * *")), ("3", None), ("4", each_minute())):
        db.turn(1)
        announce(db, version, what)
    later = declared(db)
    assert later is not None
    assert (later.active, later.withdrawn, later.next_at, later.cron) == (False, False, None, "* * * * *")
    assert db.one(m.ActivateSchedule(NAMESPACE, found.id, True)) is None
    db.turn(60)
    assert len(runs(db, found.id)) == 1


def test_what_is_written_in_code_is_changed_there(db: Driver) -> None:
    announce(db, "1", each_minute())
    found = declared(db)
    assert found is not None
    for command in (
        m.UpdateSchedule(NAMESPACE, found.id, {"cron": "0 1 * * *"}, ""),
        m.DeleteSchedule(NAMESPACE, found.id),
    ):
        refused = db.one(command)
        assert refused.reason == "WRONG_STATUS"
        assert "declared in code" in refused.message


def test_schedules_of_the_api_stand_beside_the_declared_one(db: Driver) -> None:
    announce(db, "1", each_minute())
    mine = create(db, task="d")
    found = declared(db)
    assert found is not None
    db.turn(30)
    assert (len(runs(db, mine)), len(runs(db, found.id))) == (1, 1)


# --- costs ------------------------------------------------------------------------------------------------------------
def test_a_run_that_somebody_waits_for_costs_no_look_at_schedules(
    db: Driver, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[object] = []
    monkeypatch.setattr(firing, "release", lambda *args: looks.append(args))
    parent, item = db.trigger(task="t"), new("u")
    worker.park(parent.run_id, child(1, item))
    worker.complete(item.id)
    assert db.status(parent.run_id) == "EXECUTING"
    assert looks == []


def test_nothing_to_do_costs_one_small_query(db: Driver, worker: Worker) -> None:
    create(db, cron="0 0 1 1 *")
    db.tick()
    before = db.loop.meter.statements
    db.tick(expire=False)
    # Overdue runs, overdue tokens, postponed events, schedules; and the clock, where the database has one of its own.
    assert db.loop.meter.statements - before <= 5
