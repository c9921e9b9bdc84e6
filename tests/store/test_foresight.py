"""Commits of few runs that look at nothing before they write: one round trip, and never on a wrong belief."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from harness.store_driver import Driver, Worker, child, key, new, step, wait
from harness.waiting import wait_until
from holdfast.v1.task_pb2 import QueueDefinition
from holdfast_scheduler import database, reads, store, unit_of_work
from holdfast_scheduler import model as m
from holdfast_scheduler import run_machine as rules
from holdfast_scheduler.database import FORESEEN_CLOCK_US, ConflictError
from holdfast_scheduler.pipeline import Pipeline
from holdfast_scheduler.unit_of_work import FORESEEN_AT_ONCE


@pytest.fixture
def two(migrated_postgres_url: str, replica: Any) -> tuple[Driver, Driver]:
    """Two replicas of one database, by its own clock."""
    return replica(migrated_postgres_url, clock=None), replica(migrated_postgres_url, clock=None)


class Trips:
    """How often the scheduler waits for the server, and how often in vain."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, db: Driver) -> None:
        self.count = self.failed = 0
        sync, commit = Pipeline._sync, db.loop._commit

        def counted(pipeline: Pipeline) -> None:
            if pipeline is db.database._pipeline:  # type: ignore[attr-defined]
                self.count += 1
            sync(pipeline)

        def watched(*args: Any, **options: Any) -> Any:
            try:
                return commit(*args, **options)
            except ConflictError:
                self.failed += 1
                raise

        monkeypatch.setattr(Pipeline, "_sync", counted)
        monkeypatch.setattr(db.loop, "_commit", watched)

    def since(self) -> tuple[int, int]:
        """(round trips, failures) since it was asked last."""
        found, self.count, self.failed = (self.count, self.failed), 0, 0
        return found


@pytest.fixture
def trips(two: tuple[Driver, Driver], monkeypatch: pytest.MonkeyPatch) -> Trips:
    """Those of the first replica."""
    return Trips(monkeypatch, two[0])


@pytest.fixture
def worker(two: tuple[Driver, Driver], trips: Trips) -> Worker:
    """A worker of the first replica, which has looked at everything once."""
    made = two[0].worker()
    made.complete(two[0].trigger().run_id)
    trips.since()
    return made


def test_a_lone_run_takes_one_round_trip_for_each_commit(
    two: tuple[Driver, Driver], worker: Worker, trips: Trips
) -> None:
    db = two[0]
    run_id = db.trigger().run_id
    assert trips.since() == (1, 0)
    worker.report(run_id, "", step(1))
    assert trips.since() == (1, 0)
    worker.complete(run_id, b"seven")
    assert trips.since() == (1, 0)
    assert db.result(run_id)[0] == b"seven"
    assert [one.value for one in db.checkpoints(run_id)] == [b"done"]


@pytest.mark.parametrize("what", ["delay", "key", "many", "wait", "fail"])
def test_what_is_measured_from_now_or_looks_further_is_read(
    two: tuple[Driver, Driver], worker: Worker, trips: Trips, what: str
) -> None:
    db = two[0]
    if what == "delay":
        db.trigger(delay_us=1_000_000)
    elif what == "key":
        db.trigger(key=key())
    elif what == "many":
        db.do(m.TriggerRuns(db.namespace, [new() for _ in range(FORESEEN_AT_ONCE + 1)]))
    else:
        run_id = db.trigger().run_id
        trips.since()
        if what == "wait":
            worker.park(run_id, wait(1, 3600))
        else:
            worker.fail(run_id)
    count, failed = trips.since()
    assert count > 1
    assert failed == 0


def test_a_run_that_another_replica_has_canceled_is_not_completed_unseen(
    two: tuple[Driver, Driver], worker: Worker, trips: Trips
) -> None:
    home, away = two
    run_id = home.trigger().run_id
    away.cancel(run_id)
    trips.since()
    assert [one.reason for one in worker.report(run_id, "", step(1))] == [m.REFUSED_CANCELING]
    assert trips.since()[1] == 1
    worker.report(run_id, rules.END_CANCELED)
    assert home.status(run_id) == "CANCELED"


