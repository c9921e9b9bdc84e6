"""The supervisor process: owns the stream, the lease and the reports, and keeps the executors alive.

The protocol is in `session_state`; here is what moves its frames.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from holdfast.v1.worker_service_pb2 import ConnectRequest, ConnectResponse, Hello
from holdfast_worker.executor_pool import ExecutorPool, Restart, default_command
from holdfast_worker.health import HealthServer
from holdfast_worker.parcels import Posts
from holdfast_worker.session_state import SessionState
from holdfast_worker.stream import SchedulerStream, StreamEnd

log = logging.getLogger(__name__)

EXIT_OK = 0
EXIT_FAILED = 1
"""It ended before everything was handed back: a second signal, or no scheduler to hand back to."""
EXIT_BAD_TARGET = 2
"""A target could not be loaded; the executor said why."""
EXIT_REFUSED = 3
"""The scheduler refuses this worker: key, protocol version or definitions."""

PROTOCOL_MAJOR = 1
PROTOCOL_MINOR = 0

TICK_S = 0.1
WELCOME_TIMEOUT_S = 5.0
"""How long one scheduler may take to welcome the worker before the next is tried."""
RECONNECT_MIN_S = 0.05
RECONNECT_MAX_S = 2.0
STABLE_AFTER_S = 1.0
"""A connection that lasted this long is replaced at once when it ends; a shorter one counts as a failure."""
GOODBYE_TIMEOUT_S = 2.0
DRAIN_MARGIN_S = 5.0
"""How long after the drain timeout the last reports may still wait for a commit."""


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What a worker process is told. `processes` and `slots` are 1 or more; `drain_timeout_s` is in seconds."""

    targets: list[str]
    addresses: list[str]
    namespace: str = "default"
    slots: int = 100
    processes: int = 1
    version: str | None = None
    name: str = "worker"
    api_key: str | None = None
    drain_timeout_s: float = 30.0
    health: str | None = None
    """Where it answers health checks, HOST:PORT or unix:PATH; None for nowhere."""
    sdk: str = "holdfast-python"
    executor_command: list[str] = field(default_factory=default_command)

    def executor_environment(self) -> dict[str, str]:
        """The environment of executors: user code reaches the schedulers that this worker was told of."""
        told = {"HOLDFAST_ADDRESS": ",".join(self.addresses), "HOLDFAST_NAMESPACE": self.namespace}
        if self.api_key:
            told["HOLDFAST_API_KEY"] = self.api_key
        return {**os.environ, **told}


