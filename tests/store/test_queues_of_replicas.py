"""Limited queues with two replicas on one PostgreSQL: limits hold at every instant, and changes count at once."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from typing import Any

import psycopg
import pytest

from harness.store_driver import NAMESPACE, Driver, new, wait
from holdfast.v1.task_pb2 import QueueDefinition
from holdfast_scheduler import model as m
from holdfast_scheduler import run_machine as rules
from holdfast_scheduler.model import ItemFault, QueueLimits

SECONDS = 4.0
"""How long the replicas work against each other."""
LANE, TOTAL = 2, 5


@pytest.fixture
def two(migrated_postgres_url: str, replica: Any) -> tuple[Driver, Driver]:
    """Two replicas of one database."""
    return replica(migrated_postgres_url, clock=None), replica(migrated_postgres_url, clock=None)


class Observer(threading.Thread):
    """Counts again and again, in a snapshot of its own each time, how many runs hold a slot."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self._url = url
        self.is_over = threading.Event()
        self.most_in_lane = self.most = self.looks = 0

    def run(self) -> None:
        with psycopg.connect(self._url, autocommit=True) as connection:
            while not self.is_over.is_set():
                rows = connection.execute(
                    "SELECT lane, count(*) FROM runs WHERE queue = 'q' AND status IN (3, 5) GROUP BY lane"
                ).fetchall()
                self.looks += 1
                self.most = max(self.most, sum(count for _, count in rows))
                self.most_in_lane = max([self.most_in_lane, *(count for _, count in rows)])


def work(db: Driver, seed: int, until: float, failures: list[BaseException]) -> None:
    """Trigger, end, park, cancel and lose, as fast as it goes."""
    chance = random.Random(seed)
    try:
        while time.monotonic() < until:
            for _ in range(chance.choice([0, 1, 4])):
                db.trigger(queue="q", lane=chance.choice("aaab"))
            worker = chance.choice(list(db.workers.values()))
            for run_id in [run_id for run_id, body in worker.bodies.items() if not body.parked]:
                what = chance.random()
                if what < 0.1:
                    db.cancel(run_id)
                if run_id not in worker.bodies:
                    continue
                if db.run(run_id).status == m.CANCELING:
                    worker.report(run_id, rules.END_CANCELED)
                elif what < 0.3:
                    worker.park(run_id, wait(worker.bodies[run_id].last_seq + 1, 0.01))
                elif what < 0.4:
                    worker.report(run_id, rules.RELEASE)
                else:
                    worker.complete(run_id)
            if chance.random() < 0.05:
                db.end_session(worker)
                db.worker(slots=worker.slots, queue=QUEUE)
            with db.transaction() as tx:
                due = [row[0] for row in tx.fetch("SELECT id FROM runs WHERE due_at < ? LIMIT 50", (tx.now,))]
            if due:
                db.do(m.RunsDue(NAMESPACE, due))
            db.loop.expect_backlog(NAMESPACE)
            db.look()
    except BaseException as failure:
        failures.append(failure)


QUEUE = QueueDefinition(name="q", concurrency_limit=LANE, total_concurrency_limit=TOTAL)


def test_limits_hold_in_every_snapshot_while_two_replicas_claim(
    two: tuple[Driver, Driver], migrated_postgres_url: str
) -> None:
    for db in two:
        for _ in range(2):
            db.worker(slots=6, queue=QUEUE)
    observer = Observer(migrated_postgres_url)
    observer.start()
    failures: list[BaseException] = []
    until = time.monotonic() + SECONDS
    threads = [threading.Thread(target=work, args=(db, at, until, failures)) for at, db in enumerate(two)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    observer.is_over.set()
    observer.join()
    if failures:
        raise failures[0]
    ended = two[0].count("run_results")
    print(f"{observer.looks} snapshots, {ended} runs ended")
    assert observer.most <= TOTAL
    assert observer.most_in_lane <= LANE
    assert observer.most >= LANE + 1, "the limit was hardly tried"
    assert ended > 20  # a busy machine manages few


def test_a_change_on_one_replica_counts_in_the_next_commit_of_the_other(two: tuple[Driver, Driver]) -> None:
    here, there = two
    worker = there.worker(slots=10)
    assert there.trigger().run_id in worker.bodies
    here.one(m.PauseQueue(NAMESPACE, "task/t", True))
    paused = there.trigger().run_id
    assert there.status(paused) == "QUEUED"
    here.one(m.UpdateQueue(NAMESPACE, "task/t", QueueLimits(total=2)))
    here.one(m.PauseQueue(NAMESPACE, "task/t", False))
    more = [there.trigger().run_id for _ in range(3)]
    there.loop.hear(NAMESPACE, here.committed[-1].left)
    there.look()
    states = Counter(there.status(run_id) for run_id in (paused, *more))
    assert states == {"EXECUTING": 1, "QUEUED": 3}


def test_what_one_replica_frees_the_other_starts_when_it_is_told(two: tuple[Driver, Driver]) -> None:
    here, there = two
    first = here.worker("t", queue=QueueDefinition(name="q", total_concurrency_limit=1))
    second = there.worker("u", queue=QueueDefinition(name="q", total_concurrency_limit=1))
    run_id = here.trigger().run_id
    waiting = there.trigger(task="u").run_id
    assert there.status(waiting) == "QUEUED"
    first.complete(run_id)
    left = here.committed[-1].left
    assert left.opened == {"q"}
    there.loop.hear(NAMESPACE, left)
    there.look()
    assert waiting in second.bodies


def test_what_one_replica_leaves_queued_the_other_starts_when_it_is_told(two: tuple[Driver, Driver]) -> None:
    here, there = two
    here.worker("t", slots=0)
    worker = there.worker("t", slots=1)
    run_id = here.trigger(lane="k").run_id
    left = here.committed[-1].left
    assert left.places == {("task/t", "k", ("t", "", False))}
    there.loop.hear(NAMESPACE, left)
    there.look()
    assert run_id in worker.bodies


def test_the_depth_is_exact_for_two_replicas(two: tuple[Driver, Driver]) -> None:
    for db in two:
        db.worker(slots=0, queue=QueueDefinition(name="q", depth_limit=20))
    outcomes: list[Any] = []

    def ask(db: Driver) -> None:
        outcomes.extend(db.trigger(new()) for _ in range(20))

    threads = [threading.Thread(target=ask, args=(db,)) for db in two]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(isinstance(one, ItemFault) for one in outcomes) == 20
    assert two[0].count("runs") == 20
