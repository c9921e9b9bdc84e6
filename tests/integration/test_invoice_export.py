"""The main job: an export whose parent or child loses its worker in the middle of a page.

Four placements: parent and child on one worker or on two, and either one's worker killed while the child has written a
part of its page and the parent is parked.
"""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from examples.invoice_export.destination import Destination, Write
from examples.invoice_export.mailbox import Mailbox
from examples.invoice_export.source import Source, make_sample
from examples.invoice_export.tasks import Export, export_invoices

from harness.processes import Deployment, ServerProcess
from harness.waiting import eventually
from holdfast import Client, Run, RunStatus, runs

ALL = "examples.invoice_export.tasks"
PARENT_ONLY = str(Path(__file__).with_name("export_parent_only.py"))
CHILDREN_ONLY = str(Path(__file__).with_name("export_children_only.py"))
PAGES = 4
HELD_PAGE = 3


@dataclass(frozen=True, slots=True)
class Placement:
    """Targets of the first two workers, and which of them is killed. A third one has everything and joins late."""

    first: str
    second: str
    kill: str
    recovered: bool
    """Whether the child's worker is killed, so that the child needs a recovery."""


PLACEMENTS = {
    "together, their worker killed": Placement(ALL, "", "first", recovered=True),
    "together, the other worker killed": Placement(ALL, ALL, "second", recovered=False),
    "apart, the parent's worker killed": Placement(PARENT_ONLY, CHILDREN_ONLY, "first", recovered=False),
    "apart, the child's worker killed": Placement(PARENT_ONLY, CHILDREN_ONLY, "second", recovered=True),
}


@pytest.mark.parametrize("placement", PLACEMENTS.values(), ids=PLACEMENTS.keys())
async def test_export_survives_the_kill_of_a_worker(
    placement: Placement, database_url: str, deploy: Callable[..., Deployment], tmp_path: Path
) -> None:
    source = make_sample(tmp_path / "invoices.sqlite3")
    source.page_size = 500
    destination = Destination(tmp_path / "export.sqlite3")
    destination.create()
    hold = tmp_path / f"page-{HELD_PAGE}"
    hold.touch()
    with Mailbox() as mailbox:
        site: Deployment = deploy(
            database_url,
            {"EXPORT_FILE": str(destination.path), "EXPORT_SMTP": mailbox.address, "EXPORT_HOLD": str(tmp_path)},
        )
        site.start_scheduler()
        # The scheduler prefers the worker with most free slots, as far as it has heard of them: so one is started after
        # the other.
        workers = {"first": site.start_worker(placement.first, name="first", slots=10)}
        site.wait_for_workers("export-invoices")
        if placement.second:
            workers["second"] = site.start_worker(placement.second, name="second", slots=2)
        everywhere = placement.first == placement.second
        site.wait_for_workers("export-invoices", 2 if everywhere else 1)
        site.wait_for_workers("write-page", 2 if everywhere else 1)
        async with Client(site.address) as client:
            with client.use():
                export = Export(organization_id="acme", source=source, total_pages=PAGES, pause=0.05)
                handle = await export_invoices.trigger(export)
                write, parent, child = await _half_written(handle.id, destination)
                assert write.written < source.page_size
                assert (parent.worker == child.worker) == (placement.first == ALL)
                if not everywhere:
                    await asyncio.to_thread(_join, site)
                workers[placement.kill].kill()
                hold.unlink()
                assert await handle.result(timeout=60) == f"{PAGES * 500} rows in {PAGES} pages"
                parent = await runs.retrieve(handle, full=True)
                children = {run_id: await _ended(run_id) for run_id in parent.child_run_ids}
        _check_pages(source, destination, 2 if placement.recovered else 1)
        assert [mail.to for mail in mailbox.mails] == ["billing@acme.example"]
    assert len(children) == PAGES + 1
    assert all(run.status == RunStatus.COMPLETED and run.attempt == 1 for run in children.values())
    assert children[child.id].recoveries == (1 if placement.recovered else 0)
    assert (parent.attempt, parent.recoveries) == (1, 0)
    assert parent.metadata == {"page": PAGES, "rows": PAGES * 500}


