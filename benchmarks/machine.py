"""CPU time and memory of processes, from the kernel's books."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import psutil

MEBIBYTE = 1024 * 1024
TICK_S = 0.01
"""The kernel counts a thread's CPU time in hundredths of a second here."""

PYTHON_THREADS = ("python", "holdfast", "pt_main_thread", "asyncio")
"""How threads that Python made are called; gRPC names those of its core (event_engine, grpc_global_tim, ...)."""


def cpu_seconds(processes: Iterable[psutil.Process], *, with_reaped: bool = False) -> float:
    """CPU seconds that processes have used; with those of their children that have ended and were waited for."""
    total = 0.0
    for process in processes:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
        if with_reaped:
            total += times.children_user + times.children_system
    return total


def core_seconds(pid: int) -> float:
    """CPU seconds of the threads that gRPC's core runs beside Python's; no profiler of Python sees them."""
    total = 0.0
    for folder in Path(f"/proc/{pid}/task").iterdir():
        try:
            name = (folder / "comm").read_text().strip()
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except FileNotFoundError:
            continue
        if not name.startswith(PYTHON_THREADS):
            total += (int(fields[11]) + int(fields[12])) * TICK_S
    return total


def pss_mebibytes(processes: Iterable[psutil.Process]) -> float:
    """Proportional set size: what is shared is counted once, in parts."""
    total = 0
    for process in processes:
        try:
            total += process.memory_full_info().pss
        except psutil.NoSuchProcess:
            continue
    return total / MEBIBYTE
