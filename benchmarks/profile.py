"""Where Python spends its time, by py-spy, when it is installed: `pip install py-spy`.

Only threads that hold the interpreter's lock are sampled: waiting does not count, and neither does what a driver does
while it has let go of the lock (the statements themselves; the commit loop's own clock has those).
"""

from __future__ import annotations

import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

RATE_HZ = 200
HOTTEST = 8
STOP_DEADLINE_S = 60.0

OWNERS: Mapping[str, re.Pattern[str]] = {
    "garbage collector": re.compile(r"^gc_collect"),
    "protobuf": re.compile(r"_message\.abi3|[(/]google/protobuf/|^_?upb_|^PyUpb"),
    "SQLAlchemy": re.compile(r"[(/]sqlalchemy/"),
    "driver": re.compile(r"[(/]psycopg|sqlite|libpq|holdfast_scheduler/pipeline"),
    "gRPC": re.compile(r"[(/]grpc/|cygrpc"),
    "asyncio": re.compile(r"[(/]asyncio/|selectors\.py|_asyncio"),
    "Holdfast": re.compile(r"[(/](holdfast|holdfast_worker|holdfast_scheduler|benchmarks)/"),
}
"""A sample belongs to the first owner that is named here, from its innermost frame outwards."""

Stacks = Mapping[str, int]
"""Samples by stack, the outermost frame first, separated by semicolons."""


class Recording:
    """py-spy attached to processes while the `with` block lasts; `stacks` has what it saw, by the names of `pids`.

    `missing` says why it cannot be, or is empty.
    """

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._pids = pids
        self._program = shutil.which("py-spy", path=str(Path(sys.executable).parent)) or shutil.which("py-spy")
        self._folder = Path()
        self._recorders: dict[str, subprocess.Popen[bytes]] = {}
        self.missing = "" if self._program else "py-spy is not installed (pip install py-spy)"
        self.stacks: dict[str, Stacks] = {}

    def __enter__(self) -> Recording:
        self._folder = Path(tempfile.mkdtemp(prefix="holdfast-bench-"))
        for name, pid in self._pids.items():
            command = [str(self._program), "record", "--gil", "--format", "raw"]
            command += ["--rate", str(RATE_HZ), "--pid", str(pid)]
            if platform.machine() == "x86_64":  # elsewhere py-spy sees no C functions: they count as their callers
                command.append("--native")
            self._recorders[name] = subprocess.Popen(
                [*command, "--output", str(self._folder / name)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for recorder in self._recorders.values():
            if recorder.poll() is None:
                recorder.send_signal(signal.SIGINT)
        for name, recorder in self._recorders.items():
            recorder.wait(timeout=STOP_DEADLINE_S)
            path = self._folder / name
            if path.exists():
                self.stacks[name] = read_stacks(path.read_text(errors="replace"))
            else:
                self.missing = f"py-spy could not attach to the {name}; it may need to run as root"
        shutil.rmtree(self._folder, ignore_errors=True)


def read_stacks(text: str) -> Stacks:
    """Of py-spy's raw format: a stack and its samples per line."""
    stacks: Counter[str] = Counter()
    for line in text.splitlines():
        stack, _, samples = line.rpartition(" ")
        stacks[stack] += int(samples)
    return stacks


def shares(stacks: Stacks) -> dict[str, float]:
    """The part of the samples that each owner has; the rest is the interpreter's."""
    found = dict.fromkeys(OWNERS, 0)
    for stack, samples in stacks.items():
        for frame in reversed(stack.split(";")):
            owner = next((name for name, pattern in OWNERS.items() if pattern.search(frame)), None)
            if owner is not None:
                found[owner] += samples
                break
    total = max(1, sum(stacks.values()))
    return {name: samples / total for name, samples in found.items()}


def hottest(stacks: Stacks, count: int = HOTTEST) -> list[tuple[str, float]]:
    """The functions that are innermost most often, with their part of the samples."""
    own: Counter[str] = Counter()
    for stack, samples in stacks.items():
        own[_LINE.sub(")", stack.rpartition(";")[2])] += samples
    total = max(1, sum(stacks.values()))
    return [(function, samples / total) for function, samples in own.most_common(count)]


_LINE = re.compile(r":\d+\)$")
