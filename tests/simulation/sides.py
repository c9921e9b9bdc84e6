"""The two ends as processes on the virtual loop: the real engine and stream service, the real supervisor and executors.

Only what touches the machine is replaced: the network, the processes, the clock, the disk's flush.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import grpc
import sqlalchemy as sa
from google.protobuf.message import Message

from holdfast.v1.worker_service_pb2 import ConnectRequest, ConnectResponse
from holdfast_scheduler.database import LostError, SqliteDatabase, Transaction
from holdfast_scheduler.engine import Engine
from holdfast_scheduler.errors import RequestError
from holdfast_scheduler.services.worker_service import WorkerService
from holdfast_scheduler.settings import Settings
from holdfast_worker.executor import Executor
from holdfast_worker.stream import StreamEnd
from holdfast_worker.supervisor import Supervisor, WorkerSettings
from simulation.bodies import simulated
from simulation.link import Connection, Pipe
from simulation.virtual_loop import Process, VirtualLoop

_CODES = {code.value[0]: code.name for code in grpc.StatusCode}
PLACES = 10**6
"""Bodies that one executor keeps; those abandoned are counted over all plays of the process."""


class Chance:
    """How the play goes, as far as the sides ask. See `play.Play`."""

    def latency(self) -> float:
        raise NotImplementedError

    def delay(self, least: float, most: float) -> float:
        """Seconds between."""
        raise NotImplementedError

    def failed(self, what: str) -> None:
        """Something happened that never may."""
        raise NotImplementedError


# --- the scheduler -----------------------------------------------------------------------------------------------


class SimDatabase(SqliteDatabase):
    """A file as always, but nobody waits for the disk; and it can be away."""

    def __init__(self, path: Path) -> None:
        super().__init__(sa.engine.make_url(f"sqlite:///{path}"))
        self.is_away: Callable[[], bool] = lambda: False
        self.breaks_at_commit: Callable[[], bool | None] = lambda: None
        """None: it does not; else whether the commit was done before the connection broke."""

    def begin(self, *, is_hurried: bool = False, foreseen: tuple[int, int] | None = None) -> Transaction:
        if self.is_away():
            raise LostError("the database is away")
        if self._writer is None:
            self._writer = sqlite3.connect(self.path, check_same_thread=False, isolation_level=None)
            self._writer.execute("PRAGMA synchronous=OFF")
        tx = super().begin(is_hurried=is_hurried)
        commit = tx.commit

        def commit_or_break() -> None:
            broken = self.breaks_at_commit()
            if broken is not False:
                commit()
            else:
                tx.rollback()
            if broken is not None:
                raise LostError("the connection broke during the commit")

        tx.commit = commit_or_break  # type: ignore[method-assign]
        return tx


class SchedulerProcess:
    """One scheduler, from start to kill."""

    def __init__(
        self, loop: VirtualLoop, chance: Chance, path: Path, settings: Settings, exits: Callable[[], None]
    ) -> None:
        self.loop = loop
        self.process = Process(loop)
        self._exits = exits
        self.is_ready = False
        self.connections: list[Connection] = []
        self._chance = chance
        self.database = SimDatabase(path)
        self.engine = self.process.context.run(Engine, self.database, settings)
        self.service = WorkerService(self.engine)
        self.process.start(self._start())

    async def _start(self) -> None:
        try:
            await self.engine.start()
        except LostError:
            self._exits()
            return
        assert self.engine._loop_task is not None
        assert self.engine._look_task is not None
        self.is_ready = True
        vital = [self.engine._loop_task, self.engine._look_task]
        ended, _ = await asyncio.wait(vital, return_when=asyncio.FIRST_COMPLETED)
        self._chance.failed(f"the scheduler's loop has ended: {[one.exception() for one in ended]}")

    def accept(self, connection: Connection) -> None:
        """A worker connects."""
        self.connections.append(connection)
        connection.serving_context = self.process.context
        connection.serving = self.process.start(self._serve(connection))

    async def _serve(self, connection: Connection) -> None:
        end = StreamEnd("OK", "", "")
        try:
            async for response in self.service.Connect(connection.requests(), None):
                connection.down.send(response.SerializeToString())
        except RequestError as error:
            end = StreamEnd(_CODES[error.fault.code], error.fault.reason, error.fault.message)
        except Exception as error:
            self._chance.failed(f"the stream broke: {error!r}")
            end = StreamEnd("INTERNAL", "", str(error))
        connection.down.end_in_order(end)

    def kill(self) -> None:
        """`kill -9`: the kernel closes the connections and lets go of the lock."""
        self.process.kill()
        for connection in self.connections:
            connection.hang_up()
        self.database.close()


# --- the worker --------------------------------------------------------------------------------------------------


class SimExecutor:
    """One executor process, and the socket between it and its supervisor."""

    def __init__(self, pool: SimPool, number: int) -> None:
        self.number = number
        self.is_alive = True
        self._pool = pool
        self._loop = pool.loop
        self._last_up = self._last_down = 0.0
        tasks: Mapping[str, Any] = {simulated.id: simulated}
        self.executor = Executor(self._loop, tasks, self, PLACES)
        self.send(ConnectRequest(hello=self.executor.hello()))

    def send(self, *messages: Message) -> None:
        """To the supervisor."""
        data = [message.SerializeToString() for message in messages]
        self._last_up = max(self._last_up + 1e-6, self._loop.time() + self._pool.chance.latency() / 4)
        self._loop.at(self._last_up, self._pool.worker.process.context, self._pool.frames_of, self.number, data)

    def tell(self, frames: list[ConnectResponse]) -> None:
        """From the supervisor."""
        data = [frame.SerializeToString() for frame in frames]
        self._last_down = max(self._last_down + 1e-6, self._loop.time() + self._pool.chance.latency() / 4)
        self._loop.call_later_neutral(self._last_down - self._loop.time(), self._take, data)

    def _take(self, data: list[bytes]) -> None:
        if self.is_alive:
            self.executor.take(data)

    def die(self) -> None:
        """Nothing of it ever runs again. What it has written still arrives."""
        if self.is_alive:
            self.is_alive = False
            self._loop.remove_hook(self.executor._after_turn)
            for body in list(self.executor.bodies.values()):
                body.abandon()

    @property
    def last_words_at(self) -> float:
        """When everything it has written has arrived."""
        return max(self._last_up, self._loop.time()) + 1e-5


class SimPool:
    """Stands for `holdfast_worker.executor_pool.ExecutorPool`."""

    def __init__(self, worker: WorkerProcess, listener: Any, made: list[SimExecutor]) -> None:
        self._made = made
        self.worker = worker
        self.loop = worker.loop
        self.chance = worker.chance
        self.living: dict[int, SimExecutor] = {}
        self._listener = listener
        self._last = 0

    def add(self) -> None:
        """Keep one more executor alive."""
        self.loop.at(self.loop.time() + self.chance.delay(0.05, 0.3), self.worker.process.context, self._spawn)

    def _spawn(self) -> None:
        self._last += 1
        number = self._last
        # Not as a part of the supervisor's process: it lives on when that stops.
        self.loop.call_neutral(self._make, number)

    def _make(self, number: int) -> None:
        if self.worker.process.is_alive:
            self.living[number] = SimExecutor(self, number)
            self._made.append(self.living[number])

    def frames_of(self, number: int, data: list[bytes]) -> None:
        """An executor has written."""
        try:
            self._listener.executor_frames(number, data)
        except Exception as error:
            self.chance.failed(f"a frame of an executor could not be taken: {error!r}")

    def send(self, executor: int, frames: list[ConnectResponse]) -> None:
        """Pass frames on."""
        if executor in self.living:
            self.living[executor].tell(frames)

    def kill(self, executor: int, reason: str) -> None:
        """Kill one; it is restarted."""
        found = self.living.pop(executor, None)
        if found is not None:
            found.die()
            self.loop.at(found.last_words_at, self.worker.process.context, self._exited, executor, reason)

    def _exited(self, number: int, reason: str) -> None:
        self._listener.executor_exited(number, -9, f"executor {number} was killed: {reason}")
        self.add()

    def set_reading(self, reading: bool) -> None:
        """Plays are too small to fill the buffer."""

    async def stop(self) -> None:
        """Kill all."""
        self.kill_all()

    def kill_all(self) -> None:
        """They leave with their supervisor."""
        for executor in self.living.values():
            executor.die()
        self.living.clear()


class WorkerProcess:
    """One supervisor with its executors, from start to end."""

    def __init__(self, loop: VirtualLoop, chance: Chance, index: int, slots: int, processes: int) -> None:
        self.loop = loop
        self.chance = chance
        self.index = index
        self.slots = slots
        self.process = Process(loop)
        self.connections: list[Connection] = []
        self.has_ended = False
        self.supervisor: Supervisor | None = None
        settings = WorkerSettings(
            targets=[str(index)],
            addresses=[str(index)],
            slots=slots,
            processes=processes,
            version="1",
            name=f"worker-{index}",
            drain_timeout_s=chance.delay(0.5, 20.0),
        )
        self.process.start(self._run(settings))

    async def _run(self, settings: WorkerSettings) -> None:
        self.supervisor = Supervisor(settings)
        await self.supervisor.run()
        self.has_ended = True

    @property
    def pool(self) -> SimPool:
        """Its executors."""
        assert self.supervisor is not None
        pool: Any = self.supervisor._pool
        return pool  # type: ignore[no-any-return]

    def kill(self, *, silently: bool) -> None:
        """`kill -9`; silently: the machine is gone, and nobody closes its connections."""
        self.process.kill()
        if self.supervisor is not None:
            self.loop.call_later_neutral(self.chance.delay(0.0, 0.05), self.pool.kill_all)
        for connection in self.connections:
            if not silently:
                connection.hang_up()
            else:
                connection.up.cut()
                connection.down.cut()


def payload_of(data: bytes) -> Any:
    """The JSON in a serialized Payload."""
    from holdfast.v1.payload_pb2 import Payload

    return json.loads(Payload.FromString(data).data or b"null")


__all__ = ["Pipe", "SchedulerProcess", "WorkerProcess", "payload_of"]
