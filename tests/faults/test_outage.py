"""Ten seconds without a database, a scheduler that stands still, and a disk that is full: nothing is restarted.

Everything that only suffered the outage goes on where it was: no attempt, no recovery, no second entry. What really
died meanwhile is recovered once the workers had their chance to come back.
"""

from __future__ import annotations

import resource
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from harness.postgres import PostgresServer
from harness.processes import Deployment
from harness.relay import Relay
from harness.stage import Stage, assert_undisturbed
from harness.waiting import DEADLINE_S, wait_until
from holdfast_scheduler.database import WRITER

OUTAGE_S = 10.0
"""The lease here is the default, of ten seconds too: the workers hold before the database is back."""


@contextmanager
def staged(
    tmp_path: Path, deploy: Callable[..., Deployment], url: str, workers: int = 1, **settings: str
) -> Iterator[Stage]:
    stage = Stage(tmp_path, deploy, url, **settings)
    try:
        stage.ready(workers)
        yield stage
    finally:
        stage.close()


def pass_time(seconds: float) -> None:
    """An outage is a matter of time, not of a condition."""
    end = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() >= end, "the outage is over")


def play(stage: Stage, stop: Callable[[], None], start: Callable[[], None], victims: bool) -> None:
    """Runs in each state live through the outage; with `victims`, a worker and an executor die in it."""
    executing = stage.new_run("started")
    stage.runs.trigger("journey", {}, executing)
    stage.gates.reached(executing, "started")
    in_child = stage.new_run("in child")
    stage.runs.trigger("journey", {}, in_child)
    stage.gates.reached(in_child, "in child")
    waiting = stage.runs.trigger("journey", {"wait": 2.0})
    stage.runs.until(waiting, "WAITING")
    undisturbed = [executing, in_child, waiting]
    lost: list[str] = []
    if victims:
        for _ in range(2):
            stage.start_worker()
        spread = [stage.new_run("started") for _ in range(6)]
        for run_id in spread:
            stage.runs.trigger("placed", None, run_id)
            stage.gates.reached(run_id, "started")
        owners = {run_id: stage.worker_of(run_id) for run_id in spread}
        first, second = stage.workers[1:3]
        assert {first.name, second.name} <= {owner.name for owner in owners.values()}
        lost = [run_id for run_id, owner in owners.items() if owner in (first, second)]
        undisturbed += [run_id for run_id in spread if run_id not in lost]
    stop()
    if victims:
        first.kill()
        stage.kill_executors(second)
    for run_id in (executing, *lost):
        stage.gates.open(run_id, "started")
    pass_time(OUTAGE_S)
    stage.gates.open(in_child, "in child")
    start()
    for run_id in undisturbed:
        stage.gates.open(run_id, "started")
    for run_id in undisturbed:
        run = stage.runs.completed(run_id)
        assert_undisturbed(run)
        assert set(stage.counts(run_id).values()) == {1}, stage.counts(run_id)
        for child in run.child_run_ids:
            assert_undisturbed(stage.runs.get(child))
    for run_id in lost:
        run = stage.runs.completed(run_id)
        assert (run.attempt, run.recoveries) == (1, 1)
        assert len(stage.effects(run_id)) == 2


@pytest.mark.parametrize("how", ["stopped", "paused"])
def test_ten_seconds_without_postgres(
    how: str, own_postgres_server: PostgresServer, tmp_path: Path, deploy: Callable[..., Deployment]
) -> None:
    server = own_postgres_server
    with staged(tmp_path, deploy, server.create_database()) as stage:
        if how == "stopped":
            play(stage, lambda: server.stop("fast"), server.start, victims=True)
        else:
            play(stage, server.pause, server.unpause, victims=False)


def test_connections_to_postgres_fall_silent(
    own_postgres_server: PostgresServer, tmp_path: Path, deploy: Callable[..., Deployment]
) -> None:
    """They stay open, and nothing is answered any more; new ones are. Reads have connections of their own."""
    url = make_url(own_postgres_server.create_database())
    relay = Relay(url.port or 0)
    with staged(tmp_path, deploy, url.set(port=relay.port).render_as_string(hide_password=False)) as stage:
        executing = stage.new_run("started")
        stage.runs.trigger("journey", {}, executing)
        stage.gates.reached(executing, "started")
        waiting = stage.runs.trigger("journey", {"wait": 2.0})
        stage.runs.until(waiting, "WAITING")
        assert relay.silence(WRITER) >= 1
        stage.gates.open(executing, "started")
        for run_id in (executing, waiting, stage.runs.trigger("journey", {})):
            assert_undisturbed(stage.runs.completed(run_id))
            assert set(stage.counts(run_id).values()) == {1}
        assert stage.scheduler is not None
        assert "has not answered for 5 s" in stage.scheduler.log_text()
    relay.close()


