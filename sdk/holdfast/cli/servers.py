"""`holdfast scheduler`, `holdfast worker` and `holdfast dev`."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli import exit_codes
from holdfast.cli.children import Children, leave_with_dev, say
from holdfast.cli.failure import CommandError
from holdfast.cli.options import Namespace
from holdfast.settings import DEFAULT_ADDRESS, DEFAULT_NAMESPACE, parse_addresses

DEV_DATABASE = Path(".holdfast") / "holdfast.sqlite3"
"""Where `holdfast dev` keeps its state, below the current folder."""

DEFAULT_RETENTION = "30d"

DATABASES = ("sqlite", "postgresql", "postgres")

READY_LOOK_S = 0.2
"""How often `holdfast dev` asks whether its worker has connected."""

SCHEDULER_DID_NOT_START = 2
"""What `run_scheduler` returns after it has said on standard error why it cannot start."""

WORKER_REFUSED = 3
"""What `run_worker` returns when the scheduler refused the worker."""

Database = Annotated[
    str | None,
    typer.Option(
        envvar="HOLDFAST_DATABASE_URL",
        metavar="URL",
        help="sqlite:///FILE, postgresql://USER:PASSWORD@HOST/NAME, or the path of a SQLite file; "
        "by default ./holdfast.db, with `dev` ./.holdfast/holdfast.sqlite3.",
    ),
]
Listen = Annotated[str, typer.Option(envvar="HOLDFAST_LISTEN", metavar="HOST:PORT", help="Address to listen on.")]
Targets = Annotated[
    list[str], typer.Argument(metavar="TARGET...", help="Modules, or paths to .py files, that define tasks.")
]
Slots = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Runs that may execute at once, in all processes together; by default 100."),
]
Processes = Annotated[int | None, typer.Option(min=1, metavar="N", help="Executor processes; by default 1.")]


def scheduler(
    database: Database = None,
    listen: Listen = DEFAULT_ADDRESS,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Allow listening beyond loopback without API keys.")
    ] = False,
    reflection: Annotated[
        bool, typer.Option(envvar="HOLDFAST_REFLECTION", help="Let grpcurl and buf list and describe the API.")
    ] = True,
    retention: Annotated[
        str,
        typer.Option(
            envvar="HOLDFAST_RETENTION",
            metavar="DURATION",
            help="How long finished runs are kept, such as 12h or 30d; never: for ever.",
        ),
    ] = DEFAULT_RETENTION,
) -> int:
    """Run a scheduler: it owns durable state and time. Stop it with Ctrl-C or SIGTERM."""
    try:
        from holdfast_scheduler.main import run_scheduler
    except ModuleNotFoundError as error:
        raise _extra_missing(error) from error
    leave_with_dev()
    _split(listen)
    code = run_scheduler(
        database_url=_checked_database_url(database),
        listen=listen,
        insecure=insecure,
        reflection=reflection,
        retention=retention,
    )
    return exit_codes.CANNOT_START if code == SCHEDULER_DID_NOT_START else code


def migrate(database: Database = None) -> int:
    """Bring a database to the newest schema. A scheduler does so too when it starts; this is for doing it before."""
    try:
        from holdfast_scheduler.main import run_migrate
    except ModuleNotFoundError as error:
        raise _extra_missing(error) from error
    code = run_migrate(_checked_database_url(database))
    return exit_codes.CANNOT_START if code == SCHEDULER_DID_NOT_START else code


def health(
    address: Annotated[
        str | None,
        typer.Option(
            envvar=["HOLDFAST_WORKER_HEALTH", "HOLDFAST_ADDRESS"],
            metavar="HOST:PORT[,...]",
            help="Who is asked, one after the other; by default the scheduler of this machine.",
        ),
    ] = None,
) -> int:
    """Ask whether a scheduler serves, or the worker of HOLDFAST_WORKER_HEALTH: exits with 0 if so, else with 4."""
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
    health: Annotated[
        str | None,
        typer.Option(
            envvar="HOLDFAST_WORKER_HEALTH",
            metavar="HOST:PORT",
            help="Where it answers health checks, also unix:PATH; by default nowhere.",
        ),
    ] = None,
) -> int:
    """Run a worker: it executes runs of the tasks that TARGETs define. SIGTERM or Ctrl-C drains it."""
    from holdfast_worker.main import DEFAULT_PROCESSES, DEFAULT_SLOTS, run_worker

    leave_with_dev()
    _check_targets(targets)
    try:
        code = run_worker(
            targets,
            addresses=parse_addresses(scheduler),
            namespace=namespace,
            slots=slots or DEFAULT_SLOTS,
            processes=processes or DEFAULT_PROCESSES,
            version=code_version,
            name=name,
            health=health,
        )
    except ValueError as error:
        raise CommandError(str(error)) from error
    except OSError as error:
        raise CommandError(str(error), exit_codes.CANNOT_START) from error
    if code == WORKER_REFUSED:
        raise CommandError(
            f"the scheduler at {scheduler} refused this worker; the line event=refused above says why",
            exit_codes.REFUSED,
        )
    return code


def dev(
    targets: Targets,
    database: Database = None,
    listen: Listen = DEFAULT_ADDRESS,
    slots: Slots = None,
    processes: Processes = None,
    namespace: Namespace = DEFAULT_NAMESPACE,
) -> int:
    """Run a scheduler and a worker together, on an embedded database. Ctrl-C stops both.

    One that crashes or is killed is started again.
    """
    _check_targets(targets)
    _checked_database_url(database)
    _refuse_taken_port(listen)
    if database is None:
        DEV_DATABASE.parent.mkdir(exist_ok=True)
    holdfast = [sys.executable, "-m", "holdfast"]
    options = ["--scheduler", listen, "--namespace", namespace]
    for option, value in (("--slots", slots), ("--processes", processes)):
        if value is not None:
            options += [option, str(value)]
    database_text = database_url(database or str(DEV_DATABASE))
    with Children() as children:
        children.start("scheduler", [*holdfast, "scheduler", "--database", database_text, "--listen", listen])
        code = children.keep(until=lambda: _accepts(listen))
        if code is not None:
            return code
        children.start("worker", [*holdfast, "worker", *targets, *options])
        watcher = threading.Thread(target=_say_when_ready, args=(listen, namespace, children), daemon=True)
        watcher.start()
        code = children.keep()
        return exit_codes.DONE if code is None else code


def database_url(text: str) -> str:
    """A database URL as it is; the path of a SQLite file as a URL."""
    return text if "://" in text else f"sqlite:///{text}"


def _checked_database_url(text: str | None) -> str | None:
    """The URL of a database that Holdfast can use; None when none is named."""
    if not text:
        return None
    url = database_url(text)
    kind = url.partition("://")[0].partition("+")[0]
    if kind not in DATABASES:
        raise CommandError(
            f"--database: {kind!r} is not a database that Holdfast uses; use sqlite:///FILE or "
            "postgresql://USER:PASSWORD@HOST/NAME"
        )
    return url


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
            f"cannot listen on {listen}: {error.strerror}; stop what runs there "
            f"(`lsof -i :{port}` or `ss -ltnp` names it) or choose another port with --listen",
            exit_codes.CANNOT_START,
        ) from error


def _accepts(listen: str) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(_split(listen), timeout=1):
        return True
    return False


def _say_when_ready(address: str, namespace: str, children: Children) -> None:
    """One line when the worker's tasks can run."""
    import grpc

    from holdfast.v1 import task_pb2, task_pb2_grpc

    key = os.environ.get("HOLDFAST_API_KEY")
    metadata = (("authorization", f"Bearer {key}"),) if key else ()
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        stub = task_pb2_grpc.TaskServiceStub(channel)
        while not children.is_stopping:
            with contextlib.suppress(grpc.RpcError):
                request = task_pb2.ListTasksRequest(namespace=namespace)
                tasks = stub.ListTasks(request, timeout=1, metadata=metadata).tasks
                if ids := [task.definition.id for task in tasks if task.workers]:
                    say(f"ready at {address} with {', '.join(ids)}; try: holdfast trigger {ids[0]} JSON")
                    return
            time.sleep(READY_LOOK_S)


def _check_targets(targets: list[str]) -> None:
    from holdfast_worker.targets import TargetError, find_targets

    try:
        find_targets(targets)
    except TargetError as error:
        raise CommandError(str(error)) from error
