"""`make demo`: export invoices, kill -9 a worker in the middle of page 7, and count what happened.

Starts a scheduler on an embedded database and workers as separate processes. Exits with 0 when every promise held.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import shutil
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import holdfast
from examples.invoice_export.destination import Destination, Write
from examples.invoice_export.display import Display
from examples.invoice_export.mailbox import Mailbox
from examples.invoice_export.mailing import Mailing, mail_members, mail_members_trap
from examples.invoice_export.processes import ROOT, Server, free_port
from examples.invoice_export.source import Source, SourceError, make_sample, total
from examples.invoice_export.tasks import Export, export_invoices
from holdfast import Run, RunStatus, client, runs
from holdfast.v1.task_pb2 import GetTaskRequest

T = TypeVar("T")

TARGETS = ["examples.invoice_export.tasks", "examples.invoice_export.mailing"]
PAGES = 20
KILLED_PAGE = 7
MEMBERS = [f"member-{number}@club.example" for number in range(1, 6)]
FAILS_AT = 3
DEADLINE_S = 60.0
LOOK_S = 0.05


class DemoError(Exception):
    """The demonstration cannot go on; the message is one line."""


@dataclass(frozen=True, slots=True)
class Job:
    """What is exported."""

    source: Source
    organization: str
    pages: int

    @property
    def killed_page(self) -> int:
        """The page in whose middle a worker is killed: 7, or the last of a shorter export."""
        return min(KILLED_PAGE, self.pages)


@dataclass(slots=True)
class Crash:
    """What was so at the moment of the kill."""

    worker: str
    child: Run
    parent: Run
    rows_written: int
    rows_in_page: int
    killed_at: float
    """Seconds since the Unix epoch."""


@dataclass(slots=True)
class Servers:
    """All processes of the demonstration; logs and databases are in `folder`."""

    folder: Path
    environment: dict[str, str]
    address: str
    running: list[Server] = field(default_factory=list)

    def start_scheduler(self) -> Server:
        """Start the scheduler on its embedded database."""
        database = f"sqlite:///{self.folder / 'holdfast.sqlite3'}"
        return self._start("scheduler", ["scheduler", "--database", database, "--listen", self.address])

    def start_worker(self, name: str, slots: int) -> Server:
        """Start a worker with all tasks."""
        arguments = ["worker", *TARGETS, "--scheduler", self.address, "--name", name, "--slots", str(slots)]
        return self._start(name, arguments, {"EXPORT_WORKER": name})

    def check(self) -> None:
        """Raises: DemoError when a process has ended by itself."""
        for server in self.running:
            if not server.running:
                raise DemoError(f"{server.name} has ended by itself. Its last lines:\n{server.last_lines()}")

    def kill(self, name: str) -> None:
        """SIGKILL a server as a whole."""
        server = next(one for one in self.running if one.name == name)
        self.running.remove(server)
        server.kill()

    def stop(self) -> None:
        """Stop all, workers first."""
        for server in reversed(self.running):
            server.stop()
        self.running.clear()

    def _start(self, name: str, arguments: list[str], more: dict[str, str] | None = None) -> Server:
        server = Server(name, arguments, {**self.environment, **(more or {})}, self.folder / f"{name}.log")
        self.running.append(server)
        return server


def main() -> int:
    """Run the demonstration and return its exit code."""
    arguments = _arguments()
    display = Display()
    try:
        folder = _empty_folder(arguments.folder)
        job = _job(arguments, folder)
        with Mailbox() as mailbox, _servers(folder, mailbox) as servers:
            holdfast.configure(address=servers.address)
            held = asyncio.run(_demonstrate(job, servers, mailbox, display))
    except (DemoError, SourceError) as error:
        display.stop()
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        display.stop()
        return 130
    return 0 if held else 1


async def _demonstrate(job: Job, servers: Servers, mailbox: Mailbox, display: Display) -> bool:
    display.title(f"Scene 1: {job.pages} pages of {job.organization}'s invoices, and a worker that dies in page 7")
    destination = Destination(servers.folder / "export.sqlite3")
    destination.create()
    hold = servers.folder / f"page-{job.killed_page}"
    hold.touch()

    scheduler = servers.start_scheduler()
    display.note(f"scheduler started, process {scheduler.pid}, embedded database")
    # The scheduler prefers the worker with most free slots: parent and child meet on worker-1.
    for name, slots in (("worker-1", 10), ("worker-2", 4)):
        worker = servers.start_worker(name, slots)
        display.note(f"{name} started, process {worker.pid}, {slots} slots")
    await _until(servers, "both workers are connected", lambda: _connected(export_invoices.id, 2))
    export = Export(organization_id=job.organization, source=job.source, total_pages=job.pages)
    handle = await export_invoices.trigger(export)
    display.note(f"triggered export-invoices: {handle.id}")

    with display.progress(job.pages) as show_page:
        finished = asyncio.create_task(_follow(handle.id, show_page))
        crash = await _kill_in_the_middle(job, handle.id, destination, servers, display)
        hold.unlink()
        run = await _finish(servers, finished)
        children = await _until(servers, "all children have ended", lambda: _ended_children(handle.id))
    export_held = _report_export(job, run, children, destination, mailbox, crash, display)

    display.title("Scene 2: the trap of the duplicated side effect")
    mailing_held = await _mail_twice(servers, mailbox, display)
    return export_held and mailing_held


async def _kill_in_the_middle(
    job: Job, run_id: str, destination: Destination, servers: Servers, display: Display
) -> Crash:
    """Wait until the page is half written and the parent parked in the same worker; then kill that worker."""
    page = job.killed_page

    async def half_written() -> tuple[Write, Run, Run] | None:
        write = next((one for one in destination.writes(job.organization) if one.page == page and one.written), None)
        if write is None:
            return None
        parent, child = await runs.retrieve(run_id), await runs.retrieve(write.run)
        return (write, parent, child) if parent.status == RunStatus.WAITING else None

    write, parent, child = await _until(servers, f"page {page} is half written", half_written)
    rows = len(job.source.page(job.organization, page))
    display.note(f"write-page {page} executes on {child.worker} and has written {write.written} of {rows} rows")
    display.note(f"export-invoices is {parent.status}, parked on {parent.worker}")
    if parent.worker != child.worker:
        raise DemoError(f"the parent is parked on {parent.worker}, not on {child.worker}")
    killed_at = time.time()
    servers.kill(write.worker)
    display.note(f"kill -9 {write.worker}, the whole of it")
    return Crash(write.worker, child, parent, write.written, rows, killed_at)


async def _mail_twice(servers: Servers, mailbox: Mailbox, display: Display) -> bool:
    mailing = Mailing(members=MEMBERS, fails_at=FAILS_AT)
    display.note(f"both mailings raise at member {FAILS_AT + 1} of {len(MEMBERS)} in their first attempt")
    trap = await mail_members_trap.trigger(mailing)
    keyed = await mail_members.trigger(mailing)
    await _until(servers, "both mailings have ended", lambda: _all_completed([trap.id, keyed.id]))
    counts = {
        name: [sum(mail.to == member for mail in mailbox.with_subject(f"({name})")) for member in MEMBERS]
        for name in ("trap", "keyed")
    }
    display.mailings(MEMBERS, counts)
    doubled = counts["trap"] == [2] * FAILS_AT + [1] * (len(MEMBERS) - FAILS_AT)
    once = counts["keyed"] == [1] * len(MEMBERS)
    return display.promises(
        [
            ("sending from the loop: whoever came before the failure got two mails", doubled),
            ("one keyed child per member: everybody got one", once),
        ]
    )


def _report_export(
    job: Job,
    run: Run,
    children: list[Run],
    destination: Destination,
    mailbox: Mailbox,
    crash: Crash,
    display: Display,
) -> bool:
    writes = destination.writes(job.organization)
    position = job.source.amount_position()
    pages: list[tuple[int, int, float, int, bool]] = []
    for page in range(1, job.pages + 1):
        there, here = job.source.page(job.organization, page), destination.page(job.organization, page)
        times = sum(one.page == page for one in writes)
        pages.append((page, len(here), total(here, position), times, here == there))
    again = [one for one in writes if one.page == job.killed_page and one.began_at > crash.killed_at]
    lost = again[0].began_at - crash.killed_at if again else math.nan
    child = next((one for one in children if one.id == crash.child.id), crash.child)
    mails = mailbox.with_subject("export")
    display.pages(pages)
    display.facts(
        [
            ("e-mails received", str(len(mails))),
            ("attempts", f"export {run.attempt}, page {job.killed_page}: {child.attempt}"),
            ("recoveries", f"export {run.recoveries}, page {job.killed_page}: {child.recoveries}"),
            ("time lost to the crash", f"{lost:.2f} s until page {job.killed_page} was being written again"),
        ]
    )
    expected, written = job.source.count(job.organization), sum(page[1] for page in pages)
    before = [times for page, _, _, times, _ in pages if page < job.killed_page]
    after = [times for page, _, _, times, _ in pages if page > job.killed_page]
    right = all(equal for *_, equal in pages) and written == expected
    others = [one.worker for one in again] == ["worker-2"]
    completed = run.status == RunStatus.COMPLETED and run.attempt == 1
    return display.promises(
        [
            (f"every page is there and right: {written} of {expected} rows, sums equal", right),
            (f"pages 1 to {job.killed_page - 1} were written once", all(times == 1 for times in before)),
            (f"page {job.killed_page} was written again, by the other worker", others),
            ("the pages after it were written once", all(times == 1 for times in after)),
            ("one e-mail was received", len(mails) == 1),
            ("the export completed in its first attempt", completed),
        ]
    )


async def _connected(task_id: str, workers: int) -> bool:
    asked = client.current()
    try:
        answer = await asked.call(lambda endpoint: endpoint.tasks.GetTask, GetTaskRequest(task_id=task_id))
    except holdfast.errors.RequestError:
        return False  # no worker has said yet that it has the task
    return bool(answer.task.workers >= workers)


async def _follow(run_id: str, show_page: Callable[[int, str], None]) -> Run:
    async for run in runs.subscribe(run_id):
        show_page(int(run.metadata.get("page", 0)), str(run.status))
        if run.is_final:
            return run
    raise DemoError("the scheduler stopped showing the run")


async def _finish(servers: Servers, finished: asyncio.Task[Run]) -> Run:
    await _until(servers, "the export has ended", lambda: _when(finished.done()))
    return finished.result()


async def _when(condition: bool) -> bool:
    return condition


async def _ended_children(run_id: str) -> list[Run] | None:
    children = [run async for run in runs.iterate(parent=run_id)]
    return children if all(child.is_final for child in children) else None


async def _all_completed(run_ids: list[str]) -> bool:
    found = [await runs.retrieve(run_id) for run_id in run_ids]
    for run in found:
        if run.is_final and run.status != RunStatus.COMPLETED:
            raise DemoError(f"{run.task_id} ended {run.status}: {run.error}")
    return all(run.is_final for run in found)


async def _until(servers: Servers, what: str, look: Callable[[], Awaitable[T | None]]) -> T:
    """Ask `look` until it returns something true, while all processes live."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        servers.check()
        found = await look()
        if found:
            return found
        if time.monotonic() > deadline:
            logs = "\n".join(f"--- {server.name}\n{server.last_lines()}" for server in servers.running)
            raise DemoError(f"not within {DEADLINE_S:.0f} s: {what}\n{logs}")
        await asyncio.sleep(LOOK_S)


