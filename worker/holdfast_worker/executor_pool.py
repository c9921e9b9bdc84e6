"""The executor processes: started, listened to, restarted when they die."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
import random
import signal
import sys
import time
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Protocol

from holdfast.v1.worker_service_pb2 import ConnectResponse
from holdfast_worker import link as links

log = logging.getLogger(__name__)

RESTART_MIN_S = 0.1
RESTART_MAX_S = 10.0
STABLE_AFTER_S = 30.0
"""An executor that lived this long is restarted as if it were the first to die."""
LAST_WORDS_S = 1.0
"""How long the link of a dead process may take to yield what it still holds."""
MAX_BACKLOG_BYTES = 64 * 1024 * 1024
"""An executor that lags behind by more than this is stuck and is killed."""


def default_command() -> list[str]:
    """The command that starts an executor; `--link-fd N TARGET...` follows."""
    return [sys.executable, "-m", "holdfast_worker.executor"]


class Restart(enum.Enum):
    """What follows the end of an executor."""

    AT_ONCE = 1
    """It left on purpose: its successor starts at once."""
    LATER = 2
    """Its successor starts after a back-off."""
    NEVER = 3
    """The worker ends."""


class Listener(Protocol):
    """Who wants to know."""

    def executor_frames(self, executor: int, frames: list[bytes]) -> None:
        """Frames arrived. An exception kills the executor."""

    def executor_exited(self, executor: int, code: int, evidence: str) -> Restart:
        """It is gone and its last frames were handed over."""


class ExecutorPool:
    """`processes` executors. Each incarnation has a number of its own, from 1. They inherit our environment unless
    another is given."""

    def __init__(
        self,
        command: Sequence[str],
        targets: Sequence[str],
        listener: Listener,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._command = [*command]
        self._targets = [*targets]
        self._listener = listener
        self._environment = environment
        self._executors: dict[int, _Executor] = {}
        self._last_number = 0
        self._reading = True
        self._keepers: list[asyncio.Task[None]] = []
        self._replaced: set[int] = set()

    def add(self) -> None:
        """Keep one more executor alive."""
        self._keepers.append(asyncio.create_task(self._keep_alive()))

    def replace(self, executor: int) -> None:
        """Start another executor now in place of one that is about to end by itself."""
        if executor in self._executors:
            self._replaced.add(executor)
            self.add()

    def send(self, executor: int, frames: list[ConnectResponse]) -> None:
        """Pass frames on in one write; to a dead one nothing is sent, its death is told otherwise."""
        process = self._executors.get(executor)
        if process is None or process.link is None:
            return
        process.link.send(*frames)
        if process.link.backlog_bytes > MAX_BACKLOG_BYTES:
            self.kill(executor, f"it left {process.link.backlog_bytes} bytes unread")

    def kill(self, executor: int, reason: str) -> None:
        """Kill an executor; it is restarted like any that died."""
        process = self._executors.get(executor)
        if process is not None:
            log.error("event=executor_killed executor=%d pid=%d reason=%r", executor, process.pid, reason)
            process.kill(reason)

    def set_reading(self, reading: bool) -> None:
        """Take frames of executors, or make them wait."""
        if reading != self._reading:
            self._reading = reading
            for process in self._executors.values():
                process.set_reading(reading)

    async def stop(self) -> None:
        """Kill all and tell nobody."""
        for keeper in self._keepers:
            keeper.cancel()
        for process in self._executors.values():
            process.kill("the worker ends")
        await asyncio.gather(*self._keepers, return_exceptions=True)
        await asyncio.gather(*(process.wait() for process in self._executors.values()))

    async def _keep_alive(self) -> None:
        failures = 0
        while True:
            self._last_number += 1
            number = self._last_number
            started = time.monotonic()
            process = _Executor(number, lambda frames, number=number: self._frames(number, frames))  # type: ignore[misc]
            self._executors[number] = process
            try:
                await process.start([*self._command, "--link-fd"], self._targets, self._reading, self._environment)
                code = await process.ended()
                evidence = process.evidence(code)
            except OSError as error:
                code, evidence = 1, f"executor could not be started: {error}"
            del self._executors[number]
            restart = self._listener.executor_exited(number, code, evidence)
            if restart is Restart.NEVER:
                return
            if number in self._replaced:
                self._replaced.discard(number)
                return
            if restart is Restart.AT_ONCE:
                failures = 0
                continue
            failures = 0 if time.monotonic() - started > STABLE_AFTER_S else failures + 1
            delay = min(RESTART_MAX_S, RESTART_MIN_S * 2.0 ** min(failures, 20)) * random.uniform(0.5, 1.0)
            log.info("event=executor_restart in_s=%.2f", delay)
            await asyncio.sleep(delay)

    def _frames(self, number: int, frames: list[bytes]) -> None:
        try:
            self._listener.executor_frames(number, frames)
        except Exception as error:
            log.exception("event=bad_frame executor=%d", number)
            self.kill(number, f"it sent a frame that could not be taken: {type(error).__name__}: {error}")


class _Executor:
    """One process and its link."""

    def __init__(self, number: int, on_frames: Callable[[list[bytes]], None]) -> None:
        self.number = number
        self.link: links.Link | None = None
        self._on_frames = on_frames
        self._process: Process | None = None
        self._link_ended = asyncio.Event()
        self._killed_because = ""

    @property
    def pid(self) -> int:
        return 0 if self._process is None else self._process.pid

    async def start(
        self, command: list[str], targets: list[str], reading: bool, environment: Mapping[str, str] | None
    ) -> None:
        ours, theirs = links.make_pair()
        with theirs:
            fd = theirs.fileno()
            arguments = [*command, str(fd), *targets]
            self._process = await asyncio.create_subprocess_exec(
                *arguments, stdin=DEVNULL, pass_fds=[fd], env=environment
            )
        self.link = await links.open_link(ours, self._on_frames, self._link_lost)
        self.set_reading(reading)
        log.info("event=executor_started executor=%d pid=%d", self.number, self.pid)

    def set_reading(self, reading: bool) -> None:
        if self.link is not None:
            if reading:
                self.link.resume_reading()
            else:
                self.link.pause_reading()

    def kill(self, reason: str) -> None:
        self._killed_because = self._killed_because or reason
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def wait(self) -> None:
        if self._process is not None:
            await self._process.wait()

    async def ended(self) -> int:
        """Wait for the end of the process, then for its last words. A link that ends first ends the process."""
        assert self._process is not None
        assert self.link is not None
        exited = asyncio.create_task(self._process.wait())
        hung_up = asyncio.create_task(self._link_ended.wait())
        try:
            await asyncio.wait([exited, hung_up], return_when=asyncio.FIRST_COMPLETED)
            if not exited.done():
                with contextlib.suppress(TimeoutError):
                    await _within(LAST_WORDS_S, asyncio.wait([exited]))
                if not exited.done():
                    self.kill("it closed its link")
            code = await exited
            # What a dead process had written is read even while the others have to wait.
            self.link.resume_reading()
            with contextlib.suppress(TimeoutError):
                await _within(LAST_WORDS_S, self._link_ended.wait())
            return code
        finally:
            exited.cancel()
            hung_up.cancel()
            self.link.close()

    def evidence(self, code: int) -> str:
        """What is known of its end, in one line."""
        if self._killed_because:
            return f"executor {self.pid} was killed by its worker: {self._killed_because}"
        if code < 0:
            hint = "; perhaps the kernel needed memory" if -code == signal.SIGKILL else ""
            name = signal.strsignal(-code) or "unknown"
            return f"executor {self.pid} was killed by signal {-code} ({name}){hint}"
        return f"executor {self.pid} exited with code {code}"

    def _link_lost(self, error: Exception | None) -> None:
        if error is not None:
            log.warning("event=link_lost executor=%d error=%r", self.number, str(error))
        self._link_ended.set()


async def _within(limit_s: float, awaitable: Coroutine[Any, Any, Any]) -> None:
    await asyncio.wait_for(awaitable, limit_s)
