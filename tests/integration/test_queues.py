"""Limited queues with real processes. Limits are judged from the instants that tasks wrote down, not from a counter."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from harness import queue_tasks as tasks
from harness.ledger import LEDGER_VARIABLE, Effect, Ledger
from harness.processes import Deployment, ServerProcess
from harness.waiting import eventually, wait_until
from holdfast import Client, Debounce, HoldfastError, runs
from holdfast.v1 import queue_service_pb2 as pb
from holdfast.v1 import run_service_pb2 as api
from holdfast.v1.queue_service_pb2_grpc import QueueServiceStub
from holdfast.v1.run_pb2 import Run, RunStatus, RunStatusReason
from holdfast.v1.run_service_pb2_grpc import RunServiceStub
from holdfast.v1.task_pb2 import QueueDefinition

TARGET = str(Path(tasks.__file__))
BIG = 10_000


@dataclass(frozen=True, slots=True)
class Stretch:
    """One stretch of execution, in nanoseconds of the machine's monotonic clock."""

    run: str
    lane: str
    begin: int
    end: int
    place: str = ""
    """The worker; and whether the end is that of the worker."""


def stretches(effects: list[Effect], killed: dict[str, int]) -> list[Stretch]:
    """What the ledger tells. One that was begun in a process which was killed ended when that was dead."""
    open_since: dict[tuple[str, int], tuple[int, str, str]] = {}
    found = []
    for effect in effects:
        at, worker, _, lane = effect.note.partition(" ")[0], *effect.note.partition(" ")[2].partition(" ")
        place = (effect.run, effect.fence)  # the process
        if effect.identity == "begin":
            assert place not in open_since, f"{place} began twice"
            open_since[place] = (int(at), worker, lane)
        else:
            begin, worker, lane = open_since.pop(place)
            found.append(Stretch(effect.run, lane, begin, int(at), worker))
    for (run, _), (begin, worker, lane) in open_since.items():
        assert worker in killed, f"{run} began on {worker}, which was not killed, and did not end"
        found.append(Stretch(run, lane, begin, killed[worker], f"{worker}, killed"))
    return found


def most_at_once(found: list[Stretch]) -> int:
    """How many stretches overlap at the worst instant."""
    events = sorted([(one.begin, 1) for one in found] + [(one.end, -1) for one in found])
    most = now = 0
    for _, step in events:
        now += step
        most = max(most, now)
    return most


def too_many(found: list[Stretch], limit: int) -> str:
    """What overlaps where more than the limit do, in milliseconds; empty where that never happens."""
    for one in sorted(found, key=lambda stretch: stretch.begin):
        at_once = [other for other in found if other.begin <= one.begin < other.end]
        if len(at_once) > limit:
            lines = [f"{len(at_once)} at once, limit {limit}; milliseconds from the last one's begin:"]
            for other in at_once:
                begin, end = ((instant - one.begin) / 1e6 for instant in (other.begin, other.end))
                lines.append(f"{other.run} in {other.lane!r} from {begin:.1f} to {end:.1f} on {other.place}")
            return "\n".join(lines)
    return ""


class Site:
    """Schedulers that share a database, and workers that know them all."""

    def __init__(self, deploy: Callable[..., Deployment], url: str, folder: Path, schedulers: int = 1) -> None:
        self.ledger = Ledger(folder / "ledger.jsonl")
        environment = {LEDGER_VARIABLE: str(self.ledger.path)}
        self.deployments = [deploy(url, environment) for _ in range(schedulers)]
        self.schedulers = [one.start_scheduler() for one in self.deployments]
        self.addresses = ",".join(one.address for one in self.deployments)
        self.workers: dict[str, ServerProcess] = {}
        self.killed: dict[str, int] = {}

    def start_worker(self, slots: int, at: int = 0) -> str:
        """One more worker; it prefers the scheduler with this number."""
        name = f"worker-{len(self.workers) + len(self.killed) + 1}"
        addresses = [one.address for one in self.deployments[at:] + self.deployments[:at]]
        environment = {"HOLDFAST_ADDRESS": ",".join(addresses), tasks.WORKER_VARIABLE: name}
        deployment = self.deployments[at]
        self.workers[name] = deployment.start_worker(TARGET, name=name, slots=slots, environment=environment)
        return name

    def kill_worker(self, name: str) -> None:
        """SIGKILL it and its executors at once, and note the instant after which nothing of it can run."""
        worker = self.workers.pop(name)
        os.killpg(worker.pid, signal.SIGKILL)
        self.killed[name] = time.monotonic_ns()
        worker.kill()

    def kill_busy_worker(self) -> None:
        """SIGKILL one that executes something."""

        def busy() -> str:
            open_on: Counter[str] = Counter()
            for effect in self.ledger.read():
                open_on[effect.note.split(" ")[1]] += 1 if effect.identity == "begin" else -1
            return next((name for name in self.workers if open_on[name] > 0), "")

        self.kill_worker(wait_until(busy, "a worker executes something"))

    def restart_scheduler(self, at: int) -> None:
        """SIGKILL a scheduler and start another one in its place."""
        self.schedulers[at].kill()
        self.schedulers[at] = self.deployments[at].start_scheduler(name=f"scheduler-{time.monotonic_ns()}")

    def stretches(self) -> list[Stretch]:
        """What was executed when."""
        return stretches(self.ledger.read(), self.killed)

    @property
    def queues(self) -> QueueServiceStub:
        """The service of the first scheduler."""
        return QueueServiceStub(self.deployments[0].channel)