@contextmanager
def _servers(folder: Path, mailbox: Mailbox) -> Iterator[Servers]:
    environment = {
        "EXPORT_FILE": str(folder / "export.sqlite3"),
        "EXPORT_SMTP": mailbox.address,
        "EXPORT_HOLD": str(folder),
    }
    servers = Servers(folder, environment, f"127.0.0.1:{free_port()}")
    try:
        yield servers
    finally:
        servers.stop()


def _empty_folder(given: Path | None) -> Path:
    """The folder for databases and logs. Only the demonstration's own is cleared, never one that was named."""
    folder = (given or ROOT / ".demo").resolve()
    if given is None:
        shutil.rmtree(folder, ignore_errors=True)
    elif folder.exists() and any(folder.iterdir()):
        raise DemoError(f"{folder} is not empty; name another --folder")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _job(arguments: argparse.Namespace, folder: Path) -> Job:
    if arguments.database is None:
        source = make_sample(folder / "invoices.sqlite3")
    else:
        source = Source(
            database=str(Path(arguments.database).resolve()),
            table=arguments.table,
            organization_column=arguments.organization_column,
        )
    source.check()
    organizations = source.organizations()
    if not organizations:
        raise DemoError(f"table {source.table!r} of {source.database} has no rows with an organization")
    organization = arguments.organization or organizations[0][0]
    count = source.count(organization)
    if count == 0:
        known = ", ".join(name for name, _ in organizations[:10])
        raise DemoError(f"{organization!r} has no invoices; the largest organizations are {known}")
    # A page of one row cannot be half written.
    source.page_size = arguments.page_size or max(2, math.ceil(count / PAGES))
    source.check()
    return Job(source, organization, source.pages(organization))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--database", metavar="FILE", help="a SQLite file; without it a sample of 10,000 invoices")
    parser.add_argument("--table", default="invoices", help="the table of invoices")
    parser.add_argument("--organization-column", default="organization_id", help="the column that says whose it is")
    parser.add_argument("--organization", help="whose invoices; by default who has most")
    parser.add_argument("--page-size", type=int, help=f"rows in a page; by default as many as make {PAGES} pages")
    parser.add_argument("--folder", type=Path, help="an empty folder for databases and logs; by default .demo")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
