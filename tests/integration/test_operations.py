"""What operators use: migrate, health, version and build, reflection off."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse, HealthListRequest
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub

from harness.ports import free_port
from harness.processes import Deployment
from harness.runs import Runs
from harness.waiting import wait_until
from holdfast.v1.run_service_pb2 import GetServerInfoRequest
from holdfast.v1.task_pb2 import GetTaskRequest, ListTasksRequest
from holdfast.v1.task_pb2_grpc import TaskServiceStub
from holdfast.v1.worker_service_pb2 import ConnectRequest
from holdfast.v1.worker_service_pb2_grpc import WorkerServiceStub

WATCH_S = 30.0
HANGS = "DEADLINE_EXCEEDED"
TASKS = """
import asyncio
import os

from holdfast import task


@task(id="hold")
async def hold(gate: str) -> None:
    while os.path.exists(gate):
        await asyncio.sleep(0.05)
"""
UNBEARABLE_S = 3600
"""A grace that no test can wait for: what ends before was not waited for."""


def test_migrate_makes_the_schema_once_and_again(database_url: str, deploy: Callable[..., Deployment]) -> None:
    site: Deployment = deploy(database_url, {"HOLDFAST_DATABASE_URL": database_url})
    for _ in range(2):
        done = site.holdfast("migrate")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("the database has the newest schema: ")
    site.start_scheduler()


@pytest.mark.parametrize(
    ("url", "code"), [("mysql://nobody:hunter2@nowhere/x", 2), ("postgresql://nobody:hunter2@127.0.0.1:1/x", 6)]
)
def test_migrate_says_in_one_line_what_is_wrong(
    url: str, code: int, sqlite_url: str, deploy: Callable[..., Deployment]
) -> None:
    done = deploy(sqlite_url).holdfast("migrate", "--database", url)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (code, "", 1)
    assert "hunter2" not in done.stderr


def test_health_follows_the_scheduler(sqlite_url: str, deploy: Callable[..., Deployment]) -> None:
    site: Deployment = deploy(sqlite_url, {"HOLDFAST_API_KEY": "a key that probes do not have"})
    down = site.holdfast("health")
    assert (down.returncode, down.stdout) == (4, "")
    assert down.stderr == f"error: no scheduler serves: {site.address} UNAVAILABLE\n"
    site.start("scheduler", "scheduler", "--database", sqlite_url, "--listen", site.address)
    both = f"127.0.0.1:1,{site.address}"
    up = wait_until(lambda: _if_done(site.holdfast("health", "--address", both)), "the scheduler serves")
    assert (up.returncode, up.stdout, up.stderr) == (0, f"{site.address} SERVING\n", "")


def _if_done(done: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str] | None:
    return done if done.returncode == 0 else None


def test_health_of_a_container_asks_the_scheduler_inside(sqlite_url: str, deploy: Callable[..., Deployment]) -> None:
    site: Deployment = deploy(sqlite_url)
    site.start_scheduler()
    environment = {name: value for name, value in site.environment.items() if name != "HOLDFAST_ADDRESS"}
    environment["HOLDFAST_LISTEN"] = f"0.0.0.0:{site.port}"
    done = subprocess.run(
        [sys.executable, "-m", "holdfast.cli.health"], env=environment, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, f"127.0.0.1:{site.port} SERVING\n")


def test_version_and_build_are_reported(sqlite_url: str, deploy: Callable[..., Deployment]) -> None:
    site: Deployment = deploy(sqlite_url, {"HOLDFAST_BUILD": "0123abc"})
    site.start_scheduler()
    info = Runs(site).stub.GetServerInfo(GetServerInfoRequest(), timeout=10)
    assert info.build == "0123abc"
    assert site.holdfast("--version").stdout == f"holdfast {info.version} (build 0123abc)\n"


@pytest.mark.parametrize("is_on", [True, False])
def test_reflection_can_be_turned_off(is_on: bool, sqlite_url: str, deploy: Callable[..., Deployment]) -> None:
    site: Deployment = deploy(sqlite_url, {"HOLDFAST_REFLECTION": "1" if is_on else "0"})
    site.start_scheduler()
    stub = ServerReflectionStub(site.channel)
    answers = stub.ServerReflectionInfo(iter([ServerReflectionRequest(list_services="")]), timeout=10)
    if is_on:
        (answer,) = answers
        assert "holdfast.v1.RunService" in [one.name for one in answer.list_services_response.service]
    else:
        with pytest.raises(grpc.RpcError) as caught:
            list(answers)
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("service", ["", "holdfast.v1.RunService", "holdfast.v1.WorkerService"])
def test_readiness_turns_off_before_the_drain(service: str, sqlite_url: str, deploy: Callable[..., Deployment]) -> None:
    """Whoever watches the health hears of it while the calls in flight still go on."""
    site: Deployment = deploy(sqlite_url, {"HOLDFAST_STOP_GRACE": str(UNBEARABLE_S)})
    scheduler = site.start_scheduler()
    health = HealthStub(site.channel).Watch(HealthCheckRequest(service=service), timeout=WATCH_S)
    assert next(health).status == HealthCheckResponse.SERVING
    # A stream that has not said yet who it is: the scheduler waits for it until its grace ends.
    end = threading.Event()
    in_flight = WorkerServiceStub(site.channel).Connect(_silence(end), timeout=WATCH_S)
    scheduler.send(signal.SIGTERM)
    assert next(health).status == HealthCheckResponse.NOT_SERVING
    assert scheduler.exit_code is None
    in_flight.cancel()
    end.set()
    assert scheduler.wait() == 0


def test_who_watches_the_health_does_not_delay_a_stop(sqlite_url: str, deploy: Callable[..., Deployment]) -> None:
    site: Deployment = deploy(sqlite_url, {"HOLDFAST_STOP_GRACE": str(UNBEARABLE_S)})
    scheduler = site.start_scheduler()
    stub = HealthStub(site.channel)
    watches = [stub.Watch(HealthCheckRequest(service=name), timeout=WATCH_S) for name in ("", "nobody.has.This")]
    assert [next(watch).status for watch in watches] == [
        HealthCheckResponse.SERVING,
        HealthCheckResponse.SERVICE_UNKNOWN,
    ]
    scheduler.send(signal.SIGTERM)
    assert scheduler.wait() == 0
    for watch, last in zip(watches, ["NOT_SERVING", "SERVICE_UNKNOWN"], strict=True):
        assert HealthCheckResponse.ServingStatus.Name(next(watch).status) == last
        with pytest.raises(grpc.RpcError) as caught:
            next(watch)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


def test_every_service_has_a_health(sqlite_url: str, deploy: Callable[..., Deployment]) -> None:
    site: Deployment = deploy(sqlite_url)
    site.start_scheduler()
    found = HealthStub(site.channel).List(HealthListRequest(), timeout=WATCH_S).statuses
    services = ProtoReflectionDescriptorDatabase(site.channel).get_services()
    assert found.keys() == {"", *(name for name in services if name.startswith("holdfast."))}
    for service, answer in found.items():
        assert answer.status == HealthCheckResponse.SERVING
        asked = HealthStub(site.channel).Check(HealthCheckRequest(service=service), timeout=WATCH_S)
        assert asked.status == HealthCheckResponse.SERVING


def test_the_health_of_an_unknown_service_is_not_found(sqlite_url: str, deploy: Callable[..., Deployment]) -> None:
    site: Deployment = deploy(sqlite_url)
    site.start_scheduler()
    with pytest.raises(grpc.RpcError) as caught:
        HealthStub(site.channel).Check(HealthCheckRequest(service="nobody.has.This"), timeout=WATCH_S)
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


def test_a_worker_answers_for_itself(sqlite_url: str, deploy: Callable[..., Deployment], tmp_path: Path) -> None:
    """It serves while it takes runs; one that is not connected, drains or hangs does not."""
    (tmp_path / "app.py").write_text(TASKS)
    gate = tmp_path / "gate"
    gate.touch()
    site: Deployment = deploy(sqlite_url, {"HOLDFAST_WORKER_HEALTH": f"127.0.0.1:{free_port()}"})

    def health() -> tuple[int, str]:
        done = site.holdfast("health")
        return done.returncode, done.stdout + done.stderr

    def says(code: int, answer: str) -> bool:
        return (found := health())[0] == code and found[1].endswith(f"{answer}\n")

    worker = site.start_worker(str(tmp_path / "app.py"))
    wait_until(lambda: says(4, "NOT_SERVING"), "it answers, and is connected to nobody")
    scheduler = site.start_scheduler()
    wait_until(lambda: says(0, "SERVING"), "it is connected")
    worker.pause()
    assert health() == (4, f"error: the worker does not serve: {site.environment['HOLDFAST_WORKER_HEALTH']} {HANGS}\n")
    worker.unpause()
    wait_until(lambda: says(0, "SERVING"), "it goes on")
    scheduler.kill()
    wait_until(lambda: says(4, "NOT_SERVING"), "it has lost its scheduler")
    site.start_scheduler(name="scheduler-again")
    wait_until(lambda: says(0, "SERVING"), "it is connected again")
    run_id = Runs(site).trigger("hold", str(gate))
    Runs(site).until(run_id, "EXECUTING")
    worker.send(signal.SIGTERM)
    wait_until(lambda: says(4, "NOT_SERVING"), "it drains")
    gate.unlink()
    assert worker.wait() == 0
    site.processes.remove(worker)
    assert says(4, "UNAVAILABLE")


def test_a_worker_that_cannot_answer_health_checks_does_not_start(
    sqlite_url: str, deploy: Callable[..., Deployment], tmp_path: Path
) -> None:
    (tmp_path / "app.py").write_text(TASKS)
    done = deploy(sqlite_url).holdfast("worker", str(tmp_path / "app.py"), "--health", "nonsense:nonsense")
    assert done.returncode == 6
    assert "error: cannot answer health checks at nonsense:nonsense" in done.stderr


def _silence(until: threading.Event) -> Iterator[ConnectRequest]:
    until.wait()
    yield from ()


def test_every_scheduler_knows_a_task_that_a_worker_announced_to_one(
    postgres_url: str, deploy: Callable[..., Deployment], tmp_path: Path
) -> None:
    first, second = deploy(postgres_url), deploy(postgres_url)
    first.start_scheduler()
    second.start_scheduler()
    (tmp_path / "app.py").write_text(TASKS)
    first.start_worker(str(tmp_path / "app.py"))
    first.wait_for_workers("hold")
    tasks = TaskServiceStub(second.channel)

    def is_known() -> bool:
        listed = [task.definition.id for task in tasks.ListTasks(ListTasksRequest(), timeout=10).tasks]
        return "hold" in listed and tasks.GetTask(GetTaskRequest(task_id="hold"), timeout=10).task.version != ""

    wait_until(is_known, "the second scheduler knows the task, though nobody triggered it there")
