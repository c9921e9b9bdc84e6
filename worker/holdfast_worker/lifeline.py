"""An executor must not outlive its supervisor: killing a worker kills its work as a whole.

Two lines, because user code may block the event loop or hold the interpreter lock: a thread that watches the link for
its end, and on Linux a signal that the kernel itself sends when the parent dies.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import socket
import sys
import threading

EXIT_SUPERVISOR_GONE = 70
"""Exit code of an executor whose link ended. Nobody is left to read it but a person with a process table."""

_PR_SET_PDEATHSIG = 1  # from <linux/prctl.h>
_HANGUP = select.POLLHUP | select.POLLERR | getattr(select, "POLLRDHUP", 0)


def leave_with_supervisor(link: socket.socket, supervisor_pid: int) -> None:
    """Make this process leave with `os._exit` as soon as `link` ends, whatever its event loop does.

    `supervisor_pid` is the process that started this one. Call it first of all, from the main thread. Nothing that
    user code would want to run on its way out is run: its durable state is the scheduler's, and its runs belong to
    others from now on.
    """
    if sys.platform == "linux":
        # The kernel's line holds even while a C extension keeps the interpreter lock.
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != supervisor_pid:  # It died before the line was tied.
            os._exit(EXIT_SUPERVISOR_GONE)
    # A duplicate, so that the number stays ours when the event loop closes its own.
    fd = os.dup(link.fileno())
    threading.Thread(target=_watch, args=(fd,), name="holdfast-lifeline", daemon=True).start()


def _watch(fd: int) -> None:
    poller = select.poll()
    poller.register(fd, _HANGUP)
    while not poller.poll():
        pass
    os._exit(EXIT_SUPERVISOR_GONE)
