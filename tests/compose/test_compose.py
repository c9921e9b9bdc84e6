"""The shipped docker-compose.yml under failures. Each is judged by the ledger that the tasks append to."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest
from examples.invoice_export.destination import Destination
from examples.invoice_export.source import make_sample
from examples.invoice_export.tasks import Export, export_invoices

from harness.stack import PASSED, Stack, judge, require_engine
from harness.waiting import eventually
from holdfast import Client, RunHandle, runs, tasks
from holdfast.v1.run_service_pb2 import GetServerInfoRequest
from holdfast.v1.run_service_pb2_grpc import RunServiceStub

pytestmark = [pytest.mark.compose, pytest.mark.timeout(1200)]

ERRANDS = 40
PLACES = 3
EFFECTS = {f"{kind} {place}" for kind in ("charge", "parcel") for place in range(PLACES)}
END_S = 120.0
PAGES = 10
KILLED_PAGE = 7


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The stack, built and started once."""
    require_engine()
    stack = Stack(tmp_path_factory.mktemp("outside"))
    try:
        stack.up()
        yield stack
    finally:
        stack.down()


@pytest.fixture
def stack(running: Stack, request: pytest.FixtureRequest) -> Iterator[Stack]:
    """The stack, whole and healthy."""
    running.settle()
    yield running
    if request.session.testsfailed:
        print(running.compose("logs", "--no-color", "--tail", "200"))


@pytest.fixture
async def client(stack: Stack) -> AsyncIterator[Client]:
    """A client of both schedulers, bound."""
    async with Client(stack.addresses, deadline=END_S) as client:
        with client.use():
            yield client


async def _load(count: int = ERRANDS) -> list[RunHandle[Any]]:
    return list(await asyncio.gather(*(tasks.trigger("errand", number) for number in range(count))))


