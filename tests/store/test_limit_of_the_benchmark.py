"""The statements of the benchmark's limit fit the tables, and write every column that the scheduler writes."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from benchmarks import limit

from holdfast_scheduler import schema
from holdfast_scheduler.migrations import migrate


def test_the_limit_is_measured_on_the_tables_as_they_are(database_url: str) -> None:
    migrate(database_url)
    assert limit.runs_per_second(database_url, 2 * limit.BATCH) > 0
    engine = sa.create_engine(sa.make_url(database_url.replace("postgresql://", "postgresql+psycopg://")))
    with engine.connect() as connection:
        ended = sa.select(sa.func.count()).select_from(schema.runs).where(schema.runs.c.status == 10)
        assert connection.execute(ended).scalar_one() == 2 * limit.BATCH
    engine.dispose()


@pytest.mark.parametrize(
    ("table", "statement"),
    [
        (schema.runs, limit._INSERT_RUNS),
        (schema.run_inputs, limit._INSERT_INPUTS),
        (schema.run_results, limit._INSERT_RESULTS),
    ],
    ids=["runs", "run_inputs", "run_results"],
)
def test_no_column_is_left_out(table: sa.Table, statement: limit._Statement) -> None:
    assert set(statement.names) == set(table.c.keys())
