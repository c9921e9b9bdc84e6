"""Starts a worker. The command line calls `run_worker`."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import socket
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as package_version

from holdfast_worker.supervisor import Supervisor, WorkerSettings

DEFAULT_PORT = 4653
DEFAULT_SLOTS = 100
DEFAULT_PROCESSES = 1
DEFAULT_DRAIN_TIMEOUT_S = 30.0
GC_THRESHOLD = 50_000
"""Containers that may be allocated before the garbage collector looks at the young ones."""


def run_worker(
    targets: Sequence[str],
    *,
    addresses: Sequence[str],
    namespace: str = "default",
    slots: int = DEFAULT_SLOTS,
    processes: int = DEFAULT_PROCESSES,
    version: str | None = None,
    name: str | None = None,
    api_key: str | None = None,
    drain_timeout_s: float | None = None,
    health: str | None = None,
    executor_command: Sequence[str] | None = None,
) -> int:
    """Run a worker in this process until SIGTERM or SIGINT and return its exit code.

    `targets` are modules or paths of .py files; `addresses` are schedulers, `host` or `host:port` each (4653 when
    left out). `slots` is how many runs may execute at once in all `processes` together. Unset values come from the
    environment: `version` from HOLDFAST_VERSION (else a digest of the task definitions), `api_key` from
    HOLDFAST_API_KEY, `drain_timeout_s` (seconds) from HOLDFAST_DRAIN_TIMEOUT (else 30), `health` from
    HOLDFAST_WORKER_HEALTH (else nowhere): where the worker answers health checks, HOST:PORT or unix:PATH. `name` is
    for people; default host and process id. `executor_command` replaces the command that starts an executor.

    Exit codes: 0 stopped after everything was done or handed back; 1 stopped without that (a second signal, or no
    scheduler to hand back to); 2 a target could not be loaded; 3 the scheduler refused this worker.
    Raises: ValueError for a setting that makes no sense; it names the setting, the value and what is allowed. OSError
    when it cannot answer health checks at `health`.
    """
    if not targets:
        raise ValueError("no target: name at least one module or .py file with tasks")
    for setting, value in (("slots", slots), ("processes", processes)):
        if value < 1:
            raise ValueError(f"{setting} is {value}; it must be 1 or more")
    settings = WorkerSettings(
        targets=[*targets],
        addresses=parse_addresses(addresses),
        namespace=namespace or "default",
        slots=slots,
        processes=processes,
        version=version or os.environ.get("HOLDFAST_VERSION") or None,
        name=name or f"{socket.gethostname()}-{os.getpid()}",
        api_key=api_key or os.environ.get("HOLDFAST_API_KEY") or None,
        drain_timeout_s=_drain_timeout(drain_timeout_s),
        health=health or os.environ.get("HOLDFAST_WORKER_HEALTH") or None,
        sdk=f"holdfast-python/{_own_version()}",
        **({} if executor_command is None else {"executor_command": [*executor_command]}),
    )
    if not logging.getLogger().handlers:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    # Frames are many small objects that live for a moment; what is loaded by now stays.
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 50)
    return asyncio.run(_run(settings))


def parse_addresses(addresses: Sequence[str]) -> list[str]:
    """`host:port` of each scheduler; elements may themselves be comma-separated lists.

    Raises: ValueError when there is none, or a port is not a number from 1 to 65535.
    """
    parsed: list[str] = []
    for address in (part.strip() for element in addresses for part in element.split(",")):
        if not address:
            continue
        host, colon, port = address.rpartition(":")
        if not colon or address.endswith("]"):  # no port, or a bare IPv6 address in brackets
            host, port = address, str(DEFAULT_PORT)
        if not host or not port.isdecimal() or not 1 <= int(port) <= 65535:
            raise ValueError(f"scheduler address {address!r} is not host:port; for example 127.0.0.1:{DEFAULT_PORT}")
        parsed.append(f"{host}:{port}")
    if not parsed:
        raise ValueError("no scheduler address: set HOLDFAST_ADDRESS, for example 127.0.0.1:4653")
    return parsed


async def _run(settings: WorkerSettings) -> int:
    return await Supervisor(settings).run()


def _drain_timeout(given: float | None) -> float:
    text = os.environ.get("HOLDFAST_DRAIN_TIMEOUT") if given is None else str(given)
    if not text:
        return DEFAULT_DRAIN_TIMEOUT_S
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise ValueError(f"HOLDFAST_DRAIN_TIMEOUT is {text!r}; it must be a number of seconds, 0 or more")
    return seconds


def _own_version() -> str:
    try:
        return package_version("holdfast")
    except PackageNotFoundError:  # run from a source tree
        return "0"
