"""One play: everything that happens follows from the seed.

A scheduler, two workers and clients live on a virtual loop; the seed draws what is triggered and canceled, and what
breaks: streams cut before or after any frame, stalls, `kill -9` of the scheduler around any commit, of workers and of
executors, SIGSTOP, outages of the database, commits of unknown outcome, drains, and jumps of the wall clock. When the
faults are over everything must come to its end.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import random
import shutil
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import holdfast.ids
import holdfast_scheduler.commit_loop
import holdfast_scheduler.database
import holdfast_scheduler.engine
import holdfast_scheduler.ids
import holdfast_scheduler.timers
import holdfast_worker.body
import holdfast_worker.supervisor
from holdfast.errors import RunCanceledError
from holdfast.v1.payload_pb2 import Payload
from holdfast.v1.run_pb2 import TriggerItem
from holdfast_scheduler import model as m
from holdfast_scheduler.convert import new_run
from holdfast_scheduler.errors import RequestError
from holdfast_scheduler.settings import Limits, Settings
from holdfast_worker.body import Body, State
from holdfast_worker.supervisor import RECONNECT_MAX_S
from simulation import bodies
from simulation.judge import Judge
from simulation.link import Connection, SimStream
from simulation.sides import Chance, SchedulerProcess, SimExecutor, SimPool, WorkerProcess
from simulation.virtual_loop import StandstillError, VirtualLoop

NAMESPACE = "default"
WALL_START_NS = 1_800_000_000 * 10**9
FAULTS_S = 25.0
"""For so long things break."""
PATIENCE_S = 400.0
"""After the last fault every run ends within this."""
SETTLE_S = 15.0
"""Then everything is at rest within this: longer than a lease."""

PROFILES: dict[str, tuple[str, ...]] = {
    "calm": (),
    "scheduler": ("kill_scheduler", "kill_around_commit"),
    "database": ("outage", "in_doubt"),
    "cuts": ("cut", "cut_at_frames"),
    "workers": ("kill_worker", "kill_executor", "kill_machine", "kill_executor"),
    "silence": ("stall", "pause_worker", "pause_scheduler", "stall"),
    "drains": ("drain", "drain", "kill_executor"),
    "clock": ("jump_clock", "kill_scheduler"),
    "all": (
        "kill_scheduler", "kill_around_commit", "outage", "in_doubt", "cut", "cut_at_frames", "kill_worker", "stall",
        "kill_machine", "kill_executor", "pause_worker", "pause_scheduler", "drain", "jump_clock",
    ),
}  # fmt: skip
LOSES_NO_WORKER = frozenset({"calm", "scheduler", "database"})
"""Profiles in which nothing may cost a recovery."""


class Play(Chance):
    """One play. `run` gives what was wrong, or nothing."""

    def __init__(self, seed: int, folder: Path, template: Path, *, profile: str = "", show: bool = False) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.profile = profile or self.rng.choice(list(PROFILES))
        self.path = folder / f"{seed}.sqlite3"
        shutil.copyfile(template, self.path)
        self.loop = VirtualLoop(self.latency)
        self.loop.kills_around_thread = self._kills_around_commit
        self.loop.set_exception_handler(self._exception)
        self.problems: list[str] = []
        self.log: list[str] = []
        self.show = show
        self.wall_offset_ns = 0
        rng = self.rng
        self.settings = Settings(
            hold=rng.choice([300.0, 300.0, 15.0]), cancel_grace=rng.choice([30.0, 3.0]), max_recoveries=1000
        )
        self.slots = rng.choice([2, 3, 50])
        self.processes = rng.choice([1, 1, 2])
        self.slowness = rng.choice([0.002, 0.02, 0.1])
        self.roots = bodies.plans(rng, rng.randint(1, 5))
        self.scheduler: SchedulerProcess | None = None
        self.workers: dict[int, WorkerProcess] = {}
        self.executors: list[SimExecutor] = []
        self.losses = 0
        """Events of which each may cost a run one recovery."""
        self.handed_back = False
        """Whether a worker gave up runs that executed: their effects may be done again without a recovery."""
        self.are_faults_over = False
        self.has_jumped_back = False
        """Whether the wall clock was set back: what was to end by it ends later."""
        self.has_jumped_ahead = False
        """Whether it was set ahead: what was to end by it may end sooner."""
        self._around_commit = self._cuts_left = self._doubts = 0
        self._away_until = 0.0
        self._stalled: dict[int, float] = {}
        self.reader = sqlite3.connect(self.path, isolation_level=None)
        self.judge = Judge(self)

    @property
    def is_lossless(self) -> bool:
        """Whether nothing that happened may cost a recovery."""
        return self.profile in LOSES_NO_WORKER

    # --- for the sides ----------------------------------------------------------------------------------------------

    def latency(self) -> float:
        return self.rng.uniform(0.0002, self.slowness)

    def delay(self, least: float, most: float) -> float:
        return self.rng.uniform(least, most)

    def notice(self) -> float:
        """Seconds until an end of a connection notices that it broke."""
        return self.rng.choice([0.0, 0.001, 0.05, self.rng.uniform(0, 1), self.rng.uniform(0, 15)])

    def coin(self) -> bool:
        """Heads or tails."""
        return self.rng.random() < 0.5

    def is_cut_at_frame(self) -> bool:
        """Whether the connection breaks at this frame."""
        if self.are_faults_over or not self._cuts_left or self.rng.random() > 0.05:
            return False
        self._cuts_left -= 1
        self.losses += 1
        self.say("cut at a frame")
        return True

    def failed(self, what: str) -> None:
        self.say(f"PROBLEM {what}")
        self.problems.append(what)

    def say(self, text: str) -> None:
        """Note what happens."""
        if self.judge.is_closed:
            return
        line = f"{self.loop.time():10.4f} {text}"
        self.log.append(line)
        if self.show:
            print(line)

    # --- the play ---------------------------------------------------------------------------------------------------

    def run(self) -> list[str]:
        """Play it. Returns what was wrong."""
        graveyard = holdfast_worker.body._graveyard
        buried = len(graveyard)
        with self._patched():
            try:
                self.loop.run_until_complete(self._main())
            except StandstillError as error:
                self.failed(str(error))
            finally:
                bodies.outside.remove(self.judge)
                self.judge.is_closed = True
                self._wind_up(graveyard[buried:])
                self.reader.close()
                del graveyard[buried:]
        return self.problems

    def _wind_up(self, abandoned: list[Body]) -> None:
        for worker in self.workers.values():
            worker.kill(silently=True)
        if self.scheduler is not None:
            self.scheduler.kill()
        living = [body for executor in self.executors for body in executor.executor.bodies.values()]
        for body in (*abandoned, *living):
            body.state = State.ABANDONED
            body._calls.is_closing = True
        self.loop.wind_up(body.gate for body in (*abandoned, *living))

    async def _main(self) -> None:
        rng, loop = self.rng, self.loop
        bodies.outside.append(self.judge)
        self._start_scheduler()
        for index in (0, 1):
            self._start_worker(index)
        clients = [asyncio.create_task(self._client(plan, rng.uniform(0, 15))) for plan in self.roots]
        kinds = PROFILES[self.profile]
        faults = [
            asyncio.create_task(self._fault(rng.uniform(0.3, FAULTS_S), rng.choice(kinds)))
            for _ in range(rng.randint(1, 10) if kinds else 0)
        ]
        if kinds:
            await asyncio.sleep(FAULTS_S)
            await asyncio.wait(faults)
            await self._end_faults()
        deadline = loop.time() + PATIENCE_S
        await asyncio.wait(clients, timeout=PATIENCE_S)
        while not self.judge.is_over():
            if loop.time() > deadline:
                self.failed(f"after {PATIENCE_S:g} s without faults not every run has ended")
                break
            await asyncio.sleep(0.5)
        await asyncio.sleep(SETTLE_S)
        self.judge.judge()
        for task in (*clients, *faults):
            if task.done() and not task.cancelled() and task.exception() is not None:
                raise task.exception()  # type: ignore[misc]

    async def _end_faults(self) -> None:
        """From here on nothing breaks; what is stopped goes on."""
        self.are_faults_over = True
        self.say("the faults are over")
        while self.loop.time() < max(self._away_until, *self._stalled.values(), 0.0):
            await asyncio.sleep(0.1)
        while self.scheduler is None or len(self.workers) < 2:
            await asyncio.sleep(0.1)

    def _start_scheduler(self) -> None:
        self.say("scheduler starts")
        self.scheduler = SchedulerProcess(self.loop, self, self.path, self.settings, self._scheduler_exits)
        self.scheduler.database.is_away = lambda: self.loop.time() < self._away_until
        self.scheduler.database.breaks_at_commit = self._breaks_at_commit

    def _scheduler_exits(self) -> None:
        """It finds no database: whoever watches over it starts it again."""
        assert self.scheduler is not None
        self.scheduler.kill()
        self.scheduler = None
        self.loop.call_later_neutral(1.0, self._start_scheduler)

    def _start_worker(self, index: int) -> None:
        self.say(f"worker {index} starts")
        self.workers[index] = WorkerProcess(self.loop, self, index, self.slots, self.processes)

    def connect(self, index: int) -> Connection | None:
        """A worker connects; None when nobody listens."""
        scheduler = self.scheduler
        if scheduler is None or not scheduler.is_ready:
            return None
        connection = Connection(self.loop, self)
        connection.stall(self._stalled.get(index, 0.0))
        worker = self.workers.get(index)
        if worker is not None:
            worker.connections.append(connection)
        scheduler.accept(connection)
        return connection

    # --- clients ----------------------------------------------------------------------------------------------------

    async def ask(self, make: Callable[[], m.Command]) -> Any:
        """Have a command carried out, patiently."""
        while True:
            scheduler = self.scheduler
            if scheduler is not None and scheduler.is_ready:
                asked = scheduler.process.start(scheduler.engine.do(make()))
                asked.add_done_callback(lambda task: task.cancelled() or task.exception())
                await asyncio.wait([asked], timeout=3.0)
                if asked.done():
                    try:
                        return asked.result()
                    except RequestError as error:
                        self.say(f"client is told {error}")
            await asyncio.sleep(self.rng.uniform(0.05, 0.5))

    async def _client(self, plan: bodies.Plan, delay: float) -> None:
        await asyncio.sleep(delay)
        run_id = holdfast.ids.new_run_id()
        item = TriggerItem(run_id=run_id, task_id="simulated", payload=Payload(data=json.dumps(plan).encode()))
        while True:
            (outcome,) = await self.ask(lambda: m.TriggerRuns(NAMESPACE, [new_run(item, limits=Limits())]))
            if isinstance(outcome, m.Handle):
                break
            assert outcome.reason == "TASK_NOT_FOUND", outcome
            await asyncio.sleep(0.2)
        self.judge.accepted(outcome.run_id, plan)
        self.say(f"{plan['name']} is accepted")
        if self.rng.random() < 0.25:
            await asyncio.sleep(self.rng.uniform(0, 20))
            await self._cancel()

    async def _cancel(self) -> None:
        """Cancel some open run, a child perhaps."""
        rows = self.reader.execute("SELECT id FROM runs WHERE status < 10 ORDER BY id").fetchall()
        if rows:
            (run_id,) = self.rng.choice(rows)
            self.judge.may_be_canceled(run_id)
            if await self.ask(lambda: m.CancelRun(NAMESPACE, run_id)) is True:
                self.judge.canceled(run_id)
                self.say(f"{self.judge.name_of(run_id)} is canceled")

    def complete_later(self, token_id: bytes) -> None:
        """An outsider completes a token, or forgets to."""
        if self.rng.random() < 0.8:
            self.loop.call_later_neutral(self.rng.uniform(0, 8), self._complete, token_id)

    def _complete(self, token_id: bytes) -> None:
        asyncio.ensure_future(self.ask(lambda: m.SettleToken(NAMESPACE, token_id, b"", b"")))  # noqa: RUF006

    # --- faults -----------------------------------------------------------------------------------------------------

    async def _fault(self, delay: float, kind: str) -> None:
        await asyncio.sleep(delay)
        self.say(f"fault {kind}")
        made: Awaitable[None] | None = getattr(self, f"_{kind}")()
        if made is not None:
            await made

    def _kill_scheduler(self) -> None:
        if self.scheduler is not None:
            self.scheduler.kill()
            self.scheduler = None
            most = 2.0 if self.profile != "all" else self.rng.choice([2.0, 25.0])
            self.loop.call_later_neutral(self.rng.uniform(0.01, most), self._start_scheduler)

    def _kill_around_commit(self) -> None:
        self._around_commit += 1

    def _kills_around_commit(self) -> bool:
        if not self._around_commit or self.are_faults_over or self.rng.random() > 0.15:
            return False
        self._around_commit -= 1
        self.say("scheduler is killed around a commit")
        self._kill_scheduler()
        return True

    def _outage(self) -> None:
        self._away_until = self.loop.time() + self.rng.choice([0.5, 3.0, 9.0, 20.0])

    def _in_doubt(self) -> None:
        self._doubts += 1

    def _breaks_at_commit(self) -> bool | None:
        if not self._doubts or self.are_faults_over or self.rng.random() > 0.2:
            return None
        self._doubts -= 1
        self.say("the outcome of a commit is unknown")
        self._away_until = self.loop.time() + self.rng.choice([0.0, 0.5, 5.0])
        return self.coin()

    def _some_worker(self) -> WorkerProcess | None:
        living = [worker for worker in self.workers.values() if worker.process.is_alive]
        return self.rng.choice(living) if living else None

    def _kill_worker(self, *, silently: bool = False) -> None:
        worker = self._some_worker()
        if worker is not None:
            self.losses += 1
            self.say(f"worker {worker.index} is killed")
            worker.kill(silently=silently)
            del self.workers[worker.index]
            self.loop.call_later_neutral(self.rng.choice([0.1, 2.0, 15.0]), self._start_worker, worker.index)

    def _kill_machine(self) -> None:
        self._kill_worker(silently=True)

    def _kill_executor(self) -> None:
        worker = self._some_worker()
        if worker is not None and worker.supervisor is not None and worker.pool.living:
            self.losses += 1
            number = self.rng.choice(list(worker.pool.living))
            self.say(f"executor {number} of worker {worker.index} is killed")
            worker.pool.kill(number, "for fun")

    def _cut(self) -> None:
        worker = self._some_worker()
        if worker is not None and worker.connections:
            self.losses += 1
            worker.connections[-1].cut()

    def _cut_at_frames(self) -> None:
        self._cuts_left += self.rng.randint(1, 4)

    def _stall(self) -> None:
        worker = self._some_worker()
        if worker is not None:
            self.losses += 1
            until = self._stalled[worker.index] = self.loop.time() + self.rng.choice([0.5, 4.0, 12.0, 35.0])
            self.say(f"worker {worker.index} is cut off until {until:.1f}")
            for connection in worker.connections:
                connection.stall(until)

    async def _pause_worker(self) -> None:
        worker = self._some_worker()
        if worker is not None:
            self.losses += 1
            self.say(f"worker {worker.index} is stopped")
            worker.process.pause()
            await asyncio.sleep(self.rng.choice([0.5, 5.0, 12.0, 30.0]))
            self.say(f"worker {worker.index} goes on")
            worker.process.resume()

    async def _pause_scheduler(self) -> None:
        scheduler = self.scheduler
        if scheduler is not None:
            self.losses += 1
            scheduler.process.pause()
            await asyncio.sleep(self.rng.choice([0.5, 5.0, 12.0]))
            self.say("scheduler goes on")
            scheduler.process.resume()

    async def _drain(self) -> None:
        worker = self._some_worker()
        if worker is None or worker.supervisor is None:
            return
        self.say(f"worker {worker.index} drains")
        worker.process.context.run(worker.supervisor.stop)
        for _ in range(400):
            await asyncio.sleep(0.2)
            if worker.has_ended or not worker.process.is_alive:
                break
        if self.workers.get(worker.index) is worker:
            self.say(f"worker {worker.index} has drained: {worker.has_ended}")
            self.losses += 1
            worker.kill(silently=False)
            self._start_worker(worker.index)

    def _jump_clock(self) -> None:
        self.losses += 1
        seconds = self.rng.choice([-60, -5, -1, 1, 5, 60])
        self.say(f"the wall clock jumps by {seconds} s")
        self.wall_offset_ns += seconds * 10**9
        self.has_jumped_back = self.has_jumped_back or seconds < 0
        self.has_jumped_ahead = self.has_jumped_ahead or seconds > 0

    # --- the machine ------------------------------------------------------------------------------------------------

    def wall_ns(self) -> int:
        """The wall clock."""
        return WALL_START_NS + round(self.loop.time() * 1e9) + self.wall_offset_ns

    def _exception(self, _loop: Any, context: dict[str, Any]) -> None:
        if isinstance(context.get("exception"), RunCanceledError):
            return  # of a task of a canceled body, which nobody awaits any more
        self.failed(f"{context.get('message')}: {context.get('exception')!r}")

    @contextlib.contextmanager
    def _patched(self) -> Iterator[None]:
        """The product's clocks, randomness, network and processes are the play's."""
        loop = self.loop

        class SimTime:
            monotonic = staticmethod(loop.time)
            perf_counter = staticmethod(loop.time)
            sleep = staticmethod(lambda seconds: None)
            time_ns = staticmethod(self.wall_ns)

            @staticmethod
            def monotonic_ns() -> int:
                return round(loop.time() * 1e9)

        def urandom(count: int) -> bytes:
            return self.rng.randbytes(count)

        chance = random.getstate()
        random.seed(self.seed)
        handler = _Listener(self)
        loggers = [logging.getLogger(name) for name in ("holdfast.scheduler", "holdfast_worker")]
        states = [(one, one.level, one.propagate) for one in loggers]
        with contextlib.ExitStack() as stack:
            for module in ("engine", "timers", "commit_loop", "database", "ids"):
                found = getattr(holdfast_scheduler, module)
                stack.enter_context(mock.patch.object(found, "time", SimTime))
            for ids in (holdfast_scheduler.ids, holdfast.ids):
                fake = mock.Mock(urandom=urandom, wraps=os)
                stack.enter_context(mock.patch.object(ids, "os", fake))
            # Every commit in a thread: there is room between the commit and its effects to be killed in.
            stack.enter_context(mock.patch.object(holdfast_scheduler.commit_loop, "SLOW_COMMIT", -1.0))
            stack.enter_context(mock.patch.object(holdfast.ids, "time", SimTime))
            stack.enter_context(mock.patch.object(holdfast.ids, "_last", 0))
            supervisor = holdfast_worker.supervisor
            stack.enter_context(mock.patch.object(supervisor, "_clock", loop.time))
            stack.enter_context(mock.patch.object(supervisor, "ExecutorPool", self._make_pool))
            stack.enter_context(mock.patch.object(supervisor, "SchedulerStream", self._make_stream))
            stack.enter_context(mock.patch.object(supervisor, "TICK_S", 0.25))
            for one in loggers:
                one.addHandler(handler)
                one.setLevel(logging.DEBUG if self.show else logging.INFO)
                one.propagate = False
            try:
                yield
            finally:
                for one, level, propagate in states:
                    one.removeHandler(handler)
                    one.setLevel(level)
                    one.propagate = propagate
                random.setstate(chance)

    def _make_pool(self, _command: Any, targets: list[str], listener: Any, _environment: Any) -> SimPool:
        return SimPool(self.workers[int(targets[0])], listener, self.executors)

    def _make_stream(self, address: str, _key: str | None, on_frame: Any, on_end: Any) -> SimStream:
        return SimStream(lambda: self.connect(int(address)), self, address, on_frame, on_end)


class _Listener(logging.Handler):
    """Keeps the product's log, and takes an exception in it for a failure of the play."""

    def __init__(self, play: Play) -> None:
        super().__init__()
        self._play = play

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        self._play.say(f"  {record.name.rpartition('.')[2]}: {text}")
        if any(event in text for event in ("event=hold_ends", "event=drain_timeout", "event=stop_now")):
            self._play.handed_back = True
        if record.exc_info:
            self._play.failed(f"logged an exception: {text}: {record.exc_info[1]!r}")
        elif "one command fails" in text or "reason=REFUSAL_REASON_INVALID" in text:
            self._play.failed(text)


assert RECONNECT_MAX_S < SETTLE_S
