"""Lists of runs on a database with many: every filter follows an index, and no page looks at more than it may."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Connection

from harness.store_driver import SECOND, START
from holdfast_scheduler import ids, schema, store
from holdfast_scheduler import model as m
from holdfast_scheduler.database import Database
from holdfast_scheduler.filter import RunFilter, parse_run_filter
from holdfast_scheduler.listing import Bounds, page_of_ids
from holdfast_scheduler.reads import list_runs

MANY = 100_000
BOUNDS = Bounds(runs=50, scanned=10_000, bytes=3 << 20, metadata_bytes=8 << 20)
PARENT, BATCH, SCHEDULE = ids.new_id(), ids.new_id(), ids.new_id()
STATUSES = (m.DELAYED, m.QUEUED, m.EXECUTING, m.WAITING, m.FAILED)
"""Of the first runs, one after the other; all later ones are COMPLETED."""


@pytest.fixture
def database(migrated_url: str) -> Iterator[Database]:
    """A database without a scheduler: what the rows say would be none of its doing."""
    made = Database.open(migrated_url)
    yield made
    made.close()


def run_id(number: int) -> bytes:
    """The id of a run; a higher number is a newer run."""
    return ((START // 1000 + number * 1000) << 80 | 0x7 << 76 | 0x2 << 62).to_bytes(16, "big")


def fill(database: Database, count: int) -> None:
    """The run of each number: every fifth has the task "rare", the first 100 are special."""
    columns = tuple(column.name for column in schema.runs.columns)
    runs, inputs, results = [], [], []
    for number in range(count):
        one, special = run_id(number), number < 100
        status = STATUSES[number % 5] if special else m.COMPLETED
        task = "rare" if number % 5 == 0 else "often"
        open_run = status < m.COMPLETED
        row = {
            "namespace": "default",
            "id": one,
            "task": task,
            "version": "old" if special else "new",
            "queue": "exports" if special else f"task/{task}",
            "lane": "",
            "order_at": START + number,
            "status": status,
            "session": b"s" if status == m.EXECUTING else None,
            "due_at": START if open_run else None,
            "on_parent_end": 0,
            "awaited": False,
            "pinned": False,
            "since": START + number,
            "parent": PARENT if number in (3, 4) else None,
        }
        numbers = dict.fromkeys(columns, 0) | dict.fromkeys(("wake_at", "timer_at", "deadline_at", "started_at"))
        runs.append(tuple((numbers | row)[name] for name in columns))
        values = {
            "namespace": "default", "run_id": one, "task": task, "created_at": START + number * SECOND,
            "parent": row["parent"], "schedule": SCHEDULE if number in (5, 6) else None,
            "payload": b"{}", "fingerprint": b"f", "depth": 0, "tags": "",
            "is_replay": False, "queue": "exports" if special else "", "off_clock": False,
        }  # fmt: skip
        inputs.append(tuple(values.get(name) for name in store.INPUT_COLUMNS))
        if not open_run:
            results.append(("default", one, None, None, START + (number + 60) * SECOND, None, status))
    tx = database.begin()
    for at in range(0, count, 10_000):
        tx.insert(schema.runs, columns, runs[at : at + 10_000])
        store.insert_inputs(tx, inputs[at : at + 10_000])
        store.insert_results(tx, results[at : at + 10_000])
    store.insert_tags(tx, [("default", "special", run_id(number)) for number in range(100)])
    store.insert_tags(tx, [("default", "all", run_id(number)) for number in range(count)])
    store.insert_batch_items(
        tx, [("default", BATCH, place, run_id(number), False, False, None) for place, number in enumerate((7, 9, 8, 9))]
    )
    tx.commit()
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text("ANALYZE"))


def pages(
    connection: Connection, text: str, bounds: Bounds = BOUNDS, only: bytes | None = None
) -> Iterator[list[bytes]]:
    """The pages of a list, as a client goes through them."""
    wanted = parse_run_filter(text, 4096)
    place = None
    while True:
        page = page_of_ids(connection, "default", wanted, place, bounds, only)
        yield page.ids
        place = page.next_place
        if place is None:
            return


def numbers(found: list[bytes]) -> list[int]:
    return [((int.from_bytes(one, "big") >> 80) - START // 1000) // 1000 for one in found]


def listed(connection: Connection, text: str, bounds: Bounds = BOUNDS) -> list[int]:
    """All numbers of a list, page after page."""
    return [number for page in pages(connection, text, bounds) for number in numbers(page)]


def instant(number: int) -> str:
    """When the run of a number was triggered."""
    from datetime import UTC, datetime

    return datetime.fromtimestamp(START / SECOND + number, UTC).isoformat()


SINGLE = {
    "status = DELAYED": list(range(95, -1, -5)),
    "status = QUEUED": list(range(96, 0, -5)),
    "status = EXECUTING": list(range(97, 0, -5)),
    "status = WAITING": list(range(98, 0, -5)),
    "status = FAILED": list(range(99, 0, -5)),
    "statuses = FAILED,DELAYED": sorted([*range(95, -1, -5), *range(99, 0, -5)], reverse=True),
    "statuses = COMPLETED,FAILED AND tag = special": list(range(99, 0, -5)),
    "queue = exports": list(range(99, -1, -1)),
    "tag = special": list(range(99, -1, -1)),
    f"batch = {ids.to_text(ids.BATCH, BATCH)}": [9, 8, 7],
    f"parent = {ids.run_text(PARENT)}": [4, 3],
    f"schedule = {ids.to_text(ids.SCHEDULE, SCHEDULE)}": [6, 5],
    f"schedule = {ids.to_text(ids.SCHEDULE, SCHEDULE)} AND task = rare": [5],
    f'created_before = "{instant(3)}"': [2, 1, 0],
    f'created_after = "{instant(1)}" AND created_before = "{instant(5)}"': [4, 3, 2],
    f'ended_before = "{instant(70)}"': [9, 4],
    "task = rare AND status = DELAYED": list(range(95, -1, -5)),
    "tag = special AND task = rare AND version = old": list(range(95, -1, -5)),
}
NEWEST = {
    "": 1,
    "status = COMPLETED": 1,
    "statuses = COMPLETED,FAILED": 1,
    "task = rare": 5,
    "task = often": 1,
    "queue = task/rare": 5,
    "tag = all": 1,
    "version = new": 1,
    f'created_after = "{instant(50)}"': 1,
    f'ended_after = "{instant(0)}"': 1,
}
"""Conditions that many runs meet, and the distance of two of them as a rule."""


class Statements:
    """What is sent over a connection."""

    def __init__(self, connection: Connection) -> None:
        self.sent: list[tuple[str, Any]] = []
        self._connection = connection
        sa.event.listen(connection, "before_cursor_execute", self._note)

    def _note(self, _connection: Any, _cursor: Any, text: str, given: Any, *_: Any) -> None:
        self.sent.append((text, given))

    def plans(self) -> list[tuple[str, str]]:
        """(statement, plan) of each; then they are forgotten."""
        sent, self.sent = self.sent, []
        plans = []
        for text, given in sent:
            if self._connection.dialect.name == "sqlite":
                rows = self._connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", given).all()
                plan = "\n".join(row[3] for row in rows)
            else:
                plan = "\n".join(self._connection.exec_driver_sql(f"EXPLAIN {text}", given).scalars())
            plans.append((text, plan))
        self.sent = []
        return plans


def _scans(plan: str) -> list[str]:
    """Scans of whole tables in a plan."""
    lines = [line.strip() for line in plan.splitlines()]
    tables = ("runs", "run_inputs", "run_results", "run_tags")  # the others have next to no rows here
    return [
        line
        for line in lines
        if any(f"Seq Scan on {table}" in line for table in tables)
        or any(line.split(" ")[:2] == ["SCAN", table] and "INDEX" not in line for table in tables)
    ]


def test_every_filter_finds_its_runs_by_an_index(database: Database) -> None:
    fill(database, MANY if database.is_shared else MANY // 10)
    with database.engine.connect() as connection:
        statements = Statements(connection)
        for text, expected in SINGLE.items():
            assert listed(connection, text) == expected, text
            for statement, plan in statements.plans():
                assert not _scans(plan), f"{text}\n{statement}\n{plan}"
        for text, distance in NEWEST.items():
            found = numbers(next(pages(connection, text)))
            assert len(found) == 50, text
            assert found[0] - found[-1] == 49 * distance + (12 if text == "task = often" else 0), text
            assert found == sorted(found, reverse=True)
            for statement, plan in statements.plans():
                assert not _scans(plan), f"{text}\n{statement}\n{plan}"


def test_a_status_is_a_place_in_its_index(migrated_sqlite_url: str) -> None:
    """However many open runs have other statuses: none of them is read, and nothing is sorted. PostgreSQL reads so few
    rows any way it likes."""
    database = Database.open(migrated_sqlite_url)
    fill(database, 1_000)
    with database.engine.connect() as connection:
        statements = Statements(connection)
        for status in ("DELAYED", "QUEUED", "WAITING"):
            assert len(listed(connection, f"status = {status}")) == 20
            for statement, plan in statements.plans():
                if "runs.status =" in statement:
                    assert re.search(r"runs_open \(namespace=\? AND status=\?[^\n]*\n(?!USE TEMP)", plan), plan
    database.close()


def test_runs_with_foreign_ids_have_an_index_of_their_own(migrated_sqlite_url: str) -> None:
    """SQLite takes it only where its condition is said in the same words."""
    database = Database.open(migrated_sqlite_url)
    fill(database, 1_000)
    with database.engine.connect() as connection:
        statements = Statements(connection)
        assert listed(connection, f'created_after = "{instant(990)}"') == list(range(999, 990, -1))
        plans = [plan for statement, plan in statements.plans() if "off_clock" in statement]
        assert plans
        for plan in plans:
            assert "run_inputs_off_clock (namespace=? AND created_at>?" in plan, plan
    database.close()


def test_what_nothing_meets_is_looked_for_page_by_page(database: Database) -> None:
    """No page looks at more than its share of the runs; together they look at all of them."""
    fill(database, 1_000)
    bounds = replace(BOUNDS, scanned=300)
    with database.engine.connect() as connection:
        for text in ("version = none", "status = COMPLETED AND version = old", "metadata.page = 3"):
            found = list(pages(connection, text, bounds))
            assert found == [[]] * 4 if "none" in text or "metadata" in text else len(found) == 4, text
        assert listed(connection, "version = old", bounds) == list(range(99, -1, -1))
        assert len(list(pages(connection, "task = rare AND version = none", bounds))) == 1  # only 200 have the task


@pytest.mark.parametrize("size", [1, 7, 50, 1_000])
def test_pages_of_any_size_have_every_run_once(database: Database, size: int) -> None:
    fill(database, 500)
    bounds = replace(BOUNDS, runs=size)
    with database.engine.connect() as connection:
        for text in ("", "task = rare", "queue = task/rare", "version = old", f'created_after = "{instant(250)}"'):
            found = listed(connection, text, bounds)
            assert found == sorted(set(found), reverse=True), text
        assert listed(connection, "", bounds) == list(range(499, -1, -1))
        assert listed(connection, f'created_after = "{instant(250)}"', bounds) == list(range(499, 250, -1))


def test_a_run_whose_id_tells_another_instant_is_found_by_that_of_its_trigger(database: Database) -> None:
    fill(database, 20)
    stray = ids.first_id(START - 3600 * SECOND)
    moved = ((run_id(10), START + 2 * SECOND), (run_id(11), START + 30 * SECOND))
    with database.engine.begin() as connection:
        for table, column in ((schema.runs, schema.runs.c.id), (schema.run_inputs, schema.run_inputs.c.run_id)):
            connection.execute(sa.update(table).where(column == run_id(0)).values({column.name: stray}))
        for one, created_at in ((stray, START), *moved):
            assert ids.is_off_clock(one, created_at)
            values = {"created_at": created_at, "off_clock": True}
            connection.execute(sa.update(schema.run_inputs).where(schema.run_inputs.c.run_id == one).values(values))

    with database.engine.connect() as connection:
        found = list(pages(connection, f'created_before = "{instant(4)}"', replace(BOUNDS, runs=2)))
        assert [one for page in found for one in page] == [run_id(10), *(run_id(n) for n in (3, 2, 1)), stray]
        found = list(pages(connection, f'created_after = "{instant(17)}"'))
        assert [one for page in found for one in page] == [run_id(n) for n in (19, 18, 11)]


def test_metadata_is_compared_by_path_and_kind(database: Database) -> None:
    fill(database, 300)
    documents: dict[int, Any] = {
        1: {"page": 3, "flag": True, "a": {"b": "x"}, "nothing": None},
        2: {"page": 3.0, "flag": 1, "a": {"b": ["x"]}},
        3: {"page": "3", "a": "b"},
    }
    tx = database.begin()
    rows = [("default", run_id(n), b"{}", json.dumps(doc).encode(), b"{}", 0, b"{}") for n, doc in documents.items()]
    store.upsert_metadata(tx, rows)
    tx.commit()
    with database.engine.connect() as connection:
        for text, expected in {
            "metadata.page = 3": [2, 1],
            'metadata.page = "3"': [3],
            "metadata.flag = true": [1],
            "metadata.flag = 1": [2],
            "metadata.a.b = x": [1],
            "metadata.nothing = null": [1],
            "metadata.missing = null": [],
            "tag = special AND metadata.page = 3 AND metadata.flag = true": [1],
        }.items():
            assert listed(connection, text) == expected, text


def test_metadata_that_is_looked_at_is_bounded(database: Database) -> None:
    fill(database, 40)
    tx = database.begin()
    document = json.dumps({"page": 1, "x": "x" * 10_000}).encode()
    store.upsert_metadata(tx, [("default", run_id(n), b"{}", document, b"{}", 0, b"{}") for n in range(40)])
    tx.commit()
    with database.engine.connect() as connection:
        bounds = replace(BOUNDS, metadata_bytes=100_000)
        assert len(list(pages(connection, "metadata.page = 2", bounds))) >= 4
        assert listed(connection, "metadata.page = 1", bounds) == list(range(39, -1, -1))


def test_a_page_ends_where_its_runs_would_be_too_large(database: Database) -> None:
    fill(database, 5)
    with database.engine.begin() as connection:
        connection.execute(sa.update(schema.run_results).values(output=b"x" * 1_000))
        rows, place = list_runs(connection, "default", RunFilter(), None, replace(BOUNDS, bytes=1))
        assert (len(rows), place is None) == (1, False)
