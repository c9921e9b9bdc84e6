"""The four codes in which a run's statuses exist are the same: contract, SQL check, rules and SDK."""

from __future__ import annotations

import re

import sqlalchemy as sa

from holdfast import RunStatus
from holdfast.v1 import run_pb2
from holdfast_scheduler import model
from holdfast_scheduler.migrations import migrate

CONTRACT = {
    number: name.removeprefix("RUN_STATUS_")
    for name, number in run_pb2.RunStatus.items()
    if name != "RUN_STATUS_UNSPECIFIED"
}


def test_rules_have_the_statuses_of_the_contract() -> None:
    assert model.STATUS_NAMES == CONTRACT
    for number, name in CONTRACT.items():
        assert getattr(model, name) == number


def test_sdk_has_the_statuses_of_the_contract() -> None:
    assert {number: str(RunStatus.of(number)) for number in CONTRACT} == CONTRACT
    assert set(RunStatus) == set(CONTRACT.values())


def test_sql_check_has_the_statuses_of_the_contract(sqlite_url: str) -> None:
    migrate(sqlite_url)
    with sa.create_engine(sqlite_url).connect() as connection:
        sql = connection.execute(sa.text("SELECT sql FROM sqlite_master WHERE name = 'runs'")).scalar_one()
        condition = re.search(r"runs_status\W+CHECK \((.*)\)", sql)
        assert condition is not None, sql
        allowed = connection.execute(
            sa.text(
                f"WITH RECURSIVE n(status) AS (SELECT -9 UNION ALL SELECT status + 1 FROM n WHERE status < 99)"
                f" SELECT status FROM n WHERE {condition[1]}"
            )
        )
        assert set(allowed.scalars()) == set(CONTRACT)


def test_all_agree_on_which_statuses_are_final() -> None:
    final = {name for number, name in CONTRACT.items() if number >= run_pb2.RUN_STATUS_COMPLETED}
    assert final == {"COMPLETED", "FAILED", "CRASHED", "TIMED_OUT", "EXPIRED", "CANCELED"}
    assert {status for status in RunStatus if status.is_final} == final
    assert {name for number, name in CONTRACT.items() if model.is_final(number)} == final
