"""What PostgreSQL reads of a large table that has no statistics yet, as in the first minute of a database."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from harness.store_driver import Driver
from holdfast_scheduler import ids, store
from holdfast_scheduler.model import Run
from holdfast_scheduler.postgres import PostgresTransaction

RUNS = 10_000
CHANGED = 100


@pytest.fixture
def fresh(migrated_postgres_url: str, replica: Any) -> tuple[Driver, list[Run]]:
    """A database with many runs that nobody has analyzed, and those runs."""
    db = replica(migrated_postgres_url, clock=None)
    db.worker(slots=0)
    one = db.run(db.trigger().run_id)
    runs = [replace(one, id=ids.new_id()) for _ in range(RUNS)]
    with db.transaction() as tx:
        tx.execute("ALTER TABLE runs SET (autovacuum_enabled = off)")
        store.insert_runs(tx, db.namespace, runs)
        tx.commit()
    return db, runs


def test_an_update_of_many_runs_reads_only_those(fresh: tuple[Driver, list[Run]]) -> None:
    db, runs = fresh
    with db.transaction() as tx:
        read = "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'runs'"
        before = tx.fetch(read)[0][0]
        store.update_runs(tx, db.namespace, [replace(run, last_seq=at) for at, run in enumerate(runs[-CHANGED:])])
        assert tx.fetch(read)[0][0] - before == CHANGED


@pytest.mark.parametrize("look", [store.load_session_runs, store.peek_session_runs, store.has_woken])
def test_the_runs_of_a_session_are_found_by_it_alone(
    fresh: tuple[Driver, list[Run]], look: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    db, _ = fresh
    asked: list[str] = []
    fetch_in = PostgresTransaction.fetch_in

    def explain(tx: PostgresTransaction, sql: str, *given: Any, **more: Any) -> list[Any]:
        asked.extend(row[0] for row in fetch_in(tx, f"EXPLAIN {sql}", *given, **more))
        return []

    monkeypatch.setattr(PostgresTransaction, "fetch_in", explain)
    session = ids.new_id()
    with db.transaction() as tx:
        look(tx, db.namespace, [session] if look is store.has_woken else session)
    plan = "\n".join(asked)
    assert "runs_session" in plan
    assert "runs_pkey" not in plan