@contextmanager
def refused(code: grpc.StatusCode, says: str) -> Iterator[None]:
    with pytest.raises(grpc.RpcError, match=says) as caught:
        yield
    assert caught.value.code() is code  # type: ignore[attr-defined]


async def trigger_patiently(item: tasks.Work, lane: str) -> str:
    """Trigger an export though schedulers come and go."""
    while True:
        try:
            return (await tasks.export.trigger(item, concurrency_key=lane)).id
        except HoldfastError:
            await asyncio.sleep(0.05)


async def test_limits_hold_at_every_instant_with_two_schedulers_crashes_and_cancellations(
    postgres_url: str, deploy: Callable[..., Deployment], tmp_path: Path
) -> None:
    site = Site(deploy, postgres_url, tmp_path, schedulers=2)
    for at in (0, 1, 0):
        site.start_worker(6, at)
    for deployment, count in zip(site.deployments, (2, 1), strict=True):
        deployment.wait_for_workers("export", count)
    chance = random.Random(7)
    triggered: list[str] = []
    async with Client(site.addresses) as client:
        with client.use():
            is_over = asyncio.Event()

            async def trigger() -> None:
                while not is_over.is_set():
                    work = tasks.Work(
                        seconds=chance.uniform(0.01, 0.1),
                        rest=chance.choice([0, 0, 0.05]),
                        child=len(triggered) % 10 == 0,
                    )
                    triggered.append(await trigger_patiently(work, chance.choice("aaabc")))
                    await asyncio.sleep(0.03)

            async def cancel() -> None:
                while not is_over.is_set():
                    await asyncio.sleep(0.15)
                    try:
                        await runs.cancel(chance.choice(triggered[-30:]))
                    except HoldfastError:
                        pass  # a scheduler was away

            async def crash() -> None:
                await asyncio.sleep(0.5)
                for at, what in enumerate(("worker", "scheduler", "worker", "scheduler", "worker")):
                    if what == "worker":
                        await asyncio.to_thread(site.kill_busy_worker)
                        site.start_worker(6, at % 2)
                    else:
                        await asyncio.to_thread(site.restart_scheduler, at // 2)
                    await asyncio.sleep(0.3)
                is_over.set()

            await asyncio.gather(trigger(), cancel(), crash())

            async def all_ended() -> bool:
                try:
                    found = [await runs.retrieve(run_id) for run_id in triggered]
                except HoldfastError:
                    return False
                return all(run.is_final for run in found)

            await eventually(all_ended, "all runs have ended", deadline_s=120)
            ended = [await runs.retrieve(run_id) for run_id in triggered]
    states = Counter(str(run.status) for run in ended)
    assert set(states) <= {"COMPLETED", "CANCELED"}, states
    assert states["COMPLETED"] > 60
    assert states["CANCELED"] > 3
    assert sum(run.recoveries for run in ended) > 0
    found = site.stretches()
    by_lane = {lane: [one for one in found if one.lane == lane] for lane in "abc"}
    assert not too_many(found, tasks.TOTAL_LIMIT)
    for mine in by_lane.values():
        assert not too_many(mine, tasks.LANE_LIMIT)
    assert most_at_once(by_lane["a"]) == tasks.LANE_LIMIT, "the limits were hardly tried"
    assert most_at_once(found) >= tasks.TOTAL_LIMIT - 1, "the limits were hardly tried"


@pytest.mark.parametrize("queue", ["", "exports"], ids=["unlimited", "limited"])
async def test_ten_thousand_queued_runs_of_one_tenant_delay_anothers_by_one_turn(
    database_url: str, deploy: Callable[..., Deployment], tmp_path: Path, queue: str
) -> None:
    slots = 4
    site = Site(deploy, database_url, tmp_path)
    name = site.start_worker(slots)
    site.deployments[0].wait_for_workers("quick")
    site.queues.PauseQueue(pb.PauseQueueRequest(name="task/quick"))
    if queue:
        site.queues.PauseQueue(pb.PauseQueueRequest(name=queue))
    options = {"queue": queue} if queue else {}
    async with Client(site.addresses) as client:
        with client.use():
            for _ in range(BIG // 1000):
                items = [tasks.quick.item("big", concurrency_key="big", **options) for _ in range(1000)]
                await tasks.quick.batch_trigger(items)
            site.queues.ResumeQueue(pb.ResumeQueueRequest(name=queue or "task/quick"))
            wait_until(lambda: len(site.ledger.read()) > 100, "the big tenant's runs are under way")
            for _ in range(3):
                handle = await tasks.quick.trigger("small", concurrency_key="small", **options)
                acknowledged = time.monotonic_ns()
                await handle.result(timeout=30)
                found = [one for one in stretches_so_far(site) if one.begin > acknowledged or one.run == handle.id]
                mine = next(one for one in found if one.run == handle.id)
                before = [one for one in found if one.lane == "big" and acknowledged < one.begin < mine.begin]
                # Each slot may have taken one more run before it was small's turn, and one may have been under way.
                assert len(before) <= 2 * slots, f"{len(before)} runs of the big tenant began first"
            left = site.queues.GetQueue(pb.GetQueueRequest(name=queue or "task/quick")).queue.queued
            assert left > 0, "the backlog was gone before it could delay anybody"
    site.kill_worker(name)


def stretches_so_far(site: Site) -> list[Stretch]:
    """Those that have ended."""
    effects = site.ledger.read()
    ended = {(effect.run, effect.fence) for effect in effects if effect.identity == "end"}
    return stretches([effect for effect in effects if (effect.run, effect.fence) in ended], {})


async def test_a_parent_and_its_child_on_a_queue_of_limit_1_both_finish(
    database_url: str, deploy: Callable[..., Deployment], tmp_path: Path
) -> None:
    site = Site(deploy, database_url, tmp_path)
    site.start_worker(10)
    site.deployments[0].wait_for_workers("parent")
    async with Client(site.addresses) as client:
        with client.use():
            handles = [await tasks.parent.trigger(number) for number in range(5)]
            assert [await handle.result(timeout=30) for handle in handles] == [1, 3, 5, 7, 9]
    assert most_at_once(site.stretches()) == 1


async def test_no_period_has_more_starts_than_the_rate_allows(
    database_url: str, deploy: Callable[..., Deployment], tmp_path: Path
) -> None:
    site = Site(deploy, database_url, tmp_path)
    site.start_worker(50)
    site.deployments[0].wait_for_workers("mail")
    async with Client(site.addresses) as client:
        with client.use():
            handles = [await tasks.mail.trigger(number) for number in range(4 * tasks.RATE)]
            for handle in handles:
                await handle.result(timeout=30)
            starts = [(await runs.retrieve(handle)).started_at for handle in handles]
    instants = sorted(start.timestamp() for start in starts if start is not None)
    assert len(instants) == len(handles)
    for begin in instants:
        assert sum(begin <= instant < begin + tasks.PERIOD_S for instant in instants) <= tasks.RATE
    assert instants[-1] - instants[0] < 6 * tasks.PERIOD_S


async def test_debounced_triggers_are_one_run(
    database_url: str, deploy: Callable[..., Deployment], tmp_path: Path
) -> None:
    site = Site(deploy, database_url, tmp_path)
    site.start_worker(10)
    site.deployments[0].wait_for_workers("mail")
    async with Client(site.addresses) as client:
        with client.use():
            debounce = Debounce("user-1", "1s", max_delay="10s")
            handles = [await tasks.mail.trigger(number, debounce=debounce) for number in range(5)]
            assert len({handle.id for handle in handles}) == 1
            assert [handle.is_cached for handle in handles] == [False, True, True, True, True]
            assert await handles[0].result(timeout=30) == 4


def test_queues_are_shown_and_steered(database_url: str, deploy: Callable[..., Deployment], tmp_path: Path) -> None:
    site = Site(deploy, database_url, tmp_path)
    site.start_worker(10)
    site.deployments[0].wait_for_workers("quick")
    stub = site.queues
    exports = stub.GetQueue(pb.GetQueueRequest(name="exports")).queue
    assert exports.definition == QueueDefinition(name="exports", concurrency_limit=2, total_concurrency_limit=5)
    assert not exports.overridden
    mails = stub.GetQueue(pb.GetQueueRequest(name="mails")).queue.definition
    assert (mails.rate_limit, mails.rate_period.ToTimedelta().total_seconds()) == (tasks.RATE, tasks.PERIOD_S)
    listed = stub.ListQueues(pb.ListQueuesRequest()).queues
    assert [queue.definition.name for queue in listed] == ["exports", "mails", "single", "task/quick"]

    paused = stub.PauseQueue(pb.PauseQueueRequest(name="task/quick")).queue
    assert paused.paused
    runs_stub = RunServiceStub(site.deployments[0].channel)
    site_runs = [trigger(runs_stub, "quick", '"x"') for _ in range(3)]
    assert stub.GetQueue(pb.GetQueueRequest(name="task/quick")).queue.queued == 3
    assert reason(runs_stub, site_runs[0]) == "PAUSED"
    assert "'task/quick', which is paused since 20" in explained(runs_stub, site_runs[0])
    assert not stub.ResumeQueue(pb.ResumeQueueRequest(name="task/quick")).queue.paused
    wait_until(lambda: status(runs_stub, site_runs[2]) != "QUEUED", "they start")

    limit = QueueDefinition(name="exports", total_concurrency_limit=1)
    updated = stub.UpdateQueue(pb.UpdateQueueRequest(definition=limit)).queue
    assert (updated.definition, updated.overridden) == (limit, True)
    site_runs = [trigger(runs_stub, "export", '{"seconds": 60}', lane) for lane in "abc"]
    wait_until(lambda: status(runs_stub, site_runs[0]) == "EXECUTING", "the first one executes")
    assert reason(runs_stub, site_runs[2]) == "QUEUE_LIMIT"
    assert explained(runs_stub, site_runs[2]) == "It is queued behind 1 other on queue 'exports', limit 1."
    assert explained(runs_stub, site_runs[1]) == "It is queued as the next one on queue 'exports', limit 1."
    cleared = pb.UpdateQueueRequest(definition=QueueDefinition(name="exports"), clear_override=True)
    assert stub.UpdateQueue(cleared).queue.definition.total_concurrency_limit == tasks.TOTAL_LIMIT
    wait_until(lambda: status(runs_stub, site_runs[2]) == "EXECUTING", "all three execute")
    assert stub.GetQueue(pb.GetQueueRequest(name="exports")).queue.executing == 3

    with refused(grpc.StatusCode.NOT_FOUND, "did you mean 'exports'"):
        stub.PauseQueue(pb.PauseQueueRequest(name="export"))
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "goes together with rate_period"):
        stub.UpdateQueue(pb.UpdateQueueRequest(definition=QueueDefinition(name="q", rate_limit=5)))
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "queue_limit of 1,000,000"):
        stub.UpdateQueue(pb.UpdateQueueRequest(definition=QueueDefinition(name="q", depth_limit=2_000_000)))
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "name the queue"):
        stub.UpdateQueue(pb.UpdateQueueRequest())


def trigger(stub: RunServiceStub, task_id: str, payload: str, lane: str = "") -> str:
    request = api.TriggerRequest()
    item = request.items.add(task_id=task_id)
    item.payload.data = payload.encode()
    item.options.concurrency_key = lane
    return str(stub.Trigger(request).outcomes[0].handle.run_id)


def status(stub: RunServiceStub, run_id: str) -> str:
    run: Run = stub.GetRun(api.GetRunRequest(run_id=run_id)).run
    return RunStatus.Name(run.status).removeprefix("RUN_STATUS_")


def reason(stub: RunServiceStub, run_id: str) -> str:
    run: Run = stub.GetRun(api.GetRunRequest(run_id=run_id, view=api.RUN_VIEW_FULL)).run
    return RunStatusReason.Name(run.status_reason).removeprefix("RUN_STATUS_REASON_")


def explained(stub: RunServiceStub, run_id: str) -> str:
    return str(stub.ExplainRun(api.ExplainRunRequest(run_id=run_id)).sentence)