class Supervisor:
    """One worker process. `run` is called once."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._pool = ExecutorPool(settings.executor_command, settings.targets, self, settings.executor_environment())
        self._state: SessionState | None = None
        self._definitions: list[bytes] = []
        self._active: SchedulerStream | None = None
        self._welcome: asyncio.Future[StreamEnd | None] | None = None
        self._candidate: SchedulerStream | None = None
        self._hello_sent_at = 0.0
        self._reconnect = asyncio.Event()
        self._finished: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._drains = False
        self._leave_by = float("inf")
        self._tasks: list[asyncio.Task[None]] = []

    async def run(self) -> int:
        """Work until told to stop. Returns the exit code. Raises: OSError when it cannot answer health checks."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            # Not in the main thread (tests, `holdfast dev`): then whoever runs us stops us by `stop`.
            with contextlib.suppress(ValueError, RuntimeError):
                loop.add_signal_handler(number, self.stop)
        health = HealthServer(self._settings.health, lambda: self.is_ready) if self._settings.health else None
        if health is not None:
            await health.start()
        self._pool.add()
        try:
            return await self._finished
        finally:
            if health is not None:
                await health.stop()
            for task in self._tasks:
                task.cancel()
            await self._pool.stop()
            await self._say_goodbye()
            for stream in (self._active, self._candidate):
                if stream is not None:
                    await stream.close()

    def stop(self) -> None:
        """Drain; the second time end now."""
        state = self._state
        if state is None or self._drains:
            log.warning("event=stop_now")
            self._finish(EXIT_OK if state is None else EXIT_FAILED)
            return
        self._drains = True
        self._leave_by = _clock() + self._settings.drain_timeout_s + DRAIN_MARGIN_S
        log.info("event=drain executing=%d timeout_s=%.1f", state.executing, self._settings.drain_timeout_s)
        state.drain(_clock(), self._settings.drain_timeout_s)
        self._settle([])

    @property
    def is_ready(self) -> bool:
        """Whether it takes runs: a scheduler has welcomed it, it has an executor, and it does not drain."""
        state = self._state
        return state is not None and state.is_connected and state.has_executors and not self._drains

    # -- executors

    def executor_frames(self, executor: int, frames: list[bytes]) -> None:
        """See `executor_pool.Listener`."""
        posts: Posts = []
        for data in frames:
            request = ConnectRequest.FromString(data)
            if request.HasField("hello"):
                posts += self._executor_hello(executor, request.hello)
            elif self._state is not None and request.HasField("goodbye"):
                log.info("event=executor_leaves executor=%d reason=full_of_parked_bodies", executor)
                self._pool.replace(executor)
                posts += self._state.executor_leaves(executor, _clock())
            elif self._state is not None:
                posts += self._state.executor_sent(executor, request, len(data))
        self._settle(posts)

    def executor_exited(self, executor: int, code: int, evidence: str) -> Restart:
        """See `executor_pool.Listener`."""
        state = self._state
        if state is None:
            # The very first one: whatever it could not do, another try will not either.
            if code != EXIT_BAD_TARGET:  # of a bad target it has written a line itself
                log.error("event=executor_failed evidence=%r", evidence)
            self._finish(EXIT_BAD_TARGET if code == EXIT_BAD_TARGET else EXIT_FAILED)
            return Restart.NEVER
        on_purpose, lost = state.executor_left(executor, evidence, code == 0)
        level = logging.INFO if on_purpose else logging.ERROR
        log.log(level, "event=executor_exited executor=%d runs=%d evidence=%r", executor, lost, evidence)
        self._settle([])
        return Restart.AT_ONCE if on_purpose else Restart.LATER

    def _executor_hello(self, executor: int, hello: Hello) -> Posts:
        definitions = sorted(task.SerializeToString(deterministic=True) for task in hello.tasks)
        if self._state is None:
            self._definitions = definitions
            self._state = SessionState(self._hello(hello))
            posts = self._state.executor_ready(executor, hello.slots)
            log.info("event=tasks_loaded count=%d ids=%s", len(hello.tasks), ",".join(task.id for task in hello.tasks))
            for _ in range(self._settings.processes - 1):
                self._pool.add()
            self._tasks += [asyncio.create_task(self._keep_time()), asyncio.create_task(self._stay_connected())]
            for task in self._tasks:
                task.add_done_callback(self._task_ended)
            return posts
        if definitions != self._definitions:
            # The code on disk is newer than this worker: it must not run under the old version's name.
            log.error("event=definitions_changed executor=%d action=drain", executor)
            self._pool.kill(executor, "its task definitions differ from those that this worker announced")
            if not self._drains:
                self.stop()
            return []
        return self._state.executor_ready(executor, hello.slots)

    def _hello(self, found: Hello) -> Hello:
        settings = self._settings
        digest = hashlib.sha256(b"".join(hashlib.sha256(each).digest() for each in self._definitions)).hexdigest()
        return Hello(
            protocol_major=PROTOCOL_MAJOR,
            protocol_minor=PROTOCOL_MINOR,
            namespace=settings.namespace,
            worker_name=settings.name,
            version=settings.version or digest[:12],
            tasks=found.tasks,
            slots=settings.slots,
            sdk=found.sdk or settings.sdk,
            features=found.features,
        )

    # -- the stream

    async def _stay_connected(self) -> None:
        """Connect, and again whenever the connection ends, is given up, or its scheduler says that it goes away."""
        failures = 0
        attempt = 0
        while True:
            self._reconnect.clear()
            address = self._settings.addresses[attempt % len(self._settings.addresses)]
            attempt += 1
            refusal = await self._connect(address)
            if refusal is None:
                since = _clock()
                await self._reconnect.wait()
                failures = 0 if _clock() - since >= STABLE_AFTER_S else failures + 1
            else:
                failures += 1
            if failures:
                delay = min(RECONNECT_MAX_S, RECONNECT_MIN_S * 2.0 ** min(failures, 20)) * random.uniform(0.5, 1.0)
                await asyncio.sleep(delay)

    async def _connect(self, address: str) -> StreamEnd | None:
        """Open a stream and wait until it is welcomed; the active one, if any, goes on until then."""
        assert self._state is not None
        self._welcome = asyncio.get_running_loop().create_future()
        stream = self._candidate = SchedulerStream(address, self._settings.api_key, self._on_frame, self._on_end)
        self._hello_sent_at = _clock()
        stream.open(self._state.hello())
        try:
            end = await asyncio.wait_for(self._welcome, WELCOME_TIMEOUT_S)
        except TimeoutError:
            end = StreamEnd("DEADLINE_EXCEEDED", "", f"no Welcome within {WELCOME_TIMEOUT_S:g} s")
        if end is None:
            return None
        self._candidate = None
        await stream.close()
        if not self._refused(stream, end):
            log.warning("event=connect_failed address=%s code=%s message=%r", address, end.code, end.message)
        return end

    def _on_frame(self, stream: SchedulerStream, response: ConnectResponse) -> None:
        state = self._state
        assert state is not None
        now = _clock()
        if stream is self._candidate:
            if not response.HasField("welcome"):
                raise ValueError(f"the first frame is {response.WhichOneof('frame')}, not welcome")
            old, self._active, self._candidate = self._active, stream, None
            if old is not None:
                self._close_later(old)
            welcome = response.welcome
            posts = state.welcomed(welcome, self._hello_sent_at, now)
            stream.begin_writing(self._next_frame)
            log.info(
                "event=connected address=%s session=%s connection_no=%d resumed=%s server=%s",
                stream.address, welcome.session_id.hex(), welcome.connection_no, welcome.resumed,
                welcome.server_version,
            )  # fmt: skip
            assert self._welcome is not None
            self._welcome.set_result(None)
            self._settle(posts)
        elif stream is self._active:
            # Time first: what arrives after the lease has ended was meant for an owner that we may be no longer.
            self._tick(now)
            if stream is not self._active:
                return
            if response.HasField("go_away"):
                log.info("event=go_away address=%s", stream.address)
                self._reconnect.set()
            else:
                self._settle(state.received(response, now))

    def _on_end(self, stream: SchedulerStream, end: StreamEnd) -> None:
        if stream is self._candidate:
            assert self._welcome is not None
            if not self._welcome.done():
                self._welcome.set_result(end)
        elif stream is self._active:
            if not self._drains or end.code != "OK":
                log.warning("event=disconnected address=%s code=%s message=%r", stream.address, end.code, end.message)
            self._give_up_stream()
            self._refused(stream, end)

    def _refused(self, stream: SchedulerStream, end: StreamEnd) -> bool:
        """Act on an answer after which this session, or this worker, has no future."""
        assert self._state is not None
        if end.is_fatal:
            log.error(
                "event=refused address=%s code=%s reason=%s message=%r",
                stream.address, end.code, end.reason, end.message,
            )  # fmt: skip
            self._finish(EXIT_REFUSED)
        elif end.forgets_session:
            self._settle(self._state.session_unknown(_clock()))
        return end.is_fatal

    def _give_up_stream(self) -> None:
        assert self._state is not None
        self._state.disconnected()
        if self._active is not None:
            self._close_later(self._active)
            self._active = None
        self._reconnect.set()

    def _close_later(self, stream: SchedulerStream) -> None:
        closing = asyncio.create_task(stream.close())
        self._tasks.append(closing)
        closing.add_done_callback(self._tasks.remove)

    def _next_frame(self) -> ConnectRequest | None:
        assert self._state is not None
        frame = self._state.next_frame(_clock())
        if frame is not None and frame.HasField("reports"):
            # The clock of the executors' loops, which are on this machine.
            frame.reports.sent_at_us = round(asyncio.get_running_loop().time() * 1e6)
        return frame

    # -- time and consequences

    async def _keep_time(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._tick(_clock())

    def _tick(self, now: float) -> None:
        assert self._state is not None
        lease_ended, posts = self._state.tick(now)
        if lease_ended:
            self._give_up_stream()
        for executor in self._state.stuck_executors(now):
            self._pool.kill(executor, "its event loop did not answer after a cancellation")
        if now >= self._leave_by:
            log.error("event=drain_incomplete executing=%d", self._state.executing)
            self._finish(EXIT_FAILED)
        if posts or self._drains or self._state.is_renewal_due(now):
            self._settle(posts)

    def _settle(self, posts: Posts) -> None:
        """Pass on what the state machine wants passed on, and see what follows from its new state."""
        for executor, frames in posts:
            self._pool.send(executor, frames)
        state = self._state
        if state is None:
            return
        self._pool.set_reading(not state.is_full)
        if self._active is not None:
            self._active.wake()
        if self._drains and state.is_drained:
            log.info("event=drained")
            self._finish(EXIT_OK)

    def _finish(self, code: int) -> None:
        if not self._finished.done():
            self._finished.set_result(code)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("event=supervisor_broken", exc_info=error)
            self._finish(EXIT_FAILED)

    async def _say_goodbye(self) -> None:
        """End the session, so that nobody waits for its lease to end."""
        if self._state is None or self._active is None or not self._state.is_connected:
            return
        self._state.leave()
        self._active.wake()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._active.ended(), GOODBYE_TIMEOUT_S)


def _boot_clock() -> Callable[[], float]:
    """A monotonic clock that counts the time a machine sleeps, where there is one: leases end meanwhile."""
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    if boottime is None:
        return time.monotonic
    return lambda: time.clock_gettime(boottime)


_clock = _boot_clock()
