"""The processes that `holdfast dev` keeps running: started again after a crash, gone when dev is gone."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Final

from holdfast.cli import exit_codes

STOP_DEADLINE_S: Final = 40.0
"""How long each child may take to stop by itself: longer than the grace of a canceled run."""

LOOK_S: Final = 0.1
"""How often the children are looked at."""

RESTART_MIN_S: Final = 0.3
RESTART_MAX_S: Final = 5.0
STABLE_AFTER_S: Final = 10.0
"""A child that ran this long is started again after the shortest pause."""

FOR_GOOD: Final = {exit_codes.WRONG_USE, exit_codes.REFUSED, exit_codes.CANNOT_START}
"""Exit codes of a child that said why it cannot run: another try would not help."""

_LIFELINE: Final = "HOLDFAST_DEV_LIFELINE"
"""Number of a descriptor that ends when `holdfast dev` does, whatever ended it."""


def say(text: str) -> None:
    """One line of `holdfast dev` itself."""
    print(f"holdfast dev: {text}", file=sys.stderr, flush=True)


def leave_with_dev() -> None:
    """In a child of `holdfast dev`: end at once when dev is gone, even by `kill -9`. Elsewhere nothing."""
    number = os.environ.pop(_LIFELINE, "")
    if number:
        threading.Thread(target=_watch, args=(int(number),), name="holdfast-lifeline", daemon=True).start()


def _watch(lifeline: int) -> None:
    with contextlib.suppress(OSError):
        os.read(lifeline, 1)
    os.kill(os.getpid(), signal.SIGKILL)


class Children:
    """Child processes that end together, the last one started first. One that crashes is started again."""

    def __init__(self) -> None:
        self._all: list[_Child] = []
        self._stop_asked = threading.Event()
        self._killed = False

    def __enter__(self) -> Children:
        # The writing end is only ours: when this process is gone, the children read the end of it.
        self._lifeline, self._held = os.pipe()
        self._previous = {number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        for child in self._all:
            child.kill()
        os.close(self._held)
        os.close(self._lifeline)

    @property
    def is_stopping(self) -> bool:
        """Whether Ctrl-C or SIGTERM came."""
        return self._stop_asked.is_set()

    def start(self, name: str, command: Sequence[str]) -> None:
        """Start a child, and again whenever it crashes while `keep` runs."""
        child = _Child(name, command, self._lifeline)
        child.start()
        self._all.append(child)

    def keep(self, until: Callable[[], bool] | None = None) -> int | None:
        """Keep the children running until a stop is asked for or one ends for good; returns dev's exit code then.

        With `until`, returns None as soon as that is true.
        """
        while not self._stop_asked.wait(LOOK_S):
            for child in self._all:
                if child.look() in FOR_GOOD:
                    code = child.code
                    self._end()
                    return code
            if until is not None and until():
                return None
        self._end()
        return exit_codes.INTERRUPTED if self._killed else exit_codes.DONE

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        if self._stop_asked.is_set():
            self._killed = True
            for child in self._all:
                child.kill()
        self._stop_asked.set()

    def _end(self) -> None:
        for child in reversed(self._all):
            child.end()


class _Child:
    """One process, and the one that takes its place."""

    def __init__(self, name: str, command: Sequence[str], lifeline: int) -> None:
        self._name = name
        self._command = list(command)
        self._lifeline = lifeline
        self._process: subprocess.Popen[bytes] | None = None
        self._pause = RESTART_MIN_S
        self._again_at = 0.0
        self._started_at = 0.0

    @property
    def code(self) -> int | None:
        """Its exit code; None while it runs."""
        return None if self._process is None else self._process.returncode

    def start(self) -> None:
        # A session of its own: Ctrl-C reaches us alone, so that we decide who stops first.
        self._process = subprocess.Popen(
            self._command,
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            pass_fds=[self._lifeline],
            env={**os.environ, _LIFELINE: str(self._lifeline)},
        )
        self._started_at = time.monotonic()
        self._again_at = 0.0
        say(f"{self._name} started, pid {self._process.pid}")

    def look(self) -> int | None:
        """Start it again when it is time to. Returns its exit code, None while it runs."""
        assert self._process is not None
        code = self._process.poll()
        if code is None or code in FOR_GOOD:
            return code
        now = time.monotonic()
        if not self._again_at:
            self._pause = RESTART_MIN_S if now - self._started_at > STABLE_AFTER_S else self._pause
            self._again_at = now + self._pause
            how = f"was ended by {_signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
            say(f"{self._name}, pid {self._process.pid}, {how}; starting it again in {self._pause:.1f} s")
            self._pause = min(2 * self._pause, RESTART_MAX_S)
        elif now >= self._again_at:
            self.start()
        return code

    def kill(self) -> None:
        """SIGKILL it and what it started."""
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def end(self) -> None:
        """SIGTERM it, and SIGKILL it when that takes too long."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.terminate()
        try:
            self._process.wait(timeout=STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            say(f"{self._name} did not stop within {STOP_DEADLINE_S:.0f} s and is killed")
            self.kill()
            self._process.wait()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