async def test_a_source_of_another_shape_is_exported(
    sqlite_url: str, deploy: Callable[..., Deployment], tmp_path: Path
) -> None:
    path = tmp_path / "shop.sqlite3"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            'CREATE TABLE "Odd ""Name" (number TEXT PRIMARY KEY, "by country" TEXT, data BLOB, sum REAL)'
        )
        rows = [(f"n{index:03}", "Norway" if index % 3 else "Chile", bytes([index]), index / 7) for index in range(100)]
        connection.executemany('INSERT INTO "Odd ""Name" VALUES (?, ?, ?, ?)', rows)
    source = Source(database=str(path), table='Odd "Name', organization_column="by country", page_size=30)
    source.check()
    assert source.organizations() == [("Norway", 66), ("Chile", 34)]
    destination = Destination(tmp_path / "export.sqlite3")
    destination.create()
    with Mailbox() as mailbox:
        site: Deployment = deploy(sqlite_url, {"EXPORT_FILE": str(destination.path), "EXPORT_SMTP": mailbox.address})
        site.start_scheduler()
        site.start_worker(ALL)
        site.wait_for_workers("export-invoices")
        async with Client(site.address) as client:
            with client.use():
                pages = source.pages("Norway")
                export = Export(organization_id="Norway", source=source, total_pages=pages, pause=0.01)
                handle = await export_invoices.trigger(export)
                assert await handle.result(timeout=60) == "66 rows in 3 pages"
    for page in range(1, pages + 1):
        assert destination.page("Norway", page) == source.page("Norway", page)
    assert source.amount_position() == 3


def test_make_demo_says_in_one_line_what_is_wrong_with_the_source(repository: Path, tmp_path: Path) -> None:
    path = tmp_path / "empty.sqlite3"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE bills (id INTEGER PRIMARY KEY, customer TEXT)")
    for number, (options, part) in enumerate(
        (
            (["--database", str(tmp_path / "missing")], "there is no file"),
            (["--database", str(path)], "bills"),
            (["--database", str(path), "--table", "bills"], "customer"),
            (["--database", str(path), "--table", "bills", "--organization-column", "customer"], "no rows"),
            (["--database", str(repository / "README.md")], "not a database"),
        )
    ):
        folder = tmp_path / f"demo-{number}"
        done = subprocess.run(
            [sys.executable, "-m", "examples.invoice_export.demo", "--folder", str(folder), *options],
            cwd=repository,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 2
        assert part in done.stderr
        assert len(done.stderr.splitlines()) == 1, done.stderr


async def _half_written(run_id: str, destination: Destination) -> tuple[Write, Run, Run]:
    async def look() -> tuple[Write, Run, Run] | None:
        write = next((one for one in destination.writes("acme") if one.page == HELD_PAGE and one.written), None)
        if write is None:
            return None
        parent, child = await runs.retrieve(run_id), await runs.retrieve(write.run)
        return (write, parent, child) if parent.status == RunStatus.WAITING else None

    return await eventually(look, f"page {HELD_PAGE} is half written and the parent parked")


async def _ended(run_id: str) -> Run:
    async def look() -> Run | None:
        run = await runs.retrieve(run_id)
        return run if run.is_final else None

    return await eventually(look, f"{run_id} has ended")


def _join(site: Deployment) -> ServerProcess:
    """One more worker, with all tasks, joins."""
    worker = site.start_worker(ALL, name="third", slots=2)
    site.wait_for_workers("write-page", 2)
    return worker


def _check_pages(source: Source, destination: Destination, held_page_writes: int) -> None:
    counts = Counter(write.page for write in destination.writes("acme"))
    expected = dict.fromkeys(range(1, PAGES + 1), 1) | {HELD_PAGE: held_page_writes}
    assert counts == expected
    for page in range(1, PAGES + 1):
        assert destination.page("acme", page) == source.page("acme", page)
