"""`holdfast scheduler`, `holdfast worker` and `holdfast dev`."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from holdfast.cli import exit_codes
from holdfast.cli.failure import CommandError
from holdfast.cli.options import Namespace
from holdfast.settings import DEFAULT_ADDRESS, DEFAULT_NAMESPACE, parse_addresses

DEV_DATABASE = Path(".holdfast") / "holdfast.sqlite3"
"""Where `holdfast dev` keeps its state, below the current folder."""

STOP_DEADLINE_S = 40.0
"""How long `holdfast dev` lets each child stop by itself: longer than the grace of a canceled run."""

SCHEDULER_DID_NOT_START = 2
"""What `run_scheduler` returns after it has said on standard error why it cannot start."""

WORKER_REFUSED = 3
"""What `run_worker` returns when the scheduler refused the worker."""

Database = Annotated[
    str | None,
    typer.Option(
        envvar="HOLDFAST_DATABASE_URL",
        metavar="URL",
        help="sqlite:///FILE, postgresql://USER:PASSWORD@HOST/NAME, or the path of a SQLite file.",
    ),
]
Listen = Annotated[str, typer.Option(envvar="HOLDFAST_LISTEN", metavar="HOST:PORT", help="Address to listen on.")]
Targets = Annotated[
    list[str], typer.Argument(metavar="TARGET...", help="Modules, or paths to .py files, that define tasks.")
]
Slots = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Runs that may execute at once, in all processes together.")
]
Processes = Annotated[int | None, typer.Option(min=1, metavar="N", help="Executor processes.")]


def scheduler(
    database: Database = None,
    listen: Listen = DEFAULT_ADDRESS,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Allow listening beyond loopback without API keys.")
    ] = False,
    reflection: Annotated[
        bool, typer.Option(envvar="HOLDFAST_REFLECTION", help="Let grpcurl and buf list and describe the API.")
    ] = True,
) -> int:
    """Run a scheduler: it owns durable state and time. Stop it with Ctrl-C or SIGTERM."""
    try:
        from holdfast_scheduler.main import run_scheduler
    except ModuleNotFoundError as error:
        raise _extra_missing(error) from error
    code = run_scheduler(
        database_url=database_url(database) if database else None,
        listen=listen,
        insecure=insecure,
        reflection=reflection,
    )
    return exit_codes.CANNOT_START if code == SCHEDULER_DID_NOT_START else code


def migrate(database: Database = None) -> int:
    """Bring a database to the newest schema. A scheduler does so too when it starts; this is for doing it before."""
    try:
        from holdfast_scheduler.main import run_migrate
    except ModuleNotFoundError as error:
        raise _extra_missing(error) from error
    code = run_migrate(database_url(database) if database else None)
    return exit_codes.CANNOT_START if code == SCHEDULER_DID_NOT_START else code


def health(
    address: Annotated[
        str | None,
        typer.Option(
            envvar="HOLDFAST_ADDRESS",
            metavar="HOST:PORT[,...]",
            help="Who is asked, one after the other; by default the scheduler of this machine.",
        ),
    ] = None,
) -> int:
    """Ask whether a scheduler serves: exits with 0 when one does and with 4 otherwise."""
    from holdfast.cli.health import check

    return check(address)


def worker(
    targets: Targets,
    scheduler: Annotated[
        str,
        typer.Option(envvar="HOLDFAST_ADDRESS", metavar="HOST:PORT[,...]", help="Scheduler replicas to connect to."),
    ] = DEFAULT_ADDRESS,
    slots: Slots = None,
    processes: Processes = None,
    name: Annotated[str | None, typer.Option(help="Name for people; by default host and process id.")] = None,
    code_version: Annotated[
        str | None, typer.Option(envvar="HOLDFAST_VERSION", metavar="VERSION", help="Version of your code.")
    ] = None,
    namespace: Namespace = DEFAULT_NAMESPACE,
) -> int:
    """Run a worker: it executes runs of the tasks that TARGETs define. SIGTERM or Ctrl-C drains it."""
    from holdfast_worker.main import DEFAULT_PROCESSES, DEFAULT_SLOTS, run_worker

    try:
        code = run_worker(
            targets,
            addresses=parse_addresses(scheduler),
            namespace=namespace,
            slots=slots or DEFAULT_SLOTS,
            processes=processes or DEFAULT_PROCESSES,
            version=code_version,
            name=name,
        )
    except ValueError as error:
        raise CommandError(str(error)) from error
    return exit_codes.REFUSED if code == WORKER_REFUSED else code


def dev(
    targets: Targets,
    database: Database = None,
    listen: Listen = DEFAULT_ADDRESS,
    slots: Slots = None,
    processes: Processes = None,
    namespace: Namespace = DEFAULT_NAMESPACE,
) -> int:
    """Run a scheduler and a worker together, on an embedded database. Ctrl-C stops both."""
    if database is None:
        DEV_DATABASE.parent.mkdir(exist_ok=True)
    _refuse_taken_port(listen)
    holdfast = [sys.executable, "-m", "holdfast"]
    options = ["--scheduler", listen, "--namespace", namespace]
    for option, value in (("--slots", slots), ("--processes", processes)):
        if value is not None:
            options += [option, str(value)]
    database_text = database_url(database or str(DEV_DATABASE))
    children = _Children()
    with children:
        children.start("scheduler", [*holdfast, "scheduler", "--database", database_text, "--listen", listen])
        if children.wait_for_port(listen):
            children.start("worker", [*holdfast, "worker", *targets, *options])
        return children.wait()


def database_url(text: str) -> str:
    """A database URL as it is; the path of a SQLite file as a URL."""
    return text if "://" in text else f"sqlite:///{text}"


def _extra_missing(error: ModuleNotFoundError) -> CommandError:
    if error.name and error.name.startswith("holdfast"):
        raise error
    return CommandError(
        f"the scheduler needs the package {error.name!r}: pip install 'holdfast[scheduler]' "
        "(with PostgreSQL: 'holdfast[postgres]')",
        exit_codes.CANNOT_START,
    )


def _split(listen: str) -> tuple[str, int]:
    host, colon, port = listen.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise CommandError(f"--listen {listen!r} is not HOST:PORT, for example {DEFAULT_ADDRESS}")
    return host.strip("[]"), int(port)


def _refuse_taken_port(listen: str) -> None:
    """Without this a worker of ours could join the scheduler that has the port, before ours fails to start."""
    host, port = _split(listen)
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        raise CommandError(
            f"cannot listen on {listen}: {error.strerror}; stop what runs there or choose another with --listen",
            exit_codes.CANNOT_START,
        ) from error


class _Children:
    """Child processes that end together, the last one started first."""

    def __init__(self) -> None:
        self._running: list[tuple[str, subprocess.Popen[bytes]]] = []
        self._ended = threading.Event()
        self._asked_to_stop = False

    def __enter__(self) -> _Children:
        self._previous = {number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        for _name, process in self._running:
            if process.poll() is None:
                process.kill()

    def start(self, name: str, command: list[str]) -> None:
        # A session of its own: Ctrl-C reaches us alone, so that we decide who stops first.
        process = subprocess.Popen(command, start_new_session=True, stdin=subprocess.DEVNULL)
        self._running.append((name, process))
        threading.Thread(target=self._watch, args=(process,), daemon=True).start()

    def wait_for_port(self, listen: str) -> bool:
        """Wait until the newest child accepts connections; False when a child ended or a stop was asked for."""
        host, port = _split(listen)
        while not self._ended.wait(0.05):
            with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1):
                return True
        return False

    def wait(self) -> int:
        """Wait until a child ends or a signal comes, stop the others, and return the exit code of it all."""
        # With a timeout, because a wait without one may keep signals from being handled on some platforms.
        while not self._ended.wait(1.0):
            pass
        first_to_end = next((code for _, process in self._running if (code := process.poll()) is not None), None)
        for name, process in reversed(self._running):
            self._end(name, process)
        if self._asked_to_stop:
            return exit_codes.DONE
        code = first_to_end or 0
        return code if code >= 0 else 128 - code

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        process.wait()
        self._ended.set()

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        if self._asked_to_stop:
            for _name, process in self._running:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
        self._asked_to_stop = True
        self._ended.set()

    def _end(self, name: str, process: subprocess.Popen[bytes]) -> None:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(timeout=STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            print(f"the {name} did not stop within {STOP_DEADLINE_S:.0f} s and is killed", file=sys.stderr)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
