"""Debounce on both databases: triggers with one key are merged into one run until it starts."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from harness.store_driver import NAMESPACE, SECOND, Driver, Worker, child, key, new
from holdfast.v1.run_pb2 import TriggerOptions
from holdfast_scheduler import model as m
from holdfast_scheduler.model import Debounce


def debounce(name: str = "k", delay: float = 10, *, leading: bool = False, most: float | None = None) -> Debounce:
    """Durations in seconds."""
    return Debounce(name, round(delay * SECOND), leading, None if most is None else round(most * SECOND))


@pytest.fixture
def worker(db: Driver) -> Worker:
    return db.worker("t", "u", queue=None)


def started(worker: Worker, run_id: bytes) -> m.Inputs:
    """With what a run started."""
    inputs = worker.bodies[run_id].order.inputs
    assert inputs is not None
    return inputs


def test_each_trigger_puts_the_start_off_and_the_last_payload_wins(db: Driver, worker: Worker) -> None:
    first = db.trigger(payload=b"1", debounce=debounce(), tags=["old"], metadata=b'{"n":1}')
    run = db.run(first.run_id)
    assert (run.status, run.reason, run.wake_at) == (m.DELAYED, m.DEBOUNCED, db.now + 10 * SECOND)
    assert not first.is_cached
    db.turn(9)
    again = db.trigger(payload=b"2", debounce=debounce(), tags=["new"], metadata=b'{"n":2}')
    assert (again.run_id, again.is_cached, again.payload_differs) == (first.run_id, True, False)
    db.turn(9)
    assert db.status(first.run_id) == "DELAYED"
    db.turn(1)
    assert db.status(first.run_id) == "EXECUTING"
    inputs = started(worker, first.run_id)
    assert (inputs.payload, inputs.tags) == (b"2", ["new"])
    assert worker.bodies[first.run_id].order.metadata == b'{"n":2}'
    with db.transaction() as tx:
        assert tx.fetch("SELECT tag FROM run_tags") == [("new",)]


def test_leading_keeps_what_the_first_trigger_brought(db: Driver, worker: Worker) -> None:
    first = db.trigger(payload=b"1", debounce=debounce(leading=True), tags=["old"], priority_us=SECOND)
    db.turn(5)
    assert db.trigger(payload=b"2", debounce=debounce(leading=True), priority_us=9 * SECOND).run_id == first.run_id
    run = db.run(first.run_id)
    assert (run.wake_at, run.order_at) == (db.now + 10 * SECOND, db.now + 9 * SECOND)
    db.turn(10)
    inputs = started(worker, first.run_id)
    assert (inputs.payload, inputs.tags) == (b"1", ["old"])


def test_the_last_trigger_brings_its_options_but_not_its_queue(db: Driver, worker: Worker) -> None:
    first = db.trigger(debounce=debounce(), max_attempts=2, queue="a", lane="x")
    second = db.trigger(debounce=debounce(), max_attempts=7, queue="b", priority_us=3 * SECOND, timeout_us=60 * SECOND)
    assert second.run_id == first.run_id
    run = db.run(first.run_id)
    assert (run.max_attempts, run.queue, run.lane) == (7, "a", "x")
    assert (run.order_at, run.deadline_at) == (db.now + 7 * SECOND, db.now + 60 * SECOND)


def test_the_start_is_put_off_no_further_than_max_delay(db: Driver, worker: Worker) -> None:
    begun = db.now
    first = db.trigger(debounce=debounce(most=25))
    for _ in range(4):
        db.turn(6)
        assert db.trigger(debounce=debounce(most=25)).run_id == first.run_id
    assert db.run(first.run_id).wake_at == begun + 25 * SECOND
    db.turn(1)
    assert db.status(first.run_id) == "EXECUTING"


def test_max_delay_may_be_shorter_than_the_delay(db: Driver, worker: Worker) -> None:
    first = db.trigger(debounce=debounce(delay=60, most=5))
    assert db.run(first.run_id).wake_at == db.now + 5 * SECOND


def test_a_debounced_run_is_rescheduled_and_goes_on_merging(db: Driver, worker: Worker) -> None:
    first = db.trigger(payload=b"1", debounce=debounce())
    assert db.one(m.RescheduleRun(db.namespace, first.run_id, 60 * SECOND, None)) is None
    assert db.run(first.run_id).wake_at == db.now + 60 * SECOND
    assert db.trigger(payload=b"2", debounce=debounce()).run_id == first.run_id
    assert db.run(first.run_id).wake_at == db.now + 10 * SECOND
    assert db.one(m.RescheduleRun(db.namespace, first.run_id, 0, None)) is None
    db.turn(0)
    assert started(worker, first.run_id).payload == b"2"


def test_a_run_that_has_started_merges_nothing_more(db: Driver, worker: Worker) -> None:
    first = db.trigger(debounce=debounce())
    db.turn(10)
    second = db.trigger(debounce=debounce())
    assert second.run_id != first.run_id
    assert not second.is_cached
    assert db.trigger(debounce=debounce()).run_id == second.run_id


def test_a_queued_run_merges_nothing_more(db: Driver, worker: Worker) -> None:
    worker.slots = 0
    first = db.trigger(debounce=debounce())
    db.turn(10)
    assert db.status(first.run_id) == "QUEUED"
    assert db.trigger(debounce=debounce()).run_id != first.run_id


def test_a_canceled_run_merges_nothing_more(db: Driver, worker: Worker) -> None:
    first = db.trigger(debounce=debounce())
    db.cancel(first.run_id)
    assert db.trigger(debounce=debounce()).run_id != first.run_id


def test_keys_belong_to_their_tasks(db: Driver, worker: Worker) -> None:
    runs = {db.trigger(task=task, debounce=debounce(name)).run_id for task in "tu" for name in "ab"}
    assert len(runs) == 4


def test_triggers_of_one_commit_are_merged(db: Driver, worker: Worker) -> None:
    items = [new(payload=str(number).encode(), debounce=debounce(), tags=[f"t{number}"]) for number in range(5)]
    handles = db.one(m.TriggerRuns(NAMESPACE, items))
    assert {handle.run_id for handle in handles} == {items[0].id}
    assert [handle.is_cached for handle in handles] == [False, True, True, True, True]
    db.turn(10)
    inputs = started(worker, items[0].id)
    assert (inputs.payload, inputs.tags) == (b"4", ["t4"])
    assert db.count("runs") == 1
    assert db.count("run_tags") == 1


def test_a_repeated_call_of_the_first_trigger_is_no_trigger(db: Driver, worker: Worker) -> None:
    item = new(payload=b"1", debounce=debounce())
    db.trigger(item)
    db.turn(5)
    db.trigger(payload=b"2", debounce=debounce())
    db.turn(5)
    again = db.trigger(new(payload=b"1", id=item.id, debounce=debounce()))
    assert (again.run_id, again.is_cached) == (item.id, False)
    db.turn(5)
    assert started(worker, item.id).payload == b"2"


def test_an_idempotency_key_comes_first_and_then_points_at_the_merged_run(db: Driver, worker: Worker) -> None:
    first = db.trigger(debounce=debounce())
    keyed = db.trigger(payload=b"2", debounce=debounce(), key=key())
    assert keyed.run_id == first.run_id
    db.turn(10)
    assert db.trigger(debounce=debounce(), key=key()).run_id == first.run_id
    assert db.trigger(debounce=debounce()).run_id != first.run_id


def test_the_time_to_live_begins_when_the_delay_is_over(db: Driver, worker: Worker) -> None:
    worker.slots = 0
    options = TriggerOptions(ttl=Duration(seconds=30)).SerializeToString()
    first = db.trigger(debounce=debounce(), ttl_us=30 * SECOND, options=options)
    db.turn(10)
    db.turn(29)
    assert db.status(first.run_id) == "QUEUED"
    db.turn(1)
    assert db.status(first.run_id) == "EXPIRED"


def test_children_are_merged_and_awaited_by_all_who_asked(db: Driver, worker: Worker) -> None:
    parents = [db.trigger(task="u").run_id for _ in range(2)]
    for at, parent in enumerate(parents):
        worker.park(parent, child(1, new(payload=str(at).encode(), debounce=debounce())))
    (first,) = db.children(parents[0])
    assert db.children(parents[1]) == []
    db.turn(10)
    assert started(worker, first.id).payload == b"1"
    worker.complete(first.id, b"both")
    assert [db.status(parent) for parent in parents] == ["EXECUTING"] * 2


def test_a_delay_is_until_an_instant_and_priority_is_seconds_ahead(db: Driver, worker: Worker) -> None:
    """What the scheduler promises of `delay` and `priority`, in one lane."""
    worker.slots = 0
    runs: dict[str, Any] = {
        "plain": db.trigger().run_id,
        "delayed": db.trigger(delay_us=5 * SECOND).run_id,
    }
    db.turn(4)
    runs["late"] = db.trigger().run_id
    runs["urgent"] = db.trigger(priority_us=60 * SECOND).run_id
    runs["urgent and delayed"] = db.trigger(priority_us=3 * SECOND, delay_us=2 * SECOND).run_id
    db.turn(2)
    order = []
    worker.slots = 1
    for _ in runs:
        db.look()
        (run_id,) = worker.bodies
        order.append(next(name for name, one in runs.items() if one == run_id))
        worker.complete(run_id)
    assert order == ["urgent", "plain", "urgent and delayed", "late", "delayed"]
