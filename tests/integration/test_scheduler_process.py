"""The scheduler as a process: its one line, its exit codes, and what it says when it cannot start."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from holdfast.v1.run_service_pb2 import GetServerInfoRequest
from holdfast.v1.run_service_pb2_grpc import RunServiceStub

DEADLINE = 30.0
COMMAND = [sys.executable, "-m", "holdfast_scheduler.main"]


def environment(**settings: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HOLDFAST_")}
    return {**kept, "HOLDFAST_LISTEN": "127.0.0.1:0", **settings}


@pytest.fixture
def scheduler(database_url: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A running scheduler and the line it printed."""
    process = subprocess.Popen(
        COMMAND,
        env=environment(HOLDFAST_DATABASE_URL=database_url),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    with process:
        try:
            yield process, process.stdout.readline()
        finally:
            process.kill()


def refused(cwd: Path, **settings: str) -> str:
    """The one line on stderr of a scheduler that exits with 2."""
    done = subprocess.run(
        COMMAND, env=environment(**settings), cwd=cwd, capture_output=True, text=True, timeout=DEADLINE
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    return done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_and_stops(scheduler: tuple[subprocess.Popen[str], str], number: signal.Signals) -> None:
    process, line = scheduler
    words = line.split()
    assert words[:2] == ["scheduler", "ready"], process.stderr.read() if process.stderr and process.poll() else line
    assert words[3].startswith("database=")
    address = words[2].removeprefix("address=")
    with grpc.insecure_channel(address) as channel:
        info = RunServiceStub(channel).GetServerInfo(GetServerInfoRequest(), timeout=DEADLINE)
        assert info.version
    process.send_signal(number)
    assert process.wait(DEADLINE) == 0


def test_a_second_scheduler_on_one_file(sqlite_url: str, tmp_path: Path) -> None:
    settings = environment(HOLDFAST_DATABASE_URL=sqlite_url)
    with subprocess.Popen(COMMAND, env=settings, stdout=subprocess.PIPE, text=True) as first:
        try:
            assert first.stdout is not None
            assert first.stdout.readline().startswith("scheduler ready")
            assert "another scheduler uses" in refused(tmp_path, HOLDFAST_DATABASE_URL=sqlite_url)
        finally:
            first.kill()


def test_a_taken_port(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        assert f"cannot listen on {listen}" in refused(tmp_path, HOLDFAST_LISTEN=listen)


def test_an_address_beyond_loopback(tmp_path: Path) -> None:
    assert "--insecure" in refused(tmp_path, HOLDFAST_LISTEN="0.0.0.0:0")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("holdfast.db", "not a database URL"),
        ("mysql://x/y", "'mysql' is not a database that Holdfast uses"),
        ("sqlite://", "sqlite:///path"),
        ("sqlite:////proc/nowhere/x.db", "cannot open"),
        ("postgresql://nobody:hunter2@127.0.0.1:1/x", "cannot use the database"),
    ],
)
def test_a_bad_database(tmp_path: Path, url: str, says: str) -> None:
    line = refused(tmp_path, HOLDFAST_DATABASE_URL=url)
    assert says in line
    assert "hunter2" not in line


@pytest.mark.parametrize(
    ("module", "url", "says"),
    [
        ("sqlalchemy", "sqlite:///x.db", "pip install 'holdfast[scheduler]'"),
        ("grpc_health", "sqlite:///x.db", "pip install 'holdfast[scheduler]'"),
        ("psycopg", "postgresql://x@127.0.0.1/y", "pip install 'holdfast[postgres]'"),
    ],
)
def test_a_missing_extra(tmp_path: Path, module: str, url: str, says: str) -> None:
    # A finder that denies the module stands for an installation without it.
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Deny:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] == {module!r}:\n"
        f"            raise ModuleNotFoundError('No module named ' + name, name=name)\n"
        "sys.meta_path.insert(0, Deny())\n"
    )
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    assert says in refused(tmp_path, HOLDFAST_DATABASE_URL=url, PYTHONPATH=path)


def test_a_scheduler_that_can_commit_no_more_ends(sqlite_url: str, tmp_path: Path) -> None:
    """And does not stand there while all who ask it wait."""
    defect = (
        "import sys\n"
        "from holdfast_scheduler.engine import Engine\n"
        "from holdfast_scheduler.main import run_scheduler\n"
        "Engine._offers = lambda self: 1 / 0\n"
        "sys.exit(run_scheduler())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", defect],
        env=environment(HOLDFAST_DATABASE_URL=sqlite_url),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert done.returncode == 1, done.stderr
    assert "can commit no more" in done.stderr
    assert "ZeroDivisionError" in done.stderr