async def _half_way(stack: Stack, handles: list[RunHandle[Any]]) -> set[str]:
    """The root runs, when about a third of their durable calls is passed."""
    roots = {handle.id for handle in handles}
    await asyncio.to_thread(stack.progress, roots, len(roots) * len(EFFECTS) // 3)
    return roots


async def _end(stack: Stack, handles: list[RunHandle[Any]], lost: int, *, zombies: bool = False) -> None:
    try:
        outputs = await asyncio.gather(*(handle.result(timeout=END_S) for handle in handles))
    except TimeoutError:
        found = [await runs.retrieve(handle) for handle in handles]
        pytest.fail(f"no result within {END_S:.0f} s; not final: {[run for run in found if not run.is_final]}")
    assert outputs == list(range(len(handles)))
    judge(stack.ledger.read(), {handle.id for handle in handles}, EFFECTS, lost, zombies=zombies)


async def test_everything_is_healthy_and_reports_its_version(stack: Stack, client: Client) -> None:
    for port in stack.ports:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            info = await RunServiceStub(channel).GetServerInfo(GetServerInfoRequest(), timeout=10)
        assert stack.compose("exec", "-T", "scheduler-a", "holdfast", "--version") == f"holdfast {info.version}\n"
    user = stack.compose("exec", "-T", "worker", "id", "--user").strip()
    assert user == "10001"
    with pytest.raises(RuntimeError, match="Read-only file system"):
        stack.compose("exec", "-T", "worker", "touch", "/app/x")
    handles = await _load(5)
    await _end(stack, handles, lost=0)


def test_a_container_can_harm_little(stack: Stack) -> None:
    """Not root, nothing to write on, no capabilities, reached from this machine only, checked by gRPC health."""
    for service in ("scheduler-a", "scheduler-b", "worker", "mailbox"):
        for container in stack.containers(service):
            (found,) = json.loads(stack.docker("inspect", container))
            host, config = found["HostConfig"], found["Config"]
            assert config["User"] == "10001:10001"
            assert host["ReadonlyRootfs"]
            assert host["CapDrop"] == ["ALL"]
            published = [binding["HostIp"] for bindings in host["PortBindings"].values() for binding in bindings]
            assert published == ["127.0.0.1"] * service.startswith("scheduler")
            assert config["StopSignal"] == "SIGTERM"
            assert ("holdfast.cli.health" in config["Healthcheck"]["Test"]) == (service != "mailbox")
    (postgres,) = stack.containers("postgres")
    assert json.loads(stack.docker("inspect", postgres))[0]["HostConfig"]["PortBindings"] == {}


async def test_sigterm_drains(stack: Stack, client: Client) -> None:
    """Neither a worker nor a scheduler that is stopped in the middle costs a recovery, or an effect a second time."""
    handles = await _load()
    await _half_way(stack, handles)
    worker = stack.containers("worker")[0]
    (scheduler,) = stack.containers("scheduler-a")
    for stopped in (worker, scheduler):
        await asyncio.to_thread(stack.docker, "stop", stopped)
        # A worker ends with 0 when everything that it held was done or handed back.
        assert stack.docker("inspect", "--format", "{{.State.ExitCode}}", stopped) == "0\n"
    await _end(stack, handles, lost=0)
    assert sum([(await runs.retrieve(handle)).recoveries for handle in handles]) == 0


async def test_the_export_survives_the_kill_of_a_worker_in_a_page(stack: Stack, client: Client) -> None:
    source = make_sample(stack.folder / "invoices.sqlite3")
    (stack.folder / "invoices.sqlite3").chmod(0o666)
    rows = source.count("acme")
    source.page_size = rows // PAGES
    destination = Destination(stack.folder / "export.sqlite3")
    destination.create()
    for path in stack.folder.glob("export.sqlite3*"):
        path.chmod(0o666)
    hold = stack.folder / f"page-{KILLED_PAGE}"
    hold.touch()
    inside = source.model_copy(update={"database": "/outside/invoices.sqlite3"})
    export = Export(organization_id="acme", source=inside, total_pages=PAGES, pause=0.05)
    handle = await export_invoices.trigger(export)

    async def half_written() -> str:
        with sqlite3.connect(destination.path) as witness:
            written = witness.execute("SELECT run FROM writes WHERE page = ? AND written > 0", [KILLED_PAGE]).fetchone()
        return (await runs.retrieve(written[0])).worker if written else ""

    worker = await eventually(half_written, f"page {KILLED_PAGE} is half written", END_S)
    stack.docker("kill", stack.worker_container(worker))
    hold.unlink()
    assert await handle.result(timeout=END_S) == f"{rows} rows in {PAGES} pages"

    def mailed() -> bool:
        return any(effect.note == handle.id and effect.identity == "e-mail" for effect in stack.ledger.read())

    async def mail_is_sent() -> bool:
        return mailed()

    await eventually(mail_is_sent, "the e-mail is sent", END_S)
    pages = [f"page {page}" for page in range(1, PAGES + 1)]
    effects = [effect for effect in stack.ledger.read() if effect.note == handle.id]
    order = [effect.identity for effect in effects]
    # The parent goes to the next page when the checkpoint of the last one is committed: none comes again after that.
    again = pages.index(f"page {KILLED_PAGE}")
    assert order == [*pages[: again + 1], *pages[again:], "e-mail"]
    judge(effects, {handle.id}, {*pages, "e-mail"}, lost=1)
    for page in range(1, PAGES + 1):
        assert destination.page("acme", page) == source.page("acme", page)
    mails = stack.compose("logs", "--no-color", "mailbox").count("e-mail to=billing@acme.example")
    assert mails == 1


async def test_the_kill_of_a_scheduler(stack: Stack, client: Client) -> None:
    handles = await _load()
    await _half_way(stack, handles)
    (killed,) = stack.containers("scheduler-a")
    stack.docker("kill", killed)
    await _end(stack, handles, lost=1)  # its workers go to the other one; a slow machine may miss the grace


async def test_a_stop_and_start_of_postgresql(stack: Stack, client: Client) -> None:
    handles = await _load()
    await _half_way(stack, handles)
    stack.compose("stop", "postgres")
    stack.compose("start", "postgres")
    await _end(stack, handles, lost=0)


async def test_a_worker_cut_off_for_longer_than_its_lease(stack: Stack, client: Client) -> None:
    handles = await _load()
    roots = await _half_way(stack, handles)
    cut_off = stack.containers("worker")[0]
    stack.docker("network", "disconnect", stack.network(), cut_off)
    # The others end everything, once its lease is over.
    await _all_ended(roots)
    await asyncio.to_thread(stack.becomes, cut_off, "unhealthy")
    stack.docker("network", "connect", "--alias", "worker", stack.network(), cut_off)
    await _end(stack, handles, lost=1, zombies=True)
    await _judge_again_after_another_run(stack, roots)


async def test_a_worker_paused_for_longer_than_its_lease(stack: Stack, client: Client) -> None:
    handles = await _load()
    roots = await _half_way(stack, handles)
    paused = stack.containers("worker")[0]
    stack.docker("pause", paused)
    await _all_ended(roots)
    stack.docker("unpause", paused)
    await _end(stack, handles, lost=1, zombies=True)
    await _judge_again_after_another_run(stack, roots)


async def _all_ended(roots: set[str]) -> None:
    async def ended() -> bool:
        return all([(await runs.retrieve(root)).is_final for root in roots])

    await eventually(ended, "all runs have ended", END_S)


async def _judge_again_after_another_run(stack: Stack, roots: set[str]) -> None:
    """The one that came back has let go of what it had: it does nothing more by the time that all is healthy."""
    stack.settle()
    handles = await _load(5)
    await _end(stack, handles, lost=0)
    judge(stack.ledger.read(), roots, EFFECTS, lost=1, zombies=True)


async def test_more_workers_and_fewer(stack: Stack, client: Client) -> None:
    handles = await _load(2 * ERRANDS)
    await _half_way(stack, handles)
    stack.settle(workers=4)
    assert len(stack.containers("worker")) == 4
    more = await _load()
    stack.settle(workers=2)  # two drain
    assert len(stack.containers("worker")) == 2
    await _end(stack, handles, lost=2)
    await _end(stack, more, lost=2)


async def test_a_rolling_restart_of_everything_under_load(stack: Stack, client: Client) -> None:
    stop = asyncio.Event()
    handles: list[RunHandle[Any]] = []

    async def keep_triggering() -> None:
        while not stop.is_set():
            handles.append(await tasks.trigger("errand", len(handles)))
            await asyncio.sleep(0.05)

    triggering = asyncio.create_task(keep_triggering())
    workers = stack.containers("worker")
    for restart in (*(["docker", one] for one in workers), ["scheduler-a"], ["scheduler-b"], ["postgres"]):
        if restart[0] == "docker":
            await asyncio.to_thread(stack.docker, "restart", "--time", "30", restart[1])
        else:
            await asyncio.to_thread(stack.compose, "restart", "--timeout", "30", restart[0])
        await asyncio.to_thread(stack.settle)
    stop.set()
    await triggering
    assert len(handles) > ERRANDS
    await _end(stack, handles, lost=len(workers))
    passed = [effect for effect in stack.ledger.read() if effect.identity.startswith(PASSED)]
    assert passed