def test_a_scheduler_stops_while_postgres_stands_still(
    own_postgres_server: PostgresServer, tmp_path: Path, deploy: Callable[..., Deployment]
) -> None:
    with staged(tmp_path, deploy, own_postgres_server.create_database()) as stage:
        assert stage.scheduler is not None
        own_postgres_server.pause()
        try:
            assert stage.scheduler.stop(deadline_s=DEADLINE_S) == 0
        finally:
            own_postgres_server.unpause()
        assert "Traceback" not in stage.scheduler.log_text()


def test_scheduler_killed_while_postgres_is_stopped(
    own_postgres_server: PostgresServer, tmp_path: Path, deploy: Callable[..., Deployment]
) -> None:
    """Its successor finds no database and says so in one line; the next one carries on."""
    server = own_postgres_server
    with staged(tmp_path, deploy, server.create_database()) as stage:

        def stop() -> None:
            server.stop("immediate")
            stage.kill_scheduler()
            early = stage.start_scheduler(ready=False)
            assert early.wait() == 6
            assert "cannot use the database" in early.log_text()
            assert "Traceback" not in early.log_text()
            stage.deployment.processes.remove(early)

        def start() -> None:
            server.start()
            stage.start_scheduler()

        play(stage, stop, start, victims=False)


def test_ten_seconds_of_a_locked_sqlite_file(
    sqlite_url: str, tmp_path: Path, deploy: Callable[..., Deployment]
) -> None:
    """Somebody holds the write lock of the file: a backup that does not end, or a curious operator."""
    with staged(tmp_path, deploy, sqlite_url) as stage:
        connection = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None, timeout=30)
        play(stage, lambda: connection.execute("BEGIN IMMEDIATE") and None, connection.rollback, victims=False)
        connection.close()


def test_disk_full(sqlite_url: str, tmp_path: Path, deploy: Callable[..., Deployment]) -> None:
    """While the database file cannot grow nothing is acknowledged; when it can, everything goes on."""
    with staged(tmp_path, deploy, sqlite_url, lease="3") as stage:
        run_id = stage.new_run("started")
        stage.runs.trigger("journey", {}, run_id)
        stage.gates.reached(run_id, "started")
        assert stage.scheduler is not None
        # The write-ahead log is the file that grows; none may be longer than it is now.
        sizes = [path.stat().st_size for path in tmp_path.glob("holdfast.sqlite3*")]
        _, hard = resource.prlimit(stage.scheduler.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(stage.scheduler.pid, resource.RLIMIT_FSIZE, (max(sizes), hard))
        log = stage.scheduler.log_text

        def away() -> bool:
            stage.runs.stub.Trigger.future(stage.trigger_request("steady"), timeout=0.5).exception()
            return "database is away" in log()

        wait_until(away, "the scheduler has met the end of the disk")
        stage.gates.open(run_id, "started")
        assert stage.runs.get(run_id).status == "EXECUTING"  # reading goes on
        resource.prlimit(stage.scheduler.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, hard))
        run = stage.runs.completed(run_id)
        assert_undisturbed(run)
        assert set(stage.counts(run_id).values()) == {1}


def test_scheduler_stands_still_past_the_lease(
    sqlite_url: str, tmp_path: Path, deploy: Callable[..., Deployment]
) -> None:
    """SIGSTOP and SIGCONT of the scheduler: it must not take its own silence for that of the workers."""
    with staged(tmp_path, deploy, sqlite_url, lease="2") as stage:
        run_id = stage.new_run("started")
        stage.runs.trigger("journey", {"wait": 0.5}, run_id)
        stage.gates.reached(run_id, "started")
        pass_time(2.5)  # it has committed for a whole lease and may judge
        assert stage.scheduler is not None
        stage.scheduler.pause()
        pass_time(5)
        stage.scheduler.unpause()
        pass_time(1)
        stage.gates.open(run_id, "started")
        assert_undisturbed(stage.runs.completed(run_id))
        assert set(stage.counts(run_id).values()) == {1}
