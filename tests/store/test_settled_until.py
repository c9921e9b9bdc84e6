"""The instant that a cursor of WatchRuns may hold: no end that comes to light later lies before it."""

from __future__ import annotations

import psycopg

from harness.store_driver import Driver
from holdfast_scheduler import database, reads


def settled(db: Driver) -> int:
    with db.database.reader() as connection:
        return reads.settled_until(connection, db.namespace)


def ended_at(db: Driver, run_id: bytes) -> int:
    with db.transaction() as tx:
        return int(tx.fetch("SELECT ended_at FROM run_results WHERE run_id = ?", (run_id,))[0][0])


def test_it_never_passes_an_end_that_is_not_visible_yet(replica: object, migrated_url: str) -> None:
    db: Driver = replica(migrated_url, clock=None)  # type: ignore[operator]
    worker = db.worker()
    before = settled(db)
    ends = []
    for _ in range(3):
        run_id = db.trigger().run_id
        worker.complete(run_id)
        ends.append(ended_at(db, run_id))
        assert settled(db) <= ends[-1]
    assert settled(db) >= before


def test_a_transaction_that_commits_late_holds_it_back(replica: object, migrated_postgres_url: str) -> None:
    """It began before another one that has committed: its ends will have earlier instants."""
    db: Driver = replica(migrated_postgres_url, clock=None)  # type: ignore[operator]
    margin = database.HORIZON_MARGIN_US
    with psycopg.connect(migrated_postgres_url, application_name=database.WRITER) as late:
        (began,) = late.execute("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::int8").fetchone() or (0,)
        late.execute("SELECT pg_sleep(0)")
        with db.database.reader() as connection:
            first = database.clock_of(connection)
        database.HORIZON_MARGIN_US = 0
        try:
            assert settled(db) <= began <= first
            late.commit()
            assert settled(db) >= first
        finally:
            database.HORIZON_MARGIN_US = margin
