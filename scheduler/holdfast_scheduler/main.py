"""The scheduler as a process."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys
from typing import TYPE_CHECKING, Final

from holdfast_scheduler.errors import MissingExtraError, StartError
from holdfast_scheduler.settings import Settings

if TYPE_CHECKING:
    from holdfast_scheduler.database import Database
    from holdfast_scheduler.engine import Engine

STOPPED: Final = 0
FAILED: Final = 1
USER_ERROR: Final = 2
GC_THRESHOLD: Final = 50_000
"""Containers that may be allocated before the garbage collector looks at the young ones."""

_EXTRAS: Final = {
    "sqlalchemy": "scheduler",
    "alembic": "scheduler",
    "grpc_health": "scheduler",
    "grpc_reflection": "scheduler",
    "cronsim": "scheduler",
    "psycopg": "postgres",
}


def run_scheduler(
    *,
    database_url: str | None = None,
    listen: str | None = None,
    insecure: bool = False,
    api_key: str | None = None,
    reflection: bool = True,
    retention: str | None = None,
) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code.

    None takes HOLDFAST_DATABASE_URL, HOLDFAST_LISTEN, HOLDFAST_API_KEY and HOLDFAST_RETENTION, else
    `sqlite:///holdfast.db`, `127.0.0.1:4653`, no key and "30d". Once it serves it prints one line
    `scheduler ready address=… database=…`; at the end, and whenever SIGUSR1 comes, one line `scheduler counts …` of its
    commits.
    Returns 0 when it was stopped, 1 when a defect of its own ended it, 2 after one clear line on stderr when it cannot
    start: the database is in use or away, the URL or address is bad, the port is taken, an extra is not installed.
    """
    try:
        settings = Settings.from_environment(
            database_url=database_url,
            listen=listen,
            insecure=insecure,
            api_key=api_key,
            reflection=reflection,
            retention=retention,
        )
        settings.host_and_port()
        database = _open(settings)
    except StartError as error:
        return _explain(error)
    try:
        return asyncio.run(_serve(database, settings))
    except StartError as error:
        return _explain(error)
    finally:
        database.close()


def run_migrate(database_url: str | None = None) -> int:
    """Bring a database to the newest schema and return the exit code: 0, or 2 after one clear line on stderr.

    None takes HOLDFAST_DATABASE_URL, else `sqlite:///holdfast.db`.
    """
    try:
        database = _open(Settings.from_environment(database_url=database_url))
    except StartError as error:
        return _explain(error)
    sys.stdout.write(f"the database has the newest schema: {database.url}\n")
    database.close()
    return STOPPED


def _explain(error: StartError) -> int:
    sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
    return USER_ERROR


def _open(settings: Settings) -> Database:
    """The database, locked and at the newest schema. Raises: StartError."""
    try:
        from holdfast_scheduler.database import Database
        from holdfast_scheduler.migrations import migrate
        from holdfast_scheduler.services import server as _needed_later  # noqa: F401

        database = Database.open(settings.database_url)
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        raise MissingExtraError(f"{error.name} is not installed: pip install 'holdfast[{extra}]'") from None
    try:
        migrate(settings.database_url)
    except BaseException:
        database.close()
        raise
    return database


async def _serve(database: Database, settings: Settings) -> int:
    from holdfast_scheduler.engine import Engine
    from holdfast_scheduler.services.server import Server
    from holdfast_scheduler.services.worker_service import WorkerService

    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    engine = Engine(database, settings, on_failure=stop.set)
    loop.add_signal_handler(signal.SIGUSR1, _write_counts, engine)
    server = Server(engine, WorkerService(engine))
    await engine.start()
    # A commit allocates thousands of small objects that live as long as it does; at the default threshold the collector
    # would look at them several times in each.
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 50)
    try:
        address = await server.start()
        sys.stdout.write(f"scheduler ready address={address} database={database.url}\n")
        sys.stdout.flush()
        await stop.wait()
        logging.getLogger(__name__).info("stopping")
        await server.stop()
    finally:
        await engine.stop()
    _write_counts(engine)
    return FAILED if engine.has_failed else STOPPED


def _write_counts(engine: Engine) -> None:
    """One line: what the commit loop has done since the start."""
    meter = engine.meter
    sys.stdout.write(
        f"scheduler counts commits={meter.commits} commands={meter.commands} statements={meter.statements}"
        f" commit_seconds={meter.seconds:.6f}\n"
    )
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(run_scheduler())
