"""Schedulers and workers as real processes, started by the command line as a user starts them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import grpc
import psutil

from harness.ports import free_port
from harness.waiting import wait_until
from holdfast.v1 import run_service_pb2, run_service_pb2_grpc, task_pb2, task_pb2_grpc

TESTS = Path(__file__).resolve().parent.parent
STOP_DEADLINE_S = 30.0


class ServerProcess:
    """A process that leads its own process group and writes its output to a file."""

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self.name = name
        self.log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                list(command),
                cwd=log.parent,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.pid = self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    def family(self) -> list[psutil.Process]:
        """The process and all its descendants (a worker's executors); nothing once it was waited for."""
        if self.exit_code is not None:
            return []  # somebody else may have the number by now
        try:
            leader = psutil.Process(self.pid)
            return [leader, *leader.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def kill(self) -> None:
        """SIGKILL the process and its descendants, as a whole, and wait until they are gone."""
        if self.exit_code is not None:
            return
        # The leader is stopped first, or it might replace a killed executor before its own turn comes.
        os.kill(self.pid, signal.SIGSTOP)
        family = self.family()
        for process in reversed(family):
            _send(process, signal.SIGKILL)
        self._process.wait(timeout=STOP_DEADLINE_S)
        psutil.wait_procs(family, timeout=STOP_DEADLINE_S)

    def kill_leader(self) -> None:
        """SIGKILL the process alone."""
        self._process.kill()
        self._process.wait(timeout=STOP_DEADLINE_S)

    def pause(self) -> None:
        """SIGSTOP the process and its descendants."""
        for process in self.family():
            _send(process, signal.SIGSTOP)

    def unpause(self) -> None:
        """Undo `pause`."""
        for process in self.family():
            _send(process, signal.SIGCONT)

    def send(self, number: int) -> None:
        """Send a signal to the process alone."""
        self._process.send_signal(number)

    def stop(self, number: int = signal.SIGTERM, deadline_s: float = STOP_DEADLINE_S) -> int:
        """Ask it to end, as an operator would, and return its exit code."""
        if self.exit_code is None:
            self._process.send_signal(number)
        return self._process.wait(timeout=deadline_s)

    def wait(self, deadline_s: float = STOP_DEADLINE_S) -> int:
        """Wait for it to end by itself and return its exit code."""
        return self._process.wait(timeout=deadline_s)

    def log_text(self) -> str:
        """What it has written so far."""
        return self.log.read_text(errors="replace")


class Deployment:
    """A scheduler and workers that share an address, a database and a folder for logs.

    Use it as a context manager: leaving kills whatever is left. `environment` is added to that of every process.
    """

    def __init__(self, folder: Path, database_url: str, environment: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.database_url = database_url
        self.port = free_port()
        self.processes: list[ServerProcess] = []
        self.python = sys.executable
        self._channel: grpc.Channel | None = None
        paths = [str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")]
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("HOLDFAST_")}
        self.environment = {
            **inherited,
            "PYTHONPATH": os.pathsep.join(path for path in paths if path),
            "PYTHONUNBUFFERED": "1",
            "HOLDFAST_ADDRESS": self.address,
            **(environment or {}),
        }

    def __enter__(self) -> Deployment:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def address(self) -> str:
        """HOST:PORT of the scheduler."""
        return f"127.0.0.1:{self.port}"

    def start(self, name: str, *arguments: str, environment: Mapping[str, str] | None = None) -> ServerProcess:
        """Start `holdfast ARGUMENTS` in the background."""
        process = ServerProcess(
            name,
            [sys.executable, "-m", "holdfast", *arguments],
            {**self.environment, **(environment or {})},
            self.folder / f"{name}.log",
        )
        self.processes.append(process)
        return process

    def holdfast(self, *arguments: str, deadline_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run `holdfast ARGUMENTS` to its end."""
        return subprocess.run(
            [sys.executable, "-m", "holdfast", *arguments],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=deadline_s,
        )

    def start_scheduler(self, *arguments: str, name: str = "scheduler", ready: bool = True) -> ServerProcess:
        """Start a scheduler; with `ready`, return when it answers."""
        process = self.start(name, "scheduler", "--database", self.database_url, "--listen", self.address, *arguments)
        if ready:
            self.wait_for_scheduler(process)
        return process

    def wait_for_scheduler(self, process: ServerProcess) -> None:
        """Wait until the scheduler answers. Raises RuntimeError with its log when it ends instead."""

        def answers() -> bool:
            if process.exit_code is not None:
                raise RuntimeError(f"{process.name} ended with {process.exit_code}:\n{process.log_text()}")
            try:
                stub = run_service_pb2_grpc.RunServiceStub(self.channel)
                stub.GetServerInfo(run_service_pb2.GetServerInfoRequest(), timeout=1, wait_for_ready=True)
            except grpc.RpcError:
                return False
            return True

        wait_until(answers, f"{process.name} answers on {self.address}")

    def start_worker(
        self,
        *targets: str,
        name: str = "worker",
        slots: int | None = None,
        processes: int | None = None,
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> ServerProcess:
        """Start a worker. `wait_for_workers` tells when its tasks can run."""
        options = [*arguments]
        if slots is not None:
            options += ["--slots", str(slots)]
        if processes is not None:
            options += ["--processes", str(processes)]
        return self.start(name, "worker", *targets, "--name", name, *options, environment=environment)

    def wait_for_workers(self, task_id: str, count: int = 1) -> None:
        """Wait until `count` connected workers have the task. Raises RuntimeError when one of them ended."""

        def connected() -> bool:
            for process in self.processes:
                if process.exit_code not in (None, 0, -signal.SIGKILL):
                    raise RuntimeError(f"{process.name} ended with {process.exit_code}:\n{process.log_text()}")
            try:
                stub = task_pb2_grpc.TaskServiceStub(self.channel)
                task: task_pb2.Task = stub.GetTask(task_pb2.GetTaskRequest(task_id=task_id), timeout=5).task
            except grpc.RpcError:
                return False
            return task.workers >= count

        wait_until(connected, f"{count} workers have {task_id!r}")

    @property
    def channel(self) -> grpc.Channel:
        """A channel to the scheduler for the test itself."""
        if self._channel is None:
            # A restarted scheduler is to be found at once, not after gRPC's default back-off.
            options = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 500)]
            self._channel = grpc.insecure_channel(self.address, options=options)
        return self._channel

    def logs(self) -> list[tuple[str, str]]:
        """Name and text of every log."""
        return [(process.name, process.log_text()) for process in self.processes]

    def close(self) -> None:
        """Kill what is left."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        for process in reversed(self.processes):
            process.kill()


def _send(process: psutil.Process, number: int) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        pass