def test_a_run_that_another_replica_begins_to_await_tells_of_its_end(
    two: tuple[Driver, Driver], worker: Worker, trips: Trips
) -> None:
    """Who awaits a run writes that into its row; who ends the run must see it there."""
    home, away = two
    waiting = away.worker("parent")
    item = new(key=key("shared", scope=m.SCOPE_GLOBAL))
    run_id = home.trigger(item).run_id
    home.trigger()  # as the last commit wrote it is what the next one believes
    parent = away.trigger(task="parent").run_id
    again = new(key=key("shared", scope=m.SCOPE_GLOBAL))
    waiting.park(parent, m.Record(1, "c", m.CHILD, "t", items=[again]))
    assert away.run(parent).pending == 1
    trips.since()
    worker.complete(run_id, b"x")
    assert trips.since()[1] == 1
    assert home.run(parent).pending == 0


@pytest.mark.parametrize("how", ["it connects elsewhere", "it is gone"])
def test_nothing_is_given_to_a_worker_that_is_no_longer_here(
    two: tuple[Driver, Driver], worker: Worker, trips: Trips, how: str
) -> None:
    home, away = two
    if how == "it is gone":
        assert away.one(m.EndSession(away.namespace, worker.session, False, "", worker.connection_no))
    else:
        assert away.one(m.ResumeSession(away.namespace, worker.session, b"secret", [])) == worker.connection_no + 1
    trips.since()
    run_id = home.trigger().run_id
    assert trips.since()[1] == 1
    assert home.status(run_id) == "QUEUED"
    assert run_id not in worker.bodies


def test_the_same_id_again_is_the_same_run(two: tuple[Driver, Driver], worker: Worker, trips: Trips) -> None:
    home, away = two
    run_id = home.trigger().run_id
    elsewhere = away.trigger().run_id
    trips.since()
    assert [home.trigger(id=one).run_id for one in (run_id, elsewhere)] == [run_id, elsewhere]
    assert trips.since()[1] == 2
    assert home.count("runs") == 3


def test_a_childs_id_in_a_foreseen_trigger_does_not_change_where_it_stands(
    two: tuple[Driver, Driver], worker: Worker, trips: Trips
) -> None:
    """What is remembered of new runs is remembered after their commit: this one fails, the run has a parent."""
    db = two[0]
    parent, item = db.trigger().run_id, new()
    worker.report(parent, "", child(1, item))
    db.trigger()
    trips.since()
    assert db.trigger(id=item.id).run_id == item.id
    assert trips.since()[1] == 1
    grandchild = new()
    worker.report(item.id, "", child(1, grandchild))
    with db.transaction() as tx:
        line = store.load_lineage(tx, db.namespace, [grandchild.id])[grandchild.id]
    assert (line[2], line[3], line[4]) == (item.id, parent, 2)


def test_a_limit_that_another_replica_sets_holds_at_once(two: tuple[Driver, Driver], trips: Trips) -> None:
    home, away = two
    worker = home.worker(queue=QueueDefinition(name="q"))
    first = home.trigger().run_id
    worker.report(first, "", step(1))
    assert trips.since()[1] == 0
    away.one(m.PauseQueue(away.namespace, "q", True))
    run_id = home.trigger().run_id
    assert trips.since()[1] == 1
    assert home.status(run_id) == "QUEUED"


@pytest.mark.parametrize("error_us", [1_000_000, 300_000, -FORESEEN_CLOCK_US - 1_000, -3_600_000_000])
def test_an_instant_that_is_wrong_is_not_used(
    two: tuple[Driver, Driver], worker: Worker, trips: Trips, error_us: int
) -> None:
    db = two[0]
    db.loop.clock.offset += error_us
    db.loop._last_now = 0
    before = db.loop.clock.now() - error_us
    run_id = db.trigger().run_id
    assert trips.since()[1] == 1
    since = db.run(run_id).since
    assert before <= since <= before + 10_000_000


