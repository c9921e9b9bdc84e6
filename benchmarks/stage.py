"""Schedulers, workers and clients of one measurement, as processes of this machine, and their books."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from benchmarks import ROOT, machine
from benchmarks.databases import Database
from harness.ports import free_port
from harness.processes import Deployment, ServerProcess
from harness.waiting import wait_until

TASKS = str(Path(__file__).with_name("tasks.py"))
A_TASK = "bench-noop"
LOAD_DEADLINE_S = 900.0


@dataclass(frozen=True, slots=True)
class Counts:
    """What the commit loops of all schedulers have done."""

    commits: int = 0
    commands: int = 0
    statements: int = 0
    commit_seconds: float = 0.0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.commits + other.commits,
            self.commands + other.commands,
            self.statements + other.statements,
            self.commit_seconds + other.commit_seconds,
        )

    def since(self, before: Counts) -> Counts:
        return Counts(
            self.commits - before.commits,
            self.commands - before.commands,
            self.statements - before.statements,
            self.commit_seconds - before.commit_seconds,
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """One load: what the clients returned, and what it cost whom."""

    found: Sequence[Mapping[str, Any]]
    """One of each client."""
    cpu_s: Mapping[str, float]
    """CPU seconds by role: client, scheduler, of which gRPC core, supervisor, executors, database."""
    counts: Counts

    @property
    def runs(self) -> int:
        return sum(one["runs"] for one in self.found)

    @property
    def seconds(self) -> float:
        """From the start of the first client's load to the end of the last one's."""
        return float(max(one["ended"] for one in self.found) - min(one["started"] for one in self.found))

    @property
    def runs_per_second(self) -> float:
        return self.runs / self.seconds


class Client:
    """A process that is ready to carry a load."""

    def __init__(self, stage: Stage, address: str, load: str, arguments: Mapping[str, Any]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.client", load, json.dumps(arguments)],
            cwd=ROOT,
            env={**stage.deployment.environment, "HOLDFAST_ADDRESS": address},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid

    def wait_until_ready(self) -> None:
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ready\n":
            raise RuntimeError(f"a client ended with {self._process.wait()} before it was ready")

    def go(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()

    def result(self) -> dict[str, Any]:
        output, _ = self._process.communicate(timeout=LOAD_DEADLINE_S)
        if self._process.returncode != 0:
            raise RuntimeError(f"a client ended with {self._process.returncode}")
        found: dict[str, Any] = json.loads(output)
        return found

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


class Stage:
    """Use it as a context manager: leaving kills every process and drops the database if it was made here."""

    def __init__(self, database: Database, url: str | None = None) -> None:
        self.database = database
        self._own_url = None if url is not None else database.create()
        self.url = url or self._own_url or ""
        self._folder = Path(tempfile.mkdtemp(prefix="holdfast-bench-"))
        self.deployment = Deployment(self._folder, self.url)
        self.schedulers: list[ServerProcess] = []
        self.addresses: list[str] = []
        self.workers: list[ServerProcess] = []

    def __enter__(self) -> Stage:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.deployment.close()
        if self._own_url is not None:
            self.database.drop(self._own_url)
        if kind is None:
            shutil.rmtree(self._folder, ignore_errors=True)
        else:
            print(f"logs are kept in {self._folder}", file=sys.stderr)

    def start_scheduler(self) -> None:
        """One more replica; returns when it serves."""
        address = self.deployment.address if not self.addresses else f"127.0.0.1:{free_port()}"
        scheduler = self.deployment.start(
            f"scheduler-{len(self.schedulers) + 1}", "scheduler", "--database", self.url, "--listen", address
        )
        self.schedulers.append(scheduler)
        self.addresses.append(address)
        wait_until(lambda: _ready(scheduler), f"{scheduler.name} serves")

    def start_worker(self, *, slots: int, processes: int = 1, address: str | None = None) -> ServerProcess:
        """One more worker, connected to one scheduler. `wait_for_workers` tells when it can take runs."""
        worker = self.deployment.start_worker(
            TASKS,
            name=f"worker-{len(self.workers) + 1}",
            slots=slots,
            processes=processes,
            environment={"HOLDFAST_ADDRESS": address or self.addresses[0]},
        )
        self.workers.append(worker)
        return worker

    def wait_for_workers(self, count: int) -> None:
        """Wait until `count` workers are connected."""
        self.deployment.wait_for_workers(A_TASK, count)

    def carry(
        self, load: str, *, clients: int = 1, around: AbstractContextManager[Any] | None = None, **arguments: Any
    ) -> Outcome:
        """Have client processes carry a load together, one or more of each scheduler's, and read the books.

        `around` is entered when the clients are ready and left when they are done.
        """
        started = [Client(self, self.addresses[at % len(self.addresses)], load, arguments) for at in range(clients)]
        try:
            for client in started:
                client.wait_until_ready()
            with around or contextlib.nullcontext():
                counts, cpu = self.counts(), self.cpu_seconds()
                for client in started:
                    client.go()
                found = [client.result() for client in started]
                spent = {role: seconds - cpu[role] for role, seconds in self.cpu_seconds().items()}
                counts = self.counts().since(counts)
        finally:
            for client in started:
                client.kill()
        spent["client"] = sum(one["cpu_s"] for one in found)
        return Outcome(found, spent, counts)

    def executors(self) -> list[psutil.Process]:
        return [process for worker in self.workers for process in worker.family()[1:]]

    def cpu_seconds(self) -> dict[str, float]:
        """CPU seconds so far, by role."""
        return {
            "scheduler": machine.cpu_seconds(_leaders(self.schedulers)),
            "gRPC core in scheduler": sum(machine.core_seconds(process.pid) for process in self.schedulers),
            "supervisor": machine.cpu_seconds(_leaders(self.workers)),
            "executors": machine.cpu_seconds(self.executors()),
            "database": self.database.cpu_seconds(),
        }

    def memory(self) -> dict[str, float]:
        """PSS in MiB, by role."""
        return {
            "scheduler": machine.pss_mebibytes(_leaders(self.schedulers)),
            "supervisor": machine.pss_mebibytes(_leaders(self.workers)),
            "executors": machine.pss_mebibytes(self.executors()),
        }

    def counts(self) -> Counts:
        """What the commit loops have done so far: a scheduler writes it into its log when it is asked."""
        total = Counts()
        for scheduler in self.schedulers:
            written = len(_COUNTS.findall(scheduler.log_text()))
            psutil.Process(scheduler.pid).send_signal(signal.SIGUSR1)
            found = wait_until(
                lambda scheduler=scheduler, written=written: _COUNTS.findall(scheduler.log_text())[written:],  # type: ignore[misc]
                f"{scheduler.name} writes its counts",
            )
            commits, commands, statements, seconds = found[0]
            total += Counts(int(commits), int(commands), int(statements), float(seconds))
        return total

    def wait_for_status(self, status: int, count: int) -> None:
        """Wait until so many runs have a status."""
        text = f"SELECT count(*) FROM runs WHERE status = {status}"
        wait_until(
            lambda: self.database.query(self.url, text)[0][0] >= count,
            f"{count} runs have status {status}",
            deadline_s=LOAD_DEADLINE_S,
        )


def in_turn(stages: Sequence[Stage], load: str, *, turns: int, clients: int = 1, **arguments: Any) -> list[float]:
    """Runs per second of each stage. Each carries the load `turns` times, forwards and backwards in turn, so that what
    else the machine does meanwhile falls to all alike."""
    runs, seconds = [0] * len(stages), [0.0] * len(stages)
    places = range(len(stages))
    for turn in range(turns):
        for place in reversed(places) if turn % 2 else places:
            outcome = stages[place].carry(load, clients=clients, **arguments)
            runs[place] += outcome.runs
            seconds[place] += outcome.seconds
    return [count / spent for count, spent in zip(runs, seconds, strict=True)]


_COUNTS = re.compile(r"scheduler counts commits=(\d+) commands=(\d+) statements=(\d+) commit_seconds=([\d.]+)\n")


def _ready(process: ServerProcess) -> bool:
    if process.exit_code is not None:
        raise RuntimeError(f"{process.name} ended with {process.exit_code}:\n{process.log_text()}")
    return "scheduler ready" in process.log_text()


def _leaders(processes: Sequence[ServerProcess]) -> list[psutil.Process]:
    return [process.family()[0] for process in processes if process.exit_code is None]
