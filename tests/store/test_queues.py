"""Queues with limits on both databases: admission, freeing, turns of lanes, pauses, overrides, depth."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from harness.store_driver import NAMESPACE, SECOND, Clock, Driver, Worker, child, error, key, new, wait
from holdfast.v1.task_pb2 import QueueDefinition
from holdfast_scheduler import backlog, claiming, queues
from holdfast_scheduler import model as m
from holdfast_scheduler import run_machine as rules
from holdfast_scheduler.database import ConflictError
from holdfast_scheduler.model import ItemFault, QueueLimits
from holdfast_scheduler.settings import Limits, Settings


def limited(
    name: str = "q", *, lane: int = 0, total: int = 0, rate: int = 0, period: float = 0.0, depth: int = 0
) -> Any:
    """A queue as a task declares it; the period in seconds."""
    queue = QueueDefinition(
        name=name, concurrency_limit=lane, total_concurrency_limit=total, rate_limit=rate, depth_limit=depth
    )
    if period:
        queue.rate_period.FromMicroseconds(round(period * SECOND))
    return queue


def trigger(db: Driver, count: int = 1, **options: Any) -> list[bytes]:
    """Runs of one commit."""
    outcomes = db.one(m.TriggerRuns(NAMESPACE, [new(**options) for _ in range(count)]))
    return [handle.run_id for handle in outcomes]


def statuses(db: Driver, run_ids: list[bytes]) -> list[str]:
    return [db.status(run_id) for run_id in run_ids]


def executing(db: Driver, queue: str = "q") -> Counter[str]:
    """How many runs hold a slot, by lane."""
    with db.transaction() as tx:
        rows = tx.fetch("SELECT lane FROM runs WHERE queue = ? AND status IN (3, 5)", (queue,))
    return Counter(row[0] for row in rows)


# --- limits and freeing -----------------------------------------------------------------------------------------------


def test_a_lane_executes_no_more_than_its_limit(db: Driver) -> None:
    worker = db.worker(queue=limited(lane=2))
    runs = [run_id for lane in "aab" for run_id in trigger(db, 3, lane=lane)]
    assert executing(db) == {"a": 2, "b": 2}
    first = next(run_id for run_id in runs if run_id in worker.bodies)
    worker.complete(first)
    assert executing(db) == {"a": 2, "b": 2}


def test_a_batch_in_one_commit_is_limited_too(db: Driver) -> None:
    worker = db.worker(queue=limited(total=3))
    trigger(db, 10)
    assert len(worker.bodies) == 3


def test_all_lanes_together_execute_no_more_than_the_limit_across_keys(db: Driver) -> None:
    db.worker(queue=limited(lane=2, total=3))
    for lane in "abc":
        trigger(db, 2, lane=lane)
    assert executing(db) == {"a": 2, "b": 1}


def test_tasks_share_a_queue_and_its_lane_in_their_order(db: Driver) -> None:
    worker = db.worker("t", "u", queue=limited(total=1))
    first, second, third = (trigger(db, task=task)[0] for task in "tut")
    (urgent,) = trigger(db, task="u", priority_us=60 * SECOND)
    order = [first]
    for _ in range(3):
        worker.complete(order[-1])
        order += list(worker.bodies)
    assert order == [first, urgent, second, third]


def test_what_frees_a_slot_starts_the_next_run_in_the_same_commit(db: Driver) -> None:
    worker = db.worker(queue=limited(total=1), max_attempts=2)
    first, second = trigger(db, 2)
    before = len(db.committed)
    worker.fail(first, retryable=True)
    assert len(db.committed) == before + 1
    assert statuses(db, [first, second]) == ["DELAYED", "EXECUTING"]
    worker.park(second, wait(1, 60))
    (third,) = trigger(db)
    assert db.status(third) == "EXECUTING"


def test_a_run_that_is_being_canceled_holds_its_slot_until_it_has_ended(db: Driver) -> None:
    worker = db.worker(queue=limited(total=1))
    first, second = trigger(db, 2)
    db.cancel(first)
    assert statuses(db, [first, second]) == ["CANCELING", "QUEUED"]
    worker.report(first, rules.END_CANCELED)
    assert statuses(db, [first, second]) == ["CANCELED", "EXECUTING"]


def test_the_runs_of_a_lost_worker_give_their_slots_to_those_before_them(db: Driver) -> None:
    db.worker(slots=10)
    lost = db.worker(queue=limited(total=1), slots=20)
    first, second = trigger(db, 2)
    assert first in lost.bodies
    db.end_session(lost)
    assert executing(db) == {"": 1}
    assert db.status(first) == "EXECUTING"  # its order is the older one
    assert db.status(second) == "QUEUED"


def test_a_lowered_limit_stops_nobody_and_starts_nobody(db: Driver) -> None:
    worker = db.worker(queue=limited(total=4))
    runs = trigger(db, 8)
    db.one(m.UpdateQueue(NAMESPACE, "q", QueueLimits(total=2)))
    for count in (3, 2, 2):
        worker.complete(next(iter(worker.bodies)))
        assert sum(executing(db).values()) == count
    assert statuses(db, runs).count("QUEUED") == 3


def test_a_raised_limit_starts_runs_in_the_commit_that_raises_it(db: Driver) -> None:
    db.worker(queue=limited(total=1))
    trigger(db, 4)
    before = len(db.committed)
    db.one(m.UpdateQueue(NAMESPACE, "q", QueueLimits(total=3)))
    assert sum(executing(db).values()) == 3
    assert len(db.committed) == before + 1


def test_a_parent_and_its_child_on_a_queue_of_limit_1_both_finish(db: Driver) -> None:
    worker = db.worker("parent", "t", queue=limited(total=1))
    (parent,) = trigger(db, task="parent")
    item = new()
    worker.report(parent, "", child(1, item))
    assert db.status(item.id) == "QUEUED"
    worker.report(parent, rules.PARK)
    assert statuses(db, [parent, item.id]) == ["WAITING", "EXECUTING"]
    worker.complete(item.id)
    assert db.status(parent) == "EXECUTING"
    worker.complete(parent)
    assert statuses(db, [parent, item.id]) == ["COMPLETED", "COMPLETED"]


# --- woken runs -------------------------------------------------------------------------------------------------------


def test_a_woken_run_needs_a_slot_of_its_queue_again(db: Driver) -> None:
    worker = db.worker(queue=limited(total=1))
    first, second = trigger(db, 2)
    worker.park(first, wait(1, 2))
    assert db.status(second) == "EXECUTING"
    db.turn(2)
    assert db.status(first) == "QUEUED"
    assert db.run(first).reason == m.RESUMING
    worker.complete(second)
    assert db.status(first) == "EXECUTING"
    assert worker.last().resumes[0].run.id == first  # in place


def test_a_woken_run_whose_patience_ends_is_re_entered_when_its_queue_has_room(db: Driver) -> None:
    worker = db.worker(queue=limited(total=1))
    first, second = trigger(db, 2)
    worker.park(first, wait(1, 2))
    db.turn(2)
    db.turn(db.world.settings.resume_patience)
    assert first not in worker.bodies
    assert db.status(first) == "QUEUED"
    worker.complete(second)
    assert db.status(first) == "EXECUTING"
    assert worker.last().starts[0].is_reentry


def test_woken_runs_and_new_ones_take_turns_by_lane(db: Driver) -> None:
    worker = db.worker(queue=limited(total=1))
    parked = []
    for _ in range(3):
        (run_id,) = trigger(db, lane="busy")
        worker.park(run_id, wait(1, 10))
        parked.append(run_id)
    (blocker,) = trigger(db, lane="busy")
    (single,) = trigger(db, lane="single")
    db.turn(10)
    assert statuses(db, parked) == ["QUEUED"] * 3
    worker.complete(blocker)
    assert db.status(single) == "EXECUTING"
    worker.complete(single)
    assert statuses(db, parked) == ["EXECUTING", "QUEUED", "QUEUED"]


def test_a_full_queues_woken_runs_do_not_hide_those_of_others(db: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = db.worker(queue=limited(total=1), slots=3)
    parked = []
    for _ in range(5):
        (run_id,) = trigger(db)
        worker.park(run_id, wait(1, 10))
        parked.append(run_id)
    (holder,) = trigger(db)
    (other,) = trigger(db, queue="other")
    worker.park(other, wait(1, 10))
    db.turn(10)
    assert db.status(other) == "EXECUTING"
    assert statuses(db, parked) == ["QUEUED"] * 5
    worker.complete(holder)
    assert db.status(parked[0]) == "EXECUTING"


# --- rate -------------------------------------------------------------------------------------------------------------


def test_no_period_has_more_starts_than_the_rate_allows(db: Driver) -> None:
    worker = db.worker(queue=limited(rate=3, period=10), slots=100)
    trigger(db, 12)
    starts: list[int] = []
    for _ in range(45):
        for run_id in list(worker.bodies):
            starts.append(db.run(run_id).started_at or 0)
            worker.complete(run_id)
        db.turn(1)
    assert len(starts) == 12
    for begin in starts:
        assert sum(begin <= instant < begin + 10 * SECOND for instant in starts) <= 3
    assert max(starts) - min(starts) < 32 * SECOND


def test_a_timer_opens_a_queue_whose_rate_is_used_up(db: Driver) -> None:
    worker = db.worker(queue=limited(rate=1, period=10))
    first, second = trigger(db, 2)
    worker.complete(first)
    assert db.status(second) == "QUEUED"
    assert db.queues_due == {"q": db.now + 10 * SECOND}
    db.turn(10)
    assert db.status(second) == "EXECUTING"


def test_a_woken_run_is_no_start(db: Driver) -> None:
    worker = db.worker(queue=limited(rate=1, period=60))
    (first,) = trigger(db)
    worker.park(first, wait(1, 5))
    (second,) = trigger(db)
    assert db.status(second) == "QUEUED"
    db.turn(5)
    assert statuses(db, [first, second]) == ["EXECUTING", "QUEUED"]


def test_the_rate_counts_starts_of_before_a_crash(db: Driver) -> None:
    worker = db.worker(queue=limited(rate=1, period=60))
    first, second = trigger(db, 2)
    db.crash()
    worker.complete(first)
    db.look()
    assert db.status(second) == "QUEUED"
    db.turn(60)
    assert db.status(second) == "EXECUTING"


# --- pauses -----------------------------------------------------------------------------------------------------------


def test_a_paused_queue_starts_nothing_and_what_executes_goes_on(db: Driver) -> None:
    worker = db.worker()  # its queue has no limits
    (first,) = trigger(db)
    db.one(m.PauseQueue(NAMESPACE, "task/t", True))
    (second,) = trigger(db)
    worker.complete(first)
    assert statuses(db, [first, second]) == ["COMPLETED", "QUEUED"]
    before = len(db.committed)
    db.one(m.PauseQueue(NAMESPACE, "task/t", False))
    assert db.status(second) == "EXECUTING"
    assert len(db.committed) == before + 1


def test_a_paused_queue_lets_no_woken_run_go_on(db: Driver) -> None:
    worker = db.worker(queue=limited(total=5))
    (run_id,) = trigger(db)
    worker.park(run_id, wait(1, 1))
    db.one(m.PauseQueue(NAMESPACE, "q", True))
    db.turn(1)
    assert db.status(run_id) == "QUEUED"
    db.one(m.PauseQueue(NAMESPACE, "q", False))
    assert db.status(run_id) == "EXECUTING"


def test_a_pause_survives_a_deploy_and_a_crash(db: Driver) -> None:
    worker = db.worker(queue=limited(lane=1))
    db.one(m.PauseQueue(NAMESPACE, "q", True))
    db.crash()
    db.worker(queue=limited(lane=2), version="2")
    (run_id,) = trigger(db)
    assert db.status(run_id) == "QUEUED"
    assert not worker.bodies


# --- what code declares, and overrides --------------------------------------------------------------------------------


def limits(db: Driver, name: str = "q") -> QueueLimits | None:
    """The limits in force."""
    with db.transaction() as tx:
        rows = queues.store.lock_queues(tx, NAMESPACE, [name])
    return rows[name].limits if name in rows else None


def test_queues_are_declared_by_the_hello_of_a_worker(db: Driver) -> None:
    db.worker("t", "u", queue=limited(lane=2, total=5, rate=7, period=3, depth=9))
    assert limits(db) == QueueLimits(lane=2, total=5, rate=7, period_us=3 * SECOND, depth=9)
    db.worker("v")
    assert limits(db, "task/v") is None  # what has no limits needs no row
    assert db.count("queue_changes") == 1


def test_limits_of_the_queue_that_a_task_has_to_itself(db: Driver) -> None:
    worker = db.worker(queue=limited("", lane=1))
    trigger(db, 2)
    assert len(worker.bodies) == 1
    assert limits(db, "task/t") == QueueLimits(lane=1)


def test_a_deploy_changes_limits_and_an_old_worker_that_reconnects_flips_none_back(db: Driver) -> None:
    old = db.worker(queue=limited(lane=1), version="1")
    db.clock.turn(60)  # type: ignore[union-attr]
    db.worker(queue=limited(lane=5), version="2")
    assert limits(db) == QueueLimits(lane=5)
    definitions = db.define("t", queue=limited(lane=1), version="1")
    db.one(m.ResumeSession(NAMESPACE, old.session, b"secret", definitions))
    db.one(m.OpenSession(NAMESPACE, b"n" * 16, b"secret", "another", "1", definitions))
    assert limits(db) == QueueLimits(lane=5)
    # A replica that has never seen the old version must not take it for a new one.
    db.crash()
    db.world._versions.clear()
    db.clock.turn(60)  # type: ignore[union-attr]
    db.one(m.OpenSession(NAMESPACE, b"o" * 16, b"secret", "another", "1", db.define("t", queue=limited(lane=1))))
    assert limits(db) == QueueLimits(lane=5)


def test_a_deploy_may_take_limits_away(db: Driver) -> None:
    worker = db.worker(queue=limited(lane=1), version="1")
    trigger(db, 3)
    db.clock.turn(60)  # type: ignore[union-attr]
    db.worker(queue=limited(), version="2", slots=0)
    db.look()
    assert limits(db) == QueueLimits()
    assert len(worker.bodies) == 3


def test_another_service_that_only_names_a_queue_leaves_its_limits(db: Driver) -> None:
    db.worker("t", queue=limited(lane=3), version="a")
    db.clock.turn(60)  # type: ignore[union-attr]
    db.worker("u", queue=limited(), version="b")
    assert limits(db) == QueueLimits(lane=3)


def test_a_changed_definition_of_the_same_version_counts(db: Driver) -> None:
    db.worker(queue=limited(lane=3), version="")
    db.worker(queue=limited(lane=4), version="")
    assert limits(db) == QueueLimits(lane=4)


def test_an_override_is_not_undone_by_a_deploy_until_it_is_taken_away(db: Driver) -> None:
    db.worker(queue=limited(lane=2), version="1")
    db.one(m.UpdateQueue(NAMESPACE, "q", QueueLimits(lane=9)))
    db.clock.turn(60)  # type: ignore[union-attr]
    db.worker(queue=limited(lane=4), version="2")
    assert limits(db) == QueueLimits(lane=9)
    db.one(m.UpdateQueue(NAMESPACE, "q", None))
    assert limits(db) == QueueLimits(lane=4)


def test_an_override_may_come_before_the_queue_is_used(db: Driver) -> None:
    db.one(m.UpdateQueue(NAMESPACE, "later", QueueLimits(total=1)))
    worker = db.worker()
    trigger(db, 3, queue="later")
    assert len(worker.bodies) == 1


# --- depth ------------------------------------------------------------------------------------------------------------


def test_a_trigger_beyond_the_depth_is_refused_alone(db: Driver) -> None:
    db.worker(queue=limited(total=1, depth=2))
    trigger(db)
    outcomes = db.one(m.TriggerRuns(NAMESPACE, [new(), new(queue="other"), new(), new()]))
    kinds = [one.reason if isinstance(one, ItemFault) else "" for one in outcomes]
    assert kinds == ["", "", "", "LIMIT_EXCEEDED"]
    assert outcomes[3].metadata == {"limit": "depth_limit", "queue": "q", "most": "2"}
    assert "'q'" in outcomes[3].message


def test_delayed_runs_and_known_keys_need_no_depth(db: Driver) -> None:
    db.worker(slots=0, queue=limited(depth=1))
    first = db.trigger(key=key())
    assert db.trigger(key=key()).run_id == first.run_id
    assert not isinstance(db.trigger(delay_us=SECOND), ItemFault)
    assert isinstance(db.trigger(), ItemFault)
    assert db.trigger(id=first.run_id).run_id == first.run_id


def test_a_child_beyond_the_depth_is_an_error_of_the_call(db: Driver) -> None:
    worker = db.worker("parent", slots=1)
    db.worker("t", slots=0, queue=limited(depth=1))
    trigger(db)
    (parent,) = trigger(db, task="parent")
    worker.report(parent, "", child(1, new()))
    (checkpoint,) = db.checkpoints(parent)
    assert checkpoint.status == m.FAILED_CHECKPOINT
    assert b"depth_limit" in (checkpoint.error or b"")


def test_the_servers_limit_does_not_count_what_was_not_committed(
    migrated_url: str, replica: Callable[..., Driver], monkeypatch: pytest.MonkeyPatch
) -> None:
    db = replica(migrated_url, settings=Settings(limits=Limits(queue_depth=50)))
    db.worker(slots=0)
    once, tries = db.loop._once, iter(range(1_000))
    with db.transaction() as tx:
        kind = type(tx)

    def every_other(*args: Any) -> Any:
        with monkeypatch.context() as patch:
            if next(tries) % 2 == 0:
                patch.setattr(kind, "commit", conflict)
            return once(*args)

    def conflict(*_: Any) -> None:
        raise ConflictError("of the test")

    db.loop._once = every_other  # type: ignore[method-assign]
    outcomes = [db.trigger() for _ in range(60)]
    assert sum(isinstance(one, ItemFault) for one in outcomes) == 10


def test_the_servers_limit_holds_where_a_queue_has_none(migrated_url: str, replica: Callable[..., Driver]) -> None:
    db = replica(migrated_url, settings=Settings(limits=Limits(queue_depth=50)))
    db.worker(slots=0)
    outcomes = [db.trigger() for _ in range(60)]
    refused = [one for one in outcomes if isinstance(one, ItemFault)]
    assert len(refused) == 10
    assert refused[0].metadata["limit"] == "queue_depth"
    db.worker(slots=20)
    assert isinstance(db.trigger(), ItemFault)  # it was counted a moment ago
    db.turn(1)
    assert not isinstance(db.trigger(), ItemFault)


# --- turns ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("queue", [limited(), limited(total=3)], ids=["unlimited", "limited"])
def test_ten_thousand_queued_runs_delay_another_tenants_run_by_one_turn(db: Driver, queue: Any) -> None:
    worker = db.worker(queue=queue, slots=3)
    for _ in range(10):
        trigger(db, 1000, lane="big")
    for _ in range(20):
        worker.complete(next(iter(worker.bodies)))
    (single,) = trigger(db, lane="small")
    turns = 0
    while db.status(single) == "QUEUED":
        worker.complete(next(iter(worker.bodies)))
        turns += 1
    assert turns <= 1
    assert sum(executing(db).values()) == 3


def test_busy_lanes_get_the_same_share(db: Driver) -> None:
    worker = db.worker(slots=4)
    for lane in "abc":
        trigger(db, 40, lane=lane)
    started: Counter[str] = Counter()
    for _ in range(60):
        run_id = next(iter(worker.bodies))
        started[db.run(run_id).lane] += 1
        worker.complete(run_id)
    # The first four slots were a's before the others came.
    assert max(started.values()) - min(started.values()) <= 5


def test_lanes_of_different_queues_take_turns_too(db: Driver) -> None:
    worker = db.worker("t", "u", slots=1)
    trigger(db, 50)
    (single,) = trigger(db, task="u")
    worker.complete(next(iter(worker.bodies)))
    assert single in worker.bodies or db.status(single) == "QUEUED"
    worker.complete(next(iter(worker.bodies)))
    assert db.status(single) != "QUEUED"


def test_credit_is_used_up_whatever_the_lanes_hold(db: Driver) -> None:
    worker = db.worker(slots=0)
    trigger(db, 60, lane="big")
    for number in range(9):
        trigger(db, lane=f"small{number}")
    worker.slots = 50
    db.look()
    assert len(worker.bodies) == 50
    assert executing(db, "task/t")["big"] == 41


@pytest.mark.parametrize("closed", ["unservable", "paused", "full", "lanes"])
def test_a_backlog_that_nobody_can_take_hides_nothing(db: Driver, closed: str) -> None:
    worker = db.worker("t", slots=5)
    db.worker("gone", "u", slots=0, queue=limited("stuck", lane=1, total=1 if closed == "full" else 0))
    if closed == "paused":
        db.one(m.PauseQueue(NAMESPACE, "stuck", True))
    if closed in ("full", "lanes"):
        worker.tasks = frozenset({"t", "u"})
    task = "gone" if closed == "unservable" else "u"
    for number in range(20):
        trigger(db, 20, task=task, lane=str(number % 4))
    runs = trigger(db, 3)
    assert statuses(db, runs) == ["EXECUTING"] * 3 if closed != "lanes" else True
    meter = db.loop.meter
    before = meter.statements
    for run_id in list(worker.bodies):
        if db.run(run_id).task == "t":
            worker.complete(run_id)
    again = trigger(db, 1)
    assert db.status(again[0]) == "EXECUTING" or closed == "lanes"
    assert meter.statements - before < 120


def test_more_lanes_than_are_listed_all_have_their_turn(db: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog, "LANES_KNOWN", 10)
    monkeypatch.setattr(claiming, "LANES_KNOWN", 10)
    worker = db.worker(slots=0)
    for number in range(35):
        trigger(db, 2, lane=str(number))
    assert not db.loop.is_backlog_known(NAMESPACE)
    worker.slots = 4
    served: set[str] = set()
    for _ in range(40):
        db.loop.expect_backlog(NAMESPACE)  # the look of each second
        db.look()
        for run_id in list(worker.bodies):
            served.add(db.run(run_id).lane)
            worker.complete(run_id)
    assert len(served) == 35


def test_more_limited_queues_than_one_look_opens_all_have_their_turn(
    db: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claiming, "LANES_LOOKED_AT", 2)
    worker = db.worker(slots=0)
    for number in range(12):
        db.one(m.UpdateQueue(NAMESPACE, f"q{number}", QueueLimits(total=1)))
        trigger(db, 3, queue=f"q{number}")
    worker.slots = 12
    db.look()
    assert len(worker.bodies) == 12


# --- cost -------------------------------------------------------------------------------------------------------------


def test_queues_without_limits_cost_no_statement(db: Driver) -> None:
    worker = db.worker(slots=5)

    def cost() -> int:
        before = db.loop.meter.statements
        (run_id,) = trigger(db)
        worker.complete(run_id)
        return db.loop.meter.statements - before

    trigger(db)
    alone = cost()
    db.worker("other", queue=limited(total=1))
    trigger(db, 3, task="other")
    cost()  # reads the new queue
    assert [cost() for _ in range(3)] == [alone] * 3


# --- everything at once -----------------------------------------------------------------------------------------------


def misses(db: Driver) -> list[str]:
    """What breaks a limit, and what could start and does not, judged from the rows alone."""
    with db.transaction() as tx:
        rows = queues.store.load_queues(tx)
        runs = tx.fetch("SELECT queue, lane, task, status, session FROM runs WHERE status < 10")
    known = {row.name: row for _, row in rows}
    busy = Counter((queue, lane) for queue, lane, _, status, _ in runs if status in (m.EXECUTING, m.CANCELING))
    total: Counter[str] = Counter()
    for (queue, _), count in busy.items():
        total[queue] += count
    wrong = []
    for (queue, lane), count in busy.items():
        row = known.get(queue)
        if row is not None and row.limits.lane and count > row.limits.lane:
            wrong.append(f"{count} runs of {queue}/{lane} execute, limit {row.limits.lane}")
    for queue, count in total.items():
        row = known.get(queue)
        if row is not None and row.limits.total and count > row.limits.total:
            wrong.append(f"{count} runs of {queue} execute, limit {row.limits.total}")
    for queue, lane, task, status, session in runs:
        if status != m.QUEUED:
            continue
        row = known.get(queue)
        if row is not None and row.gates_starts:
            room = row.paused_at is None
            room = room and (not row.limits.lane or busy[queue, lane] < row.limits.lane)
            room = room and (not row.limits.total or total[queue] < row.limits.total)
            starts = sum(n for at, n in row.taken if at + row.limits.period_us > db.now)
            room = room and (session is not None or not row.limits.rate or starts < row.limits.rate)
            if not room:
                continue
        for worker in db.workers.values():
            offer = worker.offer()
            mine = session is None or bytes(session) == worker.session
            if mine and offer is not None and offer.slots > 0 and offer.places > 0 and task in worker.tasks:
                wrong.append(f"a run of {queue}/{lane} waits though it could start")
    return wrong


class Play:
    """Random work on a few queues."""

    def __init__(self, db: Driver, seed: int) -> None:
        self.db = db
        self.chance = random.Random(seed)
        self.db.worker("t", "u", slots=4, queue=limited("q0", lane=2, total=3))
        self.db.worker("t", slots=2, queue=limited("q0", lane=2, total=3))
        self.names = ["q0", "q1", "q2", "free"]
        self.may_lower = True
        self.token = 0

    def worker(self) -> Worker:
        return self.chance.choice(list(self.db.workers.values()))

    def trigger(self) -> None:
        for _ in range(self.chance.choice([1, 1, 1, 7])):
            options = {"queue": self.chance.choice(self.names), "lane": self.chance.choice("aab")}
            task = self.chance.choice("tu")
            delay = self.chance.choice([0, 0, SECOND])
            self.db.trigger(task=task, delay_us=delay, max_attempts=2, **options)

    def end(self) -> None:
        worker = self.worker()
        bodies = [run_id for run_id, body in worker.bodies.items() if not body.parked]
        if not bodies:
            return
        run_id = self.chance.choice(bodies)
        canceling = self.db.run(run_id).status == m.CANCELING
        what = self.chance.choice(["complete", "fail", "park", "park", "release", "lose"])
        if canceling:
            worker.report(run_id, rules.END_CANCELED)
        elif what == "complete":
            worker.complete(run_id)
        elif what == "fail":
            worker.fail(run_id, retryable=True)
        elif what == "park":
            self.token += 1
            worker.park(run_id, wait(worker.bodies[run_id].last_seq + 1, self.chance.choice([1, 5])))
        elif what == "release":
            worker.report(run_id, rules.RELEASE)
        else:
            worker.report(run_id, rules.LOSE, error=error("CRASHED"))

    def cancel(self) -> None:
        with self.db.transaction() as tx:
            rows = tx.fetch("SELECT id FROM runs WHERE status < 5 ORDER BY id")
        if rows:
            self.db.cancel(bytes(self.chance.choice(rows)[0]))

    def replace_worker(self) -> None:
        worker = self.worker()
        self.db.end_session(worker, lost=self.chance.random() < 0.5)
        queue = limited("q0", lane=2, total=3)
        self.db.worker(*sorted(worker.tasks), slots=worker.slots, queue=queue)

    def pause(self) -> None:
        self.db.one(m.PauseQueue(NAMESPACE, self.chance.choice(self.names), self.chance.random() < 0.5))

    def update(self) -> None:
        name = self.chance.choice(self.names[1:])
        with self.db.transaction() as tx:
            before = queues.store.lock_queues(tx, NAMESPACE, [name]).get(name)
        old = before.limits if before is not None else QueueLimits()
        # A limit that is lowered is exceeded until enough has ended: here it only goes up, or goes away.
        lane = self.chance.choice([0, old.lane + 1]) if old.lane else 0
        total = self.chance.choice([0, old.total + 1]) if old.total else 0
        rate = self.chance.choice([0, 3])
        if not executing(self.db, name):
            lane, total = self.chance.choice([0, 1, 2]), self.chance.choice([0, 1, 2])
        self.db.one(m.UpdateQueue(NAMESPACE, name, QueueLimits(lane, total, rate, 3 * SECOND if rate else 0)))

    def crash(self) -> None:
        self.db.crash()
        self.db.look()

    def time(self) -> None:
        self.db.turn(self.chance.choice([0.5, 1, 3]))

    def step(self) -> str:
        ways = [self.trigger, self.end, self.end, self.end, self.time, self.cancel, self.pause, self.update]
        rare = [self.replace_worker, self.crash]
        way = self.chance.choice(rare if self.chance.random() < 0.04 else ways)
        way()
        return way.__name__


@pytest.mark.parametrize("seed", range(6))
def test_limits_hold_and_nothing_waits_that_could_start(db: Driver, seed: int) -> None:
    play = Play(db, seed)
    for number in range(150):
        what = play.step()
        wrong = misses(db)
        assert not wrong, f"seed {seed}, step {number} ({what}): {wrong}"
    for name in play.names:
        db.one(m.PauseQueue(NAMESPACE, name, False))
    for _ in range(400):
        for worker in list(db.workers.values()):
            for run_id in [run_id for run_id, body in worker.bodies.items() if not body.parked]:
                if db.run(run_id).status == m.CANCELING:
                    worker.report(run_id, rules.END_CANCELED)
                else:
                    worker.complete(run_id)
        db.turn(3)
        with db.transaction() as tx:
            if not tx.fetch("SELECT 1 FROM runs WHERE status < 10 LIMIT 1"):
                break
    with db.transaction() as tx:
        assert tx.fetch("SELECT status, reason FROM runs WHERE status < 10") == []
    assert isinstance(db.clock, Clock)