def test_after_a_failure_one_commit_looks_and_the_next_need_not(
    two: tuple[Driver, Driver], worker: Worker, trips: Trips
) -> None:
    home, away = two
    canceled, other = home.trigger().run_id, home.trigger().run_id
    away.cancel(canceled)
    trips.since()
    worker.complete(canceled)
    count, failed = trips.since()
    assert (count > 1, failed) == (True, 1)
    home.trigger()
    worker.complete(other)
    assert trips.since()[1] == 0
    home.trigger()
    assert trips.since() == (1, 0)


def test_several_rows_are_looked_up_one_by_one_whatever_plan_is_kept(
    two: tuple[Driver, Driver], worker: Worker, migrated_postgres_url: str
) -> None:
    """A plan that was made for a small table must not read a large one."""
    db = two[0]
    worker.slots = 20
    pairs = [[db.trigger().run_id for _ in range(2)] for _ in range(8)]
    for pair in pairs[:7]:  # PostgreSQL keeps a plan after five
        worker.send(*[worker.report_of(run_id, "", step(1)) for run_id in pair])
    with psycopg.connect(migrated_postgres_url, autocommit=True) as other:
        columns = ", ".join(store.RUN_COLUMNS[1:])
        other.execute(
            f"INSERT INTO runs (namespace, id, {columns}) SELECT namespace, sha256(n::text::bytea), {columns}"
            " FROM runs, generate_series(1, 20000) AS n WHERE id = %s",  # type: ignore[arg-type]
            (pairs[0][0],),
        )
        other.execute("SELECT pg_stat_reset()")
        before = read_entries(other)
        worker.send(*[worker.report_of(run_id, "", step(1)) for run_id in pairs[7]])
        wait_until(lambda: read_entries(other) > before, "the statistics are written")
        assert read_entries(other) - before < 1000
        other.execute("DELETE FROM runs WHERE length(id) = 32")


def read_entries(connection: psycopg.Connection[Any]) -> int:
    """Rows of runs that were read, by scans of the table or of its indexes."""
    connection.execute("SELECT pg_stat_force_next_flush()")
    (found,) = connection.execute(
        "SELECT coalesce(seq_tup_read, 0) + (SELECT coalesce(sum(idx_tup_read), 0) FROM pg_stat_user_indexes"
        " WHERE relname = 'runs') FROM pg_stat_user_tables WHERE relname = 'runs'"
    ).fetchall()
    return int(found[0])


def test_a_row_that_somebody_holds_is_not_waited_for(
    two: tuple[Driver, Driver], worker: Worker, trips: Trips, migrated_postgres_url: str
) -> None:
    db = two[0]
    run_id = db.trigger().run_id
    trips.since()
    with psycopg.connect(migrated_postgres_url) as other:
        other.execute("SELECT 1 FROM runs WHERE id = %s FOR UPDATE", (run_id,))
        with pytest.raises(ConflictError):
            db.loop._commit(
                [worker.frame(worker.report_of(run_id, rules.COMPLETE))], {db.namespace: []}, is_hurried=True
            )
    assert db.status(run_id) == "EXECUTING"


def test_what_is_kept_is_bounded(two: tuple[Driver, Driver], worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unit_of_work, "FORESEEN_RUNS", 3)
    monkeypatch.setattr(unit_of_work, "LINEAGE_KEPT", 4)
    db = two[0]
    made = [db.trigger().run_id for _ in range(5)]
    assert list(db.world.foreseen) == [(db.namespace, run_id) for run_id in made[2:]]
    assert list(db.world.lineage) == made[1:]


def test_events_are_not_listed_before_what_was_foreseen_a_moment_earlier(
    two: tuple[Driver, Driver], worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The instants of a commit that is under way must lie behind the horizon of a reader, foreseen or not."""
    db = two[0]
    monkeypatch.setattr(database, "HORIZON_MARGIN_US", -3_600_000_000)
    with db.transaction() as tx, db.database.reader() as connection:
        tx.fetch("SELECT 1")
        begun = sa.text(
            "SELECT (extract(epoch FROM min(xact_start)) * 1000000)::int8 FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = :name"
        )
        first = connection.execute(begun, {"name": database.WRITER}).scalar_one()
        assert reads.commit_horizon(connection) == first - FORESEEN_CLOCK_US
